#include "llama/model.h"

#include <math.h>
#include <string.h>

#include "llama/layer.h"   /* defines: layer_forward, layer_backward, gradients_ready, and mst_chunk.cuh's */
#include "ops/attention.h" /* defines: attention_pairs */
#include "ops/convert.h"
#include "ops/embedding.h"

bool model_open(Model *m, const Config *c, const Schedule *s, Device *dev, bool poison, Error *e) {
  *m = Model{};
  m->config = c;
  m->schedule = s;
  m->dev = dev;
  m->stopped_at = NOT_STOPPED;
  params_table(&m->params, c);
  if (!arena_open(&m->arena, s->plan, dev, poison, e)) return false;
  arena_enter(&m->arena, s->load);
  dev->workspace = arena_get(&m->arena, s->workspace);
  dev->workspace_bytes = (size_t)plan_buffer_bytes(s->plan, s->workspace);
  /* the host's staging is large enough for any head size */
  float *inv_freq = (float *)arena_get(&m->arena, s->host_staging);
  rope_frequencies(&c->rope, c->HS, c->max_T, inv_freq, &m->attention_scale);
  device_copy(dev, arena_get(&m->arena, s->inv_freq), inv_freq, (size_t)(c->HS / 2) * sizeof(float),
              COPY_TO_DEVICE);
  for (int64_t u = 0; u < params_units(&m->params) && s->shape.training; u++) {
    BufferId moments[] = {s->moment1[u], s->moment2[u], s->absmax1[u], s->absmax2[u]};
    for (BufferId id : moments)
      if (id != NO_BUFFER)
        device_fill(dev, arena_get(&m->arena, id), 0, (size_t)plan_buffer_bytes(s->plan, id));
  }
  return true;
}

void model_close(Model *m) {
  if (m->arena.base[SPACE_DEVICE]) arena_close(&m->arena);
  if (m->dev) m->dev->workspace = NULL;
  *m = Model{};
}

static void *unit_element(const Model *m, BufferId id, const ParamSpec *spec, DType dt) {
  if (id == NO_BUFFER || spec->rows == 0) return NULL;
  return (char *)arena_get(&m->arena, id) + (size_t)spec->offset * dtype_size(dt);
}

void *model_weight(const Model *m, int64_t unit, const ParamSpec *spec) {
  return unit_element(m, m->schedule->weights[unit], spec, m->schedule->shape.dtype);
}
float *model_gradient(const Model *m, int64_t unit, const ParamSpec *spec) {
  return (float *)unit_element(m, m->schedule->gradients[unit], spec, DT_FP32);
}
float *model_master(const Model *m, int64_t unit, const ParamSpec *spec) {
  return (float *)unit_element(m, m->schedule->master[unit], spec, DT_FP32);
}

void *model_moment1(const Model *m, int64_t unit, const ParamSpec *spec) {
  return unit_element(m, m->schedule->moment1[unit], spec, m->schedule->shape.moments);
}
void *model_moment2(const Model *m, int64_t unit, const ParamSpec *spec) {
  return unit_element(m, m->schedule->moment2[unit], spec, m->schedule->shape.moments);
}

static float *slice_scales(const Model *m, BufferId id, const HfSlice *slice) {
  return id == NO_BUFFER ? NULL : (float *)arena_get(&m->arena, id) + slice->block;
}
float *model_absmax1(const Model *m, int64_t unit, const HfSlice *slice) {
  return slice_scales(m, m->schedule->absmax1[unit], slice);
}
float *model_absmax2(const Model *m, int64_t unit, const HfSlice *slice) {
  return slice_scales(m, m->schedule->absmax2[unit], slice);
}

static void init_tensor(Model *m, void *p, DType dt, const ParamSpec *spec, uint64_t seed, int64_t id) {
  int64_t n = spec->rows * spec->cols;
  if (spec->init == INIT_NORMAL)
    fill_normal(m->dev, p, dt, (float)spec->std, seed, id, 0, n);
  else
    fill_constant(m->dev, p, dt, spec->init == INIT_ONE ? 1.0f : 0.0f, n);
}

void model_init(Model *m, uint64_t seed) {
  for (int64_t u = 0; u < params_units(&m->params); u++) {
    int count;
    const ParamSpec *specs = params_of_unit(&m->params, u, &count);
    for (int i = 0; i < count; i++) {
      if (!specs[i].rows) continue;
      int64_t id = params_id(u, i);
      init_tensor(m, model_weight(m, u, &specs[i]), m->schedule->shape.dtype, &specs[i], seed, id);
      float *master = model_master(m, u, &specs[i]);
      if (master) init_tensor(m, master, DT_FP32, &specs[i], seed, id);
    }
  }
}

