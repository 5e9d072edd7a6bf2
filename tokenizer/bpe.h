/* Byte pair encoding of one word. The result is that of merging, again and again, the pair of neighbours that
 * comes first in the list of merges, the leftmost of several. */
#ifndef BPE_H
#define BPE_H

#include <stdbool.h>

#include "tokenizer/buffer.h"
#include "tokenizer/vocab.h"

/* Two neighbouring tokens and what they become. */
typedef struct Merge {
  uint32_t left, right;
  uint32_t rank; /* place in the list; MERGE_NONE = a free slot of the table */
  uint32_t id;
} Merge;
enum { MERGE_NONE = UINT32_MAX };

typedef struct Bpe {
  Vocab vocab;            /* texts as the file writes them */
  Merge *merges;          /* [merge_slots] hash table by the pair */
  size_t merge_slots;     /* a power of two, or 0 */
  size_t merge_count;     /* pairs in the table */
  bool byte_level;        /* the symbols of a word are its bytes; else its characters */
  uint32_t byte_ids[256]; /* byte_level: the token of each byte */
  bool byte_fallback;     /* a character that is no token becomes the tokens <0x00> ... of its bytes */
  bool fuse_unknown;      /* unknown characters in a row become one unknown token */
  int64_t unknown;        /* that token; -1 = unknown characters are left out */
  bool ignore_merges;     /* a word that is a token is that token, whatever the merges say */
  bool cuts_at_meta;      /* no merge joins U+2581 to a character before it: a word can be cut there */
} Bpe;

/* Adds the pair at its place in the list; a pair that is there already gets the later one. */
void bpe_add_merge(Bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);
void bpe_free(Bpe *b);

/* One thread's memory for words. */
typedef struct BpeScratch BpeScratch;
BpeScratch *bpe_scratch_new(void);
void bpe_scratch_free(BpeScratch *s);

/* Appends the tokens of a word, n > 0 bytes of UTF-8. */
void bpe_encode(const Bpe *b, BpeScratch *s, const uint8_t *word, size_t n, Ids *ids);

#endif
