/* Growable arrays of bytes and of token ids. Zeroed ones are empty; out of memory panics. */
#ifndef BUFFER_H
#define BUFFER_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

typedef struct Bytes {
  uint8_t *data;
  size_t n, capacity;
} Bytes;

typedef struct Ids {
  uint32_t *data;
  size_t n, capacity;
} Ids;

/* Memory for at least `need` elements of `size` bytes, the old ones kept; doubles what is there. */
static inline void *buffer_grow(void *data, size_t *capacity, size_t need, size_t size) {
  if (need <= *capacity) return data;
  size_t larger = *capacity * 2 > need ? *capacity * 2 : need;
  if (larger < 16) larger = 16;
  void *grown = realloc(data, larger * size);
  CHECK(grown, "out of memory for %zu bytes", larger * size);
  *capacity = larger;
  return grown;
}

static inline void bytes_reserve(Bytes *b, size_t more) {
  b->data = buffer_grow(b->data, &b->capacity, b->n + more, 1);
}

static inline void bytes_append(Bytes *b, const void *data, size_t n) {
  if (n == 0) return;
  bytes_reserve(b, n);
  memcpy(b->data + b->n, data, n);
  b->n += n;
}

/* Appends text [n] with `to` in the place of every `from`, which is not empty. */
void bytes_append_replaced(Bytes *b, const void *text, size_t n, const char *from, const char *to);

static inline void bytes_free(Bytes *b) {
  free(b->data);
  *b = (Bytes){0};
}

static inline void ids_reserve(Ids *i, size_t more) {
  i->data = buffer_grow(i->data, &i->capacity, i->n + more, sizeof *i->data);
}

static inline void ids_append(Ids *i, uint32_t id) {
  ids_reserve(i, 1);
  i->data[i->n++] = id;
}

static inline void ids_free(Ids *i) {
  free(i->data);
  *i = (Ids){0};
}

#endif
