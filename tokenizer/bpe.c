#include "tokenizer/bpe.h"

#include <stdio.h>

#define XXH_INLINE_ALL
#include <xxhash.h> // XXH3_64bits

#include "tokenizer/byte_chars.h" // byte_chars_encode
#include "base/utf8.h"            // utf8_length

/* ---- the merges ---- */

/* The place of the pair in the table; its rank is MERGE_NONE when it is not there. */
static Merge *find_merge(const Bpe *b, uint32_t left, uint32_t right) {
  uint64_t pair = (uint64_t)left << 32 | right;
  size_t mask = b->merge_slots - 1;
  size_t i = (pair * 0x9e3779b97f4a7c15u >> 32) & mask;
  while (b->merges[i].rank != MERGE_NONE && (b->merges[i].left != left || b->merges[i].right != right))
    i = (i + 1) & mask;
  return &b->merges[i];
}

static void grow_merges(Bpe *b) {
  Merge *old = b->merges;
  size_t old_slots = b->merge_slots;
  b->merge_slots = old_slots ? old_slots * 2 : 1024;
  b->merges = malloc(b->merge_slots * sizeof *b->merges);
  CHECK(b->merges, "out of memory for %zu merges", b->merge_slots);
  for (size_t i = 0; i < b->merge_slots; i++) b->merges[i] = (Merge){.rank = MERGE_NONE};
  for (size_t i = 0; i < old_slots; i++) {
    if (old[i].rank != MERGE_NONE) *find_merge(b, old[i].left, old[i].right) = old[i];
  }
  free(old);
}

void bpe_add_merge(Bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id) {
  if ((b->merge_count + 1) * 2 > b->merge_slots) grow_merges(b);
  Merge *m = find_merge(b, left, right);
  b->merge_count += m->rank == MERGE_NONE;
  *m = (Merge){left, right, rank, id};
}

void bpe_free(Bpe *b) {
  vocab_free(&b->vocab);
  free(b->merges);
  *b = (Bpe){0};
}

/* The model's token with this text, -1 when there is none. */
static int64_t find_token(const Bpe *b, const void *text, size_t n) {
  int64_t id = vocab_find(&b->vocab, text, n);
  return id >= 0 && !b->vocab.tokens[id].added ? id : -1;
}

/* ---- scratch ---- */

/* What the cache keeps of a short word, in 64 bytes. */
enum { CACHED_BYTES = 30, CACHED_IDS = 8, CACHE_SLOTS = 1 << 15 };
typedef struct CachedWord {
  uint8_t n, count; /* bytes, ids; n = 0: free */
  uint8_t word[CACHED_BYTES];
  uint32_t ids[CACHED_IDS];
} CachedWord;

/* A symbol of a long word; prev and next link those that are left. */
typedef struct Symbol {
  uint32_t id;
  int32_t prev, next; /* -1 = none */
} Symbol;

/* A pair that may be merged: the symbol at `at` with the next one. */
typedef struct Candidate {
  uint32_t rank;
  int32_t at;
  uint32_t id;
} Candidate;

struct BpeScratch {
  CachedWord *cache; /* [CACHE_SLOTS] */
  Ids symbols;       /* the word at hand, before merging */
  Bytes chars;       /* the word at hand, written as the vocabulary writes bytes */
  Symbol *links;     /* [links_capacity] */
  size_t links_capacity;
  Candidate *heap; /* [heap_capacity], the smallest first */
  size_t heap_capacity, heap_n;
};

BpeScratch *bpe_scratch_new(void) {
  BpeScratch *s = calloc(1, sizeof *s);
  CHECK(s, "out of memory for an encoder");
  s->cache = calloc(CACHE_SLOTS, sizeof *s->cache);
  CHECK(s->cache, "out of memory for a cache of words");
  return s;
}

void bpe_scratch_free(BpeScratch *s) {
  if (!s) return;
  free(s->cache);
  ids_free(&s->symbols);
  bytes_free(&s->chars);
  free(s->links);
  free(s->heap);
  free(s);
}

/* ---- a word's first symbols ---- */

/* The tokens <0x00> ... of n <= 4 bytes; false when one of them is not in the vocabulary. */
static bool fall_back(const Bpe *b, const uint8_t *bytes, size_t n, Ids *symbols) {
  uint32_t ids[4];
  for (size_t i = 0; i < n; i++) {
    char name[8];
    int64_t id = find_token(b, name, (size_t)snprintf(name, sizeof name, "<0x%02X>", bytes[i]));
    if (id < 0) return false;
    ids[i] = (uint32_t)id;
  }
  for (size_t i = 0; i < n; i++) ids_append(symbols, ids[i]);
  return true;
}

