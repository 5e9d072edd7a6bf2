#include "ops/attention_cudnn.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ops/attention_cudnn_graph.h" /* defines: AttentionGraph, attention_graph_open, attention_graph_run */
#include "ops/attention_documents.h"   /* defines: DocumentList, attention_document_list */
#include "ops/convert.h"               /* defines: copy_columns */

struct AttentionPlan {
  AttentionCall call;
  AttentionGraph graph; /* without a plan where cuDNN refused */
  Error refusal;
  AttentionPlan *next;
};

struct AttentionCudnn {
  Cudnn cudnn;
  CudnnHandle handle;   /* NULL when the chip is not here */
  CudnnDescriptor chip; /* NULL when it is */
  AttentionPlan *plans;
};

/* ---- what cuDNN can be given ---- */

static bool strides_fit(const AttentionCall *call) {
  const AttentionStrides *ld = &call->ld;
  const int64_t strides[] = {ld->q, ld->k, ld->v, ld->dq, ld->dk, ld->dv};
  for (int i = 0; i < (call->backward ? 6 : 3); i++)
    if (strides[i] <= 0 || strides[i] % (ATTENTION_CUDNN_ALIGNMENT / 2) != 0) return false;
  return true;
}

/* One token alone is not supported; up to 128 are for engines of another kind, and not worth a plan. */
enum { SHORTEST_T = 256 };

/* Only chips of compute capability 9.0 have a backward for heads of more than 128. */
static int64_t largest_head(int capability, bool backward) {
  return backward && capability != 90 ? 128 : 256;
}

/* The engines of Ampere, which Ada and the Blackwell of workstations (12.x) share. */
static bool is_ampere(int capability) {
  return capability < 90 || capability >= 120;
}

/* The others' backward asks for memory as if every document had T tokens. */
static bool takes_documents(int capability) {
  return capability / 10 == 9 || capability / 10 == 10;
}

bool attention_cudnn_supports(int capability, DType dt, const AttentionCall *call, bool deterministic,
                              Error *why) {
  const AttentionShape *s = &call->shape;
  const char *pass = call->backward ? "backward" : "forward";
  int64_t largest = largest_head(capability, call->backward);
  if (dt != DT_BF16) /* a plan in fp32 is accepted, and overwrites memory that is not its own */
    return error_usage(why, "cuDNN's attention is for bf16, not for %s", dtype_name(dt));
  if (capability < 80)
    return error_usage(why, "cuDNN's attention needs compute capability 8.0, not %d.%d", capability / 10,
                       capability % 10);
  if (s->packed && !takes_documents(capability))
    return error_usage(
        why, "cuDNN's attention of packed documents needs compute capability 9.x or 10.x, not %d.%d",
        capability / 10, capability % 10);
  if (s->T < SHORTEST_T)
    return error_usage(why, "cuDNN's attention is for %d tokens or more, not %lld", SHORTEST_T,
                       (long long)s->T);
  if (s->HS % 8 != 0 || s->HS > largest)
    return error_usage(why, "cuDNN's attention %s takes head sizes up to %lld here, in steps of 8, not %lld",
                       pass, (long long)largest, (long long)s->HS);
  if (!strides_fit(call)) return error_usage(why, "cuDNN's attention needs rows at a multiple of 16 bytes");
  if (s->packed && deterministic)
    return error_usage(why,
                       "the backward that gives the same bits does not read cuDNN's log-sum-exp of packed "
                       "documents");
  if (call->backward && deterministic)
    return error_usage(why, "cuDNN's attention backward adds in an order that differs from run to run");
  return true;
}

/* ---- workspace ---- */

