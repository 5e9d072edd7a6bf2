/* The attention through cuDNN against the CPU's own, both in bf16. On a GPU the library computes it
 * (TEST_DEVICE=cuda); without one, a stand-in does what the graph that is given to cuDNN says, so that the
 * graph, its strides and its operands are known to be those of the attention. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include <cmocka.h>
}

#include <math.h>

#include "fake_cudnn.cuh" // defines: fake_cudnn
#include "ops/attention_cudnn.h"
#include "ops/attention_documents.h" // defines: attention_document_list_bytes
#ifdef __CUDACC__
#include "ops/attention_cudnn_cuda.h"
#endif
#include "tensor.cuh" // defines: Tensor, tensor_new, tensor_get, tensor_random, tensor_guards_whole

/* The linker puts this in cudnn_open's place. */
extern "C" bool __real_cudnn_open(Cudnn *cudnn, Error *e);
extern "C" bool __wrap_cudnn_open(Cudnn *cudnn, Error *e) {
  if (on_cuda()) return __real_cudnn_open(cudnn, e);
  fake_cudnn(cudnn);
  return true;
}

/* T: of a GPU, and of the stand-in, which is slow. */
typedef struct Case {
  const char *name;
  int64_t B, T, fake_T, NH, NKV, HS, window;
  bool apart;         /* queries and keys have a buffer of their own */
  int64_t lengths[6]; /* of documents, which fill the sequences in turn; 0 ends them; none: not packed */
} Case;

static const int64_t LEAST_T = 256; /* that attention.h gives to cuDNN */

static AttentionShape shape_of(const Case *c) {
  int64_t T = is_emulated() ? LEAST_T : on_cuda() ? c->T : c->fake_T;
  return AttentionShape{c->B, T, c->NH, c->NKV, c->HS, c->window, 0.3f, c->lengths[0] > 0, NULL, 0, NULL};
}

static AttentionStrides strides_of(const Case *c) {
  int64_t qkv = (c->NH + 2 * c->NKV) * c->HS, qk = c->apart ? (c->NH + c->NKV) * c->HS : qkv;
  return AttentionStrides{qk, qk, qkv, qkv, qkv, qkv};
}

/* What goes in, and what comes out of one of the two. */
typedef struct Operands {
  Tensor qk, qkv, dout, o, lse, d_qkv;
  Mirror *starts, *list; /* of packed cases, else NULL */
  int64_t documents;
} Operands;

/* Where each row's document begins, and all documents as a list. */
static void documents_new(Operands *t, const Case *c) {
  AttentionShape s = shape_of(c);
  t->starts = t->list = NULL;
  t->documents = 0;
  if (!s.packed) return;
  t->starts = mirror_new((size_t)(s.B * s.T) * sizeof(int32_t));
  t->list = mirror_new(attention_document_list_bytes(&s));
  int32_t *starts = (int32_t *)mirror_write(t->starts);
  for (int64_t b = 0, i = 0; b < s.B; b++)
    for (int64_t at = 0, end; at < s.T; at = end) {
      end = c->lengths[i] < s.T - at ? at + c->lengths[i] : s.T;
      i = c->lengths[i + 1] ? i + 1 : 0;
      for (int64_t row = at; row < end; row++) starts[b * s.T + row] = (int32_t)at;
    }
  t->documents = attention_list_documents(mirror_write(t->list), &s, starts);
  assert_true(t->documents < attention_documents_room(&s)); /* some is left, without tokens */
}

/* The shape of a call, with what is in device memory. */
static AttentionShape shape_of_call(const Case *c, const Operands *t) {
  AttentionShape s = shape_of(c);
  if (!s.packed) return s;
  s.starts = (const int32_t *)mirror_use(t->starts);
  s.list = mirror_use(t->list);
  s.documents = t->documents;
  return s;
}

