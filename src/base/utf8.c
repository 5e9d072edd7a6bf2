#include "base/utf8.h"

#include <stdint.h>
#include <string.h>

int utf8_length(const char *text, size_t bytes) {
  const unsigned char *s = (const unsigned char *)text;
  if (s[0] < 0x80) return 1;
  int n = s[0] >= 0xC2 && s[0] <= 0xDF ? 2 : (s[0] & 0xF0) == 0xE0 ? 3 : s[0] >= 0xF0 && s[0] <= 0xF4 ? 4 : 0;
  if ((size_t)n > bytes) return 0;
  for (int i = 1; i < n; i++)
    if ((s[i] & 0xC0) != 0x80) return 0;
  if (s[0] == 0xE0 && s[1] < 0xA0) return 0; /* overlong */
  if (s[0] == 0xED && s[1] > 0x9F) return 0; /* surrogate */
  if (s[0] == 0xF0 && s[1] < 0x90) return 0; /* overlong */
  if (s[0] == 0xF4 && s[1] > 0x8F) return 0; /* beyond U+10FFFF */
  return n;
}

size_t utf8_valid(const char *text, size_t bytes) {
  size_t at = 0;
  while (at < bytes) {
    uint64_t eight; /* mostly ASCII */
    if (bytes - at >= sizeof eight) {
      memcpy(&eight, text + at, sizeof eight);
      if (!(eight & 0x8080808080808080u)) {
        at += sizeof eight;
        continue;
      }
    }
    int n = utf8_length(text + at, bytes - at);
    if (n == 0) break;
    at += (size_t)n;
  }
  return at;
}

size_t utf8_malformed(const char *text, size_t bytes, bool *cut) {
  const unsigned char *s = (const unsigned char *)text;
  *cut = false;
  if (s[0] < 0xC2 || s[0] > 0xF4) return 1;
  size_t n = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4, i = 1;
  unsigned char low = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;
  unsigned char high = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
  for (; i < n && i < bytes && s[i] >= low && s[i] <= high; i++) low = 0x80, high = 0xBF;
  *cut = i == bytes;
  return i;
}
