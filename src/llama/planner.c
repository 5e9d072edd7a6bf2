#include "llama/planner.h"

#include <math.h>
#include <stdlib.h>

/* ---- the cost model ---- */

static const double matmul_rate = 0.75, attention_forward_rate = 0.6, attention_backward_rate = 0.5;

/* Seconds of one layer's parts over all rows of a micro-batch, and the bytes that may stream. */
typedef struct LayerCost {
  double projections, mlp, attention; /* forward */
  double grouping;                    /* of one pass through the attention in groups of heads */
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
  /* each group but the first norms the input and reads it for its product again; o is put together */
  double groups = (double)r->attn_groups, regrouped = groups > 1 ? 3 * (groups - 1) * C + 2 * q : 0;
  return (LayerCost){
      .projections = 2 * rows * C * (2 * q + 2 * kv) / (t->flops * matmul_rate),
      .mlp = 6 * rows * C * FF / (t->flops * matmul_rate),
      .attention = attention / (t->flops * attention_forward_rate),
      .grouping = rows * regrouped * e / t->memory,
      .input_bytes = rows * C * e,
      .attention_bytes = rows * q * e,
      .weight_bytes = (C * (2 * q + 2 * kv) + 3 * C * FF) * e,
  };
}

/* The chunks after the first read and write the fp32 gradient of so many weights once more each. */
static double chunks_seconds(const PlanTarget *t, const RunShape *r, int64_t chunk, double weights) {
  int64_t rows = r->B * r->T, more = chunk > 0 ? (rows - 1) / chunk : 0;
  return (double)more * weights * 2 * (double)dtype_size(DT_FP32) / t->memory;
}

/* Copies of `bytes` beside a computation: what of them it does not hide. */
static double not_hidden(const PlanTarget *t, double bytes, double seconds) {
  return fmax(0, bytes / t->link - seconds);
}

/* Forward and, in training, backward of layer l, with what is computed again. */
static double layer_seconds(const PlanTarget *t, const RunShape *r, int64_t l) {
  LayerCost k = cost_of_layer(t, r, l);
  const Config *c = t->config;
  double attention_forward = k.attention + k.grouping, forward = k.projections + k.mlp + attention_forward;
  double attention_backward = 2.5 * k.attention * attention_forward_rate / attention_backward_rate;
  double backward = 2 * (k.projections + k.mlp) + attention_backward + k.grouping, again = 0;
  double fetched = r->offload & OFFLOAD_WEIGHTS ? k.weight_bytes : 0;
  if (!r->training) return forward + not_hidden(t, fetched, forward);
  backward += chunks_seconds(t, r, r->mlp_chunk, 3 * (double)(c->C * c->FF));
  bool kept = r->keep_attention == KEEP_ALL || l >= c->L - r->keep_attention;
  if (r->recompute != RECOMPUTE_NONE) again += k.mlp * 2 / 3; /* gate and up */
  if (r->recompute == RECOMPUTE_LAYER) again += k.projections + (kept ? 0 : attention_forward);
  bool first_of_segment = l % r->checkpoint_every == 0;
  bool last_of_segment = l == c->L - 1 || (l + 1) % r->checkpoint_every == 0;
  if (r->recompute == RECOMPUTE_LAYER &&
      !last_of_segment) /* the run from the segment's input to the next layer */
    again += k.mlp + (kept ? k.projections / 2 : k.projections + attention_forward);
  double out = 0, in = 0;
  if ((r->offload & OFFLOAD_CHECKPOINTS) && first_of_segment) out += k.input_bytes;
  if ((r->offload & OFFLOAD_ATTENTION) && kept) out += k.attention_bytes;
  in = out;
  return forward + backward + again + not_hidden(t, out + fetched, forward) +
         not_hidden(t, in + fetched, backward + again);
}

/* Seconds that one thread of a CPU takes for the update of a parameter, measured on one of 2023: random
 * rounding costs more than the update, the search for the nearest 8-bit code more than that. */
