/* NVIDIA's libraries, opened when they are first needed: the program runs where they are not installed. */
#ifndef VENDOR_LIBRARY_H
#define VENDOR_LIBRARY_H

#include <stddef.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Opens a shared library by its file name ("libcublasLt.so.13"): first as the loader finds it, then in the
 * places where CUDA's own installation and pip's packages put it. NULL and an Error that lists the places and
 * ends with the advice ("Install ...") when it is in none of them. It stays loaded until the program ends:
 * these libraries do not like to be unloaded.
 */
void *vendor_library_open(const char *file_name, const char *advice, Error *e);

/* A function's name, and the offset of the pointer to it in a table of functions. */
typedef struct VendorFunction {
  const char *name;
  size_t offset;
} VendorFunction;

/* Fills in `count` function pointers of a table. */
bool vendor_library_bind(void *library, const char *file_name, const VendorFunction *functions, size_t count,
                         void *table, const char *advice, Error *e);

#ifdef __cplusplus
}
#endif
#endif
