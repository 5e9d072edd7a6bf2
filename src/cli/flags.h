/* The flag table and what it drives: parser, help, the printed configuration, the configuration in
 * run.json; in files of their own the configuration file, the manual page, the shells' completion. */
#ifndef FLAGS_H
#define FLAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "cli/options.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum FlagType {
  FLAG_STRING,   /* const char *; NULL = not given; one of `choices` when there are any */
  FLAG_INT,      /* int64_t; suffixes K, M, G (powers of 1000) and Ki, Mi, Gi (powers of 1024); or `word` */
  FLAG_DOUBLE,   /* double, finite */
  FLAG_BOOL,     /* bool: true when the flag is there; takes no value */
  FLAG_CHOICE,   /* int: index of the value in `choices` */
  FLAG_SET,      /* int: bit i stands for word i of `choices`; "none", or words separated by commas */
  FLAG_OPTIONAL, /* const char *; NULL = not given, "" = without a value */
  FLAG_HELP,     /* the same; the next argument, if there is one, names a flag */
} FlagType;

typedef enum FlagGroup { GROUP_MODEL, GROUP_TRAINING, GROUP_MEMORY, GROUP_RUNNING, GROUPS } FlagGroup;

/* One row of the table. */
typedef struct Flag {
  FlagGroup group;
  const char *name; /* without the leading dashes */
  FlagType type;
  size_t offset;             /* of the field in Options */
  const char *default_value; /* as one would type it; "" = none (FLAG_STRING), absent (FLAG_BOOL) */
  const char *value_name;    /* placeholder in the help; NULL for FLAG_BOOL and FLAG_CHOICE */
  const char *help;          /* one line */
  const char *choices;       /* allowed words, separated by '|'; NULL = any value */
  int64_t min, max;          /* FLAG_INT */
  const char *word;          /* FLAG_INT: a word that is allowed besides numbers; NULL = none */
  int64_t word_value;        /* what it stands for */
  double low, high;          /* FLAG_DOUBLE: bounds ... */
  bool above_low;            /* ... low itself is not allowed */
  bool below_high;           /* ... high itself is not allowed */
  bool meta;                 /* no part of a run's configuration: asks for a text, or says where flags are */
} Flag;

/* Row i of the table, or NULL past the last. */
const Flag *flags_at(int i);
/* The row of that name (without dashes), or NULL. */
const Flag *flags_find(const char *name);
const char *flags_group_name(FlagGroup g);
/* What the help shows for the value: its placeholder or its choices; "" when there is neither. */
const char *flags_value_name(const Flag *f);
/* Says what values the flag takes, as "a whole number from 1 to 8". */
void flags_allowed(const Flag *f, char *text, size_t size);
/* True when the flag of that name was given on the command line or in the configuration file. A name without
 * a row panics. */
bool flags_given(const Options *o, const char *name);
/* The same for the command line alone: a file that describes a whole experiment may say more than this run
 * needs. */
bool flags_typed(const Options *o, const char *name);

void flags_defaults(Options *o);
/* Fills in what argv[1 ..] says, as `--flag value` or `--flag=value`, over the values that *o has; the
 * strings of *o then point into argv. Errors: unknown flag (with the nearest one), bad or missing value, a
 * flag given twice, an argument that is no flag. */
bool flags_parse(Options *o, int argc, char **argv, Error *e);

/* Gives the flag the value that the text says (NULL = there is none, as for FLAG_BOOL); a string's text must
 * live as long as *o. Refuses what the flag does not allow. */
bool flags_set(Options *o, const Flag *f, const char *value, Given given, Error *e);
/* The error of a flag that does not exist, with the nearest one that does; returns false. found: what the
 * user wrote; name: the same without dashes and value. */
bool flags_unknown(const char *found, const char *name, Error *e);

/* Prints all flags by group, or everything about one (a name without dashes that flags_find knows). */
void flags_help(FILE *out, const char *flag);
/* Prints the configuration by group, in lines that begin with "# ". Flags that are absent are left out. */
void flags_print(FILE *out, const Options *o);
/* Writes a JSON object with the value of every flag that is not `meta`, `indent` spaces deep; no
 * newline after the closing brace. Words stay strings ("auto"), strings that were not given are null. */
void flags_json(FILE *out, const Options *o, int indent);

#ifdef __cplusplus
}
#endif
#endif
