/* Finds threads of a block that reach the same shared memory, one of them writing, with no barrier between
 * them. Between threads of one warp bar.warp.sync is a barrier; that they run in step is no one's to rely on.
 */
#ifndef PTX_RACES_H
#define PTX_RACES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Who reached two bytes last, and when. */
typedef struct RaceCell {
  uint32_t write_time, read_time;           /* barriers of the block that had passed then */
  uint32_t write_warp_time, read_warp_time; /* and of the warp */
  int16_t write_thread, read_thread, read_warp;
} RaceCell;

typedef struct RaceThread {
  int warp, lane;
  uint32_t time, warp_time; /* barriers that its block and its warp have passed */
} RaceThread;

/* Notes that a thread reads or writes the cells; false when that is a race. A time begins at 1: cells that
 * are all zero were reached by nobody. */
bool races_note(RaceCell *cells, size_t count, const RaceThread *thread, bool writes);

#endif
