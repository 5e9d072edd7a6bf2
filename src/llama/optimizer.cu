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

void optimizer_update(Model *m, AdamW a, double clip) {
  const Schedule *s = m->schedule;
  arena_enter(&m->arena, s->update);
  double coefficient = clip > 0 ? clip / (gradient_norm(m) + 1e-6) : 1;
  a.grad_scale = (float)(coefficient < 1 ? coefficient : 1);
  for (int64_t u = 0; u < params_units(&m->params); u++) {
    int count;
    const ParamSpec *specs = params_of_unit(&m->params, u, &count);
    for (int i = 0; i < count; i++) {
      if (!specs[i].rows) continue;
      AdamWTensor t = {};
      t.param = model_weight(m, u, &specs[i]);
      t.dtype = s->shape.dtype;
      t.master = model_master(m, u, &specs[i]);
      t.grad = model_gradient(m, u, &specs[i]);
      t.m = model_moment1(m, u, &specs[i]);
      t.v = model_moment2(m, u, &specs[i]);
      t.moments = s->shape.moments;
      t.n = specs[i].rows * specs[i].cols;
      t.decay = specs[i].decay;
      t.id = params_id(u, i);
      adamw_update(m->dev, &t, &a);
    }
  }
}
