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
#include <sys/wait.h>
#include <unistd.h>

#include "test/mirror.cuh" // defines: open_test_device, has_gpu

static void opens_the_cpu(void **) {
  Device dev;
  Error e = {};
  assert_true(device_open(&dev, "cpu", 0, &e));
  assert_true(dev.kind == DEVICE_CPU && dev.max_chunk_rows > 0);
  assert_int_equal(dev.threads, omp_get_max_threads());
  assert_true(strstr(dev.name, "thread") != NULL);
  device_close(&dev);
}

/* What opening the automatic device writes to stderr. */
static void open_auto(Device *dev, char *text, size_t size) {
  Error e = {};
  FILE *file = tmpfile();
  assert_non_null(file);
  int before = dup(STDERR_FILENO);
  assert_true(before >= 0 && dup2(fileno(file), STDERR_FILENO) >= 0);
  bool opened = device_open(dev, "auto", 0, &e);
  fflush(stderr);
  dup2(before, STDERR_FILENO);
  close(before);
  rewind(file);
  text[fread(text, 1, size - 1, file)] = 0;
  fclose(file);
  assert_true(opened);
}

/* A build with CUDA says in one line why there is no GPU; the other has nothing to say. */
static void takes_the_best_device(void **) {
  Device dev;
  char text[512];
  open_auto(&dev, text, sizeof text);
  if (has_gpu()) {
    assert_true(dev.kind == DEVICE_CUDA && dev.cuda && dev.stream && dev.max_chunk_rows > 0);
    assert_string_equal(text, "");
  } else {
    assert_true(dev.kind == DEVICE_CPU && !dev.cuda);
#ifdef __CUDACC__
    assert_int_equal(strncmp(text, "# on the CPU: found ", 20), 0);
    assert_true(strchr(text, '\n') == text + strlen(text) - 1);
#else
    assert_string_equal(text, "");
#endif
  }
  device_close(&dev);
}

static void says_why_there_is_no_gpu(void **) {
  if (has_gpu()) skip();
  Device dev;
  Error e = {};
  assert_false(device_open(&dev, "cuda", 0, &e));
  assert_int_equal(e.code, EXIT_USAGE);
#ifdef __CUDACC__
  if (!strstr(e.text, "--device cuda: found ") || !strstr(e.text, "driver")) fail_msg("%s", e.text);
#else
  assert_non_null(strstr(e.text, "--device cuda: this program was built without CUDA"));
#endif
  assert_non_null(strstr(e.text, "use --device cpu"));
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
  } cases[] = {{"gpu", 0, "gpu"}, {"", 0, "auto, cpu or cuda"}, {"cpu", -3, "-3"}};
  for (const auto &c : cases) {
    Device dev;
    Error e = {};
    assert_false(device_open(&dev, c.name, c.threads, &e));
    assert_int_equal(e.code, EXIT_USAGE);
    assert_non_null(strstr(e.text, c.expected));
  }
}

/* The bytes of device memory, to be freed. */
static unsigned char *download(Device *dev, const void *from, size_t bytes) {
  unsigned char *host = (unsigned char *)malloc(bytes ? bytes : 1);
  device_copy(dev, host, from, bytes, COPY_FROM_DEVICE);
  return host;
}

static void assert_all(Device *dev, const void *from, size_t bytes, unsigned char expected) {
  unsigned char *host = download(dev, from, bytes);
  for (size_t i = 0; i < bytes; i++) assert_true(host[i] == expected);
  free(host);
}

static void memory_is_zeroed_and_aligned(void **) {
  Device dev;
  Error e = {};
  open_test_device(&dev, 2);
  const size_t sizes[] = {0, 1, 257, ((size_t)9 << 20) + 3};
  for (size_t bytes : sizes) {
    unsigned char *a = (unsigned char *)device_alloc(&dev, bytes, &e);
    unsigned char *b = (unsigned char *)device_alloc(&dev, bytes, &e);
    unsigned char *host = (unsigned char *)host_alloc(&dev, bytes, &e);
    assert_true(a && b && host);
    assert_true((uintptr_t)a % 256 == 0 && (uintptr_t)b % 256 == 0 && (uintptr_t)host % 256 == 0);
    assert_all(&dev, a, bytes, 0);
    for (size_t i = 0; i < bytes; i++) assert_true(host[i] == 0);
    for (size_t i = 0; i < bytes; i++) host[i] = (unsigned char)(i * 31 + 1);
    device_copy(&dev, a, host, bytes, COPY_TO_DEVICE);
    device_copy(&dev, b, a, bytes, COPY_ON_DEVICE);
    unsigned char *found = download(&dev, b, bytes);
    assert_true(bytes == 0 || memcmp(found, host, bytes) == 0);
    free(found);
    if (bytes > 2) { /* what is around the range stays */
      device_fill(&dev, b + 1, 0xa5, bytes - 2);
      found = download(&dev, b, bytes);
      assert_true(found[0] == host[0] && found[bytes - 1] == host[bytes - 1]);
      assert_all(&dev, b + 1, bytes - 2, 0xa5);
      free(found);
    }
    device_free(&dev, a, bytes);
    device_free(&dev, b, bytes);
    host_free(&dev, host, bytes);
  }
  device_close(&dev);
}

