#include "tokenizer/added_tokens.h"

#include "base/utf8.h"

/* ---- the trie ---- */

static uint32_t new_node(Trie *t, uint8_t byte) {
  CHECK(t->n < UINT32_MAX, "too many added tokens");
  t->nodes = buffer_grow(t->nodes, &t->capacity, t->n + 1, sizeof *t->nodes);
  t->nodes[t->n] = (TrieNode){.token = -1, .byte = byte};
  return (uint32_t)t->n++;
}

/* The child of the node with this byte, 0 = none. */
static uint32_t find_child(const Trie *t, uint32_t node, uint8_t byte) {
  uint32_t child = t->nodes[node].child;
  while (child && t->nodes[child].byte != byte) child = t->nodes[child].sibling;
  return child;
}

static void trie_add(Trie *t, const uint8_t *pattern, size_t n, int32_t token) {
  if (n == 0) return;
  if (t->n == 0) new_node(t, 0);
  uint32_t node = 0;
  for (size_t i = 0; i < n; i++) {
    uint32_t child = find_child(t, node, pattern[i]);
    if (!child) {
      child = new_node(t, pattern[i]);
      t->nodes[child].sibling = t->nodes[node].child;
      t->nodes[node].child = child;
    }
    node = child;
  }
  if (t->nodes[node].token < 0) t->nodes[node].token = token;
  t->begins[pattern[0]] = true;
}

/* The longest token at the start of the text, -1 = none. */
static int32_t trie_longest(const Trie *t, const uint8_t *text, size_t n, size_t *length) {
  int32_t token = -1;
  uint32_t node = 0;
  for (size_t i = 0; i < n; i++) {
    node = find_child(t, node, text[i]);
    if (!node) break;
    if (t->nodes[node].token < 0) continue;
    token = t->nodes[node].token;
    *length = i + 1;
  }
  return token;
}

bool added_tokens_add(AddedTokens *a, AddedToken token, const void *pattern, size_t n, Error *e) {
  if (token.single_word && !a->word_char) {
    pcre2_code *code = NULL;
    int number;
    PCRE2_SIZE at;
    /* as the regex crate of Rust defines \w */
    code = pcre2_compile((PCRE2_SPTR) "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]",
                         PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &number, &at, NULL);
    if (!code) return error_runtime(e, "this PCRE2 is too old: 10.40 or later is needed");
    a->word_char = code;
  }
  a->tokens = buffer_grow(a->tokens, &a->capacity, a->n + 1, sizeof *a->tokens);
  a->tokens[a->n] = token;
  trie_add(token.normalized ? &a->normalized : &a->raw, pattern, n, (int32_t)a->n);
  a->n++;
  return true;
}

void added_tokens_free(AddedTokens *a) {
  free(a->tokens);
  free(a->raw.nodes);
  free(a->normalized.nodes);
  pcre2_code_free(a->word_char);
  *a = (AddedTokens){0};
}

/* ---- the surroundings of a match ---- */

/* Where the character before byte `at` > 0 begins. */
static size_t before(const uint8_t *text, size_t at) {
  while ((text[--at] & 0xc0) == 0x80) {}
  return at;
}

/* Unicode's White_Space, which is closed. */
static bool is_space(const uint8_t *c, size_t n) {
  if (n == 1) return *c == ' ' || (*c >= '\t' && *c <= '\r');
  if (n == 2) return c[0] == 0xc2 && (c[1] == 0x85 || c[1] == 0xa0);
  if (n != 3) return false;
  uint32_t code = (uint32_t)(c[0] & 15) << 12 | (uint32_t)(c[1] & 63) << 6 | (c[2] & 63);
  return code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 ||
         code == 0x202f || code == 0x205f || code == 0x3000;
}

static size_t spaces_begin(const uint8_t *text, size_t at) {
  while (at > 0) {
    size_t start = before(text, at);
    if (!is_space(text + start, at - start)) break;
    at = start;
  }
  return at;
}

static size_t spaces_end(const uint8_t *text, size_t n, size_t at) {
  while (at < n) {
    size_t length = (size_t)utf8_length((const char *)text + at, n - at);
    if (!is_space(text + at, length)) break;
    at += length;
  }
  return at;
}

/* Whether a word's character stands right before `start` or at `end`. */
static bool touches_word(const AddedTokens *a, const RegexScratch *regex, const uint8_t *text, size_t n,
                         size_t start, size_t end, bool *touches, Error *e) {
  size_t from, to;
  *touches = false;
  if (start > 0) {
    size_t c = before(text, start);
    if (!regex_find(a->word_char, regex, (const char *)text + c, start - c, 0, touches, &from, &to, e))
      return false;
  }
  if (*touches || end == n) return true;
  return regex_find(a->word_char, regex, (const char *)text + end, n - end, 0, touches, &from, &to, e);
}

bool added_tokens_next(const AddedTokens *a, const Trie *trie, const RegexScratch *regex, const uint8_t *text,
                       size_t n, bool skip_special, AddedSearch *search, AddedMatch *match, Error *e) {
  for (; trie->n && search->at < n; search->at++) {
    size_t start = search->at, length = 0;
    if (!trie->begins[text[start]]) continue;
    int32_t index = trie_longest(trie, text + start, n - start, &length);
    if (index < 0) continue;
    const AddedToken *token = &a->tokens[index];
    size_t end = start + length;
    bool touches = false;
    if (token->single_word && !touches_word(a, regex, text, n, start, end, &touches, e)) return false;
    if (touches || (skip_special && token->special)) {
      search->at = end - 1;
      continue;
    }
    search->at = end;
    if (token->lstrip) start = spaces_begin(text, start);
    if (token->rstrip) end = spaces_end(text, n, end);
    /* the token before may have taken white space up to here, or this token with it */
    *match = (AddedMatch){search->done, start > search->done ? start - search->done : 0, token};
    search->done = end;
    return true;
  }
  *match = (AddedMatch){search->done, n - search->done, NULL};
  return true;
}
