#include "memory/arena.h"

#include <stdlib.h>
#include <string.h>

/* All bits set is a NaN in fp32 and in bf16, and -1 as an int32. */
enum { POISON = 0xff };

static void poison_buffer(Arena *a, BufferId id) {
  PlanSpace space = plan_buffer_space(a->plan, id);
  char *at = a->base[space] + plan_offset(a->plan, id);
  size_t bytes = (size_t)plan_buffer_bytes(a->plan, id);
  if (space == SPACE_HOST) {
    device_synchronize(a->dev); /* copies that the device has been asked for */
    memset(at, POISON, bytes);
  } else {
    device_fill(a->dev, at, POISON, bytes);
  }
}

bool arena_open(Arena *a, const Plan *plan, Device *dev, bool poison, Error *e) {
  *a = (Arena){.plan = plan, .dev = dev, .moment = 0, .poison = poison};
  for (int s = 0; s < SPACE_COUNT; s++) {
    size_t bytes = (size_t)plan_bytes(plan, (PlanSpace)s);
    a->base[s] = s == SPACE_HOST ? host_alloc(dev, bytes, e) : device_alloc(dev, bytes, e);
    if (!a->base[s]) {
      arena_close(a);
      char device[32], host[32];
      return error_prefix(e, "the plan takes %s of device memory and %s of host memory: ",
                          bytes_text(device, plan_bytes(plan, SPACE_DEVICE)),
                          bytes_text(host, plan_bytes(plan, SPACE_HOST)));
    }
  }
  for (BufferId id = 0; poison && id < plan_buffers(plan); id++) poison_buffer(a, id);
  return true;
}

void arena_close(Arena *a) {
  if (a->base[SPACE_DEVICE])
    device_free(a->dev, a->base[SPACE_DEVICE], (size_t)plan_bytes(a->plan, SPACE_DEVICE));
  if (a->base[SPACE_HOST]) host_free(a->dev, a->base[SPACE_HOST], (size_t)plan_bytes(a->plan, SPACE_HOST));
  *a = (Arena){0};
}

void arena_enter(Arena *a, int moment) {
  for (BufferId id = 0; a->poison && id < plan_buffers(a->plan); id++)
    if (plan_is_live(a->plan, id, a->moment) && !plan_is_live(a->plan, id, moment)) poison_buffer(a, id);
  for (BufferId id = 0; a->poison && id < plan_buffers(a->plan); id++)
    if (!plan_is_live(a->plan, id, a->moment) && plan_is_live(a->plan, id, moment)) poison_buffer(a, id);
  a->moment = moment;
}

void *arena_get(const Arena *a, BufferId id) {
  CHECK(id != NO_BUFFER, "a buffer that the plan does not have, at \"%s\"",
        plan_moment_name(a->plan, a->moment));
  CHECK(plan_is_live(a->plan, id, a->moment), "%s does not live at \"%s\"", plan_buffer_name(a->plan, id),
        plan_moment_name(a->plan, a->moment));
  return a->base[plan_buffer_space(a->plan, id)] + plan_offset(a->plan, id);
}
