#include "llama/model.h"

#include <math.h>
#include <string.h>

#include "llama/layer.h" /* defines: layer_forward, layer_backward, gradients_ready, and mst_chunk.cuh's */
#include "memory/offload.h"
#include "ops/attention.h" /* defines: attention_pairs */
#include "ops/convert.h"
#include "ops/embedding.h"

static void fill_zero(Model *m, BufferId id) {
  const Plan *plan = m->schedule->plan;
  size_t bytes = (size_t)plan_buffer_bytes(plan, id);
  if (plan_buffer_space(plan, id) == SPACE_HOST)
    memset(arena_get(&m->arena, id), 0, bytes);
  else
    device_fill(m->dev, arena_get(&m->arena, id), 0, bytes);
}

bool model_open(Model *m, const Config *c, const Schedule *s, Device *dev, bool poison, Error *e) {
  *m = Model{};
  m->config = c;
  m->schedule = s;
  m->dev = dev;
  m->stopped_at = NOT_STOPPED;
  for (int i = 0; i < SLOTS; i++) m->layer_in_slot[i] = NO_LAYER;
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
      if (id != NO_BUFFER) fill_zero(m, id);
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
float *model_step_gradient(const Model *m, int64_t unit, const ParamSpec *spec) {
  BufferId host = m->schedule->host_gradients[unit];
  return host == NO_BUFFER ? model_gradient(m, unit, spec) : (float *)unit_element(m, host, spec, DT_FP32);
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

static void init_part(Model *m, void *p, DType dt, const ParamSpec *spec, uint64_t seed, int64_t id,
                      int64_t first, int64_t n) {
  if (spec->init == INIT_NORMAL)
    fill_normal(m->dev, p, dt, (float)spec->std, seed, id, first, n);
  else
    fill_constant(m->dev, p, dt, spec->init == INIT_ONE ? 1.0f : 0.0f, n);
}

/* What is on the host is made on the device, in pieces. */
static void init_tensor(Model *m, BufferId buffer, DType dt, const ParamSpec *spec, uint64_t seed,
                        int64_t id) {
  const Schedule *s = m->schedule;
  int64_t n = spec->rows * spec->cols;
  char *tensor = (char *)unit_element(m, buffer, spec, dt);
  if (plan_buffer_space(s->plan, buffer) == SPACE_DEVICE) {
    init_part(m, tensor, dt, spec, seed, id, 0, n);
    return;
  }
  void *staged = arena_get(&m->arena, s->staging);
  for (int64_t at = 0; at < n; at += STAGING_ELEMENTS) {
    int64_t part = n - at < STAGING_ELEMENTS ? n - at : (int64_t)STAGING_ELEMENTS;
    init_part(m, staged, dt, spec, seed, id, at, part);
    device_copy(m->dev, tensor + (size_t)at * dtype_size(dt), staged, (size_t)part * dtype_size(dt),
                COPY_FROM_DEVICE);
  }
}

void model_init(Model *m, uint64_t seed) {
  const Schedule *s = m->schedule;
  for (int i = 0; i < SLOTS; i++) m->layer_in_slot[i] = NO_LAYER;
  arena_enter(&m->arena, s->load);
  for (int64_t u = 0; u < params_units(&m->params); u++) {
    int count;
    const ParamSpec *specs = params_of_unit(&m->params, u, &count);
    for (int i = 0; i < count; i++) {
      if (!specs[i].rows) continue;
      int64_t id = params_id(u, i);
      init_tensor(m, s->weights[u], s->shape.dtype, &specs[i], seed, id);
      if (s->master[u] != NO_BUFFER) init_tensor(m, s->master[u], DT_FP32, &specs[i], seed, id);
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
  step.starts = (int32_t *)arena_get(&m->arena, s->host_starts);
  return step;
}

StepBatch model_micro_batch(const StepBatch *step, int64_t a) {
  int64_t at = a * step->B * step->T;
  StepBatch micro = *step;
  micro.A = 1;
  micro.tokens += at;
  micro.targets += at;
  micro.positions += at;
  micro.starts += at;
  micro.valid_targets = 0;
  return micro;
}

/* The LM head's weight is the embedding's in a tied model. gradients: for a backward. */
static LmHead lm_head(const Model *m, bool gradients) {
  const Config *c = m->config;
  int64_t last = params_final_unit(&m->params), unit = c->tied ? params_embedding_unit(&m->params) : last;
  const ParamSpec *norm = &m->params.final[P_NORM_FINAL];
  const ParamSpec *weight = c->tied ? &m->params.embedding[P_EMBEDDING] : &m->params.final[P_HEAD];
  LmHead head = {};
  head.C = c->C;
  head.V = c->V;
  head.norm = Norm{model_weight(m, last, norm), NULL, (float)c->norm_eps};
  if (gradients) head.norm.dw = model_gradient(m, last, norm);
  head.logits.name = "head";
  head.logits.in = c->C;
  head.logits.out = c->V;
  head.logits.weight = model_weight(m, unit, weight);
  if (gradients) head.logits.dweight = model_gradient(m, unit, weight);
  return head;
}

static HeadInside head_inside(const Model *m) {
  return HeadInside{arena_get(&m->arena, m->schedule->head_n),
                    arena_get(&m->arena, m->schedule->head_logits)};
}

/* The micro-batch's documents as the layers' attention reads them. */
static void list_documents(Model *m, const StepBatch *micro) {
  const Schedule *s = m->schedule;
  AttentionShape a = layer_attention(m, 0, micro->B, micro->T, s->shape.attn_groups);
  void *list = arena_get(&m->arena, s->host_documents);
  m->documents = attention_list_documents(list, &a, micro->starts);
  if (m->documents > attention_documents_room(&a)) return; /* then nobody reads it */
  device_copy(m->dev, arena_get(&m->arena, s->documents), list,
              (size_t)plan_buffer_bytes(s->plan, s->documents), COPY_TO_DEVICE);
}

void *model_embed(Model *m, const StepBatch *micro) {
  const Schedule *s = m->schedule;
  Arena *a = &m->arena;
  int64_t N = micro->B * micro->T;
  size_t bytes = (size_t)N * sizeof(int32_t);
  arena_enter(a, s->embedding_forward);
  int32_t *device_tokens = (int32_t *)arena_get(a, s->tokens);
  device_copy(m->dev, device_tokens, micro->tokens, bytes, COPY_TO_DEVICE);
  device_copy(m->dev, arena_get(a, s->positions), micro->positions, bytes, COPY_TO_DEVICE);
  if (s->shape.pack) device_copy(m->dev, arena_get(a, s->starts), micro->starts, bytes, COPY_TO_DEVICE);
  if (s->documents != NO_BUFFER) list_documents(m, micro);
  if (micro->targets) device_copy(m->dev, arena_get(a, s->targets), micro->targets, bytes, COPY_TO_DEVICE);
  const ParamSpec *table = &m->params.embedding[P_EMBEDDING];
  void *x = arena_get(a, s->forward[0].buf.x);
  embedding_forward(m->dev, s->shape.dtype, x, model_weight(m, params_embedding_unit(&m->params), table),
                    device_tokens, N, m->config->C);
  return x;
}

/* Embedding and all layers. Ends at the head's moment; returns the stream that goes into the head, [B*T, C].
 */
static void *forward(Model *m, const StepBatch *micro) {
  const Schedule *s = m->schedule;
  int64_t L = m->config->L;
  model_embed(m, micro);
  for (int64_t l = 0; l < L; l++) {
    offload_wait(m->dev);
    weights_prefetch(m, l, l + 1 < L ? l + 1 : (int64_t)NO_LAYER);
    layer_forward(m, l, &s->forward[l], micro->B, micro->T);
  }
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

/* A unit's gradient begins to live in a micro-batch: zero in the first one, else what the ones before added
 * up. */
static void gradients_begin(Model *m, int64_t unit, bool first_micro_batch) {
  const Schedule *s = m->schedule;
  BufferId id = s->gradients[unit], host = s->host_gradients[unit];
  if (first_micro_batch) {
    fill_zero(m, id);
  } else if (host != NO_BUFFER) {
    offload_fetch(m->dev, arena_get(&m->arena, id), arena_get(&m->arena, host),
                  (size_t)plan_buffer_bytes(s->plan, id));
    offload_wait(m->dev);
  }
}

/* The micro-batch has added its part. False: the step stops, see gradients_ready. */
static bool gradients_end(Model *m, int64_t unit, bool last_micro_batch) {
  const Schedule *s = m->schedule;
  BufferId id = s->gradients[unit], host = s->host_gradients[unit];
  if (last_micro_batch && !gradients_ready(m, unit)) return false;
  if (host != NO_BUFFER) {
    offload_store(m->dev, arena_get(&m->arena, host), arena_get(&m->arena, id),
                  (size_t)plan_buffer_bytes(s->plan, id));
    offload_wait(m->dev); /* the next unit's gradient takes its place */
  }
  return true;
}

/* Begins to fetch what a visit of the backward phase needs from the host. now: the layer that is computed
 * meanwhile. */
static void fetch_for_visit(Model *m, int64_t visit, int64_t now) {
  const Schedule *s = m->schedule;
  bool over = visit == s->visit_count;
  weights_prefetch(m, now, over ? (int64_t)NO_LAYER : s->visits[visit].layer);
  if (over) return;
  const Visit *v = &s->visits[visit];
  for (int i = 0; i < v->fetches; i++)
    offload_fetch(m->dev, arena_get(&m->arena, v->device[i]), arena_get(&m->arena, v->host[i]),
                  (size_t)plan_buffer_bytes(s->plan, v->device[i]));
}

/* The visit has what it needs; the next one's is fetched while it computes. */
static void begin_visit(Model *m, int64_t visit) {
  const Visit *v = &m->schedule->visits[visit];
  offload_wait(m->dev);
  arena_enter(&m->arena, v->begin);
  fetch_for_visit(m, visit + 1, v->layer);
}

/* The layers from last to first; what a layer or a segment did not keep is made again before its backward.
 * first, last: of the step's micro-batches. False: the step stops, see gradients_ready. */
static bool backward_layers(Model *m, bool first_micro_batch, bool last_micro_batch) {
  const Schedule *s = m->schedule;
  int64_t L = m->config->L, B = s->shape.B, T = s->shape.T, visit = 0;
  for (int64_t l = L - 1; l >= 0; l--) {
    bool last_of_segment = s->rerun[l].at.out == SKIPPED;
    int64_t first = l;
    while (last_of_segment && first > 0 && s->rerun[first - 1].at.out != SKIPPED) first--;
    for (int64_t i = first; i < l; i++) {
      begin_visit(m, visit++);
      layer_forward(m, i, &s->rerun[i], B, T);
    }
    begin_visit(m, visit++);
    layer_forward(m, l, &s->again[l], B, T);
    arena_enter(&m->arena, s->backward[l].mlp);
    gradients_begin(m, l, first_micro_batch);
    layer_backward(m, l);
    if (!gradients_end(m, l, last_micro_batch)) return false;
  }
  return true;
}

static double micro_batch(Model *m, const StepBatch *step, int64_t a) {
  const Schedule *s = m->schedule;
  Arena *arena = &m->arena;
  int64_t N = step->B * step->T;
  int64_t embedding = params_embedding_unit(&m->params), final = params_final_unit(&m->params);
  bool first = a == 0, last = a == step->A - 1, tied = m->config->tied;
  float scale = step->valid_targets ? (float)(1.0 / (double)step->valid_targets) : 0.0f;

  StepBatch micro = model_micro_batch(step, a);
  void *x = forward(m, &micro);
  fetch_for_visit(m, 0, m->config->L - 1);
  gradients_begin(m, final, first);
  if (tied) gradients_begin(m, embedding, first);
  LmHead head = lm_head(m, true);
  HeadInside inside = head_inside(m);
  head_forward_backward(m->dev, s->shape.dtype, &head, (float *)arena_get(arena, s->losses), x,
                        (const int32_t *)arena_get(arena, s->targets), N, schedule_head_rows(s), scale,
                        &inside);
  double sum = sum_losses(m, N);
  if (s->shape.update == UPDATE_LAYER && !isfinite(sum)) return sum;
  if (!gradients_end(m, final, last)) return sum;
  if (!backward_layers(m, first, last)) return sum;

  arena_enter(arena, s->embedding_backward);
  if (!tied) gradients_begin(m, embedding, first);
  embedding_backward(m->dev, s->shape.dtype, model_gradient(m, embedding, &m->params.embedding[P_EMBEDDING]),
                     arena_get(arena, s->dx), (const int32_t *)arena_get(arena, s->tokens), N, m->config->C);
  if (gradients_end(m, embedding, last) && last) arena_enter(arena, s->update);
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
    StepBatch micro = model_micro_batch(step, a);
    void *x = forward(m, &micro);
    LmHead head = lm_head(m, false);
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
  StepBatch sequence = model_step_batch(m, 1);
  sequence.B = 1;
  sequence.T = rows;
  sequence.targets = NULL;
  for (int64_t i = 0; i < rows; i++) {
    sequence.tokens[i] = tokens[i];
    sequence.positions[i] = (int32_t)i;
    sequence.starts[i] = 0;
  }
  void *x = forward(m, &sequence);
  LmHead head = lm_head(m, false);
  HeadInside inside = head_inside(m);
  head_chunk_logits(m->dev, dt, &head, &inside, mst_row(x, rows - n, c->C, dt), n);
  float *row = (float *)arena_get(&m->arena, s->head_row);
  for (int64_t i = 0; i < n; i++) {
    convert(m->dev, row, DT_FP32, mst_row(inside.logits, i, c->V, dt), dt, c->V);
    device_copy(m->dev, logits + i * c->V, row, (size_t)c->V * sizeof(float), COPY_FROM_DEVICE);
  }
  arena_enter(&m->arena, s->update);
}

/* A few tokens, from position `at` on, through embedding and layers; returns the stream, [rows, C]. */
static void *generate_rows(Model *m, const int32_t *tokens, int64_t at, int64_t rows) {
  const Schedule *s = m->schedule;
  const Arena *a = &m->arena;
  int32_t *positions = (int32_t *)arena_get(a, s->host_positions);
  for (int64_t i = 0; i < rows; i++) positions[i] = (int32_t)(at + i);
  int32_t *device_tokens = (int32_t *)arena_get(a, s->tokens);
  size_t bytes = (size_t)rows * sizeof(int32_t);
  device_copy(m->dev, device_tokens, tokens, bytes, COPY_TO_DEVICE);
  device_copy(m->dev, arena_get(a, s->positions), positions, bytes, COPY_TO_DEVICE);
  void *x = arena_get(a, s->generate_in.x);
  const ParamSpec *table = &m->params.embedding[P_EMBEDDING];
  embedding_forward(m->dev, s->shape.dtype, x, model_weight(m, params_embedding_unit(&m->params), table),
                    device_tokens, rows, m->config->C);
  int64_t L = m->config->L;
  for (int64_t l = 0; l < L; l++) {
    offload_wait(m->dev);
    weights_prefetch(m, l, l + 1 < L ? l + 1 : 0); /* the next token begins with the first layer again */
    layer_generate(m, l, at, rows);
  }
  return x;
}

void model_generate(Model *m, const int32_t *tokens, int64_t at, int64_t n, float *logits) {
  const Schedule *s = m->schedule;
  const Config *c = m->config;
  DType dt = s->shape.dtype;
  CHECK(n > 0 && at >= 0 && at + n <= s->shape.text, "tokens %lld to %lld of a text of %lld", (long long)at,
        (long long)(at + n), (long long)s->shape.text);
  CHECK(at == 0 || m->arena.moment == s->generate, "a text that something else came after");
  arena_enter(&m->arena, s->generate);
  void *last = NULL;
  for (int64_t rows, done = 0; done < n; done += rows) {
    rows = n - done < schedule_generate_rows(s) ? n - done : schedule_generate_rows(s);
    void *x = generate_rows(m, tokens + done, at + done, rows);
    last = mst_row(x, rows - 1, c->C, dt);
  }
  LmHead head = lm_head(m, false);
  HeadInside inside = {arena_get(&m->arena, s->generate_in.n1), arena_get(&m->arena, s->generate_logits)};
  head_chunk_logits(m->dev, dt, &head, &inside, last, 1);
  float *row = (float *)arena_get(&m->arena, s->head_row);
  convert(m->dev, row, DT_FP32, inside.logits, dt, c->V);
  device_copy(m->dev, logits, row, (size_t)c->V * sizeof(float), COPY_FROM_DEVICE);
}

/* Pairs of a query and a key it sees, of one head in all sequences of the step. */
static double step_pairs(const StepBatch *step, int64_t window) {
  double pairs = 0;
  for (int64_t row = 0; row < step->A * step->B; row++) {
    const int32_t *starts = step->starts + row * step->T;
    for (int64_t t = 0, end; t < step->T; t = end) {
      for (end = t + 1; end < step->T && starts[end] == starts[t];) end++;
      pairs += attention_pairs(end - t, window);
    }
  }
  return pairs;
}

double model_step_flops(const Config *c, const StepBatch *step) {
  double tokens = (double)(step->A * step->B) * (double)step->T, C = (double)c->C, pairs = 0;
  double q = (double)(c->NH * c->HS), kv = (double)(c->NKV * c->HS);
  double layer_products = C * (q + 2 * kv) + q * C + 3 * C * (double)c->FF;
  double forward = 2 * tokens * ((double)c->L * layer_products + C * (double)c->V);
  for (int64_t l = 0; l < c->L; l++) {
    if (l == 0 || c->layers[l].window != c->layers[l - 1].window)
      pairs = step_pairs(step, c->layers[l].window);
    forward += 4 * q * pairs;
  }
  return 3 * forward; /* a backward is two forwards */
}
