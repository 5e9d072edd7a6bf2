/* The plan of a product on CUDA: what cublasLt wants to know of it, and its algorithm. Only in builds with
 * nvcc; private to src/ops/matmul*. */
#ifndef MATMUL_PLAN_CUDA_H
#define MATMUL_PLAN_CUDA_H

#include "device/device_cuda.h" /* defines: CublasLt */
#include "ops/matmul_key.h"     /* defines: MatmulKey */

#ifdef __cplusplus
extern "C" {
#endif

typedef struct MatmulPlan {
  cublasLtMatmulDesc_t product;
  cublasLtMatrixLayout_t first, second, out; /* b, a, out: column-major */
  cublasLtMatmulAlgo_t algorithm;
} MatmulPlan;

/* Seconds that the product at hand takes with a plan; negative when it cannot be computed so. */
typedef struct MatmulTimer {
  double (*seconds)(const MatmulPlan *plan, void *context);
  void *context;
} MatmulTimer;

/* The plan of such a product, made at its first call: the same product takes the same algorithm, and gives
 * the same bits, for as long as the device is open. The algorithm is the one that was read for it
 * (matmul_tune_read), else the fastest of as many as matmul_tune() says, else the first that cublasLt's
 * heuristics propose, which does not change from run to run. */
const MatmulPlan *matmul_plan(Device *dev, const MatmulKey *key, const MatmulTimer *timer);

#ifdef __cplusplus
}
#endif
#endif
