/* PTX text to instructions. A module's entries are found at once; an entry's body is parsed when the kernel
 * is first asked for, since of the hundreds that a program holds a test runs a few. */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emulator/ptx_program.h"

enum { MAX_NAMES = 64, MAX_LABELS = 8192, WORD = 1024, WIDTHS = 6, ANY = 255 };

/* Registers that one .reg declares: `%r<53>` (count 53) or `%SP` (count 0). */
typedef struct Family {
  char prefix[16];
  int count;
  uint32_t at;
  uint8_t bytes;
} Family;

/* A name that stands for an address. */
typedef struct Symbol {
  char name[WORD];
  uint64_t address;
} Symbol;

typedef struct Label {
  char name[32];
  int instruction;
} Label;

typedef struct Parser {
  PtxKernel *kernel;
  const char *at;
  int line;
  Family family[MAX_NAMES];
  int families;
  Symbol symbol[MAX_NAMES];
  int symbols;
  Label *label, *jump; /* where labels stand, and who jumps to them */
  int labels, jumps;
} Parser;

void ptx_panic(const PtxKernel *kernel, int line, const char *format, ...) {
  va_list arguments;
  fprintf(stderr, "PTX emulator: %s, line %d: ", kernel ? kernel->name : "a module", line);
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  exit(1);
}

#define PANIC(p, ...) ptx_panic((p)->kernel, (p)->line, __VA_ARGS__)

static void *more(void *old, int count, int *capacity, size_t size) {
  if (count < *capacity) return old;
  *capacity = *capacity ? 2 * *capacity : 64;
  void *new = realloc(old, (size_t)*capacity * size);
  if (!new) abort();
  return new;
}

/* ---- words ---- */

static void skip_space(Parser *p) {
  for (;; p->at++) {
    if (p->at[0] == '/' && p->at[1] == '/') p->at += strcspn(p->at, "\n");
    if (*p->at == '\n') p->line++;
    if (!isspace((unsigned char)*p->at)) return;
  }
}

static bool take(Parser *p, char c) {
  skip_space(p);
  if (*p->at != c) return false;
  p->at++;
  return true;
}

static void expect(Parser *p, char c) {
  if (!take(p, c)) PANIC(p, "expected '%c', found '%.40s'", c, p->at);
}

static bool is_word(char c) {
  return isalnum((unsigned char)c) || strchr("_$.%-", c);
}

/* A name, number or instruction; empty when there is none. */
static void word(Parser *p, char out[WORD]) {
  size_t n = 0;
  skip_space(p);
  while (*p->at && is_word(*p->at) && n < WORD - 1) out[n++] = *p->at++;
  out[n] = 0;
  if (n == WORD - 1) PANIC(p, "a word of %d characters", WORD);
}

static long number(Parser *p) {
  char text[WORD], *end;
  word(p, text);
  long value = strtol(text, &end, 0);
  if (end == text || *end) PANIC(p, "expected a number, found '%s'", text);
  return value;
}

static int type_bytes(Parser *p, const char *type) {
  static const char *const names[] = {".pred", ".b8",  ".u8",  ".s8",  ".b16", ".u16", ".s16", ".b32",
                                      ".u32",  ".s32", ".f32", ".b64", ".u64", ".s64", ".f64"};
  static const int bytes[] = {0, 1, 1, 1, 2, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8};
  for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++)
    if (strcmp(type, names[i]) == 0) return bytes[i];
  PANIC(p, "unknown type %s", type);
}

/* ---- declarations ---- */

static PtxRow new_rows(PtxKernel *k, int bytes, int count) {
  PtxRow row = {k->register_bytes, (uint8_t)bytes};
  k->register_bytes += (uint32_t)count * (bytes == 8 ? 8 * LANES : bytes ? 4 * LANES : 4);
  k->register_bytes = (k->register_bytes + 63) / 64 * 64;
  return row;
}

