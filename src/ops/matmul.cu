/* Matrix products: on CUDA by cublasLt (matmul_cuda.cu), on the CPU by sgemm, directly for fp32 and
 * on converted tiles for bf16. */
#include <limits.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "ops/matmul.h"
#include "base/process.h"   // defines: process_cpu_seconds
#include "device/blas.h"    // defines: cblas_sgemm
#include "device/group.cuh" // defines: bf16, value, store
#include "ops/convert.h"    // defines: fill_constant, fill_normal
#ifdef __CUDACC__
#include "ops/matmul_cuda.h" // defines: matmul_cuda
#endif

/* bf16 is multiplied tile by tile: three fp32 tiles of this many rows and columns, 12 MiB of workspace. */
static const int64_t tile_rows = 1024;

/* Longest stretch of M or K that one call of sgemm, whose sizes are int, is given. */
static const int64_t call_rows = (int64_t)1 << 30;

static int64_t min64(int64_t a, int64_t b) {
  return a < b ? a : b;
}

/* Offset of the element (row, col) of op(a), where a is stored transposed or not. */
static int64_t offset_of(Matrix a, bool transposed, int64_t row, int64_t col) {
  return transposed ? col * a.ld + row : row * a.ld + col;
}

/* out [M, N] = op(a) op(b) + (accumulate ? out : 0), all fp32, M, N, K > 0. */
static void matmul_fp32(Matrix out, Matrix a, bool transpose_a, Matrix b, bool transpose_b, int64_t M,
                        int64_t N, int64_t K, bool accumulate) {
  CHECK(N <= INT_MAX && out.ld <= INT_MAX && a.ld <= INT_MAX && b.ld <= INT_MAX,
        "matmul: %lld columns in rows of %lld, %lld and %lld elements do not fit BLAS' int", (long long)N,
        (long long)out.ld, (long long)a.ld, (long long)b.ld);
  for (int64_t m = 0; m < M; m += call_rows) {
    for (int64_t k = 0; k < K; k += call_rows) {
      cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
                  transpose_b ? CblasTrans : CblasNoTrans, (int)min64(call_rows, M - m), (int)N,
                  (int)min64(call_rows, K - k), 1.0f, (const float *)a.data + offset_of(a, transpose_a, m, k),
                  (int)a.ld, (const float *)b.data + offset_of(b, transpose_b, k, 0), (int)b.ld,
                  k > 0 || accumulate ? 1.0f : 0.0f, (float *)out.data + m * out.ld, (int)out.ld);
    }
  }
}

/* tile [rows, cols] fp32 = rows and columns of a, both as a is stored, from element `first` on. */
static Matrix load_tile(Device *dev, float *tile, Matrix a, int64_t first, int64_t rows, int64_t cols) {
  const bf16 *from = (const bf16 *)a.data + first;
#pragma omp parallel for num_threads(dev->threads)
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t j = 0; j < cols; j++) tile[i * cols + j] = value(from[i * a.ld + j]);
  }
  return Matrix{tile, DT_FP32, cols};
}

/* The tile of op(a) that begins at (row, col) and has rows x cols elements; transposed as a is. */
static Matrix load_operand(Device *dev, float *tile, Matrix a, bool transposed, int64_t row, int64_t col,
                           int64_t rows, int64_t cols) {
  int64_t first = offset_of(a, transposed, row, col);
  return transposed ? load_tile(dev, tile, a, first, cols, rows) : load_tile(dev, tile, a, first, rows, cols);
}

/* out at (row, col) = tile [rows, cols] + (accumulate ? out : 0), rounded once. */
static void store_tile(Device *dev, Matrix out, const float *tile, int64_t row, int64_t col, int64_t rows,
                       int64_t cols, bool accumulate) {
  bf16 *to = (bf16 *)out.data + row * out.ld + col;
#pragma omp parallel for num_threads(dev->threads)
  for (int64_t i = 0; i < rows; i++) {
    bf16 *y = to + i * out.ld;
    const float *x = tile + i * cols;
    if (accumulate) {
      for (int64_t j = 0; j < cols; j++) store(&y[j], x[j] + value(y[j]));
    } else {
      for (int64_t j = 0; j < cols; j++) store(&y[j], x[j]);
    }
  }
}

