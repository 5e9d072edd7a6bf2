/* ./tokenize as a user runs it: what is in the shards, for any number of threads, and after kills and
 * failures at every write, fsync and rename. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <signal.h>

#include "dataloader.h"
#include "io/shards.h"
#include "program.h" /* shell, path_of */
#include "tokenizer/tokenizer.h"

#define FIXTURES "test/fixtures/tokenizer/"

static Tokenizer *tokenizer;
static Encoder *encoder;

static int setup(void **state) {
  Error e;
  tokenizer = tokenizer_open(FIXTURES "mistral.json", &e);
  if (!tokenizer) return -1;
  encoder = encoder_new(tokenizer);
  return program_setup(state);
}

static int teardown(void **state) {
  encoder_free(encoder);
  tokenizer_close(tokenizer);
  return program_teardown(state);
}

static void says(int code, const char *message, const char *arguments) {
  char command[4096];
  program_command(command, sizeof command, "", "tokenize", arguments);
  int found = shell(command);
  if (found != code || !strstr(said, message))
    fail_msg("%s\nexit %d, expected %d and \"%s\"; it said:\n%s", command, found, code, message, said);
}

#define TOKENIZE "--tokenizer " FIXTURES "mistral.json "

/* ---- what is expected ---- */

/* Appends the tokens of a document as the shards should have them: BOS 1, EOS 2. */
static void add_document(Ids *all, const char *prompt, const char *text, size_t n) {
  Error e;
  size_t from = all->n;
  ids_append(all, 1);
  if (prompt) assert_true(tokenizer_encode(encoder, prompt, strlen(prompt), 0, all, &e));
  for (size_t i = from; prompt && i < all->n; i++) all->data[i] |= TOKEN_MASKED;
  assert_true(tokenizer_encode(encoder, text, n, 0, all, &e));
  ids_append(all, 2);
  all->data[from] |= TOKEN_DOCUMENT;
}

static void add_text(Ids *all, const char *text) {
  add_document(all, NULL, text, strlen(text));
}

/* Reads folder/NAME-000000.bin ... one after another. */
static Ids read_shards(const char *out, const char *name) {
  Ids all = {0};
  OpenFiles pool = {0};
  for (int i = 0;; i++) {
    char file[128];
    Shard s;
    Error e;
    snprintf(file, sizeof file, "%s/%s-%06d.bin", out, name, i);
    if (!exists(file)) break;
    if (!shard_open(&s, &pool, path_of(file), 1 << 20, &e)) fail_msg("%s", e.text);
    assert_true(s.tokenizer_hash == tokenizer_hash(tokenizer) || s.tokenizer_hash == 0);
    ids_reserve(&all, (size_t)s.n);
    assert_true(shard_read(&s, 0, s.n, 1 << 20, all.data + all.n, &e));
    all.n += (size_t)s.n;
    shard_close(&s);
  }
  return all;
}

static void assert_shards(const char *out, const char *name, Ids expected) {
  Ids found = read_shards(out, name);
  if (found.n != expected.n) fail_msg("%s/%s: %zu tokens, expected %zu", out, name, found.n, expected.n);
  for (size_t i = 0; i < found.n; i++) {
    if (found.data[i] != expected.data[i])
      fail_msg("%s/%s: token %zu is %08x, expected %08x", out, name, i, found.data[i], expected.data[i]);
  }
  ids_free(&found);
  ids_free(&expected);
}

/* ---- inputs ---- */

