/* A CUDA block on the CPU. Each of its threads is a fiber: a stack of its own, switched to where the thread
 * before it waits. Their order is fixed, so that a test fails the same way each time; a barrier that not all
 * threads reach ends the program. The thread sanitizer is told that fibers are threads and that nothing but a
 * barrier orders them: it reports one that is missing, whatever the order was. To be included before
 * device/group.cuh. Only what the kernels use is here. */
#ifndef BLOCK_EMULATION_CUH
#define BLOCK_EMULATION_CUH

#define BLOCK_EMULATION 1

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h" // defines: CHECK, PANIC
#include "device/device.h"

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

#define __device__
#define __forceinline__ inline __attribute__((always_inline))

/* What the emulation does itself is not the kernels' doing. */
#define UNWATCHED __attribute__((noinline, unused, no_sanitize("thread")))

struct uint2 {
  uint32_t x, y;
};
struct uint4 {
  uint32_t x, y, z, w;
};
struct EmulatedIndex {
  unsigned x;
};

enum { EMULATED_THREADS = 64, MOST_EMULATED_THREADS = 128, EMULATED_STACK = 256 << 10 };

/* Waits until all of its threads have come. */
struct EmulatedBarrier {
  int waiting, times; /* threads that wait now; how often all have come */
  char order[2];      /* in turn: a thread may come again before another has left */
};

/* What a thread shows to its warp: the operand of a shuffle or a vote, or fragments of matrices. */
struct EmulatedValue {
  double number;
  const void *address;
  uint32_t words[6];
};

/* A copy of 16 bytes to shared memory that was begun; from NULL: zeros. */
struct EmulatedCopy {
  void *to;
  const void *from;
};

enum { MOST_EMULATED_COPIES = 128 };

struct EmulatedThread {
  void *stack;    /* its lowest word in use, while the thread waits */
  bool done;      /* has left the kernel */
  unsigned shows; /* how often it has shown something */
  int copies;     /* begun and not waited for */
  EmulatedCopy copy[MOST_EMULATED_COPIES];
};

/* The one block that runs. */
static struct {
  EmulatedThread thread[MOST_EMULATED_THREADS];
  EmulatedValue value[2][MOST_EMULATED_THREADS]; /* in turn: the last ones may still be looked at */
  EmulatedBarrier block, warp[MOST_EMULATED_THREADS / 32];
  int vote[MOST_EMULATED_THREADS]; /* of the block */
  unsigned threads, current, idle; /* idle: threads in a row that had nothing to do but to wait */
  void *host_stack, *host_fiber;
  void (*kernel)(const void *); /* what a thread does with `argument` */
  const void *argument;
  char begin, end; /* of the kernel, for what orders the host and the threads */
} emulated;

/* From block to block. */
alignas(16) static char emulated_stacks[MOST_EMULATED_THREADS][EMULATED_STACK];
static void *emulated_fibers[MOST_EMULATED_THREADS]; /* the thread sanitizer's; made at the first use */

#ifdef __SANITIZE_THREAD__
static inline void *emulated_fiber(void) {
  return __tsan_create_fiber(0);
}
/* What was done before `release` is seen after `acquire` of the same address. */
static inline void emulated_release(char *p) {
  __tsan_release(p);
}
static inline void emulated_acquire(char *p) {
  __tsan_acquire(p);
}
static inline void emulated_switch(void *fiber) {
  __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync);
}
#else
static inline void *emulated_fiber(void) {
  return NULL;
}
static inline void emulated_release(char *) {}
static inline void emulated_acquire(char *) {}
static inline void emulated_switch(void *) {}
#endif

static UNWATCHED EmulatedIndex emulated_index(void) {
  return EmulatedIndex{emulated.current};
}
static UNWATCHED EmulatedIndex emulated_size(void) {
  return EmulatedIndex{emulated.threads};
}
#define threadIdx emulated_index()
#define blockDim  emulated_size()

/* Goes on on another stack, where that one was left; the registers that a call keeps are on each. A few
 * nanoseconds: swapcontext() takes two system calls. */
extern "C" void emulated_swap(void **from, void *to);
asm(".text\n"
    "emulated_swap:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n");
enum { KEPT_REGISTERS = 6 };

