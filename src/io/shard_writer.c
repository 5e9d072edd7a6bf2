#include "io/shard_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h> // XXH3_64bits_update, XXH3_state_t

#include "io/file.h"
#include "io/shards.h" // ShardHeader, TOKEN_*

static int width_of(const ShardWriter *w) {
  return w->kind.version == 1 ? 2 : 4;
}

static void begin(ShardWriter *w, const char *path, ShardKind kind) {
  CHECK(kind.version == 1 || kind.version == 7 || kind.version == 8, "shard version %d", kind.version);
  CHECK(kind.V >= 0 && kind.V <= TOKEN_MAX_VOCAB, "V %" PRId64, kind.V);
  *w = (ShardWriter){.kind = kind, .path = strdup(path), .aside = file_temporary_name(path), .fd = -1};
  XXH3_state_t *hash = XXH3_createState();
  CHECK(w->path && hash, "out of memory for a shard");
  XXH3_64bits_reset(hash);
  w->hash = hash;
}

/* Closes all but the file. */
static void end(ShardWriter *w) {
  free(w->path);
  free(w->aside);
  XXH3_freeState(w->hash);
  *w = (ShardWriter){.fd = -1};
}

void shard_writer_discard(ShardWriter *w) {
  if (!w->path) return;
  if (w->fd >= 0) file_discard(w->fd, w->aside);
  end(w);
}

void shard_writer_leave(ShardWriter *w) {
  if (!w->path) return;
  if (w->fd >= 0) close(w->fd);
  end(w);
}

bool shard_writer_open(ShardWriter *w, const char *path, ShardKind kind, Error *e) {
  static const ShardHeader empty; /* the real one comes when everything is known */
  begin(w, path, kind);
  w->fd = file_create(w->aside, e);
  if (w->fd >= 0 && file_write_all(w->fd, path, &empty, sizeof empty, e)) return true;
  shard_writer_discard(w);
  return false;
}

/* Takes in tokens that the file has. */
static void take_in(ShardWriter *w, const uint32_t *tokens, int64_t n) {
  for (int64_t i = 0; i < n && w->kind.version == 8; i++) w->marks |= tokens[i] & ~TOKEN_ID;
  if (w->kind.version == 8) XXH3_64bits_update(w->hash, tokens, (size_t)n * 4);
  w->n += n;
}

static bool read_again(ShardWriter *w, int64_t n, Error *e) {
  uint32_t piece[8192];
  const int64_t size = sizeof piece / sizeof *piece;
  while (w->kind.version == 8 && w->n < n) {
    int64_t m = n - w->n < size ? n - w->n : size;
    ssize_t got = pread(w->fd, piece, (size_t)m * 4, (off_t)sizeof(ShardHeader) + w->n * 4);
    if (got != m * 4)
      return error_runtime(e, "%s: %" PRId64 " tokens were expected in it, to go on", w->aside, n);
    take_in(w, piece, m);
  }
  w->n = n;
  off_t end_at = (off_t)sizeof(ShardHeader) + n * width_of(w);
  if (lseek(w->fd, 0, SEEK_END) < end_at)
    return error_runtime(e, "%s: is shorter than it was left", w->aside);
  if (ftruncate(w->fd, end_at) == 0 && lseek(w->fd, end_at, SEEK_SET) == end_at) return true;
  return error_runtime(e, "%s: cannot be cut: %s", w->aside, strerror(errno));
}

bool shard_writer_reopen(ShardWriter *w, const char *path, ShardKind kind, int64_t n, Error *e) {
  begin(w, path, kind);
  w->fd = open(w->aside, O_RDWR | O_CLOEXEC);
  if (w->fd < 0 && errno == ENOENT && rename(path, w->aside) == 0) w->fd = open(w->aside, O_RDWR | O_CLOEXEC);
  if (w->fd < 0) error_runtime(e, "%s: cannot be opened to go on: %s", w->aside, strerror(errno));
  if (w->fd >= 0 && read_again(w, n, e)) return true;
  shard_writer_leave(w);
  return false;
}

/* ---- tokens ---- */

