#include "llama/schedule.h"

#include <math.h>
#include <stdlib.h>

#include "dataloader.h"  /* defines: dataloader_prefetch_tokens */
#include "mst_chunk.cuh" /* defines: mst_choose_rows */
#include "llama/schedule_units.h"

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

static const ForwardMoments nothing = {SKIPPED, SKIPPED, SKIPPED, SKIPPED};

/* First layer of the segment that layer l belongs to: its input is the segment's checkpoint. */
static int64_t segment_of(const RunShape *r, int64_t l) {
  return r->recompute == RECOMPUTE_LAYER ? l - l % r->checkpoint_every : l;
}

static bool is_checkpoint(const RunShape *r, int64_t l) {
  return segment_of(r, l) == l;
}

int schedule_pass_begin(const ForwardMoments *at) {
  return at->qkv != SKIPPED ? at->qkv : at->attention != SKIPPED ? at->attention : at->out;
}

static void declare_moments(Schedule *s, int64_t L) {
  Plan *p = s->plan;
  bool grouped = schedule_grouped(s);
  ForwardMoments everything = {grouped ? SKIPPED : 0, 0, 0, 0}; /* projection and attention go by groups */
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
    ForwardMoments wanted = {k->qkv || grouped ? SKIPPED : 0, k->attention ? SKIPPED : 0,
                             k->mid || grouped ? SKIPPED : 0, SKIPPED};
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
  LayerBuffers b = {.x = NO_BUFFER,
                    .host_x = NO_BUFFER,
                    .host_o = NO_BUFFER,
                    .host_lse = NO_BUFFER,
                    .x_out = NO_BUFFER,
                    .n1 = NO_BUFFER,
                    .qkv = NO_BUFFER,
                    .qk = NO_BUFFER,
                    .x_mid = NO_BUFFER};
  if (!schedule_grouped(s)) {
    b.n1 = plan_buffer(p, SPACE_DEVICE, CAT_ACTIVATIONS, z->stream, "norm1");
    b.qkv = plan_buffer(p, SPACE_DEVICE, CAT_ACTIVATIONS, z->qkv, "qkv");
    if (c->qk_norm) b.qk = plan_buffer(p, SPACE_DEVICE, CAT_ACTIVATIONS, z->qk, "qk");
    b.x_mid = plan_buffer(p, SPACE_DEVICE, CAT_ACTIVATIONS, z->stream, "x mid");
  }
  b.o = plan_buffer(p, SPACE_DEVICE, CAT_ACTIVATIONS, z->o, "o");
  b.lse = plan_buffer(p, SPACE_DEVICE, CAT_ACTIVATIONS, z->lse, "lse");
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

/* What both directions of the attention in head groups use. */
static void live_in_group_attention(Schedule *s, int moment) {
  const GroupBuffers *g = &s->group;
  const BufferId ids[] = {g->weights, g->n1, g->qkv, g->qk, g->o};
  for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) plan_live(s->plan, ids[i], moment, moment);
}

/* A pass through the forward uses its buffers from where it makes them to where it is done with them. */
static void live_in_pass(Schedule *s, const LayerPass *pass) {
  Plan *p = s->plan;
  const ForwardMoments *at = &pass->at;
  const LayerBuffers *b = &pass->buf;
  int first = schedule_pass_begin(at);
  if (first == SKIPPED) return;
  if (at->qkv != SKIPPED) {
    int last = at->attention != SKIPPED ? at->attention : at->qkv;
    plan_live(p, b->n1, at->qkv, at->qkv);
    plan_live(p, b->qkv, at->qkv, last);
    plan_live(p, b->qk, at->qkv, last);
  }
  if (at->attention != SKIPPED) {
    plan_live(p, s->attention_workspace, at->attention, at->attention);
    if (schedule_grouped(s)) live_in_group_attention(s, at->attention);
    plan_live(p, b->x, first, at->attention);
    plan_live(p, b->o, at->attention, at->out != SKIPPED ? at->out : at->attention);
    plan_live(p, b->lse, at->attention, at->attention);
  }
  if (at->out != SKIPPED) {
    plan_live(p, b->x, first, at->out);
    plan_live(p, b->o, at->attention != SKIPPED ? at->attention : at->out, at->out);
    plan_live(p, b->x_mid, at->out, at->mlp != SKIPPED ? at->mlp : at->out);
  }
  if (at->mlp != SKIPPED) {
    plan_live(p, b->mlp_n, at->mlp, at->mlp);
    plan_live(p, b->mlp_gu, at->mlp, at->mlp);
    plan_live(p, b->mlp_h, at->mlp, at->mlp);
    plan_live(p, b->x_out, at->mlp, at->mlp);
  }
}

