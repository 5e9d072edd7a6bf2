/* rmsnorm, gated unit, cross-entropy, embedding, queries and keys: forward and backward against naive fp64
 * forms of their definitions, and those backwards against finite differences of the forwards. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

#include "ops/cross_entropy.h"
#include "ops/embedding.h"
#include "ops/glu.h"
#include "ops/qk_prepare.h"
#include "ops/rmsnorm.h"
#include "test/ops_support.cuh"

static const int64_t WIDTHS[] = {1, 7, 8, 63, 64, 65, 250, 1030};
static const int64_t ROWS[] = {1, 3, 70};
#define FOR_EACH(type, x, list) for (const type &x : list)

/* What a reference backward is checked with: the slope of f at *x, from a step either side. */
typedef double (*Scalar)(const void *context);
static double slope(Scalar f, const void *context, double *x) {
  double at = *x, h = 1e-5;
  *x = at + h;
  double above = f(context);
  *x = at - h;
  double below = f(context);
  *x = at;
  return (above - below) / (2 * h);
}
/* Truncation h^2 f'''/6 and rounding 1e-16/h of a central difference, with room for the size of f. */
static const double SLOPE_ERROR = 1e-8;

/* ---- rmsnorm ---- */

static const double EPS = 1e-5;

static void rmsnorm_reference(double *y, const double *x, const double *w, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; r++) {
    double squares = 0;
    for (int64_t i = 0; i < n; i++) squares += x[r * n + i] * x[r * n + i];
    double rms = sqrt(squares / (double)n + EPS);
    for (int64_t i = 0; i < n; i++) y[r * n + i] = x[r * n + i] / rms * w[i];
  }
}

static void rmsnorm_backward_reference(double *dx, double *dw, const double *dy, const double *x,
                                       const double *w, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; r++) {
    const double *xr = x + r * n, *dyr = dy + r * n;
    double squares = 0, dot = 0;
    for (int64_t i = 0; i < n; i++) {
      squares += xr[i] * xr[i];
      dot += dyr[i] * w[i] * xr[i];
    }
    double rms = sqrt(squares / (double)n + EPS);
    for (int64_t i = 0; i < n; i++) {
      dx[r * n + i] += dyr[i] * w[i] / rms - xr[i] * dot / ((double)n * rms * rms * rms);
      dw[i] += dyr[i] * xr[i] / rms;
    }
  }
}

static double *as_doubles(const Tensor *t) {
  double *x = doubles(t->n);
  for (int64_t i = 0; i < t->n; i++) x[i] = get(t, i);
  return x;
}

typedef struct NormCase {
  double *x, *w, *dy, *y;
  int64_t rows, n;
} NormCase;

static double norm_scalar(const void *context) {
  const NormCase *c = (const NormCase *)context;
  double sum = 0;
  rmsnorm_reference(c->y, c->x, c->w, c->rows, c->n);
  for (int64_t i = 0; i < c->rows * c->n; i++) sum += c->y[i] * c->dy[i];
  return sum;
}

static void rmsnorm_reference_has_the_forwards_slope(void **) {
  enum { R = 2, N = 7 };
  uint64_t seed = 1;
  double x[R * N], w[N], dy[R * N], y[R * N], dx[R * N] = {}, dw[N] = {};
  for (double &v : x) v = uniform(&seed);
  for (double &v : w) v = uniform(&seed);
  for (double &v : dy) v = uniform(&seed);
  rmsnorm_backward_reference(dx, dw, dy, x, w, R, N);
  NormCase c = {x, w, dy, y, R, N};
  for (int i = 0; i < R * N; i++) assert_true(fabs(slope(norm_scalar, &c, x + i) - dx[i]) < SLOPE_ERROR);
  for (int i = 0; i < N; i++) assert_true(fabs(slope(norm_scalar, &c, w + i) - dw[i]) < SLOPE_ERROR);
}

