#include "cli/plan_for.h"

#include <stdlib.h>
#include <string.h>

#include "cli/automatic.h"
#include "cli/setup.h"
#include "device/host_memory.h" /* host_free_bytes, host_own_bytes */
#include "io/json_out.h"        /* json_string */

/* ---- what there is ---- */

/* Of what is free here, what is not planned with: what the libraries of a GPU load when they are first used,
 * and a part of the host's memory, in which this and other programs live. Those, and a second run that starts
 * beside this one, are also why a run on the CPU does not take all the rest just to be faster. */
enum { GPU_KEPT_BACK = 500000000, HOST_PART_KEPT_BACK = 16, HOST_PART_FOR_SPEED = 2 };

static void target_of_card(PlanFor *p, const Options *o, const Config *c) {
  p->kept_back = CARD_OVERHEAD;
  card_device(&p->stand_in, &p->card, o->deterministic);
  p->target = (PlanTarget){.config = c,
                           .dev = &p->stand_in,
                           .device_bytes = p->card.bytes - CARD_OVERHEAD,
                           .host_bytes = o->host_memory,
                           .flops = p->card.flops,
                           .memory = p->card.memory,
                           .link = p->card.link,
                           .threads = CARD_HOST_THREADS};
}

bool plan_for_device(Device *dev, const Options *o, Error *e) {
  Card card;
  if (!card_find(&card, "plan-device", o->plan_device, e)) return false;
  card_device(dev, &card, o->deterministic);
  return true;
}

void plan_for_open(PlanFor *p, const Options *o, const Config *c, const Device *dev, bool stand_in) {
  *p = (PlanFor){0};
  if (dev->planned) {
    Error e;
    CHECK(card_find(&p->card, "plan-device", o->plan_device, &e), "%s", e.text);
    target_of_card(p, o, c);
    return;
  }
  bool cpu = dev->kind == DEVICE_CPU, said = o->device_memory > 0;
  int64_t free_bytes = (int64_t)device_free_bytes(dev),
          host = (int64_t)(dev->deterministic ? host_own_bytes() : host_free_bytes());
  card_of_device(&p->card, dev, said ? o->device_memory : free_bytes);
  if (!said) p->kept_back = cpu ? free_bytes / HOST_PART_KEPT_BACK : GPU_KEPT_BACK;
  if (stand_in) card_device(&p->stand_in, &p->card, o->deterministic);
  int64_t device_bytes = p->card.bytes > p->kept_back ? p->card.bytes - p->kept_back : 0;
  host -= host / HOST_PART_KEPT_BACK + (cpu ? device_bytes : 0);
  p->target = (PlanTarget){.config = c,
                           .dev = stand_in ? &p->stand_in : dev,
                           .device_bytes = device_bytes,
                           .host_bytes = o->host_memory ? o->host_memory
                                         : host > 0     ? host
                                                        : 0,
                           .one_memory = cpu && !said,
                           .part_for_speed = cpu && !said ? HOST_PART_FOR_SPEED : 0,
                           .flops = p->card.flops,
                           .memory = p->card.memory,
                           .link = p->card.link,
                           .threads = dev->threads};
  if (p->target.one_memory) p->target.host_bytes = o->host_memory;
}

bool plan_for_choose(PlanFor *p, const RunShape *shape) {
  PlannedRun best;
  bool fits = planner_fastest(&best, &p->target, shape);
  p->leanest = best;
  p->run = fits ? best : planner_plan(&p->target, shape);
  p->missing = planner_missing(&p->target, &p->run);
  return fits;
}

/* ---- what would help ---- */

/* A printed text, for free(). */
static char *flags_text(const Options *o, const RunShape *shape) {
  char *text = NULL;
  size_t size;
  FILE *f = open_memstream(&text, &size);
  CHECK(f, "out of memory for the flags");
  automatic_print(f, o, shape);
  CHECK(fclose(f) == 0, "out of memory for the flags");
  return text;
}

/* Flags that change the numbers: never chosen, only named. */
typedef struct OtherNumbers {
  const char *flags; /* NULL = none would help */
  RunShape shape;    /* with them, and what is then chosen */
} OtherNumbers;

