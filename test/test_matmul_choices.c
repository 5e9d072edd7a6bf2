/* Algorithms of products that were chosen by time: which one is taken, and how they are written and read. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "ops/matmul_tune.h"

static const char gpu[] = "NVIDIA H100 80GB HBM3, 132 multiprocessors, 85.0 GB";
enum { VERSION_13 = 130100 };

static MatmulChoice choice(int64_t M) {
  MatmulChoice c = {.key = {.M = M,
                            .N = (int64_t)1 << 40,
                            .K = 3,
                            .ld_out = 4,
                            .ld_a = 5,
                            .ld_b = 6,
                            .workspace_bytes = 7,
                            .in = DT_BF16,
                            .out = DT_FP32,
                            .transpose_b = 1,
                            .align_out = 256,
                            .align_a = 128,
                            .align_b = 16,
                            .deterministic = 1},
                    .algorithm = {1, UINT64_MAX, 0, 0x123456789abcdef0, 5, 6, 7, (uint64_t)M},
                    .seconds = 1e-3,
                    .first_seconds = 2e-3};
  return c;
}

static MatmulChoices some(void) {
  MatmulChoices c = {0};
  for (int64_t M = 1; M <= 40; M++) {
    MatmulChoice x = choice(M);
    matmul_choices_put(&c, &x);
  }
  return c;
}

static void takes_the_fastest(void **state) {
  (void)state;
  const struct {
    double seconds[4];
    int count, expected;
  } cases[] = {
      {{1, 2, 3}, 3, 0},
      {{3, 1, 2}, 3, 1},
      {{3, 2, 1}, 3, 2},
      {{1, 0.99, 0.985}, 3, 0}, /* no more than measurements differ by */
      {{1, 0.99, 0.97}, 3, 2},
      {{-1, 2, 1}, 3, 2},
      {{-1, 1, 0.999}, 3, 2},
      {{1, -1, -1}, 3, 0},
      {{-1, -1, -1, -1}, 4, -1},
      {{1}, 1, 0},
      {{-1}, 1, -1},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_int_equal(matmul_choices_fastest(cases[i].seconds, cases[i].count), cases[i].expected);
}

static void finds_what_was_put(void **state) {
  (void)state;
  MatmulChoices c = some();
  MatmulChoice x = choice(7), other = choice(41), changed = choice(7);
  assert_int_equal(c.count, 40);
  const MatmulChoice *found = matmul_choices_find(&c, &x.key);
  assert_non_null(found);
  assert_int_equal(found->algorithm[7], 7);
  assert_null(matmul_choices_find(&c, &other.key));
  other = choice(7), other.key.deterministic = 0; /* of a run that may take others */
  assert_null(matmul_choices_find(&c, &other.key));
  changed.algorithm[7] = 77;
  matmul_choices_put(&c, &changed);
  assert_int_equal(c.count, 40);
  assert_int_equal(matmul_choices_find(&c, &x.key)->algorithm[7], 77);
  matmul_choices_free(&c);
}

static void text_keeps_everything(void **state) {
  (void)state;
  MatmulChoices c = some(), read = {0};
  Error e = {0};
  char *text = matmul_choices_text(&c, VERSION_13, gpu);
  if (!matmul_choices_read(&read, text, VERSION_13, gpu, &e)) fail_msg("%s", e.text);
  assert_int_equal(read.count, c.count);
  for (int i = 0; i < c.count; i++) {
    assert_memory_equal(&read.list[i].key, &c.list[i].key, sizeof c.list[i].key);
    assert_memory_equal(read.list[i].algorithm, c.list[i].algorithm, sizeof c.list[i].algorithm);
    assert_true(read.list[i].seconds == c.list[i].seconds);
    assert_true(read.list[i].first_seconds == c.list[i].first_seconds);
  }
  char *again = matmul_choices_text(&read, VERSION_13, gpu);
  assert_string_equal(text, again);
  free(again);
  free(text);
  matmul_choices_free(&read);
  matmul_choices_free(&c);
}

static void assert_refused(const char *text, const char *reason) {
  MatmulChoices c = {0};
  Error e = {0};
  bool ok = matmul_choices_read(&c, text, VERSION_13, gpu, &e);
  if (ok || !strstr(e.text, reason)) fail_msg("expected \"%s\", found \"%s\"", reason, e.text);
  assert_int_equal(e.code, EXIT_USAGE);
  assert_null(c.list);
}

/* Of another library, another GPU, or damaged: no byte of it is trusted. */
static void refuses_what_is_not_its_own(void **state) {
  (void)state;
  MatmulChoices c = some(), read = {0};
  Error e = {0};
  char *text = matmul_choices_text(&c, VERSION_13, gpu);
  assert_false(matmul_choices_read(&read, text, VERSION_13 + 1, gpu, &e));
  assert_string_equal(e.text, "line 2: found \"cublasLt 130100\", expected \"cublasLt 130101\"");
  assert_false(matmul_choices_read(&read, text, VERSION_13, "NVIDIA A100", &e));
  assert_non_null(strstr(e.text, "line 3: found \"device NVIDIA H100"));
  assert_refused("", "line 1: found \"\"");
  assert_refused("{}\n", "line 1: found \"{}\"");
  assert_refused("train_llama products 1", "line 2: found the end");
  assert_refused("train_llama products 1\ncublasLt 130100", "line 3: found the end");

  /* a line that is cut short or changed is refused, but for other digits in its two times */
  char *line = strstr(text, "GB\n") + 3, *end = line + strcspn(line, "\n"), *times = end;
  for (int blanks = 0; blanks < 2;) blanks += *--times == ' ';
  char *copy = strdup(text);
  for (char *at = line; at < end; at++) {
    for (const char *with = "x- \n"; at < times && *with; with++) {
      copy[at - text] = *with;
      if (*at != *with) assert_refused(copy, "line ");
    }
    copy[at - text] = '\0';
    if (at > line && at <= times + 1) assert_refused(copy, "line 4: found \"1");
    copy[at - text] = *at;
  }
  free(copy);
  free(text);
  matmul_choices_free(&c);
}

/* What the device is told is what it tells; the CPU has nothing to tell. */
static void a_device_keeps_them(void **state) {
  (void)state;
  Device dev = {.kind = DEVICE_CUDA, .products_version = VERSION_13}, cpu = {.kind = DEVICE_CPU};
  Error e = {0};
  strcpy(dev.name, gpu);
  assert_null(matmul_tune_text(&dev));
  MatmulChoices c = some();
  char *text = matmul_choices_text(&c, VERSION_13, gpu);
  assert_true(matmul_tune_read(&dev, text, &e));
  char *told = matmul_tune_text(&dev);
  assert_string_equal(told, text);
  matmul_tune(&dev, 8);
  assert_int_equal(matmul_tuning(&dev)->candidates, 8);
  dev.products_version++;
  assert_false(matmul_tune_read(&dev, text, &e));
  assert_int_equal(matmul_tuning(&dev)->choices.count, 40);
  assert_true(matmul_tune_read(&cpu, text, &e));
  matmul_tune(&cpu, 8);
  assert_null(matmul_tune_text(&cpu));
  assert_null(cpu.extra[EXTRA_TUNING].data);
  dev.extra[EXTRA_TUNING].close(dev.extra[EXTRA_TUNING].data);
  free(told);
  free(text);
  matmul_choices_free(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(takes_the_fastest),     cmocka_unit_test(finds_what_was_put),
      cmocka_unit_test(text_keeps_everything), cmocka_unit_test(refuses_what_is_not_its_own),
      cmocka_unit_test(a_device_keeps_them),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