StepBatch model_step_batch(const Model *m, int64_t A) {
  const Schedule *s = m->schedule;
  CHECK(A <= s->shape.A, "a step of %lld micro-batches, planned for %lld", (long long)A,
        (long long)s->shape.A);
  StepBatch step = {};
  step.A = A;
  step.B = s->shape.B;
  step.T = s->shape.T;
  step.tokens = (int32_t *)arena_get(&m->arena, s->host_tokens);
  step.targets = (int32_t *)arena_get(&m->arena, s->host_targets);
  step.positions = (int32_t *)arena_get(&m->arena, s->host_positions);
  step.documents = (int32_t *)arena_get(&m->arena, s->host_documents);
  return step;
}

/* The LM head's weight is the embedding's in a tied model. */
static LmHead lm_head(const Model *m) {
  const Config *c = m->config;
  int64_t last = params_final_unit(&m->params), unit = c->tied ? params_embedding_unit(&m->params) : last;
  const ParamSpec *norm = &m->params.final[P_NORM_FINAL];
  const ParamSpec *weight = c->tied ? &m->params.embedding[P_EMBEDDING] : &m->params.final[P_HEAD];
  LmHead head = {};
  head.C = c->C;
  head.V = c->V;
  head.norm = Norm{model_weight(m, last, norm), model_gradient(m, last, norm), (float)c->norm_eps};
  head.logits.name = "head";
  head.logits.in = c->C;
  head.logits.out = c->V;
  head.logits.weight = model_weight(m, unit, weight);
  head.logits.dweight = model_gradient(m, unit, weight);
  return head;
}

static HeadInside head_inside(const Model *m) {
  return HeadInside{arena_get(&m->arena, m->schedule->head_n),
                    arena_get(&m->arena, m->schedule->head_logits)};
}

void *model_embed(Model *m, const int32_t *tokens, const int32_t *targets, const int32_t *positions,
                  int64_t B, int64_t T) {
  const Schedule *s = m->schedule;
  Arena *a = &m->arena;
  size_t bytes = (size_t)(B * T) * sizeof(int32_t);
  arena_enter(a, s->embedding_forward);
  int32_t *device_tokens = (int32_t *)arena_get(a, s->tokens);
  device_copy(m->dev, device_tokens, tokens, bytes, COPY_TO_DEVICE);
  device_copy(m->dev, arena_get(a, s->positions), positions, bytes, COPY_TO_DEVICE);
  if (targets) device_copy(m->dev, arena_get(a, s->targets), targets, bytes, COPY_TO_DEVICE);
  const ParamSpec *table = &m->params.embedding[P_EMBEDDING];
  void *x = arena_get(a, s->forward[0].buf.x);
  embedding_forward(m->dev, s->shape.dtype, x, model_weight(m, params_embedding_unit(&m->params), table),
                    device_tokens, B * T, m->config->C);
  return x;
}

/* Embedding and all layers. Ends at the head's moment; returns the stream that goes into the head, [B*T, C].
 */
static void *forward(Model *m, const int32_t *tokens, const int32_t *targets, const int32_t *positions,
                     int64_t B, int64_t T) {
  const Schedule *s = m->schedule;
  int64_t L = m->config->L;
  model_embed(m, tokens, targets, positions, B, T);
  for (int64_t l = 0; l < L; l++) layer_forward(m, l, &s->forward[l], B, T);
  arena_enter(&m->arena, s->head);
  return arena_get(&m->arena, s->forward[L - 1].buf.x_out);
}

/* Sum of the losses that the head left on the device. */
static double sum_losses(Model *m, int64_t rows) {
  const Schedule *s = m->schedule;
  float *losses = (float *)arena_get(&m->arena, s->host_losses);
  device_copy(m->dev, losses, arena_get(&m->arena, s->losses), (size_t)rows * sizeof(float),
              COPY_FROM_DEVICE);
  double sum = 0;
  for (int64_t i = 0; i < rows; i++) sum += losses[i];
  return sum;
}

/* A unit's gradient begins to live: it is zero before the first micro-batch adds to it. */
static void gradients_begin(Model *m, int64_t unit) {
  BufferId id = m->schedule->gradients[unit];
  device_fill(m->dev, arena_get(&m->arena, id), 0, (size_t)plan_buffer_bytes(m->schedule->plan, id));
}

/* The layers from last to first; what a layer or a segment did not keep is made again before its backward.
 * first, last: of the step's micro-batches. False: the step stops, see gradients_ready. */
static bool backward_layers(Model *m, bool first_micro_batch, bool last_micro_batch) {
  const Schedule *s = m->schedule;
  int64_t L = m->config->L, B = s->shape.B, T = s->shape.T;
  for (int64_t l = L - 1; l >= 0; l--) {
    bool last_of_segment = s->rerun[l].at.out == SKIPPED;
    int64_t first = l;
    while (last_of_segment && first > 0 && s->rerun[first - 1].at.out != SKIPPED) first--;
    for (int64_t i = first; i < l; i++) layer_forward(m, i, &s->rerun[i], B, T);
    layer_forward(m, l, &s->again[l], B, T);
    arena_enter(&m->arena, s->backward[l].mlp);
    if (first_micro_batch) gradients_begin(m, l);
    layer_backward(m, l);
    if (last_micro_batch && !gradients_ready(m, l)) return false;
  }
  return true;
}

