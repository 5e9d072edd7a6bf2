/* The configuration file: what its lines mean, what wins, what is refused and where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/config_file.h"
#include "cli/flags.h"
#include "io/file.h"

static char folder[] = "/tmp/train_llama_config_XXXXXX";
static char path[sizeof folder + 16];

static int setup(void **state) {
  (void)state;
  if (!mkdtemp(folder)) return -1;
  snprintf(path, sizeof path, "%s/x.conf", folder);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  remove(path);
  return rmdir(folder);
}

static void write_file(const char *text) {
  Error e;
  if (!file_write_text(path, text, &e)) fail_msg("%s", e.text);
}

/* Parses `--config FILE` with one more flag (NULL = none) on the command line. */
static bool parse(Options *o, char *flag, Error *e) {
  char *argv[] = {"train_llama", "--config", path, flag, NULL};
  *e = (Error){0};
  flags_defaults(o);
  return flags_parse(o, flag ? 4 : 3, argv, e) && config_file_apply(o, e);
}

static void accept(Options *o, const char *text, char *flag) {
  Error e;
  write_file(text);
  if (!parse(o, flag, &e)) fail_msg("\"%s\" was refused: %s", text, e.text);
}

/* The text must be refused, on that line, by a message that contains both parts. */
static void refuse(int line, const char *text, const char *part, const char *other) {
  Options o;
  Error e;
  char place[sizeof path + 16];
  write_file(text);
  if (parse(&o, NULL, &e)) fail_msg("\"%s\" was accepted", text);
  options_free(&o);
  assert_int_equal(e.code, EXIT_USAGE);
  int n = snprintf(place, sizeof place, "%s:%d: ", path, line);
  if (strncmp(e.text, place, (size_t)n) != 0 || !strstr(e.text, part) || !strstr(e.text, other))
    fail_msg("\"%s\": the message lacks \"%s\", \"%s\" or \"%s\": %s", text, place, part, other, e.text);
}

static void forms_of_a_line(void **state) {
  (void)state;
  Options o;
  accept(&o,
         "# a comment\n"
         "\n"
         "   \t\n"
         "seq-len 8Ki\n"
         "batch=3\n"
         "  steps =  100  \n"
         "--warmup 7\n"
         "--lr=1e-3 # the highest\n"
         "seed\t9\t# after a tab\r\n"
         "eval-only\n"
         "--plan   # no value\n"
         "mlp-chunk auto\n"
         "keep-attention all\n"
         "recompute mlp\r\n"
         "   # the end has no newline\n"
         "beta1 0.5",
         NULL);
  assert_int_equal(o.seq_len, 8192);
  assert_int_equal(o.batch, 3);
  assert_int_equal(o.steps, 100);
  assert_int_equal(o.warmup, 7);
  assert_true(o.lr == 1e-3 && o.beta1 == 0.5);
  assert_int_equal(o.seed, 9);
  assert_true(o.eval_only && o.plan && !o.json);
  assert_int_equal(o.mlp_chunk, CHUNK_AUTO);
  assert_int_equal(o.keep_attention, KEEP_ALL);
  assert_int_equal(o.recompute, RECOMPUTE_MLP);
  assert_true(flags_given(&o, "steps") && flags_given(&o, "plan") && !flags_given(&o, "clip"));
  options_free(&o);
}

