#include "io/outliers.h"

#include <math.h>

double outliers_score(Outliers *o, double x) {
  int64_t n = o->seen < OUTLIER_WINDOW ? o->seen : OUTLIER_WINDOW;
  double mean = 0, squares = 0;
  for (int64_t i = 0; i < n; i++) mean += o->values[i] / (double)n;
  for (int64_t i = 0; i < n; i++) squares += (o->values[i] - mean) * (o->values[i] - mean);
  double deviation = n >= OUTLIER_LEAST ? sqrt(squares / (double)(n - 1)) : 0;
  if (isfinite(x)) o->values[o->seen++ % OUTLIER_WINDOW] = x;
  return deviation > 0 ? (x - mean) / deviation : (double)NAN;
}
