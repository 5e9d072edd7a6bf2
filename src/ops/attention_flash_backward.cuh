/* Backward of the attention on CUDA (FlashAttention-2, arXiv 2307.08691, algorithm 2), with
 *   p = e^(scale q k^T - lse),  delta = rowsum(dout * o),  ds = p (dout v^T - delta)
 *   dv = p^T dout,  dk = scale ds^T q,  dq = scale ds k
 * Two passes over the pairs of a query and a key: one sums dk and dv over the queries, one dq over the keys.
 * Each sum has one owner and one order, so that nothing is added to by several blocks; the price is p and ds
 * twice, 7 products instead of 5. A block keeps rows of its own in shared memory and streams the others past
 * them, two tiles at a time: one is copied while the other is used. PACKED: documents that share a sequence
 * do not see each other. */
#ifndef ATTENTION_FLASH_BACKWARD_CUH
#define ATTENTION_FLASH_BACKWARD_CUH

#include "ops/attention_flash_tiles.cuh"

/* delta [B, NH, T] = rowsum(dout * o); a row is a token, a warp takes a head. */
template <class T> struct AttentionDelta {
  AttentionShape s;
  float *delta;
  HeadRows<const T> dout, o;

  __device__ __forceinline__ void operator()(Block, int64_t row) const {
    int lane = threadIdx.x % 32;
    for (int64_t head = threadIdx.x / 32; head < s.NH; head += blockDim.x / 32) {
      const T *x = dout.data + row * dout.ld + head * s.HS, *y = o.data + row * o.ld + head * s.HS;
      float sum = 0.f;
      for (int d = lane; d < s.HS; d += 32) sum += value(x[d]) * value(y[d]);
      for (int other = 16; other; other /= 2) sum += __shfl_xor_sync(~0u, sum, other);
      if (lane == 0) delta[(row / s.T * s.NH + head) * s.T + row % s.T] = sum;
    }
  }
};

/* What both passes have in common. */
template <class T, int HS> struct BackwardTiles {
  static constexpr int ROW_BYTES = HS * (int)sizeof(T);
  static constexpr int WARPS = ROW_BYTES <= 512 ? 4 : 2, THREADS = 32 * WARPS;
  static constexpr int OWN = WARP_ROWS * WARPS; /* rows of a block */
  static constexpr int STREAMED = streamed_rows(ROW_BYTES, 8192, sizeof(T) == 2 ? 64 : 32); /* of a tile */
  static constexpr size_t SHARED =
      (size_t)(2 * OWN + 4 * STREAMED) * ROW_BYTES + 4 * STREAMED * sizeof(float);
};

/* dk and dv of a block of keys, summed over the queries of the group's heads: products have keys in rows and
 * queries in columns. The registers do not hold both sums of heads of 256: then each has a pass of its own.
 */
