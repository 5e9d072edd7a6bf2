/* Values that stand out from those just before them: z-scores over a window. */
#ifndef OUTLIERS_H
#define OUTLIERS_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  OUTLIER_WINDOW = 128, /* values that a new one is compared with */
  OUTLIER_LEAST = 16,   /* fewer tell nothing */
};
#define OUTLIER_Z 5.0 /* beyond this many standard deviations above the mean a value is marked */

typedef struct Outliers {
  double values[OUTLIER_WINDOW]; /* the last ones, in a ring */
  int64_t seen;
} Outliers;

/* How many standard deviations x lies above the mean of the window, NAN while that has fewer than
 * OUTLIER_LEAST values or no spread. x then joins the window, if it is finite. */
double outliers_score(Outliers *o, double x);

#ifdef __cplusplus
}
#endif
#endif
