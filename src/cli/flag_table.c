#include "cli/flag_table.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/guess.h"
#include "io/json_out.h" /* double_text */

const Flag *flag_table_find(const FlagTable *t, const char *name) {
  for (int i = 0; i < t->n; i++)
    if (strcmp(t->flags[i].name, name) == 0) return &t->flags[i];
  return NULL;
}

const char *flag_table_name(const FlagTable *t) {
  const char *slash = strrchr(t->program, '/');
  return slash ? slash + 1 : t->program;
}

const char *flag_value_name(const Flag *f) {
  return f->value_name ? f->value_name : f->choices ? f->choices : "";
}

static Given *given_of(const FlagTable *t, void *options, const Flag *f) {
  return (Given *)((char *)options + t->given) + (f - t->flags);
}

Given flag_table_given(const FlagTable *t, const void *options, const Flag *f) {
  return ((const Given *)((const char *)options + t->given))[f - t->flags];
}

/* ---- values: text -> options ---- */

static void *field_of(void *o, const Flag *f) {
  return (char *)o + f->offset;
}
static const void *value_of(const void *o, const Flag *f) {
  return (const char *)o + f->offset;
}

/* Index of the word among the choices "a|b|c", or -1. */
static int choice_index(const char *choices, const char *word) {
  size_t n = strlen(word);
  int i = 0;
  for (const char *c = choices;; i++) {
    size_t length = strcspn(c, "|");
    if (length == n && memcmp(c, word, n) == 0) return i;
    if (c[length] == '\0') return -1;
    c += length + 1;
  }
}

static int choice_count(const char *choices) {
  int n = 1;
  for (const char *c = choices; *c; c++) n += *c == '|';
  return n;
}

/* Writes word i of the choices into text. */
static void choice_word(const char *choices, int i, char *text, size_t size) {
  for (; i > 0; i--) choices += strcspn(choices, "|") + 1;
  snprintf(text, size, "%.*s", (int)strcspn(choices, "|"), choices);
}

/* The bits of a comma list of the choices, or -1. */
static int choice_set(const char *choices, const char *list) {
  int bits = 0;
  if (strcmp(list, "none") == 0) return 0;
  for (const char *c = list;; c++) {
    char word[64];
    size_t length = strcspn(c, ",");
    if (length >= sizeof word) return -1;
    snprintf(word, sizeof word, "%.*s", (int)length, c);
    int i = choice_index(choices, word);
    if (i < 0) return -1;
    bits |= 1 << i;
    c += length;
    if (!*c) return bits;
  }
}

/* Writes the list that stands for the bits. */
static void set_words(const char *choices, int bits, char *text, size_t size) {
  size_t at = (size_t)snprintf(text, size, "%s", bits ? "" : "none");
  for (int i = 0; i < choice_count(choices) && at < size; i++) {
    char word[64];
    choice_word(choices, i, word, sizeof word);
    if (bits >> i & 1) at += (size_t)snprintf(text + at, size - at, "%s%s", at ? "," : "", word);
  }
}

/* The factor that a suffix of a whole number stands for, or 0. */
static int64_t suffix_factor(const char *suffix) {
  static const struct {
    const char *name;
    int64_t factor;
  } suffixes[] = {{"", 1},
                  {"K", 1000},
                  {"M", 1000000},
                  {"G", 1000000000},
                  {"T", 1000000000000},
                  {"Ki", (int64_t)1 << 10},
                  {"Mi", (int64_t)1 << 20},
                  {"Gi", (int64_t)1 << 30},
                  {"Ti", (int64_t)1 << 40}};
  for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++)
    if (strcmp(suffix, suffixes[i].name) == 0) return suffixes[i].factor;
  return 0;
}

static bool parse_int(const Flag *f, const char *text, int64_t *value) {
  for (int i = 0; i < FLAG_WORDS && f->words[i].name; i++)
    if (strcmp(text, f->words[i].name) == 0) {
      *value = f->words[i].value;
      return true;
    }
  if (!isdigit((unsigned char)text[text[0] == '-'])) return false; /* strtoll would skip blanks */
  char *end;
  errno = 0;
  long long number = strtoll(text, &end, 10);
  int64_t factor = suffix_factor(end);
  if (errno || factor == 0 || __builtin_mul_overflow((int64_t)number, factor, value)) return false;
  return *value >= f->min && *value <= f->max;
}

static bool parse_double(const Flag *f, const char *text, double *value) {
  if (strspn(text, "+-.0123456789eE") != strlen(text)) return false; /* no blanks, hex, inf, nan */
  char *end;
  *value = strtod(text, &end);
  if (end == text || *end) return false;
  return (f->above_low ? *value > f->low : *value >= f->low) &&
         (f->below_high ? *value < f->high : *value <= f->high);
}

