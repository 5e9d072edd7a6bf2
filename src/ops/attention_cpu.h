/* The attention on the CPU; private to src/ops/attention*. See attention.h for the arguments. */
#ifndef ATTENTION_CPU_H
#define ATTENTION_CPU_H

#include "ops/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

size_t attention_cpu_forward_workspace(const Device *dev, DType dt, const AttentionShape *s);
size_t attention_cpu_backward_workspace(const Device *dev, DType dt, const AttentionShape *s);
void attention_cpu_forward(Device *dev, DType dt, void *o, float *lse, Heads q, Heads k, Heads v,
                           const AttentionShape *s, void *workspace);
void attention_cpu_backward(Device *dev, DType dt, Heads dq, Heads dk, Heads dv, const void *dout,
                            const void *o, const float *lse, Heads q, Heads k, Heads v,
                            const AttentionShape *s, void *workspace);

#ifdef __cplusplus
}
#endif
#endif
