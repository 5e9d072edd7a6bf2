/* Where a number that is not finite came from. */
#ifndef BLAME_H
#define BLAME_H

#include "llama/model.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { BLAME_TEXT = 256 };

/* For a step whose loss or gradient norm is not finite, before any weight was touched: names the first tensor
 * that is not, in the order in which the step computes: weights, the activations of the forward (which runs
 * again, part by part), the loss, and the gradients that model_forward_backward left, from the head to the
 * embedding. text: "layer 3: the attention's output, micro-batch 2". Where a gradient stopped the step
 * (m->stopped_at), it is the one that is named; call it before the model does anything else. */
void model_blame(Model *m, const StepBatch *step, char text[BLAME_TEXT]);

#ifdef __cplusplus
}
#endif
#endif
