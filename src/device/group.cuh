/* Row and element kernels are written once, against a group of workers: a CUDA block, or one CPU lane.
 *
 * A group visits the elements of vectors in device memory. `f` gets each element as a float; what f leaves
 * in an element that came through a non-const pointer is stored back, so
 *
 *   g.each(n, [=](float &y, float x, float w) { y = x * r * w; }, y, x, w);
 *
 * computes y [n] from x [n] and w [n] (the load of y is dead and the compiler drops it). Vectors may be the
 * same memory, but may not overlap at an offset.
 *
 * Element i always belongs to the same worker, whatever the pointers are. Two visits of the same elements
 * therefore need no barrier between them; where one worker reads what another wrote there has to be a
 * sync(), or a sum(), max(), max_and_exp_sum() or softmax(), which are barriers too. */
#ifndef GROUP_CUH
#define GROUP_CUH

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/dtype.h"
#include "base/error.h"
#include "device/device_cpu.h" /* defines: cpu_store_past_caches */

#ifdef __CUDACC__
#define HD __host__ __device__ __forceinline__
#else
#define HD inline __attribute__((always_inline))
#endif

/* ---- storage types: float, and bf16 (the upper half of a float) ---- */

struct bf16 {
  uint16_t bits;
};

HD uint32_t float_bits(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  return u;
}
HD float float_from_bits(uint32_t u) {
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}

HD float value(float x) {
  return x;
}
HD float value(bf16 x) {
  return float_from_bits((uint32_t)x.bits << 16);
}

/* Rounds to nearest, ties to even; a NaN stays one. */
HD void store(float *p, float x) {
  *p = x;
}
HD void store(bf16 *p, float x) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(p->bits) : "f"(x));
#else
  uint32_t u = float_bits(x);
  uint32_t rounded = u + 0x7fffu + ((u >> 16) & 1u);
  p->bits = (uint16_t)((x != x ? u | 0x400000u : rounded) >> 16);
#endif
}
/* Two numbers rounded to bf16, the first one in the lower half. */
HD uint32_t bf16_pair(float first, float second) {
#ifdef __CUDA_ARCH__
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#else
  bf16 low, high;
  store(&low, first);
  store(&high, second);
  return (uint32_t)high.bits << 16 | low.bits;
#endif
}
HD void store(const float *, float) {} /* an input: there is nothing to store */
HD void store(const bf16 *, float) {}

/* Runs the statement with T standing for the storage type of dt. */
#define DISPATCH(dt, T, ...)                                                                                 \
  do {                                                                                                       \
    if ((dt) == DT_FP32) {                                                                                   \
      typedef float T;                                                                                       \
      __VA_ARGS__;                                                                                           \
    } else {                                                                                                 \
      CHECK((dt) == DT_BF16, "operations work on fp32 and bf16, not on %s", dtype_name(dt));                 \
      typedef bf16 T;                                                                                        \
      __VA_ARGS__;                                                                                           \
    }                                                                                                        \
  } while (0)

/* ---- elementary functions that loops can vectorise ---- */

/* e^x for x <= 88, to 1.5e-7 relative; exactly 0 below -88; NaN stays NaN. Cephes' polynomial on the
 * remainder of x / ln 2, whose quotient becomes the exponent bits. There is one clamp only, and it is
 * written so that it passes NaN: a second one keeps gcc from vectorising. On CUDA the chip's own power of 2,
 * to 2^-22 and 2^-23.7 |x| relative, in two instructions: expf() takes eight, too many to be as fast as
 * memory. */
HD float fast_exp(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f));
  return y;
#else
  x = x < -88.f ? -88.f : x;
  float shifted = x * 1.44269504f + 12582912.f; /* 1.5 * 2^23: the quotient, rounded, in the low bits */
  float n = shifted - 12582912.f;
  float r = x - n * 0.693359375f + n * 2.12194440e-4f; /* ln 2 in two parts */
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  return p * float_from_bits((float_bits(shifted) << 23) + 0x3f800000u);
#endif
}

