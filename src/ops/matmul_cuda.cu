/* Matrix products on CUDA, by cublasLt: the plan of each (matmul_plan_cuda.c), and the call. */
#include "ops/matmul_cuda.h"

#include <limits.h>

#include "device/device_cuda.h"   // defines: CudaDevice, CublasLt, cuda_check, cuda_fail
#include "ops/matmul_plan_cuda.h" // defines: MatmulPlan, matmul_plan

/* A product's operands. */
typedef struct Product {
  Device *dev;
  Matrix out, a, b;
  const void *add; /* as out is, or NULL */
} Product;

static cublasStatus_t multiply(const Product *x, const MatmulPlan *p) {
  const CublasLt *blas = &x->dev->cuda->blas;
  const float one = 1.f, beta = x->add ? 1.f : 0.f;
  return blas->Matmul(blas->handle, p->product, &one, x->b.data, p->first, x->a.data, p->second, &beta,
                      x->add ? x->add : x->out.data, p->out, x->out.data, p->out, &p->algorithm,
                      x->dev->workspace, x->dev->workspace_bytes, (cudaStream_t)x->dev->stream);
}

/* The best of a few, after one that warms up. */
static double seconds_of(const MatmulPlan *p, void *context) {
  const Product *x = (const Product *)context;
  const Device *dev = x->dev;
  const int times = 3;
  cudaStream_t stream = (cudaStream_t)dev->stream;
  if (multiply(x, p) != CUBLAS_STATUS_SUCCESS) return -1;
  cudaEvent_t begin, end;
  cuda_check(dev, "an event", cudaEventCreate(&begin));
  cuda_check(dev, "an event", cudaEventCreate(&end));
  float best = INFINITY;
  for (int i = 0; i < times; i++) {
    float milliseconds = 0;
    cuda_check(dev, "an event", cudaEventRecord(begin, stream));
    cublasStatus_t status = multiply(x, p);
    if (status != CUBLAS_STATUS_SUCCESS) cuda_fail(dev, "matmul", dev->cuda->blas.GetStatusString(status));
    cuda_check(dev, "an event", cudaEventRecord(end, stream));
    cuda_check(dev, "a product that is timed", cudaEventSynchronize(end));
    cuda_check(dev, "an event", cudaEventElapsedTime(&milliseconds, begin, end));
    if (milliseconds < best) best = milliseconds;
  }
  cuda_check(dev, "an event", cudaEventDestroy(begin));
  cuda_check(dev, "an event", cudaEventDestroy(end));
  return 1e-3 * best;
}

void matmul_cuda(Device *dev, Matrix out, Matrix a, bool transpose_a, Matrix b, bool transpose_b, int64_t M,
                 int64_t N, int64_t K, const void *add) {
  size_t size = dtype_size(out.dtype);
  if (K == 0) {
    size_t row = (size_t)N * size, pitch = (size_t)out.ld * size;
    cudaStream_t stream = (cudaStream_t)dev->stream;
    if (!add)
      cuda_check(dev, "matmul with K = 0", cudaMemset2DAsync(out.data, pitch, 0, row, (size_t)M, stream));
    else if (add != out.data)
      cuda_check(
          dev, "matmul with K = 0",
          cudaMemcpy2DAsync(out.data, pitch, add, pitch, row, (size_t)M, cudaMemcpyDeviceToDevice, stream));
    return;
  }
  CHECK(M <= INT_MAX && N <= INT_MAX && K <= INT_MAX,
        "matmul: M %lld, N %lld, K %lld: beyond cublasLt's kernels", (long long)M, (long long)N,
        (long long)K);
  Product x = {dev, out, a, b, add};
  MatmulKey key = matmul_key(dev, out, add, a, transpose_a, b, transpose_b, M, N, K);
  MatmulTimer timer = {seconds_of, &x};
  const MatmulPlan *p = matmul_plan(dev, &key, &timer);
  cublasStatus_t status = multiply(&x, p);
  if (status != CUBLAS_STATUS_SUCCESS) cuda_fail(dev, "matmul", dev->cuda->blas.GetStatusString(status));
}