static Operands operands_new(const Case *c) {
  AttentionShape s = shape_of(c);
  AttentionStrides ld = strides_of(c);
  int64_t rows = s.B * s.T, C = s.NH * s.HS;
  Operands t;
  t.qk = tensor_new(DT_BF16, rows, ld.q, ld.q);
  t.qkv = tensor_new(DT_BF16, rows, ld.v, ld.v);
  t.dout = tensor_new(DT_BF16, rows, C, C);
  t.o = tensor_new(DT_BF16, rows, C, C);
  t.lse = tensor_new(DT_FP32, s.B * s.NH, s.T, s.T);
  t.d_qkv = tensor_new(DT_BF16, rows, ld.dq, ld.dq);
  tensor_random(&t.qk, 1, 1);
  tensor_random(&t.qkv, 1, 2);
  tensor_random(&t.dout, 1, 3);
  documents_new(&t, c);
  return t;
}

static void operands_free(Operands *t) {
  Tensor *all[] = {&t->qk, &t->qkv, &t->dout, &t->o, &t->lse, &t->d_qkv};
  for (Tensor *x : all) tensor_free(x);
  if (!t->starts) return;
  mirror_free(t->starts);
  mirror_free(t->list);
}

/* The heads from one on, in rows of qkv. */
static Heads heads_from(void *rows, int64_t ld, const Case *c, int64_t head) {
  return Heads{(bf16 *)rows + head * c->HS, ld};
}

/* All as pointers for whoever computes. */
typedef struct Pointers {
  Heads q, k, v, dq, dk, dv;
  void *dout, *o;
  float *lse;
} Pointers;

static Pointers pointers(const Case *c, const Operands *t, void *(*of)(const Tensor *)) {
  AttentionStrides ld = strides_of(c);
  void *qk = of(c->apart ? &t->qk : &t->qkv), *qkv = of(&t->qkv), *d_qkv = of(&t->d_qkv);
  Pointers p;
  p.q = heads_from(qk, ld.q, c, 0);
  p.k = heads_from(qk, ld.k, c, c->NH);
  p.v = heads_from(qkv, ld.v, c, c->NH + c->NKV);
  p.dq = heads_from(d_qkv, ld.dq, c, 0);
  p.dk = heads_from(d_qkv, ld.dk, c, c->NH);
  p.dv = heads_from(d_qkv, ld.dv, c, c->NH + c->NKV);
  p.dout = of(&t->dout), p.o = of(&t->o), p.lse = (float *)of(&t->lse);
  return p;
}

static void *for_host(const Tensor *t) {
  return (char *)mirror_write(t->memory) + GUARD_BYTES;
}
static void *for_device(const Tensor *t) {
  return on_device(t);
}

static void compute_on_cpu(const Case *c, const Operands *t) {
  Device cpu;
  Error e = {};
  CHECK(device_open(&cpu, "cpu", 0, &e), "%s", e.text);
  AttentionShape s = shape_of(c);
  if (s.packed) s.starts = (const int32_t *)mirror_read(t->starts);
  Pointers p = pointers(c, t, for_host);
  void *forward = malloc(attention_forward_workspace(&cpu, DT_BF16, &s));
  void *backward = malloc(attention_backward_workspace(&cpu, DT_BF16, &s));
  attention_forward(&cpu, DT_BF16, p.o, p.lse, p.q, p.k, p.v, &s, forward);
  attention_backward(&cpu, DT_BF16, p.dq, p.dk, p.dv, p.dout, p.o, p.lse, p.q, p.k, p.v, &s, backward);
  free(forward);
  free(backward);
  device_close(&cpu);
}

/* A workspace that is watched at both ends. */
static Tensor workspace_new(size_t bytes) {
  return tensor_new(DT_FP32, 1, (int64_t)(bytes / 4), (int64_t)(bytes / 4));
}

/* Through attention.h, as a run does it. False, after saying so, where the GPU or the library is not one for
 * packed documents. */
static bool compute_on_device(Device *dev, const Case *c, const Operands *t) {
  AttentionShape s = shape_of_call(c, t);
  AttentionStrides ld = strides_of(c);
  Error why = {};
  if (!attention_prepare(dev, DT_BF16, &s, &ld, true, &why)) {
    if (!s.packed || why.code != EXIT_USAGE) fail_msg("%s: %s", c->name, why.text);
    print_message("SKIPPED: %s: %s\n", c->name, why.text);
    return false;
  }
  const char *name = dev->deterministic ? "cuDNN (forward), own (cuda) (backward)" : "cuDNN";
  assert_string_equal(attention_choose(dev, DT_BF16, &s, &why)->name, name);
  Tensor forward = workspace_new(attention_forward_workspace(dev, DT_BF16, &s));
  Tensor backward = workspace_new(attention_backward_workspace(dev, DT_BF16, &s));
  Pointers p = pointers(c, t, for_device);
  attention_forward(dev, DT_BF16, p.o, p.lse, p.q, p.k, p.v, &s, on_device(&forward));
  attention_backward(dev, DT_BF16, p.dq, p.dk, p.dv, p.dout, p.o, p.lse, p.q, p.k, p.v, &s,
                     on_device(&backward));
  assert_true(tensor_guards_whole(&forward) && tensor_guards_whole(&backward));
  tensor_free(&forward);
  tensor_free(&backward);
  return true;
}

