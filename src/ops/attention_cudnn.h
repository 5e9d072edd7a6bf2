/* The attention through cuDNN, in bf16: its kernels are the fastest there are, for the calls that
 * attention_cudnn_supports(). Everything else is for the program's own kernels, and so is every call when the
 * library is not there. Host only; private to src/ops/attention*. */
#ifndef ATTENTION_CUDNN_H
#define ATTENTION_CUDNN_H

#include "ops/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a plan is made for. The scale does not matter, nor do the gradients' strides in a forward. */
typedef struct AttentionCall {
  AttentionShape shape;
  AttentionStrides ld;
  bool backward;
} AttentionCall;

/* Bytes that divide the address of every operand. */
enum { ATTENTION_CUDNN_ALIGNMENT = 16 };

/* Whether cuDNN computes such a call correctly on a chip of that compute capability (90 for 9.0); if not,
 * *why says why, in one line. deterministic: the same bits from every run are asked for. A chip may refuse a
 * plan all the same. */
bool attention_cudnn_supports(int capability, DType dt, const AttentionCall *call, bool deterministic,
                              Error *why);

/* Bytes of workspace of a supported call, for a memory plan without the chip or the library. It is what the
 * plans of cuDNN 9.15 to 9.28 ask for, and of packed documents those of 9.28, which is 4 bytes a document
 * more than 9.19 asks for; where there is a plan, attention_plan_workspace() is the truth. */
size_t attention_cudnn_workspace(int capability, const AttentionCall *call);

typedef struct AttentionCudnn AttentionCudnn; /* the library, and the plans it has made */
typedef struct AttentionPlan AttentionPlan;

/* On the current GPU; plans run on the stream (a cudaStream_t). NULL and an Error, whose first line can stand
 * alone, when there is no cuDNN or it is too old. */
AttentionCudnn *attention_cudnn_open(void *stream, Error *e);
/* For a chip that is not here, from cuDNN's description of one (JSON): plans can be made, not run. */
AttentionCudnn *attention_cudnn_open_chip(const char *description, Error *e);
void attention_cudnn_close(AttentionCudnn *a);

/* The plan of a supported call: the one made before, or a new one, which takes half a second. NULL, with
 * cuDNN's word in *e, when it refuses; it is not asked a second time. */
const AttentionPlan *attention_cudnn_plan(AttentionCudnn *a, const AttentionCall *call, Error *e);
/* The plan that was made last for that shape, with whatever strides; NULL if none was made. */
const AttentionPlan *attention_cudnn_find(const AttentionCudnn *a, const AttentionShape *s, bool backward);
size_t attention_plan_workspace(const AttentionPlan *plan);

/* As attention_forward and attention_backward, with the shape of the plan, and its strides unless packed; of
 * a packed shape lse is [B*T, NH]. dev: whose memory it is, for copies. The workspace is aligned to 256
 * bytes. False, with an Error, when cuDNN fails. */
bool attention_cudnn_forward(AttentionCudnn *a, Device *dev, const AttentionPlan *plan, void *o, float *lse,
                             Heads q, Heads k, Heads v, const AttentionShape *s, void *workspace, Error *e);
bool attention_cudnn_backward(AttentionCudnn *a, Device *dev, const AttentionPlan *plan, Heads dq, Heads dk,
                              Heads dv, const void *dout, const void *o, const float *lse, Heads q, Heads k,
                              Heads v, const AttentionShape *s, void *workspace, Error *e);

#ifdef __cplusplus
}
#endif
#endif
