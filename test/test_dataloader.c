/* Token shards and the loader over them: round trips, the stream across files, windows and their targets,
 * and refusals. Expected values come from a stream kept in memory. */
#include "data_support.h"

/* Opening is refused as a usage error whose text holds both parts. */
static void refused(const char *globs, int64_t T, int64_t vocabulary, const char *part, const char *part2) {
  Error e = {0};
  DataLoader *d = dataloader_open(&(DataOptions){.globs = globs, .B = 1, .T = T, .V = vocabulary}, &e);
  if (d) fail_msg("'%s' was accepted; expected an error with '%s'", globs, part);
  assert_int_equal(e.code, EXIT_USAGE);
  assert_text(&e, part);
  assert_text(&e, part2);
}

static void test_round_trip(void **state) {
  (void)state;
  enum { N = 20000 }; /* more than one piece of the uint16 writer */
  static uint32_t tokens[N], back[N];
  static const int versions[] = {1, 7, 8};
  for (int k = 0; k < 3; k++) {
    int version = versions[k];
    fill_ids(tokens, N, (uint32_t)version);
    for (int i = 0; version == 8 && i < N; i += 3) tokens[i] |= i % 2 ? TOKEN_MASKED : TOKEN_DOCUMENT;
    const char *path = path_of("round/a.bin");
    Error e;
    if (!shard_write(path, version, tokens, N, V, 77, &e)) fail_msg("%s", e.text);
    assert_int_equal(access(path_of("round/a.bin.tmp"), F_OK), -1);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 1024 + N * (version == 1 ? 2 : 4));

    Shard s;
    OpenFiles pool = {0};
    if (!shard_open(&s, &pool, path, V, &e)) fail_msg("%s", e.text);
    assert_int_equal(s.n, N);
    assert_int_equal(s.tokenizer_hash, version == 8 ? 77 : 0);
    if (!shard_read(&s, 0, N, V, back, &e)) fail_msg("%s", e.text);
    assert_memory_equal(back, tokens, sizeof tokens);
    if (!shard_read(&s, N - 5, 5, V, back, &e)) fail_msg("%s", e.text);
    assert_memory_equal(back, tokens + N - 5, 5 * sizeof back[0]);
    shard_close(&s);
  }
}

/* The header's slots, as docs/formats.md numbers them. */
static void test_header_slots(void **state) {
  (void)state;
  const char *path = path_of("slots/a.bin");
  uint32_t tokens[3] = {5, 6 | TOKEN_MASKED, 7};
  Error e;
  assert_true(shard_write(path, 8, tokens, 3, 999, 0x1122334455667788u, &e));
  int32_t h[256];
  FILE *f = fopen(path, "rb");
  assert_non_null(f);
  assert_int_equal(fread(h, 4, 256, f), 256);
  fclose(f);
  assert_int_equal(h[0], 20240801);
  assert_int_equal(h[1], 8);
  assert_int_equal(h[2], 3);
  assert_int_equal(h[3], 0);
  assert_int_equal(h[4], 3);
  assert_int_equal(h[5], 0);
  assert_int_equal(h[6], 999);
  assert_int_equal(h[7], SHARD_HAS_MASKED);
  assert_int_equal(h[8], 0x55667788);
  assert_int_equal(h[9], 0x11223344);
  assert_true(h[10] != 0 || h[11] != 0);
  for (int i = 12; i < 256; i++) assert_int_equal(h[i], 0);
}

/* Files of every kind in one stream, in the order of their names; windows span them. */
static void test_concatenation(void **state) {
  (void)state;
  enum { N1 = 13, N7 = 1, N8 = 40, NT = 6, N = N1 + N7 + N8 + NT, T = 7 };
  uint32_t stream[N];
  fill_ids(stream, N, 3);
  stream[N1 + N7 + 2] |= TOKEN_DOCUMENT;
  stream[N1 + N7 + 9] |= TOKEN_DOCUMENT | TOKEN_MASKED;
  stream[N1 + N7 + 10] |= TOKEN_MASKED;
  static const char text[NT + 1] = "tokens";
  for (int i = 0; i < NT; i++) stream[N1 + N7 + N8 + i] = (uint8_t)text[i];
  write_shard(path_of("mixed/a.bin"), 1, stream, N1);
  write_shard(path_of("mixed/b.bin"), 7, stream + N1, N7);
  write_shard(path_of("mixed/c.bin"), 8, stream + N1 + N7, N8);
  write_bytes(path_of("mixed/d.TXT"), text, NT);
  write_bytes(path_of("mixed/e.txt"), "", 0);

  char globs[600]; /* out of order, and c.bin twice */
  snprintf(globs, sizeof globs, "%s,%s,%s", path_of("mixed/*.[Tt]*"), path_of("mixed/c.bin"),
           path_of("mixed/*.bin"));
  DataLoader *d = open_ok(globs, 2, T);
  assert_int_equal(dataloader_files(d), 5);
  assert_int_equal(dataloader_tokens(d), N);
  int64_t windows = (N - 1) / T;
  assert_int_equal(dataloader_windows(d), windows);
  Step *s = step_new(3, 2, T);
  for (int64_t first = 0; first < 4 * windows; first += 6) { /* 8 windows: wraps inside a step */
    next_ok(d, s);
    check_step(s, stream, first, windows);
  }
  free(s);
  dataloader_close(d);
}

