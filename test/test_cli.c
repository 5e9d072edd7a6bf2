/* The program as a user runs it: $BUILD/train_llama, its exit codes, messages and files. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <cjson/cJSON.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "io/file.h"
#include "io/hf_config.h"
#include "io/safetensors.h"
#include "io/shards.h"
#include "program.h" /* expect, path_of, exists, write_text */

/* A small, quick model on demo text. */
#define QUICK "--seq-len 32 --batch 2 --eval-batches 2"

static void write_own_text(void) {
  static char text[6000];
  for (size_t i = 0; i + 1 < sizeof text; i++)
    text[i] = "the quick brown fox jumps over the lazy dog. "[i % 45];
  write_text("own.txt", text);
}

static void test_help_and_version(void **state) {
  (void)state;
  expect(0, "--mlp-chunk", "--help");
  expect(0, "--mlp-chunk", "--help mlp-chunk");
  expect(0, "train_llama ", "--version");
  expect(0, ".TH TRAIN_LLAMA", "--man");
  expect(0, "complete -F _train_llama", "--completion bash");
  expect(0, "#compdef train_llama", "--completion zsh");
  expect(1, "standard output cannot be written",
         "--man 2>@/full >/dev/full; code=$?; cat @/full; exit $code");
}

/* Every refusal: exit code 2, a message that names what was found, and nothing written. */
static void write_shard(const char *name, int version, const uint32_t *tokens, int64_t n) {
  Error e;
  if (!shard_write(path_of(name), version, tokens, n, 0, 0, &e)) fail_msg("%s", e.text);
}

