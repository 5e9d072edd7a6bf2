/* Matrices for the tests of operations, in memory whose unused parts are watched. */
#ifndef TENSOR_CUH
#define TENSOR_CUH

#include <stdlib.h>
#include <string.h>

#include "device/random.cuh" // defines: random_element, bf16, value, store
#include "test/mirror.cuh"   // defines: Mirror, open_test_device

/* [rows, cols] with rows ld apart. Every byte is 0xff at first, which is NaN in fp32 and bf16: an operation
 * that reads what it should not, or leaves out an element, shows. */
typedef struct Tensor {
  Mirror *memory; /* with GUARD_BYTES before the first and after the last row */
  DType dtype;
  int64_t rows, cols, ld;
} Tensor;

enum { GUARD_BYTES = 256 };

static inline size_t tensor_bytes(const Tensor *t) {
  return (size_t)(t->rows * t->ld) * dtype_size(t->dtype);
}

static inline Tensor tensor_new(DType dtype, int64_t rows, int64_t cols, int64_t ld) {
  Tensor t = {NULL, dtype, rows, cols, ld};
  size_t bytes = tensor_bytes(&t) + 2 * GUARD_BYTES;
  t.memory = mirror_new(bytes);
  memset(t.memory->host, 0xff, bytes);
  return t;
}

static inline void tensor_free(Tensor *t) {
  mirror_free(t->memory);
  t->memory = NULL;
}

/* The first row: for an operation on the device, and for the test on the host. See mirror_use, mirror_read.
 */
static inline void *on_device(const Tensor *t) {
  return (char *)mirror_use(t->memory) + GUARD_BYTES;
}
static inline const void *on_host(const Tensor *t) {
  return (const char *)mirror_read(t->memory) + GUARD_BYTES;
}

static inline double tensor_get(const Tensor *t, int64_t row, int64_t col) {
  int64_t i = row * t->ld + col;
  const void *data = on_host(t);
  return t->dtype == DT_FP32 ? value(((const float *)data)[i]) : value(((const bf16 *)data)[i]);
}

static inline void tensor_set(const Tensor *t, int64_t row, int64_t col, float x) {
  int64_t i = row * t->ld + col;
  char *data = (char *)mirror_write(t->memory) + GUARD_BYTES;
  if (t->dtype == DT_FP32)
    store((float *)data + i, x);
  else
    store((bf16 *)data + i, x);
}

/* Uniform in [-scale, scale), from seed and element only. */
static inline void tensor_random(const Tensor *t, float scale, uint64_t seed) {
  for (int64_t i = 0; i < t->rows; i++) {
    for (int64_t j = 0; j < t->cols; j++) {
      uint32_t bits = random_element(seed, 0, 0, i * t->cols + j).x[0];
      tensor_set(t, i, j, scale * ((float)(bits >> 8) * 0x1p-23f - 1.0f));
    }
  }
}

/* True while nothing was written between the rows, before the first or after the last. */
static inline bool tensor_guards_whole(const Tensor *t) {
  const unsigned char *p = (const unsigned char *)on_host(t);
  size_t size = dtype_size(t->dtype), width = (size_t)t->cols * size, stride = (size_t)t->ld * size;
  bool whole = true;
  for (int i = 0; i < GUARD_BYTES; i++) whole &= p[-1 - i] == 0xff && p[tensor_bytes(t) + i] == 0xff;
  for (int64_t i = 0; i < t->rows; i++) {
    for (size_t j = width; j < stride; j++) whole &= p[i * stride + j] == 0xff;
  }
  return whole;
}

/* Unit roundoff: the largest relative error of rounding to the type. */
static inline double roundoff(DType dtype) {
  return dtype == DT_FP32 ? 0x1p-24 : 0x1p-8;
}

#endif
