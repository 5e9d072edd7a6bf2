#include "llama/layer_groups.h"

#include "ops/convert.h" /* defines: copy_columns */

/* Heads of one group, and the widths of its rows. */
typedef struct Group {
  int64_t NH, NKV;
  int64_t q, kv, qkv; /* NH*HS, NKV*HS, both together with the values */
} Group;

static Group group_of(const Model *m) {
  const Config *c = m->config;
  int64_t groups = m->schedule->shape.attn_groups;
  Group g = {c->NH / groups, c->NKV / groups, 0, 0, 0};
  g.q = g.NH * c->HS;
  g.kv = g.NKV * c->HS;
  g.qkv = g.q + 2 * g.kv;
  return g;
}

static void *buffer(const Model *m, BufferId id) {
  return id == NO_BUFFER ? NULL : arena_get(&m->arena, id);
}

/* Column `first` of a matrix. */
static void *column(void *p, int64_t first, DType dt) {
  return mst_row(p, 1, first, dt);
}

/* A row of the whole projection is all queries, all keys, all values: where a group's begin, and how wide
 * they are. */
typedef struct Part {
  int64_t first, in_group, width;
} Part;
static void parts_of_group(const Model *m, int64_t group, Part parts[3]) {
  const Config *c = m->config;
  Group g = group_of(m);
  int64_t q = c->NH * c->HS, kv = c->NKV * c->HS;
  parts[0] = Part{group * g.q, 0, g.q};
  parts[1] = Part{q + group * g.kv, g.q, g.kv};
  parts[2] = Part{q + kv + group * g.kv, g.q + g.kv, g.kv};
}

/* The group's rows of the projection, gathered so that they are one product. */
static Linear gather_qkv(Model *m, const Linear *whole, int64_t group) {
  DType dt = m->schedule->shape.dtype;
  size_t row = (size_t)whole->in * dtype_size(dt);
  Group g = group_of(m);
  Part parts[3];
  parts_of_group(m, group, parts);
  char *weight = (char *)buffer(m, m->schedule->group.weights);
  char *bias = weight + (size_t)g.qkv * row;
  for (const Part &p : parts) {
    device_copy(m->dev, weight + (size_t)p.in_group * row,
                (const char *)whole->weight + (size_t)p.first * row, (size_t)p.width * row, COPY_ON_DEVICE);
    if (whole->bias)
      device_copy(m->dev, column(bias, p.in_group, dt), column((void *)whole->bias, p.first, dt),
                  (size_t)p.width * dtype_size(dt), COPY_ON_DEVICE);
  }
  Linear l = {};
  l.name = whole->name;
  l.in = whole->in;
  l.out = g.qkv;
  l.weight = weight;
  l.bias = whole->bias ? bias : NULL;
  return l;
}

/* Queries, keys and values of a group, ready for the attention. */
static QkvHeads group_qkv(Model *m, const LayerBuffers *buf, const LayerWeights *w, int64_t group, int64_t N,
                          QkPrepare *prepare) {
  const Schedule *s = m->schedule;
  const Config *c = m->config;
  DType dt = s->shape.dtype;
  Group g = group_of(m);
  Linear projection = gather_qkv(m, &w->qkv, group);
  void *x = buffer(m, buf->x), *n1 = buffer(m, s->group.n1), *qkv = buffer(m, s->group.qkv);
  int64_t chunk = schedule_mlp_rows(s);
  for (int64_t r = 0, n; r < N; r += n) {
    n = chunk < N - r ? chunk : N - r;
    rmsnorm_forward(m->dev, dt, n1, mst_row(x, r, c->C, dt), w->norm1.w, n, c->C, w->norm1.eps);
    linear_forward(m->dev, dt, &projection, mst_row(qkv, r, g.qkv, dt), n1, n, NULL);
  }
  *prepare = layer_qk_prepare(m, w);
  prepare->NH = g.NH;
  prepare->NKV = g.NKV;
  QkvHeads h = qkv_heads(g.NH, g.NKV, c->HS, dt, qkv, buffer(m, s->group.qk));
  qk_prepare_forward(m->dev, dt, h.q.data, h.q.ld, qkv, g.qkv, prepare, N);
  return h;
}

static AttentionShape group_shape(const Model *m, int64_t l, int64_t B, int64_t T) {
  return layer_attention(m, l, B, T, m->schedule->shape.attn_groups);
}

/* The log-sum-exp of a group, [B, NH, T] of its heads: groups follow each other. */
static float *group_lse(Model *m, const LayerBuffers *buf, int64_t group, int64_t N) {
  return (float *)buffer(m, buf->lse) + group * group_of(m).NH * N;
}

void grouped_attention_forward(Model *m, int64_t l, const LayerBuffers *buf, const LayerWeights *w, int64_t B,
                               int64_t T) {
  const Schedule *s = m->schedule;
  const Config *c = m->config;
  DType dt = s->shape.dtype;
  Group g = group_of(m);
  int64_t N = B * T;
  AttentionShape shape = group_shape(m, l, B, T);
  void *o = buffer(m, buf->o), *group_o = buffer(m, s->group.o);
  for (int64_t i = 0; i < s->shape.attn_groups; i++) {
    QkPrepare prepare;
    QkvHeads h = group_qkv(m, buf, w, i, N, &prepare);
    attention_forward(m->dev, dt, group_o, group_lse(m, buf, i, N), h.q, h.k, h.v, &shape,
                      buffer(m, s->attention_workspace));
    copy_columns(m->dev, dt, column(o, i * g.q, dt), c->NH * c->HS, group_o, g.q, g.q, N);
  }
}