static void test_refusals(void **state) {
  (void)state;
  static const struct {
    const char *arguments, *message;
  } cases[] = {
      {"--mlp-chunks 3", "--mlp-chunk"},
      {"--seq-len none", "--seq-len"},
      {"--seq-len 0", "--seq-len"},
      {"--recompute mlp --checkpoint-every 2", "--recompute layer"},
      {"--model nothing-of-that-name --train x.bin", "llama3-8b"},
      {"--model @ --train x.bin", "config.json"},
      {"--model llama3.2-1b", "--train"},
      {"--train @/none*.bin", "none*.bin"},
      {"--train @/short.txt --seq-len 4096", "--seq-len"},
      {"--train @/bad.bin", "not a token shard"},
      {"--train @/large.bin --seq-len 8", "token 20 "},
      {"--train @/short.txt --seq-len 24", "found 28 tokens and no --val"},
      {"--eval-only --train @/small.bin --seq-len 8", "found no --val"},
      {"--eval-only --out @/refused", "writes nothing"},
      {"--model @/bad.bin --train x.bin", "found a file, expected a Hugging Face folder"},
      {"--rope-factor 4", "not scaled"},
      {"--train @/small.bin --val @/masked.bin --seq-len 8", "no target that counts"},
      {"--val @/short.txt --seq-len 4096", "--seq-len"},
      {"--device cuda", "cuda"},
      {"--device tpu", "tpu"},
      {"--threads -1", "--threads"},
      {"--dtype fp8", "fp8"},
      {"--master fp32", "--master"},
      {"--pack", "demo text: --pack finds no documents in it"},
      {"--pack --train @/short.txt --seq-len 8", "Give --document-token ID"},
      {"--pack --train @/small.bin --seq-len 8", "the model's config names no BOS"},
      {"--pack --train @/masked.bin --seq-len 8", "no document in all tokens, expected a mark"},
      {"--pack --train @/small.bin --seq-len 8 --document-token 99", "expected the token 99"},
      {"--pack --train @/small.bin --seq-len 8 --document-token 256",
       "expected a token of the model: 0 .. 255"},
      {"--pack --train @/marked.bin --val @/small.bin --seq-len 8", "small.bin: --pack finds no documents"},
      {"--train @/small.bin --document-token 3", "found no --pack"},
      {"--generate x --pack", "is of a training run"},
      {"--lr 1e-4 --min-lr 1", "--min-lr"},
      {"--rope-scaling none --rope-factor 4", "--rope-factor"},
      {"--model llama3.2-1b --train @/small.bin --seq-len 8 --sample-every 1", "--sample-every"},
      {"--batch 1000000 --seq-len 1000000000", "1099511627776"},
      {"--model llama3.1-405b --batch 512 --seq-len 2147483647 --recompute none --plan", "1.15e+18"},
      {"surplus", "surplus"},
      {"--config @/bad.conf", "bad.conf:2: --lr: found \"high\""},
      {"--config @/none.conf", "none.conf"},
      {"--config @/short.conf", "--seq-len"},
      {"--model llama3-8B --train x.bin", "did you mean llama3-8b?"},
      {"--json", "--plan"},
      {"--plan-device h100", "found no --plan"},
      {"--plan --plan-device h1000", "rtx4090"},
      {"--max-seq-len-for h1000", "rtx4090"},
      {"--max-seq-len-for h100 --seq-len 8", "Leave one"},
      {"--max-seq-len-for h100 --generate x", "Leave one"},
      {"--max-seq-len-for 1.1G --model llama3-8b", "at the leanest"},
      {"--out @/short.txt/run", "short.txt"},
      {"--out @/taken", "run.json"},
      {"--dump-grads @/no/folder/g.safetensors " QUICK, "no/folder"},
      {"--dump-grads @/taken " QUICK, "not a regular file"},
  };
  write_text("short.txt", "a text that is far too short");
  write_text("bad.conf", "batch 2\nlr high\n");
  char config[256];
  snprintf(config, sizeof config, "seq-len 4096\ntrain %s/short.txt\n", folder);
  write_text("short.conf", config);
  char junk[2048];
  memset(junk, 'x', sizeof junk - 1);
  junk[sizeof junk - 1] = 0;
  write_text("bad.bin", junk);
  uint32_t tokens[64];
  for (uint32_t i = 0; i < 64; i++) tokens[i] = i;
  write_shard("small.bin", 1, tokens, 64);
  tokens[20] = 300;
  write_shard("large.bin", 1, tokens, 64);
  for (uint32_t i = 0; i < 64; i++) tokens[i] = i | TOKEN_MASKED;
  write_shard("masked.bin", 8, tokens, 64);
  for (uint32_t i = 0; i < 64; i++) tokens[i] = i | (i % 9 == 0 ? TOKEN_DOCUMENT : 0);
  write_shard("marked.bin", 8, tokens, 64);
  assert_int_equal(mkdir(path_of("taken"), 0777), 0);
  write_text("taken/run.json", "{}");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char arguments[512];
    bool has_out = strstr(cases[i].arguments, "--out") || strstr(cases[i].arguments, "--dump-grads") ||
                   strstr(cases[i].arguments, "--eval-only");
    snprintf(arguments, sizeof arguments, "%s %s", cases[i].arguments, has_out ? "" : "--out @/refused");
    expect(EXIT_USAGE, cases[i].message, arguments);
    if (exists("refused")) fail_msg("%s: something was written", arguments);
  }
}

/* The number after "key": in the line-th line of a log, or NAN. */
static double log_number(const char *name, int line, const char *key) {
  Error e;
  char *text = file_read_text(path_of(name), 1 << 20, NULL, &e), *rest = text;
  if (!text) fail_msg("%s", e.text);
  for (int i = 0; i < line && rest; i++) rest = strchr(rest, '\n') ? strchr(rest, '\n') + 1 : NULL;
  assert_non_null(rest);
  cJSON *json = cJSON_ParseWithOpts(rest, NULL, false);
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
  double value = cJSON_IsNumber(item) ? item->valuedouble : NAN;
  cJSON_Delete(json);
  free(text);
  return value;
}

/* What is printed is the result: that it got lost is an error. A run that saves something goes on. */
static void test_lost_output(void **state) {
  (void)state;
  expect(EXIT_RUNTIME, "standard output", "--plan > /dev/full");
  expect(EXIT_RUNTIME, "standard output", QUICK " --eval-only > /dev/full");
  expect(0, "", QUICK " --steps 2 --out @/unread | head -n 1");
  assert_true(exists("unread/step-00000002/DONE"));
}

