/* One decoder layer: attention block, then MLP, each added to the stream. */
#ifndef LAYER_H
#define LAYER_H

#include "llama/model.h"
#include "mst_chunk.cuh" /* defines: Norm, Mlp */
#include "ops/attention.h"
#include "ops/qk_prepare.h"

/* The weights of a layer as the code that computes with them sees them. */
typedef struct LayerWeights {
  Norm norm1;
  Linear qkv, o;
  const void *q_norm, *k_norm; /* [HS], or NULL */
  float *dq_norm, *dk_norm;
  Mlp mlp;
} LayerWeights;

/* Every use of a layer's weights is between these two: what streams weights in from elsewhere hooks in here.
 * gradients: for a backward, with the weights' gradients, which have to live at the arena's moment. */
LayerWeights weights_acquire(Model *m, int64_t layer, bool gradients);
/* Says that the weights of layer `now` are used next, and after them those of `next` (NO_LAYER: none), which
 * are fetched meanwhile when they are on the host. What is used without this is fetched while one waits. */
void weights_prefetch(Model *m, int64_t now, int64_t next);
void weights_release(Model *m, int64_t layer);

/* A unit's gradient is complete for this optimizer step (all micro-batches). Its part of the global norm is
 * taken now, and with UPDATE_LAYER the unit is updated. False: the gradient is not finite, the unit was not
 * updated and the step stops here; m->stopped_at is the unit. */
bool gradients_ready(Model *m, int64_t unit);

/* The attention of layer l in one of `groups` groups of its heads, on the micro-batch that is on the device.
 */
AttentionShape layer_attention(const Model *m, int64_t l, int64_t B, int64_t T, int64_t groups);

/* The stage between projection and attention, of all heads. */
QkPrepare layer_qk_prepare(const Model *m, const LayerWeights *w);

/* The NH + 2 NKV heads of a row as the attention takes them. */
typedef struct QkvHeads {
  Heads q, k, v;
} QkvHeads;
/* qk: the prepared queries and keys when they are not in qkv itself, else NULL. */
QkvHeads qkv_heads(int64_t NH, int64_t NKV, int64_t HS, DType dt, void *qkv, void *qk);

/* The forward of layer l in the buffers and at the moments of `pass`; parts that it skips are not done. */
void layer_forward(Model *m, int64_t l, const LayerPass *pass, int64_t B, int64_t T);

/* The forward of layer l for `rows` tokens of one text whose first `at` tokens are in the cache; theirs is
 * added to it. At the arena's moment `generate`, in generate_in: x becomes the layer's output. */
void layer_generate(Model *m, int64_t l, int64_t at, int64_t rows);

/* Turns dx from the gradient of the layer's output into that of its input, adding to the gradients of its
 * weights. What was not kept must have been made again. */
void layer_backward(Model *m, int64_t l);

#endif
