/* A stand-in for cuDNN that does what a graph of operations says, one after the other, in double: what the
 * graph means is then known without a GPU. Tensors are addressed by their strides, those without memory too,
 * so that a reshape is another view of the same addresses. What lies beyond the length of a document is NaN
 * to who reads it, and is never written. */
#ifndef FAKE_CUDNN_CUH
#define FAKE_CUDNN_CUH

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device/cudnn_api.h"
#include "device/group.cuh"            // defines: bf16, value, store
#include "ops/attention_cudnn_graph.h" // defines: GraphTensor

#ifndef FAKE_MEMORY
#define FAKE_MEMORY(p) (p) /* where the host finds memory that a pack names */
#endif

enum { FAKE_ATTRIBUTES = 8, FAKE_BYTES = 512, FAKE_WORKSPACE = 1000 };

typedef struct FakeAttribute {
  int name;
  int64_t count;
  char bytes[FAKE_BYTES];
} FakeAttribute;

typedef struct FakeDescriptor {
  int kind, count;
  FakeAttribute attributes[FAKE_ATTRIBUTES];
  double *numbers; /* of a tensor without memory, by address */
} FakeDescriptor;

/* ---- descriptors ---- */

static int fake_create(int kind, CudnnDescriptor *d) {
  FakeDescriptor *f = (FakeDescriptor *)calloc(1, sizeof *f);
  CHECK(f, "out of memory");
  f->kind = kind;
  *d = f;
  return 0;
}

static int fake_destroy(CudnnDescriptor d) {
  free(((FakeDescriptor *)d)->numbers);
  free(d);
  return 0;
}

static int fake_set(CudnnDescriptor d, int name, int type, int64_t count, const void *values) {
  FakeDescriptor *f = (FakeDescriptor *)d;
  size_t size = type == CUDNN9_TYPE_BOOLEAN                                                         ? 1
                : type == CUDNN9_TYPE_DATA_TYPE || type == CUDNN9_TYPE_HEUR_MODE                    ? 4
                : type == CUDNN9_TYPE_POINTWISE_MODE || type == CUDNN9_TYPE_REDUCTION_OPERATOR_TYPE ? 4
                                                                                                    : 8;
  CHECK(f->count < FAKE_ATTRIBUTES && size * (size_t)count <= FAKE_BYTES, "attribute %d", name);
  FakeAttribute *a = &f->attributes[f->count++];
  a->name = name;
  a->count = count;
  memcpy(a->bytes, values, size * (size_t)count);
  return 0;
}

/* NULL when it was not set */
static const void *fake_value(const FakeDescriptor *f, int name) {
  for (int i = 0; i < f->count; i++)
    if (f->attributes[i].name == name) return f->attributes[i].bytes;
  return NULL;
}

static int fake_number(const FakeDescriptor *f, int name) {
  int n;
  memcpy(&n, fake_value(f, name), sizeof n);
  return n;
}

static FakeDescriptor *fake_link(const FakeDescriptor *f, int name) {
  FakeDescriptor *other = NULL;
  const void *value = fake_value(f, name);
  if (value) memcpy(&other, value, sizeof other);
  return other;
}

/* One engine, which is the graph; a plan's workspace. */
static int fake_get(CudnnDescriptor d, int name, int type, int64_t room, int64_t *count, void *values) {
  FakeDescriptor *f = (FakeDescriptor *)d;
  (void)type, (void)room;
  *count = 1;
  if (name == CUDNN9_ATTR_ENGINEHEUR_RESULTS) {
    FakeDescriptor *graph = fake_link(f, CUDNN9_ATTR_ENGINEHEUR_OPERATION_GRAPH);
    return fake_set(*(CudnnDescriptor *)values, CUDNN9_ATTR_ENGINEHEUR_OPERATION_GRAPH,
                    CUDNN9_TYPE_BACKEND_DESCRIPTOR, 1, &graph);
  }
  CHECK(name == CUDNN9_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, "attribute %d", name);
  *(int64_t *)values = FAKE_WORKSPACE;
  return 0;
}

static int fake_finalize(CudnnDescriptor) {
  return 0;
}

/* ---- tensors ---- */

