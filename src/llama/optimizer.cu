#include "llama/optimizer.h"

#include "memory/offload.h"

#include <math.h>

double learning_rate(const LrSchedule *s, int64_t step) {
  if (step <= s->warmup) return s->lr * (double)step / (double)s->warmup;
  if (s->kind == LR_CONSTANT) return s->lr;
  int64_t from = s->warmup;
  if (s->kind == LR_WSD) {
    int64_t stable = s->steps - s->steps / 5;
    if (stable > from) from = stable;
    if (step <= from) return s->lr;
  }
  /* 0 at the first step after the warm-up (or the stable part); it would be 1 after the last, so that no step
   * is spent on a learning rate of 0 */
  double t = (double)(step - 1 - from) / (double)(s->steps - from);
  double weight = s->kind == LR_COSINE ? 0.5 * (1 + cos(M_PI * t)) : 1 - t;
  return s->min_lr + weight * (s->lr - s->min_lr);
}

double gradient_norm(const Model *m) {
  return sqrt(m->gradient_squares);
}

/* Part of a Hugging Face tensor that is updated at a time: all of it, or as much as streams through at once.
 * Blocks of 8-bit moments begin anew with each such tensor. */
typedef struct Piece {
  const ParamSpec *spec;
  const HfSlice *slice;
  int64_t id;    /* of the tensor of the parameter table */
  int64_t at, n; /* elements from the slice's first on */
} Piece;

/* Pieces of a unit, in order. */
typedef struct PieceWalk {
  Model *m;
  int64_t unit, most; /* elements of a piece */
  int spec, slice;
  int64_t at;
} PieceWalk;

static bool next_piece(PieceWalk *w, Piece *p) {
  int count;
  const ParamSpec *specs = params_of_unit(&w->m->params, w->unit, &count);
  for (; w->spec < count; w->spec++, w->slice = 0)
    for (; w->slice < specs[w->spec].slice_count && specs[w->spec].rows; w->slice++, w->at = 0) {
      const HfSlice *slice = &specs[w->spec].slices[w->slice];
      int64_t left = slice->rows * specs[w->spec].cols - w->at;
      if (left <= 0) continue;
      *p = Piece{&specs[w->spec], slice, params_id(w->unit, w->spec), w->at, left < w->most ? left : w->most};
      w->at += p->n;
      return true;
    }
  return false;
}

static void *element(void *tensor, int64_t i, DType dt) {
  return tensor ? (char *)tensor + (size_t)i * dtype_size(dt) : NULL;
}

static int64_t kind_elements(const Piece *p, int kind) {
  bool scales = kind == U_ABSMAX1 || kind == U_ABSMAX2;
  return scales ? (p->n + MOMENT_BLOCK - 1) / MOMENT_BLOCK : p->n;
}
static DType kind_dtype(const Model *m, int kind) {
  const RunShape *s = &m->schedule->shape;
  return kind == U_WEIGHT ? s->dtype : kind == U_MOMENT1 || kind == U_MOMENT2 ? s->moments : DT_FP32;
}

/* Whether the unit's tensors of that kind are not where the update computes, and stream through slots. */
static bool streams(const Model *m, int64_t u, int kind) {
  const Schedule *s = m->schedule;
  BufferId slot = s->update_slots[kind][0];
  return slot != NO_BUFFER &&
         (kind != U_WEIGHT || plan_buffer_space(s->plan, s->weights[u]) != plan_buffer_space(s->plan, slot));
}

/* Where the piece is kept: on the device or on the host. NULL when the run has no such tensor. */
static void *home_of(const Model *m, int64_t u, const Piece *p, int kind) {
  int64_t first = p->slice->row * p->spec->cols + p->at, block = p->at / MOMENT_BLOCK;
  DType dt = kind_dtype(m, kind);
  switch (kind) {
  case U_GRADIENT: return element(model_step_gradient(m, u, p->spec), first, dt);
  case U_WEIGHT: return element(model_weight(m, u, p->spec), first, dt);
  case U_MOMENT1: return element(model_moment1(m, u, p->spec), first, dt);
  case U_MOMENT2: return element(model_moment2(m, u, p->spec), first, dt);
  case U_ABSMAX1: return element(model_absmax1(m, u, p->slice), block, dt);
  case U_ABSMAX2: return element(model_absmax2(m, u, p->slice), block, dt);
  default: return element(model_master(m, u, p->spec), first, dt);
  }
}

