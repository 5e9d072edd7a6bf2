#include "io/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#define XXH_INLINE_ALL
#include <xxhash.h> // XXH3_state_t

#include "io/file.h"

struct SafeTensorsWriter {
  char *path, *temporary;
  cJSON *header;
  int fd;             /* -1 until the file is open */
  int64_t declared;   /* bytes of all declared tensors */
  int64_t written;    /* tensor bytes written so far */
  XXH3_state_t *hash; /* of all bytes written so far */
};

static bool write_bytes(SafeTensorsWriter *w, const void *data, size_t bytes, Error *e) {
  XXH3_64bits_update(w->hash, data, bytes);
  return file_write_all(w->fd, w->path, data, bytes, e);
}

static const char *file_dtype_name(DType t) {
  return t == DT_FP32 ? "F32" : t == DT_BF16 ? "BF16" : t == DT_U8 ? "U8" : "F16";
}

SafeTensorsWriter *safetensors_writer_new(const char *path) {
  SafeTensorsWriter *w = calloc(1, sizeof *w);
  CHECK(w, "out of memory");
  w->path = strdup(path);
  CHECK(w->path, "out of memory");
  w->temporary = file_temporary_name(path);
  w->header = cJSON_CreateObject();
  w->fd = -1;
  w->hash = XXH3_createState(); /* aligned as it asks to be */
  CHECK(w->hash, "out of memory");
  XXH3_64bits_reset(w->hash);
  CHECK(w->header && cJSON_AddObjectToObject(w->header, "__metadata__"), "out of memory");
  safetensors_writer_metadata(w, "format", "pt");
  return w;
}

/* Adds an integer with all its digits: cJSON would write large ones as 1e+15, which is no offset. */
static void add_integer(cJSON *array, int64_t value) {
  char text[32];
  snprintf(text, sizeof text, "%" PRId64, value);
  CHECK(cJSON_AddItemToArray(array, cJSON_CreateRaw(text)), "out of memory");
}

void safetensors_writer_declare(SafeTensorsWriter *w, const char *name, DType dtype, int dims,
                                const int64_t *shape) {
  CHECK(w->fd < 0, "%s: tensor %s declared after the header was written", w->path, name);
  CHECK(!cJSON_GetObjectItemCaseSensitive(w->header, name), "%s: tensor %s declared twice", w->path, name);
  CHECK(dims >= 0 && dims <= ST_MAX_DIMS, "%s: tensor %s has %d dimensions", w->path, name, dims);
  cJSON *tensor = cJSON_AddObjectToObject(w->header, name);
  CHECK(tensor && cJSON_AddStringToObject(tensor, "dtype", file_dtype_name(dtype)), "out of memory");
  cJSON *sizes = cJSON_AddArrayToObject(tensor, "shape");
  int64_t bytes = (int64_t)dtype_size(dtype);
  for (int i = 0; i < dims; i++) {
    CHECK(shape[i] >= 0 && !__builtin_mul_overflow(bytes, shape[i], &bytes),
          "%s: tensor %s has a shape too large", w->path, name);
    add_integer(sizes, shape[i]);
  }
  cJSON *offsets = cJSON_AddArrayToObject(tensor, "data_offsets");
  add_integer(offsets, w->declared);
  CHECK(!__builtin_add_overflow(w->declared, bytes, &w->declared), "%s: too many bytes declared", w->path);
  add_integer(offsets, w->declared);
}

void safetensors_writer_metadata(SafeTensorsWriter *w, const char *key, const char *value) {
  CHECK(w->fd < 0, "%s: metadata %s given after the header was written", w->path, key);
  cJSON *metadata = cJSON_GetObjectItemCaseSensitive(w->header, "__metadata__");
  cJSON_DeleteItemFromObjectCaseSensitive(metadata, key);
  CHECK(cJSON_AddStringToObject(metadata, key, value), "out of memory");
}

bool safetensors_writer_begin(SafeTensorsWriter *w, Error *e) {
  CHECK(w->fd < 0, "%s: begun twice", w->path);
  w->fd = file_create(w->temporary, e);
  if (w->fd < 0) return false;
  char *text = cJSON_PrintUnformatted(w->header);
  CHECK(text, "out of memory");
  size_t used = strlen(text), padded = (used + 7) / 8 * 8; /* so that the tensors begin aligned */
  char *block = malloc(8 + padded);
  CHECK(block, "out of memory for %zu bytes", 8 + padded);
  for (int i = 0; i < 8; i++) block[i] = (char)(padded >> 8 * i);
  memcpy(block + 8, text, used);
  memset(block + 8 + used, ' ', padded - used);
  bool ok = write_bytes(w, block, 8 + padded, e);
  free(block);
  cJSON_free(text);
  return ok;
}

bool safetensors_writer_write(SafeTensorsWriter *w, const void *data, size_t bytes, Error *e) {
  CHECK(w->fd >= 0, "%s: tensor bytes written before the header", w->path);
  CHECK(bytes <= (size_t)(w->declared - w->written), "%s: %zu bytes written where %" PRId64 " were left",
        w->path, bytes, w->declared - w->written);
  if (!write_bytes(w, data, bytes, e)) return false;
  w->written += (int64_t)bytes;
  return true;
}

uint64_t safetensors_writer_hash(const SafeTensorsWriter *w) {
  return XXH3_64bits_digest(w->hash);
}

bool safetensors_writer_close(SafeTensorsWriter *w, bool ok, Error *e) {
  if (ok) {
    CHECK(w->fd >= 0, "%s: closed without a header", w->path);
    CHECK(w->written == w->declared, "%s: %" PRId64 " of %" PRId64 " declared bytes were written", w->path,
          w->written, w->declared);
    ok = file_publish(w->fd, w->temporary, w->path, e);
  } else if (w->fd >= 0) {
    file_discard(w->fd, w->temporary);
  }
  cJSON_Delete(w->header);
  XXH3_freeState(w->hash);
  free(w->temporary);
  free(w->path);
  free(w);
  return ok;
}
