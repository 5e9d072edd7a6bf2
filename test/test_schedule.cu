/* The schedule against its unchunked, nothing-recomputed self. */
extern "C" {
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
}
#include <math.h>
#include <stdio.h>

#include "tiny_model.cuh"

/* What a run gave: loss and all gradients. */
typedef struct Result {
  double loss;
  float *gradient;
  int64_t n, ends[TINY_MAX_TENSORS]; /* of the tensors in it */
} Result;

static Result result_of(Config c, RunShape shape) {
  TinyModel t;
  tiny_open(&t, c, shape);
  Result r = {};
  r.loss = model_forward_backward(&t.model, &t.step, NULL);
  r.gradient = tiny_tensors_with_ends(&t, TINY_GRADIENTS, &r.n, r.ends);
  /* the norm that the units added up is that of the whole gradient */
  double squares = 0;
  for (int64_t i = 0; i < r.n; i++) squares += (double)r.gradient[i] * r.gradient[i];
  assert_true(fabs(squares - t.model.gradient_squares) <= 1e-12 * squares);
  tiny_close(&t);
  return r;
}

/* L2 norm of elements [from, to) of x - y; y may be NULL. */
static double norm_of(const float *x, const float *y, int64_t from, int64_t to) {
  double squares = 0;
  for (int64_t i = from; i < to; i++) squares += pow((double)x[i] - (y ? y[i] : 0), 2);
  return sqrt(squares);
}

/* The largest relative L2 distance of two gradients' tensors. A tensor's own norm counts, but for those whose
 * gradient is next to nothing (in theory a key's bias has none). */
static double distance(const Result *a, const Result *b) {
  double whole = norm_of(b->gradient, NULL, 0, b->n), most = 0;
  assert_int_equal(a->n, b->n);
  assert_memory_equal(a->ends, b->ends, sizeof a->ends);
  for (int64_t k = 0, from = 0; from < a->n; from = a->ends[k++]) {
    double norm = fmax(norm_of(b->gradient, NULL, from, a->ends[k]), 1e-3 * whole);
    double difference = norm_of(a->gradient, b->gradient, from, a->ends[k]);
    most = fmax(most, norm > 0 ? difference / norm : difference);
  }
  return most;
}

/* fp32 rounding: sums of some hundred terms in another order, through three layers. Measured against an fp64
 * reference the gradients of this model are good to 3e-7 (test_oracle holds them to it); two roundings of
 * the same sum differ by about as much. */
static const double ROUNDING = 2e-6;

static void assert_close(const Result *a, const Result *b, const char *what) {
  double d = distance(a, b), l = fabs(a->loss - b->loss) / fmax(fabs(b->loss), 1e-30);
  if (!(d <= ROUNDING && l <= ROUNDING)) fail_msg("%s: gradient differs by %.2e, loss by %.2e", what, d, l);
}

static void assert_same(const Result *a, const Result *b, const char *what) {
  if (a->loss != b->loss || memcmp(a->gradient, b->gradient, (size_t)a->n * sizeof *a->gradient))
    fail_msg("%s: not bitwise equal, gradient differs by %.2e", what, distance(a, b));
}

typedef struct Mode {
  Recompute recompute;
  int64_t every, keep_attention;
} Mode;

static const Mode modes[] = {
    {RECOMPUTE_NONE, 1, 0},  {RECOMPUTE_MLP, 1, 0},   {RECOMPUTE_LAYER, 1, 0},        {RECOMPUTE_LAYER, 2, 0},
    {RECOMPUTE_LAYER, 3, 0}, {RECOMPUTE_LAYER, 1, 1}, {RECOMPUTE_LAYER, 1, KEEP_ALL}, {RECOMPUTE_LAYER, 3, 2},
};
static const int64_t chunks[] = {CHUNK_WHOLE, 1, 7, 64};
static const int64_t lengths[] = {1, 2, 63, 64, 65, 250};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static RunShape shape_of(RunShape shape, const Mode *mode, int64_t chunk) {
  shape.recompute = mode->recompute;
  shape.checkpoint_every = mode->every;
  shape.keep_attention = mode->keep_attention;
  shape.mlp_chunk = shape.head_chunk = chunk;
  return shape;
}

