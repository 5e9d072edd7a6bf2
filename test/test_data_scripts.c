/* scripts/finetune_long.sh and scripts/data/, without a network: what they refuse, and, with a curl that
 * takes files from a folder, the way from what would be fetched to shards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/stat.h>

#include "test/program.h"

static void copy(const char *from, const char *to) {
  Error e;
  if (!file_copy(from, path_of(to), &e)) fail_msg("%s", e.text);
}

static void make_folder(const char *name) {
  assert_int_equal(mkdir(path_of(name), 0777), 0);
}

/* A curl that serves @/web, a file for each address with its slashes and questions replaced; `model`, a
 * folder with weights and tokenizer. */
static int setup(void **state) {
  if (program_setup(state)) return -1;
  make_folder("model");
  copy("test/fixtures/greedy/config.json", "model/config.json");
  copy("test/fixtures/greedy/model.safetensors", "model/model.safetensors");
  copy("test/fixtures/tokenizer/llama3.json", "model/tokenizer.json");
  make_folder("bin");
  make_folder("web");
  write_text("bin/curl", "#!/usr/bin/env bash\n"
                         "while (($#)); do\n"
                         "  case $1 in --output) to=$2; shift ;; https://*) from=$1 ;; esac\n"
                         "  shift\n"
                         "done\n"
                         "cp \"$(dirname \"$0\")/../web/$(tr '/?' '__' <<<\"${from#https://}\")\" \"$to\"\n");
  return chmod(path_of("bin/curl"), 0755);
}

/* Runs a script of scripts/, with `before` in its environment; @ is the test's folder. */
static void expect_script(int code, const char *message, const char *before, const char *script) {
  char command[4096], text[3072];
  const char *build = getenv("BUILD");
  snprintf(text, sizeof text, "BIN=%s PAUSE=0 %s scripts/%s", build ? build : "build/cpu", before, script);
  size_t at = 0;
  for (const char *c = text; *c && at < sizeof command - 64; c++) {
    if (*c == '@')
      at += (size_t)snprintf(command + at, sizeof command - at, "%s", folder);
    else
      command[at++] = *c;
  }
  command[at] = '\0';
  int found = shell(command);
  if (found != code || !strstr(said, message))
    fail_msg("%s\nexit %d, expected %d and \"%s\"; it said:\n%s", command, found, code, message, said);
}

/* ---- scripts/data ---- */

static const char *const data_scripts[] = {"tinyshakespeare", "pg19", "longalpaca", "fineweb_edu"};
enum { DATA_SCRIPTS = sizeof data_scripts / sizeof *data_scripts };

static bool has(const char *tool) {
  char command[64];
  snprintf(command, sizeof command, "command -v %s", tool);
  return shell(command) == 0;
}

#define NO_NETWORK "https_proxy=http://127.0.0.1:9 HTTPS_PROXY=http://127.0.0.1:9"
#define SERVED     "PATH=@/bin:$PATH"

static void says_what_it_is_and_needs_a_network(void **state) {
  (void)state;
  if (!has("curl") || !has("jq")) skip();
  for (int i = 0; i < DATA_SCRIPTS; i++) {
    char script[256];
    snprintf(script, sizeof script, "data/%s.sh --tokenizer @/model --out @/none", data_scripts[i]);
    expect_script(2, "This needs a network", NO_NETWORK, script);
    const char *size = strstr(said, "Size: "), *licence = strstr(said, "Licence: ");
    assert_true(size && licence && licence < strstr(said, "This needs a network"));
  }
}

static void data_scripts_check_their_flags(void **state) {
  (void)state;
  for (int i = 0; i < DATA_SCRIPTS; i++) {
    static const struct {
      int code;
      const char *flags, *message;
    } cases[] = {{0, "--help", "--tokenizer DIR"},
                 {2, "", "--tokenizer: found none"},
                 {2, "--tokenizer", "found no value"},
                 {2, "--tokenizer @/web", "found no tokenizer.json"},
                 {2, "--colour red", "there is no such flag"}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
      char script[256];
      snprintf(script, sizeof script, "data/%s.sh %s", data_scripts[i], cases[c].flags);
      expect_script(cases[c].code, cases[c].message, NO_NETWORK, script);
    }
  }
  expect_script(2, "--books: found \"many\"", NO_NETWORK, "data/pg19.sh --tokenizer @/model --books many");
}

