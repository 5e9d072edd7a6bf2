/* The text of a model's tokens: through the tokenizer of its folder, or, of a model of 256 tokens without
 * one, as bytes. */
#ifndef TEXT_H
#define TEXT_H

#include <stdio.h>

#include "llama/config.h"
#include "tokenizer/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Text Text;

/* Reads tokenizer.json of a Hugging Face folder, if it has one, and from generation_config.json which tokens
 * end a text. folder: NULL = there is none. NULL on failure. */
Text *text_open(const char *folder, Error *e);
void text_close(Text *t);
/* Refuses a model without a tokenizer whose tokens are no bytes. */
bool text_check(const Text *t, const Config *c, Error *e);

/* Appends the ids of the text, with the tokens that the tokenizer's template puts around it, but not with one
 * at its end that ends a text: it is to be gone on with. */
bool text_encode(const Text *t, const char *text, Ids *ids, Error *e);
/* Whether the token ends a text; config.json says so where generation_config.json does not. */
bool text_ends(const Text *t, const Config *c, int32_t id);

/* Prints text that comes token by token: whole characters, as soon as they are certain. What is not UTF-8
 * becomes U+FFFD. Special tokens are left out. On a terminal, which would obey them, control characters other
 * than tab and newline are printed as '?'. */
typedef struct TextPrinter {
  const Text *text;
  FILE *out;
  TextStream *stream; /* NULL: bytes */
  Bytes pending;      /* not yet printed */
  bool to_terminal;
} TextPrinter;

TextPrinter text_printer_open(const Text *t, FILE *out);
void text_print(TextPrinter *p, int32_t id);
/* Prints what was held back, and frees the printer. */
void text_printer_close(TextPrinter *p);

#ifdef __cplusplus
}
#endif
#endif