static void test_text(void **state) {
  (void)state;
  static const char text[] = "\n\nAll human beings\nare born free\n\n\n\nand equal\n \n\nin dignity\n";
  write_text("a.txt", text);
  write_text("b.txt", "");
  write_text("c.txt", "Tous les êtres humains");
  Ids file = {0}, line = {0}, blank = {0};
  add_text(&file, text);
  add_text(&file, "Tous les êtres humains");
  static const char *const lines[] = {"All human beings", "are born free",         "and equal", " ",
                                      "in dignity",       "Tous les êtres humains"};
  for (int i = 0; i < 6; i++) add_text(&line, lines[i]);
  static const char *const blanks[] = {"All human beings\nare born free", "and equal\n ", "in dignity",
                                       "Tous les êtres humains"};
  for (int i = 0; i < 4; i++) add_text(&blank, blanks[i]);
  says(0, "2 documents", TOKENIZE "--input '@/?.txt' --out @/file");
  assert_shards("file", "train", file);
  says(0, "6 documents", TOKENIZE "--input @/a.txt,@/b.txt,@/c.txt,@/a.txt --split line --out @/line");
  assert_shards("line", "train", line);
  says(0, "4 documents", TOKENIZE "--input '@/?.txt' --split blank --out @/blank");
  assert_shards("blank", "train", blank);
}

/* Lines that end in \r\n, with each place of that where a piece of the file that is read ends. */
static void test_carriage_returns(void **state) {
  (void)state;
  enum { PIECE = 1 << 18 };
  char *text = malloc(PIECE + 64);
  assert_non_null(text);
  for (int before = 0; before < 6; before++) {
    size_t n = (size_t)(PIECE - before);
    memset(text, ' ', n);
    strcpy(text + n, "\r\n\r\n\r\none\r\ntwo\r\n \r\n\r\nthree\r\n");
    write_text("cr.txt", text);
    Ids blank = {0}, line = {0};
    add_document(&blank, NULL, text, n);
    add_document(&line, NULL, text, n);
    static const char *const lines[] = {"one", "two", " ", "three"}, *const blanks[] = {"one\r\ntwo\r\n ",
                                                                                        "three"};
    for (int i = 0; i < 4; i++) add_text(&line, lines[i]);
    for (int i = 0; i < 2; i++) add_text(&blank, blanks[i]);
    char out[32], arguments[256];
    snprintf(out, sizeof out, "blank-%d", before);
    snprintf(arguments, sizeof arguments, TOKENIZE "--input @/cr.txt --split blank --out @/%s", out);
    says(0, "3 documents", arguments);
    assert_shards(out, "train", blank);
    snprintf(out, sizeof out, "line-%d", before);
    snprintf(arguments, sizeof arguments, TOKENIZE "--input @/cr.txt --split line --out @/%s", out);
    says(0, "5 documents", arguments);
    assert_shards(out, "train", line);
  }
  free(text);
}

static void test_jsonl(void **state) {
  (void)state;
  write_text("j.jsonl",
             "{\"text\": \"one \\u00e9 \\ud83d\\ude00 \\n\", \"n\": [1, {\"text\": \"no\"}]}\n\n"
             "  {\"other\": 1, \"text\": \"</s> two\"} \r\n{\"text\": \"\"}\n{\"text\": \"three\"}");
  Ids expected = {0};
  add_text(&expected, "one é 😀 \n");
  add_text(&expected, "</s> two");
  add_text(&expected, "three");
  says(0, "3 documents", TOKENIZE "--input @/j.jsonl --out @/jsonl");
  assert_shards("jsonl", "train", expected);
}

static void test_pairs(void **state) {
  (void)state;
  write_text("p.jsonl",
             "{\"q\": \"What is it?\", \"a\": \"A test.\"}\n{\"a\": \"Yes.\", \"q\": \"Really?\"}\n");
  Ids expected = {0};
  add_document(&expected, "What is it?", "A test.", 7);
  add_document(&expected, "Really?", "Yes.", 4);
  says(0, "2 documents", TOKENIZE "--input @/p.jsonl --prompt-field q --completion-field a --out @/pairs");
  assert_shards("pairs", "train", expected);
}

/* Other tokens around documents, special tokens as text, the layouts of llm.c. */
static void test_tokens(void **state) {
  (void)state;
  write_text("t.txt", "free</s>and");
  Error e;
  Ids plain = {0}, parsed = {0};
  ids_append(&plain, 2);
  assert_true(tokenizer_encode(encoder, "free</s>and", 11, ENCODE_SPECIAL_AS_TEXT, &plain, &e));
  assert_true(tokenizer_encode(encoder, "free</s>and", 11, 0, &parsed, &e));
  assert_true(plain.n != parsed.n);
  says(0, "1 documents",
       TOKENIZE "--input @/t.txt --bos '</s>' --eos none --special-tokens text --shard-version 1 "
                "--out @/one");
  assert_shards("one", "train", plain);
  says(0, "1 documents", TOKENIZE "--input @/t.txt --bos none --eos none --shard-version 7 --out @/seven");
  assert_shards("seven", "train", parsed);
}

