/* What is done to a text before it is cut into words. */
#ifndef NORMALIZER_H
#define NORMALIZER_H

#include <stdbool.h>

#include <cjson/cJSON.h>

#include "tokenizer/buffer.h"

typedef enum NormalizerKind {
  NORMALIZER_NFC,
  NORMALIZER_PREPEND, /* `to` before a text that is not empty */
  NORMALIZER_REPLACE, /* every `from` by `to` */
} NormalizerKind;

typedef struct NormalizerStep {
  NormalizerKind kind;
  char *from, *to; /* owned; NULL where the kind has none */
} NormalizerStep;

enum { NORMALIZER_MOST = 16 };

typedef struct Normalizer {
  NormalizerStep steps[NORMALIZER_MOST];
  size_t n;
} Normalizer;

/* Reads the file's "normalizer" (NULL or null: none). */
bool normalizer_read(Normalizer *z, const cJSON *json, Error *e);
void normalizer_free(Normalizer *z);

/* Normalizes *text in place; *other is room to work in, and its contents are lost. */
bool normalizer_run(const Normalizer *z, Bytes *text, Bytes *other, Error *e);

#endif
