/* Forward of the attention on the CPU: o = softmax(scale q k^T + mask) v, one block of queries at a time
 * over the blocks of keys it sees, with the running maximum and sum of FlashAttention-2 (arXiv 2307.08691,
 * algorithm 1). Tiles are multiplied by sgemm, which runs on one core inside a parallel region. */
#include <math.h>
#include <omp.h>

#include "device/blas.h"           // defines: cblas_sgemm
#include "ops/attention_tiles.cuh" // defines: Span, keys_of, columns_of, tile_load, tile_store, ...

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
  float *scores;      /* [block, scores_ld(block)] */
  float *sum;         /* [block, HS] probabilities * v, relative to max */
  float *max, *total; /* [block] of the scores so far, and the sum of exp(score - max) */
  float *q, *k, *v;   /* [block, HS] each */
} ForwardScratch;

static int64_t forward_scratch_floats(const AttentionShape *s) {
  int64_t n = attention_block(s);
  return scratch_floats(n, scores_ld(n)) + 2 * scratch_floats(n, 1) + 4 * scratch_floats(n, s->HS);
}

static ForwardScratch forward_scratch(const AttentionShape *s, float *memory) {
  int64_t n = attention_block(s);
  ForwardScratch f = {};
  f.scores = scratch_take(&memory, n, scores_ld(n));
  f.sum = scratch_take(&memory, n, s->HS);
  f.max = scratch_take(&memory, n, 1);
  f.total = scratch_take(&memory, n, 1);
  f.q = scratch_take(&memory, n, s->HS);
  f.k = scratch_take(&memory, n, s->HS);
  f.v = scratch_take(&memory, n, s->HS);
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

static float row_max(const float *x, Span cols, float max) {
#pragma omp simd reduction(max : max)
  for (int64_t j = cols.begin; j < cols.end; j++) max = x[j] > max ? x[j] : max;
  return max;
}

/* x = exp(x - max) in the columns; returns their sum. */
static float row_exp(float *x, Span cols, float max) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = cols.begin; j < cols.end; j++) {
    float e = fast_exp(x[j] - max);
    x[j] = e;
    sum += e;
  }
  return sum;
}

/* scores [rows, cols] of sequence b's queries from `query` and keys from `key` on become exp(score - max), 0
 * where masked; max, total and sum move on to the new maximum. */
static void softmax_step(const AttentionShape *s, ForwardScratch f, int64_t b, int64_t query, int64_t rows,
                         int64_t key, int64_t cols) {
  int64_t ld = scores_ld(attention_block(s));
  for (int64_t i = 0; i < rows; i++) {
    float *x = f.scores + i * ld;
    Span seen = columns_of(s, b, query + i, key, cols);
    for (int64_t j = 0; j < seen.begin; j++) x[j] = 0.0f;
    for (int64_t j = seen.end; j < cols; j++) x[j] = 0.0f;
    float max = row_max(x, seen, f.max[i]);
    float total = row_exp(x, seen, max);
    /* where nothing was seen yet, max is still -inf and -inf - -inf would be NaN */
    if (max > f.max[i]) {
      float shrink = expf(f.max[i] - max);
      f.total[i] *= shrink;
      for (int64_t d = 0; d < s->HS; d++) f.sum[i * s->HS + d] *= shrink;
      f.max[i] = max;
    }
    f.total[i] += total;
  }
}

/* o and lse of the queries [query, query + rows) of head h of sequence b. */
template <typename T>
static void forward_block(const Forward<T> *a, ForwardScratch f, int64_t b, int64_t h, int64_t query,
                          int64_t rows) {
  const AttentionShape *s = a->s;
  int64_t HS = s->HS, kv = h / (s->NH / s->NKV), row = b * s->T + query, ld = scores_ld(a->block);
  tile_load(f.q, a->q + row * a->ld_q + h * HS, a->ld_q, rows, HS);
  for (int64_t i = 0; i < rows; i++) {
    f.max[i] = -INFINITY;
    f.total[i] = 0.0f;
  }
  for (int64_t i = 0; i < rows * HS; i++) f.sum[i] = 0.0f;
  Span keys = keys_of(s, b, query, query + rows);
  for (int64_t key = keys.begin; key < keys.end; key += a->block) {
    int64_t cols = clamp64(keys.end - key, 1, a->block), at = b * s->T + key;
    tile_load(f.k, a->k + at * a->ld_k + kv * HS, a->ld_k, cols, HS);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)cols, (int)HS, s->scale, f.q,
                (int)HS, f.k, (int)HS, 0.0f, f.scores, (int)ld);
    softmax_step(s, f, b, query, rows, key, cols);
    tile_load(f.v, a->v + at * a->ld_v + kv * HS, a->ld_v, cols, HS);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)HS, (int)cols, 1.0f, f.scores,
                (int)ld, f.v, (int)HS, 1.0f, f.sum, (int)HS);
  }
  for (int64_t i = 0; i < rows; i++) {
    float factor = 1.0f / f.total[i];
    for (int64_t d = 0; d < HS; d++) f.sum[i * HS + d] *= factor;
    a->lse[(b * s->NH + h) * s->T + query + i] = f.max[i] + logf(f.total[i]);
  }
  tile_store(a->o + row * s->NH * HS + h * HS, s->NH * HS, f.sum, rows, HS);
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
