#include "emulator/ptx_stats.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emulator/ptx_program.h"

enum { BANKS = 32, SECTOR = 32, WORD = 4, TURN_BYTES = BANKS * WORD };

PtxStats *stats_new(int instructions) {
  PtxStats *s = calloc(1, sizeof *s);
  if (!s) abort();
  s->times = calloc((size_t)instructions, sizeof *s->times);
  if (!s->times) abort();
  return s;
}

void stats_global(PtxStats *s, const uint64_t address[32], uint32_t mask, size_t bytes) {
  uint64_t sector[LANES];
  int sectors = 0;
  for (uint32_t left = mask; left; left &= left - 1) {
    uint64_t at = address[__builtin_ctz(left)] / SECTOR; /* aligned: no access spans two */
    int i = 0;
    while (i < sectors && sector[i] != at) i++;
    if (i == sectors) sector[sectors++] = at;
    s->bytes += (int64_t)bytes;
  }
  s->sectors += sectors;
}

/* Turns that some lanes need together: as many as there are different words in the bank that has most. */
static int turns_of(const uint64_t address[32], uint32_t mask, size_t bytes) {
  uint64_t word[BANKS][LANES];
  int words[BANKS] = {0}, most = 0;
  for (uint32_t left = mask; left; left &= left - 1) {
    uint64_t first = address[__builtin_ctz(left)] / WORD;
    for (uint64_t at = first; at < first + (bytes + WORD - 1) / WORD; at++) {
      int bank = (int)(at % BANKS), i = 0;
      while (i < words[bank] && word[bank][i] != at) i++;
      if (i == words[bank]) word[bank][words[bank]++] = at;
      if (words[bank] > most) most = words[bank];
    }
  }
  return most;
}

void stats_shared(PtxStats *s, const uint64_t address[32], uint32_t mask, size_t bytes) {
  /* wide accesses are made by as many lanes at a time as fill all banks */
  int together = bytes <= WORD ? LANES : (int)(TURN_BYTES / bytes);
  for (int first = 0; first < LANES; first += together) {
    uint32_t group = together == LANES ? mask : mask & (((uint32_t)1 << together) - 1) << first;
    if (!group) continue;
    s->turns += turns_of(address, group, bytes);
    s->least_turns++;
  }
}

static void print_sums(const PtxStats *s, const char *kernel) {
  fprintf(stderr, "%8lld launches %12lld instructions %14lld B global, %3.0f %% of its sectors",
          (long long)s->launches, (long long)s->instructions, (long long)s->bytes,
          s->sectors ? 100.0 * (double)s->bytes / (SECTOR * (double)s->sectors) : 100.0);
  fprintf(stderr, "  shared x %.2f  %s\n", s->least_turns ? (double)s->turns / (double)s->least_turns : 1.0,
          kernel);
}

/* The lines of a kernel that ran, with how often a warp did. */
static void print_lines(const PtxKernel *k) {
  const char *text = k->module->text;
  int line = 1;
  for (int i = 0; i < k->instructions; i++) {
    for (; line < k->code[i].line; line++) text = strchr(text, '\n') + 1;
    if (k->stats->times[i] > 0)
      fprintf(stderr, "%12lld  %.*s\n", (long long)k->stats->times[i], (int)strcspn(text, "\n"), text);
  }
}

void ptx_report(const PtxModule *m) {
  const char *wish = getenv("EMULATED_GPU_STATS");
  for (int i = 0; i < m->count; i++) {
    const PtxKernel *k = &m->kernels[i];
    if (!k->stats) continue;
    print_sums(k->stats, k->name);
    if (wish && *wish && strstr(k->name, wish)) print_lines(k);
  }
}