static void rmsnorm_case(Device *dev, DType dt, int64_t rows, int64_t n) {
  uint64_t seed = (uint64_t)(rows * 10000 + n);
  Tensor x = tensor_random(dt, rows * n, 2, &seed), w = tensor_random(dt, n, 1, &seed);
  Tensor dy = tensor_random(dt, rows * n, 1, &seed), y = tensor_new(dt, rows * n);
  Tensor before = tensor_random(dt, rows * n, 1, &seed), dw0 = tensor_random(DT_FP32, n, 1, &seed);
  double *xd = as_doubles(&x), *wd = as_doubles(&w), *dyd = as_doubles(&dy);
  double *expected = doubles(rows * n), *dx = doubles(rows * n), *dw = as_doubles(&dw0);

  rmsnorm_reference(expected, xd, wd, rows, n);
  rmsnorm_forward(dev, dt, on_device(&y), on_device(&x), on_device(&w), rows, n, (float)EPS);
  assert_near(&y, expected, storage_error(dt));
  Tensor in_place = tensor_copy(&x);
  rmsnorm_forward(dev, dt, on_device(&in_place), on_device(&in_place), on_device(&w), rows, n, (float)EPS);
  assert_memory_equal(on_host(&in_place), on_host(&y), (size_t)(rows * n) * dtype_size(dt));
  tensor_free(&in_place);

  rmsnorm_backward_reference(dx, dw, dyd, xd, wd, rows, n);
  /* dx is the difference of two terms, nearly equal where n is 1, and dw a sum of both signs: the fp32 error
   * is one of the terms' size */
  double dx_terms = 0, dx_norm = 0, dw_terms = 0, dw_norm = 0;
  for (int64_t i = 0; i < n; i++) {
    double sum = fabs(get(&dw0, i));
    for (int64_t at = i; at < rows * n; at += n) {
      double r_w = expected[at] / xd[at]; /* w / rms of the row */
      dx_terms += dyd[at] * r_w * dyd[at] * r_w;
      dx_norm += dx[at] * dx[at];
      sum += fabs(dyd[at] * xd[at] * r_w / wd[i]);
    }
    dw_terms += sum * sum;
    dw_norm += dw[i] * dw[i];
  }
  double dx_error = 2 * FP32_ERROR * sqrt(dx_terms / dx_norm) + rounding_error(dt);
  double dw_error = FP32_ERROR * sqrt(dw_terms / dw_norm);
  Tensor separate = tensor_new(dt, rows * n), over_x = tensor_copy(&x), over_dy = tensor_copy(&dy);
  Tensor *outs[] = {&separate, &over_x, &over_dy};
  for (Tensor *out : outs) {
    Tensor got = tensor_copy(&dw0);
    rmsnorm_backward(
        dev, dt, on_device(out), (float *)on_device(&got), out == &over_dy ? on_device(out) : on_device(&dy),
        out == &over_x ? on_device(out) : on_device(&x), on_device(&w), rows, n, (float)EPS, false);
    assert_near(out, dx, dx_error);
    assert_near(&got, dw, dw_error);
    assert_memory_equal(on_host(out), on_host(&separate), (size_t)(rows * n) * dtype_size(dt));
    tensor_free(&got);
  }

  Tensor sum = tensor_copy(&before), got = tensor_copy(&dw0);
  for (int64_t i = 0; i < rows * n; i++) dx[i] += get(&before, i);
  rmsnorm_backward(dev, dt, on_device(&sum), (float *)on_device(&got), on_device(&dy), on_device(&x),
                   on_device(&w), rows, n, (float)EPS, true);
  assert_near(&sum, dx, dx_error + storage_error(dt));
  assert_near(&got, dw, dw_error);

  Tensor *all[] = {&x, &w, &dy, &y, &before, &dw0, &separate, &over_x, &over_dy, &sum, &got};
  for (Tensor *t : all) tensor_free(t);
  double *references[] = {xd, wd, dyd, expected, dx, dw};
  for (double *r : references) free(r);
}

static void rmsnorm_equals_its_definition(void **state) {
  FOR_EACH(DType, dt, STORAGE)
  FOR_EACH(int64_t, rows, ROWS)
  FOR_EACH(int64_t, n, WIDTHS) rmsnorm_case((Device *)*state, dt, rows, n);
}

