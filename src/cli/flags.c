#include "cli/flags.h"

#include <float.h>
#include <string.h>

#define FLAG_OWNER Options
#include "cli/flag_rows.h"

#include "io/json_out.h"     /* json_string, json_double */
#include "llama/config.h"    /* config_preset_name */
#include "ops/matmul_tune.h" /* TUNE_CANDIDATES */

#define MAX_LENGTH ((int64_t)1 << 40) /* of sequences and steps: far beyond use */
#define MAX_COUNT  ((int64_t)1 << 20) /* of sequences and layers */

static const char *const group_names[GROUPS] = {"Model and data", "Training", "Memory", "Running"};

static const Flag flags[] = {
    {GROUP_MODEL, "model", STRING(model), "demo", "DIR|PRESET",
     "Hugging Face folder to start from, or a preset to initialise at random"},
    {GROUP_MODEL, "rope-theta", DOUBLE(rope_theta), "0", "X",
     "base of the rotary frequencies; 0 = as the model says", BOUNDS(0, 1e15)},
    {GROUP_MODEL, "rope-scaling", CHOICE(rope_scaling), "model", NULL,
     "context extension; model = as its config.json says", .choices = "none|linear|llama3|yarn|model"},
    {GROUP_MODEL, "rope-factor", DOUBLE(rope_factor), "0", "X",
     "how many times longer the context becomes; 0 = as the model says", BOUNDS(0, 1e6)},
    {GROUP_MODEL, "train", STRING(train), "", "GLOB[:WEIGHT][,...]",
     "token shards or .txt files to train on (default: text made by the demo)"},
    {GROUP_MODEL, "val", STRING(val), "", "GLOB[:WEIGHT][,...]", "the same to evaluate on"},
    {GROUP_MODEL, "shuffle", CHOICE(shuffle), "yes", NULL,
     "train on the sequences in an order drawn by --seed", .choices = "no|yes"},
    {GROUP_MODEL, "pack", BOOL(pack), "", NULL,
     "keep attention inside a document, and count positions anew in each"},
    {GROUP_MODEL, "document-token", INT(document_token), "auto", "ID|auto",
     "with --pack: starts a document where a file marks none; auto = BOS, in shards", RANGE(0, INT32_MAX),
     OR_WORD("auto", -1)},
    {GROUP_MODEL, "seq-len", INT(seq_len), "512", "N", "tokens a sequence", RANGE(1, INT32_MAX)},
    {GROUP_MODEL, "batch", INT(batch), "4", "N", "sequences a micro-batch", RANGE(1, MAX_COUNT)},
    {GROUP_MODEL, "grad-accum", INT(grad_accum), "1", "N", "micro-batches an optimizer step",
     RANGE(1, MAX_COUNT)},

    {GROUP_TRAINING, "steps", INT(steps), "400", "N", "optimizer steps of the whole schedule",
     RANGE(1, MAX_LENGTH)},
    {GROUP_TRAINING, "stop-after", INT(stop_after), "0", "N",
     "stop after this step of the schedule; 0 = run to --steps", RANGE(0, MAX_LENGTH)},
    {GROUP_TRAINING, "seed", INT(seed), "42", "N", "seed of every random choice", RANGE(0, INT64_MAX)},
    {GROUP_TRAINING, "lr", DOUBLE(lr), "3e-4", "X", "highest learning rate", BOUNDS(0, 1e3)},
    {GROUP_TRAINING, "min-lr", DOUBLE(min_lr), "0", "X", "learning rate at the end of the schedule",
     BOUNDS(0, 1e3)},
    {GROUP_TRAINING, "warmup", INT(warmup), "0", "N", "steps over which the learning rate rises from 0",
     RANGE(0, MAX_LENGTH)},
    {GROUP_TRAINING, "schedule", CHOICE(schedule), "cosine", NULL,
     "learning rate after the warm-up (wsd: constant, then falling)",
     .choices = "cosine|linear|constant|wsd"},
    {GROUP_TRAINING, "weight-decay", DOUBLE(weight_decay), "0.1", "X",
     "AdamW's decay of the matrices' weights", BOUNDS(0, 1e3)},
    {GROUP_TRAINING, "beta1", DOUBLE(beta1), "0.9", "X", "AdamW's decay of the first moment", BOUNDS(0, 1),
     .below_high = true},
    {GROUP_TRAINING, "beta2", DOUBLE(beta2), "0.95", "X", "AdamW's decay of the second moment", BOUNDS(0, 1),
     .below_high = true},
    {GROUP_TRAINING, "eps", DOUBLE(eps), "1e-8", "X", "AdamW's addition to the denominator", BOUNDS(0, 1),
     .above_low = true},
    {GROUP_TRAINING, "clip", DOUBLE(clip), "1", "X", "largest global norm of the gradients; 0 = no clipping",
     BOUNDS(0, FLT_MAX)},
    {GROUP_TRAINING, "dtype", CHOICE(dtype), "fp32", NULL, "storage of parameters and activations",
     .choices = "fp32|bf16"},
    {GROUP_TRAINING, "master", CHOICE(master), "none", NULL, "a second copy of bf16 parameters, in fp32",
     .choices = "none|fp32"},
    {GROUP_TRAINING, "moments", CHOICE(moments), "fp32", NULL, "storage of AdamW's moments",
     .choices = "fp32|bf16|8bit"},

    {GROUP_MEMORY, "mlp-chunk", INT(mlp_chunk), "auto", "N|auto",
     "rows of a mini-sequence in the MLP; 0 = no mini-sequences", RANGE(0, MAX_LENGTH),
     OR_WORD("auto", CHUNK_AUTO)},
    {GROUP_MEMORY, "head-chunk", INT(head_chunk), "auto", "N|auto",
     "rows of a mini-sequence in the LM head; 0 = no mini-sequences", RANGE(0, MAX_LENGTH),
     OR_WORD("auto", CHUNK_AUTO)},
    {GROUP_MEMORY, "recompute", CHOICE(recompute), "auto", NULL,
     "what the backward computes again: nothing, the MLP's inside, the layer",
     .choices = "none|mlp|layer|auto"},
    {GROUP_MEMORY, "keep-attention", INT(keep_attention), "auto", "N|all|auto",
     "layers whose attention output is kept, not computed again", RANGE(0, MAX_COUNT),
     OR_WORDS("all", KEEP_ALL, "auto", KEEP_AUTO)},
    {GROUP_MEMORY, "checkpoint-every", INT(checkpoint_every), "auto", "N|auto",
     "keep the input of every Nth layer only", RANGE(1, MAX_COUNT), OR_WORD("auto", EVERY_AUTO)},
    {GROUP_MEMORY, "attn-groups", INT(attn_groups), "auto", "N|auto",
     "attention in N groups of key/value heads, one at a time", RANGE(1, MAX_COUNT),
     OR_WORD("auto", GROUPS_AUTO)},
    {GROUP_MEMORY, "offload", SET(offload), "auto", "LIST|auto",
     "what host memory holds, to be streamed through: none, or a comma list",
     .choices = "checkpoints|attention|optimizer|gradients|weights|auto"},
    {GROUP_MEMORY, "offload-update", CHOICE(offload_update), "auto", NULL,
     "who updates from gradients and moments on the host: the device, the CPU", .choices = "stream|cpu|auto"},
    {GROUP_MEMORY, "update", CHOICE(update), "step", NULL,
     "update after the whole backward, or each layer at once (no clipping)", .choices = "step|layer"},
    {GROUP_MEMORY, "plan", BOOL(plan), "", NULL, "print the memory plan of these flags, do not run"},
    {GROUP_MEMORY, "plan-device", STRING(plan_device), "", "CARD",
     "with --plan: for a card that is not here, by name (h100) or memory (80G)"},
    {GROUP_MEMORY, "max-seq-len-for", STRING(max_seq_len_for), "", "CARD",
     "print the longest sequence that fits a card, and the flags for it, do not run"},
    {GROUP_MEMORY, "device-memory", INT(device_memory), "0", "BYTES",
     "plan and run as if the device had so much to give; 0 = what is free", RANGE(0, (int64_t)1 << 50)},
    {GROUP_MEMORY, "host-memory", INT(host_memory), "0", "BYTES",
     "host memory that offloading may use; 0 = what is free (another card: none)",
     RANGE(0, (int64_t)1 << 50)},
    {GROUP_MEMORY, "json", BOOL(json), "", NULL, "print the plan, or the profile, as JSON"},

    {GROUP_RUNNING, "device", STRING(device), "auto", NULL, "where to compute", .choices = "auto|cpu|cuda"},
    {GROUP_RUNNING, "threads", INT(threads), "0", "N", "CPU threads; 0 = all", RANGE(0, 4096)},
    {GROUP_RUNNING, "deterministic", BOOL(deterministic), "", NULL,
     "the same bits from every run on a device: always so on the CPU, slower on a GPU"},
    {GROUP_RUNNING, "tune-matmul", INT(tune_matmul), "0", "N",
     "on a GPU, time N algorithms of every product before step 1; 0 = take the first",
     RANGE(0, TUNE_CANDIDATES)},
    {GROUP_RUNNING, "out", STRING(out), "", "DIR", "run folder for the log and the models (default: none)"},
    {GROUP_RUNNING, "save-every", INT(save_every), "0", "N",
     "steps between saved states; 0 = only at the end", RANGE(0, MAX_LENGTH)},
    {GROUP_RUNNING, "keep", INT(keep), "0", "N", "saved states that stay, the newest; 0 = all",
     RANGE(0, MAX_LENGTH)},
    {GROUP_RUNNING, "resume", .type = FLAG_OPTIONAL, .offset = FIELD(const char *, resume), "", "[DIR]",
     "go on from a saved state: DIR, or the newest in --out if there is one"},
    {GROUP_RUNNING, "on-save-error", CHOICE(on_save_error), "continue", NULL,
     "when a state or the log cannot be written: train on and try again, or stop",
     .choices = "continue|stop"},
    {GROUP_RUNNING, "skip-bad-steps", INT(skip_bad_steps), "0", "N",
     "steps in a row that may be left out for a loss or gradient that is not finite", RANGE(0, MAX_LENGTH)},
    {GROUP_RUNNING, "eval-every", INT(eval_every), "0", "N",
     "steps between evaluations; 0 = only before the first step and at the end", RANGE(0, MAX_LENGTH)},
    {GROUP_RUNNING, "eval-batches", INT(eval_batches), "8", "N", "micro-batches an evaluation",
     RANGE(1, MAX_LENGTH)},
    {GROUP_RUNNING, "eval-only", BOOL(eval_only), "", NULL, "evaluate the model, do not train"},
    {GROUP_RUNNING, "sample-every", INT(sample_every), "0", "N",
     "steps between printed samples; 0 = never (the demo ends with one)", RANGE(0, MAX_LENGTH)},
    {GROUP_RUNNING, "generate", STRING(generate), "", "TEXT",
     "print what the model of the folder --model writes after this text, do not train"},
    {GROUP_RUNNING, "max-new", INT(max_new), "200", "N", "tokens to generate, at most", RANGE(1, INT32_MAX)},
    {GROUP_RUNNING, "temperature", DOUBLE(temperature), "0.8", "X",
     "of the drawn tokens, in samples as well; 0 = always the likeliest", BOUNDS(0, 1e3)},
    {GROUP_RUNNING, "top-k", INT(top_k), "0", "N", "draw from the N likeliest tokens only; 0 = from all",
     RANGE(0, INT32_MAX)},
    {GROUP_RUNNING, "top-p", DOUBLE(top_p), "1", "X",
     "draw from the likeliest tokens that have this probability together", BOUNDS(0, 1), .above_low = true},
    {GROUP_RUNNING, "profile", BOOL(profile), "", NULL,
     "print at the end where the time went, by operation; written to --out too"},
    {GROUP_RUNNING, "dump-grads", STRING(dump_grads), "", "FILE",
     "write the first step's loss and gradients (safetensors) and stop"},
    {GROUP_RUNNING, "config", STRING(config), "", "FILE",
     "flags from a file, one a line: `name value`; those given here override it", .meta = true},
    {GROUP_RUNNING, "help", .type = FLAG_HELP, .offset = FIELD(const char *, help), "", "[FLAG]",
     "print this, or everything about one flag", .meta = true},
    {GROUP_RUNNING, "man", BOOL(man), "", NULL, "print the manual page (roff)", .meta = true},
    {GROUP_RUNNING, "completion", STRING(completion), "", NULL, "print the shell's completion of these flags",
     .choices = "bash|zsh", .meta = true},
    {GROUP_RUNNING, "version", BOOL(version), "", NULL, "print the version", .meta = true},
};

