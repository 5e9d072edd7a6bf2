/* The row kernels as a CUDA block runs them, on the CPU: the block is emulated by threads, the cases and
 * their references are those of test_row_ops. Under the thread sanitizer (make CUDA=0 SANITIZE=thread) a
 * missing barrier is a failure. In builds with nvcc there is a real Block, and nothing to emulate. */
#ifdef __CUDACC__
#define main row_ops_main
#include "test_row_ops.cu"
#undef main

static void emulation_is_for_builds_without_nvcc(void **) {
  skip();
}
int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(emulation_is_for_builds_without_nvcc)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
#else

#include "block_emulation.cuh"

/* The headers come first, so that within the namespace only the operations themselves are compiled again. */
#include "device/launch.cuh"
#include "device/profile.h"
#include "device/random.cuh"
#include "ops/adamw.h"
#include "ops/convert.h"
#include "ops/cross_entropy.h"
#include "ops/dynamic_map.cuh"
#include "ops/embedding.h"
#include "ops/glu.h"
#include "ops/qk_prepare.h"
#include "ops/rmsnorm.h"
namespace emulated_ops {
#include "ops/adamw.cu"
#include "ops/convert.cu"
#include "ops/cross_entropy.cu"
#include "ops/embedding.cu"
#include "ops/glu.cu"
#include "ops/qk_prepare.cu"
#include "ops/rmsnorm.cu"
} // namespace emulated_ops
#define rmsnorm_forward                emulated_ops::rmsnorm_forward
#define rmsnorm_backward               emulated_ops::rmsnorm_backward
#define glu_forward                    emulated_ops::glu_forward
#define glu_backward                   emulated_ops::glu_backward
#define cross_entropy_forward          emulated_ops::cross_entropy_forward
#define cross_entropy_forward_backward emulated_ops::cross_entropy_forward_backward
#define embedding_forward              emulated_ops::embedding_forward
#define embedding_backward             emulated_ops::embedding_backward
#define qk_prepare_forward             emulated_ops::qk_prepare_forward
#define qk_prepare_backward            emulated_ops::qk_prepare_backward

#define main row_ops_main
#include "test_row_ops.cu"
#undef main

/* The CPU's memory, but operations that believe to be on a GPU. One OpenMP thread: the thread sanitizer does
 * not see what orders them. */
static int emulated_setup(void **state) {
  static Device dev;
  open_device(&dev, 1);
  dev.kind = DEVICE_CUDA;
  *state = &dev;
  return 0;
}

static const int64_t SIZES[] = {1, 8, 65,
                                1030}; /* less and more than a pass of the block, with and without tails */

static void rmsnorm_in_blocks(void **state) {
  FOR_EACH(DType, dt, STORAGE)
  FOR_EACH(int64_t, n, SIZES) rmsnorm_case((Device *)*state, dt, 3, n);
  rmsnorm_case((Device *)*state, DT_BF16, 70, 64);     /* several segments of column sums, a row each */
  rmsnorm_case((Device *)*state, DT_BF16, 4200, 8);    /* the same, of several rows */
  rmsnorm_case((Device *)*state, DT_BF16, 1030, 1030); /* and sums that shared memory does not hold */
}

static void glu_in_blocks(void **state) {
  FOR_EACH(DType, dt, STORAGE)
  FOR_EACH(int64_t, n, SIZES) glu_case((Device *)*state, dt, ACT_SILU, 3, n, 3);
  glu_case((Device *)*state, DT_BF16, ACT_GELU_TANH, 3, 250, 100);
}

static void cross_entropy_in_blocks(void **state) {
  Device *dev = (Device *)*state;
  FOR_EACH(DType, dt, STORAGE) {
    FOR_EACH(int64_t, V, SIZES) cross_entropy_case(dev, dt, 3, V, 4, 0);
    cross_entropy_case(dev, dt, 5, 250, 80, 50);
    cross_entropy_case(dev, dt, 3, 1024, 4, 0); /* shared memory holds all of a row */
  }
  cross_entropy_case(dev, DT_FP32, 2, 5003, 10, 7);
  cross_entropy_shows_non_finite_logits(state);
}

static void embedding_in_blocks(void **state) {
  Device *dev = (Device *)*state;
  FOR_EACH(DType, dt, STORAGE) {
    embedding_case(dev, dt, 1, 8, 5);
    embedding_case(dev, dt, 70, 65, 300);
    embedding_case(dev, dt, 200, 7, 2); /* rows of a token in several passes of the block */
  }
}

static void queries_and_keys_in_blocks(void **state) {
  const int64_t sizes[] = {2, 6, 64, 128};
  FOR_EACH(DType, dt, STORAGE)
  FOR_EACH(int64_t, HS, sizes)
  for (int norm = 0; norm < 2; norm++) qk_prepare_case((Device *)*state, dt, 3, 4, 2, HS, norm == 1, 2170);
  qk_prepare_case((Device *)*state, DT_BF16, 40, 3, 1, 16, true, 2170);
  qk_prepare_case((Device *)*state, DT_BF16, 4100, 1, 1, 16, true, 300000); /* segments of two rows */
}

