#include "io/json_out.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

void json_string(FILE *out, const char *s) {
  if (!s) {
    fputs("null", out);
    return;
  }
  fputc('"', out);
  for (const char *p = s, *end = s + strlen(s); p < end;) {
    int n = utf8_length(p, (size_t)(end - p));
    if (n == 0) {
      fputs("\\ufffd", out);
      n = 1;
    } else if (*p == '"' || *p == '\\') {
      fprintf(out, "\\%c", *p);
    } else if ((unsigned char)*p < 0x20) {
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