/* Stores what the text says; false when it is not allowed. */
static bool parse_value(void *o, const Flag *f, const char *text) {
  void *field = field_of(o, f);
  switch (f->type) {
  case FLAG_STRING:
    if (text[0] == '\0' || (f->choices && choice_index(f->choices, text) < 0)) return false;
    *(const char **)field = text;
    return true;
  case FLAG_INT: return parse_int(f, text, field);
  case FLAG_DOUBLE: return parse_double(f, text, field);
  case FLAG_CHOICE: return (*(int *)field = choice_index(f->choices, text)) >= 0;
  case FLAG_SET: return (*(int *)field = choice_set(f->choices, text)) >= 0;
  case FLAG_BOOL: return false;
  case FLAG_OPTIONAL:
  case FLAG_HELP: *(const char **)field = text; return true;
  }
  PANIC("flag --%s has no type", f->name);
}

void flag_table_defaults(const FlagTable *t, void *options, size_t size) {
  memset(options, 0, size);
  for (int i = 0; i < t->n; i++) {
    const Flag *f = &t->flags[i];
    if (f->default_value[0])
      CHECK(parse_value(options, f, f->default_value), "the default of --%s is not allowed", f->name);
  }
}

void flag_allowed(const Flag *f, char *text, size_t size) {
  char low[DOUBLE_TEXT], high[DOUBLE_TEXT];
  switch (f->type) {
  case FLAG_INT: {
    char words[64] = "";
    for (int i = 0; i < FLAG_WORDS && f->words[i].name; i++) {
      size_t at = strlen(words);
      snprintf(words + at, sizeof words - at, "%s%s", i ? " or " : ", or ", f->words[i].name);
    }
    snprintf(text, size,
             "a whole number from %lld to %lld%s (8K = 8000, 8Ki = 8192; also M, G, T, Mi, Gi, Ti)",
             (long long)f->min, (long long)f->max, words);
    break;
  }
  case FLAG_DOUBLE:
    double_text(f->low, low);
    double_text(f->high, high);
    snprintf(text, size, "a number %s %s and %s %s", f->above_low ? "above" : "of at least", low,
             f->below_high ? "below" : "at most", high);
    break;
  case FLAG_BOOL: snprintf(text, size, "no value: the flag alone says it"); break;
  case FLAG_OPTIONAL: snprintf(text, size, "a path, or nothing"); break;
  case FLAG_HELP: snprintf(text, size, "the name of a flag, or nothing"); break;
  case FLAG_STRING:
  case FLAG_CHOICE:
  case FLAG_SET: {
    size_t at = (size_t)snprintf(text, size, "%s",
                                 f->type == FLAG_SET ? "none, or some of these separated by commas: "
                                 : f->choices        ? "one of "
                                                     : "text that is not empty");
    for (const char *c = f->choices ? f->choices : ""; *c && at + 3 < size; c++) {
      if (*c == '|') text[at++] = ',';
      text[at++] = *c == '|' ? ' ' : *c;
      text[at] = '\0';
    }
  }
  }
}

/* ---- the parser ---- */

bool flag_table_unknown(const FlagTable *t, const char *found, const char *name, Error *e) {
  Guess guess = guess_begin(name);
  for (int i = 0; i < t->n; i++) guess_offer(&guess, t->flags[i].name);
  const char *mean = guess.word[0] ? "; did you mean --" : "";
  return error_usage(e, "%s: there is no such flag%s%s%s\n`%s --help` lists all flags.", found, mean,
                     guess.word, *mean ? "?" : ".", t->program);
}

/* value: what was found, NULL when there is none. */
static bool bad_value(const FlagTable *t, const Flag *f, const char *value, Error *e) {
  char allowed[256];
  flag_allowed(f, allowed, sizeof allowed);
  Guess guess = guess_begin(value ? value : "");
  for (int i = 0; value && f->choices && i < choice_count(f->choices); i++) {
    char word[GUESS_WORD];
    choice_word(f->choices, i, word, sizeof word);
    guess_offer(&guess, word);
  }
  const char *quote = value ? "\"" : "", *mean = guess.word[0] ? "; did you mean " : "";
  return error_usage(e, "--%s: found %s%s%s, expected %s%s%s%s\n`%s --help %s` says more.", f->name, quote,
                     value ? value : "no value", quote, allowed, mean, guess.word, *mean ? "?" : ".",
                     t->program, f->name);
}

bool flag_table_set(const FlagTable *t, void *options, const Flag *f, const char *value, Given given,
                    Error *e) {
  if (f->type == FLAG_OPTIONAL && !value) value = "";
  if (f->type == FLAG_BOOL) {
    if (value) return bad_value(t, f, value, e);
    *(bool *)field_of(options, f) = true;
  } else if (!value || !parse_value(options, f, value)) {
    return bad_value(t, f, value, e);
  }
  *given_of(t, options, f) = given;
  return true;
}

