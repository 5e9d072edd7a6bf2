/* Runs kernels: block after block, and in a block warp after warp, each as far as the next barrier. The lanes
 * of a warp that stand at the same instruction go on together; where they part, those that are behind go
 * first, so that they meet again. */
#include <fenv.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emulator/bf16.h"
#include "emulator/ptx_program.h"
#include "emulator/ptx_races.h"
#include "emulator/ptx_stats.h"

#define ALL_LANES 0xffffffffu

/* A cp.async whose thread has not waited for it. */
typedef struct Copy {
  int lane;
  unsigned char *to;
  const unsigned char *from;
  size_t bytes; /* of 16; the others become zero */
} Copy;

typedef struct Warp {
  unsigned char *rows;  /* register_bytes */
  unsigned char *local; /* [lanes, local_bytes] */
  int pc[LANES];
  u32 live, at_barrier; /* lanes that did not return; of these, that wait for the block */
  u32 meeting;          /* and those that wait for lanes of their warp */
  Copy *copy;
  int copies, copy_capacity;
  uint32_t barriers; /* of the warp that it has passed */
} Warp;

typedef struct Run {
  const PtxKernel *kernel;
  const PtxLaunch *launch;
  unsigned char *shared;
  size_t shared_bytes;
  RaceCell *cell;           /* of every two bytes of them */
  uint32_t barriers;        /* of the block that have passed */
  const PtxInstruction *at; /* for messages */
  unsigned block[3];
  int warps;
  Warp *warp;
  PtxStats *stats; /* NULL: not counted */
  char *error;
  size_t error_size;
  bool failed;
} Run;

