#include "memory/plan.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { NAME_BYTES = 48, ALIGNMENT = 256 };

typedef struct Buffer {
  char name[NAME_BYTES];
  PlanSpace space;
  PlanCategory category;
  int64_t bytes;  /* as declared */
  int64_t offset; /* within its space, after plan_pack */
  uint64_t *live; /* bit m: lives at moment m */
} Buffer;

struct Plan {
  char (*moments)[NAME_BYTES];
  int moment_count, moment_capacity;
  Buffer *buffers;
  int buffer_count, buffer_capacity;
  int64_t bytes[SPACE_COUNT];
};

static const char *const category_names[CAT_COUNT] = {
    "weights",     "master weights", "gradients",  "moments", "checkpoints", "kept activations",
    "activations", "mlp chunk",      "head chunk", "data",    "workspace",
};

static const char *const space_names[SPACE_COUNT] = {"device", "host"};

const char *plan_category_name(PlanCategory c) {
  return category_names[c];
}

static void *grow(void *p, int count, int *capacity, size_t size) {
  if (count < *capacity) return p;
  *capacity = *capacity ? 2 * *capacity : 64;
  p = realloc(p, (size_t)*capacity * size);
  CHECK(p, "out of memory for the memory plan");
  return p;
}

Plan *plan_new(void) {
  Plan *p = calloc(1, sizeof *p);
  CHECK(p, "out of memory for the memory plan");
  return p;
}

void plan_free(Plan *p) {
  if (!p) return;
  for (int i = 0; i < p->buffer_count; i++) free(p->buffers[i].live);
  free(p->buffers);
  free(p->moments);
  free(p);
}

int plan_moment(Plan *p, const char *format, ...) {
  CHECK(p->buffer_count == 0, "a moment after the first buffer");
  p->moments = grow(p->moments, p->moment_count, &p->moment_capacity, NAME_BYTES);
  va_list args;
  va_start(args, format);
  vsnprintf(p->moments[p->moment_count], NAME_BYTES, format, args);
  va_end(args);
  return p->moment_count++;
}

int plan_moments(const Plan *p) {
  return p->moment_count;
}
const char *plan_moment_name(const Plan *p, int moment) {
  return p->moments[moment];
}

static int live_words(const Plan *p) {
  return (p->moment_count + 63) / 64;
}

BufferId plan_buffer(Plan *p, PlanSpace space, PlanCategory category, int64_t bytes, const char *format,
                     ...) {
  CHECK(bytes >= 0, "a buffer of %lld bytes", (long long)bytes);
  p->buffers = grow(p->buffers, p->buffer_count, &p->buffer_capacity, sizeof *p->buffers);
  Buffer *b = &p->buffers[p->buffer_count];
  *b = (Buffer){.space = space, .category = category, .bytes = bytes};
  b->live = calloc((size_t)live_words(p), sizeof *b->live);
  CHECK(b->live, "out of memory for the memory plan");
  va_list args;
  va_start(args, format);
  vsnprintf(b->name, sizeof b->name, format, args);
  va_end(args);
  return p->buffer_count++;
}

void plan_live(Plan *p, BufferId id, int first, int last) {
  if (id == NO_BUFFER) return;
  CHECK(0 <= first && first <= last && last < p->moment_count, "%s lives from moment %d to %d",
        p->buffers[id].name, first, last);
  for (int w = first / 64; w <= last / 64; w++) {
    uint64_t from = w == first / 64 ? UINT64_MAX << first % 64 : UINT64_MAX;
    uint64_t to = w == last / 64 ? UINT64_MAX >> (63 - last % 64) : UINT64_MAX;
    p->buffers[id].live[w] |= from & to;
  }
}

void plan_live_always(Plan *p, BufferId id) {
  plan_live(p, id, 0, p->moment_count - 1);
}

bool plan_is_live(const Plan *p, BufferId id, int moment) {
  return p->buffers[id].live[moment / 64] >> (moment % 64) & 1;
}

int plan_buffers(const Plan *p) {
  return p->buffer_count;
}
const char *plan_buffer_name(const Plan *p, BufferId id) {
  return p->buffers[id].name;
}
int64_t plan_buffer_bytes(const Plan *p, BufferId id) {
  return p->buffers[id].bytes;
}
PlanSpace plan_buffer_space(const Plan *p, BufferId id) {
  return p->buffers[id].space;
}
int64_t plan_bytes(const Plan *p, PlanSpace space) {
  return p->bytes[space];
}
int64_t plan_offset(const Plan *p, BufferId id) {
  return p->buffers[id].offset;
}

