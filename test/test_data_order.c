/* The order in which samples are handed out: shuffled epochs are permutations of the windows, for any seed,
 * epoch, sizes of files and number of ranks; sources are mixed by their weights; ranks share one sequence. */
#include "data_support.h"

enum { MAX_ROWS = 1024 };

/* Reads n samples one by one: the window and the source of each. */
static void take(DataLoader *d, int64_t T, int64_t n, int64_t *window, int64_t *source) {
  Step *s = step_new(1, 1, T);
  assert_true(n <= MAX_ROWS);
  for (int64_t i = 0; i < n; i++) {
    next_ok(d, s);
    read_places(s, &window[i], &source[i]);
  }
  free(s);
}

/* Each of 0 .. n-1 is there once. */
static void assert_permutation(const int64_t *x, int64_t n) {
  char hit[MAX_ROWS] = {0};
  for (int64_t i = 0; i < n; i++) {
    assert_in_range(x[i], 0, n - 1);
    assert_int_equal(hit[x[i]]++, 0);
  }
}

/* Files of all kinds of lengths: empty, shorter than a window, and such that windows begin at their ends. */
static const int64_t layouts[][8] = {{9, -1},
                                     {17, -1},
                                     {100, -1},
                                     {40, 40, 40, -1},
                                     {1, 1, 1, 1, 1, 1, 3, -1},
                                     {0, 33, 0, 5, 64, 2, 81, -1},
                                     {3, 0, 200, -1},
                                     {8, 8, 8, 8, 1, -1}};
enum { LAYOUTS = sizeof layouts / sizeof layouts[0] };

static void test_epochs_are_permutations(void **state) {
  (void)state;
  static const int64_t lengths[] = {1, 3, 8};
  for (int k = 0; k < LAYOUTS; k++) {
    char name[32], glob[32];
    snprintf(name, sizeof name, "order%d/a", k);
    snprintf(glob, sizeof glob, "order%d/*.bin", k);
    write_places(name, 0, layouts[k]);
    for (int t = 0; t < 3; t++) {
      for (uint64_t seed = 0; seed < 12; seed++) {
        DataOptions o = {
            .globs = path_of(glob), .B = 1, .T = lengths[t], .V = PLACE_V, .shuffle = true, .seed = seed};
        DataLoader *d = open_with(&o);
        int64_t n = dataloader_windows(d), window[MAX_ROWS], source[MAX_ROWS];
        for (int epoch = 0; epoch < 4; epoch++) {
          take(d, o.T, n, window, source);
          assert_permutation(window, n);
        }
        dataloader_close(d);
      }
    }
  }
}

/* Epochs, seeds and files give different orders; the same seed gives the same. The windows whose first tokens
 * lie in a file come together. */
static void test_orders_differ(void **state) {
  (void)state;
  enum { T = 4, FILES = 5, EACH = 42, N = (FILES * EACH - 1) / T };
  static const int64_t lengths[] = {EACH, EACH, EACH, EACH, EACH, -1};
  write_places("differ/a", 0, lengths);
  int64_t window[3][2 * N], source[2 * N];
  static const uint64_t seeds[3] = {1, 1, 2};
  for (int i = 0; i < 3; i++) {
    DataOptions o = {
        .globs = path_of("differ/*.bin"), .B = 1, .T = T, .V = PLACE_V, .shuffle = true, .seed = seeds[i]};
    DataLoader *d = open_with(&o);
    assert_int_equal(dataloader_windows(d), N);
    take(d, T, 2 * N, window[i], source);
    dataloader_close(d);
  }
  assert_memory_equal(window[0], window[1], sizeof window[0]);
  int same_epochs = 0, same_seeds = 0, in_order = 0, changes = 0;
  for (int i = 0; i < N; i++) {
    same_epochs += window[0][i] == window[0][N + i];
    same_seeds += window[0][i] == window[2][i];
    in_order += window[0][i] == i;
    changes += i > 0 && window[0][i] * T / EACH != window[0][i - 1] * T / EACH;
  }
  assert_true(same_epochs < 8 && same_seeds < 8 && in_order < 8); /* of 52; 1 is expected */
  assert_int_equal(changes, FILES - 1);

  int64_t place[FILES][2 * EACH / T], n[FILES] = {0}; /* the order within each file */
  for (int i = 0; i < N; i++) {
    int64_t file = window[0][i] * T / EACH;
    place[file][n[file]++] = window[0][i] - (file * EACH + T - 1) / T;
  }
  assert_int_equal(n[2], n[0]); /* 11 windows */
  assert_memory_not_equal(place[2], place[0], (size_t)n[0] * sizeof place[0][0]);
}

