#include "io/hf_config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/json_in.h"
#include "io/json_out.h"

/* ---- What the families differ in ------------------------------------------------------------------ */

typedef enum Windows {
  WINDOWS_NONE,   /* attention always reaches back to the start */
  WINDOWS_ALL,    /* "sliding_window" holds for every layer, unless null */
  WINDOWS_CHOSEN, /* "use_sliding_window"; then "layer_types", or the layers from "max_window_layers" on */
} Windows;

enum { KEY_ATTENTION_BIAS = 1, KEY_MLP_BIAS = 2 };

/* The defaults are those of the transformers library for keys that config.json lacks. */
typedef struct Family {
  const char *name, *architecture;
  Windows windows;
  unsigned keys;          /* KEY_*: the optional keys this family reads */
  bool qkv_bias, qk_norm; /* always there */
  int64_t NKV, HS, max_T; /* NKV 0: NH; HS 0: C / NH */
  int64_t bos, eos;
} Family;

static const Family families[] = {
    {"llama", "LlamaForCausalLM", WINDOWS_NONE, KEY_ATTENTION_BIAS | KEY_MLP_BIAS, false, false, 0, 0, 2048,
     1, 2},
    {"mistral", "MistralForCausalLM", WINDOWS_ALL, 0, false, false, 8, 0, 131072, 1, 2},
    {"qwen2", "Qwen2ForCausalLM", WINDOWS_CHOSEN, 0, true, false, 32, 0, 32768, -1, -1},
    {"qwen3", "Qwen3ForCausalLM", WINDOWS_CHOSEN, KEY_ATTENTION_BIAS, false, true, 32, 128, 32768, -1, -1},
};

static const int64_t DEFAULT_WINDOW = 4096, DEFAULT_MAX_WINDOW_LAYERS = 28;
static const double DEFAULT_THETA = 10000;

typedef enum Kind { KIND_SIZE, KIND_REAL, KIND_FLAG } Kind;

/* The keys that are one field of Config each. */
static const struct Field {
  const char *key;
  size_t offset; /* in Config */
  Kind kind;
  bool required;
  unsigned only; /* KEY_* when only some families have it; else 0 */
} fields[] = {
    {"hidden_size", offsetof(Config, C), KIND_SIZE, true, 0},
    {"intermediate_size", offsetof(Config, FF), KIND_SIZE, true, 0},
    {"num_hidden_layers", offsetof(Config, L), KIND_SIZE, true, 0},
    {"num_attention_heads", offsetof(Config, NH), KIND_SIZE, true, 0},
    {"num_key_value_heads", offsetof(Config, NKV), KIND_SIZE, false, 0},
    {"head_dim", offsetof(Config, HS), KIND_SIZE, false, 0},
    {"vocab_size", offsetof(Config, V), KIND_SIZE, true, 0},
    {"max_position_embeddings", offsetof(Config, max_T), KIND_SIZE, false, 0},
    {"rms_norm_eps", offsetof(Config, norm_eps), KIND_REAL, false, 0},
    {"initializer_range", offsetof(Config, init_std), KIND_REAL, false, 0},
    {"tie_word_embeddings", offsetof(Config, tied), KIND_FLAG, false, 0},
    {"attention_bias", offsetof(Config, qkv_bias), KIND_FLAG, false, KEY_ATTENTION_BIAS},
    {"mlp_bias", offsetof(Config, mlp_bias), KIND_FLAG, false, KEY_MLP_BIAS},
};
enum { FIELDS = sizeof fields / sizeof *fields };
typedef struct Field Field;

/* The first name of an activation is the one that is written. */
static const struct {
  const char *name;
  Activation activation;
} activations[] = {{"silu", ACT_SILU}, {"swish", ACT_SILU}, {"gelu_pytorch_tanh", ACT_GELU_TANH}};

