#include "tokenizer/vocab.h"

#define XXH_INLINE_ALL
#include <xxhash.h> // XXH3_64bits

/* The slot that holds the text, or the free one where it belongs. */
static size_t find_slot(const Vocab *v, const void *text, size_t n) {
  size_t mask = v->slot_count - 1, i = XXH3_64bits(text, n) & mask;
  for (; v->slots[i]; i = (i + 1) & mask) {
    const TokenText *t = &v->tokens[v->slots[i] - 1];
    if (t->n == n && memcmp(v->text.data + t->at, text, n) == 0) return i;
  }
  return i;
}

static void grow_slots(Vocab *v) {
  uint32_t *old = v->slots;
  size_t old_count = v->slot_count;
  v->slot_count = old_count ? old_count * 2 : 1024;
  v->slots = calloc(v->slot_count, sizeof *v->slots);
  CHECK(v->slots, "out of memory for %zu tokens", v->slot_count);
  for (size_t i = 0; i < old_count; i++) {
    if (!old[i]) continue;
    const TokenText *t = &v->tokens[old[i] - 1];
    v->slots[find_slot(v, v->text.data + t->at, t->n)] = old[i];
  }
  free(old);
}

bool vocab_add(Vocab *v, const void *text, size_t n, uint32_t id) {
  CHECK(id < VOCAB_MOST && v->text.n + n <= UINT32_MAX, "token %u of %zu bytes", id, n);
  if ((v->count + 1) * 2 > v->slot_count) grow_slots(v);
  size_t slot = find_slot(v, text, n);
  if (v->slots[slot] || (id < v->V && v->tokens[id].there)) return false;
  v->tokens = buffer_grow(v->tokens, &v->capacity, (size_t)id + 1, sizeof *v->tokens);
  for (; v->V <= id; v->V++) v->tokens[v->V] = (TokenText){0};
  v->tokens[id] = (TokenText){(uint32_t)v->text.n, (uint32_t)n, true, false};
  bytes_append(&v->text, text, n);
  v->slots[slot] = id + 1;
  v->count++;
  if (n > v->longest) v->longest = n;
  return true;
}

int64_t vocab_find(const Vocab *v, const void *text, size_t n) {
  if (n > v->longest || v->slot_count == 0) return -1;
  return (int64_t)v->slots[find_slot(v, text, n)] - 1;
}

const uint8_t *vocab_text(const Vocab *v, uint32_t id, size_t *n) {
  if (id >= v->V || !v->tokens[id].there) return NULL;
  *n = v->tokens[id].n;
  return v->text.data + v->tokens[id].at;
}

void vocab_free(Vocab *v) {
  bytes_free(&v->text);
  free(v->tokens);
  free(v->slots);
  *v = (Vocab){0};
}
