/* What the forward and the backward of the attention on the CPU share: which keys a query sees, how large
 * the blocks are, and how a block of a head becomes a tile of fp32. */
#ifndef ATTENTION_TILES_CUH
#define ATTENTION_TILES_CUH

#include "ops/attention_cpu.h"
#include "device/group.cuh"  // defines: bf16, value, store
#include "ops/documents.cuh" // defines: document_end

/* Positions, or columns of a tile: [begin, end). */
typedef struct Span {
  int64_t begin, end;
} Span;

static inline int64_t clamp64(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : x > high ? high : x;
}

static inline int64_t round_up64(int64_t x, int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

/* Rows of a block of queries, and of a block of keys. Large tiles multiply faster; small ones waste less at
 * the edges of the window: a block of queries works on about window + block keys. */
static inline int64_t attention_block(const AttentionShape *s) {
  const int64_t smallest = 64, largest = 256;
  int64_t block = s->window > 0 ? clamp64(round_up64(s->window / 2, smallest), smallest, largest) : largest;
  return clamp64(round_up64(s->T, 16), 16, block);
}

/* Row stride of a tile of scores: not a power of two, so that its rows spread over the sets of the cache. */
static inline int64_t scores_ld(int64_t block) {
  return block + 16;
}

/* Keys that some query of [begin, end) of sequence b sees. */
static inline Span keys_of(const AttentionShape *s, int64_t b, int64_t begin, int64_t end) {
  Span keys = {s->window > 0 && begin >= s->window ? begin - s->window + 1 : 0, end};
  if (s->packed && s->starts[b * s->T + begin] > keys.begin) keys.begin = s->starts[b * s->T + begin];
  return keys;
}

/* Queries of sequence b that see some key of [begin, end). */
static inline Span queries_of(const AttentionShape *s, int64_t b, int64_t begin, int64_t end) {
  Span queries = {begin, s->window > 0 && end - 1 < s->T - s->window ? end - 1 + s->window : s->T};
  if (s->packed) queries.end = clamp64(document_end(s->starts + b * s->T, s->T, end - 1), begin, queries.end);
  return queries;
}

/* Columns of a tile, whose `cols` keys begin at position `first`, that a query sees; may be empty. */
static inline Span columns_of(const AttentionShape *s, int64_t b, int64_t query, int64_t first,
                              int64_t cols) {
  Span keys = keys_of(s, b, query, query + 1);
  Span columns = {clamp64(keys.begin - first, 0, cols), clamp64(keys.end - first, 0, cols)};
  return columns;
}

/* Floats that a [rows, cols] buffer takes in a lane's scratch: whole cache lines. */
static inline int64_t scratch_floats(int64_t rows, int64_t cols) {
  return round_up64(rows * cols, 16);
}

/* Takes a [rows, cols] buffer from the front of the lane's scratch. */
static inline float *scratch_take(float **scratch, int64_t rows, int64_t cols) {
  float *p = *scratch;
  *scratch += scratch_floats(rows, cols);
  return p;
}

/* tile [rows, HS] = x [rows, HS], ld apart. fp32 is copied too: one path for both types, and the products
 * that share the tile read packed rows instead of rows that lie a page apart. */
template <typename T>
static inline void tile_load(float *tile, const T *x, int64_t ld, int64_t rows, int64_t HS) {
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t d = 0; d < HS; d++) tile[i * HS + d] = value(x[i * ld + d]);
  }
}

/* x [rows, HS], ld apart, = tile [rows, HS]. */
template <typename T>
static inline void tile_store(T *x, int64_t ld, const float *tile, int64_t rows, int64_t HS) {
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t d = 0; d < HS; d++) store(&x[i * ld + d], tile[i * HS + d]);
  }
}

#endif