static const char *const rope_types[] = {
    [ROPE_NONE] = "default", [ROPE_LINEAR] = "linear", [ROPE_LLAMA3] = "llama3", [ROPE_YARN] = "yarn"};

static const char *const dtypes[] = {[DT_FP32] = "float32", [DT_BF16] = "bfloat16", [DT_FP16] = "float16"};

static const Family *find_family(const char *name) {
  for (size_t i = 0; i < sizeof families / sizeof *families; i++)
    if (strcmp(families[i].name, name) == 0) return &families[i];
  return NULL;
}

static bool has_field(const Family *family, const Field *f) {
  return f->only == 0 || (family->keys & f->only);
}

/* ---- JSON values ---------------------------------------------------------------------------------- */

/* The value of a key; NULL when it is absent or null. */
static const cJSON *find(const cJSON *object, const char *key) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
  return cJSON_IsNull(item) ? NULL : item;
}

static bool is_null(const cJSON *object, const char *key) {
  return cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(object, key));
}

static bool bad_value(Error *e, const char *key, const cJSON *found, const char *expected) {
  char *text = cJSON_PrintUnformatted(found);
  CHECK(text, "out of memory");
  error_usage(e, "%s is %.200s, expected %s", key, text, expected);
  cJSON_free(text);
  return false;
}

/* These leave *value as it is when the key is absent or null. */
static bool get_size(const cJSON *o, const char *key, int64_t least, int64_t *value, Error *e) {
  const cJSON *item = find(o, key);
  if (!item) return true;
  double d = item->valuedouble;
  if (!cJSON_IsNumber(item) || !(d >= (double)least && d <= 0x1p53) || d != (double)(int64_t)d)
    return bad_value(e, key, item, least ? "a whole number of 1 or more" : "a whole number of 0 or more");
  *value = (int64_t)d;
  return true;
}

static bool get_real(const cJSON *o, const char *key, double *value, Error *e) {
  const cJSON *item = find(o, key);
  if (!item) return true;
  if (!cJSON_IsNumber(item)) return bad_value(e, key, item, "a number");
  *value = item->valuedouble;
  return true;
}

static bool get_flag(const cJSON *o, const char *key, bool *value, Error *e) {
  const cJSON *item = find(o, key);
  if (!item) return true;
  if (!cJSON_IsBool(item)) return bad_value(e, key, item, "true or false");
  *value = cJSON_IsTrue(item);
  return true;
}

/* ---- Reading -------------------------------------------------------------------------------------- */

static bool read_field(Config *c, const Field *f, const cJSON *o, Error *e) {
  if (f->required && !find(o, f->key))
    return error_usage(e, "%s is missing, expected a number. Give the config.json of a complete model",
                       f->key);
  void *value = (char *)c + f->offset;
  switch (f->kind) {
  case KIND_SIZE: return get_size(o, f->key, 1, value, e);
  case KIND_REAL: return get_real(o, f->key, value, e);
  case KIND_FLAG: return get_flag(o, f->key, value, e);
  }
  PANIC("unknown kind %d", f->kind);
}

static bool read_sizes(Config *c, const Family *family, const cJSON *o, Error *e) {
  c->NKV = is_null(o, "num_key_value_heads") ? 0 : family->NKV;
  c->HS = family->HS;
  c->max_T = family->max_T;
  c->norm_eps = 1e-6;
  c->init_std = 0.02;
  c->qkv_bias = family->qkv_bias;
  c->qk_norm = family->qk_norm;
  for (int i = 0; i < FIELDS; i++)
    if (has_field(family, &fields[i]) && !read_field(c, &fields[i], o, e)) return false;
  if (family->keys & KEY_ATTENTION_BIAS) c->o_bias = c->qkv_bias;
  if (c->NKV == 0) c->NKV = c->NH;
  if (c->HS == 0 && c->C % c->NH != 0)
    return error_usage(e,
                       "hidden_size is %" PRId64 " and num_attention_heads %" PRId64
                       ", expected a multiple of it, or a head_dim",
                       c->C, c->NH);
  if (c->HS == 0) c->HS = c->C / c->NH;
  return true;
}

