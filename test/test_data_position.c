/* Where a loader is: saved and restored at any sample, what follows is what would have followed. What the
 * data are: the fingerprint. And positions beyond 2^31 tokens. */
#include "data_support.h"

#include <sys/time.h>

enum { T = 4 };
static const int64_t lengths_a[] = {50, 3, 0, 31, 80, -1}, lengths_b[] = {37, 22, -1};

/* The weighted patterns of two sources in the folder of a case, valid until the next call. */
static const char *two_sources(const char *name) {
  static char globs[600];
  char a[64], b[64];
  snprintf(a, sizeof a, "%s/a", name);
  snprintf(b, sizeof b, "%s/b", name);
  write_places(a, 0, lengths_a);
  write_places(b, 1, lengths_b);
  strcat(a, "*.bin");
  strcat(b, "*.bin");
  snprintf(globs, sizeof globs, "%s:0.7,%s:0.3", path_of(a), path_of(b));
  return globs;
}

/* Saved after every step of some epochs, restored in a new loader: the following steps are the same. */
static void test_restore_anywhere(void **state) {
  (void)state;
  enum { A = 2, B = 3, RANKS = 2, STEPS = 24, AFTER = 3 };
  const char *globs = two_sources("restore");
  for (int shuffle = 0; shuffle < 2; shuffle++) {
    DataOptions o = {.globs = globs,
                     .B = B,
                     .T = T,
                     .V = PLACE_V,
                     .shuffle = shuffle,
                     .seed = 4,
                     .rank = 1,
                     .ranks = RANKS};
    Step *steps[STEPS + AFTER], *s = step_new(A, B, T);
    DataPosition at[STEPS + AFTER];
    DataLoader *d = open_with(&o);
    for (int i = 0; i < STEPS + AFTER; i++) {
      at[i] = dataloader_position(d);
      assert_int_equal(at[i].samples, i * A * B * RANKS);
      steps[i] = step_new(A, B, T);
      next_ok(d, steps[i]);
    }
    assert_true(at[STEPS].taken[0] > 3 * 40 && at[STEPS].taken[1] > 3 * 14); /* epochs of 40 and of 14 */
    for (int i = STEPS - 1; i >= 0; i--) {
      DataLoader *other = open_with(&o);
      seek_ok(other, &at[i]);
      seek_ok(d, &at[i]);
      for (int n = 0; n < AFTER; n++) {
        next_ok(other, s);
        assert_same_step(s, steps[i + n]);
        next_ok(d, s);
        assert_same_step(s, steps[i + n]);
      }
      dataloader_close(other);
    }
    dataloader_rewind(d);
    next_ok(d, s);
    assert_same_step(s, steps[0]);
    for (int i = 0; i < STEPS + AFTER; i++) free(steps[i]);
    free(s);
    dataloader_close(d);
  }
}

/* A run that goes on with another number of ranks, rows and micro-batches goes on with the same samples. */
static void test_restore_on_other_ranks(void **state) {
  (void)state;
  DataOptions o = {.globs = two_sources("other"), .B = 2, .T = T, .V = PLACE_V, .shuffle = true, .seed = 8};
  DataLoader *d = open_with(&o);
  Step *s = step_new(3, 2, T), *whole = step_new(1, 8, T), *part = step_new(2, 2, T);
  for (int i = 0; i < 5; i++) next_ok(d, s);
  DataPosition at = dataloader_position(d);
  assert_int_equal(at.samples, 30);
  dataloader_close(d);

  o.B = 8;
  d = open_with(&o);
  seek_ok(d, &at);
  next_ok(d, whole); /* samples 30 .. 37 */
  dataloader_close(d);
  o.B = 2;
  o.ranks = 2;
  for (o.rank = 0; o.rank < 2; o.rank++) {
    d = open_with(&o);
    seek_ok(d, &at);
    next_ok(d, part);
    for (int a = 0; a < 2; a++)
      assert_memory_equal(part->tokens + a * 2 * T, whole->tokens + (a * 4 + o.rank * 2) * T, 2 * T * 4);
    dataloader_close(d);
  }
  free(s);
  free(whole);
  free(part);
}

