/* Text from a model whose tokens are bytes. */
#ifndef SAMPLE_H
#define SAMPLE_H

#include <stdio.h>

#include "llama/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Prints `prompt` [length >= 1] and n bytes that the model goes on with, drawn at `temperature`; a byte that
 * is no printable ASCII or newline is printed as '?'. The model sees the last T bytes. Every byte costs a
 * forward over all bytes before it: meant for short samples. */
void sample_bytes(Model *m, FILE *out, const char *prompt, int64_t length, int64_t n, double temperature,
                  uint64_t seed);

#ifdef __cplusplus
}
#endif
#endif
