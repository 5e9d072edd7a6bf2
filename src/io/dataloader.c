#include "dataloader.h"

#include <glob.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h> // XXH3_64bits_withSeed

#include "io/shards.h" // Shard, shard_open, shard_from_bytes, shard_read, TOKEN_*

struct DataLoader {
  int64_t B, T, V;
  Shard *shards;   /* [files], in the order of the stream */
  int64_t *starts; /* [files + 1] each shard's first token in the stream, and the stream's end */
  int64_t files;
  int64_t from, to;    /* the part of the stream that is used, in tokens */
  int64_t next_window; /* window w is the tokens from + w*T .. from + w*T + T, both included */
};

/* Opening */

/* Appends the files that match the pattern to *found. */
static bool add_matches(glob_t *found, const char *pattern, Error *e) {
  switch (glob(pattern, GLOB_ERR | GLOB_NOSORT | (found->gl_pathc ? GLOB_APPEND : 0), NULL, found)) {
  case 0: return true;
  case GLOB_NOMATCH:
    return error_usage(e,
                       "data: no file matches '%s'; give token shards or .txt files, several patterns "
                       "separated by commas",
                       pattern);
  case GLOB_ABORTED: return error_usage(e, "data: a folder named in '%s' cannot be read", pattern);
  default: return error_runtime(e, "data: out of memory while matching '%s'", pattern);
  }
}

