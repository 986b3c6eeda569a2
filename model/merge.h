/* Merging an adapter into its base: W + scale * B A, computed in fp32 and rounded once. */
#ifndef MODEL_MERGE_H
#define MODEL_MERGE_H

#include "model/safetensors.h"

enum merge_dtype { MERGE_AS_STORED, MERGE_F32, MERGE_F16, MERGE_BF16 };

struct merge_report {
	uint64_t tensors; /* in the model */
	uint64_t changed; /* of these, how many the adapter changes */
	uint64_t bytes;   /* of weights written */
};

/* Reads the model in base and the PEFT adapter in adapter, and writes the merged model into out, an existing directory.
 *   LoRA: every base tensor NAME.weight for which the adapter has base_model.model.NAME.lora_A.weight (r, in) and lora_B (out,
 *     r) becomes W + lora_alpha / r * B A (lora_alpha / sqrt(r) with use_rslora); sums run over r in order, in fp32.
 *   Full: the tensors of the adapter's full_model.safetensors take the place of the base's (see model/adapter.h).
 * Other tensors are copied byte for byte, unless dtype asks for another one, to which all are then rounded once. All other
 * files of base are copied byte for byte; config.json's torch_dtype follows dtype. Constant memory beside the adapter.
 *
 * ERR_USAGE when a tensor of the adapter fits none of the base, has another shape than it needs, or the adapter uses what is
 * not supported (DoRA, rank_pattern, trained biases …): the message names it. */
int merge_adapter(const char *base, const char *adapter, enum merge_dtype dtype, const char *out,
		  struct merge_report *report, struct error *err);

/* Copies the files of a model's directory that are not weights, subdirectories left out: tokenizer, configuration, licences. */
int model_copy_files(const char *from, const char *to, struct error *err);
/* Sets torch_dtype ("float16" …) in to's config.json, in the place where it stands. */
int model_set_dtype(const char *dir, enum tensor_dtype dtype, struct error *err);

#endif