/* Where the visit of a layer's backward begins. */
static int backward_begin(const Schedule *s, int64_t l) {
  int again = schedule_pass_begin(&s->again[l].at);
  return again != SKIPPED ? again : s->backward[l].mlp;
}

/* What the backward of layer l reads lives from where it is made (again, or in the forward when kept). */
static void live_in_backward(Schedule *s, int64_t l, bool qk_norm) {
  Plan *p = s->plan;
  const Keep *k = &s->keep[l];
  const ForwardMoments *f = &s->forward[l].at, *a = &s->again[l].at;
  const BackwardMoments *b = &s->backward[l];
  const LayerBuffers *buf = &s->again[l].buf;
  bool from_host = s->forward[l].buf.host_o != NO_BUFFER;
  int attention_from = from_host ? backward_begin(s, l) : k->attention ? f->attention : a->attention;
  if (schedule_grouped(s)) {
    live_in_group_attention(s, b->attention);
    plan_live(p, s->group.x_mid, b->mlp, b->mlp);
    plan_live(p, s->group.d_o, b->attention, b->attention);
    plan_live(p, s->group.d_qkv, b->attention, b->attention);
    plan_live(p, s->group.d_kv, b->attention, b->qkv);
    plan_live(p, s->group.n1, b->qkv, b->qkv);
    plan_live(p, s->group.d_rows, b->qkv, b->qkv);
    plan_live(p, buf->o, attention_from, b->qkv); /* the gradient of the queries takes its place */
    plan_live(p, buf->x, k->attention ? b->mlp : a->attention, b->qkv);
  } else {
    int qkv_from = k->qkv ? f->qkv : a->qkv;
    plan_live(p, buf->qkv, qkv_from,
              qk_norm ? b->qkv : b->attention); /* the norm's backward reads its input */
    plan_live(p, buf->qk, qkv_from, b->attention);
    plan_live(p, buf->o, attention_from, b->attention);
    plan_live(p, buf->x_mid, k->mid ? f->out : a->out, b->mlp);
    plan_live(p, s->d_o, b->out, b->attention);
    plan_live(p, s->d_qkv, b->attention, b->qkv);
    plan_live(p, buf->n1, k->norm1 ? f->qkv : b->qkv, b->qkv);
    plan_live(p, buf->x, schedule_pass_begin(a) != SKIPPED ? schedule_pass_begin(a) : b->qkv, b->qkv);
  }
  plan_live(p, buf->lse, attention_from, b->attention);
  plan_live(p, buf->mlp_n, k->mlp ? f->mlp : b->mlp, b->mlp);
  plan_live(p, buf->mlp_gu, k->mlp ? f->mlp : b->mlp, b->mlp);
  plan_live(p, buf->mlp_h, k->mlp ? f->mlp : b->mlp, b->mlp);
  plan_live(p, s->attention_workspace, b->attention, b->attention);
}

/* ---- what streams out to the host and back ---- */

static BufferId on_host(Schedule *s, PlanCategory category, int64_t bytes, const char *name, int64_t l) {
  BufferId id = plan_buffer(s->plan, SPACE_HOST, category, bytes, "%s %lld", name, (long long)l);
  plan_live(s->plan, id, schedule_pass_begin(&s->forward[l].at), s->backward[l].qkv);
  return id;
}