static void makes_shards_of_what_it_fetches(void **state) {
  (void)state;
  if (!has("jq")) skip();
  write_text("web/raw.githubusercontent.com_karpathy_char-rnn_master_data_tinyshakespeare_input.txt",
             "wrong");
  expect_script(1, "SHA-256", SERVED, "data/tinyshakespeare.sh --tokenizer @/model --out @/shakespeare");

#define PG19 "web/huggingface.co_datasets_deepmind_pg19_resolve_main_data_"
#define BOOK "web/storage.googleapis.com_deepmind-gutenberg_"
  write_text(PG19 "validation_files.txt", "validation/1.txt\n");
  write_text(PG19 "train_files.txt", "train/2.txt\ntrain/3.txt\ntrain/4.txt\n");
  write_text(BOOK "validation_1.txt", "A first book.");
  write_text(BOOK "train_2.txt", "A second book.");
  write_text(BOOK "train_3.txt", "A third book.");
  expect_script(0, "2 documents", SERVED,
                "data/pg19.sh --tokenizer @/model --out @/pg19 --books 2 -- --eos none");
  assert_true(exists("pg19/tokens/train-000000.bin") && exists("pg19/tokens-validation/train-000000.bin"));
  expect_script(2, "train/4.txt cannot be fetched", SERVED,
                "data/pg19.sh --tokenizer @/model --out @/pg19 --books 3");
  write_text("pg19/raw/train_files.txt", "train/../../4.txt\n");
  expect_script(1, "not what was expected", SERVED, "data/pg19.sh --tokenizer @/model --out @/pg19");

#define ALPACA "web/huggingface.co_datasets_Yukang_LongAlpaca-12k_resolve_main_LongAlpaca-12k.json"
  write_text(ALPACA, "[{\"instruction\": \"Who?\", \"output\": \"All.\", \"file\": 1},\n"
                     " {\"instruction\": \"What \\\"x\\\"?\", \"output\": \"Rights.\"}]");
  expect_script(0, "2 documents", SERVED,
                "data/longalpaca.sh --tokenizer @/model --out @/alpaca -- --val-fraction 0");
  write_text(ALPACA, "[{\"instruction\": 1}]");
  expect_script(1, "not what was expected", SERVED, "data/longalpaca.sh --tokenizer @/model --out @/alpaca2");

#define ROWS                                                                                                 \
  "web/datasets-server.huggingface.co_rows_dataset=HuggingFaceFW%2Ffineweb-edu&config=sample-10BT"           \
  "&split=train&offset="
  write_text(ROWS "0&length=100", "{\"rows\": [{\"row\": {\"text\": \"One.\"}, \"truncated_cells\": []},"
                                  " {\"row\": {\"text\": \"Cut\"}, \"truncated_cells\": [\"text\"]}]}");
  write_text(ROWS "100&length=100", "{\"rows\": [{\"row\": {\"text\": \"Two.\"}, \"truncated_cells\": []}]}");
  expect_script(
      0, "2 documents", SERVED,
      "data/fineweb_edu.sh --tokenizer @/model --out @/web_edu --documents 200 -- --val-fraction 0");
  write_text(ROWS "200&length=100", "{\"error\": \"busy\"}");
  expect_script(1, "not what was expected", SERVED,
                "data/fineweb_edu.sh --tokenizer @/model --out @/web_edu --documents 300");
}

/* ---- scripts/finetune_long.sh ---- */

static void finetunes(void **state) {
  (void)state;
  char lines[8192] = "";
  for (int i = 0; i < 60; i++)
    strcat(lines, "{\"q\": \"Who is born free?\", \"a\": \"All human beings are born free and equal.\"}\n");
  write_text("pairs.jsonl", lines);
#define FINETUNE                                                                                             \
  "finetune_long.sh --model @/model --data @/pairs.jsonl --out @/tuned --seq-len 32 --prompt-field q "       \
  "--completion-field=a --epochs 2 --grad-accum 2 --val-fraction 0.2 -- --threads 1 --lr 1e-2 "              \
  "--eval-batches 1"
  expect_script(0, "/tuned/model: the model after", "", FINETUNE);
  assert_non_null(strstr(said, "val loss"));
  assert_true(exists("tuned/model/model.safetensors") && exists("tuned/model/tokenizer.json"));
  assert_false(exists("tuned/model/optimizer.safetensors") || exists("tuned/model/trainer.json"));
  if (has("gnuplot") && has("python3")) assert_true(exists("tuned/loss.png"));
  expect_script(0, "nothing is left to do", "", FINETUNE);
  expect(0, "Who is born free?", "--model @/tuned/model --generate 'Who is born free?' --max-new 5");
}

