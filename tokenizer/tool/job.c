#include "tokenizer/tool/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "base/utf8.h"
#include "io/shards.h" // TOKEN_DOCUMENT, TOKEN_MASKED

/* ---- the tokens around a document ---- */

static bool find_token(const Tokenizer *t, const char *flag, const char *value, int64_t automatic,
                       int64_t *id, Error *e) {
  *id = strcmp(value, "auto") == 0 ? automatic : -1;
  if (strcmp(value, "auto") == 0 || strcmp(value, "none") == 0) return true;
  *id = tokenizer_find(t, value);
  return *id >= 0 ||
         error_usage(e, "--%s: the tokenizer has no token \"%s\"; expected one, auto or none.", flag, value);
}

bool job_plan_make(JobPlan *p, const TokenizeOptions *o, const Inputs *in, const Tokenizer *t, Error *e) {
  *p = (JobPlan){.o = o, .in = in, .tokenizer = t};
  return find_token(t, "bos", o->bos, tokenizer_bos(t), &p->bos, e) &&
         find_token(t, "eos", o->eos, tokenizer_eos(t), &p->eos, e);
}

/* ---- one document ---- */

/* The work on a document. */
typedef struct Work {
  const JobPlan *p;
  Encoder *x;
  Job *j;
  const Document *d;
  Bytes mended; /* its text with U+FFFD in it */
} Work;

static const char *path_of(const Work *w) {
  return w->p->in->files[w->d->file].path;
}

static void note(Work *w, size_t at, const char *what, const char *done) {
  char line[512];
  int n = snprintf(line, sizeof line, "%s: byte %lld: %s: %s\n", path_of(w),
                   (long long)w->d->offset + (long long)at, what, done);
  bytes_append(&w->j->notes, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}

static bool stop(Work *w, size_t at, const char *what, bool can_replace) {
  return error_usage(&w->j->error,
                     "%s: byte %lld: %s.\nMend the file and remove --out %s, or give --on-invalid skip to "
                     "leave such documents out%s.",
                     path_of(w), (long long)w->d->offset + (long long)at, what, w->p->o->out,
                     can_replace ? ", or replace to put U+FFFD there" : "");
}

/* The place of a NUL in a JSON text, escaped or not, n when it has none: it would end the string for C. */
static size_t find_nul(const char *text, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (text[i] == '\0') return i;
    if (text[i] != '\\') continue;
    if (n - i >= 6 && memcmp(text + i, "\\u0000", 6) == 0) return i;
    i++;
  }
  return n;
}

/* Copies the text to w->mended, a U+FFFD for each malformed part (and, in JSON, for each NUL). */
static void mend(Work *w, const char *text, size_t n, bool json) {
  w->mended.n = 0;
  for (size_t at = 0; at < n;) {
    size_t valid = utf8_valid(text + at, n - at), nul = json ? find_nul(text + at, valid) : valid;
    bool cut;
    bytes_append(&w->mended, text + at, nul);
    at += nul;
    if (at < n) bytes_append(&w->mended, UTF8_REPLACEMENT, 3);
    if (nul < valid)
      at += text[at] == '\0' ? 1 : 6;
    else if (at < n)
      at += utf8_malformed(text + at, n - at, &cut);
  }
}

/* Handles text that is not UTF-8 as --on-invalid says; *text and *n are what to go on with, *n = 0: nothing.
 */
static bool check_text(Work *w, const char **text, size_t *n, bool json) {
  size_t valid = utf8_valid(*text, *n);
  const char *what = "not UTF-8";
  if (json && valid == *n) {
    valid = find_nul(*text, *n);
    what = "the character U+0000 in JSON, which is not supported";
  }
  if (valid == *n) return true;
  switch ((OnInvalid)w->p->o->on_invalid) {
  case INVALID_STOP: return stop(w, valid, what, true);
  case INVALID_SKIP:
    w->j->skipped++;
    note(w, valid, what, "the document is left out");
    *n = 0;
    return true;
  case INVALID_REPLACE:
    w->j->replaced++;
    note(w, valid, what, "replaced by U+FFFD");
    mend(w, *text, *n, json);
    *text = (const char *)w->mended.data;
    *n = w->mended.n;
    return true;
  }
  PANIC("--on-invalid has no such value");
}