static double micro_batch(Model *m, const StepBatch *step, int64_t a) {
  const Schedule *s = m->schedule;
  Arena *arena = &m->arena;
  int64_t B = step->B, T = step->T, N = B * T, at = a * N;
  int64_t embedding = params_embedding_unit(&m->params), final = params_final_unit(&m->params);
  bool first = a == 0, last = a == step->A - 1, tied = m->config->tied;
  float scale = step->valid_targets ? (float)(1.0 / (double)step->valid_targets) : 0.0f;

  void *x = forward(m, step->tokens + at, step->targets + at, step->positions + at, B, T);
  if (first) gradients_begin(m, final);
  if (first && tied) gradients_begin(m, embedding);
  LmHead head = lm_head(m);
  HeadInside inside = head_inside(m);
  head_forward_backward(m->dev, s->shape.dtype, &head, (float *)arena_get(arena, s->losses), x,
                        (const int32_t *)arena_get(arena, s->targets), N, schedule_head_rows(s), scale,
                        &inside);
  double sum = sum_losses(m, N);
  if (s->shape.update == UPDATE_LAYER && !isfinite(sum)) return sum;
  if (last && !gradients_ready(m, final)) return sum;
  if (!backward_layers(m, first, last)) return sum;

  arena_enter(arena, s->embedding_backward);
  if (first && !tied) gradients_begin(m, embedding);
  embedding_backward(m->dev, s->shape.dtype, model_gradient(m, embedding, &m->params.embedding[P_EMBEDDING]),
                     arena_get(arena, s->dx), (const int32_t *)arena_get(arena, s->tokens), N, m->config->C);
  if (last && gradients_ready(m, embedding)) arena_enter(arena, s->update);
  return sum;
}

double model_forward_backward(Model *m, const StepBatch *step, const AdamW *update) {
  const Schedule *s = m->schedule;
  CHECK(s->shape.training, "a backward in a schedule without one");
  CHECK(s->shape.update == UPDATE_STEP || (update && step->A == 1),
        "updates of a layer at a time in a step of %lld micro-batches", (long long)step->A);
  m->gradient_squares = 0;
  m->update = update;
  m->stopped_at = NOT_STOPPED;
  double sum = 0;
  for (int64_t a = 0; a < step->A; a++) sum += micro_batch(m, step, a);
  return step->valid_targets ? sum / (double)step->valid_targets : 0;
}

double model_evaluate(Model *m, const StepBatch *step) {
  const Schedule *s = m->schedule;
  double sum = 0;
  int64_t N = step->B * step->T;
  for (int64_t a = 0; a < step->A; a++) {
    int64_t at = a * N;
    void *x = forward(m, step->tokens + at, step->targets + at, step->positions + at, step->B, step->T);
    LmHead head = lm_head(m);
    HeadInside inside = head_inside(m);
    head_forward(m->dev, s->shape.dtype, &head, (float *)arena_get(&m->arena, s->losses), x,
                 (const int32_t *)arena_get(&m->arena, s->targets), N, schedule_head_rows(s), &inside);
    sum += sum_losses(m, N);
  }
  arena_enter(&m->arena, s->update);
  return sum;
}

void model_logits(Model *m, const int32_t *tokens, int64_t rows, int64_t n, float *logits) {
  const Schedule *s = m->schedule;
  const Config *c = m->config;
  DType dt = s->shape.dtype;
  CHECK(rows <= s->shape.T && n <= rows && n <= schedule_head_rows(s), "logits of %lld rows", (long long)n);
  int32_t *positions = (int32_t *)arena_get(&m->arena, s->host_positions);
  for (int64_t i = 0; i < rows; i++) positions[i] = (int32_t)i;
  void *x = forward(m, tokens, NULL, positions, 1, rows);
  LmHead head = lm_head(m);
  HeadInside inside = head_inside(m);
  head_chunk_logits(m->dev, dt, &head, &inside, mst_row(x, rows - n, c->C, dt), n);
  float *row = (float *)arena_get(&m->arena, s->head_row);
  for (int64_t i = 0; i < n; i++) {
    convert(m->dev, row, DT_FP32, mst_row(inside.logits, i, c->V, dt), dt, c->V);
    device_copy(m->dev, logits + i * c->V, row, (size_t)c->V * sizeof(float), COPY_FROM_DEVICE);
  }
  arena_enter(&m->arena, s->update);
}

double model_step_flops(const Config *c, int64_t sequences, int64_t T) {
  double tokens = (double)sequences * (double)T, C = (double)c->C;
  double q = (double)(c->NH * c->HS), kv = (double)(c->NKV * c->HS);
  double layer_products = C * (q + 2 * kv) + q * C + 3 * C * (double)c->FF;
  double forward = 2 * tokens * ((double)c->L * layer_products + C * (double)c->V);
  for (int64_t l = 0; l < c->L; l++) {
    forward += 4 * q * attention_pairs(T, c->layers[l].window) * (double)sequences;
  }
  return 3 * forward; /* a backward is two forwards */
}
