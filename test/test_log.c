/* The step lines and log.jsonl. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/json_out.h"
#include "io/log.h"

/* A folder of its own, and what was printed for people. */
typedef struct Fixture {
  char dir[64];
  char path[128];
  char *text;
  size_t bytes;
  FILE *terminal;
} Fixture;

static int setup(void **state) {
  Fixture *f = calloc(1, sizeof *f);
  strcpy(f->dir, "/tmp/test_log_XXXXXX");
  if (!mkdtemp(f->dir)) return -1;
  snprintf(f->path, sizeof f->path, "%s/log.jsonl", f->dir);
  f->terminal = open_memstream(&f->text, &f->bytes);
  *state = f;
  return 0;
}

static int teardown(void **state) {
  Fixture *f = *state;
  fclose(f->terminal);
  free(f->text);
  unlink(f->path);
  rmdir(f->dir);
  free(f);
  return 0;
}

/* Line i (from 0) of log.jsonl as JSON, or NULL past the last. */
static cJSON *json_line(const char *path, int i) {
  FILE *file = fopen(path, "r");
  assert_non_null(file);
  char line[4096];
  bool found = false;
  for (int at = 0; !found && fgets(line, sizeof line, file); at++) found = at == i;
  fclose(file);
  if (!found) return NULL;
  assert_int_equal(line[strlen(line) - 1], '\n');
  cJSON *root = cJSON_Parse(line);
  assert_non_null(root);
  return root;
}

static double number(const cJSON *root, const char *name) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, name);
  assert_true(cJSON_IsNumber(item));
  return item->valuedouble;
}

static const LogStep example = {
    .step = 12,
    .loss = 2.3456f,
    .grad_norm = 1.2344f,
    .lr = 3e-4,
    .tokens = 24576,
    .step_ms = 123.4,
    .tokens_per_s = 16599.7,
    .mfu = 0.412,
    .device_bytes = 5000000000,
    .host_bytes = 7,
};

static void step_line(void **state) {
  Fixture *f = *state;
  Log log;
  Error e;
  assert_true(log_open(&log, NULL, f->terminal, 400, 400, 1, 0, &e));
  assert_true(log_step(&log, &example, &e)); /* remaining: 388 steps of 123.4 ms = 47.9 s */
  LogStep slow = example;
  slow.step = 13; /* the mean is now this step's time: 387 * 65.4321 s = 25322 s */
  slow.step_ms = 65432.1;
  slow.tokens_per_s = 987.6;
  slow.mfu = NAN;
  slow.evaluated = true;
  slow.val_loss = 2.2222f; /* exp = 9.2276 */
  assert_true(log_step(&log, &slow, &e));
  LogStep fast = example;
  fast.step = 14; /* the mean moves by a tenth: 386 * (0.9 * 65.4321 s + 0.1 * 0.1234 s) = 22736 s */
  assert_true(log_step(&log, &fast, &e));
  log_close(&log);
  assert_string_equal(
      f->text, "step    12/400 | loss 2.3456 | norm  1.234 | lr 3.00e-04 |   123.4 ms |   16.6k tok/s |"
               " MFU 41.2 % | ETA 0:48\n"
               "step    13/400 | loss 2.3456 | norm  1.234 | lr 3.00e-04 |   65.43 s  |  987.6  tok/s |"
               " ETA 7:02:02\n"
               "eval    13/400 | val loss 2.2222 | ppl 9.23\n"
               "step    14/400 | loss 2.3456 | norm  1.234 | lr 3.00e-04 |   123.4 ms |   16.6k tok/s |"
               " MFU 41.2 % | ETA 6:18:56\n");
}

static void lines_are_thinned(void **state) {
  Fixture *f = *state;
  Log log;
  Error e;
  assert_true(log_open(&log, f->dir, f->terminal, 50, 25, 10, 0, &e));
  for (int i = 1; i <= 25; i++) {
    LogStep s = example;
    s.step = i;
    assert_true(log_step(&log, &s, &e));
  }
  log_close(&log);
  int printed = 0;
  for (const char *line = f->text; *line; line += strcspn(line, "\n") + 1) printed++;
  assert_int_equal(printed, 4); /* 1, 10, 20, 25 */
  assert_non_null(strstr(f->text, "step    25/50 |"));
  assert_non_null(strstr(f->text, "ETA 0:00\n"));
  cJSON *last = json_line(f->path, 24);
  assert_true(number(last, "step") == 25);
  cJSON_Delete(last);
  assert_null(json_line(f->path, 25));
}

