/* Matrix products: fp32 accumulation whatever the storage type. */
#ifndef MATMUL_H
#define MATMUL_H

#include "device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A row-major matrix in device memory: element (i, j) at data[i*ld + j]. */
typedef struct Matrix {
  void *data;
  DType dtype;
  int64_t ld;
} Matrix;

/* out [M, N] = op(a) [M, K] * op(b) [K, N] + add [M, N]; op transposes where the flag says so (the matrix is
 * then stored as [K, M] or [N, K]). a and b have one type; out may be fp32 or that type, and is rounded once.
 * add: of out's type and ld, or NULL for 0; it may be out.data itself, but not overlap with it otherwise.
 * M, N, K >= 0. Scratch: dev->workspace. */
void matmul(Device *dev, Matrix out, Matrix a, bool transpose_a, Matrix b, bool transpose_b, int64_t M,
            int64_t N, int64_t K, const void *add);

/* Rate of the product of two matrices of type dt into a third, in FLOP/s, measured over about `seconds` on
 * square matrices that it allocates: the best. per_cpu_second, where it is given: the same for a second that
 * one processor works for this process, which other processes hardly change; the mean. */
double matmul_measure_rate(Device *dev, DType dt, double seconds, double *per_cpu_second);

#ifdef __cplusplus
}
#endif
#endif
