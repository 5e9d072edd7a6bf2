/* The regular expressions of tokenizer.json, which are Oniguruma's, run by PCRE2. What the two read
 * differently is written for PCRE2 so that it means the same; what cannot be is refused. */
#ifndef TOKENIZER_REGEX_H
#define TOKENIZER_REGEX_H

#include <stdbool.h>
#include <stddef.h>

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include "base/error.h"

/* Compiles an expression, or text that stands for itself (literal). NULL on failure; so is an expression that
 * matches the empty text. Free it with pcre2_code_free. */
pcre2_code *regex_compile(const char *pattern, bool literal, Error *e);

/* One thread's memory for matching. */
typedef struct RegexScratch {
  pcre2_match_data *match;
  pcre2_match_context *context;
  pcre2_jit_stack *stack;
} RegexScratch;
RegexScratch regex_scratch_new(void);
void regex_scratch_free(RegexScratch *s);

/* Looks for the first match at or after byte `from` of the text, n bytes of UTF-8. *found tells whether there
 * is one, [*start, *end). An expression that needs more memory than it may have is a runtime error. */
bool regex_find(const pcre2_code *code, const RegexScratch *s, const char *text, size_t n, size_t from,
                bool *found, size_t *start, size_t *end, Error *e);

#endif
