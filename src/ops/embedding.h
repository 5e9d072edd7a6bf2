/* Token embedding. */
#ifndef EMBEDDING_H
#define EMBEDDING_H

#include "device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out [rows, C] = table [V, C] at tokens [rows]. */
void embedding_forward(Device *dev, DType dt, void *out, const void *table, const int32_t *tokens,
                       int64_t rows, int64_t C);

/* dtable [V, C] fp32 at tokens[r] += dout[r, :], in an order that depends on nothing but the data. */
void embedding_backward(Device *dev, DType dt, float *dtable, const void *dout, const int32_t *tokens,
                        int64_t rows, int64_t C);

#ifdef __cplusplus
}
#endif
#endif