/* `.reg .b32 %r<53>;` or `.reg .pred %p1, %p2;` */
static void declare_registers(Parser *p) {
  char type[WORD], name[WORD];
  word(p, type);
  int bytes = type_bytes(p, type);
  do {
    word(p, name);
    if (p->families == MAX_NAMES || strlen(name) >= sizeof p->family->prefix)
      PANIC(p, "no room for the registers %s", name);
    Family *f = &p->family[p->families++];
    strcpy(f->prefix, name);
    f->count = 0;
    if (take(p, '<')) {
      f->count = (int)number(p);
      expect(p, '>');
    }
    PtxRow row = new_rows(p->kernel, bytes, f->count ? f->count : 1);
    f->at = row.at;
    f->bytes = row.bytes;
  } while (take(p, ','));
  expect(p, ';');
}

/* `.align 16 .b8 NAME[2048]`: adds NAME to what *size counts so far. */
static void declare_array(Parser *p, size_t *size, uint64_t window, char *name) {
  char text[WORD];
  size_t align = 1;
  word(p, text);
  if (strcmp(text, ".align") == 0) {
    align = (size_t)number(p);
    word(p, text);
  }
  size_t bytes = (size_t)type_bytes(p, text);
  word(p, name);
  if (take(p, '[')) {
    skip_space(p);
    bytes *= *p->at == ']' ? 0 : (size_t)number(p);
    expect(p, ']');
  }
  *size = (*size + align - 1) / align * align;
  if (p->symbols == MAX_NAMES) PANIC(p, "no room for %s", name);
  Symbol *s = &p->symbol[p->symbols++];
  strcpy(s->name, name);
  s->address = window + *size;
  *size += bytes;
}

/* ---- operands ---- */

static PtxRow constant(Parser *p, int bytes, uint64_t value, bool is_dynamic) {
  PtxKernel *k = p->kernel;
  for (int i = 0; i < k->constant_count; i++) {
    const PtxConstant *c = &k->constants[i];
    if (c->value == value && c->row.bytes == bytes && c->is_dynamic == is_dynamic) return c->row;
  }
  k->constants = more(k->constants, k->constant_count, &k->constant_capacity, sizeof *k->constants);
  PtxConstant *c = &k->constants[k->constant_count++];
  *c = (PtxConstant){new_rows(k, bytes, 1), value, is_dynamic};
  return c->row;
}

static bool find_register(const Parser *p, const char *name, PtxRow *row) {
  size_t length = strlen(name), digits = length;
  while (digits > 0 && isdigit((unsigned char)name[digits - 1])) digits--;
  for (int i = p->families - 1; i >= 0; i--) {
    const Family *f = &p->family[i];
    int number = atoi(name + digits);
    bool single = f->count == 0 && strcmp(f->prefix, name) == 0;
    bool member = f->count > 0 && digits < length && strlen(f->prefix) == digits &&
                  memcmp(f->prefix, name, digits) == 0 && number < f->count;
    if (!single && !member) continue;
    uint32_t size = f->bytes == 8 ? 8 * LANES : f->bytes ? 4 * LANES : 4;
    *row = (PtxRow){f->at + (member ? (uint32_t)number * size : 0), f->bytes};
    return true;
  }
  return false;
}

static bool find_special(const Parser *p, const char *name, PtxRow *row) {
  static const char *const specials[] = {"%tid.", "%ntid.", "%ctaid.", "%nctaid."};
  for (int i = 0; i < SPECIALS; i++) {
    size_t length = strlen(specials[i]);
    if (strncmp(name, specials[i], length) || !name[length] || !strchr("xyz", name[length])) continue;
    *row = p->kernel->special[i][name[length] - 'x'];
    return true;
  }
  return false;
}

/* An address that a name stands for: of a parameter, an array of the kernel or one of the module. */
static bool find_address(const Parser *p, const char *name, uint64_t *address, bool *is_dynamic) {
  const PtxKernel *k = p->kernel;
  const PtxModule *m = k->module;
  size_t length = strlen(k->name);
  *is_dynamic = *m->dynamic_shared && strcmp(name, m->dynamic_shared) == 0;
  *address = 0;
  if (*is_dynamic) return true;
  if (strncmp(name, k->name, length) == 0 && strncmp(name + length, "_param_", 7) == 0) {
    *address = k->param_offset[atoi(name + length + 7)];
    return true;
  }
  for (int i = p->symbols - 1; i >= 0; i--) {
    if (strcmp(p->symbol[i].name, name)) continue;
    *address = p->symbol[i].address;
    return true;
  }
  for (int i = 0; i < m->globals; i++) {
    if (strcmp(m->global[i].name, name)) continue;
    *address = MODULE_WINDOW + (uint64_t)i * sizeof m->global[i].bytes;
    return true;
  }
  return false;
}

