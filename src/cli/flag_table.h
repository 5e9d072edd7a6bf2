/* A table of flags and what it drives for any program: the parser, the values' texts, the help. */
#ifndef FLAG_TABLE_H
#define FLAG_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum FlagType {
  FLAG_STRING,   /* const char *; NULL = not given; one of `choices` when there are any */
  FLAG_INT,      /* int64_t; suffixes K, M, G, T (powers of 1000), Ki, Mi, Gi, Ti (of 1024); or a word */
  FLAG_DOUBLE,   /* double, finite */
  FLAG_BOOL,     /* bool: true when the flag is there; takes no value */
  FLAG_CHOICE,   /* int: index of the value in `choices` */
  FLAG_SET,      /* int: bit i stands for word i of `choices`; "none", or words separated by commas */
  FLAG_OPTIONAL, /* const char *; NULL = not given, "" = without a value */
  FLAG_HELP,     /* the same; the next argument, if there is one, names a flag */
} FlagType;

/* Where a flag got its value. */
typedef enum Given { GIVEN_NOT, GIVEN_IN_FILE, GIVEN_TYPED } Given;

/* A word that is allowed in place of a number, and the number it stands for. */
typedef struct FlagWord {
  const char *name; /* NULL = none */
  int64_t value;
} FlagWord;
enum { FLAG_WORDS = 2 };

/* One row of the table. */
typedef struct Flag {
  int group;        /* index of the group's name */
  const char *name; /* without the leading dashes */
  FlagType type;
  size_t offset;              /* of the field in the program's options */
  const char *default_value;  /* as one would type it; "" = none (FLAG_STRING), absent (FLAG_BOOL) */
  const char *value_name;     /* placeholder in the help; NULL for FLAG_BOOL and FLAG_CHOICE */
  const char *help;           /* one line */
  const char *choices;        /* allowed words, separated by '|'; NULL = any value */
  int64_t min, max;           /* FLAG_INT */
  FlagWord words[FLAG_WORDS]; /* FLAG_INT */
  double low, high;           /* FLAG_DOUBLE: bounds ... */
  bool above_low;             /* ... low itself is not allowed */
  bool below_high;            /* ... high itself is not allowed */
  bool meta;                  /* no part of a run's configuration: asks for a text, or says where flags are */
} Flag;

typedef struct FlagTable {
  const char *program; /* "./train_llama": how messages tell to call it */
  const Flag *flags;   /* [n] */
  int n;
  const char *const *groups; /* [group_count] names */
  int group_count;
  size_t given;      /* offset in the options of a Given [n] */
  const char *intro; /* what stands above the flags in the help */
  const char *(*preset)(
      int i); /* word i that PRESET stands for in a placeholder, NULL past the last; or NULL */
} FlagTable;

/* The program's name without a path. */
const char *flag_table_name(const FlagTable *t);

/* The row of that name (without dashes), or NULL. */
const Flag *flag_table_find(const FlagTable *t, const char *name);
/* Zeroes the options, `size` bytes, and fills in the defaults. */
void flag_table_defaults(const FlagTable *t, void *options, size_t size);
/* Where the flag got its value. */
Given flag_table_given(const FlagTable *t, const void *options, const Flag *f);
/* Gives the flag the value that the text says (NULL = there is none); see flags_set. */
bool flag_table_set(const FlagTable *t, void *options, const Flag *f, const char *value, Given given,
                    Error *e);
/* The error of a flag that does not exist; see flags_unknown. */
bool flag_table_unknown(const FlagTable *t, const char *found, const char *name, Error *e);
/* Fills in what argv[1 ..] says; see flags_parse. */
bool flag_table_parse(const FlagTable *t, void *options, int argc, char **argv, Error *e);

/* Says what values the flag takes, as "a whole number from 1 to 8". */
void flag_allowed(const Flag *f, char *text, size_t size);
/* What the help shows for the value: its placeholder or its choices; "" when there is neither. */
const char *flag_value_name(const Flag *f);
/* Writes the flag's value as one would type it; "" for a string that was not given and an absent flag. */
void flag_value_text(const void *options, const Flag *f, char *text, size_t size);
/* False for what was not given and has no default; value: its text. */
bool flag_is_there(const void *options, const Flag *f, const char *value);

/* Prints the introduction and all flags by group. */
void flag_table_help(FILE *out, const FlagTable *t);
/* Prints everything about one flag. */
void flag_table_help_one(FILE *out, const FlagTable *t, const Flag *f);

#ifdef __cplusplus
}
#endif
#endif
