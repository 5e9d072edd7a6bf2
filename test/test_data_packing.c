/* Packed sequences: where documents are found, what positions and targets become, and what is refused. The
 * expected values come from a stream kept in memory, whose tokens are marked where a document starts. */
#include "data_support.h"

enum { BOS = 7, T = 6, N = 5 * T + 1 };

/* A stream whose documents begin at the edges of windows, next to each other, and at the stream's last token;
 * the first window begins in the middle of one. */
static void make_stream(uint32_t *stream) {
  static const int starts[] = {2, 3, T, 2 * T - 1, 3 * T + 2, N - 1};
  fill_ids(stream, N, 5);
  for (int i = 0; i < N; i++) stream[i] = stream[i] == BOS ? BOS + 1 : stream[i];
  for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) stream[starts[i]] = BOS | TOKEN_DOCUMENT;
}

static DataOptions packed(const char *globs, int64_t B) {
  return (DataOptions){.globs = globs, .B = B, .T = T, .V = V, .pack = true, .bos = -1, .document_token = -1};
}

/* A pass over the data and a half. */
static void check_pass(const DataOptions *o, const uint32_t *stream) {
  DataLoader *d = open_with(o);
  Step *s = step_new(1, o->B, T);
  int64_t windows = (N - 1) / T;
  for (int64_t first = 0; first < windows * 3 / 2; first += o->B) {
    next_ok(d, s);
    check_rows(s, stream, first, windows, o->pack);
  }
  free(s);
  dataloader_close(d);
}

/* By hand: the definition that the other tests compare with says what it should. */
static void test_by_hand(void **state) {
  (void)state;
  uint32_t stream[2 * T + 1] = {1,
                                2,
                                3 | TOKEN_DOCUMENT,
                                4,
                                5 | TOKEN_DOCUMENT,
                                6, /* in the middle of one */
                                7,
                                8 | TOKEN_MASKED,
                                9,
                                10 | TOKEN_DOCUMENT,
                                11,
                                12, /* goes on with token 6's */
                                13 | TOKEN_DOCUMENT};
  static const int32_t tokens[2 * T] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
                                  targets[2 * T] = {2, -1, 4, -1, 6, 7, -1, 9, -1, 11, 12, -1},
                                  positions[2 * T] = {0, 1, 0, 1, 0, 1, 0, 1, 2, 0, 1, 2},
                                  starts[2 * T] = {0, 0, 2, 2, 4, 4, 0, 0, 0, 3, 3, 3};
  write_shard(path_of("hand/a.bin"), 8, stream, 2 * T + 1);
  DataOptions o = packed(path_of("hand/a.bin"), 2);
  DataLoader *d = open_with(&o);
  Step *s = step_new(1, 2, T);
  next_ok(d, s);
  assert_memory_equal(s->tokens, tokens, sizeof tokens);
  assert_memory_equal(s->targets, targets, sizeof targets);
  assert_memory_equal(s->positions, positions, sizeof positions);
  assert_memory_equal(s->starts, starts, sizeof starts);
  assert_int_equal(s->batch.valid_targets, 7);
  check_rows(s, stream, 0, 2, true);
  free(s);
  dataloader_close(d);
}

/* The same documents from bit 30 of version 8, from the BOS in versions 1 and 7, and from a token that is
 * given, in these and in text. */
static void test_where_documents_are_found(void **state) {
  (void)state;
  uint32_t stream[N], plain[N];
  make_stream(stream);
  for (int i = 0; i < N; i++) plain[i] = stream[i] & TOKEN_ID;
  write_shard(path_of("found/marked.bin"), 8, stream, N);
  write_shard(path_of("found/seven.bin"), 7, plain, N);
  write_shard(path_of("found/one.bin"), 1, plain, N);
  write_shard(path_of("found/unmarked.bin"), 8, plain, N);
  const char *compact[] = {path_of("found/seven.bin"), path_of("found/one.bin")};
  DataOptions o = packed(path_of("found/marked.bin"), 2);
  check_pass(&o, stream);
  o.bos = o.document_token = 3; /* of no meaning where there are marks */
  check_pass(&o, stream);
  for (int i = 0; i < 2; i++) {
    o = packed(compact[i], 3);
    o.bos = BOS;
    check_pass(&o, stream);
    o.bos = 3;
    o.document_token = BOS;
    check_pass(&o, stream);
    o.pack = false;
    check_pass(&o, plain);
  }
  o = packed(path_of("found/unmarked.bin"), 1);
  o.document_token = BOS;
  check_pass(&o, stream);

  uint8_t text[N];
  for (int i = 0; i < N; i++) {
    text[i] = (uint8_t)(i % 5 == 3 ? '\n' : 'a' + i % 26);
    stream[i] = text[i] | (text[i] == '\n' ? TOKEN_DOCUMENT : 0);
  }
  write_bytes(path_of("found/lines.txt"), text, N);
  o = packed(path_of("found/lines.txt"), 2);
  o.document_token = '\n';
  check_pass(&o, stream);
}

