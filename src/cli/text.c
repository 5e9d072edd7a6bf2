#include "cli/text.h"

#include <string.h>
#include <unistd.h>

#include "base/utf8.h"
#include "io/file.h"
#include "io/json_in.h"    /* defines: json_read_object */
#include "io/run_folder.h" /* RUN_PATH */

enum { BYTE_TOKENS = 256 };

struct Text {
  Tokenizer *tokenizer; /* NULL: a token is a byte */
  Ids ends;             /* tokens that end a text */
};

/* generation_config.json's eos_token_id: an id, a list of them, or null. */
static bool read_ends(Ids *ends, const char *folder, Error *e) {
  char path[RUN_PATH + 32];
  size_t bytes;
  snprintf(path, sizeof path, "%s/generation_config.json", folder);
  if (access(path, F_OK) != 0) return true;
  char *text = file_read_text(path, 1 << 20, &bytes, e);
  if (!text) return false;
  cJSON *json = json_read_object(text, bytes, e);
  free(text);
  if (!json) return error_prefix(e, "%s: ", path);
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(json, "eos_token_id");
  bool ok = true;
  for (const cJSON *id = cJSON_IsArray(value) ? value->child : value; id && !cJSON_IsNull(id);
       id = id->next) {
    ok = cJSON_IsNumber(id) && id->valuedouble >= 0 && id->valuedouble <= INT32_MAX;
    if (!ok) break;
    ids_append(ends, (uint32_t)id->valuedouble);
    if (id == value) break; /* what comes next is another key */
  }
  cJSON_Delete(json);
  return ok || error_usage(e, "%s: its eos_token_id is no token id, no list of them and not null.", path);
}

Text *text_open(const char *folder, Error *e) {
  char path[RUN_PATH + 32];
  Text *t = calloc(1, sizeof *t);
  CHECK(t, "out of memory for a tokenizer");
  if (!folder) return t;
  snprintf(path, sizeof path, "%s/tokenizer.json", folder);
  bool ok = access(path, F_OK) != 0 || (t->tokenizer = tokenizer_open(folder, e));
  if (ok && read_ends(&t->ends, folder, e)) return t;
  text_close(t);
  return NULL;
}

void text_close(Text *t) {
  if (!t) return;
  if (t->tokenizer) tokenizer_close(t->tokenizer);
  ids_free(&t->ends);
  free(t);
}

bool text_check(const Text *t, const Config *c, Error *e) {
  if (t->tokenizer || c->V == BYTE_TOKENS) return true;
  return error_usage(e,
                     "found no tokenizer.json in the model's folder, expected one for its vocabulary of "
                     "%lld: only\n%d tokens are taken for bytes. Put the model's tokenizer.json there.",
                     (long long)c->V, BYTE_TOKENS);
}

bool text_encode(const Text *t, const char *text, Ids *ids, Error *e) {
  size_t n = strlen(text);
  if (!t->tokenizer) {
    for (size_t i = 0; i < n; i++) ids_append(ids, (uint8_t)text[i]);
    return true;
  }
  Encoder *x = encoder_new(t->tokenizer);
  bool ok = tokenizer_encode(x, text, n, ENCODE_TEMPLATE, ids, e);
  encoder_free(x);
  int64_t eos = tokenizer_eos(t->tokenizer);
  if (ok && ids->n > 1 && eos == ids->data[ids->n - 1]) ids->n--;
  return ok;
}

bool text_ends(const Text *t, const Config *c, int32_t id) {
  for (size_t i = 0; i < t->ends.n; i++)
    if (t->ends.data[i] == (uint32_t)id) return true;
  return t->ends.n == 0 && c->eos == id;
}

TextPrinter text_printer_open(const Text *t, FILE *out) {
  TextPrinter p = {.text = t, .out = out, .to_terminal = isatty(fileno(out))};
  if (t->tokenizer) p.stream = text_stream_new(t->tokenizer, true);
  return p;
}

/* Of `pending`, prints what are whole characters by now; all: and the rest. */
static void print_pending(TextPrinter *p, bool all) {
  const char *text = (const char *)p->pending.data;
  size_t at = 0, n = p->pending.n;
  while (at < n) {
    bool cut = false;
    size_t length = (size_t)utf8_length(text + at, n - at), skip = length;
    if (!length) skip = utf8_malformed(text + at, n - at, &cut);
    if (cut && !all) break;
    unsigned char c = (unsigned char)text[at];
    bool control = length == 1 && c != '\n' && c != '\t' && (c < ' ' || c == 127);
    if (!length)
      fputs(UTF8_REPLACEMENT, p->out);
    else if (control && p->to_terminal)
      fputc('?', p->out);
    else
      fwrite(text + at, 1, length, p->out);
    at += skip;
  }
  if (at) memmove(p->pending.data, p->pending.data + at, n - at);
  p->pending.n -= at;
  fflush(p->out);
}

void text_print(TextPrinter *p, int32_t id) {
  Error unknown;
  bool is_byte = id >= 0 && id < BYTE_TOKENS;
  /* a vocabulary may be padded: the model can choose tokens without a text */
  bool known = p->stream ? text_stream_push(p->stream, (uint32_t)id, &p->pending, &unknown) : is_byte;
  if (!known)
    bytes_append(&p->pending, UTF8_REPLACEMENT, strlen(UTF8_REPLACEMENT));
  else if (!p->stream)
    bytes_append(&p->pending, &(uint8_t){(uint8_t)id}, 1);
  print_pending(p, false);
}

void text_printer_close(TextPrinter *p) {
  if (p->stream) {
    text_stream_finish(p->stream, &p->pending);
    text_stream_free(p->stream);
  }
  print_pending(p, true);
  bytes_free(&p->pending);
}