static bool find_number(const char *text, int bytes, uint64_t *value) {
  char *end;
  if (strncmp(text, "0f", 2) == 0 || strncmp(text, "0d", 2) == 0)
    *value = strtoull(text + 2, &end, 16);
  else
    *value = *text == '-' ? (uint64_t)strtoll(text, &end, 0) : strtoull(text, &end, 0);
  if (bytes < 8) *value &= 0xffffffff;
  return end != text && !*end;
}

/* What a word says as an operand of so many bytes. */
static PtxRow operand_of(Parser *p, const char *text, int bytes) {
  PtxRow row;
  uint64_t value;
  bool is_dynamic = false;
  if (find_register(p, text, &row) || find_special(p, text, &row)) return row;
  if (find_number(text, bytes, &value) || find_address(p, text, &value, &is_dynamic))
    return constant(p, bytes, value, is_dynamic);
  PANIC(p, "unknown operand '%s'", text);
}

static void add_operand(Parser *p, PtxInstruction *x, PtxRow row) {
  if (x->operands == MAX_OPERANDS) PANIC(p, "more than %d operands", MAX_OPERANDS);
  x->operand[x->operands++] = row;
}

/* `[%rd1+16]`, `[NAME]`, `[NAME+8]`: the row of the address, and what is added to it. */
static PtxRow address_operand(Parser *p, int64_t *offset) {
  char text[WORD];
  word(p, text);
  PtxRow row = operand_of(p, text, 8);
  *offset = 0;
  if (take(p, '+')) *offset = number(p);
  expect(p, ']');
  return row;
}

/* All operands of an instruction, up to its ';': of these widths, the last for all that follow. Addresses go
 * where they stand; parts of vectors one by one. */
static void take_operands(Parser *p, PtxInstruction *x, const uint8_t width[WIDTHS]) {
  int addresses = 0;
  bool in_vector = false;
  while (!take(p, ';')) {
    if (take(p, '{')) in_vector = true;
    if (take(p, '[')) {
      if (addresses == 2) PANIC(p, "three addresses");
      add_operand(p, x, address_operand(p, &x->offset[addresses]));
      addresses++;
    } else {
      char text[WORD];
      word(p, text);
      if (!*text) PANIC(p, "expected an operand, found '%.20s'", p->at);
      int bytes = width[x->operands < WIDTHS ? x->operands : WIDTHS - 1];
      PtxRow row = operand_of(p, text, bytes == ANY ? 8 : bytes);
      if (bytes != ANY && ((row.bytes == 8) != (bytes == 8) || (row.bytes == 0) != (bytes == 0)))
        PANIC(p, "%s has %d bytes, expected %d", text, row.bytes, bytes);
      add_operand(p, x, row);
    }
    if (take(p, '}')) {
      if (!in_vector) PANIC(p, "a '}' without its '{'");
      in_vector = false;
    }
    if (!take(p, ',')) take(p, '|'); /* between a result and a predicate that goes with it */
  }
}

/* ---- instructions ---- */

typedef struct OpName {
  const char *name;
  PtxOp op;
  uint8_t width[WIDTHS]; /* bytes of its operands' lanes; 0: a predicate */
} OpName;

#define ALL_OF(n)                                                                                            \
  { n, n, n, n, n, n }
#define UNARY(name, D, A, result)   {#name, OP_##name, {sizeof(D), sizeof(A)}},
#define BINARY(name, D, A, result)  {#name, OP_##name, {sizeof(D), sizeof(A), sizeof(A)}},
#define SHIFT(name, D, result)      {#name, OP_##name, {sizeof(D), sizeof(D), 4}},
#define TERNARY(name, D, A, result) {#name, OP_##name, {sizeof(D), sizeof(A), sizeof(A), sizeof(A)}},
#define COMPARE(name, A, result)    {#name, OP_##name, {0, sizeof(A), sizeof(A)}},
static const OpName lanewise[] = {
#include "emulator/ptx_ops.h"
};
#undef UNARY
#undef BINARY
#undef SHIFT
#undef TERNARY
#undef COMPARE

