#include "cli/run.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/process.h"   /* defines: process_resident_bytes */
#include "cli/automatic.h"  /* defines: automatic_read, automatic_json */
#include "cli/flags.h"      /* defines: flags_print, flags_json */
#include "cli/generate.h"   /* defines: generate_check_samples */
#include "cli/setup.h"      /* defines: setup_config, setup_shape, setup_data */
#include "cli/text.h"       /* defines: text_close */
#include "cli/tune.h"       /* defines: tune_products */
#include "io/file.h"        /* defines: file_check_target, file_write_text */
#include "io/json_out.h"    /* defines: json_string */
#include "io/run_folder.h"  /* defines: run_folder_check_new, run_folder_newest */
#include "llama/hf_model.h" /* defines: hf_model_check, hf_model_load */
#include "ops/matmul.h"     /* defines: matmul_measure_rate */

/* ---- opening ---- */

/* The folder of the weights that the run begins with; NULL when they are drawn at random. */
static const char *weights_folder(const Run *r) {
  if (r->resumed.path[0]) return r->resumed.path;
  return setup_is_folder(&r->o) ? r->o.model : NULL;
}

static bool weights_error(const Run *r, Error *e) {
  return error_prefix(e, "%s %s: ", r->resumed.path[0] ? "--resume" : "--model", weights_folder(r));
}

/* A config.json that is not that of the weights is found before its sizes are allocated. */
static bool open_weights(Run *r, Error *e) {
  const char *folder = weights_folder(r);
  if (!folder) return true;
  if (r->o.out && setup_is_folder(&r->o) && !run_folder_check_tokenizer(r->o.model, e)) return false;
  r->weights = safetensors_open(folder, e);
  return (r->weights && hf_model_check(&r->config, r->weights, e)) || weights_error(r, e);
}

static bool load_weights(Run *r, Error *e) {
  if (!r->weights) {
    model_init(&r->model, (uint64_t)r->o.seed);
    return true;
  }
  bool ok = hf_model_load(&r->model, r->weights, e) || weights_error(r, e);
  safetensors_close(r->weights);
  r->weights = NULL;
  return ok && (!r->resumed.path[0] || saved_state_load_optimizer(&r->resumed, &r->model, e));
}

/* Reads what the next step would read: a token that the model does not have shows here, not after a start. */
static bool peek_step(Run *r, Error *e) {
  if (!r->train) return true;
  DataPosition here = dataloader_position(r->train);
  StepBatch step = model_step_batch(&r->model, r->o.grad_accum);
  return dataloader_next(r->train, &step, e) && dataloader_seek(r->train, &here, e);
}

/* The same for an evaluation, which also needs a target. */
static bool peek_evaluation(Run *r, Error *e) {
  int64_t valid = 0;
  for (int64_t i = 0; i < run_eval_batches(r); i++) {
    StepBatch step = model_step_batch(&r->model, 1);
    if (!dataloader_next(r->val, &step, e)) return false;
    valid += step.valid_targets;
  }
  if (r->val) dataloader_rewind(r->val);
  return !r->val || valid > 0 ||
         error_usage(e, "--val: found no target that counts in what is evaluated, since all are masked.\n"
                        "Give other data, or larger --eval-batches.");
}

/* From here on the data of the next step are read while this one computes. */
static bool read_ahead(Run *r, Error *e) {
  if (!r->train || r->o.eval_only) return true;
  uint32_t *raw = arena_get(&r->model.arena, r->schedule->host_ahead);
  return dataloader_prefetch(r->train, raw, r->o.grad_accum, e);
}

/* Another run in --out, at work or done, is met before weights are read. A new folder is made only once
 * everything else is known to be good. */
static bool check_out(Run *r, Error *e) {
  const Options *o = &r->o;
  if (!o->out || access(o->out, F_OK) != 0) return true;
  return run_folder_lock(&r->lock, o->out, e) && (o->resume || run_folder_check_new(o->out, e));
}

