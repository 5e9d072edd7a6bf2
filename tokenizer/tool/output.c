#include "tokenizer/tool/output.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file.h"
#include "io/json_in.h" // json_read_object

enum { PATH_ROOM = 4096, FORMAT = 1 };

static void shard_path(char path[PATH_ROOM], const Output *o, const ShardStream *s) {
  snprintf(path, PATH_ROOM, "%s/%s-%06" PRId64 ".bin", o->folder, s->name, s->shards);
}

static void state_path(char path[PATH_ROOM], const Output *o) {
  snprintf(path, PATH_ROOM, "%s/tokenize.json", o->folder);
}

/* ---- tokenize.json ---- */

static bool write_state(const Output *o, Error *e) {
  char path[PATH_ROOM], text[2048];
  const ShardStream *t = &o->streams[STREAM_TRAIN], *v = &o->streams[STREAM_VAL];
  state_path(path, o);
  snprintf(text, sizeof text,
           "{\n  \"format\": %d,\n  \"done\": %s,\n  \"fingerprint\": \"%016" PRIx64 "\",\n"
           "  \"tokenizer\": \"%016" PRIx64 "\",\n"
           "  \"file\": %" PRId64 ",\n  \"offset\": %" PRId64 ",\n  \"document\": %" PRId64 ",\n"
           "  \"documents\": %" PRId64 ",\n  \"skipped\": %" PRId64 ",\n  \"replaced\": %" PRId64 ",\n"
           "  \"train\": {\"shards\": %" PRId64 ", \"tokens\": %" PRId64 "},\n"
           "  \"val\": {\"shards\": %" PRId64 ", \"tokens\": %" PRId64 "}\n}\n",
           FORMAT, o->done ? "true" : "false", o->fingerprint, o->kind.tokenizer_hash, o->at.file,
           o->at.offset, o->at.document, o->documents, o->skipped, o->replaced, t->shards, t->tokens,
           v->shards, v->tokens);
  return file_write_text(path, text, e);
}

static bool get_count(const cJSON *json, const char *key, int64_t *value) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
  if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble < 0x1p53)) return false;
  *value = (int64_t)item->valuedouble;
  return true;
}

static bool get_stream(const cJSON *json, Output *o, ShardStream *s) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, s->name);
  return get_count(item, "shards", &s->shards) && get_count(item, "tokens", &s->tokens) &&
         s->shards <= s->tokens / o->shard_tokens + 1;
}

static bool parse_state(Output *o, const cJSON *json, const char *path, Error *e) {
  int64_t format;
  char expected[20];
  const char *found = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "fingerprint"));
  snprintf(expected, sizeof expected, "%016" PRIx64, o->fingerprint);
  if (!get_count(json, "format", &format) || format != FORMAT || !found)
    return error_usage(e, "%s: is not of this program's format %d; give another --out", path, FORMAT);
  if (strcmp(found, expected) != 0)
    return error_usage(
        e,
        "%s: the folder was begun with another tokenizer, other flags or other input.\nRepeat the "
        "command that began it, give another --out, or remove the folder.",
        path);
  o->done = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "done"));
  bool ok = get_count(json, "file", &o->at.file) && get_count(json, "offset", &o->at.offset) &&
            get_count(json, "document", &o->at.document) && get_count(json, "documents", &o->documents) &&
            get_count(json, "skipped", &o->skipped) && get_count(json, "replaced", &o->replaced);
  for (int i = 0; i < STREAMS; i++) ok = ok && get_stream(json, o, &o->streams[i]);
  return ok || error_usage(e, "%s: is damaged; remove the folder and begin again", path);
}

/* Reads the state; *there tells whether there is one. */
static bool read_state(Output *o, bool *there, Error *e) {
  char path[PATH_ROOM];
  size_t n;
  state_path(path, o);
  *there = access(path, F_OK) == 0;
  if (!*there) return true;
  char *text = file_read_text(path, 1 << 20, &n, e);
  if (!text) return false;
  cJSON *json = json_read_object(text, n, e);
  free(text);
  if (!json) return error_prefix(e, "%s: ", path);
  bool ok = parse_state(o, json, path, e);
  cJSON_Delete(json);
  return ok;
}

