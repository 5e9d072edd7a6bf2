#define _GNU_SOURCE /* sched_getaffinity */
#include "tokenizer/tool/pipeline.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h> // XXH3_64bits_withSeed

#include "tokenizer/tool/progress.h"

enum {
  BATCH_BYTES = 1 << 19,
  SAVE_SECONDS = 10, /* between two states that a run can go on from, when no shard is completed */
  NOTES_MOST = 20,   /* documents that are not UTF-8 and named one by one */
};

/* Jobs go round: the main thread fills them, any thread does them, the main thread takes them, in order. */
typedef struct Pipeline {
  const JobPlan *plan;
  pthread_mutex_t lock;
  pthread_cond_t filled, done; /* there may be a job to do; one was done */
  Job *jobs;                   /* [slots]; job i is in slot i % slots */
  bool *is_done;               /* [slots], under the lock */
  int64_t slots;
  int64_t fills, starts; /* jobs that were filled, begun; under the lock */
  size_t waiting;        /* bytes of text that were filled in and not taken yet */
  bool ends;             /* no more will come; under the lock */
  pthread_t *threads;
  int64_t thread_count;
} Pipeline;

static void *work(void *context) {
  Pipeline *p = context;
  Encoder *x = encoder_new(p->plan->tokenizer);
  pthread_mutex_lock(&p->lock);
  for (;;) {
    while (p->starts == p->fills && !p->ends) pthread_cond_wait(&p->filled, &p->lock);
    if (p->starts == p->fills) break;
    int64_t slot = p->starts++ % p->slots;
    pthread_mutex_unlock(&p->lock);
    job_run(p->plan, x, &p->jobs[slot]);
    pthread_mutex_lock(&p->lock);
    p->is_done[slot] = true;
    pthread_cond_signal(&p->done);
  }
  pthread_mutex_unlock(&p->lock);
  encoder_free(x);
  return NULL;
}

static int64_t cores(void) {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : sysconf(_SC_NPROCESSORS_ONLN);
}

static bool start_threads(Pipeline *p, int64_t threads, Error *e) {
  p->slots = 2 * threads + 2;
  p->jobs = calloc((size_t)p->slots, sizeof *p->jobs);
  p->is_done = calloc((size_t)p->slots, sizeof *p->is_done);
  p->threads = calloc((size_t)threads, sizeof *p->threads);
  CHECK(p->jobs && p->is_done && p->threads, "out of memory for %lld threads", (long long)threads);
  for (; p->thread_count < threads; p->thread_count++) {
    int failure = pthread_create(&p->threads[p->thread_count], NULL, work, p);
    if (failure)
      return error_runtime(e, "no thread could be started: %s. Give fewer --threads", strerror(failure));
  }
  return true;
}

static void stop_threads(Pipeline *p) {
  pthread_mutex_lock(&p->lock);
  p->ends = true;
  p->starts = p->fills; /* what was not begun is not needed any more */
  pthread_cond_broadcast(&p->filled);
  pthread_mutex_unlock(&p->lock);
  for (int64_t i = 0; i < p->thread_count; i++) pthread_join(p->threads[i], NULL);
  for (int64_t i = 0; i < p->slots; i++) job_free(&p->jobs[i]);
  free(p->jobs);
  free(p->is_done);
  free(p->threads);
}

/* ---- in order ---- */

/* Reads the next batch for the threads; *more is false when the input is at its end. */
static bool fill(Pipeline *p, DocumentReader *r, bool *more, Error *e) {
  int64_t slot = p->fills % p->slots;
  Job *j = &p->jobs[slot];
  if (!document_reader_next(r, &j->batch, BATCH_BYTES, e)) return false;
  *more = j->batch.n > 0;
  if (!*more) return true;
  p->waiting += j->batch.text.n;
  pthread_mutex_lock(&p->lock);
  p->is_done[slot] = false;
  p->fills++;
  pthread_cond_signal(&p->filled);
  pthread_mutex_unlock(&p->lock);
  return true;
}

/* Whether one more batch may be read: large documents wait until others are done with. */
static bool has_room(const Pipeline *p, int64_t taken) {
  return p->fills == taken || (p->fills - taken < p->slots && p->waiting < (size_t)p->slots * BATCH_BYTES);
}

