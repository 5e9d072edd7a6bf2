#define _GNU_SOURCE /* memmem */
#include "tokenizer/pre_tokenizer.h"

#include "tokenizer/components.h" /* component_is, component_string, ... */

/* ---- reading ---- */

/* What ByteLevel cuts with when the file gives no expression of its own: GPT-2's. */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static PreStep *new_step(PreTokenizer *p, PreKind kind, Error *e) {
  if (p->n == PRE_MOST || p->byte_level) {
    error_usage(e, p->byte_level ? "a pre_tokenizer after ByteLevel is not supported"
                                 : "the pre_tokenizer has too many steps, which is not supported");
    return NULL;
  }
  PreStep *s = &p->steps[p->n++];
  *s = (PreStep){.kind = kind};
  return s;
}

static bool read_split(PreTokenizer *p, const cJSON *json, Error *e) {
  PreStep *s = new_step(p, PRE_SPLIT, e);
  bool invert;
  if (!s || !component_bool(json, "invert", false, &invert, e)) return false;
  char *behavior = component_string(json, "behavior", e);
  if (!behavior) return false;
  bool removes = strcmp(behavior, "Removed") == 0;
  if (!removes && strcmp(behavior, "Isolated") != 0) {
    error_usage(e, "the pre_tokenizer Split with behavior %.100s is not supported", behavior);
    free(behavior);
    return false;
  }
  free(behavior);
  s->keep_matches = !removes || invert;
  s->keep_others = !removes || !invert;

  const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(json, "pattern");
  const char *regex = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(pattern, "Regex"));
  if (regex) return (s->code = regex_compile(regex, false, e)) != NULL;
  char *literal = component_literal(json, e);
  s->code = literal ? regex_compile(literal, true, e) : NULL;
  free(literal);
  return s->code != NULL;
}

static bool read_byte_level(PreTokenizer *p, const cJSON *json, Error *e) {
  bool prefix, regex;
  if (!component_bool(json, "add_prefix_space", true, &prefix, e) ||
      !component_bool(json, "use_regex", true, &regex, e))
    return false;
  if (prefix && !new_step(p, PRE_PREFIX_SPACE, e)) return false;
  if (regex) {
    PreStep *s = new_step(p, PRE_SPLIT, e);
    if (!s) return false;
    s->keep_matches = s->keep_others = true;
    s->code = regex_compile(gpt2_pattern, false, e);
    if (!s->code) return false;
  }
  p->byte_level = true;
  return true;
}

static bool read_prefix_scheme(const cJSON *json, PrefixScheme *scheme, Error *e) {
  static const char *const names[] = {"never", "first", "always"};
  bool add; /* the older key */
  if (!component_bool(json, "add_prefix_space", true, &add, e)) return false;
  *scheme = add ? PREFIX_ALWAYS : PREFIX_NEVER;
  if (!cJSON_GetObjectItemCaseSensitive(json, "prepend_scheme")) return true;
  char *name = component_string(json, "prepend_scheme", e);
  if (!name) return false;
  bool known = false;
  for (int i = PREFIX_NEVER; i <= PREFIX_ALWAYS; i++) {
    if (strcmp(name, names[i]) == 0) *scheme = (PrefixScheme)i, known = true;
  }
  if (!known) error_usage(e, "the pre_tokenizer Metaspace with prepend_scheme %.100s is not supported", name);
  free(name);
  return known;
}

static bool read_meta(PreTokenizer *p, const cJSON *json, Error *e) {
  PreStep *s = new_step(p, PRE_META, e);
  if (!s || !read_prefix_scheme(json, &s->prefix, e) || !component_bool(json, "split", true, &s->cut, e))
    return false;
  s->meta = component_string(json, "replacement", e);
  if (!s->meta) return false;
  return *s->meta || error_usage(e, "the pre_tokenizer Metaspace with an empty replacement is not supported");
}

static bool add_steps(PreTokenizer *p, const cJSON *json, int depth, Error *e) {
  if (!json || cJSON_IsNull(json)) return true;
  if (component_is(json, "Split")) return read_split(p, json, e);
  if (component_is(json, "ByteLevel")) return read_byte_level(p, json, e);
  if (component_is(json, "Metaspace")) return read_meta(p, json, e);
  if (!component_is(json, "Sequence")) return component_unknown("pre_tokenizer", json, e);
  const cJSON *part, *parts = component_parts(json, "pretokenizers", depth, e);
  if (!parts) return false;
  cJSON_ArrayForEach(part, parts) {
    if (!add_steps(p, part, depth + 1, e)) return false;
  }
  return true;
}

