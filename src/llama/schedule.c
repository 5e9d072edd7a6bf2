#include "llama/schedule.h"

#include <math.h>
#include <stdlib.h>

#include "dataloader.h"  /* defines: dataloader_prefetch_tokens */
#include "mst_chunk.cuh" /* defines: mst_choose_rows */

/* ---- moments ---- */

static ForwardMoments forward_moments(Plan *p, const char *pass, int64_t l, ForwardMoments wanted) {
  ForwardMoments at = {SKIPPED, SKIPPED, SKIPPED, SKIPPED};
  long long layer = (long long)l;
  if (wanted.qkv != SKIPPED) at.qkv = plan_moment(p, "%s qkv %lld", pass, layer);
  if (wanted.attention != SKIPPED) at.attention = plan_moment(p, "%s attention %lld", pass, layer);
  if (wanted.out != SKIPPED) at.out = plan_moment(p, "%s out %lld", pass, layer);
  if (wanted.mlp != SKIPPED) at.mlp = plan_moment(p, "%s mlp %lld", pass, layer);
  return at;
}

static const ForwardMoments everything = {0, 0, 0, 0};
static const ForwardMoments nothing = {SKIPPED, SKIPPED, SKIPPED, SKIPPED};

/* First layer of the segment that layer l belongs to: its input is the segment's checkpoint. */
static int64_t segment_of(const RunShape *r, int64_t l) {
  return r->recompute == RECOMPUTE_LAYER ? l - l % r->checkpoint_every : l;
}

static bool is_checkpoint(const RunShape *r, int64_t l) {
  return segment_of(r, l) == l;
}

static void declare_moments(Schedule *s, int64_t L) {
  Plan *p = s->plan;
  const RunShape *r = &s->shape;
  s->load = plan_moment(p, "load and save");
  s->embedding_forward = plan_moment(p, "embedding forward");
  for (int64_t l = 0; l < L; l++) {
    s->forward[l].at = forward_moments(p, "forward", l, everything);
    s->rerun[l].at = s->again[l].at = nothing;
  }
  s->head = plan_moment(p, "head");
  bool update_units = r->training && r->update == UPDATE_LAYER;
  if (update_units) s->update_of[L + 1] = plan_moment(p, "update head");
  for (int64_t l = L - 1; l >= 0 && r->training; l--) {
    int64_t first = segment_of(r, l);
    bool last_of_segment = l == L - 1 || is_checkpoint(r, l + 1);
    for (int64_t i = first; i < l && last_of_segment; i++) {
      /* what the attention kept spares the rerun everything before its output projection */
      ForwardMoments wanted = everything;
      if (s->keep[i].attention) wanted.qkv = wanted.attention = SKIPPED;
      s->rerun[i].at = forward_moments(p, "rerun", i, wanted);
    }
    const Keep *k = &s->keep[l];
    ForwardMoments wanted = {k->qkv ? SKIPPED : 0, k->attention ? SKIPPED : 0, k->mid ? SKIPPED : 0, SKIPPED};
    s->again[l].at = forward_moments(p, "again", l, wanted);
    s->backward[l].mlp = plan_moment(p, "backward mlp %lld", (long long)l);
    s->backward[l].out = plan_moment(p, "backward out %lld", (long long)l);
    s->backward[l].attention = plan_moment(p, "backward attention %lld", (long long)l);
    s->backward[l].qkv = plan_moment(p, "backward qkv %lld", (long long)l);
    if (update_units) s->update_of[l] = plan_moment(p, "update %lld", (long long)l);
  }
  s->embedding_backward = plan_moment(p, "embedding backward");
  s->update = plan_moment(p, "update");
  if (r->text) s->generate = plan_moment(p, "generate");
  for (int64_t u = 0; u < L + 2; u++)
    if (!update_units || u == L) s->update_of[u] = s->update;
}

/* ---- buffers ---- */

/* Sizes in bytes that several buffers have. */
typedef struct Sizes {
  int64_t stream, qkv, qk, o, lse, n, gu, h;
} Sizes;

