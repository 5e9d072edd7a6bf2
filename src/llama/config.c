#include "llama/config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void config_free(Config *c) {
  free(c->layers);
  free(c->source_json);
  *c = (Config){0};
}

/* ---- Checks --------------------------------------------------------------------------------------- */

/* Far above any published model; low enough that no product of them overflows 64 bits. */
enum {
  MAX_C = 1 << 20,
  MAX_L = 1 << 10,
  MAX_NH = 1 << 14,
  MAX_HS = 1 << 12,
  MAX_FF = 1 << 22,
  MAX_V = 1 << 28,
};
static const int64_t MAX_PARAMETERS = INT64_C(1) << 50; /* nor their bytes, with all that training adds */
static const int64_t MAX_CONTEXT = INT64_C(1) << 40;

static bool in_range(const char *key, int64_t value, int64_t max, Error *e) {
  if (value >= 1 && value <= max) return true;
  return error_usage(e, "%s is %" PRId64 ", expected 1 to %" PRId64 ". Correct the model's config.json", key,
                     value, max);
}

/* Outside of what single precision can compute with, an accepted number would become 0, infinity or NaN. */
static bool real_in_range(const char *key, double value, double least, double most, Error *e) {
  if (value >= least && value <= most) return true;
  return error_usage(e, "%s is %g, expected a number from %g to %g. Correct the model's config.json", key,
                     value, least, most);
}

static bool check_rope(const Rope *r, Error *e) {
  const double small = 1e-6, large = 1e6;
  if (!(r->theta > 1 && r->theta <= 1e15))
    return error_usage(
        e, "rope_theta is %g, expected a number above 1 and up to 1e15, such as 10000 or 500000", r->theta);
  if (r->scaling == ROPE_NONE) return true;
  if (!(r->factor >= 1 && r->factor <= large))
    return error_usage(e,
                       "the rope scaling's factor is %g, expected 1 or more, up to %g: new over old context "
                       "length",
                       r->factor, large);
  if (r->original_T < 0 || r->original_T > MAX_CONTEXT)
    return error_usage(e, "original_max_position_embeddings is %" PRId64 ", expected 1 to %" PRId64,
                       r->original_T, MAX_CONTEXT);
  if (r->scaling == ROPE_LLAMA3) {
    if (!real_in_range("low_freq_factor", r->low_freq_factor, small, large, e) ||
        !real_in_range("high_freq_factor", r->high_freq_factor, small, large, e))
      return false;
    /* what lies between nearly equal ones is a rounding error divided by their difference */
    if (r->high_freq_factor >= 1.001 * r->low_freq_factor) return true;
    return error_usage(
        e, "low_freq_factor is %g and high_freq_factor %g, expected 0 < low < high; Llama 3.1 uses 1 and 4",
        r->low_freq_factor, r->high_freq_factor);
  }
  if (r->scaling != ROPE_YARN) return true;
  if (!real_in_range("beta_slow", r->beta_slow, small, large, e) ||
      !real_in_range("beta_fast", r->beta_fast, small, large, e))
    return false;
  if (r->beta_fast <= r->beta_slow)
    return error_usage(
        e, "beta_slow is %g and beta_fast %g, expected 0 < slow < fast; YaRN's paper uses 1 and 32",
        r->beta_slow, r->beta_fast);
  return (r->attention_factor == 0 ||
          real_in_range("attention_factor", r->attention_factor, small, large, e)) &&
         real_in_range("mscale", r->mscale, 0, large, e) &&
         real_in_range("mscale_all_dim", r->mscale_all_dim, 0, large, e);
}

static bool check_token(const char *key, int64_t id, int64_t V, Error *e) {
  if (id >= -1 && id < V) return true;
  return error_usage(e, "%s is %" PRId64 ", expected a token below vocab_size = %" PRId64 ", or null", key,
                     id, V);
}

