#include "tokenizer/components.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const char *type_of(const cJSON *json) {
  const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "type"));
  return type ? type : "(none)";
}

bool component_is(const cJSON *json, const char *type) {
  return strcmp(type_of(json), type) == 0;
}

bool component_unknown(const char *kind, const cJSON *json, Error *e) {
  return error_usage(e, "the %s of type %.100s is not supported", kind, type_of(json));
}

static bool bad_value(const cJSON *json, const char *key, const char *expected, Error *e) {
  char *found = cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(json, key));
  error_usage(e, "%.100s: \"%s\": found %.60s, expected %s", type_of(json), key, found ? found : "nothing",
              expected);
  cJSON_free(found);
  return false;
}

char *component_string(const cJSON *json, const char *key, Error *e) {
  const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, key));
  if (!text) {
    bad_value(json, key, "a string", e);
    return NULL;
  }
  char *copy = strdup(text);
  CHECK(copy, "out of memory for a string");
  return copy;
}

char *component_literal(const cJSON *json, Error *e) {
  const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(json, "pattern");
  const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(pattern, "String"));
  if (text && *text) return component_string(pattern, "String", e);
  bad_value(json, "pattern", "{\"String\": text}; others are not supported", e);
  return NULL;
}

bool component_bool(const cJSON *json, const char *key, bool otherwise, bool *value, Error *e) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
  *value = item && !cJSON_IsNull(item) ? cJSON_IsTrue(item) : otherwise;
  return !item || cJSON_IsNull(item) || cJSON_IsBool(item) || bad_value(json, key, "true or false", e);
}

bool component_count(const cJSON *json, const char *key, double most, int64_t *value, Error *e) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
  bool right = cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble <= most &&
               item->valuedouble == (double)(int64_t)item->valuedouble;
  if (!right) return bad_value(json, key, "a whole number that is not negative nor absurdly large", e);
  *value = (int64_t)item->valuedouble;
  return true;
}

const cJSON *component_parts(const cJSON *json, const char *key, int depth, Error *e) {
  enum { DEPTH_MOST = 8 };
  const cJSON *parts = cJSON_GetObjectItemCaseSensitive(json, key);
  if (cJSON_IsArray(parts) && depth < DEPTH_MOST) return parts;
  bad_value(json, key, "a list, not too deep inside others", e);
  return NULL;
}
