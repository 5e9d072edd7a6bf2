/* cuDNN has no operation "causal attention" that could be asked for by name and that all versions from 9.15
 * on know: it recognises the graph of the elementary operations, by pattern, and runs it as one fused kernel
 * (two or three in the backward). No intermediate tensor is in memory, least of all the T x T ones. The
 * pattern is the one that NVIDIA's own front end writes; another order of the same operations may be refused.
 *
 * Tensors have four dimensions, [B, heads, T, HS]; the strides say where things really are. Of packed calls
 * a document stands for a sequence: [documents, heads, T, HS], where T is the longest one possible, where one
 * begins in memory is read from offsets (a "ragged" tensor), and rows beyond its length are masked. */
#include "ops/attention_cudnn_graph.h"

typedef CudnnDescriptor Desc;

enum { MAX_OPERATIONS = 40, MAX_ENGINES = 16 };

typedef struct Builder {
  const Cudnn *cudnn;
  CudnnHandle handle; /* or NULL */
  Desc chip;          /* or NULL */
  const AttentionShape *shape;
  const AttentionStrides *ld;
  AttentionGraph *graph;
  int64_t B;                 /* sequences, or room for documents */
  Desc q_lengths, k_lengths; /* of documents; NULL, as the offsets, unless packed */
  Desc query_offsets, key_offsets, lse_offsets;
  Desc operations[MAX_OPERATIONS];
  int operation_count;
  int64_t next_id; /* of a tensor without memory */
  bool failed;     /* then nothing more is asked for, and *error says what failed first */
  Error *error;
} Builder;

/* ---- descriptors ---- */

static bool refused(const Cudnn *cudnn, const char *what, int status, Error *e) {
  char detail[512] = "";
  cudnn->GetLastErrorString(detail, sizeof detail);
  return error_runtime(e, "cuDNN refuses %s: %s%s%s", what, cudnn->GetErrorString(status),
                       *detail ? ": " : "", detail);
}

static void check(Builder *b, const char *what, int status) {
  if (status && !b->failed) {
    b->failed = true;
    refused(b->cudnn, what, status, b->error);
  }
}

static Desc create(Builder *b, int kind) {
  Desc d = NULL;
  if (b->failed) return NULL;
  CHECK(b->graph->made_count < GRAPH_DESCRIPTORS, "attention: too many descriptors");
  check(b, "a descriptor", b->cudnn->BackendCreateDescriptor(kind, &d));
  if (!b->failed) b->graph->made[b->graph->made_count++] = d;
  return d;
}

static void set(Builder *b, Desc d, int name, int type, int64_t count, const void *values) {
  if (!b->failed) check(b, "an attribute", b->cudnn->BackendSetAttribute(d, name, type, count, values));
}