/* Ranks: together, and in the documented places, exactly the sequence of a loader that is alone. */
static void test_ranks_share_one_sequence(void **state) {
  (void)state;
  enum { T = 4, A = 2, B = 3, STEPS = 9, MAX_RANKS = 5 };
  static const int64_t lengths[] = {50, 31, 80, -1}, other[] = {37, -1};
  write_places("ranks/a", 0, lengths);
  write_places("ranks/b", 1, other);
  char globs[600];
  snprintf(globs, sizeof globs, "%s:2,%s:1", path_of("ranks/a*"), path_of("ranks/b*"));
  for (int shuffle = 0; shuffle < 2; shuffle++) {
    for (int64_t ranks = 1; ranks <= MAX_RANKS; ranks++) {
      DataOptions o = {.globs = globs, .B = B, .T = T, .V = PLACE_V, .shuffle = shuffle, .seed = 5};
      DataOptions alone = o;
      alone.B = B * ranks;
      DataLoader *all = open_with(&alone), *d[MAX_RANKS];
      Step *whole = step_new(A, B * ranks, T), *part = step_new(A, B, T);
      o.ranks = ranks;
      for (o.rank = 0; o.rank < ranks; o.rank++) d[o.rank] = open_with(&o);
      for (int step = 0; step < STEPS; step++) {
        next_ok(all, whole);
        int64_t valid = 0;
        for (int64_t r = 0; r < ranks; r++) {
          next_ok(d[r], part);
          valid += part->batch.valid_targets;
          for (int64_t a = 0; a < A; a++)
            assert_memory_equal(part->tokens + a * B * T, whole->tokens + (a * ranks + r) * B * T, B * T * 4);
          DataPosition p = dataloader_position(d[r]), q = dataloader_position(all);
          assert_memory_equal(&p, &q, sizeof p);
        }
        assert_int_equal(valid, whole->batch.valid_targets);
      }
      for (int64_t r = 0; r < ranks; r++) dataloader_close(d[r]);
      dataloader_close(all);
      free(whole);
      free(part);
    }
  }
}

/* Each sample comes from the source that is furthest behind its share, so that at every moment each has had
 * its share to within a sample or two; its windows come in its own epochs. */
static void test_weights(void **state) {
  (void)state;
  enum { T = 4, SAMPLES = 1000, SOURCES = 4 };
  static const int64_t lengths[SOURCES][4] = {{50, 31, -1}, {402, -1}, {9, -1}, {5, -1}};
  static const char *const weights[] = {"0.5", "2.5e-1", ".1875", "0.0625"};
  static const int64_t sixteenths[SOURCES] = {8, 4, 3, 1};
  char globs[1200] = "";
  for (int k = 0; k < SOURCES; k++) {
    char name[32];
    snprintf(name, sizeof name, "weights/%d", k);
    write_places(name, k, lengths[k]);
    snprintf(globs + strlen(globs), sizeof globs - strlen(globs), "%s%s*:%s", k ? "," : "", path_of(name),
             weights[k]);
  }
  for (int shuffle = 0; shuffle < 2; shuffle++) {
    DataOptions o = {.globs = globs, .B = 1, .T = T, .V = PLACE_V, .shuffle = shuffle, .seed = 9};
    DataLoader *d = open_with(&o);
    assert_int_equal(dataloader_files(d), 5);
    assert_int_equal(dataloader_tokens(d), 50 + 31 + 402 + 9 + 5);
    assert_int_equal(dataloader_windows(d), 20 + 100 + 2 + 1);
    static const int64_t windows[SOURCES] = {20, 100, 2, 1};
    int64_t window[SAMPLES], source[SAMPLES], taken[SOURCES] = {0}, of[SOURCES][SAMPLES];
    take(d, T, SAMPLES, window, source);
    for (int64_t i = 0; i < SAMPLES; i++) {
      int64_t k = source[i];
      assert_in_range(k, 0, SOURCES - 1);
      if (!shuffle) assert_int_equal(window[i], taken[k] % windows[k]);
      int64_t behind[SOURCES]; /* in sixteenths of a sample */
      for (int j = 0; j < SOURCES; j++) {
        behind[j] = sixteenths[j] * (i + 1) - 16 * taken[j];
        assert_true(behind[j] > -16 && behind[j] < 32);
      }
      for (int j = 0; j < SOURCES; j++) assert_true(j < k ? behind[j] < behind[k] : behind[j] <= behind[k]);
      of[k][taken[k]++] = window[i];
    }
    for (int k = 0; k < SOURCES; k++)
      for (int64_t at = 0; at + windows[k] <= taken[k]; at += windows[k])
        assert_permutation(of[k] + at, windows[k]);
    DataPosition p = dataloader_position(d);
    assert_int_equal(p.samples, SAMPLES);
    assert_int_equal(p.sources, SOURCES);
    assert_memory_equal(p.taken, taken, sizeof taken);
    dataloader_close(d);
  }
}

