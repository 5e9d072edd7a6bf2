#include "llama/layer.h"

#include "llama/layer_groups.h" /* defines: grouped_attention_forward, grouped_*_backward */
#include "llama/optimizer.h"    /* defines: optimizer_update_unit */
#include "memory/offload.h"
#include "ops/adamw.h" /* defines: sum_of_squares */
#include "ops/attention.h"
#include "ops/attention_cached.h"
#include "ops/qk_prepare.h"

#include <math.h>

static float *gradient_of(const Model *m, int64_t unit, const ParamSpec *spec, bool wanted) {
  return wanted ? model_gradient(m, unit, spec) : NULL;
}

/* The slot that the layer's weights are in, or are being fetched to; SLOTS: none. */
static int slot_of(const Model *m, int64_t layer) {
  int slot = 0;
  while (slot < SLOTS && m->layer_in_slot[slot] != layer) slot++;
  return slot;
}

static void fetch_weights(Model *m, int64_t layer, int slot) {
  const Schedule *s = m->schedule;
  m->layer_in_slot[slot] = layer;
  offload_fetch(m->dev, arena_get(&m->arena, s->weight_slots[slot]), arena_get(&m->arena, s->weights[layer]),
                (size_t)plan_buffer_bytes(s->plan, s->weights[layer]));
}

/* Makes sure that the layer's weights are on the device. Returns their slot. */
static int need_weights(Model *m, int64_t layer) {
  int slot = slot_of(m, layer);
  if (slot == SLOTS) {
    fetch_weights(m, layer, slot = 0);
    offload_wait(m->dev);
  }
  return slot;
}

void weights_prefetch(Model *m, int64_t now, int64_t next) {
  if (m->schedule->weight_slots[0] == NO_BUFFER) return;
  int slot = need_weights(m, now);
  if (next != NO_LAYER && slot_of(m, next) == SLOTS) fetch_weights(m, next, 1 - slot);
}

/* A layer's tensor on the device. */
static void *weight_of(const Model *m, int64_t unit, const ParamSpec *spec) {
  const Schedule *s = m->schedule;
  if (s->weight_slots[0] == NO_BUFFER || !spec->rows) return model_weight(m, unit, spec);
  return mst_row(arena_get(&m->arena, s->weight_slots[slot_of(m, unit)]), 1, spec->offset, s->shape.dtype);
}

static Norm norm_of(const Model *m, int64_t unit, const ParamSpec *spec, bool gradients) {
  return Norm{weight_of(m, unit, spec), gradient_of(m, unit, spec, gradients), (float)m->config->norm_eps};
}

static Linear linear_of(const Model *m, int64_t unit, const ParamSpec *weight, const ParamSpec *bias,
                        bool gradients) {
  Linear l = {};
  l.name = weight->name;
  l.in = weight->cols;
  l.out = weight->rows;
  l.weight = weight_of(m, unit, weight);
  l.dweight = gradient_of(m, unit, weight, gradients);
  if (bias->rows) {
    l.bias = weight_of(m, unit, bias);
    l.dbias = gradient_of(m, unit, bias, gradients);
  }
  return l;
}

LayerWeights weights_acquire(Model *m, int64_t layer, bool gradients) {
  const ParamSpec *p = m->params.layer;
  const Config *c = m->config;
  LayerWeights w = {};
  if (m->schedule->weight_slots[0] != NO_BUFFER) need_weights(m, layer);
  w.norm1 = norm_of(m, layer, &p[P_NORM1], gradients);
  w.qkv = linear_of(m, layer, &p[P_QKV], &p[P_QKV_BIAS], gradients);
  w.o = linear_of(m, layer, &p[P_O], &p[P_O_BIAS], gradients);
  if (c->qk_norm) {
    w.q_norm = weight_of(m, layer, &p[P_Q_NORM]);
    w.k_norm = weight_of(m, layer, &p[P_K_NORM]);
    w.dq_norm = gradient_of(m, layer, &p[P_Q_NORM], gradients);
    w.dk_norm = gradient_of(m, layer, &p[P_K_NORM], gradients);
  }
  w.mlp.C = c->C;
  w.mlp.FF = c->FF;
  w.mlp.activation = c->layers[layer].activation;
  w.mlp.norm = norm_of(m, layer, &p[P_NORM2], gradients);
  w.mlp.gate_up = linear_of(m, layer, &p[P_GATE_UP], &p[P_GATE_UP_BIAS], gradients);
  w.mlp.down = linear_of(m, layer, &p[P_DOWN], &p[P_DOWN_BIAS], gradients);
  return w;
}

