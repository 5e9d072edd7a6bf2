/* Speed on a GPU, against what the same GPU reaches in a plain copy and a plain product. Prints one JSON
 * object a line; bench/gpu_bench.sh makes a file of them.
 *
 *   gpu_bench [--rehearse [DEVICE]]
 *
 * --rehearse: tiny sizes on the CPU, or on the device that is named, to see that everything runs; the numbers
 * then mean nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "llama/model.h"     // defines: Model, model_forward_backward, model_step_flops
#include "llama/optimizer.h" // defines: optimizer_update
#include "mst_chunk.cuh"     // defines: Mlp, mlp_forward, mlp_backward, LmHead, head_forward_backward
#include "ops/adamw.h"
#include "ops/convert.h" // defines: fill_normal
#include "ops/matmul.h"  // defines: matmul_measure_rate
#include "ops/qk_prepare.h"

static const DType dt = DT_BF16;

typedef struct Bench {
  Device dev;
  bool rehearse;
  double product, copy; /* FLOP/s, bytes/s */
} Bench;

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Best time of one call of work(context), over half a second and at least three calls after a first one. */
typedef void (*Work)(Bench *b, void *context);
static double best_time(Bench *b, Work work, void *context) {
  work(b, context);
  device_synchronize(&b->dev);
  double best = 1e30, start = seconds_now();
  for (int i = 0; i < 3 || seconds_now() - start < (b->rehearse ? 0 : 0.5); i++) {
    double begin = seconds_now();
    work(b, context);
    device_synchronize(&b->dev);
    double seconds = seconds_now() - begin;
    if (seconds < best) best = seconds;
  }
  return best;
}

static void *take(Bench *b, int64_t bytes) {
  Error e = {};
  void *p = device_alloc(&b->dev, (size_t)bytes, &e);
  CHECK(p, "%s", e.text);
  return p;
}
static void give(Bench *b, void *p, int64_t bytes) {
  device_free(&b->dev, p, (size_t)bytes);
}

/* ---- copies and row kernels ---- */

/* Memory that the kernels below share. */
typedef struct Rows {
  int64_t rows, C, FF, V, n; /* n: elements of x, y and z each */
  char *x, *y, *z;           /* bf16 */
  float *f;                  /* [n / 2] */
  void *w;                   /* [C] */
  int32_t *ids;              /* [rows], all 0 */
} Rows;

static void work_copy(Bench *b, void *context) {
  Rows *r = (Rows *)context;
  device_copy(&b->dev, r->y, r->x, (size_t)r->n * 2, COPY_ON_DEVICE);
}
static void work_rmsnorm(Bench *b, void *context) {
  Rows *r = (Rows *)context;
  rmsnorm_forward(&b->dev, dt, r->y, r->x, r->w, r->rows, r->C, 1e-5f);
}
static void work_rmsnorm_backward(Bench *b, void *context) {
  Rows *r = (Rows *)context;
  rmsnorm_backward(&b->dev, dt, r->z, r->f, r->y, r->x, r->w, r->rows, r->C, 1e-5f, true);
}
static void work_glu(Bench *b, void *context) {
  Rows *r = (Rows *)context;
  glu_forward(&b->dev, dt, ACT_SILU, r->y, r->x, r->n / (2 * r->FF), r->FF);
}
static void work_glu_backward(Bench *b, void *context) {
  Rows *r = (Rows *)context;
  glu_backward(&b->dev, dt, ACT_SILU, r->x, r->y, r->n / (2 * r->FF), r->FF);
}
static void work_cross_entropy(Bench *b, void *context) {
  Rows *r = (Rows *)context;
  cross_entropy_forward_backward(&b->dev, dt, r->f, r->x, r->ids, r->n / r->V, r->V, 1e-3f);
}
static void work_rope(Bench *b, void *context) {
  Rows *r = (Rows *)context;
  QkPrepare p = {};
  p.HS = 128;
  p.NH = r->C / 128 * 2 / 3;
  p.NKV = (r->C / 128 - p.NH) / 2;
  p.inv_freq = r->f;
  p.attention_scale = 1;
  p.positions = r->ids;
  qk_prepare_forward(&b->dev, dt, r->x, r->C, r->x, r->C, &p, r->rows);
}
static void work_adamw(Bench *b, void *context) {
  Rows *r = (Rows *)context;
  AdamW a = {1e-6, 0.9, 0.95, 1e-8, 0.1, 1, 1, 42};
  AdamWTensor t = {};
  t.param = r->x;
  t.m = r->y;
  t.v = r->z;
  t.grad = r->f;
  t.dtype = t.moments = dt;
  t.n = r->n / 2;
  t.decay = true;
  t.id = 1;
  adamw_update(&b->dev, &t, 1, &a);
}
static void work_squares(Bench *b, void *context) {
  Rows *r = (Rows *)context;
  sum_of_squares(&b->dev, r->f, DT_FP32, r->n / 2);
}

