/* What the fuzz targets share: a folder of one input's own, and what must hold of every refusal.
 *
 * A target is test/fuzz/fuzz_NAME.c with LLVMFuzzerTestOneInput. `make fuzz` finds it by its name, links it
 * with the C files of src/, and takes NAME.dict as its dictionary when there is one. For `make test` it needs
 * a corpus in test/fuzz/corpus/NAME/ (make_seeds.py) and a line in test/test_fuzz_corpus.c. */
#ifndef FUZZ_H
#define FUZZ_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

/* The entry point that libFuzzer calls with one input; returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FUZZ_PATH = 96 };

typedef struct FuzzFolder {
  char path[FUZZ_PATH / 2];
} FuzzFolder;

/* A new, empty folder, in memory where the system offers that. */
static inline FuzzFolder fuzz_folder_new(void) {
  FuzzFolder f;
  snprintf(f.path, sizeof f.path, "%s/fuzz_XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
  CHECK(mkdtemp(f.path), "no folder %s", f.path);
  return f;
}

/* The path of a file in the folder. Returns path. */
static inline const char *fuzz_path(char path[FUZZ_PATH], const FuzzFolder *f, const char *name) {
  snprintf(path, FUZZ_PATH, "%s/%s", f->path, name);
  return path;
}

/* A file of these parts, one after the other. */
typedef struct FuzzPart {
  const void *data;
  size_t size;
} FuzzPart;

static inline void fuzz_write(const FuzzFolder *f, const char *name, const FuzzPart *parts, int count) {
  char path[FUZZ_PATH];
  int fd = open(fuzz_path(path, f, name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  CHECK(fd >= 0, "cannot make %s", path);
  for (int i = 0; i < count; i++)
    CHECK(write(fd, parts[i].data, parts[i].size) == (ssize_t)parts[i].size, "cannot write %s", path);
  close(fd);
}

/* Removes the folder, which must hold no other files than these: a program that leaves one behind fails. */
static inline void fuzz_folder_remove(const FuzzFolder *f, const char *const *names, int count) {
  char path[FUZZ_PATH];
  for (int i = 0; i < count; i++) unlink(fuzz_path(path, f, names[i]));
  CHECK(rmdir(f->path) == 0, "%s holds a file that should not be there", f->path);
}

/* The next piece of the input, up to a byte 0xFF (which JSON never has) or the end; *data moves past it. */
static inline FuzzPart fuzz_cut(const uint8_t **data, size_t *size) {
  const uint8_t *end = *size ? memchr(*data, 0xFF, *size) : NULL;
  FuzzPart part = {*data, end ? (size_t)(end - *data) : *size};
  size_t used = part.size + (end != NULL);
  *data += used;
  *size -= used;
  return part;
}

/* A refusal is the user's error, and has a whole message without control characters. */
static inline void fuzz_check_refusal(const Error *e) {
  size_t n = strlen(e->text);
  CHECK(e->code == EXIT_USAGE, "code %d: %s", e->code, e->text);
  CHECK(n > 0 && n < sizeof e->text - 1, "a message of %zu bytes: %s", n, e->text);
  for (const char *c = e->text; *c; c++)
    CHECK((unsigned char)*c >= ' ' || *c == '\n', "byte %d in: %s", *c, e->text);
}

#endif
