/* What a run reports: a line a step on the terminal, and log.jsonl, a JSON object a line (docs/formats.md).
 */
#ifndef LOG_H
#define LOG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One optimizer step. */
typedef struct LogStep {
  int64_t step;    /* counted from 1 */
  float loss;      /* mean over the step's valid targets */
  float grad_norm; /* global norm before clipping */
  double lr;
  int64_t tokens; /* trained on since step 1, this step included */
  double step_ms; /* wall time of the step, without evaluation and saving */
  double tokens_per_s;
  double mfu;                       /* share of the device's matrix product rate, 0 .. 1; NAN = not known */
  int64_t device_bytes, host_bytes; /* memory in use */
  bool evaluated;                   /* val_loss is there */
  float val_loss;                   /* mean over the valid targets of the evaluation */
} LogStep;

typedef struct Log {
  FILE *terminal;      /* where the lines for people go; not owned */
  FILE *json;          /* log.jsonl, owned; NULL = none */
  char path[4096];     /* its name, for messages */
  int64_t steps;       /* horizon of the schedule: the 400 of "12/400" */
  int64_t stop;        /* last step of this run: what ETA counts to */
  int64_t print_every; /* shown are the first step, the last, and those that this divides */
  int64_t first;       /* the first step of this run; 0 = none yet */
  double mean_ms;      /* of a step, exponentially weighted: what ETA is made of */
} Log;

/* Opens DIR/log.jsonl for a new log (an old one is overwritten); dir NULL: the terminal only. The folder must
 * exist. */
bool log_open(Log *log, const char *dir, FILE *terminal, int64_t steps, int64_t stop, int64_t print_every,
              Error *e);
/* Prints and writes a step, and its evaluation if it had one, and flushes both streams. Steps come in
 * ascending order. A full disk is a runtime error. */
bool log_step(Log *log, const LogStep *s, Error *e);
/* An evaluation outside of a step: before the first one (step 0), or of --eval-only. */
bool log_evaluation(Log *log, int64_t step, float val_loss, Error *e);
/* Closes log.jsonl; what the disk refuses now is an error as well. */
bool log_close(Log *log, Error *e);

#ifdef __cplusplus
}
#endif
#endif
