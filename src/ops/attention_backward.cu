/* Backward of the attention on the CPU (FlashAttention-2, arXiv 2307.08691, algorithm 2). With
 *   p = exp(scale q k^T - lse),  delta = rowsum(dout * o),  ds = scale p * (dout v^T - delta)
 * it is dv = p^T dout, dk = ds^T q and dq = ds k, block by block. dk and dv are summed over the queries, dq
 * over the keys: one lane can do both in one pass over a key/value head when dq is fp32 memory that it can
 * add to (5 products a pair of blocks); else a second pass computes dq (7 products), and then every block of
 * keys or queries is one lane's own. Sums always have one owner and one order: no atomics. */
#include <omp.h>
#include <string.h>

#include "device/blas.h"           // defines: cblas_sgemm
#include "ops/attention_tiles.cuh" // defines: Span, keys_of, queries_of, columns_of, tile_load, ...

/* The operands of one call. */
template <typename T> struct Backward {
  const AttentionShape *s;
  T *dq, *dk, *dv; /* heads in rows */
  int64_t ld_dq, ld_dk, ld_dv;
  const T *dout, *o;  /* [B*T, NH*HS] */
  const float *lse;   /* [B, NH, T] */
  float *delta;       /* [B, NH, T] rowsum(dout * o) */
  const T *q, *k, *v; /* heads in rows */
  int64_t ld_q, ld_k, ld_v;
  int64_t block; /* rows of a block of queries or keys */
};

/* What one lane works in; queries and keys of a block at most `block` each. */
typedef struct BackwardScratch {
  float *p, *ds;           /* [block, scores_ld(block)] */
  float *da, *db;          /* [block, HS] sums: dk and dv, or dq */
  float *q, *k, *v, *dout; /* [block, HS] each */
} BackwardScratch;

static int64_t backward_scratch_floats(const AttentionShape *s) {
  int64_t n = attention_block(s);
  return 2 * scratch_floats(n, scores_ld(n)) + 6 * scratch_floats(n, s->HS);
}

static BackwardScratch backward_scratch(const AttentionShape *s, float *memory) {
  int64_t n = attention_block(s);
  BackwardScratch f = {};
  f.p = scratch_take(&memory, n, scores_ld(n));
  f.ds = scratch_take(&memory, n, scores_ld(n));
  f.da = scratch_take(&memory, n, s->HS);
  f.db = scratch_take(&memory, n, s->HS);
  f.q = scratch_take(&memory, n, s->HS);
  f.k = scratch_take(&memory, n, s->HS);
  f.v = scratch_take(&memory, n, s->HS);
  f.dout = scratch_take(&memory, n, s->HS);
  return f;
}

/* Whether lanes take whole key/value heads, 5 products a pair of blocks, rather than blocks, 7 products. */
static bool one_pass(const Device *dev, DType dt, const AttentionShape *s) {
  int64_t units = s->B * s->NKV, rounds = (units + dev->threads - 1) / dev->threads;
  return dt == DT_FP32 && 5 * rounds * dev->threads <= 7 * units;
}

static int64_t backward_lanes(const Device *dev, DType dt, const AttentionShape *s) {
  int64_t n = attention_block(s), blocks = one_pass(dev, dt, s) ? 1 : (s->T + n - 1) / n;
  int64_t heads = one_pass(dev, dt, s) ? s->NKV : s->NH;
  return clamp64(s->B * heads * blocks, 1, dev->threads);
}

static int64_t delta_floats(const AttentionShape *s) {
  return scratch_floats(s->B * s->NH, s->T);
}

/* A block of queries or keys of one head: `rows` of them from position `first` of sequence b. */
typedef struct Rows {
  int64_t b, head, first, rows;
} Rows;

template <typename T> static void load(const AttentionShape *s, float *tile, const T *x, int64_t ld, Rows r) {
  tile_load(tile, x + (r.b * s->T + r.first) * ld + r.head * s->HS, ld, r.rows, s->HS);
}

template <typename T> static void save(const AttentionShape *s, T *x, int64_t ld, Rows r, const float *tile) {
  tile_store(x + (r.b * s->T + r.first) * ld + r.head * s->HS, ld, tile, r.rows, s->HS);
}

/* out [M, N] = (transposed ? a^T : a) b [K, N] + (add ? out : 0). */
static void multiply(float *out, int64_t ld_out, const float *a, int64_t ld_a, bool transposed,
                     const float *b, int64_t M, int64_t N, int64_t K, bool add) {
  cblas_sgemm(CblasRowMajor, transposed ? CblasTrans : CblasNoTrans, CblasNoTrans, (int)M, (int)N, (int)K,
              1.0f, a, (int)ld_a, b, (int)N, add ? 1.0f : 0.0f, out, (int)ld_out);
}

