/* Copies between the device and the host memory of the plan that run beside the device's work: what streams
 * out of the device and back. A copy begins when what the device was asked for before it is done; whoever
 * uses or overwrites what a copy reads or writes has to wait for it first. On the CPU device copies are done
 * when the call returns. */
#ifndef OFFLOAD_H
#define OFFLOAD_H

#include "device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Begins a copy to the host, or to the device. */
void offload_store(Device *dev, void *host, const void *device, size_t bytes);
void offload_fetch(Device *dev, void *device, const void *host, size_t bytes);

/* What the device is asked for from now on begins when all copies so far are done. */
void offload_wait(Device *dev);

#ifdef __cplusplus
}
#endif
#endif
