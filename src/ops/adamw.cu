/* AdamW (arXiv 1711.05101), in the order of operations of torch.optim.AdamW:
 *   p *= 1 - lr weight_decay
 *   m += (g - m) (1 - beta1)
 *   v  = v beta2 + g^2 (1 - beta2)
 *   p -= lr / (1 - beta1^step) m / (sqrt(v) / sqrt(1 - beta2^step) + eps) */
#include "ops/adamw.h"

#include "device/launch.cuh" // defines: launch_rows, element_rows, row_elements
#include "device/profile.h"
#include "device/random.cuh" // defines: random_element, round_stochastic
#include "ops/dynamic_map.cuh"

/* The factors of one update, made from AdamW in double. */
struct Factors {
  float keep;                     /* of the parameter: 1 - lr weight_decay */
  float step_size, inverse_sqrt2; /* lr / (1 - beta1^step), 1 / sqrt(1 - beta2^step) */
  float rest1, beta2, rest2, eps; /* 1 - beta1, beta2, 1 - beta2 */
  float grad_scale;

  /* Which products and sums are rounded together is said here, so that all compilers make the same bits: a
   * run updates on the host or on the GPU, and goes on where the other one was. */
  HD void update(float &p, float g, float &m, float &v) const {
    g = fmaf(g, grad_scale, 0.f); /* a product that no sum may take in */
    m = fmaf(g - m, rest1, m);
    v = fmaf(v, beta2, g * g * rest2);
    p = fmaf(p, keep, -(step_size * m / fmaf(sqrtf(v), inverse_sqrt2, eps)));
  }
};

/* Random bits of a row's elements. ODD: the row's first one is the second of its pair; known when compiling,
 * so that a thread of the GPU, which has elements 8 k to 8 k + 7, makes the number of a pair once. */
template <bool ODD> struct Roundings {
  uint64_t seed;
  int64_t id, step;
  uint64_t pair; /* of the row's first element */

  HD Random3 of(int64_t i) const {
    uint64_t at = (uint64_t)i + ODD;
    return random_roundings(seed, id, step, pair + at / 2, at % 2 != 0);
  }
};

/* T: storage of the parameter, M: of the moments. */
template <class T, class M> struct AdamWUpdate {
  T *param;          /* [n] */
  float *master;     /* [n] or NULL */
  const float *grad; /* [n] */
  M *m, *v;          /* [n] */
  int64_t n;
  Factors factors;
  uint64_t seed;
  int64_t id, step, first;

  template <class G> HD void operator()(G g, int64_t row) const {
    if (first % 2 == 0)
      update_row<false>(g, row);
    else
      update_row<true>(g, row);
  }

  template <bool ODD, class G> HD void update_row(G g, int64_t row) const {
    int64_t begin = row * ELEMENTS_A_ROW, count = row_elements(n, row);
    Roundings<ODD> roundings = {seed, id, step, (uint64_t)(first + begin) / 2};
    AdamWUpdate u = *this; /* the loops below vectorise on a copy: nothing that they store can change it */
    if (master)
      g.each_at(
          count,
          [=](int64_t i, float &param, float &p, float g, float &m, float &v) {
            Random3 random = roundings.of(i);
            u.factors.update(p, g, m, v);
            param = p;
            m = round_stochastic(u.m, m, random.x[1]);
            v = round_stochastic(u.v, v, random.x[2]);
          },
          param + begin, master + begin, grad + begin, m + begin, v + begin);
    else
      g.each_at(
          count,
          [=](int64_t i, float &p, float g, float &m, float &v) {
            Random3 random = roundings.of(i);
            u.factors.update(p, g, m, v);
            p = round_stochastic(u.param, p, random.x[0]);
            m = round_stochastic(u.m, m, random.x[1]);
            v = round_stochastic(u.v, v, random.x[2]);
          },
          param + begin, grad + begin, m + begin, v + begin);
  }
};

/* 8-bit moments: block by block of a row they become fp32 in the group's scratch, and codes again once their
 * new scale, the largest of the block, is known. */