static void test_wrap_and_rewind(void **state) {
  (void)state;
  uint8_t bytes[64];
  uint32_t stream[64];
  for (int i = 0; i < 64; i++) stream[i] = bytes[i] = (uint8_t)(i * 37);
  /* n, T: exactly one window; one token short of two; two; rows that do not divide the windows */
  static const int cases[][2] = {{9, 8}, {16, 8}, {17, 8}, {64, 9}, {2, 1}};
  for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
    int n = cases[c][0], T = cases[c][1];
    Error e;
    DataLoader *d = dataloader_from_bytes("memory", bytes, n, &(DataOptions){.B = 2, .T = T, .V = V}, &e);
    assert_non_null(d);
    int64_t windows = (n - 1) / T;
    assert_int_equal(dataloader_windows(d), windows);
    assert_int_equal(dataloader_files(d), 1);
    Step *s = step_new(1, 2, T);
    for (int step = 0; step < 9; step++) {
      next_ok(d, s);
      check_step(s, stream, 2 * step, windows);
    }
    dataloader_rewind(d);
    next_ok(d, s);
    check_step(s, stream, 0, windows);
    free(s);
    dataloader_close(d);
  }
}

static void test_masked_targets(void **state) {
  (void)state;
  enum { T = 4, N = 3 * T + 1 };
  uint32_t stream[N];
  fill_ids(stream, N, 8);
  stream[0] |= TOKEN_MASKED;                                      /* never a target in the first pass */
  for (int i = T + 1; i <= 2 * T; i++) stream[i] |= TOKEN_MASKED; /* all targets of the second window */
  stream[3 * T] |= TOKEN_MASKED;                                  /* the stream's last target */
  write_shard(path_of("masked/a.bin"), 8, stream, N);
  DataLoader *d = open_ok(path_of("masked/a.bin"), 1, T);
  Step *s = step_new(1, 1, T);
  static const int valid[] = {4, 0, 3, 4};
  for (int i = 0; i < 4; i++) {
    next_ok(d, s);
    check_step(s, stream, i, 3);
    assert_int_equal(s->batch.valid_targets, valid[i]);
  }
  free(s);
  dataloader_close(d);
}

static void test_restrict(void **state) {
  (void)state;
  enum { N = 101, T = 8 };
  uint8_t bytes[N];
  uint32_t stream[N];
  for (int i = 0; i < N; i++) stream[i] = bytes[i] = (uint8_t)i;
  Error e;
  const DataOptions o = {.B = 1, .T = T, .V = V};
  DataLoader *train = dataloader_from_bytes("memory", bytes, N, &o, &e);
  DataLoader *held = dataloader_from_bytes("memory", bytes, N, &o, &e);
  Step *s = step_new(1, 1, T);
  next_ok(train, s);
  assert_true(dataloader_restrict(train, 0, 0.9, &e));
  assert_true(dataloader_restrict(held, 0.9, 1, &e));
  assert_int_equal(dataloader_tokens(train), 90); /* the two parts meet and do not overlap */
  assert_int_equal(dataloader_tokens(held), 11);
  next_ok(train, s);
  check_step(s, stream, 0, 11);
  for (int i = 0; i < 3; i++) {
    next_ok(held, s);
    check_step(s, stream + 90, i, 1);
  }
  assert_true(dataloader_restrict(train, 0.5, 1, &e)); /* of what is left: 45 .. 89 */
  assert_int_equal(dataloader_tokens(train), 45);
  next_ok(train, s);
  check_step(s, stream + 45, 0, 5);
  next_ok(train, s);
  assert_false(dataloader_restrict(train, 0.9, 1, &e));
  assert_int_equal(e.code, EXIT_USAGE);
  assert_text(&e, "has 5 tokens");
  assert_text(&e, "needs 9");
  next_ok(train, s); /* unchanged: the third window */
  check_step(s, stream + 45, 2, 5);
  free(s);
  dataloader_close(train);
  dataloader_close(held);
}

