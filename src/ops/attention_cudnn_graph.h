/* The causal attention as a graph of cuDNN's operations, and the plan that cuDNN makes of it. Private to
 * src/ops/attention_cudnn*. */
#ifndef ATTENTION_CUDNN_GRAPH_H
#define ATTENTION_CUDNN_GRAPH_H

#include "device/cudnn_api.h"
#include "ops/attention_cudnn.h" /* defines: AttentionCall */

#ifdef __cplusplus
extern "C" {
#endif

/* The tensors of a graph that are bound to memory, or to a value of the host, when it runs. */
typedef enum GraphTensor {
  GRAPH_Q = 1,
  GRAPH_K,
  GRAPH_V,
  GRAPH_O,
  GRAPH_LSE,
  GRAPH_DOUT,
  GRAPH_DQ,
  GRAPH_DK,
  GRAPH_DV,
  GRAPH_DQ_SUM,  /* [B, NH, T, HS] fp32: where dq is added up, which clears it first */
  GRAPH_ROW_DOT, /* fp32, in the layout of lse: the sum of dout * o of each row */
  /* of packed calls only: */
  GRAPH_DK_ALL, /* [B*T, NH, HS]: dk and dv of each query head, where several share a key/value head */
  GRAPH_DV_ALL,
  GRAPH_Q_LENGTHS, /* [room] int32, twice the same: the documents' lengths */
  GRAPH_K_LENGTHS,
  GRAPH_QUERY_OFFSETS, /* [room + 1] int64 each: element at which a document begins in rows of NH heads, */
  GRAPH_KEY_OFFSETS,   /* in rows of NKV heads (where those are fewer), */
  GRAPH_LSE_OFFSETS,   /* and in lse, whose rows are of NH numbers; and where the last one ends */
  /* of the host: */
  GRAPH_SCALE,  /* one fp32: AttentionShape.scale */
  GRAPH_MASKED, /* one fp32: -inf */
  GRAPH_WINDOW, /* one fp32: AttentionShape.window; only where there is one */
  GRAPH_ONE,    /* one fp32: 1 */
  GRAPH_TENSORS
} GraphTensor;

enum { GRAPH_DESCRIPTORS = 224 };
typedef struct AttentionGraph {
  CudnnDescriptor plan;
  int64_t workspace_bytes;                 /* of cuDNN's own, beside GRAPH_DQ_SUM and GRAPH_ROW_DOT */
  CudnnDescriptor made[GRAPH_DESCRIPTORS]; /* the plan among them: what it was made from lives as long */
  int made_count;
} AttentionGraph;

/* Makes the plan of a call that attention_cudnn_supports(): some 0.5 s. Exactly one of `handle` and `chip` (a
 * device description) is not NULL. On failure *graph holds nothing. */
bool attention_graph_open(AttentionGraph *graph, const Cudnn *cudnn, CudnnHandle handle, CudnnDescriptor chip,
                          const AttentionCall *call, Error *e);
void attention_graph_close(AttentionGraph *graph, const Cudnn *cudnn);

/* Runs the plan on the handle's stream. pointers: by GraphTensor, NULL for those that the graph does not
 * have; values of the host are read before the call returns. */
bool attention_graph_run(const AttentionGraph *graph, const Cudnn *cudnn, CudnnHandle handle,
                         void *const pointers[GRAPH_TENSORS], void *workspace, Error *e);

#ifdef __cplusplus
}
#endif
#endif
