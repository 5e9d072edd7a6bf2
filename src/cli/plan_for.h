/* Whether a run fits, on the device that is here or on a card that is not: the memory there is, the flags
 * that are chosen for it, what would fit where nothing does, and how long a sequence may be. */
#ifndef PLAN_FOR_H
#define PLAN_FOR_H

#include <stdio.h>

#include "cli/options.h"
#include "device/cards.h"
#include "llama/planner.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a run is fitted to, and how it fits. `target` points to `stand_in` or to the device. */
typedef struct PlanFor {
  Card card;         /* the memory that there is, and of what */
  int64_t kept_back; /* bytes of it that are not planned with */
  Device stand_in;   /* of a GPU, here or not: plans need no more */
  PlanTarget target;
  PlannedRun run;     /* what plan_for_choose chose; where nothing fits, the run as the flags have it */
  int64_t missing;    /* bytes; 0 = it fits */
  PlannedRun leanest; /* where nothing fits: what lacks the fewest bytes of all that may be chosen */
} PlanFor;

/* The device that --plan-device names. */
bool plan_for_device(Device *dev, const Options *o, Error *e);

/* The memory of the device, or of the card that --plan-device names; --device-memory and --host-memory
 * override. stand_in: plan with the workspaces that cuDNN asks for on such a GPU. *config, *dev and *p stay
 * where they are. */
void plan_for_open(PlanFor *p, const Options *o, const Config *c, const Device *dev, bool stand_in);

/* Chooses what is AUTO in the shape: the fastest that fits. False when nothing does. */
bool plan_for_choose(PlanFor *p, const RunShape *shape);

/* How p->run fits, in lines that begin with "# "; as one JSON object. */
void plan_for_print(FILE *f, const PlanFor *p, const Options *o);
void plan_for_json(FILE *f, const PlanFor *p, const Options *o);

/* The error of a run that does not fit: what is missing, and what would help. Returns false. */
bool plan_for_refuse(const PlanFor *p, const Options *o, Error *e);

/* --max-seq-len-for: prints the longest sequence and the flags that get there. An Error when none fits. */
bool plan_for_longest(const Options *o, Error *e);

#ifdef __cplusplus
}
#endif
#endif
