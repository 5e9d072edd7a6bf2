#include "cli/tune.h"

#include <stdio.h>

#include "ops/matmul_tune.h"

static bool wanted(const Run *r) {
  return r->o.tune_matmul > 0 && r->dev.kind == DEVICE_CUDA;
}

/* Other algorithms than before are other bits: a warning, or, where the same ones are wanted, the end. */
static bool go_on(const Run *r, Error *e) {
  if (r->o.deterministic)
    return error_prefix(e, "--deterministic: the products' algorithms of the saved run cannot be taken: ");
  fprintf(stderr, "# warning: the products' algorithms are timed anew: %s\n", e->text);
  return true;
}

/* Any tokens: the time of a product does not depend on them. */
static StepBatch some_tokens(const Model *m) {
  StepBatch step = model_step_batch(m, 1);
  for (int64_t i = 0; i < step.B * step.T; i++) {
    step.tokens[i] = (int32_t)(i % m->config->V);
    step.targets[i] = (int32_t)((i + 1) % m->config->V);
    step.positions[i] = (int32_t)(i % step.T);
    step.starts[i] = 0;
  }
  step.valid_targets = step.B * step.T;
  return step;
}

/* Products spoil their results while they are timed: the step computes nothing that is used. */
static bool time_products(Run *r, Error *e) {
  const AdamW update = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .step = 1, .grad_scale = 1};
  Model m;
  if (!model_open(&m, &r->config, r->schedule, &r->dev, false, e)) return false;
  model_init(&m, (uint64_t)r->o.seed);
  StepBatch step = some_tokens(&m);
  matmul_tune(&r->dev, (int)r->o.tune_matmul);
  if (r->schedule->shape.training)
    model_forward_backward(&m, &step, &update);
  else
    model_evaluate(&m, &step);
  device_synchronize(&r->dev);
  matmul_tune(&r->dev, 0);
  model_close(&m);
  return true;
}

bool tune_products(Run *r, Error *e) {
  if (!wanted(r)) return true;
  if (r->resumed.path[0] && !saved_state_read_products(&r->resumed, &r->dev, e) && !go_on(r, e)) return false;
  if (!time_products(r, e)) return false;
  int refused = matmul_tuning(&r->dev)->refused;
  if (refused == 0) return true;
  error_usage(e, "%s/%s: cublasLt does not run %d of them any more", r->resumed.path, PRODUCTS_FILE, refused);
  return go_on(r, e);
}

void tune_print(const Run *r) {
  if (!r->o.tune_matmul) return;
  if (!wanted(r)) {
    printf("# --tune-matmul: the CPU has one algorithm for products, nothing is timed\n");
    return;
  }
  const MatmulTuning *t = r->dev.extra[EXTRA_TUNING].data;
  double chosen = 0, first = 0;
  for (int i = 0; i < t->choices.count; i++) {
    chosen += t->choices.list[i].seconds;
    first += t->choices.list[i].first_seconds;
  }
  printf("# products: %d shapes timed, %d taken from the saved run; one of each takes %.1f us, %.1f us with "
         "what the library proposes first\n",
         t->timed, t->choices.count - t->timed, 1e6 * chosen, 1e6 * first);
}
