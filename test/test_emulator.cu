/* The emulated GPU finds what it is there to find. Each mistake is made in a process of its own, since after
 * most of them the device is lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include <cmocka.h>
}

#include "mirror.cuh" // defines: is_emulated

#ifdef __CUDACC__
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 64 };

/* ---- kernels, some of them wrong ---- */

/* Each thread hands its number to thread `id ^ with`. */
template <int WITH, int BARRIER> __global__ void exchange_kernel(float *x) {
  __shared__ float shared[THREADS];
  shared[threadIdx.x] = (float)threadIdx.x;
  if (BARRIER == 1) __syncwarp();
  if (BARRIER == 2) __syncthreads();
  x[threadIdx.x] = shared[threadIdx.x ^ WITH];
}

__global__ void half_barrier_kernel(float *x) {
  if (threadIdx.x < 32) __syncthreads();
  x[threadIdx.x] = 1;
}

__global__ void part_of_warp_kernel(float *x) {
  if (threadIdx.x % 2) x[threadIdx.x] = __shfl_sync(~0u, 1.f, 0);
}

__global__ void at_kernel(float *x, int64_t i) {
  x[i] = 1;
}

__global__ void at4_kernel(float *x, int64_t i) {
  *(float4 *)(x + i) = float4{1, 1, 1, 1};
}

__global__ void dynamic_kernel(float *x) {
  extern __shared__ float dynamic[];
  dynamic[threadIdx.x] = 1;
  x[threadIdx.x] = dynamic[threadIdx.x];
}

__global__ void copy_kernel(float *to, const float *from) {
  to[threadIdx.x] = from[threadIdx.x];
}

/* ---- what is done with them ---- */

static float *on_gpu(void) {
  float *x = NULL;
  cuda_check(NULL, "an allocation", cudaMalloc(&x, THREADS * sizeof *x));
  cuda_check(NULL, "a fill", cudaMemset(x, 0, THREADS * sizeof *x));
  cuda_check(NULL, "a wait", cudaDeviceSynchronize()); /* other streams do not wait for the fill */
  return x;
}

template <class Launch> static cudaError_t outcome(Launch launch) {
  launch(on_gpu());
  cudaError_t status = cudaGetLastError();
  return status == cudaSuccess ? cudaDeviceSynchronize() : status;
}

