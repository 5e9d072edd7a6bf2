/* Against Hugging Face transformers and torch.optim.AdamW in float64: the fixtures of test/oracle. */
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
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/file.h"
#include "io/hf_config.h"
#include "llama/hf_model.h"
#include "llama/optimizer.h"
#include "test/mirror.cuh" // defines: open_test_device

/* L2 errors against float64, as multiples of what transformers in fp32 is off by (oracle.json, error_fp32):
 * sums in other orders have other luck. Below the floor, a few roundings of fp32, luck is all there is. */
static const double TIMES_FP32 = 4, ERROR_FLOOR = 2e-6, LOSS_TOLERANCE = 2e-6;
/* Of the change of a weight in ten steps. The conditioning of AdamW gives up to 2e-3 (update_noise); a
 * missing clip moves the worst tensor by more than 5e-2, decay of norms by more than 2e-1 (sensitivity). */
static const double UPDATE_TOLERANCE = 5e-3;
/* A gradient is measured against the larger of its own norm and this part of the global one. */
static const double FLOOR = 1e-4;

typedef struct Fixture {
  char dir[256];
  cJSON *json;
  SafeTensors *oracle, *weights;
  Config config;
  Device dev;
  Schedule *schedule;
  Model model;
} Fixture;

static double number(const cJSON *json, const char *key) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
  CHECK(item, "the fixture has no %s", key);
  return cJSON_IsBool(item) ? cJSON_IsTrue(item) : item->valuedouble;
}

static const SafeTensor *expected(const Fixture *f, const char *prefix, const char *name) {
  char full[256];
  snprintf(full, sizeof full, "%s%s", prefix, name);
  const SafeTensor *t = safetensors_find(f->oracle, full);
  CHECK(t && t->dtype == DT_FP32, "%s has no %s", f->dir, full);
  return t;
}

static float element(const SafeTensor *t, int64_t i) {
  float x;
  memcpy(&x, (const char *)t->data + (size_t)i * sizeof x, sizeof x);
  return x;
}

static void open_fixture(Fixture *f, const char *name, Recompute recompute, int64_t every, int64_t chunk) {
  Error e = {};
  memset(f, 0, sizeof *f);
  snprintf(f->dir, sizeof f->dir, "test/fixtures/%s", name);
  char path[512];
  snprintf(path, sizeof path, "%s/oracle.json", f->dir);
  char *text = file_read_text(path, 1 << 24, NULL, &e);
  CHECK(text, "%s", e.text);
  f->json = cJSON_Parse(text);
  free(text);
  snprintf(path, sizeof path, "%s/oracle.safetensors", f->dir);
  f->oracle = safetensors_open(path, &e);
  CHECK(f->oracle, "%s", e.text);
  CHECK(hf_config_read(&f->config, f->dir, &e), "%s", e.text);
  open_test_device(&f->dev, 0);
  RunShape shape = {};
  shape.A = (int64_t)number(f->json, "A");
  shape.B = (int64_t)number(f->json, "B");
  shape.T = (int64_t)number(f->json, "T");
  shape.recompute = recompute;
  shape.checkpoint_every = every;
  shape.mlp_chunk = shape.head_chunk = chunk;
  shape.training = true;
  f->schedule = schedule_new(&f->config, &shape, &f->dev);
  CHECK(model_open(&f->model, &f->config, f->schedule, &f->dev, true, &e), "%s", e.text);
  f->weights = safetensors_open(f->dir, &e);
  CHECK(f->weights && hf_model_load(&f->model, f->weights, &e), "%s", e.text);
}

static void close_fixture(Fixture *f) {
  model_close(&f->model);
  schedule_free(f->schedule);
  device_close(&f->dev);
  config_free(&f->config);
  safetensors_close(f->weights);
  safetensors_close(f->oracle);
  cJSON_Delete(f->json);
}

