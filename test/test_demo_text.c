/* The demo's stories: reproducible ASCII, facts that come back to the letter, and how much an ideal model
 * gains from a longer context. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/demo_text.h"

enum { BYTES = 200000, FACTS = 5, FILLERS = 4, MAX_SENTENCES = 64 };

static void test_deterministic(void **state) {
  (void)state;
  char *a = demo_text(1, BYTES), *b = demo_text(1, BYTES), *other = demo_text(2, BYTES);
  assert_int_equal(strlen(a), BYTES);
  assert_memory_equal(a, b, BYTES + 1);
  assert_memory_not_equal(a, other, BYTES);
  static const int lengths[] = {0, 1, 700, 5000}; /* a shorter text begins a longer one */
  for (int i = 0; i < 4; i++) {
    char *start = demo_text(1, lengths[i]);
    assert_int_equal(strlen(start), lengths[i]);
    assert_memory_equal(start, a, lengths[i]);
    free(start);
  }
  free(a);
  free(b);
  free(other);
}

/* Of FNV-1a, 64 bits: a change of the text makes earlier losses incomparable, and must be meant. */
static void test_unchanged(void **state) {
  (void)state;
  char *text = demo_text(1, BYTES);
  uint64_t hash = 0xcbf29ce484222325u;
  for (int i = 0; i < BYTES; i++) hash = (hash ^ (uint8_t)text[i]) * 0x100000001b3u;
  assert_int_equal(hash, 0xbbc9233375a2ed39u);
  free(text);
}

static void test_ascii(void **state) {
  (void)state;
  char *text = demo_text(3, BYTES);
  for (int i = 0; i < BYTES; i++) assert_true(text[i] == '\n' || (text[i] >= ' ' && text[i] <= '~'));
  free(text);
}

/* A story cut into its lines and sentences, each ended by NUL. */
typedef struct Parsed {
  char text[4096];
  const char *title;
  const char *sentences[MAX_SENTENCES];
  int n;
} Parsed;

/* Takes the next story from *text; false when it is not there to its end. */
static bool parse_story(Parsed *p, const char **text) {
  const char *end = strstr(*text, "\n\n");
  if (!end) return false;
  size_t bytes = (size_t)(end - *text);
  assert_true(bytes < sizeof p->text);
  memcpy(p->text, *text, bytes);
  p->text[bytes] = 0;
  *text = end + 2;
  p->title = p->text;
  char *s = strchr(p->text, '\n');
  assert_non_null(s);
  *s++ = 0;
  for (p->n = 0; s; p->n++) {
    assert_true(p->n < MAX_SENTENCES);
    p->sentences[p->n] = s;
    char *stop = strstr(s, ". ");
    if (stop) {
      *stop = 0;
      s = stop + 2;
    } else {
      assert_int_equal(s[strlen(s) - 1], '.');
      s[strlen(s) - 1] = 0;
      s = NULL;
    }
  }
  return true;
}

/* Which of the first n sentences this one repeats, or -1. */
static int find_sentence(const Parsed *p, int n, const char *sentence) {
  for (int i = 0; i < n; i++) {
    if (strcmp(p->sentences[i], sentence) == 0) return i;
  }
  return -1;
}

/* Collects the sentences that are no recall: there may be only FILLERS different ones. */
typedef struct Fillers {
  char text[FILLERS][64];
  int n;
} Fillers;

static void note_filler(Fillers *f, const char *sentence) {
  for (int i = 0; i < f->n; i++) {
    if (strcmp(f->text[i], sentence) == 0) return;
  }
  if (f->n == FILLERS) fail_msg("neither a recall nor a filler: %s", sentence);
  snprintf(f->text[f->n++], sizeof f->text[0], "%s", sentence);
}

/* After the facts, everything is a recall or one of the few fillers; the end repeats the title. */
static void test_recalls(void **state) {
  (void)state;
  char *text = demo_text(4, BYTES);
  const char *at = text;
  Parsed p;
  int64_t stories = 0, bytes = 0, recalled = 0, shortest = BYTES, longest = 0;
  Fillers fillers = {.n = 0};
  /* nats that sliding contexts of 64 and 512 bytes cost: a word of 8 is lost if it was last told earlier */
  double lost64 = 0, lost512 = 0;
  for (const char *start = at; parse_story(&p, &at); start = at, stories++) {
    int64_t story_bytes = at - start;
    assert_in_range(story_bytes, 400, 1200);
    bytes += story_bytes;
    const char *last = p.sentences[p.n - 1];
    size_t title = strlen(p.title);
    assert_memory_equal(p.title, "The tale of ", 12);
    assert_memory_equal(last, p.title, title);
    assert_string_equal(last + title, " ends");
    int64_t far = last - p.title;
    recalled += (int64_t)strlen(last);
    longest = far > longest ? far : longest;
    lost64 += 2 * log(8);
    lost512 += far > 512 ? 2 * log(8) : 0;

    const char *told[FACTS];
    for (int i = 0; i < FACTS; i++) {
      told[i] = p.sentences[i];
      assert_int_equal(find_sentence(&p, i, told[i]), -1);
    }
    int recalls[FACTS] = {0};
    for (int i = FACTS; i < p.n - 1; i++) {
      int fact = find_sentence(&p, FACTS, p.sentences[i]);
      if (fact < 0) {
        note_filler(&fillers, p.sentences[i]);
        continue;
      }
      int64_t distance = p.sentences[i] - told[fact];
      told[fact] = p.sentences[i];
      recalls[fact]++;
      recalled += (int64_t)strlen(p.sentences[i]);
      shortest = distance < shortest ? distance : shortest;
      longest = distance > longest ? distance : longest;
      lost64 += distance > 64 ? 3 * log(8) : 0;
      lost512 += distance > 512 ? 3 * log(8) : 0;
    }
    int kept = find_sentence(&p, FACTS, p.sentences[p.n - 2]);
    assert_true(kept >= 0);
    assert_int_equal(recalls[kept], 1);
  }
  assert_true(stories > 150);
  assert_int_equal(fillers.n, FILLERS);
  assert_true(recalled * 2 > bytes);
  assert_in_range(shortest, 30, 70);
  assert_true(longest > 800);
  assert_true((lost64 - lost512) / (double)bytes > 0.10); /* nats per byte */
  print_message("%.0f bytes a story, %.0f %% recalls, distances %d .. %d, 64 -> 512 bytes of context: %.3f\n",
                (double)bytes / (double)stories, 100.0 * (double)recalled / (double)bytes, (int)shortest,
                (int)longest, (lost64 - lost512) / (double)bytes);
  free(text);
}

/* The prompt is the start of a story of the same language, up to its last fact. */
static void test_prompt(void **state) {
  (void)state;
  char *text = demo_text(9, 2000), *prompt = demo_prompt(9);
  size_t n = strlen(prompt);
  assert_in_range(n, 150, 300);
  assert_memory_equal(prompt, text, n);
  assert_int_equal(prompt[n - 1], '.');
  free(text);
  free(prompt);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_deterministic), cmocka_unit_test(test_unchanged), cmocka_unit_test(test_ascii),
      cmocka_unit_test(test_recalls),       cmocka_unit_test(test_prompt),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
