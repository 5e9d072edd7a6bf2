/* cuDNN's backend API, bound at run time. What is used of it is declared here instead of in cuDNN's headers,
 * which few machines have that only build this program: functions and numbers are part of the library's
 * binary interface for all of version 9. test_cudnn_plans holds them against the headers where there are
 * some.
 */
#ifndef CUDNN_API_H
#define CUDNN_API_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef void *CudnnHandle;     /* cudnnHandle_t */
typedef void *CudnnDescriptor; /* cudnnBackendDescriptor_t */

/* Name without "cudnn", what it returns (an int is a cudnnStatus_t, 0 for success), what it takes. */
#define CUDNN_FUNCTIONS(F)                                                                                   \
  F(GetVersion, size_t, (void))                                                                              \
  F(GetCudartVersion, size_t, (void))                                                                        \
  F(GetErrorString, const char *, (int status))                                                              \
  F(GetLastErrorString, void, (char *text, size_t size))                                                     \
  F(Create, int, (CudnnHandle * handle))                                                                     \
  F(Destroy, int, (CudnnHandle handle))                                                                      \
  F(SetStream, int, (CudnnHandle handle, void *stream))                                                      \
  F(BackendCreateDescriptor, int, (int kind, CudnnDescriptor *d))                                            \
  F(BackendDestroyDescriptor, int, (CudnnDescriptor d))                                                      \
  F(BackendSetAttribute, int, (CudnnDescriptor d, int name, int type, int64_t count, const void *values))    \
  F(BackendGetAttribute, int,                                                                                \
    (CudnnDescriptor d, int name, int type, int64_t room, int64_t *count, void *values))                     \
  F(BackendFinalize, int, (CudnnDescriptor d))                                                               \
  F(BackendExecute, int, (CudnnHandle handle, CudnnDescriptor plan, CudnnDescriptor pack))

