/* Root-mean-square norm (arXiv 1910.07467). With r = 1 / sqrt(mean(x^2) + eps):
 *   y  = x r w
 *   dx = r (dy w - x r^2 mean(dy w x))
 *   dw = sum over the rows of dy x r */
#include "ops/rmsnorm.h"

#include "device/launch.cuh" // defines: launch_rows, launch_column_sums
#include "device/profile.h"

HD float inverse_rms(float sum_of_squares, int64_t n, float eps) {
  return 1.f / sqrtf(sum_of_squares / (float)n + eps);
}

template <class T> struct RmsnormForward {
  T *y;       /* [rows, n] */
  const T *x; /* [rows, n] */
  const T *w; /* [n] */
  int64_t n;
  float eps;

  template <class G> HD void operator()(G g, int64_t row) const {
    const T *x_row = x + row * n;
    float r = inverse_rms(g.sum(
                              n, [](float x) { return x * x; }, x_row),
                          n, eps);
    g.produce(
        n, 1,
        [=](T *y, int64_t i, int64_t count) {
          g.each(
              count, [=](float &y, float x, float w) { y = x * r * w; }, y, x_row + i, w + i);
        },
        y + row * n);
  }
};

template <class T> struct RmsnormBackward {
  T *dx;       /* [rows, n], may be x or dy */
  const T *dy; /* [rows, n] */
  const T *x;  /* [rows, n] */
  const T *w;  /* [n] */
  int64_t n;
  float eps;
  bool accumulate;

  /* dw [n]: this segment's sums */
  template <class G> HD void operator()(G g, int64_t row, float *dw) const {
    const T *dy_row = dy + row * n, *x_row = x + row * n;
    T *dx_row = dx + row * n;
    float squares, dot;
    g.two_sums(
        n,
        [](float &squares, float &dot, float x, float dy, float w) {
          squares += x * x;
          dot += dy * w * x;
        },
        &squares, &dot, x_row, dy_row, w);
    float r = inverse_rms(squares, n, eps), c = dot / (float)n * r * r;
    if (accumulate)
      g.each(
          n,
          [=](float &dx, float &dw, float dy, float x, float w) {
            dx += r * (dy * w - x * c);
            dw += dy * x * r;
          },
          dx_row, dw, dy_row, x_row, w);
    else
      g.each(
          n,
          [=](float &dx, float &dw, float dy, float x, float w) {
            dx = r * (dy * w - x * c);
            dw += dy * x * r;
          },
          dx_row, dw, dy_row, x_row, w);
  }
};

void rmsnorm_forward(Device *dev, DType dt, void *y, const void *x, const void *w, int64_t rows, int64_t n,
                     float eps) {
  double begin = profile_begin(dev);
  DISPATCH(dt, T,
           launch_rows(dev, rows, RmsnormForward<T>{(T *)y, (const T *)x, (const T *)w, n, eps},
                       RowHints{n, rows * n * (int64_t)sizeof(T)}));
  profile_end(dev, begin, "rmsnorm", "forward", 0, 2.0 * (double)(rows * n) * (double)dtype_size(dt));
}

void rmsnorm_backward(Device *dev, DType dt, void *dx, float *dw, const void *dy, const void *x,
                      const void *w, int64_t rows, int64_t n, float eps, bool accumulate) {
  double begin = profile_begin(dev);
  DISPATCH(dt, T,
           launch_column_sums(
               dev, rows, n, 1, &dw,
               RmsnormBackward<T>{(T *)dx, (const T *)dy, (const T *)x, (const T *)w, n, eps, accumulate}));
  profile_end(dev, begin, "rmsnorm", "backward", 0,
              (accumulate ? 4.0 : 3.0) * (double)(rows * n) * (double)dtype_size(dt));
}
