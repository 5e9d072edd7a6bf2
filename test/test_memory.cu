/* Planned bytes equal used bytes: packing, lives, and a count of what the program allocates beside the plan.
 * This binary is linked with --wrap for the allocation functions, so that every call from the program's own
 * code is seen; what libraries take for themselves is not the plan's. */
extern "C" {
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
}
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tiny_model.cuh"

/* ---- the counter ---- */

static volatile struct {
  bool on;
  size_t mapped;  /* bytes of anonymous mappings, and of cudaMalloc */
  size_t largest; /* of the other allocations */
} counter;

static void count(size_t bytes) {
  if (counter.on && bytes > counter.largest) counter.largest = bytes;
}

extern "C" {
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *p, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
int __real_posix_memalign(void **p, size_t alignment, size_t bytes);
void *__real_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);

void *__wrap_malloc(size_t bytes) {
  return count(bytes), __real_malloc(bytes);
}
void *__wrap_calloc(size_t n, size_t bytes) {
  return count(n * bytes), __real_calloc(n, bytes);
}
void *__wrap_realloc(void *p, size_t bytes) {
  return count(bytes), __real_realloc(p, bytes);
}
void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
  return count(bytes), __real_aligned_alloc(alignment, bytes);
}
int __wrap_posix_memalign(void **p, size_t alignment, size_t bytes) {
  return count(bytes), __real_posix_memalign(p, alignment, bytes);
}
void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset) {
  if (counter.on) counter.mapped += bytes;
  return __real_mmap(at, bytes, protection, flags, fd, offset);
}
#ifdef __CUDACC__
cudaError_t __real_cudaMalloc(void **p, size_t bytes);
cudaError_t __wrap_cudaMalloc(void **p, size_t bytes) {
  if (counter.on) counter.mapped += bytes;
  return __real_cudaMalloc(p, bytes);
}
#endif
}

/* ---- packing ---- */

/* Buffers that live at one moment do not overlap, and none reaches beyond the space. */
static void check_packing(const Plan *p) {
  for (int i = 0; i < plan_buffers(p); i++) {
    PlanSpace space = plan_buffer_space(p, i);
    int64_t from = plan_offset(p, i), end = from + plan_buffer_bytes(p, i);
    assert_true(from >= 0 && end <= plan_bytes(p, space));
    for (int j = 0; j < i; j++) {
      int64_t other = plan_offset(p, j), other_end = other + plan_buffer_bytes(p, j);
      if (plan_buffer_space(p, j) != space || other >= end || other_end <= from) continue;
      for (int m = 0; m < plan_moments(p); m++)
        if (plan_is_live(p, i, m) && plan_is_live(p, j, m))
          fail_msg("%s and %s share bytes at \"%s\"", plan_buffer_name(p, i), plan_buffer_name(p, j),
                   plan_moment_name(p, m));
    }
  }
}

/* The largest sum over the moments, and the first moment that has it. */
static void check_peak(const Plan *p) {
  for (int space = 0; space < SPACE_COUNT; space++) {
    int64_t peak = 0;
    int found, at = 0;
    for (int m = 0; m < plan_moments(p); m++) {
      int64_t sum = plan_live_bytes(p, (PlanSpace)space, CAT_MLP, m);
      if (sum > peak) peak = sum, at = m;
    }
    assert_int_equal(plan_peak(p, (PlanSpace)space, &found), peak);
    assert_int_equal(found, at);
    assert_true(plan_bytes(p, (PlanSpace)space) >= peak);
  }
}

static void test_packing(void **state) {
  (void)state;
  const int moments = 200;
  uint32_t random = 99;
  for (int round = 0; round < 200; round++) {
    Plan *p = plan_new();
    for (int m = 0; m < moments; m++) plan_moment(p, "moment %d", m);
    for (int i = 0; i < 60; i++) {
      random = random * 1664525u + 1013904223u;
      BufferId id =
          plan_buffer(p, random >> 30 ? SPACE_DEVICE : SPACE_HOST, CAT_MLP, (random >> 8) % 100000, "b%d", i);
      for (int lives = 0; lives < 2; lives++) {
        random = random * 1664525u + 1013904223u;
        int first = (int)((random >> 10) % moments), length = (int)((random >> 20) % (i % 8 ? 12 : moments));
        plan_live(p, id, first, first + length < moments ? first + length : moments - 1);
      }
    }
    plan_pack(p);
    check_packing(p);
    check_peak(p);
    plan_free(p);
  }
}

/* ---- whole runs ---- */

typedef struct Flags {
  Recompute recompute;
  int64_t every, keep_attention, A, B, T, mlp_chunk, head_chunk;
  DType dtype;
  bool master;
  DType moments;
  bool tied, qk_norm;
  UpdateMode update;
  int64_t groups;
  unsigned offload;
} Flags;

