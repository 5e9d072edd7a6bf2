/* Generating: with the cache the logits are those of the whole text, greedy ids are those of transformers
 * (test/fixtures/greedy.json), a sample leaves the training as it was; and the draws. */
extern "C" {
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
}
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>

#include "io/file.h"
#include "io/hf_config.h"
#include "llama/hf_model.h"
#include "llama/sampler.h"
#include "tiny_model.cuh"

/* ---- the cache ---- */

enum { LENGTH = 150 }; /* of a text: more than twice GENERATE_ROWS */

static double relative_error(const float *x, const float *expected, int64_t n) {
  double error = 0, norm = 0;
  for (int64_t i = 0; i < n; i++) error += pow((double)x[i] - expected[i], 2), norm += pow(expected[i], 2);
  return sqrt(error / norm);
}

/* The logits after every token that a call ends with, and those of a pass over the whole text. `parts`:
 * tokens of each call; the last number is used for the rest. */
static void check_cache(Config config, RunShape shape, const int64_t *parts, int64_t count,
                        double tolerance) {
  TinyModel t;
  shape.text = LENGTH;
  tiny_open(&t, config, shape);
  int64_t V = t.config.V, calls = 0, ends[LENGTH];
  float *cached = (float *)malloc(LENGTH * (size_t)V * sizeof *cached);
  float *whole = (float *)malloc(LENGTH * (size_t)V * sizeof *whole);
  int32_t tokens[LENGTH];
  memcpy(tokens, t.step.tokens, sizeof tokens);
  for (int64_t at = 0, n; at < LENGTH; at += n) {
    n = parts[calls < count ? calls : count - 1];
    if (n > LENGTH - at) n = LENGTH - at;
    model_generate(&t.model, tokens + at, at, n, cached + calls * V);
    ends[calls++] = at + n;
  }
  model_logits(&t.model, tokens, LENGTH, LENGTH, whole);
  for (int64_t i = 0; i < calls; i++) {
    double error = relative_error(cached + i * V, whole + (ends[i] - 1) * V, V);
    if (!(error < tolerance))
      fail_msg("after %lld tokens the logits are off by %.1e", (long long)ends[i], error);
  }
  free(cached);
  free(whole);
  tiny_close(&t);
}

/* fp32 logits of these models differ by 1e-6 and less from those in double (test_oracle). */
static const double FP32_ERROR = 4e-6;

static void test_cached_logits(void **state) {
  (void)state;
  const int64_t ones[] = {1}, prompt[] = {7, 1}, chunks[] = {140, 1}, any[] = {64, 65, 3, 1};
  RunShape evaluating = tiny_shape(1, 1, LENGTH);
  evaluating.training = false;
  for (int tied = 0; tied < 2; tied++)
    for (int qk_norm = 0; qk_norm < 2; qk_norm++) {
      check_cache(tiny_config(tied, qk_norm), evaluating, ones, 1, FP32_ERROR);
      check_cache(tiny_config(tied, qk_norm), evaluating, prompt, 2, FP32_ERROR);
      check_cache(tiny_config(tied, qk_norm), evaluating, chunks, 2, FP32_ERROR);
      check_cache(tiny_config(tied, qk_norm), evaluating, any, 4, FP32_ERROR);
    }
  evaluating.dtype = DT_BF16; /* every rounding of the stream is one to 8 bits */
  check_cache(tiny_config(false, true), evaluating, any, 4, 5e-2);
}

/* In every mode of training there is a place for the text, whatever else lives or not. */
static void test_cached_logits_in_training(void **state) {
  (void)state;
  const int64_t any[] = {64, 65, 3, 1};
  for (int mode = 0; mode < 4; mode++) {
    RunShape s = tiny_shape(1, 2, LENGTH);
    s.recompute = mode == 1 ? RECOMPUTE_NONE : mode == 2 ? RECOMPUTE_MLP : RECOMPUTE_LAYER;
    s.update = mode == 3 ? UPDATE_LAYER : UPDATE_STEP;
    check_cache(tiny_config(mode % 2, false), s, any, 4, FP32_ERROR);
  }
}

