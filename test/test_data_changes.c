/* Data files that change under a running program are an error that names the file and what changed, whether
 * the file is open at that moment or not; only a few files are open at a time. */
#include "data_support.h"

#include <dirent.h>
#include <sys/resource.h>

enum { T = 4, EACH = 41 };

/* Shards NAME-000.bin ... of EACH tokens; the glob is valid for the next calls of path_of. */
static const char *many_shards(const char *name, int files) {
  int64_t *lengths = calloc((size_t)files + 1, sizeof *lengths);
  assert_non_null(lengths);
  for (int i = 0; i < files; i++) lengths[i] = EACH;
  lengths[files] = -1;
  write_places(name, 0, lengths);
  free(lengths);
  char glob[64];
  snprintf(glob, sizeof glob, "%s*.bin", name);
  return path_of(glob);
}

static void set_time_back(const char *path) {
  struct timespec times[2] = {{1000, 0}, {1000, 0}};
  assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void cut(const char *path) {
  assert_int_equal(truncate(path, 1024 + 10 * 4), 0);
}
static void lengthen(const char *path) {
  assert_int_equal(truncate(path, 1024 + (EACH + 1) * 4), 0);
}
static void rewrite(const char *path) {
  uint32_t token = 7;
  patch(path, 1024 + 40 * 4, &token, 4);
}
static void touch(const char *path) {
  struct timespec times[2] = {{1001, 0}, {1001, 0}};
  assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}
static void touch_soon_after(const char *path) {
  struct timespec times[2] = {{1000, 1}, {1000, 1}};
  assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}
/* By a copy with the same bytes, length and time. */
static void replace(const char *path) {
  uint8_t bytes[1024 + EACH * 4];
  FILE *f = fopen(path, "rb");
  assert_non_null(f);
  assert_int_equal(fread(bytes, 1, sizeof bytes, f), sizeof bytes);
  fclose(f);
  const char *aside = path_of("aside/file");
  write_bytes(aside, bytes, sizeof bytes);
  set_time_back(aside);
  assert_int_equal(rename(aside, path), 0);
}
static void take_away(const char *path) {
  assert_int_equal(unlink(path), 0);
}

static void test_changed_files(void **state) {
  (void)state;
  static const struct {
    void (*change)(const char *path);
    const char *part;
  } cases[] = {{cut, "length changed from 1188 to 1064 bytes"},
               {lengthen, "length changed from 1188 to 1192 bytes"},
               {rewrite, "was written to"},
               {touch, "was written to"},
               {touch_soon_after, "was written to"},
               {replace, "replaced by another"},
               {take_away, "removed or renamed"}};
  enum { FILES = OPEN_FILES + 4, WINDOWS = (FILES * EACH - 1) / T };
  for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
    for (int open = 0; open < 2; open++) {
      const char *globs = many_shards("changed/a", FILES), *path = path_of("changed/a-001.bin");
      set_time_back(path);
      DataLoader *d = open_with(&(DataOptions){.globs = globs, .B = 1, .T = T, .V = PLACE_V});
      Step *s = step_new(1, 1, T);
      /* up to the last window of file 0; file 1 was closed by the opening of the others, or is open again
       * after a pass over it */
      int64_t before = open ? WINDOWS + 9 : 9;
      if (open) {
        DataPosition p = {.samples = 10, .sources = 1, .taken = {10}};
        seek_ok(d, &p);
        next_ok(d, s);
        p.samples = p.taken[0] = before;
        seek_ok(d, &p);
      } else {
        for (int i = 0; i < before; i++) next_ok(d, s);
      }
      cases[k].change(path);
      next_ok(d, s); /* window 9: tokens 36 .. 40 of file 0 */
      for (int again = 0; again < 2; again++) {
        Error e = {0};
        assert_false(dataloader_next(d, &s->batch, &e));
        assert_int_equal(e.code, EXIT_RUNTIME);
        assert_text(&e, "changed/a-001.bin: the file");
        assert_text(&e, cases[k].part);
        assert_text(&e, "resume");
        assert_int_equal(dataloader_position(d).samples, before + 1);
      }
      free(s);
      dataloader_close(d);
    }
  }
}

/* A file that comes back as it was is as good as before. */
static void test_put_back(void **state) {
  (void)state;
  const char *globs = many_shards("back/a", 2), *path = path_of("back/a-000.bin");
  DataLoader *d = open_with(&(DataOptions){.globs = globs, .B = 1, .T = T, .V = PLACE_V});
  Step *s = step_new(1, 1, T);
  Error e;
  assert_int_equal(rename(path, path_of("back/elsewhere")), 0);
  assert_false(dataloader_next(d, &s->batch, &e));
  assert_int_equal(rename(path_of("back/elsewhere"), path), 0);
  next_ok(d, s);
  assert_int_equal(s->tokens[0], 0);
  free(s);
  dataloader_close(d);
}

static int open_descriptors(void) {
  DIR *folder_of_them = opendir("/proc/self/fd");
  assert_non_null(folder_of_them);
  int n = -3; /* itself, "." and ".." */
  while (readdir(folder_of_them)) n++;
  closedir(folder_of_them);
  return n;
}

/* Hundreds of shards under a limit of a few dozen descriptors: all are read, few are open, none stays open.
 */
static void test_few_descriptors(void **state) {
  (void)state;
  enum { FILES = 300, WINDOWS = (FILES * EACH - 1) / T };
  const char *globs = many_shards("few/a", FILES);
  int before = open_descriptors();
  struct rlimit limit, low;
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
  low = limit;
  low.rlim_cur = (rlim_t)before + OPEN_FILES + 8;
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
  for (int shuffle = 0; shuffle < 2; shuffle++) {
    DataLoader *d =
        open_with(&(DataOptions){.globs = globs, .B = 1, .T = T, .V = PLACE_V, .shuffle = shuffle});
    assert_int_equal(dataloader_files(d), FILES);
    Step *s = step_new(1, 1, T);
    char seen[WINDOWS] = {0};
    for (int i = 0; i < WINDOWS; i++) {
      int64_t window, source;
      next_ok(d, s);
      read_places(s, &window, &source);
      assert_int_equal(seen[window]++, 0);
    }
    assert_true(open_descriptors() <= before + OPEN_FILES);
    free(s);
    dataloader_close(d);
    assert_int_equal(open_descriptors(), before);
  }
  /* what is refused in the middle of opening leaves nothing open either */
  int32_t magic = 1;
  patch(path_of("few/a-200.bin"), 0, &magic, 4);
  Error e;
  assert_null(dataloader_open(&(DataOptions){.globs = globs, .B = 1, .T = T, .V = PLACE_V}, &e));
  assert_text(&e, "few/a-200.bin");
  assert_int_equal(open_descriptors(), before);
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

/* A pipe is refused, and does not keep the program waiting. */
static void test_pipe(void **state) {
  (void)state;
  const char *path = path_of("pipe/p.bin");
  assert_int_equal(mkfifo(path, 0600), 0);
  Error e = {0};
  assert_null(dataloader_open(&(DataOptions){.globs = path, .B = 1, .T = T, .V = V}, &e));
  assert_int_equal(e.code, EXIT_USAGE);
  assert_text(&e, "not a regular file");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_changed_files),
      cmocka_unit_test(test_put_back),
      cmocka_unit_test(test_few_descriptors),
      cmocka_unit_test(test_pipe),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
