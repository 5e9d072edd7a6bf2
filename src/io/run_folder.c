#include "io/run_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file.h"

static bool join(char path[RUN_PATH], const char *dir, const char *name, Error *e) {
  int n = snprintf(path, RUN_PATH, "%s/%s", dir, name);
  if (n < 0 || n >= RUN_PATH)
    return error_usage(e, "a path of more than %d characters: %s/%s. Use a shorter --out.", RUN_PATH - 1, dir,
                       name);
  return true;
}

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

bool run_folder_create(const char *out, Error *e) {
  if (!make_folders(out, e)) return false;
  if (access(out, W_OK | X_OK) != 0)
    return error_usage(e, "--out %s: cannot write there: %s.\nGive a folder that can be written.", out,
                       strerror(errno));
  DIR *dir = opendir(out);
  if (!dir) return error_usage(e, "--out %s: %s.\nGive a folder that can be written.", out, strerror(errno));
  bool empty = true;
  for (struct dirent *entry; empty && (entry = readdir(dir));)
    if (strcmp(entry->d_name, "run.json") == 0 || strcmp(entry->d_name, "log.jsonl") == 0 ||
        strncmp(entry->d_name, "step-", 5) == 0)
      empty = error_usage(
          e,
          "--out %s: found %s of another run, expected a folder without one.\nGive another --out, or "
          "move that run away.",
          out, entry->d_name);
  closedir(dir);
  return empty;
}

static bool state_path(char path[RUN_PATH], const char *out, int64_t step, const char *suffix, Error *e) {
  char name[64];
  snprintf(name, sizeof name, "step-%08lld%s", (long long)step, suffix);
  return join(path, out, name, e);
}

bool run_folder_begin(char path[RUN_PATH], const char *out, int64_t step, Error *e) {
  if (!state_path(path, out, step, ".tmp", e)) return false;
  if (mkdir(path, 0777) != 0) return error_runtime(e, "cannot make the folder %s: %s", path, strerror(errno));
  return true;
}

bool run_folder_copy_tokenizer(const char *path, const char *model_dir, Error *e) {
  static const char *const names[] = {
      "tokenizer.json",     "tokenizer_config.json",   "tokenizer.model",   "vocab.json",
      "merges.txt",         "special_tokens_map.json", "added_tokens.json", "generation_config.json",
      "chat_template.jinja"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char from[RUN_PATH], to[RUN_PATH];
    if (!join(from, model_dir, names[i], e) || !join(to, path, names[i], e)) return false;
    if (access(from, R_OK) != 0) continue;
    char *text = file_read_text(from, (size_t)1 << 30, NULL, e);
    bool ok = text && file_write_text(to, text, e);
    free(text);
    if (!ok) return false;
  }
  return true;
}

static bool sync_folder(const char *path, Error *e) {
  int fd = open(path, O_RDONLY | O_DIRECTORY);
  bool ok = fd >= 0 && fsync(fd) == 0;
  if (!ok) error_runtime(e, "cannot sync the folder %s: %s", path, strerror(errno));
  if (fd >= 0) close(fd);
  return ok;
}

bool run_folder_finish(const char *path, const char *out, int64_t step, Error *e) {
  char done[RUN_PATH], final[RUN_PATH];
  if (!join(done, path, "DONE", e) || !state_path(final, out, step, "", e)) return false;
  if (!file_write_text(done, "", e) || !sync_folder(path, e)) return false;
  if (rename(path, final) != 0)
    return error_runtime(e, "cannot rename %s to %s: %s", path, final, strerror(errno));
  return sync_folder(out, e);
}
