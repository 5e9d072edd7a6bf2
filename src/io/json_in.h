/* Reading JSON that others wrote. */
#ifndef JSON_IN_H
#define JSON_IN_H

#include <stddef.h>

#include <cjson/cJSON.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Parses text that is one JSON object with nothing but white space after it; cJSON_Delete frees it. Refuses,
 * beside what is not JSON, text that is not UTF-8 or has a zero byte, a key given twice in one object at any
 * depth (cJSON keeps both, and programs differ in which one they take), and absurdly deep nesting. NULL then,
 * with an Error that wants the name of what was read before it: error_prefix(e, "%s: its header ", path). */
cJSON *json_read_object(const char *text, size_t bytes, Error *e);

#ifdef __cplusplus
}
#endif
#endif