void grouped_mlp_backward(Model *m, int64_t l, const LayerWeights *w) {
  const Schedule *s = m->schedule;
  const Config *c = m->config;
  const LayerBuffers *buf = &s->again[l].buf;
  DType dt = s->shape.dtype;
  int64_t N = schedule_rows(s), chunk = schedule_mlp_rows(s);
  MlpInside inside = {false, buffer(m, buf->mlp_n), buffer(m, buf->mlp_gu), buffer(m, buf->mlp_h)};
  void *x = buffer(m, buf->x), *o = buffer(m, buf->o), *x_mid = buffer(m, s->group.x_mid);
  for (int64_t r = 0, n; r < N; r += n) {
    n = chunk < N - r ? chunk : N - r;
    linear_forward(m->dev, dt, &w->o, x_mid, mst_row(o, r, c->NH * c->HS, dt), n, mst_row(x, r, c->C, dt));
    mlp_backward(m->dev, dt, &w->mlp, mst_row(buffer(m, s->dx), r, c->C, dt), x_mid, n, n, &inside);
  }
}

/* The group's columns of the output projection, whose gradient is complete by then. */
static Linear gather_o(Model *m, const Linear *whole, int64_t group) {
  DType dt = m->schedule->shape.dtype;
  Group g = group_of(m);
  Linear l = {};
  l.name = whole->name;
  void *weight = buffer(m, m->schedule->group.weights);
  copy_columns(m->dev, dt, weight, g.q, column((void *)whole->weight, group * g.q, dt), whole->in, g.q,
               whole->out);
  l.in = g.q;
  l.out = whole->out;
  l.weight = weight;
  return l;
}

void grouped_attention_backward(Model *m, int64_t l, const LayerWeights *w) {
  const Schedule *s = m->schedule;
  const Config *c = m->config;
  const LayerBuffers *buf = &s->again[l].buf;
  DType dt = s->shape.dtype;
  Group g = group_of(m);
  int64_t N = schedule_rows(s), q = c->NH * c->HS, kv = c->NKV * c->HS;
  AttentionShape shape = group_shape(m, l, s->shape.B, s->shape.T);
  void *o = buffer(m, buf->o), *group_o = buffer(m, s->group.o), *d_o = buffer(m, s->group.d_o);
  void *d_qkv = buffer(m, s->group.d_qkv), *d_kv = buffer(m, s->group.d_kv);
  QkvHeads d = qkv_heads(g.NH, g.NKV, c->HS, dt, d_qkv, NULL);
  for (int64_t i = 0; i < s->shape.attn_groups; i++) {
    QkPrepare prepare;
    QkvHeads h = group_qkv(m, buf, w, i, N, &prepare);
    Linear output = gather_o(m, &w->o, i);
    linear_backward_input(m->dev, dt, &output, d_o, buffer(m, s->dx), N);
    copy_columns(m->dev, dt, group_o, g.q, column(o, i * g.q, dt), q, g.q, N);
    attention_backward(m->dev, dt, d.q, d.k, d.v, d_o, group_o, group_lse(m, buf, i, N), h.q, h.k, h.v,
                       &shape, buffer(m, s->attention_workspace));
    qk_prepare_backward(m->dev, dt, d_qkv, buffer(m, s->group.qkv), g.qkv, &prepare, N);
    Part parts[3];
    parts_of_group(m, i, parts);
    copy_columns(m->dev, dt, column(o, parts[0].first, dt), q, d_qkv, g.qkv, g.q, N);
    for (int p = 1; p < 3; p++)
      copy_columns(m->dev, dt, column(d_kv, parts[p].first - q, dt), 2 * kv,
                   column(d_qkv, parts[p].in_group, dt), g.qkv, g.kv, N);
  }
}

void grouped_qkv_backward(Model *m, int64_t l, const LayerWeights *w) {
  const Schedule *s = m->schedule;
  const Config *c = m->config;
  const LayerBuffers *buf = &s->again[l].buf;
  DType dt = s->shape.dtype;
  int64_t N = schedule_rows(s), chunk = schedule_mlp_rows(s);
  int64_t q = c->NH * c->HS, kv = c->NKV * c->HS, qkv = q + 2 * kv;
  void *x = buffer(m, buf->x), *dx = buffer(m, s->dx), *n1 = buffer(m, s->group.n1);
  void *d_q = buffer(m, buf->o), *d_kv = buffer(m, s->group.d_kv), *d_rows = buffer(m, s->group.d_rows);
  for (int64_t r = 0, n; r < N; r += n) {
    n = chunk < N - r ? chunk : N - r;
    void *in = mst_row(x, r, c->C, dt);
    copy_columns(m->dev, dt, d_rows, qkv, mst_row(d_q, r, q, dt), q, q, n);
    copy_columns(m->dev, dt, column(d_rows, q, dt), qkv, mst_row(d_kv, r, 2 * kv, dt), 2 * kv, 2 * kv, n);
    rmsnorm_forward(m->dev, dt, n1, in, w->norm1.w, n, c->C, w->norm1.eps);
    linear_backward_weight(m->dev, dt, &w->qkv, d_rows, n1, n);
    linear_backward_input(m->dev, dt, &w->qkv, n1, d_rows, n);
    rmsnorm_backward(m->dev, dt, mst_row(dx, r, c->C, dt), w->norm1.dw, n1, in, w->norm1.w, n, c->C,
                     w->norm1.eps, true);
  }
}
