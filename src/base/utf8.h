/* UTF-8, as Unicode 15's table 3-7 defines it. */
#ifndef UTF8_H
#define UTF8_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of the character that text of `bytes` bytes (1 or more) begins with; 0: it is malformed or cut. */
int utf8_length(const char *text, size_t bytes);

/* How many bytes lie before the first that begins no character; all when there is none. */
size_t utf8_valid(const char *text, size_t bytes);

/* What stands for bytes that are no character. */
#define UTF8_REPLACEMENT "\xEF\xBF\xBD"
/* For how many bytes of malformed text it stands once: the longest beginning of a character, or 1 byte.
 * *cut tells that the text ends inside a character that may still become whole. */
size_t utf8_malformed(const char *text, size_t bytes, bool *cut);

#ifdef __cplusplus
}
#endif
#endif
