/* tokenize: text files to token shards. This file is the story: flags -> tokenizer -> input -> shards. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h> // XXH3_64bits

#include "base/version.h"
#include "cli/completion.h"           // defines: completion_print
#include "cli/man.h"                  // defines: man_print
#include "tokenizer/tool/documents.h" // defines: Inputs
#include "tokenizer/tool/job.h"       // defines: JobPlan
#include "tokenizer/tool/manual.h"    // defines: tokenize_manual
#include "tokenizer/tool/options.h"   // defines: TokenizeOptions, tokenize_flags
#include "tokenizer/tool/output.h"    // defines: Output
#include "tokenizer/tool/pipeline.h"  // defines: pipeline_run

/* Of what decides what the shards hold: a run goes on only with the same. --on-invalid may change as long as
 * it decided nothing (check_invalid). */
static uint64_t fingerprint(const JobPlan *p) {
  const TokenizeOptions *o = p->o;
  XXH3_state_t *state = XXH3_createState();
  CHECK(state, "out of memory");
  XXH3_64bits_reset(state);
  const char *texts[] = {o->field, o->prompt_field, o->completion_field};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    const char *text = texts[i] ? texts[i] : "";
    XXH3_64bits_update(state, text, strlen(text) + 1);
  }
  int64_t numbers[] = {o->special, o->version, o->shard_tokens, o->seed, p->bos, p->eos, p->in->n};
  uint64_t hash = tokenizer_hash(p->tokenizer);
  XXH3_64bits_update(state, numbers, sizeof numbers);
  XXH3_64bits_update(state, &o->val_fraction, sizeof o->val_fraction);
  XXH3_64bits_update(state, &hash, sizeof hash);
  for (int64_t i = 0; i < p->in->n; i++) {
    const InputFile *f = &p->in->files[i];
    int64_t file[] = {f->bytes, f->modified, f->jsonl, f->split};
    XXH3_64bits_update(state, f->path, strlen(f->path) + 1);
    XXH3_64bits_update(state, file, sizeof file);
  }
  hash = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  return hash;
}

static bool check_invalid(const TokenizeOptions *o, const Output *out, Error *e) {
  bool same = (!out->skipped || o->on_invalid == INVALID_SKIP) &&
              (!out->replaced || o->on_invalid == INVALID_REPLACE);
  return same ||
         error_usage(e,
                     "--out %s: was begun with --on-invalid %s, which has decided on documents already; "
                     "give that, or another --out",
                     o->out, out->skipped ? "skip" : "replace");
}

static void print_start(const JobPlan *p, const Output *out) {
  printf("# tokenizer  %s: V %" PRId64 ", hash %016" PRIx64 ", BOS %" PRId64 ", EOS %" PRId64 "%s\n",
         p->o->tokenizer, tokenizer_vocab_size(p->tokenizer), tokenizer_hash(p->tokenizer), p->bos, p->eos,
         p->bos < 0 || p->eos < 0 ? " (-1: none)" : "");
  printf("# input      %" PRId64 " files, %.1f MB\n", p->in->n, (double)p->in->bytes / 1e6);
  if (out->done)
    printf("# done       already: nothing is left to do\n");
  else if (out->at.document)
    printf("# going on   after document %" PRId64 ", in file %" PRId64 " of %" PRId64 "\n", out->at.document,
           out->at.file + 1, p->in->n);
  fflush(stdout);
}

static void print_end(const Output *out) {
  const ShardStream *t = &out->streams[STREAM_TRAIN], *v = &out->streams[STREAM_VAL];
  printf("%" PRId64 " documents: %" PRId64 " tokens in %" PRId64 " shards to train on, %" PRId64
         " in %" PRId64 " for validation, in %s",
         out->documents, t->tokens, t->shards, v->tokens, v->shards, out->folder);
  if (out->skipped) printf("; %" PRId64 " documents were left out", out->skipped);
  if (out->replaced) printf("; %" PRId64 " documents got U+FFFD", out->replaced);
  printf("\n");
}

static bool tokenize(const JobPlan *p, Error *e) {
  const TokenizeOptions *o = p->o;
  ShardKind kind = {(int)o->version, 0, 0};
  if (o->version == 8)
    kind = (ShardKind){8, tokenizer_vocab_size(p->tokenizer), tokenizer_hash(p->tokenizer)};
  if (o->version == 1 && tokenizer_vocab_size(p->tokenizer) > 1 << 16)
    return error_usage(
        e, "--shard-version 1 holds ids below 65536, but the vocabulary has %" PRId64 "; give 7 or 8",
        tokenizer_vocab_size(p->tokenizer));
  Output out;
  if (!output_open(&out, o->out, kind, o->shard_tokens, fingerprint(p), e)) return false;
  bool ok = check_invalid(o, &out, e);
  if (ok) print_start(p, &out);
  ok = ok && (out.done || pipeline_run(p, &out, e));
  if (ok && out.streams[STREAM_TRAIN].tokens + out.streams[STREAM_VAL].tokens == 0)
    ok = error_usage(e,
                     "--input %s: found no text in %" PRId64 " files, %" PRId64
                     " documents were left out: no shard was written.\nGive files that hold text.",
                     o->input, p->in->n, out.skipped);
  if (ok) print_end(&out);
  output_close(&out);
  return ok;
}

static bool run(const TokenizeOptions *o, Error *e) {
  Inputs in;
  JobPlan p;
  if (!tokenize_options_check(o, e) || !inputs_open(&in, o, e)) return false;
  Tokenizer *t = tokenizer_open(o->tokenizer, e);
  bool ok = t && job_plan_make(&p, o, &in, t, e) && tokenize(&p, e);
  tokenizer_close(t);
  inputs_close(&in);
  return ok;
}

/* Prints what is asked for instead of a run; false when it is a run. */
static bool print_text(const TokenizeOptions *o) {
  if (o->show_version)
    printf("tokenize %s\n", VERSION);
  else if (o->help && *o->help)
    flag_table_help_one(stdout, &tokenize_flags, flag_table_find(&tokenize_flags, o->help));
  else if (o->help)
    flag_table_help(stdout, &tokenize_flags);
  else if (o->man)
    man_print(stdout, &tokenize_flags, &tokenize_manual, VERSION);
  else if (o->completion)
    completion_print(stdout, &tokenize_flags, o->completion);
  else
    return false;
  return true;
}

int main(int argc, char **argv) {
  TokenizeOptions o;
  Error e = {0};
  flag_table_defaults(&tokenize_flags, &o, sizeof o);
  bool ok = flag_table_parse(&tokenize_flags, &o, argc, argv, &e);
  if (ok && !print_text(&o)) ok = run(&o, &e);
  if (ok && (fflush(stdout) != 0 || ferror(stdout)))
    ok = error_runtime(&e, "standard output cannot be written: is the disk full?");
  if (ok) return 0;
  fflush(stdout);
  fprintf(stderr, "tokenize: %s\n", e.text);
  return e.code;
}
