/* Forward of the attention on the CPU: o = softmax(scale q k^T + mask) v, one block of queries at a time
 * over the blocks of keys it sees, with the running maximum and sum of FlashAttention-2 (arXiv 2307.08691,
 * algorithm 1). Scores stand transposed, a row a key: of all products, only the queries of a block have to be
 * transposed for that, once, and the statistics of the softmax are vectors of queries. */
#include <math.h>
#include <omp.h>

#include "ops/attention_tiles.cuh" // defines: Span, Pair, keys_of, tile_load, multiply_sums, ...

/* The operands of one call. */
template <typename T> struct Forward {
  const AttentionShape *s;
  T *o;               /* [B*T, NH*HS] */
  float *lse;         /* [B, NH, T] */
  const T *q, *k, *v; /* heads in rows */
  int64_t ld_q, ld_k, ld_v;
  int64_t block; /* rows of a block of queries or keys */
};

/* What one lane works in; queries and keys of a block at most `block` each. */
typedef struct ForwardScratch {
  float *scores;         /* [keys, scores_ld(block)] */
  float *sum;            /* [queries, heads_ld] probabilities * v, relative to max */
  float *max, *total;    /* [queries] of the scores so far, and the sum of 2^(score - max) */
  float *new_max, *part; /* [queries] with the block at hand; its own sum */
  float *q;              /* [HS, scores_ld(block)] transposed, times scale / ln 2 */
  float *k, *v;          /* [keys, heads_ld] each */
} ForwardScratch;

static int64_t forward_scratch_floats(const AttentionShape *s) {
  int64_t n = attention_block(s);
  return scratch_floats(n, scores_ld(n)) + 4 * scratch_floats(n, 1) + scratch_floats(s->HS, scores_ld(n)) +
         3 * scratch_floats(n, heads_ld(s));
}

static ForwardScratch forward_scratch(const AttentionShape *s, float *memory) {
  int64_t n = attention_block(s);
  ForwardScratch f = {};
  f.scores = scratch_take(&memory, n, scores_ld(n));
  f.sum = scratch_take(&memory, n, heads_ld(s));
  f.max = scratch_take(&memory, n, 1);
  f.total = scratch_take(&memory, n, 1);
  f.new_max = scratch_take(&memory, n, 1);
  f.part = scratch_take(&memory, n, 1);
  f.q = scratch_take(&memory, s->HS, scores_ld(n));
  f.k = scratch_take(&memory, n, heads_ld(s));
  f.v = scratch_take(&memory, n, heads_ld(s));
  return f;
}

/* Blocks of queries of all heads of the batch: what the lanes share out. */
static int64_t forward_items(const AttentionShape *s) {
  int64_t n = attention_block(s);
  return s->B * s->NH * ((s->T + n - 1) / n);
}

static int64_t forward_lanes(const Device *dev, const AttentionShape *s) {
  return clamp64(forward_items(s), 1, dev->threads);
}

/* max = the larger of max and what four rows of x have, in all columns. */
static void raise_max_of_four(float *max, const float *x, int64_t ld, int64_t cols) {
#pragma omp simd
  for (int64_t i = 0; i < cols; i++) {
    float a = x[i], b = x[ld + i], c = x[2 * ld + i], d = x[3 * ld + i];
    a = a > b ? a : b;
    c = c > d ? c : d;
    a = a > c ? a : c;
    max[i] = a > max[i] ? a : max[i];
  }
}

/* max = the larger of max and x, in the columns. */
static void raise_max(float *max, const float *x, Span cols) {
#pragma omp simd
  for (int64_t i = cols.begin; i < cols.end; i++) max[i] = x[i] > max[i] ? x[i] : max[i];
}

/* x = 2^(x - max) in the columns, added to sum. */
static void exp_and_add(float *x, float *sum, const float *max, Span cols) {
#pragma omp simd
  for (int64_t i = cols.begin; i < cols.end; i++) {
    float e = fast_exp2(x[i] - max[i]);
    x[i] = e;
    sum[i] += e;
  }
}

/* max, total and sum move on to the new maximum. */
static void move_to_max(const AttentionShape *s, ForwardScratch f, int64_t queries) {
  int64_t ld = heads_ld(s);
  for (int64_t i = 0; i < queries; i++) {
    /* where nothing was seen yet, max is still -inf, and what it would shrink is 0 */
    if (f.new_max[i] > f.max[i]) {
      float shrink = exp2f(f.max[i] - f.new_max[i]);
      f.total[i] *= shrink;
#pragma omp simd
      for (int64_t d = 0; d < ld; d++) f.sum[i * ld + d] *= shrink;
      f.max[i] = f.new_max[i];
    }
    f.total[i] += f.part[i];
  }
}

/* The scores of the pair become 2^(score - max), 0 where masked; max, total and sum move on to the new
 * maximum. */
