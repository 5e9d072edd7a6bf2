/* train_llama: trains Llama-style models on very long sequences, after the Mini-Sequence Transformer
 * (arXiv 2407.15892). This file is the story: flags -> plan -> model -> step loop. The mini-sequences are in
 * mst_chunk.cuh, the data in dataloader.h, the machinery in src/. */

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/process.h"    /* defines: process_peak_bytes */
#include "cli/completion.h"  /* defines: completion_print */
#include "cli/config_file.h" /* defines: config_file_apply */
#include "cli/flags.h"       /* defines: flags_parse, flags_help */
#include "cli/generate.h"    /* defines: generate_run, generate_sample */
#include "cli/man.h"         /* defines: man_print */
#include "cli/plan_for.h"    /* defines: plan_for_longest */
#include "cli/run.h"         /* defines: Run, run_open, run_begin_folder, run_save */
#include "cli/setup.h"       /* defines: setup_demo_defaults */
#include "dataloader.h"      /* defines: DataLoader, StepBatch */
#include "device/profile.h"  /* defines: profile_step_begin, profile_step_end */
#include "io/log.h"          /* defines: Log, log_step, log_evaluation */
#include "llama/blame.h"     /* defines: model_blame */
#include "llama/hf_model.h"  /* defines: hf_model_dump_gradients */
#include "llama/model.h"     /* defines: Model, model_forward_backward, model_evaluate */
#include "llama/optimizer.h" /* defines: learning_rate, optimizer_update */

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Mean loss over the valid targets of the validation data's first micro-batches. *done is false when a signal
 * that asks to stop came first. */
static bool evaluate(Run *r, float *loss, bool *done, Error *e) {
  double sum = 0;
  int64_t valid = 0;
  dataloader_rewind(r->val);
  for (int64_t i = 0; i < run_eval_batches(r); i++) {
    *done = !signals_stop(r->signals);
    if (!*done) return true;
    StepBatch step = model_step_batch(&r->model, 1);
    if (!dataloader_next(r->val, &step, e)) return false;
    sum += model_evaluate(&r->model, &step);
    valid += step.valid_targets;
  }
  *loss = (float)(sum / (double)valid);
  if (!isfinite(*loss)) fprintf(stderr, "# WARNING: the validation loss is not finite\n");
  return true;
}

static bool evaluate_only(Run *r, Error *e) {
  float loss;
  bool done;
  if (!evaluate(r, &loss, &done, e)) return false;
  printf("val loss %.6f | ppl %.4f\n", loss, exp((double)loss));
  return true;
}

static bool dump_gradients(Run *r, Error *e) {
  StepBatch step = model_step_batch(&r->model, r->o.grad_accum);
  if (!dataloader_next(r->train, &step, e)) return false;
  double loss = model_forward_backward(&r->model, &step, NULL);
  if (!hf_model_dump_gradients(&r->model, r->o.dump_grads, loss, &step, e)) return false;
  printf("# loss %.9g, gradient norm %.9g; gradients are in %s\n", loss, gradient_norm(&r->model),
         r->o.dump_grads);
  return true;
}

/* A step whose loss or gradient is not finite changes no weight (with --update layer: nothing from that
 * gradient on). It is left out when --skip-bad-steps allows
 * one more in a row; else it is an error that says where the first such number is. */
static bool tolerate(Run *r, int64_t i, const StepBatch *step, double loss, double norm, Error *e) {
  char where[BLAME_TEXT];
  bool stopped = r->model.stopped_at != NOT_STOPPED;
  model_blame(&r->model, step, where);
  r->bad_steps++;
  error_runtime(e,
                "step %lld: the loss is %g and the gradient's norm %g. The first tensor that is not finite: "
                "%s.\n%s; saved states are as they were. A lower --lr, a longer --warmup, %s may help.",
                (long long)i, loss, norm, where,
                stopped ? "What follows it in the model was updated by this step already (--update layer)"
                        : "No weight was changed by this step",
                r->o.update == UPDATE_LAYER ? "or --update step with --clip"
                                            : "--clip,\nor --skip-bad-steps");
  if (r->bad_steps > r->o.skip_bad_steps) return false;
  fflush(stdout);
  fprintf(stderr, "# WARNING: %s\n# skipped, %lld in a row of %lld\n", e->text, (long long)r->bad_steps,
          (long long)r->o.skip_bad_steps);
  return true;
}

