/* The device: how it opens, and its memory. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "device/device.h"

static void opens_the_cpu(void **) {
  const char *names[] = {"auto", "cpu"};
  for (const char *name : names) {
    Device dev;
    Error e = {};
    assert_true(device_open(&dev, name, 0, &e));
    assert_true(dev.kind == DEVICE_CPU && dev.max_chunk_rows > 0);
    assert_int_equal(dev.threads, omp_get_max_threads());
    assert_true(strstr(dev.name, "thread") != NULL);
    device_close(&dev);
  }
}

static void takes_the_threads_it_is_given(void **) {
  int before = omp_get_max_threads();
  for (int threads = 1; threads <= 3; threads++) {
    Device dev;
    Error e = {};
    assert_true(device_open(&dev, "cpu", threads, &e));
    assert_int_equal(dev.threads, threads);
    assert_int_equal(omp_get_max_threads(), threads);
    device_close(&dev);
  }
  omp_set_num_threads(before);
}

static void refuses_what_is_not_there(void **) {
  const struct {
    const char *name;
    int threads;
    const char *expected;
  } cases[] = {
      {"cuda", 0, "use --device cpu"}, {"gpu", 0, "gpu"}, {"", 0, "auto, cpu or cuda"}, {"cpu", -3, "-3"}};
  for (const auto &c : cases) {
    Device dev;
    Error e = {};
    assert_false(device_open(&dev, c.name, c.threads, &e));
    assert_int_equal(e.code, EXIT_USAGE);
    assert_non_null(strstr(e.text, c.expected));
  }
}

static void memory_is_zeroed_and_aligned(void **) {
  Device dev;
  Error e = {};
  assert_true(device_open(&dev, "cpu", 2, &e));
  const size_t sizes[] = {0, 1, 257, ((size_t)9 << 20) + 3};
  for (size_t bytes : sizes) {
    unsigned char *a = (unsigned char *)device_alloc(&dev, bytes, &e);
    unsigned char *b = (unsigned char *)device_alloc(&dev, bytes, &e);
    assert_true(a && b && (uintptr_t)a % 256 == 0 && (uintptr_t)b % 256 == 0);
    for (size_t i = 0; i < bytes; i++) assert_true(a[i] == 0);
    for (size_t i = 0; i < bytes; i++) a[i] = (unsigned char)(i * 31 + 1);
    device_copy(&dev, b, a, bytes, COPY_ON_DEVICE);
    assert_true(bytes == 0 || memcmp(a, b, bytes) == 0);
    if (bytes > 2) { /* what is around the range stays */
      device_fill(&dev, b + 1, 0xa5, bytes - 2);
      assert_true(b[0] == a[0] && b[bytes - 1] == a[bytes - 1]);
      for (size_t i = 1; i < bytes - 1; i++) assert_true(b[i] == 0xa5);
    }
    device_free(&dev, a, bytes);
    device_free(&dev, b, bytes);
    unsigned char *host = (unsigned char *)host_alloc(bytes, &e);
    assert_true(host && (uintptr_t)host % 256 == 0);
    for (size_t i = 0; i < bytes; i++) assert_true(host[i] == 0);
    host_free(host, bytes);
  }
  device_close(&dev);
}

static void too_much_memory_is_an_error(void **) {
  Device dev;
  Error e = {};
  assert_true(device_open(&dev, "cpu", 1, &e));
  size_t free_bytes = device_free_bytes(&dev);
  assert_true(free_bytes > (size_t)1 << 20);
  assert_null(device_alloc(&dev, (size_t)1 << 60, &e));
  assert_int_equal(e.code, EXIT_RUNTIME);
  assert_non_null(strstr(e.text, "1152921504.61 GB"));
  device_close(&dev);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(opens_the_cpu),
      cmocka_unit_test(takes_the_threads_it_is_given),
      cmocka_unit_test(refuses_what_is_not_there),
      cmocka_unit_test(memory_is_zeroed_and_aligned),
      cmocka_unit_test(too_much_memory_is_an_error),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
