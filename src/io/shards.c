#include "io/shards.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h> // XXH3_64bits

#include "io/file.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "shards are little-endian and are read in place"
#endif
_Static_assert(sizeof(ShardHeader) == 1024, "a shard's header is 256 int32");
_Static_assert(offsetof(ShardHeader, payload_hash) == 10 * 4, "the slots have no gaps");

/* Reading */

static bool is_text(const char *path) {
  const char *slash = strrchr(path, '/');
  const char *dot = strrchr(slash ? slash : path, '.');
  return dot && (!strcasecmp(dot, ".txt") || !strcasecmp(dot, ".md") || !strcasecmp(dot, ".text"));
}

/* The whole file as s->base; an empty file has none, since it cannot be mapped. */
static bool map_file(Shard *s, Error *e) {
  int fd = open(s->name, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* else a named pipe would wait for its writer */
  if (fd < 0) return error_usage(e, "%s: cannot open the file: %s", s->name, strerror(errno));
  struct stat st;
  bool ok = true;
  if (fstat(fd, &st) != 0) {
    ok = error_runtime(e, "%s: cannot read the file's size: %s", s->name, strerror(errno));
  } else if (!S_ISREG(st.st_mode)) {
    ok = error_usage(e, "%s: not a regular file; name token shards or text files", s->name);
  } else if (st.st_size > 0) {
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
      ok = error_runtime(e, "%s: cannot map %" PRId64 " bytes: %s", s->name, (int64_t)st.st_size,
                         strerror(errno));
    } else {
      s->base = p;
      s->base_bytes = (size_t)st.st_size;
      s->mapped = true;
    }
  }
  close(fd);
  return ok;
}

/* Version 8's own fields. */
static bool check_extension(const ShardHeader *h, const char *name, int64_t V, Error *e) {
  uint32_t count = h->count64 <= INT32_MAX ? (uint32_t)h->count64 : 0;
  if (h->count64 < 0 || h->count != count) {
    return error_usage(e,
                       "%s: the header counts %" PRId64 " tokens in [4..5], but [2] holds %" PRIu32
                       " where %" PRIu32 " is expected; write the shard again",
                       name, h->count64, h->count, count);
  }
  if (h->V < 0 || h->V > TOKEN_MAX_VOCAB) {
    return error_usage(e,
                       "%s: the header gives a vocabulary of %" PRId32 "; expected 0 (not given) to %" PRId64,
                       name, h->V, TOKEN_MAX_VOCAB);
  }
  if (h->V > V) {
    return error_usage(e,
                       "%s: made for a vocabulary of %" PRId32 " tokens, but the model's has %" PRId64
                       "; tokenize the data with the model's tokenizer",
                       name, h->V, V);
  }
  bool unknown = h->reserved3 != 0 || (h->flags & ~(SHARD_HAS_MASKED | SHARD_HAS_DOCUMENTS)) != 0;
  for (size_t i = 0; i < sizeof h->reserved / sizeof h->reserved[0]; i++) unknown |= h->reserved[i] != 0;
  if (unknown) {
    return error_usage(e,
                       "%s: the header (flags 0x%" PRIx32 ") uses fields that this program does not know; "
                       "write the shard again, or use the program that it was written for",
                       name, (uint32_t)h->flags);
  }
  return true;
}

/* A corrupt shard must be refused before training, not met in the middle of it. */
static bool check_payload_hash(const Shard *s, uint64_t expected, Error *e) {
  madvise(s->base, s->base_bytes, MADV_SEQUENTIAL);
  uint64_t found = XXH3_64bits(s->tokens, (size_t)s->n * (size_t)s->width);
  madvise(s->base, s->base_bytes, MADV_NORMAL);
  if (found == expected) return true;
  return error_usage(e,
                     "%s: the tokens' hash is %016" PRIx64 ", but the header says %016" PRIx64
                     ": the file is damaged; copy or write it again",
                     s->name, found, expected);
}

