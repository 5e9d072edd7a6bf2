#include "llama/sample.h"

#include <math.h>
#include <stdlib.h>

enum { BYTES = 256 };

/* Uniform in [0, 1): splitmix64 (Steele, Lea, Flood 2014) of the counter. */
static double uniform(uint64_t seed, uint64_t counter) {
  uint64_t z = seed + (counter + 1) * UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

/* Draws from softmax(logits / temperature) with the uniform number u. */
static int draw(const float *logits, int n, double temperature, double u) {
  double max = -INFINITY, sum = 0, p[BYTES];
  for (int i = 0; i < n; i++) max = fmax(max, logits[i]);
  for (int i = 0; i < n; i++) sum += p[i] = exp((logits[i] - max) / temperature);
  double at = u * sum;
  for (int i = 0; i < n; i++)
    if ((at -= p[i]) < 0) return i;
  return n - 1;
}

static void print_byte(FILE *out, int byte) {
  bool plain = byte == '\n' || byte == '\t' || (byte >= ' ' && byte < 127);
  fputc(plain ? byte : '?', out);
}

void sample_bytes(Model *m, FILE *out, const char *prompt, int64_t length, int64_t n, double temperature,
                  uint64_t seed) {
  int64_t T = m->schedule->shape.T, V = m->config->V;
  int32_t *tokens = (int32_t *)malloc((size_t)(length + n) * sizeof *tokens);
  float *logits = (float *)malloc((size_t)V * sizeof *logits);
  CHECK(tokens && logits && length > 0, "no memory for a sample, or no prompt");
  for (int64_t i = 0; i < length; i++) {
    tokens[i] = (unsigned char)prompt[i];
    print_byte(out, tokens[i]);
  }
  for (int64_t i = 0; i < n; i++, length++) {
    int64_t seen = length < T ? length : T;
    model_logits(m, tokens + length - seen, seen, 1, logits);
    tokens[length] = draw(logits, V < BYTES ? (int)V : BYTES, temperature, uniform(seed, (uint64_t)i));
    print_byte(out, tokens[length]);
  }
  fputc('\n', out);
  free(tokens);
  free(logits);
}