/* A million terms of one sign: a running fp32 sum would be wrong by some 1e-4. */
static void rmsnorm_weight_gradient_keeps_its_digits(void **state) {
  Device *dev = (Device *)*state;
  const int64_t rows = 1000003, n = 3;
  uint64_t seed = 5;
  Tensor x = tensor_new(DT_FP32, rows * n), dy = tensor_new(DT_FP32, rows * n);
  for (int64_t i = 0; i < rows * n; i++) {
    set(&x, i, 1.5 + uniform(&seed));
    set(&dy, i, 1.5 + uniform(&seed));
  }
  Tensor w = tensor_random(DT_FP32, n, 1, &seed), dw = tensor_new(DT_FP32, n);
  for (int64_t i = 0; i < n; i++) set(&dw, i, 0);
  double *xd = as_doubles(&x), *wd = as_doubles(&w), *dyd = as_doubles(&dy);
  double *dx = doubles(rows * n), *expected = doubles(n);
  rmsnorm_backward_reference(dx, expected, dyd, xd, wd, rows, n);
  rmsnorm_backward(dev, DT_FP32, on_device(&dy), (float *)on_device(&dw), on_device(&dy), on_device(&x),
                   on_device(&w), rows, n, (float)EPS, false);
  assert_near(&dw, expected, 2 * FP32_ERROR);

  /* dy is gone, dx lay over it: the same sum once more, by one thread */
  Device one = *dev;
  one.threads = 1;
  Tensor again = tensor_new(DT_FP32, n);
  for (int64_t i = 0; i < rows * n; i++) set(&dy, i, dyd[i]);
  for (int64_t i = 0; i < n; i++) set(&again, i, 0);
  rmsnorm_backward(&one, DT_FP32, on_device(&dy), (float *)on_device(&again), on_device(&dy), on_device(&x),
                   on_device(&w), rows, n, (float)EPS, false);
  assert_memory_equal(on_host(&again), on_host(&dw), (size_t)n * sizeof(float));

  Tensor *all[] = {&x, &dy, &w, &dw, &again};
  for (Tensor *t : all) tensor_free(t);
  double *references[] = {xd, wd, dyd, dx, expected};
  for (double *r : references) free(r);
}

/* ---- gated unit ---- */

static double act(Activation a, double x) {
  return a == ACT_SILU ? x / (1 + exp(-x))
                       : 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

static double act_slope(Activation a, double x) {
  if (a == ACT_SILU) {
    double s = 1 / (1 + exp(-x));
    return s + x * s * (1 - s);
  }
  double t = tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
}

typedef struct ActCase {
  Activation a;
  double x;
} ActCase;
static double act_scalar(const void *context) {
  return act(((const ActCase *)context)->a, ((const ActCase *)context)->x);
}

static const Activation ACTIVATIONS[] = {ACT_SILU, ACT_GELU_TANH};

static void glu_reference_has_the_forwards_slope(void **) {
  FOR_EACH(Activation, a, ACTIVATIONS)
  for (double x = -6; x <= 6; x += 0.37) {
    ActCase c = {a, x};
    assert_true(fabs(slope(act_scalar, &c, &c.x) - act_slope(a, x)) < SLOPE_ERROR);
  }
}

static void glu_case(Device *dev, DType dt, Activation a, int64_t rows, int64_t FF, double scale) {
  uint64_t seed = (uint64_t)(rows * 10000 + FF);
  Tensor gu = tensor_random(dt, rows * 2 * FF, scale, &seed), dh = tensor_random(dt, rows * FF, 1, &seed);
  Tensor h = tensor_new(dt, rows * FF);
  double *expected = doubles(rows * FF), *dgu = doubles(rows * 2 * FF);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = 0; i < FF; i++) {
      double g = get(&gu, r * 2 * FF + i), u = get(&gu, r * 2 * FF + FF + i), d = get(&dh, r * FF + i);
      expected[r * FF + i] = act(a, g) * u;
      dgu[r * 2 * FF + i] = d * u * act_slope(a, g);
      dgu[r * 2 * FF + FF + i] = d * act(a, g);
    }
  glu_forward(dev, dt, a, on_device(&h), on_device(&gu), rows, FF);
  assert_near(&h, expected, storage_error(dt));
  glu_backward(dev, dt, a, on_device(&gu), on_device(&dh), rows, FF);
  assert_near(&gu, dgu, storage_error(dt));
  Tensor *all[] = {&gu, &dh, &h};
  for (Tensor *t : all) tensor_free(t);
  free(expected);
  free(dgu);
}

static void glu_equals_its_definition(void **state) {
  FOR_EACH(DType, dt, STORAGE)
  FOR_EACH(Activation, a, ACTIVATIONS) {
    FOR_EACH(int64_t, rows, ROWS)
    FOR_EACH(int64_t, FF, WIDTHS) glu_case((Device *)*state, dt, a, rows, FF, 3);
    glu_case((Device *)*state, dt, a, 3, 250, 100);
  }
}

/* ---- cross-entropy ---- */

/* Loss of one row, and its gradient for a loss weighted by scale. */
static double cross_entropy_reference(double *dx, const double *x, int64_t target, int64_t V, double scale) {
  double m = -INFINITY, sum = 0;
  for (int64_t i = 0; i < V; i++) m = fmax(m, x[i]);
  for (int64_t i = 0; i < V; i++) sum += exp(x[i] - m);
  for (int64_t i = 0; i < V; i++) dx[i] = scale * (exp(x[i] - m) / sum - (i == target));
  return log(sum) + m - x[target];
}

