#include <stdlib.h>

#include "tokenizer/internal.h"
#include "base/utf8.h"

struct Encoder {
  const Tokenizer *t;
  BpeScratch *bpe;
  PreScratch pre;
  Bytes normal, other; /* a normalized text, and room to make it */
  Ids *ids;            /* of the call at hand */
  bool skip_special;
};

Encoder *encoder_new(const Tokenizer *t) {
  Encoder *x = calloc(1, sizeof *x);
  CHECK(x, "out of memory for an encoder");
  x->t = t;
  x->bpe = bpe_scratch_new();
  x->pre.regex = regex_scratch_new();
  return x;
}

void encoder_free(Encoder *x) {
  if (!x) return;
  bpe_scratch_free(x->bpe);
  regex_scratch_free(&x->pre.regex);
  for (size_t i = 0; i < PRE_MOST; i++) bytes_free(&x->pre.text[i]);
  bytes_free(&x->normal);
  bytes_free(&x->other);
  free(x);
}

static void take_word(void *context, const uint8_t *word, size_t n) {
  Encoder *x = context;
  bpe_encode(&x->t->bpe, x->bpe, word, n, x->ids);
}

/* Text without added tokens of the first kind, normalized: those of the second kind, and words. */
static bool encode_normalized(Encoder *x, const uint8_t *text, size_t n, bool first, Error *e) {
  AddedSearch search = {0};
  AddedMatch m;
  do {
    if (!added_tokens_next(&x->t->added, &x->t->added.normalized, &x->pre.regex, text, n, x->skip_special,
                           &search, &m, e) ||
        !pre_tokenizer_run(&x->t->pre, &x->pre, text + m.plain, m.plain_n, first && m.plain == 0,
                           (WordSink){take_word, x}, e))
      return false;
    if (m.token) ids_append(x->ids, m.token->id);
  } while (m.token);
  return true;
}

static bool encode_plain(Encoder *x, const uint8_t *text, size_t n, bool first, Error *e) {
  if (n == 0) return true;
  if (x->t->normalizer.n == 0) return encode_normalized(x, text, n, first, e);
  x->normal.n = 0;
  bytes_append(&x->normal, text, n);
  return normalizer_run(&x->t->normalizer, &x->normal, &x->other, e) &&
         encode_normalized(x, x->normal.data, x->normal.n, first, e);
}

static bool encode_text(Encoder *x, const uint8_t *text, size_t n, Error *e) {
  AddedSearch search = {0};
  AddedMatch m;
  do {
    if (!added_tokens_next(&x->t->added, &x->t->added.raw, &x->pre.regex, text, n, x->skip_special, &search,
                           &m, e) ||
        !encode_plain(x, text + m.plain, m.plain_n, m.plain == 0, e))
      return false;
    if (m.token) ids_append(x->ids, m.token->id);
  } while (m.token);
  return true;
}

static void append(Ids *ids, const Ids *more) {
  for (size_t i = 0; i < more->n; i++) ids_append(ids, more->data[i]);
}

bool tokenizer_encode(Encoder *x, const char *text, size_t n, int flags, Ids *ids, Error *e) {
  const uint8_t *bytes = (const uint8_t *)text;
  size_t valid = utf8_valid(text, n), before = ids->n;
  if (n > INT32_MAX)
    return error_usage(e, "a text of %zu bytes; at most %d can be encoded at once: cut it", n, INT32_MAX);
  if (valid < n) return error_usage(e, "byte %zu of the text is not UTF-8 (0x%02x)", valid, bytes[valid]);
  x->ids = ids;
  x->skip_special = flags & ENCODE_SPECIAL_AS_TEXT;
  if (flags & ENCODE_TEMPLATE) append(ids, &x->t->before);
  if (!encode_text(x, bytes, n, e)) {
    ids->n = before;
    return false;
  }
  if (flags & ENCODE_TEMPLATE) append(ids, &x->t->after);
  return true;
}
