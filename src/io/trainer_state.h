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

/* Writes PATH. options_json: the run's flags, an object; it is kept as it is. */
bool trainer_state_write(const TrainerState *s, const char *options_json, const char *path, Error *e);

/* Reads PATH; *options_json (malloc'ed) is the object of flags. */
bool trainer_state_read(TrainerState *s, char **options_json, const char *path, Error *e);

#ifdef __cplusplus
}
#endif
#endif