static void fail(Run *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void fail(Run *r, const char *format, ...) {
  if (r->failed) return;
  r->failed = true;
  int n = snprintf(r->error, r->error_size, "%s, line %d of its PTX, block %u %u %u: ", r->kernel->name,
                   r->at ? r->at->line : 0, r->block[0], r->block[1], r->block[2]);
  if (n < 0 || (size_t)n >= r->error_size) return;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(r->error + n, r->error_size - (size_t)n, format, arguments);
  va_end(arguments);
}

/* ---- arithmetic ---- */

static float flush(float x) {
  return fabsf(x) < 0x1p-126f ? copysignf(0.f, x) : x;
}

/* As far off as an approximation may be, to either side. */
static float approximate(float x) {
  return x * (bits_of(x) & 1 ? 1 + 0x1p-22f : 1 - 0x1p-22f);
}

static i32 saturate(float x) {
  if (x != x) return 0;
  return x >= 0x1p31f ? INT32_MAX : x <= -0x1p31f ? INT32_MIN : (i32)x;
}

static u32 reverse_bits(u32 x) {
  u32 y = 0;
  for (int i = 0; i < 32; i++) y |= (x >> i & 1) << (31 - i);
  return y;
}

/* prmt: of eight bytes, a's and then b's, four by their numbers; bit 3 of a number asks for the sign only. */
static u32 permute_bytes(u32 a, u32 b, u32 selectors) {
  u64 bytes = (u64)b << 32 | a;
  u32 out = 0;
  for (int i = 0; i < 4; i++) {
    u32 selector = selectors >> 4 * i & 15, byte = (u32)(bytes >> 8 * (selector & 7) & 255);
    if (selector & 8) byte = byte & 128 ? 255 : 0;
    out |= byte << 8 * i;
  }
  return out;
}

/* bfi: a's lowest `length` bits in b's place from `position` on. */
static u64 insert_bits(u64 a, u64 b, u32 position, u32 length, int width) {
  u64 out = b;
  for (u32 i = 0; i < (length & 255) && (position & 255) + i < (u32)width; i++) {
    u64 bit = (u64)1 << ((position & 255) + i);
    out = a >> i & 1 ? out | bit : out & ~bit;
  }
  return out;
}

/* ---- lanes ---- */

#define ROW(T, i) ((T *)(w->rows + x->operand[i].at))
#define EACH_LANE(...)                                                                                       \
  if (mask == ALL_LANES) {                                                                                   \
    _Pragma("GCC ivdep") for (int l = 0; l < LANES; l++) __VA_ARGS__                                         \
  } else {                                                                                                   \
    for (u32 left = mask; left; left &= left - 1) {                                                          \
      int l = __builtin_ctz(left);                                                                           \
      __VA_ARGS__                                                                                            \
    }                                                                                                        \
  }

static u32 *row32(const Warp *w, PtxRow row) {
  return (u32 *)(w->rows + row.at);
}

/* ---- memory ---- */

/* What a lane does with the memory that it reaches. */
typedef enum Use { READ, WRITE } Use;

static void note_shared(Run *r, const Warp *w, int lane, size_t at, size_t bytes, Use use) {
  RaceThread thread = {(int)(w - r->warp), lane, r->barriers + 1, w->barriers + 1};
  if (!races_note(r->cell + at / 2, (bytes + 1) / 2, &thread, use == WRITE))
    fail(r, "thread %d %s shared memory at %zu that another thread reached since the last barrier",
         thread.warp * LANES + lane, use == WRITE ? "writes" : "reads", at);
}

/* The host's address of `bytes` that a lane reaches; NULL after a failure. */
static unsigned char *reach(Run *r, const Warp *w, int lane, PtxSpace space, u64 address, size_t bytes,
                            Use use) {
  const PtxModule *m = r->kernel->module;
  u64 window = WINDOW_OF(address);
  if (space == SPACE_SHARED) address += SHARED_WINDOW;
  if (space == SPACE_LOCAL) address += LOCAL_WINDOW;
  if (space == SPACE_SHARED || space == SPACE_LOCAL) window = WINDOW_OF(address);
  if (address % bytes) {
    fail(r, "lane %d: address %#llx is no multiple of %zu", lane, (unsigned long long)address, bytes);
    return NULL;
  }
  u64 at = address - window;
  if (space == SPACE_PARAM && address + bytes <= r->kernel->params_bytes)
    return (unsigned char *)r->launch->params + address;
  if (space == SPACE_GLOBAL && (window == SHARED_WINDOW || window == LOCAL_WINDOW))
    fail(r, "lane %d: an address that is not global", lane);
  if (window == SHARED_WINDOW && at >= SHARED_BEGIN && at + bytes <= SHARED_BEGIN + r->shared_bytes) {
    note_shared(r, w, lane, at - SHARED_BEGIN, bytes, use);
    return r->shared + (at - SHARED_BEGIN);
  }
  if (window == LOCAL_WINDOW && at + bytes <= r->kernel->local_bytes)
    return w->local + (size_t)lane * r->kernel->local_bytes + at;
  if (window == MODULE_WINDOW && use == READ && at / sizeof m->global->bytes < (u64)m->globals &&
      at % sizeof m->global->bytes + bytes <= m->global[at / sizeof m->global->bytes].size)
    return (unsigned char *)m->global[at / sizeof m->global->bytes].bytes + at % sizeof m->global->bytes;
  unsigned char *p = window || space == SPACE_PARAM ? NULL : emulated_memory(address, bytes);
  if (!p)
    fail(r, "lane %d: %zu bytes at %#llx are outside what it may reach", lane, bytes,
         (unsigned long long)address);
  return p;
}

static u64 lane_of(const Warp *w, PtxRow row, int lane) {
  const unsigned char *rows = w->rows + row.at;
  return row.bytes == 8 ? ((const u64 *)rows)[lane] : ((const u32 *)rows)[lane];
}

static void set_lane(Warp *w, PtxRow row, int lane, u64 value) {
  unsigned char *rows = w->rows + row.at;
  if (row.bytes == 8)
    ((u64 *)rows)[lane] = value;
  else
    ((u32 *)rows)[lane] = row.bytes == 2 ? (uint16_t)value : (u32)value;
}

/* Copies of the few sizes that there are, each in one go. */
static u64 read_bytes(const unsigned char *from, int bytes) {
  switch (bytes) {
  case 1: return *from;
  case 2: return *(const u16 *)from;
  case 4: return *(const u32 *)from;
  default: return *(const u64 *)from;
  }
}

static void write_bytes(unsigned char *to, int bytes, u64 value) {
  switch (bytes) {
  case 1: *to = (unsigned char)value; break;
  case 2: *(u16 *)to = (u16)value; break;
  case 4: *(u32 *)to = (u32)value; break;
  default: *(u64 *)to = value;
  }
}

static u64 extended(u64 value, int bytes, bool is_signed) {
  bool negative = is_signed && bytes < 8 && value >> (8 * bytes - 1);
  return negative ? value | ~(u64)0 << 8 * bytes : value;
}

/* Where the lanes' addresses are on the host. Most often they are all in one piece of global memory. */
static void reach_all(Run *r, const Warp *w, const PtxInstruction *x, u32 mask, size_t bytes, Use use,
                      unsigned char *found[LANES]) {
  PtxRow row = x->operand[x->operands - 1];
  u64 address[LANES], least = UINT64_MAX, most = 0, all = 0;
  for (u32 left = mask; left; left &= left - 1) {
    int l = __builtin_ctz(left);
    u64 at = address[l] = lane_of(w, row, l) + (u64)x->offset[0];
    least = at < least ? at : least;
    most = at > most ? at : most;
    all |= at;
  }
  if (r->stats && (x->space == SPACE_GLOBAL || (x->space == SPACE_GENERIC && !WINDOW_OF(all))))
    stats_global(r->stats, address, mask, bytes);
  if (r->stats &&
      (x->space == SPACE_SHARED || (x->space == SPACE_GENERIC && WINDOW_OF(all) == SHARED_WINDOW)))
    stats_shared(r->stats, address, mask, bytes);
  bool is_global = x->space == SPACE_GLOBAL || (x->space == SPACE_GENERIC && !WINDOW_OF(all));
  unsigned char *begin =
      is_global && !WINDOW_OF(all) && all % bytes == 0 ? emulated_memory(least, most - least + bytes) : NULL;
  for (u32 left = mask; left && !r->failed; left &= left - 1) {
    int l = __builtin_ctz(left);
    found[l] = begin ? begin + (address[l] - least) : reach(r, w, l, x->space, address[l], bytes, use);
  }
}

static void load(Run *r, Warp *w, const PtxInstruction *x, u32 mask) {
  int count = x->operands - 1, bytes = x->bytes;
  unsigned char *from[LANES];
  reach_all(r, w, x, mask, (size_t)(count * bytes), READ, from);
  for (int i = 0; i < count && !r->failed; i++) {
    PtxRow to = x->operand[i];
    if (bytes == 4 && to.bytes == 4) {
      EACH_LANE({ row32(w, to)[l] = *(const u32 *)(from[l] + 4 * i); })
    } else {
      EACH_LANE(
          { set_lane(w, to, l, extended(read_bytes(from[l] + i * bytes, bytes), bytes, x->is_signed)); })
    }
  }
}

static void store(Run *r, Warp *w, const PtxInstruction *x, u32 mask) {
  int count = x->operands - 1, bytes = x->bytes;
  unsigned char *to[LANES];
  reach_all(r, w, x, mask, (size_t)(count * bytes), WRITE, to);
  if (r->failed) return;
  for (int i = 0; i < count; i++) {
    PtxRow from = x->operand[i];
    EACH_LANE({ write_bytes(to[l] + i * bytes, bytes, lane_of(w, from, l)); })
  }
}

static void *checked(void *p) {
  if (!p) abort();
  return p;
}

static void add_copy(Warp *w, Copy copy) {
  if (w->copies == w->copy_capacity) {
    w->copy_capacity = 2 * w->copy_capacity + LANES;
    w->copy = checked(realloc(w->copy, (size_t)w->copy_capacity * sizeof copy));
  }
  w->copy[w->copies++] = copy;
}

/* cp.async [shared], [global], 16, bytes: nothing arrives before the thread waits, to find out who does not.
 */
static void copy_async(Run *r, Warp *w, const PtxInstruction *x, u32 mask) {
  u64 at[LANES], from[LANES];
  EACH_LANE({
    at[l] = lane_of(w, x->operand[0], l) + (u64)x->offset[0];
    from[l] = lane_of(w, x->operand[1], l) + (u64)x->offset[1];
  })
  if (r->stats) stats_shared(r->stats, at, mask, 16);
  for (int l = 0; l < LANES; l++) {
    if (!(mask >> l & 1)) continue;
    size_t bytes = x->operands == 4 ? lane_of(w, x->operand[3], l) : 16;
    unsigned char *to = reach(r, w, l, SPACE_SHARED, at[l], 16, WRITE);
    const unsigned char *source = bytes ? reach(r, w, l, SPACE_GLOBAL, from[l], bytes, READ) : to;
    if (lane_of(w, x->operand[2], l) != 16 || bytes > 16 || from[l] % 16)
      fail(r, "lane %d: cp.async of other than 16 bytes", l);
    if (r->failed) return;
    add_copy(w, (Copy){l, to, source, bytes});
    memset(to, 0xff, 16);
    if (!bytes) mask &= ~(1u << l);
  }
  if (r->stats) stats_global(r->stats, from, mask, 16);
}

static void copy_wait(Run *r, Warp *w, u32 mask) {
  int left = 0;
  for (int i = 0; i < w->copies; i++) {
    Copy *c = &w->copy[i];
    if (mask >> c->lane & 1) {
      note_shared(r, w, c->lane, (size_t)(c->to - r->shared), 16, WRITE);
      memset(c->to, 0, 16);
      if (c->bytes) memcpy(c->to, c->from, c->bytes);
    } else {
      w->copy[left++] = *c;
    }
  }
  w->copies = left;
}

/* ---- across a warp ---- */

/* ISA, "shfl.sync": lanes read others', out of range their own. */
static void shuffle(Run *r, Warp *w, const PtxInstruction *x, u32 mask) {
  const PtxRow *o = x->operand + 1;
  const u32 *from = row32(w, o[1]), *by = row32(w, o[2]), *clamp = row32(w, o[3]);
  u32 value[LANES], valid = 0;
  for (u32 l = 0; l < LANES; l++) {
    if (!(mask >> l & 1)) continue;
    u32 segment = clamp[l] >> 8 & 31, last = (l & segment) | (clamp[l] & 31 & ~segment);
    u32 other = x->op == OP_shuffle_bfly ? l ^ (by[l] & 31) : (l & segment) | (by[l] & 31 & ~segment);
    if (other <= last)
      valid |= 1u << l;
    else
      other = l;
    if (!(mask >> other & 1)) fail(r, "lane %u reads a lane that does not take part", l);
    value[l] = from[other];
  }
  for (int l = 0; l < LANES; l++)
    if (mask >> l & 1) row32(w, x->operand[0])[l] = value[l];
  *row32(w, x->operand[1]) = (*row32(w, x->operand[1]) & ~mask) | valid;
}

static float bf16_part(u32 pair, int part) {
  return from_bf16((uint16_t)(part ? pair >> 16 : pair));
}

/* ISA, "Matrix fragments for mma.m16n8k16": which lane holds what. */
static void mma(Warp *w, const PtxInstruction *x) {
  float a[16][16], b[16][8], d[16][8];
  for (int l = 0; l < LANES; l++) {
    int group = l / 4, pair = l % 4 * 2;
    for (int i = 0; i < 4; i++)
      for (int part = 0; part < 2; part++) {
        a[group + i % 2 * 8][pair + part + i / 2 * 8] = bf16_part(row32(w, x->operand[4 + i])[l], part);
        if (i < 2) b[pair + part + i * 8][group] = bf16_part(row32(w, x->operand[8 + i])[l], part);
      }
    for (int i = 0; i < 4; i++)
      d[group + i / 2 * 8][pair + i % 2] = float_of(row32(w, x->operand[10 + i])[l]);
  }
  for (int i = 0; i < 16; i++)
    for (int k = 0; k < 16; k++)
      for (int j = 0; j < 8; j++) d[i][j] += a[i][k] * b[k][j];
  for (int l = 0; l < LANES; l++)
    for (int i = 0; i < 4; i++) row32(w, x->operand[i])[l] = bits_of(d[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2]);
}

/* ISA, "ldmatrix": lanes 8 i to 8 i + 7 give the addresses of the rows of matrix i. */
static void ldmatrix(Run *r, Warp *w, const PtxInstruction *x) {
  uint16_t matrix[4][8][8];
  u64 address[LANES];
  for (int l = 0; l < LANES; l++) address[l] = lane_of(w, x->operand[4], l) + (u64)x->offset[0];
  if (r->stats) stats_shared(r->stats, address, ALL_LANES, 16);
  for (int l = 0; l < LANES; l++) {
    const unsigned char *row = reach(r, w, l, SPACE_SHARED, address[l], 16, READ);
    if (!row) return;
    memcpy(matrix[l / 8][l % 8], row, 16);
  }
  for (int l = 0; l < LANES; l++)
    for (int i = 0; i < 4; i++) {
      int row = l / 4, col = l % 4 * 2;
      bool transposed = x->op == OP_ldmatrix_trans;
      u32 first = transposed ? matrix[i][col][row] : matrix[i][row][col];
      u32 second = transposed ? matrix[i][col + 1][row] : matrix[i][row][col + 1];
      row32(w, x->operand[i])[l] = second << 16 | first;
    }
}

/* ---- instructions ---- */

#define UNARY(name, D, A, result)                                                                            \
  case OP_##name: {                                                                                          \
    D *d = ROW(D, 0);                                                                                        \
    const A *as = ROW(A, 1);                                                                                 \
    EACH_LANE({                                                                                              \
      A a = as[l];                                                                                           \
      d[l] = (D)(result);                                                                                    \
    })                                                                                                       \
    break;                                                                                                   \
  }
