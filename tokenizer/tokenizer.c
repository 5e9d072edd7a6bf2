#include "tokenizer/tokenizer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h> // XXH3_64bits

#include "io/json_in.h"           // json_read_object
#include "base/utf8.h"            // utf8_length
#include "io/file.h"              // file_read_text
#include "tokenizer/byte_chars.h" // byte_chars_encode
#include "tokenizer/components.h" // component_is, component_string
#include "tokenizer/internal.h"
#include "tokenizer/json.h"

/* The parts of the file, where they are in its text; n = 0: not there. */
typedef struct Parts {
  JsonSpan vocab, merges;
  cJSON *model;  /* its other members */
  cJSON *others; /* the file's, without the model */
} Parts;

static bool span_is(JsonSpan key, const char *name) {
  return key.n == strlen(name) + 2 && memcmp(key.at + 1, name, key.n - 2) == 0;
}

/* Parses a member and adds it to the object. */
static bool add_member(cJSON *object, JsonSpan key, JsonSpan value, Error *e) {
  char *name = json_text(key, "a key", e);
  if (!name) return false;
  cJSON *item = NULL;
  if (cJSON_GetObjectItemCaseSensitive(object, name))
    error_usage(e, "\"%.100s\" is there twice", name);
  else
    item = json_value(value, name, e);
  if (item) cJSON_AddItemToObject(object, name, item);
  free(name);
  return item != NULL;
}

static bool find_model_parts(Parts *p, JsonSpan model, Error *e) {
  JsonWalk w;
  JsonSpan key, value;
  bool found;
  if (!json_walk(&w, model, '{', "\"model\"", e)) return false;
  for (;;) {
    if (!json_next(&w, &key, &value, &found, e)) return false;
    if (!found) return true;
    JsonSpan *part = span_is(key, "vocab") ? &p->vocab : span_is(key, "merges") ? &p->merges : NULL;
    if (part && part->n) return error_usage(e, "the model's vocab or merges are there twice");
    if (part)
      *part = value;
    else if (!add_member(p->model, key, value, e))
      return false;
  }
}

static bool find_parts(Parts *p, JsonSpan file, Error *e) {
  JsonWalk w;
  JsonSpan key, value;
  bool found;
  if (!json_walk(&w, file, '{', "the file", e)) return false;
  for (;;) {
    if (!json_next(&w, &key, &value, &found, e)) return false;
    if (!found) return true;
    bool is_model = span_is(key, "model");
    if (is_model ? !find_model_parts(p, value, e) : !add_member(p->others, key, value, e)) return false;
  }
}

/* ---- the model ---- */

static bool read_id(JsonSpan span, const char *token, uint32_t *id, Error *e) {
  char digits[16], *end = digits;
  snprintf(digits, sizeof digits, "%.*s", (int)(span.n < sizeof digits ? span.n : sizeof digits - 1),
           span.at);
  unsigned long value = digits[0] >= '0' && digits[0] <= '9' ? strtoul(digits, &end, 10) : 0;
  if (end == digits || *end || value >= VOCAB_MOST)
    return error_usage(e, "the token \"%.100s\": found the id %s, expected a whole number below %d", token,
                       digits, VOCAB_MOST);
  *id = (uint32_t)value;
  return true;
}

static bool add_token(Tokenizer *t, const char *text, uint32_t id, Error *e) {
  return vocab_add(&t->bpe.vocab, text, strlen(text), id) ||
         error_usage(e, "the token \"%.100s\" or its id %" PRIu32 " is there twice", text, id);
}

static bool read_vocab(Tokenizer *t, JsonSpan vocab, Error *e) {
  JsonWalk w;
  JsonSpan key, value;
  bool found;
  if (!json_walk(&w, vocab, '{', "\"vocab\"", e)) return false;
  for (;;) {
    if (!json_next(&w, &key, &value, &found, e)) return false;
    if (!found) return true;
    char *text = json_text(key, "\"vocab\"", e);
    uint32_t id = 0;
    bool ok = text && read_id(value, text, &id, e) && add_token(t, text, id, e);
    free(text);
    if (!ok) return false;
  }
}

/* The two parts of a merge: a list of two strings, or one string with a space between them. */
static bool split_merge(const cJSON *item, const char **left, const char **right, size_t *left_n) {
  if (cJSON_IsString(item)) {
    const char *space = strchr(item->valuestring, ' ');
    if (!space || strchr(space + 1, ' ')) return false;
    *left = item->valuestring;
    *left_n = (size_t)(space - *left);
    *right = space + 1;
    return true;
  }
  *left = cJSON_GetStringValue(cJSON_GetArrayItem(item, 0));
  *right = cJSON_GetStringValue(cJSON_GetArrayItem(item, 1));
  if (cJSON_GetArraySize(item) != 2 || !*left || !*right) return false;
  *left_n = strlen(*left);
  return true;
}

