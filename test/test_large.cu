/* More than 2^31 elements: each operation on a large tensor has to do to the last rows what it does to those
 * rows alone. Needs a GPU with 40 GB free. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ops/adamw.h"
#include "ops/attention.h"
#include "ops/convert.h"
#include "ops/cross_entropy.h"
#include "ops/embedding.h"
#include "ops/glu.h"
#include "ops/matmul.h"
#include "ops/qk_prepare.h"
#include "ops/rmsnorm.h"
#include "test/mirror.cuh" // defines: has_gpu

static const int64_t C = 4096, ROWS = ((int64_t)1 << 19) + 5, LAST = 3; /* ROWS * C > 2^31 */
static const size_t NEEDED = (size_t)40 << 30;
static const DType dt = DT_BF16;

typedef struct Large {
  Device dev;
  bool ready;
  char *x, *y;       /* [ROWS, C] bf16, normal */
  char *a, *b, *c;   /* [LAST, 4 C] for the last rows by themselves */
  void *w;           /* [C] bf16, normal */
  float *sum, *sum2; /* [C] */
  int32_t *ids;      /* [ROWS] zeros but for the last LAST, which are 0, 1, 2 */
} Large;

static void *take(Device *dev, size_t bytes) {
  Error e = {};
  void *p = device_alloc(dev, bytes, &e);
  CHECK(p, "%s", e.text);
  return p;
}

static int setup(void **state) {
  static Large l;
  Error e = {};
  *state = &l;
  if (!has_gpu() || !device_open(&l.dev, "cuda", 0, &e) || device_free_bytes(&l.dev) < NEEDED) return 0;
  l.ready = true;
  l.dev.workspace_bytes = device_workspace_bytes(&l.dev, dt);
  l.dev.workspace = take(&l.dev, l.dev.workspace_bytes);
  l.x = (char *)take(&l.dev, (size_t)(ROWS * C * 2));
  l.y = (char *)take(&l.dev, (size_t)(ROWS * C * 2));
  l.a = (char *)take(&l.dev, (size_t)(LAST * 4 * C * 2));
  l.b = (char *)take(&l.dev, (size_t)(LAST * 4 * C * 2));
  l.c = (char *)take(&l.dev, (size_t)(LAST * 4 * C * 2));
  l.w = take(&l.dev, (size_t)(C * 2));
  l.sum = (float *)take(&l.dev, (size_t)C * 4);
  l.sum2 = (float *)take(&l.dev, (size_t)C * 4);
  l.ids = (int32_t *)take(&l.dev, (size_t)ROWS * 4);
  fill_normal(&l.dev, l.w, dt, 1, 1, 1, 0, C);
  const int32_t last[] = {0, 1, 2};
  device_copy(&l.dev, l.ids + ROWS - LAST, last, sizeof last, COPY_TO_DEVICE);
  return 0;
}

/* The state, with fresh numbers in x and y; skips the test where there is no such GPU. */
static Large *fresh(void **state) {
  Large *l = (Large *)*state;
  if (!l->ready) skip();
  fill_normal(&l->dev, l->x, dt, 1, 1, 2, 0, ROWS * C);
  fill_normal(&l->dev, l->y, dt, 1, 1, 3, 0, ROWS * C);
  return l;
}

/* Where the last rows of a large matrix of `width` bf16 columns and ROWS * C elements begin. */
static int64_t rows_of(int64_t width) {
  return ROWS * C / width;
}
static char *last_rows(char *matrix, int64_t width) {
  return matrix + (size_t)((rows_of(width) - LAST) * width) * 2;
}
/* Copies them to small memory. */
static void *copy_last(Large *l, char *to, char *matrix, int64_t width) {
  device_copy(&l->dev, to, last_rows(matrix, width), (size_t)(LAST * width) * 2, COPY_ON_DEVICE);
  return to;
}

static void assert_same(Large *l, const void *large, const void *small, size_t bytes) {
  char *x = (char *)malloc(bytes), *y = (char *)malloc(bytes);
  device_copy(&l->dev, x, large, bytes, COPY_FROM_DEVICE);
  device_copy(&l->dev, y, small, bytes, COPY_FROM_DEVICE);
  assert_memory_equal(x, y, bytes);
  free(x);
  free(y);
}

