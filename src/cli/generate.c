#include "cli/generate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/setup.h"            /* defines: setup_config, setup_shape, setup_is_folder */
#include "cli/text.h"             /* defines: Text, TextPrinter */
#include "io/demo_text.h"         /* defines: demo_prompt */
#include "llama/hf_model.h"       /* defines: hf_model_check, hf_model_load */
#include "llama/sampler.h"        /* defines: Sampler */
#include "ops/attention_cached.h" /* CACHED_MOST_HS */

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Prints the prompt, then up to `most` tokens that the model goes on with, until one that ends a text.
 * Returns how many those were; *seconds is what they took, without the prompt. */
static int64_t go_on(Run *r, const Ids *prompt, int64_t most, double *seconds) {
  const Options *o = &r->o;
  int64_t V = r->config.V, made = 0;
  int32_t *tokens = malloc((prompt->n + 1) * sizeof *tokens), next;
  float *logits = malloc((size_t)V * sizeof *logits);
  CHECK(tokens && logits, "out of memory for a prompt of %zu tokens", prompt->n);
  Sampler sampler = sampler_open(o->temperature, o->top_k, o->top_p, (uint64_t)o->seed, V);
  TextPrinter printer = text_printer_open(r->text, stdout);
  for (size_t i = 0; i < prompt->n; i++) {
    tokens[i] = (int32_t)prompt->data[i];
    text_print(&printer, tokens[i]);
  }
  model_generate(&r->model, tokens, 0, (int64_t)prompt->n, logits);
  double start = seconds_now();
  while (made < most && !text_ends(r->text, &r->config, next = sampler_draw(&sampler, logits))) {
    text_print(&printer, next);
    made++;
    if (made < most) model_generate(&r->model, &next, (int64_t)prompt->n + made - 1, 1, logits);
  }
  *seconds = seconds_now() - start;
  text_printer_close(&printer);
  fputc('\n', stdout);
  sampler_close(&sampler);
  free(tokens);
  free(logits);
  return made;
}

/* ---- --generate ---- */

static bool check_heads(const Run *r, Error *e) {
  if (r->config.HS <= CACHED_MOST_HS) return true;
  return error_usage(e, "heads of %lld numbers, expected at most %d where text is generated.",
                     (long long)r->config.HS, CACHED_MOST_HS);
}

/* The prompt's tokens; their number and --max-new are what --seq-len is to a training run. */
static bool read_prompt(Run *r, Ids *prompt, Error *e) {
  Options *o = &r->o;
  if (!setup_is_folder(o))
    return error_usage(
        e,
        "--generate: found --model %s, expected a Hugging Face folder: a preset has no weights "
        "to write with.\nGive --model DIR; a saved state of a run is such a folder.",
        o->model);
  r->text = text_open(o->model, e);
  if (!r->text) return error_prefix(e, "--model ");
  if (!text_encode(r->text, o->generate, prompt, e)) return error_prefix(e, "--generate: ");
  if (prompt->n == 0)
    return error_usage(e, "--generate: the prompt has no token: the tokenizer makes nothing of it.\n"
                          "Give other text.");
  o->seq_len = (int64_t)prompt->n + o->max_new;
  return true;
}

static bool check_prompt(const Run *r, const Ids *prompt, Error *e) {
  if (!text_check(r->text, &r->config, e)) return error_prefix(e, "--model %s: ", r->o.model);
  for (size_t i = 0; i < prompt->n; i++)
    if (prompt->data[i] >= r->config.V)
      return error_usage(e,
                         "--generate: the prompt's token %u is beyond the model's vocabulary of %lld: is the "
                         "tokenizer.json of\n--model %s that of another model?",
                         prompt->data[i], (long long)r->config.V, r->o.model);
  return check_heads(r, e);
}