typedef struct FakeTensor {
  int64_t dims[4], strides[4];
  const int64_t *offsets; /* where each document begins in it, in units of `unit` elements; NULL: none */
  int64_t unit;
  int type;
  void *memory; /* NULL: numbers */
  double *numbers;
} FakeTensor;

/* What the pack binds to a tensor. */
static void *fake_bound(int64_t id, const FakeDescriptor *pack) {
  const int64_t *ids = (const int64_t *)fake_value(pack, CUDNN9_ATTR_VARIANT_PACK_UNIQUE_IDS);
  void *const *pointers = (void *const *)fake_value(pack, CUDNN9_ATTR_VARIANT_PACK_DATA_POINTERS);
  int64_t count = 0;
  for (int i = 0; i < pack->count; i++)
    if (pack->attributes[i].name == CUDNN9_ATTR_VARIANT_PACK_UNIQUE_IDS) count = pack->attributes[i].count;
  for (int64_t i = 0; i < count; i++)
    if (ids[i] == id) return FAKE_MEMORY(pointers[i]);
  PANIC("tensor %lld is bound to nothing", (long long)id);
}

static int64_t fake_id(const FakeDescriptor *f) {
  int64_t id;
  memcpy(&id, fake_value(f, CUDNN9_ATTR_TENSOR_UNIQUE_ID), sizeof id);
  return id;
}
static void *fake_memory(const FakeDescriptor *f, const FakeDescriptor *pack) {
  return fake_bound(fake_id(f), pack);
}

/* cuDNN's convention: dk and dv of every query head have the offsets of the keys, which count once for every
 * query head of a group. */
static int64_t fake_unit(const FakeTensor *t, int64_t id, const FakeDescriptor *pack) {
  if (id != GRAPH_DK_ALL && id != GRAPH_DV_ALL) return 1;
  return t->strides[2] * ((const int32_t *)fake_bound(GRAPH_K_LENGTHS, pack))[0] / t->offsets[1];
}

static FakeTensor fake_tensor(FakeDescriptor *f, const FakeDescriptor *pack) {
  FakeTensor t = {};
  int64_t last = 0;
  memcpy(t.dims, fake_value(f, CUDNN9_ATTR_TENSOR_DIMENSIONS), sizeof t.dims);
  memcpy(t.strides, fake_value(f, CUDNN9_ATTR_TENSOR_STRIDES), sizeof t.strides);
  t.type = fake_number(f, CUDNN9_ATTR_TENSOR_DATA_TYPE);
  if (fake_value(f, CUDNN9_ATTR_TENSOR_IS_VIRTUAL)) {
    for (int i = 0; i < 4; i++) last += (t.dims[i] - 1) * t.strides[i];
    if (!f->numbers) f->numbers = (double *)calloc((size_t)last + 1, sizeof(double));
    t.numbers = f->numbers;
    return t;
  }
  t.memory = fake_memory(f, pack);
  FakeDescriptor *offsets = fake_link(f, CUDNN9_ATTR_TENSOR_RAGGED_OFFSET_DESC);
  if (offsets) {
    CHECK(fake_number(offsets, CUDNN9_ATTR_TENSOR_DATA_TYPE) == CUDNN9_DATA_INT64, "type of offsets");
    t.offsets = (const int64_t *)fake_memory(offsets, pack);
    t.unit = fake_unit(&t, fake_id(f), pack);
  }
  return t;
}

enum { FAKE_OUTSIDE = -1 };

/* Tokens of a document, by the offsets. Tokens are along the third dimension, or the fourth of a tensor that
 * is seen transposed. */
static int fake_token_axis(const FakeTensor *t) {
  return t->dims[3] > 1 && t->strides[2] == 1 ? 3 : 2;
}
static int64_t fake_tokens(const FakeTensor *t, int64_t document) {
  return (t->offsets[document + 1] - t->offsets[document]) * t->unit / t->strides[fake_token_axis(t)];
}

/* Where the element is, of a tensor that may be smaller than `dims` is: query heads that share a key/value
 * head, a number for a whole row. FAKE_OUTSIDE beyond the end of a document. */
