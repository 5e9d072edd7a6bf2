/* Files that a run reads piece by piece to its end and that must stay as they are: each read finds out
 * whether the file was replaced, shortened, rewritten or removed since it was opened. Of any number of files
 * only a few are open at a time. */
#ifndef WATCHED_FILE_H
#define WATCHED_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct WatchedFile {
  const char *path; /* the caller's; NULL: no file */
  int fd;           /* -1 while it is closed */
  int64_t bytes;    /* what it is known by, from when it was opened first: length ... */
  dev_t device;     /* ... place ... */
  ino_t inode;
  struct timespec written; /* ... and the time of its last change */
} WatchedFile;

enum { OPEN_FILES = 16 };

/* The files that are open, the last used first. Zeroed: none. Files and pool are used by one thread at a
 * time, and a file stays where it is in memory. */
typedef struct OpenFiles {
  WatchedFile *file[OPEN_FILES];
  int n;
} OpenFiles;

/* Opens the regular file `path` (which the caller keeps) for the first time. Errors are of usage. */
bool watched_open(WatchedFile *f, OpenFiles *pool, const char *path, Error *e);
/* Reads bytes [at, at + bytes) to dst. A file that is no longer what was opened is a runtime error that says
 * what changed; dst is then undefined. */
bool watched_read(WatchedFile *f, OpenFiles *pool, int64_t at, void *dst, int64_t bytes, Error *e);
/* Closes it for good. */
/* The first byte from `at` on that is not in a hole of a sparse file, where all bytes are 0; `at` where that
 * is not known. */
int64_t watched_next_data(WatchedFile *f, OpenFiles *pool, int64_t at);
void watched_close(WatchedFile *f, OpenFiles *pool);

#ifdef __cplusplus
}
#endif
#endif