/* ln x for normal x > 0, to 1e-7 relative, or absolute where ln x is small. Cephes' polynomial on the
 * mantissa, taken between sqrt(1/2) and sqrt(2). */
HD float fast_log(float x) {
#ifdef __CUDA_ARCH__
  return logf(x);
#else
  int32_t exponent = (int32_t)(float_bits(x) - 0x3f3504f3u) >> 23;
  float e = (float)exponent;
  float t = float_from_bits(float_bits(x) - ((uint32_t)exponent << 23)) - 1.f, z = t * t;
  float p = 7.0376836292e-2f;
  p = p * t - 1.1514610310e-1f;
  p = p * t + 1.1676998740e-1f;
  p = p * t - 1.2420140846e-1f;
  p = p * t + 1.4249322787e-1f;
  p = p * t - 1.6668057665e-1f;
  p = p * t + 2.0000714765e-1f;
  p = p * t - 2.4999993993e-1f;
  p = p * t + 3.3333331174e-1f;
  return p * t * z - e * 2.12194440e-4f - 0.5f * z + t + e * 0.693359375f;
#endif
}

/* 1 / x for 1 <= x <= 2; on CUDA to 2^-23 relative, without a division's correction of the last bit. */
HD float fast_reciprocal(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.f / x;
#endif
}

/* 1 / (1 + e^-x), without overflow at either end. */
HD float sigmoid(float x) {
  float e = fast_exp(-fabsf(x));
  return (x < 0.f ? e : 1.f) * fast_reciprocal(1.f + e);
}

/* The same of x and of -x, which add up to 1: both to a few last bits, however small. */
HD void sigmoids(float x, float *of_x, float *of_minus_x) {
  float e = fast_exp(-fabsf(x)), large = fast_reciprocal(1.f + e), small = e * large;
  *of_x = x < 0.f ? small : large;
  *of_minus_x = x < 0.f ? large : small;
}

/* sin x and cos x to 1e-7, for arguments as large as the angles of a long sequence: x is reduced in double
 * with pi/2 in two parts and without rounding in between, exact to far beyond 2^31. Cephes' polynomials. */
HD void fast_sincos(float x, float *sin_x, float *cos_x) {
#ifdef __CUDA_ARCH__
  sincosf(x, sin_x, cos_x);
#else
  double shifted = x * 0.63661977236758134308 + 6755399441055744.0; /* 1.5 * 2^52 */
  double n = shifted - 6755399441055744.0;
  uint64_t quadrant;
  memcpy(&quadrant, &shifted, sizeof quadrant);
  float r = (float)fma(n, -6.12323399573676603587e-17, fma(n, -1.57079632679489655800, (double)x));
  float z = r * r;
  float s = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * r + r;
  float c = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z -
            0.5f * z + 1.f;
  uint32_t q = (uint32_t)quadrant;
  float a = q & 1u ? c : s, b = q & 1u ? s : c;
  *sin_x = q & 2u ? -a : a;
  *cos_x = (q + 1u) & 2u ? -b : b;
#endif
}

/* ---- the groups ---- */

constexpr int64_t GROUP_SCRATCH = 512; /* floats of memory that the workers of a group share */
constexpr int64_t LANE_PIECE = 2048;   /* elements that a Lane sums or makes in one go: floats of two pages */

constexpr float LEAST_FLOAT = -3.402823466e38f; /* where a maximum begins: -inf less that is no NaN */

/* Asks for memory that is about to be read and written: on the CPU, a Lane's work. */
HD void prefetch(const void *p) {
#ifdef __CUDA_ARCH__
  (void)p;
#else
  __builtin_prefetch(p, 1, 3);
#endif
}

/* One element of a visited vector, on its way through f. */
template <class P> struct Element {
  P *at;
  float x;
};

