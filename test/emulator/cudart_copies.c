/* Copies and fills of the emulated device. A copy with locked memory of the host is made by the stream, when
 * its turn comes. Memory that is not locked is read at the call, though what was read may reach the device
 * much later; and it was written when the call returns. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "emulator/cudart.h"
#include "emulator/emulator.h"
#include "emulator/ptx.h"

static const size_t ADDRESS_LIMIT = (size_t)1 << 46; /* there are fewer */

/* One side of a copy: rows that begin `pitch` bytes apart. */
typedef struct Side {
  char *address;
  size_t pitch;
  bool on_device;
  HostMemory kind; /* of what is not */
} Side;

typedef struct Copy {
  Side to, from;
  size_t width, height;
  bool staged; /* `from` was read: its rows are here, without gaps */
  char rows[];
} Copy;

typedef struct Fill {
  char *address;
  size_t pitch, width, height;
  int byte;
} Fill;

/* From the first byte of rows to the last. */
static size_t extent(size_t pitch, size_t width, size_t height) {
  return (height - 1) * pitch + width;
}

/* Whether there are so many addresses. */
static bool extent_fits(size_t pitch, size_t width, size_t height) {
  size_t bytes;
  return !__builtin_mul_overflow(height - 1, pitch, &bytes) && bytes < ADDRESS_LIMIT && width < ADDRESS_LIMIT;
}

/* ---- fills ---- */

static void run_fill(void *data) {
  const Fill *f = data;
  char *at = emulator_memory("a fill", f->address, extent(f->pitch, f->width, f->height));
  for (size_t row = 0; at && row < f->height; row++) memset(at + row * f->pitch, f->byte, f->width);
}

static cudaError_t fill(Stream *stream, Fill f) {
  if (!stream) return cudaErrorInvalidResourceHandle;
  if (f.width == 0 || f.height == 0) return cudaSuccess;
  if (f.width > f.pitch || !extent_fits(f.pitch, f.width, f.height) ||
      !emulated_memory((uint64_t)f.address, extent(f.pitch, f.width, f.height)))
    return cudaErrorInvalidValue;
  Fill *data = new_object(sizeof *data);
  *data = f;
  stream_add(stream, run_fill, data);
  return cudaSuccess;
}

cudaError_t cudaMemset2DAsync(void *p, size_t pitch, int byte, size_t width, size_t height,
                              cudaStream_t stream) {
  cudaError_t status = begin();
  return finish(status ? status : fill(stream_of(stream), (Fill){p, pitch, width, height, byte}));
}

cudaError_t cudaMemsetAsync(void *p, int byte, size_t bytes, cudaStream_t stream) {
  return cudaMemset2DAsync(p, bytes, byte, bytes, 1, stream);
}

/* It returns before the fill is made, too. */
cudaError_t cudaMemset(void *p, int byte, size_t bytes) {
  return cudaMemsetAsync(p, byte, bytes, cudaStreamLegacy);
}

/* ---- copies ---- */

/* Where the bytes of a side are when the copy is made; NULL, and the device is lost, when they are gone. */
static char *find(const Side *side, size_t bytes) {
  if (side->on_device) return emulator_memory("a copy", side->address, bytes);
  if (side->kind == PAGEABLE || host_memory_kind(side->address, bytes) == LOCKED) return side->address;
  lose_device("a copy: the host's memory at %p was unlocked before the copy was made", (void *)side->address);
  return NULL;
}

static void copy_rows(char *to, size_t to_pitch, const char *from, size_t from_pitch, size_t width,
                      size_t height) {
  for (size_t row = 0; row < height; row++) memcpy(to + row * to_pitch, from + row * from_pitch, width);
}

static void run_copy(void *data) {
  const Copy *c = data;
  char *to = find(&c->to, extent(c->to.pitch, c->width, c->height));
  const char *from = c->staged ? c->rows : find(&c->from, extent(c->from.pitch, c->width, c->height));
  if (to && from) copy_rows(to, c->to.pitch, from, c->staged ? c->width : c->from.pitch, c->width, c->height);
}

/* Whether a side is what the kind of copy says it is, in one piece. */
static bool check_side(Side *side, enum cudaMemcpyKind kind, enum cudaMemcpyKind other, size_t width,
                       size_t height) {
  if (!side->address || !extent_fits(side->pitch, width, height)) return false;
  size_t bytes = extent(side->pitch, width, height);
  side->on_device = kind == cudaMemcpyDeviceToDevice || kind == other ||
                    (kind == cudaMemcpyDefault && on_device(side->address, bytes));
  if (side->on_device) return emulated_memory((uint64_t)side->address, bytes);
  side->kind = host_memory_kind(side->address, bytes);
  return !on_device(side->address, bytes) && side->kind != LOCKED_IN_PART;
}

/* Rows of different copies may lie between each other's. */
static bool overlap(const Side *a, const Side *b, size_t width, size_t height) {
  return height == 1 && a->address < b->address + width && b->address < a->address + width;
}

/* `wait`: as cudaMemcpy waits, which is not at all on the device. */
static cudaError_t copy(Stream *stream, Side to, Side from, size_t width, size_t height,
                        enum cudaMemcpyKind kind, bool wait) {
  if (!stream) return cudaErrorInvalidResourceHandle;
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) return cudaErrorInvalidMemcpyDirection;
  if (width == 0 || height == 0) return cudaSuccess;
  if (width > to.pitch || width > from.pitch) return cudaErrorInvalidPitchValue;
  if (!check_side(&to, kind, cudaMemcpyHostToDevice, width, height) ||
      !check_side(&from, kind, cudaMemcpyDeviceToHost, width, height) || overlap(&to, &from, width, height))
    return cudaErrorInvalidValue;
  bool from_pageable = !from.on_device && from.kind == PAGEABLE;
  bool to_pageable = !to.on_device && to.kind == PAGEABLE;
  bool staged = from_pageable && to.on_device;
  if (staged && wait) stream_finish(stream);
  Copy *c = new_object(sizeof *c + (staged ? width * height : 0));
  *c = (Copy){to, from, width, height, staged};
  if (staged) copy_rows(c->rows, width, from.address, from.pitch, width, height);
  stream_add(stream, run_copy, c);
  bool now = wait ? !to.on_device || !from.on_device : from_pageable || to_pageable;
  if (now && !staged) stream_finish(stream);
  return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
  cudaError_t status = begin();
  Side sides[] = {{.address = to, .pitch = to_pitch}, {.address = (char *)from, .pitch = from_pitch}};
  return finish(status ? status : copy(stream_of(stream), sides[0], sides[1], width, height, kind, false));
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
  cudaError_t status = begin();
  Side sides[] = {{.address = to, .pitch = bytes}, {.address = (char *)from, .pitch = bytes}};
  return finish(status ? status : copy(stream_of(NULL), sides[0], sides[1], bytes, 1, kind, true));
}
