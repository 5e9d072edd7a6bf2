#include "base/worker.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

struct Worker {
  pthread_t thread;
  void (*job)(void *context);
  void *context;
  pthread_mutex_t lock;
  pthread_cond_t changed;            /* the state did */
  enum { IDLE, BUSY, ENDING } state; /* under the lock */
};

static void *work(void *arg) {
  Worker *w = arg;
  pthread_mutex_lock(&w->lock);
  for (;;) {
    while (w->state == IDLE) pthread_cond_wait(&w->changed, &w->lock);
    if (w->state == ENDING) break;
    pthread_mutex_unlock(&w->lock);
    w->job(w->context);
    pthread_mutex_lock(&w->lock);
    w->state = IDLE;
    pthread_cond_signal(&w->changed);
  }
  pthread_mutex_unlock(&w->lock);
  return NULL;
}

Worker *worker_start(void (*job)(void *context), void *context, Error *e) {
  Worker *w = calloc(1, sizeof *w);
  CHECK(w, "out of memory for a thread");
  w->job = job;
  w->context = context;
  w->state = IDLE;
  pthread_mutex_init(&w->lock, NULL);
  pthread_cond_init(&w->changed, NULL);
  sigset_t all, before; /* a thread inherits its maker's mask */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failure = pthread_create(&w->thread, NULL, work, w);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (failure == 0) return w;
  error_runtime(e, "no thread could be started: %s. Check the limits on processes and memory (ulimit)",
                strerror(failure));
  pthread_cond_destroy(&w->changed);
  pthread_mutex_destroy(&w->lock);
  free(w);
  return NULL;
}

/* Takes the idle thread to a state. */
static void leave_idle(Worker *w, int state) {
  pthread_mutex_lock(&w->lock);
  CHECK(w->state == IDLE, "a worker was given a job while it had one");
  w->state = state;
  pthread_cond_signal(&w->changed);
  pthread_mutex_unlock(&w->lock);
}

void worker_begin(Worker *w) {
  leave_idle(w, BUSY);
}

void worker_wait(Worker *w) {
  pthread_mutex_lock(&w->lock);
  while (w->state == BUSY) pthread_cond_wait(&w->changed, &w->lock);
  pthread_mutex_unlock(&w->lock);
}

void worker_stop(Worker *w) {
  if (!w) return;
  worker_wait(w);
  leave_idle(w, ENDING);
  pthread_join(w->thread, NULL);
  pthread_cond_destroy(&w->changed);
  pthread_mutex_destroy(&w->lock);
  free(w);
}
