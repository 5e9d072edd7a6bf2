#include "ops/attention_planned.h"

#include "ops/attention_cudnn.h"
#include "ops/attention_documents.h" /* defines: attention_document_list_bytes */

static AttentionCall call_of(const AttentionShape *s, bool backward) {
  int64_t qkv =
      (s->NH + 2 * s->NKV) * s->HS; /* any strides that cuDNN takes: they do not change the workspace */
  return (AttentionCall){.shape = *s,
                         .ld = {.q = qkv, .k = qkv, .v = qkv, .dq = qkv, .dk = qkv, .dv = qkv},
                         .backward = backward};
}

static bool supports(const Device *dev, DType dt, const AttentionShape *s, bool backward) {
  Error why;
  AttentionCall call = call_of(s, backward);
  return attention_cudnn_supports(dev->capability, dt, &call, dev->deterministic, &why);
}

/* In training cuDNN takes a shape as a whole or not at all; of a deterministic device the forward alone. */
static bool is_for_cudnn(const Device *dev, DType dt, const AttentionShape *s, bool backward) {
  return supports(dev, dt, s, false) && ((!backward && dev->deterministic) || supports(dev, dt, s, true));
}

size_t attention_planned_forward_workspace(const Device *dev, DType dt, const AttentionShape *s) {
  AttentionCall call = call_of(s, false);
  return is_for_cudnn(dev, dt, s, false) ? attention_cudnn_workspace(dev->capability, &call) : 0;
}

size_t attention_planned_backward_workspace(const Device *dev, DType dt, const AttentionShape *s) {
  AttentionCall call = call_of(s, true);
  size_t delta = (size_t)(s->B * s->NH * s->T) * sizeof(float); /* of the own kernels: a number a row */
  return is_for_cudnn(dev, dt, s, true) ? attention_cudnn_workspace(dev->capability, &call) : delta;
}

size_t attention_planned_list_bytes(const Device *dev, DType dt, const AttentionShape *s) {
  return s->packed && is_for_cudnn(dev, dt, s, true) ? attention_document_list_bytes(s) : 0;
}
