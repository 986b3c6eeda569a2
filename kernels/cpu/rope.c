/* Rotary positions. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

void cpu_rope_table(struct device *d, float theta, int head_dim, int positions, float *cos_out,
		    float *sin_out)
{
	int half = head_dim / 2;

	for (int i = 0; i < half; i++) {
		float exponent = (float)(2 * i) / (float)head_dim;
		float frequency = 1.0f / (float)pow(theta, exponent);

		for (int p = 0; p < positions; p++) {
			float angle = (float)p * frequency;

			cos_out[(ptrdiff_t)p * half + i] = (float)cos(angle);
			sin_out[(ptrdiff_t)p * half + i] = (float)sin(angle);
		}
	}
}

CLONES static void rotate(const float *c, const float *s, int heads, int half, float sign, float *x)
{
	for (int h = 0; h < heads; h++, x += 2 * half)
		for (int i = 0; i < half; i++) {
			float a = x[i], b = x[half + i], si = sign * s[i];

			x[i] = a * c[i] - b * si;
			x[half + i] = b * c[i] + a * si;
		}
}

void cpu_rope(struct device *d, const float *c, const float *s, const int32_t *position, int n, int heads,
	      int head_dim, int stride, bool inverse, void *x)
{
	int half = head_dim / 2;
	float *rows = x;

#pragma omp parallel for if ((double)n * heads * head_dim > 50000)
	for (int t = 0; t < n; t++)
		rotate(c + (ptrdiff_t)position[t] * half, s + (ptrdiff_t)position[t] * half, heads, half,
		       inverse ? -1.0f : 1.0f, rows + (ptrdiff_t)t * stride);
}

void cpu_rope_append(struct device *d, const float *c, const float *s, const int32_t *position, int n,
		     int heads, int kv_heads, int head_dim, int stride, void *x, const int32_t *row,
		     void *keys, void *values)
{
	const float *k = (const float *)x + (ptrdiff_t)heads * head_dim,
		    *v = k + (ptrdiff_t)kv_heads * head_dim;
	float *to_k = keys, *to_v = values;
	size_t width = (size_t)kv_heads * (size_t)head_dim;

	cpu_rope(d, c, s, position, n, heads + kv_heads, head_dim, stride, false, x);
	for (int t = 0; t < n; t++) {
		ptrdiff_t from = (ptrdiff_t)t * stride, to = (ptrdiff_t)row[t] * (ptrdiff_t)width;

		if (row[t] < 0)
			continue;
		memcpy(to_k + to, k + from, sizeof(float) * width);
		memcpy(to_v + to, v + from, sizeof(float) * width);
	}
}