static int64_t fake_address(const FakeTensor *t, const int64_t dims[4], const int64_t at[4]) {
  int64_t address = 0;
  for (int i = 0; i < 4; i++) {
    int64_t index = at[i] * t->dims[i] / dims[i];
    if (t->offsets && i == fake_token_axis(t) && index >= fake_tokens(t, at[0])) return FAKE_OUTSIDE;
    address += t->offsets && i == 0 ? t->offsets[index] * t->unit : index * t->strides[i];
  }
  return address;
}

static double fake_load(const FakeTensor *t, int64_t address) {
  if (address == FAKE_OUTSIDE) return NAN;
  if (!t->memory) return t->numbers[address];
  if (t->type == CUDNN9_DATA_INT32) return ((const int32_t *)t->memory)[address];
  return t->type == CUDNN9_DATA_BFLOAT16 ? value(((const bf16 *)t->memory)[address])
                                         : ((const float *)t->memory)[address];
}

static void fake_store(FakeTensor *t, int64_t address, double x) {
  bf16 rounded;
  if (address == FAKE_OUTSIDE) return;
  store(&rounded, (float)x);
  if (!t->memory)
    t->numbers[address] = t->type == CUDNN9_DATA_BFLOAT16 ? value(rounded) : x;
  else if (t->type == CUDNN9_DATA_BFLOAT16)
    ((bf16 *)t->memory)[address] = rounded;
  else
    ((float *)t->memory)[address] = (float)x;
}

/* Moves on to the next element; false after the last. */
static bool fake_next(const int64_t dims[4], int64_t at[4]) {
  for (int i = 3; i >= 0; i--) {
    if (++at[i] < dims[i]) return true;
    at[i] = 0;
  }
  return false;
}

/* ---- operations ---- */

/* A size of a product: of each document its own, where the operation says so. */
typedef struct FakeSize {
  int64_t whole;
  const int32_t *lengths; /* NULL: whole */
} FakeSize;

static FakeSize fake_size(const FakeDescriptor *op, int name, int64_t whole, const FakeDescriptor *pack) {
  const FakeDescriptor *lengths = fake_link(op, name);
  return FakeSize{whole, lengths ? (const int32_t *)fake_memory(lengths, pack) : NULL};
}
static int64_t fake_size_of(FakeSize size, int64_t document) {
  return size.lengths ? size.lengths[document] : size.whole;
}

static void fake_matmul(FakeTensor *x, FakeTensor *y, FakeTensor *out, const FakeDescriptor *op,
                        const FakeDescriptor *pack) {
  int64_t at[4] = {0}, K = x->dims[3];
  FakeSize m = fake_size(op, CUDNN9_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, out->dims[2], pack);
  FakeSize n = fake_size(op, CUDNN9_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, out->dims[3], pack);
  FakeSize inner = fake_size(op, CUDNN9_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, K, pack);
  int64_t x_dims[4] = {out->dims[0], out->dims[1], out->dims[2], K};
  int64_t y_dims[4] = {out->dims[0], out->dims[1], K, out->dims[3]};
  CHECK(y->dims[2] == K && x->dims[2] == out->dims[2] && y->dims[3] == out->dims[3], "shapes of a product");
  do {
    bool inside = at[2] < fake_size_of(m, at[0]) && at[3] < fake_size_of(n, at[0]);
    double sum = inside ? 0 : NAN;
    for (int64_t k = 0; inside && k < fake_size_of(inner, at[0]); k++) {
      int64_t x_at[4] = {at[0], at[1], at[2], k}, y_at[4] = {at[0], at[1], k, at[3]};
      sum += fake_load(x, fake_address(x, x_dims, x_at)) * fake_load(y, fake_address(y, y_dims, y_at));
    }
    fake_store(out, fake_address(out, out->dims, at), sum);
  } while (fake_next(out->dims, at));
}