template <class T, int HS, bool PACKED, bool DK, bool DV> struct AttentionKeysBackward {
  typedef BackwardTiles<T, HS> Tiles;
  static constexpr int THREADS = Tiles::THREADS, OWN = Tiles::OWN, STREAMED = Tiles::STREAMED, BLOCKS = 2;
  static constexpr size_t SHARED = Tiles::SHARED;

  AttentionShape s;
  HeadRows<T> dk, dv;
  HeadRows<const T> q, k, v, dout;
  const float *lse, *delta; /* [B, NH, T] */

  int64_t items() const { return s.B * s.NKV * ((s.T + OWN - 1) / OWN); }

  /* A tile of queries on its way past the keys. */
  struct Streamed {
    T *q, *dout;
    float *lse, *delta; /* lse in powers of 2 */
  };
  __device__ __forceinline__ static Streamed streamed(char *shared, int turn) {
    T *tiles = (T *)shared + (2 * OWN + 2 * turn * STREAMED) * HS;
    float *rows = (float *)((T *)shared + (2 * OWN + 4 * STREAMED) * HS) + 2 * turn * STREAMED;
    return Streamed{tiles, tiles + STREAMED * HS, rows, rows + STREAMED};
  }

  __device__ __forceinline__ void stream(Streamed to, int64_t b, int64_t head, int64_t query) const {
    tile_begin<THREADS, STREAMED, HS>(to.q, rows_from(q, b * s.T + query, head), s.T - query);
    tile_begin<THREADS, STREAMED, HS>(to.dout, rows_from(dout, b * s.T + query, head), s.T - query);
    int64_t at = (b * s.NH + head) * s.T + query;
    for (int i = threadIdx.x; i < STREAMED; i += THREADS) {
      bool there = query + i < s.T; /* beyond the end rows are 0, and so is all that they add */
      to.lse[i] = there ? lse[at + i] * LOG2_E : 0.f;
      to.delta[i] = there ? delta[at + i] : 0.f;
    }
    warp_converge();
  }

  /* What the queries of one tile, from position `query` of sequence b on, add to the warp's keys. */
  __device__ __forceinline__ void add_queries(Fragments<WARP_ROWS, HS> &dk_sum,
                                              Fragments<WARP_ROWS, HS> &dv_sum, const T *k_rows,
                                              const T *v_rows, Streamed from, Band band, int64_t b,
                                              int64_t key, int64_t query) const {
    Fragments<WARP_ROWS, STREAMED> p, ds;
    float factor = s.scale * LOG2_E;
    row_products<HS>(p, k_rows, from.q);
    if (!band_all(band, WARP_ROWS, STREAMED)) band_apply(p, band, -INFINITY);
    if (PACKED) mask_later_queries(p, s, b, key, query);
#pragma unroll
    for (int n = 0; n < STREAMED / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        p.x[0][n][i] = fast_exp2(p.x[0][n][i] * factor - from.lse[fragment_column(n, i)]);
    if (DV) add_product<HS>(dv_sum, p, from.dout);
    if (!DK) return;
    row_products<HS>(ds, v_rows, from.dout);
#pragma unroll
    for (int n = 0; n < STREAMED / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        ds.x[0][n][i] = p.x[0][n][i] * (ds.x[0][n][i] - from.delta[fragment_column(n, i)]);
    add_product<HS>(dk_sum, ds, from.q);
  }

  __device__ __forceinline__ void operator()(char *shared, int64_t item) const {
    T *k_tile = (T *)shared, *v_tile = k_tile + OWN * HS;
    int64_t units = s.B * s.NKV,
            first = item / units * OWN; /* the first keys are seen the most: they go first */
    int64_t b = item % units / s.NKV, kv = item % s.NKV, group = s.NH / s.NKV, start = b * s.T;
    int64_t end = s.window > 0 && first + OWN - 1 < s.T - s.window ? first + OWN - 1 + s.window : s.T;
    int64_t head = kv * group, query = first;
    int warp_row = (int)threadIdx.x / 32 * WARP_ROWS, turn = 0;
    if (PACKED) end = document_end(s.starts + start, end, earlier(first + OWN, s.T) - 1);

    Fragments<WARP_ROWS, HS> dk_sum, dv_sum;
    dk_sum.clear();
    dv_sum.clear();
    tile_begin<THREADS, OWN, HS>(k_tile, rows_from(k, start + first, kv), s.T - first);
    tile_begin<THREADS, OWN, HS>(v_tile, rows_from(v, start + first, kv), s.T - first);
    stream(streamed(shared, 0), b, head, query);
    while (head < (kv + 1) * group) {
      int64_t next_query = query + STREAMED < end ? query + STREAMED : first;
      int64_t next_head = next_query == first ? head + 1 : head;
      copies_wait();
      __syncthreads(); /* this tile is there, the other one has been used */
      if (next_head < (kv + 1) * group) stream(streamed(shared, turn ^ 1), b, next_head, next_query);
      Band band = band_of_keys(query - (first + warp_row), s.window);
      bool seen = band_any(band, WARP_ROWS, STREAMED);
      if (PACKED) seen = seen && document_start(s, b, query) < first + warp_row + WARP_ROWS;
      if (seen)
        add_queries(dk_sum, dv_sum, k_tile + warp_row * HS, v_tile + warp_row * HS, streamed(shared, turn),
                    band, b, first + warp_row, query);
      head = next_head;
      query = next_query;
      turn ^= 1;
    }
    int64_t row = first + warp_row;
    if (DK) fragments_store(rows_from(dk, start + row, kv), s.T - row, dk_sum, s.scale);
    if (DV) fragments_store(rows_from(dv, start + row, kv), s.T - row, dv_sum, 1.f);
  }
};

/* dq of a block of queries, summed over the keys. */
template <class T, int HS, bool PACKED> struct AttentionQueriesBackward {
  typedef BackwardTiles<T, HS> Tiles;
  static constexpr int THREADS = Tiles::THREADS, OWN = Tiles::OWN, STREAMED = Tiles::STREAMED, BLOCKS = 2;
  static constexpr size_t SHARED = Tiles::SHARED;

  AttentionShape s;
  HeadRows<T> dq;
  HeadRows<const T> q, k, v, dout;
  const float *lse, *delta; /* [B, NH, T] */

  int64_t items() const { return s.B * s.NH * ((s.T + OWN - 1) / OWN); }

  /* What the keys of one tile, from position `key` of sequence b on, add to the warp's queries; lse in powers
   * of 2. */
  __device__ __forceinline__ void add_keys(Fragments<WARP_ROWS, HS> &dq_sum, const T *q_rows,
                                           const T *dout_rows, const float *row_lse, const float *row_delta,
                                           const T *k_tile, const T *v_tile, Band band, int64_t b,
                                           int64_t query, int64_t key) const {
    Fragments<WARP_ROWS, STREAMED> p, ds;
    float factor = s.scale * LOG2_E;
    row_products<HS>(p, q_rows, k_tile);
    row_products<HS>(ds, dout_rows, v_tile);
    if (!band_all(band, WARP_ROWS, STREAMED)) band_apply(p, band, -INFINITY);
    if (PACKED) mask_earlier_keys(p, s, b, query, key);
#pragma unroll
    for (int n = 0; n < STREAMED / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        ds.x[0][n][i] =
            fast_exp2(p.x[0][n][i] * factor - row_lse[i / 2]) * (ds.x[0][n][i] - row_delta[i / 2]);
    add_product<HS>(dq_sum, ds, k_tile);
  }

  __device__ __forceinline__ void stream(T *to, int64_t row, int64_t kv, int64_t rows) const {
    tile_begin<THREADS, STREAMED, HS>(to, rows_from(k, row, kv), rows);
    tile_begin<THREADS, STREAMED, HS>(to + STREAMED * HS, rows_from(v, row, kv), rows);
  }

  __device__ __forceinline__ void operator()(char *shared, int64_t item) const {
    T *q_tile = (T *)shared, *dout_tile = q_tile + OWN * HS, *streamed = dout_tile + OWN * HS;
    int64_t heads = s.B * s.NH, blocks = (s.T + OWN - 1) / OWN;
    int64_t first = (blocks - 1 - item / heads) * OWN, b = item % heads / s.NH, head = item % s.NH;
    int64_t kv = head / (s.NH / s.NKV), start = b * s.T;
    int64_t key = s.window > 0 && first >= s.window ? first - s.window + 1 : 0;
    int64_t end = first + OWN < s.T ? first + OWN : s.T;
    if (PACKED) key = later(key, document_start(s, b, first));
    int warp_row = (int)threadIdx.x / 32 * WARP_ROWS, turn = 0;

    float row_lse[2], row_delta[2];
    for (int i = 0; i < 2; i++) {
      int64_t row = first + warp_row + fragment_row(0, i * 2), at = (b * s.NH + head) * s.T + row;
      row_lse[i] = row < s.T ? lse[at] * LOG2_E : 0.f;
      row_delta[i] = row < s.T ? delta[at] : 0.f;
    }
    Fragments<WARP_ROWS, HS> dq_sum;
    dq_sum.clear();
    tile_begin<THREADS, OWN, HS>(q_tile, rows_from(q, start + first, head), s.T - first);
    tile_begin<THREADS, OWN, HS>(dout_tile, rows_from(dout, start + first, head), s.T - first);
    stream(streamed, start + key, kv, end - key);
    for (; key < end; key += STREAMED) {
      T *k_tile = streamed + 2 * turn * STREAMED * HS, *next = streamed + 2 * (turn ^ 1) * STREAMED * HS;
      copies_wait();
      __syncthreads(); /* this tile is there, the other one has been used */
      if (key + STREAMED < end) stream(next, start + key + STREAMED, kv, end - key - STREAMED);
      Band band = band_of_queries(first + warp_row - key, s.window);
      bool seen = band_any(band, WARP_ROWS, STREAMED);
      if (PACKED) seen = seen && document_start(s, b, first + warp_row) < key + STREAMED;
      if (seen)
        add_keys(dq_sum, q_tile + warp_row * HS, dout_tile + warp_row * HS, row_lse, row_delta, k_tile,
                 k_tile + STREAMED * HS, band, b, first + warp_row, key);
      turn ^= 1;
    }
    int64_t row = first + warp_row;
    fragments_store(rows_from(dq, start + row, head), s.T - row, dq_sum, s.scale);
  }
};

#endif
