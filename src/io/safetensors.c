#include "io/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file.h"
#include "io/json_in.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensor bytes in files are little-endian");

/* A header takes up to 40 times its size while it is parsed. Those of the largest models have below 10 MB. */
static const uint64_t MAX_HEADER = 16 * 1000 * 1000;
static const size_t MAX_INDEX = 16 * 1000 * 1000;
static const double MAX_EXACT = 9007199254740992.0; /* 2^53: JSON numbers are doubles */

typedef struct Mapping {
  char *path;
  void *start;
  size_t size;
} Mapping;

typedef struct Entry {
  SafeTensor tensor; /* name owned */
  int64_t begin;     /* offset in the file's data */
  int file;          /* index of its mapping */
} Entry;

struct SafeTensors {
  Mapping *files;
  int file_count;
  Entry *entries; /* sorted by name once everything is read */
  int64_t count, capacity;
};

static char *join(const char *folder, const char *name) {
  size_t n = strlen(folder), m = strlen(name);
  char *path = malloc(n + m + 2);
  CHECK(path, "out of memory for %zu bytes", n + m + 2);
  memcpy(path, folder, n);
  path[n] = '/';
  memcpy(path + n + 1, name, m + 1);
  return path;
}

/* ---- One file ------------------------------------------------------------------------------------- */

static bool damaged(Error *e, const char *path, const char *what) {
  return error_usage(e, "%s: %s. The file is damaged or not a safetensors file: copy or download it again",
                     path, what);
}

static bool map_file(SafeTensors *set, const char *path, Error *e) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* else a named pipe would wait for its writer */
  if (fd < 0)
    return error_usage(e, "%s: cannot be opened: %s. Check the path and its permissions", path,
                       strerror(errno));
  struct stat s;
  if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode)) {
    close(fd);
    return error_usage(e, "%s: is not a plain file. Give a .safetensors file or a model's folder", path);
  }
  if (s.st_size < 8) {
    close(fd);
    char text[64];
    snprintf(text, sizeof text, "has %lld bytes, at least 8 are expected", (long long)s.st_size);
    return damaged(e, path, text);
  }
  void *start = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  if (start == MAP_FAILED)
    return error_runtime(e, "%s: cannot be mapped: %s. Check the limit on virtual memory (ulimit -v)", path,
                         strerror(errno));
  set->files = realloc(set->files, (size_t)(set->file_count + 1) * sizeof *set->files);
  CHECK(set->files, "out of memory");
  char *copy = strdup(path);
  CHECK(copy, "out of memory");
  set->files[set->file_count++] = (Mapping){copy, start, (size_t)s.st_size};
  return true;
}

/* A name from a file goes into messages, which have little room. */
static bool check_name(const char *name, const char *path, Error *e) {
  enum { LONGEST = 255 };
  size_t n = strlen(name);
  if (n >= 1 && n <= LONGEST) return true;
  return error_usage(e,
                     "%s: a tensor's name has %zu bytes, expected 1 to %d: %.60s. The file is damaged: "
                     "copy or download it again",
                     path, n, LONGEST, name);
}

/* A whole number in [0, 2^53]. */
static bool whole_number(const cJSON *item, int64_t *value) {
  if (!cJSON_IsNumber(item)) return false;
  double d = item->valuedouble;
  if (!(d >= 0 && d <= MAX_EXACT) || d != (double)(int64_t)d) return false;
  *value = (int64_t)d;
  return true;
}

static bool read_dtype(const cJSON *item, const char *path, SafeTensor *t, Error *e) {
  static const struct {
    const char *name;
    DType dtype;
  } known[] = {{"F32", DT_FP32}, {"BF16", DT_BF16}, {"F16", DT_FP16}, {"U8", DT_U8}};
  if (!cJSON_IsString(item))
    return error_usage(
        e, "%s: tensor %s has no \"dtype\" string. The file is damaged: copy or download it again", path,
        t->name);
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if (strcmp(item->valuestring, known[i].name) == 0) {
      t->dtype = known[i].dtype;
      return true;
    }
  }
  return error_usage(
      e, "%s: tensor %s has dtype %.60s, expected F32, BF16 or F16. Convert the model to one of them", path,
      t->name, item->valuestring);
}

