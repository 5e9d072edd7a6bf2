/* Text to token ids and back, as Hugging Face's `tokenizers` does it, from a tokenizer.json: BPE over bytes
 * (GPT-2, Llama 3, Qwen2) and over characters with a fallback to bytes (Llama 2, Mistral). A component of the
 * file that is not known here is refused by its name. What is known: docs/formats.md. */
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "tokenizer/buffer.h" /* Bytes, Ids */

#ifdef __cplusplus
extern "C" {
#endif

/* Does not change once it is open: all threads may use one. */
typedef struct Tokenizer Tokenizer;
/* What one thread needs for encoding: buffers, and a cache of words. */
typedef struct Encoder Encoder;
/* A text that comes token by token. */
typedef struct TextStream TextStream;

/* Reads PATH, a tokenizer.json or a folder that holds one. Of a tokenizer_config.json beside it, only the
 * names of the BOS and EOS tokens are taken. NULL on failure. */
Tokenizer *tokenizer_open(const char *path, Error *e);
/* The same of a tokenizer.json in memory; `name` is for messages. */
Tokenizer *tokenizer_parse(const char *name, const char *json, size_t n, Error *e);
void tokenizer_close(Tokenizer *t);

/* V: the highest id + 1. */
int64_t tokenizer_vocab_size(const Tokenizer *t);
/* XXH3 (64 bits, seed 0) of the bytes of tokenizer.json: what shards of its tokens carry. Never 0. */
uint64_t tokenizer_hash(const Tokenizer *t);
/* The id of the token with this text, -1 when there is none. */
int64_t tokenizer_find(const Tokenizer *t, const char *text);
/* The token that begins, ends a document, or -1: the one that the file's template puts there, else the one
 * that tokenizer_config.json names. */
int64_t tokenizer_bos(const Tokenizer *t);
int64_t tokenizer_eos(const Tokenizer *t);

/* Flags of tokenizer_encode. */
enum {
  ENCODE_TEMPLATE = 1,        /* with the tokens that the file's template puts around a text */
  ENCODE_SPECIAL_AS_TEXT = 2, /* special tokens in the text are ordinary text */
};

Encoder *encoder_new(const Tokenizer *t);
void encoder_free(Encoder *x);

/* Appends the ids of the text, n bytes of UTF-8, at most 2^31 - 1. Text that is not UTF-8 is a usage error
 * that names the byte; nothing is appended then. */
bool tokenizer_encode(Encoder *x, const char *text, size_t n, int flags, Ids *ids, Error *e);

/* Appends the text of n ids. Bytes that are no UTF-8 become U+FFFD. An id that the vocabulary does not have
 * is a usage error. skip_special leaves special tokens out. */
bool tokenizer_decode(const Tokenizer *t, const uint32_t *ids, size_t n, bool skip_special, Bytes *text,
                      Error *e);

/* The same piece by piece: each push appends to `text` what is certain by now, whole characters only, and the
 * finish appends the rest; together they are what tokenizer_decode makes of all ids. */
TextStream *text_stream_new(const Tokenizer *t, bool skip_special);
bool text_stream_push(TextStream *s, uint32_t id, Bytes *text, Error *e);
void text_stream_finish(TextStream *s, Bytes *text);
void text_stream_free(TextStream *s);

#ifdef __cplusplus
}
#endif
#endif
