/* GPT-2's way to write bytes as printable characters: those of Latin-1 that can be seen stand for themselves,
 * the others for U+0100 and on, in order. */
#ifndef BYTE_CHARS_H
#define BYTE_CHARS_H

#include <stdbool.h>

#include "tokenizer/buffer.h"

/* Appends bytes [n] as characters. */
void byte_chars_encode(const uint8_t *bytes, size_t n, Bytes *chars);
/* Appends the bytes that the text [n], UTF-8, writes; false, and nothing is appended, when it has another
 * character. */
bool byte_chars_decode(const uint8_t *text, size_t n, Bytes *bytes);

#endif
