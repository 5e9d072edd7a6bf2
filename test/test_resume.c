/* Runs that are stopped, killed, and gone on with: the program as a user runs it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <cjson/cJSON.h>
#include <math.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>

#include "io/safetensors.h"
#include "io/shards.h"
#include "program.h" /* expect, path_of, exists, write_text */

/* A model of two layers from its folder, and shards of its vocabulary of 71. */
#define TINY_OF_ANY_RATE                                                                                     \
  "--model test/fixtures/llama3.2 --train @/train.bin --seq-len 16 --batch 2 --threads 1 "
#define TINY TINY_OF_ANY_RATE "--lr 1e-3 "

static void write_shard(const char *name, uint32_t seed, int64_t n, uint64_t tokenizer_hash) {
  Error e;
  uint32_t *tokens = malloc((size_t)n * sizeof *tokens);
  for (int64_t i = 0; i < n; i++) {
    seed = seed * 1664525u + 1013904223u;
    tokens[i] = (seed >> 16) % 71 | ((seed >> 8) % 7 == 0 ? TOKEN_DOCUMENT : 0);
  }
  if (!shard_write(path_of(name), 8, tokens, n, 71, tokenizer_hash, &e)) fail_msg("%s", e.text);
  free(tokens);
}

static int setup(void **state) {
  strcpy(folder, "/tmp/train_llama_test_XXXXXX");
  if (program_setup(state) != 0) return -1;
  write_shard("train.bin", 1, 5000, 77);
  return 0;
}

/* The numbers under `key` in a log, one a line that has it. Returns how many. A last line without its end is
 * being written by a run that goes on. */
static int log_numbers(const char *name, const char *key, double *values, int most) {
  FILE *f = fopen(path_of(name), "r");
  assert_non_null(f);
  char line[2048];
  int n = 0;
  while (fgets(line, sizeof line, f) && strchr(line, '\n')) {
    cJSON *json = cJSON_Parse(line);
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(json, key);
    assert_non_null(json);
    if (cJSON_IsNumber(value) && n < most) values[n++] = value->valuedouble;
    cJSON_Delete(json);
  }
  fclose(f);
  return n;
}

static void assert_same_file(const char *a, const char *b) {
  size_t n, m;
  Error e;
  char *x = file_read_text(path_of(a), 1 << 30, &n, &e), *y = file_read_text(path_of(b), 1 << 30, &m, &e);
  if (!x || !y || n != m || memcmp(x, y, n) != 0) fail_msg("%s and %s differ", a, b);
  free(x);
  free(y);
}

static void assert_same_run(const char *a, const char *b, int64_t step) {
  static const char *const files[] = {"model.safetensors", "optimizer.safetensors"};
  char x[256], y[256];
  for (int i = 0; i < 2; i++) {
    snprintf(x, sizeof x, "%s/step-%08lld/%s", a, (long long)step, files[i]);
    snprintf(y, sizeof y, "%s/step-%08lld/%s", b, (long long)step, files[i]);
    assert_same_file(x, y);
  }
  static const char *const keys[] = {"step", "loss", "grad_norm", "lr", "tokens", "loss_z"};
  snprintf(x, sizeof x, "%s/log.jsonl", a);
  snprintf(y, sizeof y, "%s/log.jsonl", b);
  for (int k = 0; k < 6; k++) {
    double p[64], q[64];
    int n = log_numbers(x, keys[k], p, 64), m = log_numbers(y, keys[k], q, 64);
    assert_int_equal(n, m);
    for (int i = 0; i < n; i++) assert_true(p[i] == q[i]);
  }
}

/* Weights, moments and losses of a run that was stopped twice are those of one that was not, byte for byte.
 */