/* An unknown token waits until a known character follows, as in Hugging Face's code: with fuse_unknown, those
 * in a row become one, and byte tokens between them come out before it. */
static void split_chars(const Bpe *b, const uint8_t *word, size_t n, Ids *symbols) {
  bool waits = false;
  for (size_t i = 0, length; i < n; i += length) {
    length = (size_t)utf8_length((const char *)word + i, n - i);
    int64_t id = find_token(b, word + i, length);
    if (id < 0 && b->byte_fallback && fall_back(b, word + i, length, symbols)) continue;
    if (id < 0 && b->unknown < 0) continue;
    if (waits && (id >= 0 || !b->fuse_unknown)) ids_append(symbols, (uint32_t)b->unknown);
    waits = id < 0;
    if (id >= 0) ids_append(symbols, (uint32_t)id);
  }
  if (waits) ids_append(symbols, (uint32_t)b->unknown);
}

static void split_word(const Bpe *b, const uint8_t *word, size_t n, Ids *symbols) {
  symbols->n = 0;
  ids_reserve(symbols, n);
  if (!b->byte_level) {
    split_chars(b, word, n, symbols);
    return;
  }
  for (size_t i = 0; i < n; i++) symbols->data[i] = b->byte_ids[word[i]];
  symbols->n = n;
}

/* ---- merging ---- */

/* Short words: look at all pairs, merge the best, look again at its two neighbours. */
enum { SHORT_WORD = 32 };

static void merge_short(const Bpe *b, uint32_t *ids, size_t *count) {
  const Merge *pairs[SHORT_WORD]; /* of symbol i and the next */
  size_t n = *count;
  for (size_t i = 0; i + 1 < n; i++) pairs[i] = find_merge(b, ids[i], ids[i + 1]);
  for (;;) {
    size_t best = 0;
    uint32_t rank = MERGE_NONE;
    for (size_t i = 0; i + 1 < n; i++) {
      if (pairs[i]->rank < rank) rank = pairs[i]->rank, best = i;
    }
    if (rank == MERGE_NONE) break;
    ids[best] = pairs[best]->id;
    n--;
    for (size_t i = best + 1; i < n; i++) ids[i] = ids[i + 1], pairs[i - 1] = pairs[i];
    if (best + 1 < n) pairs[best] = find_merge(b, ids[best], ids[best + 1]);
    if (best > 0) pairs[best - 1] = find_merge(b, ids[best - 1], ids[best]);
  }
  *count = n;
}

