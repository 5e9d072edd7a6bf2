#include "cli/guess.h"

#include <ctype.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Copies at most GUESS_WORD - 1 letters: small, '-' for '_'. Returns how many. */
static int folded(char *out, const char *word) {
  int n = 0;
  for (; word[n] && n < GUESS_WORD - 1; n++)
    out[n] = word[n] == '_' ? '-' : (char)tolower((unsigned char)word[n]);
  out[n] = '\0';
  return n;
}

static int least(int a, int b) {
  return a < b ? a : b;
}

/* Levenshtein distance, but two neighbours that changed places count once. */
static int edits(const char *a, int n, const char *b, int m) {
  int rows[3][GUESS_WORD]; /* rows[i % 3][j]: of the first i letters of a and the first j of b */
  for (int j = 0; j <= m; j++) rows[0][j] = j;
  for (int i = 1; i <= n; i++) {
    int *row = rows[i % 3];
    const int *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
    row[0] = i;
    for (int j = 1; j <= m; j++) {
      row[j] = least(above[j - 1] + (a[i - 1] != b[j - 1]), least(above[j], row[j - 1]) + 1);
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = least(row[j], above2[j - 2] + 1);
    }
  }
  return rows[n % 3][m];
}

Guess guess_begin(const char *found) {
  return (Guess){.found = found, .distance = INT_MAX};
}

/* True when `part` stands in the text as whole words, between '-' and the ends. */
static bool has_words(const char *text, const char *part) {
  size_t n = strlen(part);
  for (const char *at = strstr(text, part); at; at = strstr(at + 1, part))
    if ((at == text || at[-1] == '-') && (at[n] == '-' || at[n] == '\0')) return true;
  return false;
}

/* How unlike the two are, in edits, where one stands in the other: INT_MAX where it does not. */
static int containment(const char *found, int n, const char *word, int m) {
  if (n >= 2 && strncmp(found, word, (size_t)n) == 0) return 1;
  if (m >= 3 && strncmp(found, word, (size_t)m) == 0) return 2;
  return least(n, m) >= 3 && (has_words(found, word) || has_words(word, found)) ? 3 : INT_MAX;
}

void guess_offer(Guess *g, const char *word) {
  char a[GUESS_WORD], b[GUESS_WORD];
  int n = folded(a, g->found), m = folded(b, word);
  int slips = n < 5 ? 1 : n < 8 ? 2 : 3; /* more make another word */
  int distance = edits(a, n, b, m), contained = containment(a, n, b, m);
  if (distance > slips) distance = INT_MAX;
  distance = least(distance, contained);
  if (distance >= g->distance) return;
  g->distance = distance;
  snprintf(g->word, sizeof g->word, "%s", word);
}