/* p and ds [queries.rows, keys.rows] of a pair of blocks that are loaded, 0 where masked. */
template <typename T>
static void score_gradients(const Backward<T> *a, BackwardScratch f, Rows queries, Rows keys) {
  const AttentionShape *s = a->s;
  int64_t ld = scores_ld(a->block), at = (queries.b * s->NH + queries.head) * s->T + queries.first;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)queries.rows, (int)keys.rows, (int)s->HS,
              s->scale, f.q, (int)s->HS, f.k, (int)s->HS, 0.0f, f.p, (int)ld);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)queries.rows, (int)keys.rows, (int)s->HS, 1.0f,
              f.dout, (int)s->HS, f.v, (int)s->HS, 0.0f, f.ds, (int)ld);
  for (int64_t i = 0; i < queries.rows; i++) {
    float *p = f.p + i * ld, *ds = f.ds + i * ld, lse = a->lse[at + i], delta = a->delta[at + i];
    Span seen = columns_of(s, queries.b, queries.first + i, keys.first, keys.rows);
    for (int64_t j = 0; j < seen.begin; j++) p[j] = ds[j] = 0.0f;
#pragma omp simd
    for (int64_t j = seen.begin; j < seen.end; j++) {
      p[j] = fast_exp(p[j] - lse);
      ds[j] = p[j] * (ds[j] - delta) * s->scale;
    }
    for (int64_t j = seen.end; j < keys.rows; j++) p[j] = ds[j] = 0.0f;
  }
}

/* dk and dv of a block of keys, summed over the queries of the group that see it; dq += their part where dq
 * is given. */
template <typename T>
static void backward_keys(const Backward<T> *a, BackwardScratch f, Rows keys, float *dq) {
  const AttentionShape *s = a->s;
  int64_t HS = s->HS, group = s->NH / s->NKV, ld = scores_ld(a->block);
  load(s, f.k, a->k, a->ld_k, keys);
  load(s, f.v, a->v, a->ld_v, keys);
  Span seen = queries_of(s, keys.b, keys.first, keys.first + keys.rows);
  bool add = false;
  for (int64_t h = keys.head * group; h < (keys.head + 1) * group; h++) {
    for (int64_t first = seen.begin; first < seen.end; first += a->block) {
      Rows queries = {keys.b, h, first, clamp64(seen.end - first, 1, a->block)};
      load(s, f.q, a->q, a->ld_q, queries);
      load(s, f.dout, a->dout, s->NH * HS, queries);
      score_gradients(a, f, queries, keys);
      multiply(f.da, HS, f.ds, ld, true, f.q, keys.rows, HS, queries.rows, add);
      multiply(f.db, HS, f.p, ld, true, f.dout, keys.rows, HS, queries.rows, add);
      add = true;
      if (!dq) continue;
      float *to = dq + (queries.b * s->T + first) * a->ld_dq + h * HS;
      multiply(to, a->ld_dq, f.ds, ld, false, f.k, queries.rows, HS, keys.rows, true);
    }
  }
  save(s, a->dk, a->ld_dk, keys, f.da);
  save(s, a->dv, a->ld_dv, keys, f.db);
}

/* dq of a block of queries. */
template <typename T> static void backward_queries(const Backward<T> *a, BackwardScratch f, Rows queries) {
  const AttentionShape *s = a->s;
  int64_t HS = s->HS, ld = scores_ld(a->block);
  load(s, f.q, a->q, a->ld_q, queries);
  load(s, f.dout, a->dout, s->NH * HS, queries);
  Span seen = keys_of(s, queries.b, queries.first, queries.first + queries.rows);
  for (int64_t first = seen.begin; first < seen.end; first += a->block) {
    Rows keys = {queries.b, queries.head / (s->NH / s->NKV), first, clamp64(seen.end - first, 1, a->block)};
    load(s, f.k, a->k, a->ld_k, keys);
    load(s, f.v, a->v, a->ld_v, keys);
    score_gradients(a, f, queries, keys);
    multiply(f.da, HS, f.ds, ld, false, f.k, queries.rows, HS, keys.rows, first > seen.begin);
  }
  save(s, a->dq, a->ld_dq, queries, f.da);
}

template <typename T> static void compute_delta(const Device *dev, const Backward<T> *a) {
  const AttentionShape *s = a->s;
#pragma omp parallel for num_threads(dev->threads)
  for (int64_t row = 0; row < s->B * s->T; row++) {
    for (int64_t h = 0; h < s->NH; h++) {
      const T *o = a->o + (row * s->NH + h) * s->HS, *dout = a->dout + (row * s->NH + h) * s->HS;
      float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
      for (int64_t d = 0; d < s->HS; d++) sum += value(dout[d]) * value(o[d]);
      a->delta[(row / s->T * s->NH + h) * s->T + row % s->T] = sum;
    }
  }
}