static void bench_rows(Bench *b) {
  Rows r = {};
  r.C = 4096;
  r.FF = b->rehearse ? 512 : 14336;
  r.V = b->rehearse ? 8192 : 128256; /* n / V rows have one of the ids each */
  r.rows = b->rehearse ? 64 : 65536;
  r.n = r.rows * r.C;
  r.x = (char *)take(b, r.n * 2);
  r.y = (char *)take(b, r.n * 2);
  r.z = (char *)take(b, r.n * 2);
  r.f = (float *)take(b, r.n * 2);
  r.w = take(b, r.C * 2);
  r.ids = (int32_t *)take(b, r.rows * 4);
  fill_normal(&b->dev, r.x, dt, 1, 1, 1, 0, r.n);
  fill_normal(&b->dev, r.y, dt, 1, 1, 2, 0, r.n);
  fill_normal(&b->dev, r.w, dt, 1, 1, 3, 0, r.C);
  b->copy = (double)r.n * 4 / best_time(b, work_copy, &r);
  printf("{\"bench\": \"roofs\", \"product_tflops\": %.1f, \"copy_gb_per_s\": %.0f}\n", b->product * 1e-12,
         b->copy * 1e-9);
  double glu_elements = (double)(r.n / (2 * r.FF) * r.FF), q_and_k = 26.0 / 32.0; /* heads of work_rope */
  const struct {
    const char *name;
    Work work;
    double bytes; /* that have to be read and written, at least */
  } kernels[] = {{"rmsnorm forward", work_rmsnorm, 4.0 * (double)r.n},
                 {"rmsnorm backward", work_rmsnorm_backward, 8.0 * (double)r.n},
                 {"glu forward", work_glu, 6 * glu_elements},
                 {"glu backward", work_glu_backward, 10 * glu_elements},
                 {"cross-entropy with gradient", work_cross_entropy, 4.0 * (double)(r.n / r.V * r.V)},
                 {"rope", work_rope, 4 * q_and_k * (double)r.n},
                 {"adamw, bf16 moments", work_adamw, 16.0 * (double)(r.n / 2)},
                 {"sum of squares", work_squares, 4.0 * (double)(r.n / 2)}};
  for (const auto &k : kernels) {
    double rate = k.bytes / best_time(b, k.work, &r);
    printf("{\"bench\": \"row kernel\", \"name\": \"%s\", \"gb_per_s\": %.0f, \"of_copy\": %.3f}\n", k.name,
           rate * 1e-9, rate / b->copy);
  }
  char *buffers[] = {r.x, r.y, r.z, (char *)r.f};
  for (char *p : buffers) give(b, p, r.n * 2);
  give(b, r.w, r.C * 2);
  give(b, r.ids, r.rows * 4);
}

/* ---- the LM head ---- */

typedef struct HeadRun {
  LmHead head;
  HeadInside inside;
  float *losses;
  void *x;
  int32_t *targets;
  int64_t rows, chunk;
} HeadRun;

static void work_head(Bench *b, void *context) {
  HeadRun *h = (HeadRun *)context;
  head_forward_backward(&b->dev, dt, &h->head, h->losses, h->x, h->targets, h->rows, h->chunk, 1e-3f,
                        &h->inside);
}

static void bench_head(Bench *b) {
  HeadRun h = {};
  const int64_t C = b->rehearse ? 64 : 4096, V = b->rehearse ? 1000 : 128256, most = b->rehearse ? 64 : 16384;
  void *weight = take(b, V * C * 2), *norm = take(b, C * 2), *dnorm = take(b, C * 4),
       *dweight = take(b, V * C * 4);
  h.head.C = C;
  h.head.V = V;
  h.head.norm = Norm{norm, (float *)dnorm, 1e-5f};
  h.head.logits.in = C;
  h.head.logits.out = V;
  h.head.logits.weight = weight;
  h.head.logits.dweight = (float *)dweight;
  h.inside = HeadInside{take(b, most * C * 2), take(b, most * V * 2)};
  h.losses = (float *)take(b, most * 4);
  h.x = take(b, most * C * 2);
  h.targets = (int32_t *)take(b, most * 4);
  fill_normal(&b->dev, weight, dt, 0.02f, 1, 1, 0, V * C);
  fill_constant(&b->dev, norm, dt, 1, C);
  for (int64_t rows = most / 16; rows <= most; rows *= 2) {
    fill_normal(&b->dev, h.x, dt, 1, 1, 2, 0, rows * C);
    h.rows = h.chunk = rows;
    double rate = 6.0 * (double)rows * (double)C * (double)V / best_time(b, work_head, &h);
    printf("{\"bench\": \"LM head, forward and gradient\", \"rows\": %lld, \"tflops\": %.1f, \"of_product\": "
           "%.3f}\n",
           (long long)rows, rate * 1e-12, rate / b->product);
  }
  give(b, weight, V * C * 2);
  give(b, norm, C * 2);
  give(b, dnorm, C * 4);
  give(b, dweight, V * C * 4);
  give(b, h.inside.n, most * C * 2);
  give(b, h.inside.logits, most * V * 2);
  give(b, h.losses, most * 4);
  give(b, h.x, most * C * 2);
  give(b, h.targets, most * 4);
}

