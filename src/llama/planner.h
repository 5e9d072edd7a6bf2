/* Which flags let a run fit, and which of those that do are the fastest. Only flags that never change the
 * numbers are chosen here, and of them what the shape leaves AUTO: what is kept, what is computed again, how
 * the attention's heads are grouped, and what waits in host memory. */
#ifndef PLANNER_H
#define PLANNER_H

#include "llama/schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What there is to plan for. */
typedef struct PlanTarget {
  const Config *config;
  const Device *dev;
  int64_t device_bytes; /* to be kept to */
  int64_t host_bytes;   /* the same; 0 = no bound, but offloading is not chosen */
  bool one_memory;      /* the host's is the device's: both together are kept to device_bytes */
  int part_for_speed; /* where schedule_defaults fit, one part in so many of the bytes that they leave is all
                         that may be taken for more speed; 0 = every byte */
  double flops, memory, link; /* of the device: a second; see Card */
  int threads;                /* of the host, that can compute an update */
} PlanTarget;

/* A run that was planned. */
typedef struct PlannedRun {
  RunShape shape;
  int64_t device_bytes, host_bytes; /* what it takes */
  double seconds;                   /* of a step, as the cost model has it */
} PlannedRun;

/* Whether the flags of a shape, none of them AUTO but chunks, go together and suit the model. */
bool planner_allows(const Config *c, const RunShape *shape);

/* Bytes that a run lacks on the target; 0 = it fits. */
int64_t planner_missing(const PlanTarget *t, const PlannedRun *run);

/* Plans a run of that shape; what is AUTO in it is as in schedule_defaults. */
PlannedRun planner_plan(const PlanTarget *t, const RunShape *shape);

/* The seconds of a step: matrix products at 75 % of the device's rate and attention at 60 % (forward) and 50
 * % (backward), what is computed again included; what groups of heads and chunks after the first read and
 * write once more (CHUNK_AUTO: there is one); copies to and from the host where they take longer than the
 * computation that hides them, and those of the update in full, unless the CPU computes it. Without training,
 * of the forward. A model for choosing, not a promise. */
double planner_seconds(const PlanTarget *t, const RunShape *shape);

/* The fastest run of that shape, what is AUTO chosen, that fits. False when none does; *best is then the one
 * that lacks the fewest bytes. */
bool planner_fastest(PlannedRun *best, const PlanTarget *t, const RunShape *shape);

/* The longest sequence that fits, a multiple of LENGTH_STEP, and the fastest run of that length. False when
 * not even the shortest does; *best is then that one. */
enum { LENGTH_STEP = 256 };
bool planner_longest(PlannedRun *best, const PlanTarget *t, const RunShape *shape);

#ifdef __cplusplus
}
#endif
#endif
