#include "llama/planner.h"

#include <math.h>
#include <stdlib.h>

/* ---- the cost model ---- */

static const double matmul_rate = 0.75, attention_forward_rate = 0.6, attention_backward_rate = 0.5;

/* Seconds of one layer's parts over all rows of a micro-batch, and the bytes that may stream. */
typedef struct LayerCost {
  double projections, mlp, attention; /* forward */
  double input_bytes, attention_bytes, weight_bytes;
} LayerCost;

/* Pairs of a query and a key it sees, over a sequence of T. */
static double pairs(int64_t T, int64_t window) {
  double n = (double)T, w = window && window < T ? (double)window : n;
  return w * (w + 1) / 2 + (n - w) * w;
}

/* Of a packed run, too, all pairs of a sequence are counted: what documents spare depends on the data. */
static LayerCost cost_of_layer(const PlanTarget *t, const RunShape *r, int64_t l) {
  const Config *c = t->config;
  double rows = (double)(r->B * r->T), e = (double)dtype_size(r->dtype);
  double q = (double)(c->NH * c->HS), kv = (double)(c->NKV * c->HS), C = (double)c->C, FF = (double)c->FF;
  double attention = 4 * (double)r->B * pairs(r->T, c->layers[l].window) * q;
  return (LayerCost){
      .projections = 2 * rows * C * (2 * q + 2 * kv) / (t->flops * matmul_rate),
      .mlp = 6 * rows * C * FF / (t->flops * matmul_rate),
      .attention = attention / (t->flops * attention_forward_rate),
      .input_bytes = rows * C * e,
      .attention_bytes = rows * q * e,
      .weight_bytes = (C * (2 * q + 2 * kv) + 3 * C * FF) * e,
  };
}

/* Copies of `bytes` beside a computation: what of them it does not hide. */
static double not_hidden(const PlanTarget *t, double bytes, double seconds) {
  return fmax(0, bytes / t->link - seconds);
}

/* Forward and backward of layer l, with what is computed again. */
static double layer_seconds(const PlanTarget *t, const RunShape *r, int64_t l) {
  LayerCost k = cost_of_layer(t, r, l);
  const Config *c = t->config;
  double forward = k.projections + k.mlp + k.attention;
  double attention_backward = 2.5 * k.attention * attention_forward_rate / attention_backward_rate;
  double backward = 2 * (k.projections + k.mlp) + attention_backward, again = 0;
  bool kept = r->keep_attention == KEEP_ALL || l >= c->L - r->keep_attention;
  if (r->recompute != RECOMPUTE_NONE) again += k.mlp * 2 / 3; /* gate and up */
  if (r->recompute == RECOMPUTE_LAYER) again += k.projections + (kept ? 0 : k.attention);
  bool first_of_segment = l % r->checkpoint_every == 0;
  bool last_of_segment = l == c->L - 1 || (l + 1) % r->checkpoint_every == 0;
  if (r->recompute == RECOMPUTE_LAYER &&
      !last_of_segment) /* the run from the segment's input to the next layer */
    again += k.mlp + (kept ? k.projections / 2 : k.projections + k.attention);
  double out = 0, in = 0;
  if ((r->offload & OFFLOAD_CHECKPOINTS) && first_of_segment) out += k.input_bytes;
  if ((r->offload & OFFLOAD_ATTENTION) && kept) out += k.attention_bytes;
  in = out;
  if (r->offload & OFFLOAD_WEIGHTS) out += k.weight_bytes, in += k.weight_bytes;
  return forward + backward + again + not_hidden(t, out, forward) + not_hidden(t, in, backward + again);
}

/* Bytes that the update and the gathering of gradients move over the link. */
static double update_bytes(const PlanTarget *t, const RunShape *r) {
  double n = (double)config_parameters(t->config), moment = (double)dtype_size(r->moments), bytes = 0;
  if (r->offload & OFFLOAD_OPTIMIZER) bytes += 2 * n * (2 * moment + (r->master ? 4 : 0));
  if (r->offload & OFFLOAD_GRADIENTS) bytes += n * 4 * (double)(r->A + 1);
  return bytes;
}