/* The layer's kept attention is made in the shared buffers, and comes back into its own, and for a rerun into
 * another one. Copies out are done by the end of the layer's forward. */
static void offload_attention(Schedule *s, const Sizes *z, int64_t l, const LayerBuffers *shared) {
  LayerBuffers *f = &s->forward[l].buf;
  f->o = shared->o;
  f->lse = shared->lse;
  f->host_o = on_host(s, CAT_KEPT, z->o, "o", l);
  f->host_lse = on_host(s, CAT_KEPT, z->lse, "lse", l);
  plan_live(s->plan, f->o, s->forward[l].at.attention, s->forward[l].at.mlp);
  plan_live(s->plan, f->lse, s->forward[l].at.attention, s->forward[l].at.mlp);
  if (s->rerun[l].at.out != SKIPPED) s->rerun[l].buf.o = activation(s, CAT_KEPT, z->o, "rerun o", l);
}

static Visit *add_visit(Schedule *s, int64_t layer, int begin) {
  Visit *v = &s->visits[s->visit_count++];
  v->layer = layer;
  v->begin = begin;
  return v;
}

/* The device's buffer is written from the visit before on. */
static void add_fetch(Schedule *s, Visit *v, BufferId device, BufferId host) {
  CHECK(v->fetches < VISIT_FETCHES, "more than %d buffers to fetch", VISIT_FETCHES);
  v->device[v->fetches] = device;
  v->host[v->fetches++] = host;
  plan_live(s->plan, device, v == s->visits ? s->head : v[-1].begin, v->begin);
}

static void declare_visits(Schedule *s, int64_t L) {
  const RunShape *r = &s->shape;
  for (int64_t l = L - 1; l >= 0 && r->training; l--) {
    int64_t first = segment_of(r, l);
    bool last_of_segment = l == L - 1 || is_checkpoint(r, l + 1);
    for (int64_t i = last_of_segment ? first : l; i <= l; i++) {
      const LayerBuffers *from = &s->forward[i].buf, *to = i < l ? &s->rerun[i].buf : &s->again[i].buf;
      Visit *v = add_visit(s, i, i < l ? schedule_pass_begin(&s->rerun[i].at) : backward_begin(s, l));
      if (i == first && last_of_segment && from->host_x != NO_BUFFER) {
        add_fetch(s, v, to->x, from->host_x);
        plan_live(s->plan, to->x, v->begin, s->backward[i].qkv);
      }
      if (from->host_o != NO_BUFFER) add_fetch(s, v, to->o, from->host_o);
      if (from->host_o != NO_BUFFER && i == l) add_fetch(s, v, to->lse, from->host_lse);
    }
  }
}