/* One key/value head with all its queries, by one lane. */
static void backward_unit(const Backward<float> *a, BackwardScratch f, int64_t b, int64_t kv) {
  const AttentionShape *s = a->s;
  int64_t width = s->NH / s->NKV * s->HS;
  for (int64_t t = 0; t < s->T; t++) {
    memset(a->dq + (b * s->T + t) * a->ld_dq + kv * width, 0, (size_t)width * sizeof(float));
  }
  for (int64_t first = 0; first < s->T; first += a->block) {
    backward_keys(a, f, Rows{b, kv, first, clamp64(s->T - first, 1, a->block)}, a->dq);
  }
}

static void backward_one_pass(const Device *dev, const Backward<float> *a, float *workspace) {
  const AttentionShape *s = a->s;
#pragma omp parallel for num_threads((int)backward_lanes(dev, DT_FP32, s)) schedule(dynamic)
  for (int64_t unit = 0; unit < s->B * s->NKV; unit++) {
    float *memory = workspace + omp_get_thread_num() * backward_scratch_floats(s);
    backward_unit(a, backward_scratch(s, memory), unit / s->NKV, unit % s->NKV);
  }
}

/* Blocks go to lanes as they become free, those that see the most first. */
template <typename T>
static void backward_two_passes(const Device *dev, DType dt, const Backward<T> *a, float *workspace) {
  const AttentionShape *s = a->s;
  int64_t blocks = (s->T + a->block - 1) / a->block, units = s->B * s->NKV, heads = s->B * s->NH;
#pragma omp parallel num_threads((int)backward_lanes(dev, dt, s))
  {
    float *memory = workspace + omp_get_thread_num() * backward_scratch_floats(s);
    BackwardScratch f = backward_scratch(s, memory);
#pragma omp for schedule(dynamic) nowait
    for (int64_t item = 0; item < units * blocks; item++) {
      int64_t first = item / units * a->block, unit = item % units;
      Rows keys = {unit / s->NKV, unit % s->NKV, first, clamp64(s->T - first, 1, a->block)};
      backward_keys(a, f, keys, NULL);
    }
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < heads * blocks; item++) {
      int64_t first = (blocks - 1 - item / heads) * a->block, head = item % heads;
      backward_queries(a, f, Rows{head / s->NH, head % s->NH, first, clamp64(s->T - first, 1, a->block)});
    }
  }
}

size_t attention_cpu_backward_workspace(const Device *dev, DType dt, const AttentionShape *s) {
  int64_t lanes = backward_lanes(dev, dt, s);
  return (size_t)(delta_floats(s) + lanes * backward_scratch_floats(s)) * sizeof(float);
}

template <typename T>
static Backward<T> backward_operands(Heads dq, Heads dk, Heads dv, const void *dout, const void *o,
                                     const float *lse, Heads q, Heads k, Heads v, const AttentionShape *s,
                                     void *workspace) {
  Backward<T> a = {};
  a.s = s;
  a.dq = (T *)dq.data, a.dk = (T *)dk.data, a.dv = (T *)dv.data;
  a.ld_dq = dq.ld, a.ld_dk = dk.ld, a.ld_dv = dv.ld;
  a.dout = (const T *)dout, a.o = (const T *)o;
  a.lse = lse, a.delta = (float *)workspace;
  a.q = (const T *)q.data, a.k = (const T *)k.data, a.v = (const T *)v.data;
  a.ld_q = q.ld, a.ld_k = k.ld, a.ld_v = v.ld;
  a.block = attention_block(s);
  return a;
}

void attention_cpu_backward(Device *dev, DType dt, Heads dq, Heads dk, Heads dv, const void *dout,
                            const void *o, const float *lse, Heads q, Heads k, Heads v,
                            const AttentionShape *s, void *workspace) {
  float *scratch = (float *)workspace + delta_floats(s);
  if (dt == DT_BF16) {
    Backward<bf16> a = backward_operands<bf16>(dq, dk, dv, dout, o, lse, q, k, v, s, workspace);
    compute_delta(dev, &a);
    backward_two_passes(dev, dt, &a, scratch);
    return;
  }
  Backward<float> a = backward_operands<float>(dq, dk, dv, dout, o, lse, q, k, v, s, workspace);
  compute_delta(dev, &a);
  if (one_pass(dev, dt, s))
    backward_one_pass(dev, &a, scratch);
  else
    backward_two_passes(dev, dt, &a, scratch);
}
