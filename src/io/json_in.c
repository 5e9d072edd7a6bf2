#include "io/json_in.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

cJSON *json_parse(const char *text, size_t bytes) {
  /* for cJSON a zero byte is white space, or ends a string */
  if (bytes == 0 || memchr(text, 0, bytes)) return NULL;
  const char *end = NULL;
  cJSON *json = cJSON_ParseWithLengthOpts(text, bytes, &end, false);
  while (json && end < text + bytes && strchr(" \t\r\n", *end)) end++;
  if (json && end == text + bytes) return json;
  cJSON_Delete(json);
  return NULL;
}

static int by_text(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The same among the object's own keys. */
static const char *repeated_here(const cJSON *object) {
  int n = cJSON_GetArraySize(object);
  if (n < 2) return NULL;
  const char **keys = malloc((size_t)n * sizeof *keys);
  CHECK(keys, "out of memory for %d keys", n);
  int count = 0;
  const cJSON *item;
  cJSON_ArrayForEach(item, object) keys[count++] = item->string;
  qsort(keys, (size_t)n, sizeof *keys, by_text);
  const char *repeated = NULL;
  for (int i = 1; i < n && !repeated; i++)
    if (strcmp(keys[i], keys[i - 1]) == 0) repeated = keys[i];
  free(keys);
  return repeated;
}

/* Recursive: cJSON parses at most CJSON_NESTING_LIMIT levels. */
const char *json_repeated_key(const cJSON *json) {
  const char *repeated = cJSON_IsObject(json) ? repeated_here(json) : NULL;
  for (const cJSON *item = json->child; item && !repeated; item = item->next)
    repeated = json_repeated_key(item);
  return repeated;
}