/* Reads the shape and sets t->bytes to what it and the dtype come to. */
static bool read_shape(const cJSON *shape, const char *path, SafeTensor *t, Error *e) {
  if (!cJSON_IsArray(shape))
    return error_usage(e,
                       "%s: tensor %s has no \"shape\" list. The file is damaged: copy or download it again",
                       path, t->name);
  int64_t bytes = (int64_t)dtype_size(t->dtype);
  const cJSON *item;
  cJSON_ArrayForEach(item, shape) {
    if (t->dims == ST_MAX_DIMS)
      return error_usage(e, "%s: tensor %s has more than %d dimensions. No tensor of these models has", path,
                         t->name, ST_MAX_DIMS);
    int64_t size;
    if (!whole_number(item, &size))
      return error_usage(
          e,
          "%s: tensor %s: entry %d of its shape is not a whole number of 0 or more. The file is "
          "damaged: copy or download it again",
          path, t->name, t->dims);
    t->shape[t->dims++] = size;
    if (__builtin_mul_overflow(bytes, size, &bytes))
      return error_usage(
          e,
          "%s: tensor %s has a shape that comes to more bytes than 64 bits count. The file is damaged: "
          "copy or download it again",
          path, t->name);
  }
  t->bytes = (size_t)bytes;
  return true;
}

/* Reads one member of the header. data_bytes: what follows the header in the file. */
static bool read_tensor(const cJSON *item, const char *path, const char *data, int64_t data_bytes,
                        Entry *entry, Error *e) {
  SafeTensor *t = &entry->tensor;
  if (!cJSON_IsObject(item))
    return error_usage(
        e, "%s: tensor %s is not described by an object. The file is damaged: copy or download it again",
        path, t->name);
  if (!read_dtype(cJSON_GetObjectItemCaseSensitive(item, "dtype"), path, t, e)) return false;
  if (!read_shape(cJSON_GetObjectItemCaseSensitive(item, "shape"), path, t, e)) return false;
  const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(item, "data_offsets");
  int64_t end;
  if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
      !whole_number(cJSON_GetArrayItem(offsets, 0), &entry->begin) ||
      !whole_number(cJSON_GetArrayItem(offsets, 1), &end) || entry->begin > end)
    return error_usage(
        e,
        "%s: tensor %s has no \"data_offsets\" of the form [begin, end]. The file is damaged: copy or "
        "download it again",
        path, t->name);
  if (end > data_bytes)
    return error_usage(e,
                       "%s: tensor %s ends at byte %" PRId64 " of the data, the file holds %" PRId64
                       ". The file is cut short: copy or download it again",
                       path, t->name, end, data_bytes);
  if ((size_t)(end - entry->begin) != t->bytes)
    return error_usage(e,
                       "%s: tensor %s occupies %" PRId64
                       " bytes, its shape and dtype come to %zu. The file is "
                       "damaged: copy or download it again",
                       path, t->name, end - entry->begin, t->bytes);
  t->data = data + entry->begin;
  return true;
}

static bool check_metadata(const cJSON *metadata, const char *path, Error *e) {
  bool ok = cJSON_IsObject(metadata);
  const cJSON *item;
  cJSON_ArrayForEach(item, metadata) ok = ok && cJSON_IsString(item);
  return ok || damaged(e, path, "its \"__metadata__\" is not an object of strings");
}

static Entry *add_entry(SafeTensors *set, const char *name) {
  if (set->count == set->capacity) {
    set->capacity = set->capacity ? 2 * set->capacity : 256;
    set->entries = realloc(set->entries, (size_t)set->capacity * sizeof *set->entries);
    CHECK(set->entries, "out of memory");
  }
  Entry *entry = &set->entries[set->count++];
  char *copy = strdup(name);
  CHECK(copy, "out of memory");
  *entry = (Entry){.tensor.name = copy, .file = set->file_count - 1};
  return entry;
}

static int by_place(const void *a, const void *b) {
  const Entry *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  return (x->tensor.bytes > y->tensor.bytes) - (x->tensor.bytes < y->tensor.bytes); /* empty ones first */
}

/* The file's tensors, `first` and those after it, must follow each other from the first to the last byte of
 * its data. */
static bool check_places(SafeTensors *set, int64_t first, const char *path, int64_t data_bytes, Error *e) {
  if (set->count > first)
    qsort(set->entries + first, (size_t)(set->count - first), sizeof *set->entries, by_place);
  int64_t at = 0;
  for (int64_t i = first; i < set->count; i++) {
    const Entry *entry = &set->entries[i];
    if (entry->begin != at)
      return error_usage(e,
                         "%s: tensor %s begins at byte %" PRId64 " of the data, expected %" PRId64
                         ": there is %s before it. The file is damaged: copy or download it again",
                         path, entry->tensor.name, entry->begin, at,
                         entry->begin < at ? "an overlap with the tensor" : "a gap");
    at += (int64_t)entry->tensor.bytes;
  }
  if (at == data_bytes) return true;
  return error_usage(e,
                     "%s: its tensors end at byte %" PRId64 " of the data, the file holds %" PRId64
                     ": there is a gap at the end. The file is damaged: copy or download it again",
                     path, at, data_bytes);
}

