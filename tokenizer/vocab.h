/* The tokens of a vocabulary: text to id and back. */
#ifndef VOCAB_H
#define VOCAB_H

#include <stdbool.h>

#include "tokenizer/buffer.h"

/* No real vocabulary comes near; a higher id is a damaged file. */
enum { VOCAB_MOST = 1 << 22 };

/* The text of a token: a part of Vocab.text. */
typedef struct TokenText {
  uint32_t at, n;
  bool there; /* ids may have gaps */
  bool added; /* no token of the model: only found as an added token */
} TokenText;

typedef struct Vocab {
  Bytes text;        /* of all tokens */
  TokenText *tokens; /* [V] by id */
  size_t V;          /* highest id + 1 */
  size_t capacity;   /* of tokens */
  size_t count;      /* tokens that are there */
  size_t longest;    /* bytes of the longest text */
  uint32_t *slots;   /* [slot_count] hash table of id + 1; 0 = free */
  size_t slot_count; /* a power of two, 0 when there are no tokens */
} Vocab;

/* Adds a token; false when the text or the id is there already. */
bool vocab_add(Vocab *v, const void *text, size_t n, uint32_t id);
/* The id of the text, -1 when there is none. */
int64_t vocab_find(const Vocab *v, const void *text, size_t n);
/* The text of an id that is there, n bytes; NULL when it is not. */
const uint8_t *vocab_text(const Vocab *v, uint32_t id, size_t *n);
void vocab_free(Vocab *v);

#endif