/* A folder that happens to have the demo's name changes nothing. */
static void test_folder_named_demo(void **state) {
  (void)state;
  char command[4096], program[1024];
  const char *build = getenv("BUILD");
  assert_non_null(realpath(build ? build : "build/cpu", program));
  assert_int_equal(mkdir(path_of("demo"), 0777), 0);
  snprintf(command, sizeof command, "cd %s && %s/train_llama --plan", folder, program);
  assert_int_equal(shell(command), 0);
  snprintf(command, sizeof command, "cd %s && %s/train_llama --model ./demo --plan", folder, program);
  assert_int_equal(shell(command), EXIT_USAGE);
  assert_non_null(strstr(said, "config.json"));
}

static void test_train_save_and_load(void **state) {
  (void)state;
  write_own_text();
  expect(0, "---- sample ----", QUICK " --steps 3 --save-every 2 --val @/own.txt --out @/run");
  const char *const files[] = {"run/run.json",
                               "run/log.jsonl",
                               "run/step-00000002/DONE",
                               "run/step-00000003/DONE",
                               "run/step-00000003/config.json",
                               "run/step-00000003/model.safetensors"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++)
    if (!exists(files[i])) fail_msg("%s is missing", files[i]);
  assert_false(exists("run/step-00000003.tmp"));

  /* a line for the evaluation before the first step, then one a step; the last has an evaluation */
  assert_true(log_number("run/log.jsonl", 0, "step") == 0 && log_number("run/log.jsonl", 3, "step") == 3);
  double first = log_number("run/log.jsonl", 0, "val_loss"),
         last = log_number("run/log.jsonl", 3, "val_loss");
  assert_true(fabs(first - log(256)) < 0.5 && last < first);
  assert_true(log_number("run/log.jsonl", 3, "tokens") == 3 * 64);

  /* the saved model, loaded, has the loss that it was saved with; the line rounds it to 6 digits */
  expect(0, "\nval loss ", QUICK " --eval-only --model @/run/step-00000003 --val @/own.txt");
  double loaded = strtod(strstr(said, "\nval loss ") + strlen("\nval loss "), NULL);
  assert_true(fabs(loaded - last) < 1e-6);
}

static void test_same_seed_same_run(void **state) {
  (void)state;
  expect(0, "step", QUICK " --steps 4 --out @/one");
  expect(0, "step", QUICK " --steps 4 --out @/two");
  expect(0, "step", QUICK " --steps 4 --seed 7 --out @/three");
  for (int i = 1; i <= 4; i++)
    assert_true(log_number("one/log.jsonl", i, "loss") == log_number("two/log.jsonl", i, "loss"));
  assert_true(log_number("one/log.jsonl", 4, "loss") != log_number("three/log.jsonl", 4, "loss"));

  /* the order of the training data is another, that of the validation data is not */
  expect(0, "step", QUICK " --steps 4 --shuffle no --out @/in-order");
  assert_true(log_number("one/log.jsonl", 1, "loss") != log_number("in-order/log.jsonl", 1, "loss"));
  assert_true(log_number("one/log.jsonl", 0, "val_loss") == log_number("in-order/log.jsonl", 0, "val_loss"));
}

static void test_own_text(void **state) {
  (void)state;
  write_own_text();
  expect(0, "held out", "--train @/own.txt --steps 2 --sample-every 1 " QUICK);
  expect(0, "---- sample ----", "--train @/own.txt --val @/own.txt --steps 2 " QUICK);
  uint32_t tokens[64];
  for (uint32_t i = 0; i < 64; i++) tokens[i] = i;
  write_shard("own.bin", 1, tokens, 64); /* whose tokens may be no bytes: no sample */
  expect(0, "step     2/2", "--train @/own.txt --val @/own.bin --steps 2 " QUICK);
  assert_null(strstr(said, "---- sample"));
}