/* Goes on with the next thread that has not left the kernel; from the last one, with the host. */
static UNWATCHED void emulated_yield(void) {
  unsigned from = emulated.current, to = from;
  do to = (to + 1) % emulated.threads;
  while (to != from && emulated.thread[to].done);
  if (emulated.thread[to].done) {
    emulated_switch(emulated.host_fiber);
    emulated_swap(&emulated.thread[from].stack, emulated.host_stack);
    return;
  }
  CHECK(emulated.idle++ < 4 * emulated.threads, "the threads of a block wait at different barriers");
  emulated.current = to;
  emulated_switch(emulated_fibers[to]);
  if (to != from) emulated_swap(&emulated.thread[from].stack, emulated.thread[to].stack);
}

static UNWATCHED void emulated_wait(EmulatedBarrier *b, int threads) {
  int times = b->times;
  if (++b->waiting == threads) {
    b->waiting = 0;
    b->times++;
    emulated.idle = 0;
  }
  while (b->times == times) emulated_yield();
}

static UNWATCHED EmulatedBarrier *emulated_warp(void) {
  return &emulated.warp[emulated.current / 32];
}

/* What all threads of the warp show, lane by lane. Memory is not ordered by it. */
static UNWATCHED const EmulatedValue *emulated_show(EmulatedValue value) {
  unsigned thread = emulated.current, turn = emulated.thread[thread].shows++ % 2;
  emulated.value[turn][thread] = value;
  emulated_wait(emulated_warp(), 32);
  return &emulated.value[turn][thread / 32 * 32];
}

static UNWATCHED char *emulated_turn(EmulatedBarrier *b) {
  return &b->order[b->times % 2];
}

static inline void __syncthreads() {
  char *order = emulated_turn(&emulated.block);
  emulated_release(order);
  emulated_wait(&emulated.block, (int)blockDim.x);
  emulated_acquire(order);
}

static UNWATCHED uint32_t __ballot_sync(uint32_t, int predicate) {
  const EmulatedValue *all = emulated_show(EmulatedValue{(double)predicate, NULL, {}});
  uint32_t votes = 0;
  for (unsigned i = 0; i < 32; i++) votes |= (uint32_t)(all[i].number != 0) << i;
  return votes;
}

static UNWATCHED void emulated_vote(int predicate) {
  emulated.vote[emulated.current] = predicate != 0;
}
static UNWATCHED int emulated_any(void) {
  int any = 0;
  for (unsigned i = 0; i < emulated.threads; i++) any |= emulated.vote[i];
  return any;
}

static inline int __syncthreads_or(int predicate) {
  emulated_vote(predicate);
  __syncthreads();
  int any = emulated_any();
  __syncthreads();
  return any;
}

template <class S> static UNWATCHED S __shfl_sync(uint32_t, S x, int lane) {
  return (S)emulated_show(EmulatedValue{(double)x, NULL, {}})[lane].number;
}

template <class S> static UNWATCHED S __shfl_xor_sync(uint32_t, S x, int lanes) {
  unsigned lane = emulated.current % 32;
  return (S)emulated_show(EmulatedValue{(double)x, NULL, {}})[lane ^ (unsigned)lanes].number;
}

static int64_t emulated_copies; /* begun by all blocks so far */

static UNWATCHED void emulated_copy_begin(void *to, const void *from) {
  EmulatedThread *t = &emulated.thread[emulated.current];
  CHECK(t->copies < MOST_EMULATED_COPIES, "a thread has begun %d copies and waited for none", t->copies);
  t->copy[t->copies++] = EmulatedCopy{to, from};
  emulated_copies++;
}

/* Takes one of the copies that the thread has begun; false: there is none. */
static UNWATCHED bool emulated_copy_next(EmulatedCopy *c) {
  EmulatedThread *t = &emulated.thread[emulated.current];
  if (t->copies == 0) return false;
  *c = t->copy[--t->copies];
  return true;
}

static inline int __ffs(int x) {
  return __builtin_ffs(x);
}

/* ---- running a block ---- */

static UNWATCHED void emulated_leave(void) {
  EmulatedThread *t = &emulated.thread[emulated.current];
  CHECK(t->copies == 0, "a thread leaves with %d copies that nobody waited for", t->copies);
  t->done = true;
  emulated.idle = 0;
  emulated_release(&emulated.end);
  emulated_yield(); /* does not return */
}

