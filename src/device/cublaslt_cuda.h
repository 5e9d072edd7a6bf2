/* cublasLt, bound at run time: one line per function that is used. Only in builds with nvcc, whose headers
 * give the types; nothing is linked. */
#ifndef CUBLASLT_CUDA_H
#define CUBLASLT_CUDA_H

#include <cublasLt.h>

#include "base/error.h"

#define CUBLASLT_FUNCTIONS(F)                                                                                \
  F(Create)                                                                                                  \
  F(Destroy)                                                                                                 \
  F(GetStatusString)                                                                                         \
  F(GetVersion)                                                                                              \
  F(Matmul)                                                                                                  \
  F(MatmulAlgoCheck)                                                                                         \
  F(MatmulAlgoGetHeuristic)                                                                                  \
  F(MatmulDescCreate)                                                                                        \
  F(MatmulDescDestroy)                                                                                       \
  F(MatmulDescSetAttribute)                                                                                  \
  F(MatmulPreferenceCreate)                                                                                  \
  F(MatmulPreferenceDestroy)                                                                                 \
  F(MatmulPreferenceSetAttribute)                                                                            \
  F(MatrixLayoutCreate)                                                                                      \
  F(MatrixLayoutDestroy)

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CublasLt {
  cublasLtHandle_t handle;
#define CUBLASLT_MEMBER(name) __typeof__(&cublasLt##name) name;
  CUBLASLT_FUNCTIONS(CUBLASLT_MEMBER)
#undef CUBLASLT_MEMBER
} CublasLt;

/* Finds the library of the CUDA version that this program was built with, binds its functions and makes a
 * handle on the current GPU. */
bool cublaslt_open(CublasLt *blas, Error *e);
/* Of one that was opened, or is all zero. The library stays loaded. */
void cublaslt_close(CublasLt *blas);

#ifdef __cplusplus
}
#endif
#endif
