/* A large JSON text, member by member: cJSON reads each value, but no tree of the whole file is ever held. */
#ifndef TOKENIZER_JSON_H
#define TOKENIZER_JSON_H

#include <stdbool.h>
#include <stddef.h>

#include <cjson/cJSON.h>

#include "base/error.h"

/* A part of a JSON text. */
typedef struct JsonSpan {
  const char *at;
  size_t n;
} JsonSpan;

/* The members of an object or the elements of an array, one after another. */
typedef struct JsonWalk {
  JsonSpan rest;
  const char *what; /* for messages */
  char close;       /* '}' or ']' */
  bool begun;
} JsonWalk;

/* Refuses what cJSON would not tell: text that is no UTF-8, and a NUL, escaped or not, which ends C's
 * strings. */
bool json_check(JsonSpan text, Error *e);

/* Begins a walk over the object (open = '{') or array ('[') that the span is; `what` is for messages. */
bool json_walk(JsonWalk *w, JsonSpan span, char open, const char *what, Error *e);
/* Takes the next value, and its quoted key in an object (key may be NULL for an array). *found is false after
 * the last. */
bool json_next(JsonWalk *w, JsonSpan *key, JsonSpan *value, bool *found, Error *e);

/* The value (free it with cJSON_Delete), NULL on failure. */
cJSON *json_value(JsonSpan span, const char *what, Error *e);
/* The string (malloc'ed), NULL on failure. */
char *json_text(JsonSpan span, const char *what, Error *e);

#endif
