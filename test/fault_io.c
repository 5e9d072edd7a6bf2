/* A disk that fails, linked into the program in place of write, fsync and rename (see the Makefile): the call
 * number FAULT_AT of them fails, and with FAULT_KIND=short a write takes only half of what it is given, then
 * fails; FAULT_KIND=kill ends the program there instead. Calls are counted from 1; FAULT_COUNT=FILE receives
 * their number at the end. */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ssize_t __real_write(int fd, const void *data, size_t bytes);
int __real_fsync(int fd);
int __real_rename(const char *from, const char *to);

/* The interposed calls have nowhere to pass a context. Only the main thread writes files. */
static long calls, fault_at = -1;
static bool half_written;

static void write_count(void) {
  FILE *f = fopen(getenv("FAULT_COUNT"), "w");
  if (f) fprintf(f, "%ld", calls), fclose(f);
}

/* True when this call is to fail. */
static bool fails(void) {
  if (fault_at < 0) {
    fault_at = getenv("FAULT_AT") ? atol(getenv("FAULT_AT")) : 0;
    if (getenv("FAULT_COUNT")) atexit(write_count);
  }
  if (++calls != fault_at) return false;
  const char *kind = getenv("FAULT_KIND");
  if (kind && strcmp(kind, "kill") == 0) raise(SIGKILL);
  errno = EIO;
  return true;
}

ssize_t __wrap_write(int fd, const void *data, size_t bytes) {
  if (half_written) { /* the second half of a short write */
    half_written = false;
    errno = ENOSPC;
    return -1;
  }
  if (!fails()) return __real_write(fd, data, bytes);
  const char *kind = getenv("FAULT_KIND");
  if (!kind || strcmp(kind, "short") != 0 || bytes < 2) return -1;
  half_written = true;
  return __real_write(fd, data, bytes / 2);
}

int __wrap_fsync(int fd) {
  return fails() ? -1 : __real_fsync(fd);
}

int __wrap_rename(const char *from, const char *to) {
  return fails() ? -1 : __real_rename(from, to);
}