template <class T> struct AdamW8Update {
  T *param;                   /* [n] */
  float *master;              /* [n] or NULL */
  const float *grad;          /* [n] */
  code8 *m, *v;               /* [n] */
  float *m_absmax, *v_absmax; /* [blocks] */
  int64_t n;
  Factors factors;
  uint64_t seed;
  int64_t id, step, first;

  template <class G> HD void operator()(G g, int64_t row) const {
    int64_t begin = row * ELEMENTS_A_ROW, end = begin + row_elements(n, row);
    for (; begin < end; begin += MOMENT_BLOCK) {
      int64_t left = end - begin;
      update_block(g, begin, left < MOMENT_BLOCK ? left : (int64_t)MOMENT_BLOCK);
    }
  }

  template <class G> HD void update_block(G g, int64_t begin, int64_t count) const {
    float *m32 = g.scratch, *v32 = g.scratch + MOMENT_BLOCK;
    int64_t block = begin / MOMENT_BLOCK, element = first + begin;
    float m_scale = m_absmax[block], v_scale = v_absmax[block];
    AdamW8Update u = *this; /* the loops below vectorise on a copy */
    if (master)
      g.each(
          count,
          [=](float &param, float &p, float g, float m_code, float v_code, float &m, float &v) {
            m = dynamic_decode(m_code) * m_scale;
            v = dynamic_decode_unsigned(v_code) * v_scale;
            u.factors.update(p, g, m, v);
            param = p;
          },
          param + begin, master + begin, grad + begin, (const code8 *)m + begin, (const code8 *)v + begin,
          m32, v32);
    else
      g.each_at(
          count,
          [=](int64_t i, float &p, float g, float m_code, float v_code, float &m, float &v) {
            m = dynamic_decode(m_code) * m_scale;
            v = dynamic_decode_unsigned(v_code) * v_scale;
            u.factors.update(p, g, m, v);
            p = round_stochastic(u.param, p, random_element(u.seed, u.id, u.step, element + i).x[0]);
          },
          param + begin, grad + begin, (const code8 *)m + begin, (const code8 *)v + begin, m32, v32);
    m_scale = g.max(
        count, [](float x) { return fabsf(x); }, m32);
    v_scale = g.max(
        count, [](float x) { return x; }, v32);
    float m_inverse = m_scale > 0.f ? 1.f / m_scale : 0.f, v_inverse = v_scale > 0.f ? 1.f / v_scale : 0.f;
    g.each_at(
        count,
        [=](int64_t i, float &m_code, float &v_code, float m, float v) {
          Random4 random = random_element(u.seed, u.id, u.step, element + i);
          m_code = dynamic_encode(m * m_inverse, random.x[1]);
          v_code = dynamic_encode_unsigned(v * v_inverse, random.x[2]);
        },
        m + begin, v + begin, (const float *)m32, (const float *)v32);
    if (g.first()) {
      m_absmax[block] = m_scale;
      v_absmax[block] = v_scale;
    }
  }
};

/* Bytes that an update reads and writes, an element. */
static double bytes_an_element(const AdamWTensor *t) {
  return 2.0 * (double)dtype_size(t->dtype) + (t->master ? 8 : 0) + 4 + 4.0 * (double)dtype_size(t->moments);
}

/* The updates of several tensors: the rows of one follow those of the other. */
template <class U> struct Several {
  U updates[ADAMW_TENSORS];
  int64_t ends[ADAMW_TENSORS]; /* rows of the tensor and of those before it */

  template <class G> HD void operator()(G g, int64_t row) const {
    int k = 0;
    while (row >= ends[k]) k++;
    updates[k](g, k > 0 ? row - ends[k - 1] : row);
  }
};

static Factors factors_of(const AdamWTensor *t, const AdamW *a) {
  CHECK(a->step >= 1 && a->step <= UINT32_MAX && t->id >= 0 && t->id <= UINT32_MAX,
        "update %lld of tensor %lld: both have to fit 32 bits", (long long)a->step, (long long)t->id);
  Factors f;
  f.keep = (float)(t->decay ? 1.0 - a->lr * a->weight_decay : 1.0);
  f.step_size = (float)(a->lr / (1.0 - pow(a->beta1, (double)a->step)));
  f.inverse_sqrt2 = (float)(1.0 / sqrt(1.0 - pow(a->beta2, (double)a->step)));
  f.rest1 = (float)(1.0 - a->beta1);
  f.beta2 = (float)a->beta2;
  f.rest2 = (float)(1.0 - a->beta2);
  f.eps = (float)a->eps;
  f.grad_scale = a->grad_scale;
  return f;
}

