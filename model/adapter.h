/* Adapter directories: what training gives and merge takes.
 *
 * LoRA, as peft 0.11.1 writes and reads it: adapter_model.safetensors with F32 tensors
 * "base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight" (rank, cols) and "…lora_B.weight" (rows, rank), and
 * adapter_config.json (json.dumps with indent 2 and sorted keys, no newline at the end; target_modules sorted, which
 * peft leaves to chance).
 *
 * Method full has no such format of its own. Ours: adapter_config.json with "peft_type": "FULL" (peft refuses it by name
 * instead of loading nothing), and full_model.safetensors with every trained tensor in fp32 under its name in the base
 * model. */
#ifndef MODEL_ADAPTER_H
#define MODEL_ADAPTER_H

#include "model/model.h"
#include "model/safetensors.h"

#define ADAPTER_CONFIG  "adapter_config.json"
#define ADAPTER_WEIGHTS "adapter_model.safetensors"
#define ADAPTER_FULL    "full_model.safetensors"

/* The name of A (b false) or B in adapter_model.safetensors. */
void lora_tensor_name(int layer, enum proj p, bool b, char *out, size_t size);

/* Writes both files of a LoRA adapter into dir (made if missing). base is base_model_name_or_path; dropout what it was
 * trained with. */
int adapter_write(const char *dir, const struct lora_set *s, const char *base, double dropout,
		  struct error *err);
/* The same for method full: m is WEIGHTS_F32. */
int adapter_write_full(const char *dir, struct model *m, const char *base, struct error *err);

/* An adapter directory opened for reading. */
struct adapter {
	bool full; /* peft_type FULL; then rank, alpha, scale and target mean nothing */
	int rank;
	double alpha;
	float scale;             /* alpha / rank, or alpha / sqrt(rank) with use_rslora */
	struct tensors *tensors; /* adapter_model.safetensors, or full_model.safetensors */
};

/* Reads the configuration and maps the weights. What peft can do and merge cannot (DoRA, rank_pattern, biases,
 * modules_to_save, fan_in_fan_out …) is an error that names the key. */
int adapter_open(const char *dir, struct adapter *out, struct error *err);
void adapter_close(struct adapter *a);
/* The adapter in memory beside a model of this config, without gradients: for generation with an unmerged adapter, and to
 * start training from one. A tensor that the model has no place for, or that is missing from a pair, is an error. */
int adapter_load(const char *dir, const struct model_config *c, struct lora_set **out, struct error *err);

#endif
