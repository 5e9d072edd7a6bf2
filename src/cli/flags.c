#include "cli/flags.h"

#include <ctype.h>
#include <errno.h>
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "cli/guess.h"
#include "io/json_out.h"  /* json_string, json_double, double_text */
#include "llama/config.h" /* config_preset_name */

/* The offset of a field; does not compile when the field's type is another than the flag's. */
#define FIELD(type, field)                                                                                   \
  (offsetof(Options, field) + 0 * sizeof(_Generic(((Options *)0)->field, type : (char)0)))
#define STRING(field) .type = FLAG_STRING, .offset = FIELD(const char *, field)
#define INT(field)    .type = FLAG_INT, .offset = FIELD(int64_t, field)
#define DOUBLE(field) .type = FLAG_DOUBLE, .offset = FIELD(double, field)
#define BOOL(field)   .type = FLAG_BOOL, .offset = FIELD(bool, field)
#define CHOICE(field) .type = FLAG_CHOICE, .offset = FIELD(int, field)
#define SET(field)    .type = FLAG_SET, .offset = FIELD(int, field)

/* What a value may be. */
#define RANGE(from, to)      .min = (from), .max = (to)
#define BOUNDS(from, to)     .low = (from), .high = (to)
#define OR_WORD(text, value) .word = (text), .word_value = (value)
#define MAX_LENGTH           ((int64_t)1 << 40) /* of sequences and steps: far beyond use */
#define MAX_COUNT            ((int64_t)1 << 20) /* of sequences and layers */

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
    {GROUP_MEMORY, "recompute", CHOICE(recompute), "layer", NULL,
     "what the backward computes again: nothing, the MLP's inside, the layer", .choices = "none|mlp|layer"},
    {GROUP_MEMORY, "keep-attention", INT(keep_attention), "0", "N|all",
     "layers whose attention output is kept, not computed again", RANGE(0, MAX_COUNT),
     OR_WORD("all", KEEP_ALL)},
    {GROUP_MEMORY, "checkpoint-every", INT(checkpoint_every), "1", "N",
     "keep the input of every Nth layer only", RANGE(1, MAX_COUNT)},
    {GROUP_MEMORY, "attn-groups", INT(attn_groups), "auto", "N|auto",
     "attention in N groups of key/value heads, one at a time; auto = as few as fit", RANGE(1, MAX_COUNT),
     OR_WORD("auto", GROUPS_AUTO)},
    {GROUP_MEMORY, "offload", SET(offload), "none", "LIST",
     "what host memory holds, to be streamed through: none, or a comma list",
     .choices = "checkpoints|attention|optimizer|gradients|weights"},
    {GROUP_MEMORY, "update", CHOICE(update), "step", NULL,
     "update after the whole backward, or each layer at once (no clipping)", .choices = "step|layer"},
    {GROUP_MEMORY, "plan", BOOL(plan), "", NULL, "print the memory plan of these flags, do not run"},
    {GROUP_MEMORY, "json", BOOL(json), "", NULL, "print the plan as JSON"},

    {GROUP_RUNNING, "device", STRING(device), "auto", NULL, "where to compute", .choices = "auto|cpu|cuda"},
    {GROUP_RUNNING, "threads", INT(threads), "0", "N", "CPU threads; 0 = all", RANGE(0, 4096)},
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

const Flag *flags_at(int i) {
  return i >= 0 && i < FLAGS ? &flags[i] : NULL;
}

const Flag *flags_find(const char *name) {
  for (int i = 0; i < FLAGS; i++)
    if (strcmp(flags[i].name, name) == 0) return &flags[i];
  return NULL;
}

const char *flags_group_name(FlagGroup g) {
  return group_names[g];
}

const char *flags_value_name(const Flag *f) {
  return f->value_name ? f->value_name : f->choices ? f->choices : "";
}

static Given given(const Options *o, const char *name) {
  const Flag *f = flags_find(name);
  CHECK(f, "no flag is named --%s", name);
  return o->given[f - flags];
}

bool flags_given(const Options *o, const char *name) {
  return given(o, name) != GIVEN_NOT;
}

bool flags_typed(const Options *o, const char *name) {
  return given(o, name) == GIVEN_TYPED;
}

/* ---- values: text -> Options ---- */

static void *field_of(Options *o, const Flag *f) {
  return (char *)o + f->offset;
}
static const void *value_of(const Options *o, const Flag *f) {
  return (const char *)o + f->offset;
}

/* Index of the word among the choices "a|b|c", or -1. */
static int choice_index(const char *choices, const char *word) {
  size_t n = strlen(word);
  int i = 0;
  for (const char *c = choices;; i++) {
    size_t length = strcspn(c, "|");
    if (length == n && memcmp(c, word, n) == 0) return i;
    if (c[length] == '\0') return -1;
    c += length + 1;
  }
}

