#include "io/source.h"

#include <glob.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h> // XXH3_64bits_withSeed

#include "io/shuffle.h" // Permutation, shuffle_key

/* ---- opening ---- */

/* Appends the files that match the pattern to *found. */
static bool add_matches(glob_t *found, const char *pattern, Error *e) {
  switch (glob(pattern, GLOB_ERR | GLOB_NOSORT | (found->gl_pathc ? GLOB_APPEND : 0), NULL, found)) {
  case 0: return true;
  case GLOB_NOMATCH:
    return error_usage(e,
                       "no file matches '%s'; give token shards or .txt files, several patterns "
                       "separated by commas",
                       pattern);
  case GLOB_ABORTED: return error_usage(e, "a folder named in '%s' cannot be read", pattern);
  default: return error_runtime(e, "out of memory while matching '%s'", pattern);
  }
}

static int by_name(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static void source_new(Source *s, int64_t files, int64_t T, int64_t V) {
  CHECK(T > 0, "data: T %" PRId64, T);
  *s = (Source){.T = T, .V = V};
  s->shards = calloc((size_t)files, sizeof *s->shards);
  s->starts = calloc((size_t)files + 1, sizeof *s->starts);
  CHECK(s->shards && s->starts, "out of memory for %" PRId64 " data files", files);
}

static bool check_length(const Source *s, int64_t tokens, const char *what, Error *e) {
  if (tokens > s->T) return true;
  return error_usage(e,
                     "%s %s has %" PRId64 " tokens, but a sequence of %" PRId64 " needs %" PRId64
                     "; use a smaller --seq-len or more data",
                     s->shards[0].name, what, tokens, s->T, s->T + 1);
}

/* Joins the open files to one stream. */
static bool join_files(Source *s, Error *e) {
  for (int64_t i = 0; i < s->files; i++) s->starts[i + 1] = s->starts[i] + s->shards[i].n;
  s->to = s->starts[s->files];
  return check_length(s, s->to, s->files > 1 ? "and the other files together" : "alone", e);
}

bool source_open(Source *s, char *const *patterns, int64_t n, int64_t T, int64_t V, OpenFiles *pool,
                 Error *e) {
  glob_t found = {0};
  bool ok = true;
  for (int64_t i = 0; i < n && ok; i++) ok = add_matches(&found, patterns[i], e);
  if (ok) {
    qsort(found.gl_pathv, found.gl_pathc, sizeof *found.gl_pathv, by_name);
    source_new(s, (int64_t)found.gl_pathc, T, V);
  }
  for (size_t i = 0; ok && i < found.gl_pathc; i++) {
    const char *path = found.gl_pathv[i];
    if (i > 0 && strcmp(path, found.gl_pathv[i - 1]) == 0) continue;
    ok = shard_open(&s->shards[s->files], pool, path, V, e);
    if (ok) s->files++;
  }
  globfree(&found);
  return ok && join_files(s, e);
}

bool source_from_bytes(Source *s, const char *name, const uint8_t *bytes, int64_t n, int64_t T, int64_t V,
                       Error *e) {
  source_new(s, 1, T, V);
  if (!shard_from_bytes(&s->shards[0], name, bytes, n, V, e)) return false;
  s->files = 1;
  return join_files(s, e);
}

bool source_check_tokens(Source *s, Error *e) {
  bool ok = true;
  for (int64_t i = 0; i < s->files && ok; i++) ok = shard_check_tokens(&s->shards[i], s->V, e);
  return ok;
}

void source_close(Source *s) {
  for (int64_t i = 0; i < s->files; i++) shard_close(&s->shards[i]);
  free(s->shards);
  free(s->starts);
  free(s->order.file);
  free(s->order.start);
  *s = (Source){0};
}

void source_shuffle(Source *s, uint64_t key) {
  s->shuffle = true;
  s->key = key;
  s->order.epoch = -1;
  s->order.file = calloc((size_t)s->files, sizeof *s->order.file);
  s->order.start = calloc((size_t)s->files + 1, sizeof *s->order.start);
  CHECK(s->order.file && s->order.start, "out of memory for the order of %" PRId64 " data files", s->files);
}

/* The first token of the part and the token after it, counted from s->from. */
static void part_of(const Source *s, double from, double to, int64_t *first, int64_t *end) {
  CHECK(from >= 0 && from < to && to <= 1, "data: the part %g .. %g", from, to);
  int64_t tokens = source_tokens(s);
  *first = (int64_t)(from * (double)tokens);
  *end = to == 1 ? tokens : (int64_t)(to * (double)tokens);
}

bool source_can_restrict(const Source *s, double from, double to, Error *e) {
  int64_t first, end;
  part_of(s, from, to, &first, &end);
  return check_length(s, end - first, "in the part that was asked for", e);
}

void source_restrict(Source *s, double from, double to) {
  int64_t first, end;
  part_of(s, from, to, &first, &end);
  s->to = s->from + end;
  s->from += first;
  s->order.epoch = -1;
}

int64_t source_tokens(const Source *s) {
  return s->to - s->from;
}
int64_t source_windows(const Source *s) {
  return (source_tokens(s) - 1) / s->T;
}

/* ---- the order of an epoch ---- */

/* The interval that holds x: the last of the n starts, which do not fall, that is not above it. */
static int64_t interval_of(const int64_t *starts, int64_t n, int64_t x) {
  int64_t low = 0, high = n - 1;
  while (low < high) {
    int64_t middle = low + (high - low + 1) / 2;
    if (starts[middle] <= x)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

/* The first window whose first token does not lie before file f; f = files: the number of windows. */
static int64_t first_window(const Source *s, int64_t f) {
  int64_t before = s->starts[f] - s->from, windows = source_windows(s);
  int64_t window = before <= 0 ? 0 : before / s->T + (before % s->T != 0);
  return window < windows ? window : windows;
}

static void order_files(Source *s, int64_t epoch, uint64_t key) {
  FileOrder *o = &s->order;
  Permutation p = permutation_make(s->files, key);
  for (int64_t i = 0; i < s->files; i++) {
    int64_t f = permutation_at(&p, i);
    o->file[i] = f;
    o->start[i + 1] = o->start[i] + first_window(s, f + 1) - first_window(s, f);
  }
  o->epoch = epoch;
}

int64_t source_window_after(Source *s, int64_t taken) {
  int64_t windows = source_windows(s), epoch = taken / windows, at = taken % windows;
  if (!s->shuffle) return at;
  uint64_t key = shuffle_key(s->key, (uint64_t)epoch);
  if (s->order.epoch != epoch)
    order_files(s, epoch, shuffle_key(key, (uint64_t)s->files)); /* no file's key */
  int64_t i = interval_of(s->order.start, s->files, at), file = s->order.file[i];
  Permutation p =
      permutation_make(s->order.start[i + 1] - s->order.start[i], shuffle_key(key, (uint64_t)file));
  return first_window(s, file) + permutation_at(&p, at - s->order.start[i]);
}

/* ---- reading ---- */

/* Reads n tokens, marks included, from position `at` of the stream, across files. */
static bool read_stream(Source *s, int64_t at, int64_t n, uint32_t *dst, Error *e) {
  for (int64_t f = interval_of(s->starts, s->files, at); n > 0; f++) {
    int64_t rest = s->starts[f + 1] - at;
    int64_t m = n < rest ? n : rest;
    if (m > 0 && !shard_read(&s->shards[f], at - s->starts[f], m, s->V, dst, e)) return false;
    at += m;
    dst += m;
    n -= m;
  }
  return true;
}

bool source_read(Source *s, int64_t window, uint32_t *tokens, uint32_t *last, Error *e) {
  int64_t at = s->from + window * s->T;
  return read_stream(s, at, s->T, tokens, e) && read_stream(s, at + s->T, 1, last, e);
}

uint64_t source_fingerprint(const Source *s) {
  int64_t stream[] = {s->T, s->from, s->to, s->files};
  uint64_t hash = XXH3_64bits(stream, sizeof stream);
  for (int64_t i = 0; i < s->files; i++) {
    const Shard *f = &s->shards[i];
    uint64_t marks = f->marks | (uint64_t)(f->document_token + 1) << 32;
    uint64_t file[] = {(uint64_t)f->n, (uint64_t)f->width, marks, f->tokenizer_hash, f->content_hash};
    hash = XXH3_64bits_withSeed(file, sizeof file, hash);
  }
  return hash;
}
