#include "io/log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "io/file.h"
#include "io/json_out.h" /* json_float, json_double */

/* ---- going on with a log ---- */

/* Takes a line of a step up to `resume` into the windows; false for what is to be dropped: later steps, and
 * what is no line of a log. */
static bool keep_line(Log *log, const char *line, int64_t resume) {
  cJSON *root = cJSON_Parse(line);
  const cJSON *step = cJSON_GetObjectItemCaseSensitive(root, "step"),
              *loss = cJSON_GetObjectItemCaseSensitive(root, "loss"),
              *norm = cJSON_GetObjectItemCaseSensitive(root, "grad_norm");
  bool keep = cJSON_IsNumber(step) && step->valuedouble <= (double)resume;
  if (keep && cJSON_IsNumber(loss)) outliers_score(&log->losses, (float)loss->valuedouble);
  if (keep && cJSON_IsNumber(norm)) outliers_score(&log->norms, (float)norm->valuedouble);
  cJSON_Delete(root);
  return keep;
}

/* Writes the old log without its lines after step `resume`. One that is not there is an empty one. */
static bool cut_back(Log *log, int64_t resume, Error *e) {
  char *kept = NULL, *line = NULL;
  size_t kept_bytes, line_room = 0;
  FILE *old = fopen(log->path, "r");
  if (!old && errno != ENOENT)
    return error_usage(e, "%s: cannot be read: %s. A resumed run goes on with its log", log->path,
                       strerror(errno));
  FILE *out = open_memstream(&kept, &kept_bytes);
  CHECK(out, "out of memory for the log");
  while (old && getline(&line, &line_room, old) > 0)
    if (keep_line(log, line, resume)) fprintf(out, "%.*s\n", (int)strcspn(line, "\n"), line);
  bool ok = !old || !ferror(old) || error_runtime(e, "%s: reading failed: %s", log->path, strerror(errno));
  if (old) fclose(old);
  free(line);
  CHECK(fclose(out) == 0, "out of memory for the log");
  ok = ok && file_write_text(log->path, kept, e);
  free(kept);
  return ok;
}

bool log_open(Log *log, const char *dir, FILE *terminal, int64_t steps, int64_t stop, int64_t print_every,
              int64_t resume, Error *e) {
  memset(log, 0, sizeof *log);
  log->terminal = terminal;
  log->steps = steps;
  log->stop = stop;
  log->print_every = print_every;
  log->json = -1;
  if (!dir) return true;
  int length = snprintf(log->path, sizeof log->path, "%s/log.jsonl", dir);
  if (length < 0 || (size_t)length >= sizeof log->path)
    return error_usage(e, "--out: found a path of %zu bytes, expected fewer than %zu.\nChoose a shorter one.",
                       strlen(dir), sizeof log->path);
  if (resume && !cut_back(log, resume, e)) return false;
  log->json = open(log->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (resume ? 0 : O_TRUNC), 0666);
  if (log->json < 0)
    return error_usage(e,
                       "%s: cannot be written: %s.\n"
                       "The run folder must be one that you may write to; choose another with --out DIR.",
                       log->path, strerror(errno));
  log->json_bytes = lseek(log->json, 0, SEEK_END);
  return true;
}

/* ---- lines ---- */

/* A line of log.jsonl, in memory until it is complete. */
typedef struct Line {
  FILE *out;
  char *text;
  size_t bytes;
} Line;

static Line *line_new(void) {
  Line *line = calloc(1, sizeof *line);
  CHECK(line, "out of memory for the log");
  line->out = open_memstream(&line->text, &line->bytes);
  CHECK(line->out, "out of memory for the log");
  return line;
}

/* Writes the line as a whole or not at all, and frees it. The terminal may be gone (a closed pipe). */
static bool line_write(Log *log, Line *line, Error *e) {
  fflush(log->terminal);
  CHECK(fclose(line->out) == 0, "out of memory for the log");
  bool ok = log->json < 0 || file_write_all(log->json, log->path, line->text, line->bytes, e);
  if (ok)
    log->json_bytes += (int64_t)line->bytes;
  else if (ftruncate(log->json, log->json_bytes) != 0)
    error_prefix(e, "%s: half a line is left at its end: ", log->path);
  free(line->text);
  free(line);
  return ok;
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

/* How far a step stands out from those before it; NAN where that is not known. */
typedef struct Scores {
  double loss, norm;
} Scores;

static bool is_outlier(const Scores *z) {
  return z->loss > OUTLIER_Z || z->norm > OUTLIER_Z;
}

static void print_step(const Log *log, const LogStep *s, const Scores *z) {
  FILE *out = log->terminal;
  print_head(log, "step", s->step);
  fprintf(out, " loss %.4f | norm %6.3f | lr %.2e |", (double)s->loss, (double)s->grad_norm, s->lr);
  print_ms(out, s->step_ms);
  print_rate(out, s->tokens_per_s);
  if (isfinite(s->mfu)) fprintf(out, " MFU %4.1f %% |", 100 * s->mfu);
  fputs(" ETA ", out);
  print_duration(out, (double)(log->stop - s->step) * log->mean_ms / 1e3);
  if (z->loss > OUTLIER_Z) fprintf(out, " | OUTLIER loss z %+.1f", z->loss);
  if (z->norm > OUTLIER_Z) fprintf(out, " | OUTLIER norm z %+.1f", z->norm);
  if (s->skipped) fputs(" | SKIPPED: not finite", out);
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

static void json_step(FILE *json, const LogStep *s, const Scores *z) {
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
  fputs(", \"loss_z\": ", json);
  json_float(json, (float)z->loss);
  fputs(", \"norm_z\": ", json);
  json_float(json, (float)z->norm);
  if (is_outlier(z)) fputs(", \"outlier\": true", json);
  if (s->skipped) fputs(", \"skipped\": true", json);
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
  Scores z = {outliers_score(&log->losses, (double)s->loss),
              outliers_score(&log->norms, (double)s->grad_norm)};
  bool shown = s->step == log->first || s->step == log->stop || s->step % log->print_every == 0 ||
               s->skipped || is_outlier(&z);
  if (shown) print_step(log, s, &z);
  if (s->evaluated) print_evaluation(log, s->step, s->val_loss);
  Line *line = line_new();
  json_step(line->out, s, &z);
  return line_write(log, line, e);
}

bool log_evaluation(Log *log, int64_t step, float val_loss, Error *e) {
  print_evaluation(log, step, val_loss);
  Line *line = line_new();
  fprintf(line->out, "{\"step\": %lld", (long long)step);
  json_evaluation(line->out, val_loss);
  fputs("}\n", line->out);
  return line_write(log, line, e);
}

void log_close(Log *log) {
  if (log->json >= 0) close(log->json);
  log->json = -1;
}
