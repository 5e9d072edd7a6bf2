/* The device under test, and memory that a test reads and writes on the host and hands to operations on that
 * device. TEST_DEVICE=cuda in the environment asks for a GPU; without it the device is the CPU, and host and
 * device memory are one and the same. */
#ifndef MIRROR_CUH
#define MIRROR_CUH

#include <stdlib.h>
#include <string.h>

#include "device/device.h"
#ifdef __CUDACC__
#include "device/device_cuda.h" // defines: cuda_check
#endif

static inline const char *test_device(void) {
  const char *name = getenv("TEST_DEVICE");
  return name && *name ? name : "cpu";
}

static inline bool on_cuda(void) {
  return strcmp(test_device(), "cuda") == 0;
}

/* Whether "cuda" is the emulator (test/emulator/), whose arithmetic is a chip's and whose speed is not. */
static inline bool is_emulated(void) {
  return on_cuda() && getenv("TEST_EMULATED") != NULL;
}

/* Of many cases, every how many-th is run: there some, unless TEST_EMULATED=all. */
static inline unsigned case_stride(void) {
  return is_emulated() && strcmp(getenv("TEST_EMULATED"), "all") ? 7 : 1;
}

/* Whether this build and this machine have a GPU to offer. */
static inline bool has_gpu(void) {
#ifdef __CUDACC__
  int count = 0;
  bool found = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
  cudaGetLastError();
  return found;
#else
  return false;
#endif
}

/* threads: 0 = all */
static inline void open_test_device(Device *dev, int threads) {
  Error e = {};
  CHECK(device_open(dev, test_device(), threads, &e), "%s", e.text);
}

typedef enum Newest { NEWEST_HOST, NEWEST_BOTH, NEWEST_DEVICE } Newest;

typedef struct Mirror {
  void *host, *device; /* the same on the CPU */
  size_t bytes;        /* exactly so many, so that a sanitizer sees what goes beyond */
  Newest newest;
} Mirror;

static inline Mirror *mirror_new(size_t bytes) {
  Mirror *m = (Mirror *)malloc(sizeof *m);
  void *host = calloc(1, bytes);
  *m = Mirror{host, host, bytes, NEWEST_HOST};
#ifdef __CUDACC__
  if (on_cuda()) cuda_check(NULL, "a test's allocation", cudaMalloc(&m->device, bytes ? bytes : 1));
#endif
  return m;
}

static inline void mirror_free(Mirror *m) {
#ifdef __CUDACC__
  if (on_cuda()) cuda_check(NULL, "a test's release of memory", cudaFree(m->device));
#endif
  free(m->host);
  free(m);
}

/* Copies between the two, after all that was asked of the device. */
static inline void mirror_copy(Mirror *m, bool to_device) {
  (void)m, (void)to_device;
#ifdef __CUDACC__
  if (!on_cuda()) return;
  cuda_check(NULL, "a test's operations", cudaDeviceSynchronize());
  cuda_check(NULL, "a test's copy",
             to_device ? cudaMemcpy(m->device, m->host, m->bytes, cudaMemcpyHostToDevice)
                       : cudaMemcpy(m->host, m->device, m->bytes, cudaMemcpyDeviceToHost));
  /* a copy to the device returns before its last bytes are there, and operations run on other streams */
  cuda_check(NULL, "a test's copy", cudaDeviceSynchronize());
#endif
}

/* The contents on the host, for reading. What an operation writes later is seen only if its pointer comes
 * from a mirror_use after this. */
static inline const void *mirror_read(Mirror *m) {
  if (m->newest == NEWEST_DEVICE) {
    mirror_copy(m, false);
    m->newest = NEWEST_BOTH;
  }
  return m->host;
}

/* The same, for writing too. */
static inline void *mirror_write(Mirror *m) {
  mirror_read(m);
  m->newest = NEWEST_HOST;
  return m->host;
}

/* The contents on the device, which operations may read and write. */
static inline void *mirror_use(Mirror *m) {
  if (m->newest == NEWEST_HOST) mirror_copy(m, true);
  m->newest = NEWEST_DEVICE;
  return m->device;
}

/* A copy of an array, to be handed to operations. */
static inline Mirror *mirror_of(const void *array, size_t bytes) {
  Mirror *m = mirror_new(bytes);
  if (bytes) memcpy(m->host, array, bytes);
  return m;
}

#endif
