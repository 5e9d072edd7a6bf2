/* What moves the weights: the learning rate, clipping, and training in bf16. */
extern "C" {
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
}
#include <math.h>
#include <stdio.h>

#include "device/group.cuh" // defines: bf16, value, store
#include "tiny_model.cuh"

static void assert_rate(const LrSchedule *s, int64_t step, double expected) {
  double found = learning_rate(s, step);
  if (!(fabs(found - expected) <= 1e-12 * fabs(s->lr)))
    fail_msg("kind %d, step %lld: %g, expected %g", s->kind, (long long)step, found, expected);
}

static void test_learning_rate(void **state) {
  (void)state;
  LrSchedule s = {LR_COSINE, 1.0, 0.1, 10, 110};
  const LrKind kinds[] = {LR_COSINE, LR_LINEAR, LR_CONSTANT, LR_WSD};
  for (int i = 0; i < 4; i++) { /* the warm-up is the same for all */
    s.kind = kinds[i];
    assert_rate(&s, 1, 0.1);
    assert_rate(&s, 10, 1.0);
  }
  s.kind = LR_COSINE;
  assert_rate(&s, 11, 1.0);
  assert_rate(&s, 61, 0.55); /* half-way */
  assert_rate(&s, 36, 0.1 + 0.9 * 0.5 * (1 + sqrt(0.5)));
  assert_rate(&s, 111, 0.1); /* would be the next */
  s.kind = LR_LINEAR;
  assert_rate(&s, 36, 0.775);
  assert_rate(&s, 110, 0.109);
  s.kind = LR_CONSTANT;
  assert_rate(&s, 110, 1.0);
  s.kind = LR_WSD; /* stable to step 88, then a line over the last 22 */
  assert_rate(&s, 88, 1.0);
  assert_rate(&s, 89, 1.0);
  assert_rate(&s, 100, 0.55);
  assert_rate(&s, 111, 0.1);
  s.warmup = 0; /* no warm-up: the first step is not 0 / 0 */
  s.kind = LR_CONSTANT;
  assert_rate(&s, 1, 1.0);
  s.min_lr = 0; /* a run of one step trains */
  s.steps = 1;
  s.kind = LR_COSINE;
  assert_rate(&s, 1, 1.0);
  s.warmup = 1;
  assert_rate(&s, 1, 1.0);
}

static const AdamW adamw = {1e-2, 0.9, 0.95, 1e-8, 0.1, 1, 1, 5};

/* Some updates on the same data; returns the last loss before its update. */
static double train(TinyModel *t, int64_t steps, double clip) {
  AdamW a = adamw;
  double loss = 0;
  for (a.step = 1; a.step <= steps; a.step++) {
    loss = model_forward_backward(&t->model, &t->step, NULL);
    optimizer_update(&t->model, a, clip);
  }
  return loss;
}

static RunShape small_shape(DType dtype, bool master, DType moments) {
  RunShape s = tiny_shape(1, 2, 32);
  s.dtype = dtype;
  s.master = master;
  s.moments = moments;
  return s;
}

/* All values of an arena buffer that the units have, as fp32. */
static float *unit_values(TinyModel *t, const BufferId *ids, DType dt, int64_t *n) {
  const ParamTable *table = &t->model.params;
  float *all = NULL;
  *n = 0;
  for (int64_t u = 0; u < params_units(table); u++) {
    int count;
    const ParamSpec *specs = params_of_unit(table, u, &count);
    const char *unit = (const char *)arena_get(&t->model.arena, ids[u]);
    for (int i = 0; i < count; i++) {
      int64_t elements = specs[i].rows * specs[i].cols;
      if (!elements) continue;
      all = (float *)realloc(all, (size_t)(*n + elements) * sizeof *all);
      size_t bytes = (size_t)elements * dtype_size(dt);
      void *from = malloc(bytes);
      device_copy(&t->dev, from, unit + (size_t)specs[i].offset * dtype_size(dt), bytes, COPY_FROM_DEVICE);
      for (int64_t j = 0; j < elements; j++)
        all[*n + j] = dt == DT_FP32 ? ((const float *)from)[j] : value(((const bf16 *)from)[j]);
      free(from);
      *n += elements;
    }
  }
  return all;
}