static void test_bf16_runs(void **state) {
  (void)state;
  write_own_text();
  expect(0, "step", QUICK " --steps 2 --dtype bf16 --moments bf16 --out @/bf16");
  expect(0, "step", QUICK " --steps 2 --dtype bf16 --master fp32 --grad-accum 2");
  expect(0, "val loss", "--eval-only --model @/bf16/step-00000002 --val @/own.txt " QUICK);
}

/* A loaded Hugging Face model: context extension by flag is trained with and written into what is saved. */
static void test_rope_flags_are_saved(void **state) {
  (void)state;
  static uint32_t tokens[2000];
  for (uint32_t i = 0; i < 2000; i++) tokens[i] = i * i % 61;
  Error e;
  if (!shard_write(path_of("small.bin"), 7, tokens, 2000, 0, 0, &e)) fail_msg("%s", e.text);
#define LLAMA2 "--model test/fixtures/llama2 --train @/small.bin --steps 1 --batch 1 "
  expect(0, "beyond the model's max_position_embeddings", LLAMA2 "--seq-len 256");
  expect(0, "step", LLAMA2 "--seq-len 256 --rope-scaling yarn --out @/yarn");
  expect(0, "step", LLAMA2 "--seq-len 256 --rope-scaling linear --rope-factor 3 --out @/linear");
  expect(0, "step", LLAMA2 "--rope-theta 5e5 --seq-len 64 --out @/theta");
  const struct {
    const char *dir;
    Rope rope;
    int64_t max_T;
  } cases[] = {
      {"yarn/step-00000001", {.theta = 1e4, .scaling = ROPE_YARN, .factor = 2, .original_T = 128}, 256},
      {"linear/step-00000001", {.theta = 1e4, .scaling = ROPE_LINEAR, .factor = 3}, 384},
      {"theta/step-00000001", {.theta = 5e5, .scaling = ROPE_NONE}, 128}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Config c;
    if (!hf_config_read(&c, path_of(cases[i].dir), &e)) fail_msg("%s", e.text);
    assert_true(c.rope.theta == cases[i].rope.theta && c.rope.scaling == cases[i].rope.scaling);
    assert_int_equal(c.max_T, cases[i].max_T);
    if (c.rope.scaling != ROPE_NONE) assert_true(c.rope.factor == cases[i].rope.factor);
    if (c.rope.scaling == ROPE_YARN) assert_int_equal(c.rope.original_T, cases[i].rope.original_T);
    config_free(&c);
  }
}

/* The string "key": value of run.json's options, or NULL; freed by the caller. */
static char *run_option(const char *name, const char *key) {
  Error e;
  char *text = file_read_text(path_of(name), 1 << 20, NULL, &e);
  if (!text) fail_msg("%s", e.text);
  cJSON *json = cJSON_Parse(text);
  const cJSON *options = cJSON_GetObjectItemCaseSensitive(json, "options");
  char *value = cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(options, key));
  cJSON_Delete(json);
  free(text);
  return value;
}

/* A file of flags trains as the flags would; the command line wins; run.json has what was in force. */
static void test_config_file(void **state) {
  (void)state;
  write_own_text();
  char config[512];
  snprintf(
      config, sizeof config,
      "# small\nseq-len 32\n--batch=2\neval-batches = 2\nsteps 9\nout \"%s/with blank\"\ntrain %s/own.txt\n",
      folder, folder);
  write_text("a.conf", config);
  expect(0, "step     2/2", "--steps 2 --config @/a.conf");
  expect(0, "step     2/2", QUICK " --steps 2 --train @/own.txt --out @/flags");
  assert_true(log_number("with blank/log.jsonl", 2, "loss") == log_number("flags/log.jsonl", 2, "loss"));
  const char *const options[][2] = {{"steps", "2"}, {"seq-len", "32"}, {"batch", "2"}, {"config", ""}};
  for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
    char *value = run_option("with blank/run.json", options[i][0]);
    assert_string_equal(value ? value : "", options[i][1]);
    free(value);
  }
}