static bool read_activation(const cJSON *o, Activation *activation, Error *e) {
  const cJSON *item = find(o, "hidden_act");
  *activation = ACT_SILU;
  if (!item) return true;
  for (size_t i = 0; i < sizeof activations / sizeof *activations; i++) {
    if (!cJSON_IsString(item) || strcmp(item->valuestring, activations[i].name) != 0) continue;
    *activation = activations[i].activation;
    return true;
  }
  return bad_value(e, "hidden_act", item,
                   "\"silu\", \"swish\" or \"gelu_pytorch_tanh\"; others are not supported");
}

/* The window of the layers that have one (0 when none may) and the first such layer, by the keys that speak
 * of all layers at once. */
static bool read_window(const Family *family, const cJSON *o, int64_t *window, int64_t *first, Error *e) {
  *window = *first = 0;
  bool use = family->windows == WINDOWS_ALL;
  if (family->windows == WINDOWS_CHOSEN) {
    *first = DEFAULT_MAX_WINDOW_LAYERS;
    if (!get_flag(o, "use_sliding_window", &use, e) || !get_size(o, "max_window_layers", 0, first, e))
      return false;
  }
  if (!use || is_null(o, "sliding_window")) return true;
  *window = DEFAULT_WINDOW;
  return get_size(o, "sliding_window", 1, window, e);
}

/* Whether layer i has a window by its entry in "layer_types"; by_keys: whether it has by the other keys. */
static bool read_layer_type(const Family *family, const cJSON *type, int64_t i, int64_t window, bool by_keys,
                            bool *sliding, Error *e) {
  const char *name = cJSON_IsString(type) ? type->valuestring : "";
  *sliding = strcmp(name, "sliding_attention") == 0;
  if (!*sliding && strcmp(name, "full_attention") != 0)
    return bad_value(e, "an entry of layer_types", type, "\"full_attention\" or \"sliding_attention\"");
  if (*sliding && window == 0)
    return error_usage(
        e,
        "layer_types is \"sliding_attention\" for layer %" PRId64
        ", but the model has no window: expected a sliding_window, and use_sliding_window true",
        i);
  if (family->windows != WINDOWS_CHOSEN && *sliding != by_keys)
    return error_usage(
        e,
        "layer_types is \"%s\" for layer %" PRId64
        ", but a %s model has sliding_window in all layers. Set sliding_window to null for none",
        name, i, family->name);
  return true;
}

static bool read_layers(Config *c, const Family *family, const cJSON *o, Error *e) {
  enum { MOST = 1 << 16 }; /* before anything is allocated; config_check is stricter */
  if (c->L > MOST) return bad_value(e, "num_hidden_layers", find(o, "num_hidden_layers"), "far fewer layers");
  Activation activation;
  int64_t window, first;
  if (!read_activation(o, &activation, e) || !read_window(family, o, &window, &first, e)) return false;
  const cJSON *types = find(o, "layer_types");
  if (types && (!cJSON_IsArray(types) || cJSON_GetArraySize(types) != c->L))
    return bad_value(e, "layer_types", types, "a list with one entry for each of num_hidden_layers");

  c->layers = calloc((size_t)c->L, sizeof *c->layers);
  CHECK(c->layers, "out of memory");
  const cJSON *type = types ? types->child : NULL;
  for (int64_t i = 0; i < c->L; i++, type = type ? type->next : NULL) {
    bool sliding = window > 0 && i >= first;
    if (type && !read_layer_type(family, type, i, window, sliding, &sliding, e)) return false;
    c->layers[i] = (LayerDesc){sliding ? window : 0, activation};
  }
  return true;
}

