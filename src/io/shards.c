#include "io/shards.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define XXH_INLINE_ALL
#include <xxhash.h> // XXH3_64bits, XXH3_state_t

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "shards are little-endian and are read as they are"
#endif
_Static_assert(sizeof(ShardHeader) == 1024, "a shard's header is 256 int32");
_Static_assert(offsetof(ShardHeader, payload_hash) == 10 * 4, "the slots have no gaps");

/* Reading */

static bool is_text(const char *path) {
  const char *slash = strrchr(path, '/');
  const char *dot = strrchr(slash ? slash : path, '.');
  return dot && (!strcasecmp(dot, ".txt") || !strcasecmp(dot, ".md") || !strcasecmp(dot, ".text"));
}

static bool read_bytes(Shard *s, int64_t at, void *dst, int64_t bytes, Error *e) {
  if (!s->memory) return watched_read(&s->file, s->pool, at, dst, bytes, e);
  memcpy(dst, s->memory + at, (size_t)bytes);
  return true;
}

enum { PIECE = 1 << 16 }; /* bytes, of what is read in pieces */

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

/* Hashes bytes [from, to) of the file. */
static bool hash_bytes(Shard *s, int64_t from, int64_t to, uint64_t *hash, Error *e) {
  uint8_t piece[PIECE];
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  while (from < to) {
    int64_t m = to - from < PIECE ? to - from : PIECE;
    if (!read_bytes(s, from, piece, m, e)) return false;
    XXH3_64bits_update(&state, piece, (size_t)m);
    from += m;
  }
  *hash = XXH3_64bits_digest(&state);
  return true;
}

/* A corrupt shard must be refused before training, not met in the middle of it. */
static bool check_payload_hash(Shard *s, uint64_t expected, Error *e) {
  if (!hash_bytes(s, s->payload_at, s->bytes, &s->content_hash, e)) return false;
  if (s->content_hash == expected) return true;
  return error_usage(e,
                     "%s: the tokens' hash is %016" PRIx64 ", but the header says %016" PRIx64
                     ": the file is damaged; copy or write it again",
                     s->name, s->content_hash, expected);
}

/* What tells two files without a payload hash apart, without reading all of them. */
static bool sample_content(Shard *s, Error *e) {
  int64_t end = s->payload_at + PIECE < s->bytes ? s->payload_at + PIECE : s->bytes;
  int64_t tail = s->bytes - PIECE > end ? s->bytes - PIECE : end;
  uint64_t hashes[2];
  if (!hash_bytes(s, s->payload_at, end, &hashes[0], e) || !hash_bytes(s, tail, s->bytes, &hashes[1], e))
    return false;
  s->content_hash = XXH3_64bits(hashes, sizeof hashes);
  return true;
}

static bool parse_shard(Shard *s, int64_t V, Error *e) {
  if (s->bytes < (int64_t)sizeof(ShardHeader)) {
    return error_usage(e,
                       "%s: %" PRId64 " bytes, less than a shard's header of %zu; expected a token shard, or "
                       "text under a name that ends in .txt, .md or .text",
                       s->name, s->bytes, sizeof(ShardHeader));
  }
  ShardHeader header;
  const ShardHeader *h = &header;
  if (!read_bytes(s, 0, &header, sizeof header, e)) return false;
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
  s->version = h->version;
  s->width = h->version == 1 ? 2 : 4;
  s->payload_at = sizeof *h;
  int64_t payload = s->bytes - s->payload_at;
  if (payload % s->width != 0 || payload / s->width != count) {
    return error_usage(e,
                       "%s: the header counts %" PRId64 " tokens of %d bytes, but %" PRId64
                       " bytes follow it, %s; copy or write the file again",
                       s->name, count, s->width, payload,
                       payload / s->width < count ? "too few" : "too many");
  }
  s->n = count;
  if (!extended) return sample_content(s, e);
  s->tokenizer_hash = h->tokenizer_hash;
  s->marks = (h->flags & SHARD_HAS_MASKED ? TOKEN_MASKED : 0) |
             (h->flags & SHARD_HAS_DOCUMENTS ? TOKEN_DOCUMENT : 0);
  return h->payload_hash ? check_payload_hash(s, h->payload_hash, e) : sample_content(s, e);
}

static bool bad_token(const Shard *s, int64_t index, uint32_t token, int64_t V, Error *e) {
  int64_t offset = s->payload_at + index * s->width;
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
  s->n = s->bytes;
  return shard_check_tokens(s, V, e) && sample_content(s, e);
}

