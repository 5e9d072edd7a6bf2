/* Attention, forward and backward, against its definition in double. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include <cmocka.h>
}

#include <math.h>

#include "ops/attention.h"
#include "ops/documents.cuh" // defines: document_end
#include "tensor.cuh" // defines: Tensor, tensor_new, tensor_get, tensor_random, tensor_guards_whole, roundoff

/* ---- the definition ---- */

/* What a result should be, and the sum of the magnitudes of the terms it is made of: rounding errors are
 * proportional to the latter. */
typedef struct Expected {
  double *x, *magnitude; /* [rows, width] */
  int64_t rows, width;
} Expected;

static Expected expected_new(int64_t rows, int64_t width) {
  Expected e = {(double *)calloc((size_t)(rows * width), sizeof(double)),
                (double *)calloc((size_t)(rows * width), sizeof(double)), rows, width};
  return e;
}

static void expected_free(Expected *e) {
  free(e->x);
  free(e->magnitude);
}

/* All that the definition gives for one set of inputs. */
typedef struct Reference {
  Expected o, lse;     /* [B*T, NH*HS], [B*NH, T] */
  Expected dq, dk, dv; /* [B*T, NH*HS], [B*T, NKV*HS] */
  double largest;      /* of the sums of magnitudes of the scores */
} Reference;

static void reference_free(Reference *r) {
  Expected *all[] = {&r->o, &r->lse, &r->dq, &r->dk, &r->dv};
  for (int i = 0; i < 5; i++) expected_free(all[i]);
}

/* x [rows, width] in double, as it is stored. */
static double *doubles(const Tensor *t) {
  double *x = (double *)malloc((size_t)(t->rows * t->cols) * sizeof(double));
  for (int64_t i = 0; i < t->rows; i++) {
    for (int64_t j = 0; j < t->cols; j++) x[i * t->cols + j] = tensor_get(t, i, j);
  }
  return x;
}

static double dot(const double *a, const double *b, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < n; d++) sum += a[d] * b[d];
  return sum;
}

static double dot_magnitude(const double *a, const double *b, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < n; d++) sum += fabs(a[d] * b[d]);
  return sum;
}

/* out += factor * row, and the same for the magnitudes. */
static void add_row(const Expected *out, int64_t at, double factor, double magnitude, const double *row,
                    int64_t n) {
  for (int64_t d = 0; d < n; d++) {
    out->x[at + d] += factor * row[d];
    out->magnitude[at + d] += magnitude * fabs(row[d]);
  }
}

/* One query i of head h of sequence b: its o and lse, and its part of dq, dk and dv. p [T] is scratch. */
static void reference_query(const AttentionShape *s, const Reference *r, double *largest, double *p,
                            const double *q, const double *k, const double *v, const double *dout, int64_t b,
                            int64_t h, int64_t i) {
  int64_t HS = s->HS, C = s->NH * HS, Ck = s->NKV * HS, kv = h / (s->NH / s->NKV);
  int64_t at_q = (b * s->T + i) * C + h * HS, at_k = b * s->T * Ck + kv * HS;
  int64_t first = s->window > 0 && i + 1 > s->window ? i + 1 - s->window : 0;
  if (s->packed && s->starts[b * s->T + i] > first) first = s->starts[b * s->T + i];
  double max = -INFINITY, total = 0;
  for (int64_t j = first; j <= i; j++) {
    p[j] = s->scale * dot(q + at_q, k + at_k + j * Ck, HS);
    double magnitude = fabs(s->scale) * dot_magnitude(q + at_q, k + at_k + j * Ck, HS);
    max = fmax(max, p[j]);
    *largest = fmax(*largest, magnitude);
  }
  for (int64_t j = first; j <= i; j++) total += exp(p[j] - max);
  r->lse.x[(b * s->NH + h) * s->T + i] = max + log(total);
  r->lse.magnitude[(b * s->NH + h) * s->T + i] = fabs(max + log(total));
  for (int64_t j = first; j <= i; j++) {
    p[j] = exp(p[j] - max) / total;
    add_row(&r->o, at_q, p[j], p[j], v + at_k + j * Ck, HS);
  }
  double delta = dot(dout + at_q, r->o.x + at_q, HS);
  double delta_magnitude = dot_magnitude(dout + at_q, r->o.magnitude + at_q, HS);
  for (int64_t j = first; j <= i; j++) {
    const double *vj = v + at_k + j * Ck;
    double ds = s->scale * p[j] * (dot(dout + at_q, vj, HS) - delta);
    double ds_magnitude = fabs(s->scale) * p[j] * (dot_magnitude(dout + at_q, vj, HS) + delta_magnitude);
    add_row(&r->dq, at_q, ds, ds_magnitude, k + at_k + j * Ck, HS);
    add_row(&r->dk, at_k + j * Ck, ds, ds_magnitude, q + at_q, HS);
    add_row(&r->dv, at_k + j * Ck, p[j], p[j], dout + at_q, HS);
  }
}

