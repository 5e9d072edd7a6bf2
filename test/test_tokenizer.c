/* The tokenizer against Hugging Face's `tokenizers` (the fixtures are made by make_tokenizer_fixtures.py):
 * ids and texts exactly, on nine kinds; long words; streams; and every refusal. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "io/file.h"
#include "tokenizer/tokenizer.h"
#include "base/utf8.h"

#define FIXTURES "test/fixtures/tokenizer/"

static const char *const kinds[] = {"llama3",  "qwen2",     "gpt2",     "added", "llama2",
                                    "mistral", "metaspace", "unspaced", "pieces"};
enum { KINDS = sizeof kinds / sizeof *kinds };

static cJSON *read_json(const char *path) {
  Error e;
  char *text = file_read_text(path, 1 << 30, NULL, &e);
  if (!text) fail_msg("%s", e.text);
  cJSON *json = cJSON_Parse(text);
  assert_non_null(json);
  free(text);
  return json;
}

static Tokenizer *open_kind(const char *kind) {
  char path[128];
  snprintf(path, sizeof path, FIXTURES "%s.json", kind);
  Error e;
  Tokenizer *t = tokenizer_open(path, &e);
  if (!t) fail_msg("%s", e.text);
  return t;
}

static cJSON *open_expected(const char *kind) {
  char path[128];
  snprintf(path, sizeof path, FIXTURES "%s.expected.json", kind);
  return read_json(path);
}

static const cJSON *get(const cJSON *json, const char *key) {
  return cJSON_GetObjectItemCaseSensitive(json, key);
}

/* {"text": ...}, or {"hex": ...} where the text holds a NUL. */
static Bytes text_of(const cJSON *json) {
  Bytes b = {0};
  const char *text = cJSON_GetStringValue(get(json, "text")), *hex = cJSON_GetStringValue(get(json, "hex"));
  assert_true(text || hex);
  if (text) bytes_append(&b, text, strlen(text));
  for (size_t i = 0; hex && hex[i]; i += 2) {
    unsigned byte;
    assert_int_equal(sscanf(hex + i, "%2x", &byte), 1);
    bytes_append(&b, &(uint8_t){(uint8_t)byte}, 1);
  }
  return b;
}

static Ids ids_of(const cJSON *list) {
  Ids ids = {0};
  const cJSON *item;
  cJSON_ArrayForEach(item, list) ids_append(&ids, (uint32_t)item->valuedouble);
  return ids;
}

static Ids encode(Encoder *x, const void *text, size_t n, int flags) {
  Ids ids = {0};
  Error e;
  if (!tokenizer_encode(x, text, n, flags, &ids, &e)) fail_msg("%s", e.text);
  return ids;
}

static void assert_ids(const char *kind, const Bytes *text, Ids found, Ids expected) {
  bool same = found.n == expected.n && (!found.n || !memcmp(found.data, expected.data, found.n * 4));
  if (!same) {
    size_t at = 0;
    while (at < found.n && at < expected.n && found.data[at] == expected.data[at]) at++;
    fail_msg("%s: \"%.*s\": %zu ids, expected %zu; they differ from id %zu on: %d, expected %d", kind,
             (int)text->n, (char *)text->data, found.n, expected.n, at,
             at < found.n ? (int)found.data[at] : -1, at < expected.n ? (int)expected.data[at] : -1);
  }
  ids_free(&found);
  ids_free(&expected);
}

static void check_encoding(const char *kind, Encoder *x, const cJSON *c) {
  Bytes text = text_of(c);
  const cJSON *plain = get(c, "plain");
  assert_ids(kind, &text, encode(x, text.data, text.n, 0), ids_of(get(c, "ids")));
  assert_ids(kind, &text, encode(x, text.data, text.n, ENCODE_SPECIAL_AS_TEXT),
             ids_of(plain ? plain : get(c, "ids")));
  bytes_free(&text);
}

static void test_ids(void **state) {
  (void)state;
  for (int k = 0; k < KINDS; k++) {
    cJSON *expected = open_expected(kinds[k]);
    Tokenizer *t = open_kind(kinds[k]);
    Encoder *x = encoder_new(t);
    const cJSON *c;
    int n = 0;
    cJSON_ArrayForEach(c, get(expected, "cases")) check_encoding(kinds[k], x, c), n++;
    assert_true(n > 60);
    Bytes a = {(uint8_t *)"a", 1, 0};
    assert_ids(kinds[k], &a, encode(x, "a", 1, ENCODE_TEMPLATE), ids_of(get(expected, "template")));
    assert_int_equal(tokenizer_vocab_size(t), (int64_t)get(expected, "vocab_size")->valuedouble);
    encoder_free(x);
    tokenizer_close(t);
    cJSON_Delete(expected);
  }
}

