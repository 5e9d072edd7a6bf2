/* What the emulated CUDA runtime (cudart.c) offers to the emulated libraries (cublaslt.c, cudnn.cu). */
#ifndef EMULATOR_H
#define EMULATOR_H

#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

/* Has the stream call run(data) after what it was given before, on the thread of whoever waits for it, and
 * then free `data`, which malloc made. The status is that of any call on the device: an error of before, or
 * 0. */
cudaError_t emulator_enqueue(cudaStream_t stream, void (*run)(void *data), void *data);

/* The host's address of `bytes` of device memory, for run(). When not all of them are allocated the device is
 * lost with cudaErrorIllegalAddress, `who` is named on stderr, and NULL returned. */
void *emulator_memory(const char *who, const void *address, size_t bytes);

#endif