/* starts: on the host. */
static Reference reference(const AttentionShape *s, const double *q, const double *k, const double *v,
                           const double *dout) {
  int64_t rows = s->B * s->T;
  Reference r = {expected_new(rows, s->NH * s->HS),  expected_new(s->B * s->NH, s->T),
                 expected_new(rows, s->NH * s->HS),  expected_new(rows, s->NKV * s->HS),
                 expected_new(rows, s->NKV * s->HS), 0};
  double largest = 0;
#pragma omp parallel for reduction(max : largest)
  for (int64_t unit = 0; unit < s->B * s->NKV; unit++) { /* heads of a unit add to the same dk and dv */
    int64_t group = s->NH / s->NKV, b = unit / s->NKV, kv = unit % s->NKV;
    double *p = (double *)malloc((size_t)s->T * sizeof(double));
    for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
      for (int64_t i = 0; i < s->T; i++) reference_query(s, &r, &largest, p, q, k, v, dout, b, h, i);
    }
    free(p);
  }
  r.largest = largest;
  return r;
}

/* ---- running and comparing ---- */

typedef struct Case {
  int64_t B, T, NH, NKV, HS, window;
  int threads;
  float q_scale; /* of the queries; large ones saturate the softmax */
  int pad;       /* between the rows of q, k and v; 0: so few that they are not aligned to 16 bytes */
} Case;

/* Operands of a call: q, k, v side by side in one buffer of rows, as the projection leaves them, and their
 * gradients likewise. */
typedef struct Operands {
  Tensor q, k, v, dout;     /* each of its own, to read the inputs from */
  Tensor qkv, dqkv;         /* [B*T, (NH + 2 NKV)*HS], rows further apart than that */
  Tensor o, lse;            /* [B*T, NH*HS], [B*NH, T] */
  Tensor forward, backward; /* workspaces, exactly as large as declared */
} Operands;

static void operands_free(Operands *t) {
  Tensor *all[] = {&t->q,    &t->k, &t->v,   &t->dout,    &t->qkv,
                   &t->dqkv, &t->o, &t->lse, &t->forward, &t->backward};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) tensor_free(all[i]);
}

static Heads heads(const Tensor *t, int64_t first_col) {
  return Heads{(char *)on_device(t) + (size_t)first_col * dtype_size(t->dtype), t->ld};
}

static void put_columns(const Tensor *to, int64_t first_col, const Tensor *from) {
  for (int64_t i = 0; i < from->rows; i++) {
    for (int64_t j = 0; j < from->cols; j++) tensor_set(to, i, first_col + j, (float)tensor_get(from, i, j));
  }
}

/* Forward and backward. */
static void compute(Device *dev, DType dt, const AttentionShape *s, const Operands *t) {
  int64_t C = s->NH * s->HS, Ck = s->NKV * s->HS;
  Heads q = heads(&t->qkv, 0), k = heads(&t->qkv, C), v = heads(&t->qkv, C + Ck);
  Heads dq = heads(&t->dqkv, 0), dk = heads(&t->dqkv, C), dv = heads(&t->dqkv, C + Ck);
  attention_forward(dev, dt, on_device(&t->o), (float *)on_device(&t->lse), q, k, v, s,
                    on_device(&t->forward));
  attention_backward(dev, dt, dq, dk, dv, on_device(&t->dout), on_device(&t->o),
                     (const float *)on_device(&t->lse), q, k, v, s, on_device(&t->backward));
}

