/* The CPU device. Its memory is the host's, its operations run on OpenMP threads and OpenBLAS. */
#include "device/device.h"

#include <cblas.h> // defines: openblas_get_parallel
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* What the operations need at most, at a time: matrix products keep three fp32 tiles of 4 MiB for bf16
 * operands, reductions keep no more than REDUCTION_WORKSPACE (launch.cuh). Neither grows with the threads or
 * with the widths of the model. */
static const size_t WORKSPACE_BYTES = (size_t)16 << 20;

static const int MAX_THREADS = 4096;

/* Copies and fills are handed out to the threads in pieces of this many bytes. */
static const size_t PIECE_BYTES = (size_t)4 << 20;

/* ---- opening ---- */

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

bool device_open(Device *dev, const char *kind_name, int threads, Error *e) {
  memset(dev, 0, sizeof *dev);
  if (strcmp(kind_name, "cuda") == 0)
    return error_usage(e, "--device cuda: this build has no CUDA device yet; use --device cpu");
  if (strcmp(kind_name, "cpu") != 0 && strcmp(kind_name, "auto") != 0)
    return error_usage(e, "--device %s: expected auto, cpu or cuda", kind_name);
  if (threads < 0 || threads > MAX_THREADS)
    return error_usage(e, "--threads %d: expected 1 to %d, or 0 for all processors", threads, MAX_THREADS);

  /* The OpenMP build of OpenBLAS takes its number of threads from OpenMP at every call, so this sets both.
   * openblas_set_num_threads() would write its number back into OpenMP, behind the caller's back. */
  if (threads > 0) omp_set_num_threads(threads);
  if (openblas_get_parallel() != 2 /* OPENBLAS_OPENMP */)
    fprintf(stderr, "# warning: OpenBLAS is not its OpenMP build, which costs up to 3x in speed; install "
                    "libopenblas-openmp-dev and remove libopenblas0-pthread\n");

  dev->kind = DEVICE_CPU;
  dev->threads = omp_get_max_threads(); /* heeds OMP_NUM_THREADS and the processors we may run on */
  dev->max_chunk_rows = 4096;
  char model[96];
  cpu_name(model, sizeof model);
  snprintf(dev->name, sizeof dev->name, "%s, %d thread%s", model, dev->threads, dev->threads == 1 ? "" : "s");
  return true;
}

void device_close(Device *dev) {
  memset(dev, 0, sizeof *dev);
}

size_t device_workspace_bytes(const Device *, DType) {
  return WORKSPACE_BYTES;
}

/* ---- memory ---- */

/* The number that follows `key` and blanks at the beginning of a line of a file: of the form of /proc/meminfo
 * and of a cgroup's memory.stat. An empty key takes the first line. False when there is no such number, as
 * in a file that says "max". */
static bool file_number(const char *path, const char *key, uint64_t *number) {
  FILE *file = fopen(path, "r");
  if (!file) return false;
  char line[256];
  bool found = false;
  size_t length = strlen(key);
  while (!found && fgets(line, sizeof line, file)) {
    if (strncmp(line, key, length) != 0) continue;
    char *end, *text = line + length + strspn(line + length, " \t");
    *number = strtoull(text, &end, 10);
    found = end != text;
    if (length == 0) break;
  }
  fclose(file);
  return found;
}

/* Files of one cgroup version's memory controller. */
typedef struct CgroupFiles {
  const char *root, *limit, *used, *inactive_key, *active_key;
} CgroupFiles;

/* Bytes that the cgroup at root/path lets us take: its limit less what is used; page cache counts as free,
 * since the kernel drops it first. SIZE_MAX when it has no limit. */
static size_t cgroup_free(const CgroupFiles *files, const char *path) {
  char name[4352];
  uint64_t limit, used, inactive = 0, active = 0;
  snprintf(name, sizeof name, "%s%s/%s", files->root, path, files->limit);
  if (!file_number(name, "", &limit)) return SIZE_MAX;
  snprintf(name, sizeof name, "%s%s/%s", files->root, path, files->used);
  if (!file_number(name, "", &used)) return SIZE_MAX;
  snprintf(name, sizeof name, "%s%s/memory.stat", files->root, path);
  file_number(name, files->inactive_key, &inactive);
  file_number(name, files->active_key, &active);
  uint64_t kept = used > inactive + active ? used - inactive - active : 0;
  return limit > kept ? limit - kept : 0;
}