/* The attention of more rows than it takes at a time. */
static void test_several_blocks(void **state) {
  (void)state;
  const int64_t some[] = {CHUNK_WHOLE, 128};
  Result whole = result_of(tiny_config(false, true), shape_of(tiny_shape(1, 1, 600), &modes[0], CHUNK_WHOLE));
  for (size_t c = 0; c < COUNT(some); c++)
    for (size_t i = 0; i < COUNT(modes); i++) {
      Result r = result_of(tiny_config(false, true), shape_of(tiny_shape(1, 1, 600), &modes[i], some[c]));
      assert_close(&r, &whole, "600 rows");
      free(r.gradient);
    }
  free(whole.gradient);
}

/* In bf16 too, where a value that was rounded once more would show. */
static void test_bf16(void **state) {
  (void)state;
  for (size_t c = 0; c < COUNT(chunks); c++) {
    RunShape shape = tiny_shape(1, 2, 65);
    shape.dtype = DT_BF16;
    Result plain = result_of(tiny_config(true, true), shape_of(shape, &modes[0], chunks[c]));
    for (size_t i = 1; i < COUNT(modes); i++) {
      Result r = result_of(tiny_config(true, true), shape_of(shape, &modes[i], chunks[c]));
      assert_same(&r, &plain, "bf16");
      free(r.gradient);
    }
    free(plain.gradient);
  }
}

static void all_modes_and_chunks(int64_t B, int64_t T, bool tied, bool qk_norm) {
  Result whole = result_of(tiny_config(tied, qk_norm), shape_of(tiny_shape(1, B, T), &modes[0], CHUNK_WHOLE));
  for (size_t c = 0; c < COUNT(chunks); c++) {
    Result plain = {};
    for (size_t i = 0; i < COUNT(modes); i++) {
      char what[128];
      snprintf(what, sizeof what, "B %lld, T %lld, chunk %lld, mode %d, every %lld, keep %lld", (long long)B,
               (long long)T, (long long)chunks[c], modes[i].recompute, (long long)modes[i].every,
               (long long)modes[i].keep_attention);
      Result r = result_of(tiny_config(tied, qk_norm), shape_of(tiny_shape(1, B, T), &modes[i], chunks[c]));
      assert_close(&r, &whole, what);
      if (i == 0) plain = r;
      /* the same products in the same shapes: where values are kept or made again changes no bit */
      assert_same(&r, &plain, what);
      if (i != 0) free(r.gradient);
    }
    free(plain.gradient);
  }
  free(whole.gradient);
}

static void test_one_sequence(void **state) {
  (void)state;
  for (size_t t = 0; t < COUNT(lengths); t++) all_modes_and_chunks(1, lengths[t], false, false);
}

static void test_three_sequences(void **state) {
  (void)state;
  for (size_t t = 0; t < COUNT(lengths); t++) all_modes_and_chunks(3, lengths[t], false, false);
}

static void test_tied_and_qk_norm(void **state) {
  (void)state;
  all_modes_and_chunks(1, 65, true, false);
  all_modes_and_chunks(3, 64, true, true);
}

/* Attention in head groups: the values of all heads together, to rounding, for any number of groups; among
 * themselves what is kept and what is made again changes no bit. */
static void test_head_groups(void **state) {
  (void)state;
  static const int64_t sizes[][3] = {{1, 65, 7}, {3, 40, 64}, {2, 33, CHUNK_WHOLE}, {1, 1, 1}, {1, 600, 128}};
  for (size_t i = 0; i < COUNT(sizes); i++) {
    Config c[6];
    for (int k = 0; k < 6; k++) {
      c[k] = tiny_config(i % 2, i % 2);
      c[k].NH = 8;
      c[k].NKV = 4;
    }
    RunShape shape = shape_of(tiny_shape(1, sizes[i][0], sizes[i][1]), &modes[2], sizes[i][2]);
    Result whole = result_of(c[0], shape);
    for (int64_t groups = 2, k = 1; groups <= 4; groups += 2) {
      shape.attn_groups = groups;
      Result plain = result_of(c[k++], shape_of(shape, &modes[2], sizes[i][2]));
      assert_close(&plain, &whole, "head groups");
      int64_t mode = 3 + (int64_t)i;
      Result other = result_of(c[k++], shape_of(shape, &modes[mode], sizes[i][2]));
      assert_same(&other, &plain, "modes of head groups");
      free(plain.gradient);
      free(other.gradient);
    }
    config_free(&c[5]);
    free(whole.gradient);
  }
}