/* Slots are given back by whoever needs one: the layer before last makes room. */
void weights_release(Model *m, int64_t layer) {
  CHECK(layer < m->config->L, "release of layer %lld", (long long)layer);
}

bool gradients_ready(Model *m, int64_t unit) {
  /* in one go: between its tensors a unit's gradient is zero */
  double squares = sum_of_squares(m->dev, arena_get(&m->arena, m->schedule->gradients[unit]), DT_FP32,
                                  params_unit_elements(&m->params, unit));
  m->gradient_squares += squares;
  if (m->schedule->shape.update == UPDATE_STEP) return true;
  arena_enter(&m->arena, m->schedule->update_of[unit]);
  if (!isfinite(squares)) {
    m->stopped_at = unit;
    return false;
  }
  optimizer_update_unit(m, unit, m->update);
  return true;
}

AttentionShape layer_attention(const Model *m, int64_t l, int64_t B, int64_t T, int64_t groups) {
  AttentionShape a = schedule_attention(m->config, l, B, T, groups);
  a.packed = m->schedule->shape.pack;
  if (!a.packed) return a;
  a.starts = (const int32_t *)arena_get(&m->arena, m->schedule->starts);
  a.documents = m->documents;
  if (m->schedule->documents != NO_BUFFER) a.list = arena_get(&m->arena, m->schedule->documents);
  return a;
}

QkPrepare layer_qk_prepare(const Model *m, const LayerWeights *w) {
  const Config *c = m->config;
  QkPrepare p = {};
  p.NH = c->NH;
  p.NKV = c->NKV;
  p.HS = c->HS;
  p.inv_freq = (const float *)arena_get(&m->arena, m->schedule->inv_freq);
  p.attention_scale = m->attention_scale;
  p.positions = (const int32_t *)arena_get(&m->arena, m->schedule->positions);
  p.q_norm = w->q_norm;
  p.k_norm = w->k_norm;
  p.dq_norm = w->dq_norm;
  p.dk_norm = w->dk_norm;
  p.norm_eps = (float)c->norm_eps;
  return p;
}

QkvHeads qkv_heads(int64_t NH, int64_t NKV, int64_t HS, DType dt, void *qkv, void *qk) {
  int64_t ld_qkv = (NH + 2 * NKV) * HS, ld_qk = qk ? (NH + NKV) * HS : ld_qkv;
  char *prepared = (char *)(qk ? qk : qkv);
  size_t e = dtype_size(dt);
  return QkvHeads{{prepared, ld_qk},
                  {prepared + (size_t)(NH * HS) * e, ld_qk},
                  {(char *)qkv + (size_t)((NH + NKV) * HS) * e, ld_qkv}};
}

static QkvHeads qkv_heads_of(Model *m, const LayerBuffers *buf) {
  void *qk = buf->qk == NO_BUFFER ? NULL : arena_get(&m->arena, buf->qk);
  const Config *c = m->config;
  return qkv_heads(c->NH, c->NKV, c->HS, m->schedule->shape.dtype, arena_get(&m->arena, buf->qkv), qk);
}

static MlpInside mlp_inside_of(Model *m, int64_t l, const LayerBuffers *buf) {
  return MlpInside{m->schedule->keep[l].mlp, arena_get(&m->arena, buf->mlp_n),
                   arena_get(&m->arena, buf->mlp_gu), arena_get(&m->arena, buf->mlp_h)};
}