/* ---- decoding ---- */

/* Decodes at once and as a stream, which must never hold half a character. */
static Bytes decode(const Tokenizer *t, Ids ids, bool skip_special) {
  Bytes whole = {0}, streamed = {0};
  Error e;
  if (!tokenizer_decode(t, ids.data, ids.n, skip_special, &whole, &e)) fail_msg("%s", e.text);
  TextStream *s = text_stream_new(t, skip_special);
  for (size_t i = 0; i < ids.n; i++) {
    assert_true(text_stream_push(s, ids.data[i], &streamed, &e));
    assert_int_equal(utf8_valid((char *)streamed.data, streamed.n), streamed.n);
  }
  text_stream_finish(s, &streamed);
  text_stream_free(s);
  assert_int_equal(streamed.n, whole.n);
  if (whole.n) assert_memory_equal(streamed.data, whole.data, whole.n);
  bytes_free(&streamed);
  return whole;
}

/* expected: NULL = `otherwise`. */
static void check_decoding(const char *kind, const Tokenizer *t, const cJSON *c, bool skip,
                           const Bytes *text) {
  const cJSON *json = get(c, skip ? "skipped" : "decoded");
  Bytes expected = {0};
  if (json)
    expected = text_of(json);
  else
    bytes_append(&expected, text->data, text->n);
  Ids ids = ids_of(get(c, "ids"));
  Bytes found = decode(t, ids, skip);
  if (found.n != expected.n || (found.n && memcmp(found.data, expected.data, found.n)))
    fail_msg("%s: decoded \"%.*s\", expected \"%.*s\"", kind, (int)found.n, (char *)found.data,
             (int)expected.n, (char *)expected.data);
  ids_free(&ids);
  bytes_free(&found);
  bytes_free(&expected);
}

static void test_texts(void **state) {
  (void)state;
  for (int k = 0; k < KINDS; k++) {
    cJSON *expected = open_expected(kinds[k]);
    Tokenizer *t = open_kind(kinds[k]);
    const cJSON *c;
    cJSON_ArrayForEach(c, get(expected, "cases")) {
      Bytes text = text_of(c);
      check_decoding(kinds[k], t, c, false, &text);
      check_decoding(kinds[k], t, c, true, &text);
      bytes_free(&text);
    }
    cJSON_ArrayForEach(c, get(expected, "decodes")) {
      check_decoding(kinds[k], t, c, false, NULL);
      check_decoding(kinds[k], t, c, true, NULL);
    }
    tokenizer_close(t);
    cJSON_Delete(expected);
  }
}

/* What must come back as it was, whatever Hugging Face does: every text through the kinds that lose nothing.
 */
static void test_round_trips(void **state) {
  (void)state;
  static const char *const exact[] = {"llama3", "gpt2"};
  for (int k = 0; k < 2; k++) {
    cJSON *expected = open_expected(exact[k]);
    Tokenizer *t = open_kind(exact[k]);
    Encoder *x = encoder_new(t);
    const cJSON *c;
    cJSON_ArrayForEach(c, get(expected, "cases")) {
      Bytes text = text_of(c);
      Ids ids = encode(x, text.data, text.n, 0);
      Bytes back = decode(t, ids, false);
      assert_int_equal(back.n, text.n);
      if (text.n) assert_memory_equal(back.data, text.data, text.n);
      ids_free(&ids);
      bytes_free(&back);
      bytes_free(&text);
    }
    encoder_free(x);
    tokenizer_close(t);
    cJSON_Delete(expected);
  }
}

/* ---- long words ---- */

/* FNV-1a, as the script computes it. */
static uint64_t hash_ids(const Ids *ids) {
  uint64_t h = 0xcbf29ce484222325u;
  for (size_t i = 0; i < ids->n; i++) {
    for (int b = 0; b < 4; b++) h = (h ^ (ids->data[i] >> (8 * b) & 255)) * 0x100000001b3u;
  }
  return h;
}

static Bytes repeat(const char *unit, size_t times) {
  Bytes text = {0};
  for (size_t i = 0; i < times; i++) bytes_append(&text, unit, strlen(unit));
  return text;
}

