/* The scripts that look at runs, on small logs: pictures, reports, exports, and what they refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "io/file.h"

static char folder[] = "/tmp/train_llama_scripts_XXXXXX";
static char said[1 << 16];

/* `text` with the test's folder for every @. */
static char *in_folder(char *out, size_t size, const char *text) {
  size_t at = 0;
  for (const char *c = text; *c && at < size - sizeof folder - 1; c++) {
    if (*c == '@')
      at += (size_t)snprintf(out + at, size - at, "%s", folder);
    else
      out[at++] = *c;
  }
  out[at] = 0;
  return out;
}

/* Runs a command of the shell; expects its exit code and a part of what it says on both streams. */
static void expect(int code, const char *message, const char *arguments) {
  char command[4096];
  in_folder(command, sizeof command - 8, arguments);
  strcat(command, " 2>&1");
  FILE *f = popen(command, "r");
  assert_non_null(f);
  said[fread(said, 1, sizeof said - 1, f)] = 0;
  while (fgetc(f) != EOF) {}
  int status = pclose(f), found = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  if (found != code || !strstr(said, message))
    fail_msg("%s\nexit %d, expected %d and \"%s\"; it said:\n%s", arguments, found, code, message, said);
}

static char *path_of(const char *name) {
  static char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static void make_folder(const char *name) {
  assert_int_equal(mkdir(path_of(name), 0777), 0);
}

static void write_text(const char *name, const char *text) {
  Error e;
  if (!file_write_text(path_of(name), text, &e)) fail_msg("%s", e.text);
}

static char *read_text(const char *name) {
  Error e;
  char *text = file_read_text(path_of(name), 1 << 24, NULL, &e);
  if (!text) fail_msg("%s", e.text);
  return text;
}

/* Which of the words are in a file; those after a NULL must not be. The list ends with a second NULL. */
static void expect_words(const char *name, const char *const *words) {
  char *text = read_text(name);
  bool wanted = true;
  for (; *words || wanted; words++) {
    if (!*words)
      wanted = false;
    else if ((strstr(text, *words) != NULL) != wanted)
      fail_msg("%s: \"%s\" is %sthere", name, *words, wanted ? "not " : "");
  }
  free(text);
}

#define EXPECT_WORDS(name, ...) expect_words(name, (const char *const[]){__VA_ARGS__, NULL})
#define NOT                     NULL /* what follows must not be in the file */

static void expect_well_formed(const char *name) {
  char command[256];
  snprintf(command, sizeof command,
           "python3 -c 'import sys, xml.dom.minidom as m; m.parse(sys.argv[1])' @/%s", name);
  expect(0, "", command);
}

/* The whole suite needs python3; what draws needs gnuplot too. */
static bool has(const char *tool) {
  char command[64];
  snprintf(command, sizeof command, "command -v %s >/dev/null 2>&1", tool);
  if (system(command) == 0) return true;
  printf("SKIPPED: there is no %s on this machine, which the scripts need.\n", tool);
  return false;
}

#define NEEDS(tool)                                                                                          \
  if (!has(tool)) skip()

#define STEP(step, loss, rest)                                                                               \
  "{\"step\": " step ", \"loss\": " loss ", \"lr\": 0.001, \"grad_norm\": 1.5, \"tokens\": " step            \
  "000, \"step_ms\": 500.0, \"tokens_per_s\": 2000.0, \"mfu\": 0.25, \"device_bytes\": 3000000, "            \
  "\"host_bytes\": 4000000" rest "}\n"
#define EVALUATION      "{\"step\": 0, \"val_loss\": 5.5, \"val_ppl\": 244.69}\n"
#define VALIDATED(loss) ", \"val_loss\": " loss ", \"val_ppl\": 7.7"

/* Runs of every kind. */
static int setup(void **state) {
  (void)state;
  if (!mkdtemp(folder)) return -1;
  static const char *const folders[] = {"run",
                                        "a",
                                        "b",
                                        "a/same",
                                        "b/same",
                                        "one",
                                        "empty",
                                        "bad",
                                        "resumed",
                                        "marked",
                                        "plain",
                                        "run/step-00000003",
                                        "run/step-00000009"};
  for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) make_folder(folders[i]);
  write_text("run/log.jsonl", EVALUATION STEP("1", "5.25", ", \"loss_z\": null") STEP("2", "4.125", "")
                                  STEP("3", "3.0625", VALIDATED("2.03125")) "{\"step\": 4, \"lo");
  write_text("run/run.json",
             "{\"version\": \"0.9.9\", \"command\": [\"./train_llama\", \"--model\", \"<script>x & y\", "
             "\"--steps=8\"], \"host\": \"tower\", \"device\": \"Some CPU\", \"model\": {\"family\": "
             "\"llama\", \"parameters\": 820352, \"L\": 4}, \"options\": {\"model\": \"<script>x & y\", "
             "\"steps\": 8, \"seq-len\": 250, \"batch\": 2, \"grad-accum\": 2, \"train\": null}}");
  write_text("run/step-00000003/DONE", "");
  write_text("run/step-00000003/model.safetensors", "0123456789");
  write_text("run/step-00000009/model.safetensors", "");
  write_text("a/same/log.jsonl", STEP("1", "2.0", "") STEP("2", "1.0", ""));
  write_text("b/same/log.jsonl", STEP("1", "3.0", "") STEP("2", "2.0", VALIDATED("1.75")));
  write_text("one/log.jsonl", STEP("1", "5.5", ""));
  write_text("empty/log.jsonl", "");
  write_text("nothing.jsonl", "{\"step\": 1, \"loss\": null}\n");
  write_text("bad/log.jsonl", STEP("1", "2.0", "") "no JSON\n" STEP("2", "1.0", ""));
  /* a log that was not cut back: steps 2 and 3 came again */
  write_text("resumed/log.jsonl",
             STEP("1", "5.0", "") STEP("2", "4.0", VALIDATED("3.96875")) STEP("3", "3.96", "")
                 STEP("2", "3.5", VALIDATED("3.40625")) STEP("3", "3.125", ""));
  write_text("marked/log.jsonl",
             STEP("1", "2.0", "") STEP("2", "9.5", ", \"loss_z\": 7.25, \"outlier\": true")
                 STEP("3", "null", ", \"skipped\": true") STEP("4", "NaN", "") STEP("5", "1.5", ""));
  write_text("plain/log.jsonl", "{\"step\": 1, \"loss\": 2.5}\n{\"step\": 2, \"loss\": \"x\"}\n"
                                "{\"step\": 3, \"loss\": 2.25}\n");
  return 0;
}

