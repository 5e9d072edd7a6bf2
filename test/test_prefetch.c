/* Reading ahead: the steps are those of a loader that reads when asked, whatever is done in between; errors
 * come where they belong; nothing is written outside the lent buffer. `make tsan` runs this under the thread
 * sanitizer. */
#include "data_support.h"

#include <pthread.h>
#include <signal.h>

#include "base/worker.h"

enum { A = 2, B = 3, T = 4, GUARD = 16 };
static const int64_t lengths_a[] = {50, 3, 0, 31, 80, -1}, lengths_b[] = {37, 22, -1};

/* Two sources, shuffled, the second of two ranks. The globs are valid until the next call. */
static DataOptions two_sources(const char *name) {
  static char globs[600];
  char a[64], b[64];
  snprintf(a, sizeof a, "%s/a", name);
  snprintf(b, sizeof b, "%s/b", name);
  write_places(a, 0, lengths_a);
  write_places(b, 1, lengths_b);
  strcat(a, "*.bin");
  strcat(b, "*.bin");
  snprintf(globs, sizeof globs, "%s:0.7,%s:0.3", path_of(a), path_of(b));
  return (DataOptions){
      .globs = globs, .B = B, .T = T, .V = PLACE_V, .shuffle = true, .seed = 11, .rank = 1, .ranks = 2};
}

/* A buffer to lend, with a guard after it. */
static uint32_t *lend(void) {
  int64_t n = dataloader_prefetch_tokens(A, B, T);
  assert_int_equal(n, A * B * (T + 1));
  uint32_t *raw = malloc((size_t)(n + GUARD) * sizeof *raw);
  assert_non_null(raw);
  memset(raw + n, 0xa5, GUARD * sizeof *raw);
  return raw;
}

static void give_back(uint32_t *raw) {
  const uint8_t *guard = (const uint8_t *)(raw + dataloader_prefetch_tokens(A, B, T));
  for (size_t i = 0; i < GUARD * sizeof *raw; i++) assert_int_equal(guard[i], 0xa5);
  free(raw);
}

static DataLoader *open_ahead(const DataOptions *o, uint32_t *raw) {
  DataLoader *d = open_with(o);
  Error e;
  if (!dataloader_prefetch(d, raw, A, &e)) fail_msg("%s", e.text);
  return d;
}

/* The same steps and positions as without reading ahead, over epochs; restored on the way. */
static void test_same_steps(void **state) {
  (void)state;
  enum { STEPS = 40 };
  DataOptions o = two_sources("same");
  uint32_t *raw = lend(), *raw2 = lend();
  DataLoader *plain = open_with(&o), *ahead = open_ahead(&o, raw);
  Step *s = step_new(A, B, T), *expected = step_new(A, B, T);
  for (int i = 0; i < STEPS; i++) {
    DataPosition p = dataloader_position(ahead), q = dataloader_position(plain);
    assert_memory_equal(&p, &q, sizeof p);
    next_ok(ahead, s);
    next_ok(plain, expected);
    assert_same_step(s, expected);
    if (i % 7 != 3) continue;
    p = dataloader_position(ahead); /* another loader goes on from here */
    dataloader_close(ahead);
    give_back(raw);
    raw = raw2;
    raw2 = lend();
    ahead = open_ahead(&o, raw);
    seek_ok(ahead, &p);
  }
  dataloader_close(plain);
  dataloader_close(ahead);
  give_back(raw);
  give_back(raw2);
  free(s);
  free(expected);
}