/* The automatic chunk is one of the exact ones. */
static void test_automatic_chunks(void **state) {
  (void)state;
  RunShape shape = tiny_shape(1, 3, 250);
  Result whole = result_of(tiny_config(false, false), shape);
  shape.mlp_chunk = shape.head_chunk = CHUNK_AUTO;
  Result automatic = result_of(tiny_config(false, false), shape);
  assert_close(&automatic, &whole, "automatic chunks");
  free(whole.gradient);
  free(automatic.gradient);
}

/* Gradients of micro-batches add up to the gradient of the batch they came from. */
static void test_accumulation(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT(modes); i++) {
    Result batch = result_of(tiny_config(true, false), shape_of(tiny_shape(1, 6, 33), &modes[i], 16));
    const int64_t splits[][2] = {{2, 3}, {3, 2}, {6, 1}};
    for (size_t s = 0; s < COUNT(splits); s++) {
      Result sum = result_of(tiny_config(true, false),
                             shape_of(tiny_shape(splits[s][0], splits[s][1], 33), &modes[i], 16));
      assert_close(&sum, &batch, "accumulation");
      free(sum.gradient);
    }
    free(batch.gradient);
  }
}

/* A micro-batch without targets adds nothing and divides nothing; a step without any is zero, not NaN. */
static void test_masked_batches(void **state) {
  (void)state;
  TinyModel two, one;
  tiny_open(&two, tiny_config(false, false), shape_of(tiny_shape(2, 2, 20), &modes[2], 7));
  tiny_open(&one, tiny_config(false, false), shape_of(tiny_shape(1, 2, 20), &modes[2], 7));
  two.step.valid_targets = 0;
  for (int64_t i = 0; i < 80; i++) {
    if (i >= 40) two.step.targets[i] = TARGET_IGNORED;
    two.step.valid_targets += two.step.targets[i] >= 0;
  }
  Result a = {}, b = {};
  a.loss = model_forward_backward(&two.model, &two.step, NULL);
  a.gradient = tiny_tensors_with_ends(&two, TINY_GRADIENTS, &a.n, a.ends);
  b.loss = model_forward_backward(&one.model, &one.step, NULL);
  b.gradient = tiny_tensors_with_ends(&one, TINY_GRADIENTS, &b.n, b.ends);
  assert_same(&a, &b, "a masked micro-batch");

  for (int64_t i = 0; i < 80; i++) two.step.targets[i] = TARGET_IGNORED;
  two.step.valid_targets = 0;
  assert_true(model_forward_backward(&two.model, &two.step, NULL) == 0);
  assert_true(gradient_norm(&two.model) == 0);
  assert_true(model_evaluate(&two.model, &two.step) == 0);
  free(a.gradient);
  free(b.gradient);
  tiny_close(&two);
  tiny_close(&one);
}

/* Evaluation is the training's loss; logits of a prefix are those of the whole sequence. */
static void test_evaluation_and_logits(void **state) {
  (void)state;
  TinyModel t;
  tiny_open(&t, tiny_config(false, true), shape_of(tiny_shape(1, 1, 50), &modes[3], 16));
  double mean = model_forward_backward(&t.model, &t.step, NULL), sum = model_evaluate(&t.model, &t.step);
  assert_true(fabs(sum / (double)t.step.valid_targets - mean) < 1e-6);
  enum { V = 67 };
  static float all[16 * V], prefix[V];
  int32_t tokens[50];
  memcpy(tokens, t.step.tokens, sizeof tokens);
  model_logits(&t.model, tokens, 50, 16, all);
  model_logits(&t.model, tokens, 40, 1, prefix); /* row 39: the sixth of the last sixteen */
  for (int i = 0; i < V; i++) assert_true(fabsf(all[5 * V + i] - prefix[i]) < 1e-5f);
  tiny_close(&t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_sequence),     cmocka_unit_test(test_three_sequences),
      cmocka_unit_test(test_tied_and_qk_norm), cmocka_unit_test(test_head_groups),

      cmocka_unit_test(test_automatic_chunks), cmocka_unit_test(test_accumulation),
      cmocka_unit_test(test_masked_batches),   cmocka_unit_test(test_evaluation_and_logits),
      cmocka_unit_test(test_several_blocks),   cmocka_unit_test(test_bf16),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
