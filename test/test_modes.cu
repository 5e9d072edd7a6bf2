/* Every way to save memory against the plain run: two optimizer steps of each, crossed with the others. What
 * only moves storage, or makes the same values again, changes no bit of losses, weights and moments. */
extern "C" {
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
}
#include <stdio.h>

#include "tiny_model.cuh" // defines: TinyModel, tiny_open, tiny_close

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- copies that are late ---- */

/* The CPU device makes an asynchronous copy at once. Here it is made when somebody waits for it, as late as a
 * GPU may make it: what is read without waiting, or overwritten while it is being copied, shows. */
static struct {
  void *dst;
  const void *src;
  size_t bytes;
} pending[64];
static int pending_count;

static void make_pending_copies(void) {
  for (int i = 0; i < pending_count; i++) memcpy(pending[i].dst, pending[i].src, pending[i].bytes);
  pending_count = 0;
}

extern "C" {
void __real_device_copy_async(Device *dev, void *dst, const void *src, size_t bytes, CopyKind kind);
void __real_device_operations_wait(Device *dev);
void __real_device_synchronize(Device *dev);

void __wrap_device_copy_async(Device *dev, void *dst, const void *src, size_t bytes, CopyKind kind) {
  if (dev->kind != DEVICE_CPU) {
    __real_device_copy_async(dev, dst, src, bytes, kind);
    return;
  }
  CHECK(pending_count < (int)COUNT(pending), "more than %d copies that nobody waits for", pending_count);
  pending[pending_count].dst = dst;
  pending[pending_count].src = src;
  pending[pending_count++].bytes = bytes;
}
void __wrap_device_operations_wait(Device *dev) {
  make_pending_copies();
  __real_device_operations_wait(dev);
}
void __wrap_device_synchronize(Device *dev) {
  make_pending_copies();
  __real_device_synchronize(dev);
}
}

/* ---- trainings ---- */

/* What a training left: losses, gradient norms, and the bytes of weights, master copy and moments. */
typedef struct Trained {
  double loss[2], norm[2];
  char *bytes;
  size_t n;
} Trained;

static void append(Trained *r, TinyModel *t, BufferId id) {
  if (id == NO_BUFFER) return;
  size_t bytes = (size_t)plan_buffer_bytes(t->schedule->plan, id);
  r->bytes = (char *)realloc(r->bytes, r->n + bytes);
  CHECK(r->bytes, "out of memory");
  const void *from = arena_get(&t->model.arena, id);
  if (plan_buffer_space(t->schedule->plan, id) == SPACE_HOST)
    memcpy(r->bytes + r->n, from, bytes);
  else
    device_copy(&t->dev, r->bytes + r->n, from, bytes, COPY_FROM_DEVICE);
  r->n += bytes;
}

static Trained train(Config c, RunShape shape) {
  TinyModel t;
  Trained r = {};
  tiny_open(&t, c, shape);
  const Schedule *s = t.schedule;
  AdamW a = {1e-2, 0.9, 0.95, 1e-8, 0.1, 1, 1, 5};
  for (a.step = 1; a.step <= 2; a.step++) {
    r.loss[a.step - 1] = model_forward_backward(&t.model, &t.step, &a);
    r.norm[a.step - 1] = gradient_norm(&t.model);
    if (shape.update == UPDATE_STEP) optimizer_update(&t.model, a, shape.A > 1 ? 0.5 : 0);
  }
  device_synchronize(&t.dev);
  for (int64_t u = 0; u < t.config.L + 2; u++) {
    const BufferId ids[] = {s->weights[u], s->master[u],  s->moment1[u],
                            s->moment2[u], s->absmax1[u], s->absmax2[u]};
    for (size_t i = 0; i < COUNT(ids); i++) append(&r, &t, ids[i]);
  }
  tiny_close(&t);
  return r;
}

static void assert_same(const Trained *a, const Trained *b, const char *what) {
  assert_int_equal(a->n, b->n);
  if (memcmp(a->loss, b->loss, sizeof a->loss) || memcmp(a->norm, b->norm, sizeof a->norm) ||
      memcmp(a->bytes, b->bytes, a->n))
    fail_msg("%s: not bitwise equal; losses %.9g and %.9g, expected %.9g and %.9g", what, a->loss[0],
             a->loss[1], b->loss[0], b->loss[1]);
}

/* ---- the modes ---- */

typedef struct Recomputation {
  Recompute recompute;
  int64_t every, keep_attention;
} Recomputation;

static const Recomputation recomputations[] = {
    {RECOMPUTE_NONE, 1, 0},  {RECOMPUTE_MLP, 1, 0},   {RECOMPUTE_LAYER, 1, 0},        {RECOMPUTE_LAYER, 2, 0},
    {RECOMPUTE_LAYER, 3, 0}, {RECOMPUTE_LAYER, 1, 1}, {RECOMPUTE_LAYER, 2, KEEP_ALL}, {RECOMPUTE_LAYER, 3, 2},
};
static const UpdateMode updates[] = {UPDATE_STEP, UPDATE_LAYER};
static const int64_t groups[] = {1, 2};
enum { OFFLOADS = 32 }; /* combinations of the bits */