/* The same for bf16 a and b, and out of either type; K > 0. */
static void matmul_bf16(Device *dev, Matrix out, Matrix a, bool transpose_a, Matrix b, bool transpose_b,
                        int64_t M, int64_t N, int64_t K, bool accumulate) {
  int64_t tile = tile_rows * tile_rows;
  CHECK(dev->workspace_bytes >= 3 * tile * sizeof(float), "matmul: %zu bytes of workspace, %zu are needed",
        dev->workspace_bytes, 3 * tile * sizeof(float));
  float *tile_a = (float *)dev->workspace, *tile_b = tile_a + tile, *tile_out = tile_b + tile;
  for (int64_t m = 0; m < M; m += tile_rows) {
    int64_t rows = min64(tile_rows, M - m);
    for (int64_t n = 0; n < N; n += tile_rows) {
      int64_t cols = min64(tile_rows, N - n);
      Matrix sum = {tile_out, DT_FP32, cols};
      if (out.dtype == DT_FP32) sum = Matrix{(float *)out.data + m * out.ld + n, DT_FP32, out.ld};
      for (int64_t k = 0; k < K; k += tile_rows) {
        int64_t depth = min64(tile_rows, K - k);
        Matrix x = load_operand(dev, tile_a, a, transpose_a, m, k, rows, depth);
        Matrix y = load_operand(dev, tile_b, b, transpose_b, k, n, depth, cols);
        bool add = k > 0 || (accumulate && out.dtype == DT_FP32);
        matmul_fp32(sum, x, transpose_a, y, transpose_b, rows, cols, depth, add);
      }
      if (out.dtype == DT_BF16) store_tile(dev, out, tile_out, m, n, rows, cols, accumulate);
    }
  }
}

/* out [M, N] = from [M, N], of out's type and ld. */
static void copy_rows(Device *dev, Matrix out, const void *from, int64_t M, int64_t N) {
  size_t e = dtype_size(out.dtype), row = (size_t)out.ld * e;
#pragma omp parallel for num_threads(dev->threads)
  for (int64_t i = 0; i < M; i++)
    memcpy((char *)out.data + (size_t)i * row, (const char *)from + (size_t)i * row, (size_t)N * e);
}

void matmul(Device *dev, Matrix out, Matrix a, bool transpose_a, Matrix b, bool transpose_b, int64_t M,
            int64_t N, int64_t K, const void *add) {
  CHECK(a.dtype == b.dtype && (a.dtype == DT_FP32 || a.dtype == DT_BF16) &&
            (out.dtype == a.dtype || out.dtype == DT_FP32),
        "matmul: no product of %s and %s into %s", dtype_name(a.dtype), dtype_name(b.dtype),
        dtype_name(out.dtype));
  if (M == 0 || N == 0) return;
#ifdef __CUDACC__
  if (dev->kind == DEVICE_CUDA) {
    matmul_cuda(dev, out, a, transpose_a, b, transpose_b, M, N, K, add);
    return;
  }
#endif
  if (add && add != out.data) copy_rows(dev, out, add, M, N);
  bool accumulate = add != NULL;
  if (K == 0) {
    size_t size = dtype_size(out.dtype);
    for (int64_t m = 0; m < M && !accumulate; m++) memset((char *)out.data + m * out.ld * size, 0, N * size);
  } else if (a.dtype == DT_FP32) {
    matmul_fp32(out, a, transpose_a, b, transpose_b, M, N, K, accumulate);
  } else {
    matmul_bf16(dev, out, a, transpose_a, b, transpose_b, M, N, K, accumulate);
  }
}

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double matmul_measure_rate(Device *dev, DType dt, double seconds, double *per_cpu_second) {
  /* large enough for a GPU's full rate; a CPU comes within 3 % of its own with 768 */
  int64_t n = dev->kind != DEVICE_CPU ? 8192 : seconds < 0.1 ? 768 : 1280;
  const int64_t least = 256;
  size_t workspace = device_workspace_bytes(dev, dt), bytes = 0;
  char *memory = NULL;
  Error e = {};
  for (;; n /= 2) {
    bytes = (size_t)(n * n) * dtype_size(dt);
    memory = (char *)device_alloc(dev, workspace + 3 * bytes, &e);
    if (memory || n <= least) break;
  }
  if (!memory) return NAN; /* what is to be computed will not find its memory either, and then says so */
  void *planned = dev->workspace; /* perhaps not there yet: the measurement brings its own */
  size_t planned_bytes = dev->workspace_bytes;
  dev->workspace_bytes = workspace;
  dev->workspace = memory;
  Matrix m[3]; /* out, a, b, each [n, n] */
  for (int i = 0; i < 3; i++) {
    m[i] = Matrix{memory + workspace + (size_t)i * bytes, dt, n};
    /* a GPU multiplies zeros faster than numbers: they take less power; a CPU needs pages of its own */
    if (dev->kind == DEVICE_CPU)
      fill_constant(dev, m[i].data, dt, 1.f, n * n);
    else
      fill_normal(dev, m[i].data, dt, 1.f, 1, i, 0, n * n);
  }
  matmul(dev, m[0], m[1], false, m[2], true, n, n, n, NULL); /* makes the plan */
  device_synchronize(dev);
  double best = 0, flops = 0, cpu = process_cpu_seconds(), start = seconds_now(), now = start;
  do {
    double begin = now;
    matmul(dev, m[0], m[1], false, m[2], true, n, n, n, NULL);
    device_synchronize(dev);
    now = seconds_now();
    double product = 2.0 * (double)n * (double)n * (double)n;
    if (product / (now - begin) > best) best = product / (now - begin);
    flops += product;
  } while (now - start < seconds);
  if (per_cpu_second) *per_cpu_second = flops / (process_cpu_seconds() - cpu);
  device_free(dev, memory, workspace + 3 * bytes);
  dev->workspace = planned;
  dev->workspace_bytes = planned_bytes;
  return best;
}
