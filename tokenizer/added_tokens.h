/* Tokens that are found in a text before anything else is done to it: special ones and other additions. */
#ifndef ADDED_TOKENS_H
#define ADDED_TOKENS_H

#include <stdbool.h>

#include "tokenizer/buffer.h"
#include "tokenizer/regex.h"

typedef struct AddedToken {
  uint32_t id;
  bool special;
  bool single_word;    /* only where no word's character stands before or behind */
  bool lstrip, rstrip; /* takes the white space before, behind it */
  bool normalized;     /* looked for in the normalized text */
} AddedToken;

/* A set of texts, byte by byte. Node 0 is the root. */
typedef struct TrieNode {
  uint32_t child, sibling; /* 0 = none */
  int32_t token;           /* index of the token that ends here, -1 = none */
  uint8_t byte;
} TrieNode;

typedef struct Trie {
  TrieNode *nodes;
  size_t n, capacity;
  bool begins[256]; /* the first bytes */
} Trie;

typedef struct AddedTokens {
  AddedToken *tokens;
  size_t n, capacity;
  Trie raw, normalized;  /* of the tokens that are looked for in the one and the other text */
  pcre2_code *word_char; /* the character of a word; NULL when no token is a single_word */
} AddedTokens;

/* Adds a token; `pattern`, n bytes, is what is looked for: the normalized text of a normalized token. Of two
 * with the same pattern the first one is found. */
bool added_tokens_add(AddedTokens *a, AddedToken token, const void *pattern, size_t n, Error *e);
void added_tokens_free(AddedTokens *a);

/* What comes next in a text: plain text (there may be none), then a token; after the last one, token is NULL.
 */
typedef struct AddedMatch {
  size_t plain, plain_n; /* first byte of the plain text, and bytes */
  const AddedToken *token;
} AddedMatch;

/* Where a search is: begin with zeros. */
typedef struct AddedSearch {
  size_t at;   /* of the next look */
  size_t done; /* text that is handed out */
} AddedSearch;

/* Takes the next part of the text. skip_special leaves special tokens in the plain text. */
bool added_tokens_next(const AddedTokens *a, const Trie *trie, const RegexScratch *regex, const uint8_t *text,
                       size_t n, bool skip_special, AddedSearch *search, AddedMatch *match, Error *e);

#endif
