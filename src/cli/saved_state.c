#include "cli/saved_state.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "cli/automatic.h" /* automatic_json */
#include "cli/flags.h"     /* flags_json */
#include "cli/setup.h"     /* setup_is_folder */
#include "io/file.h"
#include "io/hf_config.h"
#include "llama/hf_model.h"
#include "ops/matmul_tune.h" /* matmul_tune_text, matmul_tune_read */

enum { STATE_PATH = RUN_PATH + 32 }; /* of a file in a state */

static const char *in_state(char path[STATE_PATH], const char *state, const char *name) {
  snprintf(path, STATE_PATH, "%s/%s", state, name);
  return path;
}

/* ---- finding and reading ---- */

bool saved_state_open(SavedState *s, const Options *o, Error *e) {
  *s = (SavedState){0};
  if (!o->resume) return true;
  int64_t step;
  if (!*o->resume) {
    if (!run_folder_newest(s->path, &step, o->out)) {
      printf("# --resume: no saved state in %s yet: the run starts at step 1\n", o->out);
      s->path[0] = '\0';
      return true;
    }
  } else {
    if (strlen(o->resume) >= RUN_PATH)
      return error_usage(e, "--resume: found a path of %zu characters, expected fewer than %d.",
                         strlen(o->resume), RUN_PATH);
    strcpy(s->path, o->resume);
    if (!run_folder_is_complete(s->path))
      return error_usage(e,
                         "--resume %s: found no DONE in it, expected a complete saved state (OUT/step-...).\n"
                         "Name another one, or give --resume alone for the newest in --out.",
                         s->path);
  }
  char path[STATE_PATH];
  return trainer_state_read(&s->at, &s->flags, in_state(path, s->path, "trainer.json"), e) ||
         error_prefix(e, "--resume: ");
}

void saved_state_close(SavedState *s) {
  trainer_flags_free(&s->flags);
}

/* ---- checking ---- */

static char *options_text(const Options *o) {
  char *text = NULL;
  size_t size;
  FILE *f = open_memstream(&text, &size);
  CHECK(f, "out of memory for the flags");
  flags_json(f, o, 2);
  CHECK(fclose(f) == 0, "out of memory for the flags");
  return text;
}

static char *automatic_text(const Options *o, const RunShape *shape) {
  char *text = NULL;
  size_t size;
  FILE *f = open_memstream(&text, &size);
  CHECK(f, "out of memory for the flags");
  automatic_json(f, o, shape);
  CHECK(fclose(f) == 0, "out of memory for the flags");
  return text;
}

/* Without these the numbers would not be a continuation. */
static bool must_agree(const char *flag) {
  static const char *const names[] = {"dtype",   "master",  "moments", "seed",
                                      "seq-len", "shuffle", "pack",    "document-token"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(flag, names[i]) == 0) return true;
  return false;
}

/* These say where and how far, not what. */
static bool is_of_no_matter(const char *flag) {
  static const char *const names[] = {"resume", "out",  "stop-after",    "save-every", "keep",
                                      "plan",   "json", "device-memory", "host-memory"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(flag, names[i]) == 0) return true;
  return false;
}

/* One flag, as it is now and as it was. */
static bool check_flag(const SavedState *s, const cJSON *now, const cJSON *was, Error *e) {
  if (!was || is_of_no_matter(now->string) || cJSON_Compare(now, was, true)) return true;
  char *a = cJSON_PrintUnformatted(now), *b = cJSON_PrintUnformatted(was);
  CHECK(a && b, "out of memory for the flags");
  bool ok = !must_agree(now->string);
  if (ok)
    printf("# resumed with another --%s: %s, was %s\n", now->string, a, b);
  else
    error_usage(e,
                "--resume %s: found --%s %s, expected %s, as the run that saved it had.\nGive the flags of "
                "that run; to start anew from its weights, give --model %s without --resume.",
                s->path, now->string, a, b, s->path);
  free(a);
  free(b);
  return ok;
}

