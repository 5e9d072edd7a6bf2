/* Replays the fuzz corpora: every file of test/fuzz/corpus/TARGET through its target of test/fuzz. A target
 * aborts where something does not hold, so that its test ends with the name of the file. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "io/file.h"

#define LLVMFuzzerTestOneInput fuzz_safetensors
#include "fuzz/fuzz_safetensors.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_hf_config
#include "fuzz/fuzz_hf_config.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_shard
#include "fuzz/fuzz_shard.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_run_folder
#include "fuzz/fuzz_run_folder.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_tokenizer_json
#include "fuzz/fuzz_tokenizer_json.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_tokenizer_text
#include "fuzz/fuzz_tokenizer_text.c"
#undef LLVMFuzzerTestOneInput

static void replay_file(int (*target)(const uint8_t *, size_t), const char *path) {
  size_t bytes;
  Error e = {0};
  char *input = file_read_text(path, 1 << 20, &bytes, &e);
  if (!input) fail_msg("%s", e.text);
  uint8_t *exact = malloc(bytes + !bytes); /* no byte more: sanitizers see what reads beyond */
  assert_non_null(exact);
  memcpy(exact, input, bytes);
  free(input);
  print_message("%s\n", path);
  assert_int_equal(target(exact, bytes), 0);
  free(exact);
}

static void replay(const char *name, int (*target)(const uint8_t *, size_t)) {
  char path[512];
  snprintf(path, sizeof path, "test/fuzz/corpus/%s", name);
  DIR *folder = opendir(path);
  if (!folder) fail_msg("%s is missing; test/fuzz/make_seeds.py makes it", path);
  int files = 0;
  for (struct dirent *entry; (entry = readdir(folder));) {
    if (entry->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "test/fuzz/corpus/%s/%s", name, entry->d_name);
    replay_file(target, path);
    files++;
  }
  closedir(folder);
  if (files == 0) fail_msg("test/fuzz/corpus/%s has no files; test/fuzz/make_seeds.py makes some", name);
}

#define REPLAY(target)                                                                                       \
  static void test_##target(void **state) {                                                                  \
    (void)state;                                                                                             \
    replay(#target, fuzz_##target);                                                                          \
  }
REPLAY(safetensors)
REPLAY(hf_config)
REPLAY(shard)
REPLAY(run_folder)
REPLAY(tokenizer_json)
REPLAY(tokenizer_text)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_safetensors),    cmocka_unit_test(test_hf_config),
      cmocka_unit_test(test_shard),          cmocka_unit_test(test_run_folder),
      cmocka_unit_test(test_tokenizer_json), cmocka_unit_test(test_tokenizer_text),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
