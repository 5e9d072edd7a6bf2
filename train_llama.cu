/* train_llama: trains Llama-style models on very long sequences, after the Mini-Sequence Transformer
 * (arXiv 2407.15892). This file is the story: flags -> plan -> model -> step loop. The mini-sequences are in
 * mst_chunk.cuh, the data in dataloader.h, the machinery in src/. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/process.h"  /* defines: process_resident_bytes, process_peak_bytes */
#include "cli/flags.h"     /* defines: flags_parse, flags_help, flags_print, flags_json, Options */
#include "cli/setup.h"     /* defines: setup_config, setup_shape, setup_data */
#include "dataloader.h"    /* defines: DataLoader, StepBatch */
#include "device/device.h" /* defines: Device */
#include "io/demo_text.h"  /* defines: demo_prompt */
#include "io/file.h"       /* defines: file_check_folder */
#include "io/json_out.h"   /* defines: json_string */
#include "io/hf_config.h"  /* defines: hf_config_write */
#include "io/log.h"        /* defines: Log, log_step, log_evaluation */
#include "io/run_folder.h" /* defines: run_folder_create, run_folder_begin, run_folder_finish */
#include "llama/hf_model.h" /* defines: hf_model_check, hf_model_load, hf_model_save, hf_model_dump_gradients */
#include "llama/model.h"    /* defines: Model, model_forward_backward, model_evaluate */
#include "llama/optimizer.h" /* defines: learning_rate, optimizer_update */
#include "llama/sample.h"    /* defines: sample_bytes */
#include "ops/matmul.h"      /* defines: matmul_measure_rate */

#define VERSION "0.1.0"

/* Everything a run holds. */
typedef struct Run {
  Options o;
  Config config;
  Device dev;
  Schedule *schedule;
  Model model;
  SafeTensors *weights;    /* of --model's folder until they are loaded, else NULL */
  DataLoader *train, *val; /* NULL where there is none */
  Log log;
  double roof;             /* FLOP/s of the device's matrix product, measured at start */
  int64_t libraries_bytes; /* resident before the arena: the program and what its libraries took */
} Run;

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- opening: all that can be refused is refused before anything is written ---- */

static bool load_weights(Run *r, Error *e) {
  if (!setup_is_folder(&r->o)) {
    model_init(&r->model, (uint64_t)r->o.seed);
    return true;
  }
  bool ok = hf_model_load(&r->model, r->weights, e) || error_prefix(e, "--model %s: ", r->o.model);
  safetensors_close(r->weights);
  r->weights = NULL;
  return ok;
}

/* A config.json that is not that of the weights is found before its sizes are allocated. */
static bool open_weights(Run *r, Error *e) {
  if (!setup_is_folder(&r->o) || r->o.plan) return true;
  r->weights = safetensors_open(r->o.model, e);
  return (r->weights && hf_model_check(&r->config, r->weights, e)) ||
         error_prefix(e, "--model %s: ", r->o.model);
}

static bool check_sampling(const Run *r, Error *e) {
  bool bytes = (!r->train || dataloader_bytes(r->train)) && (!r->val || dataloader_bytes(r->val));
  if (!r->o.sample_every || bytes) return true;
  return error_usage(
      e, "--sample-every: found token shards, expected text (.txt) whose bytes are the tokens: this "
         "version cannot\nturn other tokens into text. Leave --sample-every out.");
}

/* Reads what the first step would read: a token that the model does not have shows here, not after a start.
 */
static bool peek(Run *r, DataLoader *d, Error *e) {
  if (!d) return true;
  StepBatch step = model_step_batch(&r->model, r->o.grad_accum);
  bool ok = dataloader_next(d, &step, e);
  dataloader_rewind(d);
  return ok;
}

static bool run_open(Run *r, Error *e) {
  const Options *o = &r->o;
  if (!setup_config(&r->config, o, e) || !open_weights(r, e) ||
      !device_open(&r->dev, o->device, (int)o->threads, e))
    return false;
  RunShape shape = setup_shape(o);
  r->schedule = schedule_new(&r->config, &shape, &r->dev);
  if (o->plan) return true;
  if (!setup_data(&r->train, &r->val, o, &r->config, e) || !check_sampling(r, e)) return false;
  r->roof = matmul_measure_rate(&r->dev, 0.2);
  r->libraries_bytes = process_resident_bytes();
  return model_open(&r->model, &r->config, r->schedule, &r->dev, false, e) && load_weights(r, e) &&
         peek(r, r->train, e) && peek(r, r->val, e);
}

