/* The CPU's half of device.h; private to src/device. */
#ifndef DEVICE_CPU_H
#define DEVICE_CPU_H

#include "device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Fills in a Device whose number of threads is set. */
void cpu_open(Device *dev);
size_t cpu_workspace_bytes(void);
/* On all threads when there is much to do. */
void cpu_copy(Device *dev, void *dst, const void *src, size_t bytes);
void cpu_fill(Device *dev, void *p, int byte, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