static const OpName special[] = {
    {"fma.rm.f32", OP_fma_rm_f32, ALL_OF(4)},
    {"mad.wide.u32", OP_mad_wide_u32, {8, 4, 4, 8}},
    {"bfi.b32", OP_bfi_b32, ALL_OF(4)},
    {"bfi.b64", OP_bfi_b64, {8, 8, 8, 4, 4}},
    {"selp.b32", OP_selp_b32, {4, 4, 4, 0}},
    {"selp.u32", OP_selp_b32, {4, 4, 4, 0}},
    {"selp.s32", OP_selp_b32, {4, 4, 4, 0}},
    {"selp.f32", OP_selp_b32, {4, 4, 4, 0}},
    {"selp.b64", OP_selp_b64, {8, 8, 8, 0}},
    {"selp.u64", OP_selp_b64, {8, 8, 8, 0}},
    {"mov.pred", OP_mov_pred, ALL_OF(0)},
    {"not.pred", OP_not_pred, ALL_OF(0)},
    {"and.pred", OP_and_pred, ALL_OF(0)},
    {"or.pred", OP_or_pred, ALL_OF(0)},
    {"xor.pred", OP_xor_pred, ALL_OF(0)},
    {"cp.async.cg.shared.global", OP_copy_async, ALL_OF(4)},
    {"cp.async.wait_all", OP_copy_wait, ALL_OF(4)},
    {"ret", OP_return, ALL_OF(4)},
    {"bar.sync", OP_barrier, ALL_OF(4)},
    {"bar.red.or.pred", OP_barrier_or, {0, 4, 0}},
    {"bar.warp.sync", OP_warp_barrier, ALL_OF(4)},
    {"shfl.sync.idx.b32", OP_shuffle_idx, {4, 0, 4, 4, 4, 4}},
    {"shfl.sync.bfly.b32", OP_shuffle_bfly, {4, 0, 4, 4, 4, 4}},
    {"vote.sync.ballot.b32", OP_ballot, {4, 0, 4}},
    {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", OP_mma, ALL_OF(4)},
    {"ldmatrix.sync.aligned.m8n8.x4.shared.b16", OP_ldmatrix, ALL_OF(4)},
    {"ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", OP_ldmatrix_trans, ALL_OF(4)},
};

/* Whether an instruction's name is that of a line of ptx_ops.h, which has _ for its dots. */
static bool same_name(const char *ours, const char *name) {
  for (; *ours && *name; ours++, name++)
    if (*ours != (*name == '.' ? '_' : *name)) return false;
  return *ours == *name;
}

static const OpName *find_op(const char *name) {
  for (size_t i = 0; i < sizeof special / sizeof *special; i++)
    if (strcmp(special[i].name, name) == 0) return &special[i];
  for (size_t i = 0; i < sizeof lanewise / sizeof *lanewise; i++)
    if (same_name(lanewise[i].name, name)) return &lanewise[i];
  return NULL;
}

/* `ld.global.nc.v4.f32` and its like: space, registers and type. */
static void parse_access(Parser *p, PtxInstruction *x, const char *name) {
  static const struct {
    const char *name;
    PtxSpace space;
  } spaces[] = {
      {".global", SPACE_GLOBAL}, {".shared", SPACE_SHARED}, {".local", SPACE_LOCAL}, {".param", SPACE_PARAM}};
  const char *at = name + 2;
  int count = 1;
  x->op = name[0] == 'l' ? OP_load : OP_store;
  x->space = SPACE_GENERIC;
  for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
    size_t length = strlen(spaces[i].name);
    if (strncmp(at, spaces[i].name, length)) continue;
    x->space = spaces[i].space;
    at += length;
    break;
  }
  if (strncmp(at, ".nc", 3) == 0) at += 3;
  if (strncmp(at, ".v2", 3) == 0 || strncmp(at, ".v4", 3) == 0) {
    count = at[2] - '0';
    at += 3;
  }
  x->bytes = type_bytes(p, at);
  x->is_signed = at[1] == 's';
  take_operands(p, x, (const uint8_t[WIDTHS])ALL_OF(ANY));
  if (x->operands != count + 1) PANIC(p, "%s with %d operands", name, x->operands);
  if (x->op == OP_store) { /* registers first, as with loads */
    PtxRow address = x->operand[0];
    memmove(x->operand, x->operand + 1, (size_t)count * sizeof *x->operand);
    x->operand[count] = address;
  }
}

