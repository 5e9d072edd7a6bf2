#define _GNU_SOURCE /* memmem */
#include "tokenizer/buffer.h"

void bytes_append_replaced(Bytes *b, const void *text, size_t n, const char *from, const char *to) {
  const uint8_t *t = text;
  size_t length = strlen(from), with = strlen(to);
  while (n) {
    const uint8_t *next = memmem(t, n, from, length);
    size_t before = next ? (size_t)(next - t) : n, used = next ? before + length : n;
    bytes_append(b, t, before);
    if (next) bytes_append(b, to, with);
    t += used, n -= used;
  }
}