/* Documents of eight tokens, packed, give the loss of sequences of eight whose last targets are masked. */
static void test_packed_evaluation(void **state) {
  (void)state;
  enum { N = 8 * 64 + 1 };
  uint32_t documents[N], masked[N];
  for (uint32_t i = 0; i < N; i++) {
    uint32_t id = (i * i + 3 * i) % 71;
    documents[i] = id | (i % 8 == 0 ? TOKEN_DOCUMENT : 0);
    masked[i] = id | (i % 8 == 0 ? TOKEN_MASKED : 0);
  }
  write_shard("documents.bin", 8, documents, N);
  write_shard("rows.bin", 8, masked, N);
  static const char *const arguments[] = {"--val @/documents.bin --pack --seq-len 32 --batch 2",
                                          "--val @/rows.bin --seq-len 8 --batch 8",
                                          "--val @/documents.bin --seq-len 32 --batch 2"};
  double loss[3];
  for (int i = 0; i < 3; i++) {
    char all[256];
    snprintf(all, sizeof all, "--model test/fixtures/llama3.2 --eval-only --eval-batches 8 %s", arguments[i]);
    expect(0, "\nval loss ", all);
    loss[i] = strtod(strstr(said, "\nval loss ") + 10, NULL);
  }
  assert_true(fabs(loss[0] - loss[1]) <= 2e-6);
  assert_true(fabs(loss[0] - loss[2]) > 1e-3);
}

/* Data without a single target train nothing, which is said once. */
static void test_masked_training(void **state) {
  (void)state;
  enum { N = 65 };
  uint32_t tokens[N];
  for (uint32_t i = 0; i < N; i++) tokens[i] = i | TOKEN_MASKED;
  write_shard("all_masked.bin", 8, tokens, N);
  expect(0, "WARNING: step 1: none of its 16 tokens has a target",
         "--model test/fixtures/llama3.2 --train @/all_masked.bin --seq-len 8 --batch 2 --steps 3");
  assert_null(strstr(said, "WARNING: step 2"));
}

/* Installs into the test's folder, looks, uninstalls. */
static void test_install(void **state) {
  (void)state;
  const char *build = getenv("BUILD") ? getenv("BUILD") : "build/cpu";
  char command[1024];
  snprintf(command, sizeof command,
           "env -u MAKEFLAGS make -s install DESTDIR=%s/root PREFIX=/usr "
           "PROGRAMS='%s/train_llama %s/tokenize' >%s/install",
           folder, build, build, folder);
  assert_int_equal(system(command), 0);
  static const struct {
    const char *file, *text;
  } installed[] = {{"root/usr/share/man/man1/train_llama.1", ".TH TRAIN_LLAMA"},
                   {"root/usr/share/bash-completion/completions/train_llama", "complete -F"},
                   {"root/usr/share/zsh/site-functions/_train_llama", "#compdef"},
                   {"root/usr/share/man/man1/tokenize.1", ".TH TOKENIZE"},
                   {"root/usr/share/bash-completion/completions/tokenize", "complete -F _tokenize tokenize"},
                   {"root/usr/share/zsh/site-functions/_tokenize", "#compdef tokenize"},
                   {"root/usr/share/doc/train_llama/README.md", "# train_llama"},
                   {"root/usr/share/doc/train_llama/LICENSE", "MIT"},
                   {"root/usr/share/doc/train_llama/docs/formats.md", "#"}};
  for (size_t i = 0; i < sizeof installed / sizeof *installed; i++) {
    Error e;
    char *text = file_read_text(path_of(installed[i].file), 1 << 20, NULL, &e);
    if (!text) fail_msg("%s", e.text);
    if (!strstr(text, installed[i].text)) fail_msg("%s lacks %s", installed[i].file, installed[i].text);
    free(text);
  }
  snprintf(
      command, sizeof command,
      "%s/root/usr/bin/train_llama --version >%s/version && %s/root/usr/bin/tokenize --version >%s/version",
      folder, folder, folder, folder);
  assert_int_equal(system(command), 0);
  snprintf(command, sizeof command,
           "env -u MAKEFLAGS make -s uninstall DESTDIR=%s/root PREFIX=/usr >%s/install && test -z \"$(find "
           "%s/root -type f)\"",
           folder, folder, folder);
  assert_int_equal(system(command), 0);
}

