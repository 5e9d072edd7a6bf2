#define _GNU_SOURCE /* nftw */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h> // XXH3_64bits_update

char *file_read_text(const char *path, size_t limit, size_t *bytes, Error *e) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* else a named pipe would wait for its writer */
  struct stat s;
  if (fd < 0 || fstat(fd, &s) != 0) {
    error_usage(e, "%s: cannot be read: %s. Check the path and its permissions", path, strerror(errno));
    if (fd >= 0) close(fd);
    return NULL;
  }
  FILE *f = fdopen(fd, "rb");
  CHECK(f, "out of memory for a stream");
  if (!S_ISREG(s.st_mode) || (size_t)s.st_size > limit) {
    fclose(f);
    if (!S_ISREG(s.st_mode))
      error_usage(e, "%s: is not a plain file. Give the path of a file", path);
    else
      error_usage(e, "%s: has %lld bytes, at most %zu are expected: this is not a file of this kind", path,
                  (long long)s.st_size, limit);
    return NULL;
  }
  size_t size = (size_t)s.st_size;
  char *text = malloc(size + 1);
  CHECK(text, "out of memory for %zu bytes", size + 1);
  size_t got = fread(text, 1, size, f);
  fclose(f);
  if (got != size) {
    free(text);
    error_runtime(e, "%s: only %zu of %zu bytes could be read. Check the disk, then try again", path, got,
                  size);
    return NULL;
  }
  text[size] = '\0';
  if (bytes) *bytes = size;
  return text;
}

/* The folder that holds `path` (malloc'ed). */
static char *folder_of(const char *path) {
  const char *slash = strrchr(path, '/');
  size_t n = !slash ? 1 : slash == path ? 1 : (size_t)(slash - path);
  char *folder = malloc(n + 1);
  CHECK(folder, "out of memory for %zu bytes", n + 1);
  memcpy(folder, slash ? path : ".", n);
  folder[n] = '\0';
  return folder;
}

bool file_check_target(const char *path, Error *e) {
  struct stat s;
  if (stat(path, &s) == 0 && !S_ISREG(s.st_mode))
    return error_usage(
        e, "%s: found something that is not a regular file; name a file, new or to be replaced", path);
  char *folder = folder_of(path);
  bool ok = access(folder, W_OK | X_OK) == 0;
  if (!ok)
    error_usage(e, "%s: cannot write into the folder %s: %s. Give one that exists and can be written to",
                path, folder, strerror(errno));
  free(folder);
  return ok;
}

bool file_hash(const char *path, uint64_t *hash, Error *e) {
  enum { PIECE = 1 << 20 };
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return error_usage(e, "%s: cannot be read: %s. Check the path and its permissions", path,
                       strerror(errno));
  char *piece = malloc(PIECE);
  CHECK(piece, "out of memory for %d bytes", PIECE);
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  ssize_t n;
  do {
    n = read(fd, piece, PIECE);
    if (n > 0) XXH3_64bits_update(&state, piece, (size_t)n);
  } while (n > 0 || (n < 0 && errno == EINTR));
  bool ok = n == 0 || error_runtime(e, "%s: reading failed: %s. Check the disk", path, strerror(errno));
  *hash = XXH3_64bits_digest(&state);
  free(piece);
  close(fd);
  return ok;
}

char *file_temporary_name(const char *path) {
  size_t n = strlen(path) + sizeof ".tmp";
  char *name = malloc(n);
  CHECK(name, "out of memory for %zu bytes", n);
  snprintf(name, n, "%s.tmp", path);
  return name;
}

int file_create(const char *temporary, Error *e) {
  int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0)
    error_runtime(e, "%s: cannot be created: %s. Check that the folder exists and can be written to",
                  temporary, strerror(errno));
  return fd;
}