/* ---- opening ---- */

static bool lock_folder(Output *o, Error *e) {
  if (mkdir(o->folder, 0777) != 0 && errno != EEXIST)
    return error_usage(e, "--out %s: cannot be made: %s. Check that the folder above it exists", o->folder,
                       strerror(errno));
  o->lock = open(o->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (o->lock < 0)
    return error_usage(e, "--out %s: cannot be opened: %s. Give a folder", o->folder, strerror(errno));
  return flock(o->lock, LOCK_EX | LOCK_NB) == 0 ||
         error_usage(e, "--out %s: another ./tokenize is writing there", o->folder);
}

/* Goes on with the shard at hand, if there is one. */
static bool reopen(Output *o, ShardStream *s, Error *e) {
  char path[PATH_ROOM];
  int64_t n = s->tokens - s->shards * o->shard_tokens;
  if (n <= 0) return true; /* the last one may be shorter when all is done */
  shard_path(path, o, s);
  return shard_writer_reopen(&s->w, path, o->kind, n, e);
}

static bool reopen_all(Output *o, Error *e) {
  for (int i = 0; i < STREAMS; i++) {
    if (!reopen(o, &o->streams[i], e)) return false;
  }
  return true;
}

/* Forgets what was done. Shards that are there are replaced by the same again. */
static void begin_anew(Output *o) {
  for (int i = 0; i < STREAMS; i++) {
    ShardStream *s = &o->streams[i];
    shard_writer_leave(&s->w);
    s->shards = s->tokens = 0;
  }
  o->at = (InputPosition){0};
  o->documents = o->skipped = o->replaced = 0;
}

bool output_open(Output *o, const char *folder, ShardKind kind, int64_t shard_tokens, uint64_t fingerprint,
                 Error *e) {
  *o = (Output){.folder = folder,
                .lock = -1,
                .kind = kind,
                .shard_tokens = shard_tokens,
                .fingerprint = fingerprint,
                .streams = {{.name = "train"}, {.name = "val"}}};
  bool there;
  bool ok = lock_folder(o, e) && read_state(o, &there, e);
  for (int i = 0; ok && !there && i < STREAMS; i++) {
    char path[PATH_ROOM];
    shard_path(path, o, &o->streams[i]);
    if (access(path, F_OK) == 0) ok = error_usage(e, "%s: is there already; give another --out", path);
  }
  if (ok && !there) ok = write_state(o, e);
  if (ok && !o->done && !reopen_all(o, e)) {
    fprintf(stderr, "# %s\n# going on is not possible; the run begins anew\n", e->text);
    begin_anew(o);
    ok = write_state(o, e);
  }
  if (!ok) output_close(o);
  return ok;
}

void output_close(Output *o) {
  for (int i = 0; i < STREAMS; i++) shard_writer_leave(&o->streams[i].w);
  if (o->lock >= 0) close(o->lock);
  o->lock = -1;
}

/* ---- writing ---- */

bool output_append(Output *o, int stream, const uint32_t *tokens, int64_t n, Error *e) {
  ShardStream *s = &o->streams[stream];
  while (n > 0) {
    char path[PATH_ROOM];
    shard_path(path, o, s);
    if (!s->w.path && !shard_writer_open(&s->w, path, o->kind, e)) return false;
    int64_t room = o->shard_tokens - s->w.n, m = n < room ? n : room;
    if (!shard_writer_append(&s->w, tokens, m, e)) return false;
    s->tokens += m;
    tokens += m;
    n -= m;
    if (m < room) continue;
    if (!shard_writer_publish(&s->w, e)) return false;
    s->shards++;
  }
  return true;
}

bool output_save(Output *o, Error *e) {
  for (int i = 0; i < STREAMS; i++) {
    if (o->streams[i].w.path && !shard_writer_sync(&o->streams[i].w, e)) return false;
  }
  return write_state(o, e);
}

bool output_finish(Output *o, Error *e) {
  for (int i = 0; i < STREAMS; i++) {
    ShardStream *s = &o->streams[i];
    if (!s->w.path) continue;
    if (!shard_writer_publish(&s->w, e)) return false;
    s->shards++;
  }
  o->done = true;
  return write_state(o, e);
}
