/* The gated unit of the feed-forward (arXiv 2002.05202): h = act(g) * u. */
#ifndef GLU_H
#define GLU_H

#include "device/device.h"
#include "ops/activation.h"

#ifdef __cplusplus
extern "C" {
#endif

/* h [rows, FF]; gu [rows, 2 FF]: a row holds g, then u. */
void glu_forward(Device *dev, DType dt, Activation act, void *h, const void *gu, int64_t rows, int64_t FF);

/* gu [rows, 2 FF] becomes its own gradient, given dh [rows, FF]. */
void glu_backward(Device *dev, DType dt, Activation act, void *gu, const void *dh, int64_t rows, int64_t FF);

#ifdef __cplusplus
}
#endif
#endif
