/* bf16 as the chip rounds to it, for what is emulated in C. */
#ifndef EMULATOR_BF16_H
#define EMULATOR_BF16_H

#include <stdint.h>
#include <string.h>

static inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static inline float from_bf16(uint16_t x) {
  return float_of((uint32_t)x << 16);
}

/* To nearest, ties to even; all NaNs become one. */
static inline uint16_t to_bf16(float x) {
  uint32_t bits = bits_of(x);
  return x != x ? 0x7fff : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#endif
