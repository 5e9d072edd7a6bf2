/* Which flags let a run fit, and which of those that do are the fastest. Only flags that never change the
 * numbers are chosen here: what is kept, what is computed again, how the attention's heads are grouped, and
 * what waits in host memory. */
#ifndef PLANNER_H
#define PLANNER_H

#include "llama/schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Flags that the planner may choose, as bits. */
enum {
  FREE_RECOMPUTE = 1 << 0,
  FREE_KEEP_ATTENTION = 1 << 1,
  FREE_CHECKPOINT_EVERY = 1 << 2,
  FREE_ATTN_GROUPS = 1 << 3,
  FREE_OFFLOAD = 1 << 4,
};

/* What there is to plan for. */
typedef struct PlanTarget {
  const Config *config;
  const Device *dev;
  int64_t device_bytes, host_bytes; /* to be kept to */
  double flops, link;               /* of the device: a second; see Card */
  unsigned free;                    /* FREE_ bits */
} PlanTarget;

/* A run that was planned. */
typedef struct PlannedRun {
  RunShape shape;
  int64_t device_bytes, host_bytes; /* what it takes */
  double seconds;                   /* of a step, as the cost model has it */
} PlannedRun;

/* The seconds of a step: matrix products at 75 % of the device's rate and attention at 60 % (forward) and 50
 * % (backward), what is computed again included; copies to and from the host where they take longer than the
 * computation that hides them, and those of the update in full. A model for choosing, not a promise. */
double planner_seconds(const PlanTarget *t, const RunShape *shape);

/* The fastest run of that shape, its free flags chosen, that fits. False when none does; *best is then the
 * one that takes the least of the device's memory. */
bool planner_fastest(PlannedRun *best, const PlanTarget *t, const RunShape *shape);

/* The longest sequence that fits, a multiple of LENGTH_STEP, and the fastest run of that length. False when
 * not even the shortest does; *best is then that one. */
enum { LENGTH_STEP = 256 };
bool planner_longest(PlannedRun *best, const PlanTarget *t, const RunShape *shape);

#ifdef __cplusplus
}
#endif
#endif
