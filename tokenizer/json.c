#include "tokenizer/json.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "io/json_in.h" // json_read_object

bool json_check(JsonSpan text, Error *e) {
  size_t valid = utf8_valid(text.at, text.n);
  if (valid < text.n) return error_usage(e, "byte %zu is not UTF-8; expected JSON", valid);
  for (size_t i = 0; i < text.n; i++) {
    if (text.at[i] != '\\' && text.at[i] != '\0') continue;
    if (text.at[i] == '\0' || (text.n - i >= 6 && memcmp(text.at + i, "\\u0000", 6) == 0))
      return error_usage(e, "byte %zu: a string with the character U+0000, which is not supported", i);
    i++; /* what is escaped */
  }
  return true;
}

static bool is_blank(char c) {
  return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static void skip_blanks(JsonSpan *s) {
  while (s->n && is_blank(*s->at)) s->at++, s->n--;
}

/* The length of the value at the start of the text, by its brackets and quotes alone: whether it is a right
 * value is for cJSON. 0 when it does not end. */
static size_t value_length(JsonSpan s) {
  size_t depth = 0, i = 0;
  bool quoted = false;
  for (; i < s.n; i++) {
    char c = s.at[i];
    if (quoted) {
      if (c == '\\') i++;
      if (c == '"') quoted = false;
      if (!quoted && depth == 0) return i + 1;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      depth++;
    } else if (c == '}' || c == ']') {
      if (depth == 0) return i; /* the container's: a number or a word ends here */
      if (--depth == 0) return i + 1;
    } else if (depth == 0 && (c == ',' || c == ':' || is_blank(c))) {
      return i;
    }
  }
  return quoted || depth ? 0 : i;
}

static bool take_value(JsonSpan *rest, JsonSpan *value) {
  skip_blanks(rest);
  *value = (JsonSpan){rest->at, value_length(*rest)};
  rest->at += value->n;
  rest->n -= value->n;
  return value->n > 0;
}

static bool malformed(const char *what, Error *e) {
  return error_usage(e, "%.100s: the JSON is malformed; get the file again", what);
}

bool json_walk(JsonWalk *w, JsonSpan span, char open, const char *what, Error *e) {
  skip_blanks(&span);
  if (span.n == 0 || *span.at != open)
    return error_usage(e, "%s: expected %s", what, open == '{' ? "an object" : "a list");
  *w = (JsonWalk){{span.at + 1, span.n - 1}, what, open == '{' ? '}' : ']', false};
  return true;
}

bool json_next(JsonWalk *w, JsonSpan *key, JsonSpan *value, bool *found, Error *e) {
  skip_blanks(&w->rest);
  if (w->rest.n == 0) return malformed(w->what, e);
  *found = *w->rest.at != w->close;
  if (!*found) return true;
  if (w->begun) {
    if (*w->rest.at != ',') return malformed(w->what, e);
    w->rest.at++, w->rest.n--;
  }
  w->begun = true;
  if (w->close == '}') {
    if (!take_value(&w->rest, key) || *key->at != '"') return malformed(w->what, e);
    skip_blanks(&w->rest);
    if (w->rest.n == 0 || *w->rest.at != ':') return malformed(w->what, e);
    w->rest.at++, w->rest.n--;
  }
  return take_value(&w->rest, value) || malformed(w->what, e);
}

cJSON *json_value(JsonSpan span, const char *what, Error *e) {
  if (span.n && *span.at == '{') {
    cJSON *object = json_read_object(span.at, span.n, e);
    if (!object) error_prefix(e, "%.100s ", what);
    return object;
  }
  const char *end;
  cJSON *value = cJSON_ParseWithLengthOpts(span.at, span.n, &end, false);
  if (value && end == span.at + span.n) return value;
  cJSON_Delete(value);
  malformed(what, e);
  return NULL;
}

char *json_text(JsonSpan span, const char *what, Error *e) {
  cJSON *value = json_value(span, what, e);
  char *text = NULL;
  if (cJSON_IsString(value)) {
    text = value->valuestring;
    value->valuestring = NULL;
  } else if (value) {
    error_usage(e, "%.100s: expected a string", what);
  }
  cJSON_Delete(value);
  return text;
}