/* The same at length, with automatic flags: a plan first, pictures last. */
static void runs_a_long_context(void **state) {
  (void)state;
#define LONG "OUT=@/long", "run_long_context.sh @/model @/speech.txt 64 "
  char text[8192] = "";
  for (int i = 0; i < 60; i++)
    strcat(text, "All human beings are born free and equal in dignity and rights.\n");
  write_text("speech.txt", text);
  expect_script(2, "expected MODEL DATA SEQ_LEN", "", "run_long_context.sh @/model --lr 1");
  expect_script(0, "MODEL DATA SEQ_LEN [FLAG...]", "", "run_long_context.sh --help");
  expect_script(2, "nothing was run", LONG "--threads 1 --device-memory 100K");
  assert_true(strstr(said, "does not fit: ") && !exists("long"));
  expect_script(2, "there is no such flag", LONG "--colour red");
  expect_script(0, "/long/model: the model after",
                LONG "--threads 1 --lr 1e-2 --batch 2 --device-memory 30M --eval-batches 1");
  const char *plan = strstr(said, "# automatic: --recompute"), *step = strstr(said, "step     1/");
  assert_true(plan && step && plan < step);
  assert_true(exists("long/model/model.safetensors"));
  if (has("gnuplot") && has("python3")) assert_true(exists("long/loss.png") && exists("long/memory.png"));
}

static void finetune_checks_its_flags(void **state) {
  (void)state;
  write_text("text.md", "text");
  write_text("short.jsonl", "{\"text\": \"a\"}\n");
#define GOOD "finetune_long.sh --model @/model --data @/short.jsonl --out @/refused "
  static const struct {
    int code;
    const char *script, *message;
  } cases[] = {
      {0, "finetune_long.sh --help", "--prompt-field"},
      {2, "finetune_long.sh", "--model: found none"},
      {2, GOOD, "--seq-len: found none"},
      {2, GOOD "--seq-len", "found no value"},
      {2, GOOD "--seq-len long", "found \"long\""},
      {2, GOOD "--seq-len 0", "found 0"},
      {2, GOOD "--seq-len 8 --epochs 0", "--epochs: found \"0\""},
      {2, GOOD "--seq-len 8 --grad-accum x", "--grad-accum: found \"x\""},
      {2, GOOD "--seq-len 8 --steps 3", "Flags of ./train_llama come after --"},
      {2, GOOD "--seq-len 8 --prompt-field q", "go together"},
      {2, GOOD "--seq-len 8 --field t --prompt-field q --completion-field a", "give one of them"},
      {2, "finetune_long.sh --model @/nowhere --data x --out y --seq-len 8",
       "expected a Hugging Face folder"},
      {2, "finetune_long.sh --model @/web --data x --out y --seq-len 8", "found no config.json"},
      {2, "finetune_long.sh --model @/model --data @/x.jsonl --out y --seq-len 8", "expected JSONL"},
      {2, "finetune_long.sh --model @/model --data @/text.md --out y --seq-len 8", ".jsonl"},
      {2, GOOD "--seq-len 1Ki", "expected more than --seq-len, which is 1024"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    expect_script(cases[i].code, cases[i].message, "", cases[i].script);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(says_what_it_is_and_needs_a_network), cmocka_unit_test(data_scripts_check_their_flags),
      cmocka_unit_test(makes_shards_of_what_it_fetches),     cmocka_unit_test(finetunes),
      cmocka_unit_test(finetune_checks_its_flags),           cmocka_unit_test(runs_a_long_context),
  };
  return cmocka_run_group_tests(tests, setup, program_teardown);
}