static void test_long_words(void **state) {
  (void)state;
  for (int k = 0; k < KINDS; k++) {
    cJSON *expected = open_expected(kinds[k]);
    Tokenizer *t = open_kind(kinds[k]);
    Encoder *x = encoder_new(t);
    const cJSON *c;
    cJSON_ArrayForEach(c, get(expected, "long")) {
      Bytes text = repeat(get(c, "text")->valuestring, (size_t)get(c, "times")->valuedouble);
      Ids ids = encode(x, text.data, text.n, 0);
      char hash[17];
      snprintf(hash, sizeof hash, "%016llx", (unsigned long long)hash_ids(&ids));
      if (ids.n != (size_t)get(c, "count")->valuedouble || strcmp(hash, get(c, "hash")->valuestring) != 0)
        fail_msg("%s: \"%s\" many times: %zu ids, expected %g", kinds[k], get(c, "text")->valuestring, ids.n,
                 get(c, "count")->valuedouble);
      ids_free(&ids);
      bytes_free(&text);
    }
    encoder_free(x);
    tokenizer_close(t);
    cJSON_Delete(expected);
  }
}

static double seconds_for(Encoder *x, const char *unit, size_t times) {
  Bytes text = repeat(unit, times);
  struct timespec a, b;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
  Ids ids = encode(x, text.data, text.n, 0);
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
  ids_free(&ids);
  bytes_free(&text);
  return (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
}

/* A word, or a row of marks, that is 16 times as long takes about 16 times as long; quadratic would be 256
 * times. */
static void test_long_words_are_not_quadratic(void **state) {
  (void)state;
  static const struct {
    const char *kind, *unit;
    size_t times;
  } of[] = {{"llama3", "mensch", 1 << 15},
            {"unspaced", "mensch", 1 << 15},
            {"llama2", "mensch", 1 << 15},
            {"qwen2", "\u0301\u0323", 1 << 13}};
  for (size_t k = 0; k < sizeof of / sizeof *of; k++) {
    Tokenizer *t = open_kind(of[k].kind);
    Encoder *x = encoder_new(t);
    seconds_for(x, of[k].unit, of[k].times);
    double small = seconds_for(x, of[k].unit, of[k].times),
           large = seconds_for(x, of[k].unit, of[k].times * 16);
    if (large > 80 * small)
      fail_msg("%s: \"%s\": %g s for %zu, %g s for 16 times as many", of[k].kind, of[k].unit, small,
               of[k].times, large);
    encoder_free(x);
    tokenizer_close(t);
  }
}

/* ---- special tokens ---- */

static void test_bos_and_eos(void **state) {
  (void)state;
  Tokenizer *t = open_kind("mistral");
  assert_int_equal(tokenizer_bos(t), 1);
  assert_int_equal(tokenizer_eos(t), 2);
  assert_int_equal(tokenizer_find(t, "</s>"), 2);
  assert_int_equal(tokenizer_find(t, "no such token"), -1);
  tokenizer_close(t);
  t = open_kind("gpt2");
  assert_int_equal(tokenizer_bos(t), -1);
  assert_int_equal(tokenizer_eos(t), -1);
  tokenizer_close(t);
}

/* A folder, with the names of the tokens that the template does not know. */
static void test_folder(void **state) {
  (void)state;
  char folder[] = "/tmp/test_tokenizer_XXXXXX", path[128];
  assert_non_null(mkdtemp(folder));
  Error e;
  snprintf(path, sizeof path, "%s/tokenizer.json", folder);
  assert_true(file_copy(FIXTURES "llama3.json", path, &e));
  snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
  assert_true(file_write_text(path,
                              "{\"bos_token\": \"<|end_of_text|>\", \"eos_token\": {\"content\": "
                              "\"<|end_of_text|>\", \"lstrip\": false}}",
                              &e));
  Tokenizer *t = tokenizer_open(folder, &e), *same = open_kind("llama3"), *other = open_kind("qwen2");
  assert_non_null(t);
  assert_int_equal(tokenizer_bos(t), 900); /* the template's */
  assert_int_equal(tokenizer_eos(t), 901);
  assert_true(tokenizer_hash(t) == tokenizer_hash(same) && tokenizer_hash(t) != tokenizer_hash(other));
  tokenizer_close(t);
  tokenizer_close(same);
  tokenizer_close(other);
  assert_true(file_write_text(path, "{\"bos_token\": ", &e));
  assert_null(tokenizer_open(folder, &e));
  assert_non_null(strstr(e.text, "is not JSON"));
  assert_true(folder_remove(folder, &e));
}

/* ---- errors ---- */

static void test_bad_text(void **state) {
  (void)state;
  Tokenizer *t = open_kind("llama3");
  Encoder *x = encoder_new(t);
  Ids ids = {0};
  Error e;
  static const struct {
    const char *text;
    int byte;
  } bad[] = {{"a\x80", 1},           {"\xc0\x80", 0},         {"ab\xe2\x82", 2},
             {"\xed\xa0\x80", 0},    {"\xf4\x90\x80\x80", 0}, {"1234567\xff", 7},
             {"12345678\xc3\x28", 8}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    assert_false(tokenizer_encode(x, bad[i].text, strlen(bad[i].text), ENCODE_TEMPLATE, &ids, &e));
    char expected[32];
    snprintf(expected, sizeof expected, "byte %d of", bad[i].byte);
    if (!strstr(e.text, expected)) fail_msg("found %s, expected %s", e.text, expected);
    assert_int_equal(e.code, EXIT_USAGE);
    assert_int_equal(ids.n, 0);
  }
  Bytes text = {0};
  assert_false(tokenizer_decode(t, &(uint32_t){100000}, 1, false, &text, &e));
  assert_non_null(strstr(e.text, "no token 100000"));
  ids_free(&ids);
  bytes_free(&text);
  encoder_free(x);
  tokenizer_close(t);
}

/* A small file, with one of its parts replaced. */
static char *small_file(const char *part, const char *value) {
  static char text[4096];
  static const char *const keys[] = {"added_tokens",   "normalizer", "pre_tokenizer",
                                     "post_processor", "decoder",    "model"};
  size_t at = (size_t)snprintf(text, sizeof text, "{\"version\": \"1.0\"");
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    const char *v =
        strcmp(keys[i], "model") == 0
            ? "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]}"
            : "null";
    at += (size_t)snprintf(text + at, sizeof text - at, ", \"%s\": %s", keys[i],
                           strcmp(part, keys[i]) == 0 ? value : v);
  }
  snprintf(text + at, sizeof text - at, "}");
  return text;
}

