/* config.json of a Hugging Face model directory, read strictly: an unknown architecture, a missing key or a
 * contradiction is an error that names the key, never a guess. Key names: transformers 4.51. */
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum arch {
	ARCH_LLAMA, /* "LlamaForCausalLM" */
	ARCH_GEMMA, /* "GemmaForCausalLM" (Gemma 1) */
};

enum activation {
	ACT_SILU,
	ACT_GELU_ERF,  /* x * 0.5 * (1 + erf(x / sqrt 2)): "gelu" */
	ACT_GELU_TANH, /* "gelu_pytorch_tanh" */
};

/* How "gelu" in a Gemma config is read (spec: transformers 4.51 takes hidden_act literally and computes erf; the
 * model was trained with tanh, which vLLM and gemma_pytorch use whatever the file says). */
enum gelu_choice {
	GELU_ARCHITECTURE /* tanh for Gemma: the default */,
	GELU_CONFIG /* as the file says: recipe codelab */
};

struct model_config {
	enum arch arch;
	int vocab_size, hidden_size, intermediate_size;
	int layers, heads, kv_heads, head_dim; /* heads % kv_heads == 0 */
	int max_positions;                     /* longest sequence, in tokens */
	float rms_norm_eps;
	float rope_theta;
	enum activation act;
	bool tie_embeddings; /* the vocabulary projection is the embedding */
	bool attention_bias; /* must be false for now: an error otherwise */
	float embed_scale;   /* Gemma: sqrt(hidden_size) in fp32; Llama: 1 */
	float norm_offset;   /* Gemma: 1 (weights are stored minus one); Llama: 0 */
	float attn_scale;    /* head_dim^-0.5 */
	int bos, pad;        /* token ids, -1: none */
	int eos[8], n_eos;   /* config.json's and generation_config.json's, without repeats */
};

/* Reads dir/config.json and, where present, dir/generation_config.json (eos ids). */
int model_config_read(const char *dir, enum gelu_choice gelu, struct model_config *out, struct error *err);
/* The number of weights (tied ones once). */
int64_t model_config_parameters(const struct model_config *c);

#endif