static bool parse_shard(Shard *s, int64_t V, Error *e) {
  if (s->base_bytes < sizeof(ShardHeader)) {
    return error_usage(e,
                       "%s: %zu bytes, less than a shard's header of %zu; expected a token shard, or text "
                       "under a name that ends in .txt, .md or .text",
                       s->name, s->base_bytes, sizeof(ShardHeader));
  }
  const ShardHeader *h = s->base;
  if (h->magic != SHARD_MAGIC_16 && h->magic != SHARD_MAGIC_32) {
    return error_usage(e,
                       "%s: not a token shard: it begins with %" PRId32 ", expected %d or %d; text must be "
                       "under a name that ends in .txt, .md or .text",
                       s->name, h->magic, SHARD_MAGIC_16, SHARD_MAGIC_32);
  }
  bool known = h->magic == SHARD_MAGIC_16 ? h->version == 1 : h->version == 7 || h->version == 8;
  if (!known) {
    return error_usage(e, "%s: a shard of version %" PRId32 "; expected version %s for the magic %" PRId32,
                       s->name, h->version, h->magic == SHARD_MAGIC_16 ? "1" : "7 or 8", h->magic);
  }
  bool extended = h->version == 8;
  if (extended && !check_extension(h, s->name, V, e)) return false;

  int64_t count = extended ? h->count64 : (int64_t)h->count;
  s->width = h->version == 1 ? 2 : 4;
  int64_t payload = (int64_t)(s->base_bytes - sizeof *h);
  if (payload % s->width != 0 || payload / s->width != count) {
    return error_usage(e,
                       "%s: the header counts %" PRId64 " tokens of %d bytes, but %" PRId64
                       " bytes follow it, %s; copy or write the file again",
                       s->name, count, s->width, payload,
                       payload / s->width < count ? "too few" : "too many");
  }
  s->n = count;
  s->tokens = (const uint8_t *)s->base + sizeof *h;
  if (!extended) return true;
  s->tokenizer_hash = h->tokenizer_hash;
  s->marks = (h->flags & SHARD_HAS_MASKED ? TOKEN_MASKED : 0) |
             (h->flags & SHARD_HAS_DOCUMENTS ? TOKEN_DOCUMENT : 0);
  return h->payload_hash == 0 || check_payload_hash(s, h->payload_hash, e);
}

static bool bad_token(const Shard *s, int64_t index, uint32_t token, int64_t V, Error *e) {
  int64_t offset = (int64_t)(s->tokens - (const uint8_t *)s->base) + index * s->width;
  return error_usage(e,
                     "%s: token %" PRId64 " (at byte %" PRId64 ") is %" PRIu32 ", expected 0 .. %" PRId64
                     " for the model's vocabulary of %" PRId64 "; %s",
                     s->name, index, offset, token, V - 1, V,
                     s->width == 1 ? "text is read as bytes: use a model with V >= 256, or other text"
                                   : "tokenize the data with the model's tokenizer");
}

/* The whole file is text: its bytes are the tokens. */
static bool parse_text(Shard *s, int64_t V, Error *e) {
  s->width = 1;
  s->n = (int64_t)s->base_bytes;
  s->tokens = s->base;
  for (int64_t i = 0; V < 256 && i < s->n; i++) {
    if (s->tokens[i] >= V) return bad_token(s, i, s->tokens[i], V, e);
  }
  return true;
}

static Shard named_shard(const char *name, int64_t V) {
  CHECK(V > 0 && V <= TOKEN_MAX_VOCAB, "vocabulary %" PRId64 " for token files", V);
  Shard s = {.name = strdup(name)};
  CHECK(s.name, "out of memory for a file's name");
  return s;
}

bool shard_open(Shard *s, const char *path, int64_t V, Error *e) {
  *s = named_shard(path, V);
  bool ok = map_file(s, e) && (is_text(path) ? parse_text(s, V, e) : parse_shard(s, V, e));
  if (!ok) shard_close(s);
  return ok;
}

bool shard_from_bytes(Shard *s, const char *name, const uint8_t *bytes, int64_t n, int64_t V, Error *e) {
  *s = named_shard(name, V);
  s->base_bytes = (size_t)n;
  if (n > 0) {
    s->base = malloc((size_t)n);
    CHECK(s->base, "out of memory for %" PRId64 " bytes of text", n);
    memcpy(s->base, bytes, (size_t)n);
  }
  bool ok = parse_text(s, V, e);
  if (!ok) shard_close(s);
  return ok;
}

