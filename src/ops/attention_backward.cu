/* Backward of the attention on the CPU (FlashAttention-2, arXiv 2307.08691, algorithm 2). With
 *   p = exp(scale q k^T - lse),  delta = rowsum(dout * o),  ds = scale p * (dout v^T - delta)
 * it is dv = p^T dout, dk = ds^T q and dq = ds k, block by block. dk and dv are summed over the queries, dq
 * over the keys: one lane can do both in one pass over a key/value head when dq is fp32 memory that it can
 * add to (5 products a pair of blocks); else a second pass computes dq (7 products), and then every block of
 * keys or queries is one lane's own. Sums always have one owner and one order: no atomics. */
#include <omp.h>
#include <string.h>

#include "ops/attention_tiles.cuh" // defines: Span, Pair, keys_of, queries_of, tile_load, multiply_sums, ...

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
  float *p, *ds;       /* [queries, scores_ld(block)] */
  float *dq, *dk, *dv; /* [queries or keys, heads_ld] sums */
  float *q, *k, *dout; /* [queries or keys, heads_ld] each */
  float *k_t, *v_t;    /* [HS, scores_ld(block)] transposed, the keys times scale / ln 2 */
} BackwardScratch;

static int64_t backward_scratch_floats(const AttentionShape *s) {
  int64_t n = attention_block(s);
  return 2 * scratch_floats(n, scores_ld(n)) + 6 * scratch_floats(n, heads_ld(s)) +
         2 * scratch_floats(s->HS, scores_ld(n));
}