static void json_reads_back_exactly(void **state) {
  Fixture *f = *state;
  Log log;
  Error e;
  LogStep s = example;
  s.loss = 1.0f / 3.0f;
  s.grad_norm = 1.17549435e-38f;
  s.lr = 1.0 / 3.0;
  s.tokens = (int64_t)1 << 52;
  s.evaluated = true;
  s.val_loss = 3.1415927f;
  assert_true(log_open(&log, f->dir, f->terminal, 400, 400, 1, 0, &e));
  assert_true(log_evaluation(&log, 0, 5.5f, &e));
  assert_true(log_step(&log, &s, &e));
  cJSON *line = json_line(f->path, 0); /* before the log is closed: every line is flushed */
  assert_int_equal(cJSON_GetArraySize(line), 3);
  assert_true(number(line, "step") == 0);
  assert_true((float)number(line, "val_loss") == 5.5f);
  assert_true(number(line, "val_ppl") == exp(5.5));
  cJSON_Delete(line);

  line = json_line(f->path, 1);
  assert_int_equal(cJSON_GetArraySize(line), 14);
  assert_true(number(line, "step") == 12);
  assert_true((float)number(line, "loss") == s.loss);
  assert_true((float)number(line, "grad_norm") == s.grad_norm);
  assert_true(number(line, "lr") == s.lr);
  assert_true(number(line, "tokens") == 4503599627370496.0);
  assert_true(number(line, "step_ms") == s.step_ms);
  assert_true(number(line, "tokens_per_s") == s.tokens_per_s);
  assert_true(number(line, "mfu") == s.mfu);
  assert_true(number(line, "device_bytes") == 5e9);
  assert_true(number(line, "host_bytes") == 7);
  assert_true((float)number(line, "val_loss") == s.val_loss);
  assert_true(number(line, "val_ppl") == exp((double)s.val_loss));
  cJSON_Delete(line);
  log_close(&log);
}

static void not_finite_is_null(void **state) {
  Fixture *f = *state;
  Log log;
  Error e;
  LogStep s = example;
  s.loss = NAN;
  s.grad_norm = INFINITY;
  s.mfu = NAN;
  s.evaluated = true;
  s.val_loss = 1e30f; /* finite, its exp is not */
  assert_true(log_open(&log, f->dir, f->terminal, 400, 400, 1, 0, &e));
  assert_true(log_step(&log, &s, &e));
  log_close(&log);
  cJSON *line = json_line(f->path, 0);
  static const char *const names[] = {"loss", "grad_norm", "mfu", "val_ppl"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(line, names[i])));
  assert_true((float)number(line, "val_loss") == 1e30f);
  cJSON_Delete(line);
}

static void folder_that_cannot_be_written(void **state) {
  Fixture *f = *state;
  Log log;
  Error e = {0};
  char missing[128];
  snprintf(missing, sizeof missing, "%s/none", f->dir);
  assert_false(log_open(&log, missing, f->terminal, 1, 1, 1, 0, &e));
  assert_int_equal(e.code, EXIT_USAGE);
  assert_non_null(strstr(e.text, missing));
  assert_non_null(strstr(e.text, "--out"));
}

/* A full disk must not pass unnoticed. */
static void full_disk(void **state) {
  Fixture *f = *state;
  Log log;
  Error e = {0};
  if (access("/dev/full", W_OK) != 0 || symlink("/dev/full", f->path) != 0) skip();
  assert_true(log_open(&log, f->dir, f->terminal, 400, 400, 1, 0, &e));
  assert_false(log_step(&log, &example, &e));
  assert_int_equal(e.code, EXIT_RUNTIME);
  assert_non_null(strstr(e.text, f->path));
  log_close(&log);
}

