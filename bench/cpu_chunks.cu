/* What mini-sequences cost on the CPU: the MLP of a layer (forward, then forward again and backward) and the
 * LM head (forward and gradient), by chunks of some rows, against all rows at once. Both are computed in
 * turns, in an order that changes, since the speed of a machine drifts by more than what is looked for.
 * Prints one JSON object a line, with the seconds of every turn; bench/cpu_chunks.py makes a table of them.
 *
 *   cpu_chunks C FF V T TURNS SECONDS UNIT:ROWS...
 *
 * UNIT: mlp or head. Each takes about SECONDS, and at least TURNS turns. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mst_chunk.cuh" // defines: Mlp, mlp_forward, mlp_backward, LmHead, head_forward_backward
#include "ops/convert.h" // defines: fill_normal

typedef struct Bench {
  Device dev;
  int64_t C, FF, V, T;
  long turns;
  double seconds;
} Bench;

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A matrix of normal numbers with a standard deviation of std. It lives as long as the program. */
static float *normal(Bench *b, int64_t rows, int64_t columns, float std) {
  Error e = {};
  float *p = (float *)device_alloc(&b->dev, (size_t)(rows * columns) * sizeof(float), &e);
  CHECK(p, "%s", e.text);
  fill_normal(&b->dev, p, DT_FP32, std, 1, rows, 0, rows * columns);
  return p;
}
static Linear linear(Bench *b, const char *name, int64_t in, int64_t out) {
  return Linear{name, in, out, normal(b, out, in, 0.02f), NULL, normal(b, out, in, 0.f), NULL};
}

template <class Work> static double seconds_of(Work work) {
  double begin = seconds_now();
  work();
  return seconds_now() - begin;
}

/* work(rows of a chunk) */
template <class Work> static void compare(const Bench *b, const char *unit, int64_t rows, Work work) {
  double begin = seconds_now();
  work(b->T); /* touches memory for the first time */
  work(rows);
  printf("{\"unit\": \"%s\", \"T\": %lld, \"rows\": %lld, \"turns\": [", unit, (long long)b->T,
         (long long)rows);
  for (long i = 0; i < b->turns || i % 2 || seconds_now() - begin < b->seconds; i++) {
    double seconds[2]; /* whole, by chunks */
    int first = (int)(i % 2);
    seconds[first] = seconds_of([=] { work(first ? rows : b->T); });
    seconds[1 - first] = seconds_of([=] { work(first ? b->T : rows); });
    printf("%s[%.6f, %.6f]", i ? ", " : "", seconds[0], seconds[1]);
  }
  puts("]}");
  fflush(stdout);
}

static void bench_mlp(Bench *b, const int64_t *rows, int count) {
  int64_t C = b->C, FF = b->FF, T = b->T;
  Mlp mlp = {C, FF, ACT_SILU, {normal(b, 1, C, 1.f), normal(b, 1, C, 0.f), 1e-5f}, {}, {}};
  mlp.gate_up = linear(b, "gate up", C, 2 * FF);
  mlp.down = linear(b, "down", FF, C);
  MlpInside inside = {false, normal(b, T, C, 0.f), normal(b, T, 2 * FF, 0.f), normal(b, T, FF, 0.f)};
  float *x = normal(b, T, C, 1.f), *out = normal(b, T, C, 0.f), *gradient = normal(b, T, C, 1.f),
        *dx = normal(b, T, C, 0.f);
  for (int i = 0; i < count; i++)
    compare(b, "mlp", rows[i], [=](int64_t chunk) {
      device_copy(&b->dev, dx, gradient, (size_t)(T * C) * sizeof(float), COPY_ON_DEVICE);
      mlp_forward(&b->dev, DT_FP32, &mlp, out, x, T, chunk, &inside);
      mlp_backward(&b->dev, DT_FP32, &mlp, dx, x, T, chunk, &inside);
    });
}

static void bench_head(Bench *b, const int64_t *rows, int count) {
  int64_t C = b->C, V = b->V, T = b->T;
  LmHead head = {C, V, {normal(b, 1, C, 1.f), normal(b, 1, C, 0.f), 1e-5f}, linear(b, "head", C, V)};
  HeadInside inside = {normal(b, T, C, 0.f), normal(b, T, V, 0.f)};
  float *state = normal(b, T, C, 1.f), *x = normal(b, T, C, 0.f), *losses = normal(b, 1, T, 0.f);
  int32_t *targets = (int32_t *)normal(b, 1, T, 0.f);
  for (int64_t i = 0; i < T; i++) targets[i] = (int32_t)(i * 7919 % V);
  for (int i = 0; i < count; i++)
    compare(b, "head", rows[i], [=](int64_t chunk) {
      device_copy(&b->dev, x, state, (size_t)(T * C) * sizeof(float), COPY_ON_DEVICE);
      head_forward_backward(&b->dev, DT_FP32, &head, losses, x, targets, T, chunk, 1.f / (float)T, &inside);
    });
}

static const char usage[] = "expected cpu_chunks C FF V T TURNS SECONDS UNIT:ROWS..., UNIT: mlp or head";

int main(int argc, char **argv) {
  enum { FIRST = 7, MOST = 64 };
  Bench b = {};
  Error e = {};
  int64_t rows[2][MOST];
  int count[2] = {0, 0};
  bool right = argc > FIRST && argc - FIRST <= MOST;
  for (int i = FIRST; i < argc && right; i++) {
    bool head = strncmp(argv[i], "head:", 5) == 0;
    right = head || strncmp(argv[i], "mlp:", 4) == 0;
    if (right) rows[head][count[head]++] = atoll(strchr(argv[i], ':') + 1);
    right = right && rows[head][count[head] - 1] > 0;
  }
  if (!right) {
    fprintf(stderr, "cpu_chunks: %s\n", usage);
    return EXIT_USAGE;
  }
  b.C = atoll(argv[1]), b.FF = atoll(argv[2]), b.V = atoll(argv[3]), b.T = atoll(argv[4]);
  b.turns = atol(argv[5]), b.seconds = atof(argv[6]);
  if (!device_open(&b.dev, "cpu", 0, &e)) {
    fprintf(stderr, "cpu_chunks: %s\n", e.text);
    return e.code;
  }
  b.dev.workspace_bytes = device_workspace_bytes(&b.dev, DT_FP32);
  b.dev.workspace = normal(&b, 1, (int64_t)(b.dev.workspace_bytes / sizeof(float)), 0.f);
  if (count[0]) bench_mlp(&b, rows[0], count[0]);
  if (count[1]) bench_head(&b, rows[1], count[1]);
  b.dev.workspace = NULL;
  device_close(&b.dev);
  return 0;
}