static const char meta[] = "\xe2\x96\x81"; /* U+2581 */
enum { META = sizeof meta - 1 };

/* Whether the merge joins U+2581 to another character before it. */
static bool joins_meta(const char *left, size_t left_n, const char *right) {
  return strncmp(right, meta, META) == 0 &&
         !(left_n >= META && memcmp(left + left_n - META, meta, META) == 0);
}

static bool read_merge(Tokenizer *t, const cJSON *item, uint32_t rank, Bytes *joined, Error *e) {
  const char *left, *right;
  size_t left_n;
  if (!split_merge(item, &left, &right, &left_n))
    return error_usage(e, "merge %" PRIu32 " is not a pair of tokens", rank);
  const Vocab *v = &t->bpe.vocab;
  joined->n = 0;
  bytes_append(joined, left, left_n);
  bytes_append(joined, right, strlen(right));
  int64_t a = vocab_find(v, left, left_n), b = vocab_find(v, right, strlen(right));
  int64_t id = vocab_find(v, joined->data, joined->n);
  if (a < 0 || b < 0 || id < 0)
    return error_usage(
        e, "merge %" PRIu32 " of \"%.*s\" and \"%.100s\": the vocabulary lacks one of them or both joined",
        rank, (int)(left_n < 100 ? left_n : 100), left, right);
  bpe_add_merge(&t->bpe, (uint32_t)a, (uint32_t)b, rank, (uint32_t)id);
  if (joins_meta(left, left_n, right)) t->bpe.cuts_at_meta = false;
  return true;
}

static bool read_merges(Tokenizer *t, JsonSpan merges, Error *e) {
  JsonWalk w;
  JsonSpan value;
  Bytes joined = {0};
  bool ok = json_walk(&w, merges, '[', "\"merges\"", e), found = true;
  for (uint32_t rank = 0; ok && found; rank++) {
    ok = json_next(&w, NULL, &value, &found, e);
    cJSON *item = ok && found ? json_value(value, "\"merges\"", e) : NULL;
    if (ok && found) ok = item && read_merge(t, item, rank, &joined, e);
    cJSON_Delete(item);
  }
  bytes_free(&joined);
  return ok;
}

static bool check_bytes(Tokenizer *t, Error *e) {
  Bytes name = {0};
  int missing = -1;
  for (int i = 255; i >= 0; i--) {
    uint8_t byte = (uint8_t)i;
    name.n = 0;
    byte_chars_encode(&byte, 1, &name);
    int64_t id = vocab_find(&t->bpe.vocab, name.data, name.n);
    /* bytes that no UTF-8 has are never asked for */
    bool needed = i < 0xc0 || (i > 0xc1 && i < 0xf5);
    if (id < 0 && needed) missing = i;
    t->bpe.byte_ids[i] = (uint32_t)(id < 0 ? 0 : id);
  }
  bytes_free(&name);
  return missing < 0 ||
         error_usage(e, "the vocabulary has no token for the byte 0x%02x, which is not supported", missing);
}

/* A string member that must be empty or null. */
static bool check_empty(const cJSON *model, const char *key, Error *e) {
  const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(model, key));
  return !text || !*text || error_usage(e, "the model's %s \"%.100s\" is not supported", key, text);
}

static bool read_model_options(Tokenizer *t, const cJSON *model, Error *e) {
  Bpe *b = &t->bpe;
  const cJSON *type = cJSON_GetObjectItemCaseSensitive(model, "type");
  if (type && !component_is(model, "BPE")) return component_unknown("model", model, e);
  const cJSON *dropout = cJSON_GetObjectItemCaseSensitive(model, "dropout");
  if (cJSON_IsNumber(dropout) && dropout->valuedouble != 0)
    return error_usage(e, "the model's dropout of %g is not supported", dropout->valuedouble);
  if (!check_empty(model, "continuing_subword_prefix", e) || !check_empty(model, "end_of_word_suffix", e) ||
      !component_bool(model, "byte_fallback", false, &b->byte_fallback, e) ||
      !component_bool(model, "fuse_unk", false, &b->fuse_unknown, e) ||
      !component_bool(model, "ignore_merges", false, &b->ignore_merges, e))
    return false;
  b->unknown = -1;
  const char *unknown = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(model, "unk_token"));
  if (!unknown) return true;
  b->unknown = vocab_find(&b->vocab, unknown, strlen(unknown));
  return b->unknown >= 0 || error_usage(e, "the unknown token \"%.100s\" is not in the vocabulary", unknown);
}