static void test_refused_positions(void **state) {
  (void)state;
  DataLoader *d = open_with(&(DataOptions){.globs = two_sources("refused"), .B = 1, .T = T, .V = PLACE_V});
  Step *s = step_new(7, 1, T);
  next_ok(d, s);
  DataPosition before = dataloader_position(d), p = before;
  static const struct {
    int64_t samples, sources, taken0, taken1;
    const char *part;
  } cases[] = {{7, 1, 7, 0, "one of 1 sources, but the data have 2"},
               {8, 2, 5, 2, "counts 8 samples"},
               {3, 2, 5, -2, "counts 3 samples"},
               {-2, 2, INT64_MAX, INT64_MAX, "counts -2 samples"},
               {INT64_MAX, 2, INT64_MAX, 0, "at most 4611686018427387904"}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    p.samples = cases[i].samples;
    p.sources = cases[i].sources;
    p.taken[0] = cases[i].taken0;
    p.taken[1] = cases[i].taken1;
    Error e = {0};
    assert_false(dataloader_seek(d, &p, &e));
    assert_int_equal(e.code, EXIT_USAGE);
    assert_text(&e, cases[i].part);
    p = dataloader_position(d);
    assert_memory_equal(&p, &before, sizeof p);
  }
  free(s);
  dataloader_close(d);
}

static uint64_t fingerprint(const char *globs, int64_t length) {
  DataLoader *d = open_with(&(DataOptions){.globs = globs, .B = 1, .T = length, .V = PLACE_V});
  uint64_t hash = dataloader_fingerprint(d);
  dataloader_close(d);
  return hash;
}

/* It stays where only names, places and times change, and changes with anything that decides what is read. */
static void test_fingerprint(void **state) {
  (void)state;
  uint64_t known = fingerprint(two_sources("print"), T);
  assert_true(known == fingerprint(two_sources("moved"), T));
  const char *path = path_of("moved/a-003.bin");
  struct timeval times[2] = {{1000, 0}, {1000, 0}};
  assert_int_equal(utimes(path, times), 0);
  char globs[600];
  snprintf(globs, sizeof globs, "%s:7,%s:3", path_of("moved/a*"), path_of("moved/b*"));
  assert_true(known == fingerprint(globs, T));

  assert_true(known != fingerprint(globs, T + 1));
  snprintf(globs, sizeof globs, "%s:6,%s:4", path_of("moved/a*"), path_of("moved/b*"));
  assert_true(known != fingerprint(globs, T));
  snprintf(globs, sizeof globs, "%s:3,%s:7", path_of("moved/b*"), path_of("moved/a*"));
  assert_true(known != fingerprint(globs, T));
  snprintf(globs, sizeof globs, "%s,%s", path_of("moved/a*"), path_of("moved/b*"));
  uint64_t joined = fingerprint(globs, T);
  assert_true(known != joined);
  assert_int_equal(rename(path_of("moved/a-000.bin"), path_of("moved/b-9.bin")), 0); /* another order */
  assert_true(joined != fingerprint(globs, T));

  /* one other token, in a shard without a payload hash and in one with; another tokenizer */
  snprintf(globs, sizeof globs, "%s:0.7,%s:0.3", path_of("print/a*"), path_of("print/b*"));
  uint32_t token = 9, tokens[3] = {200, 201, 202};
  patch(path_of("print/a-003.bin"), 1024 + 30 * 4, &token, 4);
  uint64_t second = fingerprint(globs, T);
  assert_true(known != second);
  write_shard(path_of("print/b-000.bin"), 8, tokens, 3);
  uint64_t third = fingerprint(globs, T);
  assert_true(second != third);
  tokens[1]++;
  write_shard(path_of("print/b-000.bin"), 8, tokens, 3);
  assert_true(third != fingerprint(globs, T));
  tokens[1]--;
  write_shard(path_of("print/b-000.bin"), 8, tokens, 3);
  assert_true(third == fingerprint(globs, T));
  Error e;
  assert_true(shard_write(path_of("print/b-000.bin"), 8, tokens, 3, 0, 1, &e));
  assert_true(third != fingerprint(globs, T));

  /* the parts that training and validation read are not the same data */
  DataLoader *d = open_with(&(DataOptions){.globs = globs, .B = 1, .T = T, .V = PLACE_V});
  uint64_t whole = dataloader_fingerprint(d);
  assert_int_equal(dataloader_tokenizer_hash(d), 1);
  assert_true(dataloader_restrict(d, 0, 0.9, &e));
  assert_true(whole != dataloader_fingerprint(d));
  dataloader_close(d);
}

