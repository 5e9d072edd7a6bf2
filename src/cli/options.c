#include "cli/options.h"

#include <stdlib.h>
#include <string.h>

#include "cli/flags.h" /* flags_typed */

/* Of an optimizer step: far beyond use, and byte counts still fit in 64 bits. */
static const long long max_step_tokens = 1LL << 40;

static bool check_model_and_data(const Options *o, Error *e) {
  bool demo = strcmp(o->model, "demo") == 0;
  bool trains = !o->plan && !o->eval_only && !o->max_seq_len_for && !o->generate;
  if (!demo && trains && !o->train)
    return error_usage(
        e,
        "--train: found none, expected token shards or .txt files for the model \"%s\": only the\n"
        "demo preset has text of its own. Give --train GLOB.",
        o->model);
  if (!demo && o->eval_only && !o->plan && !o->val && !o->train)
    return error_usage(e,
                       "--eval-only: found no --val, expected token shards or .txt files for the model "
                       "\"%s\":\nonly the demo preset has text of its own. Give --val GLOB.",
                       o->model);
  int64_t rows, tokens;
  if (__builtin_mul_overflow(o->batch, o->seq_len, &rows) ||
      __builtin_mul_overflow(rows, o->grad_accum, &tokens) || tokens > max_step_tokens)
    return error_usage(
        e,
        "--seq-len, --batch, --grad-accum: found %lld, %lld and %lld, expected a product of at most\n"
        "%lld tokens an optimizer step. Lower one of them.",
        (long long)o->seq_len, (long long)o->batch, (long long)o->grad_accum, max_step_tokens);
  if (o->document_token >= 0 && !o->pack)
    return error_usage(e, "--document-token: found no --pack, which it belongs to.\n"
                          "Add --pack, or leave --document-token out.");
  if (o->rope_theta != 0 && o->rope_theta <= 1)
    return error_usage(e, "--rope-theta: found %g, expected a base above 1, or 0 for the model's own.",
                       o->rope_theta);
  if (o->rope_factor != 0 && o->rope_factor < 1)
    return error_usage(
        e,
        "--rope-factor: found %g, expected at least 1, or 0 for the model's own: the factor is\n"
        "the new context length / the old one.",
        o->rope_factor);
  if (o->rope_factor != 0 && o->rope_scaling == ROPE_NONE)
    return error_usage(e,
                       "--rope-factor: found %g together with --rope-scaling none, which has no factor.\n"
                       "Choose a scaling (linear, llama3, yarn), or leave --rope-factor out.",
                       o->rope_factor);
  return true;
}

static bool check_training(const Options *o, Error *e) {
  if (o->min_lr > o->lr)
    return error_usage(e,
                       "--min-lr: found %g, expected at most --lr, which is %g.\n"
                       "Lower --min-lr or raise --lr.",
                       o->min_lr, o->lr);
  if (o->warmup > o->steps)
    return error_usage(e,
                       "--warmup: found %lld steps, expected at most --steps, which is %lld.\n"
                       "Lower --warmup or raise --steps.",
                       (long long)o->warmup, (long long)o->steps);
  if (o->stop_after > o->steps)
    return error_usage(e,
                       "--stop-after: found %lld, expected at most --steps, which is %lld.\n"
                       "Raise --steps, the whole schedule, or leave --stop-after out.",
                       (long long)o->stop_after, (long long)o->steps);
  if (o->master && o->dtype == DT_FP32)
    return error_usage(e, "--master: found fp32 with --dtype fp32, whose parameters are fp32 already.\n"
                          "Leave --master out, or choose --dtype bf16.");
  if (o->moments == DT_BF16 && o->dtype == DT_FP32)
    return error_usage(e,
                       "--moments: found bf16 with --dtype fp32, expected fp32 moments for fp32 parameters.\n"
                       "Leave --moments out, or choose --dtype bf16.");
  return true;
}

