/* The attention through cuDNN without a GPU: which calls are given to it, that its plans build for chips that
 * are not here, and that their workspace is what the memory plan assumes. Nothing is computed. Where cuDNN is
 * not installed the plans are skipped, and it is said so.
 *
 * A plan takes about half a second. Each shape of the presets gets one of its plans here, on one chip, by
 * turns; with CUDNN_PLANS=all, as `make cudnn-check` sets it, both on all chips, at two lengths. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if __has_include(<cudnn.h>) && __has_include(<cuda_runtime.h>)
#define HAS_HEADERS 1
#include <cudnn.h>
#endif

#include "device/cudnn_api.h"
#include "llama/config.h"
#include "ops/attention_cudnn.h"

typedef struct Chip {
  const char *name;
  int capability;
} Chip;
static const Chip chips[] = {{"h100", 90}, {"a100", 80}, {"b200", 100}, {"rtx4090", 89}};
enum { CHIPS = sizeof chips / sizeof *chips };

/* ---- calls ---- */

/* apart: queries and keys have a buffer of their own, as after a norm of theirs; else they lie in the rows of
 * qkv, where all gradients go. */
static AttentionCall call_of(int64_t B, int64_t T, int64_t NH, int64_t NKV, int64_t HS, int64_t window,
                             bool apart, bool backward) {
  int64_t qkv = (NH + 2 * NKV) * HS, qk = apart ? (NH + NKV) * HS : qkv;
  return (AttentionCall){
      .shape = {B, T, NH, NKV, HS, window, 0.125f}, .ld = {qk, qk, qkv, qkv, qkv, qkv}, .backward = backward};
}

static AttentionCall packed(AttentionCall call) {
  call.shape.packed = true;
  return call;
}

static void describe(char *text, size_t size, const Chip *chip, const AttentionCall *c) {
  const AttentionShape *s = &c->shape;
  snprintf(text, size, "%s %s%s, B %lld, T %lld, %lld heads on %lld of %lld, window %lld, rows of q %lld",
           chip->name, c->backward ? "backward" : "forward", s->packed ? " of documents" : "",
           (long long)s->B, (long long)s->T, (long long)s->NH, (long long)s->NKV, (long long)s->HS,
           (long long)s->window, (long long)c->ld.q);
}

/* ---- what needs no library ---- */

static void numbers_are_those_of_the_headers(void **state) {
  (void)state;
#ifdef HAS_HEADERS
#define COMPARE(name, number) assert_int_equal(CUDNN9_##name, CUDNN_##name);
  CUDNN_NUMBERS(COMPARE)
#else
  print_message("SKIPPED: no cudnn.h to compare with in the compiler's path\n");
  skip();
#endif
}

static void assert_refused(int capability, DType dt, AttentionCall call, bool deterministic,
                           const char *reason) {
  Error why = {0};
  bool supported = attention_cudnn_supports(capability, dt, &call, deterministic, &why);
  if (supported || !strstr(why.text, reason)) fail_msg("expected \"%s\", found \"%s\"", reason, why.text);
  assert_null(strchr(why.text, '\n'));
}

static void assert_supported(int capability, AttentionCall call, bool deterministic) {
  Error why = {0};
  if (!attention_cudnn_supports(capability, DT_BF16, &call, deterministic, &why)) fail_msg("%s", why.text);
}

static void refuses_what_cudnn_gets_wrong(void **state) {
  (void)state;
  AttentionCall forward = call_of(1, 4096, 32, 8, 128, 0, false, false);
  AttentionCall backward = call_of(1, 4096, 32, 8, 128, 0, false, true);
  assert_supported(90, forward, true);
  assert_supported(90, backward, false);
  assert_refused(90, DT_BF16, backward, true, "from run to run");
  assert_refused(90, DT_FP32, forward, false, "not for fp32");
  assert_refused(75, DT_BF16, forward, false, "not 7.5");
  assert_refused(90, DT_BF16, call_of(1, 1, 32, 8, 128, 0, false, false), false, "not 1");
  assert_refused(90, DT_BF16, call_of(1, 255, 32, 8, 128, 0, false, true), false, "not 255");
  assert_supported(90, call_of(1, 256, 32, 8, 128, 0, false, true), false);
  assert_refused(90, DT_BF16, call_of(1, 4096, 32, 8, 100, 0, false, false), false, "not 100");
  assert_refused(90, DT_BF16, call_of(1, 4096, 32, 8, 264, 0, false, false), false, "up to 256 here");
  assert_refused(80, DT_BF16, call_of(1, 4096, 32, 8, 136, 0, false, true), false, "up to 128 here");
  assert_refused(100, DT_BF16, call_of(1, 4096, 32, 8, 256, 0, false, true), false, "up to 128 here");
  assert_supported(80, call_of(1, 4096, 32, 8, 256, 0, false, false), false);
  assert_supported(90, call_of(1, 4096, 32, 8, 256, 0, false, true), false);
  static const int without_documents[] = {80, 86, 89, 120};
  for (int i = 0; i < 4; i++)
    assert_refused(without_documents[i], DT_BF16, packed(backward), false, "9.x or 10.x");
  assert_supported(90, packed(backward), false);
  assert_supported(100, packed(forward), false);
  assert_refused(100, DT_BF16, packed(forward), true, "log-sum-exp");
  forward.ld.k += 4; /* 8 bytes */
  assert_refused(90, DT_BF16, forward, false, "16 bytes");
  backward.ld.dv += 4;
  assert_refused(90, DT_BF16, backward, false, "16 bytes");
}

