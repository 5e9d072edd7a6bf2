/* A layer's attention in groups of heads, for long sequences: queries, keys, values, the gradient of the
 * attention's output and the kernel's workspace exist for one group of key/value heads at a time. What is
 * whole is o with its log-sum-exp; in the backward the gradients of keys and values, and the gradient of the
 * queries in o's place. x_mid and the norm's output exist for a chunk of rows only. */
#ifndef LAYER_GROUPS_H
#define LAYER_GROUPS_H

#include "llama/layer.h"

/* Norm, projection, preparation and attention, group by group: x -> o, lse. At the pass's attention moment.
 */
void grouped_attention_forward(Model *m, int64_t l, const LayerBuffers *buf, const LayerWeights *w, int64_t B,
                               int64_t T);

/* The MLP's backward; the rows of x_mid that it needs are made again from x and o. */
void grouped_mlp_backward(Model *m, int64_t l, const LayerWeights *w);

/* The attention's backward, group by group; q, k and v are made again. Leaves the gradients of the
 * projection: of the queries where o was, of keys and values in d_kv. */
void grouped_attention_backward(Model *m, int64_t l, const LayerWeights *w);

/* From there to the layer's input: one product a chunk of rows, so that nothing is summed over groups. */
void grouped_qkv_backward(Model *m, int64_t l, const LayerWeights *w);

#endif
