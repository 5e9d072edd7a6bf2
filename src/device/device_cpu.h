/* The CPU's half of device.h; private to src/device, but for the row kernels' way to memory. */
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
/* Copies what the caches hold to memory that they need not hold, where the processor can. */
void cpu_store_past_caches(void *to, const void *from, size_t bytes);
/* What this thread stored so is there for the others before anything that it stores from now on. */
void cpu_end_of_stores_past_caches(void);

#ifdef __cplusplus
}
#endif
#endif