static bool check_flags(const SavedState *s, const Options *o, Error *e) {
  char *text = options_text(o);
  cJSON *now = cJSON_Parse(text), *was = cJSON_Parse(s->flags.options);
  CHECK(now && was, "flags that cannot be parsed");
  bool ok = true;
  for (const cJSON *flag = now->child; flag && ok; flag = flag->next)
    ok = check_flag(s, flag, cJSON_GetObjectItemCaseSensitive(was, flag->string), e);
  cJSON_Delete(now);
  cJSON_Delete(was);
  free(text);
  return ok;
}

/* A file that is damaged, or another state's. */
static bool check_file(const SavedState *s, const char *name, uint64_t expected, Error *e) {
  char path[STATE_PATH];
  uint64_t found;
  if (!file_hash(in_state(path, s->path, name), &found, e)) return error_prefix(e, "--resume: ");
  return found == expected ||
         error_usage(
             e,
             "--resume: %s is not the file that was saved: its hash is %016llx, expected %016llx.\nName "
             "another state, --resume OUT/step-..., or bring the file back.",
             path, (unsigned long long)found, (unsigned long long)expected);
}

static bool check_model(const SavedState *s, const Options *o, const Config *c, Error *e) {
  Config saved = {0};
  char difference[256];
  bool ok = hf_config_read(&saved, s->path, e);
  if (ok && config_difference(c, &saved, difference, sizeof difference))
    ok = error_usage(e,
                     "--resume %s: this state is of another model than --model %s: %s.\nGive the --model and "
                     "the rope flags of the run that saved it.",
                     s->path, o->model, difference);
  config_free(&saved);
  return ok;
}

static bool same_bytes(const char *a, const char *b) {
  enum { MOST = 1 << 30 };
  Error ignored;
  size_t n = 0, m = 0;
  char *x = file_read_text(a, MOST, &n, &ignored), *y = file_read_text(b, MOST, &m, &ignored);
  bool same = x && y && n == m && memcmp(x, y, n) == 0;
  free(x);
  free(y);
  return same;
}

static bool check_tokenizer(const SavedState *s, const Options *o, const DataLoader *train, Error *e) {
  uint64_t now = dataloader_tokenizer_hash(train);
  if (now && s->at.tokenizer_hash && now != s->at.tokenizer_hash)
    return error_usage(e,
                       "--resume %s: its data were made by the tokenizer %016llx, those of --train by "
                       "%016llx.\nGive the data of that run.",
                       s->path, (unsigned long long)s->at.tokenizer_hash, (unsigned long long)now);
  static const char *const names[] = {"tokenizer.json", "tokenizer.model"};
  for (size_t i = 0; i < sizeof names / sizeof *names && setup_is_folder(o); i++) {
    char a[STATE_PATH], b[STATE_PATH];
    in_state(a, s->path, names[i]);
    in_state(b, o->model, names[i]);
    if (access(a, F_OK) == 0 && access(b, F_OK) == 0 && !same_bytes(a, b))
      return error_usage(e,
                         "--resume %s: its %s differs from that of --model %s.\nGive the --model of the run "
                         "that saved it.",
                         s->path, names[i], o->model);
  }
  return true;
}

bool saved_state_check_model(const SavedState *s, const Options *o, const Config *c, Error *e) {
  return check_model(s, o, c, e) && check_flags(s, o, e) &&
         check_file(s, "model.safetensors", s->at.weights_hash, e) &&
         check_file(s, "optimizer.safetensors", s->at.optimizer_hash, e);
}

bool saved_state_check_data(const SavedState *s, const Options *o, const DataLoader *train, Error *e) {
  if (!check_tokenizer(s, o, train, e)) return false;
  uint64_t data = dataloader_fingerprint(train);
  if (data != s->at.data_fingerprint)
    return error_usage(
        e,
        "--resume %s: the training data are not those of the run that saved it (fingerprint "
        "%016llx, expected %016llx): its place in them has no meaning here.\nGive the --train of "
        "that run; to train its weights on other data, give --model %s without --resume.",
        s->path, (unsigned long long)data, (unsigned long long)s->at.data_fingerprint, s->path);
  return true;
}

