/* The story: patterns -> sources -> the sequence of samples -> steps, read at once or a step ahead. */
#include "dataloader.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h> // XXH3_64bits_withSeed

#include "base/worker.h" // Worker
#include "io/shuffle.h"  // shuffle_key
#include "io/source.h"   // Source, TOKEN_*

/* The raw tokens of a step. */
typedef struct RawStep {
  int64_t A;
  uint32_t *windows;   /* [A*B, T], marks included */
  uint32_t *lasts;     /* each window's last target, so many apart: */
  int64_t lasts_apart; /* elements */
  DataPosition after;  /* where the step after it begins */
  bool ok;
  Error error; /* when not ok */
} RawStep;

struct DataLoader {
  int64_t B, T, V;
  int64_t rank, ranks;
  bool pack;
  Source source[DATA_MAX_SOURCES];
  uint64_t share[DATA_MAX_SOURCES]; /* of the samples, in parts of all shares together */
  int64_t sources;
  OpenFiles open_files;
  DataPosition at; /* of what was handed out */

  Worker *worker; /* reads `ahead`; NULL: nothing is read ahead */
  RawStep ahead;  /* the worker's while it is busy */
  bool begun;     /* the worker reads, or has read, the step at `at` */
};

/* ---- patterns: "a.bin:0.7,b.bin:0.3" ---- */

/* The comma-separated patterns, each with its weight, or with 0. */
typedef struct Patterns {
  char *text;     /* owned; the patterns point into it */
  char **pattern; /* [n] */
  double *weight; /* [n] */
  int64_t n;
} Patterns;

static const double min_weight = 1e-6, max_weight = 1e6;

/* Cuts ":WEIGHT" off the pattern. Another text after the last colon is part of the file's name. */
static bool cut_weight(char *pattern, double *weight, Error *e) {
  *weight = 0;
  char *colon = strrchr(pattern, ':'), *end;
  if (!colon || !colon[1] || colon[1 + strspn(colon + 1, "+-.0123456789eE")]) return true;
  double number = strtod(colon + 1, &end);
  if (*end) return true;
  if (!(number >= min_weight && number <= max_weight)) {
    return error_usage(e,
                       "'%s' ends in the weight %s; expected a number from %g to %g. (A file whose name ends "
                       "like this is written with a bracket: 'name:[1]'.)",
                       pattern, colon + 1, min_weight, max_weight);
  }
  *weight = number;
  *colon = '\0';
  return true;
}

static void patterns_free(Patterns *p) {
  free(p->text);
  free(p->pattern);
  free(p->weight);
}

/* Both arrays of *p are to be freed in either case. */
static bool patterns_parse(Patterns *p, const char *globs, Error *e) {
  size_t most = 1;
  for (const char *c = globs; *c; c++) most += *c == ',';
  *p = (Patterns){strdup(globs), calloc(most, sizeof *p->pattern), calloc(most, sizeof *p->weight), 0};
  CHECK(p->text && p->pattern && p->weight, "out of memory for %zu patterns", most);
  char *rest = p->text;
  int64_t weighted = 0;
  for (char *pattern; (pattern = strsep(&rest, ",")); p->n++) {
    p->pattern[p->n] = pattern;
    if (!cut_weight(pattern, &p->weight[p->n], e)) return false;
    weighted += p->weight[p->n] > 0;
  }
  if (weighted == 0 || weighted == p->n) return true;
  return error_usage(e,
                     "'%s' gives %" PRId64 " of %" PRId64
                     " patterns a weight; give one to each of them (a/*.bin:0.7,b/*.bin:0.3) or to none",
                     globs, weighted, p->n);
}

/* ---- opening ---- */

static DataLoader *loader_new(const DataOptions *o) {
  CHECK(o->B > 0 && o->T > 0, "data: B %" PRId64 ", T %" PRId64, o->B, o->T);
  DataLoader *d = calloc(1, sizeof *d);
  CHECK(d, "out of memory for a data loader");
  d->B = o->B;
  d->T = o->T;
  d->V = o->V;
  d->rank = o->rank;
  d->ranks = o->ranks ? o->ranks : 1;
  d->pack = o->pack;
  CHECK(d->rank >= 0 && d->rank < d->ranks, "data: rank %" PRId64 " of %" PRId64, d->rank, d->ranks);
  return d;
}

