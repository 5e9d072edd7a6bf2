/* cublasLt on the CPU, for the emulated CUDA runtime: what NVIDIA documents of the functions that
 * src/device/cublaslt_cuda.h names, by way of sgemm. It is stricter than the library itself, which takes some
 * of what it leaves undefined: an algorithm is good for nothing but the product that it was proposed for,
 * needs all the alignment that it was promised, and fills the workspace that it asked for with NaN.
 * cublasLtMatmul says on stderr why it refuses a call. */
#include <cublasLt.h>

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/blas.h" // defines: cblas_sgemm
#include "emulator/bf16.h"
#include "emulator/emulator.h" // defines: emulator_enqueue, emulator_memory

/* ---- objects ---- */

/* What every object begins with: one of another kind, and most that were destroyed, are noticed. */
typedef enum Kind { HANDLE = 0x4c540001, LAYOUT, PRODUCT, PREFERENCE } Kind;

struct cublasLtContext {
  Kind kind;
};
typedef struct Layout { /* column-major */
  Kind kind;
  cudaDataType type;
  uint64_t rows, cols;
  int64_t ld;
} Layout;
typedef struct Product {
  Kind kind;
  cublasOperation_t op_a, op_b;
} Product;

enum { A, B, C, D, OPERANDS };

typedef struct Preference {
  Kind kind;
  uint32_t schemes;
  uint64_t workspace;
  uint32_t align[OPERANDS];
} Preference;

static bool is(const void *object, Kind kind) {
  return object && *(const Kind *)object == kind;
}

static cublasStatus_t make(void *to, const void *object, size_t bytes) {
  void *copy = to ? malloc(bytes) : NULL;
  if (!copy) return to ? CUBLAS_STATUS_ALLOC_FAILED : CUBLAS_STATUS_INVALID_VALUE;
  memcpy(copy, object, bytes);
  memcpy(to, &copy, sizeof copy);
  return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t set(void *field, size_t field_size, const void *value, size_t size) {
  if (!value || size != field_size) return CUBLAS_STATUS_INVALID_VALUE;
  memcpy(field, value, size);
  return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t destroy(void *object, Kind kind) {
  if (!is(object, kind)) return CUBLAS_STATUS_INVALID_VALUE;
  free(object);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *to) {
  return make(to, &(struct cublasLtContext){HANDLE}, sizeof **to);
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *to, cublasComputeType_t compute,
                                        cudaDataType scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  return make(to, &(Product){PRODUCT, CUBLAS_OP_N, CUBLAS_OP_N}, sizeof(Product));
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *to) {
  Preference p = {PREFERENCE, CUBLASLT_REDUCTION_SCHEME_MASK, 0, {256, 256, 256, 256}};
  return make(to, &p, sizeof p);
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *to, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
  if (ld < 0 || (uint64_t)ld < rows) return CUBLAS_STATUS_INVALID_VALUE;
  return make(to, &(Layout){LAYOUT, type, rows, cols, ld}, sizeof(Layout));
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  return destroy(handle, HANDLE) ? CUBLAS_STATUS_NOT_INITIALIZED : CUBLAS_STATUS_SUCCESS;
}
#define DESTROYER(Object, kind)                                                                              \
  cublasStatus_t cublasLt##Object##Destroy(cublasLt##Object##_t object) {                                    \
    return destroy(object, kind);                                                                            \
  }
DESTROYER(MatmulDesc, PRODUCT)
DESTROYER(MatmulPreference, PREFERENCE)
DESTROYER(MatrixLayout, LAYOUT)

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t to,
                                              cublasLtMatmulDescAttributes_t attribute, const void *value,
                                              size_t size) {
  Product *p = (Product *)to;
  if (!is(p, PRODUCT)) return CUBLAS_STATUS_INVALID_VALUE;
  if (attribute == CUBLASLT_MATMUL_DESC_TRANSA) return set(&p->op_a, sizeof p->op_a, value, size);
  if (attribute == CUBLASLT_MATMUL_DESC_TRANSB) return set(&p->op_b, sizeof p->op_b, value, size);
  return CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t to,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t size) {
  const int first = CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, i = (int)attribute - first;
  Preference *p = (Preference *)to;
  if (!is(p, PREFERENCE)) return CUBLAS_STATUS_INVALID_VALUE;
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
    return set(&p->workspace, sizeof p->workspace, value, size);
  if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
    return set(&p->schemes, sizeof p->schemes, value, size);
  if (i >= 0 && i < OPERANDS) return set(&p->align[i], sizeof p->align[i], value, size);
  return CUBLAS_STATUS_NOT_SUPPORTED;
}