/* ---- loading and saving ---- */

bool saved_state_load_optimizer(const SavedState *s, Model *m, Error *e) {
  char path[STATE_PATH];
  SafeTensors *set = safetensors_open(in_state(path, s->path, "optimizer.safetensors"), e);
  bool ok = set && hf_model_load_optimizer(m, set, e);
  safetensors_close(set);
  return ok || error_prefix(e, "--resume: %s: ", path);
}

/* True when the state is one of those in --out. */
static bool is_in_out(const SavedState *s, const Options *o) {
  char parent[STATE_PATH];
  struct stat a, b;
  return s->path[0] && stat(in_state(parent, s->path, ".."), &a) == 0 && stat(o->out, &b) == 0 &&
         a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* What cannot be removed is in nobody's way. */
static void mend(const Options *o) {
  Error e = {0};
  if (run_folder_mend(o->out, &e)) return;
  fflush(stdout);
  fprintf(stderr, "# WARNING: left over in --out: %s\n", e.text);
}

bool saved_state_prepare_folder(int *lock, const SavedState *s, const Options *o, Error *e) {
  char newest[RUN_PATH];
  int64_t step;
  if (!run_folder_open(lock, o->out, e)) return false;
  bool newest_asked = o->resume && !*o->resume;
  bool goes_on = is_in_out(s, o) || (newest_asked && !run_folder_newest(newest, &step, o->out));
  if (!goes_on && !run_folder_check_new(o->out, e)) return false;
  if (is_in_out(s, o) && run_folder_newest(newest, &step, o->out) && step > s->at.step)
    return error_usage(e,
                       "--resume %s: --out %s holds a newer state, %s, which this run would mix with.\nGive "
                       "another --out, or move the newer states away.",
                       s->path, o->out, newest);
  mend(o);
  return true;
}

/* Nothing where no algorithm was chosen by time. */
static bool write_products(const Device *dev, const char *path, Error *e) {
  char file[STATE_PATH], *text = matmul_tune_text(dev);
  bool ok = !text || file_write_text(in_state(file, path, PRODUCTS_FILE), text, e);
  free(text);
  return ok;
}

bool saved_state_read_products(const SavedState *s, Device *dev, Error *e) {
  enum { MOST = 1 << 20 };
  char file[STATE_PATH];
  size_t size;
  in_state(file, s->path, PRODUCTS_FILE);
  if (access(file, F_OK) != 0) return true;
  char *text = file_read_text(file, MOST, &size, e);
  bool ok = text && (matmul_tune_read(dev, text, e) || error_prefix(e, "%s: ", file));
  free(text);
  return ok;
}

static bool write_files(const char *path, TrainerState *at, Model *m, const Options *o, Error *e) {
  char file[STATE_PATH];
  if (!hf_config_write(m->config, m->schedule->shape.dtype, path, e) ||
      !hf_model_save(m, in_state(file, path, "model.safetensors"), &at->weights_hash, e) ||
      !hf_model_save_optimizer(m, in_state(file, path, "optimizer.safetensors"), &at->optimizer_hash, e) ||
      !write_products(m->dev, path, e))
    return false;
  TrainerFlags flags = {options_text(o), automatic_text(o, &m->schedule->shape)};
  bool ok = trainer_state_write(at, &flags, in_state(file, path, "trainer.json"), e);
  trainer_flags_free(&flags);
  return ok && (!setup_is_folder(o) || run_folder_copy_tokenizer(path, o->model, e));
}

bool saved_state_write(TrainerState *at, Model *m, const Options *o, Error *e) {
  char path[RUN_PATH];
  mend(o);
  if (!run_folder_begin(path, o->out, at->step, e)) return false;
  if (!write_files(path, at, m, o, e) || !run_folder_finish(path, o->out, at->step, e)) {
    Error ignored;
    if (access(path, F_OK) == 0) folder_remove(path, &ignored);
    return false;
  }
  return true;
}
