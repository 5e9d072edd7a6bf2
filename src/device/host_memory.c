/* Pages of host memory, and how many of them the system would still give us. */
#include "device/host_memory.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

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

/* Which bytes are asked for: those that are free, or all that there are. */
typedef enum Extent { FREE, ALL } Extent;

/* Bytes that the cgroup at root/path lets us take: its limit, less what is used where it is asked for what is
 * free; page cache counts as free, since the kernel drops it first. SIZE_MAX when it has no limit. */
static size_t cgroup_bytes(const CgroupFiles *files, const char *path, Extent extent) {
  char name[4352];
  uint64_t limit, used, inactive = 0, active = 0;
  snprintf(name, sizeof name, "%s%s/%s", files->root, path, files->limit);
  if (!file_number(name, "", &limit)) return SIZE_MAX;
  if (extent == ALL) return limit;
  snprintf(name, sizeof name, "%s%s/%s", files->root, path, files->used);
  if (!file_number(name, "", &used)) return SIZE_MAX;
  snprintf(name, sizeof name, "%s%s/memory.stat", files->root, path);
  file_number(name, files->inactive_key, &inactive);
  file_number(name, files->active_key, &active);
  uint64_t kept = used > inactive + active ? used - inactive - active : 0;
  return limit > kept ? limit - kept : 0;
}

/* The least that our cgroup and the ones around it let us take. */
static size_t cgroups_bytes(Extent extent) {
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
      size_t bytes = cgroup_bytes(is_v2 ? &v2 : &v1, path, extent);
      if (bytes < least) least = bytes;
    }
  }
  fclose(file);
  return least;
}

static size_t host_bytes(Extent extent) {
  uint64_t kilobytes = 0;
  size_t available = SIZE_MAX / 2; /* without /proc there is nothing to be said: let mmap decide */
  if (file_number("/proc/meminfo", extent == ALL ? "MemTotal:" : "MemAvailable:", &kilobytes))
    available = (size_t)kilobytes * 1024;
  size_t limited = cgroups_bytes(extent);
  return limited < available ? limited : available;
}

size_t host_free_bytes(void) {
  return host_bytes(FREE);
}

size_t host_own_bytes(void) {
  const size_t part_of_others = 8;
  size_t all = host_bytes(ALL);
  return all - all / part_of_others;
}

void *host_pages_alloc(size_t bytes, Error *e) {
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

void host_pages_free(void *p, size_t bytes) {
  if (p) CHECK(munmap(p, bytes ? bytes : 1) == 0, "munmap of %zu bytes at %p failed", bytes, p);
}
