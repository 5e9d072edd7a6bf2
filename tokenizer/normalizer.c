#include "tokenizer/normalizer.h"

#include <utf8proc.h>

#include "tokenizer/components.h" /* component_is, component_string, component_literal */

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

static int class_of(uint32_t code) {
  return utf8proc_get_property((utf8proc_int32_t)code)->combining_class;
}

/* Sorts marks by class, those of a class as they stand; unsorted: room for them. */
static void sort_marks(uint32_t *marks, size_t n, uint32_t *unsorted) {
  enum { CLASSES = 256 };
  size_t next[CLASSES + 1] = {0};
  memcpy(unsorted, marks, n * sizeof *marks);
  for (size_t i = 0; i < n; i++) next[class_of(marks[i]) + 1]++;
  for (int c = 0; c < CLASSES; c++) next[c + 1] += next[c];
  for (size_t i = 0; i < n; i++) marks[next[class_of(unsorted[i])]++] = unsorted[i];
}

/* Puts marks in a row into the order of their classes. The library does that too, but in quadratic time.
 * Behind the codes is room for as many. */
static void order_marks(Ids *codes) {
  for (size_t i = 0, end; i < codes->n; i = end) {
    int class = class_of(codes->data[i]), next = 0;
    bool ordered = true;
    for (end = i + 1; class && end < codes->n && (next = class_of(codes->data[end])); end++, class = next)
      ordered &= class <= next;
    if (!ordered) sort_marks(codes->data + i, end - i, codes->data + codes->n);
  }
}

static bool compose(const uint8_t *text, size_t n, Bytes *out, Error *e) {
  enum { PARTS_MOST = 4 };
  const utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
  if (n == 0) return true;
  if (n > INT32_MAX / 8) return error_usage(e, "a text of %zu bytes is too long for NFC", n);
  Ids codes = {0};
  int boundary = 0;
  for (size_t i = 0; i < n;) {
    utf8proc_int32_t code;
    i += (size_t)utf8proc_iterate(text + i, (utf8proc_ssize_t)(n - i), &code);
    ids_reserve(&codes, PARTS_MOST);
    utf8proc_ssize_t parts = utf8proc_decompose_char(code, (utf8proc_int32_t *)codes.data + codes.n,
                                                     PARTS_MOST, options, &boundary);
    CHECK(parts > 0 && parts <= PARTS_MOST, "NFC of U+%04X: %s", (unsigned)code, utf8proc_errmsg(parts));
    codes.n += (size_t)parts;
  }
  ids_reserve(&codes, codes.n + 1);
  order_marks(&codes);
  utf8proc_ssize_t length =
      utf8proc_reencode((utf8proc_int32_t *)codes.data, (utf8proc_ssize_t)codes.n, options);
  CHECK(length >= 0, "NFC failed: %s", utf8proc_errmsg(length));
  bytes_append(out, codes.data, (size_t)length); /* UTF-8 now */
  ids_free(&codes);
  return true;
}

/* Hugging Face's `tokenizers` normalizes as Unicode 9 says, in which these characters, marks up to Unicode 15
 * and the second half of U+11938, are none: nothing is moved past them or composed with them. */
static const uint32_t later_marks[][2] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xc3c, 0xc3c},
    {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},   {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},
    {0xa82c, 0xa82c},   {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50},
    {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
    {0x11930, 0x11930}, {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34},
    {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97},
    {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae},
    {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
};

static bool is_later_mark(utf8proc_int32_t code) {
  size_t low = 0, high = sizeof later_marks / sizeof *later_marks;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if ((uint32_t)code > later_marks[middle][1])
      low = middle + 1;
    else
      high = middle;
  }
  return low < sizeof later_marks / sizeof *later_marks && (uint32_t)code >= later_marks[low][0];
}

/* Composes the text between the later marks, which stay where they are. */
static bool compose_parts(const uint8_t *text, size_t n, Bytes *out, Error *e) {
  size_t done = 0, length;
  for (size_t i = 0; i < n; i += length) {
    utf8proc_int32_t code;
    length = (size_t)utf8proc_iterate(text + i, (utf8proc_ssize_t)(n - i), &code);
    if (!is_later_mark(code)) continue;
    if (!compose(text + done, i - done, out, e)) return false;
    bytes_append(out, text + i, length);
    done = i + length;
  }
  return compose(text + done, n - done, out, e);
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
    if (!compose_parts(t + from, to - from, out, e)) return false;
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
