/* What the forward and the backward of the attention on the CPU share: which keys a query sees, how large
 * the blocks are, and how a block of a head becomes a tile of fp32. */
#ifndef ATTENTION_TILES_CUH
#define ATTENTION_TILES_CUH

#include "ops/attention_cpu.h"
#include "device/group.cuh"  // defines: bf16, value, store
#include "ops/documents.cuh" // defines: document_end
#include "ops/tile_multiply.h"

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

/* Rows of a block of queries, and of a block of keys: a tile of scores and what it is made of fit into a
 * core's second cache. */
static inline int64_t attention_block(const AttentionShape *s) {
  return clamp64(round_up64(s->T, TILE_PADDING), TILE_PADDING, 256);
}

/* Row stride of a tile of scores: room for padding after its last column, and not a power of two, so that its
 * rows spread over the sets of the cache. */
static inline int64_t scores_ld(int64_t block) {
  return block + TILE_PADDING;
}

/* Row stride of a tile of heads. */
static inline int64_t heads_ld(const AttentionShape *s) {
  return round_up64(s->HS, TILE_PADDING);
}

/* Keys that some query of [begin, end) of sequence b sees. */
static inline Span keys_of(const AttentionShape *s, int64_t b, int64_t begin, int64_t end) {
  int64_t first = s->window > 0 && begin >= s->window ? begin - s->window + 1 : 0;
  if (s->packed && s->starts[b * s->T + begin] > first) first = s->starts[b * s->T + begin];
  return Span{first, end};
}

/* Queries of sequence b, before position `limit`, that see some key of [begin, end); end <= limit. */
static inline Span queries_of(const AttentionShape *s, int64_t b, int64_t begin, int64_t end, int64_t limit) {
  int64_t last = s->window > 0 && end - 1 < limit - s->window ? end - 1 + s->window : limit;
  if (s->packed) last = document_end(s->starts + b * s->T, last, end - 1);
  return Span{begin, last};
}

/* A block of queries and a block of keys of one sequence. */
typedef struct Pair {
  int64_t b;
  int64_t query, queries; /* position of the first one, and how many */
  int64_t key, keys;
} Pair;

/* Of the pair's keys, those that some query of [i, end) of the block sees; may be empty. */
static inline Span keys_in(const AttentionShape *s, const Pair *p, int64_t i, int64_t end) {
  Span keys = keys_of(s, p->b, p->query + i, p->query + end);
  return Span{clamp64(keys.begin - p->key, 0, p->keys), clamp64(keys.end - p->key, 0, p->keys)};
}

/* Of the pair's queries, those that see some key of [j, end) of the block; may be empty. */
static inline Span queries_in(const AttentionShape *s, const Pair *p, int64_t j, int64_t end) {
  Span queries = queries_of(s, p->b, p->key + j, p->key + end, p->query + p->queries);
  return Span{clamp64(queries.begin - p->query, 0, p->queries),
              clamp64(queries.end - p->query, 0, p->queries)};
}

/* Whether every query of the pair sees every key: the first sees the last key, the last one the first. */
static inline bool nothing_masked(const AttentionShape *s, const Pair *p) {
  return keys_in(s, p, 0, 1).end == p->keys && keys_in(s, p, p->queries - 1, p->queries).begin == 0;
}

/* Rows of a product that are multiplied together: all of them, or strips, so that what is masked is left
 * out. */
static inline int64_t strip_rows(const AttentionShape *s, const Pair *p, int64_t rows) {
  return nothing_masked(s, p) ? rows : (int64_t)TILE_ROWS;
}

/* out [rows, .] = a b in the columns that seen(first row, end) gives for a strip of rows. */
template <class Seen>
static inline void multiply_columns(float *out, int64_t ld_out, TileFactor a, const float *b, int64_t ld_b,
                                    int64_t rows, int64_t strip, int64_t K, Seen seen) {
  for (int64_t i = 0, n; i < rows; i += n) {
    n = clamp64(rows - i, 0, strip);
    Span columns = seen(i, i + n);
    TileFactor of_strip = {a.data + i * a.row, a.row, a.column};
    tile_multiply(out + i * ld_out + columns.begin, ld_out, of_strip, b + columns.begin, ld_b, n,
                  columns.end - columns.begin, K, false);
  }
}

/* out [rows, N] = a b + (add ? out : 0), where a strip of rows of a is 0 outside of the columns that
 * seen(first row, end) gives. */
template <class Seen>
static inline void multiply_sums(float *out, int64_t ld, TileFactor a, const float *b, int64_t rows,
                                 int64_t strip, int64_t N, bool add, Seen seen) {
  for (int64_t i = 0, n; i < rows; i += n) {
    n = clamp64(rows - i, 0, strip);
    Span columns = seen(i, i + n);
    TileFactor of_strip = {a.data + i * a.row + columns.begin * a.column, a.row, a.column};
    tile_multiply(out + i * ld, ld, of_strip, b + columns.begin * ld, ld, n, N, columns.end - columns.begin,
                  add);
  }
}

/* Scores are kept in units of ln 2, so that their exponentials are powers of two. */
constexpr float LOG2_E = 1.44269504f, LN_2 = 0.69314718f;

/* 2^x for x <= 127, to 2e-7 relative; exactly 0 below -127; NaN stays NaN. As fast_exp, three operations
 * less. */
static inline float fast_exp2(float x) {
  x = x < -127.f ? -127.f : x;
  float shifted = x + 12582912.f; /* 1.5 * 2^23: x, rounded, in the low bits */
  float r = x - (shifted - 12582912.f);
  float p = 1.535336188e-4f;
  p = p * r + 1.339887440e-3f;
  p = p * r + 9.618437357e-3f;
  p = p * r + 5.550332471e-2f;
  p = p * r + 2.402264791e-1f;
  p = p * r + 6.931472029e-1f;
  p = p * r + 1.f;
  return p * float_from_bits((float_bits(shifted) << 23) + 0x3f800000u);
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

/* tile [rows, heads_ld(HS)] = x [rows, HS], ld apart, and 0 in the padding. fp32 is copied too: one path for
 * both types, and the products that share the tile read rows that follow each other instead of rows a page
 * apart. */
template <typename T>
static inline void tile_load(const AttentionShape *s, float *tile, const T *x, int64_t ld, int64_t rows) {
  int64_t HS = s->HS, to = heads_ld(s), whole = HS / TILE_PADDING * TILE_PADDING;
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t d = 0; d < whole; d += TILE_PADDING)
      for (int64_t e = d; e < d + TILE_PADDING; e++) tile[i * to + e] = value(x[i * ld + e]);
    for (int64_t d = whole; d < to; d++) tile[i * to + d] = d < HS ? value(x[i * ld + d]) : 0.0f;
  }
}

/* tile [HS, ld_tile] = factor times the transpose of x [rows, HS], ld apart. */
template <typename T>
static inline void tile_load_transposed(const AttentionShape *s, float *tile, int64_t ld_tile, const T *x,
                                        int64_t ld, int64_t rows, float factor) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t d = 0; d < s->HS; d++) tile[d * ld_tile + i] = value(x[i * ld + d]) * factor;
}

/* x [rows, HS], ld apart, = tile. */
template <typename T>
static inline void tile_store(const AttentionShape *s, T *x, int64_t ld, const float *tile, int64_t rows) {
  int64_t from = heads_ld(s);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t d = 0; d < s->HS; d++) store(&x[i * ld + d], tile[i * from + d]);
}

#endif