bool file_write_all(int fd, const char *path, const void *data, size_t bytes, Error *e) {
  const char *at = data;
  while (bytes > 0) {
    ssize_t n = write(fd, at, bytes); /* the kernel takes at most 2 GiB a call */
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      return error_runtime(e, "%s: writing failed: %s. Make room on the disk or write elsewhere", path,
                           n < 0 ? strerror(errno) : "nothing was written");
    at += n;
    bytes -= (size_t)n;
  }
  return true;
}

bool folder_sync(const char *folder, Error *e) {
  int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  /* a filesystem that cannot sync folders says EINVAL; there is nothing more to do then */
  bool ok = fd >= 0 && (fsync(fd) == 0 || errno == EINVAL);
  if (!ok)
    error_runtime(e, "%s: the folder could not be synced: %s. Check the disk", folder, strerror(errno));
  if (fd >= 0) close(fd);
  return ok;
}

/* Makes a rename in the folder of `path` durable. */
static bool sync_folder_of(const char *path, Error *e) {
  char *folder = folder_of(path);
  bool ok = folder_sync(folder, e);
  free(folder);
  return ok;
}

bool file_publish(int fd, const char *temporary, const char *path, Error *e) {
  bool synced = fsync(fd) == 0;
  int failure = errno;
  /* close can report a write that failed late (NFS, quotas) */
  if (close(fd) != 0 && synced) {
    synced = false;
    failure = errno;
  }
  if (!synced) {
    unlink(temporary);
    return error_runtime(e, "%s: could not be completed: %s. Make room on the disk or write elsewhere", path,
                         strerror(failure));
  }
  if (rename(temporary, path) != 0) {
    failure = errno;
    unlink(temporary);
    return error_runtime(e, "%s: could not be renamed from %s: %s. Check what is in the way", path, temporary,
                         strerror(failure));
  }
  return sync_folder_of(path, e);
}

void file_discard(int fd, const char *temporary) {
  close(fd);
  unlink(temporary);
}

/* Puts what `write` writes to a file descriptor under `path`. */
typedef bool (*FileWriter)(int fd, const char *path, const void *context, Error *e);
static bool write_whole(const char *path, FileWriter write, const void *context, Error *e) {
  char *temporary = file_temporary_name(path);
  int fd = file_create(temporary, e);
  bool ok = fd >= 0;
  if (ok && !write(fd, path, context, e)) {
    file_discard(fd, temporary);
    ok = false;
  } else if (ok) {
    ok = file_publish(fd, temporary, path, e);
  }
  free(temporary);
  return ok;
}

static bool write_string(int fd, const char *path, const void *text, Error *e) {
  return file_write_all(fd, path, text, strlen(text), e);
}

bool file_write_text(const char *path, const char *text, Error *e) {
  return write_whole(path, write_string, text, e);
}

static bool write_copy(int fd, const char *path, const void *source, Error *e) {
  char piece[1 << 16];
  for (;;) {
    ssize_t n = read(*(const int *)source, piece, sizeof piece);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return error_runtime(e, "%s: reading what it copies failed: %s", path, strerror(errno));
    if (n == 0) return true;
    if (!file_write_all(fd, path, piece, (size_t)n, e)) return false;
  }
}

bool file_copy(const char *from, const char *path, Error *e) {
  int source = open(from, O_RDONLY | O_CLOEXEC);
  if (source < 0)
    return error_usage(e, "%s: cannot be read: %s. Check the path and its permissions", from,
                       strerror(errno));
  bool ok = write_whole(path, write_copy, &source, e);
  close(source);
  return ok;
}

static int remove_entry(const char *path, const struct stat *s, int kind, struct FTW *at) {
  (void)s, (void)kind, (void)at;
  return remove(path);
}

bool folder_remove(const char *folder, Error *e) {
  enum { OPEN_FOLDERS = 16 };
  if (nftw(folder, remove_entry, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS) == 0) return true;
  return error_runtime(e, "%s: cannot be removed: %s. Remove it by hand", folder, strerror(errno));
}
