/* o = softmax(scale q k^T) v for single queries over a cache, a group a query and head: tiles of keys in the
 * group's scratch, with the running maximum and sum of FlashAttention-2 (arXiv 2307.08691). */
#include "ops/attention_cached.h"

#include "device/launch.cuh" // defines: launch_rows

template <class T> struct AttentionCache {
  T *keys, *values;   /* [., width] */
  const T *k, *v;     /* [rows, width] */
  int64_t ld_k, ld_v; /* rows of k and v are so far apart */
  int64_t first, width;

  template <class G> HD void operator()(G g, int64_t row) const {
    g.each(
        width, [](float &to, float x) { to = x; }, keys + (first + row) * width, k + row * ld_k);
    g.each(
        width, [](float &to, float x) { to = x; }, values + (first + row) * width, v + row * ld_v);
  }
};

/* One worker's product of two heads; in eight sums, which the CPU takes together. */
template <class T> HD float dot(const T *a, const T *b, int64_t n) {
  float sums[8] = {}, sum = 0.f;
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; j++) sums[j] += value(a[i + j]) * value(b[i + j]);
  for (; i < n; i++) sum += value(a[i]) * value(b[i]);
  for (int j = 0; j < 8; j++) sum += sums[j];
  return sum;
}

template <class T> struct AttentionCached {
  T *o;                   /* [rows, NH*HS] */
  const T *q;             /* [rows, NH*HS] */
  const T *keys, *values; /* [., NKV*HS] */
  int64_t ld_q, first;
  AttentionShape s;

  template <class G> HD void operator()(G g, int64_t item) const {
    int64_t HS = s.HS, row = item / s.NH, head = item % s.NH, kv = head / (s.NH / s.NKV), ld = s.NKV * HS;
    int64_t at = first + row, begin = s.window && at >= s.window ? at - s.window + 1 : 0;
    const T *query = q + row * ld_q + head * HS;
    float *sum = g.scratch, *scores = g.scratch + HS, scale = s.scale;
    const int64_t tile = GROUP_SCRATCH - HS;
    float max = -INFINITY, total = 0.f;
    g.each(
        HS, [](float &sum) { sum = 0.f; }, sum);
    for (int64_t key = begin, n; key <= at; key += n) {
      n = at + 1 - key < tile ? at + 1 - key : tile;
      const T *k = keys + key * ld + kv * HS, *v = values + key * ld + kv * HS;
      g.sync(); /* the last tile's scores have been read */
      g.each_at(
          n, [=](int64_t i, float &score) { score = scale * dot(query, k + i * ld, HS); }, scores);
      float tile_max = g.max(
          n, [](float x) { return x; }, (const float *)scores);
      float old = max;
      max = tile_max > max ? tile_max : max;
      float shrink = fast_exp(old - max), top = max;
      g.each(
          n, [=](float &x) { x = fast_exp(x - top); }, scores);
      total = total * shrink + g.sum(
                                   n, [](float x) { return x; }, (const float *)scores);
      g.each(
          HS, [=](float &sum) { sum *= shrink; }, sum);
      for (int64_t i = 0; i < n; i++) {
        float p = scores[i];
        g.each(
            HS, [=](float &sum, float v) { sum += p * v; }, sum, v + i * ld);
      }
    }
    g.each(
        HS, [=](float &o, float sum) { o = sum / total; }, o + (row * s.NH + head) * HS, (const float *)sum);
  }
};

void attention_cache(Device *dev, DType dt, void *keys, void *values, int64_t first, Heads k, Heads v,
                     const AttentionShape *s, int64_t rows) {
  int64_t width = s->NKV * s->HS;
  DISPATCH(dt, T,
           launch_rows(dev, rows,
                       AttentionCache<T>{(T *)keys, (T *)values, (const T *)k.data, (const T *)v.data, k.ld,
                                         v.ld, first, width}));
}

void attention_cached(Device *dev, DType dt, void *o, Heads q, const void *keys, const void *values,
                      int64_t first, const AttentionShape *s, int64_t rows) {
  CHECK(s->HS <= CACHED_MOST_HS, "heads of %lld, at most %d expected", (long long)s->HS, CACHED_MOST_HS);
  DISPATCH(dt, T,
           launch_rows(dev, rows * s->NH,
                       AttentionCached<T>{(T *)o, (const T *)q.data, (const T *)keys, (const T *)values, q.ld,
                                          first, *s}));
}
