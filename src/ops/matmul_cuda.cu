/* Matrix products on CUDA, by cublasLt, which counts in columns: a row-major matrix is the transpose of a
 * column-major one with the same ld, so out [M, N] = op(a) op(b) is asked for as out^T [N, M] = op(b)^T
 * op(a)^T, with b as its first operand. Plans (layouts and the algorithm that cublasLt's heuristics put
 * first) are kept by shape: the same product takes the same algorithm, and gives the same bits, for as long
 * as the device is open, and in the next run too. */
#include "ops/matmul_cuda.h"

#include <limits.h>
#include <stdlib.h>

#include "device/device_cuda.h" // defines: CudaDevice, CublasLt, cuda_check, cuda_fail
#include "ops/matmul_key.h"     // defines: MatmulKey, MatmulTable

typedef struct Plan {
  cublasLtMatmulDesc_t product;
  cublasLtMatrixLayout_t first, second, out; /* b, a, out: column-major */
  cublasLtMatmulAlgo_t algorithm;
} Plan;

typedef struct Plans {
  const CublasLt *blas;
  MatmulTable table;
  Plan plans[MATMUL_SLOTS]; /* by slot of the table */
} Plans;

static void check(const CublasLt *blas, const char *what, cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS) cuda_fail(what, blas->GetStatusString(status));
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
  p->table = MatmulTable{};
}

static void close_plans(void *data) {
  drop_plans((Plans *)data);
  free(data);
}

static Plans *plans_of(Device *dev) {
  DeviceExtra *extra = &dev->extra[EXTRA_MATMUL];
  if (!extra->data) {
    Plans *p = (Plans *)calloc(1, sizeof *p);
    CHECK(p, "out of memory for the plans of matrix products");
    p->blas = &dev->cuda->blas;
    *extra = DeviceExtra{p, close_plans};
  }
  return (Plans *)extra->data;
}

/* The column-major layout of a row-major [rows, cols] matrix: [cols, rows]. */
static cublasLtMatrixLayout_t layout(const CublasLt *blas, DType dt, int64_t rows, int64_t cols, int64_t ld) {
  cublasLtMatrixLayout_t l;
  check(blas, "the layout of a matrix",
        blas->MatrixLayoutCreate(&l, dt == DT_BF16 ? CUDA_R_16BF : CUDA_R_32F, (uint64_t)cols, (uint64_t)rows,
                                 ld));
  return l;
}

static void choose_algorithm(const CublasLt *blas, Plan *p, const MatmulKey *k) {
  cublasLtMatmulPreference_t wish;
  check(blas, "a preference", blas->MatmulPreferenceCreate(&wish));
  /* Parts of a split sum have to be added in fp32. Where out is bf16, that excludes the two schemes that
   * leave the parts in out's type. */
  uint32_t reductions =
      k->out == DT_BF16 ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE : CUBLASLT_REDUCTION_SCHEME_MASK;
  uint32_t align_first = (uint32_t)k->align_b, align_second = (uint32_t)k->align_a,
           align_out = (uint32_t)k->align_out;
  uint64_t workspace = (uint64_t)k->workspace_bytes;
  const struct {
    cublasLtMatmulPreferenceAttributes_t attribute;
    const void *value;
    size_t size;
  } wishes[] = {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
                {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align_first, sizeof align_first},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align_second, sizeof align_second},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align_out, sizeof align_out},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align_out, sizeof align_out}};
  for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++)
    check(blas, "a preference",
          blas->MatmulPreferenceSetAttribute(wish, wishes[i].attribute, wishes[i].value, wishes[i].size));
  cublasLtMatmulHeuristicResult_t best;
  int count = 0;
  cublasStatus_t status = blas->MatmulAlgoGetHeuristic(blas->handle, p->product, p->first, p->second, p->out,
                                                       p->out, wish, 1, &best, &count);
  CHECK(status == CUBLAS_STATUS_SUCCESS && count > 0 && best.state == CUBLAS_STATUS_SUCCESS,
        "cublasLt has no algorithm for the product of %s into %s, M %lld N %lld K %lld, ld %lld %lld %lld, "
        "alignment %d %d %d: %s",
        dtype_name(k->in), dtype_name(k->out), (long long)k->M, (long long)k->N, (long long)k->K,
        (long long)k->ld_out, (long long)k->ld_a, (long long)k->ld_b, (int)k->align_out, (int)k->align_a,
        (int)k->align_b, blas->GetStatusString(status));
  p->algorithm = best.algo;
  check(blas, "a preference", blas->MatmulPreferenceDestroy(wish));
}

static Plan make_plan(const CublasLt *blas, const MatmulKey *k) {
  Plan p = {};
  cublasOperation_t first = k->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                    second = k->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  check(blas, "a product's description",
        blas->MatmulDescCreate(&p.product, CUBLAS_COMPUTE_32F, CUDA_R_32F)); /* no TF32 */
  check(blas, "a product's description",
        blas->MatmulDescSetAttribute(p.product, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first));
  check(blas, "a product's description",
        blas->MatmulDescSetAttribute(p.product, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second));
  p.first = layout(blas, k->in, k->transpose_b ? k->N : k->K, k->transpose_b ? k->K : k->N, k->ld_b);
  p.second = layout(blas, k->in, k->transpose_a ? k->K : k->M, k->transpose_a ? k->M : k->K, k->ld_a);
  p.out = layout(blas, k->out, k->M, k->N, k->ld_out);
  choose_algorithm(blas, &p, k);
  return p;
}

static const Plan *find_plan(Plans *plans, const MatmulKey *key) {
  bool found;
  int slot = matmul_table_find(&plans->table, key, &found);
  if (found) return &plans->plans[slot];
  if (plans->table.count == MATMUL_KEYS) {
    drop_plans(plans); /* a run has some dozen shapes; whoever has more makes its plans anew now and then */
    slot = matmul_table_find(&plans->table, key, &found);
  }
  plans->plans[slot] = make_plan(plans->blas, key);
  matmul_table_take(&plans->table, slot, key);
  return &plans->plans[slot];
}

/* ---- the product ---- */

void matmul_cuda(Device *dev, Matrix out, Matrix a, bool transpose_a, Matrix b, bool transpose_b, int64_t M,
                 int64_t N, int64_t K, bool accumulate) {
  cudaStream_t stream = (cudaStream_t)dev->stream;
  size_t size = dtype_size(out.dtype);
  if (K == 0) {
    if (!accumulate)
      cuda_check("matmul with K = 0",
                 cudaMemset2DAsync(out.data, (size_t)out.ld * size, 0, (size_t)N * size, (size_t)M, stream));
    return;
  }
  CHECK(M <= INT_MAX && N <= INT_MAX && K <= INT_MAX,
        "matmul: M %lld, N %lld, K %lld: beyond cublasLt's kernels", (long long)M, (long long)N,
        (long long)K);
  Plans *plans = plans_of(dev);
  MatmulKey key = matmul_key(dev, out, a, transpose_a, b, transpose_b, M, N, K);
  const Plan *p = find_plan(plans, &key);
  const float one = 1.f, beta = accumulate ? 1.f : 0.f;
  check(plans->blas, "matmul",
        plans->blas->Matmul(plans->blas->handle, p->product, &one, b.data, p->first, a.data, p->second, &beta,
                            out.data, p->out, out.data, p->out, &p->algorithm, dev->workspace,
                            dev->workspace_bytes, stream));
}
