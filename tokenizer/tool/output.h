/* The folder of a run of ./tokenize: its shards, and tokenize.json, which says how far it is. */
#ifndef OUTPUT_H
#define OUTPUT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "io/shard_writer.h"
#include "tokenizer/tool/documents.h" /* InputPosition */

/* One stream of tokens, cut into shards NAME-000000.bin ... */
typedef struct ShardStream {
  const char *name;
  int64_t shards; /* complete ones */
  int64_t tokens; /* of all */
  ShardWriter w;  /* the shard at hand; closed when there is none */
} ShardStream;

enum { STREAM_TRAIN, STREAM_VAL, STREAMS };

typedef struct Output {
  const char *folder;
  int lock; /* the open folder; -1 = none */
  ShardKind kind;
  int64_t shard_tokens;
  uint64_t fingerprint; /* of all that decides what the shards hold */
  ShardStream streams[STREAMS];
  InputPosition at;                     /* everything before is in the shards */
  int64_t documents, skipped, replaced; /* with tokens; left out; mended */
  bool done;
} Output;

/* Opens the folder for a run, or to go on with one of the same fingerprint. */
bool output_open(Output *o, const char *folder, ShardKind kind, int64_t shard_tokens, uint64_t fingerprint,
                 Error *e);
/* Appends a document's tokens [n]. */
bool output_append(Output *o, int stream, const uint32_t *tokens, int64_t n, Error *e);
/* Makes all that was appended durable, and o->at and the counts with it. */
bool output_save(Output *o, Error *e);
/* Completes the last shards. */
bool output_finish(Output *o, Error *e);
/* What is unfinished stays, to go on later. */
void output_close(Output *o);

#endif
