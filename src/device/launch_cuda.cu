/* The part of launch_column_sums that CUDA does in its own way. */
#include "device/launch.cuh"

/* A block takes 32 columns, a warp every eighth segment, and the warps' sums are added in their order. */
static __global__ void __launch_bounds__(LAUNCH_THREADS)
    add_segments_kernel(float *out, const float *partial, int64_t n, int64_t width, int64_t segments) {
  constexpr int WARPS = LAUNCH_THREADS / 32;
  __shared__ float sums[WARPS][32];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t column = (int64_t)blockIdx.x * 32 + lane;
  float sum = 0.f;
  if (column < n) {
#pragma unroll 8
    for (int64_t s = warp; s < segments; s += WARPS) sum += partial[s * width + column];
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || column >= n) return;
  for (int w = 1; w < WARPS; w++) sum += sums[w][lane];
  out[column] += sum;
}

void add_segments_cuda(Device *dev, float *out, const float *partial, int64_t n, int64_t width,
                       int64_t segments) {
  add_segments_kernel<<<(unsigned)((n + 31) / 32), LAUNCH_THREADS, 0, (cudaStream_t)dev->stream>>>(
      out, partial, n, width, segments);
  check_launch("add_segments");
}
