/* Attention over a cache against its definition in double; and as a CUDA block runs it, emulated, in builds
 * without nvcc. */
extern "C" {
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
}
#ifndef __CUDACC__
#include "block_emulation.cuh"
#endif

#include "device/launch.cuh"
#include "ops/attention_cached.h"
#include "tensor.cuh" // defines: Tensor, tensor_new, tensor_get, tensor_random, tensor_guards_whole, roundoff

#ifndef __CUDACC__
namespace emulated_ops {
#include "ops/attention_cached.cu"
} // namespace emulated_ops
#endif

typedef struct Ops {
  Device dev;
  decltype(&attention_cache) put;
  decltype(&attention_cached) attend;
} Ops;

/* Row r of the queries against rows of the cache. sum |p v| bounds what rounding can do. */
static void check_row(const AttentionShape *s, const Tensor *o, const Tensor *q, const Tensor *keys,
                      const Tensor *values, int64_t r, int64_t first, double tolerance) {
  int64_t at = first + r, from = s->window && at >= s->window ? at - s->window + 1 : 0;
  double *p = (double *)calloc((size_t)(at + 1), sizeof *p);
  for (int64_t h = 0; h < s->NH; h++) {
    int64_t kv = h / (s->NH / s->NKV);
    double max = -INFINITY, total = 0;
    for (int64_t j = from; j <= at; j++) {
      p[j] = 0;
      for (int64_t d = 0; d < s->HS; d++)
        p[j] += s->scale * tensor_get(q, r, h * s->HS + d) * tensor_get(keys, j, kv * s->HS + d);
      max = fmax(max, p[j]);
    }
    for (int64_t j = from; j <= at; j++) total += p[j] = exp(p[j] - max);
    for (int64_t d = 0; d < s->HS; d++) {
      double x = 0, magnitude = 0, found = tensor_get(o, r, h * s->HS + d);
      for (int64_t j = from; j <= at; j++) {
        double term = p[j] / total * tensor_get(values, j, kv * s->HS + d);
        x += term;
        magnitude += fabs(term);
      }
      if (!(fabs(found - x) <= tolerance * magnitude))
        fail_msg("query %lld, head %lld, element %lld: %g, expected %g", (long long)at, (long long)h,
                 (long long)d, found, x);
    }
  }
  free(p);
}

/* A text of `before` tokens, then `rows` more at a time. */
static void check(Ops *ops, DType dt, AttentionShape s, int64_t before, int64_t rows) {
  int64_t C = s.NH * s.HS, Ck = s.NKV * s.HS, length = before + rows;
  s.scale = 1.0f / sqrtf((float)s.HS);
  Tensor q = tensor_new(dt, rows, C, C + 6), k = tensor_new(dt, length, Ck, Ck + 2);
  Tensor v = tensor_new(dt, length, Ck, Ck + 4), o = tensor_new(dt, rows, C, C);
  Tensor keys = tensor_new(dt, length, Ck, Ck), values = tensor_new(dt, length, Ck, Ck);
  tensor_random(&q, 2, 1);
  tensor_random(&k, 2, 2);
  tensor_random(&v, 1, 3);
  size_t size = dtype_size(dt);
  for (int64_t at = 0, n; at < length; at += n) {
    n = at < before ? before : rows;
    Heads new_k = {(char *)on_device(&k) + (size_t)(at * k.ld) * size, k.ld};
    Heads new_v = {(char *)on_device(&v) + (size_t)(at * v.ld) * size, v.ld};
    ops->put(&ops->dev, dt, on_device(&keys), on_device(&values), at, new_k, new_v, &s, n);
  }
  ops->attend(&ops->dev, dt, on_device(&o), Heads{on_device(&q), q.ld}, on_device(&keys), on_device(&values),
              before, &s, rows);
  for (int64_t i = 0; i < length; i++)
    for (int64_t j = 0; j < Ck; j++)
      assert_true(tensor_get(&keys, i, j) == tensor_get(&k, i, j) &&
                  tensor_get(&values, i, j) == tensor_get(&v, i, j));
  /* scores of up to 4 sqrt(HS) are off by some roundings, which the exponential turns into relative errors;
   * the exponential adds 1.5e-7 */
  double tolerance = 4 * sqrt((double)s.HS) * 0x1p-22 + 1e-6 + (dt == DT_BF16 ? roundoff(dt) : 0);
  for (int64_t r = 0; r < rows; r++) check_row(&s, &o, &q, &keys, &values, r, before, tolerance);
  Tensor *all[] = {&q, &k, &v, &o, &keys, &values};
  for (Tensor *t : all) {
    assert_true(tensor_guards_whole(t));
    tensor_free(t);
  }
}

static void check_all(Ops *ops) {
  const DType types[] = {DT_FP32, DT_BF16};
  for (DType dt : types) {
    check(ops, dt, AttentionShape{1, 0, 4, 2, 8, 0, 0, false, NULL, 0, NULL}, 0, 1);
    check(ops, dt, AttentionShape{1, 0, 4, 2, 8, 0, 0, false, NULL, 0, NULL}, 0, 11);
    check(ops, dt, AttentionShape{1, 0, 6, 2, 10, 5, 0, false, NULL, 0, NULL}, 3,
          9); /* a window that begins within the rows */
    check(ops, dt, AttentionShape{1, 0, 2, 1, 64, 0, 0, false, NULL, 0, NULL}, 447,
          2); /* a tile of keys, and one key more */
    check(ops, dt, AttentionShape{1, 0, 3, 3, 96, 0, 0, false, NULL, 0, NULL}, 1100, 1); /* several tiles */
    check(ops, dt, AttentionShape{1, 0, 2, 2, 32, 600, 0, false, NULL, 0, NULL}, 1000,
          3); /* a window of several tiles */
    check(ops, dt, AttentionShape{1, 0, 1, 1, CACHED_MOST_HS, 0, 0, false, NULL, 0, NULL}, 300, 1);
  }
}

static void test_device_attention(void **state) {
  (void)state;
  Ops ops = {};
  open_test_device(&ops.dev, 0);
  ops.put = attention_cache;
  ops.attend = attention_cached;
  check_all(&ops);
  device_close(&ops.dev);
}

static void test_in_blocks(void **state) {
  (void)state;
#ifdef __CUDACC__
  skip(); /* there is a real block */
#else
  Ops ops = {};
  open_test_device(&ops.dev, 1);
  ops.dev.kind = DEVICE_CUDA;
  ops.put = emulated_ops::attention_cache;
  ops.attend = emulated_ops::attention_cached;
  check_all(&ops);
  ops.dev.kind = DEVICE_CPU;
  device_close(&ops.dev);
#endif
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_device_attention),
                                     cmocka_unit_test(test_in_blocks)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
