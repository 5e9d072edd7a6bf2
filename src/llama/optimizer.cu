#include "llama/optimizer.h"

#include <math.h>

double learning_rate(const LrSchedule *s, int64_t step) {
  if (step <= s->warmup) return s->lr * (double)step / (double)s->warmup;
  if (s->kind == LR_CONSTANT) return s->lr;
  int64_t from = s->warmup;
  if (s->kind == LR_WSD) {
    int64_t stable = s->steps - s->steps / 5;
    if (stable > from) from = stable;
    if (step <= from) return s->lr;
  }
  /* 0 at the first step after the warm-up (or the stable part); it would be 1 after the last, so that no step
   * is spent on a learning rate of 0 */
  double t = (double)(step - 1 - from) / (double)(s->steps - from);
  double weight = s->kind == LR_COSINE ? 0.5 * (1 + cos(M_PI * t)) : 1 - t;
  return s->min_lr + weight * (s->lr - s->min_lr);
}

double gradient_norm(const Model *m) {
  return sqrt(m->gradient_squares);
}

static void *element(void *tensor, int64_t i, DType dt) {
  return tensor ? (char *)tensor + (size_t)i * dtype_size(dt) : NULL;
}

/* Slices are updated one by one, since blocks of 8-bit moments begin anew with each. */
static void update_slice(Model *m, int64_t u, const ParamSpec *spec, const HfSlice *slice, int64_t id,
                         const AdamW *a) {
  const RunShape *shape = &m->schedule->shape;
  int64_t first = slice->row * spec->cols;
  AdamWTensor t = {};
  t.param = element(model_weight(m, u, spec), first, shape->dtype);
  t.dtype = shape->dtype;
  t.master = (float *)element(model_master(m, u, spec), first, DT_FP32);
  t.grad = (const float *)element(model_gradient(m, u, spec), first, DT_FP32);
  t.m = element(model_moment1(m, u, spec), first, shape->moments);
  t.v = element(model_moment2(m, u, spec), first, shape->moments);
  t.moments = shape->moments;
  t.m_absmax = model_absmax1(m, u, slice);
  t.v_absmax = model_absmax2(m, u, slice);
  t.n = slice->rows * spec->cols;
  t.decay = spec->decay;
  t.id = id;
  t.first = first;
  adamw_update(m->dev, &t, a);
}

void optimizer_update_unit(Model *m, int64_t u, const AdamW *a) {
  int count;
  const ParamSpec *specs = params_of_unit(&m->params, u, &count);
  for (int i = 0; i < count; i++)
    for (int s = 0; s < specs[i].slice_count && specs[i].rows; s++)
      update_slice(m, u, &specs[i], &specs[i].slices[s], params_id(u, i), a);
}

void optimizer_update(Model *m, AdamW a, double clip) {
  const Schedule *s = m->schedule;
  CHECK(s->shape.update == UPDATE_STEP, "an update of everything where each layer has its own");
  arena_enter(&m->arena, s->update);
  double coefficient = clip > 0 ? clip / (gradient_norm(m) + 1e-6) : 1;
  a.grad_scale = (float)(coefficient < 1 ? coefficient : 1);
  for (int64_t u = 0; u < params_units(&m->params); u++) optimizer_update_unit(m, u, &a);
}
