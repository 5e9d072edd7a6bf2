/* PTX on the CPU: what nvcc made of the kernels is parsed and run, a warp at a time, so that the CUDA half of
 * the program can be tested where there is no GPU. Instructions mean what "Parallel Thread Execution ISA"
 * says; only those that nvcc makes of this project's kernels are known (ptx_ops.h), and any other is named
 * and refused. Not a model of a chip's speed. */
#ifndef PTX_H
#define PTX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct PtxModule PtxModule; /* what one PTX text declares; read only once it is parsed */
typedef struct PtxKernel PtxKernel; /* an .entry of it */

/* Ends the program when the text holds what is not known. The text is not needed afterwards; a module stays
 * until the program ends, since launches that nobody waited for may need it. */
PtxModule *ptx_parse(const char *text);
/* NULL when there is none of that (mangled) name. */
const PtxKernel *ptx_kernel(const PtxModule *module, const char *name);

int ptx_kernel_params(const PtxKernel *kernel);
size_t ptx_param_bytes(const PtxKernel *kernel, int param);
size_t ptx_param_offset(const PtxKernel *kernel, int param); /* among the bytes of all of them */
size_t ptx_params_bytes(const PtxKernel *kernel);            /* of all of them */
size_t ptx_shared_bytes(const PtxKernel *kernel);            /* that it has besides what a launch gives it */
int ptx_max_threads(const PtxKernel *kernel);                /* of a block (.maxntid) */

/* With EMULATED_GPU_STATS in the environment, what each kernel that ran asked of memory, on stderr; and of
 * one whose (mangled) name holds its value, how often each line ran. */
void ptx_report(const PtxModule *module);

typedef struct PtxLaunch {
  unsigned grid[3], block[3];
  bool descending;       /* the blocks' order: the last one first */
  size_t dynamic_shared; /* bytes */
  const void *params;    /* ptx_params_bytes() of them */
} PtxLaunch;

/* Runs all blocks. On an access outside the device's memory and the like says what, and returns false:
 * what the other blocks and threads did so far stays done, as on a GPU. */
bool ptx_run(const PtxKernel *kernel, const PtxLaunch *launch, char *error, size_t error_size);

/* The host's address of `bytes` of device memory; NULL when not all of them are allocated. cudart.c has it.
 */
void *emulated_memory(uint64_t address, size_t bytes);

#endif