static bool read_tensors(SafeTensors *set, const cJSON *header, const char *data, int64_t data_bytes,
                         Error *e) {
  const char *path = set->files[set->file_count - 1].path;
  int64_t first = set->count;
  const cJSON *item;
  cJSON_ArrayForEach(item, header) {
    if (strcmp(item->string, "__metadata__") == 0) {
      if (!check_metadata(item, path, e)) return false;
    } else if (!check_name(item->string, path, e) ||
               !read_tensor(item, path, data, data_bytes, add_entry(set, item->string), e)) {
      return false;
    }
  }
  return check_places(set, first, path, data_bytes, e);
}

static bool read_file(SafeTensors *set, const char *path, Error *e) {
  if (!map_file(set, path, e)) return false;
  const Mapping *file = &set->files[set->file_count - 1];
  uint64_t header_bytes;
  memcpy(&header_bytes, file->start, sizeof header_bytes);
  char text[128];
  if (header_bytes == 0 || header_bytes > MAX_HEADER) {
    snprintf(text, sizeof text, "its header has %" PRIu64 " bytes, expected 1 to %" PRIu64, header_bytes,
             MAX_HEADER);
    return damaged(e, path, text);
  }
  if (header_bytes > file->size - 8) {
    snprintf(text, sizeof text, "its header has %" PRIu64 " bytes, the file only %zu after the length",
             header_bytes, file->size - 8);
    return damaged(e, path, text);
  }
  const char *header_text = (const char *)file->start + 8;
  cJSON *header = json_read_object(header_text, (size_t)header_bytes, e);
  if (!header) return error_prefix(e, "%s: its header ", path);
  const char *data = header_text + header_bytes;
  bool ok = read_tensors(set, header, data, (int64_t)(file->size - 8 - header_bytes), e);
  cJSON_Delete(header);
  return ok;
}

/* ---- A set of files ------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b) {
  return strcmp(((const Entry *)a)->tensor.name, ((const Entry *)b)->tensor.name);
}

/* Sorts the set by name and refuses a name that is in two files. */
static bool sort_set(SafeTensors *set, Error *e) {
  if (set->count > 0) qsort(set->entries, (size_t)set->count, sizeof *set->entries, by_name);
  for (int64_t i = 1; i < set->count; i++) {
    const Entry *a = &set->entries[i - 1], *b = &set->entries[i];
    if (strcmp(a->tensor.name, b->tensor.name) != 0) continue;
    return error_usage(
        e, "tensor %s is in %s and in %s, expected in one of them. Remove one, or download both again",
        a->tensor.name, set->files[a->file].path, set->files[b->file].path);
  }
  return true;
}

static Entry *find_entry(const SafeTensors *set, const char *name) {
  Entry key = {.tensor.name = name};
  return set->count ? bsearch(&key, set->entries, (size_t)set->count, sizeof key, by_name) : NULL;
}

/* A shard must be a file beside its index, never a path that leads elsewhere. */
static bool check_shard_name(const cJSON *item, const char *index_path, Error *e) {
  enum { LONGEST = 255 }; /* of a file's name */
  if (!check_name(item->string, index_path, e)) return false;
  const char *shard = cJSON_IsString(item) ? item->valuestring : "";
  if (*shard && *shard != '.' && !strpbrk(shard, "/\\") && strlen(shard) <= LONGEST) return true;
  return error_usage(
      e,
      "%s: tensor %s is said to be in \"%.60s\", expected the name of a file in the same folder. Correct "
      "the index or download it again",
      index_path, item->string, shard);
}