/* Weights that are in proportion are the same; one that is 1 to all makes turns. */
static void test_equal_weights(void **state) {
  (void)state;
  enum { T = 4, SAMPLES = 60 };
  static const int64_t lengths[] = {41, -1};
  for (int k = 0; k < 3; k++) write_places(k == 0 ? "equal/a" : k == 1 ? "equal/b" : "equal/c", k, lengths);
  static const char *const weights[] = {"1", "1000", "0.001"};
  for (int i = 0; i < 3; i++) {
    char globs[900];
    snprintf(globs, sizeof globs, "%s:%s,%s:%s,%s:%s", path_of("equal/a*"), weights[i], path_of("equal/b*"),
             weights[i], path_of("equal/c*"), weights[i]);
    DataLoader *d = open_with(&(DataOptions){.globs = globs, .B = 1, .T = T, .V = PLACE_V});
    int64_t window[SAMPLES], source[SAMPLES];
    take(d, T, SAMPLES, window, source);
    for (int64_t n = 0; n < SAMPLES; n++) assert_int_equal(source[n], n % 3);
    dataloader_close(d);
  }
}

/* A share of a millionth: its first sample comes when half of it is due, and exactly one by then. */
static void test_small_share(void **state) {
  (void)state;
  enum { T = 4, SAMPLES = 40 };
  static const int64_t lengths[] = {41, -1};
  write_places("small/a", 0, lengths);
  write_places("small/b", 1, lengths);
  char globs[600];
  snprintf(globs, sizeof globs, "%s:999999,%s:1", path_of("small/a*"), path_of("small/b*"));
  DataLoader *d = open_with(&(DataOptions){.globs = globs, .B = 1, .T = T, .V = PLACE_V});
  int64_t before = 500000 - SAMPLES / 2, window[SAMPLES], source[SAMPLES];
  DataPosition p = {.samples = before, .sources = 2, .taken = {before, 0}};
  seek_ok(d, &p);
  take(d, T, SAMPLES, window, source);
  int of_b = 0;
  for (int i = 0; i < SAMPLES; i++) of_b += (int)source[i];
  assert_int_equal(of_b, 1);
  assert_true(source[SAMPLES / 2 - 1] || source[SAMPLES / 2]); /* a tie, but for the share's rounding */
  dataloader_close(d);
}

static void refused(const char *globs, const char *part, const char *part2) {
  Error e = {0};
  DataLoader *d = dataloader_open(&(DataOptions){.globs = globs, .B = 1, .T = 4, .V = PLACE_V}, &e);
  if (d) fail_msg("'%s' was accepted; expected an error with '%s'", globs, part);
  assert_int_equal(e.code, EXIT_USAGE);
  assert_text(&e, part);
  assert_text(&e, part2);
}

