#include "llama/schedule_units.h"

#include "ops/adamw.h" /* defines: MOMENT_BLOCK */

/* With UPDATE_LAYER a gradient lives from its unit's backward to its unit's update, and where it is gathered
 * on the host, to the end of its backward. That of a tied embedding is the head's as well, and waits for the
 * embedding's backward. */
static void live_gradient(Schedule *s, const Config *c, const ParamTable *t, int64_t u) {
  bool gathered = s->shape.offload & OFFLOAD_GRADIENTS;
  if (s->shape.update == UPDATE_STEP && !gathered) {
    plan_live_always(s->plan, s->gradients[u]);
    return;
  }
  int embedding_from = c->tied ? s->head : s->embedding_backward;
  int from = u < c->L ? s->backward[u].mlp : u == params_embedding_unit(t) ? embedding_from : s->head;
  int backward_ends = u < c->L                        ? s->backward[u].qkv
                      : u == params_embedding_unit(t) ? s->embedding_backward
                                                      : s->head;
  plan_live(s->plan, s->gradients[u], from, gathered ? backward_ends : s->update_of[u]);
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
      unsigned offload; /* the bit that puts it on the host */
    } kinds[] = {
        {&s->weights[u], true, CAT_WEIGHTS, n, r->dtype, u < c->L ? OFFLOAD_WEIGHTS : 0},
        {&s->master[u], r->master, CAT_MASTER, n, DT_FP32, OFFLOAD_OPTIMIZER},
        {&s->gradients[u], true, CAT_GRADIENTS, n, DT_FP32, 0},
        {&s->host_gradients[u], r->offload & OFFLOAD_GRADIENTS, CAT_GRADIENTS, n, DT_FP32, OFFLOAD_GRADIENTS},
        {&s->moment1[u], true, CAT_MOMENTS, n, r->moments, OFFLOAD_OPTIMIZER},
        {&s->moment2[u], true, CAT_MOMENTS, n, r->moments, OFFLOAD_OPTIMIZER},
        {&s->absmax1[u], r->moments == DT_U8, CAT_MOMENTS, blocks, DT_FP32, OFFLOAD_OPTIMIZER},
        {&s->absmax2[u], r->moments == DT_U8, CAT_MOMENTS, blocks, DT_FP32, OFFLOAD_OPTIMIZER},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
      *kinds[i].id = NO_BUFFER;
      if (!kinds[i].wanted || (kinds[i].id != &s->weights[u] && !r->training)) continue;
      *kinds[i].id = plan_buffer(s->plan, r->offload & kinds[i].offload ? SPACE_HOST : SPACE_DEVICE,
                                 kinds[i].category, kinds[i].elements * (int64_t)dtype_size(kinds[i].dtype),
                                 "%s %lld", plan_category_name(kinds[i].category), (long long)u);
      if (kinds[i].id != &s->gradients[u]) plan_live_always(s->plan, *kinds[i].id);
    }
    if (r->training) live_gradient(s, c, &t, u);
  }
}

static BufferId slot_buffer(Schedule *s, PlanSpace space, PlanCategory category, int64_t bytes,
                            const char *name, int slot) {
  return plan_buffer(s->plan, space, category, bytes, "%s %d", name, slot);
}

static void declare_weight_slots(Schedule *s, const Config *c) {
  ParamTable t;
  params_table(&t, c);
  for (int i = 0; i < SLOTS; i++) {
    s->weight_slots[i] = NO_BUFFER;
    if (!(s->shape.offload & OFFLOAD_WEIGHTS)) continue;
    int64_t bytes = params_unit_elements(&t, 0) * (int64_t)dtype_size(s->shape.dtype);
    s->weight_slots[i] = slot_buffer(s, SPACE_DEVICE, CAT_WEIGHTS, bytes, "weights slot", i);
    plan_live_always(s->plan, s->weight_slots[i]);
  }
}

int64_t schedule_update_slice(const Schedule *s) {
  return s->shape.update_slice ? s->shape.update_slice : UPDATE_SLICE;
}

/* Elements of the largest Hugging Face tensor, to whole blocks of 8-bit moments. */
static int64_t largest_slice(const Config *c) {
  ParamTable t;
  params_table(&t, c);
  int64_t most = 0;
  for (int64_t u = t.L - 1; u < params_units(&t); u++) { /* layers are alike */
    int count;
    const ParamSpec *specs = params_of_unit(&t, u, &count);
    for (int i = 0; i < count; i++)
      for (int k = 0; k < specs[i].slice_count; k++)
        if (specs[i].slices[k].blocks * MOMENT_BLOCK > most) most = specs[i].slices[k].blocks * MOMENT_BLOCK;
  }
  return most;
}

/* Room where the update computes for a slice of what it finds elsewhere, twice. */
static void declare_update_slots(Schedule *s, const Config *c) {
  int64_t n = schedule_update_slice(s), largest = largest_slice(c), units = c->L + 2;
  if (n > largest) n = largest;
  bool on_host = s->shape.training && schedule_updates_on_host(&s->shape);
  PlanSpace space = on_host ? SPACE_HOST : SPACE_DEVICE;
  const struct {
    BufferId home; /* of a unit: it is on the other side, or not there */
    DType dtype;
    int64_t elements;
    const char *name;
  } kinds[U_KINDS] = {
      [U_GRADIENT] = {s->host_gradients[0], DT_FP32, n, "gradient slice"},
      [U_WEIGHT] = {on_host ? s->weights[c->L] : s->weights[0], s->shape.dtype, n, "weight slice"},
      [U_MOMENT1] = {s->moment1[0], s->shape.moments, n, "moment slice"},
      [U_MOMENT2] = {s->moment2[0], s->shape.moments, n, "moment slice"},
      [U_ABSMAX1] = {s->absmax1[0], DT_FP32, n / MOMENT_BLOCK, "moment scale slice"},
      [U_ABSMAX2] = {s->absmax2[0], DT_FP32, n / MOMENT_BLOCK, "moment scale slice"},
      [U_MASTER] = {s->master[0], DT_FP32, n, "master slice"},
  };
  for (int k = 0; k < U_KINDS; k++)
    for (int i = 0; i < SLOTS; i++) {
      BufferId home = kinds[k].home, *slot = &s->update_slots[k][i];
      *slot = NO_BUFFER;
      if (home == NO_BUFFER || plan_buffer_space(s->plan, home) == space || !s->shape.training) continue;
      *slot = slot_buffer(s, space, CAT_WORKSPACE, kinds[k].elements * (int64_t)dtype_size(kinds[k].dtype),
                          kinds[k].name, i);
      for (int64_t u = 0; u < units; u++) plan_live(s->plan, *slot, s->update_of[u], s->update_of[u]);
    }
}

void schedule_declare_units(Schedule *s, const Config *c) {
  declare_units(s, c);
  declare_weight_slots(s, c);
  declare_update_slots(s, c);
}
