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
  RECOMPUTE_AUTO,
} Recompute;

typedef enum UpdateMode {
  UPDATE_STEP,  /* of everything, when the whole gradient is there: clipping, accumulation */
  UPDATE_LAYER, /* of a unit as soon as its gradient is complete: one layer's gradient at a time */
} UpdateMode;

/* Who computes an update whose gradients, moments and master copy are all on the host. */
typedef enum HostUpdate {
  HOST_UPDATE_STREAM, /* the device: what is on the host streams through it, in slices */
  HOST_UPDATE_CPU,    /* the CPU, where they are: weights that are on the device come and go in slices */
  HOST_UPDATE_AUTO,
} HostUpdate;

/* What is AUTO is left to the planner (llama/planner.h); see schedule_defaults. */
enum { CHUNK_WHOLE = 0, CHUNK_AUTO = -1, KEEP_ALL = -1, KEEP_AUTO = -2, EVERY_AUTO = 0, GROUPS_AUTO = 0 };

/* What is held in host memory and streams through the device, as bits. */
enum {
  OFFLOAD_CHECKPOINTS = 1 << 0, /* layer inputs; of RECOMPUTE_LAYER only */
  OFFLOAD_ATTENTION = 1 << 1,   /* what keep_attention keeps; of RECOMPUTE_LAYER only */
  OFFLOAD_OPTIMIZER = 1 << 2,   /* moments and master copy */
  OFFLOAD_GRADIENTS = 1 << 3,   /* gathered on the host; of UPDATE_STEP only */
  OFFLOAD_WEIGHTS = 1 << 4,     /* of the layers; embedding and head stay on the device */
  OFFLOAD_AUTO = 1 << 5,        /* alone */
};

/* What the schedule depends on, besides the model and the device. */
typedef struct RunShape {
  int64_t A, B, T; /* micro-batches a step, sequences a micro-batch, tokens a sequence */
  DType dtype;     /* of weights and activations */
  bool master;     /* an fp32 copy of bf16 weights is what the optimizer updates */
  DType moments;   /* of Adam's moments; DT_U8: in 8 bits */
  Recompute recompute;
  int64_t keep_attention;   /* the last so many layers keep their attention's output; KEEP_ALL, KEEP_AUTO */
  int64_t checkpoint_every; /* one layer input is kept for so many layers; EVERY_AUTO */
  UpdateMode update;        /* UPDATE_LAYER: A is 1 */
  unsigned offload;         /* OFFLOAD_ bits */
  HostUpdate host_update;   /* with OFFLOAD_OPTIMIZER and OFFLOAD_GRADIENTS */
  int64_t update_slice;     /* elements of an update whose tensors stream; 0 = UPDATE_SLICE */
  int64_t mlp_chunk, head_chunk; /* rows of a mini-sequence; CHUNK_WHOLE, CHUNK_AUTO */
  int64_t attn_groups; /* of key/value heads whose attention is computed at a time; 1 = all; GROUPS_AUTO */
  bool pack;           /* attention and positions stay within a document */
  bool training;       /* false: forward only, no gradients and no optimizer */
  int64_t text;        /* tokens of a generated text, prompt included; 0 = none is generated */
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
  BufferId host_x, host_o,
      host_lse; /* where this pass puts x, o and lse in host memory; NO_BUFFER: nowhere */
} LayerBuffers;

/* One pass through a layer's forward: when, and in which buffers. */
typedef struct LayerPass {
  ForwardMoments at;
  LayerBuffers buf;
} LayerPass;

/* What the backward phase visits, in its order: the reruns and the layers. What a visit needs from host
 * memory is fetched during the one before it (the first one's during the head). */
enum { VISIT_FETCHES = 3 };
typedef struct Visit {
  int64_t layer;
  int begin; /* its first moment */
  int fetches;
  BufferId device[VISIT_FETCHES], host[VISIT_FETCHES];
} Visit;