size_t cublasLtGetVersion(void) {
  return CUBLAS_VERSION;
}
const char *cublasLtGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS            ? "success"
         : status == CUBLAS_STATUS_NOT_INITIALIZED  ? "the library was not initialized"
         : status == CUBLAS_STATUS_ALLOC_FAILED     ? "the resource allocation failed"
         : status == CUBLAS_STATUS_INVALID_VALUE    ? "an unsupported value or parameter was passed"
         : status == CUBLAS_STATUS_EXECUTION_FAILED ? "the function failed to launch on the GPU"
         : status == CUBLAS_STATUS_NOT_SUPPORTED    ? "the requested functionality is not supported"
                                                    : "unrecognized status";
}

/* ---- a product ---- */

/* D [m, n] = alpha op(A) [m, k] op(B) [k, n] + beta C [m, n]. */
typedef struct Problem {
  uint64_t m, n, k;
  uint32_t transpose_a, transpose_b;
  Layout of[OPERANDS];
} Problem;

static size_t size_of(cudaDataType type) {
  return type == CUDA_R_16BF ? 2 : 4;
}

static bool types_fit(const Problem *p) {
  cudaDataType in = p->of[A].type, out = p->of[D].type;
  return in == p->of[B].type && out == p->of[C].type && (in == CUDA_R_32F || in == CUDA_R_16BF) &&
         (out == CUDA_R_32F || out == in);
}

static cublasStatus_t describe(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                               cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                               Problem *p) {
  const void *layouts[OPERANDS] = {a, b, c, d};
  const Product *product = (const Product *)desc;
  if (!is(handle, HANDLE)) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!is(product, PRODUCT)) return CUBLAS_STATUS_INVALID_VALUE;
  if (product->op_a > CUBLAS_OP_T || product->op_b > CUBLAS_OP_T) return CUBLAS_STATUS_NOT_SUPPORTED;
  for (int i = 0; i < OPERANDS; i++) {
    if (!is(layouts[i], LAYOUT)) return CUBLAS_STATUS_INVALID_VALUE;
    const Layout *l = layouts[i];
    if (!l->rows || !l->cols || l->cols > INT_MAX || l->ld > INT_MAX) return CUBLAS_STATUS_NOT_SUPPORTED;
    p->of[i] = *l;
  }
  bool ta = product->op_a == CUBLAS_OP_T, tb = product->op_b == CUBLAS_OP_T;
  const Layout *of = p->of;
  p->transpose_a = ta;
  p->transpose_b = tb;
  p->m = of[D].rows;
  p->n = of[D].cols;
  p->k = ta ? of[A].rows : of[A].cols;
  if (p->m != (ta ? of[A].cols : of[A].rows) || p->n != (tb ? of[B].rows : of[B].cols) ||
      p->k != (tb ? of[B].cols : of[B].rows) || p->m != of[C].rows || p->n != of[C].cols)
    return CUBLAS_STATUS_INVALID_VALUE;
  return types_fit(p) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

/* ---- algorithms ---- */

enum { MAGIC = 0x4c54616c, WORKSPACE_ALIGNMENT = 256, SOME_WORKSPACE = 1 << 16 };

/* By id, in the order in which they are proposed. Parts of a sum are added at the end, in their order; which
 * algorithm it was therefore shows in the last bits. */
static const struct {
  uint64_t parts;  /* into which K is split */
  uint32_t scheme; /* how they are kept until then */
  size_t workspace;
} algorithms[] = {{1, CUBLASLT_REDUCTION_SCHEME_NONE, SOME_WORKSPACE},
                  {2, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 0},
                  {3, CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE, 0},
                  {1, CUBLASLT_REDUCTION_SCHEME_NONE, 0}};