/* All patterns as one source, or each as its own. */
static bool open_sources(DataLoader *d, const Patterns *p, Error *e) {
  bool weighted = p->weight[0] > 0;
  if (weighted && p->n > DATA_MAX_SOURCES)
    return error_usage(e, "%" PRId64 " patterns with weights; at most %d are possible", p->n,
                       DATA_MAX_SOURCES);
  int64_t each = weighted ? 1 : p->n;
  for (int64_t i = 0; i < p->n; i += each) {
    Source *s = &d->source[d->sources++];
    if (!source_open(s, p->pattern + i, each, d->T, d->V, &d->open_files, e)) return false;
  }
  return true;
}

/* Shares are whole numbers, so that who is next never hangs on rounding. */
static void set_shares(DataLoader *d, const double *weight) {
  double sum = 0;
  for (int64_t k = 0; k < d->sources; k++) sum += weight[k];
  for (int64_t k = 0; k < d->sources; k++) d->share[k] = (uint64_t)llround(weight[k] / sum * 0x1p60);
}

static bool check_tokenizers(const DataLoader *d, Error *e) {
  const Shard *known = NULL; /* the first that names its tokenizer */
  for (int64_t k = 0; k < d->sources; k++) {
    for (int64_t i = 0; i < d->source[k].files; i++) {
      const Shard *s = &d->source[k].shards[i];
      if (s->tokenizer_hash == 0) continue;
      if (!known) known = s;
      if (known->tokenizer_hash != s->tokenizer_hash) {
        return error_usage(e,
                           "%s was made with the tokenizer %016" PRIx64 ", %s with %016" PRIx64
                           "; train on shards of one tokenizer",
                           known->name, known->tokenizer_hash, s->name, s->tokenizer_hash);
      }
    }
  }
  return true;
}

/* A token that the model does not have is better refused at the start than met after days. */
static bool check_tokens(DataLoader *d, Error *e) {
  bool ok = true;
  for (int64_t k = 0; k < d->sources && ok; k++) ok = source_check_tokens(&d->source[k], e);
  return ok;
}

static bool mark_documents(DataLoader *d, const DataOptions *o, Error *e) {
  bool ok = true;
  for (int64_t k = 0; k < d->sources && d->pack; k++)
    for (int64_t i = 0; i < d->source[k].files && ok; i++)
      ok = shard_mark_documents(&d->source[k].shards[i], o->bos, o->document_token, e);
  return ok;
}

/* Documents that nothing separates are a mistake, which would show in the loss only. */
static bool check_documents(const DataLoader *d, Error *e) {
  for (int64_t k = 0; k < d->sources && d->pack; k++) {
    const Source *s = &d->source[k];
    bool any = false;
    for (int64_t i = 0; i < s->files; i++) any |= s->shards[i].has_documents;
    if (any) continue;
    char token[64] = "a mark";
    if (s->shards[0].document_token >= 0)
      snprintf(token, sizeof token, "the token %" PRId64, s->shards[0].document_token);
    return error_usage(
        e,
        "%s%s: --pack finds no document in all tokens, expected %s where one starts.\nGive the "
        "--document-token ID that these data were made with, or leave --pack out.",
        s->shards[0].name, s->files > 1 ? " and the other files" : "", token);
  }
  return true;
}

/* Reads all that the sources hold. */
static bool check_contents(DataLoader *d, const DataOptions *o, Error *e) {
  return mark_documents(d, o, e) && check_tokens(d, e) && check_documents(d, e);
}

/* The loader whose sources are open, ready to be used; `ok` says whether they are. */
static DataLoader *loader_ready(DataLoader *d, const DataOptions *o, bool ok, Error *e) {
  if (!ok) {
    error_prefix(e, "data: ");
    dataloader_close(d);
    return NULL;
  }
  for (int64_t k = 0; k < d->sources && o->shuffle; k++)
    source_shuffle(&d->source[k], shuffle_key(o->seed, (uint64_t)k));
  dataloader_rewind(d);
  return d;
}

DataLoader *dataloader_open(const DataOptions *o, Error *e) {
  DataLoader *d = loader_new(o);
  Patterns p;
  bool ok = patterns_parse(&p, o->globs, e) && open_sources(d, &p, e) && check_tokenizers(d, e) &&
            check_contents(d, o, e);
  static const double alone = 1;
  if (ok) set_shares(d, p.weight[0] > 0 ? p.weight : &alone);
  patterns_free(&p);
  return loader_ready(d, o, ok, e);
}

