/* The CUDA device: the primary context of one GPU, a stream for the operations and one for copies beside
 * them. The runtime is linked statically, the driver found by it; cublasLt is bound when the device is
 * opened. */
#include "device/device_cuda.h"
#include "device/cards.h" // defines: CARD_OVERHEAD

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- errors ---- */

void cuda_fail(const Device *dev, const char *operation, const char *error) {
  fflush(stdout);
  fprintf(stderr,
          "train_llama: the GPU failed in %s, or in an operation before it: %s.\n%s\nWith "
          "CUDA_LAUNCH_BLOCKING=1 in the environment the operation that is named is the one that failed.\n",
          operation, error,
          dev && dev->on_loss ? dev->on_loss
                              : "Saved states are intact; --resume goes on from the last one.");
  _exit(EXIT_RUNTIME); /* not exit(): destructors that talk to a lost GPU may never return */
}

void cuda_check(const Device *dev, const char *operation, int status) {
  if (status != cudaSuccess) cuda_fail(dev, operation, cudaGetErrorString((cudaError_t)status));
}

/* ---- opening ---- */

/* Versions are 1000 major + 10 minor. */
#define VERSION_FORMAT     "%d.%d"
#define VERSION_OF(number) (number) / 1000, (number) % 1000 / 10

static bool find_gpu(Error *e) {
  int count = 0, driver = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return true;
  cudaGetLastError(); /* the error has been seen */
  cudaDriverGetVersion(&driver);
  if (driver == 0)
    return error_usage(e,
                       "found no NVIDIA driver, expected one for CUDA " VERSION_FORMAT
                       " or later.\nInstall the driver, or use --device cpu.",
                       VERSION_OF(CUDART_VERSION));
  if (status == cudaErrorInsufficientDriver)
    return error_usage(e,
                       "found an NVIDIA driver for CUDA " VERSION_FORMAT ", expected one for " VERSION_FORMAT
                       " or later.\nUpdate the driver, build with an older CUDA, or use --device cpu.",
                       VERSION_OF(driver), VERSION_OF(CUDART_VERSION));
  const char *visible = getenv("CUDA_VISIBLE_DEVICES");
  return error_usage(e,
                     "found an NVIDIA driver but no GPU (%s; CUDA_VISIBLE_DEVICES is %s%s).\nCheck that "
                     "nvidia-smi lists one, or use --device cpu.",
                     status == cudaSuccess ? "it lists none" : cudaGetErrorString(status),
                     visible ? "set to " : "not set", visible ? visible : "");
}

__global__ void probe_kernel() {}

/* Whether this program holds code for the chip. */
static bool check_chip(const cudaDeviceProp *chip, Error *e) {
  static const int built[] = {__CUDA_ARCH_LIST__}; /* 800, 900, ... */
  const int count = (int)(sizeof built / sizeof *built);
  cudaFuncAttributes attributes;
  cudaError_t status = cudaFuncGetAttributes(&attributes, probe_kernel);
  if (status == cudaSuccess) return true;
  cudaGetLastError();
  if (status != cudaErrorNoKernelImageForDevice && status != cudaErrorUnsupportedPtxVersion)
    return error_runtime(e, "the %s cannot be used: %s", chip->name, cudaGetErrorString(status));
  char list[128] = "";
  for (int i = 0; i < count; i++) {
    size_t at = strlen(list);
    snprintf(list + at, sizeof list - at, "%s%d.%d", i ? ", " : "", built[i] / 100, built[i] / 10 % 10);
  }
  return error_usage(
      e,
      "the %s has compute capability %d.%d; this program was built for %s and later chips (%s).\n"
      "Build it with make ARCH=%d%d, or use --device cpu.",
      chip->name, chip->major, chip->minor, list, cudaGetErrorString(status), chip->major, chip->minor);
}

static bool open_streams(Device *dev, Error *e) {
  CudaDevice *cuda = dev->cuda;
  cudaError_t status = cudaStreamCreateWithFlags((cudaStream_t *)&dev->stream, cudaStreamNonBlocking);
  if (status == cudaSuccess)
    status = cudaStreamCreateWithFlags((cudaStream_t *)&cuda->copy_stream, cudaStreamNonBlocking);
  void **events[] = {&cuda->operations_recorded, &cuda->copies_recorded};
  for (int i = 0; i < 2 && status == cudaSuccess; i++)
    status = cudaEventCreateWithFlags((cudaEvent_t *)events[i], cudaEventDisableTiming);
  return status == cudaSuccess ||
         error_runtime(e, "the %s cannot be used: %s", dev->name, cudaGetErrorString(status));
}

bool cuda_open(Device *dev, Error *e) {
  cudaDeviceProp chip;
  if (!find_gpu(e)) return false;
  cudaError_t status = cudaSetDevice(0);
  if (status == cudaSuccess) status = cudaGetDeviceProperties(&chip, 0);
  if (status != cudaSuccess) {
    cudaGetLastError();
    return error_runtime(e, "the GPU cannot be used: %s", cudaGetErrorString(status));
  }
  if (!check_chip(&chip, e)) return false;
  CudaDevice *cuda = (CudaDevice *)calloc(1, sizeof *cuda);
  CHECK(cuda, "out of memory for the device");
  cuda->multiprocessors = chip.multiProcessorCount;
  cuda->shared_of_multiprocessor = (int64_t)chip.sharedMemPerMultiprocessor;
  cuda->shared_of_block = (int64_t)chip.sharedMemPerBlockOptin;
  cuda->shared_reserved = (int64_t)chip.reservedSharedMemPerBlock;
  dev->cuda = cuda;
  snprintf(dev->name, sizeof dev->name, "%.80s, %d multiprocessors, %.1f GB", chip.name,
           chip.multiProcessorCount, (double)chip.totalGlobalMem * 1e-9);
  if (!open_streams(dev, e) || !cublaslt_open(&cuda->blas, e)) {
    cuda_close(dev);
    return false;
  }
  dev->kind = DEVICE_CUDA;
  dev->capability = chip.major * 10 + chip.minor;
  dev->products_version = (int64_t)cuda->blas.GetVersion();
  dev->max_chunk_rows = CUDA_MAX_CHUNK_ROWS;
  return true;
}