static void test_samples_change_no_training(void **state) {
  (void)state;
  const AdamW adamw = {1e-2, 0.9, 0.95, 1e-8, 0.1, 1, 1, 5};
  for (int layer = 0; layer < 2; layer++) {
    float *weights[2];
    int64_t n = 0;
    for (int samples = 0; samples < 2; samples++) {
      TinyModel t;
      RunShape s = tiny_shape(1, 2, 32);
      s.update = layer ? UPDATE_LAYER : UPDATE_STEP;
      s.text = samples ? 20 : 0;
      tiny_open(&t, tiny_config(true, true), s);
      AdamW a = adamw;
      for (a.step = 1; a.step <= 3; a.step++) {
        tiny_data(&t.step, t.config.V); /* the loader would fill in the step */
        model_forward_backward(&t.model, &t.step, &a);
        if (!layer) optimizer_update(&t.model, a, 1);
        float logits[128];
        const int32_t tokens[] = {1, 2, 3};
        for (int64_t at = 0; samples && at < 20; at += 2)
          model_generate(&t.model, tokens + at % 2, at, 2, logits);
      }
      weights[samples] = tiny_tensors(&t, TINY_WEIGHTS, &n);
      tiny_close(&t);
    }
    assert_memory_equal(weights[0], weights[1], (size_t)n * sizeof(float));
    free(weights[0]);
    free(weights[1]);
  }
}

/* The plan has the cache in it: keys and values of every token and layer in the run's type, and a longer text
 * takes that much more and nothing else. */
static void test_planned_bytes(void **state) {
  (void)state;
  Device dev;
  open_test_device(&dev, 0);
  Config c = tiny_config(false, false);
  const DType types[] = {DT_FP32, DT_BF16};
  for (DType dt : types) {
    int64_t bytes[2];
    for (int i = 0; i < 2; i++) {
      RunShape shape = tiny_shape(1, 1, 64);
      shape.training = false;
      shape.dtype = dt;
      shape.text = i ? 2 << 20 : 1 << 20;
      Schedule *s = schedule_new(&c, &shape, &dev);
      bytes[i] = plan_peak(s->plan, SPACE_DEVICE, NULL);
      schedule_free(s);
    }
    int64_t cache = 2 * c.L * c.NKV * c.HS * (int64_t)dtype_size(dt) << 20;
    assert_int_equal(bytes[1] - bytes[0], cache);
  }
  config_free(&c);
  device_close(&dev);
}

/* ---- against transformers ---- */

static int64_t ids_of(const cJSON *list, int32_t *ids, int64_t most) {
  int64_t n = 0;
  const cJSON *item;
  cJSON_ArrayForEach(item, list) {
    assert_true(n < most);
    ids[n++] = item->valueint;
  }
  return n;
}

static void check_greedy(const char *name, const cJSON *expected) {
  enum { MOST = 64 };
  int32_t prompt[MOST], ids[MOST];
  int64_t n = ids_of(cJSON_GetObjectItem(expected, "prompt"), prompt, MOST);
  int64_t count = ids_of(cJSON_GetObjectItem(expected, "new"), ids, MOST);
  char path[256];
  snprintf(path, sizeof path, "test/fixtures/%s", name);
  Error e = {};
  Config c;
  Device dev;
  Model m;
  CHECK(hf_config_read(&c, path, &e), "%s", e.text);
  open_test_device(&dev, 0);
  RunShape shape = tiny_shape(1, 1, n);
  shape.training = false;
  shape.text = n + count;
  Schedule *s = schedule_new(&c, &shape, &dev);
  SafeTensors *weights = safetensors_open(path, &e);
  bool ok = weights && model_open(&m, &c, s, &dev, true, &e) && hf_model_load(&m, weights, &e);
  CHECK(ok, "%s", e.text);
  float *logits = (float *)malloc((size_t)c.V * sizeof *logits);
  Sampler sampler = sampler_open(0, 0, 1, 1, c.V);
  model_generate(&m, prompt, 0, n, logits);
  for (int64_t i = 0; i < count; i++) {
    int32_t next = sampler_draw(&sampler, logits);
    if (next != ids[i]) fail_msg("%s: new token %lld is %d, expected %d", name, (long long)i, next, ids[i]);
    model_generate(&m, &next, n + i, 1, logits);
  }
  sampler_close(&sampler);
  free(logits);
  safetensors_close(weights);
  model_close(&m);
  schedule_free(s);
  device_close(&dev);
  config_free(&c);
}