/* Updating a layer at once leaves out what needs the whole gradient. */
static bool check_update(const Options *o, Error *e) {
  static const char *const whole = "each layer is updated before the whole gradient is there";
  static const char *const step =
      "or choose --update step (and --offload gradients, to have them on the host)";
  if (o->update == UPDATE_STEP) return true;
  if (o->clip > 0)
    return error_usage(e,
                       "--update layer: found --clip %g, but %s, so that its norm is not known.\n"
                       "Give --clip 0, %s.",
                       o->clip, whole, step);
  if (o->grad_accum > 1)
    return error_usage(e,
                       "--update layer: found --grad-accum %lld, but there is no place for a sum over "
                       "micro-batches.\nGive --grad-accum 1 and a larger --batch, %s.",
                       (long long)o->grad_accum, step);
  if (o->skip_bad_steps > 0)
    return error_usage(e,
                       "--skip-bad-steps: found it with --update layer, where %s: such a step cannot be "
                       "left out.\nLeave --skip-bad-steps out, %s.",
                       whole, step);
  if (o->offload & OFFLOAD_GRADIENTS)
    return error_usage(e, "--offload: found gradients with --update layer, which gathers none.\n"
                          "Leave gradients out of --offload, or choose --update step.");
  if (o->dump_grads)
    return error_usage(e, "--dump-grads: found it with --update layer, which holds one layer's gradient at a "
                          "time.\nLeave --update layer out: the gradients are the same.");
  return true;
}

static bool check_memory(const Options *o, Error *e) {
  static const char *const needs_layer =
      "expected --recompute layer: the other modes keep every layer's input and attention anyway.\n"
      "Choose --recompute layer, or leave the flag out.";
  bool not_layer = o->recompute == RECOMPUTE_NONE || o->recompute == RECOMPUTE_MLP;
  if (o->checkpoint_every > 1 && not_layer)
    return error_usage(e, "--checkpoint-every: found %lld with --recompute none or mlp, %s",
                       (long long)o->checkpoint_every, needs_layer);
  if (o->keep_attention != 0 && o->keep_attention != KEEP_AUTO && not_layer)
    return error_usage(e, "--keep-attention: found it with --recompute none or mlp, %s", needs_layer);
  if (o->attn_groups > 1 && not_layer)
    return error_usage(
        e,
        "--attn-groups: found %lld with --recompute none or mlp, expected --recompute layer: the "
        "other modes keep\nall heads' queries, keys and values. Choose --recompute layer, or leave "
        "the flag out.",
        (long long)o->attn_groups);
  if ((o->offload & OFFLOAD_AUTO) && o->offload != OFFLOAD_AUTO)
    return error_usage(e, "--offload: found auto in a list, expected it alone.\n"
                          "Leave auto out, or the rest of the list.");
  if (o->offload & (OFFLOAD_CHECKPOINTS | OFFLOAD_ATTENTION) && not_layer)
    return error_usage(
        e, "--offload: found checkpoints or attention with --recompute none or mlp, expected --recompute "
           "layer: the other "
           "modes keep more\nthan is held on the host. Choose --recompute layer, or leave the flag "
           "out.");
  if (o->offload & OFFLOAD_ATTENTION && !o->keep_attention)
    return error_usage(e,
                       "--offload: found attention without --keep-attention, so that there is none to hold.\n"
                       "Give --keep-attention N or all, or leave attention out.");
  const int gathered = OFFLOAD_OPTIMIZER | OFFLOAD_GRADIENTS;
  if (o->offload_update == HOST_UPDATE_CPU && (o->offload & gathered) != gathered)
    return error_usage(
        e, "--offload-update cpu: found it without --offload optimizer,gradients, expected all that an "
           "update takes to be on the host.\nGive --offload optimizer,gradients (and what else should be "
           "there), or leave --offload-update out.");
  if (o->json && !o->plan && !o->max_seq_len_for && !o->profile)
    return error_usage(
        e, "--json: found none of --plan, --max-seq-len-for and --profile, which can be printed as JSON.\n"
           "Add one of them, or leave --json out.");
  if (o->plan_device && !o->plan)
    return error_usage(
        e, "--plan-device: found no --plan, the only thing that can be done for a card that is not "
           "here.\nAdd --plan.");
  if (o->plan_device && flags_typed(o, "device") && strcmp(o->device, "cpu") == 0)
    return error_usage(e, "--plan-device: found it with --device cpu, which plans for this machine.\nLeave "
                          "one of the two out.");
  if (o->max_seq_len_for && (o->plan || o->generate || flags_typed(o, "seq-len")))
    return error_usage(
        e,
        "--max-seq-len-for: found it with --%s; it looks for the length of a training sequence "
        "itself.\nLeave one of the two out.",
        o->plan       ? "plan"
        : o->generate ? "generate"
                      : "seq-len");
  if (o->device_memory && (o->plan_device || o->max_seq_len_for))
    return error_usage(
        e,
        "--device-memory: found it with --%s, which says how much memory there is.\nLeave one of "
        "the two out.",
        o->plan_device ? "plan-device" : "max-seq-len-for");
  return true;
}