static void declare_layers(Schedule *s, const Config *c) {
  Plan *p = s->plan;
  const RunShape *r = &s->shape;
  Sizes z = sizes_of(c, s);
  LayerBuffers shared = shared_buffers(s, c, &z);

  /* the stream: the input of every layer, in the first pass and, where it was not held, once more */
  BufferId *first = calloc((size_t)c->L + 1, sizeof *first), *later = calloc((size_t)c->L + 1, sizeof *later);
  CHECK(first && later, "out of memory for the schedule");
  for (int64_t l = 0; l <= c->L; l++) {
    bool held = r->training && l < c->L && is_checkpoint(r, l), out = r->offload & OFFLOAD_CHECKPOINTS;
    first[l] = later[l] = activation(s, held && !out ? CAT_CHECKPOINTS : CAT_ACTIVATIONS, z.stream, "x", l);
    if (held && out) later[l] = activation(s, CAT_CHECKPOINTS, z.stream, "x back", l);
    if (!held && l < c->L && r->training) later[l] = activation(s, CAT_ACTIVATIONS, z.stream, "rerun x", l);
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
    if (!r->training) continue;
    if (is_checkpoint(r, l) && r->offload & OFFLOAD_CHECKPOINTS) {
      s->forward[l].buf.host_x = on_host(s, CAT_CHECKPOINTS, z.stream, "x", l);
      plan_live(p, first[l], s->forward[l].at.out, s->forward[l].at.mlp); /* until it is copied */
    }
    if (s->keep[l].attention && r->offload & OFFLOAD_ATTENTION) offload_attention(s, &z, l, &shared);
  }

  plan_live(p, first[0], s->embedding_forward, s->embedding_forward);
  for (int64_t l = 0; l < c->L; l++) {
    live_in_pass(s, &s->forward[l]);
    /* between the layers */
    plan_live(p, first[l + 1], s->forward[l].at.mlp,
              l + 1 < c->L ? schedule_pass_begin(&s->forward[l + 1].at) : s->head);
  }
  for (int64_t l = 0; l < c->L && r->training; l++) {
    if (s->rerun[l].at.mlp != SKIPPED) {
      live_in_pass(s, &s->rerun[l]);
      plan_live(p, later[l + 1], s->rerun[l].at.mlp, s->backward[l + 1].qkv);
    }
    live_in_pass(s, &s->again[l]);
    live_in_backward(s, l, c->qk_norm);
    if (is_checkpoint(r, l) && s->forward[l].buf.host_x == NO_BUFFER)
      plan_live(p, first[l], l ? s->forward[l - 1].at.mlp : s->embedding_forward, s->backward[l].qkv);
  }
  if (r->training) plan_live(p, s->dx, s->forward[c->L - 1].at.mlp, s->embedding_backward);
  declare_visits(s, c->L);
  free(first);
  free(later);
}

/* The list of the micro-batch's documents, for layers whose attention reads it. */
static void declare_documents(Schedule *s, const Config *c, const Device *dev) {
  Plan *p = s->plan;
  size_t bytes = 0;
  for (int64_t l = 0; l < c->L && s->shape.pack; l++) {
    AttentionShape a = schedule_run_attention(c, l, &s->shape, s->shape.attn_groups);
    size_t of_layer = attention_list_bytes(dev, s->shape.dtype, &a);
    if (of_layer > bytes) bytes = of_layer;
  }
  s->documents = s->host_documents = NO_BUFFER;
  if (bytes == 0) return;
  s->documents = plan_buffer(p, SPACE_DEVICE, CAT_DATA, (int64_t)bytes, "document list");
  s->host_documents = plan_buffer(p, SPACE_HOST, CAT_DATA, (int64_t)bytes, "document list");
  plan_live(p, s->documents, s->embedding_forward, s->embedding_backward);
  plan_live(p, s->host_documents, s->embedding_forward, s->embedding_forward);
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
                     {&s->host_starts, "step document starts"}};
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
  s->starts = s->shape.pack ? plan_buffer(p, SPACE_DEVICE, CAT_DATA, N * 4, "document starts") : NO_BUFFER;
  plan_live(p, s->starts, s->embedding_forward, s->embedding_backward);
  declare_documents(s, c, dev);
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

static BufferId group_buffer(Schedule *s, int64_t bytes, const char *name) {
  return plan_buffer(s->plan, SPACE_DEVICE, CAT_ACTIVATIONS, bytes, "%s", name);
}