/* What attention in head groups holds, with attn_groups > 1; NKV/groups key/value heads make a group. Of all
 * N rows: */
typedef struct GroupBuffers {
  BufferId qkv;     /* [N, (NH + 2 NKV) HS / groups] */
  BufferId qk;      /* [N, (NH + NKV) HS / groups] or NO_BUFFER */
  BufferId o, d_o;  /* [N, NH HS / groups] each */
  BufferId d_qkv;   /* [N, (NH + 2 NKV) HS / groups] */
  BufferId d_kv;    /* [N, 2 NKV HS] of all groups; the queries' part is where o was */
  BufferId weights; /* [(NH + 2 NKV) HS / groups, C] and a bias: the group's rows of the projection */
  /* of a chunk of `mlp rows`: */
  BufferId n1;     /* [., C] the norm's output */
  BufferId x_mid;  /* [., C] */
  BufferId d_rows; /* [., (NH + 2 NKV) HS] gradient of the projection */
} GroupBuffers;

/* What an update takes and leaves, by tensor. */
typedef enum UpdateKind {
  U_GRADIENT,
  U_WEIGHT,
  U_MOMENT1,
  U_MOMENT2,
  U_ABSMAX1,
  U_ABSMAX2,
  U_MASTER,
  U_KINDS
} UpdateKind;
enum { SLOTS = 2 }; /* of what streams through: one is used while the other is filled */

typedef struct Schedule {
  RunShape shape; /* with the automatic chunks and groups filled in */
  Plan *plan;     /* packed */
  int load, embedding_forward, head, embedding_backward, update; /* moments */

  /* [L] each */
  Keep *keep;
  LayerPass *forward; /* the first pass */
  LayerPass *rerun;   /* of a segment, for the inputs of its later layers; all SKIPPED elsewhere */
  LayerPass *again;   /* of one layer, just before its backward: what it did not keep */
  BackwardMoments *backward;
  Visit *visits; /* [2 L] at most, visit_count of them */
  int64_t visit_count;
  int *update_of; /* [L + 2] the moment at which a unit is updated: `update`, or its own */

  /* [L + 2]: a buffer a unit of the parameter table; NO_BUFFER where the run has none */
  BufferId *weights, *master, *gradients, *moment1, *moment2;
  BufferId *absmax1, *absmax2; /* scales of 8-bit moments */
  BufferId *host_gradients; /* of OFFLOAD_GRADIENTS: gathered here; `gradients` live during their backward */
  BufferId weight_slots[SLOTS]; /* the weights of a layer at hand and of the next one, of OFFLOAD_WEIGHTS */
  BufferId update_slots[U_KINDS]
                       [SLOTS]; /* a slice of what is not where the update computes; else NO_BUFFER */

  BufferId dx;         /* [N, C] gradient of the stream; it takes the place of the head's input */
  BufferId d_o, d_qkv; /* [N, NH HS], [N, (NH + 2 NKV) HS]; NO_BUFFER in head groups */
  GroupBuffers group;  /* all NO_BUFFER without head groups */
  BufferId attention_workspace;
  BufferId head_n, head_logits;        /* [head rows, C], [head rows, V] */
  BufferId head_row;                   /* [V] fp32: a row of logits on its way to the host */
  BufferId losses;                     /* [N] fp32 */
  BufferId tokens, targets, positions; /* [N] int32, of the micro-batch at hand */
  BufferId starts;                     /* [N] int32, of its documents; NO_BUFFER unless packed */
  BufferId documents, host_documents;  /* their list (attention.h); NO_BUFFER where no attention reads it */
  BufferId inv_freq;                   /* [HS/2] fp32 */
  BufferId workspace;                  /* of the device */
  BufferId staging;                    /* [STAGING_ELEMENTS] fp32, while loading and saving */
  BufferId host_staging, host_losses;  /* the same in host memory */
  BufferId host_tokens, host_targets, host_positions, host_starts; /* [A, B, T] int32: the step */

  int generate;             /* the moment; what follows lives then, and is NO_BUFFER where text = 0 */
  LayerBuffers generate_in; /* of generate_rows rows; no lse */
  BufferId *keys, *values;  /* [L]: [text, NKV HS], of the tokens so far */
  BufferId generate_logits; /* [V] of the last token */

  BufferId host_ahead; /* [A*B*(T + 1)] uint32: the next step, read ahead; NO_BUFFER without training */
} Schedule;