static size_t workspace(int capability, int64_t T, int64_t NH, int64_t NKV, bool backward) {
  AttentionCall call = call_of(1, T, NH, NKV, 128, 0, false, backward);
  return attention_cudnn_workspace(capability, &call);
}

/* By hand: the heads of Llama 3 8B at 65536 tokens are 65536 * 32 * 128 = 2^28 numbers. dq is added up in
 * fp32, a number a row is kept, and dk and dv of all query heads are there before they are added up. */
static void workspace_by_hand(void **state) {
  (void)state;
  const size_t numbers = (size_t)1 << 28, rows = (size_t)1 << 21;
  assert_int_equal(workspace(90, 65536, 32, 8, true), numbers * 8 + rows * 4 + 256);
  assert_int_equal(workspace(90, 65536, 32, 32, true), numbers * 4 + rows * 4 + 256);
  assert_int_equal(workspace(100, 65536, 32, 32, true), numbers * 4 + rows * 4);
  assert_int_equal(workspace(80, 65536, 32, 8, true), numbers * 12 + rows * 4 + 256);
  assert_int_equal(workspace(89, 65536, 32, 32, true), numbers * 8 + rows * 4 + 256);
  assert_true(workspace(90, 65536, 32, 8, false) <= 256);

  /* of documents: operands of 2 bytes in rows of their own, forward q, k, v and backward their gradients,
   * too; cuDNN's own goes with the 4 + 65536 / 512 documents that there is room for */
  AttentionCall call = packed(call_of(1, 65536, 32, 8, 128, 0, false, false));
  assert_int_equal(attention_cudnn_workspace(90, &call), numbers * 3 + 35328);
  call.backward = true;
  assert_int_equal(attention_cudnn_workspace(90, &call), numbers * 8 + rows * 4 + numbers * 6 + 60928);
}

/* ---- plans ---- */

static char folder[] = "/tmp/train_llama_cudnn_XXXXXX";
static bool has_cudnn;

/* A driver under the name that cuDNN looks for, before it does. */
static bool load_fake_driver(void) {
  char command[512], path[128];
  snprintf(path, sizeof path, "%s/libcuda.so.1", folder);
  snprintf(command, sizeof command,
           "${CC:-cc} -shared -fPIC -Wl,-soname,libcuda.so.1 test/fake_driver.c -o '%s'", path);
  return system(command) == 0 && dlopen(path, RTLD_NOW | RTLD_GLOBAL);
}

static int setup(void **state) {
  (void)state;
  Cudnn cudnn;
  Error e = {0};
  if (!mkdtemp(folder) || !load_fake_driver()) return -1;
  has_cudnn = cudnn_open(&cudnn, &e);
  if (has_cudnn)
    print_message("cuDNN %d\n", (int)cudnn.GetVersion());
  else
    print_message("SKIPPED: plans for GPUs that are not here. %s\n", e.text);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  char path[128];
  snprintf(path, sizeof path, "%s/libcuda.so.1", folder);
  unlink(path);
  return rmdir(folder);
}

static AttentionCudnn *open_chip(const char *name, Error *e) {
  char path[128], text[4096] = "";
  snprintf(path, sizeof path, "test/fixtures/chips/%s.json", name);
  FILE *f = fopen(path, "r");
  CHECK(f && fread(text, 1, sizeof text - 1, f) > 0, "no %s", path);
  fclose(f);
  return attention_cudnn_open_chip(text, e);
}

/* A plan that is asked for, and what came of it. */
typedef struct Wish {
  const Chip *chip;
  AttentionCall call;
  size_t workspace;
  Error refusal; /* code 0: there is a plan */
} Wish;

enum { MOST_WISHES = 512, WORKERS = 2 };
typedef struct Wishes {
  int count;
  Wish list[MOST_WISHES];
} Wishes;

