/* The numeric operations of training and inference, listed once in ops.h. A backend is one struct kernels: the same
 * operations on the memory of its kind of device. Operations take explicit sizes, allocate nothing that the caller sees
 * and cannot fail where they are called (a GPU's failures are told by the next device_wait); every reduction has an
 * order that depends on shapes alone, so the same input gives the same bytes on the same kind of device, whatever the
 * number of threads. */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"
#include "kernels/matrix.h"
#include "kernels/philox.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The gate's activation of a gated MLP. */
enum gate {
	GATE_SILU,      /* x / (1 + exp(-x)) */
	GATE_GELU_ERF,  /* x/2 (1 + erf(x / sqrt 2)) */
	GATE_GELU_TANH, /* x/2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
};

/* What a product does with its result: write or add to activations, write or add to fp32. */
enum store { STORE_ACT, ADD_ACT, STORE_F32, ADD_F32 };

/* Which inputs of LoRA projections are dropped: element (t, c) when word c % 4 of
 * philox({c / 4, token[t], stream, *step}, seed) is below p * 2^32. The others are scaled by 1 / (1 - p). */
struct dropout_mask {
	float p; /* 0 <= p < 1; 0 keeps all */
	uint64_t seed;
	const uint32_t *step; /* (1), in the device's memory: a recording replays with what it holds then */
	const int32_t *token; /* (n), likewise: what row t is called in the counter */
};

/* The adapter of one projection: y[:, at …] += scale * B (A dropout(x)). Pointers into the device's memory. */
struct lora_part {
	const float *a, *b;     /* (rank, cols), (rows, rank) */
	float *grad_a, *grad_b; /* the same shapes: lora_grad adds to them */
	float *xa;              /* (rank, n): A dropout(x), which lora saves for lora_grad */
	int rows, rank;
	int at;          /* column of y where its rows begin */
	uint32_t stream; /* of its dropout */
};

#define LORA_PARTS 3 /* at most this many adapters share an input: q, k, v */

/* Sequences packed back to back: sequence s holds queries [cu_q[s], cu_q[s + 1]) and the keys and values in rows
 * [k_begin[s], k_end[s]) of k and v. Training: k_begin is cu_q and k_end cu_q + 1. Causal, aligned at the end: query i
 * of a sequence sees its keys 0 … len_k - len_q + i; len_k >= len_q. A sequence may be empty. The arrays are in the
 * device's memory; like them, keys and values of the tokens before a sequence's queries are inputs of the pass, which no operation
 * of it writes. */
struct attention {
	int sequences;
	const int32_t *cu_q;            /* (sequences + 1) */
	const int32_t *k_begin, *k_end; /* (sequences) */
	/* cu_q[sequences], and bounds: no sequence has more queries, or keys. What is launched depends on these alone,
	 * so that a recording holds for other sequences within them. */
	int queries, max_q, max_k;
	int heads, kv_heads; /* heads % kv_heads == 0; query head h reads kv head h / (heads / kv_heads) */
	int head_dim;        /* a GPU with 16-bit activations: a multiple of 16, at most 256 */
	int q_stride;        /* elements between rows of q and of dq */
	int k_stride;        /* of k, v, dk and dv */
	float scale;
	float softcap; /* scores become softcap * tanh(score / softcap) (Gemma 2); 0: they stay */
	int window;    /* a query sees only the last so many keys up to its own; 0: all of them */
};

/* One AdamW update (Loshchilov & Hutter 2019, arXiv:1711.05101). */
struct adamw {
	float lr, beta1, beta2, eps, weight_decay;
	int64_t step;     /* 1 for the first update */
	float grad_scale; /* multiplies every gradient first: the clipping coefficient over the loss scale */
	bool decay_first; /* PyTorch: p *= 1 - lr * wd before the update; else bitsandbytes: after it */
};

#define OP(name) void(*name)
struct kernels {
	const char *name; /* "cpu", "cuda-bf16" … */
#include "kernels/ops.h"
};
#undef OP

extern const struct kernels kernels_cpu;
/* One table per dtype of activations, in builds with CUDA. */
extern const struct kernels kernels_cuda_f32, kernels_cuda_bf16, kernels_cuda_f16;

#ifdef __cplusplus
}
#endif
#endif
