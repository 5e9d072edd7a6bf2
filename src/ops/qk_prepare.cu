/* Queries and keys between projection and attention: rmsnorm of each head (optional), then the rotation
 * (arXiv 2104.09864) of the pairs (i, i + HS/2) by the angle a_i = position * inv_freq[i]:
 *   y_lo = n_lo cos - n_hi sin,  y_hi = n_hi cos + n_lo sin
 * with n the norm's output. The backward turns back, then goes through the norm. */
#include "ops/qk_prepare.h"

#include "device/launch.cuh" // defines: launch_rows, launch_column_sums
#include "device/profile.h"

/* cos and sin of one row's angles: the group's scratch, each [HS/2]. Whoever reads them needs a barrier
 * first, and so does whoever writes those of another row. */
struct Angles {
  const float *cos, *sin;
};

template <class G> HD Angles row_angles(G g, const QkPrepare &p, int64_t row) {
  int64_t half = p.HS / 2;
  float position = (float)p.positions[row], scale = p.attention_scale;
  g.each_costly(
      half,
      [=](float &c, float &s, float inv_freq) {
        fast_sincos(position * inv_freq, &s, &c);
        c *= scale;
        s *= scale;
      },
      g.scratch, g.scratch + half, p.inv_freq);
  return Angles{g.scratch, g.scratch + half};
}

/* 1 / sqrt(mean(x^2) + eps) of one head x [HS]. */
template <class G, class T> HD float head_inverse_rms(G g, const T *x, const QkPrepare &p) {
  return 1.f / sqrtf(g.sum(
                         p.HS, [](float x) { return x * x; }, x) /
                         (float)p.HS +
                     p.norm_eps);
}

template <class T> struct QkForward {
  T *qk;        /* [rows, ld_qk]: NH + NKV heads of HS */
  const T *qkv; /* [rows, ld_qkv]: (NH + 2 NKV) heads of HS */
  int64_t ld_qk, ld_qkv;
  QkPrepare p;

  template <class G> HD void operator()(G g, int64_t row) const {
    int64_t half = p.HS / 2;
    Angles a = row_angles(g, p, row);
    if (!p.q_norm) {
      const T *x = qkv + row * ld_qkv;
      g.sync();
      g.produce((p.NH + p.NKV) * p.HS, p.HS,
                [=](T *y, int64_t i, int64_t count) {
                  g.each_of_sets(
                      count / p.HS, half,
                      [](float &y_lo, float &y_hi, float lo, float hi, float c, float s) {
                        y_lo = lo * c - hi * s;
                        y_hi = hi * c + lo * s;
                      },
                      strided(y, p.HS), strided(y + half, p.HS), strided(x + i, p.HS),
                      strided(x + i + half, p.HS), strided(a.cos, 0), strided(a.sin, 0));
                },
                qk + row * ld_qk);
      return;
    }
    for (int64_t head = 0; head < p.NH + p.NKV; head++) {
      T *y = qk + row * ld_qk + head * p.HS;
      const T *x = qkv + row * ld_qkv + head * p.HS;
      const T *w = (const T *)(head < p.NH ? p.q_norm : p.k_norm);
      float r = head_inverse_rms(g, x, p);
      g.each(
          half,
          [=](float &y_lo, float &y_hi, float lo, float hi, float w_lo, float w_hi, float c, float s) {
            lo *= r * w_lo;
            hi *= r * w_hi;
            y_lo = lo * c - hi * s;
            y_hi = hi * c + lo * s;
          },
          y, y + half, x, x + half, w, w + half, a.cos, a.sin);
    }
  }
};

/* Backward without a norm: the gradient turned back. */
template <class T> struct RopeBackward {
  T *dqkv; /* [rows, ld] */
  int64_t ld;
  QkPrepare p;

  template <class G> HD void operator()(G g, int64_t row) const {
    int64_t half = p.HS / 2;
    T *d = dqkv + row * ld;
    Angles a = row_angles(g, p, row);
    g.sync();
    g.each_of_sets(
        p.NH + p.NKV, half,
        [](float &lo, float &hi, float c, float s) {
          float back = lo * c + hi * s;
          hi = hi * c - lo * s;
          lo = back;
        },
        strided(d, p.HS), strided(d + half, p.HS), strided(a.cos, 0), strided(a.sin, 0));
  }
};

/* Backward with a norm: per head, with dn the gradient turned back and r = 1 / rms(x),
 *   dx = r (dn w - x r^2 mean(dn w x)),  dw += dn x r */
