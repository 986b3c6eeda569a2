/* Merging an adapter into its base: W + scale * B A in fp32 (products summed over the rank in its order), rounded once
 * to the stored dtype. Every other tensor, and every shard without an adapted one, is copied byte for byte. Works on the names
 * of tensors alone, so it takes adapters of any model that peft names "base_model.model.NAME.lora_A.weight". */
#ifndef MODEL_MERGE_H
#define MODEL_MERGE_H

#include <stdint.h>

#include "base/error.h"

struct merge_report {
	int64_t tensors; /* of the model */
	int64_t changed; /* of them adapted (method full: taken over) */
	uint64_t bytes;  /* of weights written */
};

/* Writes the merged model into the directory out (made if missing): the base's shards under their names, its index,
 * config.json (without quantization_config, which plain weights contradict), generation config and tokenizer files.
 * Memory is constant: a tile of rows at a time, from the map. progress, when not NULL, gets bytes written and in all.
 * An adapter tensor without its partner or its base tensor, or of another shape, is an error that names it. */
int model_merge(const char *base, const char *adapter, const char *out,
		void (*progress)(uint64_t done, uint64_t all, void *arg), void *arg,
		struct merge_report *report, struct error *err);

#endif
