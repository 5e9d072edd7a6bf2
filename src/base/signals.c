#include "base/signals.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct Signals {
  pthread_t thread;
  sigset_t waited, before; /* the signals waited for; what was blocked before */
  atomic_bool armed, closing, save;
  atomic_int stop; /* number of the signal that came first */
};

static void end_program(int number) {
  _exit(128 + number);
}

static void receive(Signals *s, int number) {
  if (number == SIGUSR1) {
    s->save = true; /* kept until there is something to save */
    return;
  }
  if (!s->armed) end_program(number);
  /* a hangup asks to stop, never to hurry: it may come together with another signal, in either order */
  if (number == SIGHUP && s->stop) return;
  if (s->stop && s->stop != SIGHUP) end_program(number);
  s->stop = number;
  fprintf(stderr, "# %s: the run stops after this step; a second signal ends it at once\n",
          strsignal(number));
}

static void *wait_for_signals(void *context) {
  Signals *s = context;
  for (;;) {
    int number = 0;
    int failed = sigwait(&s->waited, &number);
    if (s->closing) return NULL;
    if (!failed) receive(s, number);
  }
}

Signals *signals_open(void) {
  Signals *s = calloc(1, sizeof *s);
  CHECK(s, "out of memory");
  sigemptyset(&s->waited);
  sigaddset(&s->waited, SIGUSR1); /* also what wakes the thread at the end */
  static const int stops[] = {SIGINT, SIGTERM, SIGHUP};
  for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
    struct sigaction now;
    /* nohup and the background jobs of a shell ignore some: that is theirs to say */
    if (sigaction(stops[i], NULL, &now) == 0 && now.sa_handler == SIG_IGN) continue;
    sigaddset(&s->waited, stops[i]);
  }
  CHECK(pthread_sigmask(SIG_BLOCK, &s->waited, &s->before) == 0, "signals cannot be blocked");
  CHECK(pthread_create(&s->thread, NULL, wait_for_signals, s) == 0, "no thread for signals");
  return s;
}

void signals_arm(Signals *s) {
  s->armed = true;
}

void signals_close(Signals *s) {
  if (!s) return;
  s->closing = true;
  pthread_kill(s->thread, SIGUSR1);
  pthread_join(s->thread, NULL);
  pthread_sigmask(SIG_SETMASK, &s->before, NULL);
  free(s);
}

int signals_stop(const Signals *s) {
  return s->stop;
}

bool signals_take_save(Signals *s) {
  return atomic_exchange(&s->save, false);
}
