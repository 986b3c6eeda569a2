/* Cross-entropy of rows of logits and its gradient in place. */
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

CLONES static void row_softmax(float *x, int n, float max, float scale)
{
	for (int i = 0; i < n; i++)
		x[i] = scale * exp_fast(x[i] - max);
}

void cpu_cross_entropy(const int32_t *target, int n, int vocab, bool grad, float grad_scale, float *logits,
		       double *loss)
{
#pragma omp parallel for if ((double)n * vocab > 20000)
	for (int t = 0; t < n; t++) {
		float *row = logits + (ptrdiff_t)t * vocab, max = row_max(row, vocab);
		double sum = 0;

		for (int i = 0; i < vocab; i += BLOCK)
			sum += block_exp_sum(row + i, vocab - i < BLOCK ? vocab - i : BLOCK, max);
		loss[t] = log(sum) + max - row[target[t]];
		if (grad) {
			row_softmax(row, vocab, max, (float)(grad_scale / sum));
			row[target[t]] -= grad_scale;
		}
	}
}
