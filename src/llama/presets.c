#include "llama/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the published config.json of each model says. Left out because it is the same for all: SiLU,
 * initializer_range 0.02, no bias of the output projection and the MLP. */
typedef struct Preset {
  const char *name, *family;
  int64_t C, L, NH, NKV, HS, FF, V;
  int64_t max_T, window; /* window 0: none */
  double norm_eps, theta;
  double llama3_factor; /* of "llama3" rope scaling from 8192 tokens; 0 = no scaling */
  bool tied, qkv_bias, qk_norm;
  int64_t bos, eos;
} Preset;

/* clang-format off */
static const Preset presets[] = {
  /* name              family     C      L    NH   NKV HS   FF     V       max_T   window eps   theta  llama3 tied biases qk_norm bos   eos */
  {"demo",             "llama",   128,   4,   4,   2,  32,  384,   256,    1024,   0,    1e-5, 1e4,   0,  true,  false, false, -1,     -1},
  {"llama2-7b",        "llama",   4096,  32,  32,  32, 128, 11008, 32000,  4096,   0,    1e-5, 1e4,   0,  false, false, false, 1,      2},
  {"llama2-13b",       "llama",   5120,  40,  40,  40, 128, 13824, 32000,  4096,   0,    1e-5, 1e4,   0,  false, false, false, 1,      2},
  {"llama2-70b",       "llama",   8192,  80,  64,  8,  128, 28672, 32000,  4096,   0,    1e-5, 1e4,   0,  false, false, false, 1,      2},
  {"llama3-8b",        "llama",   4096,  32,  32,  8,  128, 14336, 128256, 8192,   0,    1e-5, 5e5,   0,  false, false, false, 128000, 128001},
  {"llama3-70b",       "llama",   8192,  80,  64,  8,  128, 28672, 128256, 8192,   0,    1e-5, 5e5,   0,  false, false, false, 128000, 128001},
  {"llama3.1-8b",      "llama",   4096,  32,  32,  8,  128, 14336, 128256, 131072, 0,    1e-5, 5e5,   8,  false, false, false, 128000, 128001},
  {"llama3.1-70b",     "llama",   8192,  80,  64,  8,  128, 28672, 128256, 131072, 0,    1e-5, 5e5,   8,  false, false, false, 128000, 128001},
  {"llama3.1-405b",    "llama",   16384, 126, 128, 8,  128, 53248, 128256, 131072, 0,    1e-5, 5e5,   8,  false, false, false, 128000, 128001},
  {"llama3.2-1b",      "llama",   2048,  16,  32,  8,  64,  8192,  128256, 131072, 0,    1e-5, 5e5,   32, true,  false, false, 128000, 128001},
  {"llama3.2-3b",      "llama",   3072,  28,  24,  8,  128, 8192,  128256, 131072, 0,    1e-5, 5e5,   32, true,  false, false, 128000, 128001},
  {"tinyllama-1.1b",   "llama",   2048,  22,  32,  4,  64,  5632,  32000,  2048,   0,    1e-5, 1e4,   0,  false, false, false, 1,      2},
  {"mistral-7b",       "mistral", 4096,  32,  32,  8,  128, 14336, 32000,  32768,  4096, 1e-5, 1e4,   0,  false, false, false, 1,      2},
  {"mistral-7b-v0.3",  "mistral", 4096,  32,  32,  8,  128, 14336, 32768,  32768,  0,    1e-5, 1e6,   0,  false, false, false, 1,      2},
  {"qwen2-0.5b",       "qwen2",   896,   24,  14,  2,  64,  4864,  151936, 131072, 0,    1e-6, 1e6,   0,  true,  true,  false, 151643, 151643},
  {"qwen2-1.5b",       "qwen2",   1536,  28,  12,  2,  128, 8960,  151936, 131072, 0,    1e-6, 1e6,   0,  true,  true,  false, 151643, 151643},
  {"qwen2-7b",         "qwen2",   3584,  28,  28,  4,  128, 18944, 152064, 131072, 0,    1e-6, 1e6,   0,  false, true,  false, 151643, 151643},
  {"qwen2-72b",        "qwen2",   8192,  80,  64,  8,  128, 29568, 152064, 131072, 0,    1e-5, 1e6,   0,  false, true,  false, 151643, 151643},
  {"qwen2.5-0.5b",     "qwen2",   896,   24,  14,  2,  64,  4864,  151936, 32768,  0,    1e-6, 1e6,   0,  true,  true,  false, 151643, 151643},
  {"qwen2.5-1.5b",     "qwen2",   1536,  28,  12,  2,  128, 8960,  151936, 131072, 0,    1e-6, 1e6,   0,  true,  true,  false, 151643, 151643},
  {"qwen2.5-3b",       "qwen2",   2048,  36,  16,  2,  128, 11008, 151936, 32768,  0,    1e-6, 1e6,   0,  true,  true,  false, 151643, 151643},
  {"qwen2.5-7b",       "qwen2",   3584,  28,  28,  4,  128, 18944, 152064, 131072, 0,    1e-6, 1e6,   0,  false, true,  false, 151643, 151643},
  {"qwen2.5-14b",      "qwen2",   5120,  48,  40,  8,  128, 13824, 152064, 131072, 0,    1e-5, 1e6,   0,  false, true,  false, 151643, 151643},
  {"qwen2.5-32b",      "qwen2",   5120,  64,  40,  8,  128, 27648, 152064, 131072, 0,    1e-5, 1e6,   0,  false, true,  false, 151643, 151643},
  {"qwen2.5-72b",      "qwen2",   8192,  80,  64,  8,  128, 29568, 152064, 131072, 0,    1e-5, 1e6,   0,  false, true,  false, 151643, 151643},
  {"qwen3-0.6b",       "qwen3",   1024,  28,  16,  8,  128, 3072,  151936, 40960,  0,    1e-6, 1e6,   0,  true,  false, true,  151643, 151645},
  {"qwen3-1.7b",       "qwen3",   2048,  28,  16,  8,  128, 6144,  151936, 40960,  0,    1e-6, 1e6,   0,  true,  false, true,  151643, 151645},
  {"qwen3-4b",         "qwen3",   2560,  36,  32,  8,  128, 9728,  151936, 40960,  0,    1e-6, 1e6,   0,  true,  false, true,  151643, 151645},
  {"qwen3-8b",         "qwen3",   4096,  36,  32,  8,  128, 12288, 151936, 40960,  0,    1e-6, 1e6,   0,  false, false, true,  151643, 151645},
  {"qwen3-14b",        "qwen3",   5120,  40,  40,  8,  128, 17408, 151936, 40960,  0,    1e-6, 1e6,   0,  false, false, true,  151643, 151645},
  {"qwen3-32b",        "qwen3",   5120,  64,  64,  8,  128, 25600, 151936, 40960,  0,    1e-6, 1e6,   0,  false, false, true,  151643, 151645},
};
/* clang-format on */
enum { PRESETS = sizeof presets / sizeof *presets };

