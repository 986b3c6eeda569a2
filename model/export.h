/* Laying a model out the way transformers' save_pretrained does, so that transformers and vLLM load it: shards packed in
 * the order of state_dict (huggingface_hub's rule), an index, configuration, tokenizer files and a model card. */
#ifndef MODEL_EXPORT_H
#define MODEL_EXPORT_H

#include <stdint.h>

#include "base/error.h"

enum export_dtype { EXPORT_AS_STORED, EXPORT_BF16, EXPORT_F16, EXPORT_F32 };

/* README.md: front matter from the first three, then the text. Any may be NULL. */
struct model_card {
	const char *name;       /* heading */
	const char *base_model; /* "google/gemma-2b" */
	const char *dataset;    /* "b-mc2/sql-create-context" */
	const char *license;    /* Hub identifier, "gemma" */
	const char *text;       /* Markdown */
};

struct export_options {
	uint64_t max_shard_size; /* bytes of tensors in a file; 0: 5e9, transformers' "5GB" */
	enum export_dtype dtype;
	struct model_card card;
};

struct export_report {
	int64_t tensors, shards;
	uint64_t bytes; /* of weights: the index's total_size */
	int64_t tied;   /* 1 when a tied lm_head was left out */
};

/* Writes dir out (made if missing) from the model directory from: model.safetensors, or model-0000X-of-0000Y.safetensors
 * and model.safetensors.index.json. A tied lm_head is left out (ERR_USAGE when it differs from the embedding). config.json is
 * copied byte for byte but for torch_dtype (or dtype) when the dtype changes; generation_config.json is copied, or made from
 * the config's token ids; other files byte for byte. A value that the new dtype cannot hold is an error that names the
 * tensor. At the end the directory is opened and checked: every tensor is there exactly once. */
int model_export(const char *from, const char *out, const struct export_options *o,
		 void (*progress)(uint64_t done, uint64_t all, void *arg), void *arg,
		 struct export_report *report, struct error *err);

#endif