/* Rewinding, seeking, restricting and closing at once, while the thread reads. */
static void test_moves_while_reading(void **state) {
  (void)state;
  enum { STEPS = 12 };
  DataOptions o = two_sources("moves");
  uint32_t *raw = lend();
  DataLoader *plain = open_with(&o);
  Step *steps[STEPS], *s = step_new(A, B, T);
  DataPosition at[STEPS];
  for (int i = 0; i < STEPS; i++) {
    steps[i] = step_new(A, B, T);
    at[i] = dataloader_position(plain);
    next_ok(plain, steps[i]);
  }
  for (int i = 0; i < 50; i++) dataloader_close(open_ahead(&o, raw));
  DataLoader *d = open_ahead(&o, raw);
  uint32_t draw = 1;
  for (int i = 0; i < 300; i++) {
    draw = draw * 1664525u + 1013904223u;
    int to = (int)(draw >> 16) % STEPS;
    if (i % 3 == 0) {
      dataloader_rewind(d);
      to = 0;
    }
    seek_ok(d, &at[to]);
    for (int n = to; n < STEPS && n < to + i % 4; n++) {
      next_ok(d, s);
      assert_same_step(s, steps[n]);
    }
  }
  Error e;
  assert_true(dataloader_restrict(d, 0, 0.5, &e));
  assert_true(dataloader_restrict(plain, 0, 0.5, &e));
  for (int i = 0; i < STEPS; i++) {
    next_ok(d, s);
    next_ok(plain, steps[i]);
    assert_same_step(s, steps[i]);
  }
  dataloader_close(d);
  dataloader_close(plain);
  give_back(raw);
  for (int i = 0; i < STEPS; i++) free(steps[i]);
  free(s);
}

/* An error that is met while reading ahead is the next call's, not that of the call before it, and that call
 * can be made again. */
static void test_errors_come_in_their_turn(void **state) {
  (void)state;
  static const int64_t lengths[] = {40 * T + 1, 40 * T, -1};
  write_places("errors/a", 0, lengths);
  DataOptions o = {.globs = path_of("errors/*.bin"), .B = B, .T = T, .V = PLACE_V};
  const char *path = path_of("errors/a-001.bin"), *elsewhere = path_of("aside/file");
  uint32_t *raw = lend();
  DataLoader *d = open_ahead(&o, raw);
  Step *s = step_new(A, B, T);
  assert_int_equal(rename(path, elsewhere), 0);
  for (int i = 0; i < 6; i++) next_ok(d, s); /* windows 0 .. 35 of the 40 of the first file */
  int64_t window[A * B], source[A * B];
  read_places(s, window, source);
  assert_int_equal(window[A * B - 1], 35);
  for (int again = 0; again < 3; again++) {
    Error e = {0};
    assert_false(dataloader_next(d, &s->batch, &e));
    assert_int_equal(e.code, EXIT_RUNTIME);
    assert_text(&e, "data: ");
    assert_text(&e, "errors/a-001.bin: the file was removed");
    assert_int_equal(dataloader_position(d).samples, 36);
  }
  dataloader_rewind(d); /* away from the error */
  next_ok(d, s);
  DataPosition p = {.samples = 36, .sources = 1, .taken = {36}};
  seek_ok(d, &p);
  assert_int_equal(rename(elsewhere, path), 0);
  next_ok(d, s);
  read_places(s, window, source);
  assert_int_equal(window[0], 36);
  dataloader_close(d);
  give_back(raw);
  free(s);
}

/* One job of a worker: what its thread is like. */
typedef struct Seen {
  pthread_t thread;
  bool blocked;
  int jobs;
} Seen;

static void look(void *context) {
  Seen *seen = context;
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, NULL, &mask);
  seen->thread = pthread_self();
  seen->blocked = sigismember(&mask, SIGINT) && sigismember(&mask, SIGTERM) && sigismember(&mask, SIGUSR1);
  seen->jobs++;
}

/* It works in a thread of its own, which leaves the signals to the others, once for each time it is told. */
static void test_worker(void **state) {
  (void)state;
  Seen seen = {0};
  Error e;
  Worker *w = worker_start(look, &seen, &e);
  assert_non_null(w);
  worker_wait(w);
  assert_int_equal(seen.jobs, 0);
  for (int i = 1; i <= 100; i++) {
    worker_begin(w);
    worker_wait(w);
    worker_wait(w);
    assert_int_equal(seen.jobs, i);
  }
  assert_false(pthread_equal(seen.thread, pthread_self()));
  assert_true(seen.blocked);
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, NULL, &mask);
  assert_false(sigismember(&mask, SIGINT));
  worker_begin(w);
  worker_stop(w); /* finishes the job first */
  assert_int_equal(seen.jobs, 101);
  worker_stop(NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_same_steps),
      cmocka_unit_test(test_moves_while_reading),
      cmocka_unit_test(test_errors_come_in_their_turn),
      cmocka_unit_test(test_worker),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