static RunShape shape_of(const Flags *f) {
  RunShape s = tiny_shape(f->A, f->B, f->T);
  s.recompute = f->recompute;
  s.checkpoint_every = f->every;
  s.keep_attention = f->keep_attention;
  s.mlp_chunk = f->mlp_chunk;
  s.head_chunk = f->head_chunk;
  s.dtype = f->dtype;
  s.master = f->master;
  s.moments = f->moments;
  s.update = f->update;
  s.attn_groups = f->groups;
  s.offload = f->offload;
  return s;
}

/* Small things beside the plan (names, tables of the schedule) are below this; every activation of these
 * models of N >= 256 rows is above. */
static const size_t SMALL = 16 << 10;

static void check_run(const Flags *f) {
  TinyModel t = {};
  Error e = {};
  t.config = tiny_config(f->tied, f->qk_norm);
  RunShape shape = shape_of(f);
  open_test_device(&t.dev, 0);
  t.schedule = schedule_new(&t.config, &shape, &t.dev);
  const Plan *plan = t.schedule->plan;
  check_packing(plan);

  counter.mapped = counter.largest = 0;
  counter.on = true;
  assert_true(model_open(&t.model, &t.config, t.schedule, &t.dev, true, &e));
  /* the run takes what the plan says, to the byte */
  assert_int_equal(counter.mapped, plan_bytes(plan, SPACE_DEVICE) + plan_bytes(plan, SPACE_HOST));
  model_init(&t.model, 3);
  t.step = model_step_batch(&t.model, f->A);
  tiny_data(&t.step, t.config.V);
  AdamW a = {1e-3, 0.9, 0.95, 1e-8, 0.1, 1, 1, 5};
  for (a.step = 1; a.step <= 2; a.step++) {
    /* poison: what is read outside of its life is NaN and reaches the loss or a gradient */
    double loss = model_forward_backward(&t.model, &t.step, &a);
    assert_true(isfinite(loss) && isfinite(gradient_norm(&t.model)) && gradient_norm(&t.model) > 0);
    if (f->update == UPDATE_STEP) optimizer_update(&t.model, a, 1);
    assert_true(isfinite(model_evaluate(&t.model, &t.step)));
  }
  counter.on = false;
  assert_int_equal(counter.mapped, plan_bytes(plan, SPACE_DEVICE) + plan_bytes(plan, SPACE_HOST));
  /* on CUDA the wrapped calls are the runtime's too, which is linked statically */
  if (counter.largest >= SMALL && !on_cuda())
    fail_msg("%zu bytes were allocated beside the plan", counter.largest);
  tiny_close(&t);
}

static void test_runs_keep_to_the_plan(void **state) {
  (void)state;
  static const struct {
    Recompute recompute;
    int64_t every, keep;
  } modes[] = {{RECOMPUTE_NONE, 1, 0},        {RECOMPUTE_MLP, 1, 0},   {RECOMPUTE_LAYER, 1, 0},
               {RECOMPUTE_LAYER, 2, 0},       {RECOMPUTE_LAYER, 3, 0}, {RECOMPUTE_LAYER, 2, 2},
               {RECOMPUTE_LAYER, 1, KEEP_ALL}};
  static const int64_t chunks[][2] = {
      {CHUNK_WHOLE, CHUNK_WHOLE}, {CHUNK_AUTO, CHUNK_AUTO}, {50, 7}, {7, CHUNK_WHOLE}};
  static const struct {
    DType dtype;
    bool master;
    DType moments;
  } formats[] = {{DT_FP32, false, DT_FP32},
                 {DT_BF16, false, DT_BF16},
                 {DT_BF16, true, DT_FP32},
                 {DT_BF16, false, DT_U8}};
  for (size_t m = 0; m < sizeof modes / sizeof *modes; m++)
    for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++)
      for (size_t d = 0; d < sizeof formats / sizeof *formats; d++) {
        bool odd = (m + c + d) % 2;
        unsigned offload = (unsigned)((m + 5 * c + 11 * d) % 32);
        if (modes[m].recompute != RECOMPUTE_LAYER)
          offload &= ~(unsigned)(OFFLOAD_CHECKPOINTS | OFFLOAD_ATTENTION);
        int64_t groups = modes[m].recompute == RECOMPUTE_LAYER && (m + c / 2 + d) % 2 ? 2 : 1;
        UpdateMode update = !odd && (m + c) % 4 < 2 ? UPDATE_LAYER : UPDATE_STEP;
        if (update == UPDATE_LAYER) offload &= ~(unsigned)OFFLOAD_GRADIENTS;
        Flags f = {modes[m].recompute,
                   modes[m].every,
                   modes[m].keep,
                   odd ? 2 : 1,
                   odd ? 3 : 1,
                   odd ? 90 : 256,
                   chunks[c][0],
                   chunks[c][1],
                   formats[d].dtype,
                   formats[d].master,
                   formats[d].moments,
                   (m + c) % 2 == 0,
                   (c + d) % 3 == 0,
                   update,
                   groups,
                   offload};
        check_run(&f);
      }
}

