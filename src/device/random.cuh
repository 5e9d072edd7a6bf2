/* Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3",
 * SC 2011). What an element gets depends on (seed, tensor, step, element) only, never on who asks or when. */
#ifndef RANDOM_CUH
#define RANDOM_CUH

#include "device/group.cuh" // defines: HD

struct Random4 {
  uint32_t x[4];
};

HD Random4 philox(Random4 counter, uint64_t key) {
  uint32_t a = counter.x[0], b = counter.x[1], c = counter.x[2], d = counter.x[3];
  uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
  for (int round = 0; round < 10; round++) {
    uint64_t p = (uint64_t)a * 0xD2511F53u, q = (uint64_t)c * 0xCD9E8D57u;
    a = (uint32_t)(q >> 32) ^ b ^ k0;
    b = (uint32_t)q;
    c = (uint32_t)(p >> 32) ^ d ^ k1;
    d = (uint32_t)p;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return Random4{{a, b, c, d}};
}

/* The 128 random bits of an element of tensor `id` at `step` (0: initial values; both below 2^32). */
HD Random4 random_element(uint64_t seed, int64_t id, int64_t step, int64_t element) {
  Random4 counter = {{(uint32_t)element, (uint32_t)(element >> 32), (uint32_t)id, (uint32_t)step}};
  return philox(counter, seed);
}

/* Random bits for three roundings of one element, each 16 in the lower half. Two elements share a number, so
 * that a thread of a GPU, which has both, makes half as many: `pair` has elements 2 pair and 2 pair + 1. */
struct Random3 {
  uint32_t x[3];
};
HD Random3 random_roundings(uint64_t seed, int64_t id, int64_t step, uint64_t pair, bool second) {
  Random4 r = random_element(seed, id, step, (int64_t)pair);
  uint32_t low = second ? r.x[2] : r.x[0], high = second ? r.x[3] : r.x[1];
  return Random3{{low, low >> 16, high}};
}

/* x rounded to one of the two neighbours that the storage type of `type` has, the nearer with the larger
 * probability, so that the expectation is x. Of `random` the low 16 bits are used. */
HD float round_stochastic(const float *, float x, uint32_t) {
  return x;
}
HD float round_stochastic(const bf16 *, float x, uint32_t random) {
  uint32_t u = float_bits(x);
  bool finite = (u & 0x7f800000u) != 0x7f800000u;
  return finite ? float_from_bits((u + (random & 0xffffu)) & 0xffff0000u) : x;
}

#endif
