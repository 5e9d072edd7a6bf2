/* Reading the components of a tokenizer.json: {"type": "Name", ...}. */
#ifndef COMPONENTS_H
#define COMPONENTS_H

#include <stdbool.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "base/error.h"

/* Whether the component's type is this one. */
bool component_is(const cJSON *json, const char *type);
/* The error for a component whose type is not known; `kind` is what it is, as "normalizer". */
bool component_unknown(const char *kind, const cJSON *json, Error *e);

/* A copy (malloc'ed) of the component's string, which must be there; NULL on failure. */
char *component_string(const cJSON *json, const char *key, Error *e);
/* The same of a "pattern" that is {"String": text}, with a text that is not empty. */
char *component_literal(const cJSON *json, Error *e);
/* A bool that has a default, and a whole number that must be there, from 0 to `most`. */
bool component_bool(const cJSON *json, const char *key, bool otherwise, bool *value, Error *e);
bool component_count(const cJSON *json, const char *key, double most, int64_t *value, Error *e);
/* The list of a "Sequence" inside `depth` others; NULL on failure. */
const cJSON *component_parts(const cJSON *json, const char *key, int depth, Error *e);

#endif