/* Recomputation and mini-sequences save what they are there to save. */
static void test_modes_are_ordered(void **state) {
  (void)state;
  Device dev;
  open_test_device(&dev, 0);
  Config c = {};
  assert_true(config_preset(&c, "llama3-8b"));
  RunShape s = {};
  s.A = s.B = 1;
  s.T = 32768;
  s.dtype = s.moments = DT_BF16;
  s.checkpoint_every = 1;
  s.training = true;
  struct {
    Recompute recompute;
    int64_t every, chunk;
  } rows[] = {{RECOMPUTE_NONE, 1, CHUNK_WHOLE}, {RECOMPUTE_NONE, 1, CHUNK_AUTO},
              {RECOMPUTE_MLP, 1, CHUNK_AUTO},   {RECOMPUTE_LAYER, 1, CHUNK_WHOLE},
              {RECOMPUTE_LAYER, 1, CHUNK_AUTO}, {RECOMPUTE_LAYER, 4, CHUNK_AUTO}};
  int64_t last = INT64_MAX;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    s.recompute = rows[i].recompute;
    s.checkpoint_every = rows[i].every;
    s.mlp_chunk = s.head_chunk = rows[i].chunk;
    Schedule *schedule = schedule_new(&c, &s, &dev);
    int64_t bytes = plan_bytes(schedule->plan, SPACE_DEVICE);
    assert_true(bytes < last);
    assert_true((double)bytes <= 1.02 * (double)plan_peak(schedule->plan, SPACE_DEVICE, NULL));
    last = bytes;
    schedule_free(schedule);
  }
  config_free(&c);
  device_close(&dev);
}

/* One layer's gradient is held at a time: with every layer alike, the embedding's and one layer's fit in what
 * the largest unit and one layer take. */
static void test_update_layer_holds_one_gradient(void **state) {
  (void)state;
  Device dev;
  Error e = {};
  assert_true(device_open(&dev, "cpu", 0, &e));
  const char *const presets[] = {"llama3-8b", "llama3.2-1b"}; /* a head of its own; tied */
  for (int i = 0; i < 2; i++) {
    Config c = {};
    assert_true(config_preset(&c, presets[i]));
    ParamTable t;
    params_table(&t, &c);
    RunShape s = tiny_shape(1, 1, 4096);
    s.dtype = s.moments = DT_BF16;
    s.mlp_chunk = s.head_chunk = CHUNK_AUTO;
    s.update = UPDATE_LAYER;
    Schedule *schedule = schedule_new(&c, &s, &dev);
    int64_t most = 0;
    for (int m = 0; m < plan_moments(schedule->plan); m++) {
      int64_t bytes = plan_live_bytes(schedule->plan, SPACE_DEVICE, CAT_GRADIENTS, m);
      if (bytes > most) most = bytes;
    }
    int64_t head = t.embedding_elements * 4, slack = 1 << 20;
    assert_true(most <= head + (c.tied ? t.layer_elements * 4 : 0) + slack);
    assert_true(plan_bytes(schedule->plan, SPACE_DEVICE) <=
                plan_peak(schedule->plan, SPACE_DEVICE, NULL) * 51 / 50);
    schedule_free(schedule);
    config_free(&c);
  }
  device_close(&dev);
}

/* Live bytes of a category at most, over the step. */
static int64_t most_bytes(const Plan *p, PlanSpace space, PlanCategory c) {
  int64_t most = 0;
  for (int m = 0; m < plan_moments(p); m++) {
    int64_t bytes = plan_live_bytes(p, space, c, m);
    if (bytes > most) most = bytes;
  }
  return most;
}