/* own_backward: from what the stand-in's forward leaves, by the CPU's own. */
static void compute_by_stand_in(const Case *c, const Operands *t, bool own_backward) {
  AttentionCall call = {shape_of_call(c, t), strides_of(c), false};
  Error e = {};
  Device cpu;
  CHECK(device_open(&cpu, "cpu", 0, &e), "%s", e.text);
  AttentionCudnn *a = attention_cudnn_open(NULL, &e);
  assert_non_null(a);
  const AttentionPlan *forward = attention_cudnn_plan(a, &call, &e);
  call.backward = true;
  const AttentionPlan *backward = attention_cudnn_plan(a, &call, &e);
  assert_true(forward && backward);
  Tensor f = workspace_new(attention_plan_workspace(forward));
  Tensor b = workspace_new(attention_plan_workspace(backward));
  Pointers p = pointers(c, t, for_host);
  assert_true(
      attention_cudnn_forward(a, &cpu, forward, p.o, p.lse, p.q, p.k, p.v, &call.shape, for_host(&f), &e));
  if (own_backward) {
    void *workspace = malloc(attention_backward_workspace(&cpu, DT_BF16, &call.shape));
    attention_backward(&cpu, DT_BF16, p.dq, p.dk, p.dv, p.dout, p.o, p.lse, p.q, p.k, p.v, &call.shape,
                       workspace);
    free(workspace);
  } else {
    assert_true(attention_cudnn_backward(a, &cpu, backward, p.dq, p.dk, p.dv, p.dout, p.o, p.lse, p.q, p.k,
                                         p.v, &call.shape, for_host(&b), &e));
  }
  assert_true(tensor_guards_whole(&f) && tensor_guards_whole(&b));
  tensor_free(&f);
  tensor_free(&b);
  attention_cudnn_close(a);
  device_close(&cpu);
}

/* lse as the CPU orders it, [B, NH, T], from cuDNN's of documents, [B*T, NH]. */
static void reorder_lse(const Case *c, const Tensor *lse) {
  AttentionShape s = shape_of(c);
  if (!s.packed) return;
  size_t count = (size_t)(s.B * s.NH * s.T);
  float *rows = (float *)malloc(count * sizeof *rows);
  memcpy(rows, on_host(lse), count * sizeof *rows);
  for (int64_t b = 0; b < s.B; b++)
    for (int64_t h = 0; h < s.NH; h++)
      for (int64_t i = 0; i < s.T; i++) tensor_set(lse, b * s.NH + h, i, rows[(b * s.T + i) * s.NH + h]);
  free(rows);
}

/* Relative L2 distance of columns [from, to). */
static double distance(const Tensor *found, const Tensor *expected, int64_t from, int64_t to) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < found->rows; i++) {
    for (int64_t j = from; j < to; j++) {
      double x = tensor_get(found, i, j), y = tensor_get(expected, i, j);
      difference += (x - y) * (x - y);
      norm += y * y;
    }
  }
  return sqrt(difference / norm);
}

/* Roundings to bf16 that the two do not share: of p and ds, and of dk and dv of each query head; three at
 * most, each of 2^-9 on average, or less. lse is a sum in fp32, of exponentials that a GPU has to 2^-22. */
static const double MOST = 3 * 0x1p-9, MOST_LSE = 1e-5;

static void assert_close(const Case *c, const char *what, const Tensor *found, const Tensor *expected,
                         int64_t from, int64_t to, double most) {
  double d = distance(found, expected, from, to);
  if (!(d <= most)) fail_msg("%s: %s is off by %.2e, expected at most %.2e", c->name, what, d, most);
}