bool config_check(const Config *c, Error *e) {
  const struct {
    const char *key;
    int64_t value, max;
  } sizes[] = {
      {"hidden_size", c->C, MAX_C},
      {"num_hidden_layers", c->L, MAX_L},
      {"num_attention_heads", c->NH, MAX_NH},
      {"num_key_value_heads", c->NKV, MAX_NH},
      {"head_dim", c->HS, MAX_HS},
      {"intermediate_size", c->FF, MAX_FF},
      {"vocab_size", c->V, MAX_V},
      {"max_position_embeddings", c->max_T, MAX_CONTEXT},
  };
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    if (!in_range(sizes[i].key, sizes[i].value, sizes[i].max, e)) return false;
  if (c->NH % c->NKV != 0)
    return error_usage(e,
                       "num_attention_heads is %" PRId64 " and num_key_value_heads %" PRId64
                       ", expected a multiple of it: each key/value head serves as many query heads",
                       c->NH, c->NKV);
  if (c->HS % 2 != 0)
    return error_usage(e, "head_dim is %" PRId64 ", expected an even number: rope turns pairs", c->HS);
  if (config_parameters(c) > MAX_PARAMETERS)
    return error_usage(e,
                       "the sizes come to %" PRId64 " parameters, expected at most %" PRId64
                       ". Correct the model's config.json",
                       config_parameters(c), MAX_PARAMETERS);
  if (!real_in_range("rms_norm_eps", c->norm_eps, 1e-12, 1, e)) return false;
  if (!(c->init_std >= 0 && c->init_std <= 1))
    return error_usage(e, "initializer_range is %g, expected 0 to 1; most models use 0.02", c->init_std);
  if (!check_token("bos_token_id", c->bos, c->V, e) || !check_token("eos_token_id", c->eos, c->V, e))
    return false;
  CHECK(c->layers, "a config without layers");
  for (int64_t i = 0; i < c->L; i++)
    if (c->layers[i].window < 0 || c->layers[i].window > MAX_CONTEXT)
      return error_usage(
          e, "sliding_window is %" PRId64 " in layer %" PRId64 ", expected 1 to %" PRId64 ", or null",
          c->layers[i].window, i, MAX_CONTEXT);
  return check_rope(&c->rope, e);
}

/* ---- Parameters ----------------------------------------------------------------------------------- */

int64_t config_parameters(const Config *c) {
  int64_t q = c->NH * c->HS, kv = c->NKV * c->HS;
  int64_t layer = 2 * c->C;                /* norms */
  layer += c->C * (q + 2 * kv) + q * c->C; /* q, k, v, o */
  layer += 3 * c->C * c->FF;               /* gate, up, down */
  if (c->qkv_bias) layer += q + 2 * kv;
  if (c->o_bias) layer += c->C;
  if (c->mlp_bias) layer += 2 * c->FF + c->C;
  if (c->qk_norm) layer += 2 * c->HS;
  return (c->tied ? 1 : 2) * c->V * c->C + c->L * layer + c->C;
}

/* ---- Rotary frequencies --------------------------------------------------------------------------- */

/* A position times a frequency is an angle, so at a million tokens the last bit of a frequency turns the
 * fastest pair by 0.06 rad. Hence fp32 with the roundings of Hugging Face's tensors, step by step. */

/* Not inlined: the compiler would fuse the product with an addition and so skip its rounding. */
__attribute__((noinline)) static float product(float a, float b) {
  return a * b;
}

/* a (1 - t) + b t */
static float mix(float a, float b, float t) {
  return product(a, 1.0f - t) + product(b, t);
}

/* theta^(2i / HS): the reciprocal of pair i's frequency. */
static float period(const Rope *r, int64_t HS, int64_t i) {
  return (float)pow(r->theta, (double)((float)(2 * i) / (float)HS));
}

/* Llama 3.1: wavelengths beyond original_T / low are divided by the factor, those below original_T / high are
 * kept, and in between it goes over smoothly. */
static float llama3_frequency(const Rope *r, int64_t original_T, float frequency) {
  float wavelength = product(1.0f / frequency, (float)(2 * M_PI));
  float factor = (float)r->factor, low = (float)r->low_freq_factor;
  if (wavelength < (float)((double)original_T / r->high_freq_factor)) return frequency;
  if (wavelength > (float)((double)original_T / r->low_freq_factor)) return frequency / factor;
  float smooth = product(1.0f / wavelength, (float)original_T) - low;
  smooth /= (float)(r->high_freq_factor - r->low_freq_factor);
  return product(1.0f - smooth, frequency) / factor + product(smooth, frequency);
}

/* YaRN (arXiv 2309.00071): pairs that turn more than beta_fast times within original_T are kept, those that
 * turn less than beta_slow times are divided by the factor, with a linear ramp over the pairs in between. */
typedef struct YarnRamp {
  float low, width; /* in pairs */
} YarnRamp;

static double yarn_pair(const Rope *r, int64_t HS, int64_t original_T, double turns) {
  return (double)HS * log((double)original_T / (turns * 2 * M_PI)) / (2 * log(r->theta));
}

static YarnRamp yarn_ramp(const Rope *r, int64_t HS, int64_t original_T) {
  double low = yarn_pair(r, HS, original_T, r->beta_fast);
  double high = yarn_pair(r, HS, original_T, r->beta_slow);
  if (r->truncate) {
    low = floor(low);
    high = ceil(high);
  }
  low = fmax(low, 0);
  high = fmin(high, (double)(HS - 1));
  if (low == high) high += 0.001;
  return (YarnRamp){(float)low, (float)(high - low)};
}

