/* A model whose B*T*V and B*T*FF are beyond 2^31: the logits of a step and the inside of its MLP are never
 * held, only counted. Most sequences have no target, so that loss and gradients are those of the others by
 * themselves, a batch that stays far below 2^31. */
extern "C" {
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
}
#include <math.h>
#include <stdio.h>

#include "base/process.h" // defines: process_peak_bytes
#include "tiny_model.cuh" // defines: TinyModel, tiny_open, tiny_close, tiny_tensors

static const int64_t T = 1024, WIDE = 65600;
static const int64_t trained[] = {0, 17, 31}; /* sequences that have targets, of SEQUENCES */
enum { SEQUENCES = 32, TRAINED = 3 };
static const int64_t MEMORY = 2000000000;

static Config wide_config(void) {
  Config c = tiny_config(false, false);
  c.C = 4;
  c.L = 1;
  c.NH = c.NKV = 1;
  c.HS = 4;
  c.FF = c.V = WIDE;
  c.layers[0].window = 16;
  return c;
}

/* Sequence b of the step is sequence ids[b] of the data. */
static void fill_step(StepBatch *step, const int64_t *ids) {
  step->valid_targets = 0;
  for (int64_t b = 0; b < step->B; b++) {
    bool has_targets = false;
    for (int64_t i = 0; i < TRAINED; i++) has_targets |= ids[b] == trained[i];
    for (int64_t t = 0; t < step->T; t++) {
      uint32_t token = (uint32_t)(ids[b] * T + t) * 2654435761u % (uint32_t)WIDE;
      step->tokens[b * step->T + t] = (int32_t)token;
      step->targets[b * step->T + t] = has_targets ? (int32_t)((token + 7) % (uint32_t)WIDE) : -1;
      step->positions[b * step->T + t] = (int32_t)t;
      step->valid_targets += has_targets;
    }
  }
}

/* Loss and gradients of one step of the sequences that are named. */
static float *gradients_of(const int64_t *ids, int64_t B, double *loss, int64_t *n, int64_t *ends) {
  TinyModel t;
  RunShape shape = tiny_shape(1, B, T);
  shape.mlp_chunk = 64; /* small ones stay in the CPU's caches */
  shape.head_chunk = 128;
  tiny_open(&t, wide_config(), shape);
  fill_step(&t.step, ids);
  *loss = model_forward_backward(&t.model, &t.step, NULL);
  float *all = tiny_tensors_with_ends(&t, TINY_GRADIENTS, n, ends);
  tiny_close(&t);
  return all;
}

static void beyond_2_31(void **state) {
  (void)state;
  int64_t every[SEQUENCES], n, few_n, ends[TINY_MAX_TENSORS], few_ends[TINY_MAX_TENSORS], from = 0;
  double loss, few_loss;
  assert_true(SEQUENCES * T * WIDE > (int64_t)1 << 31);
  for (int64_t b = 0; b < SEQUENCES; b++) every[b] = b;
  float *all = gradients_of(every, SEQUENCES, &loss, &n, ends);
  float *few = gradients_of(trained, TRAINED, &few_loss, &few_n, few_ends);
  assert_int_equal(n, few_n);
  assert_true(isfinite(loss) && fabs(loss - few_loss) < 1e-6 * few_loss);
  assert_true(fabs(loss - log((double)WIDE)) < 1); /* nothing is learned yet */
  for (int i = 0; i < TINY_MAX_TENSORS && from < n; from = ends[i++]) {
    double squares = 0, difference = 0;
    for (int64_t k = from; k < ends[i]; k++) {
      double d = (double)all[k] - (double)few[k];
      squares += (double)few[k] * (double)few[k];
      difference += d * d;
    }
    if (!(difference <= 1e-10 * squares))
      fail_msg("tensor %d: off by %g of %g", i, sqrt(difference), sqrt(squares));
  }
  free(all);
  free(few);
  /* with CUDA, libraries are in it too */
  if (!on_cuda() && process_peak_bytes() > MEMORY) fail_msg("%lld bytes", (long long)process_peak_bytes());
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(beyond_2_31)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