static void set_int(Builder *b, Desc d, int name, int64_t value) {
  set(b, d, name, CUDNN9_TYPE_INT64, 1, &value);
}
static void set_true(Builder *b, Desc d, int name) {
  bool yes = true;
  set(b, d, name, CUDNN9_TYPE_BOOLEAN, 1, &yes);
}
/* Enumerations of C: four bytes. */
static void set_enum(Builder *b, Desc d, int name, int type, int value) {
  set(b, d, name, type, 1, &value);
}
/* Leaves the attribute alone where value is NULL. */
static void set_desc(Builder *b, Desc d, int name, Desc value) {
  if (value) set(b, d, name, CUDNN9_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static Desc finish(Builder *b, const char *what, Desc d) {
  if (!b->failed) check(b, what, b->cudnn->BackendFinalize(d));
  return d;
}

/* ---- tensors ---- */

typedef enum Place { IN_MEMORY, NOWHERE, ON_HOST } Place;

/* offsets: of the documents in it, or NULL. */
static Desc tensor_with(Builder *b, Place place, int64_t id, int type, const int64_t dims[4],
                        const int64_t strides[4], Desc offsets) {
  Desc d = create(b, CUDNN9_BACKEND_TENSOR_DESCRIPTOR);
  set_int(b, d, CUDNN9_ATTR_TENSOR_UNIQUE_ID, place == NOWHERE ? b->next_id++ : id);
  set_enum(b, d, CUDNN9_ATTR_TENSOR_DATA_TYPE, CUDNN9_TYPE_DATA_TYPE, type);
  set(b, d, CUDNN9_ATTR_TENSOR_DIMENSIONS, CUDNN9_TYPE_INT64, 4, dims);
  set(b, d, CUDNN9_ATTR_TENSOR_STRIDES, CUDNN9_TYPE_INT64, 4, strides);
  set_int(b, d, CUDNN9_ATTR_TENSOR_BYTE_ALIGNMENT, ATTENTION_CUDNN_ALIGNMENT);
  if (place == NOWHERE) set_true(b, d, CUDNN9_ATTR_TENSOR_IS_VIRTUAL);
  if (place == ON_HOST) set_true(b, d, CUDNN9_ATTR_TENSOR_IS_BY_VALUE);
  set_desc(b, d, CUDNN9_ATTR_TENSOR_RAGGED_OFFSET_DESC, offsets);
  return finish(b, "a tensor", d);
}

static Desc tensor(Builder *b, Place place, int64_t id, int type, const int64_t dims[4],
                   const int64_t strides[4]) {
  return tensor_with(b, place, id, type, dims, strides, NULL);
}

static Desc offsets_of(Builder *b, int64_t count) {
  return count == b->shape->NH ? b->query_offsets : b->key_offsets;
}

/* Heads in rows of tokens, bf16: [B, count, T, HS]. */
static Desc heads(Builder *b, Place place, GraphTensor id, int64_t count, int64_t ld) {
  const AttentionShape *s = b->shape;
  int64_t dims[4] = {b->B, count, s->T, s->HS}, strides[4] = {s->T * ld, s->HS, ld, 1};
  return tensor_with(b, place, id, CUDNN9_DATA_BFLOAT16, dims, strides, offsets_of(b, count));
}

/* The same memory, seen as [B, count, HS, T]. */
static Desc heads_transposed(Builder *b, GraphTensor id, int64_t count, int64_t ld) {
  const AttentionShape *s = b->shape;
  int64_t dims[4] = {b->B, count, s->HS, s->T}, strides[4] = {s->T * ld, s->HS, 1, ld};
  return tensor_with(b, IN_MEMORY, id, CUDNN9_DATA_BFLOAT16, dims, strides, offsets_of(b, count));
}

/* [B, NH, T, HS] with the heads outermost. */
static Desc heads_apart(Builder *b, Place place, GraphTensor id, int type) {
  const AttentionShape *s = b->shape;
  int64_t dims[4] = {b->B, s->NH, s->T, s->HS};
  int64_t strides[4] = {s->NH * s->T * s->HS, s->T * s->HS, s->HS, 1};
  return tensor(b, place, id, type, dims, strides);
}

/* The same of documents in memory, whose rows follow each other whatever their length: in rows of tokens. */
static Desc heads_of_documents(Builder *b, GraphTensor id, int type, Desc offsets) {
  const AttentionShape *s = b->shape;
  int64_t dims[4] = {b->B, s->NH, s->T, s->HS};
  int64_t strides[4] = {s->T * s->NH * s->HS, s->HS, s->NH * s->HS, 1};
  return tensor_with(b, IN_MEMORY, id, type, dims, strides, offsets);
}

/* A number for each query, fp32: [B, NH, T, 1], which in memory is the layout of lse; of documents a row of
 * NH numbers for each token. */
static Desc rows(Builder *b, Place place, GraphTensor id) {
  const AttentionShape *s = b->shape;
  int64_t dims[4] = {b->B, s->NH, s->T, 1}, strides[4] = {s->NH * s->T, s->T, 1, 1};
  if (place == NOWHERE || !s->packed) return tensor(b, place, id, CUDNN9_DATA_FLOAT, dims, strides);
  strides[1] = 1, strides[2] = s->NH;
  return tensor_with(b, place, id, CUDNN9_DATA_FLOAT, dims, strides, b->lse_offsets);
}

/* A number for each query and key: [B, NH, T, T]. Never in memory. */
static Desc scores(Builder *b, int type) {
  const AttentionShape *s = b->shape;
  int64_t dims[4] = {b->B, s->NH, s->T, s->T}, strides[4] = {s->NH * s->T * s->T, s->T * s->T, s->T, 1};
  return tensor(b, NOWHERE, 0, type, dims, strides);
}

static Desc scores_transposed(Builder *b, int type) {
  const AttentionShape *s = b->shape;
  int64_t dims[4] = {b->B, s->NH, s->T, s->T}, strides[4] = {s->NH * s->T * s->T, s->T * s->T, 1, s->T};
  return tensor(b, NOWHERE, 0, type, dims, strides);
}

static Desc number(Builder *b, GraphTensor id) {
  const int64_t one[4] = {1, 1, 1, 1};
  return tensor(b, ON_HOST, id, CUDNN9_DATA_FLOAT, one, one);
}

/* [n] numbers in memory, n the first dimension. */
static Desc list(Builder *b, GraphTensor id, int type, int64_t n) {
  const int64_t dims[4] = {n, 1, 1, 1}, strides[4] = {1, 1, 1, 1};
  return tensor(b, IN_MEMORY, id, type, dims, strides);
}

static void describe_documents(Builder *b) {
  if (!b->shape->packed) return;
  b->q_lengths = list(b, GRAPH_Q_LENGTHS, CUDNN9_DATA_INT32, b->B);
  b->k_lengths = list(b, GRAPH_K_LENGTHS, CUDNN9_DATA_INT32, b->B);
  b->query_offsets = list(b, GRAPH_QUERY_OFFSETS, CUDNN9_DATA_INT64, b->B + 1);
  b->key_offsets = b->query_offsets;
  if (b->shape->NH != b->shape->NKV) b->key_offsets = list(b, GRAPH_KEY_OFFSETS, CUDNN9_DATA_INT64, b->B + 1);
  b->lse_offsets = list(b, GRAPH_LSE_OFFSETS, CUDNN9_DATA_INT64, b->B + 1);
}

/* ---- operations: each returns its result ---- */

static void add_operation(Builder *b, const char *what, Desc operation) {
  CHECK(b->operation_count < MAX_OPERATIONS, "attention: too many operations");
  b->operations[b->operation_count++] = finish(b, what, operation);
}

/* What a product's sizes are: [queries, keys], or the sum over one of the two with rows of the other. Of
 * documents these are their lengths. */
typedef enum Product { SCORES, SUM_OF_KEYS, SUM_OF_QUERIES } Product;

static Desc matmul(Builder *b, Product product, Desc x, Desc y, Desc out) {
  Desc how = create(b, CUDNN9_BACKEND_MATMUL_DESCRIPTOR);
  set_enum(b, how, CUDNN9_ATTR_MATMUL_COMP_TYPE, CUDNN9_TYPE_DATA_TYPE, CUDNN9_DATA_FLOAT);
  finish(b, "a product", how);
  Desc op = create(b, CUDNN9_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  set_desc(b, op, CUDNN9_ATTR_OPERATION_MATMUL_ADESC, x);
  set_desc(b, op, CUDNN9_ATTR_OPERATION_MATMUL_BDESC, y);
  set_desc(b, op, CUDNN9_ATTR_OPERATION_MATMUL_CDESC, out);
  set_desc(b, op, CUDNN9_ATTR_OPERATION_MATMUL_DESC, how);
  set_desc(b, op, CUDNN9_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC,
           product == SUM_OF_QUERIES ? b->k_lengths : b->q_lengths);
  if (product == SCORES)
    set_desc(b, op, CUDNN9_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, b->k_lengths);
  else
    set_desc(b, op, CUDNN9_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC,
             product == SUM_OF_QUERIES ? b->q_lengths : b->k_lengths);
  add_operation(b, "a product", op);
  return out;
}

enum { NO_AXIS = -1 };

/* out = mode(x, y), computed in `type`; y and where may be NULL. axis: of the modes that have one. */
static Desc pointwise(Builder *b, int mode, int type, int axis, Desc x, Desc y, Desc where, Desc out) {
  Desc how = create(b, CUDNN9_BACKEND_POINTWISE_DESCRIPTOR);
  set_enum(b, how, CUDNN9_ATTR_POINTWISE_MODE, CUDNN9_TYPE_POINTWISE_MODE, mode);
  set_enum(b, how, CUDNN9_ATTR_POINTWISE_MATH_PREC, CUDNN9_TYPE_DATA_TYPE, type);
  if (axis != NO_AXIS) set_int(b, how, CUDNN9_ATTR_POINTWISE_AXIS, axis);
  finish(b, "a pointwise operation", how);
  Desc op = create(b, CUDNN9_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  set_desc(b, op, CUDNN9_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
  set_desc(b, op, CUDNN9_ATTR_OPERATION_POINTWISE_XDESC, x);
  set_desc(b, op, CUDNN9_ATTR_OPERATION_POINTWISE_BDESC, y);
  set_desc(b, op, CUDNN9_ATTR_OPERATION_POINTWISE_TDESC, where);
  set_desc(b, op, CUDNN9_ATTR_OPERATION_POINTWISE_YDESC, out);
  add_operation(b, "a pointwise operation", op);
  return out;
}

static Desc compute(Builder *b, int mode, Desc x, Desc y, Desc out) {
  return pointwise(b, mode, CUDNN9_DATA_FLOAT, NO_AXIS, x, y, NULL, out);
}

static Desc reduce(Builder *b, int mode, Desc x, Desc out) {
  Desc how = create(b, CUDNN9_BACKEND_REDUCTION_DESCRIPTOR);
  set_enum(b, how, CUDNN9_ATTR_REDUCTION_OPERATOR, CUDNN9_TYPE_REDUCTION_OPERATOR_TYPE, mode);
  set_enum(b, how, CUDNN9_ATTR_REDUCTION_COMP_TYPE, CUDNN9_TYPE_DATA_TYPE, CUDNN9_DATA_FLOAT);
  finish(b, "a reduction", how);
  Desc op = create(b, CUDNN9_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  set_desc(b, op, CUDNN9_ATTR_OPERATION_REDUCTION_XDESC, x);
  set_desc(b, op, CUDNN9_ATTR_OPERATION_REDUCTION_YDESC, out);
  set_desc(b, op, CUDNN9_ATTR_OPERATION_REDUCTION_DESC, how);
  add_operation(b, "a reduction", op);
  return out;
}

static Desc reshape(Builder *b, Desc x, Desc out) {
  Desc op = create(b, CUDNN9_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  set_desc(b, op, CUDNN9_ATTR_OPERATION_RESHAPE_XDESC, x);
  set_desc(b, op, CUDNN9_ATTR_OPERATION_RESHAPE_YDESC, out);
  add_operation(b, "a reshape", op);
  return out;
}

/* ---- the attention ---- */

enum { QUERY_AXIS = 2, KEY_AXIS = 3 };

static Desc position(Builder *b, Desc x, int axis) {
  return pointwise(b, CUDNN9_POINTWISE_GEN_INDEX, CUDNN9_DATA_FLOAT, axis, x, NULL, NULL,
                   scores(b, CUDNN9_DATA_INT32));
}

static Desc compare(Builder *b, int mode, Desc left, Desc right) {
  return pointwise(b, mode, CUDNN9_DATA_BOOLEAN, NO_AXIS, left, right, NULL, scores(b, CUDNN9_DATA_BOOLEAN));
}

/* x where `seen`, else `masked`. */
static Desc select(Builder *b, Desc seen, Desc x, Desc masked) {
  return pointwise(b, CUDNN9_POINTWISE_BINARY_SELECT, CUDNN9_DATA_FLOAT, NO_AXIS, x, masked, seen,
                   scores(b, CUDNN9_DATA_FLOAT));
}

/* x within the document, -inf beyond its length; x itself of calls that are not packed. */
static Desc mask_lengths(Builder *b, Desc x) {
  if (!b->shape->packed) return x;
  Desc query = position(b, x, QUERY_AXIS), key = position(b, x, KEY_AXIS);
  Desc in_queries = compare(b, CUDNN9_POINTWISE_CMP_LT, query, b->q_lengths);
  Desc in_keys = compare(b, CUDNN9_POINTWISE_CMP_LT, key, b->k_lengths);
  Desc within = compare(b, CUDNN9_POINTWISE_LOGICAL_AND, in_queries, in_keys);
  return select(b, within, x, number(b, GRAPH_MASKED));
}

/* x where the query sees the key: key <= query < key + window; -inf elsewhere. */
static Desc mask(Builder *b, Desc x) {
  Desc masked = number(b, GRAPH_MASKED), query = position(b, x, QUERY_AXIS), key = position(b, x, KEY_AXIS);
  x = select(b, compare(b, CUDNN9_POINTWISE_CMP_GE, query, key), x, masked);
  if (b->shape->window == 0) return x;
  query = position(b, x, QUERY_AXIS), key = position(b, x, KEY_AXIS);
  Desc end = pointwise(b, CUDNN9_POINTWISE_ADD, CUDNN9_DATA_FLOAT, KEY_AXIS, key, number(b, GRAPH_WINDOW),
                       NULL, scores(b, CUDNN9_DATA_FLOAT));
  return select(b, compare(b, CUDNN9_POINTWISE_CMP_GT, end, query), x, masked);
}

/* o = p v with p = softmax(mask(scale q k^T)); lse = max + log(sum(exp(x - max))). */
static void forward_graph(Builder *b) {
  const AttentionShape *s = b->shape;
  const int f32 = CUDNN9_DATA_FLOAT;
  Desc q = heads(b, IN_MEMORY, GRAPH_Q, s->NH, b->ld->q);
  Desc k_t = heads_transposed(b, GRAPH_K, s->NKV, b->ld->k);
  Desc v = heads(b, IN_MEMORY, GRAPH_V, s->NKV, b->ld->v);
  Desc o = heads(b, IN_MEMORY, GRAPH_O, s->NH, s->NH * s->HS), lse = rows(b, IN_MEMORY, GRAPH_LSE);

  Desc x = matmul(b, SCORES, q, k_t, scores(b, f32));
  x = compute(b, CUDNN9_POINTWISE_MUL, x, number(b, GRAPH_SCALE), scores(b, f32));
  x = mask(b, mask_lengths(b, x));
  Desc max = reduce(b, CUDNN9_REDUCE_TENSOR_MAX, x, rows(b, NOWHERE, 0));
  x = compute(b, CUDNN9_POINTWISE_SUB, x, max, scores(b, f32));
  x = compute(b, CUDNN9_POINTWISE_EXP, x, NULL, scores(b, f32));
  Desc sum = reduce(b, CUDNN9_REDUCE_TENSOR_ADD, x, rows(b, NOWHERE, 0));
  Desc log = compute(b, CUDNN9_POINTWISE_LOG, sum, NULL, rows(b, NOWHERE, 0));
  compute(b, CUDNN9_POINTWISE_ADD, max, log, lse);
  Desc p = compute(b, CUDNN9_POINTWISE_DIV, x, sum, scores(b, CUDNN9_DATA_BFLOAT16));
  matmul(b, SUM_OF_KEYS, p, v, o);
}

/* out [B, NKV, T, HS] = x^T y, added up over the query heads that share a key/value head. all: of every query
 * head, which documents have in memory; its offsets are those of the keys, and count NH/NKV times. */
static void transposed_product(Builder *b, Desc x, Desc y, GraphTensor all, Desc out) {
  Desc x_t = reshape(b, x, scores_transposed(b, CUDNN9_DATA_BFLOAT16));
  if (b->shape->NH == b->shape->NKV) {
    matmul(b, SUM_OF_QUERIES, x_t, y, out);
    return;
  }
  Desc of_each_head = b->shape->packed ? heads_of_documents(b, all, CUDNN9_DATA_BFLOAT16, b->key_offsets)
                                       : heads_apart(b, NOWHERE, 0, CUDNN9_DATA_BFLOAT16);
  matmul(b, SUM_OF_QUERIES, x_t, y, of_each_head);
  reduce(b, CUDNN9_REDUCE_TENSOR_ADD, of_each_head, out);
}

/* p = exp(mask(scale q k^T - lse)); dv = p^T dout; ds = scale p (dout v^T - sum(dout o)); dk = ds^T q;
 * dq = ds k. */
static void backward_graph(Builder *b) {
  const AttentionShape *s = b->shape;
  const int f32 = CUDNN9_DATA_FLOAT;
  int64_t ld_o = s->NH * s->HS;
  Desc q = heads(b, IN_MEMORY, GRAPH_Q, s->NH, b->ld->q);
  Desc k_t = heads_transposed(b, GRAPH_K, s->NKV, b->ld->k);
  Desc v_t = heads_transposed(b, GRAPH_V, s->NKV, b->ld->v);
  Desc o = heads(b, IN_MEMORY, GRAPH_O, s->NH, ld_o), dout = heads(b, IN_MEMORY, GRAPH_DOUT, s->NH, ld_o);
  Desc dq = heads(b, IN_MEMORY, GRAPH_DQ, s->NH, b->ld->dq);
  Desc dk = heads(b, IN_MEMORY, GRAPH_DK, s->NKV, b->ld->dk);
  Desc dv = heads(b, IN_MEMORY, GRAPH_DV, s->NKV, b->ld->dv);
  Desc lse = rows(b, IN_MEMORY, GRAPH_LSE), scale = number(b, GRAPH_SCALE);

  Desc dot = compute(b, CUDNN9_POINTWISE_MUL, dout, o, heads_apart(b, NOWHERE, 0, f32));
  dot = reduce(b, CUDNN9_REDUCE_TENSOR_ADD, dot, rows(b, NOWHERE, 0));
  /* where the pattern has the scale of a dropout */
  dot = compute(b, CUDNN9_POINTWISE_MUL, dot, number(b, GRAPH_ONE), rows(b, IN_MEMORY, GRAPH_ROW_DOT));

  Desc x = matmul(b, SCORES, q, k_t, scores(b, f32));
  x = mask_lengths(b, compute(b, CUDNN9_POINTWISE_MUL, x, scale, scores(b, f32)));
  x = compute(b, CUDNN9_POINTWISE_SUB, x, lse, scores(b, f32));
  Desc p = compute(b, CUDNN9_POINTWISE_EXP, mask(b, x), NULL, scores(b, f32));
  transposed_product(b, p, dout, GRAPH_DV_ALL, dv);

  Desc ds = matmul(b, SCORES, dout, v_t, scores(b, f32));
  ds = compute(b, CUDNN9_POINTWISE_SUB, ds, dot, scores(b, f32));
  ds = compute(b, CUDNN9_POINTWISE_MUL, ds, p, scores(b, f32));
  ds = compute(b, CUDNN9_POINTWISE_MUL, ds, scale, scores(b, f32));
  transposed_product(b, ds, q, GRAPH_DK_ALL, dk);

  Desc k = reshape(b, k_t, heads(b, NOWHERE, 0, s->NKV, b->ld->k));
  Desc sum = s->packed ? heads_of_documents(b, GRAPH_DQ_SUM, f32, b->query_offsets)
                       : heads_apart(b, IN_MEMORY, GRAPH_DQ_SUM, f32);
  matmul(b, SUM_OF_KEYS, ds, k, sum);
  compute(b, CUDNN9_POINTWISE_IDENTITY, sum, NULL, dq);
}

/* ---- plans ---- */

/* The engines that cuDNN proposes for the graph, best first. */
static int64_t propose_engines(Builder *b, Desc engines[MAX_ENGINES]) {
  Desc graph = create(b, CUDNN9_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  set(b, graph, CUDNN9_ATTR_OPERATIONGRAPH_OPS, CUDNN9_TYPE_BACKEND_DESCRIPTOR, b->operation_count,
      b->operations);
  if (b->handle) set(b, graph, CUDNN9_ATTR_OPERATIONGRAPH_HANDLE, CUDNN9_TYPE_HANDLE, 1, &b->handle);
  finish(b, "the graph of the attention", graph);
  Desc heuristics = create(b, CUDNN9_BACKEND_ENGINEHEUR_DESCRIPTOR);
  set_desc(b, heuristics, CUDNN9_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  set_enum(b, heuristics, CUDNN9_ATTR_ENGINEHEUR_MODE, CUDNN9_TYPE_HEUR_MODE, CUDNN9_HEUR_MODE_A);
  set_desc(b, heuristics, CUDNN9_ATTR_ENGINEHEUR_DEVICEPROP, b->chip);
  finish(b, "to look for engines", heuristics);
  for (int i = 0; i < MAX_ENGINES; i++) engines[i] = create(b, CUDNN9_BACKEND_ENGINECFG_DESCRIPTOR);
  int64_t count = 0;
  if (!b->failed)
    check(b, "to name engines",
          b->cudnn->BackendGetAttribute(heuristics, CUDNN9_ATTR_ENGINEHEUR_RESULTS,
                                        CUDNN9_TYPE_BACKEND_DESCRIPTOR, MAX_ENGINES, &count, engines));
  return b->failed ? 0 : count;
}

/* False, with an error, when the engine does not work for this graph after all. */
static bool try_engine(Builder *b, Desc engine) {
  Desc plan = create(b, CUDNN9_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  set_desc(b, plan, CUDNN9_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, engine);
  if (b->handle) set(b, plan, CUDNN9_ATTR_EXECUTION_PLAN_HANDLE, CUDNN9_TYPE_HANDLE, 1, &b->handle);
  set_desc(b, plan, CUDNN9_ATTR_EXECUTION_PLAN_DEVICEPROP, b->chip);
  finish(b, "the plan of an attention", plan);
  int64_t count;
  if (!b->failed)
    check(b, "to tell a plan's workspace",
          b->cudnn->BackendGetAttribute(plan, CUDNN9_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN9_TYPE_INT64, 1,
                                        &count, &b->graph->workspace_bytes));
  b->graph->plan = plan;
  return !b->failed;
}

bool attention_graph_open(AttentionGraph *graph, const Cudnn *cudnn, CudnnHandle handle, CudnnDescriptor chip,
                          const AttentionCall *call, Error *e) {
  Builder b = {.cudnn = cudnn,
               .handle = handle,
               .chip = chip,
               .shape = &call->shape,
               .ld = &call->ld,
               .B = call->shape.packed ? attention_documents_room(&call->shape) : call->shape.B,
               .graph = graph,
               .next_id = 1000,
               .error = e};
  *graph = (AttentionGraph){0};
  describe_documents(&b);
  (call->backward ? backward_graph : forward_graph)(&b);
  Desc engines[MAX_ENGINES];
  int64_t count = propose_engines(&b, engines);
  if (!b.failed && count == 0) {
    b.failed = true;
    error_runtime(e, "cuDNN has no engine for this attention on this chip");
  }
  for (int64_t i = 0; i < count; i++) {
    b.failed = false;
    if (try_engine(&b, engines[i])) break;
  }
  if (b.failed) attention_graph_close(graph, cudnn);
  return !b.failed;
}

void attention_graph_close(AttentionGraph *graph, const Cudnn *cudnn) {
  while (graph->made_count > 0) cudnn->BackendDestroyDescriptor(graph->made[--graph->made_count]);
  *graph = (AttentionGraph){0};
}

bool attention_graph_run(const AttentionGraph *graph, const Cudnn *cudnn, CudnnHandle handle,
                         void *const pointers[GRAPH_TENSORS], void *workspace, Error *e) {
  int64_t ids[GRAPH_TENSORS], count = 0;
  void *bound[GRAPH_TENSORS];
  for (int64_t id = 1; id < GRAPH_TENSORS; id++)
    if (pointers[id]) ids[count] = id, bound[count++] = pointers[id];
  Desc pack = NULL;
  int status = cudnn->BackendCreateDescriptor(CUDNN9_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
  if (!status)
    status =
        cudnn->BackendSetAttribute(pack, CUDNN9_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN9_TYPE_INT64, count, ids);
  if (!status)
    status = cudnn->BackendSetAttribute(pack, CUDNN9_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN9_TYPE_VOID_PTR,
                                        count, bound);
  if (!status)
    status = cudnn->BackendSetAttribute(pack, CUDNN9_ATTR_VARIANT_PACK_WORKSPACE, CUDNN9_TYPE_VOID_PTR, 1,
                                        &workspace);
  if (!status) status = cudnn->BackendFinalize(pack);
  if (!status) status = cudnn->BackendExecute(handle, graph->plan, pack);
  if (status) refused(cudnn, "to run the attention", status, e);
  if (pack) cudnn->BackendDestroyDescriptor(pack);
  return !status;
}
