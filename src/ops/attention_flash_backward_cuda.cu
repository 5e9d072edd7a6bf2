/* Launches the backward of the own attention on CUDA: delta, then dk and dv, then dq. */
#include "ops/attention_flash.h"

#include "device/launch.cuh" // defines: launch_blocks, launch_tiles
#include "ops/attention_flash_backward.cuh"

size_t attention_flash_backward_workspace(const Device *, DType, const AttentionShape *s) {
  return (size_t)(s->B * s->NH * s->T) * sizeof(float); /* delta */
}

/* What the kernels that follow delta take. */
template <class T> struct BackwardRows {
  HeadRows<T> dq, dk, dv;
  HeadRows<const T> q, k, v, dout;
  const float *lse, *delta;
};

template <class T, bool PACKED>
static void launch_backward(Device *dev, const BackwardRows<T> &x, const AttentionShape *s) {
  DISPATCH_HEAD_SIZE(s->HS, SIZE, {
    if constexpr (SIZE <= 128) {
      AttentionKeysBackward<T, SIZE, PACKED, true, true> keys = {*s,  x.dk,   x.dv,  x.q,    x.k,
                                                                 x.v, x.dout, x.lse, x.delta};
      launch_tiles(dev, keys.items(), keys);
    } else {
      AttentionKeysBackward<T, SIZE, PACKED, false, true> values = {*s,  x.dk,   x.dv,  x.q,    x.k,
                                                                    x.v, x.dout, x.lse, x.delta};
      launch_tiles(dev, values.items(), values);
      AttentionKeysBackward<T, SIZE, PACKED, true, false> keys = {*s,  x.dk,   x.dv,  x.q,    x.k,
                                                                  x.v, x.dout, x.lse, x.delta};
      launch_tiles(dev, keys.items(), keys);
    }
    AttentionQueriesBackward<T, SIZE, PACKED> queries = {*s, x.dq, x.q, x.k, x.v, x.dout, x.lse, x.delta};
    launch_tiles(dev, queries.items(), queries);
  });
}

void attention_flash_backward(Device *dev, DType dt, Heads dq, Heads dk, Heads dv, const void *dout,
                              const void *o, const float *lse, Heads q, Heads k, Heads v,
                              const AttentionShape *s, void *workspace) {
  int64_t HS = s->HS, C = s->NH * HS;
  float *delta = (float *)workspace;
  DISPATCH(dt, T, {
    BackwardRows<T> x = {head_rows<T>(dq, HS),
                         head_rows<T>(dk, HS),
                         head_rows<T>(dv, HS),
                         head_rows<const T>(q, HS),
                         head_rows<const T>(k, HS),
                         head_rows<const T>(v, HS),
                         head_rows<const T>(Heads{(void *)dout, C}, HS),
                         lse,
                         delta};
    launch_blocks(dev, s->B * s->T,
                  AttentionDelta<T>{*s, delta, x.dout, head_rows<const T>(Heads{(void *)o, C}, HS)});
    if (s->packed)
      launch_backward<T, true>(dev, x, s);
    else
      launch_backward<T, false>(dev, x, s);
  });
}
