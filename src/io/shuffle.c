/* A Feistel network over the numbers below 4^half_bits is a permutation of them whatever its round function
 * is. From a number below n it is applied until it arrives below n again ("cycle walking": Black and Rogaway,
 * "Ciphers with Arbitrary Finite Domains", CT-RSA 2002), which makes it one of 0 .. n-1; as 4^half_bits is
 * below 4n, that takes fewer than 4 applications on average. */
#include "io/shuffle.h"

#include <inttypes.h>

#include "base/error.h"

/* The finalizer of SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
 */
static uint64_t mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

uint64_t shuffle_key(uint64_t key, uint64_t with) {
  return mix(mix(key + 0x9e3779b97f4a7c15u) + with);
}

Permutation permutation_make(int64_t n, uint64_t key) {
  CHECK(n >= 1 && n <= INT64_C(1) << 62, "a permutation of %" PRId64 " elements", n);
  Permutation p = {.n = n};
  while (INT64_C(1) << 2 * p.half_bits < n) p.half_bits++;
  for (int round = 0; round < SHUFFLE_ROUNDS; round++) p.key[round] = shuffle_key(key, (uint64_t)round);
  return p;
}

int64_t permutation_at(const Permutation *p, int64_t i) {
  CHECK(i >= 0 && i < p->n, "element %" PRId64 " of a permutation of %" PRId64, i, p->n);
  uint64_t mask = (UINT64_C(1) << p->half_bits) - 1, x = (uint64_t)i;
  do {
    uint64_t left = x >> p->half_bits, right = x & mask;
    for (int round = 0; round < SHUFFLE_ROUNDS; round++) {
      uint64_t next = left ^ (mix(right + p->key[round]) & mask);
      left = right;
      right = next;
    }
    x = left << p->half_bits | right;
  } while (x >= (uint64_t)p->n);
  return (int64_t)x;
}
