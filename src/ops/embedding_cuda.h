/* The CUDA half of embedding.h that is not written over a Group; private to src/ops/embedding*. Only in
 * builds with nvcc. */
#ifndef EMBEDDING_CUDA_H
#define EMBEDDING_CUDA_H

#include "device/device.h"

/* embedding_backward() on a CUDA device. */
void embedding_backward_cuda(Device *dev, DType dt, float *dtable, const void *dout, const int32_t *tokens,
                             int64_t rows, int64_t C);

#endif