static void a_stopped_run_is_the_same(void **state) {
  (void)state;
  static const char *const flags[] = {
      "--grad-accum 3 --deterministic --tune-matmul 4",
      "--pack --grad-accum 2",
      "--dtype bf16 --moments bf16 --weight-decay 0.2",
      "--dtype bf16 --master fp32 --schedule wsd --warmup 3",
      "--moments 8bit",
      "--dtype bf16 --moments 8bit --update layer --clip 0",
  };
  for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
    char a[256], arguments[1024];
    snprintf(a, sizeof a, TINY "%s --steps 20", flags[i]);
    snprintf(arguments, sizeof arguments, "%s --out @/whole%zu", a, i);
    expect(0, "saved", arguments);
    snprintf(arguments, sizeof arguments, "%s --out @/parts%zu --stop-after 3", a, i);
    expect(0, "saved", arguments);
    snprintf(arguments, sizeof arguments, "%s --out @/parts%zu --stop-after 17 --resume", a, i);
    expect(0, "resumed after step 3", arguments);
    snprintf(arguments, sizeof arguments, "%s --out @/parts%zu --resume", a, i);
    expect(0, "resumed after step 17", arguments);
    char whole[32], parts[32];
    snprintf(whole, sizeof whole, "whole%zu", i);
    snprintf(parts, sizeof parts, "parts%zu", i);
    assert_same_run(whole, parts, 20);
    expect(0, "nothing is left to do", arguments);
  }
}

/* What is held on the host is no other run: it goes on from a state, and saves the same. */
static void a_resumed_run_may_offload(void **state) {
  (void)state;
#define FORMAT TINY "--dtype bf16 --master fp32 --moments 8bit --grad-accum 2 --steps 6 --keep-attention 1 "
  expect(0, "saved", FORMAT "--out @/resident");
  expect(0, "saved", FORMAT "--out @/hosted --stop-after 2");
  expect(0, "resumed with another --offload",
         FORMAT "--out @/hosted --stop-after 4 --resume --offload "
                "checkpoints,attention,optimizer,gradients,weights");
  expect(0, "resumed after step 4", FORMAT "--out @/hosted --resume");
  assert_same_run("resident", "hosted", 6);
  expect(0, "saved", FORMAT "--out @/all --offload optimizer,gradients");
  assert_same_run("resident", "all", 6);
  expect(0, "saved", TINY "--steps 4 --update layer --clip 0 --out @/layers");
  expect(0, "saved", TINY "--steps 4 --update layer --clip 0 --out @/weights --offload weights,optimizer");
  assert_same_run("layers", "weights", 4);
}

static void resume_without_a_state_starts(void **state) {
  (void)state;
  expect(0, "starts at step 1", TINY "--steps 2 --out @/run --resume");
  /* a run that was killed before it saved anything */
  assert_int_equal(mkdir(path_of("early"), 0777), 0);
  write_text("early/log.jsonl", "{\"step\": 0, \"val_loss\": 9}\n");
  expect(0, "starts at step 1", TINY "--steps 2 --out @/early --resume");
  double steps[8];
  assert_int_equal(log_numbers("early/log.jsonl", "step", steps, 8), 2);
}

