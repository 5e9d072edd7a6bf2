/* What an open tokenizer is made of. */
#ifndef TOKENIZER_INTERNAL_H
#define TOKENIZER_INTERNAL_H

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/decoder.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"

struct Tokenizer {
  Bpe bpe;           /* its vocabulary has the added tokens too */
  AddedTokens added; /* found before all else */
  Vocab normalized;  /* texts of added tokens that normalizing changes: what they are decoded to */
  bool *special;     /* [V] tokens that decoding may leave out */
  Normalizer normalizer;
  PreTokenizer pre;
  Decoder decoder;
  Ids before, after; /* what the template puts around a text */
  int64_t bos, eos;  /* -1 = none */
  uint64_t hash;     /* of the file */
};

#endif