static Shard named_shard(const char *name, int64_t V) {
  CHECK(V > 0 && V <= TOKEN_MAX_VOCAB, "vocabulary %" PRId64 " for token files", V);
  Shard s = {.name = strdup(name), .file.fd = -1, .document_token = -1};
  CHECK(s.name, "out of memory for a file's name");
  return s;
}

bool shard_open(Shard *s, OpenFiles *pool, const char *path, int64_t V, Error *e) {
  *s = named_shard(path, V);
  s->pool = pool;
  bool ok = watched_open(&s->file, pool, s->name, e);
  s->bytes = s->file.bytes;
  ok = ok && (is_text(path) ? parse_text(s, V, e) : parse_shard(s, V, e));
  if (!ok) shard_close(s);
  return ok;
}

bool shard_from_bytes(Shard *s, const char *name, const uint8_t *bytes, int64_t n, int64_t V, Error *e) {
  *s = named_shard(name, V);
  s->bytes = n;
  s->memory = malloc((size_t)n + 1); /* never NULL, which means a file */
  CHECK(s->memory, "out of memory for %" PRId64 " bytes of text", n);
  if (n > 0) memcpy(s->memory, bytes, (size_t)n);
  bool ok = parse_text(s, V, e);
  if (!ok) shard_close(s);
  return ok;
}

void shard_close(Shard *s) {
  watched_close(&s->file, s->pool);
  free(s->memory);
  free(s->name);
  *s = (Shard){.file.fd = -1};
}

/* Narrow tokens at the end of dst become dst [n]: from the front on, none is overwritten before it is read.
 */
static void widen(uint32_t *dst, int64_t n, int width) {
  const uint8_t *src = (const uint8_t *)dst + n * (4 - width);
  for (int64_t i = 0; i < n; i++) {
    uint32_t token = 0;
    memcpy(&token, src + i * width, width == 1 ? 1 : 2);
    dst[i] = token;
  }
}

bool shard_read(Shard *s, int64_t from, int64_t n, int64_t V, uint32_t *dst, Error *e) {
  CHECK(from >= 0 && n >= 0 && from <= s->n - n, "tokens %" PRId64 " + %" PRId64 " of %" PRId64, from, n,
        s->n);
  uint8_t *to = (uint8_t *)dst + n * (4 - s->width);
  if (!read_bytes(s, s->payload_at + from * s->width, to, n * s->width, e)) return false;
  if (s->width < 4) widen(dst, n, s->width);
  for (int64_t i = 0; i < n; i++) {
    uint32_t id = dst[i] & ~s->marks;
    if (id >= V) return bad_token(s, from + i, id, V, e);
    if (id == s->document_token) dst[i] |= TOKEN_DOCUMENT;
  }
  return true;
}

bool shard_mark_documents(Shard *s, int64_t bos, int64_t token, Error *e) {
  bool marked = s->marks & TOKEN_DOCUMENT;
  if (!marked) s->document_token = token < 0 && (s->version == 1 || s->version == 7) ? bos : token;
  if (marked || s->version == 8 || s->document_token >= 0)
    return true; /* one shard of many may have no start */
  return error_usage(e,
                     "%s: --pack finds no documents in it: %s.\nGive --document-token ID, the token that "
                     "starts a document, or shards that ./tokenize wrote, or leave --pack out.",
                     s->name,
                     s->version
                         ? "a shard of this version does not mark them, and the model's config names no BOS"
                         : "text that is read as bytes is one piece");
}

/* The first token from `at` on that is not in a hole of the file; those in holes are 0. */
static int64_t next_data(Shard *s, int64_t at) {
  if (s->memory || at >= s->n) return at;
  int64_t byte = s->payload_at + at * s->width, next = watched_next_data(&s->file, s->pool, byte);
  return next > byte ? (next - s->payload_at) / s->width : at;
}

bool shard_check_tokens(Shard *s, int64_t V, Error *e) {
  bool looks_for_documents = s->document_token >= 0;
  if (s->width < 4 && V >= (int64_t)1 << 8 * s->width && !looks_for_documents)
    return true; /* it cannot hold a larger one */
  uint32_t piece[PIECE / 4];
  int64_t m;
  for (int64_t at = next_data(s, 0); at < s->n; at = next_data(s, at + m)) {
    m = s->n - at < PIECE / 4 ? s->n - at : PIECE / 4;
    if (!shard_read(s, at, m, V, piece, e)) return false;
    for (int64_t i = 0; i < m; i++) s->has_documents |= (piece[i] & TOKEN_DOCUMENT) != 0;
  }
  return true;
}