/* Where the update finds it: at home, or in a slot that it streams through. */
static void *place_of(const Model *m, int64_t u, const Piece *p, int kind, int slot) {
  if (!streams(m, u, kind)) return home_of(m, u, p, kind);
  return arena_get(&m->arena, m->schedule->update_slots[kind][slot]);
}

/* Begins the copies of what streams, to the slot or back from it. */
static void move_piece(Model *m, int64_t u, const Piece *p, int slot, bool to_slot) {
  bool to_host = to_slot == schedule_updates_on_host(&m->schedule->shape);
  for (int kind = 0; kind < U_KINDS; kind++) {
    if (!streams(m, u, kind) || (kind == U_GRADIENT && !to_slot)) continue;
    void *home = home_of(m, u, p, kind), *place = place_of(m, u, p, kind, slot);
    size_t bytes = (size_t)kind_elements(p, kind) * dtype_size(kind_dtype(m, kind));
    (to_host ? offload_store : offload_fetch)(m->dev, to_slot ? place : home, to_slot ? home : place, bytes);
  }
}

static void update_piece(Model *m, Device *dev, int64_t u, const Piece *p, int slot, const AdamW *a) {
  const RunShape *shape = &m->schedule->shape;
  int64_t first = p->slice->row * p->spec->cols + p->at;
  AdamWTensor t = {};
  t.param = place_of(m, u, p, U_WEIGHT, slot);
  t.dtype = shape->dtype;
  t.master = (float *)place_of(m, u, p, U_MASTER, slot);
  t.grad = (const float *)place_of(m, u, p, U_GRADIENT, slot);
  t.m = place_of(m, u, p, U_MOMENT1, slot);
  t.v = place_of(m, u, p, U_MOMENT2, slot);
  t.moments = shape->moments;
  t.m_absmax = (float *)place_of(m, u, p, U_ABSMAX1, slot);
  t.v_absmax = (float *)place_of(m, u, p, U_ABSMAX2, slot);
  t.n = p->n;
  t.decay = p->spec->decay;
  t.id = p->id;
  t.first = first;
  adamw_update(dev, &t, a);
}

/* While a piece is updated, the next one is fetched into the other slot, once what the piece before it left
 * there is stored. */
void optimizer_update_unit(Model *m, int64_t u, const AdamW *a) {
  const Schedule *s = m->schedule;
  bool in_slices = s->shape.offload & (OFFLOAD_OPTIMIZER | OFFLOAD_GRADIENTS | OFFLOAD_WEIGHTS);
  PieceWalk walk = {m, u, in_slices ? schedule_update_slice(s) : INT64_MAX, 0, 0, 0};
  Piece now, next;
  bool more = next_piece(&walk, &now);
  bool on_host = schedule_updates_on_host(&s->shape);
  Device host = {};
  host.kind = DEVICE_CPU;
  host.threads = m->dev->threads;
  host.profile = m->dev->profile;
  if (more) move_piece(m, u, &now, 0, true);
  for (int slot = 0; more; slot = 1 - slot, now = next) {
    if (on_host)
      device_synchronize(m->dev);
    else
      offload_wait(m->dev);
    more = next_piece(&walk, &next);
    if (more) move_piece(m, u, &next, 1 - slot, true);
    update_piece(m, on_host ? &host : m->dev, u, &now, slot, a);
    move_piece(m, u, &now, slot, false);
  }
  offload_wait(m->dev);
  for (int slot = 0; slot < SLOTS; slot++)
    if (m->layer_in_slot[slot] == u) m->layer_in_slot[slot] = NO_LAYER;
}

void optimizer_update(Model *m, AdamW a, double clip) {
  const Schedule *s = m->schedule;
  CHECK(s->shape.update == UPDATE_STEP, "an update of everything where each layer has its own");
  arena_enter(&m->arena, s->update);
  double coefficient = clip > 0 ? clip / (gradient_norm(m) + 1e-6) : 1;
  a.grad_scale = (float)(coefficient < 1 ? coefficient : 1);
  for (int64_t u = 0; u < params_units(&m->params); u++) optimizer_update_unit(m, u, &a);
}