/* The norm, the projection, and what comes before the attention. */
static QkvHeads forward_qkv(Model *m, const LayerWeights *w, const LayerBuffers *buf, int64_t N) {
  const Arena *a = &m->arena;
  DType dt = m->schedule->shape.dtype;
  void *n1 = arena_get(a, buf->n1), *qkv = arena_get(a, buf->qkv);
  rmsnorm_forward(m->dev, dt, n1, arena_get(a, buf->x), w->norm1.w, N, m->config->C, w->norm1.eps);
  linear_forward(m->dev, dt, &w->qkv, qkv, n1, N, NULL);
  QkvHeads h = qkv_heads_of(m, buf);
  QkPrepare prepare = layer_qk_prepare(m, w);
  qk_prepare_forward(m->dev, dt, h.q.data, h.q.ld, qkv, h.v.ld, &prepare, N);
  return h;
}

void layer_generate(Model *m, int64_t l, int64_t at, int64_t rows) {
  const Schedule *s = m->schedule;
  const LayerBuffers *buf = &s->generate_in;
  const Arena *a = &m->arena;
  DType dt = s->shape.dtype;
  LayerWeights w = weights_acquire(m, l, false);
  QkvHeads h = forward_qkv(m, &w, buf, rows);
  void *keys = arena_get(a, s->keys[l]), *values = arena_get(a, s->values[l]);
  void *x = arena_get(a, buf->x), *o = arena_get(a, buf->o);
  AttentionShape shape = schedule_attention(m->config, l, 1, at + rows, 1);
  attention_cache(m->dev, dt, keys, values, at, h.k, h.v, &shape, rows);
  attention_cached(m->dev, dt, o, h.q, keys, values, at, &shape, rows);
  linear_forward(m->dev, dt, &w.o, x, o, rows, x);
  MlpInside inside = mlp_inside_of(m, l, buf);
  mlp_forward(m->dev, dt, &w.mlp, x, x, rows, rows, &inside);
  weights_release(m, l);
}

/* Begins the copy of a buffer of `bytes` to its place on the host, if it has one. */
static void store_to_host(Model *m, BufferId host, BufferId device, int64_t bytes) {
  if (host == NO_BUFFER) return;
  offload_store(m->dev, arena_get(&m->arena, host), arena_get(&m->arena, device), (size_t)bytes);
}

void layer_forward(Model *m, int64_t l, const LayerPass *pass, int64_t B, int64_t T) {
  const Config *c = m->config;
  const ForwardMoments *at = &pass->at;
  const LayerBuffers *buf = &pass->buf;
  Arena *a = &m->arena;
  Device *dev = m->dev;
  DType dt = m->schedule->shape.dtype;
  int64_t N = B * T;
  LayerWeights w = weights_acquire(m, l, false);
  int64_t e = (int64_t)dtype_size(dt);

  if (schedule_pass_begin(at) != SKIPPED) {
    arena_enter(a, schedule_pass_begin(at));
    store_to_host(m, buf->host_x, buf->x, N * c->C * e);
  }
  if (at->qkv != SKIPPED) {
    arena_enter(a, at->qkv);
    forward_qkv(m, &w, buf, N);
  }
  if (at->attention != SKIPPED && schedule_grouped(m->schedule)) {
    arena_enter(a, at->attention);
    grouped_attention_forward(m, l, buf, &w, B, T);
  } else if (at->attention != SKIPPED) {
    arena_enter(a, at->attention);
    QkvHeads h = qkv_heads_of(m, buf);
    AttentionShape shape = layer_attention(m, l, B, T, 1);
    attention_forward(dev, dt, arena_get(a, buf->o), (float *)arena_get(a, buf->lse), h.q, h.k, h.v, &shape,
                      arena_get(a, m->schedule->attention_workspace));
  }
  if (at->attention != SKIPPED) {
    store_to_host(m, buf->host_o, buf->o, N * c->NH * c->HS * e);
    store_to_host(m, buf->host_lse, buf->lse, N * c->NH * (int64_t)sizeof(float));
  }
  if (at->out != SKIPPED) {
    arena_enter(a, at->out);
    linear_forward(dev, dt, &w.o, arena_get(a, buf->x_mid), arena_get(a, buf->o), N, arena_get(a, buf->x));
  }
  if (at->mlp != SKIPPED) {
    arena_enter(a, at->mlp);
    MlpInside inside = mlp_inside_of(m, l, buf);
    mlp_forward(dev, dt, &w.mlp, arena_get(a, buf->x_out), arena_get(a, buf->x_mid), N,
                schedule_mlp_rows(m->schedule), &inside);
  }
  if (buf->host_x != NO_BUFFER || buf->host_o != NO_BUFFER) offload_wait(dev);
  weights_release(m, l);
}