static bool check_tokens(const ShardWriter *w, const uint32_t *tokens, int64_t n, Error *e) {
  bool extended = w->kind.version == 8;
  if (w->n + n > INT32_MAX && !extended) {
    return error_usage(e, "%s: %" PRId64 " tokens in a shard of version %d; at most %d, or version 8",
                       w->path, w->n + n, w->kind.version, INT32_MAX);
  }
  int64_t limit = w->kind.version == 1 ? 1 << 16 : TOKEN_MAX_VOCAB;
  if (w->kind.V > 0 && w->kind.V < limit) limit = w->kind.V;
  for (int64_t i = 0; i < n; i++) {
    uint32_t id = extended ? tokens[i] & TOKEN_ID : tokens[i];
    if (id >= limit) {
      return error_usage(
          e, "%s: token %" PRId64 " is %" PRIu32 "; a shard of version %d%s holds 0 .. %" PRId64, w->path,
          w->n + i, id, w->kind.version, w->kind.V > 0 ? " for this vocabulary" : "", limit - 1);
    }
  }
  return true;
}

/* Version 1: narrowed in pieces. */
static bool write_uint16(int fd, const char *path, const uint32_t *tokens, int64_t n, Error *e) {
  uint16_t piece[8192];
  const int64_t size = sizeof piece / sizeof piece[0];
  for (int64_t at = 0; at < n; at += size) {
    int64_t m = n - at < size ? n - at : size;
    for (int64_t i = 0; i < m; i++) piece[i] = (uint16_t)tokens[at + i];
    if (!file_write_all(fd, path, piece, (size_t)m * sizeof piece[0], e)) return false;
  }
  return true;
}

bool shard_writer_append(ShardWriter *w, const uint32_t *tokens, int64_t n, Error *e) {
  CHECK(n >= 0, "%" PRId64 " tokens", n);
  if (!check_tokens(w, tokens, n, e)) return false;
  if (!(w->kind.version == 1 ? write_uint16(w->fd, w->path, tokens, n, e)
                             : file_write_all(w->fd, w->path, tokens, (size_t)n * 4, e)))
    return false;
  take_in(w, tokens, n);
  return true;
}

/* ---- the end ---- */

bool shard_writer_sync(const ShardWriter *w, Error *e) {
  return fsync(w->fd) == 0 ||
         error_runtime(e, "%s: could not be synced: %s. Check the disk", w->aside, strerror(errno));
}

static ShardHeader make_header(const ShardWriter *w) {
  ShardHeader h = {.magic = w->kind.version == 1 ? SHARD_MAGIC_16 : SHARD_MAGIC_32,
                   .version = w->kind.version,
                   .count = w->n <= INT32_MAX ? (uint32_t)w->n : 0};
  if (w->kind.version != 8) return h;
  h.count64 = w->n;
  h.V = (int32_t)w->kind.V;
  h.flags = (w->marks & TOKEN_MASKED ? SHARD_HAS_MASKED : 0) |
            (w->marks & TOKEN_DOCUMENT ? SHARD_HAS_DOCUMENTS : 0);
  h.tokenizer_hash = w->kind.tokenizer_hash;
  h.payload_hash = XXH3_64bits_digest(w->hash);
  return h;
}

bool shard_writer_publish(ShardWriter *w, Error *e) {
  ShardHeader h = make_header(w);
  bool ok = lseek(w->fd, 0, SEEK_SET) == 0 ||
            error_runtime(e, "%s: cannot be completed: %s", w->aside, strerror(errno));
  ok = ok && file_write_all(w->fd, w->path, &h, sizeof h, e);
  if (!ok) {
    shard_writer_discard(w);
    return false;
  }
  ok = file_publish(w->fd, w->aside, w->path, e);
  end(w);
  return ok;
}

bool shard_write(const char *path, int version, const uint32_t *tokens, int64_t n, int64_t V,
                 uint64_t tokenizer_hash, Error *e) {
  ShardWriter w;
  if (!shard_writer_open(&w, path, (ShardKind){version, V, tokenizer_hash}, e)) return false;
  if (shard_writer_append(&w, tokens, n, e)) return shard_writer_publish(&w, e);
  shard_writer_discard(&w);
  return false;
}