static int choice_count(const char *choices) {
  int n = 1;
  for (const char *c = choices; *c; c++) n += *c == '|';
  return n;
}

/* Writes word i of the choices into text. */
static void choice_word(const char *choices, int i, char *text, size_t size) {
  for (; i > 0; i--) choices += strcspn(choices, "|") + 1;
  snprintf(text, size, "%.*s", (int)strcspn(choices, "|"), choices);
}

/* The bits of a comma list of the choices, or -1. */
static int choice_set(const char *choices, const char *list) {
  int bits = 0;
  if (strcmp(list, "none") == 0) return 0;
  for (const char *c = list;; c++) {
    char word[64];
    size_t length = strcspn(c, ",");
    if (length >= sizeof word) return -1;
    snprintf(word, sizeof word, "%.*s", (int)length, c);
    int i = choice_index(choices, word);
    if (i < 0) return -1;
    bits |= 1 << i;
    c += length;
    if (!*c) return bits;
  }
}

/* Writes the list that stands for the bits. */
static void set_words(const char *choices, int bits, char *text, size_t size) {
  size_t at = (size_t)snprintf(text, size, "%s", bits ? "" : "none");
  for (int i = 0; i < choice_count(choices) && at < size; i++) {
    char word[64];
    choice_word(choices, i, word, sizeof word);
    if (bits >> i & 1) at += (size_t)snprintf(text + at, size - at, "%s%s", at ? "," : "", word);
  }
}

/* The factor that a suffix of a whole number stands for, or 0. */
static int64_t suffix_factor(const char *suffix) {
  static const struct {
    const char *name;
    int64_t factor;
  } suffixes[] = {{"", 1},
                  {"K", 1000},
                  {"M", 1000000},
                  {"G", 1000000000},
                  {"Ki", (int64_t)1 << 10},
                  {"Mi", (int64_t)1 << 20},
                  {"Gi", (int64_t)1 << 30}};
  for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++)
    if (strcmp(suffix, suffixes[i].name) == 0) return suffixes[i].factor;
  return 0;
}

static bool parse_int(const Flag *f, const char *text, int64_t *value) {
  if (f->word && strcmp(text, f->word) == 0) {
    *value = f->word_value;
    return true;
  }
  if (!isdigit((unsigned char)text[text[0] == '-'])) return false; /* strtoll would skip blanks */
  char *end;
  errno = 0;
  long long number = strtoll(text, &end, 10);
  int64_t factor = suffix_factor(end);
  if (errno || factor == 0 || __builtin_mul_overflow((int64_t)number, factor, value)) return false;
  return *value >= f->min && *value <= f->max;
}

static bool parse_double(const Flag *f, const char *text, double *value) {
  if (strspn(text, "+-.0123456789eE") != strlen(text)) return false; /* no blanks, hex, inf, nan */
  char *end;
  *value = strtod(text, &end);
  if (end == text || *end) return false;
  return (f->above_low ? *value > f->low : *value >= f->low) &&
         (f->below_high ? *value < f->high : *value <= f->high);
}

/* Stores what the text says; false when it is not allowed. */
static bool parse_value(Options *o, const Flag *f, const char *text) {
  void *field = field_of(o, f);
  switch (f->type) {
  case FLAG_STRING:
    if (text[0] == '\0' || (f->choices && choice_index(f->choices, text) < 0)) return false;
    *(const char **)field = text;
    return true;
  case FLAG_INT: return parse_int(f, text, field);
  case FLAG_DOUBLE: return parse_double(f, text, field);
  case FLAG_CHOICE: return (*(int *)field = choice_index(f->choices, text)) >= 0;
  case FLAG_SET: return (*(int *)field = choice_set(f->choices, text)) >= 0;
  case FLAG_BOOL: return false;
  case FLAG_OPTIONAL:
  case FLAG_HELP: *(const char **)field = text; return true;
  }
  PANIC("flag --%s has no type", f->name);
}

void flags_defaults(Options *o) {
  memset(o, 0, sizeof *o);
  for (int i = 0; i < FLAGS; i++) {
    const Flag *f = &flags[i];
    if (f->default_value[0])
      CHECK(parse_value(o, f, f->default_value), "the default of --%s is not allowed", f->name);
  }
}

