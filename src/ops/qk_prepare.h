/* What happens to queries and keys between their projection and the attention: the optional rmsnorm of each
 * head (Qwen3) and the rotary embedding (arXiv 2104.09864, rotate-half order as Hugging Face stores it). */
#ifndef QK_PREPARE_H
#define QK_PREPARE_H

#include "device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct QkPrepare {
  int64_t NH, NKV, HS;
  const float *inv_freq;    /* [HS/2], device memory */
  float attention_scale;    /* factor of cos and sin (yarn); 1 otherwise */
  const int32_t *positions; /* [rows], device memory */
  const void *q_norm;       /* [HS] of the storage type, or NULL: no norm */
  const void *k_norm;       /* [HS], or NULL; both or none */
  float *dq_norm, *dk_norm; /* [HS] fp32 gradients, used by the backward only */
  float norm_eps;
} QkPrepare;

/* qk: NH + NKV heads of HS a row, rows ld_qk apart: the queries, then the keys, ready for the attention.
 * qkv: the projection, (NH + 2 NKV)*HS a row, rows ld_qkv apart. Without a norm qk may be qkv itself.
 * Angles are position * inv_freq in fp32, as Hugging Face computes them. */
void qk_prepare_forward(Device *dev, DType dt, void *qk, int64_t ld_qk, const void *qkv, int64_t ld_qkv,
                        const QkPrepare *p, int64_t rows);

/* dqkv: gradient of the prepared queries and keys, (NH + 2 NKV)*HS a row, ld apart; becomes the gradient of
 * the projection in place (the values' part is not touched). qkv: the projection's own output, read only
 * when there is a norm (else may be NULL). dq_norm, dk_norm += their gradients. Scratch: dev->workspace. */
void qk_prepare_backward(Device *dev, DType dt, void *dqkv, const void *qkv, int64_t ld, const QkPrepare *p,
                         int64_t rows);

#ifdef __cplusplus
}
#endif
#endif