static Sizes sizes_of(const Config *c, const Schedule *s) {
  int64_t e = (int64_t)dtype_size(s->shape.dtype), N = schedule_rows(s), rows = schedule_mlp_rows(s);
  return (Sizes){
      .stream = N * c->C * e,
      .qkv = N * (c->NH + 2 * c->NKV) * c->HS * e,
      .qk = c->qk_norm ? N * (c->NH + c->NKV) * c->HS * e : 0,
      .o = N * c->NH * c->HS * e,
      .lse = c->NH * N * 4,
      .n = rows * c->C * e,
      .gu = rows * 2 * c->FF * e,
      .h = rows * c->FF * e,
  };
}

static BufferId activation(Schedule *s, PlanCategory category, int64_t bytes, const char *name, int64_t l) {
  return plan_buffer(s->plan, SPACE_DEVICE, category, bytes, "%s %lld", name, (long long)l);
}

/* The buffers of layers that keep nothing: one set, used by all of them in turn. */
static LayerBuffers shared_buffers(Schedule *s, const Config *c, const Sizes *z) {
  Plan *p = s->plan;
  LayerBuffers b = {.x = NO_BUFFER, .x_out = NO_BUFFER, .qk = NO_BUFFER};
  b.n1 = plan_buffer(p, SPACE_DEVICE, CAT_ACTIVATIONS, z->stream, "norm1");
  b.qkv = plan_buffer(p, SPACE_DEVICE, CAT_ACTIVATIONS, z->qkv, "qkv");
  if (c->qk_norm) b.qk = plan_buffer(p, SPACE_DEVICE, CAT_ACTIVATIONS, z->qk, "qk");
  b.o = plan_buffer(p, SPACE_DEVICE, CAT_ACTIVATIONS, z->o, "o");
  b.lse = plan_buffer(p, SPACE_DEVICE, CAT_ACTIVATIONS, z->lse, "lse");
  b.x_mid = plan_buffer(p, SPACE_DEVICE, CAT_ACTIVATIONS, z->stream, "x mid");
  b.mlp_n = plan_buffer(p, SPACE_DEVICE, CAT_MLP, z->n, "mlp norm");
  b.mlp_gu = plan_buffer(p, SPACE_DEVICE, CAT_MLP, z->gu, "mlp gate up");
  b.mlp_h = plan_buffer(p, SPACE_DEVICE, CAT_MLP, z->h, "mlp hidden");
  return b;
}

/* Replaces the shared buffers that layer l keeps by its own. */
static void keep_buffers(Schedule *s, const Config *c, const Sizes *z, int64_t l, LayerBuffers *b) {
  const Keep *k = &s->keep[l];
  int64_t N = schedule_rows(s), e = (int64_t)dtype_size(s->shape.dtype);
  if (k->norm1) b->n1 = activation(s, CAT_KEPT, z->stream, "norm1", l);
  if (k->qkv) b->qkv = activation(s, CAT_KEPT, z->qkv, "qkv", l);
  if (k->qkv && c->qk_norm) b->qk = activation(s, CAT_KEPT, z->qk, "qk", l);
  if (k->attention) b->o = activation(s, CAT_KEPT, z->o, "o", l);
  if (k->attention) b->lse = activation(s, CAT_KEPT, z->lse, "lse", l);
  if (k->mid) b->x_mid = activation(s, CAT_KEPT, z->stream, "x mid", l);
  if (k->mlp) b->mlp_n = activation(s, CAT_KEPT, N * c->C * e, "mlp norm", l);
  if (k->mlp) b->mlp_gu = activation(s, CAT_KEPT, N * 2 * c->FF * e, "mlp gate up", l);
  if (k->mlp) b->mlp_h = activation(s, CAT_KEPT, N * c->FF * e, "mlp hidden", l);
}

/* A pass through the forward uses its buffers from where it makes them to where it is done with them. */
static void live_in_pass(Plan *p, const LayerPass *pass, BufferId attention_workspace) {
  const ForwardMoments *at = &pass->at;
  const LayerBuffers *b = &pass->buf;
  int first = at->qkv != SKIPPED ? at->qkv : at->out; /* of the moments that read x */
  if (at->qkv != SKIPPED) {
    int last = at->attention != SKIPPED ? at->attention : at->qkv;
    plan_live(p, b->n1, at->qkv, at->qkv);
    plan_live(p, b->qkv, at->qkv, last);
    plan_live(p, b->qk, at->qkv, last);
  }
  if (at->attention != SKIPPED) {
    plan_live(p, attention_workspace, at->attention, at->attention);
    plan_live(p, b->o, at->attention, at->out != SKIPPED ? at->out : at->attention);
    plan_live(p, b->lse, at->attention, at->attention);
  }
  if (at->out != SKIPPED) {
    plan_live(p, b->x, first, at->out);
    plan_live(p, b->x_mid, at->out, at->mlp != SKIPPED ? at->mlp : at->out);
  }
  if (at->mlp != SKIPPED) {
    plan_live(p, b->mlp_n, at->mlp, at->mlp);
    plan_live(p, b->mlp_gu, at->mlp, at->mlp);
    plan_live(p, b->mlp_h, at->mlp, at->mlp);
    plan_live(p, b->x_out, at->mlp, at->mlp);
  }
}

