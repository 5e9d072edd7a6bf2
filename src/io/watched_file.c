#define _GNU_SOURCE /* SEEK_DATA */
#include "io/watched_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the few open files ---- */

/* The place of f among the open files; pool->n when it is not open. */
static int place_of(const OpenFiles *pool, const WatchedFile *f) {
  int i = 0;
  while (i < pool->n && pool->file[i] != f) i++;
  return i;
}

/* Closes the file that was used longest ago when there is no room for another. */
static void make_room(OpenFiles *pool) {
  if (pool->n < OPEN_FILES) return;
  WatchedFile *last = pool->file[--pool->n];
  close(last->fd);
  last->fd = -1;
}

/* Puts f, which is open, first. */
static void mark_used(OpenFiles *pool, WatchedFile *f) {
  int i = place_of(pool, f);
  if (i == pool->n) pool->n++;
  memmove(pool->file + 1, pool->file, (size_t)i * sizeof pool->file[0]);
  pool->file[0] = f;
}

/* A descriptor for f, or -1. A pipe must not keep the program waiting: it is refused later. */
static int open_file(OpenFiles *pool, const WatchedFile *f) {
  make_room(pool);
  return open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

bool watched_open(WatchedFile *f, OpenFiles *pool, const char *path, Error *e) {
  *f = (WatchedFile){.path = path, .fd = -1};
  int fd = open_file(pool, f);
  if (fd < 0) return error_usage(e, "%s: cannot open the file: %s", path, strerror(errno));
  struct stat st;
  bool known = fstat(fd, &st) == 0;
  if (!known || !S_ISREG(st.st_mode)) {
    int failure = errno;
    close(fd);
    return known ? error_usage(e, "%s: not a regular file; name token shards or text files", path)
                 : error_runtime(e, "%s: cannot read the file's size: %s", path, strerror(failure));
  }
  f->fd = fd;
  f->bytes = st.st_size;
  f->device = st.st_dev;
  f->inode = st.st_ino;
  f->written = st.st_mtim;
  mark_used(pool, f);
  return true;
}

void watched_close(WatchedFile *f, OpenFiles *pool) {
  if (f->path && f->fd >= 0) {
    int i = place_of(pool, f);
    pool->n--;
    memmove(pool->file + i, pool->file + i + 1, (size_t)(pool->n - i) * sizeof pool->file[0]);
    close(f->fd);
  }
  *f = (WatchedFile){.fd = -1};
}

/* ---- reading ---- */

static bool changed(const WatchedFile *f, const char *what, Error *e) {
  return error_runtime(e,
                       "%s: %s since this program opened it; data must stay as they are while a run reads "
                       "them. Put the file back as it was and resume, or start anew with other data",
                       f->path, what);
}

static bool missing(const WatchedFile *f, Error *e) {
  if (errno == ENOENT || errno == ENOTDIR) return changed(f, "the file was removed or renamed", e);
  return error_runtime(e, "%s: cannot be opened again: %s. Check the disk and the limits (ulimit -n)",
                       f->path, strerror(errno));
}

static bool compare(const WatchedFile *f, const struct stat *st, Error *e) {
  if (st->st_dev != f->device || st->st_ino != f->inode)
    return changed(f, "the file was replaced by another", e);
  if (st->st_size != f->bytes) {
    char what[128];
    snprintf(what, sizeof what, "the file's length changed from %" PRId64 " to %" PRId64 " bytes", f->bytes,
             (int64_t)st->st_size);
    return changed(f, what, e);
  }
  if (st->st_mtim.tv_sec != f->written.tv_sec || st->st_mtim.tv_nsec != f->written.tv_nsec)
    return changed(f, "the file was written to", e);
  return true;
}

/* What is open and what the path names must both be the file of the beginning: a file that was replaced lives
 * on as long as it is open, and whether it still is should not decide what a run does. */
static bool check_unchanged(const WatchedFile *f, Error *e) {
  struct stat st;
  if (fstat(f->fd, &st) != 0)
    return error_runtime(e, "%s: cannot be read: %s. Check the disk", f->path, strerror(errno));
  if (!compare(f, &st, e)) return false;
  return stat(f->path, &st) == 0 ? compare(f, &st, e) : missing(f, e);
}

int64_t watched_next_data(WatchedFile *f, OpenFiles *pool, int64_t at) {
  if (f->fd < 0 && (f->fd = open_file(pool, f)) < 0) return at;
  mark_used(pool, f);
  off_t next = lseek(f->fd, at, SEEK_DATA);
  if (next < 0)
    return errno == ENXIO ? f->bytes : at; /* nothing but a hole follows; or holes are not known here */
  return next;
}

bool watched_read(WatchedFile *f, OpenFiles *pool, int64_t at, void *dst, int64_t bytes, Error *e) {
  if (f->fd < 0 && (f->fd = open_file(pool, f)) < 0) return missing(f, e);
  mark_used(pool, f);
  char *to = dst;
  while (bytes > 0) {
    ssize_t n = pread(f->fd, to, (size_t)bytes, at); /* the kernel hands out at most 2 GiB a call */
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return error_runtime(e, "%s: cannot be read: %s. Check the disk", f->path, strerror(errno));
    if (n == 0) break;
    to += n;
    at += n;
    bytes -= n;
  }
  /* after reading, so that a change on the way is seen as well */
  if (!check_unchanged(f, e)) return false;
  return bytes == 0 || error_runtime(e, "%s: ends %" PRId64 " bytes early. Check the disk", f->path, bytes);
}
