/* Runs row functors on a device: on the CPU a lane a row, shared out over the threads; on CUDA a block a row.
 *
 * A row functor is a plain struct of what the operation needs, with
 *
 *   template <class G> HD void operator()(G g, int64_t row) const;
 *
 * A "row" is whatever is worth a group's while: a row of a matrix, or a block of elements of a vector. */
#ifndef LAUNCH_CUH
#define LAUNCH_CUH

#include <limits.h>

#include "device/device.h"  // defines: Device
#include "device/group.cuh" // defines: Lane, Block, HD
#ifdef __CUDACC__
#include "device/device_cuda.h" // defines: cuda_check
#endif

constexpr int64_t ELEMENTS_A_ROW = 4096;         /* of a vector that is handed out in blocks */
constexpr int64_t COLUMN_SEGMENT_ROWS = 32;      /* rows whose column sums one group adds up */
constexpr int64_t COLUMN_SEGMENTS = 64;          /* groups of column sums at a time, at most, on the CPU */
constexpr int64_t CUDA_COLUMN_SEGMENTS = 1024;   /* and on CUDA: several blocks for each multiprocessor */
constexpr int64_t REDUCTION_WORKSPACE = 8 << 20; /* bytes of dev->workspace that reductions use, at most */
constexpr int64_t PAST_CACHES = 16 << 20; /* bytes: new results of that size go past the CPU's caches */

/* Rows of ELEMENTS_A_ROW that n elements make, and the elements in one of them. */
static inline int64_t element_rows(int64_t n) {
  return (n + ELEMENTS_A_ROW - 1) / ELEMENTS_A_ROW;
}
HD int64_t row_elements(int64_t n, int64_t row) {
  int64_t left = n - row * ELEMENTS_A_ROW;
  return left < ELEMENTS_A_ROW ? left : ELEMENTS_A_ROW;
}

#ifdef __CUDACC__
constexpr int LAUNCH_THREADS =
    256;                          /* of a block; group.cuh's reductions take any multiple of 32 up to 1024 */
constexpr int MAX_BLOCKS = 65535; /* a block takes every MAX_BLOCKS-th row when there are more */

template <class F> __global__ void __launch_bounds__(LAUNCH_THREADS) row_kernel(F f, int64_t rows) {
  __shared__ __align__(16) float scratch[GROUP_SCRATCH];
  __shared__ double partial[32];
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    f(Block{scratch, partial}, row);
    __syncthreads(); /* scratch is free again */
  }
}

/* f(block, row) for every row, in any order, on a CUDA device. */
template <class F> static void launch_blocks(Device *dev, int64_t rows, F f) {
  if (rows <= 0) return;
  unsigned blocks = rows < MAX_BLOCKS ? (unsigned)rows : (unsigned)MAX_BLOCKS;
  row_kernel<<<blocks, LAUNCH_THREADS, 0, (cudaStream_t)dev->stream>>>(f, rows);
  cuda_check(dev, __PRETTY_FUNCTION__, cudaGetLastError()); /* names F, which is named after the operation */
}

template <class F> __global__ void __launch_bounds__(F::THREADS, F::BLOCKS) tile_kernel(F f, int64_t items) {
  extern __shared__ __align__(128) char shared[];
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    f(shared, item);
    __syncthreads(); /* shared is free again */
  }
}

/* f(shared, item) for every item, begun in their order, on a CUDA device: by blocks of F::THREADS threads
 * that have F::SHARED bytes of shared memory, at a multiple of 128; F::BLOCKS of them should fit a
 * multiprocessor. */
template <class F> static void launch_tiles(Device *dev, int64_t items, F f) {
  static_assert(F::SHARED <= 99 << 10, "more than a block may have on every chip");
  if (items <= 0) return;
  unsigned blocks = items < INT_MAX ? (unsigned)items : (unsigned)INT_MAX;
  cuda_check(
      dev, __PRETTY_FUNCTION__,
      cudaFuncSetAttribute(tile_kernel<F>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)F::SHARED));
  tile_kernel<<<blocks, F::THREADS, F::SHARED, (cudaStream_t)dev->stream>>>(f, items);
  cuda_check(dev, __PRETTY_FUNCTION__, cudaGetLastError());
}
#endif

/* f(group, row) for every row, in any order. new_bytes: of all that the rows make with produce(). */
template <class F> static void launch_rows(Device *dev, int64_t rows, F f, int64_t new_bytes = 0) {
  if (rows <= 0) return;
#ifdef HAS_BLOCKS
  if (dev->kind == DEVICE_CUDA) {
    launch_blocks(dev, rows, f);
    return;
  }
#endif
  bool past_caches = new_bytes >= PAST_CACHES;
#pragma omp parallel num_threads(dev->threads) if (rows > 1)
  {
#pragma omp for schedule(static) nowait
    for (int64_t row = 0; row < rows; row++) {
      alignas(64) float scratch[GROUP_SCRATCH];
      f(Lane{scratch, past_caches}, row);
    }
    if (past_caches) cpu_end_of_stores_past_caches();
  }
}

