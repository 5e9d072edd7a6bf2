/* AdamW, the random rounding, the sum of squares, conversions and initial values. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

#include "device/random.cuh" // defines: philox, round_stochastic
#include "ops/adamw.h"
#include "ops/convert.h"
#include "test/ops_support.cuh"

static const AdamW SETTINGS = {1e-2, 0.9, 0.95, 1e-8, 0.1, 1, 1.f, 42};

/* One tensor's update as a reference in double, in torch's order. */
static void adamw_reference(double *p, const double *g, double *m, double *v, int64_t n, bool decay,
                            const AdamW *a) {
  double correction1 = 1 - pow(a->beta1, (double)a->step), correction2 = 1 - pow(a->beta2, (double)a->step);
  for (int64_t i = 0; i < n; i++) {
    double scaled = g[i] * a->grad_scale;
    if (decay) p[i] *= 1 - a->lr * a->weight_decay;
    m[i] += (scaled - m[i]) * (1 - a->beta1);
    v[i] = v[i] * a->beta2 + scaled * scaled * (1 - a->beta2);
    p[i] -= a->lr / correction1 * m[i] / (sqrt(v[i]) / sqrt(correction2) + a->eps);
  }
}

/* A tensor with its state: gradients change with the step, moments begin at zero. */
typedef struct State {
  Tensor param, master, grad, m, v; /* each [n] */
} State;

static State state_new(DType dt, DType moments, int64_t n) {
  uint64_t seed = (uint64_t)n;
  State s = {tensor_random(dt, n, 1, &seed), tensor_new(DT_FP32, n), tensor_new(DT_FP32, n),
             tensor_new(moments, n), tensor_new(moments, n)};
  for (int64_t i = 0; i < n; i++) {
    set(&s.master, i, get(&s.param, i));
    set(&s.m, i, 0);
    set(&s.v, i, 0);
  }
  return s;
}
static void state_free(State *s) {
  Tensor *all[] = {&s->param, &s->master, &s->grad, &s->m, &s->v};
  for (Tensor *t : all) tensor_free(t);
}
static void state_gradient(State *s, int64_t step) {
  uint64_t seed = (uint64_t)step * 77;
  for (int64_t i = 0; i < s->grad.n; i++) set(&s->grad, i, uniform(&seed) * (i % 5 == 4 ? 1e-6 : 1));
}
/* Elements [first, first + n) of the state as one update sees them. */
static AdamWTensor state_slice(const State *s, bool with_master, bool decay, int64_t first, int64_t n) {
  size_t p = dtype_size(s->param.dt), m = dtype_size(s->m.dt), at = (size_t)first;
  return AdamWTensor{(char *)on_device(&s->param) + at * p,
                     s->param.dt,
                     with_master ? (float *)on_device(&s->master) + first : NULL,
                     (float *)on_device(&s->grad) + first,
                     (char *)on_device(&s->m) + at * m,
                     (char *)on_device(&s->v) + at * m,
                     s->m.dt,
                     NULL,
                     NULL,
                     n,
                     decay,
                     7,
                     first};
}

static void adamw_fp32_equals_its_definition(void **state) {
  const int64_t sizes[] = {1, 7, 8, 63, 4095, 4097, 9000};
  for (int64_t n : sizes) {
    bool decay = n % 2 == 1;
    State s = state_new(DT_FP32, DT_FP32, n);
    double *p = doubles(n), *g = doubles(n), *m = doubles(n), *v = doubles(n);
    for (int64_t i = 0; i < n; i++) p[i] = get(&s.param, i);
    AdamW a = SETTINGS;
    a.grad_scale = 0.75f;
    for (a.step = 1; a.step <= 20; a.step++) {
      state_gradient(&s, a.step);
      for (int64_t i = 0; i < n; i++) g[i] = get(&s.grad, i);
      adamw_reference(p, g, m, v, n, decay, &a);
      AdamWTensor t = state_slice(&s, false, decay, 0, n);
      adamw_update((Device *)*state, &t, 1, &a);
    }
    /* a few roundings of 2^-24 a step, of numbers of the size of the result, for 20 steps */
    assert_near(&s.m, m, 4 * FP32_ERROR);
    assert_near(&s.v, v, 4 * FP32_ERROR);
    assert_near(&s.param, p, 4 * FP32_ERROR);
    state_free(&s);
    double *all[] = {p, g, m, v};
    for (double *x : all) free(x);
  }
}

