#include "llama/params.h"

#include <math.h>
#include <string.h>

#include "ops/adamw.h" /* defines: MOMENT_BLOCK */

/* Tensors begin on 256-byte boundaries in fp32, 128 in bf16. */
enum { ELEMENT_ALIGNMENT = 64 };

/* Gives the tensors of a unit their offsets; returns the unit's elements. */
static int64_t place(ParamSpec *specs, int count) {
  int64_t at = 0;
  for (int i = 0; i < count; i++) {
    specs[i].offset = at;
    int64_t elements = specs[i].rows * specs[i].cols;
    at += (elements + ELEMENT_ALIGNMENT - 1) / ELEMENT_ALIGNMENT * ELEMENT_ALIGNMENT;
  }
  return at;
}

/* Gives the slices of a unit's tensors their blocks of 8-bit moments; returns how many there are. */
static int64_t place_blocks(ParamSpec *specs, int count) {
  int64_t at = 0;
  for (int i = 0; i < count; i++)
    for (int s = 0; s < specs[i].slice_count; s++) {
      HfSlice *h = &specs[i].slices[s];
      h->block = at;
      h->blocks = (h->rows * specs[i].cols + MOMENT_BLOCK - 1) / MOMENT_BLOCK;
      at += h->blocks;
    }
  return at;
}

static HfSlice slice(const char *name, int64_t row, int64_t rows) {
  return (HfSlice){.name = name, .row = row, .rows = rows};
}

static ParamSpec matrix(const char *name, int64_t rows, int64_t cols, double std, const char *hf) {
  return (ParamSpec){.name = name,
                     .rows = rows,
                     .cols = cols,
                     .dims = 2,
                     .init = INIT_NORMAL,
                     .std = std,
                     .decay = true,
                     .slice_count = 1,
                     .slices = {slice(hf, 0, rows)}};
}

static ParamSpec vector(const char *name, int64_t rows, Init init, const char *hf) {
  return (ParamSpec){.name = name,
                     .rows = rows,
                     .cols = 1,
                     .dims = 1,
                     .init = init,
                     .slice_count = 1,
                     .slices = {slice(hf, 0, rows)}};
}

void params_table(ParamTable *t, const Config *c) {
  int64_t q = c->NH * c->HS, kv = c->NKV * c->HS;
  double std = c->init_std;
  /* projections into the residual stream are scaled by the number of additions to it (GPT-2, section 2.3) */
  double residual_std = std / sqrt(2.0 * (double)c->L);
  *t = (ParamTable){.L = c->L};

  ParamSpec *l = t->layer;
  l[P_NORM1] = vector("norm1", c->C, INIT_ONE, "model.layers.%d.input_layernorm.weight");
  l[P_QKV] = matrix("qkv", q + 2 * kv, c->C, std, NULL);
  l[P_QKV].slice_count = 3;
  l[P_QKV].slices[0] = slice("model.layers.%d.self_attn.q_proj.weight", 0, q);
  l[P_QKV].slices[1] = slice("model.layers.%d.self_attn.k_proj.weight", q, kv);
  l[P_QKV].slices[2] = slice("model.layers.%d.self_attn.v_proj.weight", q + kv, kv);
  l[P_QKV_BIAS] = vector("qkv bias", c->qkv_bias ? q + 2 * kv : 0, INIT_ZERO, NULL);
  l[P_QKV_BIAS].slice_count = 3;
  l[P_QKV_BIAS].slices[0] = slice("model.layers.%d.self_attn.q_proj.bias", 0, q);
  l[P_QKV_BIAS].slices[1] = slice("model.layers.%d.self_attn.k_proj.bias", q, kv);
  l[P_QKV_BIAS].slices[2] = slice("model.layers.%d.self_attn.v_proj.bias", q + kv, kv);
  l[P_Q_NORM] = vector("q norm", c->qk_norm ? c->HS : 0, INIT_ONE, "model.layers.%d.self_attn.q_norm.weight");
  l[P_K_NORM] = vector("k norm", c->qk_norm ? c->HS : 0, INIT_ONE, "model.layers.%d.self_attn.k_norm.weight");
  l[P_O] = matrix("o", c->C, q, residual_std, "model.layers.%d.self_attn.o_proj.weight");
  l[P_O_BIAS] = vector("o bias", c->o_bias ? c->C : 0, INIT_ZERO, "model.layers.%d.self_attn.o_proj.bias");
  l[P_NORM2] = vector("norm2", c->C, INIT_ONE, "model.layers.%d.post_attention_layernorm.weight");
  l[P_GATE_UP] = matrix("gate up", 2 * c->FF, c->C, std, NULL);
  l[P_GATE_UP].slice_count = 2;
  l[P_GATE_UP].slices[0] = slice("model.layers.%d.mlp.gate_proj.weight", 0, c->FF);
  l[P_GATE_UP].slices[1] = slice("model.layers.%d.mlp.up_proj.weight", c->FF, c->FF);
  l[P_GATE_UP_BIAS] = vector("gate up bias", c->mlp_bias ? 2 * c->FF : 0, INIT_ZERO, NULL);
  l[P_GATE_UP_BIAS].slice_count = 2;
  l[P_GATE_UP_BIAS].slices[0] = slice("model.layers.%d.mlp.gate_proj.bias", 0, c->FF);
  l[P_GATE_UP_BIAS].slices[1] = slice("model.layers.%d.mlp.up_proj.bias", c->FF, c->FF);
  l[P_DOWN] = matrix("down", c->C, c->FF, residual_std, "model.layers.%d.mlp.down_proj.weight");
  l[P_DOWN_BIAS] =
      vector("down bias", c->mlp_bias ? c->C : 0, INIT_ZERO, "model.layers.%d.mlp.down_proj.bias");

  t->embedding[P_EMBEDDING] = matrix("embedding", c->V, c->C, std, "model.embed_tokens.weight");
  t->final[P_NORM_FINAL] = vector("final norm", c->C, INIT_ONE, "model.norm.weight");
  t->final[P_HEAD] = matrix("head", c->tied ? 0 : c->V, c->C, std, "lm_head.weight");

  t->layer_elements = place(t->layer, P_LAYER_COUNT);
  t->embedding_elements = place(t->embedding, P_EMBEDDING_COUNT);
  t->final_elements = place(t->final, P_FINAL_COUNT);
  t->layer_blocks = place_blocks(t->layer, P_LAYER_COUNT);
  t->embedding_blocks = place_blocks(t->embedding, P_EMBEDDING_COUNT);
  t->final_blocks = place_blocks(t->final, P_FINAL_COUNT);
}

