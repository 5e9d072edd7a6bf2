#include "emulator/fatbin.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/error.h"

enum { WRAPPER_MAGIC = 0x466243b1, KIND_PTX = 1, FLAG_LZ4 = 0x2000, FLAG_ZSTD = 0x8000 };
static const uint32_t MAGIC = 0xba55ed50;

typedef struct Wrapper {
  int32_t magic, version;
  const void *data;
  const void *others; /* of programs that are linked on the device, too */
} Wrapper;

typedef struct Header {
  uint32_t magic;
  uint16_t version, bytes;
  uint64_t entries_bytes;
} Header;

typedef struct Entry {
  uint16_t kind, version;
  uint32_t bytes; /* of this header; the payload comes after it */
  uint64_t payload_bytes;
  uint32_t compressed_bytes; /* of the payload, without what fills it up */
  uint32_t options_at;
  uint32_t ptx_version, capability;
  uint32_t name_at, name_bytes;
  uint64_t flags, unknown;
  uint64_t text_bytes; /* that a compressed payload makes */
} Entry;

static char *text_of(const Entry *entry) {
  const char *payload = (const char *)entry + entry->bytes;
  if (!(entry->flags & (FLAG_LZ4 | FLAG_ZSTD))) {
    char *plain = strndup(payload, entry->payload_bytes);
    CHECK(plain, "out of memory for PTX");
    return plain;
  }
  CHECK(entry->flags & FLAG_ZSTD,
        "the PTX in this program is compressed by other means than zstd: build it with nvcc of CUDA 13 and "
        "without --compress-mode=speed, or with --no-compress");
  char *text = malloc(entry->text_bytes + 1);
  CHECK(text, "out of memory for PTX");
  size_t bytes = ZSTD_decompress(text, entry->text_bytes, payload, entry->compressed_bytes);
  CHECK(!ZSTD_isError(bytes), "the PTX in this program cannot be decompressed: %s", ZSTD_getErrorName(bytes));
  text[bytes] = '\0';
  return text;
}

char *fatbin_ptx(const void *wrapper, unsigned capability) {
  const Wrapper *w = wrapper;
  CHECK(w->magic == WRAPPER_MAGIC, "a fat binary with the magic number %x", (unsigned)w->magic);
  const Header *header = w->data;
  CHECK(header->magic == MAGIC && header->version == 1, "a fat binary of version %d with the magic number %x",
        header->version, header->magic);
  const char *at = (const char *)header + header->bytes, *end = at + header->entries_bytes;
  const Entry *best = NULL;
  while (at < end) {
    const Entry *entry = (const Entry *)at;
    if (entry->kind == KIND_PTX && entry->capability <= capability &&
        (!best || entry->capability > best->capability))
      best = entry;
    at += entry->bytes + entry->payload_bytes;
  }
  return best ? text_of(best) : NULL;
}
