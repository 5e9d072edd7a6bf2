/* Softmax cross-entropy over the vocabulary, and its gradient in the logits' own memory. */
#ifndef CROSS_ENTROPY_H
#define CROSS_ENTROPY_H

#include "device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* losses [rows] fp32 = -log softmax(logits[r])[targets[r]], and 0 where targets[r] < 0 (not trained on). */
void cross_entropy_forward(Device *dev, DType dt, float *losses, const void *logits, const int32_t *targets,
                           int64_t rows, int64_t V);

/* The same, and logits [rows, V] become (softmax - onehot(target)) * scale; rows with targets[r] < 0 become
 * exactly zero. */
void cross_entropy_forward_backward(Device *dev, DType dt, float *losses, void *logits,
                                    const int32_t *targets, int64_t rows, int64_t V, float scale);

#ifdef __cplusplus
}
#endif
#endif
