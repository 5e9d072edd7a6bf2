/* trainer.json of a saved state (docs/formats.md): where the run was, and what it was a run of. */
#ifndef TRAINER_STATE_H
#define TRAINER_STATE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "dataloader.h" /* defines: DataPosition */

#ifdef __cplusplus
extern "C" {
#endif

typedef struct TrainerState {
  int64_t step;              /* the last one that was done */
  int64_t tokens;            /* trained on since step 1 */
  DataPosition position;     /* in the training data, after that step */
  uint64_t data_fingerprint; /* of the training data; see dataloader_fingerprint */
  uint64_t tokenizer_hash;   /* of the training shards; 0 = not known */
  uint64_t weights_hash;     /* XXH3 of the bytes of model.safetensors */
  uint64_t optimizer_hash;   /* and of optimizer.safetensors */
} TrainerState;

/* Flags as JSON objects, which are kept as they are. */
typedef struct TrainerFlags {
  char *options;   /* every flag's value; malloc'ed */
  char *automatic; /* what was chosen for those that are auto; malloc'ed */
} TrainerFlags;

/* Writes PATH. */
bool trainer_state_write(const TrainerState *s, const TrainerFlags *flags, const char *path, Error *e);

/* Reads PATH. */
bool trainer_state_read(TrainerState *s, TrainerFlags *flags, const char *path, Error *e);

void trainer_flags_free(TrainerFlags *flags);

#ifdef __cplusplus
}
#endif
#endif
