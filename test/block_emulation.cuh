/* A CUDA block on the CPU: each of its threads is a thread of the host, so that the thread sanitizer sees a
 * barrier that is missing, and a test hangs at one that not all threads reach. To be included before
 * device/group.cuh. Only what the row kernels use is here. */
#ifndef BLOCK_EMULATION_CUH
#define BLOCK_EMULATION_CUH

#define BLOCK_EMULATION 1

#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "base/error.h" // defines: CHECK
#include "device/device.h"

#define __device__
#define __forceinline__ inline __attribute__((always_inline))

struct uint4 {
  uint32_t x, y, z, w;
};
struct EmulatedIndex {
  unsigned x;
};

enum { EMULATED_THREADS = 64, EMULATED_WARPS = EMULATED_THREADS / 32 };

static const EmulatedIndex blockDim = {EMULATED_THREADS};
static thread_local EmulatedIndex threadIdx;

/* What the threads of the one block that runs share. */
static struct {
  pthread_barrier_t block, warp[EMULATED_WARPS];
  double value[EMULATED_THREADS]; /* of a shuffle, a ballot or a vote */
} emulated;

static inline void __syncthreads() {
  pthread_barrier_wait(&emulated.block);
}

static inline int __syncthreads_or(int predicate) {
  emulated.value[threadIdx.x] = predicate;
  __syncthreads();
  int any = 0;
  for (int i = 0; i < EMULATED_THREADS; i++) any |= emulated.value[i] != 0;
  __syncthreads();
  return any;
}

static inline uint32_t __ballot_sync(uint32_t, int predicate) {
  unsigned warp = threadIdx.x / 32;
  emulated.value[threadIdx.x] = predicate;
  pthread_barrier_wait(&emulated.warp[warp]);
  uint32_t votes = 0;
  for (unsigned i = 0; i < 32; i++) votes |= (uint32_t)(emulated.value[warp * 32 + i] != 0) << i;
  pthread_barrier_wait(&emulated.warp[warp]);
  return votes;
}

template <class S> static inline S __shfl_xor_sync(uint32_t, S x, int lanes) {
  unsigned warp = threadIdx.x / 32;
  emulated.value[threadIdx.x] = (double)x;
  pthread_barrier_wait(&emulated.warp[warp]);
  S other = (S)emulated.value[threadIdx.x ^ (unsigned)lanes];
  pthread_barrier_wait(&emulated.warp[warp]);
  return other;
}

static inline int __ffs(int x) {
  return __builtin_ffs(x);
}

#include "device/group.cuh" // defines: Block, GROUP_SCRATCH

template <class F> struct EmulatedThread {
  const F *f;
  int64_t rows;
  unsigned index;
  float *scratch;
  double *partial;
};

template <class F> static void *emulated_thread(void *argument) {
  const EmulatedThread<F> *t = (const EmulatedThread<F> *)argument;
  threadIdx.x = t->index;
  for (int64_t row = 0; row < t->rows; row++) {
    (*t->f)(Block{t->scratch, t->partial}, row);
    __syncthreads(); /* as row_kernel does */
  }
  return NULL;
}

/* In place of launch.cuh's: one block, all rows. */
template <class F> static void launch_blocks(Device *, int64_t rows, F f) {
  alignas(16) float scratch[GROUP_SCRATCH];
  double partial[32];
  EmulatedThread<F> threads[EMULATED_THREADS];
  pthread_t handles[EMULATED_THREADS];
  if (rows <= 0) return;
  memset(scratch, 0xff, sizeof scratch); /* NaN: shared memory has no contents to rely on */
  pthread_barrier_init(&emulated.block, NULL, EMULATED_THREADS);
  for (int w = 0; w < EMULATED_WARPS; w++) pthread_barrier_init(&emulated.warp[w], NULL, 32);
  for (unsigned i = 0; i < EMULATED_THREADS; i++) {
    threads[i] = EmulatedThread<F>{&f, rows, i, scratch, partial};
    CHECK(pthread_create(&handles[i], NULL, emulated_thread<F>, &threads[i]) == 0, "no more threads");
  }
  for (unsigned i = 0; i < EMULATED_THREADS; i++) pthread_join(handles[i], NULL);
  pthread_barrier_destroy(&emulated.block);
  for (int w = 0; w < EMULATED_WARPS; w++) pthread_barrier_destroy(&emulated.warp[w]);
}

#endif