/* The data, from where the resumed run was in them. */
static bool open_data(Run *r, Error *e) {
  if (!setup_data(&r->train, &r->val, &r->o, &r->config, e) || !generate_check_samples(r, e)) return false;
  return !r->resumed.path[0] || (saved_state_check_data(&r->resumed, &r->o, r->train, e) &&
                                 dataloader_seek(r->train, &r->resumed.at.position, e));
}

static bool open_saved_state(Run *r, Error *e) {
  if (!saved_state_open(&r->resumed, &r->o, e)) return false;
  r->tokens = r->resumed.at.tokens;
  return !r->resumed.path[0] || saved_state_check_model(&r->resumed, &r->o, &r->config, e);
}

/* True when a vendor's attention was prepared for every layer. Says so where a GPU has another. */
static bool prepare_attention(Run *r, const RunShape *shape) {
  Error why = {0};
  if (schedule_prepare_attention(&r->config, shape, &r->dev, &why)) return true;
  if (r->dev.kind == DEVICE_CUDA && !r->dev.planned)
    fprintf(stderr, "# attention without cuDNN: %.*s\n", (int)strcspn(why.text, "\n"), why.text);
  return false;
}

static const AttentionMethod *layer_attention(const Run *r, const RunShape *shape, int64_t l, Error *e) {
  int64_t groups = shape->attn_groups == GROUPS_AUTO ? 1 : shape->attn_groups;
  AttentionShape a = schedule_run_attention(&r->config, l, shape, groups);
  return attention_choose(&r->dev, shape->dtype, &a, e);
}

/* Whether the device has an attention for every layer. */
static bool check_attention(const Run *r, const RunShape *shape, Error *e) {
  for (int64_t l = 0; l < r->config.L; l++)
    if (!layer_attention(r, shape, l, e))
      return error_prefix(e, "the attention of layer %lld: ", (long long)l);
  return true;
}

/* What the flags leave open: as the run that is resumed had it, if that still fits. Other choices may be
 * other bits. */
static bool shape_to_fit(const Run *r, RunShape *shape, Error *e) {
  *shape = setup_shape(&r->o);
  if (!r->resumed.path[0]) return true;
  RunShape saved = automatic_read(&r->o, r->resumed.flags.automatic);
  PlannedRun run;
  if (planner_allows(&r->config, &saved) && planner_fastest(&run, &r->room.target, &saved)) {
    *shape = saved;
    return true;
  }
  if (r->o.deterministic)
    return error_usage(
        e, "--deterministic: found too little memory for the automatic flags of the saved run, expected as "
           "much as\nthat run had: resume it there, or leave --deterministic out.");
  printf("# what the saved run chose does not fit the memory that is free now: chosen anew\n");
  return true;
}

/* Chooses what the flags leave open, and plans the run. Groups of heads have an attention of their own to be
 * prepared; a workspace that is larger than the choice counted with makes a choice for less memory. */
static bool open_schedule(Run *r, Error *e) {
  RunShape shape = setup_shape(&r->o);
  bool prepared = prepare_attention(r, &shape);
  if (!check_attention(r, &shape, e)) return false;
  plan_for_open(&r->room, &r->o, &r->config, &r->dev, prepared);
  int64_t limit = r->room.target.device_bytes, most_attempts = 4;
  if (!shape_to_fit(r, &shape, e)) return false;
  for (int64_t i = 0; i < most_attempts; i++) {
    bool fits = plan_for_choose(&r->room, &shape);
    PlannedRun *run = &r->room.run;
    if (prepared && run->shape.attn_groups > 1) prepare_attention(r, &run->shape);
    schedule_free(r->schedule);
    r->schedule = schedule_new(&r->config, &run->shape, &r->dev);
    run->device_bytes = plan_bytes(r->schedule->plan, SPACE_DEVICE);
    if (!fits || run->device_bytes <= limit) break;
    r->room.target.device_bytes -= run->device_bytes - limit;
    r->room.missing = run->device_bytes - limit;
  }
  return true;
}

static bool open_device(Run *r, Error *e) {
  if (r->o.plan_device) return plan_for_device(&r->dev, &r->o, e);
  if (!device_open(&r->dev, r->o.device, (int)r->o.threads, e)) return false;
  r->dev.deterministic = r->o.deterministic;
  return true;
}

