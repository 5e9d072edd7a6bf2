/* A tiny model over random data, for the tests of the schedule: every buffer is poisoned before its birth and
 * after its death, so that a use outside the planned life turns the results into NaN. */
#ifndef TINY_MODEL_CUH
#define TINY_MODEL_CUH

#include <stdlib.h>
#include <string.h>

#include "llama/model.h"
#include "llama/optimizer.h"
#include "test/mirror.cuh" // defines: open_test_device

typedef struct TinyModel {
  Config config;
  Device dev;
  Schedule *schedule;
  Model model;
  StepBatch step;
} TinyModel;

/* Three layers that differ in what they do: full attention, a window of 5, full attention. */
static inline Config tiny_config(bool tied, bool qk_norm) {
  Config c = {};
  strcpy(c.family, "llama");
  c.C = 24;
  c.L = 3;
  c.NH = 4;
  c.NKV = 2;
  c.HS = 8;
  c.FF = 36;
  c.V = 67;
  c.max_T = 4096;
  c.norm_eps = 1e-5;
  c.init_std = 0.15;
  c.tied = tied;
  c.qkv_bias = c.o_bias = true;
  c.qk_norm = qk_norm;
  c.rope.theta = 10000;
  c.bos = c.eos = -1;
  c.layers = (LayerDesc *)calloc((size_t)c.L, sizeof *c.layers);
  c.layers[1].window = 5;
  return c;
}

static inline RunShape tiny_shape(int64_t A, int64_t B, int64_t T) {
  RunShape s = {};
  s.A = A;
  s.B = B;
  s.T = T;
  s.recompute = RECOMPUTE_LAYER;
  s.checkpoint_every = 1;
  s.training = true;
  return s;
}

/* Random tokens; a third of the targets is masked. The same numbers for the same A*B*T, however split. */
static inline void tiny_data(StepBatch *step, int64_t V) {
  uint32_t state = 12345;
  step->valid_targets = 0;
  for (int64_t i = 0; i < step->A * step->B * step->T; i++) {
    state = state * 1664525u + 1013904223u;
    step->tokens[i] = (int32_t)((state >> 8) % (uint32_t)V);
    step->positions[i] = (int32_t)(i % step->T);
    step->starts[i] = 0;
    state = state * 1664525u + 1013904223u;
    step->targets[i] = (state >> 20) % 3 == 0 ? TARGET_IGNORED : (int32_t)((state >> 8) % (uint32_t)V);
    step->valid_targets += step->targets[i] >= 0;
  }
}

/* Documents of these lengths fill the sequences in turn: the last token of each, and of each sequence, has no
 * target. */
static inline void tiny_documents(StepBatch *step, const int64_t *lengths, int64_t count) {
  step->valid_targets = 0;
  for (int64_t row = 0, k = 0; row < step->A * step->B; row++)
    for (int64_t t = 0, end; t < step->T; t = end) {
      int64_t length = lengths[k++ % count];
      end = length < step->T - t ? t + length : step->T;
      for (int64_t i = t; i < end; i++) {
        int64_t at = row * step->T + i;
        step->starts[at] = (int32_t)t;
        step->positions[at] = (int32_t)(i - t);
        if (i == end - 1) step->targets[at] = TARGET_IGNORED;
        step->valid_targets += step->targets[at] != TARGET_IGNORED;
      }
    }
}

/* Opens a model with random weights and data, in documents when it is packed; panics when it cannot. */
static inline void tiny_open(TinyModel *t, Config config, RunShape shape) {
  Error e = {};
  *t = TinyModel{};
  t->config = config;
  CHECK(config_check(&t->config, &e), "%s", e.text);
  open_test_device(&t->dev, 0);
  t->schedule = schedule_new(&t->config, &shape, &t->dev);
  CHECK(model_open(&t->model, &t->config, t->schedule, &t->dev, true, &e), "%s", e.text);
  model_init(&t->model, 7);
  t->step = model_step_batch(&t->model, shape.A);
  tiny_data(&t->step, t->config.V);
  static const int64_t lengths[] = {5, 1, 9, 3, 16};
  if (shape.pack) tiny_documents(&t->step, lengths, sizeof lengths / sizeof *lengths);
}

static inline void tiny_close(TinyModel *t) {
  model_close(&t->model);
  schedule_free(t->schedule);
  device_close(&t->dev);
  config_free(&t->config);
}

typedef enum TinyTensors { TINY_WEIGHTS, TINY_GRADIENTS } TinyTensors;

enum { TINY_MAX_TENSORS = 64 };

/* All weights (fp32 runs) or gradients, one after the other; *n elements, to be freed. ends: where each
 * tensor ends; the rest of it holds n. */
static inline float *tiny_tensors_with_ends(TinyModel *t, TinyTensors what, int64_t *n,
                                            int64_t ends[TINY_MAX_TENSORS]) {
  const ParamTable *table = &t->model.params;
  float *all = NULL;
  int tensors = 0;
  *n = 0;
  for (int64_t u = 0; u < params_units(table); u++) {
    int count;
    const ParamSpec *specs = params_of_unit(table, u, &count);
    for (int i = 0; i < count; i++) {
      int64_t elements = specs[i].rows * specs[i].cols;
      if (!elements) continue;
      all = (float *)realloc(all, (size_t)(*n + elements) * sizeof *all);
      const void *from = what == TINY_WEIGHTS ? model_weight(&t->model, u, &specs[i])
                                              : (void *)model_gradient(&t->model, u, &specs[i]);
      device_copy(&t->dev, all + *n, from, (size_t)elements * sizeof *all, COPY_FROM_DEVICE);
      *n += elements;
      CHECK(tensors < TINY_MAX_TENSORS, "more than %d tensors", tensors);
      ends[tensors++] = *n;
    }
  }
  for (; tensors < TINY_MAX_TENSORS; tensors++) ends[tensors] = *n;
  return all;
}

static inline float *tiny_tensors(TinyModel *t, TinyTensors what, int64_t *n) {
  int64_t ends[TINY_MAX_TENSORS];
  return tiny_tensors_with_ends(t, what, n, ends);
}

#endif
