/* From options to what they name: the model's config, the run's shape, the data. */
#ifndef SETUP_H
#define SETUP_H

#include "cli/options.h"
#include "dataloader.h"
#include "llama/config.h"
#include "llama/schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Fills in the options that the built-in demo chooses differently, where the user did not. */
void setup_demo_defaults(Options *o);

/* True when o->model is a Hugging Face folder, false when it is the name of a preset. */
bool setup_is_folder(const Options *o);

/* The config of o->model with the rope flags applied. Warns on stderr where T passes what the model was made
 * for. *c is to be freed in either case. */
bool setup_config(Config *c, const Options *o, Error *e);

enum { SAMPLE_PROMPT = 64, SAMPLE_TOKENS = 512 }; /* of a sample: tokens of its prompt, and all */

/* The shape of the run. */
RunShape setup_shape(const Options *o);

/* Opens the training and the validation data; *val is NULL when there is none. A .txt file without --val is
 * split: its last twentieth is held out. */
bool setup_data(DataLoader **train, DataLoader **val, const Options *o, const Config *c, Error *e);

#ifdef __cplusplus
}
#endif
#endif