static void test_plan(void **state) {
  (void)state;
  expect(0, "gradients", "--model llama3-8b --seq-len 64K --dtype bf16 --moments bf16 --plan");
  expect(0, "in 4 groups",
         "--model llama3-8b --seq-len 64K --dtype bf16 --moments bf16 --plan --attn-groups 4");
  expect(2, "a divisor of the model's 8 key/value heads", "--model llama3-8b --plan --attn-groups 3");
  expect(0, "# by moment, the most of all layers:\n#   load and save ", "--plan");
  expect(0, "\n#   backward attention ", "--plan");
  expect(0, "", "--plan --json --seq-len 64 | head -c 60000 > @/plan.json");
  Error e;
  char *text = file_read_text(path_of("plan.json"), 1 << 20, NULL, &e);
  cJSON *json = cJSON_Parse(text);
  assert_non_null(json);
  const cJSON *spaces = cJSON_GetObjectItemCaseSensitive(json, "spaces");
  const cJSON *device = cJSON_GetObjectItemCaseSensitive(spaces, "device");
  assert_true(cJSON_GetObjectItemCaseSensitive(device, "bytes")->valuedouble > 1e6);
  assert_true(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(json, "buffers")) > 20);
  cJSON_Delete(json);
  free(text);
}

static void test_dump_grads(void **state) {
  (void)state;
  expect(0, "gradient norm", QUICK " --grad-accum 2 --dump-grads @/grads.safetensors");
  Error e;
  SafeTensors *set = safetensors_open(path_of("grads.safetensors"), &e);
  if (!set) fail_msg("%s", e.text);
  const SafeTensor *ids = safetensors_find(set, "input_ids"), *labels = safetensors_find(set, "labels");
  assert_true(ids && labels && safetensors_find(set, "loss"));
  assert_true(safetensors_find(set, "model.layers.3.self_attn.k_proj.weight") != NULL);
  assert_true(ids->dims == 2 && ids->shape[0] == 4 && ids->shape[1] == 32);
  float second, label;
  memcpy(&second, (const char *)ids->data + 4, 4);
  memcpy(&label, labels->data, 4);
  assert_true(second == label); /* targets are the next tokens */
  assert_null(safetensors_find(set, "position_ids"));
  safetensors_close(set);

  write_text("lines.txt", "one\ntwo, a little longer\nthree\nand a fourth line, the longest of them all\n");
  expect(0, "gradient norm",
         "--seq-len 32 --batch 1 --shuffle no --train @/lines.txt --pack --document-token 10 --dump-grads "
         "@/packed.safetensors");
  set = safetensors_open(path_of("packed.safetensors"), &e);
  if (!set) fail_msg("%s", e.text);
  const SafeTensor *positions = safetensors_find(set, "position_ids");
  assert_non_null(positions);
  float at[5];
  memcpy(at, positions->data, sizeof at);
  assert_true(at[0] == 0 && at[2] == 2 && at[3] == 0 && at[4] == 1); /* the line's end begins a document */
  safetensors_close(set);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_help_and_version),
      cmocka_unit_test(test_refusals),
      cmocka_unit_test(test_lost_output),
      cmocka_unit_test(test_folder_named_demo),
      cmocka_unit_test(test_train_save_and_load),
      cmocka_unit_test(test_same_seed_same_run),
      cmocka_unit_test(test_own_text),
      cmocka_unit_test(test_bf16_runs),
      cmocka_unit_test(test_rope_flags_are_saved),
      cmocka_unit_test(test_config_file),
      cmocka_unit_test(test_install),
      cmocka_unit_test(test_packed_evaluation),
      cmocka_unit_test(test_masked_training),
      cmocka_unit_test(test_plan),
      cmocka_unit_test(test_dump_grads),
  };
  return cmocka_run_group_tests(tests, program_setup, program_teardown);
}
