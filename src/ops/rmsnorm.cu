/* Root-mean-square norm (arXiv 1910.07467). With r = 1 / sqrt(mean(x^2) + eps):
 *   y  = x r w
 *   dx = r (dy w - x r^2 mean(dy w x))
 *   dw = sum over the rows of dy x r */
#include "ops/rmsnorm.h"

#include "device/launch.cuh" // defines: launch_rows, launch_column_sums
#include "device/profile.h"

template <class G, class T> HD float inverse_rms(G g, const T *x, int64_t n, float eps) {
  return 1.f / sqrtf(g.sum(
                         n, [](float x) { return x * x; }, x) /
                         (float)n +
                     eps);
}

template <class T> struct RmsnormForward {
  T *y;       /* [rows, n] */
  const T *x; /* [rows, n] */
  const T *w; /* [n] */
  int64_t n;
  float eps;

  template <class G> HD void operator()(G g, int64_t row) const {
    const T *x_row = x + row * n;
    float r = inverse_rms(g, x_row, n, eps);
    g.each(
        n, [=](float &y, float x, float w) { y = x * r * w; }, y + row * n, x_row, w);
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
    float r = inverse_rms(g, x_row, n, eps);
    float dot = g.sum(
        n, [](float dy, float x, float w) { return dy * w * x; }, dy_row, x_row, w);
    float c = dot / (float)n * r * r;
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
  DISPATCH(dt, T, launch_rows(dev, rows, RmsnormForward<T>{(T *)y, (const T *)x, (const T *)w, n, eps}));
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