enum { ALGORITHMS = sizeof algorithms / sizeof *algorithms };

/* What cublasLtMatmulAlgo_t holds. */
typedef struct Algorithm {
  uint32_t magic, id;
  uint32_t align[OPERANDS];
  uint64_t workspace;
  uint64_t seal; /* of all of this and of the product */
  uint64_t unused[3];
} Algorithm;

_Static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t), "an algorithm's bytes");
_Static_assert(sizeof(Problem) == 4 * sizeof(uint64_t) + OPERANDS * 4 * sizeof(uint64_t), "gaps in Problem");

/* FNV-1a over words. */
static uint64_t hash(uint64_t h, const void *data, size_t bytes) {
  for (size_t i = 0; i < bytes; i += sizeof h) {
    uint64_t word;
    memcpy(&word, (const char *)data + i, sizeof word);
    h = (h ^ word) * 1099511628211u;
  }
  return h;
}

static uint64_t seal(Algorithm a, const Problem *p) {
  a.seal = 0;
  return hash(hash(14695981039346656037u, &a, sizeof a), p, sizeof *p);
}

/* False where there is no such algorithm for the product under these wishes. */
static bool propose(uint32_t id, const Problem *p, const Preference *wish, Algorithm *to) {
  uint64_t parts = algorithms[id].parts;
  *to = (Algorithm){.magic = MAGIC, .id = id, .workspace = algorithms[id].workspace};
  if (parts > 1) {
    size_t size = algorithms[id].scheme == CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE ? size_of(p->of[D].type)
                                                                                 : sizeof(float);
    to->workspace = parts * p->m * p->n * size;
    if (!(wish->schemes & algorithms[id].scheme) || p->k < parts) return false;
  }
  for (int i = 0; i < OPERANDS; i++) {
    to->align[i] = wish->align[i];
    if (!to->align[i] || to->align[i] % size_of(p->of[i].type)) return false;
  }
  to->seal = seal(*to, p);
  return to->workspace <= wish->workspace;
}

