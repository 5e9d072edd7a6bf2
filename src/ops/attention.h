/* Causal attention with grouped key/value heads and an optional sliding window, forward and backward in
 * blocks with an online softmax (FlashAttention-2, arXiv 2307.08691): no buffer of T x T. */
#ifndef ATTENTION_H
#define ATTENTION_H

#include "device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct AttentionShape {
  int64_t B, T, NH, NKV, HS;
  int64_t window;        /* a query sees the keys of its last `window` positions, its own included; 0 = all */
  float scale;           /* of the scores; normally 1/sqrt(HS) */
  bool packed;           /* a query sees its own document only */
  const int32_t *starts; /* [B*T] device memory, of calls that are packed: where in its sequence the row's
                            document begins; never falls within a sequence */
  int64_t documents;     /* of calls that are packed: how many there are in the B sequences */
  const void *list; /* device memory, of calls that are packed: the documents as attention_list_documents()
                       lists them; NULL where attention_list_bytes() is 0 */
} AttentionShape;

/* Documents that a list of a packed shape has room for: where there are more, the program's own attention
 * takes the batch. Room costs some 700 bytes a document and, where it is not used, blocks that find nothing
 * to do. */
static inline int64_t attention_documents_room(const AttentionShape *s) {
  return s->B * (4 + s->T / 512);
}

/* Heads in rows of B*T tokens: head h of row r begins at data + r*ld + h*HS. */
typedef struct Heads {
  void *data;
  int64_t ld;
} Heads;

/* Pairs of a query and a key it sees, of one head of one sequence: a triangle, cut to a band by a window. */
static inline double attention_pairs(int64_t T, int64_t window) {
  double t = (double)T, w = window > 0 && window < T ? (double)window : t;
  return w * (w + 1) / 2 + (t - w) * w;
}

/* Row strides of the six tensors of heads. */
typedef struct AttentionStrides {
  int64_t q, k, v, dq, dk, dv;
} AttentionStrides;

/* Makes ready what calls of that shape, with those row strides, can be computed by faster: a vendor's plans,
 * which take half a second each, so it is asked for before the first step. False where there is no such
 * thing, and the first line of *why says why; calls are computed all the same. */
bool attention_prepare(Device *dev, DType dt, const AttentionShape *s, const AttentionStrides *ld,
                       bool training, Error *why);

/* One implementation of the functions below. */
typedef struct AttentionMethod {
  const char *name; /* as the configuration prints it */
  size_t (*forward_workspace)(const Device *dev, DType dt, const AttentionShape *s);
  size_t (*backward_workspace)(const Device *dev, DType dt, const AttentionShape *s);
  size_t (*list_bytes)(const Device *dev, DType dt, const AttentionShape *s); /* NULL: it reads no list */
  void (*forward)(Device *dev, DType dt, void *o, float *lse, Heads q, Heads k, Heads v,
                  const AttentionShape *s, void *workspace);
  void (*backward)(Device *dev, DType dt, Heads dq, Heads dk, Heads dv, const void *dout, const void *o,
                   const float *lse, Heads q, Heads k, Heads v, const AttentionShape *s, void *workspace);
} AttentionMethod;

/* The one that computes such shapes on the device; scale, starts and list have no part in the choice. NULL
 * and an Error where there is none. Of packed shapes: the one for batches whose documents the list has room
 * for, when there are no more of them than that (0, say, where they are not known yet). */
const AttentionMethod *attention_choose(const Device *dev, DType dt, const AttentionShape *s, Error *e);

/* Bytes of `workspace` for the forward and for the backward; of packed shapes enough for any number of
 * documents. All of what follows breaks on shapes that nothing was chosen for. */
size_t attention_forward_workspace(const Device *dev, DType dt, const AttentionShape *s);
size_t attention_backward_workspace(const Device *dev, DType dt, const AttentionShape *s);

/* Bytes of the list of a packed shape's documents; 0 where nothing would read it. */
size_t attention_list_bytes(const Device *dev, DType dt, const AttentionShape *s);

/* Lists the documents of a packed batch, once for all its calls, from their starts (host memory) into host
 * memory of attention_list_bytes(), which is then copied to the device. Returns how many there are; when that
 * is more than the list has room for, nothing is written. */
int64_t attention_list_documents(void *list, const AttentionShape *s, const int32_t *starts);

/* o [B*T, NH*HS]; lse [B, NH, T] fp32: log of the sum of the exponentials of the scaled scores. Of packed
 * calls its order is whatever the chosen method likes; the backward of the same batch reads it. */
void attention_forward(Device *dev, DType dt, void *o, float *lse, Heads q, Heads k, Heads v,
                       const AttentionShape *s, void *workspace);

/* dq, dk, dv from dout [B*T, NH*HS], o and lse of the forward. Deterministic for a given number of threads.
 */
void attention_backward(Device *dev, DType dt, Heads dq, Heads dk, Heads dv, const void *dout, const void *o,
                        const float *lse, Heads q, Heads k, Heads v, const AttentionShape *s,
                        void *workspace);

#ifdef __cplusplus
}
#endif
#endif
