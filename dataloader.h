/* Token shards -> optimizer steps. The loader hands over the whole step (all micro-batches) at once, so
 * that the valid targets are counted before the first backward and packing needs no other caller.
 *
 * Files are joined to sources, a source is cut into windows of T tokens, and a window is a sample. The
 * samples of all sources form one endless sequence, the same on every rank; a step of A micro-batches takes
 * the next A * ranks * B of them: micro-batch after micro-batch, in each rank after rank, in each B rows.
 * Shard formats and the order in detail: docs/formats.md. */
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
  int32_t *positions;    /* within the sequence or, packed, within the document */
  int32_t *starts;       /* where in the sequence a row's document begins; 0 throughout unless packed */
  int64_t valid_targets; /* targets that are not TARGET_IGNORED, over all of A, B, T */
} StepBatch;

typedef struct DataOptions {
  const char *globs;      /* patterns of glob(7), separated by commas; all or none end in a weight, ":0.3" */
  int64_t B, T;           /* rows of a micro-batch, tokens of a row */
  int64_t V;              /* the model's vocabulary */
  bool shuffle;           /* by seed, source and epoch; else in the order of the stream */
  uint64_t seed;          /* of the shuffling */
  int64_t rank, ranks;    /* which share of each step this loader hands out; 0 ranks: it is alone */
  bool pack;              /* documents of a sequence are kept apart: see dataloader_open */
  int64_t bos;            /* starts a document in shards of versions 1 and 7; -1 = the model has none */
  int64_t document_token; /* the same in every file that does not mark its documents; -1 = not given */
} DataOptions;

enum { DATA_MAX_SOURCES = 64 };

/* How far a run has read. All of a loader's state: with the same data, seed and shuffling, what follows is
 * bit by bit the same, also on another number of ranks. */
typedef struct DataPosition {
  int64_t samples;                 /* handed out so far, on all ranks together */
  int64_t sources;                 /* as many of the following are used */
  int64_t taken[DATA_MAX_SOURCES]; /* of `samples`, those from each source; its epoch is taken / windows */
} DataPosition;

typedef struct DataLoader DataLoader;

/* Opens the files that the globs name. They are token shards of versions 1, 7 and 8, or text (.txt, .md,
 * .text), whose bytes are the tokens. Without weights all of them are one source, and a file that several
 * patterns match counts once. Where every pattern ends in ":WEIGHT", each is a source of its own, with epochs
 * of its own, and the samples come from them in proportion to the weights (from the source that is furthest
 * behind its share). A window's targets are the next tokens of its source's stream.
 * All tokens are read once and compared with V. NULL and an Error: no file, a damaged one, shards of
 * different tokenizers or of a larger vocabulary, a source of less than one window (T + 1 tokens), patterns
 * with and without weights.
 *
 * Packed, a sequence falls into segments: one begins with the sequence, in the middle of a document or not,
 * and one with each document. Positions count from 0 in each. The first token of a document is no target: it
 * does not follow from the document before, and so a segment gives the loss that it gives alone. An Error: a
 * file whose documents cannot be told apart, a source without any start of one. */
DataLoader *dataloader_open(const DataOptions *o, Error *e);
/* Also while a step is being read ahead. NULL is allowed. */
void dataloader_close(DataLoader *d);

/* A loader over memory (the built-in demo, tests): n byte tokens, copied. `name` is for messages; o->globs is
 * not looked at. */
DataLoader *dataloader_from_bytes(const char *name, const uint8_t *bytes, int64_t n, const DataOptions *o,
                                  Error *e);

/* Keeps only the part [from, to) of each source's stream, as fractions of its tokens, and rewinds: to hold
 * out validation text. 0 <= from < to <= 1. An error, and nothing changed, when T + 1 tokens do not
 * remain in each. */
bool dataloader_restrict(DataLoader *d, double from, double to, Error *e);

/* From here on a thread reads the next step of A micro-batches while the caller computes. raw is lent to it
 * until dataloader_close and has dataloader_prefetch_tokens(A, B, T) elements. Once a loader; all steps then
 * have this A. An error that the thread meets is that of the dataloader_next that needs what it read. */
bool dataloader_prefetch(DataLoader *d, uint32_t *raw, int64_t A, Error *e);
static inline int64_t dataloader_prefetch_tokens(int64_t A, int64_t B, int64_t T) {
  return A * B * (T + 1);
}

/* Fills the arrays for the next step (its B and T as at opening) and counts its valid targets; a source
 * starts over at the end of its data, also within a step (a last incomplete window is not used). A token >= V
 * is an error that names the file and the token's place in it; a file that was replaced or changed since it
 * was opened is a runtime error. The loader then stays where it was. */
bool dataloader_next(DataLoader *d, StepBatch *step, Error *e);

/* Where the next dataloader_next begins: what was read ahead does not count. */
DataPosition dataloader_position(const DataLoader *d);
/* Goes there. An error, and nothing changed, when the position cannot be one of this loader. */
bool dataloader_seek(DataLoader *d, const DataPosition *p, Error *e);
/* Back to the first window: evaluation reads the same batches every time. */
void dataloader_rewind(DataLoader *d);

/* Names the data: the files' tokens, the weights, the part that is used, and T; not the files' names, places
 * or times, so that a folder may move. Of files without a payload hash it knows the length and the first and
 * last 64 KiB. */
uint64_t dataloader_fingerprint(const DataLoader *d);
/* Of the tokenizer that made the shards; 0 when none of them says. */
uint64_t dataloader_tokenizer_hash(const DataLoader *d);

int64_t dataloader_tokens(const DataLoader *d);  /* in all sources (after dataloader_restrict) */
int64_t dataloader_windows(const DataLoader *d); /* in all sources: windows of T tokens, each once */
int64_t dataloader_files(const DataLoader *d);
/* True when every file is text whose bytes are the tokens. */
bool dataloader_bytes(const DataLoader *d);

#ifdef __cplusplus
}
#endif
#endif
