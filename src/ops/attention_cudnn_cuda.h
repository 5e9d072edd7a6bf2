/* cuDNN's attention on a CUDA device; private to src/ops/attention*. Only in builds with nvcc. See
 * attention.h for the arguments. */
#ifndef ATTENTION_CUDNN_CUDA_H
#define ATTENTION_CUDNN_CUDA_H

#include "ops/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Makes the plans of the forward and, when training, of the backward; of a deterministic device only those of
 * the forward. False where a call is not for cuDNN, or there is none; the first line of *why can stand alone.
 */
bool attention_cudnn_prepare(Device *dev, DType dt, const AttentionShape *s, const AttentionStrides *ld,
                             bool training, Error *why);

/* Whether they were made: no call of another shape is for cuDNN. */
bool attention_cudnn_prepared(const Device *dev, DType dt, const AttentionShape *s);

/* Of shapes that were prepared. */
size_t attention_cudnn_forward_workspace(const Device *dev, DType dt, const AttentionShape *s);
size_t attention_cudnn_backward_workspace(const Device *dev, DType dt, const AttentionShape *s);
size_t attention_cudnn_list_bytes(const Device *dev, DType dt, const AttentionShape *s);
void attention_cudnn_cuda_forward(Device *dev, DType dt, void *o, float *lse, Heads q, Heads k, Heads v,
                                  const AttentionShape *s, void *workspace);
void attention_cudnn_cuda_backward(Device *dev, DType dt, Heads dq, Heads dk, Heads dv, const void *dout,
                                   const void *o, const float *lse, Heads q, Heads k, Heads v,
                                   const AttentionShape *s, void *workspace);

#ifdef __cplusplus
}
#endif
#endif
