/* The memory of a run: one allocation a space, carved as the plan says. */
#ifndef ARENA_H
#define ARENA_H

#include "device/device.h"
#include "memory/plan.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Arena {
  const Plan *plan; /* packed; outlives the arena */
  Device *dev;
  char *base[SPACE_COUNT]; /* device memory; host memory */
  int moment;              /* where the step is */
  bool poison;             /* fill buffers with NaN when they are born and when they die */
} Arena;

/* Takes plan_bytes() of each space. poison is for tests: it makes a read before birth or after death show. */
bool arena_open(Arena *a, const Plan *plan, Device *dev, bool poison, Error *e);
void arena_close(Arena *a);

/* The step passes on to `moment`: buffers that do not live there are gone. */
void arena_enter(Arena *a, int moment);

/* The memory of a buffer that lives now; asking for one that does not is a broken schedule and panics. */
void *arena_get(const Arena *a, BufferId id);

#ifdef __cplusplus
}
#endif
#endif
