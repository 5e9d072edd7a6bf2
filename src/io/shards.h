/* Reading token files: the shards of llm.c (https://github.com/karpathy/llm.c, versions 1 and 7), an
 * extension of theirs (version 8), and text whose bytes are the tokens. Layout: docs/formats.md. */
#ifndef SHARDS_H
#define SHARDS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "io/shard_writer.h" /* shard_write */
#include "io/watched_file.h" /* WatchedFile, OpenFiles */

#ifdef __cplusplus
extern "C" {
#endif

/* A token as shard_read hands it out and as version 8 stores it: two marks above the token's id. */
#define TOKEN_MASKED    0x80000000u /* as a target, this token is not trained on */
#define TOKEN_DOCUMENT  0x40000000u /* a document starts at this token */
#define TOKEN_ID        0x3fffffffu
#define TOKEN_MAX_VOCAB ((int64_t)TOKEN_ID + 1)

enum {
  SHARD_MAGIC_16 = 20240520, /* uint16 tokens: version 1 */
  SHARD_MAGIC_32 = 20240801, /* uint32 tokens: versions 7 and 8 */
};

/* Flags of a version 8 shard: which marks its tokens may carry. */
enum { SHARD_HAS_MASKED = 1, SHARD_HAS_DOCUMENTS = 2 };

/* The first 1024 bytes of a shard: 256 little-endian int32, named here by their index [i]. */
typedef struct ShardHeader {
  int32_t magic;           /* [0] */
  int32_t version;         /* [1] */
  uint32_t count;          /* [2] tokens; version 8: 0 when they do not fit in an int32 */
  int32_t reserved3;       /* [3] 0. From here on meaningful in version 8 only */
  int64_t count64;         /* [4..5] tokens */
  int32_t V;               /* [6] vocabulary of the tokenizer; 0 = not given */
  int32_t flags;           /* [7] SHARD_HAS_* */
  uint64_t tokenizer_hash; /* [8..9] of the tokenizer that made the tokens; 0 = not given */
  uint64_t payload_hash;   /* [10..11] XXH3 (64 bits, seed 0) of all bytes after the header; 0 = not given */
  int32_t reserved[244];   /* [12..255] 0 */
} ShardHeader;

/* A token file, or text in memory. */
typedef struct Shard {
  char *name;              /* path, for messages */
  WatchedFile file;        /* of a file ... */
  OpenFiles *pool;         /* ... among these */
  uint8_t *memory;         /* owned, of text in memory; else NULL */
  int64_t bytes;           /* of the whole file or text */
  int64_t payload_at;      /* byte of the first token */
  int version;             /* of the shard; 0 = text */
  int width;               /* bytes a token: 1 = text, 2 or 4 */
  uint32_t marks;          /* TOKEN_MASKED, TOKEN_DOCUMENT: those that tokens of this file may carry */
  int64_t document_token;  /* starts a document, see shard_mark_documents; -1 = none */
  bool has_documents;      /* shard_check_tokens has met the start of one */
  int64_t n;               /* tokens */
  uint64_t tokenizer_hash; /* 0 = not given */
  uint64_t content_hash; /* the payload hash; of a file without one, the hash of its first and last tokens */
} Shard;

/* Opens PATH: text by its extension (.txt, .md, .text), else a shard. Refuses a wrong magic, version,
 * length, flag or payload hash, a header's V above the model's V, and text with a byte >= V. A payload hash
 * means that the whole file is read once here. The shard stays where it is in memory until it is closed, and
 * so does the pool. */
bool shard_open(Shard *s, OpenFiles *pool, const char *path, int64_t V, Error *e);

/* The same over a copy of n bytes of text in memory; `name` is for messages. */
bool shard_from_bytes(Shard *s, const char *name, const uint8_t *bytes, int64_t n, int64_t V, Error *e);
void shard_close(Shard *s);

/* Reads tokens [from, from + n), marks included, to dst [n]. A token >= V is an error that names the file,
 * the token's index, and its offset in bytes; a file that changed since it was opened is a runtime error. */
bool shard_read(Shard *s, int64_t from, int64_t n, int64_t V, uint32_t *dst, Error *e);

/* From here on the tokens that are read carry TOKEN_DOCUMENT where a document starts: where the shard says
 * so, or else where the token of a document's start stands, which is `token` (-1 = not given) or, in shards
 * of versions 1 and 7, `bos` (-1 = none). False when nothing tells. */
bool shard_mark_documents(Shard *s, int64_t bos, int64_t token, Error *e);

/* Reads all of it: a token >= V is an error, as in shard_read. */
bool shard_check_tokens(Shard *s, int64_t V, Error *e);

#ifdef __cplusplus
}
#endif
#endif
