/* The attention of a GPU that is not here: what it would ask of the memory plan. Private to
 * src/ops/attention*. */
#ifndef ATTENTION_PLANNED_H
#define ATTENTION_PLANNED_H

#include "ops/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

size_t attention_planned_forward_workspace(const Device *dev, DType dt, const AttentionShape *s);
size_t attention_planned_backward_workspace(const Device *dev, DType dt, const AttentionShape *s);
size_t attention_planned_list_bytes(const Device *dev, DType dt, const AttentionShape *s);

#ifdef __cplusplus
}
#endif
#endif
