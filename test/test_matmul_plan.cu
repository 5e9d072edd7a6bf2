/* How a product on CUDA comes to its algorithm, with a stand-in for cublasLt: what it is asked, and which of
 * its answers is taken. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

#ifdef __CUDACC__

#include <string.h>

#include "ops/matmul_plan_cuda.h"
#include "ops/matmul_tune.h"

/* ---- the stand-in: it proposes algorithms whose bytes are 100, 101, ... ---- */

enum { PROPOSALS = 5, FIRST_ALGORITHM = 100, REFUSED_ALGORITHM = 999 };

/* What it was asked last. One test runs at a time, and cublasLt's functions have no context. */
static struct Asked {
  int proposals, checks, live; /* calls; objects that are not destroyed */
  int most;                    /* algorithms asked for */
  uint32_t schemes;
  uint64_t workspace;
} asked;

static cublasStatus_t make_something(void **object) {
  asked.live++;
  *object = &asked;
  return CUBLAS_STATUS_SUCCESS;
}
static cublasStatus_t end_something(void) {
  asked.live--;
  return CUBLAS_STATUS_SUCCESS;
}
static cublasStatus_t make_desc(cublasLtMatmulDesc_t *d, cublasComputeType_t compute, cudaDataType_t scale) {
  assert_true(compute == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F);
  return make_something((void **)d);
}
static cublasStatus_t end_desc(cublasLtMatmulDesc_t) {
  return end_something();
}
static cublasStatus_t set_desc(cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void *, size_t) {
  return CUBLAS_STATUS_SUCCESS;
}
static cublasStatus_t make_layout(cublasLtMatrixLayout_t *l, cudaDataType, uint64_t, uint64_t, int64_t) {
  return make_something((void **)l);
}
static cublasStatus_t end_layout(cublasLtMatrixLayout_t) {
  return end_something();
}
static cublasStatus_t make_wish(cublasLtMatmulPreference_t *wish) {
  return make_something((void **)wish);
}
static cublasStatus_t end_wish(cublasLtMatmulPreference_t) {
  return end_something();
}
static cublasStatus_t set_wish(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t attribute,
                               const void *value, size_t size) {
  if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) {
    assert_int_equal(size, sizeof asked.schemes);
    memcpy(&asked.schemes, value, size);
  }
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) memcpy(&asked.workspace, value, size);
  return CUBLAS_STATUS_SUCCESS;
}
static cublasStatus_t propose(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                              cublasLtMatmulPreference_t, int most, cublasLtMatmulHeuristicResult_t *found,
                              int *count) {
  asked.proposals++;
  asked.most = most;
  *count = most < PROPOSALS ? most : (int)PROPOSALS;
  for (int i = 0; i < *count; i++) {
    found[i] = cublasLtMatmulHeuristicResult_t{};
    found[i].algo.data[0] = (uint64_t)(FIRST_ALGORITHM + i);
    found[i].state = i == 1 ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
  }
  return CUBLAS_STATUS_SUCCESS;
}
static cublasStatus_t check_algorithm(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                      cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                      const cublasLtMatmulAlgo_t *algorithm,
                                      cublasLtMatmulHeuristicResult_t *result) {
  asked.checks++;
  *result = cublasLtMatmulHeuristicResult_t{};
  result->workspaceSize = algorithm->data[1]; /* so that a test can say how much it takes */
  return algorithm->data[0] == REFUSED_ALGORITHM ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
}
static const char *status_text(cublasStatus_t) {
  return "a stand-in's error";
}

/* ---- a device with it ---- */

typedef struct Fake {
  Device dev;
  CudaDevice cuda;
} Fake;

static void open_fake(Fake *f) {
  *f = Fake{};
  asked = Asked{};
  f->dev.kind = DEVICE_CUDA;
  f->dev.cuda = &f->cuda;
  f->dev.products_version = 130100;
  f->dev.workspace_bytes = CUDA_WORKSPACE;
  strcpy(f->dev.name, "a stand-in");
  CublasLt *b = &f->cuda.blas;
  b->GetStatusString = status_text;
  b->MatmulDescCreate = make_desc;
  b->MatmulDescDestroy = end_desc;
  b->MatmulDescSetAttribute = set_desc;
  b->MatrixLayoutCreate = make_layout;
  b->MatrixLayoutDestroy = end_layout;
  b->MatmulPreferenceCreate = make_wish;
  b->MatmulPreferenceDestroy = end_wish;
  b->MatmulPreferenceSetAttribute = set_wish;
  b->MatmulAlgoGetHeuristic = propose;
  b->MatmulAlgoCheck = check_algorithm;
}

static void close_fake(Fake *f) {
  for (int i = 0; i < DEVICE_EXTRAS; i++)
    if (f->dev.extra[i].data) f->dev.extra[i].close(f->dev.extra[i].data);
  assert_int_equal(asked.live, 0);
}

static MatmulKey key_of(const Device *dev, int64_t M, DType out_type) {
  Matrix out = {(void *)4096, out_type, 64}, a = {(void *)8192, DT_BF16, 64}, b = {(void *)512, DT_BF16, 64};
  return matmul_key(dev, out, NULL, a, false, b, true, M, 64, 64);
}

/* Times by algorithm: context is [PROPOSALS] of them. */
static int timed;
static double seconds_of(const MatmulPlan *plan, void *context) {
  timed++;
  return ((const double *)context)[plan->algorithm.data[0] - FIRST_ALGORITHM];
}

static uint64_t algorithm_of(Device *dev, int64_t M, DType out, const double *seconds) {
  MatmulKey key = key_of(dev, M, out);
  MatmulTimer timer = {seconds_of, (void *)seconds};
  return matmul_plan(dev, &key, &timer)->algorithm.data[0];
}

/* ---- tests ---- */

