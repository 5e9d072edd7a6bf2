/* What the tests of the operations share: a device with its workspace, tensors of either storage type that
 * are read and written as doubles, and the comparison with a reference. */
#ifndef OPS_SUPPORT_CUH
#define OPS_SUPPORT_CUH

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device/group.cuh" // defines: bf16, value, store
#include "test/mirror.cuh"  // defines: Mirror, open_test_device

static const DType STORAGE[] = {DT_FP32, DT_BF16};

/* Error, as a share of a tensor's L2 norm, that an operation may add to an exact result. fp32: a dozen
 * roundings of at most 2^-24 each, and the elementary functions' 1.5e-7. bf16: the fp32 error, and the
 * rounding of the result to 8 significant bits, at most 2^-8 of each element. */
static const double FP32_ERROR = 1e-6;
static inline double rounding_error(DType dt) {
  return dt == DT_BF16 ? 0x1p-8 : 0;
}
static inline double storage_error(DType dt) {
  return FP32_ERROR + rounding_error(dt);
}

static inline void open_device(Device *dev, int threads) {
  Error e = {};
  open_test_device(dev, threads);
  dev->workspace_bytes = device_workspace_bytes(dev, DT_FP32);
  dev->workspace = device_alloc(dev, dev->workspace_bytes, &e);
  CHECK(dev->workspace, "%s", e.text);
  device_fill(dev, dev->workspace, 0xff, dev->workspace_bytes); /* NaN: scratch has no contents to rely on */
}

static inline void close_device(Device *dev) {
  device_free(dev, dev->workspace, dev->workspace_bytes);
  device_close(dev);
}

/* Uniform in [-1, 1); a linear congruential generator with the seed in the caller's hand. */
static inline double uniform(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (double)(*state >> 11) * 0x1p-52 - 1;
}

typedef struct Tensor {
  DType dt;
  int64_t n;
  Mirror *memory; /* exactly n elements */
} Tensor;

/* For an operation on the device, and for the test on the host: see mirror_use and mirror_read. */
static inline void *on_device(const Tensor *t) {
  return mirror_use(t->memory);
}
static inline const void *on_host(const Tensor *t) {
  return mirror_read(t->memory);
}

static inline double get(const Tensor *t, int64_t i) {
  CHECK(i >= 0 && i < t->n, "element %lld of %lld", (long long)i, (long long)t->n);
  const void *data = mirror_read(t->memory);
  return t->dt == DT_FP32 ? (double)((const float *)data)[i] : (double)value(((const bf16 *)data)[i]);
}
static inline void set(Tensor *t, int64_t i, double x) {
  CHECK(i >= 0 && i < t->n, "element %lld of %lld", (long long)i, (long long)t->n);
  void *data = mirror_write(t->memory);
  if (t->dt == DT_FP32)
    ((float *)data)[i] = (float)x;
  else
    store((bf16 *)data + i, (float)x);
}
/* All NaN: an output that is read before it is written shows. */
static inline Tensor tensor_new(DType dt, int64_t n) {
  Tensor t = {dt, n, mirror_new((size_t)n * dtype_size(dt))};
  for (int64_t i = 0; i < n; i++) set(&t, i, NAN);
  return t;
}
static inline Tensor tensor_random(DType dt, int64_t n, double scale, uint64_t *state) {
  Tensor t = tensor_new(dt, n);
  for (int64_t i = 0; i < n; i++) set(&t, i, scale * uniform(state));
  return t;
}
static inline Tensor tensor_copy(const Tensor *from) {
  Tensor t = tensor_new(from->dt, from->n);
  memcpy(mirror_write(t.memory), on_host(from), (size_t)t.n * dtype_size(t.dt));
  return t;
}
static inline void tensor_free(Tensor *t) {
  mirror_free(t->memory);
  t->memory = NULL;
}

/* L2 norm of got - expected, relative to that of expected; NaN when an element is. */
static inline double tensor_error(const Tensor *got, const double *expected) {
  double difference = 0, norm = 1e-60;
  for (int64_t i = 0; i < got->n; i++) {
    double d = get(got, i) - expected[i];
    difference += d * d;
    norm += expected[i] * expected[i];
  }
  return sqrt(difference / norm);
}

/* Fails the test, naming the place, unless the error is at most `most` (a NaN is not). */
#define assert_near(got, expected, most)                                                                     \
  do {                                                                                                       \
    double error_ = tensor_error(got, expected);                                                             \
    if (!(error_ <= (most)))                                                                                 \
      fail_msg("%s: relative error %.3g, at most %.3g expected", #got, error_, (most));                      \
  } while (0)

static inline double *doubles(int64_t n) {
  CHECK(n >= 0, "%lld doubles", (long long)n);
  return (double *)calloc((size_t)n, sizeof(double));
}

/* Group fixtures: the tests' state is a Device of two threads. */
static inline int device_setup(void **state) {
  static Device dev;
  open_device(&dev, 2);
  *state = &dev;
  return 0;
}
static inline int device_teardown(void **state) {
  close_device((Device *)*state);
  return 0;
}

#endif