static void wish(Wishes *w, const Chip *chip, AttentionCall call) {
  assert_true(w->count < MOST_WISHES);
  w->list[w->count++] = (Wish){.chip = chip, .call = call};
}

static void wish_both(Wishes *w, const Chip *chip, AttentionCall call) {
  call.backward = false;
  wish(w, chip, call);
  call.backward = true;
  wish(w, chip, call);
}

/* Every WORKERS-th wish from the first on, each worker with libraries of its own; NULL or a message. */
typedef struct Worker {
  Wishes *wishes;
  int first;
} Worker;

static void *fulfil(void *data) {
  const Worker *worker = data;
  for (int i = worker->first; i < worker->wishes->count; i += WORKERS) {
    Wish *w = &worker->wishes->list[i];
    AttentionCudnn *cudnn = open_chip(w->chip->name, &w->refusal);
    const AttentionPlan *plan = cudnn ? attention_cudnn_plan(cudnn, &w->call, &w->refusal) : NULL;
    if (plan) w->workspace = attention_plan_workspace(plan);
    attention_cudnn_close(cudnn);
  }
  return NULL;
}

/* All plans build, and ask for what attention_cudnn_workspace() says; of documents older versions ask for
 * some bytes less. */
static void assert_fulfilled(Wishes *wishes) {
  pthread_t threads[WORKERS];
  Worker workers[WORKERS];
  for (int i = 0; i < WORKERS; i++) {
    workers[i] = (Worker){wishes, i};
    assert_int_equal(pthread_create(&threads[i], NULL, fulfil, &workers[i]), 0);
  }
  for (int i = 0; i < WORKERS; i++) pthread_join(threads[i], NULL);
  int wrong = 0;
  for (int i = 0; i < wishes->count; i++) {
    const Wish *w = &wishes->list[i];
    char text[256];
    Error why = {0};
    describe(text, sizeof text, w->chip, &w->call);
    size_t expected = attention_cudnn_workspace(w->chip->capability, &w->call);
    bool supported = attention_cudnn_supports(w->chip->capability, DT_BF16, &w->call, false, &why);
    size_t most_less = w->call.shape.packed ? 4 * (size_t)attention_documents_room(&w->call.shape) + 256 : 0;
    bool as_expected = w->workspace <= expected && expected - w->workspace <= most_less;
    if (supported && !w->refusal.code && as_expected) continue;
    print_message("%s: workspace %zu, expected %zu. %s%s\n", text, w->workspace, expected, w->refusal.text,
                  why.text);
    wrong++;
  }
  print_message("%d plans\n", wishes->count);
  assert_int_equal(wrong, 0);
}

static void skip_without_cudnn(void) {
  if (!has_cudnn) skip();
}

/* What the layers of a preset ask for. */
static bool wished_for(const AttentionCall *shapes, int count, const AttentionCall *c) {
  for (int i = 0; i < count; i++)
    if (!memcmp(&shapes[i].shape, &c->shape, sizeof c->shape) && shapes[i].ld.q == c->ld.q) return true;
  return false;
}

static int shapes_of_presets(AttentionCall *shapes, int most) {
  int count = 0;
  const char *name;
  for (int i = 0; (name = config_preset_name(i)); i++) {
    Config c;
    assert_true(config_preset(&c, name));
    for (int64_t l = 0; l < c.L; l++) {
      AttentionCall call = call_of(1, 0, c.NH, c.NKV, c.HS, c.layers[l].window, c.qk_norm, false);
      if (wished_for(shapes, count, &call)) continue;
      assert_true(count < most);
      shapes[count++] = call;
    }
    config_free(&c);
  }
  return count;
}

static void plans_of_the_presets(void **state) {
  (void)state;
  skip_without_cudnn();
  static const int64_t lengths[] = {8192, 131072, 1048576};
  const char *wanted = getenv("CUDNN_PLANS");
  bool all = wanted && !strcmp(wanted, "all");
  AttentionCall shapes[64];
  int count = shapes_of_presets(shapes, 64);
  assert_true(count > 10);
  static Wishes wishes;
  for (int i = 0; i < count; i++) {
    AttentionCall *c = &shapes[i];
    for (int chip = 0; chip < CHIPS && all; chip++) {
      for (int length = 0; length < 2; length++) {
        c->shape.T = lengths[(i + chip + length) % 3];
        wish_both(&wishes, &chips[chip], *c);
      }
    }
    for (int chip = 0; chip < CHIPS && all; chip += 2) { /* those for packed documents */
      c->shape.T = lengths[(i + chip / 2) % 3];
      wish_both(&wishes, &chips[chip], packed(*c));
    }
    if (all) continue;
    c->shape.T = lengths[i % 3];
    c->backward = i / CHIPS % 3 != 0;
    wish(&wishes, &chips[i % CHIPS], *c);
  }
  assert_fulfilled(&wishes);
}