static void initial_values(void **state) {
  Large *l = fresh(state);
  fill_normal(&l->dev, l->a, dt, 1, 1, 2, (ROWS - LAST) * C, LAST * C);
  assert_same(l, last_rows(l->x, C), l->a, (size_t)(LAST * C * 2));
  fill_constant(&l->dev, l->x, dt, 0.5f, ROWS * C);
  assert_true(sum_of_squares(&l->dev, l->x, dt, ROWS * C) == 0.25 * (double)(ROWS * C));
  convert(&l->dev, l->y, dt, l->x, dt, ROWS * C);
  assert_same(l, last_rows(l->x, C), last_rows(l->y, C), (size_t)(LAST * C * 2));
}

static void rmsnorm(void **state) {
  Large *l = fresh(state);
  copy_last(l, l->a, l->x, C);
  copy_last(l, l->b, l->y, C);
  rmsnorm_forward(&l->dev, dt, l->c, l->a, l->w, LAST, C, 1e-5f);
  rmsnorm_backward(&l->dev, dt, l->b, l->sum, l->b, l->a, l->w, LAST, C, 1e-5f, false);
  rmsnorm_backward(&l->dev, dt, l->y, l->sum2, l->y, l->x, l->w, ROWS, C, 1e-5f, false);
  assert_same(l, last_rows(l->y, C), l->b, (size_t)(LAST * C * 2));
  rmsnorm_forward(&l->dev, dt, l->x, l->x, l->w, ROWS, C, 1e-5f);
  assert_same(l, last_rows(l->x, C), l->c, (size_t)(LAST * C * 2));
  assert_true(isfinite(sum_of_squares(&l->dev, l->sum2, DT_FP32, C)));
}

static void glu(void **state) {
  Large *l = fresh(state);
  int64_t FF = C / 2, rows = rows_of(2 * FF);
  copy_last(l, l->a, l->x, 2 * FF);
  glu_forward(&l->dev, dt, ACT_SILU, l->b, l->a, LAST, FF);
  glu_forward(&l->dev, dt, ACT_SILU, l->y, l->x, rows, FF);
  const char *h = l->y + (size_t)((rows - LAST) * FF) * 2;
  assert_same(l, h, l->b, (size_t)(LAST * FF * 2));
  glu_backward(&l->dev, dt, ACT_SILU, l->a, l->b, LAST, FF);
  glu_backward(&l->dev, dt, ACT_SILU, l->x, l->y, rows, FF);
  assert_same(l, last_rows(l->x, 2 * FF), l->a, (size_t)(LAST * 2 * FF * 2));
}

static void cross_entropy(void **state) {
  Large *l = fresh(state);
  int64_t V = 4 * C, rows = rows_of(V);
  float *losses = (float *)l->y, *last = l->sum;
  const int32_t *targets = l->ids + ROWS - rows;
  copy_last(l, l->a, l->x, V);
  cross_entropy_forward_backward(&l->dev, dt, last, l->a, targets + rows - LAST, LAST, V, 0.5f);
  cross_entropy_forward_backward(&l->dev, dt, losses, l->x, targets, rows, V, 0.5f);
  assert_same(l, last_rows(l->x, V), l->a, (size_t)(LAST * V * 2));
  assert_same(l, losses + rows - LAST, last, (size_t)LAST * 4);
}

/* The rows' tokens are 0, but for the last ones: the gradient of tokens 1 and 2 is the last rows'. */
static void embedding(void **state) {
  Large *l = fresh(state);
  embedding_forward(&l->dev, dt, l->x, l->w, l->ids, ROWS - 2, C); /* of token 0 only */
  assert_same(l, last_rows(l->x, C), l->w, (size_t)(C * 2));
  float *dtable = (float *)take(&l->dev, (size_t)(LAST * C) * 4);
  embedding_backward(&l->dev, dt, dtable, l->y, l->ids, ROWS, C);
  convert(&l->dev, l->a, dt, dtable, DT_FP32, LAST * C);
  assert_same(l, last_rows(l->y, C) + C * 2, l->a + C * 2, (size_t)((LAST - 1) * C * 2));
  device_free(&l->dev, dtable, (size_t)(LAST * C) * 4);
}