static void test_invalid_text(void **state) {
  (void)state;
  write_text("a.txt", "good");
  write_text("b.txt", "fre\xC3(e\xE2\x82 x\xFF");
  write_text("z.jsonl", "{\"text\": \"z\"}\n{\"text\": \"a\\u0000b\"}\n{\"text\": \"\xFF\"}\nnot\n");
  Ids skipped = {0}, replaced = {0};
  add_text(&skipped, "good");
  add_text(&replaced, "good");
  add_text(&replaced, "fre\uFFFD(e\uFFFD x\uFFFD");
  says(2, "b.txt: byte 3: not UTF-8", TOKENIZE "--input @/a.txt,@/b.txt --out @/invalid");
  says(0, "1 documents were left out", TOKENIZE "--input @/a.txt,@/b.txt --out @/invalid --on-invalid skip");
  assert_non_null(strstr(said, "b.txt: byte 3: not UTF-8: the document is left out"));
  assert_shards("invalid", "train", skipped);
  says(2, "--on-invalid skip, which",
       TOKENIZE "--input @/a.txt,@/b.txt --out @/invalid --on-invalid replace");
  says(0, "1 documents got U+FFFD", TOKENIZE "--input @/a.txt,@/b.txt --out @/mended --on-invalid replace");
  assert_shards("mended", "train", replaced);

  says(2, "z.jsonl: byte 25: the character U+0000", TOKENIZE "--input @/z.jsonl --out @/nul");
  says(2, "byte 49: not a JSON object", TOKENIZE "--input @/z.jsonl --out @/nul2 --on-invalid replace");
  says(0, "3 documents were left out", TOKENIZE "--input @/z.jsonl --out @/nul3 --on-invalid skip");
  Ids z = {0}, nul = {0};
  add_text(&z, "z");
  assert_shards("nul3", "train", z);

  FILE *f = fopen(path_of("raw.jsonl"), "w"); /* a raw NUL, and an escaped backslash before u0000 */
  assert_non_null(f);
  static const char raw[] = "{\"text\": \"a\0b\"}\n{\"text\": \"\\\\u0000\"}\n";
  assert_int_equal(fwrite(raw, 1, sizeof raw - 1, f), sizeof raw - 1);
  assert_int_equal(fclose(f), 0);
  says(0, "1 documents got U+FFFD", TOKENIZE "--input @/raw.jsonl --out @/raw --on-invalid replace");
  add_text(&nul, "a\uFFFDb");
  add_text(&nul, "\\u0000");
  assert_shards("raw", "train", nul);
}

