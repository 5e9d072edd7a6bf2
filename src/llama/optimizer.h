/* The update of all parameters, and the learning rate of a step. */
#ifndef OPTIMIZER_H
#define OPTIMIZER_H

#include "llama/model.h"
#include "ops/adamw.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum LrKind {
  LR_COSINE,   /* half a cosine from lr to min_lr */
  LR_LINEAR,   /* a line from lr to min_lr */
  LR_CONSTANT, /* lr */
  LR_WSD,      /* lr, then over the last fifth of the steps a line to min_lr (warmup-stable-decay) */
} LrKind;

typedef struct LrSchedule {
  LrKind kind;
  double lr, min_lr;
  int64_t warmup, steps; /* the rate rises linearly over the first `warmup` steps */
} LrSchedule;

/* The rate of update `step`, 1 .. steps: lr * step / warmup while warming up, then as the kind says; the
 * last step has min_lr. */
double learning_rate(const LrSchedule *s, int64_t step);

/* The global norm of the gradient that model_forward_backward left. Not finite when a gradient is not. */
double gradient_norm(const Model *m);

/* One AdamW update of a unit of the parameter table, at the moment of its update. */
void optimizer_update_unit(Model *m, int64_t unit, const AdamW *a);

/* One AdamW update of every parameter, after a step with UPDATE_STEP. a.grad_scale is set here:
 * min(1, clip / (norm + 1e-6)) as torch's clip_grad_norm_ has it, or 1 where clip is 0. */
void optimizer_update(Model *m, AdamW a, double clip);

#ifdef __cplusplus
}
#endif
#endif
