/* The folder of a run (docs/formats.md): OUT/run.json, OUT/log.jsonl, and OUT/step-00001000/ for a saved
 * state, which is written aside and complete once its DONE exists. */
#ifndef RUN_FOLDER_H
#define RUN_FOLDER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { RUN_PATH = 4096 };

/* Makes OUT (and its parents) for a new run; refuses a folder that holds another run. */
bool run_folder_create(const char *out, Error *e);

/* Makes an empty folder for the state after `step` and puts its path into `path`; it has a name of its own
 * until run_folder_finish. */
bool run_folder_begin(char path[RUN_PATH], const char *out, int64_t step, Error *e);
/* Copies the tokenizer's files of a Hugging Face folder, those that it has, into `path`. */
bool run_folder_copy_tokenizer(const char *path, const char *model_dir, Error *e);
/* Writes DONE, syncs, and gives the folder its final name. */
bool run_folder_finish(const char *path, const char *out, int64_t step, Error *e);

#ifdef __cplusplus
}
#endif
#endif
