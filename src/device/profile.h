/* Where the time of training steps goes, by operation (--profile). It hangs on the Device: with dev->profile
 * NULL, operations ask for nothing but that. An operation puts two lines around its work:
 *
 *   double begin = profile_begin(dev);
 *   ...
 *   profile_end(dev, begin, "rmsnorm", "forward", 0, bytes);
 *
 * On CUDA the device is waited for at both lines, so that a profiled run is slower. An operation inside
 * another belongs to the outer one. */
#ifndef PROFILE_H
#define PROFILE_H

#include <stdio.h>

#include "device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Profile Profile;

/* Rates that the same run measured, to hold those of the operations against. */
typedef struct ProfileRoofs {
  double flops;                /* of a matrix product, a second */
  double bytes;                /* read and written by a copy, a second */
  double flops_per_cpu_second; /* of a matrix product, a second of one processor; see matmul_measure_rate */
} ProfileRoofs;

/* Begins a profile of what the device does from now on. */
void profile_open(Device *dev);
void profile_close(Device *dev);

/* Around a training step; what operations do outside of steps does not count. The first step is kept apart:
 * it touches memory for the first time. seconds: the step's wall time, as it is logged. */
void profile_step_begin(Device *dev);
void profile_step_end(Device *dev, double seconds);

/* Around an operation. name, part: string literals. flops: floating-point operations of its matrix products,
 * 0 where there are none. bytes: what has to be read and written at least, for operations that are bound by
 * memory; else 0. */
double profile_begin_timed(Device *dev);
void profile_end_timed(Device *dev, double begin, const char *name, const char *part, double flops,
                       double bytes);
static inline double profile_begin(Device *dev) {
  return dev->profile ? profile_begin_timed(dev) : 0;
}
static inline void profile_end(Device *dev, double begin, const char *name, const char *part, double flops,
                               double bytes) {
  if (dev->profile) profile_end_timed(dev, begin, name, part, flops, bytes);
}

/* Bytes a second that a large device_copy reads and writes, the best of those that `seconds` allow; 0 when
 * there is no memory for one. */
double profile_copy_rate(Device *dev, double seconds);

/* The table, and the same as JSON. Means over the steps after the first; of a single step, that one. */
void profile_print(FILE *out, const Device *dev, ProfileRoofs roofs);
void profile_json(FILE *out, const Device *dev, ProfileRoofs roofs);

#ifdef __cplusplus
}
#endif
#endif