void cuda_close(Device *dev) {
  CudaDevice *cuda = dev->cuda;
  cublaslt_close(&cuda->blas);
  if (cuda->operations_recorded) cudaEventDestroy((cudaEvent_t)cuda->operations_recorded);
  if (cuda->copies_recorded) cudaEventDestroy((cudaEvent_t)cuda->copies_recorded);
  if (cuda->copy_stream) cudaStreamDestroy((cudaStream_t)cuda->copy_stream);
  if (dev->stream) cudaStreamDestroy((cudaStream_t)dev->stream);
  free(cuda);
  dev->cuda = NULL;
  dev->stream = NULL;
}

size_t cuda_workspace_bytes(void) {
  return CUDA_WORKSPACE;
}

/* ---- memory ---- */

size_t cuda_free_bytes(const Device *dev) {
  size_t free_bytes = 0, total = 0;
  cuda_check(dev, "the query for free memory", cudaMemGetInfo(&free_bytes, &total));
  return free_bytes;
}

size_t cuda_own_bytes(const Device *dev) {
  size_t free_bytes = 0, total = 0;
  cuda_check(dev, "the query for memory", cudaMemGetInfo(&free_bytes, &total));
  return total > CARD_OVERHEAD ? total - CARD_OVERHEAD : 0;
}

void *cuda_alloc(Device *dev, size_t bytes, Error *e) {
  void *p = NULL;
  cudaError_t status = cudaMalloc(&p, bytes ? bytes : 1);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError(); /* the device goes on */
    error_runtime(e,
                  "cannot allocate %.2f GB on the %s, %.2f GB are free; use a shorter --seq-len, a smaller "
                  "--batch, --recompute layer, smaller --mlp-chunk and --head-chunk, or --moments bf16 "
                  "(--plan shows what needs how much)",
                  (double)bytes / 1e9, dev->name, (double)cuda_free_bytes(dev) / 1e9);
    return NULL;
  }
  cuda_check(dev, "the allocation of memory", status);
  cuda_check(dev, "the clearing of memory", cudaMemsetAsync(p, 0, bytes, (cudaStream_t)dev->stream));
  return p;
}

void cuda_free(Device *dev, void *p) {
  cuda_check(dev, "the release of memory", cudaFree(p)); /* waits for operations that still use it */
}

bool cuda_lock_pages(void *p, size_t bytes, Error *e) {
  cudaError_t status = cudaHostRegister(p, bytes ? bytes : 1, cudaHostRegisterDefault);
  if (status == cudaSuccess) return true;
  cudaGetLastError();
  return error_runtime(e,
                       "cannot lock %.2f GB of host memory for the GPU's copies: %s; use a shorter --seq-len "
                       "or a smaller --batch (--plan shows what needs how much)",
                       (double)bytes / 1e9, cudaGetErrorString(status));
}

void cuda_unlock_pages(Device *dev, void *p) {
  if (p) cuda_check(dev, "the release of host memory", cudaHostUnregister(p));
}

/* ---- copies ---- */

static cudaMemcpyKind direction(CopyKind kind) {
  return kind == COPY_TO_DEVICE     ? cudaMemcpyHostToDevice
         : kind == COPY_FROM_DEVICE ? cudaMemcpyDeviceToHost
                                    : cudaMemcpyDeviceToDevice;
}

void cuda_synchronize(Device *dev) {
  cuda_check(dev, "a wait for the operations", cudaStreamSynchronize((cudaStream_t)dev->stream));
  cuda_check(dev, "a wait for the copies", cudaStreamSynchronize((cudaStream_t)dev->cuda->copy_stream));
}

void cuda_copy(Device *dev, void *dst, const void *src, size_t bytes, CopyKind kind) {
  cudaStream_t stream = (cudaStream_t)dev->stream;
  cuda_check(dev, "a copy", cudaMemcpyAsync(dst, src, bytes, direction(kind), stream));
  if (kind != COPY_ON_DEVICE) cuda_check(dev, "a copy", cudaStreamSynchronize(stream));
}

void cuda_fill(Device *dev, void *p, int byte, size_t bytes) {
  cuda_check(dev, "a fill", cudaMemsetAsync(p, byte, bytes, (cudaStream_t)dev->stream));
}

void cuda_copy_async(Device *dev, void *dst, const void *src, size_t bytes, CopyKind kind) {
  cuda_check(dev, "an asynchronous copy",
             cudaMemcpyAsync(dst, src, bytes, direction(kind), (cudaStream_t)dev->cuda->copy_stream));
}

/* A wait takes the event as it was recorded last, so that one event can be recorded again and again. */
static void stream_waits(const Device *dev, void *waiting, void *for_stream, void *event) {
  cuda_check(dev, "an event", cudaEventRecord((cudaEvent_t)event, (cudaStream_t)for_stream));
  cuda_check(dev, "a wait for an event", cudaStreamWaitEvent((cudaStream_t)waiting, (cudaEvent_t)event, 0));
}

void cuda_copies_wait(Device *dev) {
  stream_waits(dev, dev->cuda->copy_stream, dev->stream, dev->cuda->operations_recorded);
}

void cuda_operations_wait(Device *dev) {
  stream_waits(dev, dev->stream, dev->cuda->copy_stream, dev->cuda->copies_recorded);
}
