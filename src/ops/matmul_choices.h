/* Algorithms of cublasLt that were chosen by time: found again by what a product depends on, written as text
 * and read back, so that a run that goes on takes those of the run that it goes on from. Host only; private
 * to src/ops/matmul*. */
#ifndef MATMUL_CHOICES_H
#define MATMUL_CHOICES_H

#include "ops/matmul_key.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An algorithm as cublasLt gives it out: bytes that mean something to the same version of the library. */
enum { ALGORITHM_WORDS = 8 };

typedef struct MatmulChoice {
  MatmulKey key;
  uint64_t algorithm[ALGORITHM_WORDS];
  double seconds,
      first_seconds; /* of one product: with this algorithm, with the one that was proposed first */
} MatmulChoice;

/* All zero is an empty one. */
typedef struct MatmulChoices {
  MatmulChoice *list; /* [count], in the order of the products' first use */
  int count, room;
} MatmulChoices;

void matmul_choices_free(MatmulChoices *c);

/* NULL when nothing was chosen for the key. */
const MatmulChoice *matmul_choices_find(const MatmulChoices *c, const MatmulKey *key);
/* In the place of what was chosen for the key before, if anything. */
void matmul_choices_put(MatmulChoices *c, const MatmulChoice *choice);

/* The algorithm to take, by number: the first unless another one is faster than it by more than what
 * measurements differ by. seconds: [count], count > 0; negative = it does not run. -1 when none runs. */
int matmul_choices_fastest(const double *seconds, int count);

/* The choices as text, to be freed. version, device: of the library and the GPU, without which they mean
 * nothing. */
char *matmul_choices_text(const MatmulChoices *c, int64_t version, const char *device);
/* Reads such a text into *c, which is empty. False and an Error, of usage, where it is damaged or was made
 * with another version or device; *c is empty then. */
bool matmul_choices_read(MatmulChoices *c, const char *text, int64_t version, const char *device, Error *e);

#ifdef __cplusplus
}
#endif
#endif
