#include "device/profile.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/process.h" /* defines: process_cpu_seconds, process_peak_bytes */

enum { MAX_OPERATIONS = 64 };

typedef struct Operation {
  const char *name, *part;
  int64_t calls;
  double seconds, flops, bytes;
} Operation;

/* Operations in the order of their first use, of one step or of several. */
typedef struct Tally {
  Operation operations[MAX_OPERATIONS];
  int count;
} Tally;

struct Profile {
  Tally step, total; /* the step at hand; the steps that count */
  int depth;         /* of operations inside operations */
  bool in_step;
  double first_seconds; /* of the first step */
  double *seconds;      /* [steps] of the steps that count; the first one's until there is another */
  double cpu_seconds;   /* that processors worked in those steps */
  double cpu_begin;     /* process_cpu_seconds() when the step at hand began */
  int64_t peak_bytes;   /* resident, until the end of the first step */
  int64_t steps, ended; /* steps that count; steps that have ended */
};

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void profile_open(Device *dev) {
  dev->profile = calloc(1, sizeof *dev->profile);
  CHECK(dev->profile, "out of memory for a profile");
}

void profile_close(Device *dev) {
  if (dev->profile) free(dev->profile->seconds);
  free(dev->profile);
  dev->profile = NULL;
}

/* ---- recording ---- */

double profile_begin_timed(Device *dev) {
  dev->profile->depth++;
  device_synchronize(dev);
  return seconds_now();
}

static Operation *find(Tally *t, const char *name, const char *part) {
  for (int i = 0; i < t->count; i++)
    if (strcmp(t->operations[i].name, name) == 0 && strcmp(t->operations[i].part, part) == 0)
      return &t->operations[i];
  CHECK(t->count < MAX_OPERATIONS, "profile: more than %d operations", MAX_OPERATIONS);
  Operation *o = &t->operations[t->count++];
  *o = (Operation){.name = name, .part = part};
  return o;
}

static void add(Tally *t, const Operation *x) {
  Operation *o = find(t, x->name, x->part);
  o->calls += x->calls;
  o->seconds += x->seconds;
  o->flops += x->flops;
  o->bytes += x->bytes;
}

void profile_end_timed(Device *dev, double begin, const char *name, const char *part, double flops,
                       double bytes) {
  Profile *p = dev->profile;
  if (--p->depth > 0 || !p->in_step) return;
  device_synchronize(dev);
  Operation o = {name, part, 1, seconds_now() - begin, flops, bytes};
  add(&p->step, &o);
}

void profile_step_begin(Device *dev) {
  if (!dev->profile) return;
  dev->profile->step.count = 0;
  dev->profile->in_step = true;
  dev->profile->cpu_begin = process_cpu_seconds();
}

void profile_step_end(Device *dev, double seconds) {
  Profile *p = dev->profile;
  if (!p) return;
  p->in_step = false;
  if (p->ended++ == 0) {
    p->first_seconds = seconds;
    p->peak_bytes = process_peak_bytes();
  }
  if (p->ended == 2) { /* what was there was the first step */
    p->steps = p->total.count = 0;
    p->cpu_seconds = 0;
  }
  p->cpu_seconds += process_cpu_seconds() - p->cpu_begin;
  p->seconds = realloc(p->seconds, (size_t)(p->steps + 1) * sizeof *p->seconds);
  CHECK(p->seconds, "out of memory for a profile");
  p->seconds[p->steps++] = seconds;
  for (int i = 0; i < p->step.count; i++) add(&p->total, &p->step.operations[i]);
}

double profile_copy_rate(Device *dev, double seconds) {
  const size_t bytes = (size_t)128 << 20; /* no cache holds it */
  Error e;
  void *from = device_alloc(dev, bytes, &e), *to = device_alloc(dev, bytes, &e);
  double best = 0, start = seconds_now();
  for (int i = 0; from && to && (i < 3 || seconds_now() - start < seconds); i++) {
    device_fill(dev, from, i, bytes); /* pages of their own, not all the same one of zeros */
    device_synchronize(dev);
    double begin = seconds_now();
    device_copy(dev, to, from, bytes, COPY_ON_DEVICE);
    device_synchronize(dev);
    double rate = 2.0 * (double)bytes / (seconds_now() - begin);
    if (rate > best) best = rate;
  }
  if (from) device_free(dev, from, bytes);
  if (to) device_free(dev, to, bytes);
  return best;
}

/* ---- reporting ---- */

typedef struct Sums {
  double step;           /* mean seconds of a step */
  double best;           /* of the fastest step */
  double flops;          /* of all products of a step */
  double timed, untimed; /* seconds of a step inside and outside of operations */
} Sums;