void shard_close(Shard *s) {
  if (s->mapped)
    munmap(s->base, s->base_bytes);
  else
    free(s->base);
  free(s->name);
  *s = (Shard){0};
}

bool shard_read(const Shard *s, int64_t from, int64_t n, int64_t V, uint32_t *dst, Error *e) {
  CHECK(from >= 0 && n >= 0 && from <= s->n - n, "tokens %" PRId64 " + %" PRId64 " of %" PRId64, from, n,
        s->n);
  if (n == 0) return true; /* an empty file has no address to count from */
  const uint8_t *src = s->tokens + from * s->width;
  switch (s->width) {
  case 1:
    for (int64_t i = 0; i < n; i++) dst[i] = src[i];
    break;
  case 2:
    for (int64_t i = 0; i < n; i++) dst[i] = ((const uint16_t *)src)[i];
    break;
  default: memcpy(dst, src, (size_t)n * 4);
  }
  for (int64_t i = 0; i < n; i++) {
    uint32_t id = dst[i] & ~s->marks;
    if (id >= V) return bad_token(s, from + i, id, V, e);
  }
  return true;
}

/* Writing */

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

/* Fills the header, checking that version and V allow every token. */
static bool make_header(ShardHeader *h, const char *path, int version, const uint32_t *tokens, int64_t n,
                        int64_t V, uint64_t tokenizer_hash, Error *e) {
  bool extended = version == 8;
  if (n > INT32_MAX && !extended) {
    return error_usage(e, "%s: %" PRId64 " tokens in a shard of version %d; at most %d, or version 8", path,
                       n, version, INT32_MAX);
  }
  int64_t limit = version == 1 ? 1 << 16 : TOKEN_MAX_VOCAB;
  if (V > 0 && V < limit) limit = V;
  uint32_t marks = 0;
  for (int64_t i = 0; i < n; i++) {
    uint32_t id = extended ? tokens[i] & TOKEN_ID : tokens[i];
    marks |= extended ? tokens[i] & ~TOKEN_ID : 0;
    if (id >= limit) {
      return error_usage(e,
                         "%s: token %" PRId64 " is %" PRIu32 "; a shard of version %d%s holds 0 .. %" PRId64,
                         path, i, id, version, V > 0 ? " for this vocabulary" : "", limit - 1);
    }
  }
  *h = (ShardHeader){.magic = version == 1 ? SHARD_MAGIC_16 : SHARD_MAGIC_32,
                     .version = version,
                     .count = n <= INT32_MAX ? (uint32_t)n : 0};
  if (!extended) return true;
  h->count64 = n;
  h->V = (int32_t)V;
  h->flags =
      (marks & TOKEN_MASKED ? SHARD_HAS_MASKED : 0) | (marks & TOKEN_DOCUMENT ? SHARD_HAS_DOCUMENTS : 0);
  h->tokenizer_hash = tokenizer_hash;
  h->payload_hash = XXH3_64bits(tokens, (size_t)n * 4);
  return true;
}

bool shard_write(const char *path, int version, const uint32_t *tokens, int64_t n, int64_t V,
                 uint64_t tokenizer_hash, Error *e) {
  CHECK(version == 1 || version == 7 || version == 8, "shard version %d", version);
  CHECK(n >= 0 && V >= 0 && V <= TOKEN_MAX_VOCAB, "%" PRId64 " tokens, V %" PRId64, n, V);
  ShardHeader h;
  if (!make_header(&h, path, version, tokens, n, V, tokenizer_hash, e)) return false;

  char *aside = file_temporary_name(path);
  int fd = file_create(aside, e);
  bool created = fd >= 0;
  bool ok = created && file_write_all(fd, path, &h, sizeof h, e) &&
            (version == 1 ? write_uint16(fd, path, tokens, n, e)
                          : file_write_all(fd, path, tokens, (size_t)n * 4, e));
  if (ok)
    ok = file_publish(fd, aside, path, e);
  else if (created)
    file_discard(fd, aside);
  free(aside);
  return ok;
}
