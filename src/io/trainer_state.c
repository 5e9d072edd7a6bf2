#include "io/trainer_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "io/file.h"

enum { FORMAT = 1 }; /* of trainer.json; a reader refuses others */

bool trainer_state_write(const TrainerState *s, const TrainerFlags *flags, const char *path, Error *e) {
  char *text = NULL;
  size_t size;
  FILE *f = open_memstream(&text, &size);
  CHECK(f, "out of memory for trainer.json");
  fprintf(f,
          "{\n  \"format\": %d,\n  \"step\": %" PRId64 ",\n  \"tokens\": %" PRId64
          ",\n  \"data\": {\"fingerprint\": \"%016" PRIx64 "\", \"tokenizer\": \"%016" PRIx64
          "\", \"samples\": %" PRId64 ", \"taken\": [",
          FORMAT, s->step, s->tokens, s->data_fingerprint, s->tokenizer_hash, s->position.samples);
  for (int64_t i = 0; i < s->position.sources; i++)
    fprintf(f, "%s%" PRId64, i ? ", " : "", s->position.taken[i]);
  fprintf(f,
          "]},\n  \"files\": {\"model.safetensors\": \"%016" PRIx64
          "\", \"optimizer.safetensors\": \"%016" PRIx64 "\"},\n  \"options\": %s,\n  \"automatic\": %s\n}\n",
          s->weights_hash, s->optimizer_hash, flags->options, flags->automatic);
  CHECK(fclose(f) == 0, "out of memory for trainer.json");
  bool ok = file_write_text(path, text, e);
  free(text);
  return ok;
}

/* Reading: a key that is missing or of another kind is named. */

static bool bad_key(const char *key, const char *expected, Error *e) {
  return error_usage(e, "\"%s\" is missing or wrong; expected %s", key, expected);
}

/* A count; JSON numbers are doubles, exact up to 2^53. */
static bool count_of(const cJSON *item, const char *key, int64_t *value, Error *e) {
  const double most = 9007199254740992.0;
  double x = cJSON_IsNumber(item) ? item->valuedouble : -1;
  if (!(x >= 0 && x <= most) || (double)(int64_t)x != x) return bad_key(key, "a whole number, 0 or more", e);
  *value = (int64_t)x;
  return true;
}

static bool hash_of(const cJSON *item, const char *key, uint64_t *value, Error *e) {
  const char *text = cJSON_IsString(item) ? item->valuestring : "";
  if (strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
    return bad_key(key, "16 hexadecimal digits", e);
  *value = strtoull(text, NULL, 16);
  return true;
}

static bool position_of(const cJSON *data, DataPosition *p, Error *e) {
  const cJSON *taken = cJSON_GetObjectItemCaseSensitive(data, "taken");
  int n = cJSON_GetArraySize(taken);
  if (!cJSON_IsArray(taken) || n < 1 || n > DATA_MAX_SOURCES)
    return bad_key("taken", "a list of one number a data source", e);
  p->sources = n;
  for (int i = 0; i < n; i++)
    if (!count_of(cJSON_GetArrayItem(taken, i), "taken", &p->taken[i], e)) return false;
  return count_of(cJSON_GetObjectItemCaseSensitive(data, "samples"), "samples", &p->samples, e);
}

static bool parse(TrainerState *s, TrainerFlags *flags, const cJSON *root, Error *e) {
  int64_t format = 0;
  const cJSON *data = cJSON_GetObjectItemCaseSensitive(root, "data"),
              *files = cJSON_GetObjectItemCaseSensitive(root, "files"),
              *options = cJSON_GetObjectItemCaseSensitive(root, "options"),
              *automatic = cJSON_GetObjectItemCaseSensitive(root, "automatic");
  if (!count_of(cJSON_GetObjectItemCaseSensitive(root, "format"), "format", &format, e)) return false;
  if (format != FORMAT)
    return error_usage(e, "format %" PRId64 ", expected %d. Use the version of train_llama that wrote it",
                       format, FORMAT);
  if (!cJSON_IsObject(data)) return bad_key("data", "an object", e);
  if (!cJSON_IsObject(files)) return bad_key("files", "an object", e);
  if (!cJSON_IsObject(options)) return bad_key("options", "an object", e);
  if (automatic && !cJSON_IsObject(automatic)) return bad_key("automatic", "an object, or none", e);
  if (!count_of(cJSON_GetObjectItemCaseSensitive(root, "step"), "step", &s->step, e) ||
      !count_of(cJSON_GetObjectItemCaseSensitive(root, "tokens"), "tokens", &s->tokens, e) ||
      !hash_of(cJSON_GetObjectItemCaseSensitive(data, "fingerprint"), "fingerprint", &s->data_fingerprint,
               e) ||
      !hash_of(cJSON_GetObjectItemCaseSensitive(data, "tokenizer"), "tokenizer", &s->tokenizer_hash, e) ||
      !hash_of(cJSON_GetObjectItemCaseSensitive(files, "model.safetensors"), "model.safetensors",
               &s->weights_hash, e) ||
      !hash_of(cJSON_GetObjectItemCaseSensitive(files, "optimizer.safetensors"), "optimizer.safetensors",
               &s->optimizer_hash, e) ||
      !position_of(data, &s->position, e))
    return false;
  flags->options = cJSON_PrintUnformatted(options);
  flags->automatic = automatic ? cJSON_PrintUnformatted(automatic) : strdup("{}");
  CHECK(flags->options && flags->automatic, "out of memory for trainer.json");
  return true;
}

void trainer_flags_free(TrainerFlags *flags) {
  free(flags->options);
  free(flags->automatic);
  *flags = (TrainerFlags){0};
}

bool trainer_state_read(TrainerState *s, TrainerFlags *flags, const char *path, Error *e) {
  *s = (TrainerState){0};
  *flags = (TrainerFlags){0};
  char *text = file_read_text(path, 1 << 20, NULL, e);
  if (!text) return false;
  cJSON *root = cJSON_Parse(text);
  free(text);
  bool ok = cJSON_IsObject(root) ? parse(s, flags, root, e)
                                 : error_usage(e, "this is not JSON, expected an object");
  cJSON_Delete(root);
  return ok || error_prefix(e, "%s: ", path);
}
