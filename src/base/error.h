/* Errors as values: a function that can fail on what a user gave it returns false (or NULL) and fills an
 * Error; only main() prints it and exits with its code. A message says what was found, what was expected
 * and what to do. Broken invariants of the program itself are not errors but panics: they abort. */
#ifndef ERROR_H
#define ERROR_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  EXIT_RUNTIME = 1, /* the machine or the run failed: out of memory, full disk, non-finite loss */
  EXIT_USAGE = 2,   /* the user's flags, files or shapes cannot be used */
};

typedef struct Error {
  int code;        /* EXIT_RUNTIME or EXIT_USAGE; 0 while nothing failed */
  char text[2048]; /* one or more lines, without a trailing newline */
} Error;

/* Fills *e and returns false, so that a failing function can `return error_usage(e, ...)`. */
bool error_usage(Error *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool error_runtime(Error *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts a prefix ("config.json of DIR: ") before the message that *e already holds; returns false. */
bool error_prefix(Error *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Ends the program for a broken invariant, naming the place. Never for a user's mistake. */
#define PANIC(...)            panic_at(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(condition, ...) ((condition) ? (void)0 : PANIC(__VA_ARGS__))
void panic_at(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4), noreturn));

#ifdef __cplusplus
}
#endif
#endif