static int by_name(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The files that the comma-separated globs match, sorted; *found needs globfree in either case. */
static bool expand_globs(const char *globs, glob_t *found, Error *e) {
  *found = (glob_t){0};
  char *list = strdup(globs), *rest = list;
  CHECK(list, "out of memory for a pattern");
  bool ok = true;
  for (char *pattern; ok && (pattern = strsep(&rest, ","));) ok = add_matches(found, pattern, e);
  free(list);
  if (ok) qsort(found->gl_pathv, found->gl_pathc, sizeof *found->gl_pathv, by_name);
  return ok;
}

static DataLoader *loader_new(int64_t files, int64_t B, int64_t T, int64_t V) {
  CHECK(B > 0 && T > 0, "data: B %" PRId64 ", T %" PRId64, B, T);
  DataLoader *d = calloc(1, sizeof *d);
  CHECK(d, "out of memory for a data loader");
  *d = (DataLoader){.B = B, .T = T, .V = V};
  d->shards = calloc((size_t)files, sizeof *d->shards);
  d->starts = calloc((size_t)files + 1, sizeof *d->starts);
  CHECK(d->shards && d->starts, "out of memory for %" PRId64 " data files", files);
  return d;
}

/* Opens every path once, however many globs match it. */
static bool open_shards(DataLoader *d, const glob_t *found, Error *e) {
  for (size_t i = 0; i < found->gl_pathc; i++) {
    const char *path = found->gl_pathv[i];
    if (i > 0 && strcmp(path, found->gl_pathv[i - 1]) == 0) continue;
    if (!shard_open(&d->shards[d->files], path, d->V, e)) return error_prefix(e, "data: ");
    d->files++;
  }
  return true;
}

static bool check_length(const DataLoader *d, int64_t tokens, const char *what, Error *e) {
  if (tokens > d->T) return true;
  return error_usage(e,
                     "data: %s %s has %" PRId64 " tokens, but a sequence of %" PRId64 " needs %" PRId64
                     "; use a smaller --seq-len or more data",
                     d->shards[0].name, what, tokens, d->T, d->T + 1);
}

/* Joins the open shards to one stream. */
static bool join_shards(DataLoader *d, Error *e) {
  const Shard *known = NULL; /* the first that names its tokenizer */
  for (int64_t i = 0; i < d->files; i++) {
    const Shard *s = &d->shards[i];
    d->starts[i + 1] = d->starts[i] + s->n;
    if (s->tokenizer_hash == 0) continue;
    if (!known) known = s;
    if (known->tokenizer_hash != s->tokenizer_hash) {
      return error_usage(e,
                         "data: %s was made with the tokenizer %016" PRIx64 ", %s with %016" PRIx64
                         "; train on shards of one tokenizer",
                         known->name, known->tokenizer_hash, s->name, s->tokenizer_hash);
    }
  }
  d->to = d->starts[d->files];
  return check_length(d, d->to, d->files > 1 ? "and the other files together" : "alone", e);
}

DataLoader *dataloader_open(const char *globs, int64_t B, int64_t T, int64_t V, Error *e) {
  glob_t found;
  DataLoader *d = NULL;
  if (expand_globs(globs, &found, e)) {
    d = loader_new((int64_t)found.gl_pathc, B, T, V);
    if (!open_shards(d, &found, e) || !join_shards(d, e)) {
      dataloader_close(d);
      d = NULL;
    }
  }
  globfree(&found);
  return d;
}

DataLoader *dataloader_from_bytes(const char *name, const uint8_t *bytes, int64_t n, int64_t B, int64_t T,
                                  int64_t V, Error *e) {
  DataLoader *d = loader_new(1, B, T, V);
  bool ok = shard_from_bytes(&d->shards[0], name, bytes, n, V, e);
  if (ok)
    d->files = 1;
  else
    error_prefix(e, "data: ");
  if (ok && join_shards(d, e)) return d;
  dataloader_close(d);
  return NULL;
}

void dataloader_close(DataLoader *d) {
  if (!d) return;
  for (int64_t i = 0; i < d->files; i++) shard_close(&d->shards[i]);
  free(d->shards);
  free(d->starts);
  free(d);
}

bool dataloader_restrict(DataLoader *d, double from, double to, Error *e) {
  CHECK(from >= 0 && from < to && to <= 1, "data: the part %g .. %g", from, to);
  int64_t tokens = dataloader_tokens(d);
  int64_t first = (int64_t)(from * (double)tokens);
  int64_t end = to == 1 ? tokens : (int64_t)(to * (double)tokens);
  if (!check_length(d, end - first, "in the part that was asked for", e)) return false;
  d->to = d->from + end;
  d->from += first;
  d->next_window = 0;
  return true;
}

/* Reading */

/* Reads n tokens, marks included, from position `at` of the stream, across files. */
static bool read_stream(const DataLoader *d, int64_t at, int64_t n, uint32_t *dst, Error *e) {
  int64_t low = 0, high = d->files - 1; /* the file that holds `at`: the last whose start is not above it */
  while (low < high) {
    int64_t middle = low + (high - low + 1) / 2;
    if (d->starts[middle] <= at)
      low = middle;
    else
      high = middle - 1;
  }
  for (int64_t file = low; n > 0; file++) {
    int64_t rest = d->starts[file + 1] - at;
    int64_t m = n < rest ? n : rest;
    if (!shard_read(&d->shards[file], at - d->starts[file], m, d->V, dst, e))
      return error_prefix(e, "data: ");
    at += m;
    dst += m;
    n -= m;
  }
  return true;
}

/* Fills one sequence; each array is [T]. Returns its valid targets, or -1 and an Error. */
static int64_t read_window(const DataLoader *d, int64_t window, int32_t *tokens, int32_t *targets,
                           int32_t *positions, int32_t *documents, Error *e) {
  int64_t T = d->T, at = d->from + window * T, valid = 0;
  uint32_t last; /* the last target, which no position has as its token */
  if (!read_stream(d, at, T, (uint32_t *)tokens, e) || !read_stream(d, at + T, 1, &last, e)) return -1;
  int32_t document = 0;
  for (int64_t t = 0; t < T; t++) {
    uint32_t token = (uint32_t)tokens[t];
    uint32_t target = t + 1 < T ? (uint32_t)tokens[t + 1] : last;
    if (t > 0 && token & TOKEN_DOCUMENT) document++;
    tokens[t] = (int32_t)(token & TOKEN_ID);
    targets[t] = target & TOKEN_MASKED ? TARGET_IGNORED : (int32_t)(target & TOKEN_ID);
    positions[t] = (int32_t)t;
    documents[t] = document;
    valid += targets[t] != TARGET_IGNORED;
  }
  return valid;
}

bool dataloader_next(DataLoader *d, StepBatch *step, Error *e) {
  CHECK(step->B == d->B && step->T == d->T,
        "data: a step of B %" PRId64 ", T %" PRId64 " from a loader of B %" PRId64 ", T %" PRId64, step->B,
        step->T, d->B, d->T);
  int64_t windows = dataloader_windows(d), window = d->next_window;
  int64_t valid = 0;
  for (int64_t row = 0; row < step->A * step->B; row++) {
    int64_t i = row * d->T;
    int64_t n = read_window(d, window, step->tokens + i, step->targets + i, step->positions + i,
                            step->documents + i, e);
    if (n < 0) return false;
    valid += n;
    window = window + 1 < windows ? window + 1 : 0;
  }
  step->valid_targets = valid;
  d->next_window = window;
  return true;
}

void dataloader_rewind(DataLoader *d) {
  d->next_window = 0;
}

DataPosition dataloader_position(const DataLoader *d) {
  return (DataPosition){.samples = d->next_window, .sources = 1, .taken = {d->next_window}};
}
bool dataloader_seek(DataLoader *d, const DataPosition *p, Error *e) {
  (void)e;
  d->next_window = p->samples;
  return true;
}
uint64_t dataloader_fingerprint(const DataLoader *d) {
  uint64_t hash = (uint64_t)d->T;
  for (int64_t i = 0; i < d->files; i++)
    hash = XXH3_64bits_withSeed(d->shards[i].tokens, (size_t)(d->shards[i].n * d->shards[i].width), hash);
  return hash;
}
uint64_t dataloader_tokenizer_hash(const DataLoader *d) {
  return d->shards[0].tokenizer_hash;
}

int64_t dataloader_tokens(const DataLoader *d) {
  return d->to - d->from;
}
int64_t dataloader_windows(const DataLoader *d) {
  return (dataloader_tokens(d) - 1) / d->T;
}
int64_t dataloader_files(const DataLoader *d) {
  return d->files;
}

bool dataloader_bytes(const DataLoader *d) {
  for (int64_t i = 0; i < d->files; i++)
    if (d->shards[i].width != 1) return false;
  return true;
}