static StepBatch batch_of_step(Fixture *f, int64_t s) {
  StepBatch step = model_step_batch(&f->model, f->schedule->shape.A);
  const SafeTensor *ids = expected(f, "", "input_ids"), *labels = expected(f, "", "labels");
  int64_t n = step.A * step.B * step.T;
  step.valid_targets = 0;
  for (int64_t i = 0; i < n; i++) {
    step.tokens[i] = (int32_t)element(ids, s * n + i);
    step.targets[i] = (int32_t)element(labels, s * n + i);
    step.positions[i] = (int32_t)(i % step.T);
    step.starts[i] = 0;
    step.valid_targets += step.targets[i] >= 0;
  }
  return step;
}

static void check_config(const Fixture *f) {
  const Config *c = &f->config;
  const cJSON *m = cJSON_GetObjectItemCaseSensitive(f->json, "model");
  assert_string_equal(c->family, cJSON_GetObjectItemCaseSensitive(m, "family")->valuestring);
  const struct {
    const char *key;
    int64_t value;
  } integers[] = {{"C", c->C},
                  {"L", c->L},
                  {"NH", c->NH},
                  {"NKV", c->NKV},
                  {"HS", c->HS},
                  {"FF", c->FF},
                  {"V", c->V},
                  {"max_T", c->max_T},
                  {"tied", c->tied},
                  {"qkv_bias", c->qkv_bias},
                  {"o_bias", c->o_bias},
                  {"mlp_bias", c->mlp_bias},
                  {"qk_norm", c->qk_norm}};
  for (size_t i = 0; i < sizeof integers / sizeof *integers; i++)
    if (integers[i].value != (int64_t)number(m, integers[i].key))
      fail_msg("%s: %s is %lld, expected %g", f->dir, integers[i].key, (long long)integers[i].value,
               number(m, integers[i].key));
  assert_true(c->norm_eps == number(m, "norm_eps"));
  const cJSON *windows = cJSON_GetObjectItemCaseSensitive(m, "windows");
  for (int l = 0; l < (int)c->L; l++)
    assert_int_equal(c->layers[l].window, cJSON_GetArrayItem(windows, l)->valuedouble);

  const SafeTensor *inv_freq = expected(f, "", "inv_freq");
  float found[256], scale;
  assert_int_equal(inv_freq->shape[0], c->HS / 2);
  rope_frequencies(&c->rope, c->HS, c->max_T, found, &scale);
  assert_true(fabs(scale - number(m, "attention_scale")) <= 1e-6);
  for (int64_t i = 0; i < c->HS / 2; i++) /* two fp32 roundings */
    assert_true(fabsf(found[i] - element(inv_freq, i)) <= 2.4e-7f * element(inv_freq, i));
}

/* What an fp32 result may be off by, given the error of transformers in fp32. */
static double tolerance_of(const cJSON *errors, const char *name) {
  return fmax(ERROR_FLOOR, TIMES_FP32 * number(errors, name));
}

static void check_logits(Fixture *f) {
  StepBatch step = batch_of_step(f, 0);
  const SafeTensor *logits = expected(f, "", "logits");
  int64_t T = step.T, V = f->config.V,
          rows = schedule_head_rows(f->schedule) < T ? schedule_head_rows(f->schedule) : T;
  double difference = 0, norm = 0;
  float *found = (float *)malloc((size_t)(rows * V) * sizeof *found);
  int32_t *tokens = (int32_t *)malloc((size_t)(step.B * T) * sizeof *tokens);
  memcpy(tokens, step.tokens, (size_t)(step.B * T) * sizeof *tokens);
  for (int64_t b = 0; b < step.B; b++) {
    model_logits(&f->model, tokens + b * T, T, rows, found);
    for (int64_t i = 0; i < rows * V; i++) {
      double x = element(logits, (b * T + T - rows) * V + i);
      difference += pow(found[i] - x, 2);
      norm += x * x;
    }
  }
  free(found);
  free(tokens);
  double error = sqrt(difference / norm);
  if (!(error <= tolerance_of(cJSON_GetObjectItemCaseSensitive(f->json, "error_fp32"), "logits")))
    fail_msg("%s: logits are off by %.2e", f->dir, error);
}

