/* What tells one plan of a matrix product from another, and the table that finds it again. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "ops/matmul_key.h"

/* A product that can be varied in one point at a time. */
typedef struct Product {
  Device dev;
  Matrix out, a, b;
  const void *add;
  bool transpose_a, transpose_b;
  int64_t M, N, K;
} Product;

static Product product(void) {
  Product p = {.out = {(void *)4096, DT_FP32, 30}, /* rows at multiples of 8, 16 and 4 bytes */
               .a = {(void *)8192, DT_BF16, 40},
               .b = {(void *)12288, DT_BF16, 50},
               .M = 10,
               .N = 20,
               .K = 32};
  p.dev.workspace_bytes = 1 << 20;
  return p;
}
static MatmulKey key_of(const Product *p) {
  return matmul_key(&p->dev, p->out, p->add, p->a, p->transpose_a, p->b, p->transpose_b, p->M, p->N, p->K);
}
static bool same(const Product *p, const Product *q) {
  MatmulKey a = key_of(p), b = key_of(q);
  return memcmp(&a, &b, sizeof a) == 0;
}

static void every_property_counts(void **state) {
  (void)state;
  enum { COUNT = 15 };
  Product plain = product(), varied[COUNT];
  for (int i = 0; i < COUNT; i++) varied[i] = product();
  varied[0].M = 11, varied[1].N = 10, varied[2].K = 64;
  varied[3].out.ld = 31, varied[4].a.ld = 41, varied[5].b.ld = 51;
  varied[6].transpose_a = true, varied[7].transpose_b = true;
  varied[8].out.dtype = DT_BF16, varied[9].a.dtype = DT_FP32;
  varied[10].dev.workspace_bytes = 0;
  varied[11].out.data = (void *)4100, varied[12].a.data = (void *)8200;
  varied[13].dev.deterministic = true;
  varied[14].add = (void *)4098;
  for (int i = 0; i < COUNT; i++) {
    assert_false(same(&plain, &varied[i]));
    for (int j = 0; j < i; j++) assert_false(same(&varied[i], &varied[j]));
  }
}

/* Of an address only its alignment, up to 256, matters, and only as far as all rows have it: rows of a matrix
 * are multiplied as they are by themselves. What is added has to have it too. */
static void addresses_do_not_count(void **state) {
  (void)state;
  Product p = product(), q = product();
  q.a.data = (char *)p.a.data + 3 * p.a.ld * 2; /* the third row */
  assert_true(same(&p, &q));
  assert_int_equal(key_of(&q).align_a, 16);
  p.out.ld = q.out.ld = 64, p.a.ld = q.a.ld = p.b.ld = q.b.ld = 128;
  q.out.data = (void *)(4096 + 256), q.a.data = (void *)(3 << 20), q.b.data = (void *)512;
  assert_true(same(&p, &q));
  assert_int_equal(key_of(&q).align_b, 256);
  q.add = (void *)(1 << 20);
  assert_true(same(&p, &q));
  const int32_t alignments[] = {2, 4, 8, 16, 32, 64, 128};
  for (size_t i = 0; i < sizeof alignments / sizeof *alignments; i++) {
    q.b.data = (void *)(intptr_t)(4096 + alignments[i]);
    assert_int_equal(key_of(&q).align_b, alignments[i]);
    assert_false(same(&p, &q));
  }
}

static void the_table_finds_what_it_took(void **state) {
  (void)state;
  MatmulTable *t = calloc(1, sizeof *t);
  Product p = product();
  int slots[MATMUL_KEYS];
  bool taken[MATMUL_SLOTS] = {false}, found;
  for (int i = 0; i < MATMUL_KEYS; i++) {
    p.M = i % 16, p.N = i / 16;
    MatmulKey key = key_of(&p);
    slots[i] = matmul_table_find(t, &key, &found);
    assert_false(found);
    assert_true(slots[i] >= 0 && slots[i] < MATMUL_SLOTS && !taken[slots[i]]);
    taken[slots[i]] = true;
    matmul_table_take(t, slots[i], &key);
  }
  assert_int_equal(t->count, MATMUL_KEYS);
  for (int i = 0; i < MATMUL_KEYS; i++) {
    p.M = i % 16, p.N = i / 16;
    MatmulKey key = key_of(&p);
    assert_int_equal(matmul_table_find(t, &key, &found), slots[i]);
    assert_true(found);
  }
  p.K = 1; /* a full table still says what it does not have */
  MatmulKey other = key_of(&p);
  matmul_table_find(t, &other, &found);
  assert_false(found);
  free(t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_property_counts),
      cmocka_unit_test(addresses_do_not_count),
      cmocka_unit_test(the_table_finds_what_it_took),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
