/* The CUDA runtime, emulated: what its parts share. Functions of the runtime begin with begin() and return
 * what finish() gives them; everything else here is called in between. */
#ifndef CUDART_H
#define CUDART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

enum {
  CHIP_CAPABILITY = 90,           /* an H100's */
  SHARED_OF_BLOCK = 49152,        /* bytes of shared memory that a block may have, */
  SHARED_OF_BLOCK_OPTIN = 232448, /* and when cudaFuncSetAttribute asks for more */
};

/* ---- cudart.c: errors ---- */

/* One thread at a time is in the runtime. The status is what every call returns now: cudaSuccess while the
 * device can be used. */
cudaError_t begin(void);
/* What the call returns: `status`, or the error of a device that was lost in it. */
cudaError_t finish(cudaError_t status);

/* The device fails, as of now: says why on stderr. */
void lose_device(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool device_lost(void);

/* Zeroed memory of the host for what the runtime keeps; there is always some, or the program ends. */
void *new_object(size_t bytes);

/* ---- cudart_memory.c ---- */

/* Called once, before everything else here. */
void memory_open(void);
size_t memory_of_card(void);
/* Whether any of the bytes has an address that only device memory has. */
bool on_device(const void *address, size_t bytes);

typedef enum HostMemory { PAGEABLE, LOCKED, LOCKED_IN_PART } HostMemory;
HostMemory host_memory_kind(const void *address, size_t bytes);

/* ---- cudart_streams.c ---- */

/* Called once, before everything else here. */
void streams_open(void);

/* The stream of a handle; NULL when there is none. */
typedef struct CUstream_st Stream;
Stream *stream_of(cudaStream_t handle);
/* Has the stream call run(data), after what it was given before, and then free `data`, which malloc made. */
void stream_add(Stream *stream, void (*run)(void *data), void *data);
/* Has the stream do all that it was given so far. */
void stream_finish(Stream *stream);
void all_streams_finish(void);

#endif