#define BINARY(name, D, A, result) TWO(name, D, A, A, result)
#define SHIFT(name, D, result)     TWO(name, D, D, u32, result)
#define TWO(name, D, A, B, result)                                                                           \
  case OP_##name: {                                                                                          \
    D *d = ROW(D, 0);                                                                                        \
    const A *as = ROW(A, 1);                                                                                 \
    const B *bs = ROW(B, 2);                                                                                 \
    EACH_LANE({                                                                                              \
      A a = as[l];                                                                                           \
      B b = bs[l];                                                                                           \
      d[l] = (D)(result);                                                                                    \
    })                                                                                                       \
    break;                                                                                                   \
  }
#define TERNARY(name, D, A, result)                                                                          \
  case OP_##name: {                                                                                          \
    D *d = ROW(D, 0);                                                                                        \
    const A *as = ROW(A, 1), *bs = ROW(A, 2), *cs = ROW(A, 3);                                               \
    EACH_LANE({                                                                                              \
      A a = as[l], b = bs[l], c = cs[l];                                                                     \
      d[l] = (D)(result);                                                                                    \
    })                                                                                                       \
    break;                                                                                                   \
  }
#define COMPARE(name, A, result)                                                                             \
  case OP_##name: {                                                                                          \
    const A *as = ROW(A, 1), *bs = ROW(A, 2);                                                                \
    u32 found = 0;                                                                                           \
    for (int l = 0; l < LANES; l++) {                                                                        \
      A a = as[l], b = bs[l];                                                                                \
      found |= (u32)(result) << l;                                                                           \
    }                                                                                                        \
    *ROW(u32, 0) = (*ROW(u32, 0) & ~mask) | (found & mask);                                                  \
    break;                                                                                                   \
  }