static BackwardScratch backward_scratch(const AttentionShape *s, float *memory) {
  int64_t n = attention_block(s);
  BackwardScratch f = {};
  f.p = scratch_take(&memory, n, scores_ld(n));
  f.ds = scratch_take(&memory, n, scores_ld(n));
  f.dq = scratch_take(&memory, n, heads_ld(s));
  f.dk = scratch_take(&memory, n, heads_ld(s));
  f.dv = scratch_take(&memory, n, heads_ld(s));
  f.q = scratch_take(&memory, n, heads_ld(s));
  f.k = scratch_take(&memory, n, heads_ld(s));
  f.dout = scratch_take(&memory, n, heads_ld(s));
  f.k_t = scratch_take(&memory, s->HS, scores_ld(n));
  f.v_t = scratch_take(&memory, s->HS, scores_ld(n));
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

/* The first of a block's rows in a matrix of heads. */
template <typename T> static T *rows_at(const AttentionShape *s, T *x, int64_t ld, Rows r) {
  return x + (r.b * s->T + r.first) * ld + r.head * s->HS;
}

template <typename T> static void load_queries(const Backward<T> *a, BackwardScratch f, Rows queries) {
  const AttentionShape *s = a->s;
  tile_load(s, f.q, rows_at(s, a->q, a->ld_q, queries), a->ld_q, queries.rows);
  tile_load(s, f.dout, rows_at(s, a->dout, s->NH * s->HS, queries), s->NH * s->HS, queries.rows);
}

template <typename T> static void load_keys(const Backward<T> *a, BackwardScratch f, Rows keys) {
  const AttentionShape *s = a->s;
  const T *k = rows_at(s, a->k, a->ld_k, keys), *v = rows_at(s, a->v, a->ld_v, keys);
  int64_t ld = scores_ld(a->block);
  tile_load(s, f.k, k, a->ld_k, keys.rows);
  tile_load_transposed(s, f.k_t, ld, k, a->ld_k, keys.rows, s->scale * LOG2_E);
  tile_load_transposed(s, f.v_t, ld, v, a->ld_v, keys.rows, 1.0f);
}

/* p and ds of the seen columns of a row: from scores and dout v^T; scores and lse in units of ln 2. */
static void gradients_of_row(float *p, float *ds, Span seen, float lse, float delta, float scale) {
#pragma omp simd
  for (int64_t j = seen.begin; j < seen.end; j++) {
    p[j] = fast_exp2(p[j] - lse);
    ds[j] = p[j] * (ds[j] - delta) * scale;
  }
}

/* p and ds [queries.rows, keys.rows] of a pair of blocks that are loaded, 0 where masked. */
template <typename T>
static void score_gradients(const Backward<T> *a, BackwardScratch f, Rows queries, const Pair *pair) {
  const AttentionShape *s = a->s;
  int64_t ld = scores_ld(a->block), ld_heads = heads_ld(s);
  int64_t at = (queries.b * s->NH + queries.head) * s->T + queries.first;
  int64_t strip = strip_rows(s, pair, pair->queries);
  auto seen = [=](int64_t i, int64_t end) { return keys_in(s, pair, i, end); };
  multiply_columns(f.p, ld, TileFactor{f.q, ld_heads, 1}, f.k_t, ld, pair->queries, strip, s->HS, seen);
  multiply_columns(f.ds, ld, TileFactor{f.dout, ld_heads, 1}, f.v_t, ld, pair->queries, strip, s->HS, seen);
  for (int64_t i = 0; i < pair->queries; i++) {
    float *p = f.p + i * ld, *ds = f.ds + i * ld;
    Span cols = seen(i, i + 1);
    for (int64_t j = 0; j < cols.begin; j++) p[j] = ds[j] = 0.0f;
    for (int64_t j = cols.end; j < pair->keys; j++) p[j] = ds[j] = 0.0f;
    gradients_of_row(p, ds, cols, a->lse[at + i] * LOG2_E, a->delta[at + i], s->scale);
  }
}

/* Sums over the keys of the pair: f.dq. */
static void sum_over_keys(const AttentionShape *s, BackwardScratch f, const Pair *pair, bool add) {
  int64_t ld = scores_ld(attention_block(s));
  multiply_sums(f.dq, heads_ld(s), TileFactor{f.ds, ld, 1}, f.k, pair->queries,
                strip_rows(s, pair, pair->queries), s->HS, add,
                [=](int64_t i, int64_t end) { return keys_in(s, pair, i, end); });
}

/* Sums over the queries of the pair: f.dk and f.dv. */
static void sum_over_queries(const AttentionShape *s, BackwardScratch f, const Pair *pair, bool add) {
  int64_t ld = scores_ld(attention_block(s)), strip = strip_rows(s, pair, pair->keys);
  auto seen = [=](int64_t j, int64_t end) { return queries_in(s, pair, j, end); };
  multiply_sums(f.dk, heads_ld(s), TileFactor{f.ds, 1, ld}, f.q, pair->keys, strip, s->HS, add, seen);
  multiply_sums(f.dv, heads_ld(s), TileFactor{f.p, 1, ld}, f.dout, pair->keys, strip, s->HS, add, seen);
}

/* dk and dv of a block of keys, summed over the queries of the group that see it; dq [., NH*HS] += their part
 * where dq is given. */
template <typename T>
static void backward_keys(const Backward<T> *a, BackwardScratch f, Rows keys, float *dq) {
  const AttentionShape *s = a->s;
  int64_t group = s->NH / s->NKV, ld_heads = heads_ld(s);
  load_keys(a, f, keys);
  Span seen = queries_of(s, keys.b, keys.first, keys.first + keys.rows, s->T);
  bool add = false;
  for (int64_t h = keys.head * group; h < (keys.head + 1) * group; h++) {
    for (int64_t first = seen.begin; first < seen.end; first += a->block) {
      Rows queries = {keys.b, h, first, clamp64(seen.end - first, 1, a->block)};
      Pair pair = {keys.b, first, queries.rows, keys.first, keys.rows};
      load_queries(a, f, queries);
      score_gradients(a, f, queries, &pair);
      sum_over_queries(s, f, &pair, add);
      add = true;
      if (!dq) continue;
      sum_over_keys(s, f, &pair, false);
      float *to = rows_at(s, dq, a->ld_dq, queries);
      for (int64_t i = 0; i < queries.rows; i++)
        for (int64_t d = 0; d < s->HS; d++) to[i * a->ld_dq + d] += f.dq[i * ld_heads + d];
    }
  }
  tile_store(s, rows_at(s, a->dk, a->ld_dk, keys), a->ld_dk, f.dk, keys.rows);
  tile_store(s, rows_at(s, a->dv, a->ld_dv, keys), a->ld_dv, f.dv, keys.rows);
}

/* dq of a block of queries. */
template <typename T> static void backward_queries(const Backward<T> *a, BackwardScratch f, Rows queries) {
  const AttentionShape *s = a->s;
  load_queries(a, f, queries);
  Span seen = keys_of(s, queries.b, queries.first, queries.first + queries.rows);
  for (int64_t first = seen.begin; first < seen.end; first += a->block) {
    Rows keys = {queries.b, queries.head / (s->NH / s->NKV), first, clamp64(seen.end - first, 1, a->block)};
    Pair pair = {queries.b, queries.first, queries.rows, first, keys.rows};
    load_keys(a, f, keys);
    score_gradients(a, f, queries, &pair);
    sum_over_keys(s, f, &pair, first > seen.begin);
  }
  tile_store(s, rows_at(s, a->dq, a->ld_dq, queries), a->ld_dq, f.dq, queries.rows);
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