static Operands run_attention(Device *dev, DType dt, const AttentionShape *s, const Case *c) {
  int64_t rows = s->B * s->T, C = s->NH * s->HS, Ck = s->NKV * s->HS, width = C + 2 * Ck;
  Operands t;
  t.q = tensor_new(dt, rows, C, C);
  t.k = tensor_new(dt, rows, Ck, Ck);
  t.v = tensor_new(dt, rows, Ck, Ck);
  t.dout = tensor_new(dt, rows, C, C);
  t.qkv = tensor_new(dt, rows, width, width + (c->pad ? c->pad : 6));
  t.dqkv = tensor_new(dt, rows, width, width + (c->pad ? 2 * c->pad : 10));
  t.o = tensor_new(dt, rows, C, C);
  t.lse = tensor_new(DT_FP32, s->B * s->NH, s->T, s->T);
  int64_t forward = (int64_t)attention_forward_workspace(dev, dt, s) / 4;
  int64_t backward = (int64_t)attention_backward_workspace(dev, dt, s) / 4;
  t.forward = tensor_new(DT_FP32, 1, forward, forward);
  t.backward = tensor_new(DT_FP32, 1, backward, backward);
  tensor_random(&t.q, c->q_scale, 1);
  tensor_random(&t.k, 1, 2);
  tensor_random(&t.v, 1, 3);
  tensor_random(&t.dout, 1, 4);
  put_columns(&t.qkv, 0, &t.q);
  put_columns(&t.qkv, C, &t.k);
  put_columns(&t.qkv, C + Ck, &t.v);
  compute(dev, dt, s, &t);
  return t;
}

/* found, from first_col on, must be within relative * magnitude of what is expected, plus its own rounding.
 */
static void check(const char *name, const Case *c, const Tensor *found, int64_t first_col, const Expected *e,
                  double relative, double absolute) {
  for (int64_t i = 0; i < e->rows; i++) {
    for (int64_t j = 0; j < e->width; j++) {
      double x = tensor_get(found, i, first_col + j), y = e->x[i * e->width + j];
      double bound =
          relative * e->magnitude[i * e->width + j] + absolute + 1.01 * roundoff(found->dtype) * fabs(y);
      if (!(fabs(x - y) <= bound))
        fail_msg(
            "%s in %s, B %d T %d NH %d NKV %d HS %d window %d threads %d: (%d, %d) is %.9g, expected %.9g, "
            "within %.2g",
            name, dtype_name(found->dtype), (int)c->B, (int)c->T, (int)c->NH, (int)c->NKV, (int)c->HS,
            (int)c->window, c->threads, (int)i, (int)j, x, y, bound);
    }
  }
}

/* Where each row's document begins, [B*T]: documents of these lengths, in turn, fill the sequences. */
static Mirror *document_starts(const Case *c, const int64_t *lengths) {
  Mirror *starts = mirror_new((size_t)(c->B * c->T) * sizeof(int32_t));
  int32_t *start = (int32_t *)mirror_write(starts);
  for (int64_t b = 0, i = 0; b < c->B; b++)
    for (int64_t t = 0, end; t < c->T; t = end) {
      end = lengths[i] < c->T - t ? t + lengths[i] : c->T;
      i = lengths[i + 1] ? i + 1 : 0;
      for (int64_t row = t; row < end; row++) start[b * c->T + row] = (int32_t)t;
    }
  return starts;
}

/* A case whose sequences hold several documents: their lengths, in turn; 0 ends the list. */
typedef struct PackedCase {
  Case c;
  int64_t lengths[6];
} PackedCase;

/* Bounds to first order, u the roundoff of fp32 (a sum of n terms errs by n*u of its magnitudes; exp by 2u
 * and u a unit of its argument; S the largest sum of magnitudes of a score):
 *   a score and lse, hence log p    (HS + 2) S u, twice, + (T + 8) u         = log_p
 *   o = sum over at most T keys     log_p + T u
 *   dp - delta                      HS u + error of o, and of its storage, + HS u
 *   dq, dk, dv                      log_p + the above + a sum over at most T * NH/NKV terms
 * A GPU's tensor cores take p and ds rounded to bf16, each once.
 * A p below e^-87 = 1.6e-38 may become 0: each term of a gradient then misses at most that times its other
 * factors, 2 HS (dp and delta, of factors below 1) and a query or a key.
 * lengths: of documents, see PackedCase; NULL: not packed. */
