/* 8-bit moments: the dynamic map against its definition in double, and AdamW with it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

#include "ops/adamw.h"
#include "ops/dynamic_map.cuh"
#include "test/ops_support.cuh"

/* ---- the map ---- */

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

/* The published map (bitsandbytes, create_dynamic_map): for each decade the middles of equal parts of
 * [0.1, 1], scaled; 0 and 1; sorted. With the one difference that dynamic_map.cuh states. */
static void reference_map(double map[256], bool with_sign) {
  int n = 0;
  for (int i = 0; i < 7; i++) {
    int parts = with_sign ? 1 << i : 1 << (i + 1);
    for (int j = 0; j < parts; j++) {
      double from = 0.1 + 0.9 * j / parts, to = 0.1 + 0.9 * (j + 1) / parts;
      double x = pow(10, i - 6) * (from + to) / 2;
      map[n++] = x;
      if (with_sign) map[n++] = -x;
    }
  }
  map[n++] = 0;
  map[n++] = 1;
  assert_int_equal(n, 256);
  qsort(map, 256, sizeof *map, by_value);
  if (with_sign) map[0] = -1;
}

static float decode(bool with_sign, int code) {
  return with_sign ? dynamic_decode((float)code) : dynamic_decode_unsigned((float)code);
}
static int encode(bool with_sign, float x, uint32_t random) {
  return (int)(with_sign ? dynamic_encode(x, random) : dynamic_encode_unsigned(x, random));
}

static void the_map_is_the_published_one(void **) {
  for (int with_sign = 0; with_sign < 2; with_sign++) {
    double map[256];
    reference_map(map, with_sign);
    for (int code = 0; code < 256; code++) {
      float x = decode(with_sign, code);
      if (!(fabs(x - map[code]) <= 3 * FP32_ERROR * fabs(map[code])))
        fail_msg("sign %d, code %d: %.9g, expected %.9g", with_sign, code, x, map[code]);
    }
    assert_true(decode(with_sign, 255) == 1.f && decode(with_sign, with_sign ? 127 : 0) == 0.f);
    assert_true(!with_sign || decode(true, 0) == -1.f);
  }
}

/* Its values are kept whatever the random bits are. */
static void values_of_the_map_are_kept(void **) {
  const uint32_t randoms[] = {0, 1, 0x7fffffffu, 0x80000000u, 0xffffffffu};
  for (int with_sign = 0; with_sign < 2; with_sign++)
    for (int code = 0; code < 256; code++)
      for (uint32_t random : randoms)
        assert_int_equal(encode(with_sign, decode(with_sign, code), random), code);
}

/* Between two values: one of them, and the expectation is what was rounded. */
static void rounding_has_no_bias(void **) {
  enum { ROUNDS = 1024 };
  for (int with_sign = 0; with_sign < 2; with_sign++) {
    double map[256];
    reference_map(map, with_sign);
    for (int code = 0; code < 255; code++)
      for (int part = 1; part < 8; part++) {
        double low = map[code], high = map[code + 1], x = low + (high - low) * part / 8;
        double sum = 0;
        for (uint32_t i = 0; i < ROUNDS; i++) {
          int found = encode(with_sign, (float)x, i * (UINT32_MAX / ROUNDS + 1));
          if (!with_sign && code == 0) /* never down to 0 */
            assert_int_equal(found, 1);
          else if (found != code && found != code + 1)
            fail_msg("sign %d: %.9g became code %d, expected %d or %d", with_sign, x, found, code, code + 1);
          sum += decode(with_sign, found);
        }
        if (with_sign || code) assert_true(fabs(sum / ROUNDS - x) <= (high - low) * 2 / ROUNDS);
      }
    assert_int_equal(encode(with_sign, 0, 0xffffffffu), with_sign ? 127 : 0);
  }
  assert_int_equal(encode(false, 1e-30f, 0), 1);
  assert_int_equal(encode(true, 1e-30f, 0xffffffffu), 127);
}

/* ---- AdamW ---- */

static const AdamW SETTINGS = {1e-2, 0.9, 0.95, 1e-8, 0.1, 1, 0.75f, 42};

/* A tensor with its 8-bit moments. */
typedef struct State {
  Tensor param, master, grad;
  Mirror *m, *v;             /* uint8_t [n] */
  Tensor m_absmax, v_absmax; /* [blocks] */
  int64_t n, blocks;
} State;