template <class T> struct QkBackward {
  T *dqkv;      /* [rows, ld] */
  const T *qkv; /* [rows, ld] */
  int64_t ld;
  QkPrepare p;

  /* dw [2, HS]: this segment's sums for q_norm, then for k_norm */
  template <class G> HD void operator()(G g, int64_t row, float *dw) const {
    int64_t half = p.HS / 2;
    g.sync(); /* the last row's angles have been read */
    Angles a = row_angles(g, p, row);
    for (int64_t head = 0; head < p.NH + p.NKV; head++) {
      T *d = dqkv + row * ld + head * p.HS;
      const T *x = qkv + row * ld + head * p.HS;
      bool is_q = head < p.NH;
      const T *w = (const T *)(is_q ? p.q_norm : p.k_norm);
      float *dw_head = is_q ? dw : dw + p.HS;
      float r = head_inverse_rms(g, x, p);
      float dot = g.sum(
          half,
          [](float lo, float hi, float c, float s, float w_lo, float w_hi, float x_lo, float x_hi) {
            return (lo * c + hi * s) * w_lo * x_lo + (hi * c - lo * s) * w_hi * x_hi;
          },
          (const T *)d, (const T *)d + half, a.cos, a.sin, w, w + half, x, x + half);
      float m = dot / (float)p.HS * r * r;
      g.each(
          half,
          [=](float &lo, float &hi, float &dw_lo, float &dw_hi, float c, float s, float w_lo, float w_hi,
              float x_lo, float x_hi) {
            float dn_lo = lo * c + hi * s, dn_hi = hi * c - lo * s;
            lo = r * (dn_lo * w_lo - x_lo * m);
            hi = r * (dn_hi * w_hi - x_hi * m);
            dw_lo += dn_lo * x_lo * r;
            dw_hi += dn_hi * x_hi * r;
          },
          d, d + half, dw_head, dw_head + half, a.cos, a.sin, w, w + half, x, x + half);
    }
  }
};

static void check_heads(const QkPrepare *p) {
  CHECK(p->HS % 2 == 0 && p->HS <= GROUP_SCRATCH, "heads of %lld: even and at most %lld expected",
        (long long)p->HS, (long long)GROUP_SCRATCH);
  CHECK(!p->q_norm == !p->k_norm, "q_norm and k_norm go together");
}

/* Bytes of the queries and keys of all rows. */
static double heads_bytes(const QkPrepare *p, int64_t rows, DType dt) {
  return (double)(rows * (p->NH + p->NKV) * p->HS) * (double)dtype_size(dt);
}

void qk_prepare_forward(Device *dev, DType dt, void *qk, int64_t ld_qk, const void *qkv, int64_t ld_qkv,
                        const QkPrepare *p, int64_t rows) {
  check_heads(p);
  double begin = profile_begin(dev);
  /* with a norm, a block works on one head at a time, and nothing is made with produce() */
  int64_t pairs = p->HS / 2, new_bytes = (int64_t)heads_bytes(p, rows, dt);
  RowHints hints = p->q_norm ? RowHints{pairs, 0} : RowHints{pairs * (p->NH + p->NKV), new_bytes};
  DISPATCH(dt, T, launch_rows(dev, rows, QkForward<T>{(T *)qk, (const T *)qkv, ld_qk, ld_qkv, *p}, hints));
  profile_end(dev, begin, "qk_prepare", "forward", 0, 2 * heads_bytes(p, rows, dt));
}

void qk_prepare_backward(Device *dev, DType dt, void *dqkv, const void *qkv, int64_t ld, const QkPrepare *p,
                         int64_t rows) {
  check_heads(p);
  double begin = profile_begin(dev);
  float *dw[2] = {p->dq_norm, p->dk_norm};
  if (p->q_norm)
    DISPATCH(dt, T,
             launch_column_sums(dev, rows, p->HS, 2, dw, QkBackward<T>{(T *)dqkv, (const T *)qkv, ld, *p}));
  else
    DISPATCH(dt, T,
             launch_rows(dev, rows, RopeBackward<T>{(T *)dqkv, ld, *p},
                         RowHints{(p->NH + p->NKV) * (p->HS / 2), 0}));
  profile_end(dev, begin, "qk_prepare", "backward", 0, (p->q_norm ? 3 : 2) * heads_bytes(p, rows, dt));
}
