/* Every story is
 *
 *   The tale of Edda from Oban                                  the title
 *   The king gave Ada of Lund 7 coins. The cook sold Wolf ...   each fact once
 *   The wind was cold. The cook sold Wolf 3 pies in Moss ...    recalls and fillers in any order, but for one
 *                                                               fact, which is
 *   The king gave Ada of Lund 7 coins.                          kept for the end, where the title comes back
 *   The tale of Edda from Oban ends.
 *
 * A recall repeats its fact's sentence to the letter. The facts are drawn anew for every story, and nothing
 * but its own earlier sentences tells them: that is what a longer context pays for. What lets a small model
 * learn this within a minute: the words that are drawn, and only they, begin with a capital other than T or
 * are digits, all of different ones, so that looking back for such a byte already narrows down the word, and
 * its first byte tells the rest; and the fixed words before a drawn one, which no other fact shares, say
 * which of them to take. */
#include "io/demo_text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { SET_WORDS = 8 };
typedef enum Set { NAMES, TOWNS, BEASTS, NUMBERS, SETS } Set;

static const char *const WORDS[SETS][SET_WORDS] = {
    [NAMES] = {"Ada", "Ben", "Cora", "Dov", "Edda", "Finn", "Greta", "Hugo"},
    [TOWNS] = {"Ilm", "Jarrow", "Kells", "Lund", "Moss", "Narva", "Oban", "Perth"},
    [BEASTS] = {"Quail", "Rat", "Stoat", "Urchin", "Vole", "Wolf", "Yak", "Zebra"},
    [NUMBERS] = {"2", "3", "4", "5", "6", "7", "8", "9"},
};

/* Fixed text with a drawn word after each but the last piece. */
enum { MAX_SLOTS = 3 };
typedef struct Sentence {
  const char *pieces[MAX_SLOTS + 1];
  int slots;
  Set sets[MAX_SLOTS]; /* where slot i's word is from */
} Sentence;

enum { FACTS = 5 };
static const Sentence FACT[FACTS] = {
    {{"The king gave ", " of ", " ", " coins. "}, 3, {NAMES, TOWNS, NUMBERS}},
    {{"The cook sold ", " ", " pies in ", ". "}, 3, {BEASTS, NUMBERS, TOWNS}},
    {{"The ship took ", " and ", " to ", ". "}, 3, {NAMES, BEASTS, TOWNS}},
    {{"The judge owed ", " and ", " ", " hens. "}, 3, {BEASTS, NAMES, NUMBERS}},
    {{"The bell of ", " rang ", " times for ", ". "}, 3, {TOWNS, NUMBERS, NAMES}},
};
static const Sentence TITLE = {{"The tale of ", " from ", "\n"}, 2, {NAMES, TOWNS}};
static const Sentence ENDING = {{"The tale of ", " from ", " ends.\n\n"}, 2, {NAMES, TOWNS}};

enum { FILLERS = 4 };
static const char *const FILLER[FILLERS] = {
    "The rain fell on the hill. ",
    "The wind was cold. ",
    "The night came early. ",
    "The day was long. ",
};

enum {
  MIN_SENTENCES = 14, /* between the facts' first telling and the end */
  MAX_SENTENCES = 22,
  FILLER_EVERY = 10,  /* one sentence of so many, on average */
  STORY_BYTES = 2048, /* more than the longest story */
};

typedef struct Story {
  const char *title[MAX_SLOTS];        /* the words in the slots of TITLE and ENDING */
  const char *facts[FACTS][MAX_SLOTS]; /* the words in the slots of each FACT */
  char text[STORY_BYTES];
  int64_t n; /* bytes of text */
} Story;

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t random_u64(uint64_t *state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static int random_below(uint64_t *state, int n) {
  return (int)((random_u64(state) >> 32) * (uint64_t)n >> 32);
}

static void put(Story *s, const char *text) {
  size_t n = strlen(text);
  CHECK(s->n + (int64_t)n <= STORY_BYTES, "a demo story of more than %d bytes", STORY_BYTES);
  memcpy(s->text + s->n, text, n);
  s->n += (int64_t)n;
}

static void put_sentence(Story *s, const Sentence *sentence, const char *const *words) {
  for (int i = 0; i < sentence->slots; i++) {
    put(s, sentence->pieces[i]);
    put(s, words[i]);
  }
  put(s, sentence->pieces[sentence->slots]);
}

static void draw_words(const Sentence *sentence, const char **words, uint64_t *rng) {
  for (int i = 0; i < sentence->slots; i++) words[i] = WORDS[sentence->sets[i]][random_below(rng, SET_WORDS)];
}

/* The title and each fact for the first time. */
static void begin_story(Story *s, uint64_t *rng) {
  s->n = 0;
  draw_words(&TITLE, s->title, rng);
  put_sentence(s, &TITLE, s->title);
  for (int f = 0; f < FACTS; f++) {
    draw_words(&FACT[f], s->facts[f], rng);
    put_sentence(s, &FACT[f], s->facts[f]);
  }
}

static void write_story(Story *s, uint64_t *rng) {
  begin_story(s, rng);
  int kept = random_below(rng, FACTS); /* for the end */
  int last = FACTS - 1;                /* told last: not told again at once */
  int sentences = MIN_SENTENCES + random_below(rng, MAX_SENTENCES - MIN_SENTENCES + 1);
  for (int i = 0; i < sentences; i++) {
    if (random_below(rng, FILLER_EVERY) == 0) {
      put(s, FILLER[random_below(rng, FILLERS)]);
      continue;
    }
    int f;
    do f = random_below(rng, FACTS);
    while (f == kept || f == last);
    put_sentence(s, &FACT[f], s->facts[f]);
    last = f;
  }
  put_sentence(s, &FACT[kept], s->facts[kept]);
  put_sentence(s, &ENDING, s->title);
}

char *demo_text(uint64_t seed, int64_t bytes) {
  CHECK(bytes >= 0, "%" PRId64 " bytes of demo text", bytes);
  char *text = malloc((size_t)bytes + 1);
  CHECK(text, "out of memory for %" PRId64 " bytes of demo text", bytes);
  Story s;
  for (int64_t n = 0; n < bytes; n += s.n) {
    write_story(&s, &seed);
    int64_t rest = bytes - n;
    memcpy(text + n, s.text, (size_t)(s.n < rest ? s.n : rest));
  }
  text[bytes] = 0;
  return text;
}

char *demo_prompt(uint64_t seed) {
  Story s;
  begin_story(&s, &seed);
  s.n--; /* without the space after the last sentence, which is the model's to write */
  char *prompt = malloc((size_t)s.n + 1);
  CHECK(prompt, "out of memory for the demo's prompt");
  memcpy(prompt, s.text, (size_t)s.n);
  prompt[s.n] = 0;
  return prompt;
}
