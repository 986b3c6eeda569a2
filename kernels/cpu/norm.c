/* RMSNorm. With s = offset + weight and xhat = x rstd, y = xhat s, so
 *   dx = rstd (dy s - xhat mean(dy s xhat)),  dweight = sum over tokens of dy xhat. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

#define PARALLEL_SIZE 50000.0

CLONES static float row_norm(const float *x, const float *weight, int dim, float eps, float offset,
			     float *out)
{
	float lane[LANES] = {0};
	int i = 0;

	for (; i + LANES <= dim; i += LANES)
		for (int j = 0; j < LANES; j++)
			lane[j] += x[i + j] * x[i + j];
	for (int j = 0; i < dim; i++, j++)
		lane[j] += x[i] * x[i];
	float rstd = 1.0f / sqrtf(lanes_sum(lane) / (float)dim + eps);

	for (i = 0; i < dim; i++)
		out[i] = x[i] * rstd * (offset + weight[i]);
	return rstd;
}

void cpu_rmsnorm(struct device *d, const float *x, const float *weight, int n, int dim, float eps,
		 float offset, void *out, float *rstd, float *copy)
{
	float *y = out;

#pragma omp parallel for if ((double)n * dim > PARALLEL_SIZE)
	for (int t = 0; t < n; t++) {
		ptrdiff_t at = (ptrdiff_t)t * dim;

		if (copy)
			memcpy(copy + at, x + at, (size_t)dim * sizeof *copy);
		float r = row_norm(x + at, weight, dim, eps, offset, y + at);

		if (rstd)
			rstd[t] = r;
	}
}

CLONES static void row_grad(const float *x, const float *weight, float rstd, const float *dout, int dim,
			    float offset, float *dx)
{
	float lane[LANES] = {0};
	int i = 0;

	for (; i + LANES <= dim; i += LANES)
		for (int j = 0; j < LANES; j++)
			lane[j] += dout[i + j] * (offset + weight[i + j]) * x[i + j];
	for (int j = 0; i < dim; i++, j++)
		lane[j] += dout[i] * (offset + weight[i]) * x[i];
	float mean = lanes_sum(lane) * rstd / (float)dim;

	for (i = 0; i < dim; i++)
		dx[i] += rstd * (dout[i] * (offset + weight[i]) - x[i] * rstd * mean);
}

CLONES static void add_weight_grad(const float *x, const float *dout, float rstd, int n, float *dweight)
{
	for (int i = 0; i < n; i++)
		dweight[i] += dout[i] * (x[i] * rstd);
}

void cpu_rmsnorm_grad(struct device *d, const float *x, const float *weight, const float *rstd,
		      const float *dout, int n, int dim, float offset, float *dx, void *dx_act,
		      float *dweight)
{
	const int width = 64;
	float *copy = dx_act == dx ? NULL : dx_act;

#pragma omp parallel for if ((double)n * dim > PARALLEL_SIZE)
	for (int t = 0; t < n; t++) {
		ptrdiff_t at = (ptrdiff_t)t * dim;

		row_grad(x + at, weight, rstd[t], dout + at, dim, offset, dx + at);
		if (copy)
			memcpy(copy + at, dx + at, sizeof *copy * (size_t)dim);
	}
	if (!dweight)
		return;
#pragma omp parallel for if ((double)n * dim > PARALLEL_SIZE)
	for (int c = 0; c < dim; c += width)
		for (int t = 0; t < n; t++)
			add_weight_grad(x + (ptrdiff_t)t * dim + c, dout + (ptrdiff_t)t * dim + c, rstd[t],
					dim - c < width ? dim - c : width, dweight + c);
}
