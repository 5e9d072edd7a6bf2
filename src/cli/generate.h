/* What a model writes: --generate, and the samples of a training run. */
#ifndef GENERATE_H
#define GENERATE_H

#include "cli/run.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All that --generate does: opens the model, prints the prompt and what the model goes on with. run_close
 * comes after either result. */
bool generate_run(Run *r, Error *e);

/* Whether the tokens that a run with samples trains on can become text. For run_open. */
bool generate_check_samples(Run *r, Error *e);

/* Prints what the model writes after the beginning of a text of the kind that it is trained on. An Error of
 * the data that the prompt is read from. */
bool generate_sample(Run *r, Error *e);

#ifdef __cplusplus
}
#endif
#endif