/* A run of something else is refused with the difference, and is left as it is. */
static void another_run_is_refused(void **state) {
  (void)state;
  expect(0, "saved", TINY "--steps 4 --save-every 2 --out @/run");
  write_shard("other.bin", 2, 5000, 77);
  write_shard("tokenizer.bin", 1, 5000, 78);
  static const char resume[] = "--seq-len 16 --batch 2 --steps 9 --out @/run --resume ";
  static const struct {
    const char *flags, *message;
  } cases[] = {
      {"--model test/fixtures/qwen3 --train @/train.bin", "model_type is qwen3 and llama"},
      {"--model test/fixtures/llama3.1 --train @/train.bin", "another model"},
      {"--model test/fixtures/llama3.2 --rope-theta 777 --train @/train.bin", "rope_theta is 777 and"},
      {"--model test/fixtures/llama3.2 --train @/train.bin --seed 43", "--seed 43, expected 42"},
      {"--model test/fixtures/llama3.2 --train @/train.bin --dtype bf16",
       "--dtype \"bf16\", expected \"fp32\""},
      {"--model test/fixtures/llama3.2 --train @/train.bin --pack", "--pack true, expected false"},
      {"--model test/fixtures/llama3.2 --train @/other.bin", "training data"},
      {"--model test/fixtures/llama3.2 --train @/tokenizer.bin", "tokenizer"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char arguments[512];
    snprintf(arguments, sizeof arguments, "%s%s", resume, cases[i].flags);
    expect(2, cases[i].message, arguments);
  }
  expect(2, "--seq-len 8, expected 16",
         "--model test/fixtures/llama3.2 --train @/train.bin --seq-len 8 --out @/run --resume");
  expect(2, "DONE", TINY "--out @/run --resume @/none");
  expect(2, "--resume", TINY "--resume");
  expect(2, "newer state", TINY "--steps 9 --out @/run --resume @/run/step-00000002");
}

/* A state of another folder goes on in a new one; other flags may change, and are named. */
static void a_named_state_goes_on_elsewhere(void **state) {
  (void)state;
  expect(0, "saved", TINY "--steps 6 --save-every 2 --keep 2 --out @/run");
  assert_true(!exists("run/step-00000002") && exists("run/step-00000004") && exists("run/step-00000006"));
  expect(0, "another --grad-accum: 2, was 1",
         TINY "--steps 6 --grad-accum 2 --out @/new --resume @/run/step-00000004");
  assert_true(exists("new/step-00000006/DONE") && !exists("new/step-00000004"));
}

static void a_named_state_spares_other_runs(void **state) {
  (void)state;
  expect(0, "saved", TINY "--steps 2 --out @/run");
  assert_int_equal(mkdir(path_of("other"), 0777), 0);
  write_text("other/log.jsonl", "of a run that has no state yet");
  expect(EXIT_USAGE, "log.jsonl of another run", TINY "--steps 4 --out @/other --resume @/run/step-00000002");
}

/* Changes one byte of a state's file. */
static void damage(const char *name, long at) {
  FILE *f = fopen(path_of(name), "r+b");
  assert_non_null(f);
  assert_int_equal(fseek(f, at, SEEK_END), 0);
  int byte = fgetc(f);
  assert_int_equal(fseek(f, at, SEEK_END), 0);
  assert_int_equal(fputc(byte ^ 1, f), byte ^ 1);
  assert_int_equal(fclose(f), 0);
}

static void a_damaged_state_is_refused(void **state) {
  (void)state;
  expect(0, "saved", TINY "--steps 4 --stop-after 2 --out @/run");
  static const char *const names[] = {"run/step-00000002/model.safetensors",
                                      "run/step-00000002/optimizer.safetensors"};
  for (int i = 0; i < 2; i++) {
    damage(names[i], -3);
    expect(EXIT_USAGE, "is not the file that was saved", TINY "--steps 4 --out @/run --resume");
    damage(names[i], -3);
  }
  expect(0, "saved", TINY "--steps 4 --out @/run --resume");
}

/* Weights that are no good show in the step after they were saved: the state before them is still there. */
static void a_good_state_outlives_a_bad_one(void **state) {
  (void)state;
  expect(0, "saved", TINY "--steps 9 --stop-after 2 --keep 1 --out @/run");
  expect(1, ": the loss is",
         TINY_OF_ANY_RATE
         "--lr 1e3 --weight-decay 1e3 --steps 99 --save-every 1 --keep 1 --out @/run --resume");
  const char *at = strstr(said, "train_llama: step ");
  assert_non_null(at);
  int failed = atoi(at + strlen("train_llama: step "));
  for (int step = failed - 2; step < failed; step++) {
    char name[64];
    snprintf(name, sizeof name, "run/step-%08d/DONE", step);
    if (!exists(name)) fail_msg("%s is gone; step %d failed", name, failed);
  }
  expect(0, "saved", TINY "--steps 9 --save-every 1 --keep 1 --out @/good");
  assert_true(exists("good/step-00000009/DONE") && !exists("good/step-00000008"));
}

/* ---- signals ---- */

/* Runs in the background; returns its process. */
static pid_t start(const char *arguments) {
  char command[4096];
  program_command(command, sizeof command, "exec", "train_llama", arguments);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    char silent[4200];
    snprintf(silent, sizeof silent, "%s >%s/said 2>&1", command, folder);
    execl("/bin/sh", "sh", "-c", silent, (char *)NULL);
    _exit(127);
  }
  return child;
}