typedef struct LossCase {
  double x[9], dx[9];
} LossCase;
static double loss_scalar(const void *context) {
  LossCase *c = (LossCase *)context;
  double unused[9];
  return cross_entropy_reference(unused, c->x, 4, 9, 1);
}

static void cross_entropy_reference_has_the_forwards_slope(void **) {
  LossCase c;
  uint64_t seed = 3;
  for (double &v : c.x) v = 3 * uniform(&seed);
  cross_entropy_reference(c.dx, c.x, 4, 9, 1);
  for (int i = 0; i < 9; i++) assert_true(fabs(slope(loss_scalar, &c, c.x + i) - c.dx[i]) < SLOPE_ERROR);
}

/* scale of the logits; every third row is not trained on; `padding` logits at the end are -inf. */
static void cross_entropy_case(Device *dev, DType dt, int64_t rows, int64_t V, double scale,
                               int64_t padding) {
  uint64_t seed = (uint64_t)(rows * 10000 + V);
  Tensor x = tensor_random(dt, rows * V, scale, &seed);
  int32_t *targets = (int32_t *)malloc((size_t)rows * sizeof *targets);
  Tensor losses = tensor_new(DT_FP32, rows), forward_only = tensor_new(DT_FP32, rows);
  double *xd = doubles(V), *dx = doubles(rows * V), *expected = doubles(rows);
  const double factor = 0.125;
  for (int64_t r = 0; r < rows; r++) {
    targets[r] = r % 3 == 2 ? -1 - (int32_t)r : (int32_t)((r * 7919) % (V - padding));
    for (int64_t i = V - padding; i < V; i++) set(&x, r * V + i, -INFINITY);
    for (int64_t i = 0; i < V; i++) xd[i] = get(&x, r * V + i);
    if (targets[r] >= 0) expected[r] = cross_entropy_reference(dx + r * V, xd, targets[r], V, factor);
  }
  Mirror *device_targets = mirror_of(targets, (size_t)rows * sizeof *targets);
  const int32_t *at = (const int32_t *)mirror_use(device_targets);
  cross_entropy_forward(dev, dt, (float *)on_device(&forward_only), on_device(&x), at, rows, V);
  cross_entropy_forward_backward(dev, dt, (float *)on_device(&losses), on_device(&x), at, rows, V,
                                 (float)factor);
  for (int64_t r = 0; r < rows; r++) {
    /* log(sum) loses 2e-7 absolutely, max - logit its last bit */
    assert_true(fabs(get(&losses, r) - expected[r]) <= FP32_ERROR * fmax(1, expected[r]));
    assert_true(fabs(get(&forward_only, r) - expected[r]) <= FP32_ERROR * fmax(1, expected[r]));
    /* the two forms cut their sums differently: a few last bits */
    assert_true(fabs(get(&forward_only, r) - get(&losses, r)) <= 0x1p-21 * fmax(1, expected[r]));
    if (targets[r] >= 0) continue;
    assert_true(get(&losses, r) == 0);
    for (int64_t i = 0; i < V; i++) assert_true(get(&x, r * V + i) == 0);
  }
  /* V = 1: exactly zero. Where one logit dominates, the gradient is 1 - softmax, known to fp32's absolute
   * error only, so the norm is not allowed to be smaller than that of one row of typical size. */
  double difference = 0, norm = factor * factor;
  for (int64_t i = 0; i < rows * V; i++) {
    difference += (get(&x, i) - dx[i]) * (get(&x, i) - dx[i]);
    norm += dx[i] * dx[i];
  }
  assert_true(sqrt(difference / norm) <= storage_error(dt));
  Tensor *all[] = {&x, &losses, &forward_only};
  for (Tensor *t : all) tensor_free(t);
  mirror_free(device_targets);
  free(targets);
  free(xd);
  free(dx);
  free(expected);
}

static void cross_entropy_equals_its_definition(void **state) {
  FOR_EACH(DType, dt, STORAGE) {
    FOR_EACH(int64_t, rows, ROWS)
    FOR_EACH(int64_t, V, WIDTHS) cross_entropy_case((Device *)*state, dt, rows, V, 4, 0);
    cross_entropy_case((Device *)*state, dt, 5, 250, 80, 0);
    cross_entropy_case((Device *)*state, dt, 5, 250, 80, 50);
    cross_entropy_case((Device *)*state, dt, 4, 50257, 10, 7);
  }
}

