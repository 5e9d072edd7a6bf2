/* Launches the forward of the own attention on CUDA. */
#include "ops/attention_flash.h"

#include "device/launch.cuh" // defines: launch_tiles
#include "ops/attention_flash_forward.cuh"

size_t attention_flash_forward_workspace(const Device *, DType, const AttentionShape *) {
  return 0;
}

void attention_flash_forward(Device *dev, DType dt, void *o, float *lse, Heads q, Heads k, Heads v,
                             const AttentionShape *s, void *) {
  int64_t HS = s->HS;
  DISPATCH(dt, T, DISPATCH_HEAD_SIZE(HS, SIZE, {
             AttentionForward<T, SIZE> f = {*s,
                                            head_rows<T>(Heads{o, s->NH * HS}, HS),
                                            lse,
                                            head_rows<const T>(q, HS),
                                            head_rows<const T>(k, HS),
                                            head_rows<const T>(v, HS)};
             launch_tiles(dev, f.items(), f);
           }));
}
