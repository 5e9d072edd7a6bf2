#include "llama/layer.h"

#include "llama/optimizer.h" /* defines: optimizer_update_unit */
#include "ops/adamw.h"       /* defines: sum_of_squares */
#include "ops/attention.h"
#include "ops/qk_prepare.h"

#include <math.h>

static float *gradient_of(const Model *m, int64_t unit, const ParamSpec *spec, bool wanted) {
  return wanted ? model_gradient(m, unit, spec) : NULL;
}

static Norm norm_of(const Model *m, int64_t unit, const ParamSpec *spec, bool gradients) {
  return Norm{model_weight(m, unit, spec), gradient_of(m, unit, spec, gradients), (float)m->config->norm_eps};
}

static Linear linear_of(const Model *m, int64_t unit, const ParamSpec *weight, const ParamSpec *bias,
                        bool gradients) {
  Linear l = {};
  l.name = weight->name;
  l.in = weight->cols;
  l.out = weight->rows;
  l.weight = model_weight(m, unit, weight);
  l.dweight = gradient_of(m, unit, weight, gradients);
  if (bias->rows) {
    l.bias = model_weight(m, unit, bias);
    l.dbias = gradient_of(m, unit, bias, gradients);
  }
  return l;
}

LayerWeights weights_acquire(Model *m, int64_t layer, bool gradients) {
  const ParamSpec *p = m->params.layer;
  const Config *c = m->config;
  LayerWeights w = {};
  w.norm1 = norm_of(m, layer, &p[P_NORM1], gradients);
  w.qkv = linear_of(m, layer, &p[P_QKV], &p[P_QKV_BIAS], gradients);
  w.o = linear_of(m, layer, &p[P_O], &p[P_O_BIAS], gradients);
  if (c->qk_norm) {
    w.q_norm = model_weight(m, layer, &p[P_Q_NORM]);
    w.k_norm = model_weight(m, layer, &p[P_K_NORM]);
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

/* All weights are resident in this version: nothing to give back. */
void weights_release(Model *m, int64_t layer) {
  CHECK(layer < m->config->L, "release of layer %lld", (long long)layer);
}

bool gradients_ready(Model *m, int64_t unit) {
  int count;
  const ParamSpec *specs = params_of_unit(&m->params, unit, &count);
  double squares = 0;
  for (int i = 0; i < count; i++)
    if (specs[i].rows)
      squares +=
          sum_of_squares(m->dev, model_gradient(m, unit, &specs[i]), DT_FP32, specs[i].rows * specs[i].cols);
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

static QkPrepare qk_prepare_of(const Model *m, const LayerWeights *w) {
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

/* The NH + 2 NKV heads of a row as the attention takes them. */
typedef struct QkvHeads {
  Heads q, k, v;
} QkvHeads;

/* qk: the prepared queries and keys when they are not in qkv itself, else NULL. */
static QkvHeads qkv_heads(const Config *c, DType dt, void *qkv, void *qk) {
  AttentionStrides ld = schedule_attention_strides(c);
  int64_t ld_qkv = ld.v, ld_qk = qk ? ld.q : ld.v;
  char *prepared = (char *)(qk ? qk : qkv);
  size_t e = dtype_size(dt);
  return QkvHeads{{prepared, ld_qk},
                  {prepared + (size_t)(c->NH * c->HS) * e, ld_qk},
                  {(char *)qkv + (size_t)((c->NH + c->NKV) * c->HS) * e, ld_qkv}};
}

static QkvHeads qkv_heads_of(Model *m, const LayerBuffers *buf) {
  void *qk = buf->qk == NO_BUFFER ? NULL : arena_get(&m->arena, buf->qk);
  return qkv_heads(m->config, m->schedule->shape.dtype, arena_get(&m->arena, buf->qkv), qk);
}

static MlpInside mlp_inside_of(Model *m, int64_t l, const LayerBuffers *buf) {
  return MlpInside{m->schedule->keep[l].mlp, arena_get(&m->arena, buf->mlp_n),
                   arena_get(&m->arena, buf->mlp_gu), arena_get(&m->arena, buf->mlp_h)};
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

  if (at->qkv != SKIPPED) {
    arena_enter(a, at->qkv);
    void *n1 = arena_get(a, buf->n1), *qkv = arena_get(a, buf->qkv);
    rmsnorm_forward(dev, dt, n1, arena_get(a, buf->x), w.norm1.w, N, c->C, w.norm1.eps);
    linear_forward(dev, dt, &w.qkv, qkv, n1, N, false);
    QkvHeads h = qkv_heads_of(m, buf);
    QkPrepare prepare = qk_prepare_of(m, &w);
    qk_prepare_forward(dev, dt, h.q.data, h.q.ld, qkv, h.v.ld, &prepare, N);
  }
  if (at->attention != SKIPPED) {
    arena_enter(a, at->attention);
    QkvHeads h = qkv_heads_of(m, buf);
    AttentionShape shape = schedule_attention(c, l, B, T);
    attention_forward(dev, dt, arena_get(a, buf->o), (float *)arena_get(a, buf->lse), h.q, h.k, h.v, &shape,
                      arena_get(a, m->schedule->attention_workspace));
  }
  if (at->out != SKIPPED) {
    arena_enter(a, at->out);
    void *x_mid = arena_get(a, buf->x_mid);
    device_copy(dev, x_mid, arena_get(a, buf->x), (size_t)(N * c->C) * dtype_size(dt), COPY_ON_DEVICE);
    linear_forward(dev, dt, &w.o, x_mid, arena_get(a, buf->o), N, true);
  }
  if (at->mlp != SKIPPED) {
    arena_enter(a, at->mlp);
    MlpInside inside = mlp_inside_of(m, l, buf);
    mlp_forward(dev, dt, &w.mlp, arena_get(a, buf->x_out), arena_get(a, buf->x_mid), N,
                schedule_mlp_rows(m->schedule), &inside);
  }
  weights_release(m, l);
}

void layer_backward(Model *m, int64_t l) {
  const Config *c = m->config;
  const Schedule *s = m->schedule;
  const BackwardMoments *at = &s->backward[l];
  const LayerBuffers *buf = &s->again[l].buf;
  Arena *a = &m->arena;
  Device *dev = m->dev;
  DType dt = s->shape.dtype;
  int64_t B = s->shape.B, T = s->shape.T, N = B * T;

  arena_enter(a, at->mlp);
  LayerWeights w = weights_acquire(m, l, true);
  MlpInside inside = mlp_inside_of(m, l, buf);
  mlp_backward(dev, dt, &w.mlp, arena_get(a, s->dx), arena_get(a, buf->x_mid), N, schedule_mlp_rows(s),
               &inside);

  arena_enter(a, at->out);
  void *dx = arena_get(a, s->dx), *d_o = arena_get(a, s->d_o);
  linear_backward_weight(dev, dt, &w.o, dx, arena_get(a, buf->o), N);
  linear_backward_input(dev, dt, &w.o, d_o, dx, N);

  arena_enter(a, at->attention);
  QkvHeads h = qkv_heads_of(m, buf), d = qkv_heads(c, dt, arena_get(a, s->d_qkv), NULL);
  AttentionShape shape = schedule_attention(c, l, B, T);
  attention_backward(dev, dt, d.q, d.k, d.v, d_o, arena_get(a, buf->o), (const float *)arena_get(a, buf->lse),
                     h.q, h.k, h.v, &shape, arena_get(a, s->attention_workspace));

  arena_enter(a, at->qkv);
  void *d_qkv = arena_get(a, s->d_qkv), *x = arena_get(a, buf->x), *n1 = arena_get(a, buf->n1);
  QkPrepare prepare = qk_prepare_of(m, &w);
  qk_prepare_backward(dev, dt, d_qkv, c->qk_norm ? arena_get(a, buf->qkv) : NULL, h.v.ld, &prepare, N);
  if (!s->keep[l].norm1) rmsnorm_forward(dev, dt, n1, x, w.norm1.w, N, c->C, w.norm1.eps);
  linear_backward_weight(dev, dt, &w.qkv, d_qkv, n1, N);
  linear_backward_input(dev, dt, &w.qkv, n1, d_qkv, N); /* the norm's output is done with: its gradient */
  rmsnorm_backward(dev, dt, dx, w.norm1.dw, n1, x, w.norm1.w, N, c->C, w.norm1.eps, true);
  weights_release(m, l);
}