/* Calls check() for every Hugging Face tensor with its values of now, its name, and its place. */
typedef void (*CheckTensor)(const Fixture *f, const char *name, const float *values, int64_t n);
static void each_tensor(Fixture *f, bool gradients, CheckTensor check) {
  const ParamTable *table = &f->model.params;
  for (int64_t u = 0; u < params_units(table); u++) {
    int count;
    const ParamSpec *specs = params_of_unit(table, u, &count);
    for (int i = 0; i < count; i++)
      for (int s = 0; s < specs[i].slice_count && specs[i].rows; s++) {
        const HfSlice *slice = &specs[i].slices[s];
        char name[128];
        const float *all = gradients ? model_gradient(&f->model, u, &specs[i])
                                     : (const float *)model_weight(&f->model, u, &specs[i]);
        int64_t n = slice->rows * specs[i].cols;
        float *values = (float *)malloc((size_t)n * sizeof *values);
        device_copy(&f->dev, values, all + slice->row * specs[i].cols, (size_t)n * sizeof *values,
                    COPY_FROM_DEVICE);
        check(f, params_hf_name(name, slice, u), values, n);
        free(values);
      }
  }
}

static void check_gradient(const Fixture *f, const char *name, const float *values, int64_t n) {
  const SafeTensor *t = expected(f, "grad.", name);
  assert_int_equal(t->bytes, n * (int64_t)sizeof(float));
  double difference = 0, norm = 0, floor = FLOOR * element(expected(f, "", "grad_norm"), 0);
  for (int64_t i = 0; i < n; i++) {
    double x = element(t, i);
    difference += pow(values[i] - x, 2);
    norm += x * x;
    if (x == 0 && strstr(name, "embed_tokens") && !f->config.tied) assert_true(values[i] == 0);
  }
  double error = sqrt(difference) / fmax(sqrt(norm), floor);
  const cJSON *errors = cJSON_GetObjectItemCaseSensitive(f->json, "error_fp32");
  if (!(error <= tolerance_of(cJSON_GetObjectItemCaseSensitive(errors, "grad"), name)))
    fail_msg("%s: gradient of %s is off by %.2e", f->dir, name, error);
}

static void check_update(const Fixture *f, const char *name, const float *values, int64_t n) {
  const SafeTensor *after = expected(f, "weight.", name), *before = safetensors_find(f->weights, name);
  float *initial = (float *)malloc((size_t)n * sizeof *initial);
  safetensors_to_fp32(initial, before->data, before->dtype, n);
  double difference = 0, change = 0;
  for (int64_t i = 0; i < n; i++) {
    difference += pow(values[i] - element(after, i), 2);
    change += pow(element(after, i) - initial[i], 2);
  }
  free(initial);
  double error = sqrt(difference / change);
  if (!(error <= UPDATE_TOLERANCE)) fail_msg("%s: ten updates of %s are off by %.2e", f->dir, name, error);
}

static void check_relative(const Fixture *f, const char *what, int64_t s, double found, double wanted) {
  double error = fabs(found - wanted) / wanted;
  /* after some steps the weights differ by UPDATE_TOLERANCE of their change, which moves loss and norm less
   */
  double tolerance = s == 0 ? LOSS_TOLERANCE : UPDATE_TOLERANCE / 10;
  if (!(error <= tolerance))
    fail_msg("%s: %s of step %lld is off by %.2e", f->dir, what, (long long)s, error);
}

