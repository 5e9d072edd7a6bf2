/* Flags whose value is `auto`, and what was chosen for them: as text for the user, and as JSON for run.json
 * and saved states, from which a resumed run takes the same again. */
#ifndef AUTOMATIC_H
#define AUTOMATIC_H

#include <stdio.h>

#include "cli/options.h"
#include "llama/schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The flags that are auto in *o, with the values that `shape` has: "--recompute layer --offload none ...",
 * nothing when there are none; or {"recompute": "layer", ...}. */
void automatic_print(FILE *f, const Options *o, const RunShape *shape);
void automatic_json(FILE *f, const Options *o, const RunShape *shape);

/* setup_shape(o) with what such a JSON object says of the flags that are auto. What it does not say, or says
 * wrongly, stays AUTO. */
RunShape automatic_read(const Options *o, const char *json);

#ifdef __cplusplus
}
#endif
#endif
