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

typedef struct Device {
  DeviceKind kind;
  int threads;            /* CPU lanes that operations may use (OpenMP threads) */
  void *stream;           /* cudaStream_t on CUDA; NULL on the CPU */
  void *workspace;        /* scratch for matrix products and reductions, carved from the memory plan */
  size_t workspace_bytes; /* its size; device_workspace_bytes() says what is needed */
  int64_t max_chunk_rows; /* rows of a mini-sequence beyond which larger stops being faster */
  char name[128];         /* for the configuration that is printed */
} Device;

/* Opens a device. kind_name: "auto", "cpu" or "cuda"; threads: 0 = all the CPU's. "cuda" fails, and says
 * why, in a build or on a machine without it. */
bool device_open(Device *dev, const char *kind_name, int threads, Error *e);
void device_close(Device *dev);

/* Bytes of `workspace` that the operations need for storage type dt. */
size_t device_workspace_bytes(const Device *dev, DType dt);

/* Device memory, 256-byte aligned and zeroed. On failure: NULL and an Error that names the sizes. */
void *device_alloc(Device *dev, size_t bytes, Error *e);
void device_free(Device *dev, void *p, size_t bytes);

/* Bytes of memory that could be taken now. */
size_t device_free_bytes(const Device *dev);

typedef enum CopyKind { COPY_TO_DEVICE, COPY_FROM_DEVICE, COPY_ON_DEVICE } CopyKind;
/* Copies are ordered with the operations of the device's stream; COPY_FROM_DEVICE returns when the data is
 * there. dst and src must not overlap. */
void device_copy(Device *dev, void *dst, const void *src, size_t bytes, CopyKind kind);
/* Sets every byte. */
void device_fill(Device *dev, void *p, int byte, size_t bytes);

/* Host memory that the device's copies can use, 256-byte aligned and zeroed. */
void *host_alloc(size_t bytes, Error *e);
void host_free(void *p, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