static void strings(void **state) {
  (void)state;
  static const struct {
    const char *line, *value;
  } cases[] = {
      {"out a b  c", "a b  c"},
      {"out=a b \t", "a b"},
      {"out a=b", "a=b"},
      {"out=a=b", "a=b"},
      {"out = =a", "=a"},
      {"out run#3", "run#3"},
      {"out run #3", "run"},
      {"out \" a # b \"", " a # b "},
      {"out=\"x\" # why", "x"},
      {"out \"=a\"", "=a"},
      {"out a\"b\"", "a\"b\""},
      {"out --lr", "--lr"},
      {"out \"/a/b c\"\r", "/a/b c"},
      {"out '$HOME/*'", "'$HOME/*'"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    Options o;
    accept(&o, cases[i].line, NULL);
    assert_non_null(o.out);
    if (strcmp(o.out, cases[i].value) != 0) fail_msg("%s: found \"%s\"", cases[i].line, o.out);
    options_free(&o);
  }
}

static void the_command_line_wins(void **state) {
  (void)state;
  Options o;
  const char *text = "batch 3\nout a\nsteps 5\n";
  accept(&o, text, "--batch=8");
  assert_int_equal(o.batch, 8);
  assert_int_equal(o.steps, 5);
  assert_string_equal(o.out, "a");
  options_free(&o);
  accept(&o, text, "--out=b");
  assert_string_equal(o.out, "b");
  assert_int_equal(o.batch, 3);
  options_free(&o);

  Error e; /* what is overridden is checked all the same */
  write_file("batch none\n");
  assert_false(parse(&o, "--batch=8", &e));
  assert_non_null(strstr(e.text, "x.conf:1: --batch: found \"none\""));
  options_free(&o);
  write_file("batch 3\nbatch 3\n");
  assert_false(parse(&o, "--batch=8", &e));
  assert_non_null(strstr(e.text, "x.conf:2: --batch was given twice"));
  options_free(&o);
}

/* What does not go together on a command line may when the file says one part: it describes the experiment.
 */
static void a_file_for_several_runs(void **state) {
  (void)state;
  Options o;
  Error e;
  const char *text = "steps 100\nsave-every 10\nout a\n";
  accept(&o, text, "--eval-only");
  assert_true(options_check(&o, &e));
  assert_true(flags_given(&o, "steps") && !flags_typed(&o, "steps") && flags_typed(&o, "eval-only"));
  options_free(&o);
  accept(&o, text, "--dump-grads=g");
  assert_true(options_check(&o, &e));
  options_free(&o);
  accept(&o, "eval-only", "--steps=3"); /* typed for nothing */
  assert_false(options_check(&o, &e));
  assert_non_null(strstr(e.text, "--eval-only"));
  options_free(&o);
  accept(&o, "warmup 9", "--steps=3");
  assert_false(options_check(&o, &e));
  assert_non_null(strstr(e.text, "--warmup: found 9"));
  options_free(&o);
}

/* The JSON of run.json and the printed configuration say what is in force, wherever it was given. */
static void effective_options(void **state) {
  (void)state;
  Options o;
  accept(&o, "batch 3\nsteps 7\nout \"a b\"\n", "--steps=9");
  char *text;
  size_t bytes;
  FILE *f = open_memstream(&text, &bytes);
  flags_json(f, &o, 0);
  flags_print(f, &o);
  fclose(f);
  static const char *const parts[] = {"\"batch\": 3,", "\"steps\": 9,", "\"out\": \"a b\"",
                                      "--batch 3",     "--steps 9 ",    "--out a b"};
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
    if (!strstr(text, parts[i])) fail_msg("%s is missing in: %s", parts[i], text);
  free(text);
  options_free(&o);
}

static void refusals(void **state) {
  (void)state;
  refuse(2, "# x\nlrr 3\n", "lrr: there is no such flag", "did you mean --lr?");
  refuse(1, "-lr 3", "-lr: there is no such flag", "did you mean --lr?");
  refuse(1, "-- lr 3", "--: there is no such flag", "--help");
  refuse(1, "wombat", "wombat: there is no such flag.", "--help");
  refuse(3, "batch 2\n\nlr abc\n", "--lr: found \"abc\"", "a number of at least 0");
  refuse(1, "lr", "--lr: found no value", "a number of at least 0");
  refuse(1, "lr # 3", "--lr: found no value", "");
  refuse(1, "lr=", "--lr: found \"\"", "");
  refuse(1, "out \"\"", "--out: found \"\"", "not empty");
  refuse(1, "plan yes", "--plan: found \"yes\"", "no value");
  refuse(1, "plan=", "--plan: found \"\"", "no value");
  refuse(1, "recompute layre", "found \"layre\"", "did you mean layer?");
  refuse(1, "batch 3 4", "--batch: found \"3 4\"", "a whole number");
  refuse(3, "batch 3\nlr 1\n--batch=4", "--batch was given twice", "as 4; leave one out");
  refuse(2, "plan\nplan", "--plan was given twice", "leave one out");
  refuse(1, "out \"a", "found \"a, expected a closing quote", "Add it");
  refuse(1, "out \"a\" b", "found b after the closing quote", "the end of the line");
  refuse(1, "= 3", "found \"= 3\" where the name of a flag", "name value");
  refuse(1, "config other.conf", "--config: found it in a file", "command line");
  refuse(1, "help", "--help: found it in a file", "command line");
  refuse(1, "version", "--version: found it in a file", "");
  refuse(1, "completion bash", "--completion: found it in a file", "");
  refuse(1, "man", "--man: found it in a file", "");

  /* a line of any length neither overflows nor is lost */
  static char line[60000];
  memset(line, 'x', sizeof line - 1);
  refuse(1, line, "xxx", "");
  memcpy(line, "out \"", 5);
  refuse(1, line, "found \"xxx", "");
}

static void files_that_cannot_be_read(void **state) {
  (void)state;
  Options o;
  Error e;
  remove(path);
  assert_false(parse(&o, NULL, &e));
  assert_int_equal(e.code, EXIT_USAGE);
  assert_non_null(strstr(e.text, "--config /tmp/train_llama_config_"));
  assert_non_null(strstr(e.text, "No such file"));
  options_free(&o);

  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fwrite("lr 1\n\0batch 0\n", 1, 14, f);
  fclose(f);
  assert_false(parse(&o, NULL, &e));
  assert_non_null(strstr(e.text, "found a zero byte"));
  options_free(&o);

  accept(&o, "", NULL); /* an empty file is fine */
  options_free(&o);
  flags_defaults(&o); /* and so is none */
  assert_true(config_file_apply(&o, &e));
  assert_null(o.config_text);
  options_free(&o);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(forms_of_a_line),           cmocka_unit_test(strings),
      cmocka_unit_test(the_command_line_wins),     cmocka_unit_test(effective_options),
      cmocka_unit_test(a_file_for_several_runs),   cmocka_unit_test(refusals),
      cmocka_unit_test(files_that_cannot_be_read),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
