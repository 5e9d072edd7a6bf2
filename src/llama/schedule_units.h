/* The part of the schedule that is about parameters: what each unit of the table has, where it lives and
 * when, and the slots through which the device reaches what is in host memory. */
#ifndef SCHEDULE_UNITS_H
#define SCHEDULE_UNITS_H

#include "llama/schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Declares weights, gradients, moments and master copy of all units, and the slots of those on the host. The
 * schedule's moments are settled. */
void schedule_declare_units(Schedule *s, const Config *c);

#ifdef __cplusplus
}
#endif
#endif