/* What the backward of layer l reads lives from where it is made (again, or in the forward when kept). */
static void live_in_backward(Schedule *s, int64_t l, bool qk_norm) {
  Plan *p = s->plan;
  const Keep *k = &s->keep[l];
  const ForwardMoments *f = &s->forward[l].at, *a = &s->again[l].at;
  const BackwardMoments *b = &s->backward[l];
  const LayerBuffers *buf = &s->again[l].buf;
  int qkv_from = k->qkv ? f->qkv : a->qkv;
  plan_live(p, buf->qkv, qkv_from, qk_norm ? b->qkv : b->attention); /* the norm's backward reads its input */
  plan_live(p, buf->qk, qkv_from, b->attention);
  plan_live(p, buf->o, k->attention ? f->attention : a->attention, b->attention);
  plan_live(p, buf->lse, k->attention ? f->attention : a->attention, b->attention);
  plan_live(p, buf->x_mid, k->mid ? f->out : a->out, b->mlp);
  plan_live(p, buf->mlp_n, k->mlp ? f->mlp : b->mlp, b->mlp);
  plan_live(p, buf->mlp_gu, k->mlp ? f->mlp : b->mlp, b->mlp);
  plan_live(p, buf->mlp_h, k->mlp ? f->mlp : b->mlp, b->mlp);
  plan_live(p, s->d_o, b->out, b->attention);
  plan_live(p, s->attention_workspace, b->attention, b->attention);
  plan_live(p, s->d_qkv, b->attention, b->qkv);
  plan_live(p, buf->n1, k->norm1 ? f->qkv : b->qkv, b->qkv);
  int x_from = a->qkv != SKIPPED ? a->qkv : a->out != SKIPPED ? a->out : b->qkv;
  plan_live(p, buf->x, x_from, b->qkv);
}

static void declare_layers(Schedule *s, const Config *c) {
  Plan *p = s->plan;
  Sizes z = sizes_of(c, s);
  LayerBuffers shared = shared_buffers(s, c, &z);

  /* the stream: the input of every layer, in the first pass and, where it was not held, once more */
  BufferId *first = calloc((size_t)c->L + 1, sizeof *first), *later = calloc((size_t)c->L + 1, sizeof *later);
  CHECK(first && later, "out of memory for the schedule");
  for (int64_t l = 0; l <= c->L; l++) {
    bool held = s->shape.training && l < c->L && is_checkpoint(&s->shape, l);
    first[l] = later[l] = activation(s, held ? CAT_CHECKPOINTS : CAT_ACTIVATIONS, z.stream, "x", l);
    if (!held && l < c->L && s->shape.training)
      later[l] = activation(s, CAT_ACTIVATIONS, z.stream, "rerun x", l);
  }
  s->dx = first[c->L];

  for (int64_t l = 0; l < c->L; l++) {
    LayerBuffers own = shared;
    keep_buffers(s, c, &z, l, &own);
    s->forward[l].buf = s->rerun[l].buf = s->again[l].buf = own;
    s->forward[l].buf.x = first[l];
    s->forward[l].buf.x_out = first[l + 1];
    s->rerun[l].buf.x = s->again[l].buf.x = later[l];
    s->rerun[l].buf.x_out = later[l + 1];
    /* a middle that nobody keeps is made where the output goes: the MLP adds to it in place */
    if (!s->keep[l].mid) s->forward[l].buf.x_mid = first[l + 1];
    s->rerun[l].buf.x_mid = later[l + 1];
  }

  plan_live(p, first[0], s->embedding_forward, s->embedding_forward);
  for (int64_t l = 0; l < c->L; l++) {
    live_in_pass(p, &s->forward[l], s->attention_workspace);
    /* between the layers */
    plan_live(p, first[l + 1], s->forward[l].at.mlp, l + 1 < c->L ? s->forward[l + 1].at.qkv : s->head);
  }
  for (int64_t l = 0; l < c->L && s->shape.training; l++) {
    if (s->rerun[l].at.mlp != SKIPPED) {
      live_in_pass(p, &s->rerun[l], s->attention_workspace);
      plan_live(p, later[l + 1], s->rerun[l].at.mlp, s->backward[l + 1].qkv);
    }
    if (s->again[l].at.qkv != SKIPPED || s->again[l].at.out != SKIPPED)
      live_in_pass(p, &s->again[l], s->attention_workspace);
    live_in_backward(s, l, c->qk_norm);
    if (is_checkpoint(&s->shape, l))
      plan_live(p, first[l], l ? s->forward[l - 1].at.mlp : s->embedding_forward, s->backward[l].qkv);
  }
  if (s->shape.training) plan_live(p, s->dx, s->forward[c->L - 1].at.mlp, s->embedding_backward);
  free(first);
  free(later);
}

