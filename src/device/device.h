/* What the program asks of a device: memory, copies, and where its operations run. A device knows no
 * operation's meaning; operations (src/ops) look at `kind` and run on it. The CPU is a device whose memory
 * is the host's. */
#ifndef DEVICE_H
#define DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum DeviceKind { DEVICE_CPU, DEVICE_CUDA } DeviceKind;

/* What an operation keeps with a device from call to call, such as plans it has made: filled in by the
 * operation at its first use, closed with the device. */
typedef struct DeviceExtra {
  void *data; /* NULL before the first use */
  void (*close)(void *data);
} DeviceExtra;
enum { EXTRA_MATMUL, EXTRA_ATTENTION, DEVICE_EXTRAS };

typedef struct Device {
  DeviceKind kind;
  int threads;             /* CPU lanes that operations may use (OpenMP threads) */
  void *stream;            /* cudaStream_t on CUDA; NULL on the CPU */
  void *workspace;         /* scratch for matrix products and reductions, carved from the memory plan */
  size_t workspace_bytes;  /* its size; device_workspace_bytes() says what is needed */
  bool planned;            /* a GPU that is only planned for: it is not here */
  int capability;          /* compute capability of a GPU, 90 for 9.0; 0 on the CPU */
  int64_t max_chunk_rows;  /* rows of a mini-sequence beyond which larger stops being faster */
  char name[128];          /* for the configuration that is printed */
  struct CudaDevice *cuda; /* what only a CUDA device has (device_cuda.h); NULL on the CPU */
  DeviceExtra extra[DEVICE_EXTRAS];
  struct Profile *profile; /* times of the operations (profile.h); NULL = they are not taken */
} Device;

/* Of every GPU: see max_chunk_rows, and the bytes of its workspace, which are what cublasLt asks for on
 * Hopper to have all of its algorithms. Reductions take less (launch.cuh). */
enum { CUDA_MAX_CHUNK_ROWS = 16384, CUDA_WORKSPACE = 32 << 20 };

/* Opens a device. kind_name: "auto", "cpu" or "cuda"; threads: 0 = all the CPU's. "cuda" fails, and says
 * what is missing, in a build or on a machine without it; "auto" then takes the CPU, after one line on stderr
 * when the build has CUDA. */
bool device_open(Device *dev, const char *kind_name, int threads, Error *e);
void device_close(Device *dev);

/* Bytes of `workspace` that the operations need for storage type dt. */
size_t device_workspace_bytes(const Device *dev, DType dt);

/* Device memory, 256-byte aligned and zeroed. On failure: NULL and an Error that names the sizes. */
void *device_alloc(Device *dev, size_t bytes, Error *e);
void device_free(Device *dev, void *p, size_t bytes);

/* Bytes of device memory that could be taken now. */
size_t device_free_bytes(const Device *dev);

/* Returns when all operations and copies are done. */
void device_synchronize(Device *dev);

typedef enum CopyKind { COPY_TO_DEVICE, COPY_FROM_DEVICE, COPY_ON_DEVICE } CopyKind;
/* Copies are ordered with the operations of the device's stream; those from and to the host return when the
 * data is there. dst and src must not overlap. */
void device_copy(Device *dev, void *dst, const void *src, size_t bytes, CopyKind kind);
/* Sets every byte. */
void device_fill(Device *dev, void *p, int byte, size_t bytes);

/* Copies beside the operations, on a stream of their own, in the order of the calls. The host's memory has to
 * come from host_alloc. On the CPU a copy is done when the call returns. */
void device_copy_async(Device *dev, void *dst, const void *src, size_t bytes, CopyKind kind);
/* Later asynchronous copies begin after the operations asked for so far: those that write what is copied. */
void device_copies_wait(Device *dev);
/* Later operations begin after the asynchronous copies asked for so far. */
void device_operations_wait(Device *dev);

/* Host memory for the device's copies, 256-byte aligned and zeroed: page-locked when the device is a GPU. */
void *host_alloc(Device *dev, size_t bytes, Error *e);
void host_free(Device *dev, void *p, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
