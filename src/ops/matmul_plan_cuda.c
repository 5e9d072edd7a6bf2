/* cublasLt counts in columns: a row-major matrix is the transpose of a column-major one with the same ld, so
 * out [M, N] = op(a) op(b) is asked for as out^T [N, M] = op(b)^T op(a)^T, with b as its first operand. */
#include "ops/matmul_plan_cuda.h"

#include <stdlib.h>
#include <string.h>

#include "ops/matmul_tune.h" /* defines: matmul_tuning, matmul_choices_find */

typedef struct Plans {
  const CublasLt *blas;
  MatmulTable table;
  MatmulPlan plans[MATMUL_SLOTS]; /* by slot of the table */
} Plans;

_Static_assert(sizeof(cublasLtMatmulAlgo_t) == ALGORITHM_WORDS * sizeof(uint64_t), "an algorithm's bytes");

static void check(const Device *dev, const char *what, cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS) cuda_fail(dev, what, dev->cuda->blas.GetStatusString(status));
}

/* ---- what is asked for ---- */

/* The column-major layout of a row-major [rows, cols] matrix: [cols, rows]. */
static cublasLtMatrixLayout_t layout(const Device *dev, DType dt, int64_t rows, int64_t cols, int64_t ld) {
  cublasLtMatrixLayout_t l;
  check(dev, "the layout of a matrix",
        dev->cuda->blas.MatrixLayoutCreate(&l, dt == DT_BF16 ? CUDA_R_16BF : CUDA_R_32F, (uint64_t)cols,
                                           (uint64_t)rows, ld));
  return l;
}

static void describe(const Device *dev, MatmulPlan *p, const MatmulKey *k) {
  const CublasLt *blas = &dev->cuda->blas;
  cublasOperation_t first = k->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                    second = k->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  check(dev, "a product's description",
        blas->MatmulDescCreate(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F)); /* no TF32 */
  check(dev, "a product's description",
        blas->MatmulDescSetAttribute(p->product, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first));
  check(dev, "a product's description",
        blas->MatmulDescSetAttribute(p->product, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second));
  p->first = layout(dev, k->in, k->transpose_b ? k->N : k->K, k->transpose_b ? k->K : k->N, k->ld_b);
  p->second = layout(dev, k->in, k->transpose_a ? k->K : k->M, k->transpose_a ? k->M : k->K, k->ld_a);
  p->out = layout(dev, k->out, k->M, k->N, k->ld_out);
}

/* How the parts of a split sum may be added. In fp32: where out is bf16, that excludes the two schemes that
 * leave the parts in out's type. In an order that does not depend on which part is done first: of the scheme
 * that adds in place, cublasLt says no more than that one part follows the other. */
static uint32_t reductions(const MatmulKey *k) {
  if (k->out == DT_BF16 || k->deterministic) return CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  return CUBLASLT_REDUCTION_SCHEME_MASK;
}

/* The algorithms that cublasLt proposes, best first; at least one. Returns how many. */
static int propose(const Device *dev, const MatmulPlan *p, const MatmulKey *k, int most,
                   cublasLtMatmulHeuristicResult_t *found) {
  const CublasLt *blas = &dev->cuda->blas;
  cublasLtMatmulPreference_t wish;
  check(dev, "a preference", blas->MatmulPreferenceCreate(&wish));
  uint32_t schemes = reductions(k), align_first = (uint32_t)k->align_b, align_second = (uint32_t)k->align_a,
           align_out = (uint32_t)k->align_out;
  uint64_t workspace = (uint64_t)k->workspace_bytes;
  const struct {
    cublasLtMatmulPreferenceAttributes_t attribute;
    const void *value;
    size_t size;
  } wishes[] = {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
                {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align_first, sizeof align_first},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align_second, sizeof align_second},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align_out, sizeof align_out},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align_out, sizeof align_out}};
  for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++)
    check(dev, "a preference",
          blas->MatmulPreferenceSetAttribute(wish, wishes[i].attribute, wishes[i].value, wishes[i].size));
  int count = 0;
  cublasStatus_t status = blas->MatmulAlgoGetHeuristic(blas->handle, p->product, p->first, p->second, p->out,
                                                       p->out, wish, most, found, &count);
  CHECK(status == CUBLAS_STATUS_SUCCESS && count > 0 && found[0].state == CUBLAS_STATUS_SUCCESS,
        "cublasLt has no algorithm for the product of %s into %s, M %lld N %lld K %lld, ld %lld %lld %lld, "
        "alignment %d %d %d: %s",
        dtype_name(k->in), dtype_name(k->out), (long long)k->M, (long long)k->N, (long long)k->K,
        (long long)k->ld_out, (long long)k->ld_a, (long long)k->ld_b, (int)k->align_out, (int)k->align_a,
        (int)k->align_b, blas->GetStatusString(status));
  check(dev, "a preference", blas->MatmulPreferenceDestroy(wish));
  return count;
}