static void test_refusals(void **state) {
  (void)state;
  write_text("r.txt", "text");
  write_text("r.jsonl", "{\"text\": 3}\n");
  write_text("empty.txt", "");
  says(2, "--out is missing", TOKENIZE "--input @/r.txt");
  says(2, "no file matches", TOKENIZE "--input '@/none*' --out @/r");
  says(2, "cannot be read", "--tokenizer @/none --input @/r.txt --out @/r");
  says(2, "did you mean --input", TOKENIZE "--imput @/r.txt --out @/r");
  says(2, "no token \"nobody\"", TOKENIZE "--input @/r.txt --out @/r --bos nobody");
  says(2, "go together", TOKENIZE "--input @/r.jsonl --out @/r --prompt-field q");
  says(2, "needs JSONL", TOKENIZE "--input @/r.txt --out @/r --prompt-field q --completion-field a");
  says(2, "needs --shard-version 8",
       TOKENIZE "--input @/r.jsonl --out @/r --prompt-field q --completion-field a --shard-version 7");
  says(2, "expected 1, 7 or 8", TOKENIZE "--input @/r.txt --out @/r --shard-version 2");
  says(2, "--split is for text", TOKENIZE "--input @/r.jsonl --out @/r --format jsonl --split line");
  says(2, "longer than --max-document 3", TOKENIZE "--input @/r.txt --out @/r1 --max-document 3");
  says(2, "no string \"text\"", TOKENIZE "--input @/r.jsonl --out @/r2");
  says(2, "found no text in 1 files", TOKENIZE "--input @/empty.txt --out @/r3");
  says(2, "cannot be made", TOKENIZE "--input @/r.txt --out @/none/deeper");
  says(0, "1 documents", TOKENIZE "--input @/r.txt --out @/r4");
  says(0, "already", TOKENIZE "--input @/r.txt --out @/r4");
  says(2, "other flags", TOKENIZE "--input @/r.txt --out @/r4 --eos none");
  write_text("r4/tokenize.json", "{}");
  says(2, "is not of this program's format", TOKENIZE "--input @/r.txt --out @/r4");
  assert_int_equal(unlink(path_of("r4/tokenize.json")), 0);
  says(2, "is there already", TOKENIZE "--input @/r.txt --out @/r4");
  says(0, "--val-fraction", "--help");
  says(0, "takes:", "--help --shard-tokens");
  says(0, "tokenize ", "--version");
}

/* ---- at scale ---- */

/* Some megabytes: more than the threads hold at a time. The documents are written to `all` as well. */
static void write_large(int documents, Ids *all) {
  FILE *f = fopen(path_of("large.jsonl"), "w");
  assert_non_null(f);
  uint32_t seed = 5;
  static const char *const words[] = {"human",    "born",    "free", "liberté", "人人",
                                      "👍🏽", "dignity", "42",   "rights"};
  for (int i = 0; i < documents; i++) {
    char text[4096];
    size_t n = 0;
    seed = seed * 1664525u + 1013904223u;
    for (uint32_t w = 0; w < 1 + (seed >> 24); w++) {
      n += (size_t)snprintf(text + n, sizeof text - n, "%s ", words[(seed >> 8) % 9]);
      seed = seed * 1664525u + 1013904223u;
    }
    fprintf(f, "{\"id\": %d, \"text\": \"%s\"}\n", i, text);
    if (all) add_text(all, text);
  }
  assert_int_equal(fclose(f), 0);
}

static void assert_same_folder(const char *a, const char *b) {
  char command[1024];
  snprintf(command, sizeof command, "diff -r -x '*.json' %s/%s %s/%s", folder, a, folder, b);
  if (shell(command) != 0) fail_msg("%s", said);
}

#define LARGE TOKENIZE "--input @/large.jsonl --shard-tokens 50K "

static void test_any_number_of_threads(void **state) {
  (void)state;
  Ids all = {0};
  write_large(4000, &all);
  says(0, "4000 documents", LARGE "--threads 1 --out @/one-thread");
  assert_shards("one-thread", "train", all);
  says(0, "4000 documents", LARGE "--threads 3 --out @/three");
  assert_same_folder("one-thread", "three");
  says(0, "4000 documents", LARGE "--threads 1 --val-fraction 0.1 --out @/split1");
  says(0, "4000 documents", LARGE "--threads 4 --val-fraction 0.1 --out @/split4");
  assert_same_folder("split1", "split4");
  Ids train = read_shards("split1", "train"), val = read_shards("split1", "val");
  Ids whole = read_shards("one-thread", "train");
  assert_int_equal(train.n + val.n, whole.n);
  if (val.n < whole.n / 20 || val.n > whole.n / 5) fail_msg("%zu of %zu tokens", val.n, whole.n);
  ids_free(&train);
  ids_free(&val);
  ids_free(&whole);
}