/* A token id, or the first of a list of them; null is none. */
static bool read_token(const cJSON *o, const char *key, int64_t *id, Error *e) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(o, key);
  if (!item) return true;
  *id = -1;
  if (cJSON_IsArray(item)) item = item->child;
  if (!item || cJSON_IsNull(item)) return true;
  double d = item->valuedouble;
  if (!cJSON_IsNumber(item) || !(d >= -1 && d <= 0x1p53) || d != (double)(int64_t)d)
    return bad_value(e, key, item, "a token id, a list of them, or null");
  *id = (int64_t)d;
  return true;
}

static bool check_rotary_factor(const cJSON *o, Error *e) {
  double factor = 1;
  if (!get_real(o, "partial_rotary_factor", &factor, e)) return false;
  if (factor == 1) return true;
  return bad_value(e, "partial_rotary_factor", find(o, "partial_rotary_factor"),
                   "1: partial rope is not supported");
}

static bool read_rope_type(const cJSON *dict, RopeScaling *scaling, Error *e) {
  const cJSON *type = find(dict, "rope_type");
  if (!type) type = find(dict, "type"); /* before transformers 4.43 */
  *scaling = ROPE_NONE;
  if (!type) return true;
  for (size_t i = 0; i < sizeof rope_types / sizeof *rope_types; i++) {
    if (!cJSON_IsString(type) || strcmp(type->valuestring, rope_types[i]) != 0) continue;
    *scaling = (RopeScaling)i;
    return true;
  }
  return bad_value(e, "rope_type", type, "default, linear, llama3 or yarn; others are not supported");
}

static bool need_real(const cJSON *dict, const char *key, double *value, Error *e) {
  if (find(dict, key)) return get_real(dict, key, value, e);
  return error_usage(e, "%s is missing in the rope scaling, expected a number", key);
}

static bool read_yarn(Rope *r, const cJSON *dict, Error *e) {
  r->truncate = true;
  if (!get_real(dict, "beta_fast", &r->beta_fast, e) || !get_real(dict, "beta_slow", &r->beta_slow, e) ||
      !get_real(dict, "attention_factor", &r->attention_factor, e) ||
      !get_real(dict, "mscale", &r->mscale, e) || !get_real(dict, "mscale_all_dim", &r->mscale_all_dim, e) ||
      !get_flag(dict, "truncate", &r->truncate, e))
    return false;
  if (r->beta_fast == 0) r->beta_fast = 32;
  if (r->beta_slow == 0) r->beta_slow = 1;
  if (find(dict, "attention_factor") && r->attention_factor <= 0)
    return bad_value(e, "attention_factor", find(dict, "attention_factor"), "a number above 0, or null");
  return true;
}

/* Reads one spelling of the rope: `dict` is rope_scaling or rope_parameters, or NULL; `theta` holds when dict
 * has none. */
static bool read_rope(Rope *r, const cJSON *dict, double theta, const cJSON *o, int64_t max_T, Error *e) {
  *r = (Rope){.theta = theta};
  if (!dict) return true;
  if (!cJSON_IsObject(dict)) return bad_value(e, dict->string, dict, "an object or null");
  const cJSON *item;
  cJSON_ArrayForEach(item, dict) if (cJSON_IsObject(item)) return bad_value(
      e, dict->string, dict, "one rope for all layers, not one for each type of layer");
  if (!check_rotary_factor(dict, e) || !get_real(dict, "rope_theta", &r->theta, e) ||
      !read_rope_type(dict, &r->scaling, e))
    return false;
  if (r->scaling == ROPE_NONE) return true;

  /* as transformers 5: a top-level value wins over the dict's, which wins over max_position_embeddings */
  if (r->scaling != ROPE_LINEAR) {
    r->original_T = max_T;
    if (!get_size(dict, "original_max_position_embeddings", 1, &r->original_T, e) ||
        !get_size(o, "original_max_position_embeddings", 1, &r->original_T, e))
      return false;
  }
  if (r->scaling == ROPE_YARN && is_null(dict, "factor"))
    r->factor = (double)max_T / (double)r->original_T;
  else if (!need_real(dict, "factor", &r->factor, e))
    return false;
  if (r->scaling == ROPE_LLAMA3)
    return need_real(dict, "low_freq_factor", &r->low_freq_factor, e) &&
           need_real(dict, "high_freq_factor", &r->high_freq_factor, e);
  return r->scaling != ROPE_YARN || read_yarn(r, dict, e);
}

