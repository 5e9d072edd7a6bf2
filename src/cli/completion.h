/* The shells' completion of a command line, made from the program's flag table. */
#ifndef COMPLETION_H
#define COMPLETION_H

#include <stdio.h>

#include "cli/flag_table.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Prints the script for "bash" or "zsh": names of flags, words that a flag allows, presets, files and
 * folders. */
void completion_print(FILE *out, const FlagTable *t, const char *shell);

#ifdef __cplusplus
}
#endif
#endif
