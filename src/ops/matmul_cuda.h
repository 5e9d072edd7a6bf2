/* The CUDA half of matmul.h; private to src/ops/matmul*. Only in builds with nvcc. */
#ifndef MATMUL_CUDA_H
#define MATMUL_CUDA_H

#include "ops/matmul.h"

#ifdef __cplusplus
extern "C" {
#endif

/* matmul() on a CUDA device; the types have been checked, M and N are positive. */
void matmul_cuda(Device *dev, Matrix out, Matrix a, bool transpose_a, Matrix b, bool transpose_b, int64_t M,
                 int64_t N, int64_t K, const void *add);

#ifdef __cplusplus
}
#endif
#endif
