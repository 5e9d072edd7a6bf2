/* A manual page, made from the program's flag table. */
#ifndef MAN_H
#define MAN_H

#include <stdio.h>

#include "cli/flag_table.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a page says beside the flags, in roff with the man macros. */
typedef struct ManTexts {
  const char *summary;     /* what the program does, behind its name */
  const char *description; /* the section's lines */
  const char *sections;    /* what follows the options */
} ManTexts;

/* The texts of train_llama(1). */
extern const ManTexts train_llama_manual;

/* Prints the page of section 1. */
void man_print(FILE *out, const FlagTable *t, const ManTexts *texts, const char *version);

#ifdef __cplusplus
}
#endif
#endif
