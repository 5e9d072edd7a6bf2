/* Launches the backward of the own attention on CUDA: delta, then dk and dv, then dq. */
#include "ops/attention_flash.h"

#include "device/launch.cuh" // defines: launch_blocks, launch_tiles
#include "ops/attention_flash_backward.cuh"

size_t attention_flash_backward_workspace(const Device *, DType, const AttentionShape *s) {
  return (size_t)(s->B * s->NH * s->T) * sizeof(float); /* delta */
}

void attention_flash_backward(Device *dev, DType dt, Heads dq, Heads dk, Heads dv, const void *dout,
                              const void *o, const float *lse, Heads q, Heads k, Heads v,
                              const AttentionShape *s, void *workspace) {
  int64_t HS = s->HS, C = s->NH * HS;
  float *delta = (float *)workspace;
  DISPATCH(dt, T, {
    HeadRows<const T> dout_rows = head_rows<const T>(Heads{(void *)dout, C}, HS);
    HeadRows<const T> q_rows = head_rows<const T>(q, HS), k_rows = head_rows<const T>(k, HS),
                      v_rows = head_rows<const T>(v, HS);
    HeadRows<T> dq_rows = head_rows<T>(dq, HS), dk_rows = head_rows<T>(dk, HS),
                dv_rows = head_rows<T>(dv, HS);
    launch_blocks(dev, s->B * s->T,
                  AttentionDelta<T>{*s, delta, dout_rows, head_rows<const T>(Heads{(void *)o, C}, HS)});
    DISPATCH_HEAD_SIZE(HS, SIZE, {
      if constexpr (SIZE <= 128) {
        AttentionKeysBackward<T, SIZE, true, true> keys = {*s,     dk_rows,   dv_rows, q_rows, k_rows,
                                                           v_rows, dout_rows, lse,     delta};
        launch_tiles(dev, keys.items(), keys);
      } else {
        AttentionKeysBackward<T, SIZE, false, true> values = {*s,     dk_rows,   dv_rows, q_rows, k_rows,
                                                              v_rows, dout_rows, lse,     delta};
        launch_tiles(dev, values.items(), values);
        AttentionKeysBackward<T, SIZE, true, false> keys = {*s,     dk_rows,   dv_rows, q_rows, k_rows,
                                                            v_rows, dout_rows, lse,     delta};
        launch_tiles(dev, keys.items(), keys);
      }
      AttentionQueriesBackward<T, SIZE> queries = {*s,     dq_rows,   q_rows, k_rows,
                                                   v_rows, dout_rows, lse,    delta};
      launch_tiles(dev, queries.items(), queries);
    });
  });
}
