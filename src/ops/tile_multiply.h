/* Products of small matrices of fp32 that lie in a core's cache, as the attention on the CPU makes them by
 * the million: a matrix library would copy and reorder both factors for each, which costs a third of its
 * speed. */
#ifndef TILE_MULTIPLY_H
#define TILE_MULTIPLY_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  TILE_PADDING = 16, /* floats that rows of b and out are whole multiples of, the last ones unused */
  TILE_ROWS = 6      /* rows of out that are worked on together: M is best a multiple */
};

/* Element [i, k] lies at data[i * row + k * column]: a matrix as it is, or its transpose. */
typedef struct TileFactor {
  const float *data;
  int64_t row, column;
} TileFactor;

/* out [M, N] = a [M, K] b [K, N] + (add ? out : 0), on the calling thread. Rows of out and b are ld_out and
 * ld_b apart; of both, columns up to the next multiple of TILE_PADDING after N are touched as well. K = 0:
 * out is 0, or stays. The order of the sums depends on K alone. */
void tile_multiply(float *out, int64_t ld_out, TileFactor a, const float *b, int64_t ld_b, int64_t M,
                   int64_t N, int64_t K, bool add);

#ifdef __cplusplus
}
#endif
#endif
