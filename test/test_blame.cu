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
    double loss = model_forward_backward(&t.model, &t.step);
    assert_false(isfinite(loss) && isfinite(gradient_norm(&t.model)));
    char text[BLAME_TEXT];
    model_blame(&t.model, &t.step, text);
    if (!strstr(text, c.expected)) fail_msg("found \"%s\", expected \"%s\"", text, c.expected);
    tiny_close(&t);
  }
}

/* The forward is finite, a gradient is not: the first one that the backward makes. */
static void names_a_gradient(void **) {
  TinyModel t;
  tiny_open(&t, tiny_config(false, false), tiny_shape(2, 1, 12));
  assert_true(isfinite(model_forward_backward(&t.model, &t.step)));
  const ParamSpec *layer = t.model.params.layer;
  fill_constant(&t.dev, model_gradient(&t.model, 1, &layer[P_QKV]), DT_FP32, INFINITY, 1);
  fill_constant(&t.dev, model_gradient(&t.model, 1, &layer[P_DOWN]) + 3, DT_FP32, NAN, 1);
  fill_constant(&t.dev, model_gradient(&t.model, 0, &layer[P_DOWN]) + 3, DT_FP32, NAN, 1);
  char text[BLAME_TEXT];
  model_blame(&t.model, &t.step, text);
  assert_string_equal(text, "the gradient of model.layers.1.mlp.down_proj.weight");
  tiny_close(&t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(names_the_first),
      cmocka_unit_test(names_a_gradient),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
