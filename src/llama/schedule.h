/* The schedule of an optimizer step: its moments, and which buffer lives when. schedule_new() turns a model,
 * a batch shape and the memory flags into a memory plan; src/llama/model.cu walks the same moments. What is
 * kept from a layer's forward to its backward, and what is computed again, is decided here and nowhere else.
 *
 *   load and save
 *   embedding forward
 *   layer 0: qkv, attention, out, mlp      ... layer L-1
 *   head                                   loss and its gradient, in one pass
 *   layer L-1: [again: qkv, attention, out,] backward mlp, out, attention, qkv      ... layer 0
 *   embedding backward
 *   update
 *
 * With --update layer, an update follows the head and each layer's backward instead, and a unit's gradient
 * lives from the unit's backward to its update.
 * Text is generated at a moment of its own, after the update: a few rows at a time pass through all layers.
 * With --checkpoint-every k, a segment of k layers runs again from its one checkpoint, for its layers'
 * inputs, before the backward of its last layer. */
#ifndef SCHEDULE_H
#define SCHEDULE_H

#include "device/device.h"
#include "llama/config.h"
#include "llama/params.h"
#include "memory/plan.h"
#include "ops/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum Recompute {
  RECOMPUTE_NONE,  /* keeps every activation that the backward needs */
  RECOMPUTE_MLP,   /* keeps all but the inside of the MLP */
  RECOMPUTE_LAYER, /* keeps the layer's input (and what keep_attention says) */
} Recompute;

typedef enum UpdateMode {
  UPDATE_STEP,  /* of everything, when the whole gradient is there: clipping, accumulation */
  UPDATE_LAYER, /* of a unit as soon as its gradient is complete: one layer's gradient at a time */
} UpdateMode;

enum { CHUNK_WHOLE = 0, CHUNK_AUTO = -1, KEEP_ALL = -1 };

/* What the schedule depends on, besides the model and the device. */
typedef struct RunShape {
  int64_t A, B, T; /* micro-batches a step, sequences a micro-batch, tokens a sequence */
  DType dtype;     /* of weights and activations */
  bool master;     /* an fp32 copy of bf16 weights is what the optimizer updates */
  DType moments;   /* of Adam's moments; DT_U8: in 8 bits */
  Recompute recompute;
  int64_t keep_attention;        /* the last so many layers keep their attention's output; KEEP_ALL */
  int64_t checkpoint_every;      /* one layer input is kept for so many layers */
  UpdateMode update;             /* UPDATE_LAYER: A is 1 */
  int64_t mlp_chunk, head_chunk; /* rows of a mini-sequence; CHUNK_WHOLE, CHUNK_AUTO */
  bool training;                 /* false: forward only, no gradients and no optimizer */
  int64_t text;                  /* tokens of a generated text, prompt included; 0 = none is generated */
} RunShape;

/* What a layer holds from its forward to its backward, beside its input. */
typedef struct Keep {
  bool norm1, qkv, attention, mid, mlp;
} Keep;

/* Moments of one pass through a layer's forward; a part that this pass skips is SKIPPED. */
enum { SKIPPED = -1 };
typedef struct ForwardMoments {
  int qkv, attention, out, mlp;
} ForwardMoments;
typedef struct BackwardMoments {
  int mlp, out, attention, qkv;
} BackwardMoments;

/* N = B*T rows. Layers share the buffers that they do not keep. */
typedef struct LayerBuffers {
  BufferId x;      /* [N, C] the layer's input */
  BufferId n1;     /* [N, C] its norm */
  BufferId qkv;    /* [N, (NH + 2 NKV) HS] the projection; queries and keys are prepared in place ... */
  BufferId qk;     /* [N, (NH + NKV) HS] ... or here when they are normed; else NO_BUFFER */
  BufferId o;      /* [N, NH HS] the attention's output */
  BufferId lse;    /* [B, NH, T] fp32 its log-sum-exp */
  BufferId x_mid;  /* [N, C] the MLP's input */
  BufferId mlp_n;  /* [mlp rows, C] */
  BufferId mlp_gu; /* [mlp rows, 2 FF] */
  BufferId mlp_h;  /* [mlp rows, FF] */
  BufferId x_out;  /* [N, C] the next layer's input; may be x_mid, the MLP then adds in place */
} LayerBuffers;

