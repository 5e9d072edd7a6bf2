/* Files that are either whole or not there: text in, and new files written aside, synced, then renamed. And
 * the folders that they are in. */
#ifndef FILE_H
#define FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The whole of PATH as a string (malloc'ed); *bytes, when given, is its length. A file that is missing,
 * not a plain file, or larger than `limit` bytes is a usage error. NULL on failure. */
char *file_read_text(const char *path, size_t limit, size_t *bytes, Error *e);

/* Whether PATH can be written as a new file, or as one that replaces a regular file; a usage error where not.
 */
bool file_check_target(const char *path, Error *e);

/* XXH3 (64 bits, seed 0) of a file's bytes. */
bool file_hash(const char *path, uint64_t *hash, Error *e);

/* PATH + ".tmp", where a new file is written until it is complete (malloc'ed). */
char *file_temporary_name(const char *path);
/* Opens `temporary` for writing, empty; -1 and a runtime error on failure. */
int file_create(const char *temporary, Error *e);
/* Writes all of `data`; `path` is for the message. */
bool file_write_all(int fd, const char *path, const void *data, size_t bytes, Error *e);
/* Syncs and closes fd, renames `temporary` to `path` and syncs the folder. On failure nothing is left. */
bool file_publish(int fd, const char *temporary, const char *path, Error *e);
/* Closes fd and removes `temporary`. */
void file_discard(int fd, const char *temporary);

/* All of the above for a file that is one string, and for a copy of the file `from`. */
bool file_write_text(const char *path, const char *text, Error *e);
bool file_copy(const char *from, const char *path, Error *e);

/* Makes what was renamed or made in this folder durable. */
bool folder_sync(const char *folder, Error *e);
/* Removes a folder and all that is in it; links are removed, not followed. */
bool folder_remove(const char *folder, Error *e);

#ifdef __cplusplus
}
#endif
#endif
