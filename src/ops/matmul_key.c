#include "ops/matmul_key.h"

#include <string.h>

/* The largest power of two, up to 256, that divides the addresses of all rows: that of the first alone would
 * make a difference between rows within a matrix and the same rows by themselves. add: NULL, or another
 * matrix like it. */
static int32_t alignment_of(const Matrix *m, const void *add) {
  uintptr_t bits = (uintptr_t)m->data | (uintptr_t)add | (uintptr_t)m->ld * dtype_size(m->dtype) | 256;
  return (int32_t)(bits & -bits);
}

MatmulKey matmul_key(const Device *dev, Matrix out, const void *add, Matrix a, bool transpose_a, Matrix b,
                     bool transpose_b, int64_t M, int64_t N, int64_t K) {
  return (MatmulKey){.M = M,
                     .N = N,
                     .K = K,
                     .ld_out = out.ld,
                     .ld_a = a.ld,
                     .ld_b = b.ld,
                     .workspace_bytes = (int64_t)dev->workspace_bytes,
                     .in = a.dtype,
                     .out = out.dtype,
                     .deterministic = dev->deterministic,
                     .transpose_a = transpose_a,
                     .transpose_b = transpose_b,
                     .align_out = alignment_of(&out, add),
                     .align_a = alignment_of(&a, NULL),
                     .align_b = alignment_of(&b, NULL)};
}

_Static_assert(sizeof(MatmulKey) == 7 * sizeof(int64_t) + 8 * sizeof(int32_t), "a MatmulKey has gaps");

/* FNV-1a over 32-bit words. */
static uint32_t hash(const MatmulKey *key) {
  uint32_t words[sizeof *key / sizeof(uint32_t)], h = 2166136261u;
  memcpy(words, key, sizeof words);
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) h = (h ^ words[i]) * 16777619u;
  return h ^ h >> 15;
}

int matmul_table_find(const MatmulTable *t, const MatmulKey *key, bool *found) {
  int slot = (int)(hash(key) % MATMUL_SLOTS);
  while (t->used[slot] && memcmp(&t->keys[slot], key, sizeof *key) != 0) slot = (slot + 1) % MATMUL_SLOTS;
  *found = t->used[slot];
  return slot;
}

void matmul_table_take(MatmulTable *t, int slot, const MatmulKey *key) {
  CHECK(!t->used[slot] && t->count < MATMUL_KEYS, "slot %d of %d plans", slot, t->count);
  t->keys[slot] = *key;
  t->used[slot] = true;
  t->count++;
}