static size_t padded(size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

static size_t dq_sum_bytes(const AttentionShape *s) {
  return padded((size_t)(s->B * s->NH * s->T * s->HS) * sizeof(float));
}

static size_t row_dot_bytes(const AttentionShape *s) {
  return padded((size_t)(s->B * s->NH * s->T) * sizeof(float));
}

static size_t heads_bytes(const AttentionShape *s, int64_t heads) {
  return padded((size_t)(s->B * s->T * heads * s->HS) * dtype_size(DT_BF16));
}

/* A call's workspace: cuDNN's own, the buffers that it leaves to its caller, and of packed documents the
 * operands in rows of their own. That is how everyone gives them to cuDNN; in rows of qkv the buffers in
 * which dk and dv of every query head lie, whose strides follow from those of dk and dv, would be several
 * times as large. */
typedef struct Workspace {
  char *own, *dq_sum, *dk_all, *dv_all, *row_dot, *q, *k, *v, *dq, *dk, *dv; /* NULL where there is none */
  size_t bytes;
} Workspace;

static Workspace workspace_of(const AttentionCall *call, size_t own, char *memory) {
  const AttentionShape *s = &call->shape;
  bool grouped = s->NH != s->NKV;
  Workspace w = {0};
  size_t q = s->packed ? heads_bytes(s, s->NH) : 0, k = s->packed ? heads_bytes(s, s->NKV) : 0;
  size_t all = call->backward && grouped ? q : 0;
  struct {
    char **at;
    size_t bytes;
  } parts[] = {{&w.own, padded(own)},
               {&w.dq_sum, call->backward ? dq_sum_bytes(s) : 0},
               {&w.dk_all, all},
               {&w.dv_all, all},
               {&w.row_dot, call->backward ? row_dot_bytes(s) : 0},
               {&w.q, q},
               {&w.k, k},
               {&w.v, k},
               {&w.dq, call->backward ? q : 0},
               {&w.dk, call->backward ? k : 0},
               {&w.dv, call->backward ? k : 0}};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    if (memory && (parts[i].bytes || i == 0)) *parts[i].at = memory + w.bytes;
    w.bytes += parts[i].bytes;
  }
  return w;
}

/* cuDNN's own of packed documents: descriptions of each one's operands, for Hopper's and Blackwell's copies.
 */
static size_t packed_own(const AttentionCall *call) {
  size_t room = (size_t)attention_documents_room(&call->shape);
  if (call->backward) return room / 2 * 896 + room * 4 + 1152;
  return (room > 64 ? room : 64) * 260 + 768;
}

/* Engines: those of Hopper; those of Ampere, which add dq up once more; those of the large Blackwell. */
size_t attention_cudnn_workspace(int capability, const AttentionCall *call) {
  const AttentionShape *s = &call->shape;
  if (s->packed) return workspace_of(call, packed_own(call), NULL).bytes;
  bool hopper = capability == 90, ampere = is_ampere(capability);
  size_t rows = (size_t)(s->B * s->NH), head = (size_t)s->HS, own = hopper ? 256 : 0;
  bool grouped = s->NH != s->NKV;
  if (!call->backward) return workspace_of(call, own, NULL).bytes;
  if (grouped) own += 2 * rows * (size_t)s->T * head * dtype_size(DT_BF16); /* dk and dv of each query head */
  if (ampere) own += rows * (size_t)((s->T + 7) / 8 * 8) * head * sizeof(float);
  if (!hopper && own > 0) own += 128;
  return workspace_of(call, own, NULL).bytes;
}

/* ---- the library ---- */

static AttentionCudnn *open_library(Error *e) {
  AttentionCudnn *a = calloc(1, sizeof *a);
  CHECK(a, "out of memory for cuDNN");
  if (cudnn_open(&a->cudnn, e)) return a;
  free(a);
  return NULL;
}

static AttentionCudnn *fail(AttentionCudnn *a, const char *what, int status, Error *e) {
  error_runtime(e, "cuDNN refuses %s: %s", what, a->cudnn.GetErrorString(status));
  attention_cudnn_close(a);
  return NULL;
}

AttentionCudnn *attention_cudnn_open(void *stream, Error *e) {
  AttentionCudnn *a = open_library(e);
  if (!a) return NULL;
  int status = a->cudnn.Create(&a->handle);
  if (!status) status = a->cudnn.SetStream(a->handle, stream);
  return status ? fail(a, "the GPU", status, e) : a;
}

AttentionCudnn *attention_cudnn_open_chip(const char *description, Error *e) {
  AttentionCudnn *a = open_library(e);
  if (!a) return NULL;
  const Cudnn *c = &a->cudnn;
  int status = c->BackendCreateDescriptor(CUDNN9_BACKEND_DEVICEPROP_DESCRIPTOR, &a->chip);
  if (!status)
    status = c->BackendSetAttribute(a->chip, CUDNN9_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN9_TYPE_CHAR,
                                    (int64_t)strlen(description), description);
  if (!status) status = c->BackendFinalize(a->chip);
  return status ? fail(a, "the description of a chip", status, e) : a;
}

