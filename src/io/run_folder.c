#include "io/run_folder.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file.h"

#define WRITING  ".tmp" /* of a state that is not complete */
#define REMOVING ".old" /* of a state that is being removed, or replaced by one of the same step */

#define STATE_NAME "step-%08lld%s" /* step, suffix */

static bool join(char path[RUN_PATH], const char *dir, const char *name, Error *e) {
  int n = snprintf(path, RUN_PATH, "%s/%s", dir, name);
  if (n < 0 || n >= RUN_PATH)
    return error_usage(e, "a path of more than %d characters: %s/%s. Use a shorter --out.", RUN_PATH - 1, dir,
                       name);
  return true;
}

static bool state_path(char path[RUN_PATH], const char *out, int64_t step, const char *suffix, Error *e) {
  char name[64];
  snprintf(name, sizeof name, STATE_NAME, (long long)step, suffix);
  return join(path, out, name, e);
}

static bool rename_folder(const char *from, const char *to, Error *e) {
  return rename(from, to) == 0 ||
         error_runtime(e, "cannot rename %s to %s: %s. Check what is in the way", from, to, strerror(errno));
}

/* ---- the states in OUT ---- */

typedef struct States {
  int64_t *steps; /* [n], ascending */
  int64_t n;
} States;

/* The step of a state by its name; -1 for a name that this program does not give. */
static int64_t step_of_name(const char *name, const char *suffix) {
  char given[64];
  if (strncmp(name, "step-", 5) != 0 || !isdigit((unsigned char)name[5])) return -1;
  errno = 0;
  long long step = strtoll(name + 5, NULL, 10);
  snprintf(given, sizeof given, STATE_NAME, step, suffix);
  return errno == 0 && strcmp(name, given) == 0 ? step : -1;
}

