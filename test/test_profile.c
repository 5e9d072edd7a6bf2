/* The profile: what it counts, what it leaves out, and what --profile prints and writes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/profile.h"
#include "ops/linear.h"
#include "program.h"

static cJSON *json_of(const Device *dev) {
  char text[4096];
  FILE *f = fmemopen(text, sizeof text, "w");
  profile_json(f, dev, (ProfileRoofs){1e9, 1e9, 1e9});
  fclose(f);
  cJSON *json = cJSON_Parse(text);
  assert_non_null(json);
  return json;
}

static double number(const cJSON *json, const char *name) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, name);
  assert_true(cJSON_IsNumber(item));
  return item->valuedouble;
}

/* The operation of that name and part; NULL when there is none. */
static const cJSON *operation(const cJSON *json, const char *name, const char *part) {
  const cJSON *all = cJSON_GetObjectItemCaseSensitive(json, "operations"), *o;
  cJSON_ArrayForEach(o, all) {
    if (strcmp(cJSON_GetObjectItemCaseSensitive(o, "name")->valuestring, name) == 0 &&
        strcmp(cJSON_GetObjectItemCaseSensitive(o, "part")->valuestring, part) == 0)
      return o;
  }
  return NULL;
}

static void record(Device *dev, const char *name, const char *part, double flops) {
  double begin = profile_begin(dev);
  profile_end(dev, begin, name, part, flops, 0);
}

static void test_counts(void **state) {
  (void)state;
  Device dev;
  Error e;
  assert_true(device_open(&dev, "cpu", 1, &e));
  record(&dev, "before", "", 1); /* no profile: nothing happens */
  profile_open(&dev);
  record(&dev, "before", "", 1); /* outside of a step */
  profile_step_begin(&dev);
  record(&dev, "first", "", 100);
  profile_step_end(&dev, 9);
  cJSON *json = json_of(&dev); /* a single step counts while there is no other */
  assert_float_equal(number(json, "step_s"), 9, 1e-6);
  assert_float_equal(number(operation(json, "first", ""), "flops"), 100, 0);
  cJSON_Delete(json);

  const double seconds[] = {3, 1};
  for (int i = 0; i < 2; i++) {
    profile_step_begin(&dev);
    double begin = profile_begin(&dev);
    record(&dev, "inside", "", 7);
    profile_end(&dev, begin, "outside", "a", 10, 0);
    record(&dev, "outside", "b", 20);
    record(&dev, "outside", "b", 20);
    profile_step_end(&dev, seconds[i]);
    record(&dev, "between", "", 1);
  }
  json = json_of(&dev);
  assert_null(operation(json, "before", ""));
  assert_null(operation(json, "first", ""));
  assert_null(operation(json, "inside", ""));
  assert_null(operation(json, "between", ""));
  assert_float_equal(number(operation(json, "outside", "a"), "flops"), 10, 0);
  assert_float_equal(number(operation(json, "outside", "b"), "flops"), 40, 0);
  assert_float_equal(number(operation(json, "outside", "b"), "calls"), 2, 0);
  assert_float_equal(number(json, "steps"), 2, 0);
  assert_float_equal(number(json, "first_step_s"), 9, 1e-6);
  assert_float_equal(number(json, "step_s"), 2, 1e-6);
  assert_float_equal(number(json, "best_step_s"), 1, 1e-6);
  assert_float_equal(number(json, "product_flops"), 50, 0);
  cJSON_Delete(json);
  assert_true(profile_copy_rate(&dev, 0) > 1e8);
  device_close(&dev);
}

static void test_times(void **state) {
  (void)state;
  Device dev;
  Error e;
  assert_true(device_open(&dev, "cpu", 1, &e));
  profile_open(&dev);
  enum { ROWS = 64, IN = 96, OUT = 80 };
  static float x[ROWS * IN], y[ROWS * OUT], w[OUT * IN], dw[OUT * IN];
  Linear l = {.name = "product", .in = IN, .out = OUT, .weight = w, .dweight = dw};
  profile_step_begin(&dev);
  linear_forward(&dev, DT_FP32, &l, y, x, ROWS, NULL);
  linear_backward_input(&dev, DT_FP32, &l, x, y, ROWS);
  linear_backward_weight(&dev, DT_FP32, &l, y, x, ROWS);
  profile_step_end(&dev, 1);
  cJSON *json = json_of(&dev);
  static const char *const parts[] = {"forward", "dx", "dweight"};
  for (int i = 0; i < 3; i++) {
    const cJSON *o = operation(json, "product", parts[i]);
    assert_non_null(o);
    assert_float_equal(number(o, "flops"), 2.0 * ROWS * IN * OUT, 0);
    assert_true(number(o, "seconds") > 0 && number(o, "seconds") < 1);
  }
  cJSON_Delete(json);
  device_close(&dev);
}

/* The operations of a step take its time, and its products what a step of this model has to compute. */
static void test_program(void **state) {
  (void)state;
  expect(0, "outside of operations",
         "--seq-len 32 --batch 2 --eval-batches 1 --steps 2 --warmup 1 --profile");
  assert_non_null(strstr(said, "attention backward"));
  expect(0, "\"operations\"",
         "--seq-len 32 --batch 2 --eval-batches 1 --steps 3 --warmup 1 --recompute none --profile --json "
         "--out @/run 2>/dev/null");
  assert_true(exists("run/profile.json"));
  size_t bytes;
  Error e;
  char *text = file_read_text(path_of("run/profile.json"), 1 << 20, &bytes, &e);
  assert_non_null(text);
  cJSON *json = cJSON_Parse(text);
  assert_non_null(json);
  assert_float_equal(number(json, "steps"), 2, 0);
  double sum = number(json, "outside_s");
  const cJSON *o;
  cJSON_ArrayForEach(o, cJSON_GetObjectItemCaseSensitive(json, "operations")) sum += number(o, "seconds");
  assert_true(fabs(sum - number(json, "step_s")) < 1e-4);
  const cJSON *head = operation(json, "head", "forward"), *run = operation(json, "head", "dweight");
  assert_non_null(head);
  assert_non_null(run);
  assert_float_equal(number(head, "flops"), number(run, "flops"), 0);
  assert_true(number(operation(json, "attention", "backward"), "flops") ==
              2.5 * number(operation(json, "attention", "forward"), "flops"));
  cJSON_Delete(json);
  free(text);
  expect(EXIT_USAGE, "--profile", "--profile --eval-only");
  expect(EXIT_USAGE, "--profile", "--profile --plan");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_counts),
      cmocka_unit_test(test_times),
      cmocka_unit_test(test_program),
  };
  return cmocka_run_group_tests(tests, program_setup, program_teardown);
}