static bool check_running(const Options *o, Error *e) {
  if (o->save_every > 0 && !o->out)
    return error_usage(e, "--save-every: found no --out, expected a folder to save in.\nGive --out DIR.");
  if (o->resume && !*o->resume && !o->out)
    return error_usage(e,
                       "--resume: found neither a saved state nor --out, whose newest state it would take.\n"
                       "Give --resume DIR or --out DIR.");
  if (o->resume && (o->eval_only || o->dump_grads))
    return error_usage(e,
                       "--resume: found it with --%s, which does not go on with a run.\n"
                       "Give the saved state as --model DIR.",
                       o->eval_only ? "eval-only" : "dump-grads");
  if (flags_given(o, "keep") && !o->out)
    return error_usage(e, "--keep: found no --out, expected a folder with saved states.\nGive --out DIR.");
  if (o->dump_grads && o->eval_only)
    return error_usage(e, "--dump-grads: found it with --eval-only, which computes no gradients.\n"
                          "Leave one of the two out.");
  if (o->dump_grads && flags_typed(o, "out"))
    return error_usage(e,
                       "--dump-grads: found it with --out %s; it stops after the first step's gradients and "
                       "makes no run folder.\nLeave one of the two out.",
                       o->out);
  if (o->profile && (o->eval_only || o->dump_grads || o->plan))
    return error_usage(
        e, "--profile: found it with --%s, which takes no training step.\nLeave one of the two out.",
        o->eval_only ? "eval-only"
        : o->plan    ? "plan"
                     : "dump-grads");
  static const char *const of_training[] = {"steps", "stop-after", "save-every", "out"};
  for (size_t i = 0; o->eval_only && i < sizeof of_training / sizeof of_training[0]; i++)
    if (flags_typed(o, of_training[i]))
      return error_usage(e,
                         "--eval-only: found it with --%s; an evaluation takes no step and writes nothing.\n"
                         "Leave --%s out (--eval-batches says how much is evaluated).",
                         of_training[i], of_training[i]);
  return true;
}

static bool check_generate(const Options *o, Error *e) {
  static const char *const of_training[] = {
      "train",      "val",    "seq-len",    "batch",     "steps",        "stop-after", "out",
      "save-every", "resume", "eval-every", "eval-only", "sample-every", "dump-grads", "pack"};
  for (size_t i = 0; o->generate && i < sizeof of_training / sizeof of_training[0]; i++)
    if (flags_typed(o, of_training[i]))
      return error_usage(e,
                         "--generate: found it with --%s, which is of a training run; it only prints text.\n"
                         "Leave --%s out (--max-new says how much is generated).",
                         of_training[i], of_training[i]);
  if (flags_typed(o, "max-new") && !o->generate)
    return error_usage(e, "--max-new: found no --generate, which it belongs to.\n"
                          "Give --generate TEXT, or leave --max-new out.");
  return true;
}

bool options_check(const Options *o, Error *e) {
  return check_model_and_data(o, e) && check_training(o, e) && check_memory(o, e) && check_update(o, e) &&
         check_running(o, e) && check_generate(o, e);
}

void options_free(Options *o) {
  free(o->config_text);
  o->config_text = NULL;
}