/* With UPDATE_LAYER a gradient lives from its unit's backward to its unit's update. That of a tied embedding
 * is the head's as well, and waits for the embedding's backward. */
static void live_gradient(Schedule *s, const Config *c, const ParamTable *t, int64_t u) {
  if (s->shape.update == UPDATE_STEP) {
    plan_live_always(s->plan, s->gradients[u]);
    return;
  }
  int embedding_from = c->tied ? s->head : s->embedding_backward;
  int from = u < c->L ? s->backward[u].mlp : u == params_embedding_unit(t) ? embedding_from : s->head;
  plan_live(s->plan, s->gradients[u], from, s->update_of[u]);
}

static void declare_units(Schedule *s, const Config *c) {
  const RunShape *r = &s->shape;
  ParamTable t;
  params_table(&t, c);
  for (int64_t u = 0; u < params_units(&t); u++) {
    int64_t n = params_unit_elements(&t, u), blocks = params_unit_blocks(&t, u);
    struct {
      BufferId *id;
      bool wanted;
      PlanCategory category;
      int64_t elements;
      DType dtype;
    } kinds[] = {
        {&s->weights[u], true, CAT_WEIGHTS, n, r->dtype},
        {&s->master[u], r->training && r->master, CAT_MASTER, n, DT_FP32},
        {&s->gradients[u], r->training, CAT_GRADIENTS, n, DT_FP32},
        {&s->moment1[u], r->training, CAT_MOMENTS, n, r->moments},
        {&s->moment2[u], r->training, CAT_MOMENTS, n, r->moments},
        {&s->absmax1[u], r->training && r->moments == DT_U8, CAT_MOMENTS, blocks, DT_FP32},
        {&s->absmax2[u], r->training && r->moments == DT_U8, CAT_MOMENTS, blocks, DT_FP32},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
      *kinds[i].id = NO_BUFFER;
      if (!kinds[i].wanted) continue;
      *kinds[i].id = activation(s, kinds[i].category, kinds[i].elements * (int64_t)dtype_size(kinds[i].dtype),
                                plan_category_name(kinds[i].category), u);
      if (kinds[i].category != CAT_GRADIENTS) plan_live_always(s->plan, *kinds[i].id);
    }
    if (r->training) live_gradient(s, c, &t, u);
  }
}

