/* The attention's kernels for CUDA on the CPU: their blocks are emulated, the definition and its bounds are
 * those of test_attention. Under the thread sanitizer (make thread-check) a missing barrier is a failure. In
 * builds with nvcc there are real blocks, and nothing to emulate: there, test_attention runs on a GPU. */
#ifdef __CUDACC__
#define main attention_main
#include "test_attention.cu"
#undef main

static void emulation_is_for_builds_without_nvcc(void **) {
  skip();
}
int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(emulation_is_for_builds_without_nvcc)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
#else

#include <sys/mman.h>

#include "block_emulation.cuh"

#include "ops/attention_flash_backward_cuda.cu"
#include "ops/attention_flash_forward_cuda.cu"
#define attention_forward            attention_flash_forward
#define attention_backward           attention_flash_backward
#define attention_forward_workspace  attention_flash_forward_workspace
#define attention_backward_workspace attention_flash_backward_workspace

#define main attention_main
#include "test_attention.cu"
#undef main

static Device emulated_device(void) {
  Device dev;
  open_test_device(&dev, 1);
  dev.kind = DEVICE_CUDA;
  return dev;
}

static void check_in_blocks(DType dt, const Case *cases, size_t n) {
  Device dev = emulated_device();
  for (size_t i = 0; i < n; i++) check_case(&dev, dt, &cases[i], NULL);
}

/* Every size of padded heads, exactly filled and not, with and without rows at multiples of 16 bytes. */
static const Case head_sizes[] = {
    {1, 67, 2, 1, 16, 0, 1, 1, 16},  {1, 67, 1, 1, 32, 0, 1, 1, 16},   {2, 70, 2, 1, 64, 0, 1, 1, 16},
    {1, 67, 1, 1, 96, 33, 1, 1, 16}, {1, 131, 1, 1, 128, 0, 1, 1, 16}, {1, 67, 1, 1, 256, 0, 1, 1, 16},
    {1, 35, 2, 2, 8, 0, 1, 1, 16},   {1, 35, 1, 1, 6, 0, 1, 1, 0},     {1, 35, 1, 1, 40, 0, 1, 1, 0},
    {1, 35, 1, 1, 80, 0, 1, 1, 16},  {1, 35, 1, 1, 102, 0, 1, 1, 0},   {1, 35, 1, 1, 200, 20, 1, 1, 16},
};

/* Lengths around the sizes of tiles. */
static const Case lengths[] = {
    {1, 1, 1, 1, 8, 0, 1, 1, 16},    {3, 1, 4, 2, 16, 1, 1, 1, 0},    {2, 2, 6, 2, 64, 0, 1, 1, 16},
    {1, 15, 1, 1, 64, 0, 1, 1, 16},  {1, 16, 2, 1, 64, 0, 1, 1, 0},   {1, 17, 2, 2, 64, 0, 1, 1, 16},
    {1, 63, 1, 1, 64, 0, 1, 1, 16},  {1, 64, 4, 2, 64, 0, 1, 1, 16},  {3, 65, 3, 1, 32, 0, 1, 1, 16},
    {1, 128, 1, 1, 64, 0, 1, 1, 16}, {1, 200, 4, 1, 64, 0, 1, 1, 16}, {1, 300, 1, 1, 32, 0, 1, 1, 16},
};

/* Windows of one, shorter than a tile, of several tiles, and longer than the sequence. */
static const Case windows[] = {
    {1, 65, 1, 1, 8, 1, 1, 1, 16},     {2, 63, 4, 2, 16, 7, 1, 1, 16},    {1, 300, 2, 1, 32, 64, 1, 1, 16},
    {1, 260, 1, 1, 64, 100, 1, 1, 16}, {1, 260, 1, 1, 64, 127, 1, 1, 16}, {1, 150, 2, 2, 64, 65, 1, 1, 0},
    {1, 70, 1, 1, 64, 300, 1, 1, 16},
};

/* Scores of hundreds: the softmax is all but a choice, and an exponential alone would overflow. */
static const Case saturated[] = {{1, 65, 4, 2, 16, 0, 1, 300, 16}, {1, 150, 1, 1, 64, 30, 1, 300, 16}};

/* Documents of one token, of the sizes of tiles and around them, several in a tile and over several; with
 * windows; of every size of padded heads that has kernels of its own. */
static const PackedCase documents[] = {
    {{1, 40, 2, 1, 16, 0, 1, 1, 16}, {1}},
    {{2, 70, 4, 2, 64, 0, 1, 1, 16}, {1, 15, 16, 3}},
    {{1, 130, 2, 1, 64, 0, 1, 1, 0}, {64, 63, 1}},
    {{1, 230, 1, 1, 32, 0, 1, 1, 16}, {63, 66, 2}},
    {{1, 150, 2, 2, 32, 20, 1, 1, 16}, {19, 20, 21, 90}},
    {{1, 67, 1, 1, 96, 33, 1, 1, 16}, {50}},
    {{1, 131, 2, 1, 128, 0, 1, 1, 16}, {31, 33, 65}},
    {{1, 67, 1, 1, 200, 0, 1, 1, 16}, {9, 40}},
    {{1, 100, 2, 1, 64, 0, 1, 300, 16}, {37, 3}},
};

