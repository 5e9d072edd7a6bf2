/* Streams and events of the emulated device. What a stream is given waits until somebody waits for it, and
 * then no more is done than that wait needs: a program that forgets to wait finds nothing done.
 * EMULATED_GPU_ORDER in the environment chooses another order that CUDA allows as well. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "emulator/cudart.h"
#include "emulator/emulator.h"

typedef struct Operation {
  struct Operation *next;
  void (*run)(void *data);
  void *data;
} Operation;

/* Destroyed ones are kept: what they were given is still to be done, and a later use is found. */
struct CUstream_st {
  Stream *next;
  bool blocking; /* it and the default stream wait for each other */
  bool destroyed;
  bool busy; /* with an operation */
  Operation *first, **end;
  uint64_t given, done; /* operations */
};

typedef struct CUevent_st Event;
struct CUevent_st {
  Event *next;
  bool timed, destroyed;
  Stream *stream;   /* that it was last recorded in; NULL while it was in none */
  uint64_t at;      /* operations that the stream is to have done */
  uint64_t records; /* how often it was recorded */
  double seconds;   /* when the last record was done */
};

typedef enum Order {
  LATE,   /* when it is waited for */
  SOON,   /* at once */
  OTHERS, /* late, and other streams come first: as far as they may go before a stream's next operation */
  RANDOM  /* whenever a stream is given something, some of what is waiting */
} Order;

static struct {
  Stream legacy; /* the default stream, to which all others are chained */
  Event *events;
  Order order;
  uint64_t random;
} device;

static Order order_of_environment(void) {
  const char *name = getenv("EMULATED_GPU_ORDER"), *blocking = getenv("CUDA_LAUNCH_BLOCKING");
  if (!name || !*name) return blocking && strcmp(blocking, "1") == 0 ? SOON : LATE;
  static const char *const names[] = {"late", "soon", "others", "random"};
  static const Order orders[] = {LATE, SOON, OTHERS, RANDOM};
  for (int i = 0; i < 4; i++)
    if (strcmp(name, names[i]) == 0) return orders[i];
  PANIC("EMULATED_GPU_ORDER: found \"%s\", expected late, soon, others or random", name);
}

void streams_open(void) {
  device.legacy.blocking = true;
  device.legacy.end = &device.legacy.first;
  device.order = order_of_environment();
  device.random = 88172645463325252u;
}

/* ---- what streams do ---- */

/* A wait for another stream's operations up to the until-th. */
typedef struct Wait {
  Stream *stream;
  uint64_t until;
} Wait;
static void run_wait(void *data);

static void run_next(Stream *stream) {
  Operation *operation = stream->first;
  stream->first = operation->next;
  if (!stream->first) stream->end = &stream->first;
  stream->busy = true;
  operation->run(operation->data);
  stream->busy = false;
  stream->done++;
  free(operation->data);
  free(operation);
}

/* Whether its next operation is a wait for what is not done. */
static bool has_to_wait(const Stream *stream) {
  if (stream->first->run != run_wait) return false;
  const Wait *wait = stream->first->data;
  return wait->stream->done < wait->until;
}

static void advance_others(const Stream *stream) {
  for (Stream *s = &device.legacy; s; s = s->next)
    while (s != stream && !s->busy && s->first && !device_lost() && !has_to_wait(s)) run_next(s);
}

/* Has the stream do its operations up to the until-th. Operations wait only for such as were given before
 * them, so that no stream waits for itself. */
static void advance(Stream *stream, uint64_t until) {
  while (stream->done < until && !device_lost()) {
    if (device.order == OTHERS && !has_to_wait(stream)) advance_others(stream);
    if (!device_lost()) run_next(stream);
  }
}

static void run_wait(void *data) {
  const Wait *wait = data;
  advance(wait->stream, wait->until);
}

static uint64_t random_below(uint64_t n) {
  device.random ^= device.random << 13;
  device.random ^= device.random >> 7;
  device.random ^= device.random << 17;
  return device.random % n;
}

static void advance_some(void) {
  for (Stream *s = &device.legacy; s; s = s->next) {
    uint64_t waiting = s->given - s->done;
    if (random_below(4) == 0) advance(s, s->done + random_below(waiting + 1));
  }
}

static void append(Stream *stream, void (*run)(void *data), void *data) {
  Operation *operation = new_object(sizeof *operation);
  *operation = (Operation){NULL, run, data};
  *stream->end = operation;
  stream->end = &operation->next;
  stream->given++;
}

static void append_wait(Stream *stream, Stream *other, uint64_t until) {
  if (other == stream || other->done >= until) return;
  Wait *wait = new_object(sizeof *wait);
  *wait = (Wait){other, until};
  append(stream, run_wait, wait);
}

/* The default stream waits for the blocking ones, and they wait for it. */
static void append_default_waits(Stream *stream) {
  if (!stream->blocking) return;
  if (stream != &device.legacy)
    append_wait(stream, &device.legacy, device.legacy.given);
  else
    for (Stream *s = device.legacy.next; s; s = s->next)
      if (s->blocking) append_wait(stream, s, s->given);
}