const ParamSpec *params_of_unit(const ParamTable *t, int64_t unit, int *count) {
  if (unit < t->L) return *count = P_LAYER_COUNT, t->layer;
  if (unit == params_embedding_unit(t)) return *count = P_EMBEDDING_COUNT, t->embedding;
  return *count = P_FINAL_COUNT, t->final;
}

int64_t params_unit_elements(const ParamTable *t, int64_t unit) {
  return unit < t->L                        ? t->layer_elements
         : unit == params_embedding_unit(t) ? t->embedding_elements
                                            : t->final_elements;
}

int64_t params_unit_blocks(const ParamTable *t, int64_t unit) {
  return unit < t->L                        ? t->layer_blocks
         : unit == params_embedding_unit(t) ? t->embedding_blocks
                                            : t->final_blocks;
}

int64_t params_id(int64_t unit, int index) {
  return unit * 64 + index;
}

const char *params_hf_name(char buf[128], const HfSlice *s, int64_t unit) {
  const char *at = strstr(s->name, "%d");
  if (at)
    snprintf(buf, 128, "%.*s%lld%s", (int)(at - s->name), s->name, (long long)unit, at + 2);
  else
    snprintf(buf, 128, "%s", s->name);
  return buf;
}

static void print_specs(FILE *f, const ParamSpec *specs, int count, int64_t times) {
  static const char *const inits[] = {"normal", "ones", "zeros"};
  for (int i = 0; i < count; i++) {
    const ParamSpec *p = &specs[i];
    if (!p->rows) continue;
    char shape[64], many[32] = "";
    if (p->dims == 2)
      snprintf(shape, sizeof shape, "[%lld, %lld]", (long long)p->rows, (long long)p->cols);
    else
      snprintf(shape, sizeof shape, "[%lld]", (long long)p->rows);
    if (times > 1) snprintf(many, sizeof many, "%lld x ", (long long)times);
    fprintf(f, "#   %-14s %7s%-18s %-6s %s\n", p->name, many, shape, inits[p->init],
            p->decay ? "weight decay" : "no decay");
  }
}

void params_print(FILE *f, const ParamTable *t) {
  print_specs(f, t->embedding, P_EMBEDDING_COUNT, 1);
  print_specs(f, t->layer, P_LAYER_COUNT, t->L);
  print_specs(f, t->final, P_FINAL_COUNT, 1);
}