static void adamw_master_is_the_fp32_update(void **state) {
  const int64_t n = 5001;
  State s = state_new(DT_BF16, DT_FP32, n), full = state_new(DT_FP32, DT_FP32, n);
  Tensor rounded = tensor_new(DT_BF16, n);
  for (int64_t i = 0; i < n; i++) set(&full.param, i, get(&s.master, i));
  AdamW a = SETTINGS;
  for (a.step = 1; a.step <= 3; a.step++) {
    state_gradient(&s, a.step);
    state_gradient(&full, a.step);
    AdamWTensor t = state_slice(&s, true, true, 0, n), f = state_slice(&full, false, true, 0, n);
    adamw_update((Device *)*state, &t, 1, &a);
    adamw_update((Device *)*state, &f, 1, &a);
  }
  for (int64_t i = 0; i < n; i++) set(&rounded, i, get(&full.param, i));
  assert_memory_equal(on_host(&s.master), on_host(&full.param), (size_t)n * sizeof(float));
  assert_memory_equal(on_host(&s.param), on_host(&rounded), (size_t)n * sizeof(bf16));
  tensor_free(&rounded);
  state_free(&s);
  state_free(&full);
}

/* All elements get the same update; each result has to be one of the two neighbours, and their mean the
 * exact value. sigma of the mean of n choices between neighbours a step apart: at most step / (2 sqrt(n)). */
static void check_unbiased(const Tensor *t, double exact) {
  double sum = 0, low = INFINITY, high = -INFINITY;
  for (int64_t i = 0; i < t->n; i++) {
    sum += get(t, i);
    low = fmin(low, get(t, i));
    high = fmax(high, get(t, i));
  }
  double step = high - low;
  assert_true(low < exact && exact < high);
  assert_true(step <= 0x1.01p-7 * fabs(exact));
  assert_true(fabs(sum / (double)t->n - exact) < 5 * step / (2 * sqrt((double)t->n)));
}

static void adamw_rounds_bf16_without_bias(void **state) {
  const int64_t n = 100000;
  State s = state_new(DT_BF16, DT_BF16, n);
  for (int64_t i = 0; i < n; i++) {
    set(&s.param, i, 0.75);
    set(&s.m, i, 0.5);
    set(&s.v, i, 2.0);
    set(&s.grad, i, 0.3);
  }
  AdamW a = SETTINGS;
  a.step = 9;
  a.beta2 = 0.9993; /* v loses less than half a unit of its last place: nearest rounding would keep it */
  a.lr = 1e-4;      /* and so does the parameter */
  double p = 0.75, g = 0.3f, m = 0.5, v = 2.0;
  adamw_reference(&p, &g, &m, &v, 1, true, &a);
  AdamWTensor t = state_slice(&s, false, true, 0, n);
  adamw_update((Device *)*state, &t, 1, &a);
  check_unbiased(&s.param, p);
  check_unbiased(&s.m, m);
  check_unbiased(&s.v, v);

  /* the choices of an element are independent, and so are those of the two elements that share a random
   * number */
  double p_up = 0, m_up = 0, both = 0, pairs = 0;
  for (int64_t i = 0; i < n; i++) {
    bool up = get(&s.param, i) > p, m_is_up = get(&s.m, i) > m;
    p_up += up;
    m_up += m_is_up;
    both += up && m_is_up;
    pairs += i % 2 == 0 && i + 1 < n && up && get(&s.param, i + 1) > p;
  }
  double count = (double)n;
  assert_true(fabs(both / count - p_up / count * (m_up / count)) < 5 * 0.25 / sqrt(count));
  assert_true(fabs(2 * pairs / count - p_up / count * (p_up / count)) < 5 * 0.25 / sqrt(count / 2));
  state_free(&s);
}

/* Whole, in slices one by one or together, and with one thread: the same bits. Another step, tensor or seed:
 * others. */
