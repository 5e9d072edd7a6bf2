#include "memory/offload.h"

void offload_store(Device *dev, void *host, const void *device, size_t bytes) {
  device_copies_wait(dev);
  device_copy_async(dev, host, device, bytes, COPY_FROM_DEVICE);
}

void offload_fetch(Device *dev, void *device, const void *host, size_t bytes) {
  device_copies_wait(dev);
  device_copy_async(dev, device, host, bytes, COPY_TO_DEVICE);
}

void offload_wait(Device *dev) {
  device_operations_wait(dev);
}