enum { FLAGS = sizeof flags / sizeof flags[0] };
_Static_assert((int)FLAGS <= (int)OPTION_FLAGS, "Options.given has a place for every flag");

static const FlagTable table = {
    .program = "./train_llama",
    .flags = flags,
    .n = FLAGS,
    .groups = group_names,
    .group_count = GROUPS,
    .given = offsetof(Options, given),
    .preset = config_preset_name,
    .intro = "train_llama: trains Llama-style language models on very long sequences, in mini-sequences.\n\n"
             "  ./train_llama                     the built-in demo: a small Llama on generated text\n"
             "  ./train_llama --flag value ...    anything else (--flag=value is the same)\n"
             "  ./train_llama --help FLAG         what a flag allows\n\n"
             "Whole numbers take K, M, G, T (powers of 1000) and Ki, Mi, Gi, Ti (powers of 1024).\n"
             "Exit status: 0 done, 1 the run failed, 2 the flags or the input cannot be used.\n",
};

const FlagTable *flags_table(void) {
  return &table;
}

const Flag *flags_at(int i) {
  return i >= 0 && i < FLAGS ? &flags[i] : NULL;
}

const Flag *flags_find(const char *name) {
  return flag_table_find(&table, name);
}

const char *flags_group_name(FlagGroup g) {
  return group_names[g];
}

