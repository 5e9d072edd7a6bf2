/* The memory plan: every buffer of a run with its size and the moments of the step at which it lives. It is
 * made before anything is allocated; the arena is carved from it, --plan prints it, and the tests hold the
 * run to it.
 *
 * A moment is a phase of the optimizer step ("backward mlp 3"), numbered in the order in which the step
 * passes through them. Buffers that never live at the same moment may share their bytes. */
#ifndef PLAN_H
#define PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum PlanSpace { SPACE_DEVICE, SPACE_HOST, SPACE_COUNT } PlanSpace;

/* What a buffer is for; one row of the memory table each. */
typedef enum PlanCategory {
  CAT_WEIGHTS,
  CAT_MASTER,
  CAT_GRADIENTS,
  CAT_MOMENTS,
  CAT_CHECKPOINTS, /* layer inputs held for the backward */
  CAT_KEPT,        /* other activations held from a layer's forward to its backward */
  CAT_ACTIVATIONS, /* activations of the layer at hand */
  CAT_MLP,         /* the MLP's chunk */
  CAT_HEAD,        /* the LM head's chunk */
  CAT_DATA,        /* tokens, targets, losses */
  CAT_WORKSPACE,   /* scratch of the operations, staging of files */
  CAT_COUNT,
} PlanCategory;

const char *plan_category_name(PlanCategory c);

typedef struct Plan Plan;
typedef int BufferId; /* index of a buffer in its plan */
enum { NO_BUFFER = -1 };

Plan *plan_new(void);
void plan_free(Plan *p);

/* Appends a moment and returns its number. All moments come before the first buffer. */
int plan_moment(Plan *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
int plan_moments(const Plan *p);
const char *plan_moment_name(const Plan *p, int moment);

/* Declares a buffer that lives nowhere yet; a buffer of 0 bytes is allowed and takes nothing. */
BufferId plan_buffer(Plan *p, PlanSpace space, PlanCategory category, int64_t bytes, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* The buffer lives (also) from moment `first` to moment `last`, both included. NO_BUFFER is ignored. */
void plan_live(Plan *p, BufferId id, int first, int last);
/* The buffer lives at every moment. */
void plan_live_always(Plan *p, BufferId id);

bool plan_is_live(const Plan *p, BufferId id, int moment);
int plan_buffers(const Plan *p);
const char *plan_buffer_name(const Plan *p, BufferId id);
int64_t plan_buffer_bytes(const Plan *p, BufferId id);
PlanSpace plan_buffer_space(const Plan *p, BufferId id);

/* Largest sum of live bytes over the moments: the least that the space needs. */
int64_t plan_peak(const Plan *p, PlanSpace space, int *moment);
/* Live bytes of a category at a moment. */
int64_t plan_live_bytes(const Plan *p, PlanSpace space, PlanCategory c, int moment);

/* Gives every buffer its offset. After this, plan_bytes() is what the space takes: at least the peak, and
 * more by the holes that this way of packing leaves (see plan.c). */
void plan_pack(Plan *p);
int64_t plan_bytes(const Plan *p, PlanSpace space);
int64_t plan_offset(const Plan *p, BufferId id);

/* The tables by category, at the peak and at most, and by moment. */
void plan_print(FILE *f, const Plan *p);
/* The whole plan: moments, buffers with lives and offsets, peaks; the members of a JSON object, without its
 * braces. */
void plan_json(FILE *f, const Plan *p);

/* "12.3 GB", "512 B": powers of ten. Returns buf. */
const char *bytes_text(char buf[32], int64_t bytes);

#ifdef __cplusplus
}
#endif
#endif
