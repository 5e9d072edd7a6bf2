/* The shape of a Llama-style model, as data: one Config for the model and one LayerDesc a layer. What a
 * family does differently (Mistral's window, Qwen2's biases, Qwen3's q/k norm) is a field here, never a
 * branch on the family's name. */
#ifndef CONFIG_H
#define CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "ops/activation.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What one layer does; layers of a model may differ. */
typedef struct LayerDesc {
  int64_t window;        /* attention reaches back over this many tokens, itself included; 0 = all */
  Activation activation; /* of the gated feed-forward: act(gate) * up */
} LayerDesc;

typedef enum RopeScaling { ROPE_NONE, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN } RopeScaling;

/* Rotary embedding (arXiv 2104.09864) and its context extensions. */
typedef struct Rope {
  double theta; /* base of the geometric frequencies */
  RopeScaling scaling;
  double factor;                 /* linear, llama3, yarn: extension factor */
  double low_freq_factor;        /* llama3 */
  double high_freq_factor;       /* llama3 */
  int64_t original_T;            /* llama3, yarn: context length before the extension */
  double beta_fast, beta_slow;   /* yarn */
  double attention_factor;       /* yarn: multiplies cos and sin; 0 = derive from factor (and mscale) */
  double mscale, mscale_all_dim; /* yarn: optional; 0 = not given */
  bool truncate;                 /* yarn: round the correction range to whole dimensions (default true) */
} Rope;

typedef struct Config {
  char family[32]; /* model_type of config.json: llama, mistral, qwen2, qwen3 */
  int64_t C;       /* hidden size */
  int64_t L;       /* layers */
  int64_t NH, NKV; /* query heads, key/value heads */
  int64_t HS;      /* head size */
  int64_t FF;      /* MLP width */
  int64_t V;       /* vocabulary */
  int64_t max_T;   /* max_position_embeddings: the context the model was made for */
  double norm_eps;
  double init_std; /* initializer_range */
  bool tied;       /* the LM head is the embedding */
  bool qkv_bias, o_bias, mlp_bias;
  bool qk_norm; /* rmsnorm of every query and key head before rope (Qwen3) */
  Rope rope;
  int64_t bos, eos;  /* token ids; -1 = none */
  LayerDesc *layers; /* [L], owned */
  char *source_json; /* config.json as it was read, so that saving keeps unknown keys; NULL = none; owned */
} Config;

void config_free(Config *c);

/* Checks that the sizes are positive and fit together (NH % NKV, even HS, ...). */
bool config_check(const Config *c, Error *e);

/* A published size by name ("llama3-8b"), with its layers filled; false when there is none of that name. */
bool config_preset(Config *c, const char *name);
/* Name of preset i, or NULL past the last: for --help and error messages. */
const char *config_preset_name(int i);

/* The HS/2 rotary frequencies in fp32, as Hugging Face computes them, and the factor for cos and sin.
 * T: sequence length of the run (only "dynamic" scalings would need it; the supported ones do not). */
void rope_frequencies(const Rope *r, int64_t HS, int64_t max_T, float *inv_freq, float *attention_scale);

/* True when the two are different models; text: the first difference, "head_dim is 64 and 128". */
bool config_difference(const Config *a, const Config *b, char *text, size_t size);

/* Parameters of the whole model, tied ones counted once. */
int64_t config_parameters(const Config *c);

#ifdef __cplusplus
}
#endif
#endif
