/* The CPU device. Its memory is the host's, its operations run on OpenMP threads, its products by a BLAS. */
#include "device/device_cpu.h"

#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "device/blas.h" /* defines: openblas_get_parallel, bli_thread_set_num_threads */

/* What the operations need at most, at a time: matrix products keep three fp32 tiles of 4 MiB for bf16
 * operands, reductions keep no more than REDUCTION_WORKSPACE (launch.cuh). Neither grows with the threads or
 * with the widths of the model. */
static const size_t WORKSPACE_BYTES = (size_t)16 << 20;

/* Copies and fills are handed out to the threads in pieces of this many bytes. */
static const size_t PIECE_BYTES = (size_t)4 << 20;

/* The processor's name as the kernel reports it, or "CPU". */
static void cpu_name(char *name, size_t size) {
  snprintf(name, size, "CPU");
  FILE *file = fopen("/proc/cpuinfo", "r");
  if (!file) return;
  char line[256];
  while (fgets(line, sizeof line, file)) {
    if (strncmp(line, "model name", 10) != 0) continue;
    char *text = strchr(line, ':');
    if (!text) continue;
    text += strspn(text, ": \t");
    text[strcspn(text, "\n")] = 0;
    if (*text) snprintf(name, size, "%s", text);
    break;
  }
  fclose(file);
}

void cpu_open(Device *dev) {
  if (openblas_get_parallel && openblas_get_parallel() != OPENBLAS_WITH_OPENMP)
    fprintf(stderr, "# warning: OpenBLAS is not its OpenMP build, which costs up to 3x in speed; install "
                    "libopenblas-openmp-dev and remove libopenblas0-pthread\n");
  if (bli_thread_set_num_threads) bli_thread_set_num_threads(dev->threads);
  dev->kind = DEVICE_CPU;
  dev->max_chunk_rows = 4096;
  char model[96];
  cpu_name(model, sizeof model);
  snprintf(dev->name, sizeof dev->name, "%s, %d thread%s", model, dev->threads, dev->threads == 1 ? "" : "s");
}

size_t cpu_workspace_bytes(void) {
  return WORKSPACE_BYTES;
}

void cpu_copy(Device *dev, void *dst, const void *src, size_t bytes) {
  int64_t pieces = (int64_t)((bytes + PIECE_BYTES - 1) / PIECE_BYTES);
#pragma omp parallel for schedule(static) num_threads(dev->threads) if (pieces > 1)
  for (int64_t i = 0; i < pieces; i++) {
    size_t at = (size_t)i * PIECE_BYTES, left = bytes - at;
    memcpy((char *)dst + at, (const char *)src + at, left < PIECE_BYTES ? left : PIECE_BYTES);
  }
}

void cpu_fill(Device *dev, void *p, int byte, size_t bytes) {
  int64_t pieces = (int64_t)((bytes + PIECE_BYTES - 1) / PIECE_BYTES);
#pragma omp parallel for schedule(static) num_threads(dev->threads) if (pieces > 1)
  for (int64_t i = 0; i < pieces; i++) {
    size_t at = (size_t)i * PIECE_BYTES, left = bytes - at;
    memset((char *)p + at, byte, left < PIECE_BYTES ? left : PIECE_BYTES);
  }
}

void cpu_store_past_caches(void *to, const void *from, size_t bytes) {
  size_t done = 0;
#ifdef __SSE2__
  if ((uintptr_t)to % 16 == 0) {
    for (; done + 64 <= bytes; done += 64) { /* a line of the cache, so that memory is written once */
      __m128i line[4];
      memcpy(line, (const char *)from + done, sizeof line);
      for (int i = 0; i < 4; i++) _mm_stream_si128((__m128i *)((char *)to + done) + i, line[i]);
    }
  }
#endif
  memcpy((char *)to + done, (const char *)from + done, bytes - done);
}

void cpu_end_of_stores_past_caches(void) {
#ifdef __SSE2__
  _mm_sfence();
#endif
}