static OtherNumbers other_numbers(const PlanTarget *t, const Options *o, const RunShape *shape) {
  static const struct {
    const char *flags;
    bool eight_bits, by_layer;
  } others[] = {{"--update layer --clip 0", false, true},
                {"--moments 8bit", true, false},
                {"--moments 8bit --update layer --clip 0", true, true}};
  for (size_t i = 0; i < sizeof others / sizeof *others && shape->training; i++) {
    Options asked = *o;
    Error ignored;
    PlannedRun run;
    if (others[i].eight_bits) asked.moments = DT_U8;
    if (others[i].by_layer) asked.update = UPDATE_LAYER;
    if (others[i].by_layer) asked.clip = 0;
    if (asked.moments == o->moments && asked.update == o->update) continue;
    if (!options_check(&asked, &ignored)) continue;
    RunShape other = *shape;
    other.moments = (DType)asked.moments;
    other.update = (UpdateMode)asked.update;
    if (planner_fastest(&run, t, &other)) return (OtherNumbers){others[i].flags, run.shape};
  }
  return (OtherNumbers){0};
}

static void print_other_numbers(FILE *f, const PlanTarget *t, const Options *o, const RunShape *shape) {
  OtherNumbers other = other_numbers(t, o, shape);
  if (!other.flags) {
    fputs("# nor does it with --moments 8bit or --update layer: shorten --seq-len, or lower --batch\n", f);
    return;
  }
  char *flags = flags_text(o, &other.shape);
  fprintf(f, "# it would with other numbers: %s %s\n", other.flags, flags);
  free(flags);
}

bool plan_for_refuse(const PlanFor *p, const Options *o, Error *e) {
  char takes[32], host[32], has[32], host_has[32], missing[32];
  const PlanTarget *t = &p->target;
  RunShape shape = setup_shape(o);
  OtherNumbers other = other_numbers(t, o, &shape);
  char *flags = flags_text(o, &p->leanest.shape), *help = NULL;
  error_usage(
      e,
      "the run does not fit: found %s to plan with on %s%s%s, expected %s and %s on the host, which is the "
      "least\nthat the flags left open can bring it to%s%s; %s are missing.\n",
      bytes_text(has, t->device_bytes), p->card.name, t->host_bytes ? " and, on the host, " : "",
      t->host_bytes ? bytes_text(host_has, t->host_bytes) : "", bytes_text(takes, p->leanest.device_bytes),
      bytes_text(host, p->leanest.host_bytes), *flags ? ", with " : "", flags,
      bytes_text(missing, planner_missing(t, &p->leanest)));
  size_t at = strlen(e->text);
  if (other.flags) help = flags_text(o, &other.shape);
  if (help)
    snprintf(e->text + at, sizeof e->text - at,
             "With other numbers it would: %s %s (--plan shows what needs how much).", other.flags, help);
  else
    snprintf(
        e->text + at, sizeof e->text - at,
        "It would not with --moments 8bit or --update layer either: shorten --seq-len, lower --batch, or "
        "choose\na smaller model (--plan shows what needs how much).");
  free(flags);
  free(help);
  return false;
}

/* ---- printing ---- */

void plan_for_print(FILE *f, const PlanFor *p, const Options *o) {
  char a[32], b[32];
  const PlanTarget *t = &p->target;
  char *flags = flags_text(o, &p->run.shape);
  if (*flags && p->missing == 0) fprintf(f, "# automatic: %s\n", flags);
  free(flags);
  fprintf(f, "# %s: %s%s, %s kept back", p->card.name, bytes_text(a, p->card.bytes),
          t->one_memory ? " free" : "", bytes_text(b, p->kept_back));
  if (t->host_bytes) fprintf(f, "; %s of host memory", bytes_text(a, t->host_bytes));
  fputc('\n', f);
  if (p->missing == 0) {
    int64_t taken = p->run.device_bytes + (t->one_memory ? p->run.host_bytes : 0);
    fprintf(f, "# fits, %s are left", bytes_text(a, t->device_bytes - taken));
    if (t->dev->kind == DEVICE_CUDA) fprintf(f, "; about %.3g s a step by the cost model", p->run.seconds);
    fputc('\n', f);
    return;
  }
  flags = flags_text(o, &p->leanest.shape);
  fprintf(f, "# does not fit: %s are missing; %s are missing at the leanest%s%s\n", bytes_text(a, p->missing),
          bytes_text(b, planner_missing(t, &p->leanest)), *flags ? ", with " : "", flags);
  free(flags);
  RunShape shape = setup_shape(o);
  print_other_numbers(f, t, o, &shape);
}