static void parse_branch(Parser *p, PtxInstruction *x) {
  char name[WORD];
  word(p, name);
  expect(p, ';');
  x->op = OP_branch;
  if (p->jumps == MAX_LABELS || strlen(name) >= sizeof p->jump->name) PANIC(p, "no room for %s", name);
  strcpy(p->jump[p->jumps].name, name);
  p->jump[p->jumps++].instruction = p->kernel->instructions - 1;
}

/* `mov.b64 %rd1, %rd2`, `mov.b64 %rd1, {%r1, %r2}` or `mov.b64 {%r1, %r2}, %rd1`. */
static void parse_move(Parser *p, PtxInstruction *x, uint8_t bytes) {
  skip_space(p);
  bool unpacks = *p->at == '{';
  const char *end = p->at + strcspn(p->at, ";{");
  bool packs = !unpacks && *end == '{';
  x->op = unpacks ? OP_unpack : packs ? OP_pack : bytes == 8 ? OP_mov_b64 : OP_mov_b32;
  x->bytes = bytes / 2;
  const uint8_t part = bytes == 8 ? 4 : 2;
  if (unpacks)
    take_operands(p, x, (const uint8_t[WIDTHS]){part, part, bytes});
  else if (packs)
    take_operands(p, x, (const uint8_t[WIDTHS]){bytes, part, part});
  else
    take_operands(p, x, (const uint8_t[WIDTHS])ALL_OF(bytes));
}

static PtxInstruction *next_instruction(Parser *p) {
  PtxKernel *k = p->kernel;
  k->code = more(k->code, k->instructions, &k->instruction_capacity, sizeof *k->code);
  PtxInstruction *x = &k->code[k->instructions++];
  *x = (PtxInstruction){.line = p->line};
  return x;
}

/* A conversion may take the lower half of a register twice as wide: an instruction of its own here. */
static void narrow(Parser *p, const uint8_t width[WIDTHS]) {
  PtxInstruction *second = next_instruction(p), *first = second - 1;
  *second = *first;
  if (first->operand[0].bytes == 8 ? width[0] != 8 : width[0] == 8) PANIC(p, "a conversion to another width");
  if (first->operand[1].bytes != 8 || width[1] == 8) {
    p->kernel->instructions--;
    return;
  }
  first->op = OP_cvt_u32_u64;
  first->operand[0] = new_rows(p->kernel, 4, 1);
  second->operand[1] = first->operand[0];
}

static void parse_instruction(Parser *p, const char *first) {
  char name[WORD];
  strcpy(name, first);
  PtxInstruction *x = next_instruction(p);
  if (*p->at == '@') {
    p->at++;
    x->unless = take(p, '!');
    word(p, name);
    if (!find_register(p, name, &x->guard)) PANIC(p, "unknown predicate %s", name);
    x->guarded = true;
    word(p, name);
  }
  if (strcmp(name, "bra") == 0 || strcmp(name, "bra.uni") == 0) {
    parse_branch(p, x);
    return;
  }
  if (strncmp(name, "ld.", 3) == 0 || strncmp(name, "st.", 3) == 0) {
    parse_access(p, x, name);
    return;
  }
  if (strcmp(name, "mov.b32") == 0 || strcmp(name, "mov.b64") == 0) {
    parse_move(p, x, name[5] == '3' ? 4 : 8);
    return;
  }
  const OpName *found = find_op(name);
  if (!found) PANIC(p, "unknown instruction %s", name);
  x->op = found->op;
  if (strncmp(name, "cvt.", 4)) {
    take_operands(p, x, found->width);
  } else {
    take_operands(p, x, (const uint8_t[WIDTHS])ALL_OF(ANY));
    narrow(p, found->width);
  }
}

/* ---- a kernel ---- */

