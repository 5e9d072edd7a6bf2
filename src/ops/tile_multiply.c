#include "ops/tile_multiply.h"

/* Sums stay in registers: TILE_ROWS times MOST_VECTORS of them, next to a row of b and a broadcast element.
 */
#if defined(__AVX512F__)
enum { LANES = 16 };
#define MOST_VECTORS 4
#elif defined(__AVX__)
enum { LANES = 8 };
#define MOST_VECTORS 2
#else
enum { LANES = 4 };
#define MOST_VECTORS 4
#endif
enum { DEPTH = 128 }; /* rows of b at a time: with MOST_VECTORS columns they stay in the first cache */

typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));

/* The product of `rows` by `vectors` * LANES elements; both are constants where this is inlined. */
static inline __attribute__((always_inline)) void multiply(const int rows, const int vectors, float *out,
                                                           int64_t ld_out, TileFactor a, const float *b,
                                                           int64_t ld_b, int64_t K, bool add) {
  Vector sum[TILE_ROWS][MOST_VECTORS];
#pragma GCC unroll 6
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++)
      sum[i][v] = add ? *(const Vector *)(out + i * ld_out + v * LANES) : (Vector){0};
  for (int64_t k = 0; k < K; k++) {
    Vector y[MOST_VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) y[v] = *(const Vector *)(b + k * ld_b + v * LANES);
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
      float x = a.data[i * a.row + k * a.column];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; v++) sum[i][v] += x * y[v];
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) *(Vector *)(out + i * ld_out + v * LANES) = sum[i][v];
}

/* `rows` of 1 to TILE_ROWS; returns how many of them are done. */
#define ROWS(R)                                                                                              \
  if (rows >= R) {                                                                                           \
    multiply(R, vectors, out, ld_out, a, b, ld_b, K, add);                                                   \
    return R;                                                                                                \
  }
static inline __attribute__((always_inline)) int64_t some_rows(int64_t rows, const int vectors, float *out,
                                                               int64_t ld_out, TileFactor a, const float *b,
                                                               int64_t ld_b, int64_t K, bool add) {
  ROWS(TILE_ROWS)
  ROWS(4)
  ROWS(2)
  ROWS(1)
  return 0;
}

/* The rows of out by `vectors` * LANES columns. */
#define COLUMNS(VECTORS)                                                                                     \
  static void columns_##VECTORS(float *out, int64_t ld_out, TileFactor a, const float *b, int64_t ld_b,      \
                                int64_t M, int64_t K, bool add) {                                            \
    for (int64_t i = 0, done; i < M; i += done) {                                                            \
      TileFactor rest = {a.data + i * a.row, a.row, a.column};                                               \
      done = some_rows(M - i, VECTORS, out + i * ld_out, ld_out, rest, b, ld_b, K, add);                     \
    }                                                                                                        \
  }
COLUMNS(1)
COLUMNS(2)
#if MOST_VECTORS == 4
COLUMNS(4)
#endif

/* All of out, from DEPTH rows of b at most; N in vectors. */
static void layer(float *out, int64_t ld_out, TileFactor a, const float *b, int64_t ld_b, int64_t M,
                  int64_t vectors, int64_t K, bool add) {
  int64_t v = 0;
#if MOST_VECTORS == 4
  for (; v + 4 <= vectors; v += 4) columns_4(out + v * LANES, ld_out, a, b + v * LANES, ld_b, M, K, add);
#endif
  for (; v + 2 <= vectors; v += 2) columns_2(out + v * LANES, ld_out, a, b + v * LANES, ld_b, M, K, add);
  if (v < vectors) columns_1(out + v * LANES, ld_out, a, b + v * LANES, ld_b, M, K, add);
}

void tile_multiply(float *out, int64_t ld_out, TileFactor a, const float *b, int64_t ld_b, int64_t M,
                   int64_t N, int64_t K, bool add) {
  int64_t vectors = (N + LANES - 1) / LANES, k = 0;
  do {
    TileFactor rest = {a.data + k * a.column, a.row, a.column};
    layer(out, ld_out, rest, b + k * ld_b, ld_b, M, vectors, K - k < DEPTH ? K - k : DEPTH, add || k > 0);
    k += DEPTH;
  } while (k < K);
}
