/* The safetensors reader against files made by hand, good and hostile, the writer against the reader, and the
 * conversions against a definition in fp64. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/safetensors.h"

static char folder[64];

static const char *in_folder(const char *name) {
  static char paths[8][512];
  static int turn;
  char *path = paths[turn++ % 8];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static void empty_folder(void) {
  DIR *d = opendir(folder);
  for (struct dirent *entry; (entry = readdir(d));)
    if (entry->d_name[0] != '.') unlink(in_folder(entry->d_name));
  closedir(d);
}

static int make_folder(void **state) {
  (void)state;
  strcpy(folder, "/tmp/test_safetensors.XXXXXX");
  return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
  (void)state;
  empty_folder();
  return rmdir(folder);
}

static int setup(void **state) {
  (void)state;
  empty_folder();
  return 0;
}

static void write_bytes(const char *name, const void *data, size_t bytes) {
  FILE *f = fopen(in_folder(name), "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(data, 1, bytes, f), bytes);
  assert_int_equal(fclose(f), 0);
}

/* A file with this header and `data_bytes` bytes 0, 1, 2, ... after it. */
static void write_file(const char *name, const char *header, size_t data_bytes) {
  uint64_t n = strlen(header);
  unsigned char *block = malloc(8 + n + data_bytes);
  memcpy(block, &n, 8);
  memcpy(block + 8, header, n);
  for (size_t i = 0; i < data_bytes; i++) block[8 + n + i] = (unsigned char)i;
  write_bytes(name, block, 8 + n + data_bytes);
  free(block);
}

