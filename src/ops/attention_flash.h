/* The project's own attention on CUDA: any T and window, heads of up to 256, fp32 and bf16; heads are padded
 * to 32, 64, 96, 128 or 256 in shared memory. Private to src/ops/attention*; only in builds with nvcc. See
 * attention.h for the arguments. */
#ifndef ATTENTION_FLASH_H
#define ATTENTION_FLASH_H

#include "ops/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { FLASH_MOST_HS = 256 };

size_t attention_flash_forward_workspace(const Device *dev, DType dt, const AttentionShape *s);
size_t attention_flash_backward_workspace(const Device *dev, DType dt, const AttentionShape *s);
void attention_flash_forward(Device *dev, DType dt, void *o, float *lse, Heads q, Heads k, Heads v,
                             const AttentionShape *s, void *workspace);
/* The same bits for the same operands, on any GPU of a kind: sums have one owner and one order. */
void attention_flash_backward(Device *dev, DType dt, Heads dq, Heads dk, Heads dv, const void *dout,
                              const void *o, const float *lse, Heads q, Heads k, Heads v,
                              const AttentionShape *s, void *workspace);

#ifdef __cplusplus
}
#endif

/* Runs the statement with SIZE standing for the smallest size of padded heads that HS fits in. */
#define DISPATCH_HEAD_SIZE(HS, SIZE, ...)                                                                    \
  do {                                                                                                       \
    CHECK(0 < (HS) && (HS) <= FLASH_MOST_HS, "attention: heads of %lld", (long long)(HS));                   \
    if ((HS) <= 32) {                                                                                        \
      constexpr int SIZE = 32;                                                                               \
      __VA_ARGS__;                                                                                           \
    } else if ((HS) <= 64) {                                                                                 \
      constexpr int SIZE = 64;                                                                               \
      __VA_ARGS__;                                                                                           \
    } else if ((HS) <= 96) {                                                                                 \
      constexpr int SIZE = 96;                                                                               \
      __VA_ARGS__;                                                                                           \
    } else if ((HS) <= 128) {                                                                                \
      constexpr int SIZE = 128;                                                                              \
      __VA_ARGS__;                                                                                           \
    } else {                                                                                                 \
      constexpr int SIZE = 256;                                                                              \
      __VA_ARGS__;                                                                                           \
    }                                                                                                        \
  } while (0)

#endif
