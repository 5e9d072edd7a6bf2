/* Pages of host memory, and how many of them the system would still give us. */
#ifndef HOST_MEMORY_H
#define HOST_MEMORY_H

#include <stddef.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes that could be taken now: what the machine has available, or less where a cgroup limits us. */
size_t host_free_bytes(void);

/* The same of a machine with nothing else on it but the system: it does not change from run to run. */
size_t host_own_bytes(void);

/* Zeroed pages. NULL and an Error when there are not that many: Linux would hand them out all the same and
 * kill the process that touches them. */
void *host_pages_alloc(size_t bytes, Error *e);
void host_pages_free(void *p, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
