/* The folder of a run (docs/formats.md): OUT/run.json, OUT/log.jsonl, and OUT/step-00001000/ for a saved
 * state. A state is written aside as step-00001000.tmp; it has its name once it is complete, synced, and
 * holds DONE. Whatever kills the program, the newest complete state stays. */
#ifndef RUN_FOLDER_H
#define RUN_FOLDER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { RUN_PATH = 4096 };

/* Locks OUT, which exists: a second program in the same folder is refused. *lock is to be closed at the end
 * of the run. */
bool run_folder_lock(int *lock, const char *out, Error *e);
/* Makes OUT (and its parents) and locks it, unless *lock is not negative: then that was done. */
bool run_folder_open(int *lock, const char *out, Error *e);
/* Refuses an OUT that holds another run. */
bool run_folder_check_new(const char *out, Error *e);

/* Removes what a killed program left half written or half removed; false when something of it stays. For the
 * holder of the lock. */
bool run_folder_mend(const char *out, Error *e);

/* The complete state of the highest step; false when there is none. */
bool run_folder_newest(char path[RUN_PATH], int64_t *step, const char *out);
/* True when PATH is a folder that holds DONE. */
bool run_folder_is_complete(const char *path);

/* Makes an empty folder for the state after `step` and puts its path into `path`. */
bool run_folder_begin(char path[RUN_PATH], const char *out, int64_t step, Error *e);
/* Whether those of a Hugging Face folder that run_folder_copy_tokenizer will copy can be read. */
bool run_folder_check_tokenizer(const char *model_dir, Error *e);
/* Copies the tokenizer's files of a Hugging Face folder, those that it has, into `path`. */
bool run_folder_copy_tokenizer(const char *path, const char *model_dir, Error *e);
/* Writes DONE, syncs, and gives the folder its name; a state that had this name is replaced. */
bool run_folder_finish(const char *path, const char *out, int64_t step, Error *e);

/* Removes all complete states but the newest `keep`; false when one of them stays. */
bool run_folder_prune(const char *out, int64_t keep, Error *e);

#ifdef __cplusplus
}
#endif
#endif