template <class F, class... E> HD void visit(F f, int64_t i, E... e) {
  f(i, e.x...);
  (store(e.at, e.x), ...);
}

/* Vectors that lie `stride` elements apart; 0: one for all. */
template <class P> struct Strided {
  P *at;
  int64_t stride;
};
template <class P> HD Strided<P> strided(P *at, int64_t stride) {
  return Strided<P>{at, stride};
}

/* The CPU's group: a single worker, whose loops are vectorised. */
struct Lane {
  float *scratch;   /* [GROUP_SCRATCH] */
  bool past_caches; /* what produce() makes goes past the caches */

  /* f(i, element i of each vector) for i < n. */
  template <class F, class... P> HD void each_at(int64_t n, F f, P *...p) const {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) visit(f, i, Element<P>{p + i, value(p[i])}...);
  }

  /* f(element i of each vector) for i < n. */
  template <class F, class... P> HD void each(int64_t n, F f, P *...p) const {
    each_at(
        n, [=](int64_t, auto &...x) { f(x...); }, p...);
  }

  /* The same where f is costly: a worker takes one element at a time. An element may belong to another worker
   * than in each(). */
  template <class F, class... P> HD void each_costly(int64_t n, F f, P *...p) const {
    each(n, f, p...);
  }

  /* each() for `sets` sets of vectors, below 2^32 elements together. The workers share out all of them, not
   * each by itself: an element may belong to another worker than in each(). */
  template <class F, class... P> HD void each_of_sets(int64_t sets, int64_t n, F f, Strided<P>... v) const {
    for (int64_t k = 0; k < sets; k++) each(n, f, (v.at + k * v.stride)...);
  }

  /* Has f(to, begin, count) make the elements begin ... begin + count - 1 of out [n], a multiple of `unit` of
   * them, at to: for results that nobody reads before out is whole. When they go past the caches, memory need
   * not be read before it is overwritten. */
  template <class F, class P> HD void produce(int64_t n, int64_t unit, F f, P *out) const {
#ifndef __CUDA_ARCH__
    if (past_caches) {
      alignas(64) P piece[LANE_PIECE];
      int64_t size = LANE_PIECE / unit * unit;
      for (int64_t begin = 0; begin < n; begin += size) {
        int64_t count = n - begin < size ? n - begin : size;
        f(piece, begin, count);
        cpu_store_past_caches(out + begin, piece, (size_t)count * sizeof(P));
      }
      return;
    }
#endif
    f(out, 0, n);
  }

  /* Sum of f(...), in the type that f returns; long vectors in pieces, so that rounding errors stay small. Of
   * a piece two parts are summed side by side: a single sum would wait for each addition to end, and the
   * processor fetches two pages from memory faster than one. */
  template <class F, class... P> HD auto sum(int64_t n, F f, const P *...p) const {
    typedef decltype(f(value(*p)...)) S;
    double total = 0;
    for (int64_t begin = 0; begin < n; begin += LANE_PIECE) {
      int64_t end = n - begin < LANE_PIECE ? n : begin + LANE_PIECE, part = (end - begin) / 2;
      S s0 = 0, s1 = 0;
#pragma omp simd reduction(+ : s0, s1)
      for (int64_t i = begin; i < begin + part; i++) {
        s0 += f(value(p[i])...);
        s1 += f(value(p[i + part])...);
      }
      if (begin + 2 * part < end) s0 += f(value(p[end - 1])...);
      total += (double)(s0 + s1);
    }
    return (S)total;
  }

  /* Two sums over the same vectors: f(a, b, elements) adds to a and b. */
  template <class F, class... P> HD void two_sums(int64_t n, F f, float *a, float *b, const P *...p) const {
    double total_a = 0, total_b = 0;
    for (int64_t begin = 0; begin < n; begin += LANE_PIECE) {
      int64_t end = n - begin < LANE_PIECE ? n : begin + LANE_PIECE, part = (end - begin) / 2;
      float a0 = 0, a1 = 0, b0 = 0, b1 = 0;
#pragma omp simd reduction(+ : a0, a1, b0, b1)
      for (int64_t i = begin; i < begin + part; i++) {
        f(a0, b0, value(p[i])...);
        f(a1, b1, value(p[i + part])...);
      }
      if (begin + 2 * part < end) f(a0, b0, value(p[end - 1])...);
      total_a += (double)(a0 + a1);
      total_b += (double)(b0 + b1);
    }
    *a = (float)total_a;
    *b = (float)total_b;
  }

  /* Largest f(...) that is not NaN; -inf when there is none. */
  template <class F, class... P> HD float max(int64_t n, F f, const P *...p) const {
    float m0 = -INFINITY, m1 = -INFINITY;
    int64_t half = n / 2;
#pragma omp simd reduction(max : m0, m1)
    for (int64_t i = 0; i < half; i++) {
      float x = f(value(p[i])...), y = f(value(p[i + half])...);
      m0 = x > m0 ? x : m0;
      m1 = y > m1 ? y : m1;
    }
    if (n % 2) {
      float x = f(value(p[n - 1])...);
      m0 = x > m0 ? x : m0;
    }
    return m0 > m1 ? m0 : m1;
  }

  /* Largest element m, as max() gives it, and the sum of e^(x - m) over all x. */
  template <class P> HD float max_and_exp_sum(int64_t n, const P *p, float *sum_of_exp) const {
    float m = max(
        n, [](float x) { return x; }, p);
    *sum_of_exp = sum(
        n, [=](float x) { return fast_exp(x - m); }, p);
    return m;
  }

  /* p = softmax(p) * factor; the largest element m, and the sum of e^(x - m), as max_and_exp_sum() has them.
   * In fp32 an element takes one exponential: pieces become e^(x - their own largest), and are scaled in the
   * end. */
  template <class P> HD float softmax(int64_t n, P *p, float factor, float *sum_of_exp) const {
    if constexpr (sizeof(P) < sizeof(float)) {
      float m = max_and_exp_sum(n, (const P *)p, sum_of_exp), by = factor / *sum_of_exp;
      each(
          n, [=](float &x) { x = fast_exp(x - m) * by; }, p);
      return m;
    } else {
      constexpr int64_t PIECES = GROUP_SCRATCH / 2, LEAST = 512;
      int64_t size = n > PIECES * LEAST ? (n + PIECES - 1) / PIECES : LEAST;
      float *tops = scratch, *sums = scratch + PIECES, m = LEAST_FLOAT;
      for (int64_t begin = 0, k = 0; begin < n; begin += size, k++) {
        int64_t count = n - begin < size ? n - begin : size;
        /* the next piece comes from memory while this one is worked on */
        for (int64_t i = 0; i < count; i += 16) prefetch(p + begin + size + i);
        float found = max(
            count, [](float x) { return x; }, (const P *)p + begin);
        float top = tops[k] = found > LEAST_FLOAT ? found : LEAST_FLOAT;
        each(
            count, [=](float &x) { x = fast_exp(x - top); }, p + begin);
        sums[k] = sum(
            count, [](float x) { return x; }, (const P *)p + begin);
        m = top > m ? top : m;
      }
      double total = 0;
      for (int64_t begin = 0, k = 0; begin < n; begin += size, k++) {
        tops[k] = fast_exp(tops[k] - m);
        total += (double)(sums[k] * tops[k]);
      }
      *sum_of_exp = (float)total;
      for (int64_t begin = 0, k = 0; begin < n; begin += size, k++) {
        float by = tops[k] * (factor / *sum_of_exp);
        each(
            n - begin < size ? n - begin : size, [=](float &x) { x *= by; }, p + begin);
      }
      return m;
    }
  }

  /* True for one worker of the group. */
  HD bool first() const {
    return true;
  }
  HD void sync() const {}
};