static State state_new(DType dt, int64_t n) {
  uint64_t seed = (uint64_t)n;
  size_t blocks = (size_t)(n + MOMENT_BLOCK - 1) / MOMENT_BLOCK;
  State s = {};
  s.param = tensor_random(dt, n, 1, &seed);
  s.master = tensor_new(DT_FP32, n);
  s.grad = tensor_new(DT_FP32, n);
  s.n = n;
  s.blocks = (int64_t)blocks;
  s.m = mirror_new((size_t)n);
  s.v = mirror_new((size_t)n);
  memset(mirror_write(s.m), 0, (size_t)n);
  memset(mirror_write(s.v), 0, (size_t)n);
  s.m_absmax = tensor_new(DT_FP32, (int64_t)blocks);
  s.v_absmax = tensor_new(DT_FP32, (int64_t)blocks);
  for (int64_t b = 0; b < s.blocks; b++) set(&s.m_absmax, b, 0), set(&s.v_absmax, b, 0);
  for (int64_t i = 0; i < n; i++) set(&s.master, i, get(&s.param, i));
  return s;
}
static void state_free(State *s) {
  tensor_free(&s->param);
  tensor_free(&s->master);
  tensor_free(&s->grad);
  tensor_free(&s->m_absmax);
  tensor_free(&s->v_absmax);
  mirror_free(s->m);
  mirror_free(s->v);
}
static int code(Mirror *codes, int64_t i) {
  return ((const uint8_t *)mirror_read(codes))[i];
}
/* Gradients of very different sizes; all of the third block are zero. */
static void state_gradient(State *s, int64_t step) {
  uint64_t seed = (uint64_t)step * 77;
  for (int64_t i = 0; i < s->n; i++) {
    double size = i / MOMENT_BLOCK == 2 ? 0 : i % 5 == 4 ? 1e-6 : i % 7 == 0 ? 1e-3 : 1;
    set(&s->grad, i, uniform(&seed) * size);
  }
}
static AdamWTensor state_slice(const State *s, bool with_master, int64_t first, int64_t n) {
  AdamWTensor t = {};
  t.param = (char *)on_device(&s->param) + (size_t)first * dtype_size(s->param.dt);
  t.dtype = s->param.dt;
  t.master = with_master ? (float *)on_device(&s->master) + first : NULL;
  t.grad = (float *)on_device(&s->grad) + first;
  t.m = (uint8_t *)mirror_use(s->m) + first;
  t.v = (uint8_t *)mirror_use(s->v) + first;
  t.moments = DT_U8;
  t.m_absmax = (float *)on_device(&s->m_absmax) + first / MOMENT_BLOCK;
  t.v_absmax = (float *)on_device(&s->v_absmax) + first / MOMENT_BLOCK;
  t.n = n;
  t.decay = true;
  t.id = 7;
  t.first = first;
  return t;
}

/* The code of x is that of one of the two values around it. */
static void check_code(int code, double x, const double map[256]) {
  double slack = 1e-5 * fabs(x), least = map[code > 0 ? code - 1 : 0],
         most = map[code < 255 ? code + 1 : 255];
  if (!(x >= least - slack && x <= most + slack))
    fail_msg("%.9g became code %d, between %.9g and %.9g", x, code, least, most);
}