static void set_predicate(Warp *w, PtxRow row, u32 mask, u32 value) {
  u32 *p = row32(w, row);
  *p = (*p & ~mask) | (value & mask);
}

static void special(Run *r, Warp *w, const PtxInstruction *x, u32 mask) {
  const PtxRow *o = x->operand;
  switch (x->op) {
  case OP_fma_rm_f32:
    fesetround(FE_DOWNWARD);
    EACH_LANE({ ROW(f32, 0)[l] = fmaf(ROW(f32, 1)[l], ROW(f32, 2)[l], ROW(f32, 3)[l]); })
    fesetround(FE_TONEAREST);
    break;
  case OP_mad_wide_u32:
    EACH_LANE({ ROW(u64, 0)[l] = (u64)ROW(u32, 1)[l] * ROW(u32, 2)[l] + ROW(u64, 3)[l]; })
    break;
  case OP_bfi_b32:
  case OP_bfi_b64:
    EACH_LANE({
      set_lane(w, o[0], l,
               insert_bits(lane_of(w, o[1], l), lane_of(w, o[2], l), ROW(u32, 3)[l], ROW(u32, 4)[l],
                           8 * o[0].bytes));
    })
    break;
  case OP_selp_b32:
    EACH_LANE({ ROW(u32, 0)[l] = *ROW(u32, 3) >> l & 1 ? ROW(u32, 1)[l] : ROW(u32, 2)[l]; })
    break;
  case OP_selp_b64:
    EACH_LANE({ ROW(u64, 0)[l] = *ROW(u32, 3) >> l & 1 ? ROW(u64, 1)[l] : ROW(u64, 2)[l]; })
    break;
  case OP_mov_pred: set_predicate(w, o[0], mask, *ROW(u32, 1)); break;
  case OP_not_pred: set_predicate(w, o[0], mask, ~*ROW(u32, 1)); break;
  case OP_and_pred: set_predicate(w, o[0], mask, *ROW(u32, 1) & *ROW(u32, 2)); break;
  case OP_or_pred: set_predicate(w, o[0], mask, *ROW(u32, 1) | *ROW(u32, 2)); break;
  case OP_xor_pred: set_predicate(w, o[0], mask, *ROW(u32, 1) ^ *ROW(u32, 2)); break;
  case OP_pack:
    EACH_LANE({
      u64 low = lane_of(w, o[1], l), high = lane_of(w, o[2], l);
      set_lane(w, o[0], l, low | high << 8 * x->bytes);
    })
    break;
  case OP_unpack:
    EACH_LANE({
      u64 whole = lane_of(w, o[2], l);
      set_lane(w, o[0], l, whole & (((u64)1 << 8 * x->bytes) - 1));
      set_lane(w, o[1], l, whole >> 8 * x->bytes);
    })
    break;
  case OP_load: load(r, w, x, mask); break;
  case OP_store: store(r, w, x, mask); break;
  case OP_copy_async: copy_async(r, w, x, mask); break;
  case OP_copy_wait: copy_wait(r, w, mask); break;
  case OP_warp_barrier: w->barriers++; break;
  case OP_shuffle_idx:
  case OP_shuffle_bfly: shuffle(r, w, x, mask); break;
  case OP_ballot: {
    u32 votes = *ROW(u32, 1) & mask;
    EACH_LANE({ ROW(u32, 0)[l] = votes; })
    break;
  }
  case OP_mma: mma(w, x); break;
  case OP_ldmatrix:
  case OP_ldmatrix_trans: ldmatrix(r, w, x); break;
  default: ptx_panic(r->kernel, x->line, "an instruction without a meaning");
  }
}