static Sums sums_of(const Profile *p) {
  Sums s = {0};
  double n = p->steps > 0 ? (double)p->steps : 1;
  for (int64_t i = 0; i < p->steps; i++) {
    s.step += p->seconds[i] / n;
    if (i == 0 || p->seconds[i] < s.best) s.best = p->seconds[i];
  }
  for (int i = 0; i < p->total.count; i++) {
    s.flops += p->total.operations[i].flops / n;
    s.timed += p->total.operations[i].seconds / n;
  }
  s.untimed = s.step - s.timed;
  return s;
}

/* Slowest first. */
static int by_seconds(const void *a, const void *b) {
  double x = ((const Operation *)a)->seconds, y = ((const Operation *)b)->seconds;
  return (x < y) - (x > y);
}

static Tally sorted(const Profile *p) {
  Tally t = p->total;
  qsort(t.operations, (size_t)t.count, sizeof t.operations[0], by_seconds);
  return t;
}

void profile_print(FILE *out, const Device *dev, ProfileRoofs roofs) {
  const Profile *p = dev->profile;
  Sums s = sums_of(p);
  Tally t = sorted(p);
  double n = p->steps > 0 ? (double)p->steps : 1;
  if (p->ended > 1)
    fprintf(out, "# profile of %lld steps; the first, %.1f ms, is left out\n", (long long)p->steps,
            1e3 * p->first_seconds);
  else
    fprintf(out, "# profile of %lld step, the first, which is slower than those that follow\n",
            (long long)p->steps);
  fprintf(out, "# roofs: products %.1f GFLOP/s, copies %.1f GB/s\n", roofs.flops * 1e-9, roofs.bytes * 1e-9);
  fprintf(out, "%-30s %7s %10s %7s %12s %8s\n", "operation", "calls", "ms a step", "share", "rate",
          "of roof");
  for (int i = 0; i < t.count; i++) {
    const Operation *o = &t.operations[i];
    char name[64];
    snprintf(name, sizeof name, "%s %s", o->name, o->part);
    fprintf(out, "%-30s %7.0f %10.2f %6.1f%%", name, (double)o->calls / n, 1e3 * o->seconds / n,
            100 * o->seconds / n / s.step);
    double rate = (o->flops > 0 ? o->flops : o->bytes) / o->seconds;
    double roof = o->flops > 0 ? roofs.flops : roofs.bytes;
    if (o->flops > 0 || o->bytes > 0)
      fprintf(out, " %6.1f %s %6.1f%%", rate * 1e-9, o->flops > 0 ? "GF/s" : "GB/s", 100 * rate / roof);
    fputc('\n', out);
  }
  fprintf(out, "%-30s %7s %10.2f %6.1f%%\n", "outside of operations", "", 1e3 * s.untimed,
          100 * s.untimed / s.step);
  double rate = s.flops / s.step;
  fprintf(out, "%-30s %7s %10.2f %6.1f%% %6.1f GF/s %6.1f%%\n", "step", "", 1e3 * s.step, 100.0, rate * 1e-9,
          100 * rate / roofs.flops);
}

void profile_json(FILE *out, const Device *dev, ProfileRoofs roofs) {
  const Profile *p = dev->profile;
  Sums s = sums_of(p);
  Tally t = sorted(p);
  double n = p->steps > 0 ? (double)p->steps : 1;
  fprintf(out, "{\n  \"steps\": %lld,\n  \"first_step_s\": %.6f,\n  \"first_step_peak_bytes\": %lld,\n",
          (long long)p->steps, p->first_seconds, (long long)p->peak_bytes);
  fprintf(out,
          "  \"step_s\": %.6f,\n  \"best_step_s\": %.6f,\n  \"step_cpu_s\": %.6f,\n  \"outside_s\": %.6f,\n",
          s.step, s.best, p->cpu_seconds / n, s.untimed);
  fprintf(out,
          "  \"product_flops\": %.0f,\n  \"roof_flops_per_s\": %.0f,\n  \"roof_flops_per_cpu_s\": %.0f,\n"
          "  \"roof_bytes_per_s\": %.0f,\n  \"steps_s\": [",
          s.flops, roofs.flops, roofs.flops_per_cpu_second, roofs.bytes);
  for (int64_t i = 0; i < p->steps; i++) fprintf(out, "%s%.6f", i ? ", " : "", p->seconds[i]);
  fprintf(out, "],\n  \"operations\": [");
  for (int i = 0; i < t.count; i++) {
    const Operation *o = &t.operations[i];
    fprintf(
        out,
        "%s\n    {\"name\": \"%s\", \"part\": \"%s\", \"calls\": %.0f, \"seconds\": %.6f, \"flops\": %.0f, "
        "\"bytes\": %.0f}",
        i ? "," : "", o->name, o->part, (double)o->calls / n, o->seconds / n, o->flops / n, o->bytes / n);
  }
  fprintf(out, "\n  ]\n}\n");
}