#define ALL(cases) (cases), sizeof(cases) / sizeof *(cases)
static void test_head_sizes_bf16(void **) {
  check_in_blocks(DT_BF16, ALL(head_sizes));
}
static void test_head_sizes_fp32(void **) {
  check_in_blocks(DT_FP32, ALL(head_sizes));
}
static void test_lengths_in_blocks(void **) {
  check_in_blocks(DT_BF16, ALL(lengths));
  check_in_blocks(DT_FP32, ALL(lengths));
}
static void test_windows_in_blocks(void **) {
  check_in_blocks(DT_BF16, ALL(windows));
  check_in_blocks(DT_FP32, ALL(windows));
}
static void test_saturation_in_blocks(void **) {
  check_in_blocks(DT_BF16, ALL(saturated));
  check_in_blocks(DT_FP32, ALL(saturated));
}

static void test_documents_in_blocks(void **) {
  Device dev = emulated_device();
  for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
    check_case(&dev, DT_BF16, &documents[i].c, documents[i].lengths);
    check_case(&dev, DT_FP32, &documents[i].c, documents[i].lengths);
  }
}

/* Copies to shared memory, in forward and backward of a case. */
static int64_t copies_of(Device *dev, DType dt, int64_t T, const int64_t *lengths) {
  Case c = {1, T, 2, 1, 32, 0, 1, 1, 16};
  Mirror *starts = lengths ? document_starts(&c, lengths) : NULL;
  AttentionShape s = {1, T, c.NH, c.NKV, c.HS, 0, 0.2f, starts != NULL, NULL, 0, NULL};
  if (starts) s.starts = (const int32_t *)mirror_use(starts);
  int64_t before = emulated_copies;
  Operands t = run_attention(dev, dt, &s, &c);
  operands_free(&t);
  if (starts) mirror_free(starts);
  return emulated_copies - before;
}

/* Documents that fill whole tiles cost what they cost alone. */
static void test_cost_in_blocks(void **) {
  Device dev = emulated_device();
  static const int64_t lengths[] = {64, 0};
  for (int i = 0; i < 2; i++) {
    DType dt = i ? DT_BF16 : DT_FP32;
    int64_t alone = copies_of(&dev, dt, 64, NULL);
    assert_true(alone > 0);
    assert_int_equal(copies_of(&dev, dt, 3 * 64, lengths), 3 * alone);
  }
}

enum { FAR_T = 33, FAR_HS = 64 };

/* Address space of which only what is touched becomes memory. */
static char *far_rows(size_t bytes) {
  void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(p != MAP_FAILED, "no %zu bytes of address space", bytes);
  return (char *)p;
}

/* Forward and backward of two query heads, the key and the value head side by side in rows `ld` apart: the
 * gradients of the last row [4 HS]. */
static void last_gradients(bf16 *out, int64_t ld) {
  Device dev = emulated_device();
  AttentionShape s = {1, FAR_T, 2, 1, FAR_HS, 0, 0.125f, false, NULL, 0, NULL};
  size_t bytes = (size_t)(FAR_T * ld) * sizeof(bf16);
  bf16 *x = (bf16 *)far_rows(bytes), *d = (bf16 *)far_rows(bytes), o[FAR_T * 2 * FAR_HS];
  float lse[2 * FAR_T], workspace[2 * FAR_T];
  uint64_t element = 0;
  for (int64_t i = 0; i < FAR_T; i++)
    for (int64_t j = 0; j < 4 * FAR_HS; j++)
      store(&x[i * ld + j], (float)(random_element(1, 0, 0, (int64_t)element++).x[0] >> 8) * 0x1p-23f - 1.0f);
  Heads q = {x, ld}, k = {x + 2 * FAR_HS, ld}, v = {x + 3 * FAR_HS, ld};
  Heads dq = {d, ld}, dk = {d + 2 * FAR_HS, ld}, dv = {d + 3 * FAR_HS, ld};
  attention_forward(&dev, DT_BF16, o, lse, q, k, v, &s, NULL);
  attention_backward(&dev, DT_BF16, dq, dk, dv, o, o, lse, q, k, v, &s, workspace);
  memcpy(out, d + (FAR_T - 1) * ld, 4 * FAR_HS * sizeof(bf16));
  munmap(x, bytes);
  munmap(d, bytes);
}

/* Rows whose offsets go up to 2^32 elements give what they give side by side. */
static void test_rows_far_apart(void **) {
  bf16 near_by[4 * FAR_HS], far_apart[4 * FAR_HS];
  last_gradients(near_by, 4 * FAR_HS);
  last_gradients(far_apart, (int64_t)1 << 27);
  assert_memory_equal(near_by, far_apart, sizeof near_by);
  bool any = false;
  for (int i = 0; i < 4 * FAR_HS; i++) any |= near_by[i].bits != 0;
  assert_true(any);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_head_sizes_bf16),      cmocka_unit_test(test_head_sizes_fp32),
      cmocka_unit_test(test_lengths_in_blocks),    cmocka_unit_test(test_windows_in_blocks),
      cmocka_unit_test(test_saturation_in_blocks), cmocka_unit_test(test_documents_in_blocks),
      cmocka_unit_test(test_cost_in_blocks),       cmocka_unit_test(test_rows_far_apart),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
