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

constexpr int64_t ELEMENTS_A_ROW = 4096;          /* of a vector that is handed out in blocks */
constexpr int64_t COLUMN_SEGMENTS = 64;           /* groups of column sums at a time, at most, on the CPU */
constexpr int64_t COLUMN_SEGMENT_ROWS = 32;       /* rows that each adds up */
constexpr int64_t CUDA_COLUMN_SEGMENTS = 1024;    /* on CUDA: several blocks for each multiprocessor, */
constexpr int64_t CUDA_COLUMN_SEGMENT_ROWS = 128; /* and rows at most: shared out evenly */
constexpr int64_t REDUCTION_WORKSPACE = 8 << 20;  /* bytes of dev->workspace that reductions use, at most */
constexpr int64_t PAST_CACHES = 16 << 20; /* bytes: new results of that size go past the CPU's caches */

/* Rows of ELEMENTS_A_ROW that n elements make, and the elements in one of them. */
static inline int64_t element_rows(int64_t n) {
  return (n + ELEMENTS_A_ROW - 1) / ELEMENTS_A_ROW;
}
HD int64_t row_elements(int64_t n, int64_t row) {
  int64_t left = n - row * ELEMENTS_A_ROW;
  return left < ELEMENTS_A_ROW ? left : ELEMENTS_A_ROW;
}

/* Threads of a block that takes a long row; group.cuh's reductions take any multiple of 32 up to 1024. */
constexpr int LAUNCH_THREADS = 256;

/* What a launch may be told of its rows. */
typedef struct RowHints {
  int64_t
      elements; /* that a block visits at a time; 0: many. A block has no more threads than work on them */
  int64_t new_bytes; /* of all that the rows make with produce() */
} RowHints;

/* Threads of a block for rows of so many elements, eight to a thread. */
static inline int block_threads(int64_t elements) {
  int64_t threads = (elements + 255) / 256 * 32;
  return elements > 0 && threads < LAUNCH_THREADS ? (int)threads : LAUNCH_THREADS;
}

#ifdef __CUDACC__
constexpr int MAX_BLOCKS = 65535; /* a block takes every MAX_BLOCKS-th row when there are more */

template <int MOST_THREADS, class F>
__global__ void __launch_bounds__(MOST_THREADS) row_kernel(F f, int64_t rows, int64_t shared_bytes) {
  __shared__ __align__(16) float scratch[GROUP_SCRATCH];
  __shared__ double partial[32];
  extern __shared__ __align__(128) char shared[];
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    f(Block{scratch, partial, shared, shared_bytes}, row);
    __syncthreads(); /* scratch and shared are free again */
  }
}

/* Bytes of shared memory that a block may ask for when `blocks` of them are to fit a multiprocessor. */
static inline int64_t block_shared_bytes(const Device *dev, int blocks) {
  const int64_t own = GROUP_SCRATCH * sizeof(float) + 32 * sizeof(double);
  const CudaDevice *cuda = dev->cuda;
  int64_t share = cuda->shared_of_multiprocessor / blocks - cuda->shared_reserved;
  return ((share < cuda->shared_of_block ? share : cuda->shared_of_block) - own) / 128 * 128;
}

/* f(block, row) for every row, in any order, on a CUDA device: blocks of `threads`, MOST_THREADS at most,
 * each with shared_bytes of shared memory. */
