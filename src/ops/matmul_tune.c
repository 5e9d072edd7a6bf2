#include "ops/matmul_tune.h"

#include <stdlib.h>

static void close_tuning(void *data) {
  MatmulTuning *t = data;
  matmul_choices_free(&t->choices);
  free(t);
}

MatmulTuning *matmul_tuning(Device *dev) {
  DeviceExtra *extra = &dev->extra[EXTRA_TUNING];
  if (!extra->data) {
    *extra = (DeviceExtra){calloc(1, sizeof(MatmulTuning)), close_tuning};
    CHECK(extra->data, "out of memory for the algorithms of products");
  }
  return extra->data;
}

void matmul_tune(Device *dev, int candidates) {
  CHECK(candidates >= 0 && candidates <= TUNE_CANDIDATES, "%d algorithms to be timed", candidates);
  if (dev->kind == DEVICE_CUDA) matmul_tuning(dev)->candidates = candidates;
}

char *matmul_tune_text(const Device *dev) {
  const MatmulTuning *t = dev->extra[EXTRA_TUNING].data;
  return t && t->choices.count ? matmul_choices_text(&t->choices, dev->products_version, dev->name) : NULL;
}

bool matmul_tune_read(Device *dev, const char *text, Error *e) {
  MatmulChoices read = {0};
  if (dev->kind != DEVICE_CUDA) return true;
  if (!matmul_choices_read(&read, text, dev->products_version, dev->name, e)) return false;
  for (int i = 0; i < read.count; i++) matmul_choices_put(&matmul_tuning(dev)->choices, &read.list[i]);
  matmul_choices_free(&read);
  return true;
}