void attention_cudnn_close(AttentionCudnn *a) {
  if (!a) return;
  while (a->plans) {
    AttentionPlan *p = a->plans;
    a->plans = p->next;
    attention_graph_close(&p->graph, &a->cudnn);
    free(p);
  }
  if (a->chip) a->cudnn.BackendDestroyDescriptor(a->chip);
  if (a->handle) a->cudnn.Destroy(a->handle);
  free(a);
}

/* ---- plans ---- */

/* Calls that are the same to cuDNN become equal. */
static AttentionCall normal(const AttentionCall *call) {
  AttentionCall c = *call;
  c.shape.scale = 0;
  if (c.shape.window >= c.shape.T) c.shape.window = 0; /* no query is short of it */
  if (c.shape.packed) {                                /* they are copied into rows of their own */
    c.ld.q = c.ld.dq = c.shape.NH * c.shape.HS;
    c.ld.k = c.ld.v = c.ld.dk = c.ld.dv = c.shape.NKV * c.shape.HS;
  }
  if (!c.backward) c.ld.dq = c.ld.dk = c.ld.dv = 0;
  return c;
}

static bool same_shape(const AttentionShape *s, const AttentionShape *t) {
  return s->B == t->B && s->T == t->T && s->NH == t->NH && s->NKV == t->NKV && s->HS == t->HS &&
         s->window == t->window && s->packed == t->packed;
}

static bool same_strides(const AttentionStrides *l, const AttentionStrides *m) {
  return l->q == m->q && l->k == m->k && l->v == m->v && l->dq == m->dq && l->dk == m->dk && l->dv == m->dv;
}

static AttentionPlan *make(AttentionCudnn *a, const AttentionCall *call) {
  AttentionPlan *p = calloc(1, sizeof *p);
  CHECK(p, "out of memory for the plan of an attention");
  p->call = *call;
  int version = (int)a->cudnn.GetVersion();
  if (call->shape.packed && version < CUDNN_OLDEST_PACKED)
    error_usage(&p->refusal, "found cuDNN %d.%d.%d, expected %d.%d.%d or later for packed documents",
                version / 10000, version / 100 % 100, version % 100, CUDNN_OLDEST_PACKED / 10000,
                CUDNN_OLDEST_PACKED / 100 % 100, CUDNN_OLDEST_PACKED % 100);
  else
    attention_graph_open(&p->graph, &a->cudnn, a->handle, a->chip, &p->call, &p->refusal);
  p->next = a->plans;
  a->plans = p;
  return p;
}

const AttentionPlan *attention_cudnn_plan(AttentionCudnn *a, const AttentionCall *call, Error *e) {
  AttentionCall c = normal(call);
  AttentionPlan *p = a->plans;
  while (p && !(same_shape(&p->call.shape, &c.shape) && same_strides(&p->call.ld, &c.ld) &&
                p->call.backward == c.backward))
    p = p->next;
  if (!p) p = make(a, &c);
  if (p->graph.plan) return p;
  *e = p->refusal;
  return NULL;
}

const AttentionPlan *attention_cudnn_find(const AttentionCudnn *a, const AttentionShape *s, bool backward) {
  AttentionCall c = {.shape = *s, .backward = backward};
  c = normal(&c);
  AttentionPlan *p = a->plans;
  while (p && !(p->graph.plan && same_shape(&p->call.shape, &c.shape) && p->call.backward == backward))
    p = p->next;
  return p;
}

size_t attention_plan_workspace(const AttentionPlan *plan) {
  return workspace_of(&plan->call, (size_t)plan->graph.workspace_bytes, NULL).bytes;
}

/* ---- running ---- */

/* The numbers of a call, as cuDNN reads them from the host. */
typedef struct Numbers {
  float scale, masked, window, one;
} Numbers;