/* The least that our cgroup and the ones around it let us take. */
static size_t cgroups_free(void) {
  static const CgroupFiles v2 = {"/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file ",
                                 "active_file "};
  static const CgroupFiles v1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                 "total_inactive_file ", "total_active_file "};
  size_t least = SIZE_MAX;
  FILE *file = fopen("/proc/self/cgroup", "r");
  if (!file) return least;
  char line[4096]; /* "0::/path" in version 2, "4:memory:/path" in version 1 */
  while (fgets(line, sizeof line, file)) {
    char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!path) continue;
    *path++ = 0;
    path[strcspn(path, "\n")] = 0;
    bool is_v2 = controllers[1] == 0;
    if (!is_v2 && !strstr(controllers, "memory")) continue;
    /* In a container the path may be one of the host, not to be found here: its parents are tried anyway. */
    for (char *slash = path + strlen(path); slash; slash = strrchr(path, '/')) {
      *slash = 0;
      size_t bytes = cgroup_free(is_v2 ? &v2 : &v1, path);
      if (bytes < least) least = bytes;
    }
  }
  fclose(file);
  return least;
}

static size_t host_free_bytes(void) {
  uint64_t kilobytes = 0;
  size_t available = SIZE_MAX / 2; /* without /proc there is nothing to be said: let mmap decide */
  if (file_number("/proc/meminfo", "MemAvailable:", &kilobytes)) available = (size_t)kilobytes * 1024;
  size_t limited = cgroups_free();
  return limited < available ? limited : available;
}

void *host_alloc(size_t bytes, Error *e) {
  size_t free_bytes = host_free_bytes();
  void *p = MAP_FAILED;
  /* Linux hands out more than there is and kills the process that touches it: refuse here, with a message. */
  if (bytes <= free_bytes)
    p = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) {
    error_runtime(e,
                  "cannot allocate %.2f GB of memory, %.2f GB are free; use a shorter --seq-len, a smaller "
                  "--batch or --recompute layer (--plan shows what needs how much)",
                  (double)bytes / 1e9, (double)free_bytes / 1e9);
    return NULL;
  }
  madvise(p, bytes, MADV_HUGEPAGE); /* only a hint: kernels without huge pages refuse it */
  return p;
}

void host_free(void *p, size_t bytes) {
  if (p) CHECK(munmap(p, bytes ? bytes : 1) == 0, "munmap of %zu bytes at %p failed", bytes, p);
}

/* The CPU's memory is the host's. */
void *device_alloc(Device *, size_t bytes, Error *e) {
  return host_alloc(bytes, e);
}

void device_free(Device *, void *p, size_t bytes) {
  host_free(p, bytes);
}

size_t device_free_bytes(const Device *) {
  return host_free_bytes();
}

/* ---- copies ---- */

void device_copy(Device *dev, void *dst, const void *src, size_t bytes, CopyKind) {
  int64_t pieces = (int64_t)((bytes + PIECE_BYTES - 1) / PIECE_BYTES);
#pragma omp parallel for schedule(static) num_threads(dev->threads) if (pieces > 1)
  for (int64_t i = 0; i < pieces; i++) {
    size_t at = (size_t)i * PIECE_BYTES, left = bytes - at;
    memcpy((char *)dst + at, (const char *)src + at, left < PIECE_BYTES ? left : PIECE_BYTES);
  }
}

void device_fill(Device *dev, void *p, int byte, size_t bytes) {
  int64_t pieces = (int64_t)((bytes + PIECE_BYTES - 1) / PIECE_BYTES);
#pragma omp parallel for schedule(static) num_threads(dev->threads) if (pieces > 1)
  for (int64_t i = 0; i < pieces; i++) {
    size_t at = (size_t)i * PIECE_BYTES, left = bytes - at;
    memset((char *)p + at, byte, left < PIECE_BYTES ? left : PIECE_BYTES);
  }
}