/* rope_scaling as transformers reads it: an empty one counts as none. */
static const cJSON *find_scaling(const cJSON *o) {
  const cJSON *scaling = find(o, "rope_scaling");
  return cJSON_IsObject(scaling) && !scaling->child ? NULL : scaling;
}

/* The whole of config.json. */
static bool config_from_json(Config *c, const cJSON *o, Error *e) {
  *c = (Config){0};
  const cJSON *type = find(o, "model_type");
  if (!type) return error_usage(e, "model_type is missing, expected llama, mistral, qwen2 or qwen3");
  const Family *family = cJSON_IsString(type) ? find_family(type->valuestring) : NULL;
  if (!family)
    return bad_value(e, "model_type", type, "llama, mistral, qwen2 or qwen3; others are not supported");
  snprintf(c->family, sizeof c->family, "%s", family->name);
  if (find(o, "quantization_config"))
    return bad_value(e, "quantization_config", find(o, "quantization_config"),
                     "none: quantised weights cannot be trained. Use the model's fp32, bf16 or fp16 version");

  c->bos = family->bos;
  c->eos = family->eos;
  double theta = DEFAULT_THETA;
  const cJSON *dict = find_scaling(o);
  return read_sizes(c, family, o, e) && read_layers(c, family, o, e) &&
         read_token(o, "bos_token_id", &c->bos, e) && read_token(o, "eos_token_id", &c->eos, e) &&
         check_rotary_factor(o, e) && get_real(o, "rope_theta", &theta, e) &&
         read_rope(&c->rope, dict ? dict : find(o, "rope_parameters"), theta, o, c->max_T, e) &&
         config_check(c, e);
}

static char *config_path(const char *dir) {
  size_t n = strlen(dir) + sizeof "/config.json";
  char *path = malloc(n);
  CHECK(path, "out of memory for %zu bytes", n);
  snprintf(path, n, "%s/config.json", dir);
  return path;
}

static bool config_from_text(Config *c, const char *text, size_t bytes, Error *e) {
  cJSON *o = json_read_object(text, bytes, e);
  bool ok = o && config_from_json(c, o, e);
  cJSON_Delete(o);
  return ok;
}

bool hf_config_read(Config *c, const char *dir, Error *e) {
  enum { LARGEST = 1 << 20 };
  *c = (Config){0};
  char *path = config_path(dir);
  size_t bytes;
  char *text = file_read_text(path, LARGEST, &bytes, e);
  bool ok = text && (config_from_text(c, text, bytes, e) || error_prefix(e, "%s: ", path));
  if (ok)
    c->source_json = text;
  else {
    free(text);
    config_free(c);
  }
  free(path);
  return ok;
}

/* ---- Writing -------------------------------------------------------------------------------------- */

/* A number that has a point or an exponent is a float for Python, whose readers care. */
static cJSON *real_item(double x) {
  char text[DOUBLE_TEXT + 2];
  for (int digits = 15; digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, x);
    if (strtod(text, NULL) == x) break;
  }
  if (!strpbrk(text, ".e")) strcat(text, ".0");
  return cJSON_CreateRaw(text);
}

static cJSON *size_item(int64_t n) {
  char text[32];
  snprintf(text, sizeof text, "%" PRId64, n);
  return cJSON_CreateRaw(text);
}