static void train_and_check(Fixture *f) {
  const cJSON *settings = cJSON_GetObjectItemCaseSensitive(f->json, "adamw");
  AdamW a = {};
  a.lr = number(settings, "lr");
  a.beta1 = number(settings, "beta1");
  a.beta2 = number(settings, "beta2");
  a.eps = number(settings, "eps");
  a.weight_decay = number(settings, "weight_decay");
  int64_t steps = (int64_t)number(f->json, "steps");
  for (int64_t s = 0; s < steps; s++) {
    StepBatch step = batch_of_step(f, s);
    double loss = model_forward_backward(&f->model, &step, NULL);
    check_relative(f, "loss", s, loss, element(expected(f, "", "loss"), s));
    check_relative(f, "gradient norm", s, gradient_norm(&f->model), element(expected(f, "", "grad_norm"), s));
    if (s == 0) each_tensor(f, true, check_gradient);
    a.step = s + 1;
    optimizer_update(&f->model, a, number(settings, "clip"));
  }
  each_tensor(f, false, check_update);
}

/* What is saved is what was loaded: the same config, and fp32 weights that hold the stored ones exactly. */
static void check_save(Fixture *f) {
  Error e = {};
  char dir[] = "/tmp/train_llama_oracle_XXXXXX", path[128];
  assert_non_null(mkdtemp(dir));
  snprintf(path, sizeof path, "%s/model.safetensors", dir);
  if (!hf_config_write(&f->config, DT_FP32, dir, &e) || !hf_model_save(&f->model, path, NULL, &e))
    fail_msg("%s", e.text);
  Config again = {};
  if (!hf_config_read(&again, dir, &e)) fail_msg("%s", e.text);
  assert_int_equal(config_parameters(&again), config_parameters(&f->config));
  assert_memory_equal(&again.rope, &f->config.rope, sizeof again.rope);
  for (int64_t l = 0; l < again.L; l++) assert_int_equal(again.layers[l].window, f->config.layers[l].window);
  SafeTensors *saved = safetensors_open(dir, &e);
  if (!saved) fail_msg("%s", e.text);
  for (int64_t i = 0; i < safetensors_count(f->weights); i++) {
    const SafeTensor *was = safetensors_at(f->weights, i), *is = safetensors_find(saved, was->name);
    if (!is) fail_msg("%s was not saved", was->name);
    int64_t n = (int64_t)(was->bytes / dtype_size(was->dtype));
    float *x = (float *)malloc((size_t)n * sizeof *x);
    safetensors_to_fp32(x, was->data, was->dtype, n);
    assert_int_equal(is->bytes, n * (int64_t)sizeof *x);
    assert_memory_equal(x, is->data, is->bytes);
    free(x);
  }
  safetensors_close(saved);
  config_free(&again);
  unlink(path);
  snprintf(path, sizeof path, "%s/config.json", dir);
  unlink(path);
  rmdir(dir);
}

static void test_fixture(void **state) {
  Fixture f;
  open_fixture(&f, (const char *)*state, RECOMPUTE_NONE, 1, CHUNK_WHOLE);
  check_config(&f);
  check_logits(&f);
  check_save(&f);
  train_and_check(&f);
  close_fixture(&f);
  open_fixture(&f, (const char *)*state, RECOMPUTE_LAYER, 2, 9);
  check_logits(&f);
  train_and_check(&f);
  close_fixture(&f);
}

int main(void) {
  static const char *const names[] = {
      "llama2",       "llama3",       "llama3.1",   "llama3.2",           "mistral",
      "mistral-nemo", "qwen2",        "qwen3",      "qwen2-window",       "qwen2.5-yarn",
      "llama-bias",   "llama-linear", "llama-yarn", "llama-yarn-explicit"};
  enum { COUNT = sizeof names / sizeof *names };
  struct CMUnitTest tests[COUNT] = {};
  for (int i = 0; i < COUNT; i++) {
    tests[i].name = names[i];
    tests[i].test_func = test_fixture;
    tests[i].initial_state = (void *)names[i];
  }
  return cmocka_run_group_tests(tests, NULL, NULL);
}
