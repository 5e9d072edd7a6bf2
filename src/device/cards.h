/* GPUs that a plan can be made for without having one. */
#ifndef CARDS_H
#define CARDS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Card {
  const char *name;
  int64_t bytes;  /* of memory, as the driver reports them, rounded down */
  int capability; /* 90 for compute capability 9.0 */
  double flops;   /* a second, dense, bf16 operands with fp32 sums, from the data sheet */
  double memory;  /* bytes a second, read and written, from the data sheet */
  double
      link; /* bytes a second between it and the host, one way: what is measured of its PCIe or NVLink-C2C */
} Card;

/* What CUDA's context and the libraries take for themselves: what the program may plan with is less by this.
 */
enum { CARD_OVERHEAD = 1000000000 };
/* Threads of the host that a card is thought to have. */
enum { CARD_HOST_THREADS = 16 };

/* A card by its name, or by the size of its memory ("80G", "24Gi"): then the other numbers are those of a
 * card of that size. flag: for the error, which lists the names. */
bool card_find(Card *card, const char *flag, const char *text, Error *e);

/* A device that is here, with `bytes` of memory to plan with: its rates are those of the card above that is
 * most like it, on the CPU of a machine of 2025. They decide between ways to fit, and need be no closer. */
void card_of_device(Card *card, const Device *dev, int64_t bytes);

/* A device that can be planned for and no more: nothing can be allocated on it or computed. */
void card_device(Device *dev, const Card *card, bool deterministic);

#ifdef __cplusplus
}
#endif
#endif