static void without_tuning_the_first_is_taken(void **) {
  Fake f;
  open_fake(&f);
  timed = 0;
  for (int again = 0; again < 2; again++) {
    assert_int_equal(algorithm_of(&f.dev, 8, DT_FP32, NULL), FIRST_ALGORITHM);
    assert_true(asked.proposals == 1 && asked.most == 1 && timed == 0 && asked.checks == 0);
  }
  assert_int_equal(asked.workspace, CUDA_WORKSPACE);
  assert_null(matmul_tune_text(&f.dev));
  close_fake(&f);
}

/* Split sums: in fp32 always, and where the same bits are wanted by none but the scheme with an order. */
static void sums_have_an_order_where_it_is_wanted(void **) {
  const uint32_t any = CUBLASLT_REDUCTION_SCHEME_MASK, ordered = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  const struct {
    bool deterministic;
    DType out;
    uint32_t expected;
  } cases[] = {
      {false, DT_FP32, any}, {false, DT_BF16, ordered}, {true, DT_FP32, ordered}, {true, DT_BF16, ordered}};
  for (const auto &c : cases) {
    Fake f;
    open_fake(&f);
    f.dev.deterministic = c.deterministic;
    algorithm_of(&f.dev, 8, c.out, NULL);
    assert_int_equal(asked.schemes, c.expected);
    close_fake(&f);
  }
}

static void the_fastest_is_taken_and_kept(void **) {
  Fake f;
  open_fake(&f);
  const double first[PROPOSALS] = {5, 0.1, 3, 2, 4}, then[PROPOSALS] = {1, 1, 9, 9, 9};
  matmul_tune(&f.dev, 4);
  timed = 0;
  assert_int_equal(algorithm_of(&f.dev, 8, DT_FP32, first), FIRST_ALGORITHM + 3);
  assert_int_equal(asked.most, 4);
  assert_int_equal(timed, 3); /* not the one that is not supported */
  assert_int_equal(algorithm_of(&f.dev, 8, DT_FP32, then), FIRST_ALGORITHM + 3);
  assert_int_equal(algorithm_of(&f.dev, 9, DT_FP32, then), FIRST_ALGORITHM);
  assert_int_equal(timed, 6);
  matmul_tune(&f.dev, 0);
  assert_int_equal(algorithm_of(&f.dev, 10, DT_FP32, first), FIRST_ALGORITHM);
  assert_int_equal(timed, 6);
  assert_int_equal(matmul_tuning(&f.dev)->timed, 2);
  assert_int_equal(matmul_tuning(&f.dev)->choices.count, 2);
  close_fake(&f);
}

/* A run that goes on takes what the run before it chose, though it would now choose otherwise. */
static void what_was_chosen_is_taken_again(void **) {
  Fake before, after;
  Error e = {};
  const double first[PROPOSALS] = {5, 1, 3, 2, 4}, then[PROPOSALS] = {1, 1, 9, 9, 9};
  open_fake(&before);
  matmul_tune(&before.dev, PROPOSALS);
  algorithm_of(&before.dev, 8, DT_FP32, first);
  char *text = matmul_tune_text(&before.dev);
  close_fake(&before);

  open_fake(&after);
  timed = 0;
  if (!matmul_tune_read(&after.dev, text, &e)) fail_msg("%s", e.text);
  matmul_tune(&after.dev, PROPOSALS);
  assert_int_equal(algorithm_of(&after.dev, 8, DT_FP32, then), FIRST_ALGORITHM + 3);
  assert_true(timed == 0 && asked.proposals == 0 && asked.checks == 1);
  assert_int_equal(algorithm_of(&after.dev, 9, DT_FP32, then), FIRST_ALGORITHM); /* a new one is timed */
  assert_true(timed > 0);
  assert_int_equal(matmul_tuning(&after.dev)->refused, 0);
  close_fake(&after);
  free(text);
}

/* Chosen once, and now refused, or asking for more workspace than there is. */
static void what_does_not_run_is_chosen_anew(void **) {
  const uint64_t algorithms[][2] = {{REFUSED_ALGORITHM, 0},
                                    {FIRST_ALGORITHM + 2, (uint64_t)CUDA_WORKSPACE + 1}};
  const double seconds[PROPOSALS] = {5, 1, 3, 2, 4};
  for (const auto &algorithm : algorithms) {
    Fake f;
    open_fake(&f);
    MatmulChoice c = {};
    c.key = key_of(&f.dev, 8, DT_FP32);
    memcpy(c.algorithm, algorithm, sizeof algorithm);
    matmul_choices_put(&matmul_tuning(&f.dev)->choices, &c);
    matmul_tune(&f.dev, PROPOSALS);
    assert_int_equal(algorithm_of(&f.dev, 8, DT_FP32, seconds), FIRST_ALGORITHM + 3);
    assert_int_equal(matmul_tuning(&f.dev)->refused, 1);
    assert_int_equal(matmul_choices_find(&matmul_tuning(&f.dev)->choices, &c.key)->algorithm[0],
                     FIRST_ALGORITHM + 3);
    close_fake(&f);
  }
}

#else
static void skipped(void **) {
  print_message("SKIPPED: the algorithms of cublasLt, in a build without CUDA\n");
  skip();
}
#endif

int main(void) {
  const struct CMUnitTest tests[] = {
#ifdef __CUDACC__
      cmocka_unit_test(without_tuning_the_first_is_taken),
      cmocka_unit_test(sums_have_an_order_where_it_is_wanted),
      cmocka_unit_test(the_fastest_is_taken_and_kept),
      cmocka_unit_test(what_was_chosen_is_taken_again),
      cmocka_unit_test(what_does_not_run_is_chosen_anew),
#else
      cmocka_unit_test(skipped),
#endif
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
