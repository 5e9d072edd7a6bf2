/* The number formats a tensor can have in memory or in a file. */
#ifndef DTYPE_H
#define DTYPE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum DType {
  DT_FP32,
  DT_BF16,
  DT_U8,   /* codes of 8-bit moments (src/ops/dynamic_map.cuh) */
  DT_FP16, /* in files only: converted while loading */
} DType;

static inline size_t dtype_size(DType t) {
  return t == DT_FP32 ? 4 : t == DT_U8 ? 1 : 2;
}
static inline const char *dtype_name(DType t) {
  return t == DT_FP32 ? "fp32" : t == DT_BF16 ? "bf16" : t == DT_U8 ? "8bit" : "fp16";
}

#ifdef __cplusplus
}
#endif
#endif
