/* --generate and samples as a user sees them: the text that transformers writes (test/fixtures/greedy.json),
 * the bytes of a model without a tokenizer, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/stat.h>

#include <cjson/cJSON.h>

#include "base/utf8.h"
#include "test/program.h"

static cJSON *texts; /* of greedy.json */

static void copy(const char *from, const char *to) {
  Error e;
  if (!file_copy(from, path_of(to), &e)) fail_msg("%s", e.text);
}

/* The folder `greedy` with its tokenizer, and the demo's model after a step, `bytes/step-00000001`. */
static int setup(void **state) {
  Error e;
  if (program_setup(state)) return -1;
  if (mkdir(path_of("greedy"), 0777)) return -1;
  copy("test/fixtures/greedy/config.json", "greedy/config.json");
  copy("test/fixtures/greedy/generation_config.json", "greedy/generation_config.json");
  copy("test/fixtures/greedy/model.safetensors", "greedy/model.safetensors");
  copy("test/fixtures/tokenizer/llama3.json", "greedy/tokenizer.json");
  expect(0, "# saved", "--steps 1 --seq-len 16 --batch 1 --eval-batches 1 --out @/bytes");
  char *text = file_read_text("test/fixtures/greedy.json", 1 << 20, NULL, &e);
  if (!text) fail_msg("%s", e.text);
  cJSON *json = cJSON_Parse(text);
  texts = cJSON_DetachItemFromObject(json, "texts");
  cJSON_Delete(json);
  free(text);
  return texts ? 0 : -1;
}

static int teardown(void **state) {
  cJSON_Delete(texts);
  return program_teardown(state);
}

static const char *string(const cJSON *json, const char *key) {
  const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, key));
  assert_non_null(s);
  return s;
}

/* Standard output alone is the text and a newline. */
static void expect_text(const char *model, const char *prompt, const char *flags, const char *text) {
  char arguments[1024];
  snprintf(arguments, sizeof arguments, "--model @/%s --generate '%s' %s 2>@/said", model, prompt, flags);
  expect(0, text, arguments);
  assert_int_equal(strlen(said), strlen(text) + 1);
  assert_int_equal(said[strlen(text)], '\n');
}

static void writes_what_transformers_writes(void **state) {
  (void)state;
  const cJSON *c;
  cJSON_ArrayForEach(c, texts)
      expect_text("greedy", string(c, "prompt"), "--temperature 0 --max-new 40", string(c, "text"));
}

static void stops_where_a_text_ends(void **state) {
  (void)state;
  const cJSON *c = texts->child;
  char *ends = cJSON_PrintUnformatted(cJSON_GetObjectItem(c, "ends")), json[256];
  snprintf(json, sizeof json, "{\"eos_token_id\": %s, \"bos_token_id\": 900}", ends);
  write_text("greedy/generation_config.json", json);
  free(ends);
  expect_text("greedy", string(c, "prompt"), "--temperature 0 --max-new 40", string(c, "ended_text"));
  copy("test/fixtures/greedy/generation_config.json", "greedy/generation_config.json");
}

/* Drawn text is the seed's, whole characters, and as long as was asked for. */
static void draws_bytes(void **state) {
  (void)state;
  static char first[sizeof said];
#define BYTES "--model @/bytes/step-00000001 --generate 'na\xC3\xAFve' --temperature 2 --max-new 300 "
  expect(0, "na\xC3\xAFve", BYTES "2>@/said");
  assert_int_equal(utf8_valid(said, strlen(said)), strlen(said));
  assert_true(strlen(said) > 200);
  strcpy(first, said);
  expect(0, first, BYTES "2>@/said");
  expect(0, "na", BYTES "--seed 43 2>@/said");
  assert_string_not_equal(said, first);
  expect(0, "# 6 tokens of the prompt, 20 new ones",
         "--model @/bytes/step-00000001 --generate 'na\xC3\xAFve' --temperature 0 --max-new 20");
}

static void says_what_it_takes(void **state) {
  (void)state;
  expect(0, "generate keys", "--model @/greedy --generate x --max-new 4096 --plan --json");
  expect(0, "beyond the model's max_position_embeddings, 256",
         "--model @/greedy --generate x --max-new 300 --temperature 0");
}

static void samples_through_the_tokenizer(void **state) {
  (void)state;
  const char *text = "All human beings are born free and equal in dignity and rights. ";
  char line[8192] = "";
  for (int i = 0; i < 40; i++) strcat(line, text);
  write_text("text.txt", line);
  char command[2048];
  program_command(command, sizeof command, "", "tokenize",
                  "--tokenizer @/greedy --input @/text.txt --out @/data");
  if (shell(command) != 0) fail_msg("%s", said);
#define TRAIN "--train '@/data/*.bin' --seq-len 32 --batch 2 --steps 2 --sample-every 1 --threads 1 "
  expect(0, " in dignity and rights. ", "--model @/greedy " TRAIN);
  expect(0, " in dignity and rights. ",
         "--model @/greedy --dtype bf16 --update layer --clip 0 --top-k 3 " TRAIN);
  if (remove(path_of("greedy/tokenizer.json"))) fail();
  expect(2, "--sample-every: found no tokenizer.json", "--model @/greedy " TRAIN);
  copy("test/fixtures/tokenizer/llama3.json", "greedy/tokenizer.json");
}

static void refuses(void **state) {
  (void)state;
  mkdir(path_of("broken"), 0777);
  copy("test/fixtures/greedy/config.json", "broken/config.json");
  copy("test/fixtures/greedy/model.safetensors", "broken/model.safetensors");
  static const struct {
    const char *arguments, *message;
  } cases[] = {
      {"--generate '' --model @/greedy", "expected text that is not empty"},
      {"--generate --model @/greedy", "found no value"},
      {"--generate x", "a preset has no weights"},
      {"--generate x --model llama2-7b", "a preset has no weights"},
      {"--generate x --model @/nowhere", "a preset has no weights"},
      {"--generate x --model @/broken", "found no tokenizer.json"},
      {"--generate x --model test/fixtures/llama3", "found no tokenizer.json"},
      {"--generate $(printf 'a\\377b') --model @/greedy", "UTF-8"},
      {"--generate x --model @/greedy --max-new 0", "--max-new"},
      {"--generate x --model @/greedy --temperature -1", "--temperature"},
      {"--generate x --model @/greedy --top-p 0", "--top-p"},
      {"--generate x --model @/greedy --top-k -1", "--top-k"},
      {"--generate x --model @/greedy --train y", "found it with --train"},
      {"--generate x --model @/greedy --out @/z", "found it with --out"},
      {"--max-new 3", "found no --generate"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) expect(2, cases[i].message, cases[i].arguments);

  write_text("broken/tokenizer.json", "{\"model\": {\"type\": \"Unigram\"}}");
  expect(2, "only BPE is supported", "--generate x --model @/broken");
  write_text("broken/tokenizer.json",
             "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"x\": 922, \"y\": 0}, \"merges\": []}}");
  expect(2, "token 922 is beyond the model's vocabulary of 922", "--generate yx --model @/broken");
  write_text("broken/generation_config.json", "{\"eos_token_id\": [1, \"two\"]}");
  expect(2, "eos_token_id", "--generate x --model @/broken");
  write_text("broken/generation_config.json", "{");
  expect(2, "generation_config.json", "--generate x --model @/broken");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(writes_what_transformers_writes),
      cmocka_unit_test(stops_where_a_text_ends),
      cmocka_unit_test(draws_bytes),
      cmocka_unit_test(says_what_it_takes),
      cmocka_unit_test(samples_through_the_tokenizer),
      cmocka_unit_test(refuses),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
