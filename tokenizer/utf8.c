#include "tokenizer/utf8.h"

#include <string.h>

size_t utf8_length(const uint8_t *text, size_t n, size_t *bad, bool *cut) {
  uint8_t first = text[0];
  if (bad) *bad = 1;
  if (cut) *cut = false;
  if (first < 0x80) return 1;
  size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return 0;
  /* the second byte's range keeps out overlong forms, surrogates and what is above U+10FFFF */
  uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  for (size_t i = 1; i < length; i++) {
    if (i == n) {
      if (bad) *bad = n;
      if (cut) *cut = true;
      return 0;
    }
    if (text[i] < low || text[i] > high) {
      if (bad) *bad = i;
      return 0;
    }
    low = 0x80, high = 0xbf;
  }
  return length;
}

size_t utf8_valid(const uint8_t *text, size_t n) {
  size_t i = 0;
  while (i < n) {
    uint64_t eight;
    if (i + sizeof eight <= n) {
      memcpy(&eight, text + i, sizeof eight);
      if (!(eight & 0x8080808080808080u)) {
        i += sizeof eight;
        continue;
      }
    }
    size_t length = utf8_length(text + i, n - i, NULL, NULL);
    if (length == 0) return i;
    i += length;
  }
  return n;
}
