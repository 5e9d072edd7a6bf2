/* The list of a packed batch's documents against a plain enumeration of them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "ops/attention_documents.h"

enum { MOST_ROWS = 4100 };

static AttentionShape shape_of(int64_t B, int64_t T) {
  return (AttentionShape){.B = B, .T = T, .NH = 6, .NKV = 2, .HS = 16, .packed = true};
}

/* Documents of these lengths, in turn, fill the sequences; 0 ends the lengths. Writes the row at which each
 * begins, and the starts, and returns how many there are. */
static int64_t enumerate(const AttentionShape *s, const int64_t *lengths, int64_t *first, int32_t *starts) {
  int64_t count = 0, i = 0;
  for (int64_t b = 0; b < s->B; b++) {
    int64_t at = 0;
    while (at < s->T) {
      int64_t end = at + lengths[i] < s->T ? at + lengths[i] : s->T;
      i = lengths[i + 1] ? i + 1 : 0;
      first[count++] = b * s->T + at;
      for (int64_t t = at; t < end; t++) starts[b * s->T + t] = (int32_t)at;
      at = end;
    }
  }
  first[count] = s->B * s->T;
  return count;
}

/* A list, in memory that is exactly as large as it is said to be. */
static void *list_new(const AttentionShape *s) {
  size_t bytes = attention_document_list_bytes(s);
  void *memory = aligned_alloc(16, (bytes + 15) / 16 * 16);
  assert_non_null(memory);
  memset(memory, 0xff, bytes);
  return memory;
}

static void assert_document(const AttentionShape *s, const DocumentList *list, int64_t d, int64_t row) {
  assert_true(list->query_offsets[d] == row * s->NH * s->HS);
  assert_true(list->key_offsets[d] == row * s->NKV * s->HS);
  assert_true(list->lse_offsets[d] == row * s->NH);
}

static void check(int64_t B, int64_t T, const int64_t *lengths) {
  static int64_t first[MOST_ROWS + 1];
  static int32_t starts[MOST_ROWS];
  AttentionShape s = shape_of(B, T);
  assert_true(B * T <= MOST_ROWS);
  int64_t count = enumerate(&s, lengths, first, starts), room = attention_documents_room(&s);
  assert_true(count <= room);
  void *memory = list_new(&s);
  assert_true(attention_list_documents(memory, &s, starts) == count);
  DocumentList list = attention_document_list(memory, &s);
  for (int64_t d = 0; d <= room; d++) {
    int64_t row = d < count ? first[d] : B * T, end = d < count ? first[d + 1] : B * T;
    assert_document(&s, &list, d, row);
    if (d < room) assert_int_equal(list.lengths[d], end - row);
  }
  free(memory);
}

static void lists_are_those_of_the_documents(void **state) {
  (void)state;
  static const int64_t whole[] = {4096, 0}, single[] = {1, 0}, mixed[] = {700, 1, 300, 40, 0},
                       even[] = {256, 0};
  check(1, 256, whole);
  check(1, 4, single);   /* as many as there is room for */
  check(4, 1024, whole); /* which all begin at 0 of their sequence */
  check(1, 1500, mixed);
  check(2, 2050, mixed);
  check(3, 1000, mixed);
  check(2, 1024, even);
}

/* Nothing is written then. */
static void too_many_documents(void **state) {
  (void)state;
  AttentionShape s = shape_of(1, 6);
  int32_t starts[] = {0, 1, 2, 3, 4, 4};
  assert_int_equal(attention_documents_room(&s), 4);
  unsigned char *memory = list_new(&s);
  assert_true(attention_list_documents(memory, &s, starts) == 5);
  for (size_t i = 0; i < attention_document_list_bytes(&s); i++) assert_int_equal(memory[i], 0xff);
  starts[1] = 0;
  assert_true(attention_list_documents(memory, &s, starts) == 4);
  free(memory);
}

/* Offsets beyond 2^31, of a batch that nobody has to hold: its last documents. */
static void offsets_are_wide(void **state) {
  (void)state;
  AttentionShape s = {.B = 1, .T = 1 << 20, .NH = 32, .NKV = 8, .HS = 128, .packed = true};
  int32_t *starts = calloc((size_t)s.T, sizeof *starts);
  assert_non_null(starts);
  int64_t at = s.T - 5;
  for (int64_t row = at; row < s.T; row++) starts[row] = (int32_t)at;
  void *memory = list_new(&s);
  assert_true(attention_list_documents(memory, &s, starts) == 2);
  DocumentList list = attention_document_list(memory, &s);
  assert_document(&s, &list, 1, at);
  assert_true(list.query_offsets[1] > INT32_MAX);
  assert_document(&s, &list, attention_documents_room(&s), s.T);
  assert_int_equal(list.lengths[0], at);
  assert_int_equal(list.lengths[1], 5);
  assert_int_equal(list.lengths[2], 0);
  free(memory);
  free(starts);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(lists_are_those_of_the_documents),
                                     cmocka_unit_test(too_many_documents),
                                     cmocka_unit_test(offsets_are_wide)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
