/* Vendor libraries: where they are looked for, and what is said when they are not there. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device/vendor_library.h"

typedef struct Table {
  int unused;
  int (*answer)(void);
} Table;
static const VendorFunction answer[] = {{"fake_answer", offsetof(Table, answer)}};
static const VendorFunction missing[] = {{"fake_answer", offsetof(Table, answer)},
                                         {"fake_question", offsetof(Table, answer)}};

static const char advice[] = "Install fakes, or use --device cpu.";
static char root[] = "/tmp/train_llama_vendor_XXXXXX";

static void run(const char *format, const char *a, const char *b) {
  char command[2048];
  snprintf(command, sizeof command, format, a, b);
  assert_int_equal(system(command), 0);
}

/* A library of one function in the folder, whose parents are made; what it answers tells it from others. */
static void make_library(const char *folder, const char *file, int value) {
  char path[512], source[64];
  snprintf(path, sizeof path, "%s/%s", root, folder);
  run("mkdir -p '%s'%s", path, "");
  snprintf(path, sizeof path, "%s/%s/%s", root, folder, file);
  snprintf(source, sizeof source, "int fake_answer(void) { return %d; }", value);
  run("echo '%s' | ${CC:-cc} -shared -fPIC -x c - -o '%s'", source, path);
}

static int setup(void **state) {
  (void)state;
  unsetenv("CUDA_PATH");
  unsetenv("CONDA_PREFIX");
  return mkdtemp(root) ? 0 : -1;
}
static int teardown(void **state) {
  (void)state;
  run("rm -r '%s'%s", root, "");
  return 0;
}

static void assert_answers(const char *file, int value) {
  Error e = {0};
  Table t = {0};
  void *library = vendor_library_open(file, advice, &e);
  if (!library || !vendor_library_bind(library, file, answer, 1, &t, advice, &e)) fail_msg("%s", e.text);
  assert_int_equal(t.answer(), value);
}

static void finds_what_pip_and_cuda_install(void **state) {
  (void)state;
  char path[512];
  make_library("venv/lib/python3.11/site-packages/nvidia/cu13/lib", "libfake_pip.so.13", 1);
  make_library("cuda/lib64", "libfake_cuda.so.13", 2);
  make_library("conda/lib", "libfake_conda.so.13", 3);
  snprintf(path, sizeof path, "%s/venv", root);
  setenv("VIRTUAL_ENV", path, 1);
  snprintf(path, sizeof path, "%s/cuda", root);
  setenv("CUDA_HOME", path, 1);
  snprintf(path, sizeof path, "%s/conda", root);
  setenv("CONDA_PREFIX", path, 1);
  assert_answers("libfake_pip.so.13", 1);
  assert_answers("libfake_cuda.so.13", 2);
  assert_answers("libfake_conda.so.13", 3);
}

static void prefers_cuda_to_pip(void **state) {
  (void)state;
  char path[512];
  make_library("venv/lib/python3.11/site-packages/nvidia/cublas/lib", "libfake_both.so.13", 4);
  make_library("cuda/lib64", "libfake_both.so.13", 5);
  snprintf(path, sizeof path, "%s/venv", root);
  setenv("VIRTUAL_ENV", path, 1);
  snprintf(path, sizeof path, "%s/cuda", root);
  setenv("CUDA_HOME", path, 1);
  assert_answers("libfake_both.so.13", 5);
}

static void lists_where_it_looked(void **state) {
  (void)state;
  Error e = {0};
  setenv("CUDA_HOME", "/nowhere/cuda", 1);
  setenv("VIRTUAL_ENV", "/nowhere/venv", 1);
  assert_null(vendor_library_open("libfake_nowhere.so.13", advice, &e));
  assert_int_equal(e.code, EXIT_USAGE);
  const char *expected[] = {"libfake_nowhere.so.13", "LD_LIBRARY_PATH",
                            "/nowhere/cuda/lib64",   "/nowhere/venv/lib/python3*/site-packages/nvidia/*/lib",
                            "/usr/local/cuda/lib64", "use --device cpu"};
  for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
    if (!strstr(e.text, expected[i])) fail_msg("no \"%s\" in:\n%s", expected[i], e.text);
}

/* A file that is there and cannot be opened is not passed over in silence. */
static void shows_what_cannot_be_opened(void **state) {
  (void)state;
  Error e = {0};
  char path[512];
  snprintf(path, sizeof path, "%s/broken", root);
  setenv("CUDA_HOME", path, 1);
  run("mkdir -p '%s/lib64' && echo text >'%s/lib64/libfake_broken.so.13'", path, path);
  assert_null(vendor_library_open("libfake_broken.so.13", advice, &e));
  assert_non_null(strstr(e.text, "/broken/lib64/libfake_broken.so.13: "));
}

static void names_a_function_that_is_missing(void **state) {
  (void)state;
  Error e = {0};
  Table t = {0};
  char path[512];
  make_library("cuda/lib64", "libfake_old.so.13", 6);
  snprintf(path, sizeof path, "%s/cuda", root);
  setenv("CUDA_HOME", path, 1);
  void *library = vendor_library_open("libfake_old.so.13", advice, &e);
  assert_non_null(library);
  assert_false(vendor_library_bind(library, "libfake_old.so.13", missing, 2, &t, advice, &e));
  assert_int_equal(e.code, EXIT_USAGE);
  assert_non_null(strstr(e.text, "libfake_old.so.13 has no function fake_question"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(finds_what_pip_and_cuda_install),
      cmocka_unit_test(prefers_cuda_to_pip),
      cmocka_unit_test(lists_where_it_looked),
      cmocka_unit_test(shows_what_cannot_be_opened),
      cmocka_unit_test(names_a_function_that_is_missing),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
