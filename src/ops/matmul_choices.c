/* The text has a line for what it is, one each for library and device, and one for each choice: numbers in
 * the order of MatmulKey's members, the algorithm in hexadecimal, the two times in microseconds. */
#include "ops/matmul_choices.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char heading[] = "train_llama products 1";

/* Times of the same work differ by about as much. */
static const double worthwhile = 0.98;

void matmul_choices_free(MatmulChoices *c) {
  free(c->list);
  *c = (MatmulChoices){0};
}

static int index_of(const MatmulChoices *c, const MatmulKey *key) {
  int i = 0;
  while (i < c->count && memcmp(&c->list[i].key, key, sizeof *key) != 0) i++;
  return i;
}

const MatmulChoice *matmul_choices_find(const MatmulChoices *c, const MatmulKey *key) {
  int i = index_of(c, key);
  return i < c->count ? &c->list[i] : NULL;
}

void matmul_choices_put(MatmulChoices *c, const MatmulChoice *choice) {
  int i = index_of(c, &choice->key);
  if (i == c->room) {
    c->room = 2 * c->room + 16;
    c->list = realloc(c->list, (size_t)c->room * sizeof *c->list);
    CHECK(c->list, "out of memory for the algorithms of products");
  }
  if (i == c->count) c->count++;
  c->list[i] = *choice;
}

int matmul_choices_fastest(const double *seconds, int count) {
  int best = -1;
  for (int i = 0; i < count; i++)
    if (seconds[i] >= 0 && (best < 0 || seconds[i] < seconds[best])) best = i;
  return best > 0 && seconds[0] >= 0 && seconds[best] > worthwhile * seconds[0] ? 0 : best;
}

/* ---- as text ---- */

enum { KEY_NUMBERS = 7, KEY_WORDS = 8 }; /* of 64 and of 32 bits, as a line has them */

static void print_choice(FILE *f, const MatmulChoice *choice) {
  const MatmulKey *k = &choice->key;
  const int64_t numbers[KEY_NUMBERS] = {k->M, k->N, k->K, k->ld_out, k->ld_a, k->ld_b, k->workspace_bytes};
  const int32_t words[KEY_WORDS] = {k->transpose_a, k->transpose_b,   k->align_out,   k->align_a,
                                    k->align_b,     k->deterministic, (int32_t)k->in, (int32_t)k->out};
  for (int i = 0; i < KEY_NUMBERS; i++) fprintf(f, "%" PRId64 " ", numbers[i]);
  for (int i = 0; i < KEY_WORDS; i++) fprintf(f, "%" PRId32 " ", words[i]);
  for (int i = 0; i < ALGORITHM_WORDS; i++) fprintf(f, "%016" PRIx64 " ", choice->algorithm[i]);
  fprintf(f, "%.1f %.1f\n", 1e6 * choice->seconds, 1e6 * choice->first_seconds);
}

char *matmul_choices_text(const MatmulChoices *c, int64_t version, const char *device) {
  char *text = NULL;
  size_t size;
  FILE *f = open_memstream(&text, &size);
  CHECK(f, "out of memory for the algorithms of products");
  fprintf(f, "%s\ncublasLt %" PRId64 "\ndevice %s\n", heading, version, device);
  for (int i = 0; i < c->count; i++) print_choice(f, &c->list[i]);
  CHECK(fclose(f) == 0, "out of memory for the algorithms of products");
  return text;
}

/* The next word of a line, of which *at points to the rest: some of these characters, and a blank or the end.
 * Its first character, or NULL. */
static const char *next_word(const char **at, const char *characters) {
  const char *word = *at, *end = word + strspn(word, characters);
  if (end == word || (*end != ' ' && *end != '\0')) return NULL;
  *at = *end ? end + 1 : end;
  return word;
}

static bool next_integer(const char **at, uint64_t most, uint64_t *number) {
  const char *word = next_word(at, "0123456789");
  if (word) *number = strtoull(word, NULL, 10);
  return word && *number <= most;
}

static bool next_seconds(const char **at, double *seconds) {
  const char *word = next_word(at, "0123456789.");
  if (word) *seconds = 1e-6 * strtod(word, NULL);
  return word;
}

static bool next_algorithm(const char **at, uint64_t algorithm[ALGORITHM_WORDS]) {
  for (int i = 0; i < ALGORITHM_WORDS; i++) {
    const char *word = next_word(at, "0123456789abcdef");
    if (!word) return false;
    algorithm[i] = strtoull(word, NULL, 16);
  }
  return true;
}

static bool read_choice(MatmulChoice *choice, const char *line) {
  uint64_t numbers[KEY_NUMBERS], words[KEY_WORDS];
  for (int i = 0; i < KEY_NUMBERS; i++)
    if (!next_integer(&line, INT64_MAX, &numbers[i])) return false;
  for (int i = 0; i < KEY_WORDS; i++)
    if (!next_integer(&line, INT32_MAX, &words[i])) return false;
  choice->key = (MatmulKey){.M = (int64_t)numbers[0],
                            .N = (int64_t)numbers[1],
                            .K = (int64_t)numbers[2],
                            .ld_out = (int64_t)numbers[3],
                            .ld_a = (int64_t)numbers[4],
                            .ld_b = (int64_t)numbers[5],
                            .workspace_bytes = (int64_t)numbers[6],
                            .transpose_a = (int32_t)words[0],
                            .transpose_b = (int32_t)words[1],
                            .align_out = (int32_t)words[2],
                            .align_a = (int32_t)words[3],
                            .align_b = (int32_t)words[4],
                            .deterministic = (int32_t)words[5],
                            .in = (DType)words[6],
                            .out = (DType)words[7]};
  return next_algorithm(&line, choice->algorithm) && next_seconds(&line, &choice->seconds) &&
         next_seconds(&line, &choice->first_seconds) && !*line;
}

/* One line of the text, the line-th. */
static bool read_line(MatmulChoices *c, const char *text, int line, int64_t version, const char *device,
                      Error *e) {
  char expected[256];
  MatmulChoice choice;
  if (line == 1) snprintf(expected, sizeof expected, "%s", heading);
  if (line == 2) snprintf(expected, sizeof expected, "cublasLt %" PRId64, version);
  if (line == 3) snprintf(expected, sizeof expected, "device %s", device);
  if (line <= 3)
    return strcmp(text, expected) == 0 ||
           error_usage(e, "line %d: found \"%.100s\", expected \"%s\"", line, text, expected);
  if (!read_choice(&choice, text))
    return error_usage(e, "line %d: found \"%.60s\", expected the %d numbers of a product", line, text,
                       KEY_NUMBERS + KEY_WORDS + ALGORITHM_WORDS + 2);
  matmul_choices_put(c, &choice);
  return true;
}

bool matmul_choices_read(MatmulChoices *c, const char *text, int64_t version, const char *device, Error *e) {
  char *copy = strdup(text), *rest = copy, *line;
  CHECK(copy, "out of memory for the algorithms of products");
  int number = 0;
  bool ok = true;
  while (ok && (line = strsep(&rest, "\n")) && (rest || *line || number < 3))
    ok = read_line(c, line, ++number, version, device, e);
  if (ok && number < 3) ok = error_usage(e, "line %d: found the end of the text, expected more", number + 1);
  free(copy);
  if (!ok) matmul_choices_free(c);
  return ok;
}
