/* How a text is cut into the words that BPE works on. */
#ifndef PRE_TOKENIZER_H
#define PRE_TOKENIZER_H

#include <stdbool.h>

#include <cjson/cJSON.h>

#include "tokenizer/buffer.h"
#include "tokenizer/regex.h" /* pcre2_code, RegexScratch */

typedef enum PreKind {
  PRE_SPLIT,        /* cut at the matches of an expression */
  PRE_PREFIX_SPACE, /* a space before a text that does not begin with one */
  PRE_META,         /* spaces become `meta`; one before the text too, as `prefix` says */
} PreKind;

/* Which texts PRE_META puts its mark before, unless they begin with one. */
typedef enum PrefixScheme { PREFIX_NEVER, PREFIX_FIRST, PREFIX_ALWAYS } PrefixScheme;

typedef struct PreStep {
  PreKind kind;
  pcre2_code *code;               /* PRE_SPLIT */
  bool keep_matches, keep_others; /* PRE_SPLIT: which of the pieces stay */
  char *meta;                     /* PRE_META: the mark, owned */
  PrefixScheme prefix;            /* PRE_META */
  bool cut;                       /* PRE_META: each mark begins a word */
} PreStep;

enum { PRE_MOST = 8 };

typedef struct PreTokenizer {
  PreStep steps[PRE_MOST];
  size_t n;
  bool byte_level; /* BPE works on bytes */
} PreTokenizer;

/* Reads the file's "pre_tokenizer" (NULL or null: the text is one word). */
bool pre_tokenizer_read(PreTokenizer *p, const cJSON *json, Error *e);
void pre_tokenizer_free(PreTokenizer *p);

/* What takes the words, one after another. */
typedef struct WordSink {
  void (*take)(void *context, const uint8_t *word, size_t n);
  void *context;
} WordSink;

/* One thread's memory. */
typedef struct PreScratch {
  RegexScratch regex;
  Bytes text[PRE_MOST]; /* what each step made */
} PreScratch;

/* Cuts a text, n bytes of UTF-8; `first` tells whether it stands at the start of what is encoded. */
bool pre_tokenizer_run(const PreTokenizer *p, PreScratch *s, const uint8_t *text, size_t n, bool first,
                       WordSink sink, Error *e);

#endif
