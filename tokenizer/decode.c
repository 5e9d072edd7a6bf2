#include <stdlib.h>

#include "tokenizer/internal.h"

struct TextStream {
  const Tokenizer *t;
  bool skip_special;
  DecodeState state;
  Piece scratch;
};

TextStream *text_stream_new(const Tokenizer *t, bool skip_special) {
  TextStream *s = calloc(1, sizeof *s);
  CHECK(s, "out of memory for a text");
  s->t = t;
  s->skip_special = skip_special;
  return s;
}

bool text_stream_push(TextStream *s, uint32_t id, Bytes *text, Error *e) {
  size_t n;
  const uint8_t *token = vocab_text(&s->t->normalized, id, &n);
  if (!token) token = vocab_text(&s->t->bpe.vocab, id, &n);
  if (!token) {
    return error_usage(e, "the tokenizer has no token %u; its ids go up to %zu", id,
                       s->t->bpe.vocab.V ? s->t->bpe.vocab.V - 1 : 0);
  }
  if (!s->skip_special || !s->t->special[id])
    decoder_push(&s->t->decoder, &s->state, &s->scratch, token, n, text);
  return true;
}

void text_stream_finish(TextStream *s, Bytes *text) {
  decoder_finish(&s->t->decoder, &s->state, text);
}

void text_stream_free(TextStream *s) {
  if (!s) return;
  bytes_free(&s->state.pending);
  bytes_free(&s->scratch.text);
  free(s);
}

bool tokenizer_decode(const Tokenizer *t, const uint32_t *ids, size_t n, bool skip_special, Bytes *text,
                      Error *e) {
  size_t before = text->n;
  TextStream *s = text_stream_new(t, skip_special);
  bool ok = true;
  for (size_t i = 0; i < n && ok; i++) ok = text_stream_push(s, ids[i], text, e);
  if (ok)
    text_stream_finish(s, text);
  else
    text->n = before;
  text_stream_free(s);
  return ok;
}
