/* A packed batch against its documents, each run alone: the loss is their mean, weighted by their targets,
 * and so is the gradient. And against what its documents hide: nothing of one reaches another. */
extern "C" {
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
}
#include <math.h>
#include <stdio.h>

#include "ops/attention_documents.h" // defines: attention_document_list_bytes
#include "tiny_model.cuh"            // defines: TinyModel, tiny_open, tiny_close, tiny_documents

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* The linker puts this in attention_list_bytes' place, so that a device whose attention reads no list has
 * one, too. */
static bool lists_for_all;
extern "C" size_t __real_attention_list_bytes(const Device *dev, DType dt, const AttentionShape *s);
extern "C" size_t __wrap_attention_list_bytes(const Device *dev, DType dt, const AttentionShape *s) {
  return lists_for_all && s->packed ? attention_document_list_bytes(s)
                                    : __real_attention_list_bytes(dev, dt, s);
}

/* Sums over the documents of a batch. */
typedef struct Sum {
  double loss;      /* of all targets */
  double *gradient; /* [n] of the mean over all targets of the batch */
  int64_t n, documents;
  int64_t ends[TINY_MAX_TENSORS]; /* of the tensors in it */
  double
      magnitude[TINY_MAX_TENSORS]; /* of a tensor: the norms of its parts, which their rounding goes with */
} Sum;

/* The tokens [from, end) of a row of the batch as a sequence of its own. Its gradient is scaled as that of a
 * part of the batch. */
static void add_document(Sum *sum, Config c, RunShape shape, const StepBatch *batch, int64_t row,
                         int64_t from, int64_t end) {
  TinyModel t;
  shape.A = shape.B = 1;
  shape.T = end - from;
  shape.pack = false;
  tiny_open(&t, c, shape);
  int64_t valid = 0;
  for (int64_t i = from; i < end; i++) {
    t.step.tokens[i - from] = batch->tokens[row * batch->T + i];
    t.step.targets[i - from] = batch->targets[row * batch->T + i];
    valid += batch->targets[row * batch->T + i] != TARGET_IGNORED;
  }
  t.step.valid_targets = valid;
  sum->loss += model_forward_backward(&t.model, &t.step, NULL) * (double)valid;
  double weight = (double)valid / (double)batch->valid_targets;
  float *gradient = tiny_tensors_with_ends(&t, TINY_GRADIENTS, &sum->n, sum->ends);
  if (!sum->gradient) sum->gradient = (double *)calloc((size_t)sum->n, sizeof(double));
  for (int64_t k = 0, i = 0; i < sum->n; k++) {
    double squares = 0;
    for (; i < sum->ends[k]; i++) {
      sum->gradient[i] += weight * (double)gradient[i];
      squares += pow(weight * (double)gradient[i], 2);
    }
    sum->magnitude[k] += sqrt(squares);
  }
  free(gradient);
  sum->documents++;
  tiny_close(&t);
}

/* fp32 rounding of sums in another order: see test_schedule. */
static const double ROUNDING = 2e-6;

/* The largest distance of a tensor of the gradient from the sum, relative to its magnitude or, where it is
 * next to nothing, to a thousandth of the whole gradient's norm. */
static double distance(const float *x, const Sum *sum) {
  double whole = 0, most = 0;
  for (int64_t i = 0; i < sum->n; i++) whole += sum->gradient[i] * sum->gradient[i];
  for (int64_t k = 0, i = 0; i < sum->n; k++) {
    double squares = 0;
    for (; i < sum->ends[k]; i++) squares += pow((double)x[i] - sum->gradient[i], 2);
    most = fmax(most, sqrt(squares) / fmax(sum->magnitude[k], 1e-3 * sqrt(whole)));
  }
  return most;
}