static void check_case(Device *dev, DType dt, const Case *c, const int64_t *lengths) {
  AttentionShape s = {
      c->B, c->T, c->NH, c->NKV, c->HS, c->window, 1.0f / sqrtf((float)c->HS), lengths != NULL,
      NULL, 0,    NULL};
  Mirror *starts = lengths ? document_starts(c, lengths) : NULL;
  if (starts) s.starts = (const int32_t *)mirror_use(starts);
  int64_t C = s.NH * s.HS, Ck = s.NKV * s.HS;
  dev->threads = c->threads;
  Operands t = run_attention(dev, dt, &s, c);
  double *q = doubles(&t.q), *k = doubles(&t.k), *v = doubles(&t.v), *dout = doubles(&t.dout);
  AttentionShape on_host_too = s;
  if (starts) on_host_too.starts = (const int32_t *)mirror_read(starts);
  Reference r = reference(&on_host_too, q, k, v, dout);
  double u = roundoff(DT_FP32), terms = (double)(s.T * s.NH / s.NKV);
  double score = (double)(s.HS + 2) * r.largest * u, log_p = 2 * score + (double)(s.T + 8) * u;
  double stored = dt == DT_BF16 ? roundoff(dt) : 0, operand = dev->kind == DEVICE_CUDA ? stored : 0;
  double o = log_p + (double)s.T * u + operand;
  double gradient = log_p + 2 * (double)s.HS * u + o + stored + terms * u + operand;
  double flushed = 1.6e-38 * terms * 2 * (double)s.HS * c->q_scale;
  check("o", c, &t.o, 0, &r.o, 1.01 * o, flushed);
  check("lse", c, &t.lse, 0, &r.lse, 2 * u, log_p);
  check("dq", c, &t.dqkv, 0, &r.dq, 1.01 * gradient, flushed);
  check("dk", c, &t.dqkv, C, &r.dk, 1.01 * gradient, flushed);
  check("dv", c, &t.dqkv, C + Ck, &r.dv, 1.01 * (log_p + terms * u + operand), flushed);
  Tensor *watched[] = {&t.qkv, &t.dqkv, &t.o, &t.lse, &t.forward, &t.backward, &t.dout};
  for (size_t i = 0; i < sizeof watched / sizeof *watched; i++) assert_true(tensor_guards_whole(watched[i]));

  Operands again = run_attention(dev, dt, &s, c);
  assert_memory_equal(on_host(&t.o), on_host(&again.o), tensor_bytes(&t.o));
  assert_memory_equal(on_host(&t.lse), on_host(&again.lse), tensor_bytes(&t.lse));
  assert_memory_equal(on_host(&t.dqkv), on_host(&again.dqkv), tensor_bytes(&t.dqkv));
  operands_free(&t);
  operands_free(&again);
  reference_free(&r);
  double *all[] = {q, k, v, dout};
  for (int i = 0; i < 4; i++) free(all[i]);
  if (starts) mirror_free(starts);
}

static void check_cases(const Case *cases, size_t n) {
  Device dev;
  open_test_device(&dev, 0);
  for (size_t i = 0; i < n; i++) {
    check_case(&dev, DT_FP32, &cases[i], NULL);
    check_case(&dev, DT_BF16, &cases[i], NULL);
  }
  device_close(&dev);
}

/* ---- the tests ---- */

/* The definition's own gradients against differences of its own outputs: loss = sum(dout * o). Central
 * differences err by step^2 times the third derivative (of order 1 here) and by 1e-16 / step. */
static void test_reference(void **) {
  AttentionShape s = {1, 5, 4, 2, 4, 3, 0.5f, false, NULL, 0, NULL};
  Tensor t[4] = {tensor_new(DT_FP32, 5, 16, 16), tensor_new(DT_FP32, 5, 8, 8), tensor_new(DT_FP32, 5, 8, 8),
                 tensor_new(DT_FP32, 5, 16, 16)};
  double *x[4];
  for (int i = 0; i < 4; i++) {
    tensor_random(&t[i], 1, 10 + i);
    x[i] = doubles(&t[i]);
  }
  Reference r = reference(&s, x[0], x[1], x[2], x[3]);
  const Expected *gradients[3] = {&r.dq, &r.dk, &r.dv};
  const double step = 1e-5;
  for (int i = 0; i < 3; i++) {
    for (int64_t j = 0; j < t[i].rows * t[i].cols; j++) {
      double loss[2], old = x[i][j];
      for (int side = 0; side < 2; side++) {
        x[i][j] = old + (side ? step : -step);
        Reference moved = reference(&s, x[0], x[1], x[2], x[3]);
        loss[side] = dot(moved.o.x, x[3], 5 * 16);
        reference_free(&moved);
      }
      x[i][j] = old;
      assert_true(fabs((loss[1] - loss[0]) / (2 * step) - gradients[i]->x[j]) < 1e-8);
    }
  }
  reference_free(&r);
  for (int i = 0; i < 4; i++) {
    free(x[i]);
    tensor_free(&t[i]);
  }
}