static void finish_jumps(Parser *p) {
  for (int i = 0; i < p->jumps; i++) {
    int target = -1;
    for (int j = 0; j < p->labels && target < 0; j++)
      if (strcmp(p->label[j].name, p->jump[i].name) == 0) target = p->label[j].instruction;
    if (target < 0) PANIC(p, "no label %s", p->jump[i].name);
    p->kernel->code[p->jump[i].instruction].target = target;
  }
}

/* A label, when one is next; else its word is an instruction's. */
static bool take_label(Parser *p, const char *name) {
  if (*name != '$' || !take(p, ':')) return false;
  if (p->labels == MAX_LABELS || strlen(name) >= sizeof p->label->name) PANIC(p, "no room for %s", name);
  strcpy(p->label[p->labels].name, name);
  p->label[p->labels++].instruction = p->kernel->instructions;
  return true;
}

static void take_statement(Parser *p) {
  PtxKernel *k = p->kernel;
  char text[WORD], name[WORD];
  skip_space(p);
  if (*p->at == '@') {
    parse_instruction(p, "");
    return;
  }
  word(p, text);
  if (strcmp(text, ".reg") == 0) {
    declare_registers(p);
  } else if (strcmp(text, ".shared") == 0) {
    declare_array(p, &k->static_shared, SHARED_BEGIN, name);
    expect(p, ';');
  } else if (strcmp(text, ".local") == 0) {
    declare_array(p, &k->local_bytes, 0, name);
    expect(p, ';');
  } else if (strcmp(text, ".pragma") == 0) {
    p->at += strcspn(p->at, ";");
    expect(p, ';');
  } else if (!take_label(p, text)) {
    parse_instruction(p, text);
  }
}

static void parse_body(Parser *p) {
  int scopes[8], depth = 0; /* how many families there were where a '{' stood */
  expect(p, '{');
  for (;;) {
    if (take(p, '{')) {
      if (depth == 8) PANIC(p, "scopes too deep");
      scopes[depth++] = p->families;
    } else if (take(p, '}')) {
      if (depth == 0) return;
      p->families = scopes[--depth];
    } else {
      take_statement(p);
    }
  }
}

static void parse_kernel(PtxKernel *k) {
  Parser *p = calloc(1, sizeof *p);
  if (!p) abort();
  p->label = calloc(MAX_LABELS, sizeof *p->label);
  p->jump = calloc(MAX_LABELS, sizeof *p->jump);
  if (!p->label || !p->jump) abort();
  p->kernel = k;
  p->at = k->body;
  p->line = 1;
  for (const char *c = k->module->text; c < k->body; c++) p->line += *c == '\n';
  for (int i = 0; i < SPECIALS; i++)
    for (int axis = 0; axis < 3; axis++) k->special[i][axis] = new_rows(k, 4, 1);
  parse_body(p);
  finish_jumps(p);
  k->static_shared = (k->static_shared + 127) / 128 * 128;
  for (int i = 0; i < k->constant_count; i++)
    if (k->constants[i].is_dynamic) k->constants[i].value += SHARED_BEGIN + k->static_shared;
  k->parsed = true;
  if (getenv("EMULATED_GPU_STATS")) k->stats = stats_new(k->instructions);
  free(p->label);
  free(p->jump);
  free(p);
}

/* ---- a module ---- */

/* `.global .align 4 .b8 NAME[24] = {65, 144, ...};` */
static void take_global(Parser *p, PtxModule *m) {
  char name[WORD];
  size_t size = 0;
  declare_array(p, &size, 0, name);
  if (m->globals == MAX_GLOBALS) PANIC(p, "no room for %s", name);
  PtxGlobal *g = &m->global[m->globals++];
  if (size > sizeof g->bytes || strlen(name) >= sizeof g->name) PANIC(p, "%s is too long", name);
  strcpy(g->name, name);
  g->size = size;
  if (take(p, '=')) {
    expect(p, '{');
    for (size_t i = 0; i < size; i++) {
      g->bytes[i] = (unsigned char)number(p);
      take(p, ',');
    }
    expect(p, '}');
  }
  expect(p, ';');
}

