/* Token shards -> optimizer steps. The loader hands over the whole step (all micro-batches) at once, so
 * that the valid targets are counted before the first backward and packing needs no other caller.
 * Shard formats: docs/formats.md. */
#ifndef DATALOADER_H
#define DATALOADER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TARGET_IGNORED = -1 }; /* a position whose target is not trained on */

/* One optimizer step: A micro-batches of B sequences of T tokens. The arrays are the caller's (they are in
 * the memory plan), each [A, B, T], and are filled by dataloader_next. */
typedef struct StepBatch {
  int64_t A, B, T;
  int32_t *tokens;
  int32_t *targets;      /* the next token, or TARGET_IGNORED */
  int32_t *positions;    /* 0 .. T-1 within the sequence */
  int32_t *documents;    /* index of the document within its sequence, counted from 0 at the sequence's start;
                            a new one begins where the shard marks a document start */
  int64_t valid_targets; /* targets that are not TARGET_IGNORED, over all of A, B, T */
} StepBatch;

typedef struct DataLoader DataLoader;

/* Opens the files that `globs` names: patterns of glob(7), separated by commas. They are token shards of
 * versions 1, 7 and 8, or text (.txt, .md, .text), whose bytes are the tokens; sorted by name, a file that
 * several patterns match once, and joined to one stream. Its windows of T tokens are the sequences: each
 * target is the next token of the stream, so that window w needs the tokens w*T .. w*T + T. Rows and
 * micro-batches of the steps (B rows of T tokens each) take consecutive windows.
 * V: the model's vocabulary. NULL and an Error: no file, a damaged one, shards of different tokenizers or of
 * a larger vocabulary, or less than one window (T + 1 tokens). */
DataLoader *dataloader_open(const char *globs, int64_t B, int64_t T, int64_t V, Error *e);
void dataloader_close(DataLoader *d);

/* A loader over memory (the built-in demo, tests): n byte tokens, copied. `name` is for messages. */
DataLoader *dataloader_from_bytes(const char *name, const uint8_t *bytes, int64_t n, int64_t B, int64_t T,
                                  int64_t V, Error *e);

/* Keeps only the part [from, to) of the stream, as fractions of its tokens, and rewinds: to hold out
 * validation text. 0 <= from < to <= 1. An error, and nothing changed, when T + 1 tokens do not remain. */
bool dataloader_restrict(DataLoader *d, double from, double to, Error *e);

/* Fills the arrays for the next step (its B and T as at opening) and counts its valid targets; starts over
 * at the end of the data, also within a step (a last incomplete window is not used). A token >= V is an
 * error that names the file and the token's place in it; the loader then stays where it was. */
bool dataloader_next(DataLoader *d, StepBatch *step, Error *e);
/* Back to the first window: evaluation reads the same batches every time. */
void dataloader_rewind(DataLoader *d);

/* Where a loader is: what has been handed out since the first step. */
enum { DATA_MAX_SOURCES = 64 };
typedef struct DataPosition {
  int64_t samples;                 /* sequences, of all sources and ranks */
  int64_t sources;                 /* entries of `taken` */
  int64_t taken[DATA_MAX_SOURCES]; /* sequences of each source */
} DataPosition;

DataPosition dataloader_position(const DataLoader *d);
/* Goes on from there: what dataloader_next then hands out is what it would have been without a stop. An error
 * when the position is none of this loader's. */
bool dataloader_seek(DataLoader *d, const DataPosition *p, Error *e);

/* Hashes the data and how they are cut into sequences, not where they lie: equal for a run that goes on. */
uint64_t dataloader_fingerprint(const DataLoader *d);
/* Of the tokenizer that made the shards; 0 = they do not say. */
uint64_t dataloader_tokenizer_hash(const DataLoader *d);

int64_t dataloader_tokens(const DataLoader *d);  /* tokens in the stream (after dataloader_restrict) */
int64_t dataloader_windows(const DataLoader *d); /* windows of T tokens in one pass over it */
int64_t dataloader_files(const DataLoader *d);
/* True when every file is text whose bytes are the tokens. */
bool dataloader_bytes(const DataLoader *d);

#ifdef __cplusplus
}
#endif
#endif