static bool open_model(Run *r, Error *e) {
  r->weights = safetensors_open(r->o.model, e);
  bool ok = r->weights && hf_model_check(&r->config, r->weights, e) &&
            model_open(&r->model, &r->config, r->schedule, &r->dev, false, e) &&
            hf_model_load(&r->model, r->weights, e);
  return ok || error_prefix(e, "--model %s: ", r->o.model);
}

static bool generate(Run *r, Ids *prompt, Error *e) {
  double seconds;
  if (!read_prompt(r, prompt, e) || !setup_config(&r->config, &r->o, e) || !check_prompt(r, prompt, e) ||
      !device_open(&r->dev, r->o.device, (int)r->o.threads, e))
    return false;
  RunShape shape = setup_shape(&r->o);
  AttentionShape attention = schedule_attention(&r->config, 0, 1, shape.T, 1);
  if (!attention_choose(&r->dev, shape.dtype, &attention, e)) return false;
  plan_for_open(&r->room, &r->o, &r->config, &r->dev, false);
  bool fits = plan_for_choose(&r->room, &shape);
  r->schedule = schedule_new(&r->config, &r->room.run.shape, &r->dev);
  if (r->o.plan) {
    run_print_plan(r);
    return true;
  }
  if (!fits) return plan_for_refuse(&r->room, &r->o, e);
  if (!open_model(r, e)) return false;
  int64_t made = go_on(r, prompt, r->o.max_new, &seconds);
  fprintf(stderr, "# %zu tokens of the prompt, %lld new ones, %.1f tok/s\n", prompt->n, (long long)made,
          (double)made / seconds);
  return true;
}

bool generate_run(Run *r, Error *e) {
  Ids prompt = {0};
  r->lock = r->log.json = -1;
  bool ok = generate(r, &prompt, e);
  ids_free(&prompt);
  return ok;
}

/* ---- samples ---- */

static bool trains_on_bytes(const Run *r) {
  return (!r->train || dataloader_bytes(r->train)) && (!r->val || dataloader_bytes(r->val));
}

bool generate_check_samples(Run *r, Error *e) {
  bool bytes = trains_on_bytes(r);
  if (!r->schedule->shape.text || (!bytes && !r->o.sample_every)) return true;
  r->text = text_open(!bytes && setup_is_folder(&r->o) ? r->o.model : NULL, e);
  bool ok = r->text && (bytes || text_check(r->text, &r->config, e)) && check_heads(r, e);
  return ok || error_prefix(e, "--sample-every: ");
}

/* A prompt of the kind of text that the model learns: a new beginning of the demo's, or the beginning of the
 * validation text. At most half of what there is room for: of a longer one, the end. */
static bool sample_prompt(Run *r, Ids *prompt, Error *e) {
  int64_t most = r->schedule->shape.text / 2;
  if (!r->o.train) {
    char *text = demo_prompt((uint64_t)r->o.seed + 2);
    int64_t n = (int64_t)strlen(text);
    for (int64_t i = n < most ? 0 : n - most; i < n; i++) ids_append(prompt, (uint8_t)text[i]);
    free(text);
    return true;
  }
  DataLoader *d = r->val ? r->val : r->train;
  DataPosition here = dataloader_position(d);
  StepBatch step = model_step_batch(&r->model, d == r->train ? r->o.grad_accum : 1);
  if (!dataloader_next(d, &step, e) || !dataloader_seek(d, &here, e)) return false;
  if (most > SAMPLE_PROMPT) most = SAMPLE_PROMPT;
  for (int64_t i = 0; i < step.T && i < most; i++) ids_append(prompt, (uint32_t)step.tokens[i]);
  return true;
}

bool generate_sample(Run *r, Error *e) {
  Ids prompt = {0};
  double seconds;
  bool ok = sample_prompt(r, &prompt, e);
  if (ok) {
    printf("---- sample ----\n");
    go_on(r, &prompt, r->schedule->shape.text - (int64_t)prompt.n, &seconds);
    printf("----------------\n");
  }
  ids_free(&prompt);
  return ok;
}
