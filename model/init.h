/* A randomly initialised model of a given shape: for quickstarts and tests. */
#ifndef MODEL_INIT_H
#define MODEL_INIT_H

#include "model/config.h"

struct model_init {
	/* vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, max_positions, rms_norm_eps,
	 * rope_theta, act, tie_embeddings, bos, pad and eos are used; what follows from the architecture is not. */
	struct model_config config;
	double initializer_range; /* standard deviation of matrices and embeddings: transformers' default is 0.02 */
	bool bf16;                /* stored as bf16, else fp32 */
	uint64_t seed;
};

/* Writes config.json, generation_config.json and model.safetensors into dir (made if missing). Norm weights are 1, or 0
 * for Gemma, which stores them minus one.
 *
 * Other weights: range times a sum of twelve uniform numbers minus 6 (Irwin-Hall: mean 0, variance 1, nothing beyond
 * 6), from Philox-4x32-10 with key seed and counter (element, 3 words each, tensor). The sum is exact in integers, so
 * that the bytes are the same on every machine, which a logarithm and a cosine of the C library would not promise. */
int model_init_write(const struct model_init *init, const char *dir, struct error *err);

#endif
