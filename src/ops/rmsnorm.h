/* Root-mean-square norm (arXiv 1910.07467): y = x / sqrt(mean(x^2) + eps) * w, row by row. */
#ifndef RMSNORM_H
#define RMSNORM_H

#include "device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y [rows, n], x [rows, n], w [n], all of type dt; sums in fp32. y may be x. */
void rmsnorm_forward(Device *dev, DType dt, void *y, const void *x, const void *w, int64_t rows, int64_t n,
                     float eps);

/* dx [rows, n] = (accumulate ? dx : 0) + gradient of the input; dw [n] fp32 += gradient of the weight.
 * The row statistics are computed anew from x. dx may be x or dy. Scratch: dev->workspace. */
void rmsnorm_backward(Device *dev, DType dt, void *dx, float *dw, const void *dy, const void *x,
                      const void *w, int64_t rows, int64_t n, float eps, bool accumulate);

#ifdef __cplusplus
}
#endif
#endif