/* Configurations own their layers' descriptions: one for each model. */
static void check(bool qk_norm, RunShape shape, const int64_t *lengths, int64_t count, const char *what) {
  TinyModel t;
  shape.pack = true;
  tiny_open(&t, tiny_config(false, qk_norm), shape);
  tiny_data(&t.step, t.config.V);
  tiny_documents(&t.step, lengths, count);
  double loss = model_forward_backward(&t.model, &t.step, NULL);
  int64_t n;
  float *gradient = tiny_tensors(&t, TINY_GRADIENTS, &n);
  double evaluated = model_evaluate(&t.model, &t.step) / (double)t.step.valid_targets;

  Sum sum = {};
  for (int64_t row = 0; row < t.step.A * t.step.B; row++)
    for (int64_t from = 0, end; from < t.step.T; from = end) {
      const int32_t *starts = t.step.starts + row * t.step.T;
      for (end = from + 1; end < t.step.T && starts[end] == starts[from];) end++;
      add_document(&sum, tiny_config(false, qk_norm), shape, &t.step, row, from, end);
    }
  assert_int_equal(sum.n, n);
  double mean = sum.loss / (double)t.step.valid_targets, off = distance(gradient, &sum);
  if (!(fabs(loss - mean) <= ROUNDING * mean && fabs(evaluated - mean) <= ROUNDING * mean && off <= ROUNDING))
    fail_msg("%s: loss %.9g, evaluated %.9g, expected %.9g from %lld documents; gradient off by %.2e", what,
             loss, evaluated, mean, (long long)sum.documents, off);
  free(gradient);
  free(sum.gradient);
  tiny_close(&t);
}

/* Short documents, one token among them, and documents that the windowed layer does not see whole. */
static void test_documents_alone(void **state) {
  (void)state;
  static const int64_t lengths[] = {9, 1, 4, 23, 2};
  static const int64_t chunks[] = {CHUNK_WHOLE, 7};
  for (int qk_norm = 0; qk_norm < 2; qk_norm++)
    for (size_t k = 0; k < COUNT(chunks); k++)
      for (int64_t groups = 1; groups <= 2; groups++) {
        RunShape shape = tiny_shape(1, 2, 50);
        shape.mlp_chunk = shape.head_chunk = chunks[k];
        shape.attn_groups = groups;
        check(qk_norm, shape, lengths, COUNT(lengths), groups > 1 ? "in groups" : "whole");
      }
  RunShape micro_batches = tiny_shape(3, 1, 31);
  check(false, micro_batches, lengths, COUNT(lengths), "micro-batches");
}

/* Documents longer than the blocks of the attention, and beginning inside of them. */
static void test_long_documents(void **state) {
  (void)state;
  static const int64_t lengths[] = {100, 300, 256, 1};
  check(true, tiny_shape(1, 1, 600), lengths, COUNT(lengths), "long documents");
}

/* Each micro-batch's documents are on the device while its layers compute, and in the memory plan; when there
 * are too many for a list, only how many is known. */
static void test_documents_are_listed(void **state) {
  (void)state;
  static const int64_t lengths[] = {20, 1, 40}, many[] = {3, 2};
  lists_for_all = true;
  for (int64_t groups = 1; groups <= 2; groups++) {
    RunShape shape = tiny_shape(2, 2, 50);
    shape.attn_groups = groups;
    check(false, shape, lengths, COUNT(lengths), "with a list");
    shape.pack = true;
    TinyModel t;
    tiny_open(&t, tiny_config(false, false), shape);
    tiny_data(&t.step, t.config.V);
    tiny_documents(&t.step, lengths, COUNT(lengths));
    AttentionShape a = schedule_run_attention(&t.config, 0, &shape, groups);
    size_t bytes = attention_document_list_bytes(&a);
    char *expected = (char *)calloc(1, bytes), *found = (char *)calloc(1, bytes);
    for (int64_t i = 0; i < shape.A; i++) {
      StepBatch micro = model_micro_batch(&t.step, i);
      model_embed(&t.model, &micro);
      assert_int_equal(t.model.documents, attention_list_documents(expected, &a, micro.starts));
      device_copy(t.model.dev, found, arena_get(&t.model.arena, t.schedule->documents), bytes,
                  COPY_FROM_DEVICE);
      assert_memory_equal(found, expected, bytes);
    }
    tiny_documents(&t.step, many, COUNT(many));
    StepBatch micro = model_micro_batch(&t.step, 0);
    model_embed(&t.model, &micro);
    assert_true(t.model.documents > attention_documents_room(&a));
    tiny_documents(&t.step, lengths, COUNT(lengths));
    model_embed(&t.model, &micro);
    assert_int_equal(t.model.documents, attention_list_documents(expected, &a, micro.starts));
    device_copy(t.model.dev, found, arena_get(&t.model.arena, t.schedule->documents), bytes,
                COPY_FROM_DEVICE);
    assert_memory_equal(found, expected, bytes);
    free(expected);
    free(found);
    tiny_close(&t);
  }
  lists_for_all = false;
}

