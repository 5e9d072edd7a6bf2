/* A run as a whole: opening everything that the flags ask for, so that all that can be refused is refused
 * before anything is written, and what is printed and written about it. */
#ifndef RUN_H
#define RUN_H

#include "base/signals.h"
#include "cli/options.h"
#include "cli/saved_state.h"
#include "io/log.h"
#include "io/safetensors.h"
#include "llama/model.h"

#ifdef __cplusplus
extern "C" {
#endif

#define VERSION "0.1.0"

typedef struct Run {
  Options o;
  Config config;
  Device dev;
  Schedule *schedule;
  Model model;
  DataLoader *train, *val; /* NULL where there is none */
  SavedState resumed;      /* what the run goes on from */
  SafeTensors *weights;    /* of a folder, until they are loaded; else NULL */
  Log log;
  Signals *signals;
  int lock;                /* of the run folder; -1 = none */
  double roof;             /* FLOP/s of the device's matrix product, measured at start */
  int64_t libraries_bytes; /* resident before the arena: the program and what its libraries took */
  int64_t tokens;          /* trained on since step 1 */
  int64_t bad_steps;       /* steps in a row whose loss or gradient was not finite */
} Run;

/* With --plan, no more than the schedule is opened. run_close comes after either result. */
bool run_open(Run *r, Error *e);
void run_close(Run *r);

/* Makes the run folder and writes its run.json. Nothing without --out. */
bool run_begin_folder(Run *r, int argc, char **argv, Error *e);

/* The step that the run goes on from, 0 for a new one; its last step. */
int64_t run_first(const Run *r);
int64_t run_last(const Run *r);

/* Saves the state after `step` in the run folder. */
bool run_save(Run *r, int64_t step, Error *e);
/* About an Error of the disk, which does not touch the training: what --on-save-error says. True, and a
 * warning, when the run goes on. */
bool run_go_on(const Run *r, const Error *e);

void run_print_plan(const Run *r);
/* The configuration, the parameters, the plan, the data. */
void run_print_start(const Run *r);
/* 400 bytes that the model writes after a prompt of the demo. */
void run_print_sample(Run *r);

#ifdef __cplusplus
}
#endif
#endif