static void take_params(Parser *p, PtxKernel *k) {
  char text[WORD];
  expect(p, '(');
  while (!take(p, ')')) {
    word(p, text);
    if (strcmp(text, ".param") || k->params == MAX_PARAMS) PANIC(p, "expected a .param, found %s", text);
    size_t size = k->params_bytes, align = 1;
    word(p, text);
    if (strcmp(text, ".align") == 0) {
      align = (size_t)number(p);
      word(p, text);
    }
    size_t bytes = (size_t)type_bytes(p, text);
    if (align < bytes) align = bytes;
    word(p, text);
    if (take(p, '[')) {
      bytes *= (size_t)number(p);
      expect(p, ']');
    }
    size = (size + align - 1) / align * align;
    k->param_offset[k->params] = size;
    k->param_bytes[k->params++] = bytes;
    k->params_bytes = size + bytes;
    take(p, ',');
  }
}

/* Passes over a body, whose text holds no brace but its own. */
static void skip_body(Parser *p) {
  int depth = 0;
  do {
    p->at += strcspn(p->at, "{}\n");
    if (!*p->at) PANIC(p, "a body that does not end");
    if (*p->at == '\n') p->line++;
    if (*p->at == '{') depth++;
    if (*p->at == '}') depth--;
    p->at++;
  } while (depth > 0);
}

static void take_entry(Parser *p, PtxModule *m, int *capacity) {
  char text[WORD];
  word(p, text);
  m->kernels = more(m->kernels, m->count, capacity, sizeof *m->kernels);
  PtxKernel *k = &m->kernels[m->count++];
  *k = (PtxKernel){.name = strdup(text), .module = m, .max_threads = 1024};
  take_params(p, k);
  for (;;) {
    skip_space(p);
    if (*p->at == '{') break;
    word(p, text);
    if (strcmp(text, ".maxntid") == 0) {
      k->max_threads = 1;
      do k->max_threads *= (int)number(p);
      while (take(p, ','));
    } else if (strcmp(text, ".minnctapersm") == 0) {
      number(p);
    } else {
      PANIC(p, "unknown directive '%s' of an entry", text);
    }
  }
  k->body = p->at;
  skip_body(p);
}

PtxModule *ptx_parse(const char *text) {
  PtxModule *m = calloc(1, sizeof *m);
  Parser *p = calloc(1, sizeof *p);
  int capacity = 0;
  char name[WORD];
  if (!m || !p) abort();
  m->text = strdup(text);
  p->at = m->text;
  p->line = 1;
  for (skip_space(p); *p->at; skip_space(p)) {
    word(p, name);
    if (strcmp(name, ".version") == 0 || strcmp(name, ".target") == 0 || strcmp(name, ".address_size") == 0) {
      p->at += strcspn(p->at, "\n");
    } else if (strcmp(name, ".global") == 0) {
      take_global(p, m);
    } else if (strcmp(name, ".extern") == 0) {
      size_t size = 0;
      word(p, name);                    /* .shared */
      declare_array(p, &size, 0, name); /* with [] */
      if (strlen(name) >= sizeof m->dynamic_shared) PANIC(p, "%s is too long", name);
      strcpy(m->dynamic_shared, name);
      expect(p, ';');
    } else if (strcmp(name, ".entry") == 0) {
      take_entry(p, m, &capacity);
    } else if (strcmp(name, ".visible") && strcmp(name, ".weak")) {
      PANIC(p, "unknown directive '%s' of a module", name);
    }
  }
  free(p);
  return m;
}

const PtxKernel *ptx_kernel(const PtxModule *m, const char *name) {
  for (int i = 0; i < m->count; i++) {
    if (strcmp(m->kernels[i].name, name)) continue;
    if (!m->kernels[i].parsed) parse_kernel(&m->kernels[i]);
    return &m->kernels[i];
  }
  return NULL;
}

int ptx_kernel_params(const PtxKernel *k) {
  return k->params;
}
size_t ptx_param_bytes(const PtxKernel *k, int param) {
  return k->param_bytes[param];
}
size_t ptx_param_offset(const PtxKernel *k, int param) {
  return k->param_offset[param];
}
size_t ptx_params_bytes(const PtxKernel *k) {
  return k->params_bytes;
}
size_t ptx_shared_bytes(const PtxKernel *k) {
  return k->static_shared;
}
int ptx_max_threads(const PtxKernel *k) {
  return k->max_threads;
}
