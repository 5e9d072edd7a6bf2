/* What the operating system says of this process' memory. */
#ifndef PROCESS_H
#define PROCESS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Resident memory that no file backs, now; resident memory of all kinds, at its highest. 0 where the system
 * does not tell. */
int64_t process_resident_bytes(void);
int64_t process_peak_bytes(void);
/* Seconds that processors have worked for the process, all threads together. */
double process_cpu_seconds(void);

#ifdef __cplusplus
}
#endif
#endif