static void softmax_step(const AttentionShape *s, ForwardScratch f, const Pair *p) {
  int64_t ld = scores_ld(attention_block(s));
  for (int64_t i = 0; i < p->queries; i++) {
    f.new_max[i] = f.max[i];
    f.part[i] = 0.0f;
  }
  int64_t fours = nothing_masked(s, p) ? p->keys / 4 * 4 : 0;
  for (int64_t j = 0; j < fours; j += 4) raise_max_of_four(f.new_max, f.scores + j * ld, ld, p->queries);
  for (int64_t j = fours; j < p->keys; j++)
    raise_max(f.new_max, f.scores + j * ld, queries_in(s, p, j, j + 1));
  for (int64_t j = 0; j < p->keys; j++) {
    float *x = f.scores + j * ld;
    Span seen = queries_in(s, p, j, j + 1);
    for (int64_t i = 0; i < seen.begin; i++) x[i] = 0.0f;
    for (int64_t i = seen.end; i < p->queries; i++) x[i] = 0.0f;
    exp_and_add(x, f.part, f.new_max, seen);
  }
  move_to_max(s, f, p->queries);
}

/* o and lse of the queries [query, query + rows) of head h of sequence b. */
template <typename T>
static void forward_block(const Forward<T> *a, ForwardScratch f, int64_t b, int64_t h, int64_t query,
                          int64_t rows) {
  const AttentionShape *s = a->s;
  int64_t HS = s->HS, kv = h / (s->NH / s->NKV), row = b * s->T + query;
  int64_t ld = scores_ld(a->block), ld_heads = heads_ld(s);
  tile_load_transposed(s, f.q, ld, a->q + row * a->ld_q + h * HS, a->ld_q, rows, s->scale * LOG2_E);
  for (int64_t i = 0; i < rows; i++) {
    f.max[i] = -INFINITY;
    f.total[i] = 0.0f;
  }
  for (int64_t i = 0; i < rows * ld_heads; i++) f.sum[i] = 0.0f;
  Span keys = keys_of(s, b, query, query + rows);
  for (int64_t key = keys.begin; key < keys.end; key += a->block) {
    Pair p = {b, query, rows, key, clamp64(keys.end - key, 1, a->block)};
    int64_t at = b * s->T + key;
    tile_load(s, f.k, a->k + at * a->ld_k + kv * HS, a->ld_k, p.keys);
    multiply_columns(f.scores, ld, TileFactor{f.k, ld_heads, 1}, f.q, ld, p.keys, strip_rows(s, &p, p.keys),
                     HS, [&](int64_t j, int64_t end) { return queries_in(s, &p, j, end); });
    softmax_step(s, f, &p);
    tile_load(s, f.v, a->v + at * a->ld_v + kv * HS, a->ld_v, p.keys);
    multiply_sums(f.sum, ld_heads, TileFactor{f.scores, 1, ld}, f.v, rows, strip_rows(s, &p, rows), HS, true,
                  [&](int64_t i, int64_t end) { return keys_in(s, &p, i, end); });
  }
  for (int64_t i = 0; i < rows; i++) {
    float factor = 1.0f / f.total[i];
    for (int64_t d = 0; d < HS; d++) f.sum[i * ld_heads + d] *= factor;
    a->lse[(b * s->NH + h) * s->T + query + i] = f.max[i] * LN_2 + logf(f.total[i]);
  }
  tile_store(s, a->o + row * s->NH * HS + h * HS, s->NH * HS, f.sum, rows);
}

template <typename T> static void forward_all(const Device *dev, const Forward<T> *a, float *workspace) {
  const AttentionShape *s = a->s;
  int64_t items = forward_items(s), heads = s->B * s->NH, blocks = items / (heads > 0 ? heads : 1);
  /* the last blocks of queries see the most keys: they go first, so that the lanes end together */
#pragma omp parallel for num_threads((int)forward_lanes(dev, s)) schedule(dynamic)
  for (int64_t item = 0; item < items; item++) {
    float *memory = workspace + omp_get_thread_num() * forward_scratch_floats(s);
    int64_t query = (blocks - 1 - item / heads) * a->block, head = item % heads;
    forward_block(a, forward_scratch(s, memory), head / s->NH, head % s->NH, query,
                  clamp64(s->T - query, 1, a->block));
  }
}

size_t attention_cpu_forward_workspace(const Device *dev, DType, const AttentionShape *s) {
  return (size_t)(forward_lanes(dev, s) * forward_scratch_floats(s)) * sizeof(float);
}

void attention_cpu_forward(Device *dev, DType dt, void *o, float *lse, Heads q, Heads k, Heads v,
                           const AttentionShape *s, void *workspace) {
  DISPATCH(dt, T, {
    Forward<T> a = {};
    a.s = s;
    a.o = (T *)o, a.lse = lse;
    a.q = (const T *)q.data, a.k = (const T *)k.data, a.v = (const T *)v.data;
    a.ld_q = q.ld, a.ld_k = k.ld, a.ld_v = v.ld;
    a.block = attention_block(s);
    forward_all(dev, &a, (float *)workspace);
  });
}
