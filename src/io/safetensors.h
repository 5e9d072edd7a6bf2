/* safetensors files: 8 bytes of header length, a JSON header, the tensors' bytes. Format:
 * https://github.com/huggingface/safetensors. A "set" is one file or the shards named by an index. */
#ifndef SAFETENSORS_H
#define SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { ST_MAX_DIMS = 8 };

/* A tensor of an open set; `data` points into the mapped file. */
typedef struct SafeTensor {
  const char *name;
  DType dtype;
  int dims;
  int64_t shape[ST_MAX_DIMS];
  const void *data; /* row-major; may be unaligned */
  size_t bytes;
} SafeTensor;

typedef struct SafeTensors SafeTensors;

/* Maps PATH: a .safetensors file, or a folder that holds model.safetensors or
 * model.safetensors.index.json with its shards. Every header is checked (length, JSON, dtype, shape against
 * bytes, ranges inside the file, without gaps or overlaps, duplicates across shards). NULL and an Error else.
 */
SafeTensors *safetensors_open(const char *path, Error *e);
void safetensors_close(SafeTensors *set);

int64_t safetensors_count(const SafeTensors *set);
const SafeTensor *safetensors_at(const SafeTensors *set, int64_t i); /* sorted by name */
/* The tensor of that name, or NULL. */
const SafeTensor *safetensors_find(const SafeTensors *set, const char *name);

/* Converts n elements at `src` of type `from` (maybe unaligned) to fp32. */
void safetensors_to_fp32(float *dst, const void *src, DType from, int64_t n);

/* Writing. Declare every tensor first (so that the header is known), then write their bytes in the same
 * order, in pieces of any size. The file is complete, synced, and under its final name only after
 * safetensors_writer_close returned true; until then it is PATH.tmp. */
typedef struct SafeTensorsWriter SafeTensorsWriter;
SafeTensorsWriter *safetensors_writer_new(const char *path);
void safetensors_writer_declare(SafeTensorsWriter *w, const char *name, DType dtype, int dims,
                                const int64_t *shape);
/* metadata goes to the header's "__metadata__" ("format": "pt" is always there). */
void safetensors_writer_metadata(SafeTensorsWriter *w, const char *key, const char *value);
bool safetensors_writer_begin(SafeTensorsWriter *w, Error *e);
bool safetensors_writer_write(SafeTensorsWriter *w, const void *data, size_t bytes, Error *e);
/* XXH3 (64 bits, seed 0) of all bytes of the file so far. */
uint64_t safetensors_writer_hash(const SafeTensorsWriter *w);
/* Finishes and frees w in either case; `ok` false throws the file away. */
bool safetensors_writer_close(SafeTensorsWriter *w, bool ok, Error *e);

#ifdef __cplusplus
}
#endif
#endif
