/* What a warp does with tiles in shared memory that has no expression in C: products of 16 x 16 fragments of
 * bf16 on tensor cores, the loads that make fragments, and copies from global memory that run beside the
 * computation. sm_80 and later; where a test emulates a block on the CPU, the same in plain code.
 *
 * Fragments are shared out over the lanes of a warp. With g = lane / 4 and t = lane % 4, a lane has of
 *   an accumulator [16, 8]   c[0..3] = (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1)
 *   a left operand [16, 16]  a[0..3] = (g, 2t..), (g+8, 2t..), (g, 2t+8..), (g+8, 2t+8..), two columns each
 *   a right operand [16, 8]  b[0..1] = (2t.., g), (2t+8.., g), two rows each
 * so that two accumulators side by side, rounded, are a left operand. */
#ifndef MMA_CUH
#define MMA_CUH

#include "device/group.cuh" // defines: bf16, bf16_pair, value, store, float_bits

/* For the end of branches that lanes may take differently: the functions below need all of a warp at once. */
__device__ __forceinline__ void warp_converge();

/* c [16, 8] += a [16, 16] b [16, 8] */
__device__ __forceinline__ void mma_16x8x16(float *c, const uint32_t *a, const uint32_t *b);

/* Four 8 x 8 matrices of bf16: lanes 8i to 8i+7 each give the address of a row, 16 bytes, of matrix i. r[i] =
 * elements (g, 2t) and (g, 2t+1) of matrix i, or of its transpose. */
__device__ __forceinline__ void load_matrices(uint32_t *r, const bf16 *row);
__device__ __forceinline__ void load_matrices_transposed(uint32_t *r, const bf16 *row);

/* 16 bytes to shared memory, zeros unless `there`; both addresses are multiples of 16. Copies are there when
 * the thread that began them has waited; other threads need a barrier after that. */
__device__ __forceinline__ void copy16_begin(void *to_shared, const void *from, bool there);
__device__ __forceinline__ void copies_wait();

/* 2^x to 2^-22 relative, 0 where that is not a normal number. */
__device__ __forceinline__ float fast_exp2(float x);

/* ---- on the chip ---- */
#ifdef __CUDACC__

__device__ __forceinline__ void warp_converge() {
  __syncwarp();
}

__device__ __forceinline__ void mma_16x8x16(float *c, const uint32_t *a, const uint32_t *b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ uint32_t shared_address(const void *p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ __forceinline__ void load_matrices(uint32_t *r, const bf16 *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t *r, const bf16 *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void copy16_begin(void *to_shared, const void *from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to_shared)), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/* ---- emulated, by what test/block_emulation.cuh defines ---- */
#else

__device__ __forceinline__ void warp_converge() {}

/* x [16] = elements 0 to 15 of a row of the left operand, or of a column of the right one: four lanes from
 * `lane` on show them, two in each of two words. */
UNWATCHED static void emulated_line(float *x, const EmulatedValue *lane, int word, int next_word) {
  for (int i = 0; i < 16; i++) {
    uint32_t pair = lane[i % 8 / 2].words[i < 8 ? word : next_word];
    x[i] = float_from_bits(i % 2 ? pair & 0xffff0000u : pair << 16);
  }
}

UNWATCHED static void emulated_mma(float *c, const uint32_t *a, const uint32_t *b) {
  const EmulatedValue *all = emulated_show(EmulatedValue{0, NULL, {a[0], a[1], a[2], a[3], b[0], b[1]}});
  unsigned g = emulated.current % 32 / 4, t = emulated.current % 4;
  float left[2][16], right[2][16]; /* rows g and g + 8; columns 2t and 2t + 1 */
  for (int i = 0; i < 2; i++) {
    emulated_line(left[i], &all[g * 4], i, i + 2);
    emulated_line(right[i], &all[(2 * t + i) * 4], 4, 5);
  }
  for (int i = 0; i < 4; i++)
    for (int k = 0; k < 16; k++) c[i] += left[i / 2][k] * right[i % 2][k];
}
__device__ __forceinline__ void mma_16x8x16(float *c, const uint32_t *a, const uint32_t *b) {
  emulated_mma(c, a, b);
}

/* Row `row` of matrix i, as the lane that names it says. */
UNWATCHED static const bf16 *emulated_row(const EmulatedValue *all, int i, int row) {
  return (const bf16 *)all[i * 8 + row].address;
}

__device__ __forceinline__ void load_matrices(uint32_t *r, const bf16 *row) {
  const EmulatedValue *all = emulated_show(EmulatedValue{0, row, {}});
  int lane = (int)threadIdx.x % 32, g = lane / 4, column = lane % 4 * 2;
  for (int i = 0; i < 4; i++) {
    const bf16 *from = emulated_row(all, i, g);
    r[i] = (uint32_t)from[column + 1].bits << 16 | from[column].bits;
  }
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t *r, const bf16 *row) {
  const EmulatedValue *all = emulated_show(EmulatedValue{0, row, {}});
  int lane = (int)threadIdx.x % 32, g = lane / 4, column = lane % 4 * 2;
  for (int i = 0; i < 4; i++)
    r[i] = (uint32_t)emulated_row(all, i, column + 1)[g].bits << 16 | emulated_row(all, i, column)[g].bits;
}

/* As late as it may come: the copy is made by the wait. */
__device__ __forceinline__ void copy16_begin(void *to_shared, const void *from, bool there) {
  CHECK((((uintptr_t)to_shared | (uintptr_t)from) & 15) == 0, "a copy between %p and %p", to_shared, from);
  emulated_copy_begin(to_shared, there ? from : NULL);
}

__device__ __forceinline__ void copies_wait() {
  for (EmulatedCopy c; emulated_copy_next(&c);) {
    static const uint32_t zeros[4] = {0, 0, 0, 0};
    const uint32_t *from = c.from ? (const uint32_t *)c.from : zeros;
    for (int i = 0; i < 4; i++) ((uint32_t *)c.to)[i] = from[i];
  }
}

__device__ __forceinline__ float fast_exp2(float x) {
  float y = exp2f(x);
  return y < 1.17549435e-38f ? 0.f : y;
}

#endif
#endif