static double cpu_update_seconds(const RunShape *r) {
  if (r->moments == DT_U8) return 100e-9;
  bool rounds = r->moments == DT_BF16 || (r->dtype == DT_BF16 && !r->master);
  return rounds ? 10e-9 : 2e-9;
}

/* Of the update and the gathering of gradients: what moves over the link, and what the CPU computes
 * meanwhile. Each micro-batch but the first fetches the sum of gradients so far; weights move when they are
 * not where the update is. */
static double update_seconds(const PlanTarget *t, const RunShape *r) {
  const Config *c = t->config;
  double n = (double)config_parameters(c), e = (double)dtype_size(r->dtype), bytes = 0;
  double on_host = r->offload & OFFLOAD_WEIGHTS ? n - (double)((c->tied ? 1 : 2) * c->C * c->V) : 0;
  if (r->offload & OFFLOAD_GRADIENTS) bytes += n * 4 * (2 * (double)r->A - 1);
  if (schedule_updates_on_host(r)) {
    double weights = 2 * (n - on_host) * e;
    return bytes / t->link + fmax(weights / t->link, n * cpu_update_seconds(r) / t->threads);
  }
  bytes += 2 * on_host * e;
  if (r->offload & OFFLOAD_GRADIENTS) bytes += n * 4;
  if (r->offload & OFFLOAD_OPTIMIZER)
    bytes += 2 * n * (2 * (double)dtype_size(r->moments) + (r->master ? 4 : 0));
  return bytes / t->link;
}

double planner_seconds(const PlanTarget *t, const RunShape *shape) {
  const Config *c = t->config;
  double rows = (double)(shape->B * shape->T), micro_batch = 0;
  for (int64_t l = 0; l < c->L; l++) micro_batch += layer_seconds(t, shape, l);
  double head = 2 * rows * (double)c->C * (double)c->V / (t->flops * matmul_rate);
  if (!shape->training) return (double)shape->A * (micro_batch + head);
  micro_batch += 3 * head + chunks_seconds(t, shape, shape->head_chunk, (double)(c->C * c->V));
  return (double)shape->A * micro_batch + update_seconds(t, shape);
}

/* ---- what can be chosen ---- */

/* The values that each free flag is tried with, one after the other. */
typedef struct Choices {
  int64_t every[64], keep[64], groups[64];
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
  if (shape->offload != OFFLOAD_AUTO) return;
  x->offload[0] = 0;
  if (t->host_bytes == 0 || t->one_memory) return;
  /* what costs least in time is moved out first */
  const unsigned in_order[] = {OFFLOAD_CHECKPOINTS, OFFLOAD_ATTENTION, OFFLOAD_OPTIMIZER, OFFLOAD_GRADIENTS,
                               OFFLOAD_WEIGHTS};
  unsigned sum = 0;
  for (size_t i = 0; i < sizeof in_order / sizeof *in_order; i++) {
    if (in_order[i] == OFFLOAD_GRADIENTS && shape->update == UPDATE_LAYER) continue;
    sum |= in_order[i];
    x->offload[x->offload_count++] = sum;
  }
}

static Choices choices_of(const PlanTarget *t, const RunShape *shape) {
  Choices x = {0};
  const Config *c = t->config;
  bool any = shape->recompute == RECOMPUTE_AUTO;
  for (int m = RECOMPUTE_NONE; m <= RECOMPUTE_LAYER; m++)
    if (any || m == (int)shape->recompute) x.recompute[x.recompute_count++] = (Recompute)m;
  any = shape->checkpoint_every == EVERY_AUTO;
  if (!any) add(x.every, &x.every_count, shape->checkpoint_every);
  /* of the distances that give as many segments, the shortest */
  for (int64_t k = 1; k <= c->L && any; k++) {
    int64_t segments = (c->L + k - 1) / k;
    if ((c->L + segments - 1) / segments == k) add(x.every, &x.every_count, k);
  }
  any = shape->keep_attention == KEEP_AUTO;
  add(x.keep, &x.keep_count, any ? KEEP_ALL : shape->keep_attention);
  for (int64_t part = 3; part >= 0 && any; part--) /* of those that keep as many layers, the first */
    if (c->L * part / 4 < c->L * (part + 1) / 4) add(x.keep, &x.keep_count, c->L * part / 4);
  any = shape->attn_groups == GROUPS_AUTO;
  if (!any) add(x.groups, &x.groups_count, shape->attn_groups);
  for (int64_t g = 1; g <= c->NKV && any; g++)
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
  return keeps || !(r->offload & OFFLOAD_ATTENTION);
}

