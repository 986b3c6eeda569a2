/* The scratch memory of a whole pass: the largest that one of its operations takes. */
#include "kernels/cuda/plan.h"

#include "kernels/cuda/attention.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/scratch.h"

static void most(size_t *at, size_t size)
{
	if (size > *at)
		*at = size;
}

size_t cuda_scratch_for(const struct device *base, const struct pass_shape *s)
{
	const struct cuda_device *d = (const struct cuda_device *)base;
	int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim, h = s->hidden, f = s->intermediate;
	/* Products of a layer, q, k and v and gate and up together and apart: (rows, cols). */
	const int shapes[][2] = {{q + 2 * kv, h}, {q, h}, {kv, h}, {h, q}, {2 * f, h}, {f, h}, {h, f}};
	const struct attention attention = {.sequences = s->sequences,
					    .queries = s->tokens,
					    .max_q = s->tokens,
					    .max_k = s->max_keys,
					    .heads = s->heads,
					    .kv_heads = s->kv_heads,
					    .head_dim = s->head_dim,
					    .q_stride = q + 2 * kv,
					    .k_stride = s->train ? q + 2 * kv : kv};
	size_t all = attention_scratch_bound(d, &attention), weights = 0;

	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		int rows = shapes[i][0], cols = shapes[i][1];

		most(&all, product_scratch_bound(d, s->tokens, rows, cols, s->weights));
		if (s->rank)
			most(&all, lora_scratch_bound(d, s->tokens, rows, cols, s->rank, LORA_PARTS));
		weights += (size_t)rows * (size_t)cols;
	}
	most(&all, product_scratch_bound(d, s->logits, s->vocab, h, base->act));
	if (s->full)
		most(&all, product_scratch_bound(d, s->logits, s->vocab, h, DTYPE_F32));
	most(&all, cross_entropy_scratch_bound(d, s->logits, s->vocab));
	if (s->train) {
		most(&all, rmsnorm_scratch_bound(s->tokens, h));
		most(&all, sum_squares_scratch_bound(weights + (size_t)s->vocab * (size_t)h));
	}
	return all;
}