/* Appends the tokens of a text. */
static bool encode(Work *w, const char *text, size_t n) {
  int flags = w->p->o->special ? ENCODE_SPECIAL_AS_TEXT : 0;
  if (tokenizer_encode(w->x, text, n, flags, &w->j->tokens, &w->j->error)) return true;
  return error_prefix(&w->j->error, "%s: the document at byte %lld: ", path_of(w), (long long)w->d->offset);
}

/* Prompt (NULL = none) and text become the document's tokens. */
static bool encode_document(Work *w, const char *prompt, const char *text, size_t n) {
  Ids *tokens = &w->j->tokens;
  size_t from = tokens->n;
  bool marks = w->p->o->version == 8;
  if (w->p->bos >= 0) ids_append(tokens, (uint32_t)w->p->bos);
  if (prompt && !encode(w, prompt, strlen(prompt))) return false;
  size_t masked = prompt ? tokens->n : from;
  if (!encode(w, text, n)) return false;
  if (w->p->eos >= 0) ids_append(tokens, (uint32_t)w->p->eos);
  for (size_t i = from; i < masked; i++) tokens->data[i] |= TOKEN_MASKED;
  if (tokens->n == from) return true;
  if (marks) tokens->data[from] |= TOKEN_DOCUMENT;
  Job *j = w->j;
  j->runs = buffer_grow(j->runs, &j->run_capacity, j->run_count + 1, sizeof *j->runs);
  j->runs[j->run_count++] = (TokenRun){tokens->n - from, j->batch.first + (w->d - j->batch.documents)};
  return true;
}

/* ---- JSON ---- */

static bool bad_json(Work *w, const char *what) {
  if (w->p->o->on_invalid != INVALID_SKIP) return stop(w, 0, what, false);
  w->j->skipped++;
  note(w, 0, what, "the document is left out");
  return true;
}

static bool encode_object(Work *w, const cJSON *json) {
  const TokenizeOptions *o = w->p->o;
  const char *key = o->completion_field ? o->completion_field : o->field;
  const char *flag = o->completion_field ? "completion-field" : "field";
  const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, key));
  const char *prompt = NULL;
  char what[200];
  if (o->prompt_field) {
    prompt = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, o->prompt_field));
    if (!prompt) key = o->prompt_field, flag = "prompt-field";
  }
  if (!text || (o->prompt_field && !prompt)) {
    snprintf(what, sizeof what, "the object has no string \"%.100s\", which --%s asks for", key, flag);
    return bad_json(w, what);
  }
  if (!*text && !(prompt && *prompt)) return true;
  return encode_document(w, prompt, text, strlen(text));
}

static bool encode_line(Work *w, const char *line, size_t n) {
  size_t blank = 0;
  while (blank < n && line[blank] && strchr(" \t\r", line[blank])) blank++;
  if (blank == n) return true;
  const char *end;
  cJSON *json = cJSON_ParseWithLengthOpts(line, n, &end, false);
  bool whole = cJSON_IsObject(json);
  while (whole && end < line + n) whole = *end && strchr(" \t\r", *end) != NULL, end++;
  bool ok = whole ? encode_object(w, json) : bad_json(w, "not a JSON object");
  cJSON_Delete(json);
  return ok;
}

/* ---- the batch ---- */

static bool run_document(Work *w) {
  const char *text = (const char *)w->j->batch.text.data + w->d->at;
  size_t n = w->d->n;
  bool json = w->p->in->files[w->d->file].jsonl;
  if (!check_text(w, &text, &n, json)) return false;
  if (n == 0) return true;
  return json ? encode_line(w, text, n) : encode_document(w, NULL, text, n);
}

void job_run(const JobPlan *p, Encoder *x, Job *j) {
  j->tokens.n = j->run_count = j->notes.n = 0;
  j->skipped = j->replaced = 0;
  j->failed = false;
  Work w = {.p = p, .x = x, .j = j};
  for (size_t i = 0; i < j->batch.n && !j->failed; i++) {
    w.d = &j->batch.documents[i];
    j->failed = !run_document(&w);
  }
  bytes_free(&w.mended);
}

void job_shrink(Job *j) {
  enum { USUAL = 1 << 22 };
  if (j->batch.text.capacity > USUAL) bytes_free(&j->batch.text);
  if (j->tokens.capacity > USUAL) ids_free(&j->tokens);
}

void job_free(Job *j) {
  document_batch_free(&j->batch);
  ids_free(&j->tokens);
  free(j->runs);
  bytes_free(&j->notes);
  *j = (Job){0};
}
