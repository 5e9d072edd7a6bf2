/* Writing JSON values to a stream, so that numbers read back as exactly what they were. */
#ifndef JSON_OUT_H
#define JSON_OUT_H

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A quoted, escaped string; NULL becomes null. Bytes that are not UTF-8 become U+FFFD. */
void json_string(FILE *out, const char *s);
/* A short decimal that reads back as the same double; null when it is not finite. */
void json_double(FILE *out, double x);
/* A short decimal that reads back as the same float; null when it is not finite. */
void json_float(FILE *out, float x);

/* The decimal of a finite double, as json_double writes it, into text. */
enum { DOUBLE_TEXT = 32 };
void double_text(double x, char text[DOUBLE_TEXT]);

#ifdef __cplusplus
}
#endif
#endif