static void execute(Run *r, Warp *w, const PtxInstruction *x, u32 mask) {
  switch (x->op) {
#include "emulator/ptx_ops.h"
  default: special(r, w, x, mask);
  }
}

/* ---- a warp ---- */

/* The lanes that have to take part in an instruction; 0: whoever comes. */
static u32 party(const Warp *w, const PtxInstruction *x, int lane) {
  switch (x->op) {
  case OP_warp_barrier: return row32(w, x->operand[0])[lane];
  case OP_shuffle_idx:
  case OP_shuffle_bfly:
  case OP_ballot: return row32(w, x->operand[x->operands - 1])[lane];
  case OP_mma:
  case OP_ldmatrix:
  case OP_ldmatrix_trans: return ALL_LANES;
  default: return 0;
  }
}

/* The lanes that go next: those of the lowest pc. *until: where others stand that could go on. */
static u32 next_lanes(const Warp *w, int *pc, int *until) {
  u32 ready = w->live & ~w->at_barrier & ~w->meeting, lanes = 0;
  *pc = *until = INT32_MAX;
  for (int l = 0; l < LANES; l++) {
    if (!(ready >> l & 1)) continue;
    if (w->pc[l] < *pc) {
      *until = *pc;
      *pc = w->pc[l];
      lanes = 0;
    } else if (w->pc[l] > *pc && w->pc[l] < *until) {
      *until = w->pc[l];
    }
    if (w->pc[l] == *pc) lanes |= 1u << l;
  }
  return lanes;
}

