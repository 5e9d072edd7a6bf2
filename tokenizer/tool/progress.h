/* A line on a terminal that says how far a run is: share, rate, time that is left. */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct Progress {
  FILE *out;
  bool shows;           /* out is a terminal */
  int64_t begin, total; /* bytes of input: where this run began, and all */
  double start, last;   /* seconds, monotonic: the run's start, the last line */
} Progress;

Progress progress_begin(FILE *out, int64_t begin, int64_t total);
/* Draws the line anew, some times a second. */
void progress_show(Progress *p, int64_t bytes, int64_t tokens);
/* Takes the line away. */
void progress_end(const Progress *p);
double progress_seconds(const Progress *p);

#endif
