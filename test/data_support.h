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
  int32_t tokens[MAX_STEP], targets[MAX_STEP], positions[MAX_STEP], documents[MAX_STEP];
} Step;

static inline Step *step_new(int64_t A, int64_t B, int64_t T) {
  assert_true(A * B * T <= MAX_STEP);
  Step *s = calloc(1, sizeof *s);
  assert_non_null(s);
  s->batch = (StepBatch){A, B, T, s->tokens, s->targets, s->positions, s->documents, -1};
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

/* The step's rows are the stream's windows from `first` on, wrapping after `windows` of them. */
static inline void check_step(const Step *s, const uint32_t *stream, int64_t first, int64_t windows) {
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

#endif