static const Preset *find_preset(const char *name) {
  for (int i = 0; i < PRESETS; i++)
    if (strcmp(presets[i].name, name) == 0) return &presets[i];
  return NULL;
}

static Rope preset_rope(const Preset *p) {
  if (p->llama3_factor == 0) return (Rope){.theta = p->theta};
  return (Rope){.theta = p->theta,
                .scaling = ROPE_LLAMA3,
                .factor = p->llama3_factor,
                .low_freq_factor = 1,
                .high_freq_factor = 4,
                .original_T = 8192};
}

bool config_preset(Config *c, const char *name) {
  const Preset *p = find_preset(name);
  if (!p) return false;
  *c = (Config){
      .C = p->C,
      .L = p->L,
      .NH = p->NH,
      .NKV = p->NKV,
      .HS = p->HS,
      .FF = p->FF,
      .V = p->V,
      .max_T = p->max_T,
      .norm_eps = p->norm_eps,
      .init_std = 0.02,
      .tied = p->tied,
      .qkv_bias = p->qkv_bias,
      .qk_norm = p->qk_norm,
      .rope = preset_rope(p),
      .bos = p->bos,
      .eos = p->eos,
  };
  snprintf(c->family, sizeof c->family, "%s", p->family);
  c->layers = calloc((size_t)p->L, sizeof *c->layers);
  CHECK(c->layers, "out of memory");
  for (int64_t i = 0; i < p->L; i++) c->layers[i] = (LayerDesc){p->window, ACT_SILU};
  return true;
}

const char *config_preset_name(int i) {
  return i >= 0 && i < PRESETS ? presets[i].name : NULL;
}