static void declare_data(Schedule *s, const Config *c, const Device *dev) {
  Plan *p = s->plan;
  int64_t N = schedule_rows(s), step = s->shape.A * N * 4;
  struct {
    BufferId *id;
    const char *name;
  } step_arrays[] = {{&s->host_tokens, "step tokens"},
                     {&s->host_targets, "step targets"},
                     {&s->host_positions, "step positions"},
                     {&s->host_documents, "step documents"}};
  for (size_t i = 0; i < sizeof step_arrays / sizeof *step_arrays; i++) {
    *step_arrays[i].id = plan_buffer(p, SPACE_HOST, CAT_DATA, step, "%s", step_arrays[i].name);
    plan_live_always(p, *step_arrays[i].id);
  }
  s->host_ahead = NO_BUFFER;
  if (s->shape.training) {
    int64_t ahead = dataloader_prefetch_tokens(s->shape.A, s->shape.B, s->shape.T) * 4;
    s->host_ahead = plan_buffer(p, SPACE_HOST, CAT_DATA, ahead, "step read ahead");
    plan_live_always(p, s->host_ahead);
  }
  s->tokens = plan_buffer(p, SPACE_DEVICE, CAT_DATA, N * 4, "tokens");
  s->targets = plan_buffer(p, SPACE_DEVICE, CAT_DATA, N * 4, "targets");
  s->positions = plan_buffer(p, SPACE_DEVICE, CAT_DATA, N * 4, "positions");
  s->inv_freq = plan_buffer(p, SPACE_DEVICE, CAT_DATA, c->HS / 2 * 4, "rope frequencies");
  plan_live(p, s->tokens, s->embedding_forward, s->embedding_backward);
  plan_live(p, s->targets, s->embedding_forward, s->head);
  plan_live(p, s->positions, s->embedding_forward, s->embedding_backward);
  plan_live_always(p, s->inv_freq);

  s->losses = plan_buffer(p, SPACE_DEVICE, CAT_HEAD, N * 4, "losses");
  s->host_losses = plan_buffer(p, SPACE_HOST, CAT_DATA, N * 4, "losses");
  plan_live(p, s->losses, s->head, s->head);
  plan_live(p, s->host_losses, s->head, s->head);

  s->workspace = plan_buffer(p, SPACE_DEVICE, CAT_WORKSPACE,
                             (int64_t)device_workspace_bytes(dev, s->shape.dtype), "workspace");
  plan_live_always(p, s->workspace);
  s->staging = plan_buffer(p, SPACE_DEVICE, CAT_WORKSPACE, STAGING_ELEMENTS * 4, "staging");
  s->host_staging = plan_buffer(p, SPACE_HOST, CAT_WORKSPACE, STAGING_ELEMENTS * 4, "staging");
  plan_live(p, s->staging, s->load, s->load);
  plan_live(p, s->host_staging, s->load, s->load);
}

AttentionShape schedule_attention(const Config *c, int64_t l, int64_t B, int64_t T) {
  return (AttentionShape){.B = B,
                          .T = T,
                          .NH = c->NH,
                          .NKV = c->NKV,
                          .HS = c->HS,
                          .window = c->layers[l].window,
                          .scale = 1.0f / sqrtf((float)c->HS)};
}

AttentionStrides schedule_attention_strides(const Config *c) {
  int64_t qkv = (c->NH + 2 * c->NKV) * c->HS, qk = c->qk_norm ? (c->NH + c->NKV) * c->HS : qkv;
  return (AttentionStrides){.q = qk, .k = qk, .v = qkv, .dq = qkv, .dk = qkv, .dv = qkv};
}

bool schedule_prepare_attention(const Config *c, const RunShape *shape, Device *dev, bool deterministic,
                                Error *why) {
  AttentionStrides ld = schedule_attention_strides(c);
  bool all = true;
  for (int64_t l = 0; l < c->L; l++) {
    AttentionShape a = schedule_attention(c, l, shape->B, shape->T);
    if (!attention_prepare(dev, shape->dtype, &a, &ld, shape->training, deterministic, why)) all = false;
  }
  return all;
}

static void declare_head_and_backward(Schedule *s, const Config *c, const Device *dev) {
  Plan *p = s->plan;
  const RunShape *r = &s->shape;
  int64_t e = (int64_t)dtype_size(r->dtype), rows = schedule_head_rows(s);
  s->head_n = plan_buffer(p, SPACE_DEVICE, CAT_HEAD, rows * c->C * e, "head norm");
  s->head_logits = plan_buffer(p, SPACE_DEVICE, CAT_HEAD, rows * c->V * e, "logits");
  s->head_row = plan_buffer(p, SPACE_DEVICE, CAT_HEAD, c->V * 4, "logits row");
  plan_live(p, s->head_row, s->head, s->head);
  plan_live(p, s->head_n, s->head, s->head);
  plan_live(p, s->head_logits, s->head, s->head);

  size_t workspace = 0;
  for (int64_t l = 0; l < c->L; l++) {
    AttentionShape a = schedule_attention(c, l, r->B, r->T);
    size_t forward = attention_forward_workspace(dev, r->dtype, &a);
    size_t backward = r->training ? attention_backward_workspace(dev, r->dtype, &a) : 0;
    if (forward > workspace) workspace = forward;
    if (backward > workspace) workspace = backward;
  }
  s->attention_workspace =
      plan_buffer(p, SPACE_DEVICE, CAT_ACTIVATIONS, (int64_t)workspace, "attention workspace");

  Sizes z = sizes_of(c, s);
  s->d_o = s->d_qkv = NO_BUFFER;
  if (!r->training) return;
  s->d_o = plan_buffer(p, SPACE_DEVICE, CAT_ACTIVATIONS, z.o, "d o");
  s->d_qkv = plan_buffer(p, SPACE_DEVICE, CAT_ACTIVATIONS, z.qkv, "d qkv");
}