static void set_pc(Warp *w, u32 lanes, int pc) {
  for (; lanes; lanes &= lanes - 1) w->pc[__builtin_ctz(lanes)] = pc;
}

static void count_instruction(PtxStats *s, int instruction) {
  s->instructions++;
  s->times[instruction]++;
}

/* Goes on with some lanes as far as they stay together and behind the others. */
static void step(Run *r, Warp *w, u32 lanes, int pc, int until) {
  const PtxInstruction *code = r->kernel->code;
  while (!r->failed) {
    const PtxInstruction *x = r->at = &code[pc];
    u32 mask = lanes;
    if (x->guarded) mask &= x->unless ? ~*row32(w, x->guard) : *row32(w, x->guard);
    if (x->op == OP_branch) {
      if (r->stats) count_instruction(r->stats, pc);
      set_pc(w, mask, x->target);
      set_pc(w, lanes & ~mask, pc + 1);
      if (mask && mask != lanes) return;
      pc = mask ? x->target : pc + 1;
    } else if (x->op == OP_return) {
      w->live &= ~mask;
      if (mask) {
        if (w->copies) copy_wait(r, w, mask);
        set_pc(w, lanes & ~mask, pc + 1);
        return;
      }
      pc++;
    } else if (x->op == OP_barrier || x->op == OP_barrier_or) {
      if (mask != lanes) fail(r, "a barrier under a condition");
      set_pc(w, lanes, pc);
      w->at_barrier |= lanes;
      return;
    } else {
      u32 needed = mask ? party(w, x, __builtin_ctz(mask)) : 0;
      if (needed) {
        if (needed != ALL_LANES || mask != lanes)
          ptx_panic(r->kernel, x->line, "only whole warps are known here");
        for (int l = 0; l < LANES; l++)
          if ((w->meeting >> l & 1) && w->pc[l] == pc) mask |= lanes |= 1u << l;
        if (needed & ~mask) {
          set_pc(w, lanes, pc);
          w->meeting |= lanes;
          return;
        }
        w->meeting &= ~lanes;
      }
      if (r->stats) count_instruction(r->stats, pc);
      if (mask) execute(r, w, x, mask);
      pc++;
    }
    if (pc >= until || pc < 0) {
      set_pc(w, lanes, pc);
      return;
    }
  }
}

