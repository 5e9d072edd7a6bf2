/* What others hand in and cannot be used: the program ends with 2, says what it found, and writes nothing.
 * Here are model folders and token files as the program meets them, and what the readers alone refuse beyond
 * test_safetensors.c, test_config.c and test_dataloader.c: doubled keys, depth, endless names, named pipes.
 */
#define _GNU_SOURCE // memmem
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/file.h"
#include "io/hf_config.h"
#include "io/safetensors.h"
#include "io/shards.h"

static char folder[] = "/tmp/test_bad_input_XXXXXX";
static const char fixture[] = "test/fixtures/llama3.2"; /* V 71, 2 layers, tied, one file in bf16 */

static const char *path_of(const char *name) {
  static char paths[4][256];
  static int turn;
  char *path = paths[turn++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static void write_bytes(const char *name, const void *data, size_t bytes) {
  FILE *f = fopen(path_of(name), "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(data, 1, bytes, f), bytes);
  assert_int_equal(fclose(f), 0);
}

static char *read_bytes(const char *path, size_t *bytes) {
  Error e = {0};
  char *text = file_read_text(path, 1 << 24, bytes, &e);
  if (!text) fail_msg("%s", e.text);
  return text;
}

static int setup(void **state) {
  (void)state;
  if (!mkdtemp(folder) || mkdir(path_of("model"), 0777) != 0) return -1;
  alarm(550); /* a reader that waits for a pipe would wait for ever */
  return 0;
}

static int teardown(void **state) {
  (void)state;
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  return system(command);
}

static int count_files(const char *path) {
  DIR *d = opendir(path);
  assert_non_null(d);
  int n = 0;
  while (readdir(d)) n++;
  closedir(d);
  return n;
}

/* The program on these arguments (@ stands for the folder) ends with 2, says both words, and adds no file. */
static void refused(const char *arguments, const char *word1, const char *word2) {
  char command[2048], said[8192];
  const char *build = getenv("BUILD");
  size_t at = (size_t)snprintf(command, sizeof command, "%s/train_llama", build ? build : "build/cpu");
  command[at++] = ' ';
  for (const char *c = arguments; *c && at < sizeof command - 256; c++) {
    if (*c == '@')
      at += (size_t)snprintf(command + at, sizeof command - at, "%s", folder);
    else
      command[at++] = *c;
  }
  snprintf(command + at, sizeof command - at, " 2>&1");
  int before = count_files(folder) + count_files(path_of("model"));
  FILE *f = popen(command, "r");
  assert_non_null(f);
  said[fread(said, 1, sizeof said - 1, f)] = 0;
  int status = pclose(f);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != EXIT_USAGE || !strstr(said, word1) || !strstr(said, word2))
    fail_msg("%s\nstatus %d, expected exit code %d, \"%s\" and \"%s\"; it said:\n%s", command, status,
             EXIT_USAGE, word1, word2, said);
  if (count_files(folder) + count_files(path_of("model")) != before)
    fail_msg("%s: a file was added", command);
}

/* ---- Model folders -------------------------------------------------------------------------------- */

/* Copies a file of the fixture to the model's folder with `old` replaced by `new` (both may be NULL). In
 * weights, the length before the header stays right. */
static void copy_file(const char *name, const char *old, const char *new) {
  char from[256], to[256];
  snprintf(from, sizeof from, "%s/%s", fixture, name);
  snprintf(to, sizeof to, "model/%s", name);
  size_t bytes;
  char *text = read_bytes(from, &bytes);
  char *place = old ? memmem(text, bytes, old, strlen(old)) : NULL;
  if (old && !place) fail_msg("no %s in %s", old, from);
  size_t before = place ? (size_t)(place - text) : bytes, cut = old ? strlen(old) : 0,
         put = new ? strlen(new) : 0;
  char *changed = malloc(bytes + put);
  assert_non_null(changed);
  memcpy(changed, text, before);
  if (put) memcpy(changed + before, new, put);
  memcpy(changed + before + put, text + before + cut, bytes - before - cut);
  if (strstr(name, "safetensors")) {
    uint64_t length;
    memcpy(&length, changed, sizeof length);
    length += put - cut;
    memcpy(changed, &length, sizeof length);
  }
  write_bytes(to, changed, bytes + put - cut);
  free(changed);
  free(text);
}

static const char with_model[] = "--model @/model --train @/good.bin --seq-len 8 --out @/out";

static void write_good_data(void) {
  uint32_t tokens[400];
  for (uint32_t i = 0; i < 400; i++) tokens[i] = i * 7 % 71;
  Error e;
  if (!shard_write(path_of("good.bin"), 1, tokens, 400, 0, 0, &e)) fail_msg("%s", e.text);
}

static void test_weights(void **state) {
  (void)state;
  static const struct {
    const char *old, *new, *word1, *word2;
  } cases[] = {
      {"\"model.norm.weight\"", "\"model.norm.bias\"", "model.norm.bias", "does not have"},
      {"[71,32]", "[32,71]", "model.embed_tokens.weight has shape [32, 71]", "asks for [71, 32]"},
      {"[71,32]", "[72,32]", "model.embed_tokens.weight occupies 4544 bytes", "come to 4608"},
      {"\"BF16\"", "\"I16\"", "dtype I16", "F32, BF16 or F16"},
      {"model.layers.0.input_layernorm.weight", "model.embed_tokens.weight", "twice",
       "model.embed_tokens.weight"},
      {"\"shape\":[71,32]", "\"shape\":[9],\"shape\":[71,32]", "\"shape\" twice", "expected once"},
      {"\"format\":\"pt\"", "\"format\":\"pt\",\"format\":\"pt\"", "\"format\" twice", "expected once"},
      {"[4544,4608]", "[4480,4544]", "overlap", "expected 4544"},
      {"[0,4544]", "[0,454400]", "ends at byte 454400", "cut short"},
      {"{\"__metadata__\"", "[\"__metadata__\"", "header is not JSON", "model.safetensors"},
  };
  copy_file("config.json", NULL, NULL);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    copy_file("model.safetensors", cases[i].old, cases[i].new);
    refused(with_model, cases[i].word1, cases[i].word2);
  }
  copy_file("model.safetensors", NULL, NULL);
  struct stat s;
  assert_int_equal(stat(path_of("model/model.safetensors"), &s), 0);
  assert_int_equal(truncate(path_of("model/model.safetensors"), s.st_size - 100), 0);
  refused(with_model, "cut short", "download it again");
  assert_int_equal(truncate(path_of("model/model.safetensors"), 1000), 0);
  refused(with_model, "its header has 2024 bytes", "only 992");
  assert_int_equal(unlink(path_of("model/model.safetensors")), 0);
  refused(with_model, "neither model.safetensors nor", "model.safetensors.index.json");
}

/* The codes of 8-bit moments are U8 tensors, so they can be read; weights cannot be that. */
static void test_weights_in_bytes(void **state) {
  (void)state;
  Error e;
  char whole[256], bytes[4096] = "";
  snprintf(whole, sizeof whole, "%s/model.safetensors", fixture);
  SafeTensors *set = safetensors_open(whole, &e);
  SafeTensorsWriter *w = safetensors_writer_new(path_of("model/model.safetensors"));
  assert_non_null(set);
  for (int64_t i = 0; i < safetensors_count(set); i++) {
    const SafeTensor *t = safetensors_at(set, i);
    safetensors_writer_declare(w, t->name, DT_U8, t->dims, t->shape);
  }
  assert_true(safetensors_writer_begin(w, &e));
  for (int64_t i = 0; i < safetensors_count(set); i++) {
    size_t half = safetensors_at(set, i)->bytes / 2;
    assert_true(half <= sizeof bytes && safetensors_writer_write(w, bytes, half, &e));
  }
  assert_true(safetensors_writer_close(w, true, &e));
  safetensors_close(set);
  copy_file("config.json", NULL, NULL);
  refused(with_model, "model.embed_tokens.weight has dtype U8", "F32, BF16 or F16");
  assert_int_equal(unlink(path_of("model/model.safetensors")), 0);
}

static void test_config_of_another_model(void **state) {
  (void)state;
  static const struct {
    const char *old, *new, *word1, *word2;
  } cases[] = {
      {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "no tensor model.layers.2.", "expected it"},
      {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", "model.layers.1.", "does not have"},
      {"\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", "lm_head.weight", "[71, 32]"},
      {"\"vocab_size\": 71", "\"vocab_size\": 72", "[71, 32]", "[72, 32]"},
      /* 3 PB of weights: not a matter of memory, as nothing is allocated before the names are compared */
      {"\"hidden_size\": 32", "\"hidden_size\": 1048576", "[71, 32]", "[71, 1048576]"},
      {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 2000000", "num_hidden_layers", "fewer layers"},
      {"\"vocab_size\": 71", "\"vocab_size\": 71, \"vocab_size\": 71", "\"vocab_size\" twice", "config.json"},
      {"\"vocab_size\": 71", "\"vocab_sise\": 71", "vocab_size is missing", "config.json"},
      {"\"llama\"", "\"gpt2\"", "model_type is \"gpt2\"", "qwen3"},
      {"\"llama3\"", "\"dynamic\"", "rope_type is \"dynamic\"", "not supported"},
      {"{", "", "is not JSON", "config.json"},
  };
  copy_file("model.safetensors", NULL, NULL);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    copy_file("config.json", cases[i].old, cases[i].new);
    refused(with_model, cases[i].word1, cases[i].word2);
  }
}

static void test_folders(void **state) {
  (void)state;
  copy_file("model.safetensors", NULL, NULL);
  copy_file("config.json", NULL, NULL);
  refused("--model @/model --train @/good.bin --seq-len 8 --out /proc/none/run", "/proc/none",
          "can be written");
  refused("--model @/model --train @/good.bin --seq-len 8 --dump-grads /proc/none/g.safetensors",
          "--dump-grads", "/proc/none");
}

/* ---- Token files ---------------------------------------------------------------------------------- */

static void test_data(void **state) {
  (void)state;
  enum { N = 40 };
  static const struct {
    int version, slot; /* the header's slot that is changed, or the token from 256 on */
    int32_t value;
    const char *word1, *word2;
  } cases[] = {
      {1, 0, 7, "not a token shard", "20240520 or 20240801"},
      {1, 1, 2, "version 2", "expected version 1"},
      {7, 1, 1, "version 1", "7 or 8"},
      {7, 2, N + 1, "counts 41", "too few"},
      {7, 2, N - 1, "counts 39", "too many"},
      {8, 4, N + 1, "[4..5]", "write the shard again"},
      {8, 6, 72, "vocabulary of 72", "has 71"},
      {8, 10, 5, "hash", "damaged"},
      {7, 256 + 3, 71, "token 3 ", "expected 0 .. 70"},
      {8, 256 + 3, 4, "hash", "damaged"},
      {8, 7, 4, "flags 0x4", "does not know"},
  };
  copy_file("model.safetensors", NULL, NULL);
  copy_file("config.json", NULL, NULL);
  uint32_t tokens[N];
  for (uint32_t i = 0; i < N; i++) tokens[i] = i;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Error e;
    if (!shard_write(path_of("bad.bin"), cases[i].version, tokens, N, 0, 0, &e)) fail_msg("%s", e.text);
    FILE *f = fopen(path_of("bad.bin"), "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, 4 * cases[i].slot, SEEK_SET), 0);
    assert_int_equal(fwrite(&cases[i].value, 4, 1, f), 1);
    assert_int_equal(fclose(f), 0);
    refused("--model @/model --train @/bad.bin --seq-len 8 --batch 1 --out @/out", cases[i].word1,
            cases[i].word2);
    refused("--model @/model --train @/good.bin --val @/bad.bin --seq-len 8 --batch 1 --out @/out",
            cases[i].word1, cases[i].word2);
  }
  refused("--model @/model --train @/good.bin --seq-len 400 --out @/out", "has 400 tokens", "needs 401");
  refused("--model @/model --train '@/no*.bin' --seq-len 8 --out @/out", "no file matches", "no*.bin");
  refused("--model @/model --train @/good.bin --val '@/no*.bin' --seq-len 8 --out @/out", "no file matches",
          "no*.bin");
  refused("--model @/model --train @/model --seq-len 8 --out @/out", "not a regular file", "model");
}

/* ---- The readers alone ---------------------------------------------------------------------------- */

/* The reader's message, which must be the user's error, whole, and safe to print. */
static void check_message(bool accepted, const Error *e, const char *word1, const char *word2) {
  if (accepted) fail_msg("accepted; expected an error with '%s'", word1);
  assert_int_equal(e->code, EXIT_USAGE);
  if (!strstr(e->text, word1) || !strstr(e->text, word2))
    fail_msg("no '%s' and '%s' in: %s", word1, word2, e->text);
  assert_true(strlen(e->text) < sizeof e->text - 1);
  for (const char *c = e->text; *c; c++) assert_true((unsigned char)*c >= ' ' || *c == '\n');
}

static void refuse_tensors(const char *header, const char *word1, const char *word2) {
  uint64_t n = strlen(header);
  char *file = malloc(8 + n);
  assert_non_null(file);
  memcpy(file, &n, 8);
  memcpy(file + 8, header, n);
  write_bytes("x.safetensors", file, 8 + n);
  free(file);
  Error e = {0};
  check_message(safetensors_open(path_of("x.safetensors"), &e), &e, word1, word2);
}

static void refuse_config(const char *text, size_t bytes, const char *word1, const char *word2) {
  write_bytes("config.json", text, bytes);
  Config c;
  Error e = {0};
  check_message(hf_config_read(&c, folder, &e), &e, word1, word2);
}

/* `text` with its "~" replaced by n times `unit`; valid until the next call. */
static const char *grown(const char *text, const char *unit, int n) {
  static char out[1 << 14];
  size_t at = (size_t)(strchr(text, '~') - text), size = strlen(unit);
  memcpy(out, text, at);
  for (int i = 0; i < n; i++, at += size) memcpy(out + at, unit, size);
  strcpy(out + at, strchr(text, '~') + 1);
  return out;
}

static void test_tensor_headers(void **state) {
  (void)state;
  refuse_tensors("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}",
                 "\"dtype\"", "twice");
  refuse_tensors("{\"__metadata__\":{},\"__metadata__\":{}}", "__metadata__", "twice");
  refuse_tensors("{\"a\\u0000b\":{},\"a\":{}}", "\"a\"", "twice"); /* cJSON's strings end at the zero */
  refuse_tensors(grown("{\"a\":~", "[", 900), "x.safetensors", "not JSON");
  refuse_tensors(grown("{\"a\":~1]]}", "[", 2), "a is not described", "damaged");
  refuse_tensors(grown("{\"~\":{}}", "name", 700), "2800 bytes", "1 to 255");
  refuse_tensors("{\"\":{}}", "0 bytes", "1 to 255");
  refuse_tensors(grown("{\"a\":{\"dtype\":\"~\"}}", "F", 5000), "dtype FFFF", "Convert");
  refuse_tensors("{\"a\\u001b[2J\\n\":{}}", "tensor a?[2J\n", "damaged");
}

static void test_tensor_index(void **state) {
  (void)state;
  static const char *const cases[][2] = {
      {"{\"weight_map\":{\"a\":\"s\",\"a\":\"s\"}}", "\"a\" twice"},
      {"{\"weight_map\":{\"a\":\"s\"},\"weight_map\":{}}", "\"weight_map\" twice"},
      {"{\"weight_map\":{\"a\":\"s\"}} x", "is not JSON"},
      {"{\"metadata\":{}}", "no \"weight_map\""},
  };
  Error e = {0};
  assert_int_equal(mkdir(path_of("set"), 0777), 0);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    write_bytes("set/model.safetensors.index.json", cases[i][0], strlen(cases[i][0]));
    check_message(safetensors_open(path_of("set"), &e), &e, "model.safetensors.index.json", cases[i][1]);
  }
  const char *index = grown("{\"weight_map\":{\"a\":\"~\"}}", "s", 300);
  write_bytes("set/model.safetensors.index.json", index, strlen(index));
  check_message(safetensors_open(path_of("set"), &e), &e, "said to be in \"ssss", "same folder");
}

#define LLAMA                                                                                                \
  "{\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":4,"           \
  "\"num_attention_heads\":4,\"vocab_size\":300"

static void refuse_keys(const char *keys, const char *word1, const char *word2) {
  char text[4096];
  int n = snprintf(text, sizeof text, LLAMA ",%s}", keys);
  refuse_config(text, (size_t)n, word1, word2);
}

static void test_configs(void **state) {
  (void)state;
  refuse_config(LLAMA "}\0}", sizeof LLAMA + 2, "is not UTF-8 text", "config.json");
  refuse_keys("\"a\xff\":1", "is not UTF-8 text", "config.json");
  refuse_keys("\"a\xc3\"", "is not UTF-8 text", "config.json");
  refuse_keys("\"x\":[{\"y\":1,\"y\":2}]", "\"y\" twice", "Remove one");
  refuse_keys(grown("\"x\":~1]", "[", 0), "is not JSON", "expected");
  char text[256] = "\"x\":";
  memset(text + 4, '[', 100);
  memset(text + 104, ']', 100);
  refuse_keys(text, "more than 64 deep", "config.json");

  refuse_config("{\"model_type\":\"llama\",\"hidden_size\":1048576,\"intermediate_size\":4194304,"
                "\"num_hidden_layers\":1024,\"num_attention_heads\":16384,\"vocab_size\":300}",
                sizeof "{\"model_type\":\"llama\",\"hidden_size\":1048576,\"intermediate_size\":4194304,"
                       "\"num_hidden_layers\":1024,\"num_attention_heads\":16384,\"vocab_size\":300}" -
                    1,
                "parameters", "1125899906842624");
  refuse_keys("\"rms_norm_eps\":1e-300", "rms_norm_eps is 1e-300", "from 1e-12");
  refuse_keys("\"rms_norm_eps\":1e999", "rms_norm_eps is inf", "from 1e-12");
  refuse_keys("\"rope_theta\":1e300", "rope_theta is 1e+300", "up to 1e15");
  /* in fp32 these would make a frequency of 0/0 */
  refuse_keys("\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1e-300,"
              "\"high_freq_factor\":1e-299}",
              "low_freq_factor is 1e-300", "from 1e-06");
  refuse_keys("\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":1e7}", "factor is 1e+07", "up to 1e+06");
  refuse_keys("\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2,\"beta_slow\":1e-9}", "beta_slow",
              "1e-06");
  refuse_keys("\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2,\"mscale\":1e300}", "mscale", "1e+06");

  char *large = malloc(2 << 20);
  assert_non_null(large);
  memset(large, ' ', 2 << 20);
  refuse_config(large, 2 << 20, "2097152 bytes", "at most 1048576");
  free(large);
}

static void test_named_pipes(void **state) {
  (void)state;
  Error e = {0};
  Config c;
  Shard s;
  OpenFiles pool = {0};
  unlink(path_of("config.json"));
  assert_int_equal(mkfifo(path_of("config.json"), 0666), 0);
  assert_int_equal(mkfifo(path_of("pipe.safetensors"), 0666), 0);
  check_message(hf_config_read(&c, folder, &e), &e, "config.json", "not a plain file");
  check_message(safetensors_open(path_of("pipe.safetensors"), &e), &e, "pipe.safetensors",
                "not a plain file");
  check_message(shard_open(&s, &pool, path_of("pipe.safetensors"), 71, &e), &e, "pipe.safetensors",
                "not a regular file");
}

static int setup_all(void **state) {
  if (setup(state) != 0) return -1;
  write_good_data();
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_weights),
      cmocka_unit_test(test_weights_in_bytes),
      cmocka_unit_test(test_config_of_another_model),
      cmocka_unit_test(test_folders),
      cmocka_unit_test(test_data),
      cmocka_unit_test(test_tensor_headers),
      cmocka_unit_test(test_tensor_index),
      cmocka_unit_test(test_configs),
      cmocka_unit_test(test_named_pipes),
  };
  return cmocka_run_group_tests(tests, setup_all, teardown);
}
