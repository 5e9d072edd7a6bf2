/* The device that was opened, CPU or CUDA: each function goes to the half that implements it. */
#include "device/device.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "device/device_cpu.h"
#include "device/host_memory.h" // defines: host_pages_alloc, host_pages_free, host_free_bytes
#include "device/profile.h"
#ifdef __CUDACC__
#include "device/device_cuda.h"
#define ON_CUDA(dev, ...)                                                                                    \
  do {                                                                                                       \
    if ((dev)->kind == DEVICE_CUDA) {                                                                        \
      __VA_ARGS__;                                                                                           \
    }                                                                                                        \
  } while (0)
#else
#define ON_CUDA(dev, ...) (void)(dev)
#endif

static const int MAX_THREADS = 4096;

static bool try_cuda(Device *dev, Error *e) {
#ifdef __CUDACC__
  return cuda_open(dev, e);
#else
  (void)dev;
  return error_usage(e, "this program was built without CUDA.\nBuild it where nvcc is (make CUDA=1), or use "
                        "--device cpu.");
#endif
}

bool device_open(Device *dev, const char *kind_name, int threads, Error *e) {
  memset(dev, 0, sizeof *dev);
  bool is_auto = strcmp(kind_name, "auto") == 0, is_cuda = strcmp(kind_name, "cuda") == 0;
  if (!is_auto && !is_cuda && strcmp(kind_name, "cpu") != 0)
    return error_usage(e, "--device %s: expected auto, cpu or cuda", kind_name);
  if (threads < 0 || threads > MAX_THREADS)
    return error_usage(e, "--threads %d: expected 1 to %d, or 0 for all processors", threads, MAX_THREADS);

  /* The OpenMP build of OpenBLAS takes its number of threads from OpenMP at every call, so this sets both.
   * openblas_set_num_threads() would write its number back into OpenMP, behind the caller's back. */
  if (threads > 0) omp_set_num_threads(threads);
  dev->threads = omp_get_max_threads(); /* heeds OMP_NUM_THREADS and the processors we may run on */

  if (is_cuda) return try_cuda(dev, e) || error_prefix(e, "--device cuda: ");
#ifdef __CUDACC__
  Error why = {};
  if (is_auto && try_cuda(dev, &why)) return true;
  if (is_auto) fprintf(stderr, "# on the CPU: %.*s\n", (int)strcspn(why.text, "\n"), why.text);
#endif
  cpu_open(dev);
  return true;
}

void device_close(Device *dev) {
  for (int i = 0; i < DEVICE_EXTRAS; i++)
    if (dev->extra[i].data) dev->extra[i].close(dev->extra[i].data);
  ON_CUDA(dev, cuda_close(dev));
  profile_close(dev);
  memset(dev, 0, sizeof *dev);
}

size_t device_workspace_bytes(const Device *dev, DType) {
  if (dev->planned) return CUDA_WORKSPACE;
  ON_CUDA(dev, return cuda_workspace_bytes());
  return cpu_workspace_bytes();
}

/* ---- memory ---- */

void *device_alloc(Device *dev, size_t bytes, Error *e) {
  ON_CUDA(dev, return cuda_alloc(dev, bytes, e));
  return host_pages_alloc(bytes, e);
}

void device_free(Device *dev, void *p, size_t bytes) {
  ON_CUDA(dev, cuda_free(p); return );
  host_pages_free(p, bytes);
}

size_t device_free_bytes(const Device *dev) {
  ON_CUDA(dev, return cuda_free_bytes());
  return host_free_bytes();
}

void *host_alloc(Device *dev, size_t bytes, Error *e) {
  void *p = host_pages_alloc(bytes, e);
#ifdef __CUDACC__
  if (p && dev->kind == DEVICE_CUDA && !cuda_lock_pages(p, bytes, e)) {
    host_pages_free(p, bytes);
    return NULL;
  }
#endif
  (void)dev;
  return p;
}

void host_free(Device *dev, void *p, size_t bytes) {
  ON_CUDA(dev, cuda_unlock_pages(p));
  host_pages_free(p, bytes);
}

/* ---- copies ---- */

void device_synchronize(Device *dev) {
  ON_CUDA(dev, cuda_synchronize(dev));
}

void device_copy(Device *dev, void *dst, const void *src, size_t bytes, CopyKind kind) {
  double begin = profile_begin(dev);
#ifdef __CUDACC__
  if (dev->kind == DEVICE_CUDA)
    cuda_copy(dev, dst, src, bytes, kind);
  else
#endif
    cpu_copy(dev, dst, src, bytes);
  /* the bus between host and device is no part of the memory's roof */
  profile_end(dev, begin, "copy", kind == COPY_ON_DEVICE ? "" : "to or from host", 0,
              kind == COPY_ON_DEVICE ? 2.0 * (double)bytes : 0);
}

void device_fill(Device *dev, void *p, int byte, size_t bytes) {
  double begin = profile_begin(dev);
#ifdef __CUDACC__
  if (dev->kind == DEVICE_CUDA)
    cuda_fill(dev, p, byte, bytes);
  else
#endif
    cpu_fill(dev, p, byte, bytes);
  profile_end(dev, begin, "fill", "", 0, (double)bytes);
}

void device_copy_async(Device *dev, void *dst, const void *src, size_t bytes, CopyKind kind) {
  (void)kind;
  ON_CUDA(dev, cuda_copy_async(dev, dst, src, bytes, kind); return );
  cpu_copy(dev, dst, src, bytes);
}

void device_copies_wait(Device *dev) {
  ON_CUDA(dev, cuda_copies_wait(dev));
}

void device_operations_wait(Device *dev) {
  ON_CUDA(dev, cuda_operations_wait(dev));
}
