#include "llama/sampler.h"

#include <math.h>
#include <stdlib.h>

#include "base/error.h"

Sampler sampler_open(double temperature, int64_t top_k, double top_p, uint64_t seed, int64_t V) {
  Sampler s = {.temperature = temperature, .top_k = top_k, .top_p = top_p, .seed = seed, .V = V};
  s.candidates = malloc((size_t)V * sizeof *s.candidates);
  CHECK(V > 0 && s.candidates, "out of memory for %lld logits", (long long)V);
  return s;
}

void sampler_close(Sampler *s) {
  free(s->candidates);
  *s = (Sampler){0};
}

/* Uniform in [0, 1): splitmix64 (Steele, Lea, Flood 2014) of the counter. */
static double uniform(uint64_t seed, uint64_t counter) {
  uint64_t z = seed + (counter + 1) * UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static int by_logit(const void *a, const void *b) {
  const Candidate *x = a, *y = b;
  if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
  return x->id < y->id ? -1 : 1;
}

static int32_t largest(const float *logits, int64_t V) {
  int64_t best = 0;
  for (int64_t i = 1; i < V; i++)
    if (logits[i] > logits[best]) best = i;
  return (int32_t)best;
}

int32_t sampler_draw(Sampler *s, const float *logits) {
  Candidate *c = s->candidates;
  int64_t n = s->V;
  if (s->temperature == 0) return largest(logits, n);
  for (int64_t i = 0; i < n; i++) c[i] = (Candidate){logits[i], (int32_t)i};
  double max = logits[largest(logits, n)], sum = 0, kept = 0;
  if (s->top_k || s->top_p < 1) qsort(c, (size_t)n, sizeof *c, by_logit);
  if (s->top_k && s->top_k < n) n = s->top_k;
  for (int64_t i = 0; i < n; i++) sum += exp((c[i].logit - max) / s->temperature);
  if (s->top_p < 1) {
    int64_t all = n;
    for (n = 0; n < all && (n == 0 || kept < s->top_p * sum); n++)
      kept += exp((c[n].logit - max) / s->temperature);
    sum = kept;
  }
  double at = uniform(s->seed, s->drawn++) * sum;
  for (int64_t i = 0; i < n; i++)
    if ((at -= exp((c[i].logit - max) / s->temperature)) < 0) return c[i].id;
  return c[n - 1].id;
}