/* Opening must fail as the user's error, with all of these words in the message. */
static void refuse(const char *path, const char *const words[], int n) {
  Error e = {0};
  SafeTensors *set = safetensors_open(path, &e);
  assert_null(set);
  assert_int_equal(e.code, EXIT_USAGE);
  for (int i = 0; i < n; i++)
    if (!strstr(e.text, words[i])) fail_msg("no \"%s\" in: %s", words[i], e.text);
}
#define REFUSE(path, ...)                                                                                    \
  refuse(path, (const char *const[]){__VA_ARGS__},                                                           \
         sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

/* ---- Reading -------------------------------------------------------------------------------------- */

static void test_reads_tensors(void **state) {
  (void)state;
  write_file("a.safetensors",
             "{\"__metadata__\":{\"format\":\"pt\"},"
             "\"z\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[6,10]},"
             "\"a.weight\":{\"dtype\":\"BF16\",\"shape\":[1,3],\"data_offsets\":[0,6]},"
             "\"empty\":{\"dtype\":\"F16\",\"shape\":[4,0,2],\"data_offsets\":[6,6]}}   ",
             10);
  Error e;
  SafeTensors *set = safetensors_open(in_folder("a.safetensors"), &e);
  assert_non_null(set);
  assert_int_equal(safetensors_count(set), 3);
  assert_string_equal(safetensors_at(set, 0)->name, "a.weight");
  assert_string_equal(safetensors_at(set, 1)->name, "empty");
  const SafeTensor *a = safetensors_find(set, "a.weight"), *z = safetensors_find(set, "z");
  assert_ptr_equal(a, safetensors_at(set, 0));
  assert_int_equal(a->dtype, DT_BF16);
  assert_int_equal(a->dims, 2);
  assert_int_equal(a->shape[0], 1);
  assert_int_equal(a->shape[1], 3);
  assert_int_equal(a->bytes, 6);
  assert_memory_equal(a->data, "\0\1\2\3\4\5", 6);
  assert_int_equal(z->dims, 0);
  assert_memory_equal(z->data, "\6\7\10\11", 4);
  assert_int_equal(safetensors_find(set, "empty")->bytes, 0);
  assert_null(safetensors_find(set, "b"));
  safetensors_close(set);
}

static void test_reads_file_without_tensors(void **state) {
  (void)state;
  write_file("none.safetensors", "{}", 0);
  Error e;
  SafeTensors *set = safetensors_open(in_folder("none.safetensors"), &e);
  assert_non_null(set);
  assert_int_equal(safetensors_count(set), 0);
  assert_null(safetensors_find(set, "a"));
  safetensors_close(set);
}

static void test_refuses_broken_files(void **state) {
  (void)state;
  const char *path = in_folder("bad.safetensors");
  REFUSE(path, "bad.safetensors", "No such file");
  write_bytes("bad.safetensors", "1234567", 7);
  REFUSE(path, path, "7 bytes", "at least 8");
  write_bytes("bad.safetensors", "\0\0\0\0\0\0\0\0{}", 10);
  REFUSE(path, path, "header has 0 bytes");
  write_bytes("bad.safetensors", "\3\0\0\0\0\0\0\0{}", 10);
  REFUSE(path, path, "header has 3 bytes", "only 2");
  write_bytes("bad.safetensors", "\1\341\365\5\0\0\0\0{}", 10);
  REFUSE(path, path, "100000001", "16000000");
  write_bytes("bad.safetensors", "\377\377\377\377\377\377\377\377{}", 10);
  REFUSE(path, path, "18446744073709551615");
  write_file("bad.safetensors", "{\"a\":", 0);
  REFUSE(path, path, "not JSON");
  write_file("bad.safetensors", "{} x", 0);
  REFUSE(path, path, "not JSON");
  write_file("bad.safetensors", "[]", 0);
  REFUSE(path, path, "not a JSON object");
}

#define TENSOR(dtype, shape, offsets)                                                                        \
  "{\"model.w\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void test_refuses_broken_headers(void **state) {
  (void)state;
  static const struct {
    const char *header;
    size_t data_bytes;
    const char *words[3];
  } cases[] = {
      {TENSOR("F64", "[1]", "[0,8]"), 8, {"model.w", "F64", "F32, BF16 or F16"}},
      {TENSOR("I64", "[1]", "[0,8]"), 8, {"model.w", "I64", "F32, BF16 or F16"}},
      {TENSOR("F8_E4M3", "[1]", "[0,1]"), 1, {"model.w", "F8_E4M3", "Convert"}},
      {"{\"model.w\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, {"model.w", "dtype", ""}},
      {"{\"model.w\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, {"model.w", "dtype", ""}},
      {"{\"model.w\":[1]}", 4, {"model.w", "object", ""}},
      {TENSOR("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, {"model.w", "more than 8", ""}},
      {TENSOR("F32", "[-1]", "[0,4]"), 4, {"model.w", "shape", "whole number"}},
      {TENSOR("F32", "[1.5]", "[0,6]"), 6, {"model.w", "shape", "whole number"}},
      {TENSOR("F32", "[\"1\"]", "[0,4]"), 4, {"model.w", "shape", "whole number"}},
      {TENSOR("F32", "[1e300]", "[0,4]"), 4, {"model.w", "shape", "whole number"}},
      {TENSOR("F32", "1", "[0,4]"), 4, {"model.w", "\"shape\" list", ""}},
      {TENSOR("F32", "[4294967296,2147483648]", "[0,4]"), 4, {"model.w", "64 bits", ""}},
      {TENSOR("F32", "[2]", "[0,4]"), 4, {"model.w", "occupies 4 bytes", "come to 8"}},
      {TENSOR("BF16", "[1]", "[0,4]"), 4, {"model.w", "occupies 4 bytes", "come to 2"}},
      {TENSOR("U8", "[1]", "[0,4]"), 4, {"model.w", "occupies 4 bytes", "come to 1"}},
      {TENSOR("F32", "[1]", "[0,4]"), 3, {"model.w", "ends at byte 4", "holds 3"}},
      {TENSOR("F32", "[1]", "[4,0]"), 4, {"model.w", "data_offsets", ""}},
      {TENSOR("F32", "[1]", "[-4,0]"), 4, {"model.w", "data_offsets", ""}},
      {TENSOR("F32", "[1]", "[0,4,8]"), 8, {"model.w", "data_offsets", ""}},
      {TENSOR("F32", "[1]", "[0,0.5]"), 8, {"model.w", "data_offsets", ""}},
      {TENSOR("F32", "[1]", "{}"), 8, {"model.w", "data_offsets", ""}},
      {TENSOR("F32", "[1]", "[4,8]"), 8, {"model.w", "begins at byte 4", "gap"}},
      {TENSOR("F32", "[1]", "[0,4]"), 6, {"end at byte 4", "holds 6", "gap"}},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
       "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}",
       6,
       {"tensor b", "expected 4", "overlap"}},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
       "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
       8,
       {"its header gives \"a\"", "twice", "expected once"}},
      {"{\"__metadata__\":{\"format\":1}}", 0, {"__metadata__", "strings", ""}},
      {"{\"__metadata__\":\"pt\"}", 0, {"__metadata__", "object", ""}},
      {"{}", 4, {"gap at the end", "holds 4", ""}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    write_file("bad.safetensors", cases[i].header, cases[i].data_bytes);
    REFUSE(in_folder("bad.safetensors"), in_folder("bad.safetensors"), cases[i].words[0], cases[i].words[1],
           cases[i].words[2]);
  }
}

/* ---- Folders -------------------------------------------------------------------------------------- */

#define ONE(name) "{\"" name "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"

static void write_index(const char *map) {
  char text[512];
  int n = snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":8},\"weight_map\":%s}\n", map);
  write_bytes("model.safetensors.index.json", text, (size_t)n);
}

static void test_reads_folders(void **state) {
  (void)state;
  Error e;
  write_file("m-1.safetensors", ONE("b"), 4);
  write_file("m-2.safetensors", ONE("a"), 4);
  write_index("{\"b\":\"m-1.safetensors\",\"a\":\"m-2.safetensors\"}");
  SafeTensors *set = safetensors_open(folder, &e);
  assert_non_null(set);
  assert_int_equal(safetensors_count(set), 2);
  assert_string_equal(safetensors_at(set, 0)->name, "a");
  assert_memory_equal(safetensors_find(set, "b")->data, "\0\1\2\3", 4);
  safetensors_close(set);

  write_file("model.safetensors", ONE("whole"), 4); /* goes before the index, as with Hugging Face */
  set = safetensors_open(folder, &e);
  assert_non_null(set);
  assert_int_equal(safetensors_count(set), 1);
  assert_non_null(safetensors_find(set, "whole"));
  safetensors_close(set);
}

static void test_refuses_broken_folders(void **state) {
  (void)state;
  const char *index = "model.safetensors.index.json";
  REFUSE(folder, folder, "neither model.safetensors nor", "Give a Hugging Face folder");
  write_file("m-1.safetensors", ONE("a"), 4);
  write_file("m-2.safetensors", ONE("a"), 4);

  write_index("{\"a\":\"m-1.safetensors\",\"b\":\"m-3.safetensors\"}");
  REFUSE(folder, index, "m-3.safetensors", "not there");
  write_index("{\"b\":\"m-1.safetensors\"}");
  REFUSE(folder, index, "tensor b", "m-1.safetensors", "missing");
  write_index("{\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\"}");
  REFUSE(folder, "tensor a", "m-1.safetensors", "m-2.safetensors", "in one of them");
  write_file("m-2.safetensors", ONE("b"), 4);
  write_index("{\"a\":\"m-2.safetensors\",\"b\":\"m-1.safetensors\"}");
  REFUSE(folder, index, "tensor a", "in m-2.safetensors", "m-1.safetensors");

  static const char *const names[] = {"../m-1.safetensors",   "/etc/passwd", "..", "",
                                      "x/../m-1.safetensors", "x\\\\y"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char map[128];
    snprintf(map, sizeof map, "{\"a\":\"%s\"}", names[i]);
    write_index(map);
    REFUSE(folder, index, "tensor a", "same folder");
  }
  write_index("{\"a\":1}");
  REFUSE(folder, index, "tensor a", "same folder");
  write_index("{}");
  REFUSE(folder, index, "weight_map");
  write_index("[]");
  REFUSE(folder, index, "weight_map");
  write_bytes(index, "{", 1);
  REFUSE(folder, index, "not JSON");
  mkdir(in_folder("model.safetensors"), 0777);
  REFUSE(folder, "model.safetensors", "not a plain file");
  rmdir(in_folder("model.safetensors"));
}

/* ---- Conversion ----------------------------------------------------------------------------------- */

/* A half's value by definition: (-1)^s 2^(e-15) (1 + f/1024), subnormal for e = 0. */
static double half_value(uint16_t h) {
  int exponent = h >> 10 & 31, fraction = h & 1023;
  double sign = h & 0x8000 ? -1 : 1;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * (exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24));
}

/* Every 16-bit pattern, from aligned and unaligned places. */
static void test_converts_exactly(void **state) {
  (void)state;
  enum { N = 65536 };
  unsigned char *source = malloc(2 * N + 1);
  float *out = malloc(N * sizeof *out);
  for (int shift = 0; shift < 2; shift++) {
    for (int i = 0; i < N; i++) memcpy(source + shift + 2 * i, &(uint16_t){(uint16_t)i}, 2);
    safetensors_to_fp32(out, source + shift, DT_FP16, N);
    for (int i = 0; i < N; i++) {
      double expected = half_value((uint16_t)i);
      assert_true(isnan(expected) ? isnan(out[i]) : (double)out[i] == expected);
      assert_true(!signbit(out[i]) == !(i & 0x8000));
    }
    safetensors_to_fp32(out, source + shift, DT_BF16, N);
    for (int i = 0; i < N; i++) {
      uint32_t bits;
      memcpy(&bits, &out[i], 4);
      assert_int_equal(bits, (uint32_t)i << 16);
    }
    safetensors_to_fp32(out, source + shift, DT_FP32, N / 2);
    assert_memory_equal(out, source + shift, 2 * N);
  }
  free(source);
  free(out);
}

/* ---- Writing -------------------------------------------------------------------------------------- */

static void test_writes_what_it_reads(void **state) {
  (void)state;
  const char *path = in_folder("out.safetensors");
  float a[6] = {1, 2, 3, 4, 5, 6};
  uint16_t b[3] = {0x3F80, 0x4000, 0x7F80}, s = 0x3C00;
  Error e;
  SafeTensorsWriter *w = safetensors_writer_new(path);
  safetensors_writer_declare(w, "layer \"0\".a", DT_FP32, 2, (int64_t[]){2, 3});
  safetensors_writer_declare(w, "b", DT_BF16, 1, (int64_t[]){3});
  safetensors_writer_declare(w, "nothing", DT_FP32, 1, (int64_t[]){0});
  safetensors_writer_declare(w, "scalar", DT_FP16, 0, NULL);
  safetensors_writer_metadata(w, "step", "12");
  assert_true(safetensors_writer_begin(w, &e));
  assert_true(safetensors_writer_write(w, a, 5, &e)); /* pieces need not be whole numbers */
  assert_true(safetensors_writer_write(w, (char *)a + 5, sizeof a - 5, &e));
  assert_true(safetensors_writer_write(w, b, sizeof b, &e));
  assert_true(safetensors_writer_write(w, &s, sizeof s, &e));
  assert_int_equal(access(path, F_OK), -1); /* not before it is complete */
  assert_true(safetensors_writer_close(w, true, &e));
  assert_int_equal(access(in_folder("out.safetensors.tmp"), F_OK), -1);

  SafeTensors *set = safetensors_open(path, &e);
  assert_non_null(set);
  assert_int_equal(safetensors_count(set), 4);
  const SafeTensor *t = safetensors_find(set, "layer \"0\".a");
  assert_non_null(t);
  assert_int_equal((uintptr_t)t->data % 8, 0);
  assert_int_equal(t->dtype, DT_FP32);
  assert_int_equal(t->shape[0] * 10 + t->shape[1], 23);
  assert_memory_equal(t->data, a, sizeof a);
  assert_memory_equal(safetensors_find(set, "b")->data, b, sizeof b);
  assert_memory_equal(safetensors_find(set, "scalar")->data, &s, sizeof s);
  assert_int_equal(safetensors_find(set, "scalar")->dtype, DT_FP16);
  assert_int_equal(safetensors_find(set, "nothing")->bytes, 0);
  safetensors_close(set);

  char header[512] = {0};
  FILE *f = fopen(path, "rb");
  assert_int_equal(fseek(f, 8, SEEK_SET), 0);
  assert_true(fread(header, 1, sizeof header - 1, f) > 0);
  fclose(f);
  assert_ptr_equal(strstr(header, "{\"__metadata__\":{\"format\":\"pt\",\"step\":\"12\"},"), header);
}

/* Headers of eight lengths in a row: the first tensor begins on a multiple of 8 in all of them. */
static void test_aligns_the_data(void **state) {
  (void)state;
  const char *path = in_folder("out.safetensors");
  for (int n = 1; n <= 8; n++) {
    Error e;
    SafeTensorsWriter *w = safetensors_writer_new(path);
    safetensors_writer_declare(
        w, &"12345678" [8 - n], DT_BF16, 1, (int64_t[]) { 1 });
    assert_true(safetensors_writer_begin(w, &e));
    assert_true(safetensors_writer_write(w, "ab", 2, &e));
    assert_true(safetensors_writer_close(w, true, &e));
    SafeTensors *set = safetensors_open(path, &e);
    assert_non_null(set);
    assert_int_equal((uintptr_t)safetensors_at(set, 0)->data % 8, 0); /* the mapping begins on a page */
    safetensors_close(set);
  }
}

static SafeTensorsWriter *begin_one(const char *path, int64_t n) {
  Error e;
  SafeTensorsWriter *w = safetensors_writer_new(path);
  safetensors_writer_declare(w, "a", DT_FP32, 1, &n);
  assert_true(safetensors_writer_begin(w, &e));
  return w;
}

static void test_throws_away(void **state) {
  (void)state;
  write_bytes("out.safetensors", "old", 3);
  SafeTensorsWriter *w = begin_one(in_folder("out.safetensors"), 4);
  Error e = {.code = EXIT_RUNTIME, .text = "the cause"};
  assert_false(safetensors_writer_close(w, false, &e));
  assert_string_equal(e.text, "the cause");
  assert_int_equal(access(in_folder("out.safetensors.tmp"), F_OK), -1);
  assert_int_equal(access(in_folder("out.safetensors"), F_OK), 0); /* the old file stays */
}

static void test_reports_failures(void **state) {
  (void)state;
  Error e = {0};
  SafeTensorsWriter *w = safetensors_writer_new(in_folder("missing/out.safetensors"));
  assert_false(safetensors_writer_begin(w, &e));
  assert_int_equal(e.code, EXIT_RUNTIME);
  assert_non_null(strstr(e.text, "missing/out.safetensors"));
  assert_non_null(strstr(e.text, "No such file"));
  assert_false(safetensors_writer_close(w, false, &e));

  /* a limit on the size of files stands in for a full disk */
  static float data[4096];
  w = begin_one(in_folder("out.safetensors"), 4096);
  struct rlimit old, small;
  getrlimit(RLIMIT_FSIZE, &old);
  small = old;
  small.rlim_cur = 4096;
  signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  e = (Error){0};
  bool ok = safetensors_writer_write(w, data, sizeof data, &e);
  setrlimit(RLIMIT_FSIZE, &old);
  assert_false(ok);
  assert_int_equal(e.code, EXIT_RUNTIME);
  assert_non_null(strstr(e.text, "out.safetensors"));
  assert_non_null(strstr(e.text, "File too large"));
  assert_false(safetensors_writer_close(w, false, &e));
  assert_int_equal(access(in_folder("out.safetensors.tmp"), F_OK), -1);

  mkdir(in_folder("out.safetensors"), 0777); /* a folder is in the way of the rename */
  w = begin_one(in_folder("out.safetensors"), 0);
  e = (Error){0};
  assert_false(safetensors_writer_close(w, true, &e));
  assert_int_equal(e.code, EXIT_RUNTIME);
  assert_non_null(strstr(e.text, "renamed"));
  assert_int_equal(access(in_folder("out.safetensors.tmp"), F_OK), -1);
  rmdir(in_folder("out.safetensors"));
}

/* A caller that does not write what it declared is a broken invariant. */
static bool aborts(int64_t declared, size_t written) {
  pid_t child = fork();
  if (child == 0) {
    signal(SIGABRT, SIG_DFL); /* cmocka catches it */
    if (!freopen("/dev/null", "w", stderr)) _exit(3);
    Error e;
    float data[8] = {0};
    SafeTensorsWriter *w = begin_one(in_folder("out.safetensors"), declared);
    safetensors_writer_write(w, data, written, &e);
    safetensors_writer_close(w, true, &e);
    _exit(0);
  }
  int status;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void test_insists_on_declared_bytes(void **state) {
  (void)state;
  assert_false(aborts(2, 8));
  assert_true(aborts(2, 7));
  assert_true(aborts(2, 9));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_reads_tensors, setup),
      cmocka_unit_test_setup(test_reads_file_without_tensors, setup),
      cmocka_unit_test_setup(test_refuses_broken_files, setup),
      cmocka_unit_test_setup(test_refuses_broken_headers, setup),
      cmocka_unit_test_setup(test_reads_folders, setup),
      cmocka_unit_test_setup(test_refuses_broken_folders, setup),
      cmocka_unit_test(test_converts_exactly),
      cmocka_unit_test_setup(test_writes_what_it_reads, setup),
      cmocka_unit_test_setup(test_aligns_the_data, setup),
      cmocka_unit_test_setup(test_throws_away, setup),
      cmocka_unit_test_setup(test_reports_failures, setup),
      cmocka_unit_test_setup(test_insists_on_declared_bytes, setup),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
