/* UTF-8, as Unicode 15's table 3-7 defines it. */
#ifndef UTF8_H
#define UTF8_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of the character that text of `bytes` bytes (1 or more) begins with; 0: it is malformed or cut. */
int utf8_length(const char *text, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