/* The memory does not grow with the input. */
static void test_memory(void **state) {
  (void)state;
  write_large(4000, NULL);
  char command[512];
  snprintf(command, sizeof command, "cd %s; for i in 1 2 3 4 5 6 7 8; do cat large.jsonl; done >more.jsonl",
           folder);
  assert_int_equal(shell(command), 0);
  char limited[4096], inner[2048];
  program_command(inner, sizeof inner, "", "tokenize",
                  TOKENIZE "--input @/more.jsonl --threads 2 --out @/memory");
  snprintf(limited, sizeof limited,
           "python3 -c 'import resource, subprocess, sys; r = subprocess.call(sys.argv[1], "
           "shell=True); print(\"peak\", resource.getrusage(resource.RUSAGE_CHILDREN)"
           ".ru_maxrss, \"KB\"); sys.exit(r)' '%s'",
           inner);
  assert_int_equal(shell(limited), 0);
  const char *peak = strstr(said, "peak ");
  assert_non_null(peak);
  if (!getenv("ASAN_OPTIONS") && atol(peak + 5) > 40000) fail_msg("%s", said);
}

/* ---- restarts ---- */

#define RESTART TOKENIZE "--input @/large.jsonl --shard-tokens 40K --val-fraction 0.01 --threads 2 "

static long count_calls(void) {
  char before[512], command[2048];
  snprintf(before, sizeof before, "FAULT_COUNT=%s/count", folder);
  program_command(command, sizeof command, before, "tokenize_faulty", RESTART "--out @/counted");
  if (shell(command) != 0) fail_msg("%s", said);
  Error e;
  char *text = file_read_text(path_of("count"), 100, NULL, &e);
  long calls = text ? atol(text) : 0;
  free(text);
  return calls;
}

/* Whatever call of the disk fails or is the last, going on ends with the same shards. Each call is met in one
 * of the three ways. */
static void test_faults(void **state) {
  (void)state;
  write_large(3000, NULL);
  says(0, "3000 documents", RESTART "--out @/undisturbed");
  long calls = count_calls(), stride = getenv("FAULT_STRIDE") ? atol(getenv("FAULT_STRIDE")) : 1;
  if (calls < 60) fail_msg("%ld calls", calls);
  static const char *const kinds[] = {"fail", "short", "kill"};
  for (int k = 0; k < 3; k++) {
    for (long n = 1 + k; n <= calls; n += 3 * stride) {
      char before[128], command[2048];
      snprintf(before, sizeof before, "FAULT_AT=%ld FAULT_KIND=%s", n, kinds[k]);
      program_command(command, sizeof command, before, "tokenize_faulty", RESTART "--out @/fault");
      int code = shell(command);
      if (k == 2 ? code != 128 + SIGKILL : code != 1 && code != 0)
        fail_msg("%s at call %ld: exit %d; it said:\n%s", kinds[k], n, code, said);
      says(0, "3000 documents", RESTART "--out @/fault");
      assert_same_folder("undisturbed", "fault");
      Error e;
      assert_true(folder_remove(path_of("fault"), &e));
    }
  }
  print_message("%ld calls\n", calls);
}

/* Shards of ./tokenize are what the loader takes. */
static void test_loader(void **state) {
  (void)state;
  write_large(200, NULL);
  says(0, "200 documents", LARGE "--out @/loader");
  char globs[600];
  snprintf(globs, sizeof globs, "%s/loader/*.bin", folder);
  Error e;
  DataLoader *d = dataloader_open(&(DataOptions){.globs = globs, .B = 2, .T = 32, .V = 900}, &e);
  if (!d) fail_msg("%s", e.text);
  assert_true(dataloader_tokenizer_hash(d) == tokenizer_hash(tokenizer));
  dataloader_close(d);
  assert_null(dataloader_open(&(DataOptions){.globs = globs, .B = 2, .T = 32, .V = 899}, &e));
  assert_non_null(strstr(e.text, "made for a vocabulary of 900"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_text),     cmocka_unit_test(test_carriage_returns),
      cmocka_unit_test(test_jsonl),    cmocka_unit_test(test_pairs),
      cmocka_unit_test(test_tokens),   cmocka_unit_test(test_invalid_text),
      cmocka_unit_test(test_refusals), cmocka_unit_test(test_any_number_of_threads),
      cmocka_unit_test(test_memory),   cmocka_unit_test(test_faults),
      cmocka_unit_test(test_loader),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