static void adamw_rounding_depends_on_the_element_only(void **state) {
  Device *dev = (Device *)*state, one = *dev;
  one.threads = 1;
  const int64_t n = 9001, cuts[] = {0, 1, 4099, 8000, n};
  State whole = state_new(DT_BF16, DT_BF16, n), sliced = state_new(DT_BF16, DT_BF16, n);
  AdamW a = SETTINGS;
  for (a.step = 1; a.step <= 3; a.step++) {
    state_gradient(&whole, a.step);
    state_gradient(&sliced, a.step);
    AdamWTensor t = state_slice(&whole, false, true, 0, n);
    adamw_update(dev, &t, 1, &a);
    AdamWTensor parts[4];
    for (int k = 0; k < 4; k++) parts[k] = state_slice(&sliced, false, true, cuts[k], cuts[k + 1] - cuts[k]);
    for (int k = 0; k < 4 && a.step != 2; k++) adamw_update(&one, &parts[k], 1, &a);
    if (a.step == 2) adamw_update(&one, parts, 4, &a);
  }
  size_t bytes = (size_t)n * sizeof(bf16);
  assert_memory_equal(on_host(&whole.param), on_host(&sliced.param), bytes);
  assert_memory_equal(on_host(&whole.m), on_host(&sliced.m), bytes);
  assert_memory_equal(on_host(&whole.v), on_host(&sliced.v), bytes);

  /* a slice from the second element of a pair on, in memory of its own: aligned, unlike those above */
  const int64_t first = 4099;
  State piece = state_new(DT_BF16, DT_BF16, n - first);
  Tensor *from[] = {&whole.param, &whole.grad, &whole.m, &whole.v};
  Tensor *to[] = {&piece.param, &piece.grad, &piece.m, &piece.v};
  for (int k = 0; k < 4; k++)
    for (int64_t i = 0; i < n - first; i++) set(to[k], i, get(from[k], first + i));
  AdamWTensor all = state_slice(&whole, false, true, 0, n),
              part = state_slice(&piece, false, true, 0, n - first);
  part.first = first;
  adamw_update(dev, &all, 1, &a);
  adamw_update(dev, &part, 1, &a);
  for (int k = 0; k < 4; k++)
    for (int64_t i = 0; i < n - first; i++) assert_true(get(to[k], i) == get(from[k], first + i));
  state_free(&piece);

  for (int variant = 0; variant < 4; variant++) {
    State fresh = state_new(DT_BF16, DT_BF16, n), other = state_new(DT_BF16, DT_BF16, n);
    state_gradient(&fresh, 1);
    state_gradient(&other, 1);
    AdamW b = SETTINGS;
    b.beta1 = b.beta2 = 0.5;
    AdamWTensor t = state_slice(&fresh, false, true, 0, n), u = state_slice(&other, false, true, 0, n);
    adamw_update(dev, &t, 1, &b);
    b.seed += variant == 1 ? (uint64_t)1 << 40 : 0;
    u.id += variant == 2;
    u.first += variant == 3 ? (int64_t)1 << 33 : 0;
    adamw_update(dev, &u, 1, &b);
    bool same = memcmp(on_host(&fresh.v), on_host(&other.v), bytes) == 0;
    assert_true(same == (variant == 0));
    state_free(&fresh);
    state_free(&other);
  }
  state_free(&whole);
  state_free(&sliced);
}

