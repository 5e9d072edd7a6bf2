#include "cli/setup.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/flags.h"
#include "cli/guess.h"
#include "io/demo_text.h"
#include "io/hf_config.h"

enum { DEMO_TRAIN_BYTES = 4 << 20, DEMO_VAL_BYTES = 256 << 10 };

void setup_demo_defaults(Options *o) {
  if (strcmp(o->model, "demo") != 0) return;
  if (!flags_given(o, "steps")) o->steps = 300;
  if (!flags_given(o, "lr")) o->lr = 3e-3;
  if (!flags_given(o, "min-lr")) o->min_lr = fmin(3e-4, o->lr);
  if (!flags_given(o, "warmup")) o->warmup = o->steps < 40 ? o->steps / 2 : 20;
  if (!flags_given(o, "eval-every")) o->eval_every = 100;
  if (!flags_given(o, "temperature")) o->temperature = 0.5;
}

static bool is_preset(const char *name) {
  int i = 0;
  while (config_preset_name(i) && strcmp(config_preset_name(i), name) != 0) i++;
  return config_preset_name(i) != NULL;
}

bool setup_is_folder(const Options *o) {
  struct stat s;
  return !is_preset(o->model) && stat(o->model, &s) == 0 && S_ISDIR(s.st_mode);
}

static bool unknown_model(const Options *o, Error *e) {
  if (access(o->model, F_OK) == 0)
    return error_usage(e,
                       "--model %s: found a file, expected a Hugging Face folder or the name of a preset.\n"
                       "Give the folder that holds config.json and the weights.",
                       o->model);
  char names[1024] = "";
  Guess guess = guess_begin(o->model);
  for (int i = 0; config_preset_name(i); i++) {
    size_t at = strlen(names);
    guess_offer(&guess, config_preset_name(i));
    snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "", config_preset_name(i));
  }
  return error_usage(
      e,
      "--model %s: found neither a folder nor a preset of that name%s%s%s\nGive a Hugging Face "
      "folder, or one of: %s.",
      o->model, guess.word[0] ? "; did you mean " : "", guess.word, guess.word[0] ? "?" : ".", names);
}

/* Context extension by flag: what the flags say replaces what the model says. */
static void apply_rope_flags(Config *c, const Options *o) {
  Rope *r = &c->rope;
  if (o->rope_theta != 0) r->theta = o->rope_theta;
  bool new_kind = o->rope_scaling != OPTION_ROPE_OF_MODEL && o->rope_scaling != (int)r->scaling;
  if (new_kind) {
    int64_t original = r->original_T ? r->original_T : c->max_T;
    *r = (Rope){.theta = r->theta,
                .scaling = (RopeScaling)o->rope_scaling,
                .factor = fmax(1, (double)o->seq_len / (double)original),
                .low_freq_factor = 1,
                .high_freq_factor = 4,
                .original_T = original,
                .beta_fast = 32,
                .beta_slow = 1,
                .truncate = true};
  }
  if (o->rope_factor != 0) r->factor = o->rope_factor;
  if (r->scaling == ROPE_NONE || (!new_kind && o->rope_factor == 0)) return;
  double reach = (double)(r->original_T ? r->original_T : c->max_T) * r->factor;
  if (reach > (double)c->max_T) c->max_T = (int64_t)llround(reach);
}

/* The plan counts bytes in 64 bits: more than it can add up, with everything kept that can be, is refused. */
static bool check_total(const Config *c, const Options *o, Error *e) {
  const double most = 0x1p60;
  double q = (double)(c->NH * c->HS), kv = (double)(c->NKV * c->HS);
  double rows = (double)o->batch * (double)o->seq_len;
  double layer = 8 * (double)c->C + 6 * (q + kv) + 4 * (double)c->FF + 4 * (double)c->NH; /* numbers a row */
  double bytes = 4 * rows * ((double)c->L * layer + (double)c->V) + 20 * (double)config_parameters(c);
  if (bytes <= most) return true;
  return error_usage(
      e,
      "the model's sizes with --batch %lld and --seq-len %lld come to up to %.3g bytes, expected at "
      "most %.3g.\nLower --seq-len or --batch, or choose a smaller model.",
      (long long)o->batch, (long long)o->seq_len, bytes, most);
}

static bool check_groups(const Config *c, const Options *o, Error *e) {
  if (o->attn_groups == GROUPS_AUTO || c->NKV % o->attn_groups == 0) return true;
  return error_usage(e, "--attn-groups: found %lld, expected a divisor of the model's %lld key/value heads.",
                     (long long)o->attn_groups, (long long)c->NKV);
}

bool setup_config(Config *c, const Options *o, Error *e) {
  *c = (Config){0};
  if (setup_is_folder(o)) {
    if (!hf_config_read(c, o->model, e)) return false;
  } else if (!config_preset(c, o->model)) {
    return unknown_model(o, e);
  }
  apply_rope_flags(c, o);
  if (o->rope_factor != 0 && c->rope.scaling == ROPE_NONE)
    return error_usage(e,
                       "--rope-factor: found %g for a model whose rope is not scaled, which has no factor.\n"
                       "Give --rope-scaling linear, llama3 or yarn with it, or leave --rope-factor out.",
                       o->rope_factor);
  if (!config_check(c, e) || !check_total(c, o, e) || !check_groups(c, o, e)) return false;
  if (o->seq_len > c->max_T)
    fprintf(stderr,
            "# warning: %s %lld is beyond the model's max_position_embeddings, %lld; see --rope-theta and "
            "--rope-scaling\n",
            o->generate ? "the prompt and --max-new, tokens together:" : "--seq-len", (long long)o->seq_len,
            (long long)c->max_T);
  return true;
}

