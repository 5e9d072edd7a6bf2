/* A source of sequences: files joined to one stream of tokens, cut into windows of T tokens, and the order in
 * which an epoch hands the windows out. Window w is the tokens w*T .. w*T + T of the part of the stream that
 * is used: T tokens and the target of the last. It belongs to the file in which its first token lies.
 *
 * Shuffled, an epoch takes the files in a random order, and each file's windows in a random order. Both are
 * computed from the key, so that any place of any epoch can be entered. */
#ifndef SOURCE_H
#define SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "io/shards.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The order of the files in one epoch. */
typedef struct FileOrder {
  int64_t epoch;  /* that this is the order of; -1 = none */
  int64_t *file;  /* [files] */
  int64_t *start; /* [files + 1] windows of the epoch before each, and all of them */
} FileOrder;

typedef struct Source {
  int64_t T, V;
  Shard *shards; /* [files], in the order of the stream */
  int64_t files;
  int64_t *starts;  /* [files + 1] each file's first token in the stream, and the stream's end */
  int64_t from, to; /* the part of the stream that is used, in tokens */
  bool shuffle;
  uint64_t key;    /* of its order when shuffled */
  FileOrder order; /* of the epoch that was asked for last */
} Source;

/* Opens the files that match the n patterns of glob(7), sorted by name, a file that several patterns match
 * once. T + 1 tokens in all are needed. A zeroed or failed source can be closed. */
bool source_open(Source *s, char *const *patterns, int64_t n, int64_t T, int64_t V, OpenFiles *pool,
                 Error *e);
/* The same over a copy of n bytes of text; `name` is for messages. */
bool source_from_bytes(Source *s, const char *name, const uint8_t *bytes, int64_t n, int64_t T, int64_t V,
                       Error *e);
/* Reads all tokens: one >= V is an error. */
bool source_check_tokens(Source *s, Error *e);
void source_close(Source *s);

/* From here on the windows are handed out shuffled. */
void source_shuffle(Source *s, uint64_t key);
/* Whether T + 1 tokens lie in the part [from, to) of what is used, as fractions of its tokens. */
bool source_can_restrict(const Source *s, double from, double to, Error *e);
/* Uses only that part. */
void source_restrict(Source *s, double from, double to);

int64_t source_tokens(const Source *s);  /* of the part that is used */
int64_t source_windows(const Source *s); /* in it: one epoch */
/* The window that comes after `taken` others, over all epochs. */
int64_t source_window_after(Source *s, int64_t taken);
/* Reads a window, marks included: its tokens [T] and the target of the last. */
bool source_read(Source *s, int64_t window, uint32_t *tokens, uint32_t *last, Error *e);

/* Of all that decides what the windows hold: the files' tokens, the part that is used, and T. Not of names,
 * places and times. */
uint64_t source_fingerprint(const Source *s);

#ifdef __cplusplus
}
#endif
#endif