/* ---- generating ---- */

/* A buffer that lives where text is generated. */
static BufferId generate_buffer(Schedule *s, PlanCategory category, int64_t elements, const char *name) {
  int64_t bytes = elements * (int64_t)dtype_size(s->shape.dtype);
  BufferId id = plan_buffer(s->plan, SPACE_DEVICE, category, bytes, "generate %s", name);
  plan_live(s->plan, id, s->generate, s->generate);
  return id;
}

static void declare_generate(Schedule *s, const Config *c) {
  LayerBuffers *b = &s->generate_in;
  int64_t rows = schedule_generate_rows(s), kv = c->NKV * c->HS, q = c->NH * c->HS;
  if (!s->shape.text) return;
  b->x = b->x_mid = b->x_out = generate_buffer(s, CAT_ACTIVATIONS, rows * c->C, "x");
  b->n1 = generate_buffer(s, CAT_ACTIVATIONS, rows * c->C, "norm1");
  b->qkv = generate_buffer(s, CAT_ACTIVATIONS, rows * (q + 2 * kv), "qkv");
  b->qk = c->qk_norm ? generate_buffer(s, CAT_ACTIVATIONS, rows * (q + kv), "qk") : NO_BUFFER;
  b->o = generate_buffer(s, CAT_ACTIVATIONS, rows * q, "o");
  b->lse = NO_BUFFER;
  b->mlp_n = generate_buffer(s, CAT_MLP, rows * c->C, "mlp norm");
  b->mlp_gu = generate_buffer(s, CAT_MLP, rows * 2 * c->FF, "mlp gate up");
  b->mlp_h = generate_buffer(s, CAT_MLP, rows * c->FF, "mlp hidden");
  for (int64_t l = 0; l < c->L; l++) {
    s->keys[l] = generate_buffer(s, CAT_KEPT, s->shape.text * kv, "keys");
    s->values[l] = generate_buffer(s, CAT_KEPT, s->shape.text * kv, "values");
  }
  s->generate_logits = generate_buffer(s, CAT_HEAD, c->V, "logits");
  plan_live(s->plan, s->head_row, s->generate, s->generate);
  plan_live(s->plan, s->tokens, s->generate, s->generate);
  plan_live(s->plan, s->positions, s->generate, s->generate);
}

/* ---- the whole ---- */

static Keep keep_of_layer(const RunShape *r, int64_t L, int64_t l) {
  Keep k = {0};
  if (!r->training) return k;
  if (r->recompute != RECOMPUTE_LAYER) k.norm1 = k.qkv = k.attention = k.mid = true;
  if (r->recompute == RECOMPUTE_NONE) k.mlp = true;
  if (r->recompute == RECOMPUTE_LAYER)
    k.attention = r->keep_attention == KEEP_ALL || l >= L - r->keep_attention;
  return k;
}

static void *array(int64_t n, size_t size) {
  void *p = calloc((size_t)n, size);
  CHECK(p, "out of memory for the schedule");
  return p;
}