static bool run(AttentionCudnn *a, const AttentionPlan *plan, void *operands[GRAPH_TENSORS],
                const AttentionShape *s, void *workspace, Error *e) {
  if (s->packed) {
    CHECK(s->documents <= attention_documents_room(s), "attention: no room for %lld documents",
          (long long)s->documents);
    DocumentList list = attention_document_list((void *)s->list, s);
    operands[GRAPH_Q_LENGTHS] = operands[GRAPH_K_LENGTHS] = list.lengths;
    operands[GRAPH_QUERY_OFFSETS] = list.query_offsets;
    if (s->NH != s->NKV) operands[GRAPH_KEY_OFFSETS] = list.key_offsets;
    operands[GRAPH_LSE_OFFSETS] = list.lse_offsets;
  }
  for (int id = 1; id < GRAPH_TENSORS; id++)
    CHECK((uintptr_t)operands[id] % ATTENTION_CUDNN_ALIGNMENT == 0, "attention: operand %d is not aligned",
          id);
  Numbers n = {s->scale, -INFINITY, (float)plan->call.shape.window, 1.0f};
  operands[GRAPH_SCALE] = &n.scale;
  operands[GRAPH_MASKED] = &n.masked;
  if (plan->call.shape.window) operands[GRAPH_WINDOW] = &n.window;
  if (plan->call.backward) operands[GRAPH_ONE] = &n.one;
  return attention_graph_run(&plan->graph, &a->cudnn, a->handle, operands, workspace, e);
}

static void check_strides(const AttentionPlan *plan, const AttentionStrides *ld) {
  CHECK(plan->call.shape.packed || same_strides(&plan->call.ld, ld),
        "attention: rows of q at %lld, planned for %lld", (long long)ld->q, (long long)plan->call.ld.q);
}

/* Heads in rows of their own: a copy of them at `rows`, which is NULL where they stay as they are. */
static void *gather(Device *dev, const AttentionShape *s, char *rows, Heads x, int64_t heads) {
  if (!rows) return x.data;
  copy_columns(dev, DT_BF16, rows, heads * s->HS, x.data, x.ld, heads * s->HS, s->B * s->T);
  return rows;
}

/* And back. */
static void scatter(Device *dev, const AttentionShape *s, Heads x, const char *rows, int64_t heads) {
  if (rows) copy_columns(dev, DT_BF16, x.data, x.ld, rows, heads * s->HS, heads * s->HS, s->B * s->T);
}

bool attention_cudnn_forward(AttentionCudnn *a, Device *dev, const AttentionPlan *plan, void *o, float *lse,
                             Heads q, Heads k, Heads v, const AttentionShape *s, void *workspace, Error *e) {
  check_strides(plan, &(AttentionStrides){q.ld, k.ld, v.ld, 0, 0, 0});
  Workspace w = workspace_of(&plan->call, (size_t)plan->graph.workspace_bytes, workspace);
  void *operands[GRAPH_TENSORS] = {[GRAPH_Q] = gather(dev, s, w.q, q, s->NH),
                                   [GRAPH_K] = gather(dev, s, w.k, k, s->NKV),
                                   [GRAPH_V] = gather(dev, s, w.v, v, s->NKV),
                                   [GRAPH_O] = o,
                                   [GRAPH_LSE] = lse};
  return run(a, plan, operands, s, w.own, e);
}

bool attention_cudnn_backward(AttentionCudnn *a, Device *dev, const AttentionPlan *plan, Heads dq, Heads dk,
                              Heads dv, const void *dout, const void *o, const float *lse, Heads q, Heads k,
                              Heads v, const AttentionShape *s, void *workspace, Error *e) {
  check_strides(plan, &(AttentionStrides){q.ld, k.ld, v.ld, dq.ld, dk.ld, dv.ld});
  Workspace w = workspace_of(&plan->call, (size_t)plan->graph.workspace_bytes, workspace);
  void *operands[GRAPH_TENSORS] = {[GRAPH_Q] = gather(dev, s, w.q, q, s->NH),
                                   [GRAPH_K] = gather(dev, s, w.k, k, s->NKV),
                                   [GRAPH_V] = gather(dev, s, w.v, v, s->NKV),
                                   [GRAPH_O] = (void *)o,
                                   [GRAPH_LSE] = (void *)lse,
                                   [GRAPH_DOUT] = (void *)dout,
                                   [GRAPH_DQ] = w.dq ? w.dq : dq.data,
                                   [GRAPH_DK] = w.dk ? w.dk : dk.data,
                                   [GRAPH_DV] = w.dv ? w.dv : dv.data,
                                   [GRAPH_DQ_SUM] = w.dq_sum,
                                   [GRAPH_ROW_DOT] = w.row_dot,
                                   [GRAPH_DK_ALL] = w.dk_all,
                                   [GRAPH_DV_ALL] = w.dv_all};
  if (!run(a, plan, operands, s, w.own, e)) return false;
  scatter(dev, s, dq, w.dq, s->NH);
  scatter(dev, s, dk, w.dk, s->NKV);
  scatter(dev, s, dv, w.dv, s->NKV);
  return true;
}
