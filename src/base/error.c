#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void error_fill(Error *e, int code, const char *format, va_list args) {
  e->code = code;
  vsnprintf(e->text, sizeof e->text, format, args);
  /* what was found may be any bytes of a file; a terminal must not take them for commands */
  for (char *c = e->text; *c; c++)
    if (((unsigned char)*c < ' ' && *c != '\n') || *c == 127) *c = '?';
}

bool error_usage(Error *e, const char *format, ...) {
  va_list args;
  va_start(args, format);
  error_fill(e, EXIT_USAGE, format, args);
  va_end(args);
  return false;
}

bool error_runtime(Error *e, const char *format, ...) {
  va_list args;
  va_start(args, format);
  error_fill(e, EXIT_RUNTIME, format, args);
  va_end(args);
  return false;
}

bool error_prefix(Error *e, const char *format, ...) {
  char rest[sizeof e->text];
  memcpy(rest, e->text, sizeof rest);
  va_list args;
  va_start(args, format);
  int n = vsnprintf(e->text, sizeof e->text, format, args);
  va_end(args);
  size_t at = n < 0 ? 0 : (size_t)n;
  if (at < sizeof e->text) snprintf(e->text + at, sizeof e->text - at, "%s", rest);
  return false;
}

void panic_at(const char *file, int line, const char *format, ...) {
  fprintf(stderr, "train_llama: internal error at %s:%d: ", file, line);
  va_list args;
  va_start(args, format);
  vfprintf(stderr, format, args);
  va_end(args);
  fputc('\n', stderr);
  abort();
}