bool run_open(Run *r, Error *e) {
  const Options *o = &r->o;
  r->lock = r->log.json = -1;
  /* before any other thread: they inherit which signals are blocked */
  r->signals = signals_open();
  if (o->dump_grads && !file_check_target(o->dump_grads, e)) return error_prefix(e, "--dump-grads ");
  if (!setup_config(&r->config, o, e) || !open_device(r, e)) return false;
  if (o->plan) return open_schedule(r, e);
  if (!check_out(r, e) || !open_saved_state(r, e) || !open_schedule(r, e) || !open_weights(r, e) ||
      !open_data(r, e))
    return false;
  if (r->room.missing) return plan_for_refuse(&r->room, o, e);
  r->roof = r->roofs.flops =
      matmul_measure_rate(&r->dev, r->schedule->shape.dtype, 0.01, &r->roofs.flops_per_cpu_second);
  if (o->profile) profile_open(&r->dev);
  if (o->profile) r->roofs.bytes = profile_copy_rate(&r->dev, 0.1);
  r->libraries_bytes = process_resident_bytes();
  return tune_products(r, e) && model_open(&r->model, &r->config, r->schedule, &r->dev, false, e) &&
         load_weights(r, e) && peek_step(r, e) && peek_evaluation(r, e) && read_ahead(r, e);
}

void run_close(Run *r) {
  signals_close(r->signals);
  log_close(&r->log);
  dataloader_close(r->train); /* before the model, whose arena it may be reading into */
  dataloader_close(r->val);
  model_close(&r->model);
  safetensors_close(r->weights);
  schedule_free(r->schedule);
  saved_state_close(&r->resumed);
  text_close(r->text);
  device_close(&r->dev);
  config_free(&r->config);
  if (r->lock >= 0) close(r->lock);
}

/* ---- the run folder ---- */

static bool write_run_json(const Run *r, int argc, char **argv, Error *e) {
  char path[RUN_PATH + 16], *text = NULL;
  size_t size;
  FILE *f = open_memstream(&text, &size);
  CHECK(f, "out of memory for run.json");
  fprintf(f, "{\n  \"version\": \"%s\",\n  \"command\": [", VERSION);
  for (int i = 0; i < argc; i++) {
    if (i) fputs(", ", f);
    json_string(f, argv[i]);
  }
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  fputs("],\n  \"host\": ", f);
  json_string(f, host);
  fputs(",\n  \"device\": ", f);
  json_string(f, r->dev.name);
  const Config *c = &r->config;
  fprintf(
      f,
      ",\n  \"model\": {\"family\": \"%s\", \"parameters\": %lld, \"C\": %lld, \"L\": %lld, \"NH\": %lld, "
      "\"NKV\": %lld, \"HS\": %lld, \"FF\": %lld, \"V\": %lld",
      c->family, (long long)config_parameters(c), (long long)c->C, (long long)c->L, (long long)c->NH,
      (long long)c->NKV, (long long)c->HS, (long long)c->FF, (long long)c->V);
  fprintf(f,
          "},\n  \"data_tokens\": %lld,\n  \"resumed_from_step\": %lld,\n  \"mlp_rows\": %lld,\n  "
          "\"head_rows\": %lld,\n  \"attn_groups\": %lld,\n  \"automatic\": ",
          (long long)(r->train ? dataloader_tokens(r->train) : 0), (long long)run_first(r),
          (long long)schedule_mlp_rows(r->schedule), (long long)schedule_head_rows(r->schedule),
          (long long)r->schedule->shape.attn_groups);
  automatic_json(f, &r->o, &r->schedule->shape);
  fputs(",\n  \"options\": ", f);
  flags_json(f, &r->o, 2);
  fputs("\n}\n", f);
  CHECK(fclose(f) == 0, "out of memory for run.json");
  snprintf(path, sizeof path, "%s/run.json", r->o.out);
  bool ok = file_write_text(path, text, e);
  free(text);
  return ok;
}