static void compare(const Case *c, const Operands *found, const Operands *expected) {
  int64_t C = c->NH * c->HS, Ck = c->NKV * c->HS;
  assert_close(c, "o", &found->o, &expected->o, 0, C, MOST);
  assert_close(c, "lse", &found->lse, &expected->lse, 0, found->lse.cols, MOST_LSE);
  assert_close(c, "dq", &found->d_qkv, &expected->d_qkv, 0, C, MOST);
  assert_close(c, "dk", &found->d_qkv, &expected->d_qkv, C, C + Ck, MOST);
  assert_close(c, "dv", &found->d_qkv, &expected->d_qkv, C + Ck, C + 2 * Ck, MOST);
  const Tensor *watched[] = {&found->qk, &found->qkv, &found->dout, &found->o, &found->lse, &found->d_qkv};
  for (const Tensor *t : watched) assert_true(tensor_guards_whole(t));
}

/* dev: the GPU, or NULL for the stand-in. own_backward: see compute_by_stand_in; of a GPU, when it is
 * deterministic. */
static void check_case(Device *dev, const Case *c, bool own_backward) {
  Operands expected = operands_new(c), found = operands_new(c);
  compute_on_cpu(c, &expected);
  bool computed = true;
  if (dev)
    computed = compute_on_device(dev, c, &found);
  else
    compute_by_stand_in(c, &found, own_backward);
  if (computed) {
    reorder_lse(c, &found.lse);
    compare(c, &found, &expected);
  }
  operands_free(&expected);
  operands_free(&found);
}

static const Case cases[] = {
    {"one head", 1, 512, 48, 1, 1, 64, 0, false, {}},
    {"grouped heads", 2, 1024, 40, 4, 2, 64, 0, false, {}},
    {"one key head, two sequences", 2, 777, 33, 6, 1, 128, 0, false, {}},
    {"a window", 1, 1000, 41, 4, 2, 64, 7, false, {}},
    {"a window as long as the sequence", 1, 1000, 41, 4, 2, 64, 1000, false, {}},
    {"queries and keys apart", 2, 300, 30, 4, 2, 128, 0, true, {}},
    {"96 in a head, apart, a window", 2, 515, 35, 3, 3, 96, 20, true, {}},
};

/* The first documents are so short that the stand-in's sequences hold several, too. */
static const Case packed_cases[] = {
    {"documents", 1, 2048, 24, 2, 2, 64, 0, false, {9, 1, 1000, 300}},
    {"documents of grouped heads", 2, 3000, 20, 4, 2, 64, 0, false, {13, 1, 700, 128, 1300}},
    {"documents of one key head, apart", 3, 1000, 17, 6, 1, 128, 0, true, {5, 129, 640, 9}},
    {"documents and a window", 2, 1500, 24, 4, 2, 64, 7, false, {19, 2, 64, 800}},
    {"documents shorter than a window", 1, 1500, 24, 4, 2, 96, 700, true, {17, 500}},
    {"one document a sequence", 2, 1024, 16, 4, 2, 128, 0, false, {1024}},
};

static void computes_the_attention(void **) {
  Device dev;
  Cudnn cudnn;
  Error e = {};
  if (!cudnn_open(&cudnn, &e)) {
    print_message("SKIPPED: %s\n", e.text);
    skip();
  }
  open_test_device(&dev, 0);
  const size_t count = sizeof cases / sizeof *cases,
               packed_count = sizeof packed_cases / sizeof *packed_cases;
  Device *gpu = on_cuda() ? &dev : NULL;
  for (size_t i = 0; i < count; i += case_stride()) check_case(gpu, &cases[i], false);
  for (size_t i = 0; i < packed_count; i += case_stride()) check_case(gpu, &packed_cases[i], false);
  dev.deterministic = true;
  for (size_t i = 0; i < count; i += case_stride()) check_case(gpu, &cases[i], true);
  device_close(&dev);
}