static void run_close(Run *r) {
  model_close(&r->model);
  safetensors_close(r->weights);
  schedule_free(r->schedule);
  dataloader_close(r->train);
  dataloader_close(r->val);
  device_close(&r->dev);
  config_free(&r->config);
}

/* ---- what is printed and written ---- */

static void print_plan(const Run *r) {
  if (r->o.json) {
    plan_json(stdout, r->schedule->plan);
    return;
  }
  plan_print(stdout, r->schedule->plan);
  printf("# mini-sequences: MLP %lld rows, LM head %lld rows, of %lld\n",
         (long long)schedule_mlp_rows(r->schedule), (long long)schedule_head_rows(r->schedule),
         (long long)schedule_rows(r->schedule));
}

static void print_start(const Run *r) {
  const Config *c = &r->config;
  char text[32];
  printf("# train_llama %s on %s, %.0f GFLOP/s in fp32 products\n", VERSION, r->dev.name, r->roof * 1e-9);
  flags_print(stdout, &r->o);
  params_print(stdout, &r->model.params);
  printf("# %s: C %lld, L %lld, NH %lld, NKV %lld, HS %lld, FF %lld, V %lld, %lld parameters\n", c->family,
         (long long)c->C, (long long)c->L, (long long)c->NH, (long long)c->NKV, (long long)c->HS,
         (long long)c->FF, (long long)c->V, (long long)config_parameters(c));
  print_plan(r);
  printf("# libraries and program %s (measured)\n", bytes_text(text, r->libraries_bytes));
  if (r->train)
    printf("# data: %lld tokens, %lld sequences a pass\n", (long long)dataloader_tokens(r->train),
           (long long)dataloader_windows(r->train));
}

static bool write_run_json(const Run *r, int argc, char **argv, Error *e) {
  char path[RUN_PATH];
  snprintf(path, sizeof path, "%s/run.json", r->o.out);
  FILE *f = fopen(path, "w");
  if (!f)
    return error_usage(e, "--out %s: cannot write run.json.\nGive a folder that can be written.", r->o.out);
  fprintf(f, "{\n  \"version\": \"%s\",\n  \"command\": [", VERSION);
  for (int i = 0; i < argc; i++) {
    if (i) fputs(", ", f);
    json_string(f, argv[i]);
  }
  fprintf(f, "],\n  \"mlp_rows\": %lld,\n  \"head_rows\": %lld,\n  \"options\": ",
          (long long)schedule_mlp_rows(r->schedule), (long long)schedule_head_rows(r->schedule));
  flags_json(f, &r->o, 2);
  fputs("\n}\n", f);
  return fclose(f) == 0 || error_runtime(e, "cannot write %s: is the disk full?", path);
}

static bool save(Run *r, int64_t step, Error *e) {
  char path[RUN_PATH], weights[RUN_PATH + 32];
  if (!run_folder_begin(path, r->o.out, step, e)) return false;
  snprintf(weights, sizeof weights, "%s/model.safetensors", path);
  if (!hf_config_write(&r->config, (DType)r->o.dtype, path, e) || !hf_model_save(&r->model, weights, e))
    return false;
  if (setup_is_folder(&r->o) && !run_folder_copy_tokenizer(path, r->o.model, e)) return false;
  if (!run_folder_finish(path, r->o.out, step, e)) return false;
  printf("# saved %s/step-%08lld\n", r->o.out, (long long)step);
  return true;
}

static void sample(Run *r) {
  char *prompt = demo_prompt((uint64_t)r->o.seed + 2);
  printf("---- sample ----\n");
  sample_bytes(&r->model, stdout, prompt, 400, 0.5, (uint64_t)r->o.seed);
  printf("----------------\n");
  free(prompt);
}

/* ---- the passes over data ---- */

/* Mean loss over the valid targets of the first --eval-batches micro-batches of the validation data. */
static bool evaluate(Run *r, float *loss, Error *e) {
  double sum = 0;
  int64_t valid = 0;
  dataloader_rewind(r->val);
  for (int64_t i = 0; i < r->o.eval_batches; i++) {
    StepBatch step = model_step_batch(&r->model, 1);
    if (!dataloader_next(r->val, &step, e)) return false;
    sum += model_evaluate(&r->model, &step);
    valid += step.valid_targets;
  }
  *loss = valid ? (float)(sum / (double)valid) : 0.0f;
  return true;
}

static bool dump_gradients(Run *r, Error *e) {
  if (!file_check_folder(r->o.dump_grads, e)) return error_prefix(e, "--dump-grads ");
  StepBatch step = model_step_batch(&r->model, r->o.grad_accum);
  if (!dataloader_next(r->train, &step, e)) return false;
  double loss = model_forward_backward(&r->model, &step);
  if (!hf_model_dump_gradients(&r->model, r->o.dump_grads, loss, &step, e)) return false;
  printf("# loss %.9g, gradient norm %.9g; gradients are in %s\n", loss, gradient_norm(&r->model),
         r->o.dump_grads);
  return true;
}