static void queries_and_keys(void **state) {
  Large *l = fresh(state);
  float *inv_freq = l->sum;
  fill_constant(&l->dev, inv_freq, DT_FP32, 0.01f, 64);
  QkPrepare p = {};
  p.NH = 24;
  p.NKV = 4;
  p.HS = 128; /* (24 + 2 * 4) * 128 = C */
  p.inv_freq = inv_freq;
  p.attention_scale = 1;
  p.positions = l->ids;
  copy_last(l, l->a, l->x, C);
  qk_prepare_forward(&l->dev, dt, l->x, C, l->x, C, &p, ROWS);
  QkPrepare last = p;
  last.positions = l->ids + ROWS - LAST;
  qk_prepare_forward(&l->dev, dt, l->a, C, l->a, C, &last, LAST);
  assert_same(l, last_rows(l->x, C), l->a, (size_t)(LAST * C * 2));
  qk_prepare_backward(&l->dev, dt, l->x, NULL, C, &p, ROWS);
  qk_prepare_backward(&l->dev, dt, l->a, NULL, C, &last, LAST);
  assert_same(l, last_rows(l->x, C), l->a, (size_t)(LAST * C * 2));
}

/* q, k and v of the rows, or their gradients */
static Heads part(char *rows, int64_t first_column) {
  return Heads{rows + first_column * 2, C};
}

/* Forward and backward of `rows` rows as one sequence; o is its own gradient. */
static void attend(Large *l, char *o, float *lse, char *d, char *qkv, int64_t rows) {
  const int64_t q = 0, k = 24 * 128, v = 28 * 128;
  AttentionShape s = {1, rows, 24, 4, 128, 100, 0.09f, false, NULL, 0, NULL};
  size_t bytes = attention_forward_workspace(&l->dev, dt, &s),
         more = attention_backward_workspace(&l->dev, dt, &s);
  bytes = bytes > more ? bytes : more;
  void *workspace = take(&l->dev, bytes);
  attention_forward(&l->dev, dt, o, lse, part(qkv, q), part(qkv, k), part(qkv, v), &s, workspace);
  attention_backward(&l->dev, dt, part(d, q), part(d, k), part(d, v), o, o, lse, part(qkv, q), part(qkv, k),
                     part(qkv, v), &s, workspace);
  device_free(&l->dev, workspace, bytes);
}

/* The last rows see no further back than their window, and 2^19 is a multiple of every tile's rows: cut off
 * there, the same tiles come in the same order. */
static void attention(void **state) {
  Large *l = fresh(state);
  const int64_t skipped = ((int64_t)1 << 19) - 512, rows = ROWS - skipped;
  char *d = (char *)take(&l->dev, (size_t)(ROWS * C * 2)),
       *last_o = (char *)take(&l->dev, (size_t)(rows * C * 2)),
       *last_d = (char *)take(&l->dev, (size_t)(rows * C * 2));
  float *lse = (float *)take(&l->dev, (size_t)(ROWS * 24) * 4);
  attend(l, l->y, lse, d, l->x, ROWS);
  attend(l, last_o, lse, last_d, l->x + skipped * C * 2, rows);
  assert_same(l, d + (ROWS - LAST) * C * 2, last_d + (rows - LAST) * C * 2, (size_t)(LAST * C * 2));
  const int64_t width = 24 * 128;
  assert_same(l, l->y + (ROWS - LAST) * width * 2, last_o + (rows - LAST) * width * 2,
              (size_t)(LAST * width * 2));
  device_free(&l->dev, d, (size_t)(ROWS * C * 2));
  device_free(&l->dev, last_o, (size_t)(rows * C * 2));
  device_free(&l->dev, last_d, (size_t)(rows * C * 2));
  device_free(&l->dev, lse, (size_t)(ROWS * 24) * 4);
}

