/* What the command line asks for: one field a flag. Names, types, defaults, ranges and help are the flag
 * table's (flags.c); nothing else states them. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/error.h"
#include "cli/flag_table.h" /* Given */
#include "llama/config.h"   /* RopeScaling */
#include "llama/schedule.h" /* Recompute, CHUNK_AUTO, KEEP_ALL */

#ifdef __cplusplus
extern "C" {
#endif

enum { OPTION_FLAGS = 80 }; /* room for the flags of the table */
/* Of rope_scaling: as config.json says. The other values are those of RopeScaling. */
enum { OPTION_ROPE_OF_MODEL = ROPE_YARN + 1 };

/* When a saved state or the log cannot be written. */
typedef enum SaveErrorPolicy { SAVE_ERROR_CONTINUE, SAVE_ERROR_STOP } SaveErrorPolicy;

/* Strings are NULL when they were not given; they point into argv, into the flag table or into
 * config_text. */
typedef struct Options {
  /* Model and data */
  const char *model;      /* Hugging Face folder, or the name of a preset */
  double rope_theta;      /* base of the rotary frequencies; 0 = as the model says */
  int rope_scaling;       /* a RopeScaling, or OPTION_ROPE_OF_MODEL */
  double rope_factor;     /* context extension factor; 0 = as the model says */
  const char *train;      /* globs of the training data; NULL = the built-in demo text */
  const char *val;        /* globs of the validation data */
  int shuffle;            /* 1: the training data are shuffled by seed; 0: in the order of their files */
  bool pack;              /* attention and positions stay within a document */
  int64_t document_token; /* starts a document where a file marks none; -1 = the model's BOS */
  int64_t seq_len;        /* T, tokens a sequence */
  int64_t batch;          /* B, sequences a micro-batch */
  int64_t grad_accum;     /* micro-batches an optimizer step */

  /* Training */
  int64_t steps;      /* the schedule's horizon, in optimizer steps */
  int64_t stop_after; /* this run stops after this step; 0 = after `steps` */
  int64_t seed;       /* of initialisation, shuffling, demo text, sampling and stochastic rounding */
  double lr;          /* highest learning rate */
  double min_lr;      /* learning rate at the end of the schedule */
  int64_t warmup;     /* steps over which the learning rate rises from 0 */
  int schedule;       /* an LrKind */
  double weight_decay;
  double beta1, beta2, eps; /* of AdamW */
  double clip;              /* largest global norm of the gradients; 0 = no clipping */
  int dtype;                /* DT_FP32 or DT_BF16: parameters and activations */
  int master;               /* 1: bf16 parameters have an fp32 copy that the optimizer updates; 0: none */
  int moments;              /* DT_FP32, DT_BF16 or DT_U8: AdamW's moments */

  /* Memory */
  int64_t mlp_chunk;           /* rows of a mini-sequence of the MLP; 0 = whole, or CHUNK_AUTO */
  int64_t head_chunk;          /* rows of a mini-sequence of the LM head; 0 = whole, or CHUNK_AUTO */
  int recompute;               /* a Recompute */
  int64_t keep_attention;      /* layers whose attention output is kept; KEEP_ALL, KEEP_AUTO */
  int64_t checkpoint_every;    /* layers a kept layer input; EVERY_AUTO */
  int64_t attn_groups;         /* groups of key/value heads that take turns; GROUPS_AUTO */
  int offload;                 /* OFFLOAD_ bits */
  int offload_update;          /* a HostUpdate */
  int update;                  /* an UpdateMode */
  bool plan;                   /* print the memory plan, do not run */
  const char *plan_device;     /* of this card, or NULL: of the device that is here */
  const char *max_seq_len_for; /* print the longest sequence that fits this card, do not run; or NULL */
  int64_t device_memory;       /* bytes that may be planned with on the device; 0 = not said */
  int64_t host_memory;         /* and on the host */
  bool json;                   /* print the plan, or the profile, as JSON */

  /* Running */
  const char *device;     /* "auto", "cpu" or "cuda" */
  int64_t threads;        /* CPU threads; 0 = all */
  bool deterministic;     /* the same bits from every run */
  int64_t tune_matmul;    /* algorithms of a matrix product that are timed; 0 = none */
  const char *out;        /* run folder; NULL = nothing is written */
  int64_t save_every;     /* steps between saved states; 0 = only at the end */
  int64_t keep;           /* saved states that stay; 0 = all */
  const char *resume;     /* saved state to go on from; "" = the newest in `out`, NULL = none */
  int on_save_error;      /* a SaveErrorPolicy */
  int64_t skip_bad_steps; /* steps in a row that may be left out for a loss or gradient that is not finite */
  int64_t eval_every;     /* steps between evaluations; 0 = only before the first step and at the end */
  int64_t eval_batches;   /* micro-batches an evaluation */
  bool eval_only;         /* evaluate, do not train */
  int64_t sample_every;   /* steps between samples; 0 = never */
  const char *generate;   /* text to go on with, instead of training; NULL = none */
  int64_t max_new;        /* tokens to generate, at most */
  double temperature;     /* of the draws; 0 = always the likeliest token */
  int64_t top_k;          /* only the so many likeliest tokens are drawn; 0 = all */
  double top_p;           /* only the likeliest, up to this probability together; 1 = all */
  bool profile;           /* a table of where the time goes, at the end */
  const char *dump_grads; /* file for the first step's gradients */
  const char *config;     /* file of more flags; NULL = none */
  const char *help;       /* NULL = not asked for, "" = all flags, else the flag to explain */
  bool man;               /* print the manual page */
  const char *completion; /* "bash" or "zsh": print its completion; NULL = not asked for */
  bool version;

  Given given[OPTION_FLAGS]; /* by row of the flag table; see flags_given, flags_typed */
  char *config_text; /* what the configuration file holds, cut into strings; NULL = no file was read */
} Options;

/* Frees what the options own: the strings of the configuration file. Zeroed options are fine. */
void options_free(Options *o);

/* Refuses flags that do not go together (ranges of single flags are the parser's). Looks at nothing but the
 * options. Call it after the defaults that depend on the model are filled in. */
bool options_check(const Options *o, Error *e);

#ifdef __cplusplus
}
#endif
#endif