/* Block exists where nvcc compiles, and where a test emulates a block with threads of the CPU: it then
 * defines what is used below and by functors for blocks only (test/block_emulation.cuh). */
#if defined(__CUDACC__) || defined(BLOCK_EMULATION)
#define HAS_BLOCKS 1

/* Eight consecutive elements of a visited vector. */
template <class P> struct Pack {
  P *at;
  float x[8];
};

/* Moves eight elements in accesses of 16 bytes, or of 8 where they are no more; at is a multiple of that. */
template <size_t BYTES> struct Access { typedef uint4 Word; };
template <> struct Access<8> { typedef uint2 Word; };
template <class T> __device__ __forceinline__ void load8(float *x, const T *at) {
  typedef typename Access<8 * sizeof(T)>::Word Word;
  alignas(16) T v[8];
  for (size_t w = 0; w < 8 * sizeof(T) / sizeof(Word); w++) ((Word *)v)[w] = ((const Word *)at)[w];
  for (int j = 0; j < 8; j++) x[j] = value(v[j]);
}
/* One access of 16 bytes: nvcc makes four of a plain assignment where an address takes some arithmetic. */
__device__ __forceinline__ void store16(void *at, uint4 x) {
#ifdef __CUDA_ARCH__
  asm volatile("st.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
               : "memory");
#else
  *(uint4 *)at = x;
#endif
}
__device__ __forceinline__ void store8(float *at, const float *x) {
  for (int w = 0; w < 2; w++, x += 4)
    store16(at + 4 * w, uint4{float_bits(x[0]), float_bits(x[1]), float_bits(x[2]), float_bits(x[3])});
}
__device__ __forceinline__ void store8(bf16 *at, const float *x) {
  store16(at,
          uint4{bf16_pair(x[0], x[1]), bf16_pair(x[2], x[3]), bf16_pair(x[4], x[5]), bf16_pair(x[6], x[7])});
}
template <class T> __device__ __forceinline__ void store8(T *at, const float *x) {
  typedef typename Access<8 * sizeof(T)>::Word Word;
  alignas(16) T v[8];
  for (int j = 0; j < 8; j++) store(&v[j], x[j]);
  for (size_t w = 0; w < 8 * sizeof(T) / sizeof(Word); w++) ((Word *)at)[w] = ((const Word *)v)[w];
}
template <class T> __device__ __forceinline__ void store8(const T *, const float *) {}