static void test_refuses_files(void **state) {
  (void)state;
  refused(path_of("none/*.bin"), 4, V, "no file matches", "none/*.bin");
  char globs[600];
  write_bytes(path_of("files/a.txt"), "some text", 9);
  snprintf(globs, sizeof globs, "%s,%s", path_of("files/a.txt"), path_of("files/b*"));
  refused(globs, 4, V, "no file matches", "files/b*");
  refused("", 4, V, "no file matches", "''");
  refused(path_of("files/a.txt"), 9, V, "has 9 tokens", "needs 10; use a smaller --seq-len");
  refused(folder, 4, V, "not a regular file", folder);

  write_bytes(path_of("files/short.bin"), "abc", 3);
  refused(path_of("files/short.bin"), 4, V, "3 bytes", ".txt");
  char zeros[2048] = {0};
  write_bytes(path_of("files/zero.bin"), zeros, sizeof zeros);
  refused(path_of("files/zero.bin"), 4, V, "not a token shard", "20240520 or 20240801");

  Error e = {0};
  uint8_t bytes[8] = {1, 2, 3};
  assert_null(dataloader_from_bytes("the demo", bytes, 8, &(DataOptions){.B = 1, .T = 8, .V = V}, &e));
  assert_text(&e, "the demo");
  assert_text(&e, "has 8 tokens");
}