/* The flag that the argument names, with *value at what follows its '=' (NULL without one). */
static const Flag *parse_name(const FlagTable *t, const char *argument, const char **value, Error *e) {
  size_t dashes = strspn(argument, "-");
  if (dashes == 0) {
    error_usage(e,
                "found \"%s\" where a flag was expected: every argument is --name or --name value.\n"
                "`%s --help` lists all flags.",
                argument, t->program);
    return NULL;
  }
  char found[80];
  snprintf(found, sizeof found, "%s", argument);
  found[strcspn(found, "=")] = '\0';
  const char *name = found + (dashes < sizeof found ? dashes : sizeof found - 1);
  const char *equals = strchr(argument, '=');
  *value = equals ? equals + 1 : NULL;
  const Flag *f = dashes == 2 ? flag_table_find(t, name) : NULL;
  if (!f) flag_table_unknown(t, found, name, e);
  return f;
}

bool flag_table_parse(const FlagTable *t, void *options, int argc, char **argv, Error *e) {
  for (int i = 1; i < argc; i++) {
    const char *value;
    const Flag *f = parse_name(t, argv[i], &value, e);
    if (!f) return false;
    if (flag_table_given(t, options, f))
      return error_usage(e, "--%s was given twice, the second time as \"%s\"; leave one out.", f->name,
                         argv[i]);
    const char *next = i + 1 < argc ? argv[i + 1] : NULL;
    if (f->type == FLAG_HELP) {
      if (!value) value = next ? argv[++i] : "";
      value += strspn(value, "-");
      if (*value && !flag_table_find(t, value)) return flag_table_unknown(t, value, value, e);
    } else if (f->type != FLAG_BOOL && !value && next && strncmp(next, "--", 2) != 0) {
      value = argv[++i];
    }
    if (!flag_table_set(t, options, f, value, GIVEN_TYPED, e)) return false;
  }
  return true;
}

/* ---- values: options -> text ---- */

/* The word that stands for n, or NULL. */
static const char *word_of(const Flag *f, int64_t n) {
  for (int i = 0; i < FLAG_WORDS && f->words[i].name; i++)
    if (n == f->words[i].value) return f->words[i].name;
  return NULL;
}

/* Writes the flag's value as one would type it; "" for a string that was not given and an absent flag. */
void flag_value_text(const void *o, const Flag *f, char *text, size_t size) {
  const void *value = value_of(o, f);
  text[0] = '\0';
  switch (f->type) {
  case FLAG_OPTIONAL:
  case FLAG_HELP:
  case FLAG_STRING: {
    const char *s = *(const char *const *)value;
    snprintf(text, size, "%s", s ? s : "");
    break;
  }
  case FLAG_INT: {
    int64_t n = *(const int64_t *)value;
    if (word_of(f, n))
      snprintf(text, size, "%s", word_of(f, n));
    else
      snprintf(text, size, "%lld", (long long)n);
    break;
  }
  case FLAG_DOUBLE: double_text(*(const double *)value, text); break;
  case FLAG_CHOICE: choice_word(f->choices, *(const int *)value, text, size); break;
  case FLAG_SET: set_words(f->choices, *(const int *)value, text, size); break;
  case FLAG_BOOL: break;
  }
}

/* False for what was not given and has no default. */
bool flag_is_there(const void *o, const Flag *f, const char *value) {
  if (f->type == FLAG_BOOL) return *(const bool *)value_of(o, f);
  if (f->type == FLAG_OPTIONAL) return *(const char *const *)value_of(o, f) != NULL;
  return value[0] != '\0';
}

/* ---- help ---- */

/* "--name VALUE", as the help shows it. */
static void usage_text(const Flag *f, char *text, size_t size) {
  const char *value = flag_value_name(f);
  snprintf(text, size, "--%s%s%s", f->name, *value ? " " : "", value);
}

void flag_table_help(FILE *out, const FlagTable *t) {
  enum { COLUMN = 34 };
  fputs(t->intro, out);
  for (int g = 0; g < t->group_count; g++) {
    fprintf(out, "\n%s\n", t->groups[g]);
    for (int i = 0; i < t->n; i++) {
      const Flag *f = &t->flags[i];
      if (f->group != g) continue;
      char usage[128];
      usage_text(f, usage, sizeof usage);
      fprintf(out, "  %-*s", COLUMN - 2, usage);
      if (strlen(usage) > COLUMN - 3) fprintf(out, "\n%*s", COLUMN, "");
      fputs(f->help, out);
      if (f->default_value[0]) fprintf(out, " [%s]", f->default_value);
      fputc('\n', out);
    }
  }
}

void flag_table_help_one(FILE *out, const FlagTable *t, const Flag *f) {
  char text[256];
  usage_text(f, text, sizeof text);
  fprintf(out, "%s\n  %s\n", text, f->help);
  flag_allowed(f, text, sizeof text);
  fprintf(out, "  group:    %s\n  takes:    %s\n", t->groups[f->group], text);
  if (f->default_value[0]) fprintf(out, "  default:  %s\n", f->default_value);
}
