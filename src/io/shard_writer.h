/* Writing token shards, from whole arrays and piece by piece. Layout: docs/formats.md. */
#ifndef SHARD_WRITER_H
#define SHARD_WRITER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a shard is made as. */
typedef struct ShardKind {
  int version;             /* 1, 7 or 8; only 8 takes marks, V and tokenizer_hash, and gets a payload hash */
  int64_t V;               /* vocabulary of the tokenizer; 0 = not given */
  uint64_t tokenizer_hash; /* 0 = not given */
} ShardKind;

/* A shard that is being written, as PATH.tmp until it is complete. A zeroed one is closed. */
typedef struct ShardWriter {
  ShardKind kind;
  char *path, *aside; /* NULL: closed */
  int fd;
  int64_t n;      /* tokens */
  uint32_t marks; /* those that tokens carry */
  void *hash;     /* of the payload: an XXH3_state_t */
} ShardWriter;

/* Begins a new shard. */
bool shard_writer_open(ShardWriter *w, const char *path, ShardKind kind, Error *e);
/* Goes on with one that was left unfinished, behind its first n tokens: PATH.tmp, or PATH when it was
 * finished in the meantime. What these tokens are is read again. */
bool shard_writer_reopen(ShardWriter *w, const char *path, ShardKind kind, int64_t n, Error *e);
/* Appends tokens [n]. Refuses those that the version or V does not allow, and more in all than an int32
 * counts in versions 1 and 7. */
bool shard_writer_append(ShardWriter *w, const uint32_t *tokens, int64_t n, Error *e);
/* Makes what was appended durable. */
bool shard_writer_sync(const ShardWriter *w, Error *e);
/* Completes the shard, which then takes its name, and closes the writer. On failure nothing is left. */
bool shard_writer_publish(ShardWriter *w, Error *e);
/* Closes the writer; PATH.tmp goes, or stays for shard_writer_reopen. */
void shard_writer_discard(ShardWriter *w);
void shard_writer_leave(ShardWriter *w);

/* Writes tokens [n] as a whole shard; on failure nothing is left. */
bool shard_write(const char *path, int version, const uint32_t *tokens, int64_t n, int64_t V,
                 uint64_t tokenizer_hash, Error *e);

#ifdef __cplusplus
}
#endif
#endif