bool planner_allows(const Config *c, const RunShape *shape) {
  RunShape settled = schedule_defaults(shape);
  return settled.attn_groups > 0 && c->NKV % settled.attn_groups == 0 && is_sensible(&settled);
}

/* What is chosen to be on the host, less what there is none of. */
static unsigned useful_offload(const RunShape *asked, const RunShape *r, unsigned chosen) {
  if (asked->offload != OFFLOAD_AUTO) return chosen;
  if (r->recompute != RECOMPUTE_LAYER) chosen &= ~(unsigned)(OFFLOAD_CHECKPOINTS | OFFLOAD_ATTENTION);
  if (r->keep_attention == 0) chosen &= ~(unsigned)OFFLOAD_ATTENTION;
  return chosen;
}

/* Who is faster at the update. */
static HostUpdate faster_update(const PlanTarget *t, const RunShape *shape) {
  RunShape stream = *shape, cpu = *shape;
  stream.host_update = HOST_UPDATE_STREAM;
  cpu.host_update = HOST_UPDATE_CPU;
  return update_seconds(t, &cpu) < update_seconds(t, &stream) ? HOST_UPDATE_CPU : HOST_UPDATE_STREAM;
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
            r.recompute = x.recompute[m];
            r.checkpoint_every = x.every[k];
            r.keep_attention = x.keep[a];
            r.attn_groups = x.groups[g];
            r.offload = useful_offload(shape, &r, x.offload[o]);
            if (shape->host_update == HOST_UPDATE_AUTO) r.host_update = faster_update(t, &r);
            if (is_sensible(&r)) go_on = visit(&r, context);
          }
}

/* ---- searching ---- */

PlannedRun planner_plan(const PlanTarget *t, const RunShape *shape) {
  Schedule *s = schedule_new(t->config, shape, t->dev);
  PlannedRun run = {.shape = s->shape,
                    .device_bytes = plan_bytes(s->plan, SPACE_DEVICE),
                    .host_bytes = plan_bytes(s->plan, SPACE_HOST),
                    .seconds = planner_seconds(t, &s->shape)};
  schedule_free(s);
  return run;
}

/* Of what device_bytes of the target bounds. */
static int64_t taken_bytes(const PlanTarget *t, const PlannedRun *run) {
  return run->device_bytes + (t->one_memory ? run->host_bytes : 0);
}

int64_t planner_missing(const PlanTarget *t, const PlannedRun *run) {
  int64_t device = taken_bytes(t, run) - t->device_bytes;
  int64_t host = t->host_bytes ? run->host_bytes - t->host_bytes : 0;
  return (device > 0 ? device : 0) + (host > 0 ? host : 0);
}

/* What a run lacks at least; see schedule_least_bytes. */
static int64_t missing_at_least(const PlanTarget *t, const RunShape *shape) {
  int64_t bytes[SPACE_COUNT];
  schedule_least_bytes(t->config, shape, t->dev, bytes);
  PlannedRun least = {.device_bytes = bytes[SPACE_DEVICE], .host_bytes = bytes[SPACE_HOST]};
  return planner_missing(t, &least);
}

typedef struct Search {
  const PlanTarget *t;
  PlannedRun *best;
  bool found;
  int64_t longest; /* planner_longest: in steps */
} Search;