/* What a killed program left: lines of steps that are done again, and half a line. Going on, they are
 * dropped, and the windows of the z-scores are what they would have been without the kill. */
static void goes_on_after_a_step(void **state) {
  Fixture *f = *state;
  Log whole, cut;
  Error e;
  float z = 0;
  assert_true(log_open(&whole, f->dir, f->terminal, 400, 400, 1, 0, &e));
  for (int i = 1; i <= 40; i++) {
    LogStep s = example;
    s.step = i;
    s.loss = 2.0f + 0.1f * (float)(i % 7) / 3.0f;
    assert_true(log_step(&whole, &s, &e));
  }
  log_close(&whole);
  cJSON *line = json_line(f->path, 39);
  z = (float)number(line, "loss_z");
  assert_true(isfinite(z));
  cJSON_Delete(line);
  FILE *half = fopen(f->path, "a");
  fputs("{\"step\": 41, \"los", half);
  fclose(half);

  assert_true(log_open(&cut, f->dir, f->terminal, 400, 400, 1, 39, &e));
  assert_null(json_line(f->path, 39));
  LogStep s = example;
  s.step = 40;
  s.loss = 2.0f + 0.1f * (float)(40 % 7) / 3.0f;
  assert_true(log_step(&cut, &s, &e));
  log_close(&cut);
  line = json_line(f->path, 39);
  assert_true(number(line, "step") == 40 && (float)number(line, "loss_z") == z);
  cJSON_Delete(line);
}

static void outliers_are_marked(void **state) {
  Fixture *f = *state;
  Log log;
  Error e;
  assert_true(log_open(&log, f->dir, f->terminal, 400, 400, 1000, 0, &e));
  for (int i = 1; i <= 30; i++) {
    LogStep s = example;
    s.step = i;
    s.loss = i == 20 ? 9.0f : 2.0f + 0.01f * (float)(i % 5);
    s.skipped = i == 25;
    if (s.skipped) s.loss = NAN;
    assert_true(log_step(&log, &s, &e));
  }
  log_close(&log);
  assert_null(strstr(f->text, "step    19/400"));
  const char *marked = strstr(f->text, "step    20/400");
  assert_non_null(marked);
  assert_non_null(strstr(marked, "OUTLIER loss z +"));
  assert_non_null(strstr(f->text, "SKIPPED"));
  for (int i = 1; i <= 30; i++) {
    cJSON *line = json_line(f->path, i - 1);
    assert_true(cJSON_IsNumber(cJSON_GetObjectItem(line, "loss_z")) == (i > OUTLIER_LEAST && i != 25));
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(line, "outlier")) == (i == 20));
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(line, "skipped")) == (i == 25));
    cJSON_Delete(line);
  }
}

static void json_strings(void **state) {
  Fixture *f = *state;
  static const struct {
    const char *in, *out;
  } cases[] = {
      {NULL, "null"},
      {"", "\"\""},
      {"a\"\\\n\x01", "\"a\\\"\\\\\\u000a\\u0001\""},
      {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80",
       "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\""},             /* 2, 3, 4 bytes */
      {"\xc3", "\"\\ufffd\""},                                  /* cut off */
      {"\xc0\xaf", "\"\\ufffd\\ufffd\""},                       /* overlong */
      {"\xe0\x80\x80", "\"\\ufffd\\ufffd\\ufffd\""},            /* overlong */
      {"\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\""},            /* surrogate */
      {"\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\""}, /* beyond U+10FFFF */
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    rewind(f->terminal);
    json_string(f->terminal, cases[i].in);
    fputc('\0', f->terminal);
    fflush(f->terminal);
    assert_string_equal(f->text, cases[i].out);
  }
}

int main(void) {
#define LOG_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
  const struct CMUnitTest tests[] = {
      LOG_TEST(step_line),
      LOG_TEST(lines_are_thinned),
      LOG_TEST(json_reads_back_exactly),
      LOG_TEST(not_finite_is_null),
      LOG_TEST(folder_that_cannot_be_written),
      LOG_TEST(full_disk),
      LOG_TEST(goes_on_after_a_step),
      LOG_TEST(outliers_are_marked),
      LOG_TEST(json_strings),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