/* Replaces the value of a key in place, or adds it at the end. */
static void put(cJSON *o, const char *key, cJSON *value) {
  CHECK(value, "out of memory");
  bool there = cJSON_GetObjectItemCaseSensitive(o, key);
  CHECK(there ? cJSON_ReplaceItemInObjectCaseSensitive(o, key, value) : cJSON_AddItemToObject(o, key, value),
        "out of memory");
}

/* Turns every number below `item` into the text it has in the source (*at), so that numbers nobody changed
 * keep their spelling: 1.0 stays a float, long integers keep all digits. */
static void keep_spelling(cJSON *item, const char **at) {
  if (cJSON_IsNumber(item)) {
    const char *p = *at;
    while (!strchr("-0123456789", *p)) {
      if (*p == '"')
        for (p++; *p != '"'; p++) p += *p == '\\';
      p++;
    }
    size_t n = strspn(p, "-+.0123456789eE");
    *at = p + n;
    item->valuestring = cJSON_malloc(n + 1);
    CHECK(item->valuestring, "out of memory");
    memcpy(item->valuestring, p, n);
    item->valuestring[n] = '\0';
    item->type = (item->type & ~0xFF) | cJSON_Raw;
  }
  cJSON *child;
  cJSON_ArrayForEach(child, item) keep_spelling(child, at);
}

static bool same_field(const Field *f, const Config *a, const Config *b) {
  static const size_t sizes[] = {
      [KIND_SIZE] = sizeof(int64_t), [KIND_REAL] = sizeof(double), [KIND_FLAG] = sizeof(bool)};
  return memcmp((const char *)a + f->offset, (const char *)b + f->offset, sizes[f->kind]) == 0;
}

static bool same_layers(const Config *a, const Config *b) {
  bool same = a->L == b->L;
  for (int64_t i = 0; same && i < a->L; i++)
    same = a->layers[i].window == b->layers[i].window && a->layers[i].activation == b->layers[i].activation;
  return same;
}

static bool same_rope(const Rope *a, const Rope *b, int64_t max_T) {
  if (a->theta != b->theta || a->scaling != b->scaling) return false;
  if (a->scaling == ROPE_NONE) return true;
  if (a->factor != b->factor) return false;
  if (a->scaling == ROPE_LINEAR) return true;
  if ((a->original_T ? a->original_T : max_T) != (b->original_T ? b->original_T : max_T)) return false;
  if (a->scaling == ROPE_LLAMA3)
    return a->low_freq_factor == b->low_freq_factor && a->high_freq_factor == b->high_freq_factor;
  return a->beta_fast == b->beta_fast && a->beta_slow == b->beta_slow &&
         a->attention_factor == b->attention_factor && a->mscale == b->mscale &&
         a->mscale_all_dim == b->mscale_all_dim && a->truncate == b->truncate;
}

/* The key of something in which two configs differ, or NULL. */
static const char *difference(const Config *a, const Config *b) {
  if (strcmp(a->family, b->family) != 0) return "model_type";
  for (int i = 0; i < FIELDS; i++)
    if (!same_field(&fields[i], a, b)) return fields[i].key;
  if (a->o_bias != b->o_bias) return "attention_bias";
  if (a->qk_norm != b->qk_norm) return "the norm of queries and keys";
  if (!same_layers(a, b)) return "sliding_window or hidden_act of the layers";
  if (a->bos != b->bos) return "bos_token_id";
  if (a->eos != b->eos) return "eos_token_id";
  return same_rope(&a->rope, &b->rope, a->max_T) ? NULL : "rope";
}