/* Head sizes, lengths, windows and batches that the presets do not have. */
static void plans_at_the_edges(void **state) {
  (void)state;
  skip_without_cudnn();
  static Wishes wishes;
  wish_both(&wishes, &chips[0], call_of(1, 4096, 8, 2, 256, 0, false, false));
  wish(&wishes, &chips[1], call_of(2, 257, 6, 2, 256, 100, false, false));
  wish(&wishes, &chips[1], call_of(2, 1001, 6, 3, 96, 0, true, true));
  wish(&wishes, &chips[2], call_of(2, 1001, 6, 3, 96, 0, true, true));
  wish(&wishes, &chips[0], call_of(3, 4099, 8, 8, 96, 1000, true, true));
  wish(&wishes, &chips[3], call_of(4, 256, 8, 1, 64, 0, false, true));
  wish(&wishes, &chips[0], call_of(4, 256, 8, 1, 64, 0, false, true));
  assert_fulfilled(&wishes);
}

/* Documents: all heads alike and in groups, windows, several sequences, little room for them and much. */
static void plans_of_documents(void **state) {
  (void)state;
  skip_without_cudnn();
  static Wishes wishes;
  wish_both(&wishes, &chips[0], packed(call_of(1, 65536, 32, 8, 128, 0, false, false)));
  wish(&wishes, &chips[0], packed(call_of(3, 1000, 6, 6, 64, 100, false, true)));
  wish(&wishes, &chips[0], packed(call_of(1, 4099, 8, 2, 256, 0, true, true)));
  wish(&wishes, &chips[2], packed(call_of(1, 65536, 32, 8, 128, 4096, false, true)));
  assert_fulfilled(&wishes);
}

static void plans_are_kept(void **state) {
  (void)state;
  skip_without_cudnn();
  Error e = {0};
  AttentionCudnn *a = open_chip("h100", &e);
  assert_non_null(a);
  AttentionCall call = call_of(1, 4096, 8, 2, 64, 0, false, false), longer = call, windowed = call;
  longer.shape.T = 8192;
  windowed.shape.window = 4096; /* which no query is short of */
  assert_null(attention_cudnn_find(a, &call.shape, false));
  const AttentionPlan *plan = attention_cudnn_plan(a, &call, &e);
  if (!plan) fail_msg("%s", e.text);
  assert_ptr_equal(attention_cudnn_plan(a, &call, &e), plan);
  assert_ptr_equal(attention_cudnn_find(a, &windowed.shape, false), plan);
  assert_null(attention_cudnn_find(a, &longer.shape, false));
  assert_null(attention_cudnn_find(a, &call.shape, true));
  windowed.shape.window = 4095;
  assert_null(attention_cudnn_find(a, &windowed.shape, false));
  AttentionCall documents = packed(call);
  assert_null(attention_cudnn_find(a, &documents.shape, false));
  call.ld.v += 8; /* other rows: another plan */
  const AttentionPlan *other = attention_cudnn_plan(a, &call, &e);
  if (!other) fail_msg("%s", e.text);
  assert_ptr_not_equal(other, plan);
  assert_ptr_equal(attention_cudnn_find(a, &call.shape, false), other);
  attention_cudnn_close(a);
}

/* Beyond the limits of attention_cudnn_supports() cuDNN itself says no, in words, and says it again. */
static void refusals_are_kept(void **state) {
  (void)state;
  skip_without_cudnn();
  Error e = {0};
  AttentionCudnn *a = open_chip("a100", &e);
  assert_non_null(a);
  AttentionCall call = call_of(1, 4096, 8, 2, 256, 0, false, true);
  for (int i = 0; i < 2; i++) {
    e = (Error){0};
    assert_null(attention_cudnn_plan(a, &call, &e));
    assert_non_null(strstr(e.text, "no engine"));
  }
  assert_null(attention_cudnn_find(a, &call.shape, true));
  attention_cudnn_close(a);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(numbers_are_those_of_the_headers),
      cmocka_unit_test(refuses_what_cudnn_gets_wrong),
      cmocka_unit_test(workspace_by_hand),
      cmocka_unit_test(plans_of_the_presets),
      cmocka_unit_test(plans_at_the_edges),
      cmocka_unit_test(plans_of_documents),
      cmocka_unit_test(plans_are_kept),
      cmocka_unit_test(refusals_are_kept),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
