/* Fuzzes src/io/hf_config.c and the checks of src/llama/config.c: the input is a config.json. What is
 * accepted must have sane sizes and rotary frequencies, and survive being written and read again. */
#include "fuzz/fuzz.h"

#include <math.h>

#include "io/hf_config.h"
#include "llama/params.h"

/* The parameter table counts the same parameters, and their bytes in training stay far from overflow. */
static void check_sizes(const Config *c) {
  ParamTable t;
  params_table(&t, c);
  __int128 parameters = 0, elements = 0;
  for (int64_t unit = 0; unit < params_units(&t); unit++) {
    int count;
    const ParamSpec *specs = params_of_unit(&t, unit, &count);
    for (int i = 0; i < count; i++) parameters += (__int128)specs[i].rows * specs[i].cols;
    CHECK(params_unit_elements(&t, unit) > 0, "unit %lld is empty", (long long)unit);
    elements += params_unit_elements(&t, unit);
  }
  CHECK(parameters == config_parameters(c), "%lld parameters", (long long)config_parameters(c));
  CHECK(elements >= parameters && elements < (__int128)1 << 52, "%lld elements", (long long)elements);
}

static void check_rope(const Config *c) {
  float *frequencies = malloc((size_t)(c->HS / 2) * sizeof *frequencies), scale;
  CHECK(frequencies, "out of memory");
  rope_frequencies(&c->rope, c->HS, c->max_T, frequencies, &scale);
  for (int64_t i = 0; i < c->HS / 2; i++)
    CHECK(isfinite(frequencies[i]) && frequencies[i] >= 0 && frequencies[i] <= 1, "frequency %lld is %g",
          (long long)i, (double)frequencies[i]);
  CHECK(isfinite(scale) && scale > 0, "scale %g", (double)scale);
  free(frequencies);
}

static void check_round_trip(const Config *c, const char *dir) {
  Error e = {0};
  Config again;
  CHECK(hf_config_write(c, DT_BF16, dir, &e), "cannot be written: %s", e.text);
  CHECK(hf_config_read(&again, dir, &e), "cannot be read again: %s", e.text);
  CHECK(config_parameters(&again) == config_parameters(c), "another model was written");
  config_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const names[] = {"config.json"};
  FuzzFolder f = fuzz_folder_new();
  fuzz_write(&f, names[0], &(FuzzPart){data, size}, 1);
  Config c;
  Error e = {0};
  if (hf_config_read(&c, f.path, &e)) {
    CHECK(config_check(&c, &e), "accepted, then refused: %s", e.text);
    check_sizes(&c);
    check_rope(&c);
    check_round_trip(&c, f.path);
    config_free(&c);
  } else {
    fuzz_check_refusal(&e);
    CHECK(!c.layers && !c.source_json, "a refused config keeps memory");
  }
  fuzz_folder_remove(&f, names, 1);
  return 0;
}
