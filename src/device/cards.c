#include "device/cards.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ascending in memory. */
static const Card cards[] = {
    {"rtx3060", 12800000000, 86, 51e12, 360e9, 12e9},    {"rtx4070", 12800000000, 89, 117e12, 504e9, 24e9},
    {"rtx4080", 16900000000, 89, 195e12, 717e9, 24e9},   {"l4", 24000000000, 89, 121e12, 300e9, 24e9},
    {"a10g", 24000000000, 86, 70e12, 600e9, 24e9},       {"rtx3090", 25300000000, 86, 71e12, 936e9, 24e9},
    {"rtx4090", 25300000000, 89, 165e12, 1008e9, 24e9},  {"rtx5090", 34000000000, 120, 210e12, 1792e9, 48e9},
    {"a100-40g", 42300000000, 80, 312e12, 1555e9, 24e9}, {"l40s", 47600000000, 89, 362e12, 864e9, 24e9},
    {"h100", 85000000000, 90, 989e12, 3350e9, 50e9},     {"a100", 85000000000, 80, 312e12, 2039e9, 24e9},
    {"gh200", 101000000000, 90, 989e12, 4000e9, 350e9},  {"h200", 150000000000, 90, 989e12, 4800e9, 50e9},
    {"b200", 191000000000, 100, 2250e12, 8000e9, 50e9},
};
enum { CARDS = sizeof cards / sizeof *cards };

/* "80G", "24Gi", "0.5T": bytes; 0 when it is no size. */
static int64_t size_of(const char *text) {
  static const struct {
    const char *name;
    double factor;
  } units[] = {{"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"Mi", 0x1p20}, {"Gi", 0x1p30}, {"Ti", 0x1p40}};
  char *unit;
  double number = strtod(text, &unit);
  for (size_t i = 0; i < sizeof units / sizeof *units; i++)
    if (strcmp(unit, units[i].name) == 0 && number > 0 && number * units[i].factor < 0x1p60)
      return (int64_t)(number * units[i].factor);
  return 0;
}

/* Of a card that is known by its memory alone: the numbers of the first that has as much, or of the largest.
 */
static Card card_of_size(int64_t bytes) {
  int i = 0;
  while (i + 1 < CARDS && cards[i].bytes < bytes * 9 / 10) i++;
  Card card = cards[i];
  card.bytes = bytes;
  card.name = "a card";
  return card;
}

void card_of_device(Card *card, const Device *dev, int64_t bytes) {
  *card = (Card){.name = dev->name, .bytes = bytes, .flops = 200e9, .memory = 20e9, .link = 10e9};
  if (dev->kind == DEVICE_CPU) return;
  int best = CARDS - 1;
  for (int i = CARDS - 1; i >= 0; i--) /* of its kind the smallest that is as large, or another kind's */
    if (cards[i].bytes >= bytes &&
        (cards[i].capability == dev->capability || cards[best].capability != dev->capability))
      best = i;
  card->capability = dev->capability;
  card->flops = cards[best].flops;
  card->memory = cards[best].memory;
  card->link = cards[best].link;
}

bool card_find(Card *card, const char *flag, const char *text, Error *e) {
  char names[512] = "";
  for (int i = 0; i < CARDS; i++) {
    if (strcmp(text, cards[i].name) == 0) {
      *card = cards[i];
      return true;
    }
    size_t at = strlen(names);
    snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "", cards[i].name);
  }
  int64_t bytes = size_of(text);
  if (bytes > CARD_OVERHEAD) {
    *card = card_of_size(bytes);
    return true;
  }
  return error_usage(
      e, "--%s: found \"%s\", expected one of %s,\nor the size of its memory above 1G, as 80G or 24Gi.", flag,
      text, names);
}

void card_device(Device *dev, const Card *card, bool deterministic) {
  memset(dev, 0, sizeof *dev);
  dev->kind = DEVICE_CUDA;
  dev->planned = true;
  dev->capability = card->capability;
  dev->deterministic = deterministic;
  dev->max_chunk_rows = CUDA_MAX_CHUNK_ROWS;
  snprintf(dev->name, sizeof dev->name, "%s (planned)", card->name);
}
