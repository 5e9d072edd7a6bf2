/* The shells' completion of the command line, made from the flag table. */
#ifndef COMPLETION_H
#define COMPLETION_H

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Prints the script for "bash" or "zsh": names of flags, words that a flag allows, presets, files and
 * folders. */
void completion_print(FILE *out, const char *shell);

#ifdef __cplusplus
}
#endif
#endif
