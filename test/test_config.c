/* Config: config.json as transformers 4 and 5 write it, what is refused, what is written; the presets; the
 * rotary frequencies against Hugging Face's. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "io/hf_config.h"

static char folder[64], file[128];

static int make_folder(void **state) {
  (void)state;
  strcpy(folder, "/tmp/test_config.XXXXXX");
  if (!mkdtemp(folder)) return -1;
  snprintf(file, sizeof file, "%s/config.json", folder);
  return 0;
}

static int remove_folder(void **state) {
  (void)state;
  unlink(file);
  return rmdir(folder);
}

static void write_text(const char *text) {
  FILE *f = fopen(file, "wb");
  assert_non_null(f);
  fputs(text, f);
  assert_int_equal(fclose(f), 0);
}

static char *read_text(void) {
  static char text[1 << 16];
  FILE *f = fopen(file, "rb");
  assert_non_null(f);
  text[fread(text, 1, sizeof text - 1, f)] = '\0';
  fclose(f);
  return text;
}

static Config read_config(const char *text) {
  write_text(text);
  Config c;
  Error e = {0};
  if (!hf_config_read(&c, folder, &e)) fail_msg("%s", e.text);
  assert_string_equal(c.source_json, text);
  return c;
}

/* What Config is now, written and read again. */
static Config written(const Config *c) {
  Error e = {0};
  Config again;
  if (!hf_config_write(c, DT_BF16, folder, &e) || !hf_config_read(&again, folder, &e)) fail_msg("%s", e.text);
  return again;
}

static void assert_same(const Config *a, const Config *b) {
  assert_string_equal(a->family, b->family);
  assert_memory_equal(&a->C, &b->C, offsetof(Config, norm_eps) - offsetof(Config, C));
  assert_true(a->norm_eps == b->norm_eps && a->init_std == b->init_std);
  assert_true(a->tied == b->tied && a->qkv_bias == b->qkv_bias && a->o_bias == b->o_bias &&
              a->mlp_bias == b->mlp_bias && a->qk_norm == b->qk_norm);
  assert_true(a->rope.theta == b->rope.theta && a->rope.factor == b->rope.factor);
  assert_int_equal(a->rope.scaling, b->rope.scaling);
  assert_int_equal(a->rope.original_T, b->rope.original_T);
  assert_int_equal(a->bos, b->bos);
  assert_int_equal(a->eos, b->eos);
  for (int64_t i = 0; i < a->L; i++) {
    assert_int_equal(a->layers[i].window, b->layers[i].window);
    assert_int_equal(a->layers[i].activation, b->layers[i].activation);
  }
}

/* ---- Reading -------------------------------------------------------------------------------------- */

#define SIZES                                                                                                \
  "\"hidden_size\": 64, \"intermediate_size\": 96, \"num_hidden_layers\": 4, \"num_attention_heads\": 4, "   \
  "\"vocab_size\": 300"

