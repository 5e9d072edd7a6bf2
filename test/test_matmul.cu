/* Matrix products and linear layers, against sums in double. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include <cmocka.h>
}

#include <math.h>

#include "ops/linear.h"
#include "ops/matmul.h"
#include "ops/matmul_tune.h" // defines: matmul_tune
#include "tensor.cuh" // defines: Tensor, tensor_new, tensor_get, tensor_random, tensor_guards_whole, roundoff

/* A device and the memory of its workspace. */
typedef struct Fixture {
  Device dev;
  Tensor workspace; /* [1, bytes / 4] fp32 */
} Fixture;

static int setup(void **state) {
  Fixture *f = (Fixture *)calloc(1, sizeof *f);
  open_test_device(&f->dev, 0);
  f->dev.workspace_bytes = device_workspace_bytes(&f->dev, DT_BF16);
  int64_t floats = (int64_t)f->dev.workspace_bytes / 4;
  f->workspace = tensor_new(DT_FP32, 1, floats, floats);
  f->dev.workspace = on_device(&f->workspace);
  *state = f;
  return 0;
}

static int teardown(void **state) {
  Fixture *f = (Fixture *)*state;
  device_close(&f->dev);
  tensor_free(&f->workspace);
  free(f);
  return 0;
}

static Matrix matrix(const Tensor *t) {
  return Matrix{on_device(t), t->dtype, t->ld};
}

/* What a product is added to: nothing, what its memory holds, or what other memory holds. */
enum { ADD_NOTHING, ADD_OUT, ADD_OTHER, ADDS };

/* One product to be checked. */
typedef struct Product {
  DType out, in;
  bool transpose_a, transpose_b;
  int add;
  int64_t M, N, K;
} Product;

/* A sum of n products, in any order, in fp32 errs by at most n*u*sum|a*b| (Higham, Accuracy and Stability,
 * section 3.1, to first order), and the old value counts as one term; rounding to the type of the result
 * adds its own u. The factor 1.01 stands for the terms of higher order. */
static void check_product(const Product *p, const Tensor *out, const Tensor *a, const Tensor *b,
                          const Tensor *old) {
  for (int64_t i = 0; i < p->M; i++) {
    for (int64_t j = 0; j < p->N; j++) {
      double sum = p->add ? tensor_get(old, i, j) : 0, magnitude = fabs(sum);
      for (int64_t k = 0; k < p->K; k++) {
        double x = p->transpose_a ? tensor_get(a, k, i) : tensor_get(a, i, k);
        double y = p->transpose_b ? tensor_get(b, j, k) : tensor_get(b, k, j);
        sum += x * y;
        magnitude += fabs(x * y);
      }
      double bound =
          1.01 * ((double)(p->K + 1) * roundoff(DT_FP32) * magnitude + roundoff(p->out) * fabs(sum));
      double found = tensor_get(out, i, j);
      if (!(fabs(found - sum) <= bound))
        fail_msg("%s x %s: M %d N %d K %d, transposed %d %d, added to %d: (%d, %d) is %.9g, expected %.9g",
                 dtype_name(p->in), dtype_name(p->out), (int)p->M, (int)p->N, (int)p->K, p->transpose_a,
                 p->transpose_b, p->add, (int)i, (int)j, found, sum);
    }
  }
}

static void run_product(Fixture *f, const Product *p) {
  int64_t a_rows = p->transpose_a ? p->K : p->M, a_cols = p->transpose_a ? p->M : p->K;
  int64_t b_rows = p->transpose_b ? p->N : p->K, b_cols = p->transpose_b ? p->K : p->N;
  Tensor a = tensor_new(p->in, a_rows, a_cols, a_cols + 3), b = tensor_new(p->in, b_rows, b_cols, b_cols + 5);
  Tensor out = tensor_new(p->out, p->M, p->N, p->N + 7), old = tensor_new(p->out, p->M, p->N, p->N + 7);
  Tensor again = tensor_new(p->out, p->M, p->N, p->N + 7);
  tensor_random(&a, 1, 1);
  tensor_random(&b, 1, 2);
  tensor_random(&old, 4, 3);
  Tensor *results[] = {&out, &again};
  for (int i = 0; i < 2; i++) {
    if (p->add == ADD_OUT) tensor_random(results[i], 4, 3);
    Matrix to = matrix(results[i]);
    const void *add = p->add == ADD_OUT ? to.data : p->add == ADD_OTHER ? on_device(&old) : NULL;
    on_device(&f->workspace); /* about to be written */
    matmul(&f->dev, to, matrix(&a), p->transpose_a, matrix(&b), p->transpose_b, p->M, p->N, p->K, add);
  }
  check_product(p, &out, &a, &b, &old);
  assert_memory_equal(on_host(&out), on_host(&again), tensor_bytes(&out));
  assert_true(tensor_guards_whole(&out));
  assert_true(tensor_guards_whole(&f->workspace));
  tensor_free(&a);
  tensor_free(&b);
  tensor_free(&out);
  tensor_free(&old);
  tensor_free(&again);
}