double planner_seconds(const PlanTarget *t, const RunShape *shape) {
  const Config *c = t->config;
  double rows = (double)(shape->B * shape->T), micro_batch = 0;
  for (int64_t l = 0; l < c->L; l++) micro_batch += layer_seconds(t, shape, l);
  micro_batch += 3 * 2 * rows * (double)c->C * (double)c->V / (t->flops * matmul_rate);
  return (double)shape->A * micro_batch + update_bytes(t, shape) / t->link;
}

/* ---- what can be chosen ---- */

/* The values that each free flag is tried with, one after the other. */
typedef struct Choices {
  int64_t every[64], keep[2], groups[64];
  int every_count, keep_count, groups_count;
  Recompute recompute[3];
  int recompute_count;
  unsigned offload[8];
  int offload_count;
} Choices;

static void add(int64_t *values, int *count, int64_t value) {
  CHECK(*count < 64, "more than 64 values of a flag");
  values[(*count)++] = value;
}

static void offload_choices(Choices *x, const PlanTarget *t, const RunShape *shape) {
  x->offload[x->offload_count++] = shape->offload;
  if (!(t->free & FREE_OFFLOAD) || t->host_bytes == 0) return;
  /* what costs least in time is moved out first */
  const unsigned in_order[] = {OFFLOAD_CHECKPOINTS, OFFLOAD_ATTENTION, OFFLOAD_OPTIMIZER, OFFLOAD_GRADIENTS,
                               OFFLOAD_WEIGHTS};
  unsigned sum = shape->offload;
  for (size_t i = 0; i < sizeof in_order / sizeof *in_order; i++) {
    if (in_order[i] == OFFLOAD_GRADIENTS && shape->update == UPDATE_LAYER) continue;
    sum |= in_order[i];
    x->offload[x->offload_count++] = sum;
  }
}

static Choices choices_of(const PlanTarget *t, const RunShape *shape) {
  Choices x = {0};
  const Config *c = t->config;
  x.recompute[x.recompute_count++] = shape->recompute;
  if (t->free & FREE_RECOMPUTE)
    for (int m = RECOMPUTE_NONE; m <= RECOMPUTE_LAYER; m++)
      if (m != (int)shape->recompute) x.recompute[x.recompute_count++] = (Recompute)m;
  add(x.every, &x.every_count, shape->checkpoint_every);
  /* of the distances that give as many segments, the shortest */
  for (int64_t k = 1; k <= c->L && (t->free & FREE_CHECKPOINT_EVERY); k++) {
    int64_t segments = (c->L + k - 1) / k;
    if (k != shape->checkpoint_every && (c->L + segments - 1) / segments == k)
      add(x.every, &x.every_count, k);
  }
  x.keep[x.keep_count++] = shape->keep_attention;
  if ((t->free & FREE_KEEP_ATTENTION) && shape->keep_attention != KEEP_ALL) x.keep[x.keep_count++] = KEEP_ALL;
  bool fixed = !(t->free & FREE_ATTN_GROUPS) && shape->attn_groups != GROUPS_AUTO;
  if (fixed) add(x.groups, &x.groups_count, shape->attn_groups);
  for (int64_t g = 1; g <= c->NKV && !fixed; g++)
    if (c->NKV % g == 0) add(x.groups, &x.groups_count, g);
  offload_choices(&x, t, shape);
  return x;
}

/* Whether the flags go together; other combinations are the same run under another name. */
static bool is_sensible(const RunShape *r) {
  bool layer = r->recompute == RECOMPUTE_LAYER;
  bool keeps = r->keep_attention != 0;
  if (!layer && (r->checkpoint_every > 1 || keeps || r->attn_groups > 1)) return false;
  if (!layer && (r->offload & (OFFLOAD_CHECKPOINTS | OFFLOAD_ATTENTION))) return false;
  return !(keeps && r->attn_groups > 1) && !(!keeps && r->offload == OFFLOAD_ATTENTION);
}

