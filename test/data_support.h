/* What the tests of the data share: a folder of the test's own, files in it, loaders over them. */
#ifndef DATA_SUPPORT_H
#define DATA_SUPPORT_H

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

static char folder[] = "/tmp/test_data_XXXXXX";

static inline int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
  (void)st, (void)type, (void)ftw;
  return remove(path);
}

static inline int make_folder(void **state) {
  (void)state;
  return mkdtemp(folder) ? 0 : -1;
}

static inline int remove_folder(void **state) {
  (void)state;
  return nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

/* The path of a file in a folder of the test's own (`name` = "case/file"); valid for the next 8 calls. */
static inline const char *path_of(const char *name) {
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

static inline void write_bytes(const char *path, const void *data, size_t bytes) {
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(data, 1, bytes, f), bytes);
  assert_int_equal(fclose(f), 0);
}

/* Overwrites `bytes` bytes at `offset` of a file. */
static inline void patch(const char *path, int64_t offset, const void *data, size_t bytes) {
  int fd = open(path, O_WRONLY);
  assert_true(fd >= 0);
  assert_int_equal(pwrite(fd, data, bytes, offset), bytes);
  close(fd);
}

static inline void patch_int32(const char *path, int slot, int32_t value) {
  patch(path, slot * 4, &value, 4);
}

/* n ids that a wrong offset would not reproduce. */
static inline void fill_ids(uint32_t *tokens, int64_t n, uint32_t seed) {
  for (int64_t i = 0; i < n; i++) tokens[i] = ((seed + (uint32_t)i) * 2654435761u >> 7) % V;
}

static inline void write_shard(const char *path, int version, const uint32_t *tokens, int64_t n) {
  Error e;
  if (!shard_write(path, version, tokens, n, 0, 0, &e)) fail_msg("%s", e.text);
}

/* A step with arrays of its own. */
typedef struct Step {
  StepBatch batch;
  int32_t tokens[MAX_STEP], targets[MAX_STEP], positions[MAX_STEP], starts[MAX_STEP];
} Step;

static inline Step *step_new(int64_t A, int64_t B, int64_t T) {
  assert_true(A * B * T <= MAX_STEP);
  Step *s = calloc(1, sizeof *s);
  assert_non_null(s);
  s->batch = (StepBatch){A, B, T, s->tokens, s->targets, s->positions, s->starts, -1};
  return s;
}

static inline DataLoader *open_with(const DataOptions *o) {
  Error e;
  DataLoader *d = dataloader_open(o, &e);
  if (!d) fail_msg("%s", e.text);
  return d;
}

/* In the order of the files, alone, for the vocabulary of the tests. */
static inline DataLoader *open_ok(const char *globs, int64_t B, int64_t T) {
  return open_with(&(DataOptions){.globs = globs, .B = B, .T = T, .V = V});
}

static inline void next_ok(DataLoader *d, Step *s) {
  Error e;
  if (!dataloader_next(d, &s->batch, &e)) fail_msg("%s", e.text);
}

static inline void seek_ok(DataLoader *d, const DataPosition *p) {
  Error e;
  if (!dataloader_seek(d, p, &e)) fail_msg("%s", e.text);
}

static inline void assert_text(const Error *e, const char *part) {
  if (!strstr(e->text, part)) fail_msg("'%s' is missing in: %s", part, e->text);
}

/* Shards whose tokens tell their place: token i of the stream of source k is k * SOURCE_SPAN + i, below
 * PLACE_V. Writes the stream as files of the given lengths (a negative one ends the list), NAME-000.bin ...
 */
enum { SOURCE_SPAN = 1 << 16, PLACE_V = 1 << 20 };

static inline void write_places(const char *name, int64_t source, const int64_t *lengths) {
  uint32_t at = (uint32_t)(source * SOURCE_SPAN);
  for (int i = 0; lengths[i] >= 0; i++) {
    uint32_t *tokens = malloc((size_t)lengths[i] * 4 + 4);
    assert_non_null(tokens);
    for (int64_t t = 0; t < lengths[i]; t++) tokens[t] = at++;
    char file[128];
    snprintf(file, sizeof file, "%s-%03d.bin", name, i);
    write_shard(path_of(file), i % 2 ? 7 : 8, tokens, lengths[i]);
    free(tokens);
  }
}

/* Asserts that every row is a window of such a stream, and writes its number to window [A*B] and its source
 * to source [A*B]. */
static inline void read_places(const Step *s, int64_t *window, int64_t *source) {
  const StepBatch *b = &s->batch;
  for (int64_t row = 0; row < b->A * b->B; row++) {
    int64_t first = b->tokens[row * b->T];
    assert_int_equal(first % SOURCE_SPAN % b->T, 0);
    for (int64_t i = 0; i < b->T; i++) {
      assert_int_equal(b->tokens[row * b->T + i], first + i);
      assert_int_equal(b->targets[row * b->T + i], first + i + 1);
    }
    window[row] = first % SOURCE_SPAN / b->T;
    source[row] = first / SOURCE_SPAN;
  }
}

/* Two steps are the same in every array. */
static inline void assert_same_step(const Step *x, const Step *y) {
  size_t bytes = (size_t)(x->batch.A * x->batch.B * x->batch.T) * 4;
  assert_memory_equal(x->tokens, y->tokens, bytes);
  assert_memory_equal(x->targets, y->targets, bytes);
  assert_memory_equal(x->positions, y->positions, bytes);
  assert_memory_equal(x->starts, y->starts, bytes);
  assert_int_equal(x->batch.valid_targets, y->batch.valid_targets);
}

/* The step's rows are the stream's windows from `first` on, wrapping after `windows` of them; packed, or each
 * one document. */
static inline void check_rows(const Step *s, const uint32_t *stream, int64_t first, int64_t windows,
                              bool pack) {
  const StepBatch *b = &s->batch;
  int64_t valid = 0;
  for (int64_t row = 0; row < b->A * b->B; row++) {
    const uint32_t *window = stream + (first + row) % windows * b->T;
    int64_t start = 0;
    for (int64_t t = 0; t < b->T; t++) {
      int64_t i = row * b->T + t;
      if (pack && window[t] & TOKEN_DOCUMENT) start = t;
      bool masked = window[t + 1] & TOKEN_MASKED || (pack && window[t + 1] & TOKEN_DOCUMENT);
      assert_int_equal(b->tokens[i], window[t] & TOKEN_ID);
      assert_int_equal(b->targets[i], masked ? TARGET_IGNORED : (int32_t)(window[t + 1] & TOKEN_ID));
      assert_int_equal(b->positions[i], t - start);
      assert_int_equal(b->starts[i], start);
      valid += !masked;
    }
  }
  assert_int_equal(b->valid_targets, valid);
}

static inline void check_step(const Step *s, const uint32_t *stream, int64_t first, int64_t windows) {
  check_rows(s, stream, first, windows, false);
}

#endif
