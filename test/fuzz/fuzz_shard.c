/* Fuzzes src/io/shards.c and the data loader over it. The input's first four bytes say how: bits (below),
 * which vocabulary, T - 1, and rows a step; the rest is a file. */
#include "fuzz/fuzz.h"

#define XXH_INLINE_ALL
#include <xxhash.h> // XXH3_64bits

#include "dataloader.h"
#include "io/shards.h"

enum {
  SHARD_TEXT = 1,    /* the file is text */
  SHARD_COMPACT = 2, /* only the header's first 12 slots are given, the others are 0 */
  SHARD_HASHED = 4,  /* compact: the header gets the payload's hash */
  SHARD_COUNTED = 8, /* compact: and its count of tokens */
  SHARD_MORE = 16,   /* the stream goes on with an empty text and another 9 bytes of text */
  SHARD_SHUFFLED = 32,
};

static const char *const shard_files[] = {"a.bin", "a.txt", "b.txt", "c.txt"};
enum { SHARD_FILES = sizeof shard_files / sizeof *shard_files, SHARD_SLOTS = 12 * 4 };

static void write_compact_shard(const FuzzFolder *f, int bits, FuzzPart file) {
  ShardHeader h = {0};
  size_t given = file.size < SHARD_SLOTS ? file.size : SHARD_SLOTS;
  memcpy(&h, file.data, given);
  FuzzPart payload = {(const uint8_t *)file.data + given, file.size - given};
  if (bits & SHARD_COUNTED) {
    h.count = (uint32_t)(payload.size / (h.version == 1 ? 2 : 4));
    if (h.version == 8) h.count64 = h.count;
  }
  if (bits & SHARD_HASHED) h.payload_hash = XXH3_64bits(payload.data, payload.size);
  fuzz_write(f, shard_files[0], (FuzzPart[]){{&h, sizeof h}, payload}, 2);
}

static void write_shards(const FuzzFolder *f, int bits, FuzzPart file) {
  if (bits & SHARD_TEXT)
    fuzz_write(f, shard_files[1], &file, 1);
  else if (bits & SHARD_COMPACT)
    write_compact_shard(f, bits, file);
  else
    fuzz_write(f, shard_files[0], &file, 1);
  if (bits & SHARD_MORE) {
    fuzz_write(f, shard_files[2], NULL, 0);
    fuzz_write(f, shard_files[3], &(FuzzPart){"more text", 9}, 1);
  }
}

static void check_step(const StepBatch *s, int64_t V) {
  int64_t valid = 0;
  for (int64_t i = 0; i < s->A * s->B * s->T; i++) {
    CHECK(s->tokens[i] >= 0 && s->tokens[i] < V, "token %d", s->tokens[i]);
    CHECK(s->targets[i] == TARGET_IGNORED || (s->targets[i] >= 0 && s->targets[i] < V), "target %d",
          s->targets[i]);
    CHECK(s->positions[i] >= 0 && s->positions[i] < s->T, "position %d", s->positions[i]);
    CHECK(s->starts[i] >= 0 && s->positions[i] + s->starts[i] == i % s->T, "start %d", s->starts[i]);
    valid += s->targets[i] != TARGET_IGNORED;
  }
  CHECK(valid == s->valid_targets, "%lld valid targets", (long long)s->valid_targets);
}

/* More than one pass over the data, but at most 64 steps. */
static void read_steps(DataLoader *d, int64_t B, int64_t T, int64_t V) {
  size_t bytes = (size_t)(2 * B * T) * sizeof(int32_t);
  StepBatch s = {.A = 2, .B = B, .T = T};
  int32_t **arrays[] = {&s.tokens, &s.targets, &s.positions, &s.starts};
  for (int i = 0; i < 4; i++) CHECK(*arrays[i] = malloc(bytes), "out of memory");
  int64_t steps = dataloader_windows(d) / (2 * B) + 2;
  CHECK(dataloader_windows(d) > 0, "an empty loader");
  for (int64_t i = 0; i < steps && i < 64; i++) {
    Error e = {0};
    if (dataloader_next(d, &s, &e)) {
      check_step(&s, V);
    } else {
      fuzz_check_refusal(&e);
      break;
    }
  }
  for (int i = 0; i < 4; i++) free(*arrays[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const int64_t vocabularies[] = {1, 2, 128, 255, 256, 1000, 50257, TOKEN_MAX_VOCAB};
  if (size < 4) return 0;
  int64_t V = vocabularies[data[1] % 8], T = data[2] % 64 + 1, B = data[3] % 4 + 1;
  FuzzFolder f = fuzz_folder_new();
  char globs[FUZZ_PATH];
  write_shards(&f, data[0], (FuzzPart){data + 4, size - 4});
  Error e = {0};
  DataOptions o = {.globs = fuzz_path(globs, &f, "*.*"),
                   .B = B,
                   .T = T,
                   .V = V,
                   .shuffle = data[0] & SHARD_SHUFFLED,
                   .pack = data[3] & 128,
                   .bos = data[3] & 64 ? 0 : -1,
                   .document_token = data[3] & 32 ? 1 : -1};
  DataLoader *d = dataloader_open(&o, &e);
  if (d)
    read_steps(d, B, T, V);
  else
    fuzz_check_refusal(&e);
  dataloader_close(d);
  fuzz_folder_remove(&f, shard_files, SHARD_FILES);
  return 0;
}
