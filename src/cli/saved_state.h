/* A saved state: all that a run needs to go on as if nothing had happened. It is a folder of the run folder
 * (docs/formats.md): the model as Hugging Face has it, the optimizer's tensors, trainer.json. */
#ifndef SAVED_STATE_H
#define SAVED_STATE_H

#include "cli/options.h"
#include "dataloader.h"
#include "io/run_folder.h"    /* defines: RUN_PATH */
#include "io/trainer_state.h" /* defines: TrainerState */
#include "llama/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct SavedState {
  char path[RUN_PATH]; /* "" = there is none: the run starts at step 1 */
  TrainerState at;
  TrainerFlags flags; /* of the run that saved it; owned */
} SavedState;

/* Finds and reads the state that --resume asks for: the named one, or the newest in --out. Without --resume,
 * and where --out has none yet, there is none. */
bool saved_state_open(SavedState *s, const Options *o, Error *e);
void saved_state_close(SavedState *s);

/* Refuses, with the difference, to go on with another model, number format or seed; prints flags that changed
 * otherwise. */
bool saved_state_check_model(const SavedState *s, const Options *o, const Config *c, Error *e);
/* The same for the tokenizer and the training data. */
bool saved_state_check_data(const SavedState *s, const Options *o, const DataLoader *train, Error *e);

/* Moments and master copy. */
bool saved_state_load_optimizer(const SavedState *s, Model *m, Error *e);

/* Makes --out ready for the states of this run, and locks it; see run_folder_open. */
bool saved_state_prepare_folder(int *lock, const SavedState *s, const Options *o, Error *e);

/* Saves the state after at->step in --out and fills in the hashes of its files. On failure nothing is left of
 * it. */
bool saved_state_write(TrainerState *at, Model *m, const Options *o, Error *e);

#ifdef __cplusplus
}
#endif
#endif
