/* A linear layer: the only way to a matrix product with a parameter. Adapters and scales hook in here. */
#ifndef LINEAR_H
#define LINEAR_H

#include "device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Linear {
  const char *name;   /* in a profile; a literal */
  int64_t in, out;    /* widths */
  const void *weight; /* [out, in] */
  const void *bias;   /* [out] or NULL */
  float *dweight;     /* [out, in] fp32, or NULL where no gradient is wanted */
  float *dbias;       /* [out] fp32 or NULL */
} Linear;

/* y [rows, out] = x [rows, in] * weight^T + bias + add [rows, out]. Rows are contiguous. add: NULL for 0; it
 * may be y. */
void linear_forward(Device *dev, DType dt, const Linear *l, void *y, const void *x, int64_t rows,
                    const void *add);
/* dx [rows, in] = dy [rows, out] * weight. */
void linear_backward_input(Device *dev, DType dt, const Linear *l, void *dx, const void *dy, int64_t rows);
/* dweight += dy^T * x, dbias += column sums of dy: accumulated in fp32. Nothing when dweight is NULL. */
void linear_backward_weight(Device *dev, DType dt, const Linear *l, const void *dy, const void *x,
                            int64_t rows);

#ifdef __cplusplus
}
#endif
#endif
