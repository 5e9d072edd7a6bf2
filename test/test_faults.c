/* Nothing that happens to the program or its disk loses work: kills at random moments, kills and failures at
 * every single write, fsync and rename. Whatever happened, going on ends with the files of an undisturbed
 * run. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <time.h>

#include "io/shards.h"
#include "program.h" /* shell, path_of */

/* A model of two layers that saves after every other step and keeps one state. */
#define STEPS "4"
#define RUN                                                                                                  \
  "--model test/fixtures/llama3.2 --train @/train.bin --seq-len 16 --batch 2 --lr 1e-3 --threads 1 "         \
  "--steps " STEPS " --save-every 2 --keep 1 --resume "

static int setup(void **state) {
  if (program_setup(state) != 0) return -1;
  enum { N = 4000 };
  uint32_t tokens[N], seed = 9;
  for (int i = 0; i < N; i++) {
    seed = seed * 1664525u + 1013904223u;
    tokens[i] = (seed >> 16) % 71;
  }
  Error e;
  if (!shard_write(path_of("train.bin"), 8, tokens, N, 71, 0, &e)) return -1;
  char command[2048];
  program_command(command, sizeof command, "", "train_llama", RUN "--out @/whole");
  return shell(command);
}

/* The weights and moments at the end are those of the undisturbed run, and so are the losses in the log. A
 * disk that failed may have cost the log some lines; a kill may not. */
static void assert_same_end(const char *out, bool whole_log) {
  char command[2048];
  snprintf(command, sizeof command,
           "cd %s && for f in model optimizer; do cmp whole/step-0000000" STEPS "/$f.safetensors"
           " %s/step-0000000" STEPS "/$f.safetensors || exit 1; done;"
           "for d in whole %s; do grep -o '\"step\": [0-9]*, \"loss\": [^,]*' $d/log.jsonl >$d.losses; done;"
           "%s %s.losses && rm -r %s",
           folder, out, out, whole_log ? "cmp whole.losses" : "! grep -vxFf whole.losses", out, out);
  if (shell(command) != 0) fail_msg("%s is not as if undisturbed:\n%s", out, said);
}

/* Runs to the end after whatever has happened to OUT. */
static void go_on_to_the_end(const char *out, const char *after, bool whole_log) {
  char arguments[1024], command[2048];
  snprintf(arguments, sizeof arguments, RUN "--out @/%s", out);
  program_command(command, sizeof command, "", "train_llama", arguments);
  int code = shell(command);
  if (code != 0) fail_msg("after %s, going on ended with exit %d and said:\n%s", after, code, said);
  assert_same_end(out, whole_log);
}

static void sleep_ns(long ns) {
  nanosleep(&(struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000}, NULL);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static long stride(void) {
  const char *text = getenv("FAULT_STRIDE");
  return text ? atol(text) : 1;
}

/* 200 kills. A run that ends before its kill is one that was undisturbed since the last: the next begins. */
static void kills_at_random_moments(void **state) {
  (void)state;
  char command[2048];
  program_command(command, sizeof command, "exec", "train_llama", RUN "--out @/killed >@/killed.said 2>&1");
  double begin = now();
  assert_int_equal(system(command), 0);
  double whole = now() - begin;
  assert_same_end("killed", true);

  long kills = 0, ends = 0, wanted = 200 / stride();
  uint32_t seed = 4;
  while (kills < wanted) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
      execl("/bin/sh", "sh", "-c", command, (char *)NULL);
      _exit(127);
    }
    seed = seed * 1664525u + 1013904223u;
    sleep_ns((long)(whole * 1e9 * (double)(seed >> 8) / (double)(1 << 24)));
    kill(child, SIGKILL);
    int status;
    assert_true(waitpid(child, &status, 0) == child);
    if (WIFSIGNALED(status)) {
      kills++;
      continue;
    }
    if (WEXITSTATUS(status) != 0)
      fail_msg("after %ld kills: exit %d; see %s", kills, WEXITSTATUS(status), command);
    assert_same_end("killed", true);
    ends++;
  }
  go_on_to_the_end("killed", "the last kill", true);
  print_message("%ld kills, %ld runs came to their end between them\n", kills, ends);
}

/* The writes, fsyncs and renames of an undisturbed run. */
static long count_calls(void) {
  char before[512], command[2048];
  snprintf(before, sizeof before, "FAULT_COUNT=%s/count", folder);
  program_command(command, sizeof command, before, "train_llama_faulty", RUN "--out @/counted");
  if (shell(command) != 0) fail_msg("%s", said);
  assert_same_end("counted", true);
  Error e;
  char *text = file_read_text(path_of("count"), 100, NULL, &e);
  long calls = text ? atol(text) : 0;
  free(text);
  assert_true(calls > 100); /* of two states, and four lines of the log */
  return calls;
}

/* Each of them fails once, in one of the ways. What the run does about it is one of: going on to its end
 * (exit 0, or 1 when the last state could not be written), or stopping (1, or a signal). */
static void every_call(const char *kind, const char *policy) {
  long calls = count_calls();
  for (long n = 1; n <= calls; n += stride()) {
    char before[128], arguments[512], command[2048], after[128];
    snprintf(before, sizeof before, "FAULT_AT=%ld FAULT_KIND=%s", n, kind);
    snprintf(arguments, sizeof arguments, RUN "--out @/fault --on-save-error %s", policy);
    program_command(command, sizeof command, before, "train_llama_faulty", arguments);
    int code = shell(command);
    snprintf(after, sizeof after, "%s at call %ld of %ld (%s)", kind, n, calls, policy);
    if (strcmp(kind, "kill") == 0 ? code != 128 + SIGKILL : code != 0 && code != 1)
      fail_msg("%s: exit %d; it said:\n%s", after, code, said);
    if (code == 1) assert_non_null(strstr(said, "train_llama: "));
    go_on_to_the_end("fault", after, strcmp(kind, "kill") == 0);
  }
  print_message("%ld calls\n", calls);
}

static void every_call_fails(void **state) {
  (void)state;
  every_call("fail", "continue");
}
static void every_write_is_cut_short(void **state) {
  (void)state;
  every_call("short", "stop");
}
static void killed_at_every_call(void **state) {
  (void)state;
  every_call("kill", "continue");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(kills_at_random_moments),
      cmocka_unit_test(every_call_fails),
      cmocka_unit_test(every_write_is_cut_short),
      cmocka_unit_test(killed_at_every_call),
  };
  return cmocka_run_group_tests(tests, setup, program_teardown);
}
