/* Conversions between storage types, and random initial values. */
#ifndef CONVERT_H
#define CONVERT_H

#include "device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* dst [n] = src [n], rounded to nearest even; fp32 and bf16, device memory. */
void convert(Device *dev, void *dst, DType dst_type, const void *src, DType src_type, int64_t n);

/* dst [rows, width] = src [rows, width], both of type dt, their rows dst_ld and src_ld apart. */
void copy_columns(Device *dev, DType dt, void *dst, int64_t dst_ld, const void *src, int64_t src_ld,
                  int64_t width, int64_t rows);

/* dst [n] = value. */
void fill_constant(Device *dev, void *dst, DType dt, float value, int64_t n);

/* dst [n] = std * a normal variate that depends on (seed, id, element) only (Box-Muller over a counter-based
 * generator), so that devices and slicings agree. first: index of element 0 within tensor `id`. */
void fill_normal(Device *dev, void *dst, DType dt, float std, uint64_t seed, int64_t id, int64_t first,
                 int64_t n);

#ifdef __cplusplus
}
#endif
#endif
