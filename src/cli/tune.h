/* --tune-matmul: the algorithms of a run's matrix products, chosen by time before the first step. */
#ifndef TUNE_H
#define TUNE_H

#include "cli/run.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Chooses them on a GPU: those that the resumed run had chosen are taken again, the others are timed in a
 * forward and backward of one micro-batch on a model of its own, which is gone again when this returns.
 * Before the run's model is opened: both would not fit. With --deterministic it is an Error when an algorithm
 * of the resumed run cannot be taken. */
bool tune_products(Run *r, Error *e);

/* A line of the configuration that says what came of it. */
void tune_print(const Run *r);

#ifdef __cplusplus
}
#endif
#endif