static bool comes_before(const Candidate *a, const Candidate *b) {
  return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void heap_push(BpeScratch *s, Candidate c) {
  s->heap = buffer_grow(s->heap, &s->heap_capacity, s->heap_n + 1, sizeof *s->heap);
  size_t i = s->heap_n++;
  for (; i > 0 && comes_before(&c, &s->heap[(i - 1) / 2]); i = (i - 1) / 2) s->heap[i] = s->heap[(i - 1) / 2];
  s->heap[i] = c;
}

static Candidate heap_pop(BpeScratch *s) {
  Candidate top = s->heap[0], last = s->heap[--s->heap_n];
  size_t i = 0;
  for (size_t child; (child = 2 * i + 1) < s->heap_n; i = child) {
    if (child + 1 < s->heap_n && comes_before(&s->heap[child + 1], &s->heap[child])) child++;
    if (!comes_before(&s->heap[child], &last)) break;
    s->heap[i] = s->heap[child];
  }
  s->heap[i] = last;
  return top;
}

/* Offers the symbol at `at` and its next one to the heap. */
static void offer(const Bpe *b, BpeScratch *s, int32_t at) {
  if (at < 0 || s->links[at].next < 0) return;
  const Merge *m = find_merge(b, s->links[at].id, s->links[s->links[at].next].id);
  if (m->rank != MERGE_NONE) heap_push(s, (Candidate){m->rank, at, m->id});
}

/* Long words: a heap of the pairs, in which those that merges have made void stay until they are met. */
static void merge_long(const Bpe *b, BpeScratch *s, uint32_t *ids, size_t *count) {
  int32_t n = (int32_t)*count;
  s->links = buffer_grow(s->links, &s->links_capacity, (size_t)n, sizeof *s->links);
  for (int32_t i = 0; i < n; i++) s->links[i] = (Symbol){ids[i], i - 1, i + 1 < n ? i + 1 : -1};
  s->heap_n = 0;
  for (int32_t i = 0; i < n; i++) offer(b, s, i);
  while (s->heap_n) {
    Candidate c = heap_pop(s);
    Symbol *left = &s->links[c.at];
    if (left->next < 0) continue;
    Symbol *right = &s->links[left->next];
    const Merge *m = find_merge(b, left->id, right->id);
    if (m->rank != c.rank || m->id != c.id) continue; /* void */
    left->id = c.id;
    int32_t gone = left->next;
    left->next = right->next;
    if (left->next >= 0) s->links[left->next].prev = c.at;
    s->links[gone].next = -1; /* voids the pairs that begin there */
    offer(b, s, left->prev);
    offer(b, s, c.at);
  }
  size_t kept = 0;
  for (int32_t i = 0; i >= 0; i = s->links[i].next) ids[kept++] = s->links[i].id;
  *count = kept;
}

static void merge(const Bpe *b, BpeScratch *s, Ids *symbols) {
  if (symbols->n < 2 || b->merge_slots == 0) return;
  if (symbols->n <= SHORT_WORD)
    merge_short(b, symbols->data, &symbols->n);
  else
    merge_long(b, s, symbols->data, &symbols->n);
}

/* ---- words ---- */

/* The word as one token, -1 when it is none. */
static int64_t whole_word(const Bpe *b, BpeScratch *s, const uint8_t *word, size_t n) {
  if (!b->byte_level) return find_token(b, word, n);
  if (n > b->vocab.longest) return -1;
  s->chars.n = 0;
  byte_chars_encode(word, n, &s->chars);
  return find_token(b, s->chars.data, s->chars.n);
}

/* The word's tokens, which are s->symbols then. Parts of a word are never looked up as a whole. */
static void encode_afresh(const Bpe *b, BpeScratch *s, const uint8_t *word, size_t n) {
  int64_t id = b->ignore_merges && !b->cuts_at_meta ? whole_word(b, s, word, n) : -1;
  if (id >= 0) {
    s->symbols.n = 0;
    ids_append(&s->symbols, (uint32_t)id);
    return;
  }
  split_word(b, word, n, &s->symbols);
  merge(b, s, &s->symbols);
}

static void append_all(Ids *ids, const uint32_t *more, size_t n) {
  ids_reserve(ids, n);
  for (size_t i = 0; i < n; i++) ids->data[ids->n++] = more[i];
}

static void encode_cached(const Bpe *b, BpeScratch *s, const uint8_t *word, size_t n, Ids *ids) {
  if (n > CACHED_BYTES) {
    encode_afresh(b, s, word, n);
    append_all(ids, s->symbols.data, s->symbols.n);
    return;
  }
  CachedWord *c = &s->cache[XXH3_64bits(word, n) % CACHE_SLOTS];
  if (c->n != n || memcmp(c->word, word, n) != 0) {
    encode_afresh(b, s, word, n);
    if (s->symbols.n > CACHED_IDS) {
      append_all(ids, s->symbols.data, s->symbols.n);
      return;
    }
    c->n = (uint8_t)n;
    c->count = (uint8_t)s->symbols.n;
    memcpy(c->word, word, n);
    memcpy(c->ids, s->symbols.data, s->symbols.n * sizeof *c->ids);
  }
  append_all(ids, c->ids, c->count);
}

/* Where the part of the word that begins at `from` ends: before a U+2581 that follows another character. */
static size_t part_end(const uint8_t *word, size_t n, size_t from) {
  static const uint8_t meta[] = {0xe2, 0x96, 0x81};
  size_t i = from;
  while (n - i >= sizeof meta && memcmp(word + i, meta, sizeof meta) == 0) i += sizeof meta;
  while (i < n) {
    const uint8_t *next = memchr(word + i, meta[0], n - i);
    i = next ? (size_t)(next - word) : n;
    if (n - i < sizeof meta) return n;
    if (memcmp(word + i, meta, sizeof meta) == 0) return i;
    i++;
  }
  return n;
}

void bpe_encode(const Bpe *b, BpeScratch *s, const uint8_t *word, size_t n, Ids *ids) {
  if (!b->cuts_at_meta) {
    encode_cached(b, s, word, n, ids);
    return;
  }
  int64_t id = b->ignore_merges ? whole_word(b, s, word, n) : -1;
  if (id >= 0) {
    ids_append(ids, (uint32_t)id);
    return;
  }
  for (size_t from = 0, end; from < n; from = end) {
    end = part_end(word, n, from);
    encode_cached(b, s, word + from, end - from, ids);
  }
}