static double distance(const float *a, const float *b, int64_t n) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < n; i++) difference += pow((double)a[i] - b[i], 2), norm += pow(b[i], 2);
  return sqrt(difference / norm);
}

/* A gradient that is clipped to a hundredth moves the weights as the gradient times a hundredth does. */
static void test_clipping(void **state) {
  (void)state;
  TinyModel clipped, free_running;
  int64_t n;
  tiny_open(&clipped, tiny_config(false, false), small_shape(DT_FP32, false, DT_FP32));
  tiny_open(&free_running, tiny_config(false, false), small_shape(DT_FP32, false, DT_FP32));
  double a = train(&clipped, 1, 1e9), b = train(&free_running, 1, 0);
  assert_true(a == b);
  float *x = tiny_tensors(&clipped, TINY_WEIGHTS, &n), *y = tiny_tensors(&free_running, TINY_WEIGHTS, &n);
  assert_memory_equal(x, y, (size_t)n * sizeof *x); /* a clip beyond the norm does nothing */
  free(x);
  free(y);

  /* Adam's first step does not depend on the gradient's length, but its first moment does */
  AdamW second = adamw;
  second.step = 2;
  model_forward_backward(&clipped.model, &clipped.step, NULL);
  double norm = gradient_norm(&clipped.model);
  float *before = unit_values(&clipped, clipped.schedule->moment1, DT_FP32, &n);
  float *gradient = tiny_tensors(&clipped, TINY_GRADIENTS, &n);
  optimizer_update(&clipped.model, second, norm / 100);
  float *after = unit_values(&clipped, clipped.schedule->moment1, DT_FP32, &n);
  for (int64_t i = 0; i < n; i++) before[i] += (gradient[i] / 100 - before[i]) * 0.1f;
  assert_true(distance(after, before, n) < 1e-5); /* clip / (norm + 1e-6) is not quite a hundredth */
  free(before);
  free(gradient);
  free(after);
  tiny_close(&clipped);
  tiny_close(&free_running);
}

/* bf16 has 8 bits of mantissa: a value is off by 2^-9 = 2e-3 at most, and the few dozen of them that a
 * gradient passes through add up to some percent. */
static void test_bf16_gradient(void **state) {
  (void)state;
  TinyModel exact, rounded;
  int64_t n;
  tiny_open(&exact, tiny_config(false, true), small_shape(DT_FP32, false, DT_FP32));
  tiny_open(&rounded, tiny_config(false, true), small_shape(DT_BF16, false, DT_BF16));
  double loss = model_forward_backward(&exact.model, &exact.step, NULL);
  double other = model_forward_backward(&rounded.model, &rounded.step, NULL);
  assert_true(fabs(other - loss) < 1e-2 * loss);
  float *x = tiny_tensors(&rounded, TINY_GRADIENTS, &n), *y = tiny_tensors(&exact, TINY_GRADIENTS, &n);
  double d = distance(x, y, n);
  if (!(d > 1e-4 && d < 5e-2)) fail_msg("bf16 gradients differ from fp32 ones by %.2e", d);
  free(x);
  free(y);
  tiny_close(&exact);
  tiny_close(&rounded);
}

/* In bf16, too, storage and recomputation change no bit. */
static void test_bf16_modes_are_equal(void **state) {
  (void)state;
  float *first = NULL;
  const struct {
    Recompute recompute;
    int64_t every, keep;
  } modes[] = {
      {RECOMPUTE_NONE, 1, 0}, {RECOMPUTE_MLP, 1, 0}, {RECOMPUTE_LAYER, 1, 1}, {RECOMPUTE_LAYER, 3, 0}};
  for (int i = 0; i < 4; i++) {
    RunShape s = small_shape(DT_BF16, false, DT_BF16);
    s.recompute = modes[i].recompute;
    s.checkpoint_every = modes[i].every;
    s.keep_attention = modes[i].keep;
    s.mlp_chunk = s.head_chunk = 19;
    TinyModel t;
    int64_t n;
    tiny_open(&t, tiny_config(true, true), s);
    model_forward_backward(&t.model, &t.step, NULL);
    float *gradient = tiny_tensors(&t, TINY_GRADIENTS, &n);
    if (first) assert_memory_equal(gradient, first, (size_t)n * sizeof *first);
    tiny_close(&t);
    if (first)
      free(gradient);
    else
      first = gradient;
  }
  free(first);
}

