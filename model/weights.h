/* The tensors that a model of a given config consists of, in the order of transformers' state_dict:
 * model.embed_tokens, per layer q k v o gate up down and the two norms, model.norm, and lm_head when it is
 * not tied. */
#ifndef MODEL_WEIGHTS_H
#define MODEL_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#include "model/model.h"
#include "model/safetensors.h"

enum weight_kind {
	WEIGHT_EMBED,
	WEIGHT_PROJ,
	WEIGHT_INPUT_NORM,
	WEIGHT_POST_NORM,
	WEIGHT_FINAL_NORM,
	WEIGHT_LM_HEAD
};

struct weight {
	enum weight_kind kind;
	int layer;      /* WEIGHT_PROJ and the layer's norms; else 0 */
	enum proj proj; /* WEIGHT_PROJ */
	int rows, cols; /* (rows, cols), or a vector (rows) when cols is 0 */
	char name[96];  /* "model.layers.3.self_attn.q_proj.weight" */
};

/* How many there are. */
size_t weight_count(const struct model_config *c);
/* The i-th, i < weight_count. */
struct weight weight_at(const struct model_config *c, size_t i);
/* Elements of w. */
size_t weight_elements(const struct weight *w);

/* The tensor for w. Missing or of another shape: ERR_USAGE that names it, with expected and found; where is
 * the directory, for messages. */
const struct tensor *weight_find(const struct tensors *t, const struct weight *w, const char *where,
				 struct error *err);
/* Fails with ERR_USAGE at a tensor of t that a model of this config has no place for. lm_head of a tied model
 * and rotary_emb.inv_freq (old Llama files) are left over from training and allowed. */
int weights_check_extra(const struct tensors *t, const struct model_config *c, const char *where,
			struct error *err);

/* Was m opened as WEIGHTS_F32? Only then do its matrices stand in memory of its own. */
bool model_writable(const struct model *m);
/* Where w stands in such a model, to be written. */
float *model_weight_f32(struct model *m, const struct weight *w);

/* What tensor dtypes are as matrices: F32, BF16 and F16; ERR_USAGE for others. */
int tensor_matrix_dtype(const struct tensor *t, enum dtype *out, struct error *err);

#endif