/* One optimizer step; fills in what the log says of it. */
static bool train_step(Run *r, int64_t i, LogStep *s, Error *e) {
  const Options *o = &r->o;
  double start = seconds_now();
  StepBatch step = model_step_batch(&r->model, o->grad_accum);
  if (!dataloader_next(r->train, &step, e)) return false;
  double loss = model_forward_backward(&r->model, &step), norm = gradient_norm(&r->model);
  if (!isfinite(loss) || !isfinite(norm))
    return error_runtime(
        e,
        "step %lld: the loss is %g and the gradient's norm %g; no weight was changed by this step.\n"
        "A lower --lr, a longer --warmup or --clip may help.",
        (long long)i, loss, norm);
  LrSchedule lr = {(LrKind)o->schedule, o->lr, o->min_lr, o->warmup, o->steps};
  AdamW a = {};
  a.lr = learning_rate(&lr, i);
  a.beta1 = o->beta1;
  a.beta2 = o->beta2;
  a.eps = o->eps;
  a.weight_decay = o->weight_decay;
  a.step = i;
  a.seed = (uint64_t)o->seed;
  optimizer_update(&r->model, a, o->clip);

  double seconds = seconds_now() - start, tokens = (double)(step.A * step.B * step.T);
  s->step = i;
  s->loss = (float)loss;
  s->grad_norm = (float)norm;
  s->lr = learning_rate(&lr, i);
  s->tokens = i * step.A * step.B * step.T;
  s->step_ms = 1e3 * seconds;
  s->tokens_per_s = tokens / seconds;
  s->mfu = model_step_flops(&r->config, step.A * step.B, step.T) / seconds / r->roof;
  s->device_bytes = plan_bytes(r->schedule->plan, SPACE_DEVICE);
  s->host_bytes = process_peak_bytes();
  return true;
}

static bool is_due(int64_t every, int64_t step, bool last) {
  return last || (every && step % every == 0);
}

static bool train(Run *r, Error *e) {
  const Options *o = &r->o;
  bool demo = strcmp(o->model, "demo") == 0;
  int64_t stop = o->stop_after ? o->stop_after : o->steps;
  float val_loss;
  if (!log_open(&r->log, o->out, stdout, o->steps, stop, demo ? 10 : 1, e)) return false;
  bool ok = !r->val || (evaluate(r, &val_loss, e) && log_evaluation(&r->log, 0, val_loss, e));
  for (int64_t i = 1; i <= stop && ok; i++) {
    LogStep s = {};
    bool last = i == stop;
    ok = train_step(r, i, &s, e);
    if (ok && r->val && is_due(o->eval_every, i, last)) ok = s.evaluated = evaluate(r, &s.val_loss, e);
    ok = ok && log_step(&r->log, &s, e);
    if (ok && (o->sample_every || (demo && dataloader_bytes(r->train))) && is_due(o->sample_every, i, last))
      sample(r);
    if (ok && o->out && is_due(o->save_every, i, last)) ok = save(r, i, e);
  }
  Error closing;
  return log_close(&r->log, ok ? e : &closing) && ok;
}

static bool run(Run *r, int argc, char **argv, Error *e) {
  if (!run_open(r, e)) return false;
  if (r->o.plan) return print_plan(r), true;
  print_start(r);
  if (r->o.dump_grads) return dump_gradients(r, e);
  if (r->o.eval_only) {
    float loss;
    bool ok = evaluate(r, &loss, e);
    if (ok) printf("val loss %.6f | ppl %.4f\n", loss, exp((double)loss));
    return ok;
  }
  if (r->o.out && !(run_folder_create(r->o.out, e) && write_run_json(r, argc, argv, e))) return false;
  return train(r, e);
}

int main(int argc, char **argv) {
  Run r = {};
  Error e = {};
  flags_defaults(&r.o);
  bool ok = flags_parse(&r.o, argc, argv, &e);
  if (ok && r.o.help) return flags_help(stdout, *r.o.help ? r.o.help : NULL), 0;
  if (ok && r.o.version) return printf("train_llama %s\n", VERSION), 0;
  if (ok) setup_demo_defaults(&r.o);
  ok = ok && options_check(&r.o, &e) && run(&r, argc, argv, &e);
  run_close(&r);
  if (ok) return 0;
  fflush(stdout);
  fprintf(stderr, "train_llama: %s\n", e.text);
  return e.code;
}
