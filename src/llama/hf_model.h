/* A model's weights and gradients <-> safetensors with Hugging Face names. */
#ifndef HF_MODEL_H
#define HF_MODEL_H

#include "io/safetensors.h"
#include "llama/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether an open set holds this config's model: every tensor of the parameter table is there with its shape.
 * A tensor that the model does not have is refused, but for what old checkpoints carry without need: rotary
 * frequencies, and the head of a tied model. */
bool hf_model_check(const Config *c, const SafeTensors *set, Error *e);

/* Fills the weights from an open set, after the same check; fp32, bf16 and fp16 are converted. */
bool hf_model_load(Model *m, const SafeTensors *set, Error *e);

/* Writes the weights to PATH in the run's storage type. *hash, if not NULL, becomes XXH3 of the file's bytes.
 */
bool hf_model_save(Model *m, const char *path, uint64_t *hash, Error *e);

/* The optimizer's tensors, for going on: `<name>.exp_avg` and `<name>.exp_avg_sq` in the moments' type; with
 * 8-bit moments their scales, `<name>.exp_avg.absmax` and `<name>.exp_avg_sq.absmax`; and `<name>.master` in
 * fp32 where there is a master copy. Loading asks for exactly these, bit for bit. */
bool hf_model_save_optimizer(Model *m, const char *path, uint64_t *hash, Error *e);
bool hf_model_load_optimizer(Model *m, const SafeTensors *set, Error *e);

/* Writes `loss` [1], `input_ids` and `labels` [A*B, T] (labels are the shifted targets, -1 = ignored),
 * of packed documents also `position_ids` (0 where one begins), and
 * every gradient under its Hugging Face name, all fp32, to PATH. */
bool hf_model_dump_gradients(Model *m, const char *path, double loss, const StepBatch *step, Error *e);

#ifdef __cplusplus
}
#endif
#endif
