/* Token shards and the loader over them: round trips, the stream across files, windows and their targets,
 * refusals, and positions beyond 2^31. Expected values come from a stream kept in memory. */
#define _GNU_SOURCE // nftw
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dataloader.h"
#include "io/shards.h"

enum { V = 1000, MAX_STEP = 4096 };

static char folder[] = "/tmp/test_dataloader_XXXXXX";

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
  (void)st, (void)type, (void)ftw;
  return remove(path);
}

static int make_folder(void **state) {
  (void)state;
  return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
  (void)state;
  return nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

/* The path of a file in a folder of the test's own (`name` = "case/file"); valid for the next 8 calls. */
static const char *path_of(const char *name) {
  static char paths[8][256];
  static int next;
  char *path = paths[next++ % 8];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  char *slash = strrchr(path, '/');
  *slash = 0;
  mkdir(path, 0777);
  *slash = '/';
  return path;
}

static void write_bytes(const char *path, const void *data, size_t bytes) {
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(data, 1, bytes, f), bytes);
  assert_int_equal(fclose(f), 0);
}

/* Overwrites `bytes` bytes at `offset` of a file. */
static void patch(const char *path, int64_t offset, const void *data, size_t bytes) {
  int fd = open(path, O_WRONLY);
  assert_true(fd >= 0);
  assert_int_equal(pwrite(fd, data, bytes, offset), bytes);
  close(fd);
}

static void patch_int32(const char *path, int slot, int32_t value) {
  patch(path, slot * 4, &value, 4);
}

/* n ids that a wrong offset would not reproduce. */
static void fill_ids(uint32_t *tokens, int64_t n, uint32_t seed) {
  for (int64_t i = 0; i < n; i++) tokens[i] = ((seed + (uint32_t)i) * 2654435761u >> 7) % V;
}

static void write_shard(const char *path, int version, const uint32_t *tokens, int64_t n) {
  Error e;
  if (!shard_write(path, version, tokens, n, 0, 0, &e)) fail_msg("%s", e.text);
}

/* A step with arrays of its own. */
typedef struct Step {
  StepBatch batch;
  int32_t tokens[MAX_STEP], targets[MAX_STEP], positions[MAX_STEP], documents[MAX_STEP];
} Step;

static Step *step_new(int64_t A, int64_t B, int64_t T) {
  assert_true(A * B * T <= MAX_STEP);
  Step *s = calloc(1, sizeof *s);
  assert_non_null(s);
  s->batch = (StepBatch){A, B, T, s->tokens, s->targets, s->positions, s->documents, -1};
  return s;
}

static DataLoader *open_ok(const char *globs, int64_t B, int64_t T) {
  Error e;
  DataLoader *d = dataloader_open(globs, B, T, V, &e);
  if (!d) fail_msg("%s", e.text);
  return d;
}

static void next_ok(DataLoader *d, Step *s) {
  Error e;
  if (!dataloader_next(d, &s->batch, &e)) fail_msg("%s", e.text);
}

static void assert_text(const Error *e, const char *part) {
  if (!strstr(e->text, part)) fail_msg("'%s' is missing in: %s", part, e->text);
}

/* Opening is refused as a usage error whose text holds both parts. */
static void refused(const char *globs, int64_t T, int64_t vocabulary, const char *part, const char *part2) {
  Error e = {0};
  DataLoader *d = dataloader_open(globs, 1, T, vocabulary, &e);
  if (d) fail_msg("'%s' was accepted; expected an error with '%s'", globs, part);
  assert_int_equal(e.code, EXIT_USAGE);
  assert_text(&e, part);
  assert_text(&e, part2);
}