static bool read_model(Tokenizer *t, const Parts *p, Error *e) {
  if (!p->vocab.n || !p->merges.n)
    return error_usage(e, "there is no \"model\" with \"vocab\" and \"merges\"; only BPE is supported");
  if (!read_vocab(t, p->vocab, e) || !read_model_options(t, p->model, e)) return false;
  t->bpe.cuts_at_meta = vocab_find(&t->bpe.vocab, meta, META) >= 0;
  if (!read_merges(t, p->merges, e)) return false;
  t->bpe.byte_level = t->pre.byte_level;
  if (!t->bpe.byte_level) return true;
  t->bpe.cuts_at_meta = false;
  return check_bytes(t, e);
}

/* ---- added tokens ---- */

static bool add_pattern(Tokenizer *t, AddedToken a, const char *text, const Bytes *pattern, Error *e) {
  bool same = pattern->n == strlen(text) && memcmp(pattern->data, text, pattern->n) == 0;
  if (!same && !vocab_add(&t->normalized, pattern->data, pattern->n, a.id))
    return error_usage(e, "the added token \"%.100s\" is, normalized, the same as another", text);
  return added_tokens_add(&t->added, a, pattern->data, pattern->n, e);
}

static bool read_added_token(Tokenizer *t, const cJSON *json, bool special, Error *e) {
  AddedToken a = {0};
  if (!component_bool(json, "special", false, &a.special, e)) return false;
  if (a.special != special) return true; /* the other round */
  int64_t id;
  const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "content"));
  if (!text || !*text) return error_usage(e, "an added token has no content");
  if (!component_bool(json, "single_word", false, &a.single_word, e) ||
      !component_bool(json, "lstrip", false, &a.lstrip, e) ||
      !component_bool(json, "rstrip", false, &a.rstrip, e) ||
      !component_bool(json, "normalized", !special, &a.normalized, e) ||
      !component_count(json, "id", VOCAB_MOST - 1, &id, e))
    return false;
  a.id = (uint32_t)id;
  int64_t there = vocab_find(&t->bpe.vocab, text, strlen(text));
  if (there >= 0 && there != id)
    return error_usage(e,
                       "the added token \"%.100s\" has the id %" PRId64 ", but %" PRId64 " in the vocabulary",
                       text, id, there);
  if (there < 0) {
    if (!add_token(t, text, a.id, e)) return false;
    t->bpe.vocab.tokens[a.id].added = true;
  }
  Bytes pattern = {0}, other = {0};
  bytes_append(&pattern, text, strlen(text));
  bool ok = (!a.normalized || normalizer_run(&t->normalizer, &pattern, &other, e)) &&
            add_pattern(t, a, text, &pattern, e);
  bytes_free(&pattern);
  bytes_free(&other);
  return ok;
}

/* Hugging Face's code passes over the file's ids: it numbers new tokens on from the vocabulary. Where the two
 * differ, either would be wrong for someone. */
static bool check_added_ids(const Vocab *v, const cJSON *list, Error *e) {
  int64_t next = (int64_t)v->count, id;
  const cJSON *item;
  cJSON_ArrayForEach(item, list) {
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "content"));
    if (!text) continue; /* refused when it is read */
    if (!component_count(item, "id", VOCAB_MOST - 1, &id, e)) return false;
    if (vocab_find(v, text, strlen(text)) < 0 && id != next)
      return error_usage(e,
                         "the added token \"%.100s\" has the id %" PRId64
                         ", but `tokenizers` would make it %" PRId64
                         ", the next that is free, which is not supported",
                         text, id, next);
    if (id >= next) next = id + 1;
  }
  return true;
}

static bool read_added_tokens(Tokenizer *t, const cJSON *list, Error *e) {
  const cJSON *item;
  if (!check_added_ids(&t->bpe.vocab, list, e)) return false;
  /* special ones first: they win where two look for the same text */
  for (int special = 1; special >= 0; special--) {
    cJSON_ArrayForEach(item, list) {
      if (!read_added_token(t, item, special, e)) return false;
    }
  }
  t->special = calloc(t->bpe.vocab.V + 1, sizeof *t->special);
  CHECK(t->special, "out of memory for %zu tokens", t->bpe.vocab.V);
  for (size_t i = 0; i < t->added.n; i++) t->special[t->added.tokens[i].id] |= t->added.tokens[i].special;
  return true;
}