static cJSON *rope_item(const Rope *r, int64_t max_T, bool with_theta) {
  cJSON *dict = cJSON_CreateObject();
  put(dict, "rope_type", cJSON_CreateString(rope_types[r->scaling]));
  if (with_theta) put(dict, "rope_theta", real_item(r->theta));
  if (r->scaling == ROPE_NONE) return dict;
  put(dict, "factor", real_item(r->factor));
  if (r->scaling == ROPE_LINEAR) return dict;
  put(dict, "original_max_position_embeddings", size_item(r->original_T ? r->original_T : max_T));
  if (r->scaling == ROPE_LLAMA3) {
    put(dict, "low_freq_factor", real_item(r->low_freq_factor));
    put(dict, "high_freq_factor", real_item(r->high_freq_factor));
    return dict;
  }
  put(dict, "beta_fast", real_item(r->beta_fast));
  put(dict, "beta_slow", real_item(r->beta_slow));
  if (r->attention_factor > 0) put(dict, "attention_factor", real_item(r->attention_factor));
  if (r->mscale > 0) put(dict, "mscale", real_item(r->mscale));
  if (r->mscale_all_dim > 0) put(dict, "mscale_all_dim", real_item(r->mscale_all_dim));
  if (!r->truncate) put(dict, "truncate", cJSON_CreateBool(false));
  return dict;
}

/* Whether this spelling already says c->rope. */
static bool says_rope(const Config *c, const cJSON *dict, double theta, const cJSON *in) {
  Rope r;
  Error ignored;
  return read_rope(&r, dict, theta, in, c->max_T, &ignored) && same_rope(&r, &c->rope, c->max_T);
}

/* transformers 4 reads rope_theta and rope_scaling; 5 reads rope_parameters where there is no rope_scaling.
 * The first spelling is always made right, the second in a new file and where the source has it. */
static void put_rope(cJSON *out, const Config *c, const cJSON *in) {
  double theta = DEFAULT_THETA;
  Error ignored;
  if (in) get_real(in, "rope_theta", &theta, &ignored);
  if (!in || theta != c->rope.theta || !says_rope(c, find_scaling(in), theta, in)) {
    bool scaled = c->rope.scaling != ROPE_NONE;
    put(out, "rope_theta", real_item(c->rope.theta));
    put(out, "rope_scaling", scaled ? rope_item(&c->rope, c->max_T, false) : cJSON_CreateNull());
  }
  const cJSON *parameters = in ? find(in, "rope_parameters") : NULL;
  if (!in || (parameters && !says_rope(c, parameters, c->rope.theta, in)))
    put(out, "rope_parameters", rope_item(&c->rope, c->max_T, true));
  if (in && find(in, "original_max_position_embeddings") && c->rope.original_T)
    put(out, "original_max_position_embeddings", size_item(c->rope.original_T));
}

/* The keys that say which layers have which window; what they cannot say, hf_config_write's check finds. */
static void put_windows(cJSON *out, const Config *c, const Family *family) {
  int64_t window = 0, first = c->L;
  for (int64_t i = c->L - 1; i >= 0; i--) {
    if (c->layers[i].window == 0) continue;
    window = c->layers[i].window;
    first = i;
  }
  if (family->windows == WINDOWS_NONE) return;
  put(out, "sliding_window", window ? size_item(window) : cJSON_CreateNull());
  if (family->windows == WINDOWS_ALL) return;
  put(out, "use_sliding_window", cJSON_CreateBool(window > 0));
  put(out, "max_window_layers", size_item(first));
  cJSON *types = cJSON_CreateArray();
  for (int64_t i = 0; i < c->L; i++)
    cJSON_AddItemToArray(types,
                         cJSON_CreateString(c->layers[i].window ? "sliding_attention" : "full_attention"));
  put(out, "layer_types", types);
}

static const char *activation_name(Activation activation) {
  for (size_t i = 0; i < sizeof activations / sizeof *activations; i++)
    if (activations[i].activation == activation) return activations[i].name;
  PANIC("unknown activation %d", activation);
}

static cJSON *token_item(int64_t id) {
  return id < 0 ? cJSON_CreateNull() : size_item(id);
}

/* Brings `out` up to date. in, was: the source, as JSON and as read; NULL for a new file, which gets every
 * key. */