static void cross_entropy_shows_non_finite_logits(void **state) {
  const float bad[] = {NAN, INFINITY};
  FOR_EACH(float, x, bad) {
    const int32_t targets[3] = {2, 2, -1};
    Tensor logits = tensor_new(DT_FP32, 3 * 11), losses = tensor_new(DT_FP32, 3);
    Mirror *device_targets = mirror_of(targets, sizeof targets);
    for (int i = 0; i < 33; i++) set(&logits, i, i % 5);
    set(&logits, 11 + 7, x);
    cross_entropy_forward_backward((Device *)*state, DT_FP32, (float *)on_device(&losses), on_device(&logits),
                                   (const int32_t *)mirror_use(device_targets), 3, 11, 1);
    assert_true(isfinite(get(&losses, 0)));
    assert_true(isnan(get(&losses, 1)));
    assert_true(get(&losses, 2) == 0);
    for (int i = 0; i < 11; i++) assert_true(isfinite(get(&logits, i)) && get(&logits, 22 + i) == 0);
    tensor_free(&logits);
    tensor_free(&losses);
    mirror_free(device_targets);
  }
}

/* ---- embedding ---- */

static void embedding_case(Device *dev, DType dt, int64_t rows, int64_t C, int64_t V) {
  uint64_t seed = (uint64_t)(rows * 10000 + C);
  Tensor table = tensor_random(dt, V * C, 1, &seed), dout = tensor_random(dt, rows * C, 1, &seed);
  Tensor out = tensor_new(dt, rows * C), dtable = tensor_random(DT_FP32, V * C, 1, &seed);
  Tensor one_thread = tensor_copy(&dtable);
  int32_t *tokens = (int32_t *)malloc((size_t)rows * sizeof *tokens);
  for (int64_t r = 0; r < rows; r++) tokens[r] = (int32_t)((uniform(&seed) + 1) / 2 * (double)V);
  double *expected = as_doubles(&dtable);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = 0; i < C; i++) expected[tokens[r] * C + i] += get(&dout, r * C + i);

  Mirror *device_tokens = mirror_of(tokens, (size_t)rows * sizeof *tokens);
  const int32_t *at = (const int32_t *)mirror_use(device_tokens);
  embedding_forward(dev, dt, on_device(&out), on_device(&table), at, rows, C);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = 0; i < C; i++) assert_true(get(&out, r * C + i) == get(&table, tokens[r] * C + i));
  embedding_backward(dev, dt, (float *)on_device(&dtable), on_device(&dout), at, rows, C);
  assert_near(&dtable, expected, FP32_ERROR);
  Device one = *dev;
  one.threads = 1;
  embedding_backward(&one, dt, (float *)on_device(&one_thread), on_device(&dout), at, rows, C);
  assert_memory_equal(on_host(&dtable), on_host(&one_thread), (size_t)(V * C) * sizeof(float));

  Tensor *all[] = {&table, &dout, &out, &dtable, &one_thread};
  for (Tensor *t : all) tensor_free(t);
  mirror_free(device_tokens);
  free(tokens);
  free(expected);
}

static void embedding_equals_its_definition(void **state) {
  FOR_EACH(DType, dt, STORAGE)
  FOR_EACH(int64_t, rows, ROWS)
  FOR_EACH(int64_t, C, WIDTHS) {
    embedding_case((Device *)*state, dt, rows, C, 300);
    embedding_case((Device *)*state, dt, rows, C, 2); /* many tokens at one place */
  }
}

/* ---- queries and keys ---- */

typedef struct QkCase {
  int64_t NH, NKV, HS, ld; /* ld: of every matrix, at least (NH + 2 NKV) HS */
  bool norm;
  double *x, *w; /* [rows, ld]; [2, HS]: q_norm, k_norm */
  double *dy;    /* [rows, ld] */
  double scale;
  const float *inv_freq;    /* [HS/2] */
  const int32_t *positions; /* [rows] */
  int64_t rows;
} QkCase;

static void qk_reference(double *y, const QkCase *c) {
  int64_t half = c->HS / 2;
  for (int64_t r = 0; r < c->rows; r++)
    for (int64_t h = 0; h < c->NH + c->NKV; h++) {
      const double *x = c->x + r * c->ld + h * c->HS, *w = c->w + (h < c->NH ? 0 : c->HS);
      double *out = y + r * c->ld + h * c->HS, n[512], squares = 0;
      for (int64_t i = 0; i < c->HS; i++) squares += x[i] * x[i];
      double rms = sqrt(squares / (double)c->HS + EPS);
      for (int64_t i = 0; i < c->HS; i++) n[i] = c->norm ? x[i] / rms * w[i] : x[i];
      for (int64_t i = 0; i < half; i++) {
        double angle = (double)((float)c->positions[r] * c->inv_freq[i]); /* the product of floats */
        double cosine = cos(angle) * c->scale, sine = sin(angle) * c->scale;
        out[i] = n[i] * cosine - n[i + half] * sine;
        out[i + half] = n[i + half] * cosine + n[i] * sine;
      }
    }
}

