/* A thread that does one job at a time, again and again. What the job reads and writes belongs to it from
 * worker_begin to worker_wait, and to the caller otherwise; no other locking is needed. */
#ifndef WORKER_H
#define WORKER_H

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Worker Worker;

/* Starts the thread, which waits. It takes no signals: they stay with the threads that were there before.
 * NULL and a runtime error when the system gives no thread. */
Worker *worker_start(void (*job)(void *context), void *context, Error *e);
/* Lets the thread do the job once; it must be idle. */
void worker_begin(Worker *w);
/* Returns when the thread is idle. */
void worker_wait(Worker *w);
/* Waits for the job at hand, ends the thread and frees it. NULL is allowed. */
void worker_stop(Worker *w);

#ifdef __cplusplus
}
#endif
#endif
