/* Speed of the operations of the CPU against its matrix library's sgemm and against memcpy, measured in turns
 * with them. Prints one JSON object a line; bench/cpu_ops.py makes a file of them.
 *
 *   cpu_ops [--quick]      --quick: shorter sequences and fewer repetitions */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/process.h" // defines: process_cpu_seconds
#include "ops/adamw.h"
#include "ops/attention.h"
#include "ops/convert.h" // defines: fill_normal, fill_constant
#include "ops/cross_entropy.h"
#include "ops/embedding.h"
#include "ops/glu.h"
#include "ops/matmul.h" // defines: matmul
#include "ops/qk_prepare.h"
#include "ops/rmsnorm.h"

typedef struct Bench {
  Device dev;
  bool quick;
} Bench;

static float *take(Bench *b, int64_t floats) {
  Error e = {};
  void *p = device_alloc(&b->dev, (size_t)floats * sizeof(float), &e);
  CHECK(p, "%s", e.text);
  fill_normal(&b->dev, p, DT_FP32, 1, 1, 1, 0, floats);
  return (float *)p;
}
static void give(Bench *b, float *p, int64_t floats) {
  device_free(&b->dev, p, (size_t)floats * sizeof(float));
}

/* What work() and roof() do in a second, the best of some turns. A second is one of processor time on every
 * thread, so that others who use the machine hardly change it. */
typedef struct Rates {
  double rate, roof;
} Rates;

/* The kernel counts what another thread works in ticks of some milliseconds: work is repeated until that does
 * not matter. */
template <class Work> static double rate_of(Bench *b, double amount, Work work) {
  double begin = process_cpu_seconds(), seconds = 0, times = 0;
  while (seconds < 0.1 * b->dev.threads) {
    work();
    times++;
    seconds = process_cpu_seconds() - begin;
  }
  return times * amount * b->dev.threads / seconds;
}

template <class Work, class Roof>
static Rates measure(Bench *b, double amount, Work work, double roof_amount, Roof roof) {
  Rates r = {};
  work();
  roof();
  for (int i = 0; i < (b->quick ? 3 : 7); i++) {
    double at = rate_of(b, roof_amount, roof), rate = rate_of(b, amount, work);
    if (at > r.roof) r.roof = at;
    if (rate > r.rate) r.rate = rate;
  }
  return r;
}

/* ---- attention ---- */

static void bench_attention(Bench *b, AttentionShape s) {
  int64_t q = s.NH * s.HS, kv = s.NKV * s.HS, ld = q + 2 * kv, n = s.T * ld;
  float *qkv = take(b, n), *d_qkv = take(b, n), *o = take(b, s.T * q), *d_o = take(b, s.T * q);
  float *lse = take(b, s.NH * s.T);
  size_t forward_bytes = attention_forward_workspace(&b->dev, DT_FP32, &s);
  size_t backward_bytes = attention_backward_workspace(&b->dev, DT_FP32, &s);
  int64_t work = (int64_t)((forward_bytes > backward_bytes ? forward_bytes : backward_bytes) / sizeof(float));
  float *workspace = take(b, work);
  double product = 2 * (double)(s.NH * s.HS) * attention_pairs(s.T, s.window);
  const int64_t M = 1024;
  const double sgemm_flops = 4 * 2.0 * (double)(M * M * M);
  float *square = take(b, 3 * M * M);
  auto sgemm = [=] {
    Matrix out = {square, DT_FP32, M}, x = {square + M * M, DT_FP32, M}, y = {square + 2 * M * M, DT_FP32, M};
    for (int i = 0; i < 4; i++) matmul(&b->dev, out, x, false, y, true, M, M, M, NULL);
  };
  Rates forward = measure(
      b, 2 * product,
      [=] {
        attention_forward(&b->dev, DT_FP32, o, lse, Heads{qkv, ld}, Heads{qkv + q, ld},
                          Heads{qkv + q + kv, ld}, &s, workspace);
      },
      sgemm_flops, sgemm);
  Rates backward = measure(
      b, 5 * product,
      [=] {
        attention_backward(&b->dev, DT_FP32, Heads{d_qkv, ld}, Heads{d_qkv + q, ld},
                           Heads{d_qkv + q + kv, ld}, d_o, o, lse, Heads{qkv, ld}, Heads{qkv + q, ld},
                           Heads{qkv + q + kv, ld}, &s, workspace);
      },
      sgemm_flops, sgemm);
  printf("{\"bench\": \"attention\", \"T\": %lld, \"heads\": %lld, \"kv_heads\": %lld, \"HS\": %lld, "
         "\"window\": "
         "%lld, \"forward_gflops\": %.1f, \"forward_of_sgemm\": %.3f, \"backward_gflops\": %.1f, "
         "\"backward_of_sgemm\": %.3f}\n",
         (long long)s.T, (long long)s.NH, (long long)s.NKV, (long long)s.HS, (long long)s.window,
         forward.rate * 1e-9, forward.rate / forward.roof, backward.rate * 1e-9,
         backward.rate / backward.roof);
  fflush(stdout);
  give(b, square, 3 * M * M);
  give(b, qkv, n);
  give(b, d_qkv, n);
  give(b, o, s.T * q);
  give(b, d_o, s.T * q);
  give(b, lse, s.NH * s.T);
  give(b, workspace, work);
}

/* ---- row kernels ---- */

