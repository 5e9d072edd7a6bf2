/* Shorthand for the rows of a flag table. The file that includes this defines FLAG_OWNER, the type of its
 * options, before. */
#ifndef FLAG_ROWS_H
#define FLAG_ROWS_H

#include "cli/flag_table.h"

/* The offset of a field; does not compile when the field's type is another than the flag's. */
#define FIELD(type, field)                                                                                   \
  (offsetof(FLAG_OWNER, field) + 0 * sizeof(_Generic(((FLAG_OWNER *)0)->field, type : (char)0)))
#define STRING(field) .type = FLAG_STRING, .offset = FIELD(const char *, field)
#define INT(field)    .type = FLAG_INT, .offset = FIELD(int64_t, field)
#define DOUBLE(field) .type = FLAG_DOUBLE, .offset = FIELD(double, field)
#define BOOL(field)   .type = FLAG_BOOL, .offset = FIELD(bool, field)
#define CHOICE(field) .type = FLAG_CHOICE, .offset = FIELD(int, field)
#define SET(field)    .type = FLAG_SET, .offset = FIELD(int, field)

/* What a value may be. */
#define RANGE(from, to)                           .min = (from), .max = (to)
#define BOUNDS(from, to)                          .low = (from), .high = (to)
#define OR_WORD(text, value)                      .words = {{(text), (value)}}
#define OR_WORDS(text, value, other, other_value) .words = {{(text), (value)}, {(other), (other_value)}}

#endif
