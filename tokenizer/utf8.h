/* UTF-8: what is whole, what is wrong, and where. */
#ifndef UTF8_H
#define UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What stands for what cannot be read. */
#define UTF8_REPLACEMENT "\xEF\xBF\xBD"

/* The length of the character at the start of the n > 0 bytes, or 0 when they do not begin with one; then
 * *bad, when given, is how many bytes one U+FFFD stands for (the longest start of a character, at least 1),
 * and *cut, when given, tells that more bytes may still make it whole. Surrogates, overlong forms and what is
 * above U+10FFFF are no characters. */
size_t utf8_length(const uint8_t *text, size_t n, size_t *bad, bool *cut);

/* How many of the n bytes lie before the first one that is not UTF-8; n when all are. */
size_t utf8_valid(const uint8_t *text, size_t n);

#endif