/* A step without targets has a loss of 0 and no gradient: said once, since all steps may be like that. */
static void warn_of_masked(Run *r, int64_t i, const StepBatch *step) {
  if (step->valid_targets > 0 || r->warned_of_masked) return;
  r->warned_of_masked = true;
  fflush(stdout);
  fprintf(stderr,
          "# WARNING: step %lld: none of its %lld tokens has a target that counts, since all are masked. Its "
          "loss is 0. The data may be masked by mistake.\n",
          (long long)i, (long long)(step->A * step->B * step->T));
}

static AdamW adamw_of_step(const Run *r, int64_t i) {
  const Options *o = &r->o;
  LrSchedule lr = {(LrKind)o->schedule, o->lr, o->min_lr, o->warmup, o->steps};
  AdamW a = {};
  a.lr = learning_rate(&lr, i);
  a.beta1 = o->beta1;
  a.beta2 = o->beta2;
  a.eps = o->eps;
  a.weight_decay = o->weight_decay;
  a.step = i;
  a.seed = (uint64_t)o->seed;
  a.grad_scale = 1;
  return a;
}

/* One optimizer step; fills in what the log says of it. */
static bool train_step(Run *r, int64_t i, LogStep *s, Error *e) {
  const Options *o = &r->o;
  double start = seconds_now();
  profile_step_begin(&r->dev);
  StepBatch step = model_step_batch(&r->model, o->grad_accum);
  if (!dataloader_next(r->train, &step, e)) return run_rescue(r, i - 1, e);
  warn_of_masked(r, i, &step);
  AdamW a = adamw_of_step(r, i);
  double loss = model_forward_backward(&r->model, &step, &a), norm = gradient_norm(&r->model);
  bool finite = isfinite(loss) && isfinite(norm);
  if (!finite && !tolerate(r, i, &step, loss, norm, e)) return false;
  if (finite && o->update == UPDATE_STEP) optimizer_update(&r->model, a, o->clip);
  if (finite) r->bad_steps = 0;
  r->tokens += step.A * step.B * step.T;

  double seconds = seconds_now() - start, tokens = (double)(step.A * step.B * step.T);
  profile_step_end(&r->dev, seconds);
  LrSchedule lr = {(LrKind)o->schedule, o->lr, o->min_lr, o->warmup, o->steps};
  s->step = i;
  s->loss = (float)loss;
  s->grad_norm = (float)norm;
  s->lr = learning_rate(&lr, i);
  s->tokens = r->tokens;
  s->step_ms = 1e3 * seconds;
  s->tokens_per_s = tokens / seconds;
  s->mfu = model_step_flops(&r->config, &step) / seconds / r->roof;
  s->device_bytes = plan_bytes(r->schedule->plan, SPACE_DEVICE);
  s->host_bytes = process_peak_bytes();
  s->skipped = !finite;
  return true;
}

static bool is_due(int64_t every, int64_t step, bool last) {
  return last || (every && step % every == 0);
}

/* What follows a step: evaluation, log, sample, saved state. A signal that asks to stop cuts it short;
 * train() then saves. When the data of an evaluation cannot be read, the step counts all the same. */
static bool after_step(Run *r, LogStep *s, Error *e) {
  const Options *o = &r->o;
  int64_t i = s->step;
  bool last = i == run_last(r);
  bool readable = !r->val || !is_due(o->eval_every, i, last) || evaluate(r, &s->val_loss, &s->evaluated, e);
  Error of_log = {};
  bool logged = log_step(&r->log, s, &of_log);
  if (!readable) return run_rescue(r, i, e);
  if (!logged) *e = of_log;
  if (!logged && !run_go_on(r, e)) return false;
  if (r->text && !signals_stop(r->signals) && is_due(o->sample_every, i, last) && !generate_sample(r, e))
    return run_rescue(r, i, e);
  bool asked = signals_take_save(r->signals);
  if (!o->out || !(asked || is_due(o->save_every, i, last))) return true;
  return run_save(r, i, e) || (!last && run_go_on(r, e));
}