enum { STAGING_ELEMENTS = 1 << 20, UPDATE_SLICE = 1 << 22 };

/* The attention of layer l on B sequences of T tokens, in one of `groups` groups of its heads, not packed. */
AttentionShape schedule_attention(const Config *c, int64_t l, int64_t B, int64_t T, int64_t groups);
/* The same for the run's batches; without the documents' starts, which are on the device later. */
AttentionShape schedule_run_attention(const Config *c, int64_t l, const RunShape *shape, int64_t groups);

/* Rows of the attention's operands, in one of `groups` groups of its heads: queries and keys lie in those of
 * qkv or, when they are normed, in a buffer of their own; all gradients in those of d_qkv. */
AttentionStrides schedule_attention_strides(const Config *c, int64_t groups);

/* Prepares the attention of every layer (attention_prepare), in as many groups as the shape says (automatic:
 * in one); before schedule_new(), which then knows the workspace. False, with a reason in *why, when some
 * layer has none that is prepared. */
bool schedule_prepare_attention(const Config *c, const RunShape *shape, Device *dev, Error *why);

/* The shape with everything that is AUTO, but for the chunks, as it is where nobody chooses: RECOMPUTE_LAYER,
 * one input a layer, no attention kept, nothing on the host, all heads together. */
RunShape schedule_defaults(const RunShape *shape);

/* Plans a run, with schedule_defaults; automatic chunks are the largest that do not raise the peak. The
 * device is asked for its workspaces and limits only; nothing is allocated on it. */
Schedule *schedule_new(const Config *c, const RunShape *shape, const Device *dev);
void schedule_free(Schedule *s);

/* Bytes of each space that such a run takes at least, and nearly: found in a fraction of schedule_new's time.
 * Never fewer for a larger T, which cannot be said of the run's own: automatic chunks differ with T. */
void schedule_least_bytes(const Config *c, const RunShape *shape, const Device *dev,
                          int64_t bytes[SPACE_COUNT]);

enum { GENERATE_ROWS = 64 }; /* tokens of a prompt that are read at a time, at most */

/* Rows of all chunks together, B*T. */
static inline int64_t schedule_rows(const Schedule *s) {
  return s->shape.B * s->shape.T;
}
/* Attention in head groups: a layer's q, k, v and x_mid are never whole. */
static inline bool schedule_grouped(const Schedule *s) {
  return s->shape.attn_groups > 1;
}
/* Updates are the CPU's. */
static inline bool schedule_updates_on_host(const RunShape *r) {
  const unsigned all = OFFLOAD_OPTIMIZER | OFFLOAD_GRADIENTS;
  return r->host_update == HOST_UPDATE_CPU && (r->offload & all) == all && r->update == UPDATE_STEP;
}
/* Where a pass first reads the layer's input; SKIPPED when it does not. */
int schedule_pass_begin(const ForwardMoments *at);
/* Elements of an update's slice, a multiple of MOMENT_BLOCK. */
int64_t schedule_update_slice(const Schedule *s);
/* The chunk's rows as the loops use them: CHUNK_WHOLE resolved. */
int64_t schedule_mlp_rows(const Schedule *s);
int64_t schedule_head_rows(const Schedule *s);
/* Tokens that pass through the layers at a time where text is generated. */
int64_t schedule_generate_rows(const Schedule *s);

#ifdef __cplusplus
}
#endif
#endif