static void update_equals_its_definition(void **state) {
  const int64_t sizes[] = {1, 7, 255, 256, 257, 4096, 9000};
  double signed_map[256], unsigned_map[256];
  reference_map(signed_map, true);
  reference_map(unsigned_map, false);
  for (int64_t n : sizes) {
    State s = state_new(DT_FP32, n);
    double *p = doubles(n), *m = doubles(n), *v = doubles(n);
    AdamW a = SETTINGS;
    for (a.step = 1; a.step <= 4; a.step++) {
      state_gradient(&s, a.step);
      double correction1 = 1 - pow(a.beta1, (double)a.step), correction2 = 1 - pow(a.beta2, (double)a.step);
      for (int64_t i = 0; i < n; i++) {
        double g = get(&s.grad, i) * a.grad_scale;
        m[i] = signed_map[code(s.m, i)] * get(&s.m_absmax, i / MOMENT_BLOCK);
        v[i] = unsigned_map[code(s.v, i)] * get(&s.v_absmax, i / MOMENT_BLOCK);
        m[i] += (g - m[i]) * (1 - a.beta1);
        v[i] = v[i] * a.beta2 + g * g * (1 - a.beta2);
        p[i] = get(&s.param, i) * (1 - a.lr * a.weight_decay);
        p[i] -= a.lr / correction1 * m[i] / (sqrt(v[i]) / sqrt(correction2) + a.eps);
      }
      AdamWTensor t = state_slice(&s, false, 0, n);
      adamw_update((Device *)*state, &t, 1, &a);
      assert_near(&s.param, p, 8 * FP32_ERROR);
      for (int64_t b = 0; b < s.blocks; b++) {
        double m_most = 0, v_most = 0;
        int64_t end = (b + 1) * MOMENT_BLOCK < n ? (b + 1) * MOMENT_BLOCK : n;
        for (int64_t i = b * MOMENT_BLOCK; i < end; i++) {
          m_most = fmax(m_most, fabs(m[i]));
          v_most = fmax(v_most, v[i]);
        }
        assert_true(fabs(get(&s.m_absmax, b) - m_most) <= 8 * FP32_ERROR * m_most);
        assert_true(fabs(get(&s.v_absmax, b) - v_most) <= 8 * FP32_ERROR * v_most);
        for (int64_t i = b * MOMENT_BLOCK; i < end && m_most > 0; i++) {
          check_code(code(s.m, i), m[i] / m_most, signed_map);
          check_code(code(s.v, i), v[i] / v_most, unsigned_map);
        }
      }
    }
    state_free(&s);
    double *all[] = {p, m, v};
    for (double *x : all) free(x);
  }
}

/* Whole, in slices, with one thread: the same bits; with a master copy, bf16 weights are it, rounded. */
static void slices_and_threads_agree(void **state) {
  Device *dev = (Device *)*state, one = *dev;
  one.threads = 1;
  const int64_t n = 9001, cuts[] = {0, 256, 4096, 8960, n};
  for (int with_master = 0; with_master < 2; with_master++) {
    State whole = state_new(DT_BF16, n), sliced = state_new(DT_BF16, n);
    AdamW a = SETTINGS;
    for (a.step = 1; a.step <= 3; a.step++) {
      state_gradient(&whole, a.step);
      state_gradient(&sliced, a.step);
      AdamWTensor t = state_slice(&whole, with_master, 0, n);
      adamw_update(dev, &t, 1, &a);
      AdamWTensor parts[4];
      for (int k = 0; k < 4; k++)
        parts[k] = state_slice(&sliced, with_master, cuts[k], cuts[k + 1] - cuts[k]);
      for (int k = 0; k < 4 && a.step != 2; k++) adamw_update(&one, &parts[k], 1, &a);
      if (a.step == 2) adamw_update(&one, parts, 4, &a);
    }
    assert_memory_equal(on_host(&whole.param), on_host(&sliced.param), (size_t)n * sizeof(bf16));
    assert_memory_equal(on_host(&whole.master), on_host(&sliced.master), (size_t)n * sizeof(float));
    assert_memory_equal(mirror_read(whole.m), mirror_read(sliced.m), (size_t)n);
    assert_memory_equal(mirror_read(whole.v), mirror_read(sliced.v), (size_t)n);
    assert_memory_equal(on_host(&whole.m_absmax), on_host(&sliced.m_absmax),
                        (size_t)whole.blocks * sizeof(float));
    assert_memory_equal(on_host(&whole.v_absmax), on_host(&sliced.v_absmax),
                        (size_t)whole.blocks * sizeof(float));
    for (int64_t i = 0; i < n && with_master; i++) {
      bf16 rounded;
      store(&rounded, (float)get(&whole.master, i));
      assert_true(get(&whole.param, i) == value(rounded));
    }
    state_free(&whole);
    state_free(&sliced);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_map_is_the_published_one), cmocka_unit_test(values_of_the_map_are_kept),
      cmocka_unit_test(rounding_has_no_bias),         cmocka_unit_test(update_equals_its_definition),
      cmocka_unit_test(slices_and_threads_agree),
  };
  return cmocka_run_group_tests(tests, device_setup, device_teardown);
}