static void test_refuses_headers(void **state) {
  (void)state;
  enum { N = 20 };
  uint32_t tokens[N];
  fill_ids(tokens, N, 1);
  const char *path = path_of("headers/a.bin");
  static const struct {
    int version, slot;
    int32_t value;
    const char *part, *part2;
  } cases[] = {
      {1, 0, 20240801, "version 1", "7 or 8"},
      {7, 0, 20240520, "version 7", "expected version 1"},
      {1, 1, 2, "version 2", "expected version 1"},
      {7, 1, 9, "version 9", "7 or 8"},
      {1, 2, N + 1, "counts 21", "too few"},
      {1, 2, N - 1, "counts 19", "too many"},
      {7, 2, N + 1, "counts 21", "too few"},
      {7, 2, -1, "counts 4294967295", "too few"},
      {8, 2, N + 1, "[4..5]", "[2] holds 21"},
      {8, 4, N + 1, "[4..5]", "21 is expected"},
      {8, 5, -1, "[4..5]", "headers/a.bin"},
      {8, 6, V + 1, "vocabulary of 1001", "has 1000"},
      {8, 6, -1, "vocabulary of -1", "headers/a.bin"},
      {8, 7, 4, "flags 0x4", "does not know"},
      {8, 3, 1, "does not know", "headers/a.bin"},
      {8, 255, 1, "does not know", "headers/a.bin"},
      {8, 10, 1, "hash", "damaged"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    write_shard(path, cases[i].version, tokens, N);
    dataloader_close(open_ok(path, 1, 4));
    patch_int32(path, cases[i].slot, cases[i].value);
    refused(path, 4, V, cases[i].part, cases[i].part2);
  }
  static const int versions[] = {1, 7, 8};
  for (int k = 0; k < 3; k++) {
    int64_t bytes = 1024 + N * (versions[k] == 1 ? 2 : 4);
    for (int more = -1; more <= 1; more += 2) {
      write_shard(path, versions[k], tokens, N);
      assert_int_equal(truncate(path, bytes + more), 0);
      refused(path, 4, V, "counts 20", more < 0 ? "too few" : "too many");
    }
  }
}

static void test_refuses_damage(void **state) {
  (void)state;
  uint32_t tokens[64];
  fill_ids(tokens, 64, 5);
  const char *path = path_of("damage/a.bin");
  write_shard(path, 8, tokens, 64);
  uint32_t other = tokens[63] ^ 1;
  patch(path, 1024 + 63 * 4, &other, 4);
  refused(path, 4, V, "damaged", "damage/a.bin");
  patch_int32(path, 10, 0); /* a hash that is not given is not checked */
  patch_int32(path, 11, 0);
  dataloader_close(open_ok(path, 1, 4));
}

static void test_refuses_tokenizers(void **state) {
  (void)state;
  uint32_t tokens[16];
  fill_ids(tokens, 16, 5);
  Error e;
  assert_true(shard_write(path_of("tokenizers/a.bin"), 8, tokens, 16, V, 0, &e)); /* not given */
  assert_true(shard_write(path_of("tokenizers/b.bin"), 8, tokens, 16, V, 0xabc, &e));
  assert_true(shard_write(path_of("tokenizers/c.bin"), 7, tokens, 16, V, 0, &e));
  assert_true(shard_write(path_of("tokenizers/d.bin"), 8, tokens, 16, V, 0xabc, &e));
  dataloader_close(open_ok(path_of("tokenizers/*.bin"), 1, 4));
  assert_true(shard_write(path_of("tokenizers/e.bin"), 8, tokens, 16, V, 0xabd, &e));
  refused(path_of("tokenizers/*.bin"), 4, V, "tokenizers/b.bin was made with the tokenizer 0000000000000abc",
          "tokenizers/e.bin with 0000000000000abd");
}

/* A token outside the vocabulary is met when it is read; the message has its place. */
static void test_vocabulary(void **state) {
  (void)state;
  enum { N = 12, T = 4 };
  static const int versions[] = {1, 7, 8};
  for (int k = 0; k < 3; k++) {
    uint32_t tokens[N];
    fill_ids(tokens, N, 5);
    tokens[9] = V;
    const char *path = path_of("vocabulary/b.bin");
    write_shard(path, versions[k], tokens, N);
    write_shard(path_of("vocabulary/a.bin"), 1, tokens, 1);
    refused(path_of("vocabulary/*.bin"), T, V, "vocabulary/b.bin: token 9 ",
            versions[k] == 1 ? "at byte 1042" : "at byte 1060");
    /* and once more when it is used */
    Shard s;
    OpenFiles pool = {0};
    Error e = {0};
    if (!shard_open(&s, &pool, path, V, &e)) fail_msg("%s", e.text);
    assert_true(shard_read(&s, 0, 9, V, tokens, &e));
    assert_false(shard_read(&s, 8, 2, V, tokens, &e));
    assert_int_equal(e.code, EXIT_USAGE);
    assert_text(&e, "vocabulary/b.bin: token 9 ");
    assert_text(&e, "is 1000, expected 0 .. 999");
    shard_close(&s);
  }

  /* a mark that the format or the header does not announce is part of the id */
  uint32_t tokens[N];
  fill_ids(tokens, N, 6);
  for (int version = 7; version <= 8; version++) {
    const char *path = path_of("vocabulary/marks.bin");
    write_shard(path, version, tokens, N);
    patch_int32(path, 10, 0);
    patch_int32(path, 11, 0);
    uint32_t marked = tokens[2] | TOKEN_MASKED;
    patch(path, 1024 + 2 * 4, &marked, 4);
    refused(path, T, V, "token 2 ", "is 2147");
  }

  /* text: a small vocabulary is enough for bytes below it */
  write_bytes(path_of("vocabulary/t.txt"), "plain ascii\xc3", 12);
  refused(path_of("vocabulary/t.txt"), 4, 128, "token 11 (at byte 11) is 195", "V >= 256");
  write_bytes(path_of("vocabulary/t.txt"), "plain ascii", 11);
  Error e;
  DataLoader *d =
      dataloader_open(&(DataOptions){.globs = path_of("vocabulary/t.txt"), .B = 1, .T = 4, .V = 128}, &e);
  assert_non_null(d);
  dataloader_close(d);
}

static void test_writer_refuses(void **state) {
  (void)state;
  const char *path = path_of("writer/a.bin");
  uint32_t tokens[2] = {1, 70000};
  Error e = {0};
  assert_false(shard_write(path, 1, tokens, 2, 0, 0, &e));
  assert_int_equal(e.code, EXIT_USAGE);
  assert_text(&e, "token 1 is 70000");
  assert_true(shard_write(path, 7, tokens, 2, 0, 0, &e));
  assert_int_equal(unlink(path), 0);
  assert_false(shard_write(path, 7, tokens, 2, 70000, 0, &e));
  assert_text(&e, "0 .. 69999");
  tokens[1] = 5 | TOKEN_MASKED;
  assert_false(shard_write(path, 7, tokens, 2, 0, 0, &e));
  assert_text(&e, "token 1 is ");
  assert_int_equal(access(path, F_OK), -1);
  assert_false(shard_write(path_of("writer/none/a/b.bin"), 7, tokens, 1, 0, 0, &e));
  assert_int_equal(e.code, EXIT_RUNTIME);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_header_slots),
      cmocka_unit_test(test_concatenation),  cmocka_unit_test(test_wrap_and_rewind),
      cmocka_unit_test(test_masked_targets), cmocka_unit_test(test_restrict),
      cmocka_unit_test(test_refuses_files),  cmocka_unit_test(test_refuses_headers),
      cmocka_unit_test(test_refuses_damage), cmocka_unit_test(test_refuses_tokenizers),
      cmocka_unit_test(test_vocabulary),     cmocka_unit_test(test_writer_refuses),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