static void refused(const char *json, const char *message) {
  Error e;
  Tokenizer *t = tokenizer_parse("FILE", json, strlen(json), &e);
  if (t) fail_msg("not refused: %s", json);
  if (!strstr(e.text, message) || strncmp(e.text, "FILE: ", 6) != 0 || e.code != EXIT_USAGE)
    fail_msg("said: %s\nexpected: %s\nof: %s", e.text, message, json);
}

#define MODEL(members) "{\"type\": \"BPE\", " members "}"
#define SPLIT(pattern)                                                                                       \
  "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"" pattern "\"}, \"behavior\": \"Isolated\"}"

static void test_refusals(void **state) {
  (void)state;
  static const struct {
    const char *part, *value, *message;
  } cases[] = {
      {"model", "{\"type\": \"Unigram\", \"vocab\": {}, \"merges\": []}", "model of type Unigram"},
      {"model", "{\"type\": \"WordPiece\"}", "only BPE"},
      {"model", MODEL("\"vocab\": {\"a\": 0}, \"merges\": [], \"dropout\": 0.1"), "dropout of 0.1"},
      {"model", MODEL("\"vocab\": {\"a\": 0}, \"merges\": [], \"end_of_word_suffix\": \"</w>\""), "</w>"},
      {"model", MODEL("\"vocab\": {\"a\": 0}, \"merges\": [], \"unk_token\": \"?\""), "unknown token \"?\""},
      {"model", MODEL("\"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []"), "there twice"},
      {"model", MODEL("\"vocab\": {\"a\": 0, \"a\": 1}, \"merges\": []"), "there twice"},
      {"model", MODEL("\"vocab\": {\"a\": -1}, \"merges\": []"), "found the id -1"},
      {"model", MODEL("\"vocab\": {\"a\": 1.5}, \"merges\": []"), "found the id 1.5"},
      {"model", MODEL("\"vocab\": {\"a\": 99999999999}, \"merges\": []"), "found the id 99999999999"},
      {"model", MODEL("\"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": [[\"a\", \"b\"]]"), "merge 0 of"},
      {"model", MODEL("\"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]"), "merge 0 is not a pair"},
      {"model", MODEL("\"vocab\": {\"a\": 0}, \"merges\": [\"a b c\"]"), "merge 0 is not a pair"},
      {"model", MODEL("\"vocab\": {\"a\\u0000\": 0}, \"merges\": []"), "U+0000"},
      {"model", MODEL("\"vocab\": {\"a\": 0,, }, \"merges\": []"), "malformed"},
      {"model", MODEL("\"vocab\": {\"a\xff\": 0}, \"merges\": []"), "not UTF-8"},
      {"normalizer", "{\"type\": \"NFKC\"}", "normalizer of type NFKC"},
      {"normalizer", "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"x\"}, \"content\": \"\"}", "String"},
      {"normalizer", "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Lowercase\"}]}", "Lowercase"},
      {"pre_tokenizer", "{\"type\": \"Whitespace\"}", "pre_tokenizer of type Whitespace"},
      {"pre_tokenizer", "{\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": \"x\"}",
       "prepend_scheme x"},
      {"pre_tokenizer", "{\"type\": \"ByteLevel\"}", "no token for the byte 0x00"},
      {"pre_tokenizer",
       "{\"type\": \"Split\", \"pattern\": {\"String\": \"x\"}, \"behavior\": \"MergedWithNext\"}",
       "behavior MergedWithNext"},
      {"pre_tokenizer", SPLIT("\\\\w+"), "an escape at byte 0"},
      {"pre_tokenizer", SPLIT("a\\\\b"), "an escape at byte 1"},
      {"pre_tokenizer", SPLIT("\\\\p{Han}"), "a property"},
      {"pre_tokenizer", SPLIT("[a-z&&[^b]]"), "an intersection"},
      {"pre_tokenizer", SPLIT("[a[bc]]"), "a class inside"},
      {"pre_tokenizer", SPLIT("(?i)x"), "a group"},
      {"pre_tokenizer", SPLIT("(?i:stop)"), "a caseless group"},
      {"pre_tokenizer", SPLIT("a{1,3}+"), "a repetition"},
      {"pre_tokenizer", SPLIT("a{,3}"), "a repetition"},
      {"pre_tokenizer", SPLIT("^a"), "a ^, $ or ."},
      {"pre_tokenizer", SPLIT("a*"), "matches the empty text"},
      {"pre_tokenizer", SPLIT("(a"), "at byte 2"},
      {"post_processor", "{\"type\": \"BertProcessing\"}", "post_processor of type BertProcessing"},
      {"post_processor",
       "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"x\"}}]}",
       "token \"x\""},
      {"post_processor",
       "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"a\"}}, {\"Sequence\": "
       "{\"id\": \"A\"}}], \"special_tokens\": {\"a\": {\"ids\": [0, 1]}}}",
       "several tokens before"},
      {"decoder", "{\"type\": \"WordPiece\"}", "of type WordPiece"},
      {"decoder", "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}", "Strip"},
      {"added_tokens", "[{\"id\": 5, \"content\": \"a\"}]", "has the id 5, but 0"},
      {"added_tokens", "[{\"id\": 0, \"content\": \"x\"}]", "has the id 0, but `tokenizers` would make it 3"},
      {"added_tokens", "[{\"id\": 3, \"content\": \"x\"}, {\"id\": 5, \"content\": \"y\"}]",
       "has the id 5, but `tokenizers` would make it 4"},
      {"added_tokens", "[{\"id\": 3, \"content\": \"x\", \"lstrip\": 3}]", "expected true or false"},
  };
  Error e;
  char *good = small_file("", "");
  Tokenizer *t = tokenizer_parse("FILE", good, strlen(good), &e);
  assert_non_null(t);
  tokenizer_close(t);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    refused(small_file(cases[i].part, cases[i].value), cases[i].message);
  refused("", "expected an object");
  static const char nul[] = "{\"model\": {\"vocab\": {\"a\0b\": 0}, \"merges\": []}}";
  assert_null(tokenizer_parse("FILE", nul, sizeof nul - 1, &e));
  assert_non_null(strstr(e.text, "U+0000"));
  refused("{\"model\": {\"vocab\": ", "malformed");
  refused("{\"version\": \"2.0\", \"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}",
          "found version \"2.0\"");
  refused(
      "{\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \"``\"}, \"content\": \"x\"}, "
      "\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": \"first\"}}",
      "behind a Replace");
  refused("[]", "expected an object");
  assert_null(tokenizer_open("/nowhere/tokenizer.json", &e));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ids),
      cmocka_unit_test(test_texts),
      cmocka_unit_test(test_round_trips),
      cmocka_unit_test(test_long_words),
      cmocka_unit_test(test_long_words_are_not_quadratic),
      cmocka_unit_test(test_bos_and_eos),
      cmocka_unit_test(test_folder),
      cmocka_unit_test(test_bad_text),
      cmocka_unit_test(test_refusals),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
