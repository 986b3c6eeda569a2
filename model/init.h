/* A randomly initialised small model, for quickstarts and tests. */
#ifndef MODEL_INIT_H
#define MODEL_INIT_H

#include <stdint.h>

#include "model/config.h"

struct init_options {
	enum arch arch;
	int vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, max_positions;
	float initializer_range; /* standard deviation of every matrix; norms start as the identity */
	uint64_t seed;
	int bos, eos, pad;
};

/* Writes config.json, generation_config.json and model.safetensors (fp32) into dir, which must exist. The values are sums of
 * twelve uniform integers from Philox (Irwin-Hall; variance 1), scaled once: integer arithmetic and one rounding, so the
 * same seed gives the same bytes on every machine, which no libm promises. Tokenizer files are the caller's. ERR_USAGE for
 * sizes that contradict each other. */
int model_init(const char *dir, const struct init_options *o, struct error *err);

#endif