/* All transpositions, types and modes; sizes below, at and above what vectors and tiles (1024) divide. */
static void test_products(void **state) {
  static const int64_t sizes[][3] = {{1, 1, 1},     {3, 5, 7},    {17, 1, 33},  {1, 65, 130}, {64, 64, 64},
                                     {65, 33, 129}, {1030, 9, 5}, {5, 1030, 9}, {9, 5, 1030}, {3, 2, 2050}};
  static const DType types[][2] = {{DT_FP32, DT_FP32}, {DT_BF16, DT_BF16}, {DT_FP32, DT_BF16}};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    for (int t = 0; t < 3; t++) {
      for (int mode = 0; mode < 4 * ADDS; mode++) {
        Product p = {types[t][0], types[t][1], (mode & 1) != 0, (mode & 2) != 0,
                     mode / 4,    sizes[s][0], sizes[s][1],     sizes[s][2]};
        run_product((Fixture *)*state, &p);
      }
    }
  }
}

/* The empty sum is 0, or leaves what is there; an empty result touches nothing. */
static void test_empty_products(void **state) {
  for (int t = 0; t < 2; t++) {
    DType dt = t ? DT_BF16 : DT_FP32;
    for (int add = 0; add < ADDS; add++) {
      Product no_terms = {dt, dt, false, true, add, 5, 3, 0};
      Product no_rows = {dt, dt, false, true, add, 0, 3, 4};
      Product no_cols = {dt, dt, false, true, add, 5, 0, 4};
      run_product((Fixture *)*state, &no_terms);
      run_product((Fixture *)*state, &no_rows);
      run_product((Fixture *)*state, &no_cols);
    }
  }
}

/* Products whose algorithm was chosen by time, which takes place at the first of a shape, are as right as
 * others and as much the same each time; also where only algorithms are chosen from that give the same bits.
 */
static void test_tuned_products(void **state) {
  Fixture *f = (Fixture *)*state;
  static const int64_t sizes[][3] = {{128, 192, 256}, {200, 64, 1030}, {8, 8, 4096}};
  static const DType types[][2] = {{DT_FP32, DT_FP32}, {DT_BF16, DT_BF16}, {DT_FP32, DT_BF16}};
  for (int deterministic = 0; deterministic < 2; deterministic++) {
    f->dev.deterministic = deterministic != 0;
    for (const auto &size : sizes)
      for (const auto &type : types)
        for (int accumulate = 0; accumulate < 2; accumulate++) {
          Product p = {type[0], type[1], true, false, accumulate != 0, size[0], size[1], size[2]};
          matmul_tune(&f->dev, accumulate ? 0 : 8);
          run_product(f, &p);
        }
  }
  f->dev.deterministic = false;
  char *text = matmul_tune_text(&f->dev);
  assert_true((text != NULL) == on_cuda());
  free(text);
}

/* Small integers and their sums are exact in fp32, and their sums below 256 in bf16: so are the products. */
static void test_exact_integers(void **state) {
  Fixture *f = (Fixture *)*state;
  for (int t = 0; t < 2; t++) {
    DType dt = t ? DT_BF16 : DT_FP32;
    Tensor a = tensor_new(dt, 11, 1100, 1100), b = tensor_new(dt, 13, 1100, 1100);
    Tensor out = tensor_new(dt, 11, 13, 13);
    for (int64_t k = 0; k < 1100; k++) {
      for (int64_t i = 0; i < 11; i++) tensor_set(&a, i, k, k % 11 == i ? 1.0f : 0.0f);
      for (int64_t j = 0; j < 13; j++) tensor_set(&b, j, k, (float)((k + j) % 5) - 2.0f);
    }
    matmul(&f->dev, matrix(&out), matrix(&a), false, matrix(&b), true, 11, 13, 1100, NULL);
    for (int64_t i = 0; i < 11; i++) {
      for (int64_t j = 0; j < 13; j++) {
        double sum = 0;
        for (int64_t k = i; k < 1100; k += 11) sum += tensor_get(&b, j, k);
        assert_true(tensor_get(&out, i, j) == sum);
      }
    }
    tensor_free(&a);
    tensor_free(&b);
    tensor_free(&out);
  }
}

