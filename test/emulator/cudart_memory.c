/* Memory of the emulated device. The addresses that the program gets cannot be read or written: the bytes lie
 * elsewhere, and emulated_memory() finds them. No address is used twice, so that a use after cudaFree is
 * found. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "emulator/cudart.h"
#include "emulator/emulator.h"
#include "emulator/ptx.h"

/* The device's addresses are cut into slots; an allocation takes some, and leaves one free behind it. It
 * begins a bit after its first slot does: what cudaMalloc returns may be relied on to be aligned to ALIGNMENT
 * and no more. */
enum { SLOT_BITS = 21, ALIGNMENT = 512 };
static const size_t SLOT_BYTES = (size_t)1 << SLOT_BITS;
static const size_t ADDRESSES = (size_t)1 << 44;
static const size_t SLOTS = (size_t)1 << (44 - SLOT_BITS);
static const double CARD_BYTES = 3e9; /* unless EMULATED_GPU_BYTES says otherwise */

/* All slots of an allocation hold the same; no bytes: it is free. */
typedef struct Slot {
  uint64_t begin;
  size_t bytes;
  char *host;
} Slot;

typedef struct Range {
  const char *begin;
  size_t bytes;
} Range;

static struct {
  uint64_t addresses; /* of the first slot */
  Slot *slots;
  size_t next; /* the first slot that was never used */
  size_t card, used;
  Range *locked; /* of the host's memory */
  size_t locked_count, locked_space;
} memory;

static void *map(size_t bytes, int protection) {
  void *p = mmap(NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? NULL : p;
}

void memory_open(void) {
  const char *text = getenv("EMULATED_GPU_BYTES");
  double bytes = text ? strtod(text, NULL) : CARD_BYTES;
  CHECK(bytes >= 1 && bytes < (double)ADDRESSES, "EMULATED_GPU_BYTES: found \"%s\", expected bytes", text);
  memory.card = (size_t)bytes;
  memory.addresses = (uint64_t)map(ADDRESSES, PROT_NONE);
  memory.slots = map(SLOTS * sizeof(Slot), PROT_READ | PROT_WRITE);
  CHECK(memory.addresses && memory.slots, "no addresses for the emulated device");
}

size_t memory_of_card(void) {
  return memory.card;
}

void *emulated_memory(uint64_t address, size_t bytes) {
  uint64_t at = address - memory.addresses;
  if (at >= ADDRESSES) return NULL;
  const Slot *slot = &memory.slots[at >> SLOT_BITS];
  uint64_t within = address - slot->begin;
  return within <= slot->bytes && bytes <= slot->bytes - within ? slot->host + within : NULL;
}

void *emulator_memory(const char *who, const void *address, size_t bytes) {
  void *host = emulated_memory((uint64_t)address, bytes);
  if (!host) lose_device("%s: %zu bytes at %p are not allocated", who, bytes, address);
  return host;
}

bool on_device(const void *address, size_t bytes) {
  uint64_t from = (uint64_t)address;
  return from < memory.addresses + ADDRESSES && from + bytes > memory.addresses;
}

/* ---- allocations ---- */

static size_t slots_of(size_t bytes) {
  return (ALIGNMENT + bytes + SLOT_BYTES - 1) / SLOT_BYTES;
}

/* What the card has less by an allocation. */
static size_t bytes_taken(size_t bytes) {
  return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static cudaError_t allocate(void **p, size_t bytes) {
  if (bytes > memory.card || bytes_taken(bytes) > memory.card - memory.used ||
      slots_of(bytes) + 1 > SLOTS - memory.next)
    return cudaErrorMemoryAllocation;
  char *host = map(ALIGNMENT + bytes, PROT_READ | PROT_WRITE);
  if (!host) return cudaErrorMemoryAllocation;
  memset(host, 0xff, ALIGNMENT + bytes); /* NaN in fp32 and bf16 */
  Slot slot = {memory.addresses + memory.next * SLOT_BYTES + ALIGNMENT, bytes, host + ALIGNMENT};
  for (size_t i = 0; i < slots_of(bytes); i++) memory.slots[memory.next + i] = slot;
  memory.next += slots_of(bytes) + 1;
  memory.used += bytes_taken(bytes);
  *p = (void *)slot.begin;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t bytes) {
  cudaError_t status = begin();
  if (status) return finish(status);
  if (!p) return finish(cudaErrorInvalidValue);
  *p = NULL;
  return finish(bytes ? allocate(p, bytes) : cudaSuccess);
}

cudaError_t cudaFree(void *p) {
  cudaError_t status = begin();
  if (status || !p) return finish(status);
  if (!emulated_memory((uint64_t)p, 1)) return finish(cudaErrorInvalidValue);
  Slot *slots = &memory.slots[((uint64_t)p - memory.addresses) >> SLOT_BITS];
  const Slot slot = *slots;
  if (slot.begin != (uint64_t)p) return finish(cudaErrorInvalidValue);
  all_streams_finish();
  munmap(slot.host - ALIGNMENT, ALIGNMENT + slot.bytes);
  memset(slots, 0, slots_of(slot.bytes) * sizeof *slots);
  memory.used -= bytes_taken(slot.bytes);
  return finish(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
  cudaError_t status = begin();
  if (status) return finish(status);
  *free_bytes = memory.card - memory.used;
  *total = memory.card;
  return finish(cudaSuccess);
}

/* ---- the host's memory ---- */

static bool overlap(const Range *range, const char *begin, size_t bytes) {
  return begin < range->begin + range->bytes && range->begin < begin + bytes;
}

HostMemory host_memory_kind(const void *address, size_t bytes) {
  const char *begin = address;
  for (size_t i = 0; i < memory.locked_count; i++) {
    const Range *range = &memory.locked[i];
    if (begin >= range->begin && begin + bytes <= range->begin + range->bytes) return LOCKED;
    if (overlap(range, begin, bytes)) return LOCKED_IN_PART;
  }
  return PAGEABLE;
}

cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned flags) {
  cudaError_t status = begin();
  if (status) return finish(status);
  if (!p || !bytes || on_device(p, bytes)) return finish(cudaErrorInvalidValue);
  if (flags != cudaHostRegisterDefault) return finish(cudaErrorNotSupported);
  if (host_memory_kind(p, bytes) != PAGEABLE) return finish(cudaErrorHostMemoryAlreadyRegistered);
  if (memory.locked_count == memory.locked_space) {
    memory.locked_space = 2 * memory.locked_space + 8;
    memory.locked = realloc(memory.locked, memory.locked_space * sizeof *memory.locked);
    CHECK(memory.locked, "out of memory for the emulated device");
  }
  memory.locked[memory.locked_count++] = (Range){p, bytes};
  return finish(cudaSuccess);
}

cudaError_t cudaHostUnregister(void *p) {
  cudaError_t status = begin();
  if (status) return finish(status);
  for (size_t i = 0; i < memory.locked_count; i++)
    if (memory.locked[i].begin == p) {
      memory.locked[i] = memory.locked[--memory.locked_count];
      return finish(cudaSuccess);
    }
  return finish(cudaErrorHostMemoryNotRegistered);
}