/* i, which is a multiple of 8, and seen to be one: what elements i to i + 7 have in common is made once. */
__device__ __forceinline__ int64_t multiple_of_8(int64_t i) {
  uint64_t eighth = (uint64_t)i >> 3;
#ifdef __CUDA_ARCH__
  asm("" : "+l"(eighth)); /* else the compiler takes out the shifts, and with them what they say */
#endif
  return (int64_t)(eighth << 3);
}

/* f on the first count (of 8) elements from i, a multiple of 8, on; wide: all eight are there, and at
 * multiples of 16 bytes. */
template <class F, class... E>
__device__ __forceinline__ void visit8(F f, int64_t i, int count, bool wide, E... e) {
  if (wide) {
    (load8(e.x, e.at), ...);
    i = multiple_of_8(i);
#pragma unroll
    for (int j = 0; j < 8; j++) f(i + j, e.x[j]...);
    (store8(e.at, e.x), ...);
  } else {
    for (int j = 0; j < count; j++) {
      ((e.x[0] = value(e.at[j])), ...);
      f(i + j, e.x[0]...);
      (store(e.at + j, e.x[0]), ...);
    }
  }
}

/* The largest element m so far, and the sum of e^(x - m): rescaled whenever m moves. Elements that are all
 * -inf, and +inf or NaN among them, end in NaN as they do on the CPU. */
struct ExpSum {
  float m = LEAST_FLOAT, s = 0.f;
  __device__ __forceinline__ void add(const float *x) { /* [8] */
    float top = m;
#pragma unroll
    for (int j = 0; j < 8; j++) top = fmaxf(top, x[j]);
    if (top > m) s *= fast_exp(m - top);
    m = top;
#pragma unroll
    for (int j = 0; j < 8; j++) s += fast_exp(x[j] - m);
  }
};