void flags_allowed(const Flag *f, char *text, size_t size) {
  char low[DOUBLE_TEXT], high[DOUBLE_TEXT];
  switch (f->type) {
  case FLAG_INT:
    snprintf(text, size, "a whole number from %lld to %lld%s%s (8K = 8000, 8Ki = 8192; also M, G, Mi, Gi)",
             (long long)f->min, (long long)f->max, f->word ? ", or " : "", f->word ? f->word : "");
    break;
  case FLAG_DOUBLE:
    double_text(f->low, low);
    double_text(f->high, high);
    snprintf(text, size, "a number %s %s and %s %s", f->above_low ? "above" : "of at least", low,
             f->below_high ? "below" : "at most", high);
    break;
  case FLAG_BOOL: snprintf(text, size, "no value: the flag alone says it"); break;
  case FLAG_OPTIONAL: snprintf(text, size, "a path, or nothing"); break;
  case FLAG_HELP: snprintf(text, size, "the name of a flag, or nothing"); break;
  case FLAG_STRING:
  case FLAG_CHOICE:
  case FLAG_SET: {
    size_t at = (size_t)snprintf(text, size,
                                 f->type == FLAG_SET ? "none, or some of these separated by commas: "
                                 : f->choices        ? "one of "
                                                     : "text that is not empty");
    for (const char *c = f->choices ? f->choices : ""; *c && at + 3 < size; c++) {
      if (*c == '|') text[at++] = ',';
      text[at++] = *c == '|' ? ' ' : *c;
      text[at] = '\0';
    }
  }
  }
}

/* ---- the parser ---- */

#define SEE_HELP "`./train_llama --help` lists all flags."

bool flags_unknown(const char *found, const char *name, Error *e) {
  Guess guess = guess_begin(name);
  for (int i = 0; i < FLAGS; i++) guess_offer(&guess, flags[i].name);
  if (!guess.word[0]) return error_usage(e, "%s: there is no such flag.\n" SEE_HELP, found);
  return error_usage(e, "%s: there is no such flag; did you mean --%s?\n" SEE_HELP, found, guess.word);
}

/* value: what was found, NULL when there is none. */
static bool bad_value(const Flag *f, const char *value, Error *e) {
  char allowed[256];
  flags_allowed(f, allowed, sizeof allowed);
  Guess guess = guess_begin(value ? value : "");
  for (int i = 0; value && f->choices && i < choice_count(f->choices); i++) {
    char word[GUESS_WORD];
    choice_word(f->choices, i, word, sizeof word);
    guess_offer(&guess, word);
  }
  const char *quote = value ? "\"" : "", *mean = guess.word[0] ? "; did you mean " : "";
  return error_usage(e, "--%s: found %s%s%s, expected %s%s%s%s\n`./train_llama --help %s` says more.",
                     f->name, quote, value ? value : "no value", quote, allowed, mean, guess.word,
                     *mean ? "?" : ".", f->name);
}

bool flags_set(Options *o, const Flag *f, const char *value, Given given, Error *e) {
  if (f->type == FLAG_OPTIONAL && !value) value = "";
  if (f->type == FLAG_BOOL) {
    if (value) return bad_value(f, value, e);
    *(bool *)field_of(o, f) = true;
  } else if (!value || !parse_value(o, f, value)) {
    return bad_value(f, value, e);
  }
  o->given[f - flags] = given;
  return true;
}

/* The flag that the argument names, with *value at what follows its '=' (NULL without one). */
static const Flag *parse_name(const char *argument, const char **value, Error *e) {
  size_t dashes = strspn(argument, "-");
  if (dashes == 0) {
    error_usage(
        e, "found \"%s\" where a flag was expected: every argument is --name or --name value.\n" SEE_HELP,
        argument);
    return NULL;
  }
  char found[80];
  snprintf(found, sizeof found, "%s", argument);
  found[strcspn(found, "=")] = '\0';
  const char *name = found + (dashes < sizeof found ? dashes : sizeof found - 1);
  const char *equals = strchr(argument, '=');
  *value = equals ? equals + 1 : NULL;
  const Flag *f = dashes == 2 ? flags_find(name) : NULL;
  if (!f) flags_unknown(found, name, e);
  return f;
}

bool flags_parse(Options *o, int argc, char **argv, Error *e) {
  for (int i = 1; i < argc; i++) {
    const char *value;
    const Flag *f = parse_name(argv[i], &value, e);
    if (!f) return false;
    if (o->given[f - flags])
      return error_usage(e, "--%s was given twice, the second time as \"%s\"; leave one out.", f->name,
                         argv[i]);
    const char *next = i + 1 < argc ? argv[i + 1] : NULL;
    if (f->type == FLAG_HELP) {
      if (!value) value = next ? argv[++i] : "";
      value += strspn(value, "-");
      if (*value && !flags_find(value)) return flags_unknown(value, value, e);
    } else if (f->type != FLAG_BOOL && !value && next && strncmp(next, "--", 2) != 0) {
      value = argv[++i];
    }
    if (!flags_set(o, f, value, GIVEN_TYPED, e)) return false;
  }
  return true;
}

/* ---- values: Options -> text ---- */

