/* Plans for a card that is not here: whether a run fits, with which flags it would, and how long a sequence
 * may be. */
#ifndef PLAN_FOR_H
#define PLAN_FOR_H

#include "cli/options.h"
#include "llama/schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The device that --plan-device names. */
bool plan_for_device(Device *dev, const Options *o, Error *e);

/* After the plan of a run on it: whether that fits, and if not, what would. */
void plan_for_print_fit(const Options *o, const Config *c, const Schedule *s);

/* --max-seq-len-for: prints the longest sequence and the flags that get there. An Error when none fits. */
bool plan_for_longest(const Options *o, Error *e);

#ifdef __cplusplus
}
#endif
#endif