/* A document may go on over shards in which none starts, in marked shards and in others. */
static void test_shard_without_a_start(void **state) {
  (void)state;
  uint32_t stream[N];
  fill_ids(stream, N, 5);
  stream[3] |= TOKEN_DOCUMENT;
  write_shard(path_of("long/a.bin"), 8, stream, 2 * T);
  write_shard(path_of("long/b.bin"), 8, stream + 2 * T, N - 2 * T);
  DataOptions o = packed(path_of("long/*.bin"), 1);
  check_pass(&o, stream);
}

/* What is packed is remembered by the tokens alone: a position restores it, and what is read ahead is it. */
static void test_restored_and_read_ahead(void **state) {
  (void)state;
  enum { B = 2, STEPS = 9 };
  uint32_t stream[N], raw[B * (T + 1)];
  make_stream(stream);
  for (int i = 0; i < N; i++) stream[i] &= TOKEN_ID;
  write_shard(path_of("restored/a.bin"), 7, stream, N);
  DataOptions o = packed(path_of("restored/a.bin"), B);
  o.bos = BOS;
  o.shuffle = true;
  o.seed = 3;
  DataLoader *d = open_with(&o);
  Step *steps[STEPS], *s = step_new(1, B, T);
  DataPosition at[STEPS];
  for (int i = 0; i < STEPS; i++) {
    at[i] = dataloader_position(d);
    next_ok(d, steps[i] = step_new(1, B, T));
  }
  DataLoader *ahead = open_with(&o);
  Error e;
  assert_true(dataloader_prefetch(ahead, raw, 1, &e));
  for (int i = 0; i < STEPS; i++) {
    next_ok(ahead, s);
    assert_same_step(s, steps[i]);
  }
  for (int i = STEPS - 1; i >= 0; i--) {
    seek_ok(ahead, &at[i]);
    next_ok(ahead, s);
    assert_same_step(s, steps[i]);
  }
  /* another token at documents' starts: other data, to a run that goes on */
  DataOptions other = o;
  other.document_token = (int64_t)stream[0];
  DataLoader *differs = open_with(&other);
  assert_true(dataloader_fingerprint(differs) != dataloader_fingerprint(d));
  assert_true(dataloader_fingerprint(ahead) == dataloader_fingerprint(d));
  for (int i = 0; i < STEPS; i++) free(steps[i]);
  free(s);
  dataloader_close(differs);
  dataloader_close(ahead);
  dataloader_close(d);
}

static void refused(DataOptions o, const char *part, const char *part2) {
  Error e = {0};
  DataLoader *d = dataloader_open(&o, &e);
  if (d) fail_msg("'%s' was accepted; expected an error with '%s'", o.globs, part);
  assert_int_equal(e.code, EXIT_USAGE);
  assert_text(&e, part);
  assert_text(&e, part2);
}

static void test_refusals(void **state) {
  (void)state;
  uint32_t stream[N];
  fill_ids(stream, N, 5);
  write_shard(path_of("refused/seven.bin"), 7, stream, N);
  write_shard(path_of("refused/eight.bin"), 8, stream, N);
  write_bytes(path_of("refused/a.txt"), "some text without documents in it", 33);
  refused(packed(path_of("refused/seven.bin"), 1), "seven.bin: --pack finds no documents in it",
          "does not mark them");
  refused(packed(path_of("refused/a.txt"), 1), "a.txt: --pack finds no documents in it", "one piece");
  refused(packed(path_of("refused/eight.bin"), 1), "no document in all tokens", "expected a mark");
  DataOptions o = packed(path_of("refused/a.txt"), 1);
  o.bos = 'e'; /* of a tokenizer, which bytes know nothing of */
  refused(o, "a.txt: --pack finds no documents", "--document-token");
  o.document_token = '#';
  refused(o, "no document in all tokens, expected the token 35", "a.txt");
  o.globs = path_of("refused/seven.bin");
  o.bos = V - 1;
  o.document_token = -1;
  refused(o, "expected the token 999", "seven.bin");

  Error e = {0};
  assert_null(dataloader_from_bytes("the demo", (const uint8_t *)"text of the demo", 16, &o, &e));
  assert_text(&e, "the demo: --pack finds no documents");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_by_hand),
      cmocka_unit_test(test_where_documents_are_found),
      cmocka_unit_test(test_shard_without_a_start),
      cmocka_unit_test(test_restored_and_read_ahead),
      cmocka_unit_test(test_refusals),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