static void declare_groups(Schedule *s, const Config *c, const Sizes *z) {
  GroupBuffers *g = &s->group;
  *g = (GroupBuffers){NO_BUFFER, NO_BUFFER, NO_BUFFER, NO_BUFFER, NO_BUFFER,
                      NO_BUFFER, NO_BUFFER, NO_BUFFER, NO_BUFFER, NO_BUFFER};
  if (!schedule_grouped(s)) return;
  int64_t groups = s->shape.attn_groups, e = (int64_t)dtype_size(s->shape.dtype);
  int64_t width = (c->NH + 2 * c->NKV) * c->HS;
  g->qkv = group_buffer(s, z->qkv / groups, "group qkv");
  if (c->qk_norm) g->qk = group_buffer(s, z->qk / groups, "group qk");
  g->o = group_buffer(s, z->o / groups, "group o");
  g->weights = group_buffer(s, width / groups * (c->C + 1) * e, "group weights");
  g->n1 = group_buffer(s, z->n, "norm1 rows");
  if (!s->shape.training) return;
  g->d_o = group_buffer(s, z->o / groups, "group d o");
  g->d_qkv = group_buffer(s, z->qkv / groups, "group d qkv");
  g->d_kv = group_buffer(s, z->qkv - z->o, "d kv");
  g->x_mid = group_buffer(s, z->n, "x mid rows");
  g->d_rows = group_buffer(s, schedule_mlp_rows(s) * width * e, "d qkv rows");
}

AttentionShape schedule_attention(const Config *c, int64_t l, int64_t B, int64_t T, int64_t groups) {
  return (AttentionShape){.B = B,
                          .T = T,
                          .NH = c->NH / groups,
                          .NKV = c->NKV / groups,
                          .HS = c->HS,
                          .window = c->layers[l].window,
                          .scale = 1.0f / sqrtf((float)c->HS)};
}

AttentionShape schedule_run_attention(const Config *c, int64_t l, const RunShape *shape, int64_t groups) {
  AttentionShape a = schedule_attention(c, l, shape->B, shape->T, groups);
  a.packed = shape->pack;
  return a;
}

AttentionStrides schedule_attention_strides(const Config *c, int64_t groups) {
  int64_t NH = c->NH / groups, NKV = c->NKV / groups;
  int64_t qkv = (NH + 2 * NKV) * c->HS, qk = c->qk_norm ? (NH + NKV) * c->HS : qkv;
  return (AttentionStrides){.q = qk, .k = qk, .v = qkv, .dq = qkv, .dk = qkv, .dv = qkv};
}