/* dx gets the gradient of queries and keys; dw [2, HS] += that of the norms. */
static void qk_backward_reference(double *dx, double *dw, const QkCase *c) {
  int64_t half = c->HS / 2;
  for (int64_t r = 0; r < c->rows; r++)
    for (int64_t h = 0; h < c->NH + c->NKV; h++) {
      const double *x = c->x + r * c->ld + h * c->HS, *dy = c->dy + r * c->ld + h * c->HS;
      const double *w = c->w + (h < c->NH ? 0 : c->HS);
      double *out = dx + r * c->ld + h * c->HS, *dw_head = dw + (h < c->NH ? 0 : c->HS), dn[512];
      double squares = 0, dot = 0;
      for (int64_t i = 0; i < half; i++) {
        double angle = (double)((float)c->positions[r] * c->inv_freq[i]);
        double cosine = cos(angle) * c->scale, sine = sin(angle) * c->scale;
        dn[i] = dy[i] * cosine + dy[i + half] * sine;
        dn[i + half] = dy[i + half] * cosine - dy[i] * sine;
      }
      for (int64_t i = 0; i < c->HS; i++) {
        squares += x[i] * x[i];
        dot += dn[i] * w[i] * x[i];
      }
      double rms = sqrt(squares / (double)c->HS + EPS);
      for (int64_t i = 0; i < c->HS; i++) {
        out[i] = c->norm ? dn[i] * w[i] / rms - x[i] * dot / ((double)c->HS * rms * rms * rms) : dn[i];
        if (c->norm) dw_head[i] += dn[i] * x[i] / rms;
      }
    }
}

static double qk_scalar(const void *context) {
  const QkCase *c = (const QkCase *)context;
  double *y = doubles(c->rows * c->ld), sum = 0;
  qk_reference(y, c);
  for (int64_t r = 0; r < c->rows; r++)
    for (int64_t i = 0; i < (c->NH + c->NKV) * c->HS; i++) sum += y[r * c->ld + i] * c->dy[r * c->ld + i];
  free(y);
  return sum;
}

static void qk_prepare_reference_has_the_forwards_slope(void **) {
  enum { R = 2, NH = 2, NKV = 1, HS = 6, LD = (NH + 2 * NKV) * HS };
  uint64_t seed = 4;
  double x[R * LD], w[2 * HS], dy[R * LD];
  for (double &v : x) v = uniform(&seed);
  for (double &v : w) v = uniform(&seed);
  for (double &v : dy) v = uniform(&seed);
  float inv_freq[] = {1, 0.1f, 0.01f};
  int32_t positions[] = {3, 40};
  for (int norm = 0; norm < 2; norm++) {
    QkCase c = {NH, NKV, HS, LD, norm == 1, x, w, dy, 1.25, inv_freq, positions, R};
    double dx[R * LD] = {}, dw[2 * HS] = {};
    qk_backward_reference(dx, dw, &c);
    for (int i = 0; i < R * LD; i++) assert_true(fabs(slope(qk_scalar, &c, x + i) - dx[i]) < SLOPE_ERROR);
    for (int i = 0; i < 2 * HS; i++) assert_true(fabs(slope(qk_scalar, &c, w + i) - dw[i]) < SLOPE_ERROR);
  }
}