void stream_add(Stream *stream, void (*run)(void *data), void *data) {
  append_default_waits(stream);
  append(stream, run, data);
  if (device.order == SOON) advance(stream, stream->given);
  if (device.order == RANDOM) advance_some();
}

void stream_finish(Stream *stream) {
  append_default_waits(stream);
  advance(stream, stream->given);
}

void all_streams_finish(void) {
  for (Stream *s = &device.legacy; s; s = s->next) advance(s, s->given);
}

/* ---- streams ---- */

Stream *stream_of(cudaStream_t handle) {
  if (!handle || handle == cudaStreamLegacy) return &device.legacy;
  Stream *s = device.legacy.next;
  while (s && (s != handle || s->destroyed)) s = s->next;
  return s;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *handle, unsigned flags) {
  cudaError_t status = begin();
  if (status) return finish(status);
  if (!handle || (flags != cudaStreamDefault && flags != cudaStreamNonBlocking))
    return finish(cudaErrorInvalidValue);
  Stream *s = new_object(sizeof *s);
  s->blocking = flags == cudaStreamDefault;
  s->end = &s->first;
  s->next = device.legacy.next;
  device.legacy.next = s;
  *handle = s;
  return finish(cudaSuccess);
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  cudaError_t status = begin();
  if (status) return finish(status);
  Stream *s = stream_of(handle);
  if (!s || s == &device.legacy) return finish(cudaErrorInvalidResourceHandle);
  s->destroyed = true;
  return finish(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  cudaError_t status = begin();
  if (status) return finish(status);
  Stream *s = stream_of(handle);
  if (!s) return finish(cudaErrorInvalidResourceHandle);
  stream_finish(s);
  return finish(cudaSuccess);
}

cudaError_t cudaDeviceSynchronize(void) {
  cudaError_t status = begin();
  if (status) return finish(status);
  all_streams_finish();
  return finish(cudaSuccess);
}

cudaError_t emulator_enqueue(cudaStream_t handle, void (*run)(void *data), void *data) {
  cudaError_t status = begin();
  Stream *s = status ? NULL : stream_of(handle);
  if (!status && !s) status = cudaErrorInvalidResourceHandle;
  if (s)
    stream_add(s, run, data);
  else
    free(data);
  return finish(status);
}

/* ---- events ---- */

static Event *event_of(cudaEvent_t handle) {
  Event *e = device.events;
  while (e && (e != handle || e->destroyed)) e = e->next;
  return e;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *handle, unsigned flags) {
  cudaError_t status = begin();
  if (status) return finish(status);
  if (!handle || flags & ~(unsigned)(cudaEventBlockingSync | cudaEventDisableTiming))
    return finish(cudaErrorInvalidValue);
  Event *e = new_object(sizeof *e);
  e->timed = !(flags & cudaEventDisableTiming);
  e->next = device.events;
  device.events = e;
  *handle = e;
  return finish(cudaSuccess);
}

cudaError_t cudaEventCreate(cudaEvent_t *handle) {
  return cudaEventCreateWithFlags(handle, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  cudaError_t status = begin();
  if (status) return finish(status);
  Event *e = event_of(handle);
  if (!e) return finish(cudaErrorInvalidResourceHandle);
  e->destroyed = true;
  return finish(cudaSuccess);
}

typedef struct Record {
  Event *event;
  uint64_t number;
} Record;

static void run_record(void *data) {
  const Record *record = data;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (record->number == record->event->records)
    record->event->seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
  cudaError_t status = begin();
  if (status) return finish(status);
  Event *e = event_of(handle);
  Stream *s = stream_of(stream);
  if (!e || !s) return finish(cudaErrorInvalidResourceHandle);
  Record *record = new_object(sizeof *record);
  *record = (Record){e, ++e->records};
  e->stream = s;
  stream_add(s, run_record, record);
  e->at = s->given;
  return finish(cudaSuccess);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle, unsigned flags) {
  cudaError_t status = begin();
  if (status) return finish(status);
  Event *e = event_of(handle);
  Stream *s = stream_of(stream);
  if (!e || !s) return finish(cudaErrorInvalidResourceHandle);
  if (flags) return finish(cudaErrorInvalidValue);
  if (e->stream) append_wait(s, e->stream, e->at);
  return finish(cudaSuccess);
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  cudaError_t status = begin();
  if (status) return finish(status);
  Event *e = event_of(handle);
  if (!e) return finish(cudaErrorInvalidResourceHandle);
  if (e->stream) advance(e->stream, e->at);
  return finish(cudaSuccess);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
  cudaError_t status = begin();
  if (status) return finish(status);
  const Event *events[] = {event_of(from), event_of(to)};
  if (!milliseconds) return finish(cudaErrorInvalidValue);
  for (int i = 0; i < 2; i++)
    if (!events[i] || !events[i]->timed || !events[i]->stream) return finish(cudaErrorInvalidResourceHandle);
  for (int i = 0; i < 2; i++)
    if (events[i]->stream->done < events[i]->at) return finish(cudaErrorNotReady);
  *milliseconds = (float)(1e3 * (events[1]->seconds - events[0]->seconds));
  return finish(cudaSuccess);
}
