/* What the kernels of the attention on CUDA share: tiles of rows in shared memory, the products of a warp's
 * rows with them, and which elements of a product the mask lets through. bf16 is multiplied on tensor cores,
 * fp32 by plain multiplications and additions with the same fragments (ops/mma.cuh). Private to
 * src/ops/attention_flash_*. */
#ifndef ATTENTION_FLASH_TILES_CUH
#define ATTENTION_FLASH_TILES_CUH

#include "ops/attention.h"
#include "ops/documents.cuh" // defines: document_end
#include "ops/mma.cuh"       // defines: bf16, load_matrices, mma_16x8x16, copy16_begin, fast_exp2

constexpr float LOG2_E = 1.44269504088896341f;
constexpr int WARP_ROWS = 16; /* of a fragment */

/* Rows of a tile that is streamed past a block's own: a power of two of them, at most `most`, in `bytes`. */
constexpr int streamed_rows(int row_bytes, int bytes, int most) {
  int rows = most;
  while (rows > 8 && rows * row_bytes > bytes) rows /= 2;
  return rows;
}

/* ---- tiles ---- */

/* Where the 16 bytes `chunk` of a row begin, in elements, in a tile of rows of HS. The chunks of a row are
 * mixed, so that the same chunk of eight rows lies in different banks. */
template <class T, int HS> __device__ __forceinline__ int tile_at(int row, int chunk) {
  constexpr int chunk_elements = 16 / (int)sizeof(T), chunks = HS / chunk_elements;
  static_assert(chunks % 4 == 0, "rows have to be a multiple of 64 bytes");
  int mixed = chunks % 8 == 0 ? (chunk & ~7) + ((chunk ^ row) & 7) : (chunk & ~3) + ((chunk ^ row >> 1) & 3);
  return row * HS + mixed * chunk_elements;
}

/* One head's rows in global memory. */
template <class T> struct HeadRows {
  T *data;    /* its first row */
  int64_t ld; /* from row to row */
  int width;  /* HS */
};

template <class T> static HeadRows<T> head_rows(Heads heads, int64_t width) {
  return HeadRows<T>{(T *)heads.data, heads.ld, (int)width};
}

/* The rows from `row` on, of head `head`. */
template <class T>
__device__ __forceinline__ HeadRows<T> rows_from(HeadRows<T> x, int64_t row, int64_t head) {
  x.data += row * x.ld + head * x.width;
  return x;
}

/* Begins to copy ROWS rows to a tile; rows from `rows` on and columns from the width on become 0. Complete
 * after copies_wait() and a barrier. */
template <int THREADS, int ROWS, int HS, class T>
__device__ __forceinline__ void tile_begin(T *tile, HeadRows<const T> x, int64_t rows) {
  constexpr int chunk_elements = 16 / (int)sizeof(T), chunks = HS / chunk_elements;
  constexpr int rows_at_once = THREADS / chunks; /* a thread keeps to its column */
  bool wide = (((uintptr_t)x.data | (uint64_t)x.ld * sizeof(T)) & 15) == 0 && x.width % chunk_elements == 0;
  int present = rows < ROWS ? (int)rows : ROWS, first = (int)threadIdx.x / chunks;
  int chunk = (int)threadIdx.x % chunks, column = chunk * chunk_elements;
  if (THREADS % chunks != 0 && first >= rows_at_once) first = ROWS; /* has no column */
  const T *from = x.data + first * x.ld + column;
#pragma unroll 1
  for (int row = first; row < ROWS; row += rows_at_once, from += rows_at_once * x.ld) {
    T *to = tile + tile_at<T, HS>(row, chunk);
    bool there = row < present && column < x.width;
    if (wide) {
      copy16_begin(to, there ? from : x.data, there);
      continue;
    }
    for (int j = 0; j < chunk_elements; j++) {
      if (there && column + j < x.width)
        to[j] = from[j];
      else
        store(&to[j], 0.f);
    }
  }
  warp_converge();
}

/* ---- products of a warp ---- */

/* The accumulators of ROWS x COLUMNS elements: lane by lane [ROWS / 16][COLUMNS / 8][4]. */
template <int ROWS, int COLUMNS> struct Fragments {
  float x[ROWS / WARP_ROWS][COLUMNS / 8][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int m = 0; m < ROWS / WARP_ROWS; m++)
#pragma unroll
      for (int n = 0; n < COLUMNS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) x[m][n][i] = 0.f;
  }
};

