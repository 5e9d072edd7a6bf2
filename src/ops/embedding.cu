/* Token embedding. Of its gradient, a table row that many tokens share is added to by one worker, in the
 * order of the rows. */
#include "ops/embedding.h"

#include "device/launch.cuh" // defines: launch_rows
#include "device/profile.h"

template <class T> struct EmbeddingForward {
  T *out;                /* [rows, C] */
  const T *table;        /* [V, C] */
  const int32_t *tokens; /* [rows] */
  int64_t C;

  template <class G> HD void operator()(G g, int64_t row) const {
    const T *from = table + (int64_t)tokens[row] * C;
    g.produce(
        C, 1,
        [=](T *out, int64_t i, int64_t count) {
          g.each(
              count, [](float &out, float x) { out = x; }, out, from + i);
        },
        out + row * C);
  }
};

/* On the CPU a lane takes some columns of all rows. */
template <class T> struct EmbeddingBackward {
  float *dtable;          /* [V, C] */
  const T *dout;          /* [rows, C] */
  const int32_t *tokens;  /* [rows] */
  int64_t rows, C, width; /* width: columns a block */

  template <class G> HD void operator()(G g, int64_t block) const {
    int64_t column = block * width, count = C - column < width ? C - column : width;
    for (int64_t row = 0; row < rows; row++)
      g.each(
          count, [](float &sum, float d) { sum += d; }, dtable + (int64_t)tokens[row] * C + column,
          dout + row * C + column);
  }
};

#ifdef HAS_BLOCKS
/* On CUDA a block takes a row, and works when it is the first of its token: it adds up all rows of that
 * token. Looking for a token among all rows costs rows^2 / 2 comparisons at most, a small part of what the
 * attention costs over the same rows. */
template <class T> struct EmbeddingBackwardOfToken {
  float *dtable;         /* [V, C] */
  const T *dout;         /* [rows, C] */
  const int32_t *tokens; /* [rows] */
  int64_t rows, C;

  /* True for all threads when the token stands before `row`. */
  __device__ bool seen_before(int64_t row, int32_t token) const {
    for (int64_t end = row; end > 0; end -= blockDim.x) {
      int64_t i = end - 1 - (int64_t)threadIdx.x;
      if (__syncthreads_or(i >= 0 && tokens[i] == token)) return true;
    }
    return false;
  }

  /* sum [C] += d [C]; four columns are read before any is written, so that a thread waits for memory once. */
  __device__ void add_row(float *sum, const T *d) const {
    const int columns = 4;
    for (int64_t c = threadIdx.x; c < C; c += columns * blockDim.x) {
      float x[columns];
#pragma unroll
      for (int k = 0; k < columns; k++) {
        int64_t at = c + k * blockDim.x;
        x[k] = at < C ? sum[at] + value(d[at]) : 0.f;
      }
#pragma unroll
      for (int k = 0; k < columns; k++) {
        int64_t at = c + k * blockDim.x;
        if (at < C) sum[at] = x[k];
      }
    }
  }

  __device__ void operator()(Block g, int64_t row) const {
    int32_t token = tokens[row];
    if (seen_before(row, token)) return;
    float *sum = dtable + (int64_t)token * C;
    uint32_t *matches = (uint32_t *)g.scratch; /* of the rows at hand, a bit each, a word a warp */
    for (int64_t begin = row; begin < rows; begin += blockDim.x) {
      int64_t i = begin + threadIdx.x;
      bool match = i < rows && tokens[i] == token;
      uint32_t of_warp = __ballot_sync(~0u, match);
      if (threadIdx.x % 32 == 0) matches[threadIdx.x / 32] = of_warp;
      if (__syncthreads_or(match))
        for (unsigned w = 0; w < blockDim.x / 32; w++)
          for (uint32_t left = matches[w]; left; left &= left - 1)
            add_row(sum, dout + (begin + w * 32 + __ffs((int)left) - 1) * C);
      g.sync(); /* matches have been read */
    }
  }
};
#endif

void embedding_forward(Device *dev, DType dt, void *out, const void *table, const int32_t *tokens,
                       int64_t rows, int64_t C) {
  double begin = profile_begin(dev);
  DISPATCH(dt, T,
           launch_rows(dev, rows, EmbeddingForward<T>{(T *)out, (const T *)table, tokens, C},
                       RowHints{C, rows * C * (int64_t)sizeof(T)}));
  profile_end(dev, begin, "embedding", "forward", 0, 2.0 * (double)(rows * C) * (double)dtype_size(dt));
}

/* On the CPU. Wide blocks read memory in long runs; narrow ones would have threads write to the same cache
 * lines. */
template <class T>
static void backward_of_columns(Device *dev, float *dtable, const T *dout, const int32_t *tokens,
                                int64_t rows, int64_t C) {
  int64_t width = (C + dev->threads - 1) / dev->threads;
  width = (width + 31) / 32 * 32;
  launch_rows(dev, (C + width - 1) / width, EmbeddingBackward<T>{dtable, dout, tokens, rows, C, width});
}

template <class T>
static void backward(Device *dev, float *dtable, const T *dout, const int32_t *tokens, int64_t rows,
                     int64_t C) {
#ifdef HAS_BLOCKS
  if (dev->kind == DEVICE_CUDA) {
    launch_blocks(dev, rows, EmbeddingBackwardOfToken<T>{dtable, dout, tokens, rows, C});
    return;
  }
#endif
  backward_of_columns(dev, dtable, dout, tokens, rows, C);
}

void embedding_backward(Device *dev, DType dt, float *dtable, const void *dout, const int32_t *tokens,
                        int64_t rows, int64_t C) {
  double begin = profile_begin(dev);
  DISPATCH(dt, T, backward(dev, dtable, (const T *)dout, tokens, rows, C));
  profile_end(dev, begin, "embedding", "backward", 0, (double)(rows * C) * (double)(dtype_size(dt) + 8));
}