/* Llama 3.1's spelling, of transformers 4. */
static const char llama4[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"attention_bias\": true, \"bos_token_id\": 7,\n"
    "\"eos_token_id\": [8, 9, 10], \"hidden_act\": \"silu\", \"hidden_size\": 64, \"head_dim\": 32,\n"
    "\"initializer_range\": 0.03, \"intermediate_size\": 96, \"max_position_embeddings\": 131072,\n"
    "\"mlp_bias\": true, \"model_type\": \"llama\", \"num_attention_heads\": 4, \"num_hidden_layers\": 2,\n"
    "\"num_key_value_heads\": 2, \"pretraining_tp\": 1, \"rms_norm_eps\": 1e-05, \"rope_scaling\": {\n"
    "\"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0,\n"
    "\"original_max_position_embeddings\": 8192, \"rope_type\": \"llama3\"}, \"rope_theta\": 500000.0,\n"
    "\"tie_word_embeddings\": true, \"torch_dtype\": \"bfloat16\", \"transformers_version\": \"4.43.0\",\n"
    "\"vocab_size\": 300, \"unknown\": {\"exact\": 12345678901234567890, \"float\": 1.0, \"text\": \"a "
    "\\\"3\\\"\"}}";

/* The same of transformers 5. */
static const char llama5[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"attention_bias\": true, \"bos_token_id\": 7,\n"
    "\"dtype\": \"bfloat16\", \"eos_token_id\": [8, 9, 10], \"hidden_act\": \"silu\", \"hidden_size\": 64,\n"
    "\"head_dim\": 32, \"initializer_range\": 0.03, \"intermediate_size\": 96,\n"
    "\"max_position_embeddings\": 131072, \"mlp_bias\": true, \"model_type\": \"llama\",\n"
    "\"num_attention_heads\": 4, \"num_hidden_layers\": 2, \"num_key_value_heads\": 2, \"pad_token_id\": "
    "null,\n"
    "\"rms_norm_eps\": 1e-05, \"rope_parameters\": {\"factor\": 8.0, \"low_freq_factor\": 1.0,\n"
    "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192, \"rope_theta\": 500000.0,\n"
    "\"rope_type\": \"llama3\"}, \"tie_word_embeddings\": true, \"transformers_version\": \"5.0.0\",\n"
    "\"vocab_size\": 300}";

static void test_reads_both_spellings(void **state) {
  (void)state;
  Config a = read_config(llama4), b = read_config(llama5);
  assert_same(&a, &b);
  assert_string_equal(a.family, "llama");
  assert_true(a.C == 64 && a.L == 2 && a.NH == 4 && a.NKV == 2 && a.HS == 32 && a.FF == 96 && a.V == 300);
  assert_true(a.max_T == 131072 && a.norm_eps == 1e-5 && a.init_std == 0.03);
  assert_true(a.tied && a.qkv_bias && a.o_bias && a.mlp_bias && !a.qk_norm);
  assert_true(a.bos == 7 && a.eos == 8);
  for (int i = 0; i < 2; i++) {
    const Rope *r = i ? &b.rope : &a.rope;
    assert_true(r->theta == 5e5 && r->scaling == ROPE_LLAMA3 && r->factor == 8 && r->low_freq_factor == 1 &&
                r->high_freq_factor == 4 && r->original_T == 8192);
  }
  assert_true(a.layers[1].window == 0 && a.layers[1].activation == ACT_SILU);
  config_free(&a);
  config_free(&b);
  assert_null(a.layers);
}

static void test_defaults_of_families(void **state) {
  (void)state;
  static const struct {
    const char *type;
    int64_t NKV, HS, max_T, window, bos, eos;
    bool qkv_bias, o_bias, qk_norm;
  } cases[] = {
      {"llama", 32, 8, 2048, 0, 1, 2, false, false, false},
      {"mistral", 8, 8, 131072, 4096, 1, 2, false, false, false},
      {"qwen2", 32, 8, 32768, 0, -1, -1, true, false, false},
      {"qwen3", 32, 128, 32768, 0, -1, -1, false, false, true},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[512];
    snprintf(
        text, sizeof text,
        "{\"model_type\": \"%s\", \"hidden_size\": 256, \"intermediate_size\": 96, \"num_hidden_layers\": 1, "
        "\"num_attention_heads\": 32, \"vocab_size\": 300}",
        cases[i].type);
    Config c = read_config(text);
    assert_int_equal(c.NKV, cases[i].NKV);
    assert_int_equal(c.HS, cases[i].HS);
    assert_int_equal(c.max_T, cases[i].max_T);
    assert_int_equal(c.layers[0].window, cases[i].window);
    assert_int_equal(c.bos, cases[i].bos);
    assert_int_equal(c.eos, cases[i].eos);
    assert_true(c.qkv_bias == cases[i].qkv_bias && c.o_bias == cases[i].o_bias &&
                c.qk_norm == cases[i].qk_norm);
    assert_true(c.norm_eps == 1e-6 && c.init_std == 0.02 && !c.tied && !c.mlp_bias);
    assert_true(c.rope.theta == 10000 && c.rope.scaling == ROPE_NONE);
    config_free(&c);
  }
}

/* Windows of the four layers, by the keys as each family reads them. */
static void test_windows(void **state) {
  (void)state;
  static const struct {
    const char *type, *keys;
    int64_t windows[4];
  } cases[] = {
      {"mistral", "\"sliding_window\": 17", {17, 17, 17, 17}},
      {"mistral", "\"sliding_window\": null", {0, 0, 0, 0}},
      {"llama", "\"sliding_window\": 17", {0, 0, 0, 0}},
      {"qwen2", "\"sliding_window\": 17", {0, 0, 0, 0}},
      {"qwen2", "\"sliding_window\": 17, \"use_sliding_window\": false", {0, 0, 0, 0}},
      {"qwen2", "\"sliding_window\": 17, \"use_sliding_window\": true", {0, 0, 0, 0}}, /* from layer 28 on */
      {"qwen2",
       "\"sliding_window\": 17, \"use_sliding_window\": true, \"max_window_layers\": 3",
       {0, 0, 0, 17}},
      {"qwen3", "\"use_sliding_window\": true, \"max_window_layers\": 0", {4096, 4096, 4096, 4096}},
      {"qwen3",
       "\"sliding_window\": 17, \"use_sliding_window\": true, \"max_window_layers\": 0, \"layer_types\": "
       "[\"full_attention\", \"sliding_attention\", \"sliding_attention\", \"full_attention\"]",
       {0, 17, 17, 0}},
      {"mistral",
       "\"sliding_window\": 17, \"layer_types\": "
       "[\"sliding_attention\", \"sliding_attention\", \"sliding_attention\", \"sliding_attention\"]",
       {17, 17, 17, 17}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[1024];
    snprintf(text, sizeof text, "{\"model_type\": \"%s\", \"num_key_value_heads\": 4, " SIZES ", %s}",
             cases[i].type, cases[i].keys);
    Config c = read_config(text);
    for (int l = 0; l < 4; l++) assert_int_equal(c.layers[l].window, cases[i].windows[l]);
    Config again = written(&c);
    assert_same(&c, &again);
    config_free(&c);
    config_free(&again);
  }
}

static void test_ropes(void **state) {
  (void)state;
  static const struct {
    const char *keys;
    Rope rope;
  } cases[] = {
      {"\"rope_theta\": 5e5, \"rope_scaling\": null", {.theta = 5e5}},
      {"\"rope_theta\": 5e5, \"rope_scaling\": {}, \"rope_parameters\": {\"rope_type\": \"default\"}",
       {.theta = 5e5}},
      {"\"rope_theta\": 5e5, \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 7e5}",
       {.theta = 7e5}},
      {"\"rope_theta\": 5e5, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}",
       {.theta = 5e5, .scaling = ROPE_LINEAR, .factor = 2}},
      /* both: transformers 4 and 5 both take rope_scaling */
      {"\"rope_theta\": 5e5, \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 2}, "
       "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 7e5}",
       {.theta = 5e5, .scaling = ROPE_LINEAR, .factor = 2}},
      {"\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, \"original_max_position_embeddings\": "
       "512}",
       {.theta = 1e4,
        .scaling = ROPE_YARN,
        .factor = 4,
        .original_T = 512,
        .beta_fast = 32,
        .beta_slow = 1,
        .truncate = true}},
      {"\"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": 1e6, \"factor\": null, \"beta_fast\": "
       "20, "
       "\"original_max_position_embeddings\": 512, \"beta_slow\": 2, \"mscale\": 0.7, \"mscale_all_dim\": "
       "0.9, "
       "\"attention_factor\": 1.5, \"truncate\": false}",
       {.theta = 1e6,
        .scaling = ROPE_YARN,
        .factor = 4, /* 2048 / 512 */
        .original_T = 512,
        .beta_fast = 20,
        .beta_slow = 2,
        .mscale = 0.7,
        .mscale_all_dim = 0.9,
        .attention_factor = 1.5}},
      {"\"original_max_position_embeddings\": 256, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": "
       "8, "
       "\"low_freq_factor\": 1, \"high_freq_factor\": 4, \"original_max_position_embeddings\": 512}",
       {.theta = 1e4,
        .scaling = ROPE_LLAMA3,
        .factor = 8,
        .original_T = 256,
        .low_freq_factor = 1,
        .high_freq_factor = 4}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[1024];
    snprintf(text, sizeof text, "{\"model_type\": \"llama\", " SIZES ", %s}", cases[i].keys);
    Config c = read_config(text), again = written(&c);
    const Rope *want = &cases[i].rope;
    for (int k = 0; k < 2; k++) {
      const Rope *r = k ? &again.rope : &c.rope;
      assert_true(r->theta == want->theta && r->scaling == want->scaling && r->factor == want->factor);
      assert_true(r->original_T == want->original_T && r->beta_fast == want->beta_fast &&
                  r->beta_slow == want->beta_slow && r->truncate == want->truncate);
      assert_true(r->attention_factor == want->attention_factor && r->mscale == want->mscale &&
                  r->mscale_all_dim == want->mscale_all_dim);
      assert_true(r->low_freq_factor == want->low_freq_factor &&
                  r->high_freq_factor == want->high_freq_factor);
    }
    config_free(&c);
    config_free(&again);
  }
}

/* ---- Refusing ------------------------------------------------------------------------------------- */

static void refuse(const char *text, const char *word1, const char *word2) {
  write_text(text);
  Config c;
  Error e = {0};
  assert_false(hf_config_read(&c, folder, &e));
  assert_int_equal(e.code, EXIT_USAGE);
  assert_null(c.layers);
  if (!strstr(e.text, file) || !strstr(e.text, word1) || !strstr(e.text, word2))
    fail_msg("no %s, \"%s\" and \"%s\" in: %s", file, word1, word2, e.text);
}

/* llama4 with this key set to this JSON, or removed. */
static char *changed(const char *key, const char *value) {
  cJSON *o = cJSON_Parse(llama4);
  cJSON_DeleteItemFromObjectCaseSensitive(o, key);
  if (value) cJSON_AddItemToObject(o, key, cJSON_CreateRaw(value));
  char *text = cJSON_PrintUnformatted(o);
  cJSON_Delete(o);
  return text;
}

static void test_refuses_keys(void **state) {
  (void)state;
  static const struct {
    const char *key, *value, *word; /* value NULL: missing; word: in the message beside the key */
  } cases[] = {
      {"model_type", NULL, "llama, mistral, qwen2 or qwen3"},
      {"model_type", "\"gpt2\"", "\"gpt2\""},
      {"model_type", "3", "expected llama"},
      {"hidden_size", NULL, "missing"},
      {"intermediate_size", NULL, "missing"},
      {"num_hidden_layers", NULL, "missing"},
      {"num_attention_heads", NULL, "missing"},
      {"vocab_size", "null", "missing"},
      {"hidden_size", "0", "whole number"},
      {"hidden_size", "64.5", "whole number"},
      {"hidden_size", "-64", "whole number"},
      {"hidden_size", "\"64\"", "whole number"},
      {"hidden_size", "1e18", "whole number"},
      {"hidden_size", "1048577", "1048576"},
      {"intermediate_size", "4194305", "4194304"},
      {"num_hidden_layers", "9007199254740992", "fewer"},
      {"num_hidden_layers", "1025", "1024"},
      {"num_attention_heads", "16386", "16384"},
      {"num_key_value_heads", "3", "num_attention_heads is 4"},
      {"head_dim", "33", "even"},
      {"head_dim", "4098", "4096"},
      {"vocab_size", "268435457", "268435456"},
      {"max_position_embeddings", "1e15", "1099511627776"},
      {"rms_norm_eps", "0", "from 1e-12 to 1"},
      {"rms_norm_eps", "\"1e-5\"", "a number"},
      {"initializer_range", "2", "0 to 1"},
      {"tie_word_embeddings", "1", "true or false"},
      {"attention_bias", "\"yes\"", "true or false"},
      {"hidden_act", "\"relu\"", "\"silu\", \"swish\" or \"gelu_pytorch_tanh\""},
      {"hidden_act", "7", "\"silu\""},
      {"quantization_config", "{\"quant_method\": \"gptq\"}", "gptq"},
      {"partial_rotary_factor", "0.5", "expected 1"},
      {"bos_token_id", "300", "vocab_size = 300"},
      {"eos_token_id", "[\"a\"]", "token id"},
      {"eos_token_id", "1.5", "token id"},
      {"layer_types", "[\"full_attention\"]", "one entry for each"},
      {"layer_types", "[\"full_attention\", \"chunked_attention\"]", "chunked_attention"},
      {"layer_types", "[\"full_attention\", \"sliding_attention\"]", "no window"},
      {"rope_theta", "1", "above 1"},
      {"rope_theta", "\"1\"", "a number"},
      {"rope_scaling", "\"yarn\"", "an object or null"},
      {"rope_scaling", "{\"full_attention\": {\"rope_type\": \"default\"}}", "one rope for all layers"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *text = changed(cases[i].key, cases[i].value);
    refuse(text, cases[i].key, cases[i].word);
    cJSON_free(text);
  }
}

static void test_refuses_ropes(void **state) {
  (void)state;
  static const struct {
    const char *rope, *word1, *word2;
  } cases[] = {
      {"{\"rope_type\": \"dynamic\", \"factor\": 2.0}", "dynamic", "default, linear, llama3 or yarn"},
      {"{\"type\": \"longrope\", \"factor\": 2.0}", "longrope", "default, linear, llama3 or yarn"},
      {"{\"rope_type\": 4}", "rope_type", "default, linear, llama3 or yarn"},
      {"{\"rope_type\": \"linear\"}", "factor", "missing"},
      {"{\"rope_type\": \"linear\", \"factor\": 0.5}", "factor", "1 or more"},
      {"{\"rope_type\": \"linear\", \"factor\": 2, \"factor\": 3}", "factor", "twice"},
      {"{\"rope_type\": \"linear\", \"factor\": 2, \"partial_rotary_factor\": 0.25}", "partial_rotary_factor",
       "0.25"},
      {"{\"rope_type\": \"llama3\", \"factor\": 8, \"high_freq_factor\": 4}", "low_freq_factor", "missing"},
      {"{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4}",
       "low_freq_factor", "low < high"},
      {"{\"rope_type\": \"yarn\", \"factor\": 2, \"original_max_position_embeddings\": 0}",
       "original_max_position_embeddings", "1 or more"},
      {"{\"rope_type\": \"yarn\", \"factor\": 2, \"beta_fast\": 1}", "beta_fast", "slow < fast"},
      {"{\"rope_type\": \"yarn\", \"factor\": 2, \"attention_factor\": 0}", "attention_factor", "above 0"},
      {"{\"rope_type\": \"yarn\", \"factor\": 2, \"mscale\": -1}", "mscale", "from 0 to"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *text = changed("rope_scaling", cases[i].rope);
    refuse(text, cases[i].word1, cases[i].word2);
    cJSON_free(text);
    text = changed("rope_scaling", NULL);
    char both[2048];
    snprintf(both, sizeof both, "{\"rope_parameters\": %s, %s", cases[i].rope, text + 1);
    refuse(both, cases[i].word1, cases[i].word2);
    cJSON_free(text);
  }
}

static void test_refuses_files(void **state) {
  (void)state;
  unlink(file);
  Config c;
  Error e = {0};
  assert_false(hf_config_read(&c, folder, &e));
  assert_int_equal(e.code, EXIT_USAGE);
  assert_non_null(strstr(e.text, file));
  assert_non_null(strstr(e.text, "No such file"));
  refuse("", "is not JSON", "expected");
  refuse("{\"model_type\": \"llama\",", "is not JSON", "expected");
  refuse("{} {}", "is not JSON", "expected");
  refuse("[]", "not a JSON object", "expected");
  refuse("{\"vocab_size\": 3, \"vocab_size\": 4}", "vocab_size", "twice");
  refuse(
      "{\"model_type\": \"llama\", \"hidden_size\": 65, \"intermediate_size\": 96, \"num_hidden_layers\": 1, "
      "\"num_attention_heads\": 4, \"vocab_size\": 300}",
      "hidden_size is 65", "head_dim");
  refuse("{\"model_type\": \"mistral\", " SIZES ", \"num_key_value_heads\": 4, \"layer_types\": "
         "[\"full_attention\", \"sliding_attention\", \"sliding_attention\", \"full_attention\"]}",
         "layer_types", "all layers");
  refuse("{\"model_type\": \"mistral\", " SIZES ", \"sliding_window\": 0}", "sliding_window", "1 or more");
}

/* ---- Writing -------------------------------------------------------------------------------------- */

static void test_keeps_the_source(void **state) {
  (void)state;
  Config c = read_config(llama4), again = written(&c);
  assert_same(&c, &again);
  const char *text = read_text();
  assert_non_null(strstr(text, "\"exact\": 12345678901234567890,"));
  assert_non_null(strstr(text, "\"float\": 1.0,"));
  assert_non_null(strstr(text, "\"text\": \"a \\\"3\\\"\""));
  assert_non_null(strstr(text, "\"rope_theta\": 500000.0,"));
  assert_non_null(strstr(text, "\"rms_norm_eps\": 1e-05,"));
  assert_non_null(strstr(text, "\"transformers_version\": \"4.43.0\""));
  assert_non_null(strstr(text, "8,\n    9,\n    10\n  ]")); /* the list of end tokens stays */
  assert_non_null(strstr(text, "\"torch_dtype\": \"bfloat16\""));
  assert_non_null(strstr(text, "\"dtype\": \"bfloat16\""));
  assert_null(strstr(text, "rope_parameters"));
  config_free(&c);
  config_free(&again);
}

/* A file of transformers 5 alone gets what transformers 4 looks for. */
static void test_writes_for_both(void **state) {
  (void)state;
  Config c = read_config(llama5), again = written(&c);
  cJSON *o = cJSON_Parse(read_text());
  assert_true(cJSON_GetObjectItem(o, "rope_theta")->valuedouble == 5e5);
  assert_string_equal(cJSON_GetObjectItem(cJSON_GetObjectItem(o, "rope_scaling"), "rope_type")->valuestring,
                      "llama3");
  assert_string_equal(
      cJSON_GetObjectItem(cJSON_GetObjectItem(o, "rope_parameters"), "rope_type")->valuestring, "llama3");
  cJSON_Delete(o);
  config_free(&again);

  /* a changed rope changes in every spelling there is */
  c.rope = (Rope){.theta = 1e6,
                  .scaling = ROPE_YARN,
                  .factor = 4,
                  .original_T = 131072,
                  .beta_fast = 32,
                  .beta_slow = 1,
                  .truncate = true};
  c.max_T = 4 * 131072;
  c.eos = 11;
  again = written(&c);
  assert_same(&c, &again);
  o = cJSON_Parse(read_text());
  assert_true(cJSON_GetObjectItem(o, "rope_theta")->valuedouble == 1e6);
  assert_true(cJSON_GetObjectItem(o, "max_position_embeddings")->valuedouble == 524288);
  assert_true(cJSON_GetObjectItem(o, "eos_token_id")->valuedouble == 11);
  static const char *const spellings[] = {"rope_scaling", "rope_parameters"};
  for (int i = 0; i < 2; i++) {
    const cJSON *rope = cJSON_GetObjectItem(o, spellings[i]);
    assert_string_equal(cJSON_GetObjectItem(rope, "rope_type")->valuestring, "yarn");
    assert_true(cJSON_GetObjectItem(rope, "factor")->valuedouble == 4);
    assert_true(cJSON_GetObjectItem(rope, "original_max_position_embeddings")->valuedouble == 131072);
  }
  cJSON_Delete(o);
  config_free(&c);
  config_free(&again);
}

static void test_refuses_what_it_cannot_express(void **state) {
  (void)state;
  Config c;
  Error e = {0};
  assert_true(config_preset(&c, "llama3-8b"));
  c.layers[3].window = 100;
  assert_false(hf_config_write(&c, DT_BF16, folder, &e));
  assert_int_equal(e.code, EXIT_USAGE);
  assert_non_null(strstr(e.text, "sliding_window"));
  c.layers[3].window = 0;
  c.o_bias = true;
  assert_false(hf_config_write(&c, DT_BF16, folder, &e));
  assert_non_null(strstr(e.text, "attention_bias"));
  c.o_bias = false;
  assert_false(hf_config_write(&c, DT_BF16, "/nowhere", &e));
  assert_int_equal(e.code, EXIT_RUNTIME);
  assert_non_null(strstr(e.text, "/nowhere/config.json"));
  config_free(&c);
}

/* ---- Presets -------------------------------------------------------------------------------------- */

static void test_presets(void **state) {
  (void)state;
  for (int i = 0; config_preset_name(i); i++) {
    Config c;
    Error e;
    assert_true(config_preset(&c, config_preset_name(i)));
    if (!config_check(&c, &e)) fail_msg("%s: %s", config_preset_name(i), e.text);
    Config again = written(&c);
    assert_same(&c, &again);
    config_free(&c);
    config_free(&again);
  }
  Config c;
  assert_false(config_preset(&c, "gpt2"));
  assert_null(config_preset_name(-1));
}

/* Totals as published with the models. */
static void test_parameters(void **state) {
  (void)state;
  static const struct {
    const char *name;
    int64_t parameters;
  } cases[] = {
      {"llama2-7b", 6738415616},    {"llama2-13b", 13015864320},     {"llama2-70b", 68976648192},
      {"llama3-8b", 8030261248},    {"llama3-70b", 70553706496},     {"llama3.1-405b", 405853388800},
      {"llama3.2-1b", 1235814400},  {"llama3.2-3b", 3212749824},     {"tinyllama-1.1b", 1100048384},
      {"mistral-7b", 7241732096},   {"mistral-7b-v0.3", 7248023552}, {"qwen2.5-0.5b", 494032768},
      {"qwen2-1.5b", 1543714304},   {"qwen2.5-3b", 3085938688},      {"qwen2-7b", 7615616512},
      {"qwen2.5-14b", 14770033664}, {"qwen2.5-32b", 32763876352},    {"qwen2-72b", 72706203648},
      {"qwen3-0.6b", 596049920},    {"qwen3-1.7b", 1720574976},      {"qwen3-4b", 4022468096},
      {"qwen3-8b", 8190735360},     {"qwen3-14b", 14768307200},      {"qwen3-32b", 32762123264},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Config c;
    assert_true(config_preset(&c, cases[i].name));
    if (config_parameters(&c) != cases[i].parameters)
      fail_msg("%s: %lld", cases[i].name, (long long)config_parameters(&c));
    config_free(&c);
  }
  /* biases by hand: 2 layers of q 128, k and v 64 each, o 64, gate and up 96 each, down 64, all with biases
   */
  Config c = read_config(llama4);
  int64_t layer =
      64 * (128 + 64 + 64) + 128 * 64 + 3 * 64 * 96 + 2 * 64 + (128 + 64 + 64) + 64 + 96 + 96 + 64;
  assert_int_equal(config_parameters(&c), 300 * 64 + 64 + 2 * layer);
  config_free(&c);
}

/* ---- Rotary frequencies --------------------------------------------------------------------------- */

/* inv_freq and attention_scaling of LlamaRotaryEmbedding (transformers 5.23, torch 2.15, CPU), as
 * float.hex, at the pairs 0, 1, HS/8, HS/4-3, HS/4, HS/4+3, 3HS/8 and HS/2-1. Every step rounds as torch
 * does, so they are equal bit for bit, but for powers where torch's powf is not the nearest float (1 in about
 * 300; none below). */
static void test_frequencies_are_those_of_hugging_face(void **state) {
  (void)state;
  static const struct {
    int64_t HS;
    Rope rope;
    float frequencies[8], scale;
  } cases[] = {
      {128,
       {.theta = 5e5},
       {0x1p+0f, 0x1.a11582p-1f, 0x1.34119p-5f, 0x1.56e5b8p-9f, 0x1.72ba42p-10f, 0x1.90d10cp-11f,
        0x1.be2188p-15f, 0x1.4985fep-19f},
       1},
      {96,
       {.theta = 1e6},
       {0x1p+0f, 0x1.7ff222p-1f, 0x1.030dc6p-5f, 0x1.36d21ap-9f, 0x1.0624dep-10f, 0x1.ba2e4ap-12f,
        0x1.094564p-15f, 0x1.65f6dep-20f},
       1},
      {128,
       {.theta = 1e4, .scaling = ROPE_LINEAR, .factor = 3},
       {0x1.555556p-2f, 0x1.27951ep-2f, 0x1.111112p-5f, 0x1.5066eep-8f, 0x1.b4e81ap-9f, 0x1.1bb81cp-9f,
        0x1.5d867ep-12f, 0x1.42e682p-15f},
       1},
      {128,
       {.theta = 5e5,
        .scaling = ROPE_LLAMA3,
        .factor = 8,
        .low_freq_factor = 1,
        .high_freq_factor = 4,
        .original_T = 8192},
       {0x1p+0f, 0x1.a11582p-1f, 0x1.34119p-5f, 0x1.1bfa0cp-9f, 0x1.132ba4p-11f, 0x1.90d10cp-14f,
        0x1.be2188p-18f, 0x1.4985fep-22f},
       1},
      {64,
       {.theta = 5e5,
        .scaling = ROPE_LLAMA3,
        .factor = 32,
        .low_freq_factor = 1,
        .high_freq_factor = 4,
        .original_T = 8192},
       {0x1p+0f, 0x1.53c38cp-1f, 0x1.34119p-5f, 0x1.3d2804p-8f, 0x1.c26c4p-12f, 0x1.b15902p-17f,
        0x1.be2188p-20f, 0x1.94836p-24f},
       1},
      {128,
       {.theta = 1e6,
        .scaling = ROPE_YARN,
        .factor = 4,
        .original_T = 32768,
        .beta_fast = 32,
        .beta_slow = 1,
        .truncate = true},
       {0x1p+0f, 0x1.9c975ap-1f, 0x1.030dc6p-5f, 0x1.70578p-10f, 0x1.3c1d64p-11f, 0x1.02387cp-12f,
        0x1.094564p-17f, 0x1.4d1c98p-22f},
       0x1.237d38p+0f},
      {64,
       {.theta = 1e4, .scaling = ROPE_YARN, .factor = 8, .original_T = 4096, .beta_fast = 40, .beta_slow = 2},
       {0x1p+0f, 0x1.7ff222p-1f, 0x1.99999ap-4f, 0x1.18a3d8p-6f, 0x1.341864p-8f, 0x1.e1c85cp-11f,
        0x1.0624dep-13f, 0x1.17a8e4p-16f},
       0x1.353bd4p+0f},
      {128,
       {.theta = 1e4,
        .scaling = ROPE_YARN,
        .factor = 40,
        .beta_fast = 32,
        .beta_slow = 1,
        .mscale = 0.707,
        .mscale_all_dim = 1,
        .truncate = true}, /* original_T: from max_T */
       {0x1p+0f, 0x1.bb5faep-1f, 0x1.99999ap-4f, 0x1.4e4cbp-7f, 0x1.6872b2p-8f, 0x1.7461a4p-9f,
        0x1.a36e2ep-16f, 0x1.837b02p-19f},
       0x1.d792dep-1f},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    float frequencies[64], scale;
    int64_t HS = cases[i].HS;
    const int64_t pairs[8] = {0, 1, HS / 8, HS / 4 - 3, HS / 4, HS / 4 + 3, 3 * HS / 8, HS / 2 - 1};
    rope_frequencies(&cases[i].rope, HS, 4096, frequencies, &scale);
    for (int k = 0; k < 8; k++)
      if (frequencies[pairs[k]] != cases[i].frequencies[k])
        fail_msg("case %zu, pair %d: %a, expected %a", i, (int)pairs[k], (double)frequencies[pairs[k]],
                 (double)cases[i].frequencies[k]);
    assert_true(scale == cases[i].scale);
  }
}

/* theta^(-2i/HS) in fp64. For HS a power of two the exponent is exact, and what remains are two roundings, of
 * the power and of its reciprocal: at most 2^-24 each, relative. */
static void test_frequencies_follow_the_formula(void **state) {
  (void)state;
  static const double thetas[] = {1e4, 5e5, 1e6, 12345.6};
  for (int k = 0; k < 4; k++) {
    float frequencies[128], scale;
    rope_frequencies(&(Rope){.theta = thetas[k]}, 256, 4096, frequencies, &scale);
    for (int i = 0; i < 128; i++) {
      double exact = pow(thetas[k], -2.0 * i / 256);
      assert_true(fabs(frequencies[i] - exact) <= 2.01 * 0x1p-24 * exact);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_reads_both_spellings),
      cmocka_unit_test(test_defaults_of_families),
      cmocka_unit_test(test_windows),
      cmocka_unit_test(test_ropes),
      cmocka_unit_test(test_refuses_keys),
      cmocka_unit_test(test_refuses_ropes),
      cmocka_unit_test(test_refuses_files),
      cmocka_unit_test(test_keeps_the_source),
      cmocka_unit_test(test_writes_for_both),
      cmocka_unit_test(test_refuses_what_it_cannot_express),
      cmocka_unit_test(test_presets),
      cmocka_unit_test(test_parameters),
      cmocka_unit_test(test_frequencies_are_those_of_hugging_face),
      cmocka_unit_test(test_frequencies_follow_the_formula),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
