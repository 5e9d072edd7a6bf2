/* Hugging Face config.json <-> Config. */
#ifndef HF_CONFIG_H
#define HF_CONFIG_H

#include "base/dtype.h"
#include "llama/config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Reads DIR/config.json as transformers 4 (rope_theta, rope_scaling, torch_dtype) or 5 (rope_parameters,
 * dtype) writes it. Refuses an unsupported model_type, activation, rope type or absurd sizes, naming key,
 * found and expected. */
bool hf_config_read(Config *c, const char *dir, Error *e);

/* Writes DIR/config.json for what the model is now: c->source_json's keys are kept, those that Config knows
 * are brought up to date (rope changes in both spellings' place: the one the source used; a new file is
 * written so that transformers 4 and 5 both read it). dtype: of the saved weights. */
bool hf_config_write(const Config *c, DType dtype, const char *dir, Error *e);

#ifdef __cplusplus
}
#endif
#endif