/* Calls visit for every combination, until it returns false. */
typedef bool (*VisitShape)(const RunShape *shape, void *context);

static void visit_shapes(const PlanTarget *t, const RunShape *shape, VisitShape visit, void *context) {
  Choices x = choices_of(t, shape);
  bool go_on = true;
  for (int o = 0; o < x.offload_count; o++)
    for (int m = 0; m < x.recompute_count; m++)
      for (int k = 0; k < x.every_count; k++)
        for (int a = 0; a < x.keep_count; a++)
          for (int g = 0; g < x.groups_count && go_on; g++) {
            RunShape r = *shape;
            r.offload = x.offload[o];
            r.recompute = x.recompute[m];
            r.checkpoint_every = x.every[k];
            r.keep_attention = x.keep[a];
            r.attn_groups = x.groups[g];
            if (is_sensible(&r)) go_on = visit(&r, context);
          }
}

/* ---- searching ---- */

/* The plan of a run: what it takes, and its chunks. */
static PlannedRun planned(const PlanTarget *t, const RunShape *shape) {
  Schedule *s = schedule_new(t->config, shape, t->dev);
  PlannedRun run = {.shape = s->shape,
                    .device_bytes = plan_bytes(s->plan, SPACE_DEVICE),
                    .host_bytes = plan_bytes(s->plan, SPACE_HOST),
                    .seconds = planner_seconds(t, &s->shape)};
  schedule_free(s);
  return run;
}

static bool fits(const PlanTarget *t, const PlannedRun *run) {
  return run->device_bytes <= t->device_bytes && (t->host_bytes == 0 || run->host_bytes <= t->host_bytes);
}

typedef struct Search {
  const PlanTarget *t;
  PlannedRun *best;
  bool found;
  int64_t longest; /* planner_longest: in steps */
} Search;

static bool try_speed(const RunShape *shape, void *context) {
  Search *s = context;
  if (s->found && planner_seconds(s->t, shape) >= s->best->seconds) return true;
  PlannedRun run = planned(s->t, shape);
  bool good = fits(s->t, &run);
  bool leaner = !s->best->device_bytes || run.device_bytes < s->best->device_bytes;
  if (good || (!s->found && leaner)) *s->best = run;
  s->found |= good;
  return true;
}

bool planner_fastest(PlannedRun *best, const PlanTarget *t, const RunShape *shape) {
  Search s = {.t = t, .best = best};
  *best = (PlannedRun){0};
  visit_shapes(t, shape, try_speed, &s);
  return s.found;
}

static bool fits_at(const PlanTarget *t, const RunShape *shape, int64_t steps) {
  RunShape r = *shape;
  r.T = steps * LENGTH_STEP;
  PlannedRun run = planned(t, &r);
  return fits(t, &run);
}

/* Lengthens what was found so far, by this shape. */
static bool try_length(const RunShape *shape, void *context) {
  Search *s = context;
  if (!fits_at(s->t, shape, s->longest + 1)) return true;
  int64_t low = s->longest + 1, high = low, most = ((int64_t)1 << 32) / LENGTH_STEP / shape->B;
  while (high < most && fits_at(s->t, shape, high)) low = high, high *= 2;
  while (low + 1 < high) {
    int64_t middle = low + (high - low) / 2;
    if (fits_at(s->t, shape, middle))
      low = middle;
    else
      high = middle;
  }
  s->longest = low;
  return true;
}

bool planner_longest(PlannedRun *best, const PlanTarget *t, const RunShape *shape) {
  Search s = {.t = t, .best = best};
  visit_shapes(t, shape, try_length, &s);
  RunShape r = *shape;
  r.T = (s.longest ? s.longest : 1) * LENGTH_STEP;
  return planner_fastest(best, t, &r);
}
