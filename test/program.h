/* The program as a user runs it, $BUILD/train_llama, and a temporary folder for its files. For test binaries
 * that include cmocka.h before. */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "io/file.h"

static char folder[] = "/tmp/train_llama_test_XXXXXX";
static char said[1 << 16]; /* by the last run, on both streams */

static inline int program_setup(void **state) {
  (void)state;
  return mkdtemp(folder) ? 0 : -1;
}

static inline int program_teardown(void **state) {
  (void)state;
  Error e;
  return folder_remove(folder, &e) ? 0 : -1;
}

/* A shell's command: `before` the program's path, and its arguments; @ stands for the test's folder. */
static inline void program_command(char *command, size_t size, const char *before, const char *program,
                                   const char *arguments) {
  const char *build = getenv("BUILD");
  size_t at = (size_t)snprintf(command, size, "%s %s/%s ", before, build ? build : "build/cpu", program);
  for (const char *c = arguments; *c && at < size - 64; c++) {
    if (*c == '@')
      at += (size_t)snprintf(command + at, size - at, "%s", folder);
    else
      command[at++] = *c;
  }
  command[at] = '\0';
}

/* Runs a shell's command; returns its exit code, 128 + n when signal n ended it. */
static inline int shell(const char *command) {
  char both[8192];
  snprintf(both, sizeof both, "{ %s ; } 2>&1", command);
  FILE *f = popen(both, "r");
  assert_non_null(f);
  size_t n = fread(said, 1, sizeof said - 1, f);
  said[n] = 0;
  while (fgetc(f) != EOF) {}
  int status = pclose(f);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static inline void expect_of(const char *before, int code, const char *message, const char *arguments) {
  char command[4096];
  program_command(command, sizeof command, before, "train_llama", arguments);
  int found = shell(command);
  if (found != code || !strstr(said, message))
    fail_msg("%s\nexit %d, expected %d and \"%s\"; it said:\n%s", command, found, code, message, said);
}

/* Runs train_llama with these arguments; its exit code and (a part of) what it says are given. */
static inline void expect(int code, const char *message, const char *arguments) {
  expect_of("", code, message, arguments);
}

/* The path of a file in the test's folder; good until the next call. */
static inline char *path_of(const char *name) {
  static char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static inline bool exists(const char *name) {
  return access(path_of(name), F_OK) == 0;
}

static inline void write_text(const char *name, const char *text) {
  Error e;
  if (!file_write_text(path_of(name), text, &e)) fail_msg("%s", e.text);
}

#endif
