/* Reading JSON that others wrote. */
#ifndef JSON_IN_H
#define JSON_IN_H

#include <stddef.h>

#include <cjson/cJSON.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Parses text that is one JSON value with nothing but white space after it, and has no zero byte; NULL when
 * it is not. cJSON_Delete frees it. */
cJSON *json_parse(const char *text, size_t bytes);

/* A key that is given twice in one object, at any depth of `json`, or NULL. cJSON keeps both, and programs
 * differ in which of the values they take. */
const char *json_repeated_key(const cJSON *json);

#ifdef __cplusplus
}
#endif
#endif
