/* Products of tiles against their definition in double: every number of rows and columns that is worked on
 * apart, factors as they are and transposed, sums that go on, and what may not be touched. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ops/tile_multiply.h"

static float *random_floats(int64_t n, uint32_t seed) {
  float *x = malloc((size_t)n * sizeof *x);
  assert_non_null(x);
  for (int64_t i = 0; i < n; i++) {
    seed = seed * 1664525u + 1013904223u;
    x[i] = (float)(seed >> 8) * 0x1p-23f - 1.0f;
  }
  return x;
}

static int64_t padded(int64_t n) {
  return (n + TILE_PADDING - 1) / TILE_PADDING * TILE_PADDING;
}

static void check(int64_t M, int64_t N, int64_t K, bool transposed, bool add) {
  int64_t ld_b = padded(N) + 3, ld_out = padded(N) + 5, lines = transposed ? K : M;
  int64_t ld_a = (transposed ? M : K) + 2;
  float *a = random_floats(lines * ld_a + 1, 1), *b = random_floats(K * ld_b + 1, 2);
  float *out = random_floats(M * ld_out, 3), *before = random_floats(M * ld_out, 3);
  TileFactor factor = {a, transposed ? 1 : ld_a, transposed ? ld_a : 1};
  tile_multiply(out, ld_out, factor, b, ld_b, M, N, K, add);
  for (int64_t i = 0; i < M; i++) {
    for (int64_t j = 0; j < N; j++) {
      double x = add ? (double)before[i * ld_out + j] : 0, size = fabs(x);
      for (int64_t k = 0; k < K; k++) {
        double term = (double)(transposed ? a[k * ld_a + i] : a[i * ld_a + k]) * (double)b[k * ld_b + j];
        x += term;
        size += fabs(term);
      }
      double found = (double)out[i * ld_out + j];
      if (!(fabs(found - x) <= size * (double)(K + 1) * 0x1p-24))
        fail_msg("[%d, %d] of M %d, N %d, K %d: %g, expected %g", (int)i, (int)j, (int)M, (int)N, (int)K,
                 found, x);
    }
    const size_t after = (size_t)(ld_out - padded(N)) * sizeof(float);
    assert_memory_equal(out + i * ld_out + padded(N), before + i * ld_out + padded(N), after);
  }
  free(a);
  free(b);
  free(out);
  free(before);
}

static void every_number_of_rows_and_columns(void **state) {
  (void)state;
  for (int64_t M = 1; M <= 2 * TILE_ROWS + 1; M++)
    for (int64_t N = 1; N <= 130; N += N < 70 ? 1 : 7)
      for (int transposed = 0; transposed < 2; transposed++) check(M, N, 9, transposed, M % 2 == 0);
}

static void long_sums(void **state) {
  (void)state;
  for (int64_t K = 0; K <= 700; K += K < 3 ? 1 : 41) {
    check(7, 64, K, false, false);
    check(7, 64, K, false, true);
    check(6, 80, K, true, true);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_number_of_rows_and_columns),
                                     cmocka_unit_test(long_sums)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