/* ---- whole steps ---- */

static const char llama[] = "llama3-8b";

/* A model of a preset's shape, with L layers (0 = its own number), run as RunShape says. */
typedef struct StepRun {
  Config config;
  Schedule *schedule;
  Model model;
  StepBatch step;
} StepRun;

static void open_step(Bench *b, StepRun *s, const char *preset, int64_t L, const RunShape *shape, bool open) {
  *s = StepRun{};
  CHECK(config_preset(&s->config, b->rehearse ? "demo" : preset), "no preset %s", preset);
  if (L > 0) s->config.L = L;
  Error e = {};
  schedule_prepare_attention(&s->config, shape, &b->dev, &e);
  s->schedule = schedule_new(&s->config, shape, &b->dev);
  if (!open) return;
  CHECK(model_open(&s->model, &s->config, s->schedule, &b->dev, false, &e), "%s", e.text);
  model_init(&s->model, 1);
  s->step = model_step_batch(&s->model, shape->A);
  int64_t rows = shape->A * schedule_rows(s->schedule);
  for (int64_t i = 0; i < rows; i++) {
    s->step.tokens[i] = (int32_t)(i * 7919 % s->config.V);
    s->step.targets[i] = (int32_t)((i + 1) * 7919 % s->config.V);
    s->step.positions[i] = (int32_t)(i % s->step.T);
    s->step.starts[i] = 0;
  }
  s->step.valid_targets = rows;
}
static void close_step(StepRun *s) {
  if (s->model.dev) model_close(&s->model);
  schedule_free(s->schedule);
  config_free(&s->config);
}

static void work_step(Bench *, void *context) {
  StepRun *s = (StepRun *)context;
  AdamW a = {1e-5, 0.9, 0.95, 1e-8, 0.1, 1, 1, 42};
  model_forward_backward(&s->model, &s->step, NULL);
  optimizer_update(&s->model, a, 1);
}

static RunShape step_shape(int64_t T, int64_t chunk, int64_t keep_attention) {
  RunShape shape = {};
  shape.A = shape.B = 1;
  shape.T = T;
  shape.dtype = shape.moments = dt;
  shape.recompute = RECOMPUTE_LAYER;
  shape.keep_attention = keep_attention;
  shape.checkpoint_every = 1;
  shape.mlp_chunk = shape.head_chunk = chunk;
  shape.training = true;
  return shape;
}

/* Whether its plan leaves a twentieth of the memory free. */
static bool step_fits(Bench *b, const char *preset, int64_t L, const RunShape *shape) {
  StepRun s;
  open_step(b, &s, preset, L, shape, false);
  int64_t bytes = plan_bytes(s.schedule->plan, SPACE_DEVICE);
  close_step(&s);
  return (double)bytes < 0.95 * (double)device_free_bytes(&b->dev);
}

/* The most layers of Llama 3 8B, up to 8. */
static int64_t layers_that_fit(Bench *b, const RunShape *shape) {
  int64_t L = b->rehearse ? 2 : 8;
  while (L > 1 && !step_fits(b, llama, L, shape)) L--;
  return L;
}

