/* The first tensor that is not finite is named, wherever it comes from. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

#include <math.h>

#include "llama/blame.h"
#include "ops/convert.h"  // defines: fill_constant
#include "tiny_model.cuh" // defines: TinyModel, tiny_open, tiny_close

typedef struct Case {
  int64_t unit;
  int index;            /* of the tensor in its unit */
  float value;          /* of all its weights; NAN: of the second half of them */
  const char *expected; /* part of the name */
} Case;

static void spoil(TinyModel *t, const Case *c) {
  int count;
  const ParamSpec *spec = &params_of_unit(&t->model.params, c->unit, &count)[c->index];
  float *w = (float *)model_weight(&t->model, c->unit, spec);
  int64_t n = spec->rows * spec->cols, first = isnan(c->value) ? n / 2 : 0;
  fill_constant(&t->dev, w + first, DT_FP32, c->value, n - first);
}

static void names_the_first(void **) {
  const int64_t L = 3;
  const Case cases[] = {
      {L, P_EMBEDDING, NAN, "the weight model.embed_tokens.weight"},
      {1, P_GATE_UP, NAN, "the weight model.layers.1.mlp.up_proj.weight"}, /* the second half is up */
      {L + 1, P_NORM_FINAL, NAN, "the weight model.norm.weight"},
      {2, P_QKV, 3e38f, "layer 2: the queries, keys and values, in micro-batch 0"},
      {1, P_O, 3e38f, "layer 1: the attention's projection, in micro-batch 0"},
      {0, P_DOWN, 3e38f, "layer 0: the MLP's output, in micro-batch 0"},
      {L + 1, P_HEAD, 3e38f, "the LM head's logits, in micro-batch 0"},
  };
  for (const Case &c : cases) {
    TinyModel t;
    tiny_open(&t, tiny_config(false, false), tiny_shape(2, 1, 12));
    spoil(&t, &c);
    double loss = model_forward_backward(&t.model, &t.step, NULL);
    assert_false(isfinite(loss) && isfinite(gradient_norm(&t.model)));
    char text[BLAME_TEXT];
    model_blame(&t.model, &t.step, text);
    if (!strstr(text, c.expected)) fail_msg("found \"%s\", expected \"%s\"", text, c.expected);
    tiny_close(&t);
  }
}

/* Attention in head groups has no queries, keys and values to look at: what they make is named. */
static void names_what_groups_make(void **) {
  const Case spoiled = {2, P_QKV, 3e38f, NULL};
  TinyModel t;
  RunShape shape = tiny_shape(1, 1, 12);
  shape.attn_groups = 2;
  tiny_open(&t, tiny_config(false, false), shape);
  spoil(&t, &spoiled);
  assert_false(isfinite(model_forward_backward(&t.model, &t.step, NULL)));
  char text[BLAME_TEXT];
  model_blame(&t.model, &t.step, text);
  assert_string_equal(text, "layer 2: the attention's output, in micro-batch 0");
  tiny_close(&t);
}

/* The forward is finite, a gradient is not: the first one that the backward makes. */
static void names_a_gradient(void **) {
  TinyModel t;
  tiny_open(&t, tiny_config(false, false), tiny_shape(2, 1, 12));
  assert_true(isfinite(model_forward_backward(&t.model, &t.step, NULL)));
  const ParamSpec *layer = t.model.params.layer;
  fill_constant(&t.dev, model_gradient(&t.model, 1, &layer[P_QKV]), DT_FP32, INFINITY, 1);
  fill_constant(&t.dev, model_gradient(&t.model, 1, &layer[P_DOWN]) + 3, DT_FP32, NAN, 1);
  fill_constant(&t.dev, model_gradient(&t.model, 0, &layer[P_DOWN]) + 3, DT_FP32, NAN, 1);
  char text[BLAME_TEXT];
  model_blame(&t.model, &t.step, text);
  assert_string_equal(text, "the gradient of model.layers.1.mlp.down_proj.weight");
  tiny_close(&t);
}

static float *weights_of_unit(TinyModel *t, int64_t unit) {
  size_t bytes = (size_t)plan_buffer_bytes(t->schedule->plan, t->schedule->weights[unit]);
  float *copy = (float *)malloc(bytes);
  device_copy(&t->dev, copy, arena_get(&t->model.arena, t->schedule->weights[unit]), bytes, COPY_FROM_DEVICE);
  return copy;
}

/* Updating by layer, a gradient that is not finite ends the step before its layer's update, and is named; a
 * loss that is not finite ends it before any. */
static void stops_before_the_update(void **) {
  const int64_t L = 3;
  const AdamW a = {1e-2, 0.9, 0.95, 1e-8, 0.1, 1, 1, 5};
  for (int bad_loss = 0; bad_loss < 2; bad_loss++) {
    TinyModel t;
    RunShape shape = tiny_shape(1, 2, 12);
    shape.update = UPDATE_LAYER;
    tiny_open(&t, tiny_config(false, false), shape);
    /* layer 1: the MLP adds nothing, since `up` is zero, but the gradient of `up` overflows */
    const Case spoiled[] = {
        {1, P_NORM2, 1e10f, NULL}, {1, P_DOWN, 3e38f, NULL}, {L + 1, P_HEAD, 3e38f, NULL}};
    for (int i = 0; i < 2 + bad_loss; i++) spoil(&t, &spoiled[i]);
    const ParamSpec *gate_up = &t.model.params.layer[P_GATE_UP];
    const HfSlice *up = &gate_up->slices[1];
    float *weights = (float *)model_weight(&t.model, 1, gate_up);
    fill_constant(&t.dev, weights + up->row * gate_up->cols, DT_FP32, 0, up->rows * gate_up->cols);
    float *before[L + 2];
    for (int64_t u = 0; u < L + 2; u++) before[u] = weights_of_unit(&t, u);
    double loss = model_forward_backward(&t.model, &t.step, &a);
    assert_true(isfinite(loss) == !bad_loss);
    assert_false(isfinite(loss) && isfinite(gradient_norm(&t.model)));
    assert_int_equal(t.model.stopped_at, bad_loss ? NOT_STOPPED : 1);
    char text[BLAME_TEXT];
    model_blame(&t.model, &t.step, text);
    assert_string_equal(text, bad_loss ? "the LM head's logits, in micro-batch 0"
                                       : "the gradient of model.layers.1.mlp.up_proj.weight");
    for (int64_t u = 0; u < L + 2; u++) {
      float *after = weights_of_unit(&t, u);
      size_t bytes = (size_t)plan_buffer_bytes(t.schedule->plan, t.schedule->weights[u]);
      bool updated = !bad_loss && (u == L + 1 || u == 2);
      assert_true((memcmp(before[u], after, bytes) != 0) == updated);
      free(before[u]);
      free(after);
    }
    tiny_close(&t);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(names_the_first),
      cmocka_unit_test(names_what_groups_make),
      cmocka_unit_test(names_a_gradient),
      cmocka_unit_test(stops_before_the_update),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