static void qk_prepare_case(Device *dev, DType dt, int64_t rows, int64_t NH, int64_t NKV, int64_t HS,
                            bool norm, int32_t first_position) {
  uint64_t seed = (uint64_t)(rows * 10000 + HS);
  int64_t half = HS / 2, ld = (NH + 2 * NKV) * HS + 5, ld_qk = (NH + NKV) * HS + 3;
  Tensor qkv = tensor_random(dt, rows * ld, 2, &seed), w = tensor_random(dt, 2 * HS, 1, &seed);
  Tensor d = tensor_random(dt, rows * ld, 1, &seed), qk = tensor_random(dt, rows * ld_qk, 1, &seed);
  Tensor dw = tensor_random(DT_FP32, 2 * HS, 1, &seed), inv_freq = tensor_new(DT_FP32, half);
  for (int64_t i = 0; i < half; i++) set(&inv_freq, i, pow(500000, -2.0 * (double)i / (double)HS));
  int32_t *positions = (int32_t *)malloc((size_t)rows * sizeof *positions);
  for (int64_t r = 0; r < rows; r++) positions[r] = first_position - (int32_t)r * 31;
  Mirror *device_positions = mirror_of(positions, (size_t)rows * sizeof *positions);
  QkCase c = {NH,
              NKV,
              HS,
              ld,
              norm,
              as_doubles(&qkv),
              as_doubles(&w),
              as_doubles(&d),
              1.25,
              (const float *)on_host(&inv_freq),
              positions,
              rows};
  double *expected = as_doubles(&qk), *dw_expected = as_doubles(&dw);
  char *w_q = (char *)on_device(&w);
  float *dw_q = (float *)on_device(&dw);
  QkPrepare p = {NH,
                 NKV,
                 HS,
                 (const float *)on_device(&inv_freq),
                 (float)c.scale,
                 (const int32_t *)mirror_use(device_positions),
                 norm ? w_q : NULL,
                 norm ? w_q + (size_t)HS * dtype_size(dt) : NULL,
                 dw_q,
                 dw_q + HS,
                 (float)EPS};

  /* forward: into a matrix of its own, whose columns past the keys stay, and in place */
  double *y = doubles(rows * ld);
  qk_reference(y, &c);
  for (int64_t r = 0; r < rows; r++)
    memcpy(expected + r * ld_qk, y + r * ld, (size_t)((NH + NKV) * HS) * sizeof *y);
  Tensor untouched = tensor_copy(&qk);
  qk_prepare_forward(dev, dt, on_device(&qk), ld_qk, on_device(&qkv), ld, &p, rows);
  assert_near(&qk, expected, storage_error(dt));
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = (NH + NKV) * HS; i < ld_qk; i++)
      assert_true(get(&qk, r * ld_qk + i) == get(&untouched, r * ld_qk + i));
  if (!norm) {
    Tensor in_place = tensor_copy(&qkv);
    qk_prepare_forward(dev, dt, on_device(&in_place), ld, on_device(&in_place), ld, &p, rows);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t i = 0; i < ld; i++)
        assert_true(get(&in_place, r * ld + i) ==
                    (i < (NH + NKV) * HS ? get(&qk, r * ld_qk + i) : get(&qkv, r * ld + i)));
    tensor_free(&in_place);
  }

  /* backward: in place, the values' part untouched */
  double *dx = as_doubles(&d);
  qk_backward_reference(dx, dw_expected, &c);
  qk_prepare_backward(dev, dt, on_device(&d), norm ? on_device(&qkv) : NULL, ld, &p, rows);
  assert_near(&d, dx, FP32_ERROR + storage_error(dt));
  assert_near(&dw, dw_expected, 2 * FP32_ERROR);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = (NH + NKV) * HS; i < ld; i++) assert_true(get(&d, r * ld + i) == c.dy[r * ld + i]);

  Tensor *all[] = {&qkv, &w, &d, &qk, &dw, &inv_freq, &untouched};
  for (Tensor *t : all) tensor_free(t);
  double *references[] = {c.x, c.w, c.dy, y, expected, dx, dw_expected};
  for (double *r : references) free(r);
  mirror_free(device_positions);
  free(positions);
}

static void qk_prepare_equals_its_definition(void **state) {
  const int64_t sizes[] = {2, 6, 16, 64, 80, 128, 512};
  const int32_t positions[] = {2170, 1048575, 16777215, INT32_MAX};
  FOR_EACH(DType, dt, STORAGE)
  FOR_EACH(int64_t, HS, sizes)
  for (int norm = 0; norm < 2; norm++) {
    FOR_EACH(int32_t, position, positions)
    qk_prepare_case((Device *)*state, dt, 5, 4, 2, HS, norm == 1, position);
    qk_prepare_case((Device *)*state, dt, 70, 3, 1, HS, norm == 1, 2170);
    qk_prepare_case((Device *)*state, dt, 1, 1, 1, HS, norm == 1, 0);
  }
}

/* ---- large results ---- */

/* Results that are too large for the CPU's caches are stored past them; no bit of them may depend on that. */
template <class Operation> static void large_case(int64_t rows, int64_t n, Operation operation) {
  const int64_t PART = 100;
  Tensor whole = tensor_new(DT_FP32, rows * n), parts = tensor_new(DT_FP32, rows * n);
  operation((float *)on_device(&whole), (int64_t)0, rows);
  float *out = (float *)on_device(&parts);
  for (int64_t row = 0; row < rows; row += PART)
    operation(out + row * n, row, rows - row < PART ? rows - row : PART);
  assert_memory_equal(on_host(&whole), on_host(&parts), (size_t)(rows * n) * sizeof(float));
  tensor_free(&whole);
  tensor_free(&parts);
}

typedef struct LargeRows {
  int64_t n, HS;
} LargeRows;

