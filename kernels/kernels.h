/* The numeric operations of training and inference, listed once in ops.h. A backend is one struct kernels:
 * the same operations on buffers of its own memory. Operations take explicit sizes, allocate nothing that the
 * caller sees and cannot fail; every reduction has an order that depends on shapes alone, so the same input
 * gives the same bytes whatever the number of threads. */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/matrix.h"
#include "kernels/philox.h"

/* The gate's activation of a gated MLP. */
enum gate {
	GATE_SILU,      /* x / (1 + exp(-x)) */
	GATE_GELU_ERF,  /* x/2 (1 + erf(x / sqrt 2)) */
	GATE_GELU_TANH, /* x/2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
};

/* Which inputs of one LoRA projection are dropped: element (t, c) when word c % 4 of
 * philox({c / 4, token[t], stream, step}, seed) is below p * 2^32. The others are scaled by 1 / (1 - p). */
struct dropout_mask {
	float p; /* 0 <= p < 1; 0 keeps all */
	uint64_t seed;
	uint32_t step, stream;
	const int32_t *token; /* (n): what row t is called in the counter */
};

/* Sequences packed back to back: sequence s holds queries [cu_q[s], cu_q[s + 1]) and keys [cu_k[s], cu_k[s +
 * 1]). Causal, aligned at the end: query i of a sequence sees its keys 0 … len_k - len_q + i; len_k >= len_q.
 */
struct attention {
	int sequences;
	const int32_t *cu_q, *cu_k; /* (sequences + 1); training: the same array */
	int heads, kv_heads; /* heads % kv_heads == 0; query head h reads kv head h / (heads / kv_heads) */
	int head_dim;
	float scale;
};

/* One AdamW update (Loshchilov & Hutter 2019, arXiv:1711.05101). */
struct adamw {
	float lr, beta1, beta2, eps, weight_decay;
	int64_t step;     /* 1 for the first update */
	float grad_scale; /* multiplies every gradient first: the clipping coefficient */
	bool decay_first; /* PyTorch: p *= 1 - lr * wd before the update; else bitsandbytes: after it */
};

#define OP(name) void(*name)
struct kernels {
	const char *name; /* "cpu" */
#include "kernels/ops.h"
};
#undef OP

extern const struct kernels kernels_cpu;

#endif