/* ---- the template ---- */

static bool append_special(Ids *ids, const cJSON *specials, const char *name, size_t V, Error *e) {
  const cJSON *id, *token = cJSON_GetObjectItemCaseSensitive(specials, name ? name : "");
  const cJSON *list = cJSON_GetObjectItemCaseSensitive(token, "ids");
  if (!cJSON_IsArray(list))
    return error_usage(e, "the template names the token \"%.100s\", whose ids are not given",
                       name ? name : "");
  cJSON_ArrayForEach(id, list) {
    if (!cJSON_IsNumber(id) || !(id->valuedouble >= 0 && id->valuedouble < (double)V))
      return error_usage(e, "the template's token \"%.100s\" has an id that is not in the vocabulary", name);
    ids_append(ids, (uint32_t)id->valuedouble);
  }
  return true;
}

static bool read_template(Tokenizer *t, const cJSON *json, Error *e) {
  const cJSON *item, *single = cJSON_GetObjectItemCaseSensitive(json, "single");
  const cJSON *specials = cJSON_GetObjectItemCaseSensitive(json, "special_tokens");
  if (t->before.n || t->after.n) return error_usage(e, "a second template is not supported");
  if (!cJSON_IsArray(single)) return error_usage(e, "the template has no list \"single\"");
  int texts = 0;
  cJSON_ArrayForEach(item, single) {
    const cJSON *special = cJSON_GetObjectItemCaseSensitive(item, "SpecialToken");
    if (!special) {
      texts++;
      continue;
    }
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(special, "id"));
    if (!append_special(texts ? &t->after : &t->before, specials, name, t->bpe.vocab.V, e)) return false;
  }
  if (t->before.n > 1 || t->after.n > 1)
    return error_usage(e, "a template with several tokens before or behind the text is not supported");
  return texts == 1 || error_usage(e, "the template holds the text %d times; only once is supported", texts);
}

static bool read_post_processor(Tokenizer *t, const cJSON *json, int depth, Error *e) {
  if (!json || cJSON_IsNull(json)) return true;
  if (component_is(json, "ByteLevel")) return true; /* changes offsets only */
  if (component_is(json, "TemplateProcessing")) return read_template(t, json, e);
  if (!component_is(json, "Sequence")) return component_unknown("post_processor", json, e);
  const cJSON *part, *parts = component_parts(json, "processors", depth, e);
  if (!parts) return false;
  cJSON_ArrayForEach(part, parts) {
    if (!read_post_processor(t, part, depth + 1, e)) return false;
  }
  return true;
}

/* ---- the whole ---- */

static bool check_version(const cJSON *file, Error *e) {
  const cJSON *version = cJSON_GetObjectItemCaseSensitive(file, "version");
  const char *found = cJSON_GetStringValue(version);
  return !version || (found && strcmp(found, "1.0") == 0) ||
         error_usage(e, "found version \"%.20s\", expected \"1.0\"", found ? found : "");
}

/* What a Replace leaves of several characters at the start of a text is, to Hugging Face's code, not its
 * start any more. */
static bool check_start(const Tokenizer *t, Error *e) {
  bool asks = false, moves = false;
  for (size_t i = 0; i < t->pre.n; i++)
    asks |= t->pre.steps[i].kind == PRE_META && t->pre.steps[i].prefix == PREFIX_FIRST;
  for (size_t i = 0; i < t->normalizer.n; i++) {
    const NormalizerStep *s = &t->normalizer.steps[i];
    if (s->kind != NORMALIZER_REPLACE) continue;
    moves |= !*s->to || (size_t)utf8_length(s->from, strlen(s->from)) < strlen(s->from);
  }
  return !asks || !moves ||
         error_usage(e, "the pre_tokenizer Metaspace with prepend_scheme first behind a Replace of several "
                        "characters, or by none, is not supported");
}

static bool read_parts(Tokenizer *t, const Parts *p, Error *e) {
  const cJSON *o = p->others;
  if (!check_version(o, e) ||
      !normalizer_read(&t->normalizer, cJSON_GetObjectItemCaseSensitive(o, "normalizer"), e) ||
      !pre_tokenizer_read(&t->pre, cJSON_GetObjectItemCaseSensitive(o, "pre_tokenizer"), e) ||
      !check_start(t, e) || !decoder_read(&t->decoder, cJSON_GetObjectItemCaseSensitive(o, "decoder"), e) ||
      !read_model(t, p, e) || !read_added_tokens(t, cJSON_GetObjectItemCaseSensitive(o, "added_tokens"), e) ||
      !read_post_processor(t, cJSON_GetObjectItemCaseSensitive(o, "post_processor"), 0, e))
    return false;
  t->bos = t->before.n ? (int64_t)t->before.data[0] : -1;
  t->eos = t->after.n ? (int64_t)t->after.data[t->after.n - 1] : -1;
  return true;
}

