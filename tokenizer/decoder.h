/* From tokens back to text. */
#ifndef DECODER_H
#define DECODER_H

#include <stdbool.h>

#include <cjson/cJSON.h>

#include "tokenizer/buffer.h"

typedef enum DecoderKind {
  DECODER_SPACES,     /* none in the file: texts with a space between them */
  DECODER_BYTE_LEVEL, /* texts are bytes written as characters */
  DECODER_META,       /* a mark is a space; of the first token, nothing */
  DECODER_STEPS,      /* replacements, then bytes, then strip */
} DecoderKind;

enum { DECODER_MOST = 8 };

typedef struct Decoder {
  DecoderKind kind;
  char *meta;         /* DECODER_META: the mark, owned */
  bool meta_is_first; /* DECODER_META: marks of the first token vanish */
  struct {
    char *from, *to;
  } replace[DECODER_MOST]; /* DECODER_STEPS: in each token, in this order; owned */
  size_t replaces;
  bool bytes;         /* DECODER_STEPS: tokens <0x00> ... in a row are the bytes of characters */
  bool fused;         /* while reading: a Fuse was met */
  char *strip;        /* DECODER_STEPS: the character taken from the text's start, owned; NULL = none */
  int64_t strip_most; /* this many times */
} Decoder;

/* Reads the file's "decoder" (NULL or null: none). */
bool decoder_read(Decoder *d, const cJSON *json, Error *e);
void decoder_free(Decoder *d);

/* What the text of a token is in the end, wherever it stands. */
typedef struct Piece {
  int byte;   /* of a token <0x00> ...: this byte; -1 = no such token */
  Bytes text; /* else its text */
} Piece;

/* Makes the piece of a token's text, n bytes, the `first` of a text; *p is used again and again. */
void decoder_piece(const Decoder *d, const uint8_t *token, size_t n, bool first, Piece *p);

/* A text that grows. */
typedef struct DecodeState {
  bool begun;       /* a token came */
  Bytes pending;    /* bytes that are no whole characters yet, or a row of byte tokens */
  int64_t stripped; /* times that the start was stripped; -1 = the start is over */
} DecodeState;

/* Takes the text of the next token, appends to `out` what is certain by now. */
void decoder_push(const Decoder *d, DecodeState *s, Piece *scratch, const uint8_t *token, size_t n,
                  Bytes *out);
/* Appends what was held back. */
void decoder_finish(const Decoder *d, DecodeState *s, Bytes *out);

#endif
