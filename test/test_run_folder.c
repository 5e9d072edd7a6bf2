/* The run folder: which states are there after kills at any point, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/stat.h>

#include "io/run_folder.h"
#include "program.h" /* path_of, exists, write_text */

static char out[512];

static int setup(void **state) {
  strcpy(folder, "/tmp/train_llama_test_XXXXXX");
  if (program_setup(state) != 0) return -1;
  snprintf(out, sizeof out, "%s", folder);
  return 0;
}

/* A folder as a state is: with a file, and with DONE where it is complete. */
static void make_state(const char *name, bool done) {
  char file[128];
  assert_int_equal(mkdir(path_of(name), 0777), 0);
  snprintf(file, sizeof file, "%s/model.safetensors", name);
  write_text(file, name);
  snprintf(file, sizeof file, "%s/DONE", name);
  if (done) write_text(file, "");
}

static int64_t newest(void) {
  char path[RUN_PATH];
  int64_t step = -1;
  return run_folder_newest(path, &step, out) ? step : -1;
}

static void newest_is_the_last_complete_one(void **state) {
  (void)state;
  assert_int_equal(newest(), -1);
  make_state("step-00000002", true);
  make_state("step-00000010", true);
  make_state("step-00000011", false);
  make_state("step-00000012.tmp", true);
  make_state("step-100000000", true); /* nine digits sort after eight */
  make_state("step-200000000x", true);
  make_state("step-", true);
  assert_int_equal(newest(), 100000000);
}

static void a_state_appears_whole(void **state) {
  (void)state;
  Error e;
  char path[RUN_PATH];
  assert_true(run_folder_begin(path, out, 7, &e));
  assert_int_equal(newest(), -1);
  assert_true(run_folder_finish(path, out, 7, &e));
  assert_int_equal(newest(), 7);
  /* one more of the same step takes its place */
  assert_true(run_folder_begin(path, out, 7, &e));
  write_text("step-00000007.tmp/second", "");
  assert_true(run_folder_finish(path, out, 7, &e));
  assert_true(exists("step-00000007/second") && !exists("step-00000007.old"));
}

static void mending_keeps_what_is_complete(void **state) {
  (void)state;
  Error e;
  make_state("step-00000001", true);
  make_state("step-00000002.tmp", true); /* killed before the rename */
  make_state("step-00000003.old", true); /* killed while it was being replaced: nothing is under its name */
  make_state("step-00000004", true);     /* killed after it was replaced */
  make_state("step-00000004.old", true);
  make_state("step-00000005.old", false); /* killed while it was being removed */
  assert_true(run_folder_mend(out, &e));
  assert_true(exists("step-00000001") && exists("step-00000003/DONE") && exists("step-00000004/DONE"));
  assert_false(exists("step-00000002.tmp") || exists("step-00000003.old") || exists("step-00000004.old") ||
               exists("step-00000005.old"));
  assert_int_equal(newest(), 4);
}

static void pruning_keeps_the_newest(void **state) {
  (void)state;
  Error e;
  make_state("step-00000001", true);
  make_state("step-00000002", true);
  make_state("step-00000003", false); /* not ours to count */
  make_state("step-00000004", true);
  assert_true(run_folder_prune(out, 2, &e));
  assert_true(!exists("step-00000001") && exists("step-00000002") && exists("step-00000003") &&
              exists("step-00000004"));
  assert_true(run_folder_prune(out, 5, &e));
  assert_true(exists("step-00000002"));
}

static void two_programs_are_refused(void **state) {
  (void)state;
  Error e;
  char deep[600];
  int first = -1, second = -1;
  snprintf(deep, sizeof deep, "%s/a/b", out);
  assert_true(run_folder_open(&first, deep, &e)); /* makes its parents */
  assert_false(run_folder_open(&second, deep, &e));
  assert_non_null(strstr(e.text, "running"));
  assert_int_equal(e.code, EXIT_USAGE);
  close(second);
  close(first);
  assert_true(run_folder_open(&first, deep, &e));
  close(first);
}

static void another_run_is_refused(void **state) {
  (void)state;
  Error e;
  assert_true(run_folder_check_new(out, &e));
  write_text("notes.txt", "mine");
  assert_true(run_folder_check_new(out, &e));
  write_text("log.jsonl", "");
  assert_false(run_folder_check_new(out, &e));
  assert_non_null(strstr(e.text, "--resume"));
}

/* The bytes of a SentencePiece model have zeros among them. */
static void tokenizer_files_are_copied_whole(void **state) {
  (void)state;
  Error e;
  char path[RUN_PATH];
  const char bytes[] = "a\0b\0\0c";
  FILE *f = fopen(path_of("tokenizer.model"), "wb");
  fwrite(bytes, 1, sizeof bytes, f);
  fclose(f);
  write_text("tokenizer.json", "{}");
  assert_true(run_folder_begin(path, out, 1, &e));
  assert_true(run_folder_copy_tokenizer(path, out, &e));
  size_t n;
  char *copy = file_read_text(path_of("step-00000001.tmp/tokenizer.model"), 100, &n, &e);
  assert_true(copy && n == sizeof bytes && memcmp(copy, bytes, n) == 0);
  free(copy);
  assert_true(exists("step-00000001.tmp/tokenizer.json"));
}

int main(void) {
#define FOLDER_TEST(name) cmocka_unit_test_setup_teardown(name, setup, program_teardown)
  const struct CMUnitTest tests[] = {
      FOLDER_TEST(newest_is_the_last_complete_one),  FOLDER_TEST(a_state_appears_whole),
      FOLDER_TEST(mending_keeps_what_is_complete),   FOLDER_TEST(pruning_keeps_the_newest),
      FOLDER_TEST(two_programs_are_refused),         FOLDER_TEST(another_run_is_refused),
      FOLDER_TEST(tokenizer_files_are_copied_whole),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
