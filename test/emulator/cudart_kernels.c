/* Kernels of the emulated runtime: the program registers them before main() begins, and launches them. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "emulator/cudart.h"
#include "emulator/fatbin.h"
#include "emulator/ptx.h"

/* What an object file has of kernels. Most of them are never launched: PTX is parsed at the first use of any.
 */
typedef struct Module {
  struct Module *next;
  const void *wrapper;
  PtxModule *ptx; /* NULL before it is used */
} Module;

typedef struct CUkern_st Kernel;
struct CUkern_st {
  Kernel *next;
  Module *module;
  const void *host; /* the function of the host that stands for it */
  const char *name;
  const PtxKernel *ptx;  /* NULL before it is used */
  size_t dynamic_shared; /* bytes that a launch may ask for */
};

static struct {
  Module *modules;
  Kernel *kernels;
  uint64_t launches;
} program;

/* What <<<>>> says, between the two calls that the compiler makes of it. Arguments may hold launches of their
 * own. */
typedef struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
} Configuration;
enum { NESTED = 8 };
static _Thread_local struct {
  Configuration stack[NESTED];
  int depth;
} configured;

/* ---- what the compiler's code calls ---- */

/* Called by what nvcc puts into each object, before main(). */
void **__cudaRegisterFatBinary(void *wrapper);
void __cudaRegisterFatBinaryEnd(void **handle);
void __cudaUnregisterFatBinary(void **handle);
void __cudaRegisterFunction(void **handle, const char *host, char *device, const char *name, int threads,
                            uint3 *thread, uint3 *block, dim3 *block_size, dim3 *grid_size, int *warp_size);

/* Called where the program launches a kernel. */
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream);
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream);
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *host);
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                               cudaStream_t stream);

void **__cudaRegisterFatBinary(void *wrapper) {
  Module *module = malloc(sizeof *module);
  CHECK(module, "out of memory for a module of kernels");
  *module = (Module){program.modules, wrapper, NULL};
  program.modules = module;
  return (void **)module;
}

void __cudaRegisterFatBinaryEnd(void **handle) {
  (void)handle;
}

/* At the program's end. Nothing is freed: operations that nobody waited for may name a kernel. */
void __cudaUnregisterFatBinary(void **handle) {
  const Module *module = (const Module *)handle;
  if (module->ptx) ptx_report(module->ptx);
}

void __cudaRegisterFunction(void **handle, const char *host, char *device, const char *name, int threads,
                            uint3 *thread, uint3 *block, dim3 *block_size, dim3 *grid_size, int *warp_size) {
  (void)device, (void)threads, (void)thread, (void)block, (void)block_size, (void)grid_size, (void)warp_size;
  Kernel *kernel = malloc(sizeof *kernel);
  CHECK(kernel, "out of memory for a kernel");
  *kernel = (Kernel){program.kernels, (Module *)handle, host, name, NULL, 0};
  program.kernels = kernel;
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream) {
  CHECK(configured.depth < NESTED, "more than %d launches within each other", NESTED);
  configured.stack[configured.depth++] = (Configuration){grid, block, shared, stream};
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
  if (configured.depth == 0) {
    begin();
    return finish(cudaErrorMissingConfiguration);
  }
  const Configuration *c = &configured.stack[--configured.depth];
  *grid = c->grid;
  *block = c->block;
  *shared = c->shared;
  *(cudaStream_t *)stream = c->stream;
  return cudaSuccess;
}

/* ---- kernels ---- */

static Kernel *kernel_of(const void *host) {
  Kernel *k = program.kernels;
  while (k && k->host != host) k = k->next;
  return k;
}

static cudaError_t load(Kernel *kernel) {
  if (!kernel) return cudaErrorInvalidDeviceFunction;
  if (kernel->ptx) return cudaSuccess;
  Module *module = kernel->module;
  if (!module->ptx) {
    char *text = fatbin_ptx(module->wrapper, CHIP_CAPABILITY);
    if (!text) return cudaErrorNoKernelImageForDevice;
    module->ptx = ptx_parse(text);
    free(text);
  }
  kernel->ptx = ptx_kernel(module->ptx, kernel->name);
  if (!kernel->ptx) return cudaErrorInvalidDeviceFunction;
  size_t own = ptx_shared_bytes(kernel->ptx);
  kernel->dynamic_shared = own < SHARED_OF_BLOCK ? SHARED_OF_BLOCK - own : 0;
  return cudaSuccess;
}

