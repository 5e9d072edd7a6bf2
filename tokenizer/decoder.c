#include "tokenizer/decoder.h"

#include <ctype.h>

#include "tokenizer/byte_chars.h"
#include "tokenizer/components.h"
#include "base/utf8.h"

/* ---- reading ---- */

static bool add_replace(Decoder *d, const cJSON *json, Error *e) {
  if (d->bytes || d->fused || d->replaces == DECODER_MOST)
    return error_usage(e, "this place of Replace in the decoder is not supported");
  char *from = component_literal(json, e);
  char *to = from ? component_string(json, "content", e) : NULL;
  if (!to) {
    free(from);
    return false;
  }
  d->replace[d->replaces].from = from;
  d->replace[d->replaces++].to = to;
  return true;
}

/* Strip is per token until Fuse has made one of all; only then is it the text's. */
static bool add_strip(Decoder *d, const cJSON *json, Error *e) {
  int64_t start, stop;
  if (!component_count(json, "start", 1 << 20, &start, e) ||
      !component_count(json, "stop", 1 << 20, &stop, e))
    return false;
  if (!d->fused || d->strip || stop)
    return error_usage(e, "the decoder Strip is supported once, behind Fuse and with stop 0");
  d->strip_most = start;
  d->strip = component_string(json, "content", e);
  if (!d->strip) return false;
  return *d->strip || error_usage(e, "the decoder Strip without content is not supported");
}

static bool add_step(Decoder *d, const cJSON *json, int depth, Error *e) {
  if (component_is(json, "Sequence")) {
    const cJSON *part, *parts = component_parts(json, "decoders", depth, e);
    if (!parts) return false;
    cJSON_ArrayForEach(part, parts) {
      if (!add_step(d, part, depth + 1, e)) return false;
    }
    return true;
  }
  if (component_is(json, "Replace")) return add_replace(d, json, e);
  if (component_is(json, "Strip")) return add_strip(d, json, e);
  if (component_is(json, "Fuse")) return d->fused = true;
  if (component_is(json, "ByteFallback")) {
    if (d->bytes || d->fused)
      return error_usage(e, "this place of ByteFallback in the decoder is not supported");
    return d->bytes = true;
  }
  return component_unknown("decoder (here)", json, e);
}

static bool read_meta(Decoder *d, const cJSON *json, Error *e) {
  d->kind = DECODER_META;
  d->meta = component_string(json, "replacement", e);
  if (!d->meta) return false;
  if (!*d->meta) return error_usage(e, "the decoder Metaspace without a replacement is not supported");
  const char *scheme = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "prepend_scheme"));
  if (!component_bool(json, "add_prefix_space", true, &d->meta_is_first, e)) return false;
  if (scheme) d->meta_is_first = strcmp(scheme, "never") != 0;
  return true;
}

bool decoder_read(Decoder *d, const cJSON *json, Error *e) {
  *d = (Decoder){.kind = DECODER_SPACES};
  bool ok = true;
  if (json && !cJSON_IsNull(json)) {
    if (component_is(json, "ByteLevel")) {
      d->kind = DECODER_BYTE_LEVEL;
    } else if (component_is(json, "Metaspace")) {
      ok = read_meta(d, json, e);
    } else {
      d->kind = DECODER_STEPS;
      ok = add_step(d, json, 0, e);
    }
  }
  if (!ok) decoder_free(d);
  return ok;
}

void decoder_free(Decoder *d) {
  free(d->meta);
  free(d->strip);
  for (size_t i = 0; i < d->replaces; i++) {
    free(d->replace[i].from);
    free(d->replace[i].to);
  }
  *d = (Decoder){0};
}

/* ---- one token ---- */

/* The byte of a token like <0x0A>, else -1. */
static int byte_token(const Bytes *text) {
  const char *t = (const char *)text->data;
  if (text->n != 6 || memcmp(t, "<0x", 3) != 0 || t[5] != '>') return -1;
  char digits[3] = {t[3], t[4]};
  if (!isxdigit((unsigned char)digits[1])) return -1;
  /* as Rust reads a number: a sign is one */
  if (!isxdigit((unsigned char)digits[0]) && digits[0] != '+') return -1;
  return (int)strtol(digits, NULL, 16);
}

