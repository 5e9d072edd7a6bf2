/* The choice of a product's algorithm by time, on a device that has several: a GPU. On the CPU all of this
 * does nothing. */
#ifndef MATMUL_TUNE_H
#define MATMUL_TUNE_H

#include "ops/matmul_choices.h" /* defines: MatmulChoices */

#ifdef __cplusplus
extern "C" {
#endif

enum { TUNE_CANDIDATES = 64 }; /* at most */

/* What a device keeps of it. */
typedef struct MatmulTuning {
  int candidates; /* algorithms to be timed for each new product; 0 = it takes the one proposed first */
  int timed;      /* products whose algorithm was chosen by time */
  int refused;    /* choices that were read, and that the library does not run any more */
  MatmulChoices choices;
} MatmulTuning;

/* From now on, until it is called with 0: of every product that the device has not computed before, as many
 * of the algorithms that the library proposes are timed on its operands, which spoils the result, and the
 * fastest computes such products for as long as the device is open. A choice that was read is taken
 * without timing. */
void matmul_tune(Device *dev, int candidates);

/* What was chosen so far, by time or by reading, as text; to be freed. NULL when there is nothing. */
char *matmul_tune_text(const Device *dev);
/* Takes over what such a text says. False and an Error, of usage, where it is damaged, or of another GPU or
 * version of the library; nothing is taken over then. */
bool matmul_tune_read(Device *dev, const char *text, Error *e);

/* The device's, made when it is first asked for; private to src/ops/matmul*, but for the counts. */
MatmulTuning *matmul_tuning(Device *dev);

#ifdef __cplusplus
}
#endif
#endif