template <int MOST_THREADS = LAUNCH_THREADS, class F>
static void launch_blocks(Device *dev, int64_t rows, F f, int threads = MOST_THREADS,
                          int64_t shared_bytes = 0) {
  if (rows <= 0) return;
  unsigned blocks = rows < MAX_BLOCKS ? (unsigned)rows : (unsigned)MAX_BLOCKS;
  if (shared_bytes > 0)
    cuda_check(dev, __PRETTY_FUNCTION__,
               cudaFuncSetAttribute(row_kernel<MOST_THREADS, F>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    (int)shared_bytes));
  row_kernel<MOST_THREADS>
      <<<blocks, threads, (size_t)shared_bytes, (cudaStream_t)dev->stream>>>(f, rows, shared_bytes);
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

/* f(lane, row) for every row, on the CPU. */
template <class F> static void launch_lanes(Device *dev, int64_t rows, F f, int64_t new_bytes = 0) {
  if (rows <= 0) return;
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

/* f(group, row) for every row, in any order. */
template <class F> static void launch_rows(Device *dev, int64_t rows, F f, RowHints hints = RowHints()) {
#ifdef HAS_BLOCKS
  if (dev->kind == DEVICE_CUDA) {
    launch_blocks(dev, rows, f, block_threads(hints.elements));
    return;
  }
#endif
  launch_lanes(dev, rows, f, hints.new_bytes);
}

/* One group's part of launch_column_sums. */
template <class F> struct ColumnSegment {
  F f;
  int64_t rows, begin, width; /* rows of the matrix; first row of segment 0; sums of a segment */
  int64_t segment_rows;
  float *partial; /* [segments, width] */

  template <class G> HD void add_rows(G g, int64_t segment, float *sums) const {
    int64_t row = begin + segment * segment_rows;
    int64_t end = row + segment_rows < rows ? row + segment_rows : rows;
    g.each(
        width, [](float &sum) { sum = 0.f; }, sums);
    g.sync();
    for (; row < end; row++) f(g, row, sums);
  }

  HD void operator()(Lane g, int64_t segment) const { add_rows(g, segment, partial + segment * width); }

#ifdef HAS_BLOCKS
  /* Every row changes the sums: they are in the block's shared memory where that holds them. */
  __device__ void operator()(Block g, int64_t segment) const {
    bool fit = width * (int64_t)sizeof(float) <= g.shared_bytes;
    float *sums = partial + segment * width, *at = fit ? (float *)g.shared : sums;
    add_rows(g, segment, at);
    if (!fit) return;
    g.sync();
    g.each(
        width, [](float &sum, float x) { sum = x; }, sums, (const float *)at);
  }
#endif
};

/* Has groups add up the segments' rows, of n elements. */
template <class F> static void launch_segments(Device *dev, int64_t segments, ColumnSegment<F> f, int64_t n) {
#ifdef HAS_BLOCKS
  if (dev->kind == DEVICE_CUDA) {
    int64_t bytes = f.width * (int64_t)sizeof(float);
    bool fit = bytes <= block_shared_bytes(dev, 4); /* fewer blocks would not keep the memory busy */
    launch_blocks(dev, segments, f, block_threads(n), fit ? (bytes + 127) / 128 * 128 : 0);
    return;
  }
#endif
  (void)n;
  launch_lanes(dev, segments, f);
}

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
#pragma unroll 16
      for (int64_t s = warp; s < segments; s += warps) sum += partial[s * width + column];
    }
    g.scratch[warp * 32 + lane] = sum; /* of GROUP_SCRATCH: at most 512 threads */
    g.sync();
    if (warp > 0 || column >= n) return;
    for (unsigned w = 1; w < warps; w++) sum += g.scratch[w * 32 + lane];
    out[column] += sum;
  }
#endif
};

static inline void add_segments(Device *dev, AddSegments f) {
#ifdef HAS_BLOCKS
  if (dev->kind == DEVICE_CUDA) {
    launch_blocks<512>(dev, (f.n + 31) / 32, f);
    return;
  }
#endif
  launch_lanes(dev, (f.n + GROUP_SCRATCH - 1) / GROUP_SCRATCH, f);
}

/* Groups that share out rows of n elements: how many at most, and what each takes of `rows` rows. */
typedef struct Segments {
  int64_t most, rows;
} Segments;
static inline Segments column_segments(const Device *dev, int64_t rows, int64_t n, int64_t fit) {
  if (dev->kind == DEVICE_CPU)
    return Segments{fit < COLUMN_SEGMENTS ? fit : COLUMN_SEGMENTS, COLUMN_SEGMENT_ROWS};
  int64_t smaller = LAUNCH_THREADS / block_threads(n); /* of smaller blocks more fit a multiprocessor */
  int64_t wanted = CUDA_COLUMN_SEGMENTS * (smaller < 4 ? smaller : 4), most = fit < wanted ? fit : wanted;
  int64_t share = most > 0 ? (rows + most - 1) / most : 0;
  return Segments{most, share < CUDA_COLUMN_SEGMENT_ROWS ? share : CUDA_COLUMN_SEGMENT_ROWS};
}

/* Column sums over many rows: f(group, row, sums) adds what a row contributes to sums [vectors * n], and
 * out[k] [n] += columns k*n ... k*n + n - 1, summed over the rows. A sum of sums of some rows each, in an
 * order that depends on the kind of device, rows and n only. f may also do a row's other work:
 * each row is visited once. Where a worker reads a sum that another wrote, f has to put a sync(). Scratch:
 * dev->workspace. */
template <class F>
static void launch_column_sums(Device *dev, int64_t rows, int64_t n, int vectors, float *const *out, F f) {
  int64_t width = n * vectors;
  Segments share = column_segments(dev, rows, n, REDUCTION_WORKSPACE / (int64_t)sizeof(float) / width);
  CHECK(share.most > 0, "column sums of width %lld do not fit %lld bytes", (long long)width,
        (long long)REDUCTION_WORKSPACE);
  CHECK(dev->workspace_bytes >= (size_t)(share.most * width) * sizeof(float),
        "column sums: %zu bytes of workspace, %zu are needed", dev->workspace_bytes,
        (size_t)(share.most * width) * sizeof(float));
  float *partial = (float *)dev->workspace;
  for (int64_t begin = 0; begin < rows; begin += share.most * share.rows) {
    int64_t segments = (rows - begin + share.rows - 1) / share.rows;
    if (segments > share.most) segments = share.most;
    launch_segments(dev, segments, ColumnSegment<F>{f, rows, begin, width, share.rows, partial}, n);
    for (int k = 0; k < vectors; k++)
      add_segments(dev, AddSegments{out[k], partial + k * n, n, width, segments});
  }
}

#endif
