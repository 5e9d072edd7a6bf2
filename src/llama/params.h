/* The parameter table: every tensor of the model, once. It drives allocation, initial values, Hugging Face
 * names, weight decay, the printed table and the tests; nothing else states these facts.
 *
 * Parameters come in units: layer 0 .. L-1, then the embedding (unit L), then the final norm and the LM head
 * (unit L+1). A unit is one buffer of the memory plan for its weights, one for its gradients, and so on;
 * `offset` is where a tensor begins in it. The scales of 8-bit moments, one for so many elements of a Hugging
 * Face tensor, have buffers of a unit too; `block` is where a slice's begin. */
#ifndef PARAMS_H
#define PARAMS_H

#include <stdio.h>

#include "llama/config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum Init { INIT_NORMAL, INIT_ONE, INIT_ZERO } Init;

/* A range of a tensor's rows that is a tensor of its own in Hugging Face files. */
typedef struct HfSlice {
  const char *name; /* "%d" stands for the layer */
  int64_t row, rows;
  int64_t block, blocks; /* of 8-bit moments: the first in its unit, and how many */
} HfSlice;

enum { PARAM_SLICES = 3 };

typedef struct ParamSpec {
  const char *name;
  int64_t rows,
      cols; /* [rows, cols], or [rows] with cols = 1 where dims is 1; rows = 0: the model has none */
  int dims;
  Init init;
  double std;     /* of INIT_NORMAL */
  bool decay;     /* weight decay applies: matrices, not norms and biases */
  int64_t offset; /* first element in its unit */
  int slice_count;
  HfSlice slices[PARAM_SLICES];
} ParamSpec;

/* Index of a layer's parameters. */
enum {
  P_NORM1,
  P_QKV, /* rows: NH*HS of queries, NKV*HS of keys, NKV*HS of values */
  P_QKV_BIAS,
  P_Q_NORM,
  P_K_NORM,
  P_O,
  P_O_BIAS,
  P_NORM2,
  P_GATE_UP, /* rows: FF of the gate, FF of the up projection */
  P_GATE_UP_BIAS,
  P_DOWN,
  P_DOWN_BIAS,
  P_LAYER_COUNT,
};
/* Index within the embedding's unit. */
enum { P_EMBEDDING, P_EMBEDDING_COUNT };
/* Index within the last unit; a tied model has no head of its own. */
enum { P_NORM_FINAL, P_HEAD, P_FINAL_COUNT };

typedef struct ParamTable {
  int64_t L;
  ParamSpec layer[P_LAYER_COUNT];
  ParamSpec embedding[P_EMBEDDING_COUNT];
  ParamSpec final[P_FINAL_COUNT];
  int64_t layer_elements, embedding_elements, final_elements; /* of a unit's buffer, padding included */
  int64_t layer_blocks, embedding_blocks, final_blocks;       /* of 8-bit moments in a unit */
} ParamTable;

void params_table(ParamTable *t, const Config *c);

static inline int64_t params_units(const ParamTable *t) {
  return t->L + 2;
}
static inline int64_t params_embedding_unit(const ParamTable *t) {
  return t->L;
}
static inline int64_t params_final_unit(const ParamTable *t) {
  return t->L + 1;
}

/* The tensors of a unit, `*count` of them (absent ones have rows = 0). */
const ParamSpec *params_of_unit(const ParamTable *t, int64_t unit, int *count);
int64_t params_unit_elements(const ParamTable *t, int64_t unit);
/* Blocks of 8-bit moments in a unit. */
int64_t params_unit_blocks(const ParamTable *t, int64_t unit);

/* Identifies a tensor for the random numbers that belong to it. */
int64_t params_id(int64_t unit, int index);

/* The table for people: a line a tensor, with its shape and what becomes of it. */
void params_print(FILE *f, const ParamTable *t);

/* The Hugging Face name of a slice. Returns buf. */
const char *params_hf_name(char buf[128], const HfSlice *s, int64_t unit);

#ifdef __cplusplus
}
#endif
#endif