static void test_patterns(void **state) {
  (void)state;
  static const int64_t lengths[] = {41, -1}, too_short[] = {4, -1};
  write_places("patterns/a", 0, lengths);
  write_places("patterns/b:7.x", 1, lengths);
  write_places("patterns/c", 2, too_short);
  char globs[8192];
  static const char *const bad[] = {"0", "-1", "1e-7", "1e7", "-0.5", "1e400"};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    snprintf(globs, sizeof globs, "%s:%s", path_of("patterns/a*"), bad[i]);
    refused(globs, bad[i], "expected a number from 1e-06 to 1e+06");
  }
  snprintf(globs, sizeof globs, "%s:1,%s", path_of("patterns/a*"), path_of("patterns/b*"));
  refused(globs, "gives 1 of 2 patterns a weight", "each of them");
  snprintf(globs, sizeof globs, "%s:1,%s:2", path_of("patterns/a*"), path_of("patterns/none*"));
  refused(globs, "no file matches", "none*'");
  snprintf(globs, sizeof globs, "%s:1,%s:2", path_of("patterns/a*"), path_of("patterns/c*"));
  refused(globs, "patterns/c-000.bin alone has 4 tokens", "needs 5");
  globs[0] = 0;
  for (int i = 0; i <= DATA_MAX_SOURCES; i++)
    snprintf(globs + strlen(globs), sizeof globs - strlen(globs), "%s%s:1", i ? "," : "",
             path_of("patterns/a*"));
  refused(globs, "65 patterns", "at most 64");

  /* a colon in a name: not a weight unless a number follows, nor where a bracket says so */
  dataloader_close(
      open_with(&(DataOptions){.globs = path_of("patterns/b:7.x-000.bin"), .B = 1, .T = 4, .V = PLACE_V}));
  uint8_t text[16] = "five tokens here";
  write_bytes(path_of("patterns/t.txt:1"), text, sizeof text);
  refused(path_of("patterns/t.txt:1"), "no file matches", "t.txt'");
  refused(path_of("patterns/t.txt:[1]"), "16 bytes", "patterns/t.txt:1"); /* found; it is no shard */
  refused(path_of("patterns/a*:e5"), "no file matches", "a*:e5");
  refused(path_of("patterns/a*:"), "no file matches", "a*:'");
}

/* A weighted file may be in several sources; shards of different tokenizers are refused across sources. */
static void test_sources_and_files(void **state) {
  (void)state;
  uint32_t tokens[16];
  fill_ids(tokens, 16, 1);
  Error e;
  assert_true(shard_write(path_of("across/a.bin"), 8, tokens, 16, V, 0xaa, &e));
  assert_true(shard_write(path_of("across/b.bin"), 8, tokens, 16, V, 0xbb, &e));
  char globs[600];
  snprintf(globs, sizeof globs, "%s:1,%s:1", path_of("across/a.bin"), path_of("across/b.bin"));
  refused(globs, "a.bin was made with the tokenizer 00000000000000aa", "b.bin with 00000000000000bb");
  snprintf(globs, sizeof globs, "%s:1,%s:1", path_of("across/a.bin"), path_of("across/a.*"));
  DataLoader *d = open_with(&(DataOptions){.globs = globs, .B = 1, .T = 4, .V = V});
  assert_int_equal(dataloader_files(d), 2);
  assert_int_equal(dataloader_tokenizer_hash(d), 0xaa);
  dataloader_close(d);
}

/* A part that is held out stays out of the shuffled rest, with every source restricted by itself. */
static void test_restricted_part(void **state) {
  (void)state;
  enum { T = 4 };
  static const int64_t lengths[] = {30, 0, 50, 21, -1};
  write_places("part/a", 0, lengths);
  write_places("part/b", 1, lengths);
  char globs[600];
  snprintf(globs, sizeof globs, "%s:1,%s:1", path_of("part/a*"), path_of("part/b*"));
  DataLoader *d =
      open_with(&(DataOptions){.globs = globs, .B = 1, .T = T, .V = PLACE_V, .shuffle = true, .seed = 3});
  Error e;
  int64_t window[48], source[48];
  take(d, T, 3, window, source);
  assert_true(dataloader_restrict(d, 0, 0.96, &e)); /* 96 of 101 tokens: 23 windows */
  assert_int_equal(dataloader_windows(d), 46);
  take(d, T, 46, window, source);
  int64_t of[2][23], n[2] = {0};
  for (int i = 0; i < 46; i++) of[source[i]][n[source[i]]++] = window[i];
  assert_permutation(of[0], 23);
  assert_permutation(of[1], 23);
  assert_false(dataloader_restrict(d, 0.97, 1, &e));
  assert_int_equal(dataloader_position(d).samples, 46);
  dataloader_close(d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_epochs_are_permutations),
      cmocka_unit_test(test_orders_differ),
      cmocka_unit_test(test_ranks_share_one_sequence),
      cmocka_unit_test(test_weights),
      cmocka_unit_test(test_equal_weights),
      cmocka_unit_test(test_small_share),
      cmocka_unit_test(test_patterns),
      cmocka_unit_test(test_sources_and_files),
      cmocka_unit_test(test_restricted_part),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