DataLoader *dataloader_from_bytes(const char *name, const uint8_t *bytes, int64_t n, const DataOptions *o,
                                  Error *e) {
  DataLoader *d = loader_new(o);
  static const double alone = 1;
  d->sources = 1;
  set_shares(d, &alone);
  bool ok = source_from_bytes(&d->source[0], name, bytes, n, d->T, d->V, e) && check_contents(d, o, e);
  return loader_ready(d, o, ok, e);
}

void dataloader_close(DataLoader *d) {
  if (!d) return;
  worker_stop(d->worker);
  for (int64_t k = 0; k < d->sources; k++) source_close(&d->source[k]);
  free(d);
}

/* ---- the sequence of samples ---- */

/* Goes to another place: what was read ahead is forgotten. */
static void go_to(DataLoader *d, const DataPosition *p) {
  if (d->worker) worker_wait(d->worker);
  d->begun = false;
  d->at = *p;
}

/* The source that is furthest behind its share of the samples up to and including the next one. */
static int64_t next_source(const DataLoader *d, const DataPosition *p) {
  __int128 all = 0, most = 0;
  for (int64_t k = 0; k < d->sources; k++) all += d->share[k];
  int64_t found = 0;
  for (int64_t k = 0; k < d->sources; k++) {
    __int128 behind = (__int128)d->share[k] * (p->samples + 1) - all * p->taken[k];
    if (k > 0 && behind <= most) continue;
    found = k;
    most = behind;
  }
  return found;
}

/* Reads a step from where the loader is: the worker's job, too. */
static void read_step(DataLoader *d, RawStep *r) {
  DataPosition p = d->at;
  int64_t row = 0;
  r->ok = true;
  for (int64_t sample = 0; sample < r->A * d->ranks * d->B && r->ok; sample++) {
    int64_t k = next_source(d, &p), taken = p.taken[k];
    p.samples++;
    p.taken[k]++;
    if (sample / d->B % d->ranks != d->rank) continue;
    Source *s = &d->source[k];
    r->ok = source_read(s, source_window_after(s, taken), r->windows + row * d->T,
                        r->lasts + row * r->lasts_apart, &r->error);
    row++;
  }
  r->after = p;
}

/* ---- steps ---- */

/* Makes a sequence of a window, which may lie where its tokens go; each array is [T]. Returns its valid
 * targets. */
static int64_t unpack(const uint32_t *window, uint32_t last, int64_t T, bool pack, int32_t *tokens,
                      int32_t *targets, int32_t *positions, int32_t *starts) {
  int64_t valid = 0, start = 0;
  uint32_t no_target = TOKEN_MASKED | (pack ? TOKEN_DOCUMENT : 0);
  for (int64_t t = 0; t < T; t++) {
    uint32_t token = window[t];
    uint32_t target = t + 1 < T ? window[t + 1] : last;
    if (pack && token & TOKEN_DOCUMENT) start = t;
    tokens[t] = (int32_t)(token & TOKEN_ID);
    targets[t] = target & no_target ? TARGET_IGNORED : (int32_t)(target & TOKEN_ID);
    positions[t] = (int32_t)(t - start);
    starts[t] = (int32_t)start;
    valid += targets[t] != TARGET_IGNORED;
  }
  return valid;
}

static void read_job(void *context) {
  DataLoader *d = context;
  read_step(d, &d->ahead);
}

static void begin_ahead(DataLoader *d) {
  d->begun = true;
  worker_begin(d->worker);
}

bool dataloader_prefetch(DataLoader *d, uint32_t *raw, int64_t A, Error *e) {
  CHECK(!d->worker && A > 0, "data: a second reader, or steps of %" PRId64 " micro-batches", A);
  d->worker = worker_start(read_job, d, e);
  if (!d->worker) return error_prefix(e, "data: ");
  d->ahead = (RawStep){.A = A, .windows = raw, .lasts = raw + A * d->B * d->T, .lasts_apart = 1};
  begin_ahead(d);
  return true;
}

