#include "tokenizer/regex.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tokenizer/buffer.h" /* Bytes */

/* Where the rewriting of an expression stands. */
typedef struct Rewrite {
  const char *pattern; /* the whole */
  const char *at;      /* the rest */
  Bytes out;
  bool in_class; /* between [ and ] */
} Rewrite;

static bool refuse(const Rewrite *r, const char *what, Error *e) {
  return error_usage(e, "the regular expression %.500s: %s at byte %zu is not supported", r->pattern, what,
                     (size_t)(r->at - r->pattern));
}

static void put(Rewrite *r, const char *text) {
  bytes_append(&r->out, text, strlen(text));
}

/* Copies n bytes as they are. */
static void keep(Rewrite *r, size_t n) {
  bytes_append(&r->out, r->at, n);
  r->at += n;
}

/* General categories mean the same to both. Scripts do not: PCRE2 takes in those that share a character. */
static bool rewrite_property(Rewrite *r, Error *e) {
  static const char *const letters[] = {"Lultmo", "Mnce", "Ndlo", "Pcdseifo", "Smcko", "Zslp"};
  const char *name = r->at + 2, *end = *name == '{' ? strchr(name, '}') : NULL;
  if (!end) return refuse(r, "a property", e);
  name += 1 + (name[1] == '^');
  size_t n = (size_t)(end - name);
  for (size_t i = 0; i < sizeof letters / sizeof *letters; i++) {
    bool known = n == 1 || (n == 2 && strchr(letters[i] + 1, name[1]));
    if (n == 0 || name[0] != letters[i][0] || !known) continue;
    keep(r, (size_t)(end + 1 - r->at));
    return true;
  }
  return refuse(r,
                "a property other than a general category of letters, marks, numbers, punctuation, symbols "
                "or separators",
                e);
}

/* \uHHHH or \xHH below 0x80. */
static bool rewrite_code(Rewrite *r, int digits, Error *e) {
  unsigned code = 0;
  for (int i = 0; i < digits; i++) {
    unsigned char c = (unsigned char)r->at[2 + i];
    if (!isxdigit(c)) return refuse(r, "an escaped code", e);
    code = code * 16 + (unsigned)(isdigit(c) ? c - '0' : tolower(c) - 'a' + 10);
  }
  if (digits == 2 && code >= 0x80) return refuse(r, "an escaped byte", e);
  char text[16];
  snprintf(text, sizeof text, "\\x{%x}", code);
  put(r, text);
  r->at += 2 + digits;
  return true;
}

static bool rewrite_escape(Rewrite *r, Error *e) {
  switch (r->at[1]) {
  case 'p':
  case 'P': return rewrite_property(r, e);
  case 'u': return rewrite_code(r, 4, e);
  case 'x': return rewrite_code(r, 2, e);
  /* PCRE2's own \s takes in U+180E, which is no white space since Unicode 6.3 */
  case 's': put(r, "\\p{White_Space}"); break;
  case 'S': put(r, "\\P{White_Space}"); break;
  case 'd': put(r, "\\p{Nd}"); break;
  case 'D': put(r, "\\P{Nd}"); break;
  case 'n':
  case 'r':
  case 't':
  case 'f': keep(r, 2); return true;
  default:
    if (!ispunct((unsigned char)r->at[1])) return refuse(r, "an escape", e);
    keep(r, 2);
    return true;
  }
  r->at += 2;
  return true;
}

/* (?i:...): words of ASCII letters, so that no character folds to several. */
static bool rewrite_caseless(Rewrite *r, Error *e) {
  static const char *const folded[] = {"ss", "ff", "fi", "fl", "st"}; /* each also one character */
  size_t n = strcspn(r->at, ")");
  for (size_t i = 3; i < n; i++) {
    char c = (char)tolower((unsigned char)r->at[i + 1]), before = (char)tolower((unsigned char)r->at[i]);
    if (!isalpha((unsigned char)before) && !strchr(":'|", before)) return refuse(r, "a caseless group", e);
    for (size_t f = 0; f < sizeof folded / sizeof *folded; f++) {
      if (before == folded[f][0] && c == folded[f][1]) return refuse(r, "a caseless group", e);
    }
  }
  keep(r, n);
  return true;
}

static bool rewrite_group(Rewrite *r, Error *e) {
  static const char *const same[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
  if (strncmp(r->at, "(?i:", 4) == 0) return rewrite_caseless(r, e);
  for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
    if (strncmp(r->at, same[i], strlen(same[i])) != 0) continue;
    keep(r, strlen(same[i]));
    return true;
  }
  if (r->at[1] == '?' || r->at[1] == '*') return refuse(r, "a group", e);
  keep(r, 1);
  return true;
}