static void test_rate(void **state) {
  if (is_emulated()) skip(); /* it has none, and products of seconds */
  double rate = matmul_measure_rate(&((Fixture *)*state)->dev, DT_FP32, 0.02, NULL);
  double rate_bf16 = matmul_measure_rate(&((Fixture *)*state)->dev, DT_BF16, 0.02, NULL);
  assert_true(isfinite(rate) && rate > 1e6 && isfinite(rate_bf16) && rate_bf16 > 1e6);
}

/* y = x w^T + bias + add, in one product with a column of ones and the bias as one more column of w. */
static void check_linear_forward(Fixture *f, DType dt, bool bias, int add, int64_t rows, int64_t in,
                                 int64_t out) {
  Tensor x = tensor_new(dt, rows, in, in), w = tensor_new(dt, out, in, in), b = tensor_new(dt, 1, out, out);
  Tensor y = tensor_new(dt, rows, out, out), old = tensor_new(dt, rows, out, out);
  tensor_random(&x, 1, 1);
  tensor_random(&w, 1, 2);
  tensor_random(&b, 1, 3);
  tensor_random(&old, 4, 4);
  if (add == ADD_OUT) tensor_random(&y, 4, 4);
  Linear l = {"test", in, out, on_device(&w), bias ? on_device(&b) : NULL, NULL, NULL};
  linear_forward(&f->dev, dt, &l, on_device(&y), on_device(&x), rows,
                 add == ADD_OUT     ? on_device(&y)
                 : add == ADD_OTHER ? on_device(&old)
                                    : NULL);
  assert_true(tensor_guards_whole(&y));
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t j = 0; j < out; j++) {
      double first = (bias ? tensor_get(&b, 0, j) : 0) + (add ? tensor_get(&old, i, j) : 0);
      double sum = first, magnitude = fabs(first);
      for (int64_t k = 0; k < in; k++) {
        sum += tensor_get(&x, i, k) * tensor_get(&w, j, k);
        magnitude += fabs(tensor_get(&x, i, k) * tensor_get(&w, j, k));
      }
      /* as in check_product; bias + y is itself stored, and so rounded, before the product is added */
      double stored = bias && add ? roundoff(dt) * fabs(first) : 0;
      double bound =
          1.01 * ((double)(in + 2) * roundoff(DT_FP32) * magnitude + roundoff(dt) * fabs(sum) + stored);
      assert_true(fabs(tensor_get(&y, i, j) - sum) <= bound);
    }
  }
  tensor_free(&x);
  tensor_free(&w);
  tensor_free(&b);
  tensor_free(&y);
  tensor_free(&old);
}

static void test_linear_forward(void **state) {
  for (int mode = 0; mode < 4 * ADDS; mode++) {
    DType dt = mode & 1 ? DT_BF16 : DT_FP32;
    check_linear_forward((Fixture *)*state, dt, (mode & 2) != 0, mode / 4, 33, 17, 70);
    check_linear_forward((Fixture *)*state, dt, (mode & 2) != 0, mode / 4, 1, 130, 3);
  }
}

