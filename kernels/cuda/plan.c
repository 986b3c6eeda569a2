/* The scratch memory of a whole pass: the largest that one of its operations takes. A pass may have fewer tokens than the
 * shape says, and some operations take more scratch then, since what is small is cut into more parts. */
#include "kernels/cuda/plan.h"

#include "kernels/cuda/attention.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/scratch.h"

static void most(size_t *at, size_t size)
{
	if (size > *at)
		*at = size;
}

static int smaller(int a, int b)
{
	return a < b ? a : b;
}

static size_t attention_most(const struct cuda_device *d, const struct pass_shape *s)
{
	int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
	struct attention a = {.max_k = s->max_keys,
			      .heads = s->heads,
			      .kv_heads = s->kv_heads,
			      .head_dim = s->head_dim,
			      .q_stride = q + 2 * kv,
			      .k_stride = s->train ? q + 2 * kv : kv};
	size_t all = 0;

	/* Of so many queries, those of one sequence make the fewest tiles, and so the most parts. */
	for (int n = 1; n <= s->tokens; n++) {
		a.sequences = 1;
		a.queries = a.max_q = n;
		most(&all, attention_scratch_bound(d, &a, s->train));
	}
	/* Decoding: few queries, of many sequences. */
	for (int sequences = 1; sequences <= smaller(s->sequences, s->tokens); sequences++)
		for (int each = 1; each <= ATTENTION_FEW; each++) {
			a.sequences = sequences;
			a.max_q = each;
			a.queries = smaller(sequences * each, s->tokens);
			most(&all, attention_scratch_bound(d, &a, s->train));
		}
	return all;
}

size_t cuda_scratch_for(const struct device *base, const struct pass_shape *s)
{
	const struct cuda_device *d = (const struct cuda_device *)base;
	int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim, h = s->hidden, f = s->intermediate;
	/* Products of a layer: q, k and v, and gate and up, together and apart. Adapters always run together. */
	const struct {
		int rows, cols, adapters;
	} shapes[] = {{q + 2 * kv, h, 0}, {q, h, 3}, {kv, h, 0}, {h, q, 1},
		      {2 * f, h, 0},      {f, h, 2}, {h, f, 1}};
	size_t all = attention_most(d, s);

	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		int rows = shapes[i].rows, cols = shapes[i].cols, adapters = shapes[i].adapters;

		most(&all, product_scratch_bound(d, s->tokens, rows, cols, s->weights));
		if (s->rank && adapters)
			most(&all, lora_scratch_bound(d, s->tokens, rows, cols, s->rank, adapters));
	}
	/* A vocabulary is never in NF4: in fp32 beside weights in that, or else in activations. */
	most(&all, product_scratch_bound(d, s->logits, s->vocab, h,
					 s->weights == DTYPE_F32 ? DTYPE_F32 : base->act));
	if (s->train) {
		most(&all, cross_entropy_scratch_bound(d, s->logits, s->vocab));
		most(&all, sum_squares_scratch_bound());
	}
	if (s->full)
		most(&all, rmsnorm_scratch_bound(s->tokens, h));
	return all;
}
