/* What ./tokenize is asked to do: one field a flag; the table is in options.c. */
#ifndef TOKENIZE_OPTIONS_H
#define TOKENIZE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "cli/flag_table.h" /* Given, FlagTable */

enum { TOKENIZE_FLAGS = 32 }; /* room for the flags of the table */

typedef enum InputFormat { INPUT_AUTO, INPUT_TEXT, INPUT_JSONL } InputFormat;
/* What a document of a text is. */
typedef enum Split { SPLIT_FILE, SPLIT_LINE, SPLIT_BLANK } Split;
/* What happens to a document that is not UTF-8. */
typedef enum OnInvalid { INVALID_STOP, INVALID_SKIP, INVALID_REPLACE } OnInvalid;

/* Strings are NULL when they were not given. */
typedef struct TokenizeOptions {
  const char *tokenizer; /* tokenizer.json, or a folder with it */
  const char *input;     /* patterns of files, with commas between them */
  const char *out;       /* folder of the shards */
  int format;            /* an InputFormat */
  int split;             /* a Split */
  const char *field;     /* of a JSON object: its text */
  const char *prompt_field, *completion_field;
  int on_invalid; /* an OnInvalid */

  const char *bos, *eos; /* "auto", "none" or a token's text */
  int special;           /* 1: special tokens in the text are ordinary text; 0: they are themselves */

  int64_t version;      /* of the shards */
  int64_t shard_tokens; /* in each but the last */
  double val_fraction;  /* of the documents */
  int64_t seed;         /* which of them */

  int64_t threads;        /* 0 = all */
  int64_t max_document;   /* bytes */
  const char *help;       /* NULL = not asked for, "" = all flags, else the flag to explain */
  bool man;               /* print the manual page */
  const char *completion; /* "bash" or "zsh": print its completion; NULL = not asked for */
  bool show_version;

  Given given[TOKENIZE_FLAGS];
} TokenizeOptions;

extern const FlagTable tokenize_flags;

/* Refuses flags that are missing or do not go together. */
bool tokenize_options_check(const TokenizeOptions *o, Error *e);

#endif
