#include "base/process.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* The value of a line "KEY:   N kB" of /proc/self/status, in bytes. */
static int64_t status_bytes(const char *key) {
  FILE *f = fopen("/proc/self/status", "r");
  if (!f) return 0;
  char line[256];
  long long kib = 0;
  while (fgets(line, sizeof line, f))
    if (strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), ": %lld", &kib) == 1) break;
  fclose(f);
  return kib * 1024;
}

int64_t process_resident_bytes(void) {
  return status_bytes("RssAnon");
}
int64_t process_peak_bytes(void) {
  return status_bytes("VmHWM");
}

double process_cpu_seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