/* Time of a step; prints it. whole: the time to compare with, 0 = none. */
static double bench_step(Bench *b, const char *name, const char *preset, const RunShape *shape, int64_t L,
                         double whole) {
  static const char *const recompute[] = {"none", "mlp", "layer"};
  StepRun s;
  open_step(b, &s, preset, L, shape, true);
  int64_t sequences = shape->A * shape->B;
  double seconds = best_time(b, work_step, &s), flops = model_step_flops(&s.config, &s.step);
  printf("{\"bench\": \"%s\", \"model\": \"%s\", \"layers\": %lld, \"T\": %lld, \"batch\": %lld, "
         "\"micro_batches\": %lld, \"recompute\": \"%s\", \"mlp_rows\": %lld, \"head_rows\": %lld, "
         "\"keep_attention\": %lld, \"seconds\": %.4f, \"tokens_per_s\": %.0f, \"model_tflops\": %.1f, "
         "\"of_989\": %.4f, \"of_product\": %.4f, \"plan_bytes\": %lld",
         name, preset, (long long)s.config.L, (long long)shape->T, (long long)shape->B, (long long)shape->A,
         recompute[shape->recompute], (long long)schedule_mlp_rows(s.schedule),
         (long long)schedule_head_rows(s.schedule), (long long)shape->keep_attention, seconds,
         (double)(sequences * shape->T) / seconds, flops / seconds * 1e-12, flops / seconds / 989e12,
         flops / seconds / b->product, (long long)plan_bytes(s.schedule->plan, SPACE_DEVICE));
  if (whole > 0) printf(", \"of_whole\": %.4f", seconds / whole);
  printf("}\n");
  close_step(&s);
  return seconds;
}

static void bench_steps(Bench *b) {
  const int64_t lengths[] = {8192, 32768, 131072};
  for (int64_t T : lengths) {
    RunShape shape = step_shape(b->rehearse ? T / 512 : T, CHUNK_AUTO, T > 8192 ? KEEP_ALL : 0);
    bench_step(b, "step", llama, &shape, layers_that_fit(b, &shape), 0);
  }
}

/* Small models as the table of LLM.Q (github.com/IST-DASLab/llmq) has them on an H100: T = 1024, 2^19 tokens
 * a step, as little computed again as fits. There: 45 to 47 % and 55 to 57 % of the limit of the products. */
static void bench_small_models(Bench *b) {
  const struct {
    const char *preset;
    int64_t batch;
  } models[] = {{"qwen2.5-0.5b", 32}, {"qwen2.5-1.5b", 16}};
  for (const auto &m : models) {
    RunShape shape = step_shape(b->rehearse ? 64 : 1024, CHUNK_AUTO, 0);
    shape.B = b->rehearse ? 2 : m.batch;
    shape.A = b->rehearse ? 2 : ((int64_t)1 << 19) / (m.batch * shape.T);
    shape.recompute = RECOMPUTE_NONE;
    if (!step_fits(b, m.preset, 0, &shape)) shape.recompute = RECOMPUTE_MLP;
    if (!step_fits(b, m.preset, 0, &shape)) shape.recompute = RECOMPUTE_LAYER;
    bench_step(b, "small model", m.preset, &shape, 0, 0);
  }
}

/* What mini-sequences cost where they are not needed: a step with chunks against the same step without. */
static void bench_chunks(Bench *b) {
  for (int64_t T = 512; T <= 32768; T *= 4) {
    int64_t length = b->rehearse ? T / 128 : T;
    RunShape whole = step_shape(length, CHUNK_WHOLE, 0);
    int64_t L = layers_that_fit(b, &whole) < 2 ? 1 : 2;
    double seconds = bench_step(b, "mini-sequences", llama, &whole, L, 0);
    RunShape automatic = step_shape(length, CHUNK_AUTO, 0);
    bench_step(b, "mini-sequences", llama, &automatic, L, seconds);
    for (int64_t rows = 1024; rows < T; rows *= 4) {
      RunShape chunked = step_shape(length, b->rehearse ? rows / 128 : rows, 0);
      bench_step(b, "mini-sequences", llama, &chunked, L, seconds);
    }
  }
}

int main(int argc, char **argv) {
  Bench b = {};
  Error e = {};
  setvbuf(stdout, NULL, _IOLBF, 0); /* what was measured stays when the time is up */
  b.rehearse = argc > 1 && strcmp(argv[1], "--rehearse") == 0;
  const char *device = !b.rehearse ? "cuda" : argc > 2 ? argv[2] : "cpu";
  if (!device_open(&b.dev, device, 0, &e)) {
    fprintf(stderr, "gpu_bench: %s\n", e.text);
    return e.code;
  }
  size_t workspace = device_workspace_bytes(&b.dev, dt);
  b.product = matmul_measure_rate(&b.dev, dt, b.rehearse ? 0.01 : 2, NULL);
  b.dev.workspace = take(&b, (int64_t)workspace);
  b.dev.workspace_bytes = workspace;
  bench_rows(&b);
  bench_head(&b);
  give(&b, b.dev.workspace, (int64_t)workspace); /* models bring their own */
  b.dev.workspace = NULL;
  bench_steps(&b);
  bench_small_models(&b);
  bench_chunks(&b);
  device_close(&b.dev);
  return 0;
}
