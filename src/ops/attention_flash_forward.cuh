/* Forward of the attention on CUDA (FlashAttention-2, arXiv 2307.08691, algorithm 1). A block has queries of
 * one head, each warp some rows of them, and streams the keys and values that they see past them: s = q k^T,
 * m' = max(m, s),  o = o e^(m - m') + e^(s - m') v,  total likewise with exponentials as powers of 2. Keys
 * are copied while the values are used, and the other way round. PACKED: documents that share a sequence do
 * not see each other. */
#ifndef ATTENTION_FLASH_FORWARD_CUH
#define ATTENTION_FLASH_FORWARD_CUH

#include "ops/attention_flash_tiles.cuh"

template <class T, int HS, bool PACKED> struct AttentionForward {
  static constexpr int ROW_BYTES = HS * (int)sizeof(T);
  static constexpr int WARPS = 4, THREADS = 32 * WARPS;
  /* rows of a warp: two fragments use each load of keys and values twice, where the registers suffice */
  static constexpr int R = sizeof(T) == 2 && HS >= 64 && HS <= 128 ? 2 * WARP_ROWS : WARP_ROWS;
  static constexpr int QUERIES = R * WARPS;
  static constexpr int KEYS =
      streamed_rows(ROW_BYTES, R > WARP_ROWS ? 8192 : 16384, sizeof(T) == 2 ? 64 : 32);
  static constexpr int BLOCKS = 2;
  static constexpr size_t SHARED = (size_t)(QUERIES + 2 * KEYS) * ROW_BYTES;

  AttentionShape s;
  HeadRows<T> o;
  float *lse; /* [B, NH, T] */
  HeadRows<const T> q, k, v;

  int64_t items() const { return s.B * s.NH * ((s.T + QUERIES - 1) / QUERIES); }

  /* Of a warp's rows: two a fragment and lane, in the order of fragment_row. */
  struct Softmax {
    float max[R / 8], total[R / 8]; /* of the scores so far, before the scale; this lane's part of the sum */
  };

  /* The scores become e^(scale (score - max)); sum and total move on to the new maximum. */
  __device__ __forceinline__ void softmax_step(Fragments<R, KEYS> &score, Fragments<R, HS> &sum,
                                               Softmax &f) const {
    float factor = s.scale * LOG2_E;
#pragma unroll
    for (int r = 0; r < R / 8; r++) {
      int m = r / 2, i = r % 2 * 2;
      float max = f.max[r];
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int j = i; j < i + 2; j++) max = fmaxf(max, score.x[m][n][j]);
      max = fmaxf(max, __shfl_xor_sync(~0u, max, 1));
      max = fmaxf(max, __shfl_xor_sync(~0u, max, 2));
      /* a row that has seen nothing yet has -inf, and -inf - -inf would be NaN */
      float top = max == -INFINITY ? 0.f : max * factor;
      float shrink = fast_exp2(f.max[r] * factor - top), total = 0.f;
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int j = i; j < i + 2; j++) {
          float e = fast_exp2(score.x[m][n][j] * factor - top);
          score.x[m][n][j] = e;
          total += e;
        }
      f.max[r] = max;
      f.total[r] = f.total[r] * shrink + total;
#pragma unroll
      for (int d = 0; d < HS / 8; d++)
#pragma unroll
        for (int j = i; j < i + 2; j++) sum.x[m][d][j] *= shrink;
    }
  }

  /* o and lse of the warp's rows that exist; o_rows and lse_rows are its first. */
  __device__ __forceinline__ void finish(HeadRows<T> o_rows, float *lse_rows, int64_t rows,
                                         Fragments<R, HS> &sum, const Softmax &f) const {
#pragma unroll
    for (int r = 0; r < R / 8; r++) {
      int m = r / 2, i = r % 2 * 2, row = fragment_row(m, i);
      float total = f.total[r];
      total += __shfl_xor_sync(~0u, total, 1);
      total += __shfl_xor_sync(~0u, total, 2);
      float share = 1.f / total;
#pragma unroll
      for (int d = 0; d < HS / 8; d++)
#pragma unroll
        for (int j = i; j < i + 2; j++) sum.x[m][d][j] *= share;
      if (threadIdx.x % 4 == 0 && row < rows) lse_rows[row] = f.max[r] * s.scale + logf(total);
    }
    fragments_store(o_rows, rows, sum, 1.f);
  }

  __device__ __forceinline__ void operator()(char *shared, int64_t item) const {
    T *q_tile = (T *)shared, *k_tile = q_tile + QUERIES * HS, *v_tile = k_tile + KEYS * HS;
    int64_t heads = s.B * s.NH, blocks = (s.T + QUERIES - 1) / QUERIES;
    /* the last queries see the most keys: they go first, so that the multiprocessors end together */
    int64_t first = (blocks - 1 - item / heads) * QUERIES, b = item % heads / s.NH, head = item % s.NH;
    int64_t kv = head / (s.NH / s.NKV), start = b * s.T;
    int64_t key = s.window > 0 && first >= s.window ? first - s.window + 1 : 0;
    int64_t end = first + QUERIES < s.T ? first + QUERIES : s.T;
    if (PACKED) key = later(key, document_start(s, b, first));
    int warp_row = (int)threadIdx.x / 32 * R;

    Fragments<R, HS> sum;
    Softmax f;
    sum.clear();
#pragma unroll
    for (int r = 0; r < R / 8; r++) {
      f.max[r] = -INFINITY;
      f.total[r] = 0.f;
    }
    tile_begin<THREADS, QUERIES, HS>(q_tile, rows_from(q, start + first, head), s.T - first);
    tile_begin<THREADS, KEYS, HS>(k_tile, rows_from(k, start + key, kv), end - key);
    for (; key < end; key += KEYS) {
      Band band = band_of_queries(first + warp_row - key, s.window);
      bool seen = band_any(band, R, KEYS);
      if (PACKED) seen = seen && document_start(s, b, first + warp_row) < key + KEYS;
      copies_wait();
      __syncthreads(); /* the keys are there, the last values have been used */
      tile_begin<THREADS, KEYS, HS>(v_tile, rows_from(v, start + key, kv), end - key);
      Fragments<R, KEYS> score;
      if (seen) row_products<HS>(score, q_tile + warp_row * HS, k_tile);
      copies_wait();
      __syncthreads(); /* the values are there, the keys have been used */
      if (key + KEYS < end)
        tile_begin<THREADS, KEYS, HS>(k_tile, rows_from(k, start + key + KEYS, kv), end - key - KEYS);
      if (!seen) continue;
      if (!band_all(band, R, KEYS)) band_apply(score, band, -INFINITY);
      if (PACKED) mask_earlier_keys(score, s, b, first + warp_row, key);
      softmax_step(score, sum, f);
      add_product<HS>(sum, score, v_tile);
    }
    int64_t row = first + warp_row;
    finish(rows_from(o, start + row, head), lse + (b * s.NH + head) * s.T + row, s.T - row, sum, f);
  }
};

#endif
