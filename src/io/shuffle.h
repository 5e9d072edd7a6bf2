/* Permutations of 0 .. n-1 that take no memory: each element is computed by itself, so that a shuffled order
 * can be entered at any place. */
#ifndef SHUFFLE_H
#define SHUFFLE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SHUFFLE_ROUNDS = 12 };

typedef struct Permutation {
  int64_t n;
  int half_bits;                /* numbers below 4^half_bits, the least such power that is not below n */
  uint64_t key[SHUFFLE_ROUNDS]; /* one a round */
} Permutation;

/* A key made of two; used in a row for more: shuffle_key(shuffle_key(seed, epoch), shard). */
uint64_t shuffle_key(uint64_t key, uint64_t with);

/* The permutation of 0 .. n-1 that the key names; n >= 1. Different keys give unrelated ones. */
Permutation permutation_make(int64_t n, uint64_t key);
/* Where element i goes, 0 <= i < n. */
int64_t permutation_at(const Permutation *p, int64_t i);

#ifdef __cplusplus
}
#endif
#endif