/* The number formats: these change the numbers, and have a plain run each. */
static const struct {
  DType dtype;
  bool master;
  DType moments;
} formats[] = {
    {DT_FP32, false, DT_FP32}, {DT_BF16, true, DT_FP32}, {DT_BF16, false, DT_BF16}, {DT_FP32, false, DT_U8}};

static RunShape shape_of(int64_t A, int64_t B, int64_t T, size_t format, int64_t chunk) {
  RunShape s = tiny_shape(A, B, T);
  s.update_slice = 512; /* tensors of this model are up to four slices */
  s.recompute = RECOMPUTE_NONE;
  s.dtype = formats[format].dtype;
  s.master = formats[format].master;
  s.moments = formats[format].moments;
  s.mlp_chunk = s.head_chunk = chunk;
  return s;
}

/* Moves on to another offload; skips what does not go with the rest of the shape. */
static unsigned next_offload(const RunShape *s, unsigned *turn) {
  unsigned offload = *turn =
      (*turn + 5) % OFFLOADS; /* 5 has no divisor in common with 32: all have their turn */
  if (s->recompute != RECOMPUTE_LAYER) offload &= ~(unsigned)(OFFLOAD_CHECKPOINTS | OFFLOAD_ATTENTION);
  if (s->update == UPDATE_LAYER) offload &= ~(unsigned)OFFLOAD_GRADIENTS;
  return offload;
}

/* All modes that are to agree to the bit with the first of them: head groups sum a product in other pieces.
 */
static void modes_agree(bool tied, bool qk_norm, RunShape shape, unsigned *turn, const char *what) {
  Trained plain = {};
  for (size_t i = 0; i < COUNT(recomputations) * COUNT(updates) * 2; i++) {
    const Recomputation *r = &recomputations[i / COUNT(updates) / 2];
    shape.recompute = r->recompute;
    shape.checkpoint_every = r->every;
    shape.keep_attention = r->keep_attention;
    shape.update = updates[i / 2 % COUNT(updates)];
    shape.offload = plain.bytes ? next_offload(&shape, turn) : 0;
    shape.host_update = *turn & OFFLOAD_CHECKPOINTS ? HOST_UPDATE_CPU : HOST_UPDATE_STREAM;
    if (shape.attn_groups > 1 && r->recompute != RECOMPUTE_LAYER) continue;
    Trained found = train(tiny_config(tied, qk_norm), shape);
    char mode[160];
    snprintf(mode, sizeof mode,
             "%s: recompute %d, every %lld, keep %lld, update %d, offload %u, host update %d", what,
             r->recompute, (long long)r->every, (long long)r->keep_attention, shape.update, shape.offload,
             shape.host_update);
    if (!plain.bytes) {
      plain = found;
      continue;
    }
    assert_same(&found, &plain, mode);
    free(found.bytes);
  }
  free(plain.bytes);
}

/* Pairs of everything: each format and each number of groups meets each chunk, both kinds of head and packed
 * documents. */
static void test_all_modes(void **state) {
  (void)state;
  static const int64_t chunks[] = {CHUNK_WHOLE, 7};
  unsigned turn = 0, setting = 0;
  for (size_t f = 0; f < COUNT(formats); f++)
    for (size_t k = 0; k < COUNT(chunks); k++)
      for (size_t g = 0; g < COUNT(groups); g++) {
        if (setting++ % case_stride()) continue;
        bool tied = (f + k + g) % 2, qk_norm = (f / 2 + k) % 2, pack = (f + g) % 2;
        char what[80];
        snprintf(what, sizeof what, "format %zu, chunk %lld, tied %d, groups %lld, pack %d", f,
                 (long long)chunks[k], tied, (long long)groups[g], pack);
        RunShape shape = shape_of(1, 2, 17, f, chunks[k]);
        shape.attn_groups = groups[g];
        shape.pack = pack;
        modes_agree(tied, qk_norm, shape, &turn, what);
      }
}

/* Gradients gathered on the host over micro-batches, and clipped by their norm, are the device's. */
static void test_accumulation_on_the_host(void **state) {
  (void)state;
  for (int tied = 0; tied < 2; tied++) {
    RunShape shape = shape_of(3, 2, 17, 0, 7);
    shape.pack = !tied;
    Trained plain = train(tiny_config(tied, false), shape);
    for (unsigned offload = 1; offload < OFFLOADS; offload += case_stride()) {
      shape.recompute = RECOMPUTE_LAYER;
      shape.checkpoint_every = 1 + offload % 3;
      shape.keep_attention = 2;
      shape.offload = offload;
      shape.host_update = offload & OFFLOAD_CHECKPOINTS ? HOST_UPDATE_CPU : HOST_UPDATE_STREAM;
      Trained found = train(tiny_config(tied, false), shape);
      assert_same(&found, &plain, "accumulation");
      free(found.bytes);
    }
    free(plain.bytes);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_all_modes),
      cmocka_unit_test(test_accumulation_on_the_host),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
