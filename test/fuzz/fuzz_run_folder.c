/* Fuzzes src/io/trainer_state.c, the position of src/io/dataloader.c, and src/io/run_folder.c. The input is
 * a trainer.json, a byte 0xFF, and three bytes for each entry of a run folder. What is accepted must survive
 * being written and read again, and a position that a loader takes must be one that it can read from;
 * whatever lies in the folder, the newest complete state must stay. */
#include "fuzz/fuzz.h"

#include <dirent.h>
#include <sys/stat.h>

#include "io/run_folder.h"
#include "io/trainer_state.h"

static void check_written_again(const FuzzFolder *f, const TrainerState *s, const TrainerFlags *flags) {
  char path[FUZZ_PATH];
  TrainerFlags flags_again = {0};
  Error e = {0};
  TrainerState again = {0};
  fuzz_path(path, f, "again.json");
  CHECK(trainer_state_write(s, flags, path, &e), "cannot be written: %s", e.text);
  CHECK(trainer_state_read(&again, &flags_again, path, &e), "cannot be read again: %s", e.text);
  CHECK(memcmp(s, &again, sizeof again) == 0, "another state was written");
  CHECK(strcmp(flags->options, flags_again.options) == 0, "other options were written: %s",
        flags_again.options);
  CHECK(strcmp(flags->automatic, flags_again.automatic) == 0, "other choices were written: %s",
        flags_again.automatic);
  trainer_flags_free(&flags_again);
  unlink(path);
}

static void check_position(const DataPosition *p) {
  enum { B = 2, T = 3, BYTES = 40 };
  static const uint8_t bytes[BYTES] = "the state of a run, forty bytes of text";
  int32_t arrays[4][B * T];
  StepBatch s = {.A = 1, .B = B, .T = T};
  s.tokens = arrays[0], s.targets = arrays[1], s.positions = arrays[2], s.starts = arrays[3];
  DataOptions o = {.B = B, .T = T, .V = 128, .shuffle = true};
  Error e = {0};
  DataLoader *d = dataloader_from_bytes("text", bytes, BYTES, &o, &e);
  CHECK(d, "%s", e.text);
  if (dataloader_seek(d, p, &e)) {
    CHECK(dataloader_next(d, &s, &e), "a position that was taken: %s", e.text);
    DataPosition next = dataloader_position(d);
    CHECK(next.samples == p->samples + B, "%lld samples", (long long)next.samples);
  } else {
    fuzz_check_refusal(&e);
  }
  dataloader_close(d);
}

static void check_trainer_state(const FuzzFolder *f, FuzzPart file) {
  char path[FUZZ_PATH];
  TrainerFlags flags = {0};
  TrainerState s;
  memset(&s, 0, sizeof s);
  Error e = {0};
  fuzz_write(f, "trainer.json", &file, 1);
  fuzz_path(path, f, "trainer.json");
  if (trainer_state_read(&s, &flags, path, &e)) {
    check_position(&s.position);
    check_written_again(f, &s, &flags);
    trainer_flags_free(&flags);
  } else {
    fuzz_check_refusal(&e);
    CHECK(!flags.options && !flags.automatic, "a refused state keeps memory");
  }
  unlink(path);
}

/* An entry of the run folder by three bytes: what it is, its step, the end of its name. */
static void make_entry(const FuzzFolder *f, const uint8_t bytes[3]) {
  enum { FOLDER = 1, COMPLETE = 2, SPELLED_OTHERWISE = 4 };
  static const char *const ends[] = {"", ".tmp", ".old", ".bak"};
  int64_t step = bytes[1] < 250 ? bytes[1] % 10 : INT64_MAX;
  char name[40], path[FUZZ_PATH + 8];
  snprintf(name, sizeof name, bytes[0] & SPELLED_OTHERWISE ? "step-%lld%s" : "step-%08lld%s", (long long)step,
           ends[bytes[2] % 4]);
  fuzz_path(path, f, name);
  if (bytes[0] & FOLDER) {
    if (mkdir(path, 0777) != 0 || !(bytes[0] & COMPLETE)) return;
    strcat(path, "/DONE");
  }
  int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (fd >= 0) close(fd);
}

static int count_states(const FuzzFolder *f) {
  int n = 0;
  DIR *d = opendir(f->path);
  CHECK(d, "no folder %s", f->path);
  for (struct dirent *entry; (entry = readdir(d));) {
    char path[FUZZ_PATH + 256];
    snprintf(path, sizeof path, "%s/%s", f->path, entry->d_name);
    size_t end = strspn(entry->d_name, "step-0123456789");
    n += end >= strlen("step-00000000") && !entry->d_name[end] && run_folder_is_complete(path);
  }
  closedir(d);
  return n;
}

static void check_folder(const FuzzFolder *f) {
  char before[RUN_PATH], after[RUN_PATH];
  int64_t step, step_after;
  Error e = {0};
  bool found = run_folder_newest(before, &step, f->path);
  CHECK(run_folder_mend(f->path, &e), "%s", e.text);
  bool found_after = run_folder_newest(after, &step_after, f->path);
  CHECK(!found || (found_after && step_after >= step), "the newest state is gone: %s", before);
  CHECK(run_folder_prune(f->path, 1, &e), "%s", e.text);
  if (!found_after) return;
  CHECK(run_folder_newest(before, &step, f->path) && step == step_after, "the newest was pruned: %s", after);
  CHECK(count_states(f) == 1, "%d states are left of one", count_states(f));
}

/* Removes what is in the folder. */
static void empty_folder(const FuzzFolder *f) {
  DIR *d = opendir(f->path);
  CHECK(d, "no folder %s", f->path);
  for (struct dirent *entry; (entry = readdir(d));) {
    char path[FUZZ_PATH + 256], done[FUZZ_PATH + 264];
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    snprintf(path, sizeof path, "%s/%s", f->path, entry->d_name);
    snprintf(done, sizeof done, "%s/DONE", path);
    unlink(done);
    if (unlink(path) != 0) rmdir(path);
  }
  closedir(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  FuzzFolder f = fuzz_folder_new();
  check_trainer_state(&f, fuzz_cut(&data, &size));
  for (; size >= 3; data += 3, size -= 3) make_entry(&f, data);
  check_folder(&f);
  empty_folder(&f);
  fuzz_folder_remove(&f, NULL, 0);
  return 0;
}
