/* The dynamic map of 8-bit optimizers (Dettmers et al. 2022, arXiv 2110.02861, section 2.1 and appendix F):
 * 256 values between -1 and 1, or 0 and 1, dense near 0. Decade i of 0 .. 6, [10^(i-7), 10^(i-6)], is divided
 * into parts of equal length, 2^i for each sign, or 2^(i+1) without one, whose middles are the values; 0 and
 * 1 are values too.
 *
 * The codes are in the order of the values. The one difference to the published map is the least value with a
 * sign: it is -1 instead of -0.993, so that the largest of a block is exact whichever sign it has. */
#ifndef DYNAMIC_MAP_CUH
#define DYNAMIC_MAP_CUH

#include "device/group.cuh" // defines: HD, float_bits

/* A code as an element of a visited vector: its float is the code's number. */
struct code8 {
  uint8_t code;
};
HD float value(code8 c) {
  return (float)c.code;
}
HD void store(code8 *p, float x) {
  p->code = (uint8_t)(int32_t)x;
}
HD void store(const code8 *, float) {}

/* Non-negative values are numbered by `position`: those of decade i are 2^(i + FIRST) .. 2^(i + FIRST + 1) -
 * 1, FIRST being 0 with a sign and 1 without. */
enum { DYNAMIC_SIGNED = 0, DYNAMIC_UNSIGNED = 1 };

/* 10^(i - 6) for i = 0 .. 6. Selects, and not a table, so that loops vectorise. */
HD float dynamic_decade(int32_t i) {
  float x = 1e-6f;
  x = i > 0 ? 1e-5f : x;
  x = i > 1 ? 1e-4f : x;
  x = i > 2 ? 1e-3f : x;
  x = i > 3 ? 1e-2f : x;
  x = i > 4 ? 1e-1f : x;
  x = i > 5 ? 1.f : x;
  return x;
}

/* The value at a position; `top` is that of the value 1. */
template <int FIRST> HD float dynamic_value(int32_t position, int32_t top) {
  uint32_t bits = float_bits((float)position + 0.5f);
  int32_t i = (int32_t)(bits >> 23) - 127 - FIRST; /* the decade; -1 at 0 */
  float fraction = float_from_bits((bits & 0x7fffffu) | 0x3f800000u) - 1.f;
  float x = fmaf(0.9f, fraction, 0.1f) * dynamic_decade(i);
  x = i < 0 ? 0.f : x;
  return position >= top ? 1.f : x;
}

/* The position of one of the two values around a (0 to 1), the nearer with the larger probability, so that
 * the expectation of its value is a. `random`: 32 random bits. */
template <int FIRST> HD int32_t dynamic_position(float a, int32_t top, uint32_t random) {
  int32_t i = (a >= 1e-6f) + (a >= 1e-5f) + (a >= 1e-4f) + (a >= 1e-3f) + (a >= 1e-2f) + (a >= 1e-1f);
  float parts = (float)(1 << (i + FIRST));
  float part = fmaf(a / dynamic_decade(i) - 0.1f, parts / 0.9f, -0.5f);
  int32_t low = (int32_t)(parts + part);
  low = low < FIRST ? FIRST : low;
  low = low > top - 1 ? top - 1 : low;
  float below = dynamic_value<FIRST>(low, top), above = dynamic_value<FIRST>(low + 1, top);
  float chance = (float)(random >> 8) * 0x1p-24f;
  return low + (a - below > chance * (above - below));
}

enum { DYNAMIC_ZERO = 127 }; /* the code of 0 in the map with a sign */

HD float dynamic_decode(const float code) {
  int32_t position = (int32_t)code - DYNAMIC_ZERO;
  float x = dynamic_value<DYNAMIC_SIGNED>(position < 0 ? -position : position, position < 0 ? 127 : 128);
  return position < 0 ? -x : x;
}
/* x: -1 to 1. */
HD float dynamic_encode(float x, uint32_t random) {
  int32_t position = dynamic_position<DYNAMIC_SIGNED>(fabsf(x), x < 0.f ? 127 : 128, random);
  return (float)(DYNAMIC_ZERO + (x < 0.f ? -position : position));
}

HD float dynamic_decode_unsigned(const float code) {
  return dynamic_value<DYNAMIC_UNSIGNED>((int32_t)code + 1, 256);
}
/* x: 0 to 1. What is not 0 does not become 0: the update divides by the root of it. */
HD float dynamic_encode_unsigned(float x, uint32_t random) {
  int32_t code = dynamic_position<DYNAMIC_UNSIGNED>(x, 256, random) - 1;
  return (float)(x > 0.f && code < 1 ? 1 : code);
}

#endif
