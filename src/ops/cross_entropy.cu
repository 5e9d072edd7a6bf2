/* Softmax cross-entropy: with m = max(x) and s = sum(e^(x - m)),
 *   loss = log(s) + m - x[target],   dx = (e^(x - m) / s - onehot(target)) scale. */
#include "ops/cross_entropy.h"

#include "device/launch.cuh" // defines: launch_rows
#include "device/profile.h"

/* The numbers of one row that its loss and gradient are made of. */
struct Softmax {
  float max;   /* largest logit */
  float sum;   /* of e^(logit - max) */
  float logit; /* the target's */
};

template <class G, class T> HD Softmax row_softmax(G g, const T *logits, int32_t target, int64_t V) {
  Softmax s;
  s.logit = value(logits[target]); /* read before the barriers of the sum: it is overwritten after them */
  s.max = g.max_and_exp_sum(V, logits, &s.sum);
  return s;
}

HD float row_loss(Softmax s) {
  return logf(s.sum) + (s.max - s.logit);
}

template <class T> struct CrossEntropyForward {
  float *losses;          /* [rows] */
  const T *logits;        /* [rows, V] */
  const int32_t *targets; /* [rows] */
  int64_t V;

  template <class G> HD void operator()(G g, int64_t row) const {
    int32_t target = targets[row];
    float loss = target < 0 ? 0.f : row_loss(row_softmax(g, logits + row * V, target, V));
    if (g.first()) losses[row] = loss;
  }
};

template <class T> struct CrossEntropyForwardBackward {
  float *losses;          /* [rows] */
  T *logits;              /* [rows, V], become their gradient */
  const int32_t *targets; /* [rows] */
  int64_t V;
  float scale;

  template <class G> HD void operator()(G g, int64_t row) const {
    T *x = logits + row * V;
    int32_t target = targets[row];
    if (target < 0) {
      g.each(
          V, [](float &x) { x = 0.f; }, x);
      if (g.first()) losses[row] = 0.f;
      return;
    }
    Softmax s;
    s.logit = value(x[target]); /* read before the barriers of the softmax: it is overwritten after them */
    s.max = g.softmax(V, x, scale, &s.sum);
    g.sync(); /* the target's element has its softmax now, and gets the rest from another worker */
    if (g.first()) {
      store(x + target, (fast_exp(s.logit - s.max) / s.sum - 1.f) * scale);
      losses[row] = row_loss(s);
    }
  }
};

void cross_entropy_forward(Device *dev, DType dt, float *losses, const void *logits, const int32_t *targets,
                           int64_t rows, int64_t V) {
  double begin = profile_begin(dev);
  DISPATCH(dt, T, launch_rows(dev, rows, CrossEntropyForward<T>{losses, (const T *)logits, targets, V}));
  profile_end(dev, begin, "cross entropy", "forward", 0, (double)(rows * V) * (double)dtype_size(dt));
}

template <class T> static void forward_backward(Device *dev, int64_t rows, CrossEntropyForwardBackward<T> f) {
#ifdef HAS_BLOCKS
  /* Two large blocks on a multiprocessor: the fewer rows are worked on at a time, the more of each is still
   * in shared memory or in a cache when it is needed again. Rows that do not begin at multiples of 16 bytes
   * are not kept in shared memory, and need all of the cache. */
  if (dev->kind == DEVICE_CUDA) {
    bool wide = f.V * (int64_t)sizeof(T) % 16 == 0;
    launch_blocks<512>(dev, rows, f, 512, wide ? block_shared_bytes(dev, 2) : 0);
    return;
  }
#endif
  launch_lanes(dev, rows, f);
}

void cross_entropy_forward_backward(Device *dev, DType dt, float *losses, void *logits,
                                    const int32_t *targets, int64_t rows, int64_t V, float scale) {
  double begin = profile_begin(dev);
  DISPATCH(
      dt, T,
      forward_backward(dev, rows, CrossEntropyForwardBackward<T>{losses, (T *)logits, targets, V, scale}));
  profile_end(dev, begin, "cross entropy", "forward and gradient", 0,
              2.0 * (double)(rows * V) * (double)dtype_size(dt));
}
