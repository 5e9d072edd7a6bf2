/* tokenizer.json: refused with a message, or what it makes of a text can be decoded.
 *
 * Input: the file; what follows a byte 0xFF is a text to encode. */
#include "fuzz.h"

#include "base/utf8.h"
#include "tokenizer/tokenizer.h"

static void try_text(const Tokenizer *t, FuzzPart text) {
  Error e = {0};
  Ids ids = {0};
  Bytes back = {0};
  Encoder *x = encoder_new(t);
  size_t valid = utf8_valid(text.data, text.size);
  if (tokenizer_encode(x, text.data, text.size, ENCODE_TEMPLATE, &ids, &e)) {
    CHECK(valid == text.size, "byte %zu was taken for UTF-8", valid);
    if (!tokenizer_decode(t, ids.data, ids.n, false, &back, &e)) PANIC("%s", e.text);
    CHECK(utf8_valid((char *)back.data, back.n) == back.n, "the decoded text is not UTF-8");
  } else {
    CHECK(e.code == EXIT_RUNTIME || valid < text.size, "refused: %s", e.text);
  }
  encoder_free(x);
  ids_free(&ids);
  bytes_free(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Error e = {0};
  FuzzPart file = fuzz_cut(&data, &size);
  Tokenizer *t = tokenizer_parse("file", file.data, file.size, &e);
  if (!t) {
    fuzz_check_refusal(&e);
    return 0;
  }
  try_text(t, (FuzzPart){data, size});
  tokenizer_close(t);
  return 0;
}