/* A schedule for chunks that are settled; its plan is not packed yet. */
static Schedule *schedule_for(const Config *c, const RunShape *shape, const Device *dev) {
  Schedule *s = array(1, sizeof *s);
  s->shape = *shape;
  s->plan = plan_new();
  s->keep = array(c->L, sizeof *s->keep);
  s->forward = array(c->L, sizeof *s->forward);
  s->rerun = array(c->L, sizeof *s->rerun);
  s->again = array(c->L, sizeof *s->again);
  s->backward = array(c->L, sizeof *s->backward);
  s->update_of = array(c->L + 2, sizeof *s->update_of);
  s->keys = array(c->L, sizeof(BufferId));
  s->values = array(c->L, sizeof(BufferId));
  s->weights = array(c->L + 2, sizeof(BufferId));
  s->master = array(c->L + 2, sizeof(BufferId));
  s->gradients = array(c->L + 2, sizeof(BufferId));
  s->moment1 = array(c->L + 2, sizeof(BufferId));
  s->moment2 = array(c->L + 2, sizeof(BufferId));
  s->absmax1 = array(c->L + 2, sizeof(BufferId));
  s->absmax2 = array(c->L + 2, sizeof(BufferId));
  for (int64_t l = 0; l < c->L; l++) s->keep[l] = keep_of_layer(shape, c->L, l);
  declare_moments(s, c->L);
  declare_units(s, c);
  declare_data(s, c, dev);
  declare_head_and_backward(s, c, dev);
  declare_layers(s, c);
  declare_generate(s, c);
  return s;
}

void schedule_free(Schedule *s) {
  if (!s) return;
  plan_free(s->plan);
  free(s->keep);
  free(s->forward);
  free(s->rerun);
  free(s->again);
  free(s->backward);
  free(s->update_of);
  free(s->keys);
  free(s->values);
  free(s->weights);
  free(s->master);
  free(s->gradients);
  free(s->moment1);
  free(s->moment2);
  free(s->absmax1);
  free(s->absmax2);
  free(s);
}

/* One automatic chunk is tried at several sizes; the other one is held. */
typedef struct ChunkTrial {
  const Config *config;
  const RunShape *shape;
  const Device *dev;
  bool head;
  int64_t peak; /* not to be passed */
} ChunkTrial;

static int64_t peak_with(const ChunkTrial *t, int64_t rows) {
  RunShape shape = *t->shape;
  *(t->head ? &shape.head_chunk : &shape.mlp_chunk) = rows;
  Schedule *s = schedule_for(t->config, &shape, t->dev);
  int64_t peak = plan_peak(s->plan, SPACE_DEVICE, NULL);
  schedule_free(s);
  return peak;
}

static bool fits_under_peak(const void *context, int64_t rows) {
  const ChunkTrial *t = context;
  return peak_with(t, rows) <= t->peak;
}

/* Fills in the automatic chunks: the largest that do not raise the step's peak, between a quarter of what the
 * device does best with and all of it. */
static void choose_chunks(const Config *c, RunShape *shape, const Device *dev) {
  int64_t N = shape->B * shape->T, most = dev->max_chunk_rows, least = most / 4;
  bool mlp_auto = shape->mlp_chunk == CHUNK_AUTO, head_auto = shape->head_chunk == CHUNK_AUTO;
  int64_t floor_rows = N < least ? N : least;
  if (mlp_auto) shape->mlp_chunk = floor_rows;
  if (head_auto) shape->head_chunk = floor_rows;
  ChunkTrial t = {.config = c, .shape = shape, .dev = dev, .head = false};
  if (mlp_auto || head_auto) t.peak = peak_with(&t, shape->mlp_chunk);
  if (mlp_auto) shape->mlp_chunk = mst_choose_rows(N, least, most, fits_under_peak, &t);
  t.head = true;
  if (head_auto) shape->head_chunk = mst_choose_rows(N, least, most, fits_under_peak, &t);
}

Schedule *schedule_new(const Config *c, const RunShape *shape, const Device *dev) {
  RunShape settled = *shape;
  choose_chunks(c, &settled, dev);
  Schedule *s = schedule_for(c, &settled, dev);
  plan_pack(s->plan);
  return s;
}

static int64_t chunk_rows(int64_t chunk, int64_t N) {
  return chunk == CHUNK_WHOLE || chunk > N ? N : chunk;
}
int64_t schedule_mlp_rows(const Schedule *s) {
  return chunk_rows(s->shape.mlp_chunk, schedule_rows(s));
}
int64_t schedule_head_rows(const Schedule *s) {
  return chunk_rows(s->shape.head_chunk, schedule_rows(s));
}
int64_t schedule_generate_rows(const Schedule *s) {
  return chunk_rows(GENERATE_ROWS, schedule_rows(s));
}