/* One pass through a layer's forward: when, and in which buffers. */
typedef struct LayerPass {
  ForwardMoments at;
  LayerBuffers buf;
} LayerPass;

typedef struct Schedule {
  RunShape shape;                                                /* with the automatic chunks filled in */
  Plan *plan;                                                    /* packed */
  int load, embedding_forward, head, embedding_backward, update; /* moments */

  /* [L] each */
  Keep *keep;
  LayerPass *forward; /* the first pass */
  LayerPass *rerun;   /* of a segment, for the inputs of its later layers; all SKIPPED elsewhere */
  LayerPass *again;   /* of one layer, just before its backward: what it did not keep */
  BackwardMoments *backward;
  int *update_of; /* [L + 2] the moment at which a unit is updated: `update`, or its own */

  /* [L + 2]: a buffer a unit of the parameter table; NO_BUFFER where the run has none */
  BufferId *weights, *master, *gradients, *moment1, *moment2;
  BufferId *absmax1, *absmax2; /* scales of 8-bit moments */

  BufferId dx;         /* [N, C] gradient of the stream; it takes the place of the head's input */
  BufferId d_o, d_qkv; /* [N, NH HS], [N, (NH + 2 NKV) HS] */
  BufferId attention_workspace;
  BufferId head_n, head_logits;        /* [head rows, C], [head rows, V] */
  BufferId head_row;                   /* [V] fp32: a row of logits on its way to the host */
  BufferId losses;                     /* [N] fp32 */
  BufferId tokens, targets, positions; /* [N] int32, of the micro-batch at hand */
  BufferId inv_freq;                   /* [HS/2] fp32 */
  BufferId workspace;                  /* of the device */
  BufferId staging;                    /* [STAGING_ELEMENTS] fp32, while loading and saving */
  BufferId host_staging, host_losses;  /* the same in host memory */
  BufferId host_tokens, host_targets, host_positions, host_documents; /* [A, B, T] int32: the step */

  int generate;             /* the moment; what follows lives then, and is NO_BUFFER where text = 0 */
  LayerBuffers generate_in; /* of generate_rows rows; no lse */
  BufferId *keys, *values;  /* [L]: [text, NKV HS], of the tokens so far */
  BufferId generate_logits; /* [V] of the last token */

  BufferId host_ahead; /* [A*B*(T + 1)] uint32: the next step, read ahead; NO_BUFFER without training */
} Schedule;

enum { STAGING_ELEMENTS = 1 << 20 };

/* The attention of layer l on B sequences of T tokens. */
AttentionShape schedule_attention(const Config *c, int64_t l, int64_t B, int64_t T);

/* Rows of the attention's operands: queries and keys lie in those of qkv or, when they are normed, in a
 * buffer of their own; all gradients in those of d_qkv. */
AttentionStrides schedule_attention_strides(const Config *c);

/* Prepares the attention of every layer (attention_prepare); before schedule_new(), which then knows the
 * workspace. False, with a reason in *why, when some layer has none that is prepared. */
bool schedule_prepare_attention(const Config *c, const RunShape *shape, Device *dev, bool deterministic,
                                Error *why);

/* Plans a run. The device is asked for its workspaces and limits only; nothing is allocated on it. */
Schedule *schedule_new(const Config *c, const RunShape *shape, const Device *dev);
void schedule_free(Schedule *s);

enum { GENERATE_ROWS = 64 }; /* tokens of a prompt that are read at a time, at most */

/* Rows of all chunks together, B*T. */
static inline int64_t schedule_rows(const Schedule *s) {
  return s->shape.B * s->shape.T;
}
/* The chunk's rows as the loops use them: CHUNK_WHOLE resolved. */
int64_t schedule_mlp_rows(const Schedule *s);
int64_t schedule_head_rows(const Schedule *s);
/* Tokens that pass through the layers at a time where text is generated. */
int64_t schedule_generate_rows(const Schedule *s);

#ifdef __cplusplus
}
#endif
#endif