/* Out to the host and back again, while the device's memory gets other contents in between: without the waits
 * one of the copies would see them. */
static void asynchronous_copies_keep_their_order(void **) {
  Device dev;
  Error e = {};
  open_test_device(&dev, 2);
  const size_t bytes = (size_t)16 << 20;
  void *a = device_alloc(&dev, bytes, &e), *host = host_alloc(&dev, bytes, &e);
  assert_true(a && host);
  for (int round = 0; round < 4; round++) {
    device_fill(&dev, a, 16 + round, bytes);
    device_copies_wait(&dev);
    device_copy_async(&dev, host, a, bytes, COPY_FROM_DEVICE);
    device_operations_wait(&dev);
    device_fill(&dev, a, 0xff, bytes);
    device_copies_wait(&dev);
    device_copy_async(&dev, a, host, bytes, COPY_TO_DEVICE);
    device_operations_wait(&dev);
    assert_all(&dev, a, bytes, (unsigned char)(16 + round));
  }
  device_synchronize(&dev);
  device_free(&dev, a, bytes);
  host_free(&dev, host, bytes);
  device_close(&dev);
}

/* A GPU that is lost ends the program at once, with what failed and where to go on from. */
static void a_lost_device_ends_the_program(void **) {
#ifdef __CUDACC__
  const char *advice[] = {"OUT/step-00000007 is the newest saved state.", NULL};
  for (const char *on_loss : advice) {
    char text[1024] = "";
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
      Device dev = {};
      dev.on_loss = on_loss;
      dup2(ends[1], STDERR_FILENO);
      cuda_check(&dev, "the gradient of a norm", cudaSuccess);
      cuda_check(&dev, "the gradient of the attention", cudaErrorLaunchFailure);
      _exit(0); /* not reached */
    }
    close(ends[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(read(ends[0], text, sizeof text - 1) > 0);
    close(ends[0]);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_RUNTIME);
    assert_non_null(
        strstr(text, "the GPU failed in the gradient of the attention, or in an operation before"));
    assert_non_null(strstr(text, cudaGetErrorString(cudaErrorLaunchFailure)));
    assert_non_null(strstr(text, on_loss ? on_loss : "Saved states are intact"));
  }
#else
  skip();
#endif
}

static void too_much_memory_is_an_error(void **) {
  Device dev;
  Error e = {};
  open_test_device(&dev, 1);
  size_t free_bytes = device_free_bytes(&dev);
  assert_true(free_bytes > (size_t)1 << 20);
  assert_null(device_alloc(&dev, (size_t)1 << 60, &e));
  assert_int_equal(e.code, EXIT_RUNTIME);
  assert_non_null(strstr(e.text, "1152921504.61 GB"));
  void *p = device_alloc(&dev, 100, &e); /* the device goes on */
  assert_non_null(p);
  device_free(&dev, p, 100);
  device_close(&dev);
}

/* Where the same bits are wanted, what there is to plan with does not depend on what others take. */
static void a_deterministic_device_counts_its_own_memory(void **) {
  Device dev;
  Error e = {};
  open_test_device(&dev, 1);
  dev.deterministic = true;
  size_t bytes = device_free_bytes(&dev);
  void *p = device_alloc(&dev, (size_t)64 << 20, &e);
  assert_non_null(p);
  device_fill(&dev, p, 1, (size_t)64 << 20);
  device_synchronize(&dev);
  assert_true(bytes > (size_t)1 << 28 && device_free_bytes(&dev) == bytes);
  device_free(&dev, p, (size_t)64 << 20);
  device_close(&dev);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(opens_the_cpu),
      cmocka_unit_test(takes_the_best_device),
      cmocka_unit_test(says_why_there_is_no_gpu),
      cmocka_unit_test(takes_the_threads_it_is_given),
      cmocka_unit_test(refuses_what_is_not_there),
      cmocka_unit_test(memory_is_zeroed_and_aligned),
      cmocka_unit_test(asynchronous_copies_keep_their_order),
      cmocka_unit_test(too_much_memory_is_an_error),
      cmocka_unit_test(a_lost_device_ends_the_program),
      cmocka_unit_test(a_deterministic_device_counts_its_own_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
