#include "device/vendor_library.h"

#include <dlfcn.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Folders, as patterns, below an environment variable's value when one is named. */
static const struct {
  const char *variable, *folders;
} places[] = {
    {"CUDA_HOME", "/lib64"},
    {"CUDA_HOME", "/lib"},
    {"CUDA_PATH", "/lib64"},
    {"CUDA_PATH", "/lib"},
    {NULL, "/usr/local/cuda/lib64"},
    {NULL, "/usr/local/cuda/lib"},
    {NULL, "/usr/local/cuda-*/lib64"},
    {"VIRTUAL_ENV", "/lib/python3*/site-packages/nvidia/*/lib"},
    {"CONDA_PREFIX", "/lib"},
    {"CONDA_PREFIX", "/lib/python3*/site-packages/nvidia/*/lib"},
    {"HOME", "/.local/lib/python3*/site-packages/nvidia/*/lib"},
    {NULL, "/usr/local/lib/python3*/*-packages/nvidia/*/lib"},
    {NULL, "/usr/lib/python3*/*-packages/nvidia/*/lib"},
};

static const int MODE = RTLD_NOW | RTLD_LOCAL;

/* The first file of that pattern that can be opened; `broken` gets the loader's word on one that cannot. */
static void *open_first(const char *pattern, char *broken, size_t broken_size) {
  glob_t found;
  void *library = NULL;
  if (glob(pattern, 0, NULL, &found) == 0)
    for (size_t i = 0; i < found.gl_pathc && !library; i++) {
      library = dlopen(found.gl_pathv[i], MODE);
      if (!library) snprintf(broken, broken_size, "%s", dlerror());
    }
  globfree(&found);
  return library;
}

void *vendor_library_open(const char *file_name, const char *advice, Error *e) {
  void *library = dlopen(file_name, MODE);
  char tried[1200] = "", broken[400] = "";
  for (size_t i = 0; i < sizeof places / sizeof *places && !library; i++) {
    const char *root = places[i].variable ? getenv(places[i].variable) : "";
    if (!root || (places[i].variable && !*root)) continue;
    char pattern[4096];
    int length = snprintf(pattern, sizeof pattern, "%s%s/%s", root, places[i].folders, file_name);
    if (length >= (int)sizeof pattern) continue;
    library = open_first(pattern, broken, sizeof broken);
    size_t at = strlen(tried);
    snprintf(tried + at, sizeof tried - at, "\n  %s%s", root, places[i].folders);
  }
  if (!library)
    error_usage(e,
                "found no %s that can be opened.%s%s\nLooked in the loader's path (LD_LIBRARY_PATH, "
                "ldconfig) and in%s\n%s",
                file_name, *broken ? "\n" : "", broken, tried, advice);
  return library;
}

bool vendor_library_bind(void *library, const char *file_name, const VendorFunction *functions, size_t count,
                         void *table, const char *advice, Error *e) {
  for (size_t i = 0; i < count; i++) {
    void *function = dlsym(library, functions[i].name);
    if (!function)
      return error_usage(e, "%s has no function %s: it is too old.\n%s", file_name, functions[i].name,
                         advice);
    memcpy((char *)table + functions[i].offset, &function, sizeof function);
  }
  return true;
}
