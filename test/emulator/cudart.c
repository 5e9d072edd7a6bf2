/* The CUDA runtime, emulated on the CPU: programs are linked with it in the place of NVIDIA's, and their
 * kernels are run from their PTX. It does what NVIDIA documents of the functions that this project calls;
 * where that leaves it a choice, it takes what a program is least likely to expect. Here: errors, and what
 * the device is. */
#include "emulator/cudart.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static struct {
  pthread_mutex_t mutex;
  pthread_once_t opened;
  bool lost;
} runtime = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_ONCE_INIT, false};

static _Thread_local cudaError_t last_error;

/* ---- errors ---- */

static bool device_visible(void) {
  const char *visible = getenv("CUDA_VISIBLE_DEVICES");
  return !visible || *visible == '0';
}

static void open_parts(void) {
  memory_open();
  streams_open();
}

cudaError_t begin(void) {
  pthread_once(&runtime.opened, open_parts);
  pthread_mutex_lock(&runtime.mutex);
  return runtime.lost ? cudaErrorIllegalAddress : device_visible() ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t finish(cudaError_t status) {
  if (runtime.lost) status = cudaErrorIllegalAddress;
  if (status) last_error = status;
  pthread_mutex_unlock(&runtime.mutex);
  return status;
}

void lose_device(const char *format, ...) {
  va_list arguments;
  if (runtime.lost) return;
  runtime.lost = true;
  va_start(arguments, format);
  fprintf(stderr, "emulated GPU: ");
  vfprintf(stderr, format, arguments);
  fprintf(stderr, "\n");
  va_end(arguments);
}

bool device_lost(void) {
  return runtime.lost;
}

void *new_object(size_t bytes) {
  void *p = calloc(1, bytes);
  CHECK(p, "out of memory for the emulated device");
  return p;
}

cudaError_t cudaGetLastError(void) {
  begin();
  cudaError_t status = finish(last_error);
  last_error = cudaSuccess;
  return status;
}

const char *cudaGetErrorString(cudaError_t error) {
  static const struct {
    cudaError_t error;
    const char *text;
  } texts[] = {
      {cudaSuccess, "no error"},
      {cudaErrorInvalidValue, "invalid argument"},
      {cudaErrorMemoryAllocation, "out of memory"},
      {cudaErrorInvalidConfiguration, "invalid configuration argument"},
      {cudaErrorInvalidPitchValue, "invalid pitch argument"},
      {cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"},
      {cudaErrorMissingConfiguration, "__global__ function call is not configured"},
      {cudaErrorInvalidDeviceFunction, "invalid device function"},
      {cudaErrorNoDevice, "no CUDA-capable device is detected"},
      {cudaErrorInvalidDevice, "invalid device ordinal"},
      {cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device"},
      {cudaErrorInvalidResourceHandle, "invalid resource handle"},
      {cudaErrorNotReady, "device not ready"},
      {cudaErrorIllegalAddress, "an illegal memory access was encountered"},
      {cudaErrorLaunchOutOfResources, "too many resources requested for launch"},
      {cudaErrorHostMemoryAlreadyRegistered, "part or all of the requested memory range is already mapped"},
      {cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered memory region"},
      {cudaErrorLaunchFailure, "unspecified launch failure"},
      {cudaErrorNotSupported, "operation not supported"},
  };
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
    if (texts[i].error == error) return texts[i].text;
  return "unrecognized error code";
}

/* ---- the device ---- */

cudaError_t cudaDriverGetVersion(int *version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
  cudaError_t status = begin();
  *count = device_visible() ? 1 : 0;
  return finish(status);
}

cudaError_t cudaSetDevice(int device) {
  cudaError_t status = begin();
  return finish(status ? status : device ? cudaErrorInvalidDevice : cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *chip, int device) {
  cudaError_t status = begin();
  if (status) return finish(status);
  if (device) return finish(cudaErrorInvalidDevice);
  *chip = (struct cudaDeviceProp){
      .name = "emulated GPU",
      .totalGlobalMem = memory_of_card(),
      .sharedMemPerBlock = SHARED_OF_BLOCK,
      .regsPerBlock = 65536,
      .warpSize = 32,
      .memPitch = 2147483647,
      .maxThreadsPerBlock = 1024,
      .maxThreadsDim = {1024, 1024, 64},
      .maxGridSize = {2147483647, 65535, 65535},
      .totalConstMem = 65536,
      .major = CHIP_CAPABILITY / 10,
      .minor = CHIP_CAPABILITY % 10,
      .textureAlignment = 512,
      .texturePitchAlignment = 32,
      .multiProcessorCount = 132,
      .canMapHostMemory = 1,
      .surfaceAlignment = 512,
      .concurrentKernels = 1,
      .ECCEnabled = 1,
      .asyncEngineCount = 3,
      .unifiedAddressing = 1,
      .memoryBusWidth = 5120,
      .l2CacheSize = 52428800,
      .persistingL2CacheMaxSize = 32768000,
      .maxThreadsPerMultiProcessor = 2048,
      .streamPrioritiesSupported = 1,
      .globalL1CacheSupported = 1,
      .localL1CacheSupported = 1,
      .sharedMemPerMultiprocessor = 233472,
      .regsPerMultiprocessor = 65536,
      .computePreemptionSupported = 1,
      .sharedMemPerBlockOptin = SHARED_OF_BLOCK_OPTIN,
      .maxBlocksPerMultiProcessor = 32,
      .reservedSharedMemPerBlock = 1024,
      .hostRegisterSupported = 1,
  };
  return finish(cudaSuccess);
}