/* Bytes that a buffer takes in its space: every buffer begins on an aligned offset. */
static int64_t taken(const Buffer *b) {
  return (b->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

int64_t plan_live_bytes(const Plan *p, PlanSpace space, PlanCategory c, int moment) {
  int64_t sum = 0;
  for (int i = 0; i < p->buffer_count; i++) {
    const Buffer *b = &p->buffers[i];
    if (b->space == space && b->category == c && plan_is_live(p, i, moment)) sum += taken(b);
  }
  return sum;
}

/* Adds to change[m] by how many bytes more the space needs at moment m than at the one before. */
static void add_changes(const Plan *p, const Buffer *b, int64_t *change) {
  uint64_t before = 0;
  for (int w = 0; w < live_words(p); w++) {
    uint64_t now = b->live[w], turns = now ^ (now << 1 | before);
    for (before = now >> 63; turns; turns &= turns - 1) {
      int bit = __builtin_ctzll(turns);
      change[64 * w + bit] += now >> bit & 1 ? taken(b) : -taken(b);
    }
  }
}

/* The planner asks this of thousands of plans: whole lives are counted, not moments of them. */
int64_t plan_peak(const Plan *p, PlanSpace space, int *moment) {
  int64_t peak = 0, sum = 0, *change = calloc((size_t)live_words(p) * 64 + 1, sizeof *change);
  CHECK(change, "out of memory for the memory plan");
  int at = 0;
  for (int i = 0; i < p->buffer_count; i++)
    if (p->buffers[i].space == space) add_changes(p, &p->buffers[i], change);
  for (int m = 0; m < p->moment_count; m++) {
    sum += change[m];
    if (sum > peak) peak = sum, at = m;
  }
  free(change);
  if (moment) *moment = at;
  return peak;
}

static bool share_a_moment(const Plan *p, const Buffer *a, const Buffer *b) {
  for (int w = 0; w < live_words(p); w++)
    if (a->live[w] & b->live[w]) return true;
  return false;
}

/* Larger first: small buffers then fill the holes between large ones. Ties in order of declaration. */
static int by_size(const void *a, const void *b) {
  const Buffer *x = *(Buffer *const *)a, *y = *(Buffer *const *)b;
  if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
  return x < y ? -1 : x > y;
}

void plan_pack(Plan *p) {
  size_t n = (size_t)p->buffer_count;
  Buffer **order = malloc((n + 1) * sizeof *order), **placed = malloc((n + 1) * sizeof *placed);
  CHECK(order && placed, "out of memory for the memory plan");
  for (int s = 0; s < SPACE_COUNT; s++) {
    size_t count = 0, placed_count = 0;
    for (size_t i = 0; i < n; i++)
      if (p->buffers[i].space == (PlanSpace)s) order[count++] = &p->buffers[i];
    qsort(order, count, sizeof *order, by_size);
    p->bytes[s] = 0;
    for (size_t i = 0; i < count; i++) {
      /* the lowest hole between those placed buffers, sorted by offset, that live at one of its moments */
      Buffer *b = order[i];
      int64_t at = 0;
      for (size_t j = 0; j < placed_count; j++) {
        if (!share_a_moment(p, b, placed[j])) continue;
        if (placed[j]->offset >= at + taken(b)) break;
        int64_t end = placed[j]->offset + taken(placed[j]);
        if (end > at) at = end;
      }
      b->offset = at;
      size_t k = placed_count++;
      for (; k > 0 && placed[k - 1]->offset > at; k--) placed[k] = placed[k - 1];
      placed[k] = b;
      if (at + taken(b) > p->bytes[s]) p->bytes[s] = at + taken(b);
    }
  }
  free(order);
  free(placed);
}

const char *bytes_text(char buf[32], int64_t bytes) {
  static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  double value = (double)bytes;
  int unit = 0;
  while (value >= 999.95 && unit < 5) value /= 1000, unit++;
  snprintf(buf, 32, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
  return buf;
}

/* Characters of a moment's name without the layer's number. */
static int phase_length(const char *name) {
  size_t n = strlen(name);
  while (n > 0 && isdigit((unsigned char)name[n - 1])) n--;
  while (n > 0 && name[n - 1] == ' ') n--;
  return (int)n;
}

static bool same_phase(const char *a, const char *b) {
  return phase_length(a) == phase_length(b) && strncmp(a, b, (size_t)phase_length(a)) == 0;
}

static int64_t live_at(const Plan *p, PlanSpace space, int moment) {
  int64_t sum = 0;
  for (int c = 0; c < CAT_COUNT; c++) sum += plan_live_bytes(p, space, (PlanCategory)c, moment);
  return sum;
}

/* The most that lives at the moments of a phase, which are those of all layers. */
static void print_phases(FILE *f, const Plan *p, PlanSpace space) {
  char text[32];
  for (int m = 0; m < p->moment_count; m++) {
    const char *name = p->moments[m];
    int before = 0;
    while (before < m && !same_phase(p->moments[before], name)) before++;
    if (before < m) continue;
    int64_t most = 0;
    for (int i = m; i < p->moment_count; i++) {
      int64_t bytes = same_phase(p->moments[i], name) ? live_at(p, space, i) : 0;
      if (bytes > most) most = bytes;
    }
    fprintf(f, "#   %-18.*s %10s\n", phase_length(name), name, bytes_text(text, most));
  }
}

void plan_print(FILE *f, const Plan *p) {
  char a[32], b[32];
  for (int s = 0; s < SPACE_COUNT; s++) {
    int at;
    int64_t peak = plan_peak(p, (PlanSpace)s, &at);
    if (!peak) continue;
    fprintf(f, "# %s memory %s, peak of live buffers %s at \"%s\":\n", space_names[s],
            bytes_text(a, p->bytes[s]), bytes_text(b, peak), p->moments[at]);
    for (int c = 0; c < CAT_COUNT; c++) {
      int64_t at_peak = plan_live_bytes(p, (PlanSpace)s, (PlanCategory)c, at), most = 0;
      for (int m = 0; m < p->moment_count; m++) {
        int64_t bytes = plan_live_bytes(p, (PlanSpace)s, (PlanCategory)c, m);
        if (bytes > most) most = bytes;
      }
      if (most)
        fprintf(f, "#   %-18s %10s at the peak, %10s at most\n", category_names[c], bytes_text(a, at_peak),
                bytes_text(b, most));
    }
    if (s != SPACE_DEVICE) continue;
    fprintf(f, "# by moment, the most of all layers:\n");
    print_phases(f, p, SPACE_DEVICE);
  }
}

static void json_lives(FILE *f, const Plan *p, BufferId id) {
  fputc('[', f);
  bool first = true;
  for (int m = 0; m < p->moment_count; m++) {
    if (!plan_is_live(p, id, m) || (m > 0 && plan_is_live(p, id, m - 1))) continue;
    int last = m;
    while (last + 1 < p->moment_count && plan_is_live(p, id, last + 1)) last++;
    fprintf(f, "%s[%d,%d]", first ? "" : ",", m, last);
    first = false;
  }
  fputc(']', f);
}

/* Names are made by this program from letters, digits, spaces and dots: nothing in them needs escaping. */
void plan_json(FILE *f, const Plan *p) {
  fprintf(f, "  \"spaces\": {");
  for (int s = 0; s < SPACE_COUNT; s++) {
    int at;
    int64_t peak = plan_peak(p, (PlanSpace)s, &at);
    fprintf(f, "%s\n    \"%s\": {\"bytes\": %lld, \"peak_live_bytes\": %lld, \"peak_moment\": %d}",
            s ? "," : "", space_names[s], (long long)p->bytes[s], (long long)peak, at);
  }
  fprintf(f, "\n  },\n  \"moments\": [");
  for (int m = 0; m < p->moment_count; m++) {
    fprintf(f, "%s\n    {\"name\": \"%s\"", m ? "," : "", p->moments[m]);
    for (int s = 0; s < SPACE_COUNT; s++) {
      fprintf(f, ", \"%s\": {", space_names[s]);
      bool first = true;
      for (int c = 0; c < CAT_COUNT; c++) {
        int64_t bytes = plan_live_bytes(p, (PlanSpace)s, (PlanCategory)c, m);
        if (!bytes) continue;
        fprintf(f, "%s\"%s\": %lld", first ? "" : ", ", category_names[c], (long long)bytes);
        first = false;
      }
      fputc('}', f);
    }
    fputc('}', f);
  }
  fprintf(f, "\n  ],\n  \"buffers\": [");
  for (int i = 0; i < p->buffer_count; i++) {
    const Buffer *b = &p->buffers[i];
    fprintf(f,
            "%s\n    {\"name\": \"%s\", \"space\": \"%s\", \"category\": \"%s\", \"bytes\": %lld, "
            "\"offset\": %lld, \"lives\": ",
            i ? "," : "", b->name, space_names[b->space], category_names[b->category], (long long)b->bytes,
            (long long)b->offset);
    json_lives(f, p, i);
    fputc('}', f);
  }
  fprintf(f, "\n  ]\n");
}
