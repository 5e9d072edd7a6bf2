#include "tokenizer/normalizer.h"

#include <utf8proc.h>

#include "tokenizer/components.h" /* component_type, component_string, component_pattern */

/* ---- reading ---- */

static bool add_step(Normalizer *z, const cJSON *json, Error *e) {
  if (z->n == NORMALIZER_MOST)
    return error_usage(e, "the normalizer has more than %d steps, which is not supported", NORMALIZER_MOST);
  NormalizerStep *s = &z->steps[z->n];
  *s = (NormalizerStep){0};
  if (component_is(json, "NFC")) {
    s->kind = NORMALIZER_NFC;
  } else if (component_is(json, "Prepend")) {
    s->kind = NORMALIZER_PREPEND;
    s->to = component_string(json, "prepend", e);
    if (!s->to) return false;
  } else if (component_is(json, "Replace")) {
    s->kind = NORMALIZER_REPLACE;
    s->from = component_literal(json, e);
    s->to = s->from ? component_string(json, "content", e) : NULL;
    if (!s->to) {
      free(s->from);
      return false;
    }
  } else {
    return component_unknown("normalizer", json, e);
  }
  z->n++;
  return true;
}

static bool add_steps(Normalizer *z, const cJSON *json, int depth, Error *e) {
  if (!json || cJSON_IsNull(json)) return true;
  if (!component_is(json, "Sequence")) return add_step(z, json, e);
  const cJSON *part, *parts = component_parts(json, "normalizers", depth, e);
  if (!parts) return false;
  cJSON_ArrayForEach(part, parts) {
    if (!add_steps(z, part, depth + 1, e)) return false;
  }
  return true;
}

bool normalizer_read(Normalizer *z, const cJSON *json, Error *e) {
  *z = (Normalizer){0};
  if (add_steps(z, json, 0, e)) return true;
  normalizer_free(z);
  return false;
}

void normalizer_free(Normalizer *z) {
  for (size_t i = 0; i < z->n; i++) {
    free(z->steps[i].from);
    free(z->steps[i].to);
  }
  *z = (Normalizer){0};
}

/* ---- running ---- */

/* Characters below U+0300 are as NFC wants them, and nothing below joins the one before it: only what begins
 * with the last of them before a higher one, and ends before the next ASCII character, goes to the library.
 */
enum { FIRST_HIGH = 0xcc }; /* leads U+0300 in UTF-8 */

static bool compose(const uint8_t *text, size_t n, Bytes *out, Error *e) {
  if (n > INT32_MAX / 8) return error_usage(e, "a text of %zu bytes is too long for NFC", n);
  utf8proc_uint8_t *composed = NULL;
  utf8proc_ssize_t length =
      utf8proc_map(text, (utf8proc_ssize_t)n, &composed, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  if (length < 0) return error_runtime(e, "NFC failed: %s", utf8proc_errmsg(length));
  bytes_append(out, composed, (size_t)length);
  free(composed);
  return true;
}

static bool normalize_nfc(const Bytes *text, Bytes *out, Error *e) {
  const uint8_t *t = text->data;
  size_t n = text->n, done = 0, i = 0;
  while (i < n) {
    if (t[i] < FIRST_HIGH) {
      i++;
      continue;
    }
    size_t from = i, to = i;
    while (from > done && (t[--from] & 0xc0) == 0x80) {} /* the start of the character before */
    while (to < n && t[to] >= 0x80) to++;
    bytes_append(out, t + done, from - done);
    if (!compose(t + from, to - from, out, e)) return false;
    done = i = to;
  }
  bytes_append(out, t + done, n - done);
  return true;
}

bool normalizer_run(const Normalizer *z, Bytes *text, Bytes *other, Error *e) {
  for (size_t i = 0; i < z->n && text->n; i++) {
    const NormalizerStep *s = &z->steps[i];
    other->n = 0;
    if (s->kind == NORMALIZER_NFC) {
      if (!normalize_nfc(text, other, e)) return false;
    } else if (s->kind == NORMALIZER_PREPEND) {
      bytes_append(other, s->to, strlen(s->to));
      bytes_append(other, text->data, text->n);
    } else {
      bytes_append_replaced(other, text->data, text->n, s->from, s->to);
    }
    Bytes swap = *text;
    *text = *other;
    *other = swap;
  }
  return true;
}
