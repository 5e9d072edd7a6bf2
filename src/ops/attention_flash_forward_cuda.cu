/* Launches the forward of the own attention on CUDA. */
#include "ops/attention_flash.h"

#include "device/launch.cuh" // defines: launch_tiles
#include "ops/attention_flash_forward.cuh"

size_t attention_flash_forward_workspace(const Device *, DType, const AttentionShape *) {
  return 0;
}

template <class T, bool PACKED>
static void forward(Device *dev, void *o, float *lse, Heads q, Heads k, Heads v, const AttentionShape *s) {
  int64_t HS = s->HS;
  DISPATCH_HEAD_SIZE(HS, SIZE, {
    AttentionForward<T, SIZE, PACKED> f = {*s,
                                           head_rows<T>(Heads{o, s->NH * HS}, HS),
                                           lse,
                                           head_rows<const T>(q, HS),
                                           head_rows<const T>(k, HS),
                                           head_rows<const T>(v, HS)};
    launch_tiles(dev, f.items(), f);
  });
}

void attention_flash_forward(Device *dev, DType dt, void *o, float *lse, Heads q, Heads k, Heads v,
                             const AttentionShape *s, void *) {
  DISPATCH(dt, T, {
    if (s->packed)
      forward<T, true>(dev, o, lse, q, k, v, s);
    else
      forward<T, false>(dev, o, lse, q, k, v, s);
  });
}
