#include "io/json_in.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

enum { DEEPEST = 64 };

static int by_text(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool check_keys(const cJSON *object, Error *e) {
  int n = cJSON_GetArraySize(object), count = 0;
  const char **keys = malloc((size_t)(n + 1) * sizeof *keys);
  CHECK(keys, "out of memory for %d keys", n);
  const cJSON *item;
  cJSON_ArrayForEach(item, object) keys[count++] = item->string;
  qsort(keys, (size_t)count, sizeof *keys, by_text);
  bool ok = true;
  for (int i = 1; i < count && ok; i++)
    if (strcmp(keys[i], keys[i - 1]) == 0)
      ok = error_usage(
          e, "gives \"%.200s\" twice, expected once. Remove one, or copy or download the file again",
          keys[i]);
  free(keys);
  return ok;
}

static bool check_value(const cJSON *json, int depth, Error *e) {
  if (depth > DEEPEST)
    return error_usage(
        e, "nests values more than %d deep, no file of this kind does. Copy or download it again", DEEPEST);
  if (cJSON_IsObject(json) && !check_keys(json, e)) return false;
  const cJSON *item;
  cJSON_ArrayForEach(item, json) if (!check_value(item, depth + 1, e)) return false;
  return true;
}

/* cJSON passes malformed bytes on; written again they become U+FFFD, and different keys the same. A zero byte
 * is white space for cJSON, or ends a string. */
static bool is_text(const char *text, size_t bytes) {
  for (size_t at = 0; at < bytes;) {
    int n = text[at] ? utf8_length(text + at, bytes - at) : 0;
    if (n == 0) return false;
    at += (size_t)n;
  }
  return true;
}

cJSON *json_read_object(const char *text, size_t bytes, Error *e) {
  const char *end = text;
  if (!is_text(text, bytes)) {
    error_usage(e, "is not UTF-8 text, expected a JSON object. Copy or download the file again");
    return NULL;
  }
  cJSON *json = cJSON_ParseWithLengthOpts(text, bytes, &end, false);
  while (json && end < text + bytes && strchr(" \t\r\n", *end)) end++;
  bool ok = (json && end == text + bytes) ||
            error_usage(e, "is not JSON, expected one JSON object. Copy or download the file again");
  ok = ok && (cJSON_IsObject(json) ||
              error_usage(e, "is not a JSON object, expected one. Copy or download the file again"));
  if (ok && check_value(json, 1, e)) return json;
  cJSON_Delete(json);
  return NULL;
}