const char *flags_value_name(const Flag *f) {
  return flag_value_name(f);
}

void flags_allowed(const Flag *f, char *text, size_t size) {
  flag_allowed(f, text, size);
}

static Given given(const Options *o, const char *name) {
  const Flag *f = flags_find(name);
  CHECK(f, "no flag is named --%s", name);
  return flag_table_given(&table, o, f);
}

bool flags_given(const Options *o, const char *name) {
  return given(o, name) != GIVEN_NOT;
}

bool flags_typed(const Options *o, const char *name) {
  return given(o, name) == GIVEN_TYPED;
}

void flags_defaults(Options *o) {
  flag_table_defaults(&table, o, sizeof *o);
}

bool flags_parse(Options *o, int argc, char **argv, Error *e) {
  return flag_table_parse(&table, o, argc, argv, e);
}

bool flags_set(Options *o, const Flag *f, const char *value, Given given, Error *e) {
  return flag_table_set(&table, o, f, value, given, e);
}

bool flags_unknown(const char *found, const char *name, Error *e) {
  return flag_table_unknown(&table, found, name, e);
}

void flags_print(FILE *out, const Options *o) {
  enum { INDENT = 18, WIDTH = 110 };
  for (int g = 0; g < GROUPS; g++) {
    int column = fprintf(out, "# %-*s", INDENT - 2, group_names[g]);
    for (int i = 0; i < FLAGS; i++) {
      const Flag *f = &flags[i];
      char value[4096];
      if ((int)f->group != g || f->type == FLAG_HELP) continue;
      flag_value_text(o, f, value, sizeof value);
      if (!flag_is_there(o, f, value)) continue;
      int length = 4 + (int)strlen(f->name) + (int)strlen(value);
      if (column + length > WIDTH) column = fprintf(out, "\n# %*s", INDENT - 2, "") - 1;
      column += fprintf(out, " --%s%s%s", f->name, value[0] ? " " : "", value);
    }
    fputc('\n', out);
  }
}