static void report(const Algorithm *a, const Problem *p, cublasLtMatmulHeuristicResult_t *to) {
  const float tile = 128 * 128, processors = 132;
  to->workspaceSize = a->workspace;
  to->state = CUBLAS_STATUS_SUCCESS;
  to->wavesCount = (float)p->m * (float)p->n / (tile * processors);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t *results, int *count) {
  Problem p;
  cublasStatus_t status = describe(handle, desc, a, b, c, d, &p);
  const Preference *wish = (const Preference *)preference;
  if (count) *count = 0;
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (!is(wish, PREFERENCE) || requested <= 0 || !results || !count) return CUBLAS_STATUS_INVALID_VALUE;
  for (uint32_t id = 0; id < ALGORITHMS && *count < requested; id++) {
    Algorithm found;
    if (!propose(id, &p, wish, &found)) continue;
    cublasLtMatmulHeuristicResult_t *to = &results[(*count)++];
    *to = (cublasLtMatmulHeuristicResult_t){0};
    report(&found, &p, to);
    memcpy(&to->algo, &found, sizeof found);
  }
  return *count ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

/* False unless they are the bytes of an algorithm that was proposed for this product. */
static bool read_algorithm(const cublasLtMatmulAlgo_t *from, const Problem *p, Algorithm *to) {
  if (!from) return false;
  memcpy(to, from, sizeof *to);
  return to->magic == MAGIC && to->id < ALGORITHMS && to->seal == seal(*to, p);
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *result) {
  Problem p;
  Algorithm algorithm;
  cublasStatus_t status = describe(handle, desc, a, b, c, d, &p);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (!result || !read_algorithm(algo, &p, &algorithm)) return CUBLAS_STATUS_INVALID_VALUE;
  report(&algorithm, &p, result);
  return CUBLAS_STATUS_SUCCESS;
}

/* ---- the product on the CPU ---- */

/* A call, from when it is made until it is its stream's turn. */
typedef struct Work {
  Problem problem;
  Algorithm algorithm;
  float alpha, beta;
  const void *at[OPERANDS]; /* on the device */
  void *workspace;
  size_t workspace_bytes;
} Work;

static float *floats(size_t count) {
  float *memory = calloc(count, sizeof *memory);
  if (memory) return memory;
  fprintf(stderr, "cublasLtMatmul: no memory for %zu numbers\n", count);
  abort();
}

static float get(const void *from, cudaDataType type, uint64_t i) {
  return type == CUDA_R_16BF ? from_bf16(((const uint16_t *)from)[i]) : ((const float *)from)[i];
}

/* A matrix in fp32, its columns one after the other; to be freed. */
static float *load(const void *from, const Layout *l) {
  float *to = floats(l->rows * l->cols);
  for (uint64_t j = 0; j < l->cols; j++)
    for (uint64_t i = 0; i < l->rows; i++) to[j * l->rows + i] = get(from, l->type, j * (uint64_t)l->ld + i);
  return to;
}

/* op(A) op(B), the columns of which follow each other; to be freed. */
static float *multiply(const Problem *p, uint32_t algorithm, const float *a, const float *b) {
  uint64_t count = p->m * p->n, parts = algorithms[algorithm].parts;
  bool rounded =
      algorithms[algorithm].scheme == CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE && p->of[D].type == CUDA_R_16BF;
  float *sum = floats(count);
  for (uint64_t i = 0; i < parts; i++) {
    uint64_t first = p->k * i / parts, depth = p->k * (i + 1) / parts - first, ld_a = p->of[A].rows,
             ld_b = p->of[B].rows;
    float *part = floats(count);
    cblas_sgemm(CblasColMajor, p->transpose_a ? CblasTrans : CblasNoTrans,
                p->transpose_b ? CblasTrans : CblasNoTrans, (int)p->m, (int)p->n, (int)depth, 1,
                a + (p->transpose_a ? first : first * ld_a), (int)ld_a,
                b + (p->transpose_b ? first * ld_b : first), (int)ld_b, 0, part, (int)p->m);
    for (uint64_t j = 0; j < count; j++) sum[j] += rounded ? from_bf16(to_bf16(part[j])) : part[j];
    free(part);
  }
  return sum;
}

/* D = alpha sum + beta C; c: NULL where it is not read. */
static void store(const Work *w, const float *sum, const void *c, void *d) {
  const Layout *in = &w->problem.of[C], *out = &w->problem.of[D];
  for (uint64_t j = 0; j < out->cols; j++) {
    for (uint64_t i = 0; i < out->rows; i++) {
      float x = w->alpha * sum[j * out->rows + i];
      if (c) x += w->beta * get(c, in->type, j * (uint64_t)in->ld + i);
      uint64_t to = j * (uint64_t)out->ld + i;
      if (out->type == CUDA_R_16BF)
        ((uint16_t *)d)[to] = to_bf16(x);
      else
        ((float *)d)[to] = x;
    }
  }
}

static size_t extent(const Layout *l) {
  return ((l->cols - 1) * (uint64_t)l->ld + l->rows) * size_of(l->type);
}

static void run(void *data) {
  const Work *w = data;
  const Problem *p = &w->problem;
  void *at[OPERANDS] = {NULL}, *workspace = NULL;
  for (int i = 0; i < OPERANDS; i++) {
    if (i == C && w->beta == 0) continue;
    at[i] = emulator_memory("cublasLtMatmul", w->at[i], extent(&p->of[i]));
    if (!at[i]) return;
  }
  if (w->workspace_bytes) {
    workspace = emulator_memory("cublasLtMatmul", w->workspace, w->workspace_bytes);
    if (!workspace) return;
    memset(workspace, 0xFF, w->algorithm.workspace);
  }
  float *a = load(at[A], &p->of[A]), *b = load(at[B], &p->of[B]), *sum = multiply(p, w->algorithm.id, a, b);
  store(w, sum, at[C], at[D]);
  free(a);
  free(b);
  free(sum);
}

/* ---- the call ---- */

/* `count` pieces of memory. */
typedef struct Span {
  uintptr_t first;
  size_t width, pitch, count;
} Span;

static Span span_of(const void *at, const Layout *l) {
  size_t size = size_of(l->type);
  return (Span){(uintptr_t)at, l->rows * size, (size_t)l->ld * size, l->cols};
}

/* Exactly: matrices may lie beside each other in the rows of a larger one. */
static bool overlap(Span x, Span y) {
  for (size_t i = 0, j = 0; i < x.count && j < y.count;) {
    uintptr_t from_x = x.first + i * x.pitch, from_y = y.first + j * y.pitch;
    if (from_x + x.width <= from_y)
      i++;
    else if (from_y + y.width <= from_x)
      j++;
    else
      return true;
  }
  return false;
}

static const char *const names[OPERANDS] = {"A", "B", "C", "D"};

static const cublasStatus_t invalid = CUBLAS_STATUS_INVALID_VALUE;

#define REFUSED(status, ...) (fprintf(stderr, "cublasLtMatmul: " __VA_ARGS__), fputc('\n', stderr), status)

static cublasStatus_t check_addresses(const Work *w) {
  const Problem *p = &w->problem;
  Span workspace = {(uintptr_t)w->workspace, w->workspace_bytes, 0, w->workspace_bytes ? 1 : 0},
       d = span_of(w->at[D], &p->of[D]);
  if (workspace.first % WORKSPACE_ALIGNMENT || (!workspace.first && workspace.count))
    return REFUSED(invalid, "%zu bytes of workspace at %p: not a multiple of %d", w->workspace_bytes,
                   w->workspace, WORKSPACE_ALIGNMENT);
  if (workspace.width < w->algorithm.workspace)
    return REFUSED(invalid, "%zu bytes of workspace, the algorithm needs %llu", workspace.width,
                   (unsigned long long)w->algorithm.workspace);
  bool in_place = w->at[C] == w->at[D];
  if (in_place && p->of[C].ld != p->of[D].ld)
    return REFUSED(invalid, "C is D, but ld is %lld and %lld", (long long)p->of[C].ld,
                   (long long)p->of[D].ld);
  for (int i = 0; i < OPERANDS; i++) {
    Span x = span_of(w->at[i], &p->of[i]);
    if (i == C && w->beta == 0 && !w->at[i]) continue;
    if (!w->at[i]) return REFUSED(invalid, "%s is NULL", names[i]);
    if (x.first % w->algorithm.align[i])
      return REFUSED(invalid, "%s at %p, but the algorithm was proposed for multiples of %u", names[i],
                     w->at[i], w->algorithm.align[i]);
    bool may_overlap = i == D || (i == C && (in_place || w->beta == 0));
    if (!may_overlap && overlap(x, d)) return REFUSED(invalid, "%s and D overlap", names[i]);
    if (overlap(x, workspace)) return REFUSED(invalid, "%s and the workspace overlap", names[i]);
  }
  return CUBLAS_STATUS_SUCCESS;
}

/* Scalars are on the host: the device's pointer mode is not known here. */
cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  Work w = {.at = {a, b, c, d}, .workspace = workspace, .workspace_bytes = workspace_bytes};
  cublasStatus_t status = describe(handle, desc, a_layout, b_layout, c_layout, d_layout, &w.problem);
  if (status != CUBLAS_STATUS_SUCCESS)
    return REFUSED(status, "the handle, description and layouts: %s", cublasLtGetStatusString(status));
  if (!alpha || !beta) return REFUSED(invalid, "alpha or beta is NULL");
  if (!read_algorithm(algo, &w.problem, &w.algorithm))
    return REFUSED(invalid, "the algorithm was not proposed for this product");
  memcpy(&w.alpha, alpha, sizeof w.alpha);
  memcpy(&w.beta, beta, sizeof w.beta);
  status = check_addresses(&w);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  Work *data = malloc(sizeof *data);
  if (!data) return CUBLAS_STATUS_ALLOC_FAILED;
  *data = w;
  return emulator_enqueue(stream, run, data) == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                                                            : CUBLAS_STATUS_EXECUTION_FAILED;
}