static void nap(void) {
  nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
}

static int finish(pid_t child) {
  int status;
  assert_true(waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Waits until the log has that many lines. */
static void wait_for_lines(pid_t child, const char *log, int lines) {
  for (;;) {
    FILE *f = fopen(path_of(log), "r");
    int n = 0, c;
    while (f && (c = fgetc(f)) != EOF) n += c == '\n';
    if (f) fclose(f);
    if (n >= lines) return;
    int status;
    if (waitpid(child, &status, WNOHANG) != 0)
      fail_msg("the program ended before %s had %d lines", log, lines);
    nap();
  }
}

static void a_signal_saves_and_ends(void **state) {
  (void)state;
  static const int numbers[] = {SIGTERM, SIGINT};
  for (int i = 0; i < 2; i++) {
    char arguments[512], log[64];
    snprintf(arguments, sizeof arguments, TINY "--steps 100000 --out @/run%d", i);
    snprintf(log, sizeof log, "run%d/log.jsonl", i);
    pid_t child = start(arguments);
    wait_for_lines(child, log, 3);
    kill(child, numbers[i]);
    assert_int_equal(finish(child), 0);
    double steps[1];
    assert_int_equal(log_numbers(log, "step", steps, 1), 1);
    strcat(arguments, " --resume --stop-after 100000 --plan");
    expect(0, "", arguments);
    snprintf(arguments, sizeof arguments, "%s/run%d/step-*/DONE", folder, i);
    char command[600];
    snprintf(command, sizeof command, "ls %s", arguments);
    assert_int_equal(shell(command), 0); /* one state, complete */
  }
}

static void usr1_saves_and_goes_on(void **state) {
  (void)state;
  pid_t child = start(TINY "--steps 100000 --out @/run");
  wait_for_lines(child, "run/log.jsonl", 2);
  kill(child, SIGUSR1);
  char command[600];
  snprintf(command, sizeof command, "ls %s/run/step-*/DONE", folder);
  while (shell(command) != 0) nap();
  double steps[1 << 12];
  int before = log_numbers("run/log.jsonl", "step", steps, 1 << 12);
  wait_for_lines(child, "run/log.jsonl", before + 3);
  kill(child, SIGKILL);
  assert_int_equal(finish(child), 128 + SIGKILL);
}

/* What SLURM does to the example script, and what it then does to the program; SLURM may signal that as well.
 */
static void a_preempted_job_goes_on(void **state) {
  (void)state;
  char command[2048], build[512], line[4096];
  program_command(build, sizeof build, "", "train_llama", "");
  program_command(command, sizeof command, "", "train_llama", TINY "--steps 100000 --out @/run");
  const char *arguments = strstr(command, "--model");
  snprintf(line, sizeof line,
           "TRAIN_LLAMA=%s scripts/slurm_preempt.sh %s >%s/said 2>&1 & job=$!;"
           "while [ \"$(cat %s/run/log.jsonl 2>/dev/null | wc -l)\" -lt 3 ]; do sleep 0.05; done;"
           "pkill -TERM -P $job -f save-every; kill -TERM $job; wait $job",
           build + strspn(build, " "), arguments, folder, folder);
  assert_int_equal(shell(line), 0);
  snprintf(line, sizeof line, "ls %s/run/step-*/DONE", folder);
  assert_int_equal(shell(line), 0);
  /* the same job once more */
  snprintf(line, sizeof line, "TRAIN_LLAMA=%s timeout 20 scripts/slurm_preempt.sh %s --stop-after 1",
           build + strspn(build, " "), arguments);
  assert_int_equal(shell(line), 0);
  assert_non_null(strstr(said, "# resumed after step"));
}

/* Steps of seconds: the second signal does not wait for the first one's end of the step. */
static void a_second_signal_ends_at_once(void **state) {
  (void)state;
  pid_t child = start("--steps 50 --seq-len 512 --batch 64 --eval-batches 1 --threads 1 --out @/run");
  wait_for_lines(child, "run/log.jsonl", 1);
  for (int i = 0; i < 20; i++) nap(); /* into the first step */
  kill(child, SIGINT);
  for (int i = 0; i < 20; i++) nap();
  kill(child, SIGINT);
  assert_int_equal(finish(child), 128 + SIGINT);
}

/* ---- numbers and disks that fail ---- */

/* The fixture's model with one weight of layer 1 that is not finite. */
static void write_bad_model(void) {
  char command[1024];
  snprintf(command, sizeof command, "mkdir %s/bad && cp test/fixtures/llama3.2/*.json %s/bad", folder,
           folder);
  assert_int_equal(shell(command), 0);
  Error e;
  SafeTensors *set = safetensors_open("test/fixtures/llama3.2", &e);
  SafeTensorsWriter *w = safetensors_writer_new(path_of("bad/model.safetensors"));
  for (int64_t i = 0; i < safetensors_count(set); i++) {
    const SafeTensor *t = safetensors_at(set, i);
    safetensors_writer_declare(w, t->name, t->dtype, t->dims, t->shape);
  }
  assert_true(safetensors_writer_begin(w, &e));
  for (int64_t i = 0; i < safetensors_count(set); i++) {
    const SafeTensor *t = safetensors_at(set, i);
    char *copy = malloc(t->bytes);
    memcpy(copy, t->data, t->bytes);
    if (strcmp(t->name, "model.layers.1.mlp.up_proj.weight") == 0)
      memset(copy + t->bytes / 2, 0xff, dtype_size(t->dtype)); /* a NaN in every format */
    assert_true(safetensors_writer_write(w, copy, t->bytes, &e));
    free(copy);
  }
  assert_true(safetensors_writer_close(w, true, &e));
  safetensors_close(set);
}

static void bad_numbers_stop_the_run(void **state) {
  (void)state;
  write_bad_model();
#define BAD "--model @/bad --train @/train.bin --seq-len 16 --batch 2 --steps 9 --threads 1 "
  expect(1, "the weight model.layers.1.mlp.up_proj.weight", BAD "--out @/run");
  assert_false(exists("run/step-00000001") || exists("run/step-00000009"));
  expect(1, "step 3: the loss", BAD "--skip-bad-steps 2 --save-every 1 --out @/skip");
  assert_non_null(strstr(said, "2 in a row of 2"));
  assert_true(exists("skip/step-00000002/DONE") && !exists("skip/step-00000003"));
  double steps[8];
  assert_int_equal(log_numbers("skip/log.jsonl", "step", steps, 8), 2);
}

/* A limit on the size of files stands for a disk that is full: the weights fit, the moments do not. */
#define FULL_DISK "trap '' XFSZ; ulimit -f 100;"

static void a_full_disk_loses_nothing(void **state) {
  (void)state;
  expect(0, "saved", TINY "--steps 6 --stop-after 2 --out @/run");
  /* goes on, and says at the end that the last state is not there */
  expect_of(FULL_DISK, 1, "the run goes on", TINY "--steps 6 --save-every 2 --out @/run --resume");
  assert_non_null(strstr(said, "after step 4 could not be saved"));
  assert_non_null(strstr(said, "train_llama: the state after step 6 could not be saved"));
  assert_true(exists("run/step-00000002/DONE"));
  assert_false(exists("run/step-00000004") || exists("run/step-00000004.tmp") ||
               exists("run/step-00000006.tmp"));
  /* stops at once */
  expect_of(FULL_DISK, 1, "after step 4 could not be saved",
            TINY "--steps 6 --save-every 2 --out @/run --resume --on-save-error stop");
  assert_null(strstr(said, "step     5/6"));
  /* with room on the disk, all is as if nothing had happened */
  expect(0, "saved", TINY "--steps 6 --out @/run --resume");
  expect(0, "saved", TINY "--steps 6 --out @/whole");
  assert_same_run("whole", "run", 6);
}

/* One token beyond the vocabulary, far beyond what the first steps read (the file is sparse). */
static void bad_data_is_found_at_the_start(void **state) {
  (void)state;
  const int64_t n = ((int64_t)1 << 28) + 1;
  const int32_t header[3] = {20240520, 1, (int32_t)n};
  const uint16_t bad = 71;
  FILE *f = fopen(path_of("sparse.bin"), "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(header, sizeof header, 1, f), 1);
  assert_int_equal(fseek(f, 1024 + 2 * (n - 5000), SEEK_SET), 0);
  assert_int_equal(fwrite(&bad, sizeof bad, 1, f), 1);
  assert_int_equal(fflush(f), 0);
  assert_int_equal(ftruncate(fileno(f), 1024 + 2 * n), 0);
  assert_int_equal(fclose(f), 0);
  expect(EXIT_USAGE, "sparse.bin: token 268430457 ",
         "--model test/fixtures/llama3.2 --train @/sparse.bin --shuffle no --seq-len 16 --batch 2 --steps 5 "
         "--out @/late");
  assert_false(exists("late"));
}

/* Data that change under the run end it, and the steps before are kept. Returns the last of them. */
static int change_under_the_run(const char *data, const char *arguments) {
  pid_t child = start(arguments);
  wait_for_lines(child, "run/log.jsonl", 3);
  FILE *f = fopen(path_of(data), "ab");
  assert_non_null(f);
  assert_int_equal(fwrite("more", 4, 1, f), 1);
  assert_int_equal(fclose(f), 0);
  assert_int_equal(finish(child), EXIT_RUNTIME);
  static double steps[100000];
  int n = log_numbers("run/log.jsonl", "step", steps, 100000);
  assert_true(n > 0);
  char done[64];
  snprintf(done, sizeof done, "run/step-%08d/DONE", (int)steps[n - 1]);
  if (!exists(done)) fail_msg("%s is not there", done);
  return (int)steps[n - 1];
}

static void training_data_change(void **state) {
  (void)state;
  change_under_the_run("train.bin", TINY "--steps 100000 --out @/run");
}

/* These are met at the next evaluation. */
static void validation_data_change(void **state) {
  (void)state;
  write_shard("val.bin", 2, 500, 77);
  int last =
      change_under_the_run("val.bin", TINY "--val @/val.bin --steps 100000 --eval-every 20 --out @/run");
  assert_int_equal(last % 20, 0);
}

int main(void) {
#define RESUME_TEST(name) cmocka_unit_test_setup_teardown(name, setup, program_teardown)
  const struct CMUnitTest tests[] = {
      RESUME_TEST(a_stopped_run_is_the_same),       RESUME_TEST(a_resumed_run_may_offload),
      RESUME_TEST(resume_without_a_state_starts),   RESUME_TEST(another_run_is_refused),
      RESUME_TEST(a_named_state_goes_on_elsewhere), RESUME_TEST(a_named_state_spares_other_runs),
      RESUME_TEST(a_damaged_state_is_refused),      RESUME_TEST(a_good_state_outlives_a_bad_one),
      RESUME_TEST(a_preempted_job_goes_on),         RESUME_TEST(a_signal_saves_and_ends),
      RESUME_TEST(usr1_saves_and_goes_on),          RESUME_TEST(a_second_signal_ends_at_once),
      RESUME_TEST(bad_numbers_stop_the_run),        RESUME_TEST(a_full_disk_loses_nothing),
      RESUME_TEST(bad_data_is_found_at_the_start),  RESUME_TEST(training_data_change),
      RESUME_TEST(validation_data_change),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