/* What is offloaded is on the host; the device holds what it needs of it at a time. */
static void test_offload_moves_to_the_host(void **state) {
  (void)state;
  Device dev;
  Error e = {};
  assert_true(device_open(&dev, "cpu", 0, &e));
  Config c = {};
  assert_true(config_preset(&c, "llama3-8b"));
  RunShape s = tiny_shape(1, 1, 32768);
  s.dtype = s.moments = DT_BF16;
  s.master = true;
  s.keep_attention = KEEP_ALL;
  s.mlp_chunk = s.head_chunk = CHUNK_AUTO;
  Schedule *resident = schedule_new(&c, &s, &dev);
  s.offload = OFFLOAD_CHECKPOINTS | OFFLOAD_ATTENTION | OFFLOAD_OPTIMIZER | OFFLOAD_GRADIENTS;
  Schedule *hosted = schedule_new(&c, &s, &dev);
  const PlanCategory moved[] = {CAT_MOMENTS, CAT_MASTER, CAT_GRADIENTS, CAT_CHECKPOINTS, CAT_KEPT};
  const int64_t units[] = {0, 0, c.V * c.C * 4, 2 * s.T * c.C * 2, 2 * s.T * c.NH * (c.HS * 2 + 4)};
  for (int i = 0; i < 5; i++) {
    int64_t bytes = most_bytes(resident->plan, SPACE_DEVICE, moved[i]);
    assert_int_equal(most_bytes(resident->plan, SPACE_HOST, moved[i]), 0);
    assert_int_equal(most_bytes(hosted->plan, SPACE_HOST, moved[i]), bytes);
    int64_t left = most_bytes(hosted->plan, SPACE_DEVICE, moved[i]);
    if (left > units[i] + (1 << 20)) fail_msg("category %d: %lld bytes on the device", i, (long long)left);
  }
  schedule_free(resident);
  schedule_free(hosted);
  config_free(&c);
  device_close(&dev);
}

/* ---- the checks themselves can fail ---- */

/* True when asking for the buffer at its arena's moment ends the process, tried in a child. */
static bool get_aborts(const Arena *a, BufferId id) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    _exit(!freopen("/dev/null", "w", stderr) || !arena_get(a, id));
  }
  int status;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void test_use_after_death_panics(void **state) {
  (void)state;
  TinyModel t;
  tiny_open(&t, tiny_config(false, false), tiny_shape(1, 1, 8));
  arena_enter(&t.model.arena, t.schedule->head);
  assert_false(get_aborts(&t.model.arena, t.schedule->head_logits));
  arena_enter(&t.model.arena, t.schedule->update);
  assert_true(get_aborts(&t.model.arena, t.schedule->head_logits));
  tiny_close(&t);
}

static void test_dead_buffers_are_poisoned(void **state) {
  (void)state;
  TinyModel t;
  tiny_open(&t, tiny_config(false, false), tiny_shape(1, 1, 8));
  float *logits_row = (float *)(arena_enter(&t.model.arena, t.schedule->head),
                                arena_get(&t.model.arena, t.schedule->head_logits));
  float x = 1;
  device_copy(&t.dev, logits_row, &x, sizeof x, COPY_TO_DEVICE);
  arena_enter(&t.model.arena, t.schedule->update);
  device_copy(&t.dev, &x, logits_row, sizeof x, COPY_FROM_DEVICE);
  assert_true(isnan(x));
  tiny_close(&t);
}

/* What is said when there is no room: the plan's sizes, what is free, and flags. */
static void test_a_plan_without_room(void **) {
  Device dev;
  Arena arena;
  Error e = {};
  open_test_device(&dev, 1);
  Plan *p = plan_new();
  int moment = plan_moment(p, "only");
  BufferId host = plan_buffer(p, SPACE_HOST, CAT_MLP, 4096, "host"),
           device = plan_buffer(p, SPACE_DEVICE, CAT_MLP, (int64_t)1 << 58, "device");
  plan_live(p, host, moment, moment);
  plan_live(p, device, moment, moment);
  plan_pack(p);
  assert_false(arena_open(&arena, p, &dev, false, &e));
  assert_int_equal(e.code, EXIT_RUNTIME);
  char text[32];
  const char *const expected[] = {"the plan takes ", bytes_text(text, (int64_t)1 << 58), " GB are free",
                                  "--seq-len"};
  for (const char *part : expected)
    if (!strstr(e.text, part)) fail_msg("no \"%s\" in: %s", part, e.text);
  plan_free(p);
  device_close(&dev);
}

static void test_counter_sees_allocations(void **state) {
  (void)state;
  counter.mapped = counter.largest = 0;
  counter.on = true;
  void *volatile p = malloc(2 * SMALL);
  counter.on = false;
  free(p);
  assert_true(counter.largest == 2 * SMALL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_packing),
      cmocka_unit_test(test_runs_keep_to_the_plan),
      cmocka_unit_test(test_modes_are_ordered),
      cmocka_unit_test(test_update_layer_holds_one_gradient),
      cmocka_unit_test(test_offload_moves_to_the_host),
      cmocka_unit_test(test_use_after_death_panics),
      cmocka_unit_test(test_dead_buffers_are_poisoned),
      cmocka_unit_test(test_a_plan_without_room),
      cmocka_unit_test(test_counter_sees_allocations),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
