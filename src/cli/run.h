/* A run as a whole: opening everything that the flags ask for, so that all that can be refused is refused
 * before anything is written, and what is printed and written about it. */
#ifndef RUN_H
#define RUN_H

#include "base/signals.h"
#include "base/version.h" /* VERSION */
#include "cli/options.h"
#include "cli/plan_for.h"
#include "cli/saved_state.h"
#include "device/profile.h" /* ProfileRoofs */
#include "io/log.h"
#include "io/safetensors.h"
#include "llama/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Text Text; /* cli/text.h */

typedef struct Run {
  Options o;
  Config config;
  Device dev;
  PlanFor room; /* the memory there is, and how the run fits it */
  Schedule *schedule;
  Model model;
  DataLoader *train, *val; /* NULL where there is none */
  SavedState resumed;      /* what the run goes on from */
  SafeTensors *weights;    /* of a folder, until they are loaded; else NULL */
  Text *text;              /* how tokens become text; NULL in a run that writes none */
  Log log;
  Signals *signals;
  int lock;                         /* of the run folder; -1 = none */
  double roof;                      /* FLOP/s of the device's matrix product, measured at start */
  ProfileRoofs roofs;               /* of a profile: the best that were measured so far */
  int64_t libraries_bytes;          /* resident before the arena: the program and what its libraries took */
  int64_t tokens;                   /* trained on since step 1 */
  int64_t bad_steps;                /* steps in a row whose loss or gradient was not finite */
  bool warned_of_masked;            /* a step had no targets, and that was said */
  int64_t saved;                    /* the step after which the last state was saved; 0 = none by this run */
  bool prune;                       /* a state was saved, and older ones were not yet removed */
  char on_loss[2 * RUN_PATH + 128]; /* what is to be said when the device is lost */
  char warned[2048];                /* the last Error that the run went on after */
} Run;

/* With --plan, no more than the schedule is opened. run_close comes after either result. */
bool run_open(Run *r, Error *e);
void run_close(Run *r);

/* Makes the run folder and writes its run.json. Nothing without --out. */
bool run_begin_folder(Run *r, int argc, char **argv, Error *e);

/* The step that the run goes on from, 0 for a new one; its last step. */
int64_t run_first(const Run *r);
int64_t run_last(const Run *r);

/* Micro-batches of an evaluation: --eval-batches of them, but none that needs a sequence for the second time.
 * 0 without validation data. */
int64_t run_eval_batches(const Run *r);

/* Saves the state after `step` in the run folder. */
bool run_save(Run *r, int64_t step, Error *e);
/* Removes older states as --keep says, once the newest has shown that it is worth keeping. */
void run_prune(Run *r);
/* After an Error that ends the run though the model is as it was after step `done` (data that cannot be
 * read): that state is saved if it is not yet. Returns false; *e is a runtime error and says what was done.
 */
bool run_rescue(Run *r, int64_t done, Error *e);
/* About an Error of the disk, which does not touch the training: what --on-save-error says. True, and a
 * warning (once for the same Error in a row), when the run goes on. */
bool run_go_on(Run *r, const Error *e);

void run_print_plan(const Run *r);
/* The configuration, the parameters, the plan, the data. */
void run_print_start(const Run *r);
/* With --profile: measures the roofs once more, between steps. */
void run_measure_roofs(Run *r);
/* Prints the profile, and writes it to profile.json in the run folder. Nothing without --profile. */
bool run_report_profile(Run *r, Error *e);

#ifdef __cplusplus
}
#endif
#endif
