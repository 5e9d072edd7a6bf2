/* What kernels ask of a chip's memory, counted: how well the 32-byte sectors that they touch are used, and
 * how often lanes that want different words of one bank of shared memory wait for each other. */
#ifndef PTX_STATS_H
#define PTX_STATS_H

#include <stddef.h>
#include <stdint.h>

typedef struct PtxStats {
  int64_t launches, instructions; /* of warps */
  int64_t *times;                 /* that each instruction of the kernel was one of these */
  int64_t bytes, sectors;         /* of global memory, loaded and stored */
  int64_t turns, least_turns;     /* of shared memory, and if no two lanes met in a bank */
} PtxStats;

/* Of a kernel of so many instructions, nothing counted. */
PtxStats *stats_new(int instructions);

/* One access of a warp: `bytes` at each address of the lanes in `mask`. */
void stats_global(PtxStats *s, const uint64_t address[32], uint32_t mask, size_t bytes);
void stats_shared(PtxStats *s, const uint64_t address[32], uint32_t mask, size_t bytes);

#endif
