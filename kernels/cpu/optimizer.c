/* The optimizer's arithmetic. */
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

#define BLOCK 16384 /* elements to one partial sum */

CLONES static double block_squares(const float *x, size_t n)
{
	double lane[LANES] = {0};
	size_t i = 0;

	for (; i + LANES <= n; i += LANES)
		for (int j = 0; j < LANES; j++)
			lane[j] += (double)x[i + j] * x[i + j];
	for (int j = 0; i < n; i++, j++)
		lane[j] += (double)x[i] * x[i];
	for (int width = LANES / 2; width > 0; width /= 2)
		for (int j = 0; j < width; j++)
			lane[j] += lane[j + width];
	return lane[0];
}

void cpu_sum_squares(struct device *d, const float *x, size_t n, double *out)
{
	size_t blocks = (n + BLOCK - 1) / BLOCK;
	double *part = xcalloc(blocks ? blocks : 1, sizeof *part), sum = 0;

#pragma omp parallel for if (blocks > 8)
	for (size_t b = 0; b < blocks; b++) {
		size_t left = n - b * BLOCK;

		part[b] = block_squares(x + b * BLOCK, left < BLOCK ? left : BLOCK);
	}
	for (size_t b = 0; b < blocks; b++)
		sum += part[b];
	free(part);
	*out = sum;
}

/* The numbers of one update that are the same for every element. */
struct update {
	float grad_scale, beta1, beta2, step_size, eps, decay_before, decay_after;
};

CLONES static void block_update(const struct update *u, float *restrict grad, size_t n, float *restrict p,
				float *restrict m, float *restrict v)
{
	struct update c = *u;

	for (size_t i = 0; i < n; i++) {
		float g = grad[i] * c.grad_scale;
		float m1 = m[i] * c.beta1 + (1.0f - c.beta1) * g;
		float v1 = v[i] * c.beta2 + (1.0f - c.beta2) * g * g;

		m[i] = m1;
		v[i] = v1;
		p[i] = (p[i] * c.decay_before - c.step_size * (m1 / (sqrtf(v1) + c.eps))) * c.decay_after;
		grad[i] = 0;
	}
}

void cpu_adamw(struct device *d, const struct adamw *o, float *grad, size_t n, float *p, float *m, float *v)
{
	double c1 = 1.0 - pow(o->beta1, (double)o->step), c2 = sqrt(1.0 - pow(o->beta2, (double)o->step));
	float decay = 1.0f - o->lr * o->weight_decay;
	struct update u = {
		.grad_scale = o->grad_scale,
		.beta1 = o->beta1,
		.beta2 = o->beta2,
		.step_size = (float)(o->lr * c2 / c1),
		.eps = (float)(o->eps * c2),
		.decay_before = o->decay_first ? decay : 1.0f,
		.decay_after = o->decay_first ? 1.0f : decay,
	};
	size_t blocks = (n + BLOCK - 1) / BLOCK;

#pragma omp parallel for if (blocks > 2)
	for (size_t b = 0; b < blocks; b++) {
		size_t at = b * BLOCK, left = n - at;

		block_update(&u, grad + at, left < BLOCK ? left : BLOCK, p + at, m + at, v + at);
	}
}