static void adamw(void **state) {
  Large *l = fresh(state);
  AdamW a = {1e-2, 0.9, 0.95, 1e-8, 0.1, 1, 1, 42};
  int64_t n = ROWS * C, first = n - LAST * C;
  float *grad = (float *)take(&l->dev, (size_t)n * 4);
  char *v = (char *)take(&l->dev, (size_t)n * 2);
  fill_constant(&l->dev, grad, DT_FP32, 0.25f, n);
  copy_last(l, l->a, l->x, C);
  copy_last(l, l->b, l->y, C);
  copy_last(l, l->c, v, C);
  AdamWTensor whole = {l->x, dt, NULL, grad, l->y, v, dt, NULL, NULL, n, true, 7, 0};
  AdamWTensor last = {l->a, dt, NULL, grad + first, l->b, l->c, dt, NULL, NULL, LAST * C, true, 7, first};
  adamw_update(&l->dev, &whole, 1, &a);
  adamw_update(&l->dev, &last, 1, &a);
  assert_same(l, last_rows(l->x, C), l->a, (size_t)(LAST * C * 2));
  assert_same(l, last_rows(l->y, C), l->b, (size_t)(LAST * C * 2));
  assert_same(l, last_rows(v, C), l->c, (size_t)(LAST * C * 2));
  device_free(&l->dev, grad, (size_t)n * 4);
  device_free(&l->dev, v, (size_t)n * 2);
}

/* The last row of a product of more than 2^31 elements, within the rounding of bf16 and of other orders of
 * the sums; and a sum over so many rows that its operands have more than 2^31 elements. */
static void products(void **state) {
  Large *l = fresh(state);
  char *weight = (char *)take(&l->dev, (size_t)(C * C * 2));
  float *wide = (float *)take(&l->dev, (size_t)(LAST * C) * 4),
        *large_wide = (float *)take(&l->dev, (size_t)(LAST * C) * 4);
  fill_normal(&l->dev, weight, dt, 1.f / 64, 1, 4, 0, C * C);
  Matrix x = {l->x, dt, C}, y = {l->y, dt, C}, w = {weight, dt, C}, a = {l->a, dt, C}, b = {l->b, dt, C};
  copy_last(l, l->a, l->x, C);
  matmul(&l->dev, y, x, false, w, true, ROWS, C, C, NULL);
  matmul(&l->dev, b, a, false, w, true, LAST, C, C, NULL);
  convert(&l->dev, wide, DT_FP32, l->b, dt, LAST * C);
  convert(&l->dev, large_wide, DT_FP32, last_rows(l->y, C), dt, LAST * C);
  static float found[3 * 4096], expected[3 * 4096];
  device_copy(&l->dev, found, large_wide, sizeof found, COPY_FROM_DEVICE);
  device_copy(&l->dev, expected, wide, sizeof expected, COPY_FROM_DEVICE);
  for (int64_t i = 0; i < LAST * C; i++)
    assert_true(fabsf(found[i] - expected[i]) <= 0.02f * (fabsf(expected[i]) + 0.1f));

  /* columns of ones: every element of the sum over the rows is their number */
  float *counts = (float *)take(&l->dev, (size_t)(C * C) * 4);
  fill_constant(&l->dev, l->x, dt, 1, ROWS * C);
  matmul(&l->dev, Matrix{counts, DT_FP32, C}, x, true, x, false, C, C, ROWS, NULL);
  device_copy(&l->dev, found, counts + C * C - LAST * C, sizeof found, COPY_FROM_DEVICE);
  for (int64_t i = 0; i < LAST * C; i++) assert_true(found[i] == (float)ROWS);
  device_free(&l->dev, counts, (size_t)(C * C) * 4);
  device_free(&l->dev, wide, (size_t)(LAST * C) * 4);
  device_free(&l->dev, large_wide, (size_t)(LAST * C) * 4);
  device_free(&l->dev, weight, (size_t)(C * C * 2));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(initial_values), cmocka_unit_test(rmsnorm),   cmocka_unit_test(glu),
      cmocka_unit_test(cross_entropy),  cmocka_unit_test(embedding), cmocka_unit_test(queries_and_keys),
      cmocka_unit_test(adamw),          cmocka_unit_test(products),  cmocka_unit_test(attention),
  };
  return cmocka_run_group_tests(tests, setup, NULL);
}