/* dx = dy w; dweight += dy^T x and dbias += column sums of dy, to what was there. */
static void check_linear_backward(Fixture *f, DType dt, bool bias, int64_t rows, int64_t in, int64_t out) {
  Tensor x = tensor_new(dt, rows, in, in), w = tensor_new(dt, out, in, in),
         dy = tensor_new(dt, rows, out, out);
  Tensor dx = tensor_new(dt, rows, in, in), dw = tensor_new(DT_FP32, out, in, in);
  Tensor db = tensor_new(DT_FP32, 1, out, out), ones = tensor_new(dt, rows, 1, 1);
  Tensor old_dw = tensor_new(DT_FP32, out, in, in), old_db = tensor_new(DT_FP32, out, 1, 1);
  tensor_random(&x, 1, 1);
  tensor_random(&w, 1, 2);
  tensor_random(&dy, 1, 3);
  tensor_random(&dw, 2, 4);
  tensor_random(&old_dw, 2, 4);
  tensor_random(&db, 2, 5);
  tensor_random(&old_db, 2, 5);
  for (int64_t i = 0; i < rows; i++) tensor_set(&ones, i, 0, 1.0f);
  Linear l = {
      "test", in, out, on_device(&w), NULL, (float *)on_device(&dw), bias ? (float *)on_device(&db) : NULL};
  linear_backward_input(&f->dev, dt, &l, on_device(&dx), on_device(&dy), rows);
  linear_backward_weight(&f->dev, dt, &l, on_device(&dy), on_device(&x), rows);
  Product input = {dt, dt, false, false, false, rows, in, out};
  Product weight = {DT_FP32, dt, true, false, true, out, in, rows};
  Product columns = {DT_FP32, dt, true, false, true, out, 1, rows};
  check_product(&input, &dx, &dy, &w, NULL);
  check_product(&weight, &dw, &dy, &x, &old_dw);
  Tensor db_column = {db.memory, DT_FP32, out, 1, 1};
  if (bias)
    check_product(&columns, &db_column, &dy, &ones, &old_db);
  else
    assert_memory_equal(on_host(&db), on_host(&old_db), tensor_bytes(&db));
  assert_true(tensor_guards_whole(&dx) && tensor_guards_whole(&dw) && tensor_guards_whole(&db));
  Tensor *all[] = {&x, &w, &dy, &dx, &dw, &db, &ones, &old_dw, &old_db};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) tensor_free(all[i]);
}

static void test_linear_backward(void **state) {
  for (int mode = 0; mode < 4; mode++) {
    DType dt = mode & 1 ? DT_BF16 : DT_FP32;
    check_linear_backward((Fixture *)*state, dt, (mode & 2) != 0, 33, 17, 70);
    check_linear_backward((Fixture *)*state, dt, (mode & 2) != 0, 1100, 3, 5);
    check_linear_backward((Fixture *)*state, dt, (mode & 2) != 0, 1, 40, 9);
  }
}

/* Without dweight no gradient is wanted: dbias stays too. */
static void test_linear_frozen(void **state) {
  Tensor x = tensor_new(DT_FP32, 2, 1, 1), dy = tensor_new(DT_FP32, 2, 1, 1),
         db = tensor_new(DT_FP32, 1, 1, 1);
  tensor_random(&x, 1, 1);
  tensor_random(&dy, 1, 2);
  tensor_set(&db, 0, 0, 5);
  Linear l = {"test", 1, 1, NULL, NULL, NULL, (float *)on_device(&db)};
  linear_backward_weight(&((Fixture *)*state)->dev, DT_FP32, &l, on_device(&dy), on_device(&x), 2);
  assert_true(tensor_get(&db, 0, 0) == 5);
  tensor_free(&x);
  tensor_free(&dy);
  tensor_free(&db);
}

/* A million rows of 0.1: adding them one by one in fp32 gives 100958. Sums of sums err by the sum of their
 * lengths, which stays below a thousand terms. */
static void test_bias_gradient_of_many_rows(void **state) {
  const int64_t rows = 1000000, out = 3;
  Tensor dy = tensor_new(DT_FP32, rows, out, out), x = tensor_new(DT_FP32, rows, 1, 1);
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t j = 0; j < out; j++) tensor_set(&dy, i, j, 0.1f);
    tensor_set(&x, i, 0, 0.0f);
  }
  Tensor dweight = tensor_new(DT_FP32, 1, out, out), dbias = tensor_new(DT_FP32, 1, out, out);
  for (int64_t j = 0; j < out; j++) {
    tensor_set(&dweight, 0, j, 0);
    tensor_set(&dbias, 0, j, 0);
  }
  Linear l = {"test", 1, out, NULL, NULL, (float *)on_device(&dweight), (float *)on_device(&dbias)};
  linear_backward_weight(&((Fixture *)*state)->dev, DT_FP32, &l, on_device(&dy), on_device(&x), rows);
  double expected = (double)0.1f * rows;
  for (int64_t j = 0; j < out; j++)
    assert_true(fabs(tensor_get(&dbias, 0, j) - expected) <= 1000 * roundoff(DT_FP32) * expected);
  Tensor *all[] = {&dy, &x, &dweight, &dbias};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) tensor_free(all[i]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_products),
      cmocka_unit_test(test_empty_products),
      cmocka_unit_test(test_tuned_products),
      cmocka_unit_test(test_exact_integers),
      cmocka_unit_test(test_rate),
      cmocka_unit_test(test_linear_forward),
      cmocka_unit_test(test_linear_backward),
      cmocka_unit_test(test_linear_frozen),
      cmocka_unit_test(test_bias_gradient_of_many_rows),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
