/* The CPU against the GPU: one model on both, loss, every gradient, and some updates. Needs a GPU. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

#include <math.h>

#include "tiny_model.cuh"

/* Opens a tiny model on the named device. */
static void open_on(TinyModel *t, const char *device, Config config, RunShape shape) {
  setenv("TEST_DEVICE", device, 1);
  tiny_open(t, config, shape);
}

/* Relative L2 distance of each tensor of the table, the largest of them; tensors are compared with at least a
 * small part of the whole norm, since some gradients are 0 in theory. */
static double worst_distance(TinyModel *a, TinyModel *b, TinyTensors what) {
  int64_t n;
  float *x = tiny_tensors(a, what, &n), *y = tiny_tensors(b, what, &n);
  double whole = 0, worst = 0;
  for (int64_t i = 0; i < n; i++) whole += (double)y[i] * y[i];
  int64_t at = 0;
  for (int64_t u = 0; u < params_units(&a->model.params); u++) {
    int count;
    const ParamSpec *specs = params_of_unit(&a->model.params, u, &count);
    for (int s = 0; s < count; s++) {
      double difference = 0, norm = 1e-8 * whole;
      for (int64_t end = at + specs[s].rows * specs[s].cols; at < end; at++) {
        difference += pow((double)x[at] - y[at], 2);
        norm += (double)y[at] * y[at];
      }
      worst = fmax(worst, sqrt(difference / norm));
    }
  }
  assert_int_equal(at, n);
  free(x);
  free(y);
  return worst;
}

static void fp32_gradients_agree(void **) {
  if (!has_gpu()) skip();
  for (int variant = 0; variant < 4; variant++) {
    TinyModel cpu, gpu;
    RunShape shape = tiny_shape(2, 2, 70);
    shape.recompute = variant & 1 ? RECOMPUTE_NONE : RECOMPUTE_LAYER;
    shape.mlp_chunk = shape.head_chunk = variant & 1 ? CHUNK_WHOLE : 33;
    open_on(&cpu, "cpu", tiny_config(variant == 2, variant >= 2), shape);
    open_on(&gpu, "cuda", tiny_config(variant == 2, variant >= 2), shape);
    assert_true(worst_distance(&gpu, &cpu, TINY_WEIGHTS) < 1e-6); /* the same random weights */
    double x = model_forward_backward(&gpu.model, &gpu.step, NULL);
    double y = model_forward_backward(&cpu.model, &cpu.step, NULL);
    double worst = worst_distance(&gpu, &cpu, TINY_GRADIENTS);
    if (!(fabs(x - y) <= 1e-5 * y && worst <= 1e-5))
      fail_msg("variant %d: loss %.9g on the GPU, %.9g on the CPU; gradients differ by %.2e", variant, x, y,
               worst);
    tiny_close(&cpu);
    tiny_close(&gpu);
  }
}

/* Ten updates with clipping: what the gradients' rounding moves is small against what they move. */
static void updates_agree(void **) {
  if (!has_gpu()) skip();
  TinyModel cpu, gpu, start;
  RunShape shape = tiny_shape(1, 2, 48);
  open_on(&start, "cpu", tiny_config(false, false), shape);
  open_on(&cpu, "cpu", tiny_config(false, false), shape);
  open_on(&gpu, "cuda", tiny_config(false, false), shape);
  AdamW a = {1e-3, 0.9, 0.95, 1e-8, 0.1, 1, 1, 5};
  for (a.step = 1; a.step <= 10; a.step++) {
    model_forward_backward(&cpu.model, &cpu.step, NULL);
    model_forward_backward(&gpu.model, &gpu.step, NULL);
    optimizer_update(&cpu.model, a, 1);
    optimizer_update(&gpu.model, a, 1);
  }
  double apart = worst_distance(&gpu, &cpu, TINY_WEIGHTS), moved = worst_distance(&start, &cpu, TINY_WEIGHTS);
  if (!(apart < 5e-3 * moved)) fail_msg("the devices are %.2e apart after moving by %.2e", apart, moved);
  tiny_close(&start);
  tiny_close(&cpu);
  tiny_close(&gpu);
}

/* The gradient of a bf16 step on the GPU is as far from fp32's as on the CPU, where every operation rounds to
 * bf16 once: a fifth more is luck, beyond that something rounds twice. */
static void bf16_is_as_exact_as_on_the_cpu(void **) {
  if (!has_gpu()) skip();
  RunShape exact_shape = tiny_shape(1, 4, 128), shape = exact_shape;
  shape.dtype = shape.moments = DT_BF16;
  TinyModel exact, cpu, gpu;
  open_on(&exact, "cpu", tiny_config(false, false), exact_shape);
  open_on(&cpu, "cpu", tiny_config(false, false), shape);
  open_on(&gpu, "cuda", tiny_config(false, false), shape);
  model_forward_backward(&exact.model, &exact.step, NULL);
  model_forward_backward(&cpu.model, &cpu.step, NULL);
  model_forward_backward(&gpu.model, &gpu.step, NULL);
  int64_t n;
  float *e = tiny_tensors(&exact, TINY_GRADIENTS, &n), *c = tiny_tensors(&cpu, TINY_GRADIENTS, &n),
        *g = tiny_tensors(&gpu, TINY_GRADIENTS, &n);
  double on_cpu = 0, on_gpu = 0;
  for (int64_t i = 0; i < n; i++) {
    on_cpu += pow((double)c[i] - e[i], 2);
    on_gpu += pow((double)g[i] - e[i], 2);
  }
  if (!(sqrt(on_gpu) <= 1.2 * sqrt(on_cpu)))
    fail_msg("bf16 gradients are off by %.3e on the GPU, %.3e on the CPU", sqrt(on_gpu), sqrt(on_cpu));
  free(e);
  free(c);
  free(g);
  tiny_close(&exact);
  tiny_close(&cpu);
  tiny_close(&gpu);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(fp32_gradients_agree),
      cmocka_unit_test(updates_agree),
      cmocka_unit_test(bf16_is_as_exact_as_on_the_cpu),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
