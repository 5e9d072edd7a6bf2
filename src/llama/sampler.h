/* Choosing the next token from a model's logits. */
#ifndef SAMPLER_H
#define SAMPLER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A token that may be drawn. */
typedef struct Candidate {
  float logit;
  int32_t id;
} Candidate;

typedef struct Sampler {
  double temperature; /* of the softmax; 0 = always the largest logit */
  int64_t top_k;      /* only the so many largest logits; 0 = all */
  double top_p;       /* only the fewest tokens whose probability adds up to this; 1 = all */
  uint64_t seed;
  int64_t V;
  uint64_t drawn;        /* tokens so far */
  Candidate *candidates; /* [V] */
} Sampler;

/* The same seed gives the same tokens. sampler_close frees it. */
Sampler sampler_open(double temperature, int64_t top_k, double top_p, uint64_t seed, int64_t V);
void sampler_close(Sampler *s);

/* A token for logits [V]: first the temperature, then top_k, then top_p, as Hugging Face's generate() does.
 * Of equal logits the one with the lower id comes first. */
int32_t sampler_draw(Sampler *s, const float *logits);

#ifdef __cplusplus
}
#endif
#endif