/* {n}, {n,} or {n,m}; Oniguruma reads a + behind it as one more repetition, PCRE2 as possessive. */
static bool rewrite_count(Rewrite *r, Error *e) {
  size_t n = 1 + strspn(r->at + 1, "0123456789");
  bool right = n > 1;
  if (r->at[n] == ',') n += 1 + strspn(r->at + n + 1, "0123456789");
  if (!right || r->at[n] != '}' || r->at[n + 1] == '+') return refuse(r, "a repetition", e);
  keep(r, n + 1);
  return true;
}

static bool rewrite_class(Rewrite *r, Error *e) {
  if (*r->at == ']') r->in_class = false;
  if (*r->at == '[') return refuse(r, "a class inside a class", e);
  if (strncmp(r->at, "&&", 2) == 0) return refuse(r, "an intersection", e);
  keep(r, 1);
  return true;
}

static bool rewrite_one(Rewrite *r, Error *e) {
  if (*r->at == '\\') return r->at[1] ? rewrite_escape(r, e) : refuse(r, "a lone backslash", e);
  if (r->in_class) return rewrite_class(r, e);
  switch (*r->at) {
  case '(': return rewrite_group(r, e);
  case '{': return rewrite_count(r, e);
  case '[':
    keep(r, r->at[1] == '^' ? 2 : 1);
    r->in_class = true;
    return *r->at != ']' || refuse(r, "a ] at the start of a class", e);
  case '^':
  case '$':
  case '.': return refuse(r, "a ^, $ or .", e);
  default: keep(r, 1); return true;
  }
}

static pcre2_code *compile(const char *pattern, size_t n, bool literal, Error *e) {
  int number;
  PCRE2_SIZE at;
  uint32_t options = literal ? PCRE2_UTF | PCRE2_LITERAL : PCRE2_UTF | PCRE2_UCP;
  pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, n, options, &number, &at, NULL);
  if (!code) {
    PCRE2_UCHAR why[200];
    pcre2_get_error_message(number, why, sizeof why);
    error_usage(e, "the regular expression %.*s: %s, at byte %zu", (int)(n < 500 ? n : 500), pattern,
                (char *)why, (size_t)at);
    return NULL;
  }
  uint32_t empty = 0;
  pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &empty);
  if (empty) {
    pcre2_code_free(code);
    error_usage(e, "the regular expression %.*s matches the empty text, which is not supported",
                (int)(n < 500 ? n : 500), pattern);
    return NULL;
  }
  /* where there is no just-in-time compiler, pcre2_match interprets the code */
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return code;
}

pcre2_code *regex_compile(const char *pattern, bool literal, Error *e) {
  if (literal) return compile(pattern, strlen(pattern), true, e);
  Rewrite r = {.pattern = pattern, .at = pattern};
  bool ok = true;
  while (ok && *r.at) ok = rewrite_one(&r, e);
  pcre2_code *code = ok ? compile((const char *)r.out.data, r.out.n, false, e) : NULL;
  bytes_free(&r.out);
  return code;
}

RegexScratch regex_scratch_new(void) {
  enum { STACK_LEAST = 1 << 15, STACK_MOST = 1 << 26 };
  RegexScratch s = {.match = pcre2_match_data_create(1, NULL),
                    .context = pcre2_match_context_create(NULL),
                    .stack = pcre2_jit_stack_create(STACK_LEAST, STACK_MOST, NULL)};
  CHECK(s.match && s.context, "out of memory for matching");
  pcre2_jit_stack_assign(s.context, NULL, s.stack);
  return s;
}

void regex_scratch_free(RegexScratch *s) {
  pcre2_match_data_free(s->match);
  pcre2_match_context_free(s->context);
  pcre2_jit_stack_free(s->stack);
  *s = (RegexScratch){0};
}

bool regex_find(const pcre2_code *code, const RegexScratch *s, const char *text, size_t n, size_t from,
                bool *found, size_t *start, size_t *end, Error *e) {
  int result = pcre2_match(code, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK, s->match, s->context);
  *found = result >= 0;
  if (*found) {
    const PCRE2_SIZE *offsets = pcre2_get_ovector_pointer(s->match);
    *start = offsets[0];
    *end = offsets[1];
    return true;
  }
  if (result == PCRE2_ERROR_NOMATCH) return true;
  PCRE2_UCHAR why[200];
  pcre2_get_error_message(result, why, sizeof why);
  return error_runtime(e, "the tokenizer's regular expression failed on a text of %zu bytes: %s", n,
                       (char *)why);
}
