#include "llama/blame.h"

#include "llama/layer.h" /* defines: layer_forward */
#include "ops/adamw.h"   /* defines: sum_of_squares */

#include <math.h>
#include <stdio.h>

static bool all_finite(Model *m, const void *x, DType dt, int64_t n) {
  return isfinite(sum_of_squares(m->dev, x, dt, n));
}

/* ---- tensors of the parameter table ---- */

typedef void *(*TensorOf)(const Model *m, int64_t unit, const ParamSpec *spec);
static void *gradient_of(const Model *m, int64_t unit, const ParamSpec *spec) {
  return model_step_gradient(m, unit, spec);
}

/* The Hugging Face name of the first tensor of a unit that is not finite; backwards: the last one. */
static bool blame_unit(Model *m, int64_t unit, TensorOf tensor, DType dt, bool backwards, const char *what,
                       char text[BLAME_TEXT]) {
  int count;
  const ParamSpec *specs = params_of_unit(&m->params, unit, &count);
  for (int i = 0; i < count; i++) {
    const ParamSpec *spec = &specs[backwards ? count - 1 - i : i];
    for (int s = 0; s < spec->slice_count && spec->rows; s++) {
      const HfSlice *slice = &spec->slices[s];
      const char *data =
          (const char *)tensor(m, unit, spec) + (size_t)(slice->row * spec->cols) * dtype_size(dt);
      if (all_finite(m, data, dt, slice->rows * spec->cols)) continue;
      char name[128];
      snprintf(text, BLAME_TEXT, "the %s %s", what, params_hf_name(name, slice, unit));
      return true;
    }
  }
  return false;
}

static bool blame_weights(Model *m, char text[BLAME_TEXT]) {
  DType dt = m->schedule->shape.dtype;
  int64_t L = m->config->L;
  if (blame_unit(m, params_embedding_unit(&m->params), model_weight, dt, false, "weight", text)) return true;
  for (int64_t l = 0; l < L; l++)
    if (blame_unit(m, l, model_weight, dt, false, "weight", text)) return true;
  return blame_unit(m, params_final_unit(&m->params), model_weight, dt, false, "weight", text);
}

static bool blame_gradients(Model *m, char text[BLAME_TEXT]) {
  const char *what = "gradient of";
  if (m->schedule->shape.update == UPDATE_LAYER) return false; /* none is left */
  if (blame_unit(m, params_final_unit(&m->params), gradient_of, DT_FP32, true, what, text)) return true;
  for (int64_t l = m->config->L - 1; l >= 0; l--)
    if (blame_unit(m, l, gradient_of, DT_FP32, true, what, text)) return true;
  return blame_unit(m, params_embedding_unit(&m->params), gradient_of, DT_FP32, true, what, text);
}

/* ---- activations ---- */

/* The parts of a layer's forward, one at a time: each leaves its result alive until the next begins. */
static bool blame_layer(Model *m, int64_t l, int64_t B, int64_t T, int64_t a, char text[BLAME_TEXT]) {
  const Config *c = m->config;
  const LayerPass *whole = &m->schedule->forward[l];
  const LayerBuffers *buf = &whole->buf;
  const ForwardMoments none = {SKIPPED, SKIPPED, SKIPPED, SKIPPED};
  struct {
    const char *name;
    ForwardMoments at;
    BufferId result;
    int64_t width;
  } parts[] = {{"queries, keys and values", none, buf->qkv, (c->NH + 2 * c->NKV) * c->HS},
               {"attention's output", none, buf->o, c->NH * c->HS},
               {"attention's projection", none, buf->x_mid, c->C},
               {"MLP's output", none, buf->x_out, c->C}};
  parts[0].at.qkv = whole->at.qkv;
  parts[1].at.attention = whole->at.attention;
  parts[2].at.out = whole->at.out;
  parts[3].at.mlp = whole->at.mlp;
  for (const auto &part : parts) {
    if (part.result == NO_BUFFER) continue; /* q, k and v of head groups are never whole */
    LayerPass pass = {part.at, *buf};
    layer_forward(m, l, &pass, B, T);
    if (all_finite(m, arena_get(&m->arena, part.result), m->schedule->shape.dtype, B * T * part.width))
      continue;
    snprintf(text, BLAME_TEXT, "layer %lld: the %s, in micro-batch %lld", (long long)l, part.name,
             (long long)a);
    return true;
  }
  return false;
}

static bool blame_forward(Model *m, const StepBatch *step, char text[BLAME_TEXT]) {
  for (int64_t a = 0; a < step->A; a++) {
    StepBatch micro = model_micro_batch(step, a);
    model_embed(m, &micro);
    for (int64_t l = 0; l < m->config->L; l++)
      if (blame_layer(m, l, step->B, step->T, a, text)) return true;
    if (!isfinite(model_evaluate(m, &micro))) {
      snprintf(text, BLAME_TEXT, "the LM head's logits, in micro-batch %lld", (long long)a);
      return true;
    }
  }
  return false;
}

void model_blame(Model *m, const StepBatch *step, char text[BLAME_TEXT]) {
  if (m->stopped_at != NOT_STOPPED &&
      blame_unit(m, m->stopped_at, gradient_of, DT_FP32, true, "gradient of", text))
    return;
  if (blame_weights(m, text) || blame_forward(m, step, text) || blame_gradients(m, text)) return;
  snprintf(text, BLAME_TEXT, "none: every tensor is finite, only their sum is not");
}