/* Versions that get packed documents wrong still compute the rest. */
static void old_versions_take_no_documents(void **) {
  if (on_cuda()) skip(); /* the library is the one that is there */
  Error e = {};
  AttentionCall plain = {shape_of(&cases[0]), strides_of(&cases[0]), true}, packed = plain;
  packed.shape.packed = true;
  fake_version_number = CUDNN_OLDEST;
  AttentionCudnn *a = attention_cudnn_open(NULL, &e);
  assert_non_null(a);
  assert_null(attention_cudnn_plan(a, &packed, &e));
  assert_non_null(strstr(e.text, "found cuDNN 9.15.1, expected 9.18.0"));
  assert_int_equal(e.code, EXIT_USAGE);
  assert_non_null(attention_cudnn_plan(a, &plain, &e));
  attention_cudnn_close(a);
  fake_version_number = CUDNN_OLDEST_PACKED;
}

/* The way from attention.h to the library, on a device that claims to be a GPU. */
static void goes_through_the_device(void **) {
#ifdef __CUDACC__
  if (on_cuda()) skip(); /* the other test does */
  const Case c = {"on a device", 1, 256, 256, 2, 1, 8, 0, false, {}};
  CudaDevice hopper = {};
  Device dev = {};
  dev.kind = DEVICE_CUDA;
  dev.cuda = &hopper;
  dev.capability = 90;
  AttentionShape s = shape_of(&c), shorter = s;
  AttentionStrides ld = strides_of(&c);
  Error why = {};
  assert_false(attention_prepare(&dev, DT_FP32, &s, &ld, true, &why));
  assert_false(attention_cudnn_prepared(&dev, DT_BF16, &s));
  assert_string_equal(attention_choose(&dev, DT_BF16, &s, &why)->name, "own (cuda)");
  dev.deterministic = true;
  AttentionShape in_documents = s;
  in_documents.packed = true;
  assert_false(attention_prepare(&dev, DT_BF16, &in_documents, &ld, true, &why));
  assert_non_null(strstr(why.text, "log-sum-exp"));
  assert_true(attention_prepare(&dev, DT_BF16, &s, &ld, true, &why));
  assert_string_equal(attention_choose(&dev, DT_BF16, &s, &why)->name,
                      "cuDNN (forward), own (cuda) (backward)");
  assert_int_equal(attention_backward_workspace(&dev, DT_BF16, &s), s.B * s.NH * s.T * 4);
  dev.deterministic = false;
  check_case(&dev, &c, false);
  assert_string_equal(attention_choose(&dev, DT_BF16, &s, &why)->name, "cuDNN");
  assert_true(attention_cudnn_prepared(&dev, DT_BF16, &s));
  assert_false(attention_cudnn_prepared(&dev, DT_FP32, &s));
  shorter.T = 255;
  assert_false(attention_cudnn_prepared(&dev, DT_BF16, &shorter));

  /* packed: a plan of its own, with room for some documents and a workspace for any number of them */
  AttentionShape documents = s;
  documents.packed = true;
  assert_string_equal(attention_choose(&dev, DT_BF16, &documents, &why)->name, "own (cuda)");
  assert_int_equal(attention_list_bytes(&dev, DT_BF16, &documents), 0);
  size_t own = attention_backward_workspace(&dev, DT_BF16, &documents);
  assert_int_equal(attention_forward_workspace(&dev, DT_BF16, &documents), 0);
  dev.capability = 80;
  assert_false(attention_prepare(&dev, DT_BF16, &documents, &ld, true, &why));
  assert_non_null(strstr(why.text, "not 8.0"));
  dev.capability = 90;
  assert_true(attention_prepare(&dev, DT_BF16, &documents, &ld, true, &why));
  documents.documents = attention_documents_room(&documents);
  assert_string_equal(attention_choose(&dev, DT_BF16, &documents, &why)->name, "cuDNN");
  assert_int_equal(attention_list_bytes(&dev, DT_BF16, &documents),
                   attention_document_list_bytes(&documents));
  assert_true(attention_backward_workspace(&dev, DT_BF16, &documents) > own);
  documents.documents++;
  assert_string_equal(attention_choose(&dev, DT_BF16, &documents, &why)->name, "own (cuda)");
  dev.extra[EXTRA_ATTENTION].close(dev.extra[EXTRA_ATTENTION].data);
#else
  print_message("SKIPPED: the way to cuDNN through a CUDA device, in a build without CUDA\n");
  skip();
#endif
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(computes_the_attention),
                                     cmocka_unit_test(old_versions_take_no_documents),
                                     cmocka_unit_test(goes_through_the_device)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