template <class T, class M> static void fill(AdamWUpdate<T, M> *u, const AdamWTensor *t, const AdamW *a) {
  *u = AdamWUpdate<T, M>{(T *)t->param,    t->master, t->grad, (M *)t->m, (M *)t->v, t->n,
                         factors_of(t, a), a->seed,   t->id,   a->step,   t->first};
}
template <class T> static void fill(AdamW8Update<T> *u, const AdamWTensor *t, const AdamW *a) {
  *u = AdamW8Update<T>{(T *)t->param, t->master,   t->grad, (code8 *)t->m,    (code8 *)t->v,
                       t->m_absmax,   t->v_absmax, t->n,    factors_of(t, a), a->seed,
                       t->id,         a->step,     t->first};
}

template <class U> static void update_several(Device *dev, const AdamWTensor *t, int count, const AdamW *a) {
  Several<U> several = {};
  int64_t rows = 0;
  for (int k = 0; k < count; k++) {
    fill(&several.updates[k], &t[k], a);
    several.ends[k] = rows += element_rows(t[k].n);
  }
  launch_rows(dev, rows, several);
}

void adamw_update(Device *dev, const AdamWTensor *t, int count, const AdamW *a) {
  CHECK(count > 0 && count <= ADAMW_TENSORS, "an update of %d tensors", count);
  double begin = profile_begin(dev), bytes = 0;
  for (int k = 0; k < count; k++) {
    CHECK(t[k].dtype == t->dtype && t[k].moments == t->moments, "an update of tensors of several types");
    bytes += (double)t[k].n * bytes_an_element(&t[k]);
  }
  if (t->moments == DT_U8)
    DISPATCH(t->dtype, T, update_several<AdamW8Update<T>>(dev, t, count, a));
  else
    DISPATCH(t->dtype, T, DISPATCH(t->moments, M, (update_several<AdamWUpdate<T, M>>(dev, t, count, a))));
  profile_end(dev, begin, "adamw", "", 0, bytes);
}

/* ---- sum of squares ---- */

static constexpr int64_t PIECE = 16384; /* elements whose squares one group adds up */
static constexpr int64_t PIECES = 4096; /* pieces at a time: a GPU waits for the host after each */

template <class T> struct SquaresOfPieces {
  double *sums; /* [PIECES] */
  const T *x;   /* [n] */
  int64_t n;

  template <class G> HD void operator()(G g, int64_t piece) const {
    int64_t begin = piece * PIECE, count = n - begin < PIECE ? n - begin : PIECE, part = count / 4 / 8 * 8;
    const T *a = x + begin, *b = a + part, *c = b + part, *d = c + part;
    double sum = g.sum(/* of several vectors, which come from memory at the same time */
                       part,
                       [](float a, float b, float c, float d) {
                         return (double)a * (double)a + (double)b * (double)b + (double)c * (double)c +
                                (double)d * (double)d;
                       },
                       a, b, c, d);
    sum += g.sum(
        count - 4 * part, [](float x) { return (double)x * (double)x; }, x + begin + 4 * part);
    if (g.first()) sums[piece] = sum;
  }
};

double sum_of_squares(Device *dev, const void *x, DType dt, int64_t n) {
  double begin = profile_begin(dev), total = 0, sums[PIECES];
  CHECK(dev->workspace_bytes >= sizeof sums, "sum_of_squares: %zu bytes of workspace, %zu are needed",
        dev->workspace_bytes, sizeof sums);
  for (int64_t first = 0; first < n; first += PIECES * PIECE) {
    int64_t left = n - first, pieces = (left + PIECE - 1) / PIECE;
    if (pieces > PIECES) pieces = PIECES;
    DISPATCH(
        dt, T,
        launch_rows(dev, pieces, SquaresOfPieces<T>{(double *)dev->workspace, (const T *)x + first, left}));
    device_copy(dev, sums, dev->workspace, (size_t)pieces * sizeof *sums, COPY_FROM_DEVICE);
    for (int64_t i = 0; i < pieces; i++) total += sums[i];
  }
  profile_end(dev, begin, "gradient norm", "", 0, (double)n * (double)dtype_size(dt));
  return total;
}