/* The vectors that Random123 publishes for philox4x32-10. */
static void philox_is_the_published_one(void **) {
  Random4 zero = philox(Random4{{0, 0, 0, 0}}, 0);
  const uint32_t of_zero[] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
  assert_memory_equal(zero.x, of_zero, sizeof of_zero);
  Random4 pi = philox(Random4{{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, 0x299f31d0a4093822u);
  const uint32_t of_pi[] = {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u};
  assert_memory_equal(pi.x, of_pi, sizeof of_pi);
}

static void stochastic_rounding_keeps_what_is_not_finite(void **) {
  const bf16 *type = NULL;
  assert_true(isinf(round_stochastic(type, INFINITY, 0xffffu)));
  assert_true(isnan(round_stochastic(type, float_from_bits(0x7fffffffu), 0xffffu)));
  assert_true(round_stochastic(type, 1.f, 0xffffu) == 1.f);
  assert_true(round_stochastic(type, -0x1.02p0f, 0xffffu) == -0x1.02p0f);
}

static void sum_of_squares_is_exact_enough_and_shows_non_finite(void **state) {
  Device *dev = (Device *)*state, one = *dev;
  one.threads = 1;
  const int64_t sizes[] = {0, 1, 7, 1025, 65535, 65536, 65537, 300001};
  for (int64_t n : sizes) {
    uint64_t seed = (uint64_t)n;
    Tensor x = tensor_random(DT_FP32, n, 3, &seed);
    long double expected = 0;
    for (int64_t i = 0; i < n; i++) expected += (long double)get(&x, i) * get(&x, i);
    double sum = sum_of_squares(dev, on_device(&x), DT_FP32, n);
    assert_true(fabs(sum - (double)expected) <= 1e-13 * (double)expected);
    assert_true(sum == sum_of_squares(&one, on_device(&x), DT_FP32, n));
    if (n > 0) {
      set(&x, n - 1, INFINITY);
      assert_false(isfinite(sum_of_squares(dev, on_device(&x), DT_FP32, n)));
      set(&x, n - 1, NAN);
      assert_true(isnan(sum_of_squares(dev, on_device(&x), DT_FP32, n)));
      set(&x, n - 1, 1e30); /* its square is no float, but a double */
      assert_true(isfinite(sum_of_squares(dev, on_device(&x), DT_FP32, n)));
    }
    tensor_free(&x);
  }
  /* more pieces than are added up at a time */
  int64_t n = 1024 * 65536 + 12345;
  Mirror *x = mirror_new((size_t)n * sizeof(float));
  fill_constant(dev, mirror_use(x), DT_FP32, 0.5f, n);
  assert_true(sum_of_squares(dev, mirror_use(x), DT_FP32, n) == 0.25 * (double)n);
  mirror_free(x);
}

/* ---- conversions and initial values ---- */

static void convert_rounds_to_nearest_even(void **state) {
  Device *dev = (Device *)*state;
  const struct {
    uint32_t from;
    uint16_t to;
  } cases[] = {
      {0x3f800000, 0x3f80}, /* 1 */
      {0x3f808000, 0x3f80}, /* a tie, to even below */
      {0x3f818000, 0x3f82}, /* a tie, to even above */
      {0x3f808001, 0x3f81}, {0x3f807fff, 0x3f80}, {0xbf818000, 0xbf82},
      {0x00008000, 0x0000}, {0x00018000, 0x0002}, /* subnormal ties */
      {0x80000000, 0x8000},                       /* -0 */
      {0x7f7fffff, 0x7f80},                       /* the largest float: infinity is nearer */
      {0x7f800000, 0x7f80}, {0xff800000, 0xff80},
  };
  for (const auto &c : cases) {
    Mirror *from = mirror_of(&c.from, sizeof c.from), *to = mirror_new(sizeof c.to);
    convert(dev, mirror_use(to), DT_BF16, mirror_use(from), DT_FP32, 1);
    assert_int_equal(*(const uint16_t *)mirror_read(to), c.to);
    mirror_free(from);
    mirror_free(to);
  }
  const uint32_t nans[] = {0x7f800001, 0x7fffffff, 0xffc00000, 0xff8000ff};
  Mirror *from = mirror_of(nans, sizeof nans), *to = mirror_new(4 * sizeof(uint16_t));
  convert(dev, mirror_use(to), DT_BF16, mirror_use(from), DT_FP32, 4);
  const uint16_t *rounded = (const uint16_t *)mirror_read(to);
  for (int i = 0; i < 4; i++) assert_true((rounded[i] & 0x7fff) > 0x7f80); /* CUDA makes all NaNs one */
  mirror_free(from);
  mirror_free(to);

  const int64_t sizes[] = {0, 1, 7, 4096, 4097, 10001};
  for (int64_t n : sizes) {
    uint64_t seed = (uint64_t)n;
    Tensor x = tensor_random(DT_FP32, n, 1, &seed), y = tensor_new(DT_BF16, n), z = tensor_new(DT_FP32, n);
    Tensor same = tensor_new(DT_FP32, n), half = tensor_new(DT_BF16, n);
    convert(dev, on_device(&y), DT_BF16, on_device(&x), DT_FP32, n);
    convert(dev, on_device(&z), DT_FP32, on_device(&y), DT_BF16, n);
    convert(dev, on_device(&same), DT_FP32, on_device(&x), DT_FP32, n);
    convert(dev, on_device(&half), DT_BF16, on_device(&y), DT_BF16, n);
    for (int64_t i = 0; i < n; i++) assert_true(fabs(get(&z, i) - get(&x, i)) <= 0x1p-8 * fabs(get(&x, i)));
    assert_memory_equal(on_host(&same), on_host(&x), (size_t)n * sizeof(float));
    assert_memory_equal(on_host(&half), on_host(&y), (size_t)n * sizeof(bf16));
    fill_constant(dev, on_device(&y), DT_BF16, 1.5f, n);
    fill_constant(dev, on_device(&z), DT_FP32, -2.25f, n);
    for (int64_t i = 0; i < n; i++) assert_true(get(&y, i) == 1.5 && get(&z, i) == -2.25);
    Tensor *all[] = {&x, &y, &z, &same, &half};
    for (Tensor *t : all) tensor_free(t);
  }
}

static void fill_normal_is_normal_and_sliceable(void **state) {
  Device *dev = (Device *)*state, one = *dev;
  one.threads = 1;
  const int64_t n = 200003;
  const double std = 0.02;
  Tensor x = tensor_new(DT_FP32, n), sliced = tensor_new(DT_FP32, n), half = tensor_new(DT_BF16, n);
  fill_normal(dev, on_device(&x), DT_FP32, (float)std, 11, 3, 0, n);
  fill_normal(&one, on_device(&sliced), DT_FP32, (float)std, 11, 3, 0, 4097);
  fill_normal(&one, (float *)on_device(&sliced) + 4097, DT_FP32, (float)std, 11, 3, 4097, n - 4097);
  assert_memory_equal(on_host(&x), on_host(&sliced), (size_t)n * sizeof(float));
  fill_normal(dev, on_device(&half), DT_BF16, (float)std, 11, 3, 0, n);
  convert(dev, on_device(&sliced), DT_FP32, on_device(&half), DT_BF16, n);
  for (int64_t i = 0; i < n; i++)
    assert_true(fabs(get(&sliced, i) - get(&x, i)) <= 0x1p-8 * fabs(get(&x, i)));

  /* mean, variance, fourth moment, correlation of neighbours and the two-sigma tail, each within 5 sigma */
  double moments[5] = {};
  for (int64_t i = 0; i < n; i++) {
    double z = get(&x, i) / std;
    moments[0] += z;
    moments[1] += z * z;
    moments[2] += z * z * z * z;
    moments[3] += z * get(&x, (i + 1) % n) / std;
    moments[4] += fabs(z) > 2;
  }
  const double expected[] = {0, 1, 3, 0, 0.0455003}, deviation[] = {1, sqrt(2), sqrt(96), 1, 0.2084};
  for (int k = 0; k < 5; k++)
    assert_true(fabs(moments[k] / (double)n - expected[k]) < 5 * deviation[k] / sqrt((double)n));

  fill_normal(dev, on_device(&sliced), DT_FP32, (float)std, 11, 4, 0, n);
  double product = 0;
  for (int64_t i = 0; i < n; i++) product += get(&x, i) * get(&sliced, i) / (std * std);
  assert_true(fabs(product / (double)n) < 5 / sqrt((double)n));
  Tensor *all[] = {&x, &sliced, &half};
  for (Tensor *t : all) tensor_free(t);
}

/* ---- the elementary functions of group.cuh ---- */

static void elementary_functions_are_accurate(void **) {
  for (float x = -87.3f; x <= 88.f; x += 0.00137f) {
    double exact = exp((double)x);
    assert_true(fabs(fast_exp(x) - exact) <= 1.5e-7 * exact);
  }
  assert_true(fast_exp(0.f) == 1.f);
  for (float x = 0x1p-126f; x < 0x1p126f; x *= 1.00037f) {
    double exact = log((double)x);
    assert_true(fabs(fast_log(x) - exact) <= 1e-7 * fmax(1, fabs(exact)));
  }
  assert_true(fast_log(1.f) == 0.f);
  assert_true(fast_exp(-88.1f) == 0.f && fast_exp(-1e30f) == 0.f && fast_exp(-INFINITY) == 0.f);
  assert_true(isnan(fast_exp(NAN)) && isnan(sigmoid(NAN)));
  assert_true(sigmoid(INFINITY) == 1.f && sigmoid(-INFINITY) == 0.f && sigmoid(0.f) == 0.5f);
  uint64_t seed = 8;
  const double ranges[] = {1, 10, 1e3, 1e6, 0x1p31};
  for (double range : ranges)
    for (int i = 0; i < 20000; i++) {
      float x = (float)(range * uniform(&seed)), s, c;
      fast_sincos(x, &s, &c);
      assert_true(fabs(s - sin((double)x)) <= 1e-7 && fabs(c - cos((double)x)) <= 1e-7);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(adamw_fp32_equals_its_definition),
      cmocka_unit_test(adamw_master_is_the_fp32_update),
      cmocka_unit_test(adamw_rounds_bf16_without_bias),
      cmocka_unit_test(adamw_rounding_depends_on_the_element_only),
      cmocka_unit_test(philox_is_the_published_one),
      cmocka_unit_test(stochastic_rounding_keeps_what_is_not_finite),
      cmocka_unit_test(sum_of_squares_is_exact_enough_and_shows_non_finite),
      cmocka_unit_test(convert_rounds_to_nearest_even),
      cmocka_unit_test(fill_normal_is_normal_and_sliceable),
      cmocka_unit_test(elementary_functions_are_accurate),
  };
  return cmocka_run_group_tests(tests, device_setup, device_teardown);
}