/* Until all its lanes wait for the block, or returned. */
static void run_warp(Run *r, Warp *w) {
  int pc, until;
  for (u32 lanes; !r->failed && (lanes = next_lanes(w, &pc, &until));) step(r, w, lanes, pc, until);
  if (!r->failed && w->meeting)
    fail(r, "lanes %#x wait for others of their warp that do not come", w->meeting);
}

/* ---- a block ---- */

/* Lets all warps pass their barrier. */
static void pass_barrier(Run *r) {
  const unsigned *size = r->launch->block;
  int pc = -1, waiting = 0;
  u32 any = 0;
  for (int i = 0; i < r->warps; i++) {
    const Warp *w = &r->warp[i];
    waiting += __builtin_popcount(w->at_barrier);
    for (int l = 0; l < LANES; l++) {
      if (!(w->at_barrier >> l & 1)) continue;
      if (pc >= 0 && w->pc[l] != pc) fail(r, "threads wait at different barriers");
      pc = w->pc[l];
    }
    const PtxInstruction *x = w->at_barrier ? &r->kernel->code[pc] : NULL;
    if (x && x->op == OP_barrier_or) any |= *row32(w, x->operand[2]) & w->at_barrier;
  }
  if (waiting != (int)(size[0] * size[1] * size[2]))
    fail(r, "%d threads of the block wait at a barrier", waiting);
  for (int i = 0; i < r->warps; i++) {
    Warp *w = &r->warp[i];
    const PtxInstruction *x = &r->kernel->code[pc];
    if (x->op == OP_barrier_or) set_predicate(w, x->operand[0], w->at_barrier, any ? ALL_LANES : 0);
    set_pc(w, w->at_barrier, pc + 1);
    w->at_barrier = 0;
  }
  r->barriers++;
}