static int most_threads(const Kernel *kernel) {
  int most = ptx_max_threads(kernel->ptx);
  return most > 0 && most < 1024 ? most : 1024;
}

/* Before its first use a kernel is found, but not looked at. */
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *host) {
  cudaError_t status = begin();
  *kernel = kernel_of(host);
  return finish(status ? status : *kernel ? cudaSuccess : cudaErrorInvalidDeviceFunction);
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *host) {
  cudaError_t status = begin();
  Kernel *kernel = kernel_of(host);
  if (!status) status = load(kernel);
  if (!status)
    *attributes = (struct cudaFuncAttributes){
        .sharedSizeBytes = ptx_shared_bytes(kernel->ptx),
        .maxThreadsPerBlock = most_threads(kernel),
        .ptxVersion = CHIP_CAPABILITY,
        .binaryVersion = CHIP_CAPABILITY,
        .maxDynamicSharedSizeBytes = (int)kernel->dynamic_shared,
    };
  return finish(status);
}

/* A lower value than before counts, too. */
cudaError_t cudaFuncSetAttribute(const void *host, enum cudaFuncAttribute attribute, int value) {
  cudaError_t status = begin();
  Kernel *kernel = kernel_of(host);
  if (!status) status = load(kernel);
  if (status) return finish(status);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return finish(cudaErrorNotSupported);
  if (value < 0 || (size_t)value + ptx_shared_bytes(kernel->ptx) > SHARED_OF_BLOCK_OPTIN)
    return finish(cudaErrorInvalidValue);
  kernel->dynamic_shared = (size_t)value;
  return finish(cudaSuccess);
}

/* ---- launches ---- */

typedef struct Launch {
  const PtxKernel *kernel;
  PtxLaunch how;
  _Alignas(16) char params[];
} Launch;

static void run_launch(void *data) {
  const Launch *launch = data;
  char error[1024] = "";
  if (!ptx_run(launch->kernel, &launch->how, error, sizeof error))
    lose_device("%s", error); /* which names the kernel */
}

/* The arguments are the caller's again when the launch returns. */
static Launch *new_launch(const Kernel *kernel, dim3 grid, dim3 block, void **arguments, size_t shared) {
  const PtxKernel *ptx = kernel->ptx;
  Launch *launch = calloc(1, sizeof *launch + ptx_params_bytes(ptx));
  CHECK(launch, "out of memory for a launch");
  launch->kernel = ptx;
  launch->how = (PtxLaunch){
      {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, program.launches++ % 2, shared, launch->params};
  for (int i = 0; i < ptx_kernel_params(ptx); i++)
    memcpy(launch->params + ptx_param_offset(ptx, i), arguments[i], ptx_param_bytes(ptx, i));
  return launch;
}

static bool dimensions_fit(dim3 grid, dim3 block) {
  return grid.x >= 1 && grid.x <= 2147483647 && grid.y >= 1 && grid.y <= 65535 && grid.z >= 1 &&
         grid.z <= 65535 && block.x >= 1 && block.x <= 1024 && block.y >= 1 && block.y <= 1024 &&
         block.z >= 1 && block.z <= 64 && block.x * block.y * block.z <= 1024;
}

static cudaError_t launch_kernel(Kernel *kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                                 cudaStream_t handle) {
  cudaError_t status = load(kernel);
  Stream *stream = stream_of(handle);
  if (status) return status;
  if (!stream) return cudaErrorInvalidResourceHandle;
  if (!dimensions_fit(grid, block)) return cudaErrorInvalidConfiguration;
  if (shared > kernel->dynamic_shared) return cudaErrorInvalidValue;
  if ((int)(block.x * block.y * block.z) > most_threads(kernel)) return cudaErrorLaunchOutOfResources;
  stream_add(stream, run_launch, new_launch(kernel, grid, block, arguments, shared));
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                               cudaStream_t stream) {
  cudaError_t status = begin();
  return finish(status ? status : launch_kernel(kernel, grid, block, arguments, shared, stream));
}

/* What nvcc of CUDA 12 makes of a launch. */
cudaError_t cudaLaunchKernel(const void *host, dim3 grid, dim3 block, void **arguments, size_t shared,
                             cudaStream_t stream) {
  cudaError_t status = begin();
  return finish(status ? status : launch_kernel(kernel_of(host), grid, block, arguments, shared, stream));
}
