/* Conversions between storage types, and initial values. */
#include "ops/convert.h"

#include "device/launch.cuh" // defines: launch_rows, element_rows, row_elements
#include "device/random.cuh" // defines: random_element

template <class D, class S> struct Convert {
  D *dst;       /* [n] */
  const S *src; /* [n] */
  int64_t n;

  template <class G> HD void operator()(G g, int64_t row) const {
    int64_t begin = row * ELEMENTS_A_ROW;
    g.each(
        row_elements(n, row), [](float &dst, float src) { dst = src; }, dst + begin, src + begin);
  }
};

template <class T> struct CopyColumns {
  T *dst;       /* [rows, dst_ld] */
  const T *src; /* [rows, src_ld] */
  int64_t dst_ld, src_ld, width;

  template <class G> HD void operator()(G g, int64_t row) const {
    g.each(
        width, [](float &dst, float src) { dst = src; }, dst + row * dst_ld, src + row * src_ld);
  }
};

template <class T> struct FillConstant {
  T *dst; /* [n] */
  float value;
  int64_t n;

  template <class G> HD void operator()(G g, int64_t row) const {
    float x = value;
    g.each(
        row_elements(n, row), [=](float &dst) { dst = x; }, dst + row * ELEMENTS_A_ROW);
  }
};

/* Box-Muller: sqrt(-2 ln a) cos(2 pi b) is normal for uniform a in (0, 1] and b in [0, 1]. */
HD float normal_variate(Random4 random) {
  float a = ((float)random.x[0] + 1.f) * 0x1p-32f, b = (float)random.x[1] * 0x1p-32f;
  float sin_b, cos_b;
  fast_sincos(b * 6.28318530718f, &sin_b, &cos_b);
  return sqrtf(-2.f * fast_log(a)) * cos_b;
}

template <class T> struct FillNormal {
  T *dst; /* [n] */
  float std;
  uint64_t seed;
  int64_t id, first, n; /* first: index of dst[0] in tensor id */

  template <class G> HD void operator()(G g, int64_t row) const {
    int64_t begin = row * ELEMENTS_A_ROW, element = first + begin, tensor = id;
    uint64_t key = seed;
    float scale = std;
    g.each_at(
        row_elements(n, row),
        [=](int64_t i, float &dst) {
          dst = scale * normal_variate(random_element(key, tensor, 0, element + i));
        },
        dst + begin);
  }
};

void copy_columns(Device *dev, DType dt, void *dst, int64_t dst_ld, const void *src, int64_t src_ld,
                  int64_t width, int64_t rows) {
  DISPATCH(dt, T, launch_rows(dev, rows, CopyColumns<T>{(T *)dst, (const T *)src, dst_ld, src_ld, width}));
}

void convert(Device *dev, void *dst, DType dst_type, const void *src, DType src_type, int64_t n) {
  DISPATCH(
      dst_type, D,
      DISPATCH(src_type, S, launch_rows(dev, element_rows(n), Convert<D, S>{(D *)dst, (const S *)src, n})));
}

void fill_constant(Device *dev, void *dst, DType dt, float value, int64_t n) {
  DISPATCH(dt, T, launch_rows(dev, element_rows(n), FillConstant<T>{(T *)dst, value, n}));
}

void fill_normal(Device *dev, void *dst, DType dt, float std, uint64_t seed, int64_t id, int64_t first,
                 int64_t n) {
  DISPATCH(dt, T, launch_rows(dev, element_rows(n), FillNormal<T>{(T *)dst, std, seed, id, first, n}));
}