/* With a master copy the weights are the master's, rounded to nearest. */
static void test_master_weights(void **state) {
  (void)state;
  TinyModel t;
  int64_t n;
  tiny_open(&t, tiny_config(false, false), small_shape(DT_BF16, true, DT_FP32));
  train(&t, 3, 1);
  float *weights = unit_values(&t, t.schedule->weights, DT_BF16, &n);
  float *master = unit_values(&t, t.schedule->master, DT_FP32, &n);
  int64_t between = 0;
  for (int64_t i = 0; i < n; i++) {
    bf16 nearest;
    store(&nearest, master[i]);
    assert_true(value(nearest) == weights[i]);
    between += weights[i] != master[i];
  }
  assert_true(between > n / 2); /* the master holds what bf16 cannot */
  free(weights);
  free(master);
  tiny_close(&t);
}

/* Every format learns the same data by heart. 60 steps take the fp32 loss from 4.6 to below 2; rounded
 * weights and moments may trail by a tenth of the way. */
static void test_formats_train(void **state) {
  (void)state;
  const struct {
    DType dtype;
    bool master;
    DType moments;
  } formats[] = {{DT_FP32, false, DT_FP32}, {DT_BF16, true, DT_FP32}, {DT_BF16, false, DT_FP32},
                 {DT_BF16, false, DT_BF16}, {DT_FP32, false, DT_U8},  {DT_BF16, false, DT_U8}};
  double first = 0, exact = 0;
  for (int i = 0; i < 6; i++) {
    TinyModel t;
    tiny_open(&t, tiny_config(false, false),
              small_shape(formats[i].dtype, formats[i].master, formats[i].moments));
    if (i == 0) first = model_evaluate(&t.model, &t.step) / (double)t.step.valid_targets;
    double loss = train(&t, 60, 1);
    if (i == 0) exact = loss;
    if (!(loss < 0.5 * first && loss < exact + 0.1 * (first - exact)))
      fail_msg("format %d: loss %g after 60 steps, fp32 %g, first %g", i, loss, exact, first);
    tiny_close(&t);
  }
}

/* With 8-bit moments the loss after a training differs from that with fp32 moments by less than two seeds do:
 * in the mean over seeds, by less than the deviation of one. */
static void test_8bit_moments_are_within_seed_noise(void **state) {
  (void)state;
  enum { SEEDS = 8 };
  double loss[2][SEEDS], mean[2] = {}, variance = 0;
  for (int eight = 0; eight < 2; eight++)
    for (int seed = 0; seed < SEEDS; seed++) {
      TinyModel t;
      tiny_open(&t, tiny_config(false, false), small_shape(DT_FP32, false, eight ? DT_U8 : DT_FP32));
      model_init(&t.model, (uint64_t)seed);
      loss[eight][seed] = train(&t, 60, 1);
      mean[eight] += loss[eight][seed] / SEEDS;
      tiny_close(&t);
    }
  for (int seed = 0; seed < SEEDS; seed++) variance += pow(loss[0][seed] - mean[0], 2) / (SEEDS - 1);
  if (!(fabs(mean[1] - mean[0]) < sqrt(variance)))
    fail_msg("mean loss %g with 8-bit moments, %g with fp32, deviation of a seed %g", mean[1], mean[0],
             sqrt(variance));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_learning_rate),
      cmocka_unit_test(test_clipping),
      cmocka_unit_test(test_bf16_gradient),
      cmocka_unit_test(test_bf16_modes_are_equal),
      cmocka_unit_test(test_master_weights),
      cmocka_unit_test(test_formats_train),
      cmocka_unit_test(test_8bit_moments_are_within_seed_noise),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
