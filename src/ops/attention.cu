/* Which implementation of the attention takes a shape. */
#include "device/profile.h"
#include "ops/attention_cpu.h"
#include "ops/attention_planned.h"
#ifdef __CUDACC__
#include "ops/attention_cudnn_cuda.h"
#include "ops/attention_flash.h"
#endif

static const AttentionMethod own_cpu = {
    "own (cpu)", attention_cpu_forward_workspace, attention_cpu_backward_workspace,
    NULL,        attention_cpu_forward,           attention_cpu_backward};

/* Of a GPU that is not here: it can be planned with, not called. */
static const AttentionMethod planned = {"planned",
                                        attention_planned_forward_workspace,
                                        attention_planned_backward_workspace,
                                        attention_planned_list_bytes,
                                        NULL,
                                        NULL};

#ifdef __CUDACC__
static const AttentionMethod own_cuda = {
    "own (cuda)", attention_flash_forward_workspace, attention_flash_backward_workspace,
    NULL,         attention_flash_forward,           attention_flash_backward};

static const AttentionMethod cudnn = {"cuDNN",
                                      attention_cudnn_forward_workspace,
                                      attention_cudnn_backward_workspace,
                                      attention_cudnn_list_bytes,
                                      attention_cudnn_cuda_forward,
                                      attention_cudnn_cuda_backward};

/* Where the same bits are wanted from every run. */
static const AttentionMethod cudnn_forward = {"cuDNN (forward), own (cuda) (backward)",
                                              attention_cudnn_forward_workspace,
                                              attention_flash_backward_workspace,
                                              NULL,
                                              attention_cudnn_cuda_forward,
                                              attention_flash_backward};

/* A batch with more documents than cuDNN's plan has room for is for the own kernels, whose workspace is the
 * smaller one. */
static const AttentionMethod *choose_cuda(const Device *dev, DType dt, const AttentionShape *s, Error *e) {
  bool room = !s->packed || s->documents <= attention_documents_room(s);
  if (room && attention_cudnn_prepared(dev, dt, s)) return dev->deterministic ? &cudnn_forward : &cudnn;
  if (s->HS <= FLASH_MOST_HS) return &own_cuda;
  error_usage(e, "heads of %lld numbers, expected at most %d on a GPU.\nUse --device cpu.", (long long)s->HS,
              FLASH_MOST_HS);
  return NULL;
}
#endif

const AttentionMethod *attention_choose(const Device *dev, DType dt, const AttentionShape *s, Error *e) {
  CHECK(dt == DT_FP32 || dt == DT_BF16, "attention: not in %s", dtype_name(dt));
  CHECK(s->B >= 0 && s->T >= 0 && s->HS > 0 && s->NKV > 0 && s->NH % s->NKV == 0 && s->window >= 0,
        "attention: %lld query heads on %lld key/value heads of %lld, window %lld", (long long)s->NH,
        (long long)s->NKV, (long long)s->HS, (long long)s->window);
  if (dev->planned) return &planned;
#ifdef __CUDACC__
  if (dev->kind == DEVICE_CUDA) return choose_cuda(dev, dt, s, e);
#endif
  (void)dev, (void)e;
  return &own_cpu;
}

bool attention_prepare(Device *dev, DType dt, const AttentionShape *s, const AttentionStrides *ld,
                       bool training, Error *why) {
  if (dev->planned) return error_usage(why, "a plan needs no plans of cuDNN");
#ifdef __CUDACC__
  if (dev->kind == DEVICE_CUDA) return attention_cudnn_prepare(dev, dt, s, ld, training, why);
#endif
  (void)dev, (void)dt, (void)s, (void)ld, (void)training;
  return error_usage(why, "the CPU needs no plans");
}

/* The documents have to be there by the time of a call. */
static void check_documents(const AttentionShape *s) {
  CHECK(s->packed == (s->starts != NULL), "attention: documents without starts, or starts without documents");
}

static const AttentionMethod *chosen(const Device *dev, DType dt, const AttentionShape *s) {
  Error e = {};
  const AttentionMethod *m = attention_choose(dev, dt, s, &e);
  CHECK(m, "attention: %s", e.text);
  return m;
}

size_t attention_forward_workspace(const Device *dev, DType dt, const AttentionShape *s) {
  return chosen(dev, dt, s)->forward_workspace(dev, dt, s);
}

size_t attention_backward_workspace(const Device *dev, DType dt, const AttentionShape *s) {
  return chosen(dev, dt, s)->backward_workspace(dev, dt, s);
}

size_t attention_list_bytes(const Device *dev, DType dt, const AttentionShape *s) {
  const AttentionMethod *m = chosen(dev, dt, s);
  return m->list_bytes ? m->list_bytes(dev, dt, s) : 0;
}

/* Floating-point operations of that many products of queries and keys, where what is masked does not count; 0
 * for packed documents, of which the host does not know here how long they are. */
static double flops(const AttentionShape *s, int products) {
  if (s->packed) return 0;
  return 2.0 * products * (double)(s->B * s->NH * s->HS) * attention_pairs(s->T, s->window);
}

void attention_forward(Device *dev, DType dt, void *o, float *lse, Heads q, Heads k, Heads v,
                       const AttentionShape *s, void *workspace) {
  check_documents(s);
  double begin = profile_begin(dev);
  chosen(dev, dt, s)->forward(dev, dt, o, lse, q, k, v, s, workspace);
  profile_end(dev, begin, "attention", "forward", flops(s, 2), 0);
}

void attention_backward(Device *dev, DType dt, Heads dq, Heads dk, Heads dv, const void *dout, const void *o,
                        const float *lse, Heads q, Heads k, Heads v, const AttentionShape *s,
                        void *workspace) {
  check_documents(s);
  double begin = profile_begin(dev);
  chosen(dev, dt, s)->backward(dev, dt, dq, dk, dv, dout, o, lse, q, k, v, s, workspace);
  profile_end(dev, begin, "attention", "backward", flops(s, 5), 0);
}