static Job *wait_for(Pipeline *p, int64_t i) {
  int64_t slot = i % p->slots;
  pthread_mutex_lock(&p->lock);
  while (!p->is_done[slot]) pthread_cond_wait(&p->done, &p->lock);
  pthread_mutex_unlock(&p->lock);
  return &p->jobs[slot];
}

/* Which documents are for validation is drawn by their number: it depends on nothing else. */
static int stream_of(const TokenizeOptions *o, int64_t document) {
  uint64_t drawn = XXH3_64bits_withSeed(&document, sizeof document, (uint64_t)o->seed);
  return (double)(drawn >> 11) * 0x1p-53 < o->val_fraction ? STREAM_VAL : STREAM_TRAIN;
}

/* Prints the first of the notes of all jobs, while there is room for them; noted: those before. */
static void print_notes(const Job *j, int64_t noted, const Progress *progress) {
  const char *line = (const char *)j->notes.data;
  if (!j->notes.n || noted >= NOTES_MOST) return;
  progress_end(progress);
  for (size_t left = j->notes.n; left && noted < NOTES_MOST; noted++) {
    const char *end = memchr(line, '\n', left);
    size_t n = end ? (size_t)(end + 1 - line) : left;
    fprintf(stderr, "# %.*s", (int)n, line);
    line += n, left -= n;
  }
}

/* Writes what a job made. */
static bool take(const Pipeline *p, const Job *j, Output *out, const Progress *progress, Error *e) {
  const uint32_t *tokens = j->tokens.data;
  print_notes(j, out->skipped + out->replaced, progress);
  if (j->failed) {
    *e = j->error;
    return false;
  }
  for (size_t i = 0; i < j->run_count;) {
    int stream = stream_of(p->plan->o, j->runs[i].document);
    int64_t n = 0; /* of the documents in a row that go to the same stream */
    do {
      n += (int64_t)j->runs[i++].n;
    } while (i < j->run_count && stream_of(p->plan->o, j->runs[i].document) == stream);
    if (!output_append(out, stream, tokens, n, e)) return false;
    tokens += n;
  }
  out->documents += (int64_t)j->run_count;
  out->skipped += j->skipped;
  out->replaced += j->replaced;
  out->at = j->batch.after;
  return true;
}

static bool run_in_order(Pipeline *p, DocumentReader *r, Output *out, Error *e) {
  Progress progress = progress_begin(stderr, r->done_bytes + r->at.offset, p->plan->in->bytes);
  double saved = 0;
  int64_t shards = -1; /* complete ones when the state was saved */
  bool more = true, ok = true;
  for (int64_t taken = 0; ok; taken++) {
    while (ok && more && has_room(p, taken)) ok = fill(p, r, &more, e);
    if (!ok || taken == p->fills) break;
    Job *j = wait_for(p, taken);
    ok = take(p, j, out, &progress, e);
    p->waiting -= j->batch.text.n;
    job_shrink(j);
    const ShardStream *train = &out->streams[STREAM_TRAIN], *val = &out->streams[STREAM_VAL];
    progress_show(&progress, j->batch.bytes_read, train->tokens + val->tokens);
    double seconds = progress_seconds(&progress);
    if (!ok || (seconds - saved < SAVE_SECONDS && train->shards + val->shards == shards)) continue;
    ok = output_save(out, e);
    saved = seconds;
    shards = train->shards + val->shards;
  }
  progress_end(&progress);
  return ok && output_finish(out, e);
}

bool pipeline_run(const JobPlan *plan, Output *out, Error *e) {
  Pipeline p = {.plan = plan};
  pthread_mutex_init(&p.lock, NULL);
  pthread_cond_init(&p.filled, NULL);
  pthread_cond_init(&p.done, NULL);
  DocumentReader r;
  document_reader_open(&r, plan->in, plan->o->max_document, out->at);
  bool ok =
      start_threads(&p, plan->o->threads ? plan->o->threads : cores(), e) && run_in_order(&p, &r, out, e);
  stop_threads(&p);
  document_reader_close(&r);
  pthread_cond_destroy(&p.done);
  pthread_cond_destroy(&p.filled);
  pthread_mutex_destroy(&p.lock);
  return ok;
}