/* The step's rows are the stream's windows from `first` on, wrapping after `windows` of them. */
static void check_step(const Step *s, const uint32_t *stream, int64_t first, int64_t windows) {
  const StepBatch *b = &s->batch;
  int64_t valid = 0;
  for (int64_t row = 0; row < b->A * b->B; row++) {
    const uint32_t *window = stream + (first + row) % windows * b->T;
    int document = 0;
    for (int64_t t = 0; t < b->T; t++) {
      int64_t i = row * b->T + t;
      if (t > 0 && window[t] & TOKEN_DOCUMENT) document++;
      bool masked = window[t + 1] & TOKEN_MASKED;
      assert_int_equal(b->tokens[i], window[t] & TOKEN_ID);
      assert_int_equal(b->targets[i], masked ? TARGET_IGNORED : (int32_t)(window[t + 1] & TOKEN_ID));
      assert_int_equal(b->positions[i], t);
      assert_int_equal(b->documents[i], document);
      valid += !masked;
    }
  }
  assert_int_equal(b->valid_targets, valid);
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
    if (!shard_open(&s, path, V, &e)) fail_msg("%s", e.text);
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
    DataLoader *d = dataloader_from_bytes("memory", bytes, n, 2, T, V, &e);
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

/* Documents are numbered anew in each sequence, whatever its first token's mark. */
static void test_documents(void **state) {
  (void)state;
  enum { T = 4, N = 2 * T + 1 };
  uint32_t stream[N] = {1 | TOKEN_DOCUMENT, 2, 3 | TOKEN_DOCUMENT, 4 | TOKEN_DOCUMENT, 5, 6, 7,
                        8 | TOKEN_DOCUMENT, 9};
  write_shard(path_of("documents/a.bin"), 8, stream, N);
  DataLoader *d = open_ok(path_of("documents/a.bin"), 2, T);
  Step *s = step_new(1, 2, T);
  next_ok(d, s);
  static const int32_t expected[2 * T] = {0, 0, 1, 2, 0, 0, 0, 1};
  assert_memory_equal(s->documents, expected, sizeof expected);
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
  DataLoader *train = dataloader_from_bytes("memory", bytes, N, 1, T, V, &e);
  DataLoader *held = dataloader_from_bytes("memory", bytes, N, 1, T, V, &e);
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
  assert_null(dataloader_from_bytes("the demo", bytes, 8, 1, 8, V, &e));
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
    DataLoader *d = open_ok(path_of("vocabulary/*.bin"), 1, T);
    Step *s = step_new(1, 1, T);
    next_ok(d, s);
    next_ok(d, s); /* stream 4 .. 8: the bad token is at 10 */
    for (int again = 0; again < 2; again++) {
      Error e = {0};
      assert_false(dataloader_next(d, &s->batch, &e));
      assert_int_equal(e.code, EXIT_USAGE);
      assert_text(&e, "vocabulary/b.bin: token 9 ");
      assert_text(&e, versions[k] == 1 ? "at byte 1042" : "at byte 1060");
      assert_text(&e, "is 1000, expected 0 .. 999");
    }
    free(s);
    dataloader_close(d);
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
    DataLoader *d = open_ok(path, 1, T);
    Step *s = step_new(1, 1, T);
    Error e = {0};
    assert_false(dataloader_next(d, &s->batch, &e));
    assert_text(&e, "token 2 ");
    free(s);
    dataloader_close(d);
  }

  /* text: a small vocabulary is enough for bytes below it */
  write_bytes(path_of("vocabulary/t.txt"), "plain ascii\xc3", 12);
  refused(path_of("vocabulary/t.txt"), 4, 128, "token 11 (at byte 11) is 195", "V >= 256");
  write_bytes(path_of("vocabulary/t.txt"), "plain ascii", 11);
  Error e;
  DataLoader *d = dataloader_open(path_of("vocabulary/t.txt"), 1, 4, 128, &e);
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

/* A sparse file whose last tokens lie beyond position 2^31 (version 7) or 2^32 (version 8, with the count in
 * [4..5]); only the pages that are read exist. */
static void test_beyond_int32(void **state) {
  (void)state;
  enum { T = 8 };
  int skipped = 0;
  for (int version = 7; version <= 8; version++) {
    int64_t n = (version == 7 ? INT64_C(1) << 31 : INT64_C(1) << 32) + 100;
    const char *path = path_of(version == 7 ? "sparse/7.bin" : "sparse/8.bin");
    uint32_t tail[3 * T + 1];
    fill_ids(tail, 3 * T + 1, 9);
    ShardHeader h = {.magic = SHARD_MAGIC_32, .version = version};
    if (version == 7)
      h.count = (uint32_t)n;
    else
      h.count64 = n;
    write_bytes(path, &h, sizeof h);
    if (truncate(path, 1024 + n * 4) != 0) { /* the file system or a limit has no room for it */
      skipped++;
      continue;
    }
    int64_t window = (n - 1) / T - 3; /* the last three */
    patch(path, 1024 + window * T * 4, tail, sizeof tail);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_blocks * 512 < 1 << 20);

    Shard s;
    Error e;
    if (!shard_open(&s, path, V, &e)) fail_msg("%s", e.text);
    assert_int_equal(s.n, n);
    uint32_t back[3 * T + 1];
    assert_true(shard_read(&s, window * T, 3 * T + 1, V, back, &e));
    assert_memory_equal(back, tail, sizeof tail);
    shard_close(&s);

    DataLoader *d = open_ok(path, 1, T);
    assert_int_equal(dataloader_tokens(d), n);
    /* a part that starts at the third window from the end: a fraction a little inside the token before it */
    assert_true(dataloader_restrict(d, ((double)(window * T) + 0.5) / (double)n, 1, &e));
    assert_int_equal(dataloader_tokens(d), n - window * T);
    Step *step = step_new(1, 1, T);
    for (int i = 0; i < 4; i++) {
      next_ok(d, step);
      check_step(step, tail, i, 3);
    }
    free(step);
    dataloader_close(d);
    assert_int_equal(unlink(path), 0);
  }
  if (skipped == 2) skip();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_round_trip),         cmocka_unit_test(test_header_slots),
      cmocka_unit_test(test_concatenation),      cmocka_unit_test(test_wrap_and_rewind),
      cmocka_unit_test(test_masked_targets),     cmocka_unit_test(test_documents),
      cmocka_unit_test(test_restrict),           cmocka_unit_test(test_refuses_files),
      cmocka_unit_test(test_refuses_headers),    cmocka_unit_test(test_refuses_damage),
      cmocka_unit_test(test_refuses_tokenizers), cmocka_unit_test(test_vocabulary),
      cmocka_unit_test(test_writer_refuses),     cmocka_unit_test(test_beyond_int32),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