static int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

/* Tokens of a generated text. A sample is as long as what the model is trained on, up to SAMPLE_TOKENS. */
static int64_t text_tokens(const Options *o) {
  bool samples = o->sample_every || strcmp(o->model, "demo") == 0;
  if (o->generate) return o->seq_len;
  if (o->eval_only || o->dump_grads || o->max_seq_len_for || !samples) return 0;
  return o->seq_len < 2 ? 2 : smaller(o->seq_len, SAMPLE_TOKENS);
}

RunShape setup_shape(const Options *o) {
  return (RunShape){
      .A = o->generate ? 1 : o->grad_accum,
      .B = o->generate ? 1 : o->batch,
      .T = o->generate ? smaller(o->seq_len, GENERATE_ROWS) : o->seq_len,
      .dtype = (DType)o->dtype,
      .master = o->master,
      .moments = (DType)o->moments,
      .recompute = (Recompute)o->recompute,
      .keep_attention = o->keep_attention,
      .checkpoint_every = o->checkpoint_every,
      .update = (UpdateMode)o->update,
      .attn_groups = o->attn_groups,
      .offload = (unsigned)o->offload,
      .host_update = (HostUpdate)o->offload_update,
      .mlp_chunk = o->mlp_chunk,
      .head_chunk = o->head_chunk,
      .pack = o->pack && !o->generate,
      .training = !o->eval_only && !o->generate,
      .text = text_tokens(o),
  };
}

static DataLoader *open_demo(const char *name, uint64_t seed, int64_t bytes, const DataOptions *o, Error *e) {
  char *text = demo_text(seed, bytes);
  DataLoader *d = dataloader_from_bytes(name, (const uint8_t *)text, bytes, o, e);
  free(text);
  return d;
}

/* Opens the training data once more, in the order of the files, and gives each loader its part. */
static bool open_split(DataLoader *train, DataLoader **val, const DataOptions *train_data, Error *e) {
  const double held_out = 0.05;
  double tokens = held_out * (double)dataloader_tokens(train);
  if (tokens < (double)train_data->T + 1)
    return error_usage(
        e,
        "--train %s: found %lld tokens and no --val, so that the last twentieth would be held out for\n"
        "validation; expected it to hold a sequence of --seq-len + 1 = %lld tokens.\nGive --val GLOB, more "
        "text, or a smaller --seq-len.",
        train_data->globs, (long long)dataloader_tokens(train), (long long)train_data->T + 1);
  DataOptions data = *train_data;
  data.shuffle = false;
  *val = dataloader_open(&data, e);
  if (!*val || !dataloader_restrict(*val, 1 - held_out, 1, e))
    return error_prefix(e, "no --val, so the last twentieth of --train was to be held out: ");
  fprintf(stderr, "# no --val: the last twentieth of %s is held out for validation\n", data.globs);
  return dataloader_restrict(train, 0, 1 - held_out, e);
}

/* The bytes of a text are tokens to a model of any vocabulary, but only one of 256 tokens was made for that.
 */
static void warn_of_bytes(const DataLoader *d, const char *flag, const Config *c) {
  if (d && dataloader_bytes(d) && c->V > 256)
    fprintf(
        stderr,
        "# warning: %s is text, whose bytes are taken as the tokens 0 .. 255 of the model's %lld: its own "
        "tokenizer would make others of it\n",
        flag, (long long)c->V);
}

static bool open_data(DataLoader **train, DataLoader **val, const Options *o, const Config *c, Error *e) {
  *train = *val = NULL;
  bool demo_text_wanted = !o->train && strcmp(o->model, "demo") == 0;
  uint64_t seed = (uint64_t)o->seed;
  if (o->document_token >= c->V)
    return error_usage(e, "--document-token: found %lld, expected a token of the model: 0 .. %lld.",
                       (long long)o->document_token, (long long)c->V - 1);
  const DataOptions val_data = {.globs = o->val,
                                .B = o->batch,
                                .T = o->seq_len,
                                .V = c->V,
                                .pack = o->pack,
                                .bos = c->bos,
                                .document_token = o->document_token};
  DataOptions train_data = val_data;
  train_data.globs = o->train;
  train_data.shuffle = o->shuffle;
  train_data.seed = seed;
  if (o->train)
    *train = dataloader_open(&train_data, e);
  else if (demo_text_wanted && !o->eval_only)
    *train = open_demo("demo text", seed, DEMO_TRAIN_BYTES, &train_data, e);
  if (!*train && !o->eval_only) return false;

  if (o->val)
    *val = dataloader_open(&val_data, e);
  else if (demo_text_wanted)
    *val = open_demo("demo validation text", seed + 1, DEMO_VAL_BYTES, &val_data, e);
  else if (*train && dataloader_bytes(*train) && !o->dump_grads)
    return open_split(*train, val, &train_data, e);
  return *val || !(o->val || demo_text_wanted);
}

bool setup_data(DataLoader **train, DataLoader **val, const Options *o, const Config *c, Error *e) {
  if (!open_data(train, val, o, c, e)) return false;
  if (o->eval_only && !*val)
    return error_usage(e,
                       "--eval-only: found no --val, expected token shards or .txt files.\nGive --val GLOB.");
  warn_of_bytes(*train, "--train", c);
  warn_of_bytes(o->val ? *val : NULL, "--val", c);
  return true;
}
