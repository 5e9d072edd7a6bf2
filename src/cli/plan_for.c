#include "cli/plan_for.h"

#include <stdio.h>
#include <string.h>

#include "cli/flags.h"
#include "cli/setup.h"
#include "device/cards.h"
#include "llama/planner.h"

/* ---- what is to be planned ---- */

/* Flags that the user did not give are the planner's; host memory is used where it is said how much there is.
 */
static unsigned free_flags(const Options *o) {
  static const struct {
    const char *flag;
    unsigned bit;
  } flags[] = {{"recompute", FREE_RECOMPUTE},
               {"keep-attention", FREE_KEEP_ATTENTION},
               {"checkpoint-every", FREE_CHECKPOINT_EVERY},
               {"attn-groups", FREE_ATTN_GROUPS},
               {"offload", FREE_OFFLOAD}};
  unsigned bits = 0;
  for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
    if (!flags_given(o, flags[i].flag)) bits |= flags[i].bit;
  return bits;
}

static PlanTarget target_of(const Options *o, const Config *c, const Device *dev, const Card *card) {
  return (PlanTarget){.config = c,
                      .dev = dev,
                      .device_bytes = card->bytes - CARD_OVERHEAD,
                      .host_bytes = o->host_memory,
                      .flops = card->flops,
                      .link = card->link,
                      .free = free_flags(o)};
}

bool plan_for_device(Device *dev, const Options *o, Error *e) {
  Card card;
  if (!card_find(&card, "plan-device", o->plan_device, e)) return false;
  card_device(dev, &card, o->deterministic);
  return true;
}

/* ---- printing ---- */

/* The flags of the planner as one would type them. */
static void flags_text(char text[256], const RunShape *r) {
  static const char *const recompute[] = {"none", "mlp", "layer"};
  static const char *const offloads[] = {"checkpoints", "attention", "optimizer", "gradients", "weights"};
  int at = snprintf(text, 256, "--recompute %s", recompute[r->recompute]);
  if (r->checkpoint_every > 1)
    at += snprintf(text + at, 256 - (size_t)at, " --checkpoint-every %lld", (long long)r->checkpoint_every);
  if (r->keep_attention == KEEP_ALL)
    at += snprintf(text + at, 256 - (size_t)at, " --keep-attention all");
  else if (r->keep_attention)
    at += snprintf(text + at, 256 - (size_t)at, " --keep-attention %lld", (long long)r->keep_attention);
  at += snprintf(text + at, 256 - (size_t)at, " --attn-groups %lld", (long long)r->attn_groups);
  for (int i = 0, first = 1; i < 5; i++)
    if (r->offload >> i & 1) {
      at += snprintf(text + at, 256 - (size_t)at, "%s%s", first ? " --offload " : ",", offloads[i]);
      first = 0;
    }
}

/* What would make it fit that changes the numbers: never chosen, only named. */
static void print_other_numbers(FILE *f, const PlanTarget *t, const RunShape *shape) {
  static const struct {
    const char *flags;
    DType moments;
    UpdateMode update;
  } others[] = {{"--update layer --clip 0", DT_FP32, UPDATE_LAYER},
                {"--moments 8bit", DT_U8, UPDATE_STEP},
                {"--moments 8bit --update layer --clip 0", DT_U8, UPDATE_LAYER}};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
    RunShape r = *shape;
    PlannedRun run;
    if (others[i].update == UPDATE_LAYER && r.A > 1) continue;
    if (others[i].moments == DT_U8) r.moments = DT_U8;
    if (others[i].update == UPDATE_LAYER) r.update = UPDATE_LAYER;
    if (r.moments == shape->moments && r.update == shape->update) continue;
    if (!planner_fastest(&run, t, &r)) continue;
    char flags[256];
    flags_text(flags, &run.shape);
    fprintf(f, "# it would with other numbers: %s %s\n", others[i].flags, flags);
    return;
  }
}

