/* The gated unit of the feed-forward (arXiv 2002.05202): h = act(g) u.
 *
 * Both activations are act(g) = g s with s = sigmoid(z):
 *   silu       z = g
 *   gelu_tanh  z = 2 sqrt(2/pi) (g + 0.044715 g^3), since (1 + tanh(t)) / 2 = sigmoid(2 t)
 * and so act'(g) = s + g s (1 - s) z'. */
#include "ops/glu.h"

#include "device/launch.cuh" // defines: launch_rows
#include "device/profile.h"

static constexpr float GELU_LINEAR = 1.5957691216f; /* 2 sqrt(2/pi) */
static constexpr float GELU_CUBIC = 0.0713548163f;  /* that times 0.044715 */

template <Activation ACT> HD float argument(float g) {
  return ACT == ACT_SILU ? g : g * (GELU_LINEAR + GELU_CUBIC * g * g);
}
template <Activation ACT> HD float argument_slope(float g) {
  return ACT == ACT_SILU ? 1.f : GELU_LINEAR + 3.f * GELU_CUBIC * g * g;
}

template <class T, Activation ACT> struct GluForward {
  T *h;        /* [rows, FF] */
  const T *gu; /* [rows, 2 FF] */
  int64_t FF;

  template <class G> HD void operator()(G group, int64_t row) const {
    const T *g = gu + row * 2 * FF, *u = g + FF;
    group.each(
        FF, [](float &h, float g, float u) { h = g * sigmoid(argument<ACT>(g)) * u; }, h + row * FF, g, u);
  }
};

template <class T, Activation ACT> struct GluBackward {
  T *gu;       /* [rows, 2 FF], becomes its gradient */
  const T *dh; /* [rows, FF] */
  int64_t FF;

  template <class G> HD void operator()(G group, int64_t row) const {
    T *g = gu + row * 2 * FF, *u = g + FF;
    group.each(
        FF,
        [](float &g, float &u, float dh) {
          float s, rest; /* rest = 1 - s */
          sigmoids(argument<ACT>(g), &s, &rest);
          float dg = dh * u * (s + g * s * rest * argument_slope<ACT>(g));
          u = dh * g * s;
          g = dg;
        },
        g, u, dh + row * FF);
  }
};

void glu_forward(Device *dev, DType dt, Activation act, void *h, const void *gu, int64_t rows, int64_t FF) {
  double begin = profile_begin(dev);
  if (act == ACT_SILU)
    DISPATCH(dt, T, launch_rows(dev, rows, GluForward<T, ACT_SILU>{(T *)h, (const T *)gu, FF}));
  else
    DISPATCH(dt, T, launch_rows(dev, rows, GluForward<T, ACT_GELU_TANH>{(T *)h, (const T *)gu, FF}));
  profile_end(dev, begin, "glu", "forward", 0, 3.0 * (double)(rows * FF) * (double)dtype_size(dt));
}

void glu_backward(Device *dev, DType dt, Activation act, void *gu, const void *dh, int64_t rows, int64_t FF) {
  double begin = profile_begin(dev);
  if (act == ACT_SILU)
    DISPATCH(dt, T, launch_rows(dev, rows, GluBackward<T, ACT_SILU>{(T *)gu, (const T *)dh, FF}));
  else
    DISPATCH(dt, T, launch_rows(dev, rows, GluBackward<T, ACT_GELU_TANH>{(T *)gu, (const T *)dh, FF}));
  profile_end(dev, begin, "glu", "backward", 0, 5.0 * (double)(rows * FF) * (double)dtype_size(dt));
}