/* Row and column of element i of accumulator (m, n), for this lane. */
__device__ __forceinline__ int fragment_row(int m, int i) {
  return m * WARP_ROWS + (int)threadIdx.x % 32 / 4 + i / 2 * 8;
}
__device__ __forceinline__ int fragment_column(int n, int i) {
  return n * 8 + (int)threadIdx.x % 4 * 2 + i % 2;
}

/* s [R, N] = rows of a, times rows of b. a points to the warp's first row, a multiple of 16, of its tile. */
template <int HS, int R, int N>
__device__ __forceinline__ void row_products(Fragments<R, N> &s, const bf16 *a, const bf16 *b) {
  int lane = threadIdx.x % 32;
  s.clear();
#pragma unroll
  for (int k = 0; k < HS / 8; k += 2) {
    uint32_t left[R / WARP_ROWS][4];
#pragma unroll
    for (int m = 0; m < R / WARP_ROWS; m++)
      load_matrices(left[m], a + tile_at<bf16, HS>(m * WARP_ROWS + lane % 16, k + lane / 16));
#pragma unroll
    for (int n = 0; n < N / 8; n += 2) {
      uint32_t right[4];
      load_matrices(right, b + tile_at<bf16, HS>(n * 8 + lane % 8 + lane / 16 * 8, k + lane / 8 % 2));
#pragma unroll
      for (int m = 0; m < R / WARP_ROWS; m++) {
        mma_16x8x16(s.x[m][n], left[m], right);
        mma_16x8x16(s.x[m][n + 1], left[m], right + 2);
      }
    }
  }
}

/* sum [R, HS] += p [R, N], rounded, times b [N, HS] */
template <int HS, int R, int N>
__device__ __forceinline__ void add_product(Fragments<R, HS> &sum, const Fragments<R, N> &p, const bf16 *b) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < N / 8; k += 2) {
    uint32_t left[R / WARP_ROWS][4];
#pragma unroll
    for (int m = 0; m < R / WARP_ROWS; m++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float *pair = &p.x[m][k + i / 2][i % 2 * 2];
        left[m][i] = bf16_pair(pair[0], pair[1]);
      }
#pragma unroll
    for (int d = 0; d < HS / 8; d += 2) {
      uint32_t right[4];
      load_matrices_transposed(right, b + tile_at<bf16, HS>(k * 8 + lane % 16, d + lane / 16));
#pragma unroll
      for (int m = 0; m < R / WARP_ROWS; m++) {
        mma_16x8x16(sum.x[m][d], left[m], right);
        mma_16x8x16(sum.x[m][d + 1], left[m], right + 2);
      }
    }
  }
}

struct alignas(16) Float4 {
  float x[4];
};
struct alignas(8) Float2 {
  float x[2];
};

/* The same in fp32: each lane makes its own elements. */
template <int HS, int R, int N>
__device__ __forceinline__ void row_products(Fragments<R, N> &s, const float *a, const float *b) {
  static_assert(R == WARP_ROWS, "");
  s.clear();
#pragma unroll 2
  for (int k = 0; k < HS / 4; k++) {
    Float4 left[2];
#pragma unroll
    for (int i = 0; i < 2; i++)
      left[i] = *(const Float4 *)(a + tile_at<float, HS>(fragment_row(0, i * 2), k));
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        Float4 right = *(const Float4 *)(b + tile_at<float, HS>(fragment_column(n, i), k));
#pragma unroll
        for (int j = 0; j < 4; j++) {
          s.x[0][n][i] += left[0].x[j] * right.x[j];
          s.x[0][n][i + 2] += left[1].x[j] * right.x[j];
        }
      }
  }
}

template <int HS, int R, int N>
__device__ __forceinline__ void add_product(Fragments<R, HS> &sum, const Fragments<R, N> &p, const float *b) {
  int lane = threadIdx.x % 32, second = lane % 4 / 2; /* chunk of the two that eight columns take */
#pragma unroll
  for (int k = 0; k < N; k++) {
    /* tile_at(k, d * 2 + second), so that all but `row` is known when this is compiled */
    const float *row = b + k % 2 * HS + (second ^ k % 2) * 4 + lane % 2 * 2;
    /* column k of p, from the lane that has it */
    float upper = __shfl_sync(~0u, p.x[0][k / 8][k % 2], lane / 4 * 4 + k % 8 / 2);
    float lower = __shfl_sync(~0u, p.x[0][k / 8][k % 2 + 2], lane / 4 * 4 + k % 8 / 2);
#pragma unroll
    for (int d = 0; d < HS / 8; d++) {
      Float2 right = *(const Float2 *)(row + tile_at<float, HS>(k / 2 * 2, d * 2));
#pragma unroll
      for (int i = 0; i < 2; i++) {
        sum.x[0][d][i] += upper * right.x[i];
        sum.x[0][d][i + 2] += lower * right.x[i];
      }
    }
  }
}