/* Text in memory and in a file: the same; a longer one is known by both of its ends. */
static void test_fingerprint_of_text(void **state) {
  (void)state;
  enum { N = 200000 };
  static uint8_t text[N];
  for (int i = 0; i < N; i++) text[i] = (uint8_t)(i % 251);
  write_bytes(path_of("text/t.txt"), text, N);
  uint64_t known = fingerprint(path_of("text/t.txt"), T);
  static const int changes[] = {-1, 0, 65535, N - 65536, N - 1};
  for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
    if (changes[i] >= 0) text[changes[i]] ^= 1;
    Error e;
    DataLoader *d =
        dataloader_from_bytes("memory", text, N, &(DataOptions){.B = 1, .T = T, .V = PLACE_V}, &e);
    assert_int_equal(dataloader_fingerprint(d) == known, changes[i] < 0);
    assert_int_equal(dataloader_tokenizer_hash(d), 0);
    dataloader_close(d);
    if (changes[i] >= 0) text[changes[i]] ^= 1;
  }
}

/* Windows beyond position 2^31 (version 7) and 2^32 (version 8, counted in [4..5]) of a sparse file, in whose
 * holes all tokens are 0; only what is read exists. */
static void test_beyond_int32(void **state) {
  (void)state;
  enum { LONG = 8 };
  for (int version = 7; version <= 8; version++) {
    int64_t n = (version == 7 ? INT64_C(1) << 31 : INT64_C(1) << 32) + 100;
    const char *path = path_of(version == 7 ? "sparse/7.bin" : "sparse/8.bin");
    uint32_t tail[3 * LONG + 1];
    fill_ids(tail, 3 * LONG + 1, 9);
    ShardHeader h = {.magic = SHARD_MAGIC_32, .version = version};
    if (version == 7)
      h.count = (uint32_t)n;
    else
      h.count64 = n;
    write_bytes(path, &h, sizeof h);
    if (truncate(path, 1024 + n * 4) != 0) {
      print_message("SKIPPED: this file system has no sparse file of %" PRId64 " bytes\n", 1024 + n * 4);
      skip();
    }
    int64_t window = (n - 1) / LONG - 3; /* the last three */
    assert_true(window * LONG > INT32_MAX);
    patch(path, 1024 + window * LONG * 4, tail, sizeof tail);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    if (st.st_blocks * 512 > 1 << 20) {
      print_message("SKIPPED: this file system has no holes in files\n");
      skip();
    }

    for (int shuffle = 0; shuffle < 2; shuffle++) {
      DataLoader *d =
          open_with(&(DataOptions){.globs = path, .B = 1, .T = LONG, .V = V, .shuffle = shuffle, .seed = 1});
      assert_int_equal(dataloader_tokens(d), n);
      assert_int_equal(dataloader_windows(d), (n - 1) / LONG);
      Step *s = step_new(1, 1, LONG);
      DataPosition p = {.samples = window, .sources = 1, .taken = {window}};
      seek_ok(d, &p);
      for (int i = 0; i < 4; i++) { /* the fourth is the first of the next epoch, in a hole */
        next_ok(d, s);
        uint32_t zeros[LONG + 1] = {0};
        if (!shuffle) check_step(s, i < 3 ? tail + i * LONG : zeros, 0, 1);
      }
      assert_int_equal(dataloader_position(d).taken[0], window + 4);

      /* a part that starts at that window: a fraction a little inside the token before it */
      Error e;
      assert_true(dataloader_restrict(d, ((double)(window * LONG) + 0.5) / (double)n, 1, &e));
      assert_int_equal(dataloader_tokens(d), n - window * LONG);
      int seen = 0;
      for (int i = 0; i < 3; i++) {
        next_ok(d, s);
        for (int w = 0; w < 3; w++) seen |= (s->tokens[0] == (int32_t)tail[w * LONG]) << w;
        if (!shuffle) check_step(s, tail, i, 3);
      }
      assert_int_equal(seen, 7);
      free(s);
      dataloader_close(d);
    }
    assert_int_equal(unlink(path), 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_restore_anywhere),    cmocka_unit_test(test_restore_on_other_ranks),
      cmocka_unit_test(test_refused_positions),   cmocka_unit_test(test_fingerprint),
      cmocka_unit_test(test_fingerprint_of_text), cmocka_unit_test(test_beyond_int32),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