static void qkv_backward(Model *m, int64_t l, const LayerWeights *w) {
  const Config *c = m->config;
  const Schedule *s = m->schedule;
  const LayerBuffers *buf = &s->again[l].buf;
  const Arena *a = &m->arena;
  Device *dev = m->dev;
  DType dt = s->shape.dtype;
  int64_t N = schedule_rows(s), ld = (c->NH + 2 * c->NKV) * c->HS;
  void *dx = arena_get(a, s->dx), *d_qkv = arena_get(a, s->d_qkv);
  void *x = arena_get(a, buf->x), *n1 = arena_get(a, buf->n1);
  QkPrepare prepare = layer_qk_prepare(m, w);
  qk_prepare_backward(dev, dt, d_qkv, c->qk_norm ? arena_get(a, buf->qkv) : NULL, ld, &prepare, N);
  if (!s->keep[l].norm1) rmsnorm_forward(dev, dt, n1, x, w->norm1.w, N, c->C, w->norm1.eps);
  linear_backward_weight(dev, dt, &w->qkv, d_qkv, n1, N);
  linear_backward_input(dev, dt, &w->qkv, n1, d_qkv, N); /* the norm's output is done with: its gradient */
  rmsnorm_backward(dev, dt, dx, w->norm1.dw, n1, x, w->norm1.w, N, c->C, w->norm1.eps, true);
}

static void attention_heads_backward(Model *m, int64_t l) {
  const Config *c = m->config;
  const Schedule *s = m->schedule;
  const LayerBuffers *buf = &s->again[l].buf;
  const Arena *a = &m->arena;
  DType dt = s->shape.dtype;
  QkvHeads h = qkv_heads_of(m, buf);
  QkvHeads d = qkv_heads(c->NH, c->NKV, c->HS, dt, arena_get(a, s->d_qkv), NULL);
  AttentionShape shape = layer_attention(m, l, s->shape.B, s->shape.T, 1);
  attention_backward(m->dev, dt, d.q, d.k, d.v, arena_get(a, s->d_o), arena_get(a, buf->o),
                     (const float *)arena_get(a, buf->lse), h.q, h.k, h.v, &shape,
                     arena_get(a, s->attention_workspace));
}

void layer_backward(Model *m, int64_t l) {
  const Schedule *s = m->schedule;
  const BackwardMoments *at = &s->backward[l];
  const LayerBuffers *buf = &s->again[l].buf;
  bool grouped = schedule_grouped(s);
  Arena *a = &m->arena;
  Device *dev = m->dev;
  DType dt = s->shape.dtype;
  int64_t N = schedule_rows(s);

  arena_enter(a, at->mlp);
  LayerWeights w = weights_acquire(m, l, true);
  if (grouped) {
    grouped_mlp_backward(m, l, &w);
  } else {
    MlpInside inside = mlp_inside_of(m, l, buf);
    mlp_backward(dev, dt, &w.mlp, arena_get(a, s->dx), arena_get(a, buf->x_mid), N, schedule_mlp_rows(s),
                 &inside);
  }

  arena_enter(a, at->out);
  void *dx = arena_get(a, s->dx);
  linear_backward_weight(dev, dt, &w.o, dx, arena_get(a, buf->o), N);
  if (!grouped) linear_backward_input(dev, dt, &w.o, arena_get(a, s->d_o), dx, N);

  arena_enter(a, at->attention);
  grouped ? grouped_attention_backward(m, l, &w) : attention_heads_backward(m, l);

  arena_enter(a, at->qkv);
  grouped ? grouped_qkv_backward(m, l, &w) : qkv_backward(m, l, &w);
  weights_release(m, l);
}