void plan_for_print_fit(const Options *o, const Config *c, const Schedule *s) {
  Card card;
  Error e;
  Device dev;
  char a[32], b[32], flags[256];
  CHECK(card_find(&card, "plan-device", o->plan_device, &e), "%s", e.text);
  card_device(&dev, &card, o->deterministic);
  PlanTarget t = target_of(o, c, &dev, &card);
  int64_t left = t.device_bytes - plan_bytes(s->plan, SPACE_DEVICE);
  printf("# %s: %s, of which %s for CUDA and its libraries\n", card.name, bytes_text(a, card.bytes),
         bytes_text(b, CARD_OVERHEAD));
  if (left >= 0) {
    printf("# fits, %s are left; about %.3g s a step by the cost model\n", bytes_text(a, left),
           planner_seconds(&t, &s->shape));
    return;
  }
  printf("# does not fit: %s are missing\n", bytes_text(a, -left));
  PlannedRun best;
  RunShape shape = setup_shape(o);
  if (planner_fastest(&best, &t, &shape)) {
    flags_text(flags, &best.shape);
    printf("# fits with: %s (about %.3g s a step by the cost model)\n", flags, best.seconds);
    return;
  }
  printf("# fits with no choice of the flags that were left open; the leanest takes %s\n",
         bytes_text(a, best.device_bytes));
  print_other_numbers(stdout, &t, &shape);
}

static void print_longest(const Options *o, const Config *c, const Card *card, const PlanTarget *t,
                          const PlannedRun *run) {
  char a[32], b[32], flags[256];
  const RunShape *r = &run->shape;
  flags_text(flags, r);
  double tokens = (double)(r->A * r->B * r->T);
  if (o->json) {
    printf("{\"model\": \"%s\", \"parameters\": %lld, \"card\": \"%s\", \"card_bytes\": %lld, "
           "\"overhead_bytes\": %d, "
           "\"seq_len\": %lld, \"batch\": %lld, \"flags\": \"%s\", \"device_bytes\": %lld, \"host_bytes\": "
           "%lld, "
           "\"model_seconds\": %.4g}\n",
           c->family, (long long)config_parameters(c), card->name, (long long)card->bytes, CARD_OVERHEAD,
           (long long)r->T, (long long)r->B, flags, (long long)run->device_bytes, (long long)run->host_bytes,
           run->seconds);
    return;
  }
  printf("# %s on %s: %s, of which %s for CUDA and its libraries\n", o->model, card->name,
         bytes_text(a, card->bytes), bytes_text(b, CARD_OVERHEAD));
  printf("--seq-len %lld %s\n", (long long)r->T, flags);
  printf("# takes %s of %s on the device", bytes_text(a, run->device_bytes), bytes_text(b, t->device_bytes));
  printf(" and %s on the host; about %.3g s a step, %.3g tok/s, by the cost model\n",
         bytes_text(a, run->host_bytes), run->seconds, tokens / run->seconds);
}

bool plan_for_longest(const Options *o, Error *e) {
  Config c;
  Card card;
  Device dev;
  char a[32], b[32];
  bool ok = setup_config(&c, o, e) && card_find(&card, "max-seq-len-for", o->max_seq_len_for, e);
  if (ok) {
    card_device(&dev, &card, o->deterministic);
    PlanTarget t = target_of(o, &c, &dev, &card);
    RunShape shape = setup_shape(o);
    PlannedRun best;
    ok = planner_longest(&best, &t, &shape);
    if (ok) {
      print_longest(o, &c, &card, &t, &best);
    } else {
      shape.T = LENGTH_STEP;
      print_other_numbers(stderr, &t, &shape);
      error_usage(
          e,
          "--max-seq-len-for %s: found room for %s, expected at least %s, which %d tokens take at the "
          "leanest.\nGive a larger card, a smaller model, or another --dtype, --moments, --update or "
          "--host-memory.",
          o->max_seq_len_for, bytes_text(a, t.device_bytes), bytes_text(b, best.device_bytes), LENGTH_STEP);
    }
  }
  config_free(&c);
  return ok;
}