/* What a device that is lost in the middle of something leaves behind. */
static void tell_on_loss(Run *r) {
  const Options *o = &r->o;
  if (!o->out)
    snprintf(r->on_loss, sizeof r->on_loss, "Nothing is saved, since the run had no --out.");
  else if (r->saved)
    snprintf(r->on_loss, sizeof r->on_loss,
             "The newest saved state is %s/step-%08lld: the same flags with --resume go on from it.", o->out,
             (long long)r->saved);
  else if (r->resumed.path[0])
    snprintf(r->on_loss, sizeof r->on_loss,
             "Nothing was saved since %s: the same flags with --resume %s go on from it.", r->resumed.path,
             r->resumed.path);
  else
    snprintf(r->on_loss, sizeof r->on_loss, "No state was saved yet.");
  r->dev.on_loss = r->on_loss;
}

bool run_begin_folder(Run *r, int argc, char **argv, Error *e) {
  tell_on_loss(r);
  if (!r->o.out) return true;
  /* a run that leaves something behind outlives the reader of its output, `| head` for instance */
  signal(SIGPIPE, SIG_IGN);
  return saved_state_prepare_folder(&r->lock, &r->resumed, &r->o, e) &&
         (write_run_json(r, argc, argv, e) || (run_first(r) > 0 && run_go_on(r, e)));
}

int64_t run_eval_batches(const Run *r) {
  if (!r->val) return 0;
  int64_t whole = dataloader_windows(r->val) / r->o.batch;
  if (whole < 1) whole = 1;
  return whole < r->o.eval_batches ? whole : r->o.eval_batches;
}

int64_t run_first(const Run *r) {
  return r->resumed.at.step;
}

int64_t run_last(const Run *r) {
  return r->o.stop_after ? r->o.stop_after : r->o.steps;
}

bool run_go_on(Run *r, const Error *e) {
  if (r->o.on_save_error == SAVE_ERROR_STOP) return false;
  if (strcmp(e->text, r->warned) == 0) return true;
  snprintf(r->warned, sizeof r->warned, "%s", e->text);
  fflush(stdout);
  fprintf(stderr, "# WARNING: %s\n# the run goes on (--on-save-error continue)\n", e->text);
  return true;
}

bool run_save(Run *r, int64_t step, Error *e) {
  TrainerState at = {.step = step,
                     .tokens = r->tokens,
                     .position = dataloader_position(r->train),
                     .data_fingerprint = dataloader_fingerprint(r->train),
                     .tokenizer_hash = dataloader_tokenizer_hash(r->train)};
  if (!saved_state_write(&at, &r->model, &r->o, e))
    return error_prefix(
        e, "the state after step %lld could not be saved; older ones are untouched: ", (long long)step);
  printf("# saved %s/step-%08lld\n", r->o.out, (long long)step);
  r->saved = step;
  tell_on_loss(r);
  r->prune = r->o.keep > 0;
  return true;
}

void run_prune(Run *r) {
  Error e = {0};
  if (!r->prune) return;
  r->prune = false;
  if (run_folder_prune(r->o.out, r->o.keep, &e)) return;
  fflush(stdout);
  fprintf(stderr, "# WARNING: --keep: an older state stays: %s\n", e.text);
}

bool run_rescue(Run *r, int64_t done, Error *e) {
  Error failure = *e, unsaved = {0};
  e->code = EXIT_RUNTIME;
  if (!r->o.out || done <= run_first(r)) return false;
  if (r->saved != done && !run_save(r, done, &unsaved)) {
    error_runtime(e, "%s\n%s", failure.text, unsaved.text);
    return false;
  }
  error_runtime(e, "%s\nThe state after step %lld is saved; --resume goes on from there.", failure.text,
                (long long)done);
  return false;
}

/* ---- what is printed ---- */

void run_print_plan(const Run *r) {
  if (r->o.plan && r->o.json) {
    printf("{\n  \"fit\": ");
    plan_for_json(stdout, &r->room, &r->o);
    printf(",\n");
    plan_json(stdout, r->schedule->plan);
    printf("}\n");
    return;
  }
  plan_print(stdout, r->schedule->plan);
  printf("# mini-sequences: MLP %lld rows, LM head %lld rows, of %lld\n",
         (long long)schedule_mlp_rows(r->schedule), (long long)schedule_head_rows(r->schedule),
         (long long)schedule_rows(r->schedule));
  if (schedule_grouped(r->schedule))
    printf("# attention in %lld groups of heads\n", (long long)r->schedule->shape.attn_groups);
  plan_for_print(stdout, &r->room, &r->o);
}