/* A CUDA block: its threads take eight elements in turn. */
struct Block {
  float *scratch;       /* [GROUP_SCRATCH], shared memory */
  double *partial;      /* [32], shared memory: one value a warp, of up to 8 bytes */
  char *shared;         /* [shared_bytes], at a multiple of 128: what launch_blocks() was asked for */
  int64_t shared_bytes; /* may be 0 */

  template <class F, class... P> __device__ __forceinline__ void each_at(int64_t n, F f, P *...p) const {
    bool aligned = (((uintptr_t)p | ...) & 15) == 0;
    int64_t i = threadIdx.x * 8, pass = blockDim.x * 8;
    for (int64_t whole = aligned ? n - 7 : 0; i < whole; i += pass)
      visit8(f, i, 8, true, Pack<P>{p + i, {}}...);
    for (; i < n; i += pass) visit8(f, i, n - i < 8 ? (int)(n - i) : 8, false, Pack<P>{p + i, {}}...);
  }
  template <class F, class... P> __device__ __forceinline__ void each(int64_t n, F f, P *...p) const {
    each_at(
        n, [=](int64_t, auto &...x) { f(x...); }, p...);
  }
  template <class F, class... P> __device__ __forceinline__ void each_costly(int64_t n, F f, P *...p) const {
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
      visit([=](int64_t, auto &...x) { f(x...); }, i, Element<P>{p + i, value(p[i])}...);
  }
  template <class F, class... P> __device__ __forceinline__ auto sum(int64_t n, F f, const P *...p) const {
    decltype(f(value(*p)...)) s = 0;
    each_at(
        n, [&](int64_t, auto &...x) { s += f(x...); }, p...);
    return all(s, [](auto a, auto b) { return a + b; });
  }
  template <class F, class... P>
  __device__ __forceinline__ void two_sums(int64_t n, F f, float *a, float *b, const P *...p) const {
    float sum_a = 0.f, sum_b = 0.f;
    each_at(
        n, [&](int64_t, auto &...x) { f(sum_a, sum_b, x...); }, p...);
    *a = all(sum_a, [](float x, float y) { return x + y; });
    *b = all(sum_b, [](float x, float y) { return x + y; });
  }
  template <class F, class P> __device__ __forceinline__ void produce(int64_t n, int64_t, F f, P *out) const {
    f(out, (int64_t)0, n);
  }
  template <class F, class... P> __device__ __forceinline__ float max(int64_t n, F f, const P *...p) const {
    float m = -INFINITY;
    each_at(
        n, [&](int64_t, auto &...x) { m = fmaxf(m, f(x...)); }, p...);
    return all(m, [](float a, float b) { return fmaxf(a, b); });
  }
  template <class F, class... P>
  __device__ __forceinline__ void each_of_sets(int64_t sets, int64_t n, F f, Strided<P>... v) const {
    uint32_t packs = (uint32_t)((n + 7) / 8), all_packs = (uint32_t)sets * packs; /* of a set; of all */
    for (uint32_t t = threadIdx.x; t < all_packs; t += blockDim.x) {
      int64_t k = t / packs, i = (int64_t)(t % packs) * 8;
      int count = n - i < 8 ? (int)(n - i) : 8;
      bool aligned = (((uintptr_t)(v.at + k * v.stride) | ...) & 15) == 0;
      visit8([=](int64_t, auto &...x) { f(x...); }, i, count, aligned && count == 8,
             Pack<P>{v.at + k * v.stride + i, {}}...);
    }
  }

