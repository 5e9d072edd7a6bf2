/* The permutations behind the shuffling: of every small size all elements are hit once, large ones are
 * sampled for it, and they look drawn at random: across keys, every order of a few elements is as frequent as
 * any. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "io/shuffle.h"

/* All of 0 .. n-1 are hit, so each once. */
static void check_permutation(int64_t n, uint64_t key) {
  Permutation p = permutation_make(n, key);
  char *hit = calloc((size_t)n, 1);
  assert_non_null(hit);
  for (int64_t i = 0; i < n; i++) {
    int64_t to = permutation_at(&p, i);
    assert_in_range(to, 0, n - 1);
    assert_int_equal(hit[to]++, 0);
  }
  free(hit);
}

static void test_every_small_size(void **state) {
  (void)state;
  static const uint64_t keys[] = {0, 1, 2, UINT64_MAX, 0x123456789abcdef0u};
  for (int64_t n = 1; n <= 600; n++)
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) check_permutation(n, keys[k]);
  for (int bits = 10; bits <= 16; bits++)
    for (int64_t n = (1 << bits) - 1; n <= (1 << bits) + 1; n++) check_permutation(n, 7);
  for (uint64_t key = 0; key < 2000; key++) check_permutation(1 + (int64_t)(key % 17), key);
}

static int by_value(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

/* Of a size that cannot be gone through: no two of many elements go to the same place, none goes outside, and
 * the places reach from one end to the other. */
static void test_large_sizes(void **state) {
  (void)state;
  enum { SAMPLES = 1 << 15 };
  static int64_t to[SAMPLES];
  static const int64_t sizes[] = {(INT64_C(1) << 31) + 11, (INT64_C(1) << 40) - 1, INT64_C(1) << 62};
  for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
    int64_t n = sizes[k];
    Permutation p = permutation_make(n, k);
    for (int64_t i = 0; i < SAMPLES; i++) to[i] = permutation_at(&p, i % 2 ? n - 1 - i / 2 : i / 2);
    qsort(to, SAMPLES, sizeof to[0], by_value);
    assert_true(to[0] >= 0 && to[0] < n / 1000);
    assert_true(to[SAMPLES - 1] < n && to[SAMPLES - 1] > n - n / 1000);
    for (int64_t i = 1; i < SAMPLES; i++) assert_true(to[i] > to[i - 1]);
  }
}

/* Chi-square of counts that should all be the same. */
static double chi_square(const int64_t *counts, int n) {
  double mean = 0, sum = 0;
  for (int i = 0; i < n; i++) mean += (double)counts[i] / n;
  for (int i = 0; i < n; i++) sum += ((double)counts[i] - mean) * ((double)counts[i] - mean) / mean;
  return sum;
}

/* Two elements go to every pair of places as often as chance has it. (Whole orders would be asking too much:
 * a Feistel network's permutations are even.) The limits are about those that a random choice stays below
 * with probability 1 - 1e-5. */
static void test_pairs_are_even(void **state) {
  (void)state;
  static const struct {
    int n;
    double limit;
  } cases[] = {{2, 19.6}, {3, 30.9}, {4, 39.0}, {5, 54.0}, {7, 91.0}, {16, 345.0}, {17, 383.0}};
  for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
    int n = cases[c].n, a = n / 2, b = n - 1;
    int64_t counts[17 * 16] = {0};
    for (uint64_t key = 0; key < 40000; key++) {
      Permutation p = permutation_make(n, shuffle_key(3, key));
      int64_t to_a = permutation_at(&p, a == b ? 0 : a), to_b = permutation_at(&p, b);
      counts[to_a * (n - 1) + to_b - (to_b > to_a)]++;
    }
    double found = chi_square(counts, n * (n - 1));
    if (found > cases[c].limit) fail_msg("%d elements: chi-square %g, limit %g", n, found, cases[c].limit);
  }
}

/* Elements stay where they are, and neighbours stay neighbours, once a permutation on average. */
static void test_little_order_is_left(void **state) {
  (void)state;
  enum { N = 1000, KEYS = 400 };
  int64_t fixed = 0, neighbours = 0, first[10] = {0};
  for (uint64_t key = 0; key < KEYS; key++) {
    Permutation p = permutation_make(N, key);
    for (int64_t i = 0; i < N; i++) {
      fixed += permutation_at(&p, i) == i;
      neighbours += i > 0 && permutation_at(&p, i) == permutation_at(&p, i - 1) + 1;
    }
    first[permutation_at(&p, 0) / (N / 10)]++;
  }
  assert_in_range(fixed, KEYS - 100, KEYS + 100); /* 5 standard deviations */
  assert_in_range(neighbours, KEYS - 100, KEYS + 100);
  assert_true(chi_square(first, 10) < 39.0);
}

/* Keys that differ in one bit, and keys made in another order, name other permutations. */
static void test_keys_differ(void **state) {
  (void)state;
  enum { N = 64 };
  Permutation base = permutation_make(N, 42);
  for (int bit = 0; bit < 64; bit++) {
    Permutation other = permutation_make(N, 42 ^ UINT64_C(1) << bit);
    int same = 0;
    for (int64_t i = 0; i < N; i++) same += permutation_at(&base, i) == permutation_at(&other, i);
    assert_true(same < 12);
  }
  assert_true(shuffle_key(shuffle_key(1, 2), 3) != shuffle_key(shuffle_key(1, 3), 2));
  assert_true(shuffle_key(1, 2) != shuffle_key(2, 1));
  assert_true(shuffle_key(0, 0) != 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_small_size), cmocka_unit_test(test_large_sizes),
      cmocka_unit_test(test_pairs_are_even),   cmocka_unit_test(test_little_order_is_left),
      cmocka_unit_test(test_keys_differ),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
