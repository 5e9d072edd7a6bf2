/* The matrix library: OpenBLAS, MKL or BLIS, as `make BLAS=...` says. All of them have this function of the
 * CBLAS standard, with 32-bit sizes; their headers differ, and not all of their packages bring one. */
#ifndef BLAS_H
#define BLAS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum CBLAS_ORDER { CblasRowMajor = 101, CblasColMajor = 102 } CBLAS_ORDER;
typedef enum CBLAS_TRANSPOSE { CblasNoTrans = 111, CblasTrans = 112 } CBLAS_TRANSPOSE;

/* c [m, n] = alpha op(a) [m, k] op(b) [k, n] + beta c. On the threads of OpenMP; on one inside a parallel
 * region.
 */
void cblas_sgemm(CBLAS_ORDER order, CBLAS_TRANSPOSE transpose_a, CBLAS_TRANSPOSE transpose_b, int m, int n,
                 int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta, float *c,
                 int ldc);

/* Of OpenBLAS only, else NULL: how it was built. */
enum { OPENBLAS_WITH_OPENMP = 2 };
__attribute__((weak)) int openblas_get_parallel(void);

/* Of BLIS only, else NULL: the threads of a product, one unless it is told otherwise. */
__attribute__((weak)) void bli_thread_set_num_threads(int64_t threads);

#ifdef __cplusplus
}
#endif
#endif
