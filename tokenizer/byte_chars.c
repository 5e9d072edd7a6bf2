#include "tokenizer/byte_chars.h"

static bool is_visible(unsigned c) {
  return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xff && c != 0xad);
}

void byte_chars_encode(const uint8_t *bytes, size_t n, Bytes *chars) {
  for (size_t i = 0; i < n; i++) {
    unsigned c = bytes[i];
    if (!is_visible(c)) /* the hidden ones are 0 .. 0x20, 0x7f .. 0xa0 and 0xad */
      c = 0x100 + (c <= 0x20 ? c : c <= 0xa0 ? c - 0x7f + 0x21 : 0x43);
    uint8_t text[2] = {(uint8_t)(0xc0 | c >> 6), (uint8_t)(0x80 | (c & 0x3f))};
    if (c < 0x80)
      bytes_append(chars, &bytes[i], 1);
    else
      bytes_append(chars, text, 2);
  }
}

bool byte_chars_decode(const uint8_t *text, size_t n, Bytes *bytes) {
  size_t before = bytes->n;
  for (size_t i = 0; i < n; i++) {
    unsigned c = text[i];
    if (c >= 0xc2 && c <= 0xc5 && i + 1 < n) c = (c & 0x1f) << 6 | (text[++i] & 0x3f);
    unsigned hidden = c - 0x100;
    if (hidden <= 0x20)
      c = hidden;
    else if (hidden <= 0x42)
      c = hidden - 0x21 + 0x7f;
    else if (hidden == 0x43)
      c = 0xad;
    else if (!is_visible(c) || (text[i] >= 0xc6)) {
      bytes->n = before;
      return false;
    }
    uint8_t byte = (uint8_t)c;
    bytes_append(bytes, &byte, 1);
  }
  return true;
}
