/* A linear layer and its gradients: matrix products, and the rows and column sums of the bias. */
#include "ops/linear.h"
#include "device/launch.cuh" // defines: launch_rows, launch_column_sums, DISPATCH
#include "device/profile.h"
#include "ops/matmul.h" // defines: Matrix, matmul

/* Row of y [rows, n] = bias [n] + add [rows, n], or the bias alone where add is NULL. */
template <class T> struct PutBias {
  T *y;
  const T *bias, *add;
  int64_t n;

  template <class G> HD void operator()(G g, int64_t row) const {
    if (add)
      g.each(
          n, [](float &y, float b, float x) { y = b + x; }, y + row * n, bias, add + row * n);
    else
      g.each(
          n, [](float &y, float b) { y = b; }, y + row * n, bias);
  }
};

/* sums [n] += row of dy [rows, n]. */
template <class T> struct SumRow {
  const T *dy;
  int64_t n;

  template <class G> HD void operator()(G g, int64_t row, float *sums) const {
    g.each(
        n, [](float &sum, float x) { sum += x; }, sums, dy + row * n);
  }
};

static Matrix matrix(const void *data, DType dt, int64_t ld) {
  return Matrix{(void *)data, dt, ld};
}

/* Floating-point operations of each of the three products below. */
static double flops(const Linear *l, int64_t rows) {
  return 2.0 * (double)rows * (double)l->in * (double)l->out;
}

void linear_forward(Device *dev, DType dt, const Linear *l, void *y, const void *x, int64_t rows,
                    const void *add) {
  double begin = profile_begin(dev);
  /* the bias goes in first, so that its sum with the product is rounded once */
  if (l->bias)
    DISPATCH(dt, T,
             launch_rows(dev, rows, PutBias<T>{(T *)y, (const T *)l->bias, (const T *)add, l->out},
                         RowHints{l->out, 0}));
  matmul(dev, matrix(y, dt, l->out), matrix(x, dt, l->in), false, matrix(l->weight, dt, l->in), true, rows,
         l->out, l->in, l->bias ? y : add);
  profile_end(dev, begin, l->name, "forward", flops(l, rows), 0);
}

void linear_backward_input(Device *dev, DType dt, const Linear *l, void *dx, const void *dy, int64_t rows) {
  double begin = profile_begin(dev);
  matmul(dev, matrix(dx, dt, l->in), matrix(dy, dt, l->out), false, matrix(l->weight, dt, l->in), false, rows,
         l->in, l->out, NULL);
  profile_end(dev, begin, l->name, "dx", flops(l, rows), 0);
}

void linear_backward_weight(Device *dev, DType dt, const Linear *l, const void *dy, const void *x,
                            int64_t rows) {
  if (!l->dweight) return;
  double begin = profile_begin(dev);
  matmul(dev, matrix(l->dweight, DT_FP32, l->in), matrix(dy, dt, l->out), true, matrix(x, dt, l->in), false,
         l->out, l->in, rows, l->dweight);
  if (l->dbias)
    DISPATCH(dt, T, launch_column_sums(dev, rows, l->out, 1, &l->dbias, SumRow<T>{(const T *)dy, l->out}));
  profile_end(dev, begin, l->name, "dweight", flops(l, rows), 0);
}