template <class Work> static void bench_row(Bench *b, const char *name, int64_t floats, Work work) {
  const size_t bytes = (size_t)128 << 20; /* no cache holds it */
  float *from = take(b, (int64_t)(bytes / sizeof(float))), *to = take(b, (int64_t)(bytes / sizeof(float)));
  Rates r = measure(b, 4 * (double)floats, work, 2 * (double)bytes,
                    [=] { device_copy(&b->dev, to, from, bytes, COPY_ON_DEVICE); });
  printf("{\"bench\": \"row kernel\", \"name\": \"%s\", \"gb_per_s\": %.2f, \"of_memcpy\": %.3f}\n", name,
         r.rate * 1e-9, r.rate / r.roof);
  fflush(stdout);
  give(b, from, (int64_t)(bytes / sizeof(float)));
  give(b, to, (int64_t)(bytes / sizeof(float)));
}

static void bench_rows(Bench *b) {
  const int64_t rows = b->quick ? 8192 : 16384, C = 2048, FF = 4096, V = 32768, HS = 64, n = rows * C;
  Device *dev = &b->dev;
  float *x = take(b, n), *y = take(b, n), *z = take(b, n), *w = take(b, C);
  float *losses = take(b, rows), *inv_freq = take(b, HS / 2);
  int32_t *ids = (int32_t *)take(b, rows);
  for (int64_t i = 0; i < rows; i++) ids[i] = (int32_t)(i * 7919 % rows);
  bench_row(b, "rmsnorm forward", 2 * n, [=] { rmsnorm_forward(dev, DT_FP32, y, x, w, rows, C, 1e-5f); });
  bench_row(b, "rmsnorm backward, added", 4 * n,
            [=] { rmsnorm_backward(dev, DT_FP32, z, losses, y, x, w, rows, C, 1e-5f, true); });
  int64_t glu_rows = n / (2 * FF);
  bench_row(b, "glu forward", 3 * glu_rows * FF,
            [=] { glu_forward(dev, DT_FP32, ACT_SILU, y, x, glu_rows, FF); });
  bench_row(b, "glu backward", 5 * glu_rows * FF,
            [=] { glu_backward(dev, DT_FP32, ACT_SILU, x, y, glu_rows, FF); });
  QkPrepare p = {};
  p.HS = HS;
  p.NH = p.NKV = C / HS / 2;
  p.inv_freq = inv_freq;
  p.attention_scale = 1;
  p.positions = ids;
  bench_row(b, "rope forward", 2 * n, [=] { qk_prepare_forward(dev, DT_FP32, z, C, y, C, &p, rows); });
  bench_row(b, "rope backward", 2 * n, [=] { qk_prepare_backward(dev, DT_FP32, z, NULL, C, &p, rows); });
  bench_row(b, "embedding forward", 2 * n, [=] { embedding_forward(dev, DT_FP32, z, x, ids, rows, C); });
  fill_constant(dev, y, DT_FP32, 1.f, n);
  bench_row(b, "cross entropy with gradient", 2 * n,
            [=] { cross_entropy_forward_backward(dev, DT_FP32, losses, y, ids, n / V, V, 1e-3f); });
  AdamW a = {1e-6, 0.9, 0.95, 1e-8, 0.1, 1, 1, 42};
  AdamWTensor t = {};
  t.param = x;
  t.grad = y;
  t.m = z;
  t.v = take(b, n);
  t.n = n;
  t.decay = true;
  t.id = 1;
  fill_constant(dev, t.v, DT_FP32, 1.f, n);
  bench_row(b, "adamw", 7 * n, [=] { adamw_update(dev, &t, 1, &a); });
  bench_row(b, "sum of squares", n, [=] { sum_of_squares(dev, x, DT_FP32, n); });
  give(b, (float *)t.v, n);
  give(b, x, n);
  give(b, y, n);
  give(b, z, n);
  give(b, w, C);
  give(b, losses, rows);
  give(b, inv_freq, HS / 2);
  give(b, (float *)ids, rows);
}

int main(int argc, char **argv) {
  Bench b = {};
  Error e = {};
  b.quick = argc == 2 && strcmp(argv[1], "--quick") == 0;
  if (argc > 1 && !b.quick) {
    fprintf(stderr, "cpu_ops: found \"%s\", expected --quick or nothing\n", argv[1]);
    return EXIT_USAGE;
  }
  if (!device_open(&b.dev, "cpu", 0, &e)) {
    fprintf(stderr, "cpu_ops: %s\n", e.text);
    return e.code;
  }
  b.dev.workspace_bytes = device_workspace_bytes(&b.dev, DT_FP32);
  float *workspace = take(&b, (int64_t)(b.dev.workspace_bytes / sizeof(float)));
  b.dev.workspace = workspace;
  const struct {
    int64_t T, NH, NKV, HS, window;
  } shapes[] = {{4096, 4, 4, 64, 0},    {4096, 4, 4, 128, 0},   {4096, 8, 2, 64, 0},   {4096, 8, 2, 128, 0},
                {4096, 4, 4, 64, 1024}, {8192, 4, 4, 64, 1024}, {8192, 4, 4, 128, 256}};
  for (const auto &at : shapes) {
    if (b.quick && at.T > 4096) continue;
    AttentionShape s = {};
    s.B = 1, s.T = at.T, s.NH = at.NH, s.NKV = at.NKV, s.HS = at.HS, s.window = at.window, s.scale = 0.1f;
    bench_attention(&b, s);
  }
  bench_rows(&b);
  give(&b, workspace, (int64_t)(b.dev.workspace_bytes / sizeof(float)));
  b.dev.workspace = NULL;
  device_close(&b.dev);
  return 0;
}