static int by_text(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Maps every file that the index names, each once. */
static bool read_shards(SafeTensors *set, const char *folder, const char *index_path, const cJSON *map,
                        Error *e) {
  int n = cJSON_GetArraySize(map);
  const char **names = malloc((size_t)n * sizeof *names);
  CHECK(names, "out of memory");
  const cJSON *item;
  int i = 0;
  bool ok = true;
  cJSON_ArrayForEach(item, map) {
    ok = ok && check_shard_name(item, index_path, e);
    names[i++] = item->valuestring;
  }
  if (ok) qsort(names, (size_t)n, sizeof *names, by_text);
  for (i = 0; i < n && ok; i++) {
    if (i > 0 && strcmp(names[i], names[i - 1]) == 0) continue;
    char *path = join(folder, names[i]);
    ok = access(path, F_OK) == 0
             ? read_file(set, path, e)
             : error_usage(e, "%s: names the file %s, which is not there. Download or copy it", index_path,
                           path);
    free(path);
  }
  free(names);
  return ok;
}

/* Every tensor that the index lists must be in the shard it names. */
static bool check_index(const SafeTensors *set, const char *index_path, const cJSON *map, Error *e) {
  const cJSON *item;
  cJSON_ArrayForEach(item, map) {
    const Entry *entry = find_entry(set, item->string);
    const char *path = entry ? set->files[entry->file].path : NULL;
    if (path && strcmp(strrchr(path, '/') + 1, item->valuestring) == 0) continue;
    return error_usage(
        e,
        "%s: tensor %s is said to be in %s, but is %s%s. Index and files do not belong together: "
        "download them again",
        index_path, item->string, item->valuestring, path ? "in " : "missing", path ? path : "");
  }
  return true;
}

static bool read_index(SafeTensors *set, const char *folder, const char *index_path, Error *e) {
  size_t bytes;
  char *text = file_read_text(index_path, MAX_INDEX, &bytes, e);
  if (!text) return false;
  cJSON *index = json_read_object(text, bytes, e);
  free(text);
  if (!index) return error_prefix(e, "%s: ", index_path);
  const cJSON *map = cJSON_GetObjectItemCaseSensitive(index, "weight_map");
  bool ok = (cJSON_IsObject(map) && map->child) ||
            error_usage(e,
                        "%s: has no \"weight_map\" from tensors to files. The index is damaged: download it "
                        "again",
                        index_path);
  ok = ok && read_shards(set, folder, index_path, map, e) && sort_set(set, e) &&
       check_index(set, index_path, map, e);
  cJSON_Delete(index);
  return ok;
}

static bool read_folder(SafeTensors *set, const char *folder, Error *e) {
  char *single = join(folder, "model.safetensors"), *index = join(folder, "model.safetensors.index.json");
  bool ok;
  if (access(single, F_OK) == 0)
    ok = read_file(set, single, e) && sort_set(set, e);
  else if (access(index, F_OK) == 0)
    ok = read_index(set, folder, index, e);
  else
    ok = error_usage(
        e,
        "%s: has neither model.safetensors nor model.safetensors.index.json. Give a Hugging Face folder "
        "with safetensors weights; other formats must be converted first",
        folder);
  free(single);
  free(index);
  return ok;
}

SafeTensors *safetensors_open(const char *path, Error *e) {
  SafeTensors *set = calloc(1, sizeof *set);
  CHECK(set, "out of memory");
  struct stat s;
  bool folder = stat(path, &s) == 0 && S_ISDIR(s.st_mode);
  if (folder ? read_folder(set, path, e) : read_file(set, path, e) && sort_set(set, e)) return set;
  safetensors_close(set);
  return NULL;
}

void safetensors_close(SafeTensors *set) {
  if (!set) return;
  for (int64_t i = 0; i < set->count; i++) free((char *)set->entries[i].tensor.name);
  for (int i = 0; i < set->file_count; i++) {
    munmap(set->files[i].start, set->files[i].size);
    free(set->files[i].path);
  }
  free(set->entries);
  free(set->files);
  free(set);
}

int64_t safetensors_count(const SafeTensors *set) {
  return set->count;
}

const SafeTensor *safetensors_at(const SafeTensors *set, int64_t i) {
  CHECK(i >= 0 && i < set->count, "tensor %" PRId64 " of %" PRId64, i, set->count);
  return &set->entries[i].tensor;
}

const SafeTensor *safetensors_find(const SafeTensors *set, const char *name) {
  const Entry *entry = find_entry(set, name);
  return entry ? &entry->tensor : NULL;
}

/* ---- Conversion ----------------------------------------------------------------------------------- */

static inline float float_of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* Shifting a half's exponent and fraction into a float's place makes a number too small by 2^112, the
 * difference of the exponent biases; the multiplication is exact, for subnormal halves as well. Infinity and
 * NaN have all exponent bits set in both formats. No branch, so that the loop over it vectorises. */
static inline float float_of_half(uint16_t h) {
  uint32_t rest = (uint32_t)(h & 0x7FFF) << 13;
  float finite = float_of_bits(rest) * 0x1p112f;
  uint32_t bits;
  memcpy(&bits, &finite, sizeof bits);
  bits = (h & 0x7C00) == 0x7C00 ? rest | 0x7F800000u : bits;
  return float_of_bits(bits | (uint32_t)(h & 0x8000) << 16);
}

void safetensors_to_fp32(float *restrict dst, const void *restrict src, DType from, int64_t n) {
  const unsigned char *in = src;
  uint16_t h;
  switch (from) {
  case DT_FP32: memcpy(dst, src, (size_t)n * sizeof *dst); return;
  case DT_BF16:
    for (int64_t i = 0; i < n; i++) {
      memcpy(&h, in + 2 * i, sizeof h);
      dst[i] = float_of_bits((uint32_t)h << 16);
    }
    return;
  case DT_U8:
    for (int64_t i = 0; i < n; i++) dst[i] = (float)in[i];
    return;
  case DT_FP16:
    for (int64_t i = 0; i < n; i++) {
      memcpy(&h, in + 2 * i, sizeof h);
      dst[i] = float_of_half(h);
    }
    return;
  }
  PANIC("unknown dtype %d", from);
}
