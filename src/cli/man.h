/* The manual page, made from the flag table. */
#ifndef MAN_H
#define MAN_H

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Prints train_llama(1) in roff, with the man macros. */
void man_print(FILE *out, const char *version);

#ifdef __cplusplus
}
#endif
#endif
