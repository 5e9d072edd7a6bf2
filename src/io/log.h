/* What a run reports: a line a step on the terminal, and log.jsonl, a JSON object a line (docs/formats.md).
 */
#ifndef LOG_H
#define LOG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "io/outliers.h"

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
  bool skipped;                     /* loss or norm was not finite: no weight was changed */
} LogStep;

typedef struct Log {
  FILE *terminal;      /* where the lines for people go; not owned */
  int json;            /* log.jsonl; -1 = none */
  int64_t json_bytes;  /* its length: what a line that could only be written in part is cut back to */
  char path[4096];     /* its name, for messages */
  int64_t steps;       /* horizon of the schedule: the 400 of "12/400" */
  int64_t stop;        /* last step of this run: what ETA counts to */
  int64_t print_every; /* shown are the first step, the last, those that this divides, and what stands out */
  int64_t first;       /* the first step of this run; 0 = none yet */
  double mean_ms;      /* of a step, exponentially weighted: what ETA is made of */
  Outliers losses, norms;
} Log;

/* Opens DIR/log.jsonl. resume: the step after which the run goes on; 0 = a new run, an old log is
 * overwritten. Going on, the lines of later steps are dropped, and the last ones before them fill the windows
 * of the z-scores. dir NULL: the terminal only. The folder must exist. */
bool log_open(Log *log, const char *dir, FILE *terminal, int64_t steps, int64_t stop, int64_t print_every,
              int64_t resume, Error *e);
/* Prints and writes a step, its z-scores, and its evaluation if it had one. Steps come in ascending order.
 * When the disk is full the line is left out, and that is a runtime error; the next one may succeed. */
bool log_step(Log *log, const LogStep *s, Error *e);
/* An evaluation outside of a step: before the first one (step 0). */
bool log_evaluation(Log *log, int64_t step, float val_loss, Error *e);
void log_close(Log *log);

#ifdef __cplusplus
}
#endif
#endif