/* Writes the flag's value as one would type it; "" for a string that was not given and an absent flag. */
static void value_text(const Options *o, const Flag *f, char *text, size_t size) {
  const void *value = value_of(o, f);
  text[0] = '\0';
  switch (f->type) {
  case FLAG_OPTIONAL:
  case FLAG_HELP:
  case FLAG_STRING: {
    const char *s = *(const char *const *)value;
    snprintf(text, size, "%s", s ? s : "");
    break;
  }
  case FLAG_INT: {
    int64_t n = *(const int64_t *)value;
    if (f->word && n == f->word_value)
      snprintf(text, size, "%s", f->word);
    else
      snprintf(text, size, "%lld", (long long)n);
    break;
  }
  case FLAG_DOUBLE: double_text(*(const double *)value, text); break;
  case FLAG_CHOICE: choice_word(f->choices, *(const int *)value, text, size); break;
  case FLAG_SET: set_words(f->choices, *(const int *)value, text, size); break;
  case FLAG_BOOL: break;
  }
}

/* False for what was not given and has no default. */
static bool flag_is_there(const Options *o, const Flag *f, const char *value) {
  if (f->type == FLAG_BOOL) return *(const bool *)value_of(o, f);
  if (f->type == FLAG_OPTIONAL) return *(const char *const *)value_of(o, f) != NULL;
  return value[0] != '\0';
}

void flags_print(FILE *out, const Options *o) {
  enum { INDENT = 18, WIDTH = 110 };
  for (int g = 0; g < GROUPS; g++) {
    int column = fprintf(out, "# %-*s", INDENT - 2, group_names[g]);
    for (int i = 0; i < FLAGS; i++) {
      const Flag *f = &flags[i];
      char value[4096];
      if ((int)f->group != g || f->type == FLAG_HELP) continue;
      value_text(o, f, value, sizeof value);
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
    const void *value = value_of(o, f);
    switch (f->type) {
    case FLAG_OPTIONAL:
    case FLAG_HELP:
    case FLAG_STRING: json_string(out, *(const char *const *)value); break;
    case FLAG_DOUBLE: json_double(out, *(const double *)value); break;
    case FLAG_BOOL: fputs(*(const bool *)value ? "true" : "false", out); break;
    case FLAG_INT:
    case FLAG_CHOICE:
    case FLAG_SET:
      value_text(o, f, text, sizeof text);
      if (f->type == FLAG_INT && !(f->word && strcmp(text, f->word) == 0))
        fputs(text, out);
      else
        json_string(out, text);
    }
  }
  fprintf(out, "\n%*s}", indent, "");
}

/* ---- help ---- */

/* "--name VALUE", as the help shows it. */
static void usage_text(const Flag *f, char *text, size_t size) {
  const char *value = flags_value_name(f);
  snprintf(text, size, "--%s%s%s", f->name, *value ? " " : "", value);
}

static void help_all(FILE *out) {
  enum { COLUMN = 34 };
  fprintf(out,
          "train_llama: trains Llama-style language models on very long sequences, in mini-sequences.\n\n"
          "  ./train_llama                     the built-in demo: a small Llama on generated text\n"
          "  ./train_llama --flag value ...    anything else (--flag=value is the same)\n"
          "  ./train_llama --help FLAG         what a flag allows\n\n"
          "Whole numbers take K, M, G (powers of 1000) and Ki, Mi, Gi (powers of 1024).\n"
          "Exit status: 0 done, 1 the run failed, 2 the flags or the input cannot be used.\n");
  for (int g = 0; g < GROUPS; g++) {
    fprintf(out, "\n%s\n", group_names[g]);
    for (int i = 0; i < FLAGS; i++) {
      const Flag *f = &flags[i];
      if ((int)f->group != g) continue;
      char usage[128];
      usage_text(f, usage, sizeof usage);
      fprintf(out, "  %-*s", COLUMN - 2, usage);
      if (strlen(usage) > COLUMN - 3) fprintf(out, "\n%*s", COLUMN, "");
      fputs(f->help, out);
      if (f->default_value[0]) fprintf(out, " [%s]", f->default_value);
      fputc('\n', out);
    }
  }
}

static void help_one(FILE *out, const Flag *f) {
  char text[256];
  usage_text(f, text, sizeof text);
  fprintf(out, "%s\n  %s\n", text, f->help);
  flags_allowed(f, text, sizeof text);
  fprintf(out, "  group:    %s\n  takes:    %s\n", group_names[f->group], text);
  if (f->default_value[0]) fprintf(out, "  default:  %s\n", f->default_value);
  if (f->offset == offsetof(Options, model)) {
    fprintf(out, "  presets: ");
    for (int i = 0; config_preset_name(i); i++) fprintf(out, " %s", config_preset_name(i));
    fputc('\n', out);
  }
}

void flags_help(FILE *out, const char *flag) {
  if (!flag || !flag[0]) {
    help_all(out);
    return;
  }
  const Flag *f = flags_find(flag);
  CHECK(f, "no flag is named --%s", flag);
  help_one(out, f);
}