bool schedule_prepare_attention(const Config *c, const RunShape *shape, Device *dev, Error *why) {
  int64_t groups = shape->attn_groups == GROUPS_AUTO ? 1 : shape->attn_groups;
  AttentionStrides ld = schedule_attention_strides(c, groups);
  bool all = true;
  for (int64_t l = 0; l < c->L; l++) {
    AttentionShape a = schedule_run_attention(c, l, shape, groups);
    if (!attention_prepare(dev, shape->dtype, &a, &ld, shape->training, why)) all = false;
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
    AttentionShape a = schedule_run_attention(c, l, r, r->attn_groups);
    size_t forward = attention_forward_workspace(dev, r->dtype, &a);
    size_t backward = r->training ? attention_backward_workspace(dev, r->dtype, &a) : 0;
    if (forward > workspace) workspace = forward;
    if (backward > workspace) workspace = backward;
  }
  s->attention_workspace =
      plan_buffer(p, SPACE_DEVICE, CAT_ACTIVATIONS, (int64_t)workspace, "attention workspace");

  Sizes z = sizes_of(c, s);
  s->d_o = s->d_qkv = NO_BUFFER;
  declare_groups(s, c, &z);
  if (!r->training || schedule_grouped(s)) return;
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
  s->visits = array(2 * c->L, sizeof *s->visits);
  s->update_of = array(c->L + 2, sizeof *s->update_of);
  s->keys = array(c->L, sizeof(BufferId));
  s->values = array(c->L, sizeof(BufferId));
  s->weights = array(c->L + 2, sizeof(BufferId));
  s->master = array(c->L + 2, sizeof(BufferId));
  s->gradients = array(c->L + 2, sizeof(BufferId));
  s->moment1 = array(c->L + 2, sizeof(BufferId));
  s->moment2 = array(c->L + 2, sizeof(BufferId));
  s->host_gradients = array(c->L + 2, sizeof(BufferId));
  s->absmax1 = array(c->L + 2, sizeof(BufferId));
  s->absmax2 = array(c->L + 2, sizeof(BufferId));
  for (int64_t l = 0; l < c->L; l++) s->keep[l] = keep_of_layer(shape, c->L, l);
  declare_moments(s, c->L);
  schedule_declare_units(s, c);
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
  free(s->visits);
  free(s->update_of);
  free(s->keys);
  free(s->values);
  free(s->weights);
  free(s->master);
  free(s->gradients);
  free(s->moment1);
  free(s->moment2);
  free(s->host_gradients);
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

/* The smallest that an automatic chunk may be: a quarter of what the device does best with, or all rows. */
static int64_t least_chunk(const RunShape *shape, const Device *dev) {
  int64_t N = shape->B * shape->T, least = dev->max_chunk_rows / 4;
  return N < least ? N : least;
}

static RunShape with_least_chunks(const RunShape *shape, const Device *dev) {
  RunShape r = *shape;
  if (r.mlp_chunk == CHUNK_AUTO) r.mlp_chunk = least_chunk(shape, dev);
  if (r.head_chunk == CHUNK_AUTO) r.head_chunk = least_chunk(shape, dev);
  return r;
}

/* Fills in the automatic chunks: the largest that do not raise the step's peak over that of the smallest, up
 * to what the device does best with. */
static void choose_chunks(const Config *c, RunShape *shape, const Device *dev) {
  int64_t N = shape->B * shape->T, most = dev->max_chunk_rows, least = most / 4;
  bool mlp_auto = shape->mlp_chunk == CHUNK_AUTO, head_auto = shape->head_chunk == CHUNK_AUTO;
  *shape = with_least_chunks(shape, dev);
  ChunkTrial t = {.config = c, .shape = shape, .dev = dev, .head = false};
  if (mlp_auto || head_auto) t.peak = peak_with(&t, shape->mlp_chunk);
  if (mlp_auto) shape->mlp_chunk = mst_choose_rows(N, least, most, fits_under_peak, &t);
  t.head = true;
  if (head_auto) shape->head_chunk = mst_choose_rows(N, least, most, fits_under_peak, &t);
}

RunShape schedule_defaults(const RunShape *shape) {
  RunShape r = *shape;
  if (r.recompute == RECOMPUTE_AUTO) r.recompute = RECOMPUTE_LAYER;
  if (r.keep_attention == KEEP_AUTO) r.keep_attention = 0;
  if (r.checkpoint_every == EVERY_AUTO) r.checkpoint_every = 1;
  if (r.attn_groups == GROUPS_AUTO) r.attn_groups = 1;
  if (r.offload == OFFLOAD_AUTO) r.offload = 0;
  if (r.host_update == HOST_UPDATE_AUTO) r.host_update = HOST_UPDATE_STREAM;
  return r;
}

/* The fewest rows of automatic chunks that are evened out, for these rows or more: those of the smallest
 * chunk and one row make two chunks, of half of it. */
static int64_t least_even_rows(const RunShape *shape, const Device *dev) {
  int64_t N = shape->B * shape->T, least = dev->max_chunk_rows / 4, whole = N / least;
  if (whole == 0) return N < least / 2 ? N : least / 2;
  return least * whole / (whole + 1);
}

void schedule_least_bytes(const Config *c, const RunShape *shape, const Device *dev,
                          int64_t bytes[SPACE_COUNT]) {
  RunShape settled = schedule_defaults(shape);
  int64_t rows = least_even_rows(shape, dev);
  if (settled.mlp_chunk == CHUNK_AUTO) settled.mlp_chunk = rows;
  if (settled.head_chunk == CHUNK_AUTO) settled.head_chunk = rows;
  Schedule *s = schedule_for(c, &settled, dev);
  for (int space = 0; space < SPACE_COUNT; space++) bytes[space] = plan_peak(s->plan, (PlanSpace)space, NULL);
  schedule_free(s);
}

Schedule *schedule_new(const Config *c, const RunShape *shape, const Device *dev) {
  RunShape settled = schedule_defaults(shape);
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
