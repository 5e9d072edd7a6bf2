#include "io/json_out.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of the UTF-8 character at s (Unicode 15, table 3-7), 0 when it is malformed. */
static int utf8_length(const unsigned char *s) {
  if (s[0] < 0x80) return 1;
  int n = s[0] >= 0xC2 && s[0] <= 0xDF ? 2 : (s[0] & 0xF0) == 0xE0 ? 3 : s[0] >= 0xF0 && s[0] <= 0xF4 ? 4 : 0;
  for (int i = 1; i < n; i++)
    if ((s[i] & 0xC0) != 0x80) return 0;
  if (s[0] == 0xE0 && s[1] < 0xA0) return 0; /* overlong */
  if (s[0] == 0xED && s[1] > 0x9F) return 0; /* surrogate */
  if (s[0] == 0xF0 && s[1] < 0x90) return 0; /* overlong */
  if (s[0] == 0xF4 && s[1] > 0x8F) return 0; /* beyond U+10FFFF */
  return n;
}

void json_string(FILE *out, const char *s) {
  if (!s) {
    fputs("null", out);
    return;
  }
  fputc('"', out);
  for (const unsigned char *p = (const unsigned char *)s; *p;) {
    int n = utf8_length(p);
    if (n == 0) {
      fputs("\\ufffd", out);
      n = 1;
    } else if (*p == '"' || *p == '\\') {
      fprintf(out, "\\%c", *p);
    } else if (*p < 0x20) {
      fprintf(out, "\\u%04x", *p);
    } else {
      fwrite(p, 1, (size_t)n, out);
    }
    p += n;
  }
  fputc('"', out);
}

void double_text(double x, char text[DOUBLE_TEXT]) {
  char shortest[DOUBLE_TEXT];
  for (int digits = 6; digits <= 17; digits++) {
    snprintf(shortest, sizeof shortest, "%.*g", digits, x);
    if (strtod(shortest, NULL) == x) break;
  }
  memcpy(text, shortest, sizeof shortest);
}

void json_double(FILE *out, double x) {
  char text[DOUBLE_TEXT] = "null";
  if (isfinite(x)) double_text(x, text);
  fputs(text, out);
}

void json_float(FILE *out, float x) {
  char text[DOUBLE_TEXT] = "null";
  if (isfinite(x)) {
    for (int digits = 6; digits <= 9; digits++) {
      snprintf(text, sizeof text, "%.*g", digits, (double)x);
      if (strtof(text, NULL) == x) break;
    }
  }
  fputs(text, out);
}