/* Lengths around the sizes of vectors and blocks. Few key/value heads for the threads make the backward run
 * in two passes, many in one. */
static void test_lengths(void **) {
  static const Case cases[] = {
      {1, 1, 1, 1, 8, 0, 2, 1, 0},     {3, 1, 4, 2, 16, 1, 2, 1, 16},   {1, 2, 6, 2, 16, 0, 2, 1, 0},
      {3, 63, 3, 3, 16, 0, 2, 1, 16},  {1, 64, 4, 2, 64, 0, 2, 1, 0},   {3, 65, 6, 2, 8, 0, 1, 1, 16},
      {1, 250, 8, 1, 16, 0, 2, 1, 0},  {3, 250, 4, 2, 16, 0, 3, 1, 16}, {1, 300, 6, 2, 16, 0, 2, 1, 0},
      {1, 520, 1, 1, 80, 0, 2, 1, 16}, {1, 520, 3, 3, 8, 0, 2, 1, 0},   {1, 520, 2, 2, 64, 0, 2, 1, 16},
  };
  check_cases(cases, sizeof cases / sizeof *cases);
}

/* A GPU has no attention for these. */
static void test_large_heads(void **) {
  static const Case cases[] = {{1, 70, 2, 1, 512, 0, 2, 1, 0}};
  if (on_cuda()) skip();
  check_cases(cases, sizeof cases / sizeof *cases);
}

/* Windows of one, shorter than a block, of several blocks, and longer than the sequence. */
static void test_windows(void **) {
  static const Case cases[] = {
      {1, 65, 1, 1, 8, 1, 2, 1, 16},     {3, 63, 4, 2, 16, 7, 2, 1, 0},    {1, 250, 6, 2, 16, 7, 1, 1, 16},
      {1, 300, 8, 1, 16, 64, 2, 1, 0},   {1, 520, 3, 3, 16, 64, 2, 1, 16}, {1, 520, 4, 2, 16, 300, 2, 1, 0},
      {1, 520, 1, 1, 80, 300, 3, 1, 16}, {3, 250, 2, 2, 8, 300, 2, 1, 0},  {1, 520, 2, 2, 8, 1, 2, 1, 16},
      {1, 520, 2, 1, 16, 520, 2, 1, 0},
  };
  check_cases(cases, sizeof cases / sizeof *cases);
}

/* Scores of hundreds: the softmax is all but a choice, and exp of a score alone would overflow. */
static void test_saturation(void **) {
  static const Case cases[] = {
      {1, 65, 4, 2, 16, 0, 2, 300, 16}, {1, 520, 1, 1, 16, 0, 2, 300, 0}, {1, 300, 2, 2, 16, 64, 2, 300, 16}};
  check_cases(cases, sizeof cases / sizeof *cases);
}

/* Documents of one token, of the sizes of blocks and around them, over the ends of blocks, and with windows
 * shorter and longer than they are. Few key/value heads for the threads make the backward run in two passes.
 */
static void test_documents(void **) {
  static const PackedCase cases[] = {
      {{1, 1, 1, 1, 8, 0, 2, 1, 0}, {1}},
      {{2, 20, 4, 2, 16, 0, 2, 1, 16}, {1}},
      {{3, 63, 3, 3, 16, 0, 2, 1, 0}, {5, 1, 1, 17}},
      {{1, 600, 4, 2, 16, 0, 2, 1, 16}, {255, 1, 256, 3}},
      {{2, 520, 6, 2, 8, 0, 3, 1, 0}, {300, 7, 64, 1, 2}},
      {{1, 520, 8, 1, 16, 0, 2, 1, 16}, {512}},
      {{1, 400, 2, 1, 16, 0, 2, 1, 0}, {255, 40}},
      {{1, 520, 4, 2, 16, 64, 2, 1, 0}, {100, 1, 30, 64, 65}},
      {{2, 300, 2, 2, 8, 7, 2, 1, 16}, {6, 7, 8, 90}},
      {{1, 300, 1, 1, 80, 300, 3, 1, 0}, {299}},
      {{1, 250, 4, 1, 16, 0, 1, 300, 16}, {100, 3, 47}},
  };
  Device dev;
  open_test_device(&dev, 0);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    check_case(&dev, DT_FP32, &cases[i].c, cases[i].lengths);
    check_case(&dev, DT_BF16, &cases[i].c, cases[i].lengths);
  }
  device_close(&dev);
}

