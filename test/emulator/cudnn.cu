/* libcudnn.so.9 on the emulated GPU: what fake_cudnn.cuh does, when the stream comes to it, with the device's
 * memory. */
#include <stdlib.h>

extern "C" {
#include "emulator/emulator.h"
#include "emulator/ptx.h" // defines: emulated_memory
}

static void *device_memory(void *p);
#define FAKE_MEMORY(p) device_memory(p)
#include "fake_cudnn.cuh" // defines: fake_create, fake_execute, ...

/* A library's handle. */
typedef struct Handle {
  cudaStream_t stream;
} Handle;

/* One execution: the pack as it was then, since its owner may change or destroy it at once; numbers that it
 * gives by value are the host's. */
typedef struct Execution {
  CudnnDescriptor plan;
  FakeDescriptor pack;
  float number[8];
  int numbers;
} Execution;

/* Where a tensor begins, when it is the device's; else p. Where it ends is not known here. */
static void *device_memory(void *p) {
  void *memory = emulated_memory((uint64_t)p, 1);
  return memory ? memory : p;
}

static void keep_numbers(Execution *x) {
  for (int i = 0; i < x->pack.count; i++) {
    FakeAttribute *a = &x->pack.attributes[i];
    if (a->name != CUDNN9_ATTR_VARIANT_PACK_DATA_POINTERS) continue;
    void **pointers = (void **)a->bytes;
    for (int64_t j = 0; j < a->count; j++) {
      if (emulated_memory((uint64_t)pointers[j], 1)) continue;
      CHECK(x->numbers < 8, "cuDNN: many tensors are not in the GPU's memory");
      x->number[x->numbers] = *(const float *)pointers[j];
      pointers[j] = &x->number[x->numbers++];
    }
  }
}

static void run(void *data) {
  Execution *x = (Execution *)data;
  fake_execute(NULL, x->plan, &x->pack);
}

extern "C" {

size_t cudnnGetVersion(void) {
  return fake_version();
}
size_t cudnnGetCudartVersion(void) {
  return CUDART_VERSION;
}
const char *cudnnGetErrorString(int status) {
  return fake_error(status);
}
void cudnnGetLastErrorString(char *text, size_t size) {
  fake_last_error(text, size);
}
int cudnnCreate(CudnnHandle *handle) {
  *handle = calloc(1, sizeof(Handle));
  return *handle ? 0 : 1;
}
int cudnnDestroy(CudnnHandle handle) {
  free(handle);
  return 0;
}
int cudnnSetStream(CudnnHandle handle, void *stream) {
  ((Handle *)handle)->stream = (cudaStream_t)stream;
  return 0;
}
int cudnnBackendCreateDescriptor(int kind, CudnnDescriptor *d) {
  return fake_create(kind, d);
}
int cudnnBackendDestroyDescriptor(CudnnDescriptor d) {
  return fake_destroy(d);
}
int cudnnBackendSetAttribute(CudnnDescriptor d, int name, int type, int64_t count, const void *values) {
  return fake_set(d, name, type, count, values);
}
int cudnnBackendGetAttribute(CudnnDescriptor d, int name, int type, int64_t room, int64_t *count,
                             void *values) {
  return fake_get(d, name, type, room, count, values);
}
int cudnnBackendFinalize(CudnnDescriptor d) {
  return fake_finalize(d);
}
int cudnnBackendExecute(CudnnHandle handle, CudnnDescriptor plan, CudnnDescriptor pack) {
  Execution *x = (Execution *)malloc(sizeof *x);
  CHECK(x, "out of memory");
  *x = Execution{plan, *(const FakeDescriptor *)pack, {}, 0};
  keep_numbers(x);
  return emulator_enqueue(((Handle *)handle)->stream, run, x) == cudaSuccess ? 0 : 1;
}
}
