#include "emulator/ptx_races.h"

enum { SEVERAL = -1, LANES = 32 };

/* Whether what `thread` did at `time` is known to be over. */
static bool ordered(const RaceThread *t, uint32_t time, uint32_t warp_time, int warp, int thread) {
  if (time < t->time) return true;
  if (warp != t->warp) return false;
  return warp_time < t->warp_time || thread == t->warp * LANES + t->lane;
}

static void note_read(RaceCell *c, const RaceThread *t) {
  int thread = t->warp * LANES + t->lane;
  if (c->read_time < t->time) {
    c->read_warp = (int16_t)t->warp;
    c->read_thread = (int16_t)thread;
  } else if (c->read_warp != t->warp) {
    c->read_warp = SEVERAL;
  } else if (c->read_warp_time < t->warp_time) {
    c->read_thread = (int16_t)thread;
  } else if (c->read_thread != thread) {
    c->read_thread = SEVERAL;
  }
  c->read_time = t->time;
  c->read_warp_time = t->warp_time;
}

bool races_note(RaceCell *cells, size_t count, const RaceThread *t, bool writes) {
  bool whole = true;
  for (size_t i = 0; i < count; i++) {
    RaceCell *c = &cells[i];
    whole &= ordered(t, c->write_time, c->write_warp_time, c->write_thread / LANES, c->write_thread);
    if (writes) {
      whole &= ordered(t, c->read_time, c->read_warp_time, c->read_warp, c->read_thread);
      c->write_time = t->time;
      c->write_warp_time = t->warp_time;
      c->write_thread = (int16_t)(t->warp * LANES + t->lane);
    } else {
      note_read(c, t);
    }
  }
  return whole;
}
