/* Text through the tokenizers of the tests: refused where it is not UTF-8, else ids that give it back, the
 * same at once and as a stream, and the same with a fresh cache.
 *
 * Input: a byte that chooses the tokenizer, then the text. */
#include "fuzz.h"

#include "base/utf8.h"
#include "tokenizer/tokenizer.h"

enum { FUZZ_KINDS = 4 };
/* The first two give every text back. */
static const char *const fuzz_kinds[FUZZ_KINDS] = {"llama3", "gpt2", "mistral", "added"};

static void check_text(const Tokenizer *t, const char *text, size_t n, bool exact) {
  Error e = {0};
  Ids ids = {0}, again = {0};
  Bytes whole = {0}, streamed = {0};
  Encoder *x = encoder_new(t);
  bool ok = tokenizer_encode(x, text, n, 0, &ids, &e);
  CHECK(ok == (utf8_valid(text, n) == n), "UTF-8 or not: %s", e.text);
  if (!ok) fuzz_check_refusal(&e);
  if (ok) {
    CHECK(tokenizer_encode(x, text, n, 0, &again, &e), "%s", e.text);
    CHECK(ids.n == again.n && (!ids.n || memcmp(ids.data, again.data, ids.n * 4) == 0),
          "the cache changes ids");
    CHECK(tokenizer_decode(t, ids.data, ids.n, false, &whole, &e), "%s", e.text);
    TextStream *s = text_stream_new(t, false);
    for (size_t i = 0; i < ids.n; i++) {
      CHECK(text_stream_push(s, ids.data[i], &streamed, &e), "%s", e.text);
      CHECK(utf8_valid((char *)streamed.data, streamed.n) == streamed.n, "half a character was given out");
    }
    text_stream_finish(s, &streamed);
    text_stream_free(s);
    CHECK(whole.n == streamed.n && (!whole.n || memcmp(whole.data, streamed.data, whole.n) == 0),
          "the stream differs");
    CHECK(!exact || (whole.n == n && (!n || memcmp(whole.data, text, n) == 0)),
          "the text does not come back");
  }
  encoder_free(x);
  ids_free(&ids);
  ids_free(&again);
  bytes_free(&whole);
  bytes_free(&streamed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static Tokenizer *tokenizers[FUZZ_KINDS]; /* reading them takes longer than most texts */
  if (size == 0) return 0;
  int kind = data[0] % FUZZ_KINDS;
  if (!tokenizers[kind]) {
    char path[FUZZ_PATH];
    Error e;
    snprintf(path, sizeof path, "test/fixtures/tokenizer/%s.json", fuzz_kinds[kind]);
    tokenizers[kind] = tokenizer_open(path, &e);
    CHECK(tokenizers[kind], "%s", e.text);
  }
  check_text(tokenizers[kind], (const char *)data + 1, size - 1, kind < 2);
  return 0;
}