static double fake_compute(int mode, double x, double y, bool where, int64_t index) {
  switch (mode) {
  case CUDNN9_POINTWISE_ADD: return x + y;
  case CUDNN9_POINTWISE_SUB: return x - y;
  case CUDNN9_POINTWISE_MUL: return x * y;
  case CUDNN9_POINTWISE_DIV: return x / y;
  case CUDNN9_POINTWISE_EXP: return exp(x);
  case CUDNN9_POINTWISE_LOG: return log(x);
  case CUDNN9_POINTWISE_IDENTITY: return x;
  case CUDNN9_POINTWISE_CMP_GT: return x > y;
  case CUDNN9_POINTWISE_CMP_GE: return x >= y;
  case CUDNN9_POINTWISE_CMP_LT: return x < y;
  case CUDNN9_POINTWISE_LOGICAL_AND: return x != 0 && y != 0;
  case CUDNN9_POINTWISE_BINARY_SELECT: return where ? x : y;
  case CUDNN9_POINTWISE_GEN_INDEX: return (double)index;
  default: PANIC("pointwise mode %d", mode);
  }
}

static void fake_pointwise(const FakeDescriptor *op, FakeTensor *x, const FakeDescriptor *pack) {
  const FakeDescriptor *how = fake_link(op, CUDNN9_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
  FakeDescriptor *second = fake_link(op, CUDNN9_ATTR_OPERATION_POINTWISE_BDESC);
  FakeDescriptor *third = fake_link(op, CUDNN9_ATTR_OPERATION_POINTWISE_TDESC);
  FakeTensor y = second ? fake_tensor(second, pack) : *x, where = third ? fake_tensor(third, pack) : *x;
  FakeTensor out = fake_tensor(fake_link(op, CUDNN9_ATTR_OPERATION_POINTWISE_YDESC), pack);
  int64_t at[4] = {0}, axis = 0;
  const void *given = fake_value(how, CUDNN9_ATTR_POINTWISE_AXIS);
  if (given) memcpy(&axis, given, sizeof axis);
  do {
    double a = fake_load(x, fake_address(x, out.dims, at)), b = fake_load(&y, fake_address(&y, out.dims, at));
    bool seen = fake_load(&where, fake_address(&where, out.dims, at)) != 0;
    fake_store(&out, fake_address(&out, out.dims, at),
               fake_compute(fake_number(how, CUDNN9_ATTR_POINTWISE_MODE), a, b, seen, at[axis]));
  } while (fake_next(out.dims, at));
}

static void fake_reduce(int mode, FakeTensor *x, FakeTensor *out) {
  int64_t at[4] = {0};
  bool is_max = mode == CUDNN9_REDUCE_TENSOR_MAX;
  size_t count = (size_t)(out->dims[0] * out->dims[1] * out->dims[2] * out->dims[3]);
  double *sums = (double *)malloc(count * sizeof *sums);
  for (size_t i = 0; i < count; i++) sums[i] = is_max ? -INFINITY : 0;
  FakeTensor packed = *out; /* the partial results, in double and without gaps */
  packed.offsets = NULL;
  for (int64_t i = 3, stride = 1; i >= 0; stride *= out->dims[i--]) packed.strides[i] = stride;
  do {
    double a = fake_load(x, fake_address(x, x->dims, at)), *sum = &sums[fake_address(&packed, x->dims, at)];
    *sum = is_max ? fmax(*sum, a) : *sum + a;
  } while (fake_next(x->dims, at));
  do {
    fake_store(out, fake_address(out, out->dims, at), sums[fake_address(&packed, out->dims, at)]);
  } while (fake_next(out->dims, at));
  free(sums);
}

/* The same addresses with rows and columns exchanged. */
static void fake_reshape(FakeTensor *x, FakeTensor *out) {
  int64_t at[4] = {0};
  do {
    int64_t from[4] = {at[0], at[1], at[3], at[2]};
    fake_store(out, fake_address(out, out->dims, at), fake_load(x, fake_address(x, x->dims, from)));
  } while (fake_next(out->dims, at));
}

static void fake_run(const FakeDescriptor *op, const FakeDescriptor *pack) {
  switch (op->kind) {
  case CUDNN9_BACKEND_OPERATION_MATMUL_DESCRIPTOR: {
    FakeTensor x = fake_tensor(fake_link(op, CUDNN9_ATTR_OPERATION_MATMUL_ADESC), pack);
    FakeTensor y = fake_tensor(fake_link(op, CUDNN9_ATTR_OPERATION_MATMUL_BDESC), pack);
    FakeTensor out = fake_tensor(fake_link(op, CUDNN9_ATTR_OPERATION_MATMUL_CDESC), pack);
    fake_matmul(&x, &y, &out, op, pack);
    break;
  }
  case CUDNN9_BACKEND_OPERATION_POINTWISE_DESCRIPTOR: {
    FakeTensor x = fake_tensor(fake_link(op, CUDNN9_ATTR_OPERATION_POINTWISE_XDESC), pack);
    fake_pointwise(op, &x, pack);
    break;
  }
  case CUDNN9_BACKEND_OPERATION_REDUCTION_DESCRIPTOR: {
    FakeTensor x = fake_tensor(fake_link(op, CUDNN9_ATTR_OPERATION_REDUCTION_XDESC), pack);
    FakeTensor out = fake_tensor(fake_link(op, CUDNN9_ATTR_OPERATION_REDUCTION_YDESC), pack);
    const FakeDescriptor *how = fake_link(op, CUDNN9_ATTR_OPERATION_REDUCTION_DESC);
    fake_reduce(fake_number(how, CUDNN9_ATTR_REDUCTION_OPERATOR), &x, &out);
    break;
  }
  case CUDNN9_BACKEND_OPERATION_RESHAPE_DESCRIPTOR: {
    FakeTensor x = fake_tensor(fake_link(op, CUDNN9_ATTR_OPERATION_RESHAPE_XDESC), pack);
    FakeTensor out = fake_tensor(fake_link(op, CUDNN9_ATTR_OPERATION_RESHAPE_YDESC), pack);
    fake_reshape(&x, &out);
    break;
  }
  default: PANIC("operation of kind %d", op->kind);
  }
}

/* Fills the plan's own workspace, which is its to spoil. */
static int fake_execute(CudnnHandle, CudnnDescriptor plan, CudnnDescriptor pack) {
  const FakeDescriptor *p = (FakeDescriptor *)pack;
  void *workspace;
  memcpy(&workspace, fake_value(p, CUDNN9_ATTR_VARIANT_PACK_WORKSPACE), sizeof workspace);
  memset(FAKE_MEMORY(workspace), 0xff, FAKE_WORKSPACE);
  const FakeDescriptor *engine = fake_link((FakeDescriptor *)plan, CUDNN9_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
  const FakeDescriptor *graph = fake_link(engine, CUDNN9_ATTR_ENGINEHEUR_OPERATION_GRAPH);
  for (int i = 0; i < graph->count; i++) {
    const FakeAttribute *a = &graph->attributes[i];
    if (a->name != CUDNN9_ATTR_OPERATIONGRAPH_OPS) continue;
    for (int64_t o = 0; o < a->count; o++) fake_run(((FakeDescriptor *const *)a->bytes)[o], p);
  }
  return 0;
}

/* ---- the library ---- */

static size_t fake_version_number = CUDNN_OLDEST_PACKED;
static size_t fake_version(void) {
  return fake_version_number;
}
static const char *fake_error(int) {
  return "a fake error";
}
static void fake_last_error(char *text, size_t) {
  *text = 0;
}
static int fake_open(CudnnHandle *handle) {
  *handle = (void *)fake_error;
  return 0;
}
static int fake_close(CudnnHandle) {
  return 0;
}
static int fake_stream(CudnnHandle, void *) {
  return 0;
}

static inline void fake_cudnn(Cudnn *cudnn) {
  cudnn->GetVersion = cudnn->GetCudartVersion = fake_version;
  cudnn->GetErrorString = fake_error;
  cudnn->GetLastErrorString = fake_last_error;
  cudnn->Create = fake_open;
  cudnn->Destroy = fake_close;
  cudnn->SetStream = fake_stream;
  cudnn->BackendCreateDescriptor = fake_create;
  cudnn->BackendDestroyDescriptor = fake_destroy;
  cudnn->BackendSetAttribute = fake_set;
  cudnn->BackendGetAttribute = fake_get;
  cudnn->BackendFinalize = fake_finalize;
  cudnn->BackendExecute = fake_execute;
}

#endif
