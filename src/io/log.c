#include "io/log.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "io/json_out.h" /* json_float, json_double */

bool log_open(Log *log, const char *dir, FILE *terminal, int64_t steps, int64_t stop, int64_t print_every,
              Error *e) {
  memset(log, 0, sizeof *log);
  log->terminal = terminal;
  log->steps = steps;
  log->stop = stop;
  log->print_every = print_every;
  if (!dir) return true;
  int length = snprintf(log->path, sizeof log->path, "%s/log.jsonl", dir);
  if (length < 0 || (size_t)length >= sizeof log->path)
    return error_usage(e, "--out: found a path of %zu bytes, expected fewer than %zu.\nChoose a shorter one.",
                       strlen(dir), sizeof log->path);
  log->json = fopen(log->path, "w");
  if (!log->json)
    return error_usage(e,
                       "%s: cannot be written: %s.\n"
                       "The run folder must be one that you may write to; choose another with --out DIR.",
                       log->path, strerror(errno));
  return true;
}

/* Flushes both streams; the terminal may be gone (a closed pipe), the log may not. */
static bool flush(Log *log, Error *e) {
  fflush(log->terminal);
  if (!log->json || (fflush(log->json) == 0 && !ferror(log->json))) return true;
  return error_runtime(e, "%s: cannot be written: %s.\nMake room on the disk and start again.", log->path,
                       strerror(errno));
}

static int digits(int64_t n) {
  int d = 1;
  while (n /= 10) d++;
  return d;
}

/* "step    12/400": what both lines for people begin with. */
static void print_head(const Log *log, const char *what, int64_t step) {
  int width = digits(log->steps);
  fprintf(log->terminal, "%s %*lld/%lld |", what, width > 5 ? width : 5, (long long)step,
          (long long)log->steps);
}

/* Writes a time as "123.4 ms", or "12.34 s " from ten seconds on. */
static void print_ms(FILE *out, double ms) {
  if (ms < 1e4)
    fprintf(out, " %7.1f ms |", ms);
  else
    fprintf(out, " %7.2f s  |", ms / 1e3);
}

/* Writes a rate in three to four digits: 987, 16.6k, 1.66M. */
static void print_rate(FILE *out, double per_s) {
  if (per_s < 1e3)
    fprintf(out, " %6.1f  tok/s |", per_s);
  else if (per_s < 1e6)
    fprintf(out, " %6.1fk tok/s |", per_s / 1e3);
  else
    fprintf(out, " %6.2fM tok/s |", per_s / 1e6);
}

/* Writes seconds as m:ss, or h:mm:ss. */
static void print_duration(FILE *out, double seconds) {
  int64_t s = (int64_t)(seconds + 0.5);
  if (s < 3600)
    fprintf(out, "%lld:%02lld", (long long)(s / 60), (long long)(s % 60));
  else
    fprintf(out, "%lld:%02lld:%02lld", (long long)(s / 3600), (long long)(s / 60 % 60), (long long)(s % 60));
}

static void print_step(const Log *log, const LogStep *s) {
  FILE *out = log->terminal;
  print_head(log, "step", s->step);
  fprintf(out, " loss %.4f | norm %6.3f | lr %.2e |", (double)s->loss, (double)s->grad_norm, s->lr);
  print_ms(out, s->step_ms);
  print_rate(out, s->tokens_per_s);
  if (isfinite(s->mfu)) fprintf(out, " MFU %4.1f %% |", 100 * s->mfu);
  fputs(" ETA ", out);
  print_duration(out, (double)(log->stop - s->step) * log->mean_ms / 1e3);
  fputc('\n', out);
}

static void print_evaluation(const Log *log, int64_t step, float val_loss) {
  print_head(log, "eval", step);
  fprintf(log->terminal, " val loss %.4f | ppl %.2f\n", (double)val_loss, exp((double)val_loss));
}

static void json_evaluation(FILE *json, float val_loss) {
  fputs(", \"val_loss\": ", json);
  json_float(json, val_loss);
  fputs(", \"val_ppl\": ", json);
  json_double(json, exp((double)val_loss));
}

static void json_step(FILE *json, const LogStep *s) {
  fprintf(json, "{\"step\": %lld, \"loss\": ", (long long)s->step);
  json_float(json, s->loss);
  fputs(", \"lr\": ", json);
  json_double(json, s->lr);
  fputs(", \"grad_norm\": ", json);
  json_float(json, s->grad_norm);
  fprintf(json, ", \"tokens\": %lld, \"step_ms\": ", (long long)s->tokens);
  json_double(json, s->step_ms);
  fputs(", \"tokens_per_s\": ", json);
  json_double(json, s->tokens_per_s);
  fputs(", \"mfu\": ", json);
  json_double(json, s->mfu);
  fprintf(json, ", \"device_bytes\": %lld, \"host_bytes\": %lld", (long long)s->device_bytes,
          (long long)s->host_bytes);
  if (s->evaluated) json_evaluation(json, s->val_loss);
  fputs("}\n", json);
}

/* The first step warms caches and touches memory for the first time: it counts only until there is a second.
 */
static void update_mean(Log *log, const LogStep *s) {
  if (log->first == 0) log->first = s->step;
  bool young = s->step <= log->first + 1;
  log->mean_ms = young ? s->step_ms : 0.9 * log->mean_ms + 0.1 * s->step_ms;
}

bool log_step(Log *log, const LogStep *s, Error *e) {
  update_mean(log, s);
  bool shown = s->step == log->first || s->step == log->stop || s->step % log->print_every == 0;
  if (shown) print_step(log, s);
  if (s->evaluated) print_evaluation(log, s->step, s->val_loss);
  if (log->json) json_step(log->json, s);
  return flush(log, e);
}

bool log_evaluation(Log *log, int64_t step, float val_loss, Error *e) {
  print_evaluation(log, step, val_loss);
  if (log->json) {
    fprintf(log->json, "{\"step\": %lld", (long long)step);
    json_evaluation(log->json, val_loss);
    fputs("}\n", log->json);
  }
  return flush(log, e);
}

bool log_close(Log *log, Error *e) {
  if (!log->json) return true;
  bool ok = flush(log, e);
  if (fclose(log->json) != 0 && ok)
    ok = error_runtime(e, "%s: cannot be closed: %s.", log->path, strerror(errno));
  log->json = NULL;
  return ok;
}
