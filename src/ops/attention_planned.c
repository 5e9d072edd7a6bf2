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

/* In training cuDNN takes a shape as a whole or not at all. */
static bool is_for_cudnn(const Device *dev, DType dt, const AttentionShape *s) {
  Error why;
  AttentionCall forward = call_of(s, false), backward = call_of(s, true);
  return attention_cudnn_supports(dev->capability, dt, &forward, dev->deterministic, &why) &&
         attention_cudnn_supports(dev->capability, dt, &backward, dev->deterministic, &why);
}

size_t attention_planned_forward_workspace(const Device *dev, DType dt, const AttentionShape *s) {
  AttentionCall call = call_of(s, false);
  return is_for_cudnn(dev, dt, s) ? attention_cudnn_workspace(dev->capability, &call) : 0;
}

size_t attention_planned_backward_workspace(const Device *dev, DType dt, const AttentionShape *s) {
  AttentionCall call = call_of(s, true);
  size_t delta = (size_t)(s->B * s->NH * s->T) * sizeof(float); /* of the own kernels: a number a row */
  return is_for_cudnn(dev, dt, s) ? attention_cudnn_workspace(dev->capability, &call) : delta;
}

size_t attention_planned_list_bytes(const Device *dev, DType dt, const AttentionShape *s) {
  return s->packed && is_for_cudnn(dev, dt, s) ? attention_document_list_bytes(s) : 0;
}