static void emulated_enter(void) {
  emulated_acquire(&emulated.begin);
  emulated.kernel(emulated.argument);
  emulated_leave();
}

/* kernel(argument) by every thread of a block. */
static UNWATCHED void emulate_block(unsigned threads, void (*kernel)(const void *), const void *argument) {
  CHECK(threads % 32 == 0 && threads <= MOST_EMULATED_THREADS, "a block of %u threads", threads);
  memset(&emulated, 0, sizeof emulated);
  emulated.threads = threads;
  emulated.kernel = kernel;
  emulated.argument = argument;
  for (unsigned i = 0; i < threads; i++) {
    EmulatedThread *t = &emulated.thread[i];
    if (!emulated_fibers[i]) emulated_fibers[i] = emulated_fiber();
    void **top = (void **)(emulated_stacks[i] + EMULATED_STACK) - 2; /* aligned as calls expect it */
    *top = (void *)emulated_enter;
    t->stack = top - KEPT_REGISTERS;
  }
#ifdef __SANITIZE_THREAD__
  emulated.host_fiber = __tsan_get_current_fiber();
#endif
  emulated_release(&emulated.begin);
  emulated_switch(emulated_fibers[0]);
  emulated_swap(&emulated.host_stack, emulated.thread[0].stack);
  emulated_acquire(&emulated.end);
}

#include "device/group.cuh" // defines: Block, GROUP_SCRATCH

template <class F> struct EmulatedRows {
  const F *f;
  int64_t rows;
  Block block;
};

template <class F> static void emulated_rows(const void *argument) {
  const EmulatedRows<F> *t = (const EmulatedRows<F> *)argument;
  for (int64_t row = 0; row < t->rows; row++) {
    (*t->f)(t->block, row);
    __syncthreads(); /* as row_kernel does */
  }
}

/* In place of launch.cuh's: little, so that tests have rows that do not fit. */
static inline int64_t block_shared_bytes(const Device *, int blocks) {
  return (16 << 10) / blocks;
}

/* In place of launch.cuh's: one block, all rows. Shared memory has no contents to rely on: it is NaN. */
template <int MOST_THREADS = EMULATED_THREADS, class F>
static void launch_blocks(Device *, int64_t rows, F f, int threads = MOST_THREADS, int64_t shared_bytes = 0) {
  alignas(16) float scratch[GROUP_SCRATCH];
  double partial[32];
  char *shared = (char *)aligned_alloc(128, (size_t)(shared_bytes + 127) / 128 * 128 + 128);
  CHECK(shared, "out of memory for the shared memory of a block");
  memset(scratch, 0xff, sizeof scratch);
  memset(partial, 0xff, sizeof partial);
  memset(shared, 0xff, (size_t)shared_bytes);
  EmulatedRows<F> all = {&f, rows, Block{scratch, partial, shared, shared_bytes}};
  if (threads > EMULATED_THREADS) threads = EMULATED_THREADS;
  if (rows > 0) emulate_block((unsigned)threads, emulated_rows<F>, &all);
  free(shared);
}

template <class F> struct EmulatedTiles {
  const F *f;
  int64_t items;
  char *shared;
};

template <class F> static void emulated_tiles(const void *argument) {
  const EmulatedTiles<F> *t = (const EmulatedTiles<F> *)argument;
  for (int64_t item = 0; item < t->items; item++) {
    (*t->f)(t->shared, item);
    __syncthreads(); /* as tile_kernel does */
    if (threadIdx.x == 0) memset(t->shared, 0xff, F::SHARED);
    __syncthreads();
  }
}

/* In place of launch.cuh's: one block, all items. Its shared memory ends where it is declared to end. */
template <class F> static void launch_tiles(Device *, int64_t items, F f) {
  char *shared = (char *)aligned_alloc(128, (F::SHARED + 127) / 128 * 128);
  CHECK(shared, "out of memory for the shared memory of a block");
  memset(shared, 0xff, F::SHARED);
  EmulatedTiles<F> all = {&f, items, shared};
  if (items > 0) emulate_block(F::THREADS, emulated_tiles<F>, &all);
  free(shared);
}

#endif