/* One document in a sequence: to the bit what an unpacked run gives. */
static void test_one_document(void **state) {
  (void)state;
  float *gradient[2];
  double loss[2];
  int64_t n;
  for (int pack = 0; pack < 2; pack++) {
    TinyModel t;
    RunShape shape = tiny_shape(1, 2, 65);
    shape.pack = pack;
    tiny_open(&t, tiny_config(true, false), shape);
    tiny_data(&t.step, t.config.V);
    loss[pack] = model_forward_backward(&t.model, &t.step, NULL);
    gradient[pack] = tiny_tensors(&t, TINY_GRADIENTS, &n);
    tiny_close(&t);
  }
  assert_true(loss[0] == loss[1]);
  assert_memory_equal(gradient[0], gradient[1], (size_t)n * sizeof(float));
  free(gradient[0]);
  free(gradient[1]);
}

/* Other tokens before and after a document change no bit of its losses. */
static void test_nothing_crosses(void **state) {
  (void)state;
  enum { ROWS = 40, FROM = 14, END = 30 };
  static const int64_t lengths[] = {FROM, END - FROM, ROWS - END};
  double loss[2];
  for (int other = 0; other < 2; other++) {
    TinyModel t;
    RunShape shape = tiny_shape(1, 1, ROWS);
    shape.pack = true;
    tiny_open(&t, tiny_config(false, true), shape);
    tiny_documents(&t.step, lengths, COUNT(lengths));
    for (int64_t i = 0; i < ROWS; i++) {
      bool inside = i >= FROM && i < END;
      if (!inside && other) t.step.tokens[i] = (t.step.tokens[i] + 13) % (int32_t)t.config.V;
      if (!inside) t.step.targets[i] = TARGET_IGNORED;
    }
    loss[other] = model_evaluate(&t.model, &t.step);
    tiny_close(&t);
  }
  assert_true(loss[0] > 0 && loss[0] == loss[1]);
}

/* Of the attention, a step's operations are those of its documents: of all tokens, the same but for that. */
static void test_operations(void **state) {
  (void)state;
  enum { A = 2, ROWS = 12 };
  int32_t starts[A * ROWS] = {0, 0, 0, 3, 4, 4,
                              4, 4, 4, 4, 4, 4}; /* documents of 3, 1 and 8; then one of 12 */
  StepBatch step = {}, whole = {};
  step.A = whole.A = A;
  step.B = whole.B = 1;
  step.T = whole.T = ROWS;
  int32_t zeros[A * ROWS] = {};
  step.starts = starts;
  whole.starts = zeros;
  Config c = tiny_config(false, false);
  double full = 78, documents = 6 + 1 + 36, window = 5 * 6 / 2 + 7 * 5, windows = 6 + 1 + 5 * 6 / 2 + 3 * 5;
  double expected = 3 * 4 * (double)(c.NH * c.HS) * (2 * (full - documents) + window - windows);
  assert_true(fabs(model_step_flops(&c, &whole) - model_step_flops(&c, &step) - expected) < 1);
  config_free(&c);
}

/* Four bytes a row, and nothing of them without --pack. */
static void test_planned_bytes(void **state) {
  (void)state;
  Config c = tiny_config(false, false);
  Device dev;
  open_test_device(&dev, 0);
  RunShape shape = tiny_shape(1, 1, 1 << 16);
  shape.mlp_chunk = shape.head_chunk = 64;
  int64_t bytes[2];
  for (int pack = 0; pack < 2; pack++) {
    shape.pack = pack;
    Schedule *s = schedule_new(&c, &shape, &dev);
    bytes[pack] = plan_bytes(s->plan, SPACE_DEVICE);
    schedule_free(s);
  }
  assert_int_equal(bytes[1] - bytes[0], 4 << 16);
  device_close(&dev);
  config_free(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_documents_alone),      cmocka_unit_test(test_long_documents),
      cmocka_unit_test(test_one_document),         cmocka_unit_test(test_nothing_crosses),
      cmocka_unit_test(test_operations),           cmocka_unit_test(test_planned_bytes),
      cmocka_unit_test(test_documents_are_listed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