bool pre_tokenizer_read(PreTokenizer *p, const cJSON *json, Error *e) {
  *p = (PreTokenizer){0};
  if (add_steps(p, json, 0, e)) return true;
  pre_tokenizer_free(p);
  return false;
}

void pre_tokenizer_free(PreTokenizer *p) {
  for (size_t i = 0; i < p->n; i++) {
    pcre2_code_free(p->steps[i].code);
    free(p->steps[i].meta);
  }
  *p = (PreTokenizer){0};
}

/* ---- running ---- */

/* One run's fixed part. */
typedef struct Run {
  const PreTokenizer *p;
  PreScratch *s;
  WordSink sink;
  Error *e;
} Run;

static bool run_step(const Run *r, size_t step, const uint8_t *text, size_t n, bool first);

static bool run_split(const Run *r, size_t step, const uint8_t *text, size_t n, bool first) {
  const PreStep *s = &r->p->steps[step];
  for (size_t done = 0; done < n;) {
    bool found;
    size_t start = n, end = n;
    if (!regex_find(s->code, &r->s->regex, (const char *)text, n, done, &found, &start, &end, r->e))
      return false;
    if (s->keep_others && !run_step(r, step + 1, text + done, start - done, first && done == 0)) return false;
    if (s->keep_matches && !run_step(r, step + 1, text + start, end - start, first && start == 0))
      return false;
    done = end;
  }
  return true;
}

static bool run_prefix_space(const Run *r, size_t step, const uint8_t *text, size_t n, bool first) {
  if (text[0] == ' ') return run_step(r, step + 1, text, n, first);
  Bytes *b = &r->s->text[step];
  b->n = 0;
  bytes_append(b, " ", 1);
  bytes_append(b, text, n);
  return run_step(r, step + 1, b->data, b->n, first);
}

static bool begins_with(const uint8_t *text, size_t n, const char *start, size_t length) {
  return n >= length && memcmp(text, start, length) == 0;
}

static bool run_meta(const Run *r, size_t step, const uint8_t *text, size_t n, bool first) {
  const PreStep *s = &r->p->steps[step];
  size_t length = strlen(s->meta);
  Bytes *b = &r->s->text[step];
  b->n = 0;
  bool prefix = s->prefix == PREFIX_ALWAYS || (s->prefix == PREFIX_FIRST && first);
  if (prefix && text[0] != ' ' && !begins_with(text, n, s->meta, length)) bytes_append(b, s->meta, length);
  bytes_append_replaced(b, text, n, " ", s->meta);
  if (!s->cut) return run_step(r, step + 1, b->data, b->n, first);
  for (size_t i = 0; i < b->n;) {
    size_t past = begins_with(b->data + i, b->n - i, s->meta, length) ? i + length : i;
    const uint8_t *next = memmem(b->data + past, b->n - past, s->meta, length);
    size_t end = next ? (size_t)(next - b->data) : b->n;
    if (!run_step(r, step + 1, b->data + i, end - i, first && i == 0)) return false;
    i = end;
  }
  return true;
}

static bool run_step(const Run *r, size_t step, const uint8_t *text, size_t n, bool first) {
  if (n == 0) return true;
  if (step == r->p->n) {
    r->sink.take(r->sink.context, text, n);
    return true;
  }
  switch (r->p->steps[step].kind) {
  case PRE_SPLIT: return run_split(r, step, text, n, first);
  case PRE_PREFIX_SPACE: return run_prefix_space(r, step, text, n, first);
  case PRE_META: return run_meta(r, step, text, n, first);
  }
  PANIC("a step of the pre_tokenizer without a kind");
}

bool pre_tokenizer_run(const PreTokenizer *p, PreScratch *s, const uint8_t *text, size_t n, bool first,
                       WordSink sink, Error *e) {
  Run r = {p, s, sink, e};
  return run_step(&r, 0, text, n, first);
}
