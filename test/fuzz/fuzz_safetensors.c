/* Fuzzes src/io/safetensors.c. The input's first byte says what the rest is:
 *   'R'  a .safetensors file as it is
 *   'H'  JSON header, 0xFF, data: the length before the header is right
 *   'F'  a folder: index, 0xFF, header of a.safetensors, 0xFF, its data, 0xFF, the same of b.safetensors */
#include "fuzz/fuzz.h"

#include "io/safetensors.h"

static const char *const tensor_files[] = {"model.safetensors", "model.safetensors.index.json",
                                           "a.safetensors", "b.safetensors"};
enum { TENSOR_FILES = sizeof tensor_files / sizeof *tensor_files };

static void write_with_length(const FuzzFolder *f, const char *name, FuzzPart header, FuzzPart data) {
  uint64_t length = header.size;
  fuzz_write(f, name, (FuzzPart[]){{&length, sizeof length}, header, data}, 3);
}

static void write_tensor_files(const FuzzFolder *f, const uint8_t *data, size_t size) {
  uint8_t kind = size ? *data++ : 'R';
  if (size) size--;
  if (kind == 'H') {
    FuzzPart header = fuzz_cut(&data, &size);
    write_with_length(f, tensor_files[0], header, (FuzzPart){data, size});
  } else if (kind == 'F') {
    FuzzPart index = fuzz_cut(&data, &size);
    fuzz_write(f, tensor_files[1], &index, 1);
    for (int i = 2; i < TENSOR_FILES; i++) {
      FuzzPart header = fuzz_cut(&data, &size), values = fuzz_cut(&data, &size);
      write_with_length(f, tensor_files[i], header, values);
    }
  } else {
    fuzz_write(f, tensor_files[0], &(FuzzPart){data, size}, 1);
  }
}

/* Reads every byte that an accepted set offers. */
static void read_all_tensors(const SafeTensors *set) {
  for (int64_t i = 0; i < safetensors_count(set); i++) {
    const SafeTensor *t = safetensors_at(set, i);
    CHECK(safetensors_find(set, t->name) == t, "%s is not found under its name", t->name);
    CHECK(t->dims >= 0 && t->dims <= ST_MAX_DIMS, "%d dimensions", t->dims);
    size_t n = 1;
    for (int d = 0; d < t->dims; d++) n *= (size_t)t->shape[d];
    CHECK(n * dtype_size(t->dtype) == t->bytes, "%s has %zu bytes", t->name, t->bytes);
    float *values = malloc(n * sizeof *values + 1);
    CHECK(values, "out of memory");
    safetensors_to_fp32(values, t->data, t->dtype, (int64_t)n);
    free(values);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  FuzzFolder f = fuzz_folder_new();
  write_tensor_files(&f, data, size);
  Error e = {0};
  SafeTensors *set = safetensors_open(f.path, &e);
  if (set)
    read_all_tensors(set);
  else
    fuzz_check_refusal(&e);
  safetensors_close(set);
  fuzz_folder_remove(&f, tensor_files, TENSOR_FILES);
  return 0;
}