static void put_config(cJSON *out, const Config *c, const Family *family, const cJSON *in,
                       const Config *was) {
  if (!in) {
    const char *architectures[] = {family->architecture};
    put(out, "architectures", cJSON_CreateStringArray(architectures, 1));
    put(out, "model_type", cJSON_CreateString(family->name));
    put(out, "use_cache", cJSON_CreateBool(true));
  }
  for (int i = 0; i < FIELDS; i++) {
    const Field *f = &fields[i];
    const void *value = (const char *)c + f->offset;
    if (!has_field(family, f) || (was && same_field(f, c, was))) continue;
    put(out, f->key,
        f->kind == KIND_SIZE   ? size_item(*(const int64_t *)value)
        : f->kind == KIND_REAL ? real_item(*(const double *)value)
                               : cJSON_CreateBool(*(const bool *)value));
  }
  if (!was || !same_layers(c, was)) {
    put(out, "hidden_act", cJSON_CreateString(activation_name(c->layers[0].activation)));
    put_windows(out, c, family);
  }
  if (!was || c->bos != was->bos) put(out, "bos_token_id", token_item(c->bos));
  if (!was || c->eos != was->eos) put(out, "eos_token_id", token_item(c->eos));
  put_rope(out, c, in);
}

/* As Python's json.dump(indent=2) does it, which is how these files are spelt. */
static void print_json(FILE *f, const cJSON *item, int indent) {
  bool object = cJSON_IsObject(item);
  if (!object && !cJSON_IsArray(item)) {
    char *text = cJSON_PrintUnformatted(item);
    CHECK(text, "out of memory");
    fputs(text, f);
    cJSON_free(text);
    return;
  }
  fputc(object ? '{' : '[', f);
  const cJSON *child;
  cJSON_ArrayForEach(child, item) {
    fprintf(f, "%s\n%*s", child == item->child ? "" : ",", indent + 2, "");
    if (object) {
      json_string(f, child->string);
      fputs(": ", f);
    }
    print_json(f, child, indent + 2);
  }
  if (item->child) fprintf(f, "\n%*s", indent, "");
  fputc(object ? '}' : ']', f);
}

/* The text of config.json (malloc'ed). */
static char *config_text(const Config *c, const Family *family, DType dtype) {
  cJSON *out = cJSON_CreateObject(), *in = NULL;
  Config was = {0};
  if (c->source_json) {
    Error ignored;
    cJSON_Delete(out);
    out = cJSON_Parse(c->source_json);
    in = cJSON_Parse(c->source_json);
    CHECK(in && out && config_from_json(&was, in, &ignored),
          "the config.json that was read cannot be read again");
    const char *at = c->source_json;
    keep_spelling(out, &at);
  }
  put_config(out, c, family, in, in ? &was : NULL);
  put(out, "torch_dtype", cJSON_CreateString(dtypes[dtype])); /* transformers before 4.56 */
  put(out, "dtype", cJSON_CreateString(dtypes[dtype]));

  char *text = NULL;
  size_t size;
  FILE *f = open_memstream(&text, &size);
  CHECK(f, "out of memory");
  print_json(f, out, 0);
  fputc('\n', f);
  CHECK(fclose(f) == 0, "out of memory");
  config_free(&was);
  cJSON_Delete(in);
  cJSON_Delete(out);
  return text;
}

bool hf_config_write(const Config *c, DType dtype, const char *dir, Error *e) {
  const Family *family = find_family(c->family);
  CHECK(family, "no family %s", c->family);
  char *path = config_path(dir), *text = config_text(c, family, dtype);
  Config again = {0};
  bool ok = config_from_text(&again, text, strlen(text), e);
  const char *lost = ok ? difference(c, &again) : NULL;
  if (lost)
    ok = error_usage(e, "the config.json of a %s model cannot express this model's %s. Choose another one",
                     family->name, lost);
  ok = ok ? file_write_text(path, text, e) : error_prefix(e, "%s: ", path);
  config_free(&again);
  free(text);
  free(path);
  return ok;
}