/* ---- the algorithm ---- */

/* One that was chosen before; false when there is none, or cublasLt does not run it. */
static bool take_chosen(Device *dev, MatmulPlan *p, const MatmulKey *k) {
  const CublasLt *blas = &dev->cuda->blas;
  MatmulTuning *tuning = matmul_tuning(dev);
  const MatmulChoice *choice = matmul_choices_find(&tuning->choices, k);
  if (!choice) return false;
  cublasLtMatmulHeuristicResult_t result;
  memcpy(&p->algorithm, choice->algorithm, sizeof p->algorithm);
  if (blas->MatmulAlgoCheck(blas->handle, p->product, p->first, p->second, p->out, p->out, &p->algorithm,
                            &result) == CUBLAS_STATUS_SUCCESS &&
      result.workspaceSize <= (size_t)k->workspace_bytes)
    return true;
  tuning->refused++;
  return false;
}

static void choose_by_time(Device *dev, MatmulPlan *p, const MatmulKey *k, const MatmulTimer *timer) {
  MatmulTuning *tuning = matmul_tuning(dev);
  cublasLtMatmulHeuristicResult_t found[TUNE_CANDIDATES];
  double seconds[TUNE_CANDIDATES];
  int count = propose(dev, p, k, tuning->candidates, found);
  for (int i = 0; i < count; i++) {
    p->algorithm = found[i].algo;
    seconds[i] = found[i].state == CUBLAS_STATUS_SUCCESS ? timer->seconds(p, timer->context) : -1;
  }
  int best = matmul_choices_fastest(seconds, count);
  CHECK(best >= 0, "cublasLt runs none of the %d algorithms that it proposes for M %lld N %lld K %lld", count,
        (long long)k->M, (long long)k->N, (long long)k->K);
  p->algorithm = found[best].algo;
  MatmulChoice choice = {.key = *k, .seconds = seconds[best], .first_seconds = seconds[0]};
  if (seconds[0] < 0) choice.first_seconds = seconds[best];
  memcpy(choice.algorithm, &p->algorithm, sizeof choice.algorithm);
  matmul_choices_put(&tuning->choices, &choice);
  tuning->timed++;
}

static MatmulPlan make_plan(Device *dev, const MatmulKey *k, const MatmulTimer *timer) {
  MatmulPlan p = {0};
  cublasLtMatmulHeuristicResult_t first;
  describe(dev, &p, k);
  if (take_chosen(dev, &p, k)) return p;
  if (matmul_tuning(dev)->candidates > 0) {
    choose_by_time(dev, &p, k, timer);
  } else {
    propose(dev, &p, k, 1, &first);
    p.algorithm = first.algo;
  }
  return p;
}

/* ---- plans ---- */

static void drop_plans(Plans *p) {
  for (int i = 0; i < MATMUL_SLOTS; i++) {
    if (!p->table.used[i]) continue;
    p->blas->MatmulDescDestroy(p->plans[i].product);
    p->blas->MatrixLayoutDestroy(p->plans[i].first);
    p->blas->MatrixLayoutDestroy(p->plans[i].second);
    p->blas->MatrixLayoutDestroy(p->plans[i].out);
  }
  p->table = (MatmulTable){0};
}

static void close_plans(void *data) {
  drop_plans(data);
  free(data);
}

static Plans *plans_of(Device *dev) {
  DeviceExtra *extra = &dev->extra[EXTRA_MATMUL];
  if (!extra->data) {
    Plans *p = calloc(1, sizeof *p);
    CHECK(p, "out of memory for the plans of matrix products");
    p->blas = &dev->cuda->blas;
    *extra = (DeviceExtra){p, close_plans};
  }
  return extra->data;
}

const MatmulPlan *matmul_plan(Device *dev, const MatmulKey *key, const MatmulTimer *timer) {
  Plans *plans = plans_of(dev);
  bool found;
  int slot = matmul_table_find(&plans->table, key, &found);
  if (found) return &plans->plans[slot];
  if (plans->table.count == MATMUL_KEYS) {
    drop_plans(plans); /* a run has some dozen shapes; whoever has more makes its plans anew now and then */
    slot = matmul_table_find(&plans->table, key, &found);
  }
  plans->plans[slot] = make_plan(dev, key, timer);
  matmul_table_take(&plans->table, slot, key);
  return &plans->plans[slot];
}