static void test_greedy(void **state) {
  (void)state;
  Error e = {};
  char *text = file_read_text("test/fixtures/greedy.json", 1 << 20, NULL, &e);
  CHECK(text, "%s", e.text);
  cJSON *json = cJSON_Parse(text);
  free(text);
  int models = 0;
  const cJSON *item;
  cJSON_ArrayForEach(item, cJSON_GetObjectItem(json, "ids")) check_greedy(item->string, item), models++;
  assert_int_equal(models, 14);
  cJSON_Delete(json);
}

/* ---- the draws ---- */

enum { TOKENS = 6, DRAWS = 20000 };
/* In no order; tokens 1 and 4 are equal. */
static const float LOGITS[TOKENS] = {0.5f, 2.0f, -1.0f, 1.0f, 2.0f, -30.0f};

/* Draws many tokens and compares how often each came with `p`, to five standard deviations. */
static void check_draws(double temperature, int64_t top_k, double top_p, const double p[TOKENS]) {
  int64_t count[TOKENS] = {};
  Sampler s = sampler_open(temperature, top_k, top_p, 11, TOKENS);
  for (int64_t i = 0; i < DRAWS; i++) count[sampler_draw(&s, LOGITS)]++;
  sampler_close(&s);
  for (int i = 0; i < TOKENS; i++) {
    double expected = p[i] * DRAWS, deviation = sqrt(DRAWS * p[i] * (1 - p[i]));
    if (!(fabs((double)count[i] - expected) <= 5 * deviation))
      fail_msg("temperature %g, top-k %lld, top-p %g: token %d came %lld times, expected %.0f", temperature,
               (long long)top_k, top_p, i, (long long)count[i], expected);
  }
}

/* p of the tokens in `kept`, the others 0, by the definition. */
static void expect_draws(double temperature, int64_t top_k, double top_p, const char *kept) {
  double p[TOKENS] = {}, sum = 0;
  for (int i = 0; i < TOKENS; i++)
    if (kept[i] == 'x') sum += p[i] = exp((double)LOGITS[i] / temperature);
  for (double &x : p) x /= sum;
  check_draws(temperature, top_k, top_p, p);
}

static void test_draws(void **state) {
  (void)state;
  expect_draws(1, 0, 1, "xxxxxx");
  expect_draws(2.5, 0, 1, "xxxxxx");
  expect_draws(0.3, 0, 1, "xxxxxx");
  expect_draws(1, 1, 1, ".x...."); /* of equal logits the lower id */
  expect_draws(1, 2, 1, ".x..x.");
  expect_draws(1, 4, 1, "xx.xx.");
  expect_draws(1, 100, 1, "xxxxxx");
  /* probabilities 0.09, 0.38, 0.02, 0.14, 0.38, 0.00 */
  expect_draws(1, 0, 1e-9, ".x....");
  expect_draws(1, 0, 0.37, ".x....");
  expect_draws(1, 0, 0.39, ".x..x.");
  expect_draws(1, 0, 0.8, ".x.xx.");
  expect_draws(1, 0, 0.95, "xx.xx.");
  expect_draws(1, 3, 0.8, ".x..x."); /* after top-k: 0.42, 0.42, 0.16 */
  const double first[TOKENS] = {0, 1, 0, 0, 0, 0};
  check_draws(0, 5, 0.5, first);
}

static void test_draws_of_a_seed(void **state) {
  (void)state;
  Sampler a = sampler_open(1, 0, 1, 1, TOKENS), b = sampler_open(1, 0, 1, 1, TOKENS);
  Sampler c = sampler_open(1, 0, 1, 2, TOKENS);
  int differ = 0;
  for (int i = 0; i < 100; i++) {
    int32_t x = sampler_draw(&a, LOGITS);
    assert_int_equal(x, sampler_draw(&b, LOGITS));
    differ += x != sampler_draw(&c, LOGITS);
  }
  assert_true(differ > 30);
  const float broken[TOKENS] = {NAN, NAN, NAN, NAN, NAN, NAN}; /* some token, and no crash */
  int32_t any = sampler_draw(&a, broken);
  assert_true(any >= 0 && any < TOKENS);
  sampler_close(&a);
  sampler_close(&b);
  sampler_close(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cached_logits),
      cmocka_unit_test(test_cached_logits_in_training),
      cmocka_unit_test(test_samples_change_no_training),
      cmocka_unit_test(test_planned_bytes),
      cmocka_unit_test(test_greedy),
      cmocka_unit_test(test_draws),
      cmocka_unit_test(test_draws_of_a_seed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