static void start_block(Run *r) {
  const PtxKernel *k = r->kernel;
  const unsigned *size = r->launch->block;
  unsigned threads = size[0] * size[1] * size[2];
  memset(r->shared, 0xff, r->shared_bytes);
  r->barriers++; /* what the last block did is over */
  for (int i = 0; i < r->warps; i++) {
    Warp *w = &r->warp[i];
    unsigned first = (unsigned)i * LANES, here = threads - first < LANES ? threads - first : LANES;
    w->live = here == LANES ? ALL_LANES : (1u << here) - 1;
    w->at_barrier = w->meeting = 0;
    w->copies = 0;
    memset(w->pc, 0, sizeof w->pc);
    if (k->local_bytes) memset(w->local, 0xff, LANES * k->local_bytes);
    for (unsigned l = 0; l < LANES; l++) {
      unsigned thread = first + l;
      unsigned id[3] = {thread % size[0], thread / size[0] % size[1], thread / size[0] / size[1]};
      for (int axis = 0; axis < 3; axis++) {
        row32(w, k->special[SPECIAL_TID][axis])[l] = id[axis];
        row32(w, k->special[SPECIAL_NTID][axis])[l] = size[axis];
        row32(w, k->special[SPECIAL_CTAID][axis])[l] = r->block[axis];
        row32(w, k->special[SPECIAL_NCTAID][axis])[l] = r->launch->grid[axis];
      }
    }
  }
}

static void run_block(Run *r) {
  start_block(r);
  for (bool up = true; !r->failed; up = !up) { /* the order of the warps is no one's to rely on */
    u32 live = 0;
    for (int i = 0; i < r->warps; i++) run_warp(r, &r->warp[up ? i : r->warps - 1 - i]);
    for (int i = 0; i < r->warps; i++) live |= r->warp[i].live;
    if (!live) return;
    if (!r->failed) pass_barrier(r);
  }
}

/* ---- a launch ---- */

static void set_constants(const PtxKernel *k, Warp *w) {
  for (int i = 0; i < k->constant_count; i++)
    for (int l = 0; l < LANES; l++) set_lane(w, k->constants[i].row, l, k->constants[i].value);
}

bool ptx_run(const PtxKernel *k, const PtxLaunch *launch, char *error, size_t error_size) {
  Run run = {.kernel = k, .launch = launch, .stats = k->stats, .error = error, .error_size = error_size},
      *r = &run;
  const unsigned *grid = launch->grid, *block = launch->block;
  r->warps = (int)((block[0] * block[1] * block[2] + LANES - 1) / LANES);
  r->shared_bytes = k->static_shared + launch->dynamic_shared;
  r->shared = checked(aligned_alloc(128, (r->shared_bytes + 128) / 128 * 128));
  r->cell = checked(calloc(r->shared_bytes / 2 + 1, sizeof *r->cell));
  r->warp = checked(calloc((size_t)r->warps, sizeof *r->warp));
  for (int i = 0; i < r->warps; i++) {
    r->warp[i].rows = checked(aligned_alloc(64, k->register_bytes));
    memset(r->warp[i].rows, 0xff, k->register_bytes);
    r->warp[i].local = checked(malloc(LANES * k->local_bytes + 1));
    set_constants(k, &r->warp[i]);
  }
  if (r->stats) r->stats->launches++;
  int64_t blocks = (int64_t)grid[0] * grid[1] * grid[2];
  for (int64_t i = 0; i < blocks && !r->failed; i++) {
    int64_t at = launch->descending ? blocks - 1 - i : i;
    r->block[0] = (unsigned)(at % grid[0]);
    r->block[1] = (unsigned)(at / grid[0] % grid[1]);
    r->block[2] = (unsigned)(at / grid[0] / grid[1]);
    run_block(r);
  }
  for (int i = 0; i < r->warps; i++) {
    free(r->warp[i].rows);
    free(r->warp[i].local);
    free(r->warp[i].copy);
  }
  free(r->warp);
  free(r->cell);
  free(r->shared);
  return !r->failed;
}