/* Messages quote the file, which may hold anything: one line of text is made of them. */
static void tidy(Error *e) {
  for (char *c = e->text; *c;) {
    int n = utf8_length(c, strlen(c));
    if (n == 0 || (n == 1 && ((unsigned char)*c < ' ' || *c == 0x7f))) *c = '?';
    c += n ? n : 1;
  }
}

Tokenizer *tokenizer_parse(const char *name, const char *json, size_t n, Error *e) {
  Tokenizer *t = calloc(1, sizeof *t);
  CHECK(t, "out of memory for a tokenizer");
  JsonSpan file = {json, n};
  Parts p = {.model = cJSON_CreateObject(), .others = cJSON_CreateObject()};
  CHECK(p.model && p.others, "out of memory for a tokenizer");
  bool ok = json_check(file, e) && find_parts(&p, file, e) && read_parts(t, &p, e);
  cJSON_Delete(p.model);
  cJSON_Delete(p.others);
  t->hash = XXH3_64bits(json, n);
  t->hash += t->hash == 0; /* 0 means in shards that it is not given */
  if (ok) return t;
  tidy(e);
  error_prefix(e, "%s: ", name);
  tokenizer_close(t);
  return NULL;
}

/* The id of the token that tokenizer_config.json names under the key, text or {"content": text}; else -1. */
static int64_t named_token(const Tokenizer *t, const cJSON *config, const char *key) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(config, key);
  if (cJSON_IsObject(item)) item = cJSON_GetObjectItemCaseSensitive(item, "content");
  const char *text = cJSON_GetStringValue(item);
  return text ? tokenizer_find(t, text) : -1;
}

/* path: of the tokenizer_config.json, which may be missing. */
static bool read_config(Tokenizer *t, const char *path, Error *e) {
  enum { MOST = 1 << 26 };
  size_t n;
  if (access(path, F_OK) != 0) return true;
  char *text = file_read_text(path, MOST, &n, e);
  if (!text) return false;
  cJSON *config = json_read_object(text, n, e);
  free(text);
  if (!config) return error_prefix(e, "%s: ", path);
  if (t->bos < 0) t->bos = named_token(t, config, "bos_token");
  if (t->eos < 0) t->eos = named_token(t, config, "eos_token");
  cJSON_Delete(config);
  return true;
}

Tokenizer *tokenizer_open(const char *path, Error *e) {
  enum { MOST = 1 << 30 };
  struct stat s;
  bool is_folder = stat(path, &s) == 0 && S_ISDIR(s.st_mode);
  const char *slash = strrchr(path, '/');
  int folder_n = is_folder ? (int)strlen(path) : slash ? (int)(slash - path) : 0;
  char file[4096], config[4096];
  snprintf(file, sizeof file, is_folder ? "%s/tokenizer.json" : "%s", path);
  snprintf(config, sizeof config, "%.*s%stokenizer_config.json", folder_n, path,
           folder_n || slash ? "/" : "");
  size_t n;
  char *text = file_read_text(file, MOST, &n, e);
  if (!text) return NULL;
  Tokenizer *t = tokenizer_parse(file, text, n, e);
  free(text);
  if (!t || read_config(t, config, e)) return t;
  tokenizer_close(t);
  return NULL;
}

void tokenizer_close(Tokenizer *t) {
  if (!t) return;
  bpe_free(&t->bpe);
  added_tokens_free(&t->added);
  vocab_free(&t->normalized);
  free(t->special);
  normalizer_free(&t->normalizer);
  pre_tokenizer_free(&t->pre);
  decoder_free(&t->decoder);
  ids_free(&t->before);
  ids_free(&t->after);
  free(t);
}

int64_t tokenizer_vocab_size(const Tokenizer *t) {
  return (int64_t)t->bpe.vocab.V;
}

uint64_t tokenizer_hash(const Tokenizer *t) {
  return t->hash;
}

int64_t tokenizer_find(const Tokenizer *t, const char *text) {
  return vocab_find(&t->bpe.vocab, text, strlen(text));
}

int64_t tokenizer_bos(const Tokenizer *t) {
  return t->bos;
}

int64_t tokenizer_eos(const Tokenizer *t) {
  return t->eos;
}