/* The numbers behind cuDNN's names; CUDNN9_X here is CUDNN_X there. */
/* clang-format off */
#define CUDNN_NUMBERS(N)                              \
  /* kinds of descriptors */                          \
  N(BACKEND_POINTWISE_DESCRIPTOR, 0)                  \
  N(BACKEND_ENGINECFG_DESCRIPTOR, 3)                  \
  N(BACKEND_ENGINEHEUR_DESCRIPTOR, 4)                 \
  N(BACKEND_EXECUTION_PLAN_DESCRIPTOR, 5)             \
  N(BACKEND_OPERATION_POINTWISE_DESCRIPTOR, 13)       \
  N(BACKEND_OPERATIONGRAPH_DESCRIPTOR, 15)            \
  N(BACKEND_VARIANT_PACK_DESCRIPTOR, 16)              \
  N(BACKEND_TENSOR_DESCRIPTOR, 17)                    \
  N(BACKEND_MATMUL_DESCRIPTOR, 18)                    \
  N(BACKEND_OPERATION_MATMUL_DESCRIPTOR, 19)          \
  N(BACKEND_REDUCTION_DESCRIPTOR, 21)                 \
  N(BACKEND_OPERATION_REDUCTION_DESCRIPTOR, 22)       \
  N(BACKEND_OPERATION_RESHAPE_DESCRIPTOR, 31)         \
  N(BACKEND_DEVICEPROP_DESCRIPTOR, 38)                \
  /* their attributes */                              \
  N(ATTR_POINTWISE_MODE, 0)                           \
  N(ATTR_POINTWISE_MATH_PREC, 1)                      \
  N(ATTR_POINTWISE_AXIS, 9)                           \
  N(ATTR_ENGINEHEUR_MODE, 200)                        \
  N(ATTR_ENGINEHEUR_OPERATION_GRAPH, 201)             \
  N(ATTR_ENGINEHEUR_RESULTS, 202)                     \
  N(ATTR_ENGINEHEUR_DEVICEPROP, 204)                  \
  N(ATTR_EXECUTION_PLAN_HANDLE, 400)                  \
  N(ATTR_EXECUTION_PLAN_ENGINE_CONFIG, 401)           \
  N(ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, 402)          \
  N(ATTR_EXECUTION_PLAN_DEVICEPROP, 407)              \
  N(ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, 750)      \
  N(ATTR_OPERATION_POINTWISE_XDESC, 751)              \
  N(ATTR_OPERATION_POINTWISE_BDESC, 752)              \
  N(ATTR_OPERATION_POINTWISE_YDESC, 753)              \
  N(ATTR_OPERATION_POINTWISE_TDESC, 758)              \
  N(ATTR_OPERATIONGRAPH_HANDLE, 800)                  \
  N(ATTR_OPERATIONGRAPH_OPS, 801)                     \
  N(ATTR_TENSOR_BYTE_ALIGNMENT, 900)                  \
  N(ATTR_TENSOR_DATA_TYPE, 901)                       \
  N(ATTR_TENSOR_DIMENSIONS, 902)                      \
  N(ATTR_TENSOR_STRIDES, 903)                         \
  N(ATTR_TENSOR_UNIQUE_ID, 906)                       \
  N(ATTR_TENSOR_IS_VIRTUAL, 907)                      \
  N(ATTR_TENSOR_IS_BY_VALUE, 908)                     \
  N(ATTR_TENSOR_RAGGED_OFFSET_DESC, 913)              \
  N(ATTR_VARIANT_PACK_UNIQUE_IDS, 1000)               \
  N(ATTR_VARIANT_PACK_DATA_POINTERS, 1001)            \
  N(ATTR_VARIANT_PACK_WORKSPACE, 1003)                \
  N(ATTR_MATMUL_COMP_TYPE, 1500)                      \
  N(ATTR_OPERATION_MATMUL_ADESC, 1520)                \
  N(ATTR_OPERATION_MATMUL_BDESC, 1521)                \
  N(ATTR_OPERATION_MATMUL_CDESC, 1522)                \
  N(ATTR_OPERATION_MATMUL_DESC, 1523)                 \
  N(ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, 1525) \
  N(ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, 1526) \
  N(ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, 1527) \
  N(ATTR_REDUCTION_OPERATOR, 1600)                    \
  N(ATTR_REDUCTION_COMP_TYPE, 1601)                   \
  N(ATTR_OPERATION_REDUCTION_XDESC, 1610)             \
  N(ATTR_OPERATION_REDUCTION_YDESC, 1611)             \
  N(ATTR_OPERATION_REDUCTION_DESC, 1612)              \
  N(ATTR_OPERATION_RESHAPE_XDESC, 2200)               \
  N(ATTR_OPERATION_RESHAPE_YDESC, 2201)               \
  N(ATTR_DEVICEPROP_JSON_REPRESENTATION, 2702)        \
  /* types of attributes */                           \
  N(TYPE_HANDLE, 0)                                   \
  N(TYPE_DATA_TYPE, 1)                                \
  N(TYPE_BOOLEAN, 2)                                  \
  N(TYPE_INT64, 3)                                    \
  N(TYPE_VOID_PTR, 6)                                 \
  N(TYPE_HEUR_MODE, 8)                                \
  N(TYPE_POINTWISE_MODE, 14)                          \
  N(TYPE_BACKEND_DESCRIPTOR, 15)                      \
  N(TYPE_REDUCTION_OPERATOR_TYPE, 18)                 \
  N(TYPE_CHAR, 24)                                    \
  /* values of attributes */                          \
  N(DATA_FLOAT, 0)                                    \
  N(DATA_INT32, 4)                                    \
  N(DATA_BFLOAT16, 9)                                 \
  N(DATA_INT64, 10)                                   \
  N(DATA_BOOLEAN, 11)                                 \
  N(HEUR_MODE_A, 3)                                   \
  N(POINTWISE_ADD, 0)                                 \
  N(POINTWISE_MUL, 1)                                 \
  N(POINTWISE_DIV, 6)                                 \
  N(POINTWISE_SUB, 9)                                 \
  N(POINTWISE_EXP, 13)                                \
  N(POINTWISE_LOG, 15)                                \
  N(POINTWISE_IDENTITY, 21)                           \
  N(POINTWISE_CMP_GT, 302)                            \
  N(POINTWISE_CMP_GE, 303)                            \
  N(POINTWISE_CMP_LT, 304)                            \
  N(POINTWISE_LOGICAL_AND, 400)                       \
  N(POINTWISE_GEN_INDEX, 501)                         \
  N(POINTWISE_BINARY_SELECT, 601)                     \
  N(REDUCE_TENSOR_ADD, 0)                             \
  N(REDUCE_TENSOR_MAX, 3)
/* clang-format on */

#define CUDNN_NUMBER(name, number) CUDNN9_##name = number,
enum { CUDNN_NUMBERS(CUDNN_NUMBER) };
#undef CUDNN_NUMBER

typedef struct Cudnn {
#define CUDNN_MEMBER(name, result, arguments) result(*name) arguments;
  CUDNN_FUNCTIONS(CUDNN_MEMBER)
#undef CUDNN_MEMBER
} Cudnn;

/* Versions are 10000 major + 100 minor + patch. Older ones have errors in the attention: 9.10.0 and 9.10.1 in
 * all of it, 9.14.0 in windows, those up to 9.15.0 where T is no multiple of 128. */
enum { CUDNN_OLDEST = 91501 };
/* Of packed documents: before, a part of the backward's workspace is read on Hopper that nothing was written
 * to, and gradients become NaN. */
enum { CUDNN_OLDEST_PACKED = 91800 };

/* Finds libcudnn.so.9 and the libraries of CUDA that it opens itself, and binds the functions. False, with an
 * Error whose first line can stand alone, where one is missing or cuDNN is too old. It stays loaded. */
bool cudnn_open(Cudnn *cudnn, Error *e);

#ifdef __cplusplus
}
#endif
#endif