/* Chunks that are automatic are known, and cost what they do, once a run is planned. */
static bool try_speed(const RunShape *shape, void *context) {
  Search *s = context;
  if (s->found && planner_seconds(s->t, shape) >= s->best->seconds) return true;
  bool first = s->best->device_bytes == 0;
  int64_t missing = missing_at_least(s->t, shape);
  if (missing > 0 && !first && (s->found || missing >= planner_missing(s->t, s->best))) return true;
  PlannedRun run = planner_plan(s->t, shape);
  missing = planner_missing(s->t, &run);
  bool fits = missing == 0;
  bool better =
      s->found ? fits && run.seconds < s->best->seconds : fits || missing < planner_missing(s->t, s->best);
  if (first || better) *s->best = run;
  s->found |= fits;
  return true;
}

/* The target with no more bytes than a run of that shape may take; see part_for_speed. */
static PlanTarget sparing(const PlanTarget *t, const RunShape *shape) {
  PlanTarget bounded = *t;
  RunShape defaults = schedule_defaults(shape);
  if (t->part_for_speed == 0 || !is_sensible(&defaults)) return bounded;
  PlannedRun run = planner_plan(t, &defaults);
  int64_t left = t->device_bytes - taken_bytes(t, &run);
  if (planner_missing(t, &run) == 0) bounded.device_bytes -= left - left / t->part_for_speed;
  return bounded;
}

bool planner_fastest(PlannedRun *best, const PlanTarget *t, const RunShape *shape) {
  PlanTarget bounded = sparing(t, shape);
  Search s = {.t = &bounded, .best = best};
  *best = (PlannedRun){0};
  visit_shapes(&bounded, shape, try_speed, &s);
  return s.found;
}

static RunShape at_length(const RunShape *shape, int64_t steps) {
  RunShape r = *shape;
  r.T = steps * LENGTH_STEP;
  return r;
}

/* Where this is false, nothing longer fits either. */
static bool may_fit_at(const PlanTarget *t, const RunShape *shape, int64_t steps) {
  RunShape r = at_length(shape, steps);
  return missing_at_least(t, &r) == 0;
}

static bool plan_fits_at(const PlanTarget *t, const RunShape *shape, int64_t steps) {
  RunShape r = at_length(shape, steps);
  PlannedRun run = planner_plan(t, &r);
  return planner_missing(t, &run) == 0;
}

static bool fits_at(const PlanTarget *t, const RunShape *shape, int64_t steps) {
  return may_fit_at(t, shape, steps) && plan_fits_at(t, shape, steps);
}

/* The longest that fits, by bisection from one that does. */
static int64_t bisect_length(const PlanTarget *t, const RunShape *shape, int64_t low) {
  int64_t high = low, most = ((int64_t)1 << 32) / LENGTH_STEP / shape->B;
  while (high < most && fits_at(t, shape, high)) low = high, high *= 2;
  while (low + 1 < high) {
    int64_t middle = low + (high - low) / 2;
    if (fits_at(t, shape, middle))
      low = middle;
    else
      high = middle;
  }
  return low;
}

/* Lengthens what was found so far, by this shape. Where automatic chunks become one more, and smaller, a
 * longer sequence takes fewer bytes: so the rows of a chunk are looked at beyond what does not fit. */
static bool try_length(const RunShape *shape, void *context) {
  Search *s = context;
  const PlanTarget *t = s->t;
  int64_t chunk = t->dev->max_chunk_rows / LENGTH_STEP / shape->B + 1, longest = s->longest;
  if (fits_at(t, shape, longest + 1)) longest = bisect_length(t, shape, longest + 1);
  for (int64_t i = longest + 1; i <= longest + chunk && may_fit_at(t, shape, i); i++)
    if (plan_fits_at(t, shape, i)) longest = i;
  s->longest = longest;
  return true;
}

bool planner_longest(PlannedRun *best, const PlanTarget *t, const RunShape *shape) {
  Search s = {.t = t, .best = best};
  visit_shapes(t, shape, try_length, &s);
  RunShape r = *shape;
  r.T = (s.longest ? s.longest : 1) * LENGTH_STEP;
  return planner_fastest(best, t, &r);
}
