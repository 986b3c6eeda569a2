/* Rows by index. The gradient of an embedding adds several tokens to one row: threads take columns, and each
 * walks the tokens in order. */
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

CLONES static void scale_row(float *x, int n, float scale)
{
	for (int i = 0; i < n; i++)
		x[i] *= scale;
}

CLONES static void add_scaled(const float *x, int n, float scale, float *y)
{
	for (int i = 0; i < n; i++)
		y[i] += scale * x[i];
}

void cpu_embed(struct device *d, const struct matrix *table, const int32_t *ids, int n, float scale,
	       float *out)
{
	int dim = table->cols;

#pragma omp parallel for if ((double)n * dim > 100000)
	for (int t = 0; t < n; t++) {
		float *row = out + (ptrdiff_t)t * dim;

		matrix_rows(table, ids[t], 1, row);
		if (scale != 1.0f)
			scale_row(row, dim, scale);
	}
}

void cpu_embed_grad(struct device *d, const int32_t *ids, int n, int dim, float scale, const float *dout,
		    float *grad)
{
	const int width = 64;

#pragma omp parallel for if ((double)n * dim > 100000)
	for (int c = 0; c < dim; c += width)
		for (int t = 0; t < n; t++)
			add_scaled(dout + (ptrdiff_t)t * dim + c, dim - c < width ? dim - c : width, scale,
				   grad + (ptrdiff_t)ids[t] * dim + c);
}

void cpu_gather(struct device *d, const float *x, const int32_t *index, int n, int dim, float *out)
{
	for (int i = 0; i < n; i++) {
		float *row = out + (ptrdiff_t)i * dim;

		if (index[i] < 0)
			memset(row, 0, sizeof *row * (size_t)dim);
		else
			memcpy(row, x + (ptrdiff_t)index[i] * dim, sizeof *row * (size_t)dim);
	}
}

void cpu_scatter(struct device *d, const float *x, const int32_t *index, int n, int dim, float *out)
{
	for (int i = 0; i < n; i++)
		if (index[i] >= 0)
			memcpy(out + (ptrdiff_t)index[i] * dim, x + (ptrdiff_t)i * dim,
			       sizeof *x * (size_t)dim);
}