void flags_json(FILE *out, const Options *o, int indent) {
  const char *separator = "{\n";
  for (int i = 0; i < FLAGS; i++) {
    const Flag *f = &flags[i];
    if (f->meta) continue;
    fprintf(out, "%s%*s", separator, indent + 2, "");
    separator = ",\n";
    json_string(out, f->name);
    fputs(": ", out);
    char text[64];
    const void *value = (const char *)o + f->offset;
    switch (f->type) {
    case FLAG_OPTIONAL:
    case FLAG_HELP:
    case FLAG_STRING: json_string(out, *(const char *const *)value); break;
    case FLAG_DOUBLE: json_double(out, *(const double *)value); break;
    case FLAG_BOOL: fputs(*(const bool *)value ? "true" : "false", out); break;
    case FLAG_INT:
    case FLAG_CHOICE:
    case FLAG_SET:
      flag_value_text(o, f, text, sizeof text);
      if (f->type == FLAG_INT && strspn(text, "-0123456789") == strlen(text))
        fputs(text, out);
      else
        json_string(out, text);
    }
  }
  fprintf(out, "\n%*s}", indent, "");
}

void flags_help(FILE *out, const char *flag) {
  if (!flag || !flag[0]) {
    flag_table_help(out, &table);
    return;
  }
  const Flag *f = flags_find(flag);
  CHECK(f, "no flag is named --%s", flag);
  flag_table_help_one(out, &table, f);
  if (f->offset != offsetof(Options, model)) return;
  fprintf(out, "  presets: ");
  for (int i = 0; config_preset_name(i); i++) fprintf(out, " %s", config_preset_name(i));
  fputc('\n', out);
}