/* One group's part of launch_column_sums. */
template <class F> struct ColumnSegment {
  F f;
  int64_t rows, begin, width; /* rows of the matrix; first row of segment 0; sums of a segment */
  float *partial;             /* [segments, width] */

  template <class G> HD void operator()(G g, int64_t segment) const {
    float *sums = partial + segment * width;
    int64_t row = begin + segment * COLUMN_SEGMENT_ROWS;
    int64_t end = row + COLUMN_SEGMENT_ROWS < rows ? row + COLUMN_SEGMENT_ROWS : rows;
    g.each(
        width, [](float &sum) { sum = 0.f; }, sums);
    g.sync();
    for (; row < end; row++) f(g, row, sums);
  }
};

/* Adds the sums of the segments to out [n], in an order that depends on n and the device only. */
struct AddSegments {
  float *out;
  const float *partial; /* [segments, width], from the first column of out on */
  int64_t n, width, segments;

  /* A lane takes GROUP_SCRATCH columns, and the segments in turn. */
  HD void operator()(Lane g, int64_t part) const {
    int64_t begin = part * GROUP_SCRATCH, count = n - begin < GROUP_SCRATCH ? n - begin : GROUP_SCRATCH;
    g.each(
        count, [](float &sum) { sum = 0.f; }, g.scratch);
    for (int64_t s = 0; s < segments; s++)
      g.each(
          count, [](float &sum, float x) { sum += x; }, g.scratch, partial + s * width + begin);
    g.each(
        count, [](float &total, float sum) { total += sum; }, out + begin, (const float *)g.scratch);
  }

#ifdef HAS_BLOCKS
  /* A block takes 32 columns: its warps share out the segments, and their sums are added in order. */
  __device__ void operator()(Block g, int64_t part) const {
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    int64_t column = part * 32 + lane;
    float sum = 0.f;
    if (column < n) {
#pragma unroll 8
      for (int64_t s = warp; s < segments; s += warps) sum += partial[s * width + column];
    }
    g.scratch[warp * 32 + lane] = sum; /* below GROUP_SCRATCH for blocks of up to 512 threads */
    g.sync();
    if (warp > 0 || column >= n) return;
    for (unsigned w = 1; w < warps; w++) sum += g.scratch[w * 32 + lane];
    out[column] += sum;
  }
#endif
};

/* Column sums over many rows: f(group, row, sums) adds what a row contributes to sums [vectors * n], and
 * out[k] [n] += columns k*n ... k*n + n - 1, summed over the rows. A sum of sums of COLUMN_SEGMENT_ROWS
 * rows, in an order that depends on the kind of device, rows and n only. f may also do a row's other work:
 * each row is visited once. Where a worker reads a sum that another wrote, f has to put a sync(). Scratch:
 * dev->workspace. */
template <class F>
static void launch_column_sums(Device *dev, int64_t rows, int64_t n, int vectors, float *const *out, F f) {
  int64_t width = n * vectors, fit = REDUCTION_WORKSPACE / (int64_t)sizeof(float) / width;
  int64_t wanted = dev->kind == DEVICE_CPU ? COLUMN_SEGMENTS : CUDA_COLUMN_SEGMENTS;
  int64_t most = fit < wanted ? fit : wanted;
  CHECK(most > 0, "column sums of width %lld do not fit %lld bytes", (long long)width,
        (long long)REDUCTION_WORKSPACE);
  CHECK(dev->workspace_bytes >= (size_t)(most * width) * sizeof(float),
        "column sums: %zu bytes of workspace, %zu are needed", dev->workspace_bytes,
        (size_t)(most * width) * sizeof(float));
  float *partial = (float *)dev->workspace;
  for (int64_t begin = 0; begin < rows; begin += most * COLUMN_SEGMENT_ROWS) {
    int64_t segments = (rows - begin + COLUMN_SEGMENT_ROWS - 1) / COLUMN_SEGMENT_ROWS;
    if (segments > most) segments = most;
    launch_rows(dev, segments, ColumnSegment<F>{f, rows, begin, width, partial});
    int64_t columns = dev->kind == DEVICE_CPU ? GROUP_SCRATCH : 32; /* that a group takes */
    for (int k = 0; k < vectors; k++)
      launch_rows(dev, (n + columns - 1) / columns, AddSegments{out[k], partial + k * n, n, width, segments});
  }
}

#endif