void decoder_piece(const Decoder *d, const uint8_t *token, size_t n, bool first, Piece *p) {
  p->byte = -1;
  p->text.n = 0;
  switch (d->kind) {
  case DECODER_SPACES:
    if (!first) bytes_append(&p->text, " ", 1);
    bytes_append(&p->text, token, n);
    return;
  case DECODER_BYTE_LEVEL:
    if (!byte_chars_decode(token, n, &p->text)) bytes_append(&p->text, token, n);
    return;
  case DECODER_META:
    bytes_append_replaced(&p->text, token, n, d->meta, first && d->meta_is_first ? "" : " ");
    return;
  case DECODER_STEPS: bytes_append(&p->text, token, n);
  }
  for (size_t i = 0; i < d->replaces; i++) {
    Bytes out = {0};
    bytes_append_replaced(&out, p->text.data, p->text.n, d->replace[i].from, d->replace[i].to);
    bytes_free(&p->text);
    p->text = out;
  }
  if (d->bytes) p->byte = byte_token(&p->text);
}

/* ---- a text ---- */

/* Appends text, but for what is to be stripped from the start of all of it. */
static void emit(const Decoder *d, DecodeState *s, const uint8_t *text, size_t n, Bytes *out) {
  size_t length = d->strip ? strlen(d->strip) : 0;
  while (length && n && s->stripped >= 0) {
    bool same = n >= length && memcmp(text, d->strip, length) == 0;
    if (!same || s->stripped == d->strip_most) {
      s->stripped = -1;
    } else {
      s->stripped++;
      text += length, n -= length;
    }
  }
  bytes_append(out, text, n);
}

/* A row of byte tokens is over: text if it is text as a whole, else a U+FFFD for each byte. */
static void end_bytes(const Decoder *d, DecodeState *s, Bytes *out) {
  Bytes *p = &s->pending;
  if (p->n && utf8_valid((const char *)p->data, p->n) == p->n) {
    emit(d, s, p->data, p->n, out);
  } else {
    for (size_t i = 0; i < p->n; i++) emit(d, s, (const uint8_t *)UTF8_REPLACEMENT, 3, out);
  }
  p->n = 0;
}

/* Moves whole characters out of what is pending; at the end of the text, everything. */
static void emit_characters(const Decoder *d, DecodeState *s, bool at_end, Bytes *out) {
  Bytes *p = &s->pending;
  size_t i = 0;
  while (i < p->n) {
    const char *next = (const char *)p->data + i;
    size_t length = (size_t)utf8_length(next, p->n - i), bad = 0;
    bool cut = false;
    if (length == 0) bad = utf8_malformed(next, p->n - i, &cut);
    if (cut && !at_end) break;
    if (length)
      emit(d, s, p->data + i, length, out);
    else
      emit(d, s, (const uint8_t *)UTF8_REPLACEMENT, 3, out);
    i += length ? length : bad;
  }
  if (i) memmove(p->data, p->data + i, p->n - i);
  p->n -= i;
}

void decoder_push(const Decoder *d, DecodeState *s, Piece *scratch, const uint8_t *token, size_t n,
                  Bytes *out) {
  decoder_piece(d, token, n, !s->begun, scratch);
  s->begun = true;
  if (scratch->byte >= 0) {
    uint8_t byte = (uint8_t)scratch->byte;
    bytes_append(&s->pending, &byte, 1);
    return;
  }
  if (d->kind == DECODER_BYTE_LEVEL) {
    bytes_append(&s->pending, scratch->text.data, scratch->text.n);
    emit_characters(d, s, false, out);
    return;
  }
  end_bytes(d, s, out);
  emit(d, s, scratch->text.data, scratch->text.n, out);
}

void decoder_finish(const Decoder *d, DecodeState *s, Bytes *out) {
  if (d->kind == DECODER_BYTE_LEVEL)
    emit_characters(d, s, true, out);
  else
    end_bytes(d, s, out);
  bytes_free(&s->pending);
  *s = (DecodeState){0};
}
