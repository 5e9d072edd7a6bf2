/* A kernel as it is run: what ptx_parse.c makes of the text and ptx_run.c runs. */
#ifndef PTX_PROGRAM_H
#define PTX_PROGRAM_H

#include "emulator/ptx.h"
#include "emulator/ptx_stats.h"

enum { LANES = 32, MAX_OPERANDS = 14, MAX_PARAMS = 16, MAX_GLOBALS = 4 };

/* What lanes hold; the rows lie in plain memory. */
typedef float f32 __attribute__((may_alias));
typedef double f64 __attribute__((may_alias));
typedef int32_t i32 __attribute__((may_alias));
typedef uint16_t u16 __attribute__((may_alias));
typedef uint32_t u32 __attribute__((may_alias));
typedef int64_t i64 __attribute__((may_alias));
typedef uint64_t u64 __attribute__((may_alias));

/* Where addresses of other spaces stand among generic ones, and where shared memory begins in its own. */
#define SHARED_WINDOW ((uint64_t)1 << 56)
#define LOCAL_WINDOW  ((uint64_t)2 << 56)
#define MODULE_WINDOW ((uint64_t)3 << 56)
#define WINDOW_OF(at) ((at) & ~(((uint64_t)1 << 56) - 1))
#define SHARED_BEGIN  ((uint64_t)1024)

typedef enum PtxOp {
#define LANEWISE(name, ...) OP_##name,
#define UNARY               LANEWISE
#define BINARY              LANEWISE
#define SHIFT               LANEWISE
#define TERNARY             LANEWISE
#define COMPARE             LANEWISE
#include "emulator/ptx_ops.h"
#undef LANEWISE
#undef UNARY
#undef BINARY
#undef SHIFT
#undef TERNARY
#undef COMPARE
  OP_fma_rm_f32, /* from here on those that are not of ptx_ops.h */
  OP_mad_wide_u32,
  OP_bfi_b32,
  OP_bfi_b64,
  OP_selp_b32,
  OP_selp_b64,
  OP_mov_pred,
  OP_not_pred,
  OP_and_pred,
  OP_or_pred,
  OP_xor_pred,
  OP_pack,   /* mov of {parts} into one register */
  OP_unpack, /* and of one into its parts */
  OP_load,
  OP_store,
  OP_copy_async,
  OP_copy_wait,
  OP_branch,
  OP_return,
  OP_barrier,
  OP_barrier_or,
  OP_warp_barrier,
  OP_shuffle_idx,
  OP_shuffle_bfly,
  OP_ballot,
  OP_mma,
  OP_ldmatrix,
  OP_ldmatrix_trans,
} PtxOp;

typedef enum PtxSpace { SPACE_GENERIC, SPACE_GLOBAL, SPACE_SHARED, SPACE_LOCAL, SPACE_PARAM } PtxSpace;

/* An operand's row: its first byte in a warp's registers. A row holds 32 lanes of 8 bytes, or of 4 for
 * whatever is smaller, or for a predicate 4 bytes of a bit a lane. Immediate values have rows, too. */
typedef struct PtxRow {
  uint32_t at;
  uint8_t bytes; /* of a lane; 0: a predicate */
} PtxRow;

typedef struct PtxInstruction {
  PtxOp op;
  int line; /* of the text */
  bool guarded, unless;
  PtxRow guard; /* runs in the lanes where this is true (unless: false) */
  int operands; /* of load and store: the registers, and then the address */
  PtxRow operand[MAX_OPERANDS];
  PtxSpace space;    /* load, store */
  int bytes;         /* load, store: of each register; of pack and unpack: of a part */
  bool is_signed;    /* load */
  int64_t offset[2]; /* added to an address; copy_async: to the two */
  int target;        /* branch: an instruction */
} PtxInstruction;

typedef struct PtxConstant {
  PtxRow row;
  uint64_t value;
  bool is_dynamic; /* counted from where dynamic shared memory begins, which the whole text decides */
} PtxConstant;

enum { SPECIAL_TID, SPECIAL_NTID, SPECIAL_CTAID, SPECIAL_NCTAID, SPECIALS };

struct PtxKernel {
  char *name;
  const char *body; /* of the module's text: from its '{' on */
  const PtxModule *module;
  bool parsed;
  int params;
  size_t param_bytes[MAX_PARAMS], param_offset[MAX_PARAMS], params_bytes;
  int max_threads;
  size_t static_shared, local_bytes;
  PtxInstruction *code;
  int instructions, instruction_capacity;
  PtxConstant *constants; /* immediate values, and addresses */
  int constant_count, constant_capacity;
  PtxRow special[SPECIALS][3];
  uint32_t register_bytes; /* of a warp */
  PtxStats *stats;         /* NULL: not counted */
};

/* An array in global memory that the module brings along. */
typedef struct PtxGlobal {
  char name[64];
  unsigned char bytes[256];
  size_t size;
} PtxGlobal;

struct PtxModule {
  char *text;
  PtxKernel *kernels;
  int count;
  char dynamic_shared[64]; /* the name of its `extern .shared` array, or empty */
  PtxGlobal global[MAX_GLOBALS];
  int globals;
};

/* Ends the program: the text or the run is beyond what is known here. */
void ptx_panic(const PtxKernel *kernel, int line, const char *format, ...)
    __attribute__((noreturn, format(printf, 3, 4)));

#endif