static cudaStream_t new_stream(void) {
  cudaStream_t s;
  cuda_check(NULL, "a stream", cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
  return s;
}

/* What thread 0 of a second stream finds where a first stream writes 1, with a wait or without. */
static cudaError_t find_one(bool wait) {
  cudaStream_t first = new_stream(), second = new_stream();
  cudaEvent_t written;
  float *x = on_gpu(), *y = on_gpu(), found = -1;
  cuda_check(NULL, "an event", cudaEventCreateWithFlags(&written, cudaEventDisableTiming));
  at_kernel<<<1, 1, 0, first>>>(x, 0);
  cuda_check(NULL, "an event", cudaEventRecord(written, first));
  if (wait) cuda_check(NULL, "a wait", cudaStreamWaitEvent(second, written, 0));
  copy_kernel<<<1, 1, 0, second>>>(y, x);
  cuda_check(NULL, "a wait", cudaStreamSynchronize(second));
  cuda_check(NULL, "a copy", cudaMemcpy(&found, y, sizeof found, cudaMemcpyDeviceToHost));
  return found == 1 ? cudaSuccess : cudaErrorUnknown;
}

/* A stream reads what a second one overwrites, which waits for the reading or does not. Only where other
 * streams go first (EMULATED_GPU_ORDER=others) does it matter. */
static cudaError_t read_before_write(bool wait) {
  setenv("EMULATED_GPU_ORDER", "others", 1); /* no call of the runtime was made before */
  cudaStream_t reader = new_stream(), writer = new_stream();
  cudaEvent_t read, written;
  float *x = on_gpu(), *y = on_gpu(), found = -1;
  cuda_check(NULL, "an event", cudaEventCreateWithFlags(&read, cudaEventDisableTiming));
  cuda_check(NULL, "an event", cudaEventCreateWithFlags(&written, cudaEventDisableTiming));
  copy_kernel<<<1, 1, 0, reader>>>(y, x);
  cuda_check(NULL, "an event", cudaEventRecord(read, reader));
  if (wait) cuda_check(NULL, "a wait", cudaStreamWaitEvent(writer, read, 0));
  at_kernel<<<1, 1, 0, writer>>>(x, 0);
  cuda_check(NULL, "an event", cudaEventRecord(written, writer));
  cuda_check(NULL, "a wait", cudaStreamWaitEvent(reader, written, 0));
  cuda_check(NULL, "a wait", cudaStreamSynchronize(reader));
  cuda_check(NULL, "a copy", cudaMemcpy(&found, y, sizeof found, cudaMemcpyDeviceToHost));
  return found == 0 ? cudaSuccess : cudaErrorUnknown;
}

/* A copy from locked memory that the host writes again, at once or when it has waited. */
static cudaError_t copy_of_locked(bool wait) {
  alignas(4096) static float host[1024];
  cudaStream_t stream = new_stream();
  float *x = on_gpu(), found = -1;
  cuda_check(NULL, "a lock", cudaHostRegister(host, sizeof host, cudaHostRegisterDefault));
  host[0] = 1;
  cuda_check(NULL, "a copy", cudaMemcpyAsync(x, host, sizeof *x, cudaMemcpyHostToDevice, stream));
  if (wait) cuda_check(NULL, "a wait", cudaStreamSynchronize(stream));
  host[0] = 2;
  cuda_check(NULL, "a wait", cudaStreamSynchronize(stream));
  cuda_check(NULL, "a copy", cudaMemcpy(&found, x, sizeof found, cudaMemcpyDeviceToHost));
  return found == 1 ? cudaSuccess : cudaErrorUnknown;
}

static cudaError_t dynamic_bytes(int allowed, size_t asked) {
  cudaError_t status =
      cudaFuncSetAttribute(dynamic_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, allowed);
  if (status != cudaSuccess) return status;
  return outcome([=](float *x) { dynamic_kernel<<<1, THREADS, asked>>>(x); });
}

static const struct {
  const char *what;
  cudaError_t (*run)(void);
  bool right, crashes;
} cases[] = {
    {"a barrier", [] { return outcome([](float *x) { exchange_kernel<32, 2><<<1, THREADS>>>(x); }); }, true,
     false},
    {"no barrier", [] { return outcome([](float *x) { exchange_kernel<32, 0><<<1, THREADS>>>(x); }); }, false,
     false},
    {"a warp's barrier between two warps",
     [] { return outcome([](float *x) { exchange_kernel<32, 1><<<1, THREADS>>>(x); }); }, false, false},
    {"a warp's barrier", [] { return outcome([](float *x) { exchange_kernel<1, 1><<<1, THREADS>>>(x); }); },
     true, false},
    {"none in a warp", [] { return outcome([](float *x) { exchange_kernel<1, 0><<<1, THREADS>>>(x); }); },
     false, false},
    {"a barrier for half a block",
     [] { return outcome([](float *x) { half_barrier_kernel<<<1, THREADS>>>(x); }); }, false, false},
    {"a shuffle by half a warp",
     [] { return outcome([](float *x) { part_of_warp_kernel<<<1, THREADS>>>(x); }); }, false, false},
    {"the last element", [] { return outcome([](float *x) { at_kernel<<<1, 1>>>(x, THREADS - 1); }); }, true,
     false},
    {"beyond the end", [] { return outcome([](float *x) { at_kernel<<<1, 1>>>(x, THREADS); }); }, false,
     false},
    {"before the beginning", [] { return outcome([](float *x) { at_kernel<<<1, 1>>>(x, -1); }); }, false,
     false},
    {"16 bytes", [] { return outcome([](float *x) { at4_kernel<<<1, 1>>>(x, 4); }); }, true, false},
    {"16 bytes that are not aligned", [] { return outcome([](float *x) { at4_kernel<<<1, 1>>>(x, 2); }); },
     false, false},
    {"too many threads", [] { return outcome([](float *x) { copy_kernel<<<1, 2048>>>(x, x); }); }, false,
     false},
    {"48 KB", [] { return outcome([](float *x) { dynamic_kernel<<<1, THREADS, 48 << 10>>>(x); }); }, true,
     false},
    {"more, without leave",
     [] { return outcome([](float *x) { dynamic_kernel<<<1, THREADS, 49 << 10>>>(x); }); }, false, false},
    {"more, with leave", [] { return dynamic_bytes(100 << 10, 100 << 10); }, true, false},
    {"more than there is", [] { return dynamic_bytes(228 << 10, 228 << 10); }, false, false},
    {"a wait for another stream", [] { return find_one(true); }, true, false},
    {"no wait for another stream", [] { return find_one(false); }, false, false},
    {"a write that waits for a reading", [] { return read_before_write(true); }, true, false},
    {"a write that does not", [] { return read_before_write(false); }, false, false},
    {"a wait for a copy", [] { return copy_of_locked(true); }, true, false},
    {"no wait for a copy", [] { return copy_of_locked(false); }, false, false},
    {"the host in the GPU's memory", [] { return *on_gpu() == 0 ? cudaSuccess : cudaErrorUnknown; }, false,
     true},
};

/* Whether the case came to its end without an error. */
static bool succeeds(cudaError_t (*run)(void), bool may_crash) {
  fflush(NULL);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    signal(SIGSEGV, SIG_DFL);
    _exit(run() == cudaSuccess ? 0 : 3);
  }
  int status = 0;
  assert_int_equal(waitpid(child, &status, 0), child);
  bool expected = (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3)) ||
                  (may_crash && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
  assert_true(expected); /* neither a failure of the test's own calls nor of the emulator */
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void test_mistakes(void **state) {
  (void)state;
  if (!is_emulated()) skip();
  for (const auto &c : cases)
    if (succeeds(c.run, c.crashes) != c.right)
      fail_msg("%s: expected %s", c.what, c.right ? "success" : "an error");
}
#else
static void test_mistakes(void **state) {
  (void)state;
  skip();
}
#endif

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_mistakes)};
  return cmocka_run_group_tests_name("emulator", tests, NULL, NULL);
}