static int teardown(void **state) {
  (void)state;
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  return system(command);
}

#define PLOT   "scripts/plot_run.py "
#define REPORT "scripts/report_run.py "

static void test_refusals(void **state) {
  (void)state;
  NEEDS("python3");
  NEEDS("gnuplot");
  static const struct {
    const char *arguments, *message;
  } cases[] = {
      {PLOT "@/none -o @/x.png", "none: No such file"},
      {PLOT "@/a -o @/x.png", "a/log.jsonl: No such file"},
      {PLOT "@/empty -o @/x.png", "found no steps"},
      {PLOT "@/bad -o @/x.png", "line 2: found 'no JSON'"},
      {PLOT "@/nothing.jsonl -o @/x.png", "found no number"},
      {PLOT "@/run -o @/x.jpg", "expected .png or .svg or .pdf"},
      {PLOT "@/run -o @/none/x.png", "found no folder"},
      {PLOT "@/run -o @/x.png --smooth 0", "--smooth: found 0"},
      {PLOT "@/run -o @/x.png --follow --every 0", "--every: found 0"},
      {PLOT "@/run", "-o"},
      {"PATH=@/empty $(python3 -c 'import sys; print(sys.executable)') " PLOT "@/run -o @/x.png",
       "gnuplot-nox"},
      {REPORT "@/none -o @/x.html", "No such file"},
      {REPORT "@/empty -o @/x.html", "found no steps"},
      {REPORT "@/run -o @/x.png", "expected .html"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    expect(EXIT_USAGE, cases[i].message, cases[i].arguments);
  if (access(path_of("x.png"), F_OK) == 0 || access(path_of("x.html"), F_OK) == 0)
    fail_msg("a refused picture was made");
}

static void test_pictures(void **state) {
  (void)state;
  NEEDS("python3");
  NEEDS("gnuplot");
  static const char *const begins[][2] = {{"run.png", "\x89PNG"}, {"run.svg", "<?xml"}, {"run.pdf", "%PDF"}};
  for (int i = 0; i < 3; i++) {
    char command[128];
    snprintf(command, sizeof command, PLOT "@/run -o @/%s --x %s", begins[i][0], i == 2 ? "tokens" : "step");
    expect(0, "wrote", command);
    FILE *f = fopen(path_of(begins[i][0]), "rb");
    char found[6] = "";
    assert_non_null(f);
    assert_int_equal(fread(found, 1, 5, f), 5);
    fclose(f);
    assert_memory_equal(found, begins[i][1], strlen(begins[i][1]));
  }
  expect_well_formed("run.svg");
  /* the half line 4 is no step */
  EXPECT_WORDS("run.svg", "training, 3.062 at the end", "validation, 2.031 at the end (perplexity 7.624)",
               "gradient norm", "learning rate", "tokens a second", "20 %", "3 MB", NOT, "outlier",
               "skipped");
  static const char *const runs[] = {"one", "plain", "marked"};
  for (int i = 0; i < 3; i++) {
    char command[128];
    snprintf(command, sizeof command, PLOT "@/%s/log.jsonl -o @/%s.svg", runs[i], runs[i]);
    expect(0, "wrote", command);
  }
  EXPECT_WORDS("one.svg", "training, 5.5 at the end", NOT, "validation");
  EXPECT_WORDS("plain.svg", "training, 2.25 at the end", NOT, "learning rate", "memory");
  EXPECT_WORDS("marked.svg", "training, 1.5 at the end", "outlier", "skipped: not finite", NOT, "validation");
}

/* The memory of a step, from a plan of the program. */
static void test_timeline(void **state) {
  (void)state;
  NEEDS("python3");
  NEEDS("gnuplot");
  const char *build = getenv("BUILD");
  char command[512];
#define TIMELINE "scripts/plot_timeline.py --program %s/train_llama -o @/step.svg "
  snprintf(command, sizeof command, TIMELINE "-- --batch 1 --seq-len 64 --update layer --clip 0",
           build ? build : "build/cpu");
  expect(0, "wrote", command);
  expect_well_formed("step.svg");
  EXPECT_WORDS("step.svg", "weights", "checkpoints", "mlp chunk", "forward", "backward", "head", "peak", NOT,
               "master weights");
  snprintf(command, sizeof command, TIMELINE "-- --seq-len none", build ? build : "build/cpu");
  expect(2, "--seq-len", command);
}

static void test_several_runs(void **state) {
  (void)state;
  NEEDS("python3");
  NEEDS("gnuplot");
  expect(0, "wrote", PLOT "@/a/same @/b/same/ @/run -o @/several.svg");
  expect_well_formed("several.svg");
  EXPECT_WORDS("several.svg", "a/same: training 1 at the end", "b/same: validation 1.75 at the end",
               "run: validation 2.031 at the end", NOT);
}

static void test_steps_again(void **state) {
  (void)state;
  NEEDS("python3");
  NEEDS("gnuplot");
  expect(0, "wrote", REPORT "@/resumed -o @/resumed.html");
  EXPECT_WORDS("resumed.html", "3.40625", "3.1250", "after step 3", "There is no run.json", NOT, "3.96875");
}

static void test_report(void **state) {
  (void)state;
  NEEDS("python3");
  NEEDS("gnuplot");
  expect(0, "wrote", REPORT "@/run -o @/run.html");
  expect_well_formed("run.html");
  EXPECT_WORDS("run.html", "after step 3 of 8", "&lt;script&gt;x &amp; y: llama, 820.4k parameters (L 4)",
               "tower", "Some CPU", "0.9.9", "1,000 tokens: 2 × 2 sequences of 250",
               "<dd>2.0312<small>step 3</small>", "<dd>5.5000<small>step 0</small>", "<dd>1.5 s<",
               "<dd>2,000<small>median", "<dd>25 %<", ">step-00000003<", ">10 B<", ">complete<",
               ">not complete<", ">--seq-len<", "class=\"given\"", "None: no step was marked", "<svg",
               "var(--ink)", NOT, "<script", "href=\"http", "src=");
  expect(0, "wrote", REPORT "@/marked -o @/marked.html");
  expect_well_formed("marked.html");
  EXPECT_WORDS("marked.html", "Outliers: 1; skipped steps: 1", ">7.25<", "skipped: not finite", NOT, ">nan<");
}

/* Twenty thousand steps make a picture of a few hundred kB, not of all their points. */
static void test_many_steps(void **state) {
  (void)state;
  NEEDS("python3");
  NEEDS("gnuplot");
  make_folder("many");
  FILE *f = fopen(path_of("many/log.jsonl"), "w");
  assert_non_null(f);
  for (int i = 1; i <= 20000; i++)
    fprintf(f, "{\"step\": %d, \"loss\": %.4f, \"tokens\": %d}\n", i, 2 + (i == 777) * 1000 + i % 100 * 0.001,
            i);
  assert_int_equal(fclose(f), 0);
  expect(0, "wrote", PLOT "@/many -o @/many.svg --smooth 101 --loss-axis linear");
  char *text = read_text("many.svg");
  assert_true(strlen(text) < 300000);
  free(text);
  /* the spike is outside and said to be, the axis shows the rest */
  EXPECT_WORDS("many.svg", "of 20000 steps are outside", "median of 101 steps", "2.05", "20k", NOT, ">500<");
}

static void pause_ms(int ms) {
  nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

/* Waits until the file has the word in it. */
static void wait_for(const char *name, const char *word) {
  for (int i = 0; i < 300; i++, pause_ms(50)) {
    if (access(path_of(name), R_OK) != 0) continue;
    char *text = read_text(name);
    bool found = strstr(text, word) != NULL;
    free(text);
    if (found) return;
  }
  fail_msg("%s: \"%s\" did not come", name, word);
}

static void append(const char *name, const char *text) {
  FILE *f = fopen(path_of(name), "a");
  assert_non_null(f);
  fputs(text, f);
  assert_int_equal(fclose(f), 0);
}

static void test_follow(void **state) {
  (void)state;
  NEEDS("python3");
  NEEDS("gnuplot");
  make_folder("live");
  make_folder("pictures");
  write_text("live/log.jsonl", "");
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    char run[256], output[256];
    if (!freopen(path_of("follow.txt"), "w", stdout)) _exit(9);
    in_folder(run, sizeof run, "@/live");
    in_folder(output, sizeof output, "@/pictures/live.svg");
    execlp("python3", "python3", "scripts/plot_run.py", run, "-o", output, "--follow", "--every", "0.05",
           NULL);
    _exit(9);
  }
  append("live/log.jsonl", STEP("1", "5.5", ""));
  wait_for("pictures/live.svg", "training, 5.5 at the end");
  append("live/log.jsonl", "{\"step\": 2, \"loss\": 4.");
  pause_ms(150);
  append("live/log.jsonl", "25}\n");
  wait_for("pictures/live.svg", "training, 4.25 at the end");
  write_text("live/log.jsonl", STEP("1", "5.125", "")); /* replaced, as --resume does */
  wait_for("pictures/live.svg", "training, 5.125 at the end");
  wait_for("follow.txt", "step 1, loss 5.1250");
  kill(child, SIGINT);
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  expect(0, "live.svg", "ls -A @/pictures");
  assert_string_equal(said, "live.svg\n"); /* and nothing half made */
}

/* Stands in for the libraries: writes down what it is asked to. */
static const char stub[] = "import os\n"
                           "out = open(os.environ['STUB_OUT'], 'a')\n"
                           "class SummaryWriter:\n"
                           "    def __init__(self, folder, **_): out.write(f'folder {folder}\\n')\n"
                           "    def __enter__(self): return self\n"
                           "    def __exit__(self, *_): out.close()\n"
                           "    def add_text(self, tag, text, *_, **__): out.write(f'{tag} {text}\\n')\n"
                           "    def add_scalar(self, tag, value, step, walltime):\n"
                           "        out.write(f'{tag} {step} {value}\\n')\n";

static void test_export(void **state) {
  (void)state;
  NEEDS("python3");
#define EXPORT "PYTHONPATH=@/stubs STUB_OUT=@/calls PYTHONDONTWRITEBYTECODE=1 scripts/export_run.py "
  make_folder("stubs");
  write_text("stubs/tensorboardX.py", stub);
  write_text("stubs/wandb.py", "raise ImportError('not here')\n");
  expect(EXIT_USAGE, "python3 -m pip install wandb", EXPORT "@/run --to wandb -o @/export");
  expect(EXIT_USAGE, "found no steps", EXPORT "@/empty --to tensorboard -o @/export");
  expect(0, "run: 4 lines to", EXPORT "@/run --to tensorboard -o @/export");
  EXPECT_WORDS("calls", "/export/run\n", "\"host\": \"tower\"", "loss/validation 0 5.5\n",
               "loss/train 1 5.25\n", "loss/train 3 3.0625\n", "loss/validation 3 2.03125\n",
               "memory/host_bytes 3 4000000.0\n", NOT, "loss/train 0", "nan", "loss/train 4");
  expect(0, "marked: 5 lines to", EXPORT "@/marked --to tensorboard -o @/export");
  EXPECT_WORDS("calls", "optimizer/outlier 2 1.0\n", "optimizer/skipped 3 1.0\n", "loss/train 5 1.5\n", NOT,
               "nan");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_refusals),    cmocka_unit_test(test_pictures),
      cmocka_unit_test(test_timeline),    cmocka_unit_test(test_several_runs),
      cmocka_unit_test(test_steps_again), cmocka_unit_test(test_report),
      cmocka_unit_test(test_many_steps),  cmocka_unit_test(test_follow),
      cmocka_unit_test(test_export),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