static void large_results_are_those_of_their_parts(void **state) {
  Device *dev = (Device *)*state;
  const LargeRows shapes[] = {{2112, 64},
                              {2114, 14}}; /* all rows begin at multiples of 16 bytes; not all do */
  FOR_EACH(LargeRows, shape, shapes) {
    const int64_t n = shape.n, rows = (16 << 20) / (n * (int64_t)sizeof(float)) + 8;
    uint64_t seed = 11;
    Tensor x = tensor_random(DT_FP32, rows * n, 1, &seed), w = tensor_random(DT_FP32, n, 1, &seed);
    Mirror *ids = mirror_new((size_t)rows * sizeof(int32_t));
    int32_t *id = (int32_t *)mirror_write(ids);
    for (int64_t i = 0; i < rows; i++) id[i] = (int32_t)(i * 7 % rows);
    const float *from = (const float *)on_device(&x), *weight = (const float *)on_device(&w);
    const int32_t *index = (const int32_t *)mirror_use(ids);
    large_case(rows, n, [=](float *out, int64_t row, int64_t count) {
      rmsnorm_forward(dev, DT_FP32, out, from + row * n, weight, count, n, 1e-5f);
    });
    large_case(rows, n, [=](float *out, int64_t row, int64_t count) {
      embedding_forward(dev, DT_FP32, out, from, index + row, count, n);
    });
    large_case(rows, n, [=](float *out, int64_t row, int64_t count) {
      QkPrepare p = {};
      p.HS = shape.HS;
      p.NH = n / p.HS - 1;
      p.NKV = 1;
      p.inv_freq = weight;
      p.attention_scale = 1;
      p.positions = index + row;
      qk_prepare_forward(dev, DT_FP32, out, n, from + row * n, n, &p, count);
    });
    mirror_free(ids);
    tensor_free(&x);
    tensor_free(&w);
  }
}

/* ---- all of them, with no rows ---- */

static void nothing_is_done_to_no_rows(void **state) {
  Device *dev = (Device *)*state;
  Tensor one = tensor_new(DT_FP32, 1), sum = tensor_new(DT_FP32, 1);
  set(&one, 0, 1);
  set(&sum, 0, 1);
  float *x = (float *)on_device(&one), *dw = (float *)on_device(&sum);
  const int32_t zero = 0;
  Mirror *device_zero = mirror_of(&zero, sizeof zero);
  const int32_t *token = (const int32_t *)mirror_use(device_zero);
  QkPrepare p = {1, 1, 2, x, 1, token, x, x, dw, dw, 1};
  rmsnorm_forward(dev, DT_FP32, x, x, x, 0, 1, 1);
  rmsnorm_backward(dev, DT_FP32, x, dw, x, x, x, 0, 1, 1, false);
  glu_forward(dev, DT_FP32, ACT_SILU, x, x, 0, 1);
  glu_backward(dev, DT_FP32, ACT_SILU, x, x, 0, 1);
  cross_entropy_forward(dev, DT_FP32, x, x, token, 0, 1);
  cross_entropy_forward_backward(dev, DT_FP32, x, x, token, 0, 1, 1);
  embedding_forward(dev, DT_FP32, x, x, token, 0, 1);
  embedding_backward(dev, DT_FP32, x, x, token, 0, 1);
  qk_prepare_forward(dev, DT_FP32, x, 4, x, 6, &p, 0);
  qk_prepare_backward(dev, DT_FP32, x, x, 6, &p, 0);
  assert_true(get(&one, 0) == 1 && get(&sum, 0) == 1);
  tensor_free(&one);
  tensor_free(&sum);
  mirror_free(device_zero);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rmsnorm_reference_has_the_forwards_slope),
      cmocka_unit_test(rmsnorm_equals_its_definition),
      cmocka_unit_test(rmsnorm_weight_gradient_keeps_its_digits),
      cmocka_unit_test(glu_reference_has_the_forwards_slope),
      cmocka_unit_test(glu_equals_its_definition),
      cmocka_unit_test(cross_entropy_reference_has_the_forwards_slope),
      cmocka_unit_test(cross_entropy_equals_its_definition),
      cmocka_unit_test(cross_entropy_shows_non_finite_logits),
      cmocka_unit_test(embedding_equals_its_definition),
      cmocka_unit_test(qk_prepare_reference_has_the_forwards_slope),
      cmocka_unit_test(qk_prepare_equals_its_definition),
      cmocka_unit_test(large_results_are_those_of_their_parts),
      cmocka_unit_test(nothing_is_done_to_no_rows),
  };
  return cmocka_run_group_tests(tests, device_setup, device_teardown);
}