static int compare_steps(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

/* All that are named as states with this suffix; complete or not. A folder that cannot be read has none. */
static States states_in(const char *out, const char *suffix) {
  States s = {0};
  DIR *dir = opendir(out);
  for (struct dirent *entry; dir && (entry = readdir(dir));) {
    int64_t step = step_of_name(entry->d_name, suffix);
    if (step < 0) continue;
    s.steps = realloc(s.steps, (size_t)(s.n + 1) * sizeof *s.steps);
    CHECK(s.steps, "out of memory for %lld states", (long long)s.n);
    s.steps[s.n++] = step;
  }
  if (dir) closedir(dir);
  if (s.n) qsort(s.steps, (size_t)s.n, sizeof *s.steps, compare_steps);
  return s;
}

bool run_folder_is_complete(const char *path) {
  char done[RUN_PATH];
  Error ignored;
  return join(done, path, "DONE", &ignored) && access(done, F_OK) == 0;
}

/* The complete ones alone. */
static States complete_states(const char *out) {
  States s = states_in(out, "");
  int64_t n = 0;
  for (int64_t i = 0; i < s.n; i++) {
    char path[RUN_PATH];
    Error ignored;
    if (state_path(path, out, s.steps[i], "", &ignored) && run_folder_is_complete(path))
      s.steps[n++] = s.steps[i];
  }
  s.n = n;
  return s;
}

bool run_folder_newest(char path[RUN_PATH], int64_t *step, const char *out) {
  States s = complete_states(out);
  Error ignored;
  bool found = s.n && state_path(path, out, s.steps[s.n - 1], "", &ignored);
  if (found) *step = s.steps[s.n - 1];
  free(s.steps);
  return found;
}

/* ---- opening ---- */

/* mkdir -p */
static bool make_folders(const char *out, Error *e) {
  char path[RUN_PATH];
  if (!join(path, out, "", e)) return false;
  for (char *at = path + 1; *at; at++) {
    if (*at != '/') continue;
    *at = 0;
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
      return error_usage(e, "--out %s: cannot make the folder %s: %s.\nGive a folder that can be written.",
                         out, path, strerror(errno));
    *at = '/';
  }
  return true;
}

bool run_folder_open(int *lock, const char *out, Error *e) {
  if (!make_folders(out, e)) return false;
  if (access(out, W_OK | X_OK) != 0)
    return error_usage(e, "--out %s: cannot write there: %s.\nGive a folder that can be written.", out,
                       strerror(errno));
  return *lock >= 0 || run_folder_lock(lock, out, e);
}

bool run_folder_lock(int *lock, const char *out, Error *e) {
  *lock = open(out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (*lock < 0)
    return error_usage(e, "--out %s: %s.\nGive a folder that can be written.", out, strerror(errno));
  /* some network filesystems cannot lock: then nobody is refused */
  if (flock(*lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    return error_usage(
        e, "--out %s: another train_llama is running there.\nWait for its end, or give another --out.", out);
  return true;
}

bool run_folder_check_new(const char *out, Error *e) {
  DIR *dir = opendir(out);
  if (!dir) return error_usage(e, "--out %s: %s.\nGive a folder that can be read.", out, strerror(errno));
  bool empty = true;
  for (struct dirent *entry; empty && (entry = readdir(dir));)
    if (strcmp(entry->d_name, "run.json") == 0 || strcmp(entry->d_name, "log.jsonl") == 0 ||
        strncmp(entry->d_name, "step-", 5) == 0)
      empty = error_usage(e,
                          "--out %s: found %s of another run, expected a folder without one.\nGive another "
                          "--out, move that run away, or go on with it by --resume.",
                          out, entry->d_name);
  closedir(dir);
  return empty;
}

/* A state was replaced by one of the same step when there is one under its name; else it is put back. */
static bool mend_replaced(const char *out, int64_t step, Error *e) {
  char old[RUN_PATH], path[RUN_PATH];
  if (!state_path(old, out, step, REMOVING, e) || !state_path(path, out, step, "", e)) return false;
  if (access(path, F_OK) == 0 || !run_folder_is_complete(old)) return folder_remove(old, e);
  return rename_folder(old, path, e);
}

bool run_folder_mend(const char *out, Error *e) {
  States half = states_in(out, WRITING), old = states_in(out, REMOVING);
  bool ok = true;
  for (int64_t i = 0; i < half.n; i++) {
    char path[RUN_PATH];
    ok &= state_path(path, out, half.steps[i], WRITING, e) && folder_remove(path, e);
  }
  for (int64_t i = 0; i < old.n; i++) ok &= mend_replaced(out, old.steps[i], e);
  free(half.steps);
  free(old.steps);
  return ok;
}

/* ---- saving ---- */

bool run_folder_begin(char path[RUN_PATH], const char *out, int64_t step, Error *e) {
  if (!state_path(path, out, step, WRITING, e)) return false;
  return mkdir(path, 0777) == 0 || error_runtime(e, "cannot make the folder %s: %s", path, strerror(errno));
}

static const char *const tokenizer_files[] = {
    "tokenizer.json",     "tokenizer_config.json",   "tokenizer.model",   "vocab.json",
    "merges.txt",         "special_tokens_map.json", "added_tokens.json", "generation_config.json",
    "chat_template.jinja"};
enum { TOKENIZER_FILES = sizeof tokenizer_files / sizeof *tokenizer_files };

bool run_folder_check_tokenizer(const char *model_dir, Error *e) {
  for (int i = 0; i < TOKENIZER_FILES; i++) {
    char path[RUN_PATH];
    if (!join(path, model_dir, tokenizer_files[i], e)) return false;
    if (access(path, F_OK) == 0 && access(path, R_OK) != 0)
      return error_usage(e, "%s: cannot be read: %s. It is carried along with what is saved", path,
                         strerror(errno));
  }
  return true;
}

bool run_folder_copy_tokenizer(const char *path, const char *model_dir, Error *e) {
  for (int i = 0; i < TOKENIZER_FILES; i++) {
    char from[RUN_PATH], to[RUN_PATH];
    if (!join(from, model_dir, tokenizer_files[i], e) || !join(to, path, tokenizer_files[i], e)) return false;
    if (access(from, F_OK) == 0 && !file_copy(from, to, e)) return false;
  }
  return true;
}

/* Takes a state out of sight by a rename, so that none is ever half there, then removes it. */
static bool remove_state(const char *out, int64_t step, Error *e) {
  char path[RUN_PATH], old[RUN_PATH];
  if (!state_path(path, out, step, "", e) || !state_path(old, out, step, REMOVING, e)) return false;
  /* without its DONE, mending removes it and does not put it back */
  char done[RUN_PATH];
  if (!rename_folder(path, old, e) || !join(done, old, "DONE", e)) return false;
  if (unlink(done) != 0) return error_runtime(e, "cannot remove %s: %s", done, strerror(errno));
  return folder_remove(old, e);
}

bool run_folder_finish(const char *path, const char *out, int64_t step, Error *e) {
  char done[RUN_PATH], final[RUN_PATH], old[RUN_PATH];
  if (!join(done, path, "DONE", e) || !state_path(final, out, step, "", e) ||
      !state_path(old, out, step, REMOVING, e))
    return false;
  if (!file_write_text(done, "", e) || !folder_sync(path, e)) return false;
  bool replaces = access(final, F_OK) == 0;
  if (replaces && !rename_folder(final, old, e)) return false;
  if (!rename_folder(path, final, e)) {
    Error ignored;
    if (replaces) rename_folder(old, final, &ignored);
    return false;
  }
  return folder_sync(out, e) && (!replaces || folder_remove(old, e));
}

bool run_folder_prune(const char *out, int64_t keep, Error *e) {
  States s = complete_states(out);
  bool ok = true;
  for (int64_t i = 0; i + keep < s.n; i++) ok &= remove_state(out, s.steps[i], e);
  free(s.steps);
  return ok;
}