/* Every document of every place in a sequence, up to every limit. */
static void test_document_end(void **) {
  Case c = {1, 33, 1, 1, 8, 0, 1, 1, 0};
  static const int64_t lengths[] = {1, 5, 1, 1, 16, 0};
  Mirror *mirror = document_starts(&c, lengths);
  const int32_t *starts = (const int32_t *)mirror_read(mirror);
  for (int64_t at = 0; at < c.T; at++)
    for (int64_t limit = at + 1; limit <= c.T; limit++) {
      int64_t end = at + 1;
      while (end < limit && starts[end] == starts[at]) end++;
      assert_int_equal(document_end(starts, limit, at), end);
    }
  mirror_free(mirror);
}

/* What other documents' blocks hold is not even looked at: with NaN there, the middle one of three gives the
 * same bits. */
static void check_skipped(Device *dev, DType dt, bool one_pass) {
  enum { LENGTH = 256, ROWS = 3 * LENGTH };
  static const int64_t lengths[] = {LENGTH, 0};
  Case c = {1, ROWS, 4, one_pass ? 2 : 1, 16, 0, dev->threads, 1, 16};
  Mirror *starts = document_starts(&c, lengths);
  AttentionShape s = {1, ROWS, c.NH, c.NKV, c.HS, 0, 0.25f, true, (const int32_t *)mirror_use(starts),
                      0, NULL};
  Operands clean = run_attention(dev, dt, &s, &c), t = run_attention(dev, dt, &s, &c);
  for (int64_t i = 0; i < ROWS; i++) {
    if (i / LENGTH == 1) continue;
    for (int64_t j = 0; j < t.qkv.cols; j++) tensor_set(&t.qkv, i, j, NAN);
    for (int64_t j = 0; j < t.dout.cols; j++) tensor_set(&t.dout, i, j, NAN);
  }
  compute(dev, dt, &s, &t);
  for (int64_t i = LENGTH; i < 2 * LENGTH; i++) {
    for (int64_t j = 0; j < t.o.cols; j++) assert_true(tensor_get(&t.o, i, j) == tensor_get(&clean.o, i, j));
    for (int64_t j = 0; j < t.dqkv.cols; j++)
      assert_true(tensor_get(&t.dqkv, i, j) == tensor_get(&clean.dqkv, i, j));
  }
  assert_true(isnan(tensor_get(&t.o, 0, 0)) && isnan(tensor_get(&t.dqkv, ROWS - 1, 0)));
  operands_free(&clean);
  operands_free(&t);
  mirror_free(starts);
}

static void test_other_documents_are_skipped(void **) {
  Device dev;
  open_test_device(&dev, 2);
  check_skipped(&dev, DT_FP32, false);
  check_skipped(&dev, DT_FP32, true);
  check_skipped(&dev, DT_BF16, true);
  device_close(&dev);
}

/* A million tokens: what grows with T is delta alone, a float a query; all else is a few tiles a lane. */
static void test_workspace_is_small(void **) {
  Device dev;
  open_test_device(&dev, 2);
  AttentionShape s = {1, 1 << 20, 32, 8, 128, 0, 0.1f, false, NULL, 0, NULL};
  int64_t row = s.NH * 4; /* bytes of delta a token: the only part that grows with T */
  for (int t = 0; t < 2; t++) {
    DType dt = t ? DT_BF16 : DT_FP32;
    assert_true(attention_forward_workspace(&dev, dt, &s) < (size_t)4 << 20);
    assert_true(attention_backward_workspace(&dev, dt, &s) < (size_t)(s.T * row) + ((size_t)8 << 20));
  }
  device_close(&dev);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_reference),          cmocka_unit_test(test_lengths),
      cmocka_unit_test(test_large_heads),        cmocka_unit_test(test_windows),
      cmocka_unit_test(test_saturation),         cmocka_unit_test(test_documents),
      cmocka_unit_test(test_document_end),       cmocka_unit_test(test_other_documents_are_skipped),
      cmocka_unit_test(test_workspace_is_small),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
