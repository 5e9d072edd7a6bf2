#include "memory/offload.h"

void offload_store(Device *dev, void *host, const void *device, size_t bytes) {
  device_copy(dev, host, device, bytes, COPY_FROM_DEVICE);
}

void offload_fetch(Device *dev, void *device, const void *host, size_t bytes) {
  device_copy(dev, device, host, bytes, COPY_TO_DEVICE);
}

void offload_wait(Device *dev) {
  CHECK(dev->kind == DEVICE_CPU, "copies beside the work of %s are not there yet", dev->name);
}
