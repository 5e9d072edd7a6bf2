/* A model in memory, and the passes of an optimizer step over it. */
#ifndef MODEL_H
#define MODEL_H

#include "dataloader.h" /* defines: StepBatch */
#include "llama/config.h"
#include "llama/params.h"
#include "llama/schedule.h"
#include "memory/arena.h"
#include "ops/adamw.h" /* defines: AdamW */

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Model {
  const Config *config;
  const Schedule *schedule;
  Device *dev;
  ParamTable params;
  Arena arena;
  float attention_scale;        /* factor of rope's cos and sin */
  double gradient_squares;      /* sum over the units that gradients_ready() was called for in this step */
  const AdamW *update;          /* of the step at hand, with UPDATE_LAYER */
  int64_t documents;            /* of the micro-batch at hand, where they are listed; else 0 */
  int64_t stopped_at;           /* unit whose gradient was not finite and ended the step, or NOT_STOPPED */
  int64_t layer_in_slot[SLOTS]; /* whose weights are in which slot of the schedule; NO_LAYER */
} Model;

enum { NOT_STOPPED = -1, NO_LAYER = -1 };

/* Takes the memory that the schedule planned. config, schedule and dev outlive the model. poison: for tests,
 * see arena_open. Weights are not set yet: model_init or hf_model_load does that. */
bool model_open(Model *m, const Config *c, const Schedule *s, Device *dev, bool poison, Error *e);
void model_close(Model *m);

/* Initial weights as the parameter table says, from `seed`. */
void model_init(Model *m, uint64_t seed);

/* The arrays of the step in the plan's host memory, for the loader to fill. A: micro-batches, at most the
 * schedule's. */
StepBatch model_step_batch(const Model *m, int64_t A);

/* Forward and backward of all micro-batches: gradients of the mean loss over the step's valid targets, in
 * fp32. Returns that mean (0 without a valid target). m->gradient_squares is then the squared norm of the
 * whole gradient.
 *
 * With UPDATE_LAYER every unit is updated on the way, as `update` says (else it is not looked at, and may be
 * NULL), and no gradient is left. A loss that is not finite then ends the step before any update, a gradient
 * that is not before the update of its unit (m->stopped_at); the arena stays at that moment. */
double model_forward_backward(Model *m, const StepBatch *step, const AdamW *update);

/* Forward only: the sum of the losses of the step's valid targets. */
double model_evaluate(Model *m, const StepBatch *step);

/* Micro-batch a of a step, as a step of its own whose valid targets are not counted. */
StepBatch model_micro_batch(const StepBatch *step, int64_t a);

/* The first part of every forward: a micro-batch from host arrays to the device (targets may be NULL), and
 * the stream [B*T, C] that goes into layer 0, which it returns. */
void *model_embed(Model *m, const StepBatch *micro);

/* Logits [n, V] fp32 on the host, of the last n of `rows` tokens of one sequence; rows <= T of the plan,
 * n <= rows of the head's chunk. */
void model_logits(Model *m, const int32_t *tokens, int64_t rows, int64_t n, float *logits);

/* Lets `n` more tokens of one text pass through the model, the first `at` of which were passed to it before;
 * at 0 a new text begins. Keys and values are kept, so that every token is computed once: at + n <= the
 * schedule's text. logits: [V] fp32 on the host, of the last token. A text does not outlive the next call of
 * another pass. */
void model_generate(Model *m, const int32_t *tokens, int64_t at, int64_t n, float *logits);

/* Floating-point operations of the matrix products in forward and backward of a step: attention's for the
 * pairs that see each other, recomputation not. */
double model_step_flops(const Config *c, const StepBatch *step);

/* A tensor of the parameter table, [rows, cols] of spec: on the device, or where the plan has its buffer. */
void *model_weight(const Model *m, int64_t unit, const ParamSpec *spec);
/* NULL when not training; with UPDATE_LAYER only between the unit's backward and its update, and with
 * OFFLOAD_GRADIENTS during its backward. */
float *model_gradient(const Model *m, int64_t unit, const ParamSpec *spec);
/* The whole step's gradient, for the update: on the host with OFFLOAD_GRADIENTS. */
float *model_step_gradient(const Model *m, int64_t unit, const ParamSpec *spec);
float *model_master(const Model *m, int64_t unit, const ParamSpec *spec); /* NULL without a master copy */
void *model_moment1(const Model *m, int64_t unit, const ParamSpec *spec); /* NULL when not training */
void *model_moment2(const Model *m, int64_t unit, const ParamSpec *spec);
/* The scales of a slice's 8-bit moments, [slice->blocks]; NULL with other moments. */
float *model_absmax1(const Model *m, int64_t unit, const HfSlice *slice);
float *model_absmax2(const Model *m, int64_t unit, const HfSlice *slice);

#ifdef __cplusplus
}
#endif
#endif