/* Who computes the attention: layers may differ in their window, and then in that. */
static void print_attention(const Run *r) {
  const AttentionMethod *seen[4] = {NULL};
  const int most = (int)(sizeof seen / sizeof *seen);
  Error e;
  printf("# attention:");
  for (int64_t l = 0; l < r->config.L; l++) {
    const AttentionMethod *m = layer_attention(r, &r->schedule->shape, l, &e);
    int i = 0;
    while (i < most && seen[i] && seen[i] != m) i++;
    if (i == most || seen[i]) continue;
    seen[i] = m;
    printf("%s %s", i ? "," : "", m->name);
  }
  const Schedule *s = r->schedule;
  if (s->documents != NO_BUFFER) {
    AttentionShape a = schedule_run_attention(&r->config, 0, &s->shape, s->shape.attn_groups);
    int64_t room = attention_documents_room(&a);
    a.documents = room + 1;
    printf("; %s for batches of more than %lld documents",
           attention_choose(&r->dev, s->shape.dtype, &a, &e)->name, (long long)room);
  }
  printf("\n");
}

void run_print_start(const Run *r) {
  const Config *c = &r->config;
  char text[32];
  printf("# train_llama %s on %s, %.0f GFLOP/s in %s products\n", VERSION, r->dev.name, r->roof * 1e-9,
         dtype_name(r->schedule->shape.dtype));
  flags_print(stdout, &r->o);
  params_print(stdout, &r->model.params);
  printf("# %s: C %lld, L %lld, NH %lld, NKV %lld, HS %lld, FF %lld, V %lld, %lld parameters\n", c->family,
         (long long)c->C, (long long)c->L, (long long)c->NH, (long long)c->NKV, (long long)c->HS,
         (long long)c->FF, (long long)c->V, (long long)config_parameters(c));
  print_attention(r);
  tune_print(r);
  run_print_plan(r);
  printf("# libraries and program %s (measured)\n", bytes_text(text, r->libraries_bytes));
  if (r->train)
    printf("# data: %lld tokens, %lld sequences a pass\n", (long long)dataloader_tokens(r->train),
           (long long)dataloader_windows(r->train));
  if (r->resumed.path[0])
    printf("# resumed after step %lld from %s\n", (long long)run_first(r), r->resumed.path);
}

void run_measure_roofs(Run *r) {
  if (!r->dev.profile || r->dev.kind != DEVICE_CPU)
    return; /* a GPU is steadier, and its memory may be full */
  double per_cpu, flops = matmul_measure_rate(&r->dev, r->schedule->shape.dtype, 0.2, &per_cpu);
  double bytes = profile_copy_rate(&r->dev, 0.1);
  if (flops > r->roofs.flops) r->roofs.flops = flops;
  if (per_cpu > r->roofs.flops_per_cpu_second) r->roofs.flops_per_cpu_second = per_cpu;
  if (bytes > r->roofs.bytes) r->roofs.bytes = bytes;
}

static bool write_profile(const Run *r, Error *e) {
  char path[RUN_PATH + 16], *text = NULL;
  size_t size;
  FILE *f = open_memstream(&text, &size);
  CHECK(f, "out of memory for profile.json");
  profile_json(f, &r->dev, r->roofs);
  CHECK(fclose(f) == 0, "out of memory for profile.json");
  snprintf(path, sizeof path, "%s/profile.json", r->o.out);
  bool ok = file_write_text(path, text, e);
  free(text);
  return ok;
}

bool run_report_profile(Run *r, Error *e) {
  if (!r->dev.profile) return true;
  if (r->o.json)
    profile_json(stdout, &r->dev, r->roofs);
  else
    profile_print(stdout, &r->dev, r->roofs);
  return !r->o.out || write_profile(r, e) || run_go_on(r, e);
}
