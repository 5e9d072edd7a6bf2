/* AdamW (arXiv 1711.05101), as torch.optim.AdamW computes it. */
#ifndef ADAMW_H
#define ADAMW_H

#include "device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What is the same for all tensors of an update. */
typedef struct AdamW {
  double lr, beta1, beta2, eps, weight_decay;
  int64_t step;     /* 1 for the first update: bias correction, and key of the random rounding */
  float grad_scale; /* factor of every gradient: the clipping coefficient, 1 without clipping */
  uint64_t seed;    /* key of the random rounding */
} AdamW;

/* Elements of 8-bit moments that share a scale; the last block of a tensor may be shorter. */
enum { MOMENT_BLOCK = 256 };

typedef struct AdamWTensor {
  void *param; /* [n] of type dtype */
  DType dtype;
  float *master;     /* [n] fp32 copy that is updated in param's stead, then rounded to nearest; or NULL */
  const float *grad; /* [n] fp32 */
  void *m, *v;       /* [n] first and second moment, of type moments */
  DType moments;     /* fp32, bf16, or U8: codes of the dynamic map, times the block's scale */
  float *m_absmax, *v_absmax; /* [n / MOMENT_BLOCK, rounded up] the scales, with 8-bit moments; else NULL */
  int64_t n;
  bool decay;    /* weight_decay applies */
  int64_t id;    /* identifies the tensor in the random rounding: the same on every device and layout */
  int64_t first; /* index of element 0 within that tensor, when this is a slice of it */
} AdamWTensor;

/* One update of `count` tensors, as many as ADAMW_TENSORS, of the same types: in one pass on a GPU. In fp32;
 * bf16 params without a master, and bf16 and 8-bit moments, are rounded stochastically with randomness that
 * depends on (seed, step, id, element) only, so that slicing, resuming and devices agree: nearest rounding
 * would freeze v when gradients fall. With 8-bit moments element 0 begins a block, whatever `first` says.
 * Bytes of zero are zero moments. */
enum { ADAMW_TENSORS = 24 };
void adamw_update(Device *dev, const AdamWTensor *t, int count, const AdamW *a);

/* Sum of the squares of x [n] of type dt, in double, the same for any number of threads; finite exactly when
 * every x is. Scratch: dev->workspace. */
double sum_of_squares(Device *dev, const void *x, DType dt, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