void plan_for_json(FILE *f, const PlanFor *p, const Options *o) {
  const PlanTarget *t = &p->target;
  fputs("{\"memory_of\": ", f);
  json_string(f, p->card.name);
  fprintf(f,
          ", \"free_bytes\": %lld, \"kept_back_bytes\": %lld, \"free_host_bytes\": %lld, \"one_memory\": %s, "
          "\"device_bytes\": %lld, \"host_bytes\": %lld, \"fits\": %s, \"missing_bytes\": %lld, "
          "\"least_missing_bytes\": %lld, \"model_seconds\": %.4g, \"automatic\": ",
          (long long)p->card.bytes, (long long)p->kept_back, (long long)t->host_bytes,
          t->one_memory ? "true" : "false", (long long)p->run.device_bytes, (long long)p->run.host_bytes,
          p->missing ? "false" : "true", (long long)p->missing, (long long)planner_missing(t, &p->leanest),
          p->run.seconds);
  automatic_json(f, o, &p->run.shape);
  fputs(", \"other_numbers\": ", f);
  RunShape shape = setup_shape(o);
  OtherNumbers other = {0};
  if (p->missing) other = other_numbers(t, o, &shape);
  json_string(f, other.flags);
  fputc('}', f);
}

/* ---- the longest sequence ---- */

static void print_longest(const Options *o, const PlanFor *p) {
  char a[32], b[32];
  const Config *c = p->target.config;
  const PlannedRun *run = &p->run;
  const RunShape *r = &run->shape;
  char *flags = flags_text(o, r);
  double tokens = (double)(r->A * r->B * r->T);
  if (o->json)
    printf(
        "{\"model\": \"%s\", \"parameters\": %lld, \"card\": \"%s\", \"card_bytes\": %lld, "
        "\"overhead_bytes\": %lld, \"seq_len\": %lld, \"batch\": %lld, \"flags\": \"%s\", \"device_bytes\": "
        "%lld, \"host_bytes\": %lld, \"model_seconds\": %.4g}\n",
        c->family, (long long)config_parameters(c), p->card.name, (long long)p->card.bytes,
        (long long)p->kept_back, (long long)r->T, (long long)r->B, flags, (long long)run->device_bytes,
        (long long)run->host_bytes, run->seconds);
  else
    printf("# %s on %s: %s, of which %s for CUDA and its libraries\n--seq-len %lld %s\n"
           "# takes %s of %s on the device",
           o->model, p->card.name, bytes_text(a, p->card.bytes), bytes_text(b, p->kept_back), (long long)r->T,
           flags, bytes_text((char[32]){0}, run->device_bytes),
           bytes_text((char[32]){0}, p->target.device_bytes));
  if (!o->json)
    printf(" and %s on the host; about %.3g s a step, %.3g tok/s, by the cost model\n",
           bytes_text(a, run->host_bytes), run->seconds, tokens / run->seconds);
  free(flags);
}

bool plan_for_longest(const Options *o, Error *e) {
  Config c;
  PlanFor p = {0};
  char a[32], b[32];
  bool ok = setup_config(&c, o, e) && card_find(&p.card, "max-seq-len-for", o->max_seq_len_for, e);
  if (ok) {
    target_of_card(&p, o, &c);
    RunShape shape = setup_shape(o);
    ok = planner_longest(&p.run, &p.target, &shape);
    if (ok) {
      print_longest(o, &p);
    } else {
      shape.T = LENGTH_STEP;
      print_other_numbers(stderr, &p.target, o, &shape);
      error_usage(
          e,
          "--max-seq-len-for %s: found room for %s, expected at least %s, which %d tokens take at the "
          "leanest.\nGive a larger card, a smaller model, or another --dtype, --moments, --update or "
          "--host-memory.",
          o->max_seq_len_for, bytes_text(a, p.target.device_bytes), bytes_text(b, p.run.device_bytes),
          LENGTH_STEP);
    }
  }
  config_free(&c);
  return ok;
}
