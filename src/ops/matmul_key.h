/* What a plan of a matrix product on CUDA depends on, and a table that finds the plan again. Host only;
 * private to src/ops/matmul*. */
#ifndef MATMUL_KEY_H
#define MATMUL_KEY_H

#include "ops/matmul.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct MatmulKey {
  int64_t M, N, K;
  int64_t ld_out, ld_a, ld_b;
  int64_t workspace_bytes;
  DType in, out;
  int32_t transpose_a, transpose_b;
  int32_t align_out, align_a,
      align_b;           /* of the rows: a power of two, at most 256; of out, also what is added */
  int32_t deterministic; /* of the device; also, keys are compared as bytes: no gaps */
} MatmulKey;

/* add: what is added to the product, as out is, or NULL. */
MatmulKey matmul_key(const Device *dev, Matrix out, const void *add, Matrix a, bool transpose_a, Matrix b,
                     bool transpose_b, int64_t M, int64_t N, int64_t K);

/* Slots are numbered; what is kept for a key is the caller's, under the number of its slot. */
enum { MATMUL_SLOTS = 512, MATMUL_KEYS = MATMUL_SLOTS * 3 / 4 };
typedef struct MatmulTable {
  MatmulKey keys[MATMUL_SLOTS];
  bool used[MATMUL_SLOTS];
  int count; /* slots used, at most MATMUL_KEYS: searches stay short and end */
} MatmulTable;

/* Slot of the key, or the free one where it belongs; *found says which. */
int matmul_table_find(const MatmulTable *t, const MatmulKey *key, bool *found);
/* Takes the free slot that matmul_table_find gave for the key. */
void matmul_table_take(MatmulTable *t, int slot, const MatmulKey *key);

#ifdef __cplusplus
}
#endif
#endif