static float yarn_frequency(const Rope *r, YarnRamp ramp, int64_t i, float pair_period) {
  float t = ((float)i - ramp.low) / ramp.width;
  float keep = 1.0f - fminf(fmaxf(t, 0.0f), 1.0f);
  return mix(1.0f / product((float)r->factor, pair_period), 1.0f / pair_period, keep);
}

static double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static double yarn_attention_scale(const Rope *r) {
  if (r->attention_factor > 0) return r->attention_factor;
  if (r->mscale > 0 && r->mscale_all_dim > 0)
    return yarn_mscale(r->factor, r->mscale) / yarn_mscale(r->factor, r->mscale_all_dim);
  return yarn_mscale(r->factor, 1);
}

void rope_frequencies(const Rope *r, int64_t HS, int64_t max_T, float *inv_freq, float *attention_scale) {
  int64_t original_T = r->original_T > 0 ? r->original_T : max_T;
  YarnRamp ramp = {0};
  *attention_scale = 1.0f;
  if (r->scaling == ROPE_YARN) {
    ramp = yarn_ramp(r, HS, original_T);
    *attention_scale = (float)yarn_attention_scale(r);
  }
  for (int64_t i = 0; i < HS / 2; i++) {
    float pair_period = period(r, HS, i), frequency = 1.0f / pair_period;
    switch (r->scaling) {
    case ROPE_NONE: inv_freq[i] = frequency; break;
    case ROPE_LINEAR: inv_freq[i] = frequency / (float)r->factor; break;
    case ROPE_LLAMA3: inv_freq[i] = llama3_frequency(r, original_T, frequency); break;
    case ROPE_YARN: inv_freq[i] = yarn_frequency(r, ramp, i, pair_period); break;
    }
  }
}

/* ---- comparing ---- */

static bool differs(const char *key, double a, double b, char *text, size_t size) {
  if (a == b) return false;
  snprintf(text, size, "%s is %.15g and %.15g", key, a, b);
  return true;
}

bool config_difference(const Config *a, const Config *b, char *text, size_t size) {
  if (strcmp(a->family, b->family) != 0) {
    snprintf(text, size, "model_type is %s and %s", a->family, b->family);
    return true;
  }
  const Rope *r = &a->rope, *s = &b->rope;
  /* 1 where the scaling has these fields: what it does not use may hold anything */
  int scaled = r->scaling != ROPE_NONE, llama3 = r->scaling == ROPE_LLAMA3, yarn = r->scaling == ROPE_YARN;
  const struct {
    const char *key;
    double a, b;
  } fields[] = {
      {"hidden_size", (double)a->C, (double)b->C},
      {"num_hidden_layers", (double)a->L, (double)b->L},
      {"num_attention_heads", (double)a->NH, (double)b->NH},
      {"num_key_value_heads", (double)a->NKV, (double)b->NKV},
      {"head_dim", (double)a->HS, (double)b->HS},
      {"intermediate_size", (double)a->FF, (double)b->FF},
      {"vocab_size", (double)a->V, (double)b->V},
      {"max_position_embeddings", (double)a->max_T, (double)b->max_T},
      {"rms_norm_eps", a->norm_eps, b->norm_eps},
      {"tie_word_embeddings", a->tied, b->tied},
      {"bias of q, k and v", a->qkv_bias, b->qkv_bias},
      {"bias of the attention's output", a->o_bias, b->o_bias},
      {"mlp_bias", a->mlp_bias, b->mlp_bias},
      {"norm of queries and keys", a->qk_norm, b->qk_norm},
      {"rope_theta", r->theta, s->theta},
      {"kind of rope_scaling", r->scaling, s->scaling},
      {"rope_scaling's factor", scaled * r->factor, scaled * s->factor},
      {"low_freq_factor", llama3 * r->low_freq_factor, llama3 * s->low_freq_factor},
      {"high_freq_factor", llama3 * r->high_freq_factor, llama3 * s->high_freq_factor},
      {"original_max_position_embeddings", (llama3 + yarn) * (double)r->original_T,
       (llama3 + yarn) * (double)s->original_T},
      {"beta_fast", yarn * r->beta_fast, yarn * s->beta_fast},
      {"beta_slow", yarn * r->beta_slow, yarn * s->beta_slow},
      {"attention_factor", yarn * r->attention_factor, yarn * s->attention_factor},
      {"mscale", yarn * r->mscale, yarn * s->mscale},
      {"mscale_all_dim", yarn * r->mscale_all_dim, yarn * s->mscale_all_dim},
      {"truncate", yarn * r->truncate, yarn * s->truncate},
  };
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
    if (differs(fields[i].key, fields[i].a, fields[i].b, text, size)) return true;
  for (int64_t l = 0; l < a->L; l++)
    if (differs("sliding_window of a layer", (double)a->layers[l].window, (double)b->layers[l].window, text,
                size) ||
        differs("hidden_act", a->layers[l].activation, b->layers[l].activation, text, size))
      return true;
  return false;
}