static bool train(Run *r, Error *e) {
  const Options *o = &r->o;
  int64_t first = run_first(r), last = run_last(r), i = first;
  int print_every = strcmp(o->model, "demo") == 0 ? 10 : 1, signal;
  float val_loss = 0;
  bool evaluated = false;
  if (!log_open(&r->log, o->out, stdout, o->steps, last, print_every, first, e)) return false;
  signals_arm(r->signals);
  if (r->val && first == 0) {
    if (!evaluate(r, &val_loss, &evaluated, e)) return false;
    if (evaluated && !log_evaluation(&r->log, 0, val_loss, e) && !run_go_on(r, e)) return false;
  }
  while (!(signal = signals_stop(r->signals)) && i < last) {
    LogStep s = {};
    if (!train_step(r, ++i, &s, e)) return false;
    if (!s.skipped) run_prune(r); /* what was saved before this step has given a finite one */
    run_measure_roofs(r);
    if (!after_step(r, &s, e)) return false;
    if (s.evaluated) val_loss = s.val_loss;
  }
  if (o->out && i > first && r->saved != i && !run_save(r, i, e)) return false;
  if (isfinite(val_loss)) run_prune(r);
  if (i < last)
    printf("# stopped after step %lld as asked by %s%s\n", (long long)i, strsignal(signal),
           o->out && i > first ? "; --resume goes on from here" : "; nothing new is saved");
  return run_report_profile(r, e);
}

/* What is printed is the result: it must have arrived. */
static bool printed(Error *e) {
  return (fflush(stdout) == 0 && !ferror(stdout)) ||
         error_runtime(e, "standard output cannot be written: is the disk full?");
}

static bool run(Run *r, int argc, char **argv, Error *e) {
  if (r->o.max_seq_len_for) return plan_for_longest(&r->o, e) && printed(e);
  if (r->o.generate) return generate_run(r, e) && printed(e);
  if (!run_open(r, e)) return false;
  if (r->o.plan) return run_print_plan(r), printed(e);
  run_print_start(r);
  if (r->o.dump_grads) return dump_gradients(r, e) && printed(e);
  if (r->o.eval_only) return evaluate_only(r, e) && printed(e);
  if (run_first(r) >= run_last(r))
    return printf("# step %lld is done: nothing is left to do\n", (long long)run_first(r)), true;
  return run_begin_folder(r, argc, argv, e) && train(r, e);
}

/* Prints what is asked for instead of a run; false when it is a run. */
static bool print_text(const Options *o) {
  if (o->help)
    flags_help(stdout, *o->help ? o->help : NULL);
  else if (o->version)
    printf("train_llama %s\n", VERSION);
  else if (o->man)
    man_print(stdout, flags_table(), &train_llama_manual, VERSION);
  else if (o->completion)
    completion_print(stdout, flags_table(), o->completion);
  else
    return false;
  return true;
}

int main(int argc, char **argv) {
  Run r = {};
  Error e = {};
  flags_defaults(&r.o);
  bool ok = flags_parse(&r.o, argc, argv, &e);
  if (ok && print_text(&r.o)) {
    ok = printed(&e);
    if (ok) return 0;
  }
  ok = ok && config_file_apply(&r.o, &e);
  if (ok) setup_demo_defaults(&r.o);
  ok = ok && options_check(&r.o, &e);
  if (ok) {
    ok = run(&r, argc, argv, &e);
    run_close(&r);
  }
  options_free(&r.o);
  if (ok) return 0;
  fflush(stdout);
  fprintf(stderr, "train_llama: %s\n", e.text);
  return e.code;
}
