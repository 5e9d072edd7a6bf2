/* Did you mean ...: the word of a list that a mistyped one probably stands for. */
#ifndef GUESS_H
#define GUESS_H

#ifdef __cplusplus
extern "C" {
#endif

enum { GUESS_WORD = 64 };

typedef struct Guess {
  const char *found;     /* what was typed */
  char word[GUESS_WORD]; /* the nearest of the words offered; "" = none is near */
  int distance;          /* of that word */
} Guess;

Guess guess_begin(const char *found);
/* Takes the word, which is shorter than GUESS_WORD, when it is nearer than those before. Near are: a few
 * letters added, lost, changed or swapped with their neighbours; the beginning of the other; whole words
 * inside the other. Capitals, and '_' for '-', do not count. */
void guess_offer(Guess *g, const char *word);

#ifdef __cplusplus
}
#endif
#endif
