/* Rows of logits: their cross-entropy with its gradient, their largest element. */
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

#define BLOCK 4096 /* logits to one fp32 sum; the blocks' sums are added in fp64 */

CLONES static float row_max(const float *x, int n)
{
	float lane[LANES];
	int i = 0;

	for (int j = 0; j < LANES; j++)
		lane[j] = -INFINITY;
	for (; i + LANES <= n; i += LANES)
		for (int j = 0; j < LANES; j++)
			lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
	for (; i < n; i++)
		lane[0] = x[i] > lane[0] ? x[i] : lane[0];
	for (int j = 1; j < LANES; j++)
		lane[0] = lane[j] > lane[0] ? lane[j] : lane[0];
	return lane[0];
}

CLONES static float block_exp_sum(const float *x, int n, float max)
{
	float lane[LANES] = {0};
	int i = 0;

	for (; i + LANES <= n; i += LANES)
		for (int j = 0; j < LANES; j++)
			lane[j] += exp_fast(x[i + j] - max);
	for (int j = 0; i < n; i++, j++)
		lane[j] += exp_fast(x[i] - max);
	return lanes_sum(lane);
}

CLONES static void row_softmax(const float *x, int n, float max, float scale, float *out)
{
	for (int i = 0; i < n; i++)
		out[i] = scale * exp_fast(x[i] - max);
}

/* The loss of a row; gradient: NULL, or where it goes, which may be the row itself. */
static double row_loss(const float *row, int vocab, int target, float grad_scale, float *gradient)
{
	float max = row_max(row, vocab);
	double sum = 0, loss;

	for (int i = 0; i < vocab; i += BLOCK)
		sum += block_exp_sum(row + i, vocab - i < BLOCK ? vocab - i : BLOCK, max);
	loss = log(sum) + max - row[target];
	if (gradient) {
		row_softmax(row, vocab, max, (float)(grad_scale / sum), gradient);
		gradient[target] -= grad_scale;
	}
	return loss;
}

void cpu_cross_entropy(struct device *d, const int32_t *target, int n, int vocab, const float *grad_scale,
		       const float *logits, void *dlogits, double *loss_sum)
{
	double *loss = scratch(SCRATCH_OP, sizeof *loss * (size_t)n);
	float *gradient = dlogits;

#pragma omp parallel for if ((double)n * vocab > 20000)
	for (int t = 0; t < n; t++) {
		float *to = gradient ? gradient + (ptrdiff_t)t * vocab : NULL;

		if (target[t] >= 0)
			loss[t] = row_loss(logits + (ptrdiff_t)t * vocab, vocab, target[t],
					   to ? *grad_scale : 0, to);
		else if (to)
			memset(to, 0, sizeof *to * (size_t)vocab);
	}
	for (int t = 0; t < n; t++)
		if (target[t] >= 0)
			*loss_sum += loss[t];
}

void cpu_argmax(struct device *d, const float *logits, int n, int vocab, int32_t *out)
{
#pragma omp parallel for if ((double)n * vocab > 100000)
	for (int t = 0; t < n; t++) {
		const float *row = logits + (ptrdiff_t)t * vocab;
		float max = row_max(row, vocab);
		int i = 0;

		while (i < vocab - 1 && row[i] != max)
			i++;
		out[t] = i;
	}
}
