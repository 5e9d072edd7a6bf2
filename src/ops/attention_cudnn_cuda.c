#include "ops/attention_cudnn_cuda.h"

#include <stdlib.h>

#include "device/device_cuda.h"      /* defines: CudaDevice, cuda_fail */
#include "ops/attention_cudnn.h"     /* defines: AttentionCudnn, AttentionPlan */
#include "ops/attention_documents.h" /* defines: attention_document_list_bytes */

/* What the device keeps: the library, or why there is none. */
typedef struct Library {
  AttentionCudnn *cudnn;
  Error missing;
} Library;

static void close_library(void *data) {
  Library *l = data;
  attention_cudnn_close(l->cudnn);
  free(l);
}

static AttentionCudnn *open_once(Device *dev, Error *why) {
  DeviceExtra *extra = &dev->extra[EXTRA_ATTENTION];
  if (!extra->data) {
    Library *l = calloc(1, sizeof *l);
    CHECK(l, "out of memory for cuDNN");
    l->cudnn = attention_cudnn_open(dev->stream, &l->missing);
    *extra = (DeviceExtra){l, close_library};
  }
  const Library *l = extra->data;
  if (!l->cudnn) *why = l->missing;
  return l->cudnn;
}

bool attention_cudnn_prepare(Device *dev, DType dt, const AttentionShape *s, const AttentionStrides *ld,
                             bool training, Error *why) {
  AttentionCall calls[] = {{*s, *ld, false}, {*s, *ld, true}};
  int count = training && !dev->deterministic ? 2 : 1; /* no backward gives the same bits from every run */
  for (int i = 0; i < count; i++)
    if (!attention_cudnn_supports(dev->capability, dt, &calls[i], dev->deterministic, why)) return false;
  AttentionCudnn *cudnn = open_once(dev, why);
  if (!cudnn) return false;
  /* the forward last: attention_cudnn_prepared() looks for it */
  for (int i = count - 1; i >= 0; i--)
    if (!attention_cudnn_plan(cudnn, &calls[i], why)) return false;
  return true;
}

static AttentionCudnn *library_of(const Device *dev) {
  const Library *l = dev->extra[EXTRA_ATTENTION].data;
  return l ? l->cudnn : NULL;
}

bool attention_cudnn_prepared(const Device *dev, DType dt, const AttentionShape *s) {
  AttentionCudnn *cudnn = library_of(dev);
  return cudnn && dt == DT_BF16 && attention_cudnn_find(cudnn, s, false);
}

static const AttentionPlan *plan_of(const Device *dev, const AttentionShape *s, bool backward) {
  const AttentionPlan *plan = attention_cudnn_find(library_of(dev), s, backward);
  CHECK(plan, "attention: no plan for %lld tokens", (long long)s->T);
  return plan;
}

size_t attention_cudnn_forward_workspace(const Device *dev, DType dt, const AttentionShape *s) {
  (void)dt;
  return attention_plan_workspace(plan_of(dev, s, false));
}

size_t attention_cudnn_backward_workspace(const Device *dev, DType dt, const AttentionShape *s) {
  (void)dt;
  return attention_plan_workspace(plan_of(dev, s, true));
}

size_t attention_cudnn_list_bytes(const Device *dev, DType dt, const AttentionShape *s) {
  (void)dev, (void)dt;
  return s->packed ? attention_document_list_bytes(s) : 0;
}

void attention_cudnn_cuda_forward(Device *dev, DType dt, void *o, float *lse, Heads q, Heads k, Heads v,
                                  const AttentionShape *s, void *workspace) {
  (void)dt;
  Error e = {0};
  if (!attention_cudnn_forward(library_of(dev), dev, plan_of(dev, s, false), o, lse, q, k, v, s, workspace,
                               &e))
    cuda_fail(dev, "the attention", e.text);
}

void attention_cudnn_cuda_backward(Device *dev, DType dt, Heads dq, Heads dk, Heads dv, const void *dout,
                                   const void *o, const float *lse, Heads q, Heads k, Heads v,
                                   const AttentionShape *s, void *workspace) {
  (void)dt;
  Error e = {0};
  if (!attention_cudnn_backward(library_of(dev), dev, plan_of(dev, s, true), dq, dk, dv, dout, o, lse, q, k,
                                v, s, workspace, &e))
    cuda_fail(dev, "the gradient of the attention", e.text);
}
