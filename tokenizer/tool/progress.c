#include "tokenizer/tool/progress.h"

#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

Progress progress_begin(FILE *out, int64_t begin, int64_t total) {
  return (Progress){.out = out, .shows = isatty(fileno(out)), .begin = begin, .total = total, .start = now()};
}

double progress_seconds(const Progress *p) {
  return now() - p->start;
}

void progress_show(Progress *p, int64_t bytes, int64_t tokens) {
  enum { WIDTH = 24 };
  double t = now(), seconds = t - p->start, rate = (double)(bytes - p->begin) / (seconds + 1e-9);
  if (!p->shows || t - p->last < 0.2) return;
  p->last = t;
  double share = p->total ? (double)bytes / (double)p->total : 1;
  int full = (int)(share * WIDTH);
  long left = rate > 0 ? (long)((double)(p->total - bytes) / rate) : 0;
  fprintf(p->out, "\r[%.*s%.*s] %5.1f %% | %6.1f MB/s | %8.2fM tokens | ETA %ld:%02ld:%02ld\033[K", full,
          "########################", WIDTH - full, "........................", 100 * share, rate / 1e6,
          (double)tokens / 1e6, left / 3600, left / 60 % 60, left % 60);
  fflush(p->out);
}

void progress_end(const Progress *p) {
  if (p->shows) fputs("\r\033[K", p->out);
}
