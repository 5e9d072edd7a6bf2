/* The flag table and what it drives: parser, help, the printed configuration, the configuration in
 * run.json; in files of their own the configuration file, the manual page, the shells' completion. */
#ifndef FLAGS_H
#define FLAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "cli/flag_table.h"
#include "cli/options.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum FlagGroup { GROUP_MODEL, GROUP_TRAINING, GROUP_MEMORY, GROUP_RUNNING, GROUPS } FlagGroup;

const FlagTable *flags_table(void);
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
