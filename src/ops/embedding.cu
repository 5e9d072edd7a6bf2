/* Token embedding. On the CPU the backward hands out blocks of columns, not rows: a table row that many
 * tokens share is added to by one worker, in the order of the rows. */
#include "ops/embedding.h"

#include "device/launch.cuh" // defines: launch_rows
#ifdef __CUDACC__
#include "ops/embedding_cuda.h" // defines: embedding_backward_cuda
#endif

template <class T> struct EmbeddingForward {
  T *out;                /* [rows, C] */
  const T *table;        /* [V, C] */
  const int32_t *tokens; /* [rows] */
  int64_t C;

  template <class G> HD void operator()(G g, int64_t row) const {
    g.each(
        C, [](float &out, float x) { out = x; }, out + row * C, table + (int64_t)tokens[row] * C);
  }
};

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

void embedding_forward(Device *dev, DType dt, void *out, const void *table, const int32_t *tokens,
                       int64_t rows, int64_t C) {
  DISPATCH(dt, T, launch_rows(dev, rows, EmbeddingForward<T>{(T *)out, (const T *)table, tokens, C}));
}

void embedding_backward(Device *dev, DType dt, float *dtable, const void *dout, const int32_t *tokens,
                        int64_t rows, int64_t C) {
#ifdef __CUDACC__
  if (dev->kind == DEVICE_CUDA) {
    embedding_backward_cuda(dev, dt, dtable, dout, tokens, rows, C);
    return;
  }
#endif
  /* Wide blocks read memory in long runs; narrow ones would have threads write to the same cache lines. */
  int64_t width = (C + dev->threads - 1) / dev->threads;
  width = (width + 31) / 32 * 32;
  DISPATCH(dt, T,
           launch_rows(dev, (C + width - 1) / width,
                       EmbeddingBackward<T>{dtable, (const T *)dout, tokens, rows, C, width}));
}
