/* The gradient of the token embedding on CUDA: a block a row, but only the first row of each token works. It
 * adds up all rows of its token, in their order, so that no two blocks write to one place and the result
 * depends on nothing but the data. Looking for a token among all rows costs rows^2/2 comparisons at most, a
 * small part of the attention's work over the same rows. */
#include "ops/embedding_cuda.h"

#include "device/launch.cuh" // defines: LAUNCH_THREADS, MAX_BLOCKS, check_launch

/* True for all threads when the token stands before `row`. */
static __device__ bool seen_before(const int32_t *tokens, int64_t row, int32_t token) {
  for (int64_t end = row; end > 0; end -= LAUNCH_THREADS) {
    int64_t i = end - 1 - (int64_t)threadIdx.x;
    if (__syncthreads_or(i >= 0 && tokens[i] == token)) return true;
  }
  return false;
}

template <class T>
__global__ void embedding_backward_kernel(float *dtable, const T *dout, const int32_t *tokens, int64_t rows,
                                          int64_t C) {
  __shared__ uint32_t matches[LAUNCH_THREADS / 32]; /* of the rows at hand, a bit each */
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    int32_t token = tokens[row];
    if (seen_before(tokens, row, token)) continue;
    float *sum = dtable + (int64_t)token * C;
    for (int64_t begin = row; begin < rows; begin += LAUNCH_THREADS) {
      int64_t i = begin + threadIdx.x;
      bool match = i < rows && tokens[i] == token;
      uint32_t warp_matches = __ballot_sync(~0u, match);
      if (threadIdx.x % 32 == 0) matches[threadIdx.x / 32] = warp_matches;
      if (__syncthreads_or(match))
        for (int w = 0; w < LAUNCH_THREADS / 32; w++)
          for (uint32_t left = matches[w]; left; left &= left - 1) {
            const T *d = dout + (begin + w * 32 + __ffs((int)left) - 1) * C;
            for (int64_t c = threadIdx.x; c < C; c += LAUNCH_THREADS) sum[c] += value(d[c]);
          }
      __syncthreads(); /* matches have been read */
    }
  }
}

void embedding_backward_cuda(Device *dev, DType dt, float *dtable, const void *dout, const int32_t *tokens,
                             int64_t rows, int64_t C) {
  if (rows <= 0) return;
  unsigned blocks = rows < MAX_BLOCKS ? (unsigned)rows : (unsigned)MAX_BLOCKS;
  DISPATCH(dt, T,
           embedding_backward_kernel<T><<<blocks, LAUNCH_THREADS, 0, (cudaStream_t)dev->stream>>>(
               dtable, (const T *)dout, tokens, rows, C));
  check_launch("embedding_backward");
}
