/* The CUDA half of device.h, and what the operations on CUDA need of it. Only in builds with nvcc. */
#ifndef DEVICE_CUDA_H
#define DEVICE_CUDA_H

#include "device/cublaslt_cuda.h" // defines: CublasLt
#include "device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CudaDevice {
  int multiprocessors;                         /* how many the chip has */
  int64_t shared_of_multiprocessor;            /* bytes of shared memory */
  int64_t shared_of_block;                     /* of these, a block may have at most */
  int64_t shared_reserved;                     /* of these, CUDA keeps for each block */
  void *copy_stream;                           /* cudaStream_t of the asynchronous copies */
  void *operations_recorded, *copies_recorded; /* cudaEvent_t: of dev->stream, of copy_stream */
  CublasLt blas;
} CudaDevice;

/* Ends the program with EXIT_RUNTIME for an error of the CUDA runtime: after one, the GPU's memory is lost to
 * this process. Saved states are complete or absent at any instant, so there is nothing to put in order;
 * dev->on_loss says which there are (dev may be NULL). */
void cuda_fail(const Device *dev, const char *operation, const char *error) __attribute__((noreturn));
/* The same unless status, a cudaError_t, is cudaSuccess. */
void cuda_check(const Device *dev, const char *operation, int status);

/* Opens GPU 0 of those that CUDA_VISIBLE_DEVICES shows. On failure an Error says what is missing: driver,
 * GPU, code for the chip, or libraries; its first line can stand alone. */
bool cuda_open(Device *dev, Error *e);
void cuda_close(Device *dev);

size_t cuda_workspace_bytes(void);
void *cuda_alloc(Device *dev, size_t bytes, Error *e);
void cuda_free(Device *dev, void *p);
size_t cuda_free_bytes(const Device *dev); /* now */
size_t cuda_own_bytes(const Device *dev);  /* if nobody else used the GPU */
bool cuda_lock_pages(void *p, size_t bytes, Error *e);
void cuda_unlock_pages(Device *dev, void *p);
void cuda_synchronize(Device *dev);
void cuda_copy(Device *dev, void *dst, const void *src, size_t bytes, CopyKind kind);
void cuda_fill(Device *dev, void *p, int byte, size_t bytes);
void cuda_copy_async(Device *dev, void *dst, const void *src, size_t bytes, CopyKind kind);
void cuda_copies_wait(Device *dev);
void cuda_operations_wait(Device *dev);

#ifdef __cplusplus
}
#endif
#endif