bool dataloader_next(DataLoader *d, StepBatch *step, Error *e) {
  CHECK(step->B == d->B && step->T == d->T,
        "data: a step of B %" PRId64 ", T %" PRId64 " from a loader of B %" PRId64 ", T %" PRId64, step->B,
        step->T, d->B, d->T);
  RawStep in_place; /* the windows lie where the tokens go, their last targets at the ends of the targets */
  const RawStep *r = d->worker ? &d->ahead : &in_place;
  if (d->worker) {
    CHECK(step->A == d->ahead.A, "data: a step of A %" PRId64 " from a loader that reads A %" PRId64 " ahead",
          step->A, d->ahead.A);
    if (!d->begun) begin_ahead(d);
    worker_wait(d->worker);
    d->begun = false;
  } else {
    in_place.A = step->A;
    in_place.windows = (uint32_t *)step->tokens;
    in_place.lasts = (uint32_t *)step->targets + d->T - 1;
    in_place.lasts_apart = d->T;
    read_step(d, &in_place);
  }
  if (!r->ok) {
    *e = r->error;
    return error_prefix(e, "data: ");
  }
  step->valid_targets = 0;
  for (int64_t row = 0; row < step->A * d->B; row++) {
    int64_t i = row * d->T;
    step->valid_targets += unpack(r->windows + i, r->lasts[row * r->lasts_apart], d->T, d->pack,
                                  step->tokens + i, step->targets + i, step->positions + i, step->starts + i);
  }
  d->at = r->after;
  if (d->worker) begin_ahead(d);
  return true;
}

/* ---- where it is ---- */

DataPosition dataloader_position(const DataLoader *d) {
  return d->at;
}

/* Far beyond use, and sums with the samples of a step still fit in 64 bits. */
#define MAX_SAMPLES (INT64_C(1) << 62)

bool dataloader_seek(DataLoader *d, const DataPosition *p, Error *e) {
  if (p->sources != d->sources) {
    return error_usage(e,
                       "data: the saved position is one of %" PRId64 " sources, but the data have %" PRId64
                       "; give the patterns that the run was started with",
                       p->sources, d->sources);
  }
  int64_t sum = 0;
  bool possible = true;
  for (int64_t k = 0; k < p->sources; k++)
    possible = possible && p->taken[k] >= 0 && !__builtin_add_overflow(sum, p->taken[k], &sum);
  if (!possible || sum != p->samples || sum > MAX_SAMPLES) {
    return error_usage(e,
                       "data: the saved position counts %" PRId64 " samples in all, expected the sum of its "
                       "sources' counts, at most %" PRId64 "; resume from another state",
                       p->samples, MAX_SAMPLES);
  }
  go_to(d, p);
  return true;
}

void dataloader_rewind(DataLoader *d) {
  DataPosition start = {.sources = d->sources};
  go_to(d, &start);
}

bool dataloader_restrict(DataLoader *d, double from, double to, Error *e) {
  for (int64_t k = 0; k < d->sources; k++)
    if (!source_can_restrict(&d->source[k], from, to, e)) return error_prefix(e, "data: ");
  dataloader_rewind(d);
  for (int64_t k = 0; k < d->sources; k++) source_restrict(&d->source[k], from, to);
  return true;
}

/* ---- what the data are ---- */

uint64_t dataloader_fingerprint(const DataLoader *d) {
  uint64_t hash = 0;
  for (int64_t k = 0; k < d->sources; k++) {
    uint64_t source[] = {d->share[k], source_fingerprint(&d->source[k])};
    hash = XXH3_64bits_withSeed(source, sizeof source, hash);
  }
  return hash;
}

uint64_t dataloader_tokenizer_hash(const DataLoader *d) {
  for (int64_t k = 0; k < d->sources; k++)
    for (int64_t i = 0; i < d->source[k].files; i++)
      if (d->source[k].shards[i].tokenizer_hash) return d->source[k].shards[i].tokenizer_hash;
  return 0;
}

int64_t dataloader_tokens(const DataLoader *d) {
  int64_t n = 0;
  for (int64_t k = 0; k < d->sources; k++) n += source_tokens(&d->source[k]);
  return n;
}
int64_t dataloader_windows(const DataLoader *d) {
  int64_t n = 0;
  for (int64_t k = 0; k < d->sources; k++) n += source_windows(&d->source[k]);
  return n;
}
int64_t dataloader_files(const DataLoader *d) {
  int64_t n = 0;
  for (int64_t k = 0; k < d->sources; k++) n += d->source[k].files;
  return n;
}

bool dataloader_bytes(const DataLoader *d) {
  for (int64_t k = 0; k < d->sources; k++)
    for (int64_t i = 0; i < d->source[k].files; i++)
      if (d->source[k].shards[i].width != 1) return false;
  return true;
}
