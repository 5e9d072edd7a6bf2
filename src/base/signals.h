/* Signals that ask a run to stop or to save. A thread of its own waits for them, so that nothing happens
 * inside a signal handler. */
#ifndef SIGNALS_H
#define SIGNALS_H

#include <stdbool.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Signals Signals;

/* From here on SIGINT, SIGTERM, SIGHUP and SIGUSR1 go to the waiting thread. Call it before other threads are
 * made: they inherit what is blocked. Until signals_arm, one that asks to stop ends the program as it always
 * did; SIGUSR1 is kept. */
Signals *signals_open(void);
/* From here on the first SIGINT, SIGTERM or SIGHUP sets signals_stop, a second SIGINT or SIGTERM ends the
 * program at once (exit status 128 + its number), and SIGUSR1 asks for a save. */
void signals_arm(Signals *s);
/* Ends the thread; signals do again what they did before. NULL is ignored. */
void signals_close(Signals *s);

/* The number of the signal that asks the run to stop; 0 = none. */
int signals_stop(const Signals *s);
/* True once for every SIGUSR1 (several at once count as one). */
bool signals_take_save(Signals *s);

#ifdef __cplusplus
}
#endif
#endif