  /* Elements i to i + 7 of p [n], -inf where there are no more; wide: accesses of 16 bytes may be made. */
  template <class P>
  __device__ __forceinline__ void read_pack(float *x, const P *p, int64_t i, int64_t n, bool wide) const {
    if (wide && n - i >= 8) {
      load8(x, p + i);
    } else {
#pragma unroll
      for (int j = 0; j < 8; j++) x[j] = i + j < n ? value(p[i + j]) : -INFINITY;
    }
  }
  template <class P>
  __device__ __forceinline__ void write_pack(P *p, const float *x, int64_t i, int64_t n, bool wide) const {
    if (wide && n - i >= 8) {
      store8(p + i, x);
    } else {
#pragma unroll
      for (int j = 0; j < 8; j++)
        if (i + j < n) store(p + i + j, x[j]);
    }
  }

  /* The workers' sums put together: the largest element; the sum of e^(x - m) over all. */
  __device__ __forceinline__ float all_exp_sums(ExpSum e, float *sum_of_exp) const {
    float top = all(e.m, [](float a, float b) { return fmaxf(a, b); });
    *sum_of_exp = all(e.s * fast_exp(e.m - top), [](float a, float b) { return a + b; });
    return top;
  }
  template <class P>
  __device__ __forceinline__ float max_and_exp_sum(int64_t n, const P *p, float *sum_of_exp) const {
    bool wide = ((uintptr_t)p & 15) == 0;
    ExpSum e;
    for (int64_t i = threadIdx.x * 8; i < n; i += blockDim.x * 8) {
      float x[8];
      read_pack(x, p, i, n, wide);
      e.add(x);
    }
    return all_exp_sums(e, sum_of_exp);
  }

  /* The second pass needs p again: the first elements of p are kept in the shared memory that there is, the
   * rest is gone through backwards, since the last elements read are the likeliest to be in a cache. */
  template <class P>
  __device__ __forceinline__ float softmax(int64_t n, P *p, float factor, float *sum_of_exp) const {
    bool wide = ((uintptr_t)p & 15) == 0;
    int64_t pass = blockDim.x * 8, first = threadIdx.x * 8;
    int64_t passes = shared_bytes / (pass * (int64_t)sizeof(P)), kept = n / pass < passes ? n / pass : passes;
    kept = wide ? kept * pass : 0;
    P *copy = (P *)shared;
    ExpSum e;
    float x[8];
    for (int64_t i = first; i < kept; i += pass) {
      load8(x, p + i);
      store8(copy + i, x);
      e.add(x);
    }
    for (int64_t i = kept + first; i < n; i += pass) {
      read_pack(x, p, i, n, wide);
      e.add(x);
    }
    float m = all_exp_sums(e, sum_of_exp), by = factor / *sum_of_exp;
    int64_t last = kept + first + (n - 1 - kept - first) / pass * pass;
    for (int64_t i = last; i >= kept + first; i -= pass) {
      read_pack(x, (const P *)p, i, n, wide);
#pragma unroll
      for (int j = 0; j < 8; j++) x[j] = fast_exp(x[j] - m) * by;
      write_pack(p, x, i, n, wide);
    }
    for (int64_t i = first; i < kept; i += pass) {
      load8(x, copy + i);
#pragma unroll
      for (int j = 0; j < 8; j++) x[j] = fast_exp(x[j] - m) * by;
      store8(p + i, x);
    }
    return m;
  }
  __device__ __forceinline__ bool first() const {
    return threadIdx.x == 0;
  }
  __device__ __forceinline__ void sync() const {
    __syncthreads();
  }

  /* x of all threads, combined; every thread gets the result. */
  template <class S, class Op> __device__ __forceinline__ S all(S x, Op combine) const {
    for (int o = 16; o; o >>= 1) x = combine(x, __shfl_xor_sync(~0u, x, o));
    S *of_warp = (S *)partial;
    __syncthreads(); /* the last reduction's results have been read */
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    x = of_warp[0];
    for (unsigned w = 1; w < blockDim.x / 32; w++) x = combine(x, of_warp[w]);
    return x;
  }
};

#endif
#endif