/* x [rows, width] = factor times the fragments; x is the warp's first row. */
template <int HS, int R, class T>
__device__ __forceinline__ void fragments_store(HeadRows<T> x, int64_t rows, const Fragments<R, HS> &f,
                                                float factor) {
#pragma unroll
  for (int m = 0; m < R / WARP_ROWS; m++)
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      int row = fragment_row(m, i);
      if (row >= rows) continue;
      T *to = x.data + row * x.ld;
#pragma unroll
      for (int d = 0; d < HS / 8; d++)
#pragma unroll
        for (int j = i; j < i + 2; j++)
          if (fragment_column(d, j) < x.width) store(&to[fragment_column(d, j)], f.x[m][d][j] * factor);
    }
}

/* ---- the mask ---- */

/* Element (i, j) of a product is seen where low <= j - i <= high. */
struct Band {
  int low, high;
};

constexpr int FAR = 1 << 20; /* beyond any tile */

__device__ __forceinline__ int near(int64_t x) {
  return x < -FAR ? -FAR : x > FAR ? FAR : (int)x;
}

/* Rows are queries, columns keys; `ahead` = first query - first key; window 0: none. */
__device__ __forceinline__ Band band_of_queries(int64_t ahead, int64_t window) {
  return Band{window > 0 ? near(ahead - window + 1) : -FAR, near(ahead)};
}

/* Rows are keys, columns queries. */
__device__ __forceinline__ Band band_of_keys(int64_t ahead, int64_t window) {
  return Band{near(-ahead), window > 0 ? near(window - 1 - ahead) : FAR};
}

/* Whether the band has any, and all, of rows x columns. */
__device__ __forceinline__ bool band_any(Band b, int rows, int columns) {
  return b.high > -rows && b.low < columns;
}
__device__ __forceinline__ bool band_all(Band b, int rows, int columns) {
  return b.low <= 1 - rows && b.high >= columns - 1;
}

/* s = value where it is not seen. */
template <int R, int N> __device__ __forceinline__ void band_apply(Fragments<R, N> &s, Band b, float value) {
#pragma unroll
  for (int m = 0; m < R / WARP_ROWS; m++)
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int off = fragment_column(n, i) - fragment_row(m, i);
        if (off < b.low || off > b.high) s.x[m][n][i] = value;
      }
}

/* ---- documents, in kernels of packed calls ---- */

/* Where the document of a position of sequence b begins. Positions beyond the end are of the last document.
 */
__device__ __forceinline__ int64_t document_start(const AttentionShape &s, int64_t b, int64_t position) {
  return s.starts[b * s.T + (position < s.T ? position : s.T - 1)];
}

__device__ __forceinline__ int64_t later(int64_t a, int64_t b) {
  return a > b ? a : b;
}
__device__ __forceinline__ int64_t earlier(int64_t a, int64_t b) {
  return a < b ? a : b;
}

/* s = -inf where the query is of a later document than the key. Rows are queries, columns keys, from these
 * positions on. */
template <int R, int N>
__device__ __forceinline__ void mask_earlier_keys(Fragments<R, N> &f, const AttentionShape &s, int64_t b,
                                                  int64_t query, int64_t key) {
  if (document_start(s, b, query + R - 1) <= key) return; /* starts never fall */
#pragma unroll
  for (int r = 0; r < R / 8; r++) {
    int m = r / 2, i = r % 2 * 2;
    int64_t first = document_start(s, b, query + fragment_row(m, i)) - key;
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
      for (int j = i; j < i + 2; j++)
        if (fragment_column(n, j) < first) f.x[m][n][j] = -INFINITY;
  }
}

/* The same with keys in rows and queries in columns. */
template <int N>
__device__ __forceinline__ void mask_later_queries(Fragments<WARP_ROWS, N> &f, const AttentionShape &s,
                                                   int64_t b, int64_t key, int64_t query) {
  if (document_start(s, b, query + N - 1) <= key) return;
#pragma unroll
  for (int n = 0; n < N / 8; n++)
#pragma unroll
    for (int j = 0; j < 2; j++) {
      int64_t first = document_start(s, b, query + fragment_column(n, j)) - key;
#pragma unroll
      for (int i = j; i < 4; i += 2)
        if (fragment_row(0, i) < first) f.x[0][n][i] = -INFINITY;
    }
}

#endif