/* Element by element these give the CPU's bits, whoever computes them. */
static void elements_in_blocks(void **state) {
  Device *dev = (Device *)*state, cpu = *dev;
  cpu.kind = DEVICE_CPU;
  const int64_t n = 4096 + 1030;
  uint64_t seed = 3;
  Tensor p = tensor_random(DT_BF16, n, 1, &seed), m = tensor_random(DT_BF16, n, 1, &seed);
  Tensor v = tensor_new(DT_BF16, n), g = tensor_random(DT_FP32, n, 1, &seed);
  fill_constant(&cpu, on_device(&v), DT_BF16, 1, n);
  Tensor q = tensor_copy(&p), m2 = tensor_copy(&m), v2 = tensor_copy(&v);
  AdamW a = {1e-2, 0.9, 0.95, 1e-8, 0.1, 3, 1, 42};
  AdamWTensor t = {on_device(&p),
                   DT_BF16,
                   NULL,
                   (float *)on_device(&g),
                   on_device(&m),
                   on_device(&v),
                   DT_BF16,
                   NULL,
                   NULL,
                   n,
                   true,
                   7,
                   0};
  AdamWTensor u = t;
  u.param = on_device(&q);
  u.m = on_device(&m2);
  u.v = on_device(&v2);
  emulated_ops::adamw_update(dev, &t, 1, &a);
  adamw_update(&cpu, &u, 1, &a);
  assert_memory_equal(on_host(&p), on_host(&q), (size_t)n * 2);
  assert_memory_equal(on_host(&v), on_host(&v2), (size_t)n * 2);
  double sum = emulated_ops::sum_of_squares(dev, on_device(&g), DT_FP32, n),
         expected = sum_of_squares(&cpu, on_device(&g), DT_FP32, n);
  assert_true(fabs(sum - expected) <= 1e-13 * expected);
  emulated_ops::fill_normal(dev, on_device(&p), DT_BF16, 1, 5, 6, 7, n);
  fill_normal(&cpu, on_device(&q), DT_BF16, 1, 5, 6, 7, n);
  assert_memory_equal(on_host(&p), on_host(&q), (size_t)n * 2);
  Tensor *all[] = {&p, &m, &v, &g, &q, &m2, &v2};
  for (Tensor *x : all) tensor_free(x);
}

/* Of 8-bit moments too: codes and scales, where the tail is shorter than a block of moments. */
static void quantised_moments_in_blocks(void **state) {
  Device *dev = (Device *)*state, cpu = *dev;
  cpu.kind = DEVICE_CPU;
  const int64_t n = 4096 + 1030, blocks = (n + MOMENT_BLOCK - 1) / MOMENT_BLOCK;
  uint64_t seed = 3;
  Tensor p = tensor_random(DT_BF16, n, 1, &seed), g = tensor_random(DT_FP32, n, 1, &seed),
         q = tensor_copy(&p);
  Mirror *bytes[4]; /* m and v of both */
  Tensor scales[4];
  for (int i = 0; i < 4; i++) {
    bytes[i] = mirror_new((size_t)n);
    scales[i] = tensor_new(DT_FP32, blocks);
    fill_constant(&cpu, on_device(&scales[i]), DT_FP32, 0, blocks);
  }
  AdamW a = {1e-2, 0.9, 0.95, 1e-8, 0.1, 1, 1, 42};
  for (a.step = 1; a.step <= 3; a.step++)
    for (int i = 0; i < 2; i++) {
      AdamWTensor t = {};
      t.param = on_device(i ? &q : &p);
      t.dtype = DT_BF16;
      t.grad = (const float *)on_device(&g);
      t.m = mirror_use(bytes[2 * i]);
      t.v = mirror_use(bytes[2 * i + 1]);
      t.moments = DT_U8;
      t.m_absmax = (float *)on_device(&scales[2 * i]);
      t.v_absmax = (float *)on_device(&scales[2 * i + 1]);
      t.n = n;
      if (i)
        adamw_update(&cpu, &t, 1, &a);
      else
        emulated_ops::adamw_update(dev, &t, 1, &a);
    }
  assert_memory_equal(on_host(&p), on_host(&q), (size_t)n * 2);
  for (int i = 0; i < 2; i++) {
    assert_memory_equal(mirror_read(bytes[i]), mirror_read(bytes[2 + i]), (size_t)n);
    assert_memory_equal(on_host(&scales[i]), on_host(&scales[2 + i]), (size_t)blocks * sizeof(float));
  }
  for (int i = 0; i < 4; i++) mirror_free(bytes[i]), tensor_free(&scales[i]);
  Tensor *all[] = {&p, &g, &q};
  for (Tensor *x : all) tensor_free(x);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(quantised_moments_in_blocks),
      cmocka_unit_test(rmsnorm_in_blocks),
      cmocka_unit_test(glu_in_blocks),
      cmocka_unit_test(cross_entropy_in_blocks),
      cmocka_unit_test(embedding_in_blocks),
      cmocka_unit_test(queries_and_keys_in_blocks),
      cmocka_unit_test(elements_in_blocks),
  };
  return cmocka_run_group_tests(tests, emulated_setup, device_teardown);
}
#endif
