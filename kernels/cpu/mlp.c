/* The gated MLP's activation and its gradient, element by element. erf comes from the C library, so the erf
 * form does not vectorise; the other two do. */
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

#define BLOCK 4096 /* elements to a task */

INLINE float sigmoid(float x)
{
	return 1.0f / (1.0f + exp_fast(-x));
}

/* f(x) and f'(x) */
INLINE float silu(float x, float *slope)
{
	float s = sigmoid(x);

	*slope = s * (1.0f + x * (1.0f - s));
	return x * s;
}

/* x/2 (1 + tanh u) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3) */
INLINE float gelu_tanh(float x, float *slope)
{
	const float c = 0.7978845608f;
	float s = sigmoid(2.0f * c * (x + 0.044715f * x * x * x));

	*slope = s + x * s * (1.0f - s) * 2.0f * c * (1.0f + 3.0f * 0.044715f * x * x);
	return x * s;
}

INLINE float gelu_erf(float x, float *slope)
{
	float cdf = 0.5f * (1.0f + erff(x * 0.70710678f));

	*slope = cdf + x * 0.3989422804f * exp_fast(-0.5f * x * x);
	return x * cdf;
}

#define FORWARD(name)                                                                                        \
	CLONES static void name##_forward(const float *restrict gate, const float *restrict up, size_t n,    \
					  float *restrict out)                                               \
	{                                                                                                    \
		for (size_t i = 0; i < n; i++) {                                                             \
			float slope;                                                                         \
                                                                                                             \
			out[i] = name(gate[i], &slope) * up[i];                                              \
		}                                                                                            \
	}
#define BACKWARD(name)                                                                                       \
	CLONES static void name##_backward(const float *restrict dout, size_t n, float *restrict gate,       \
					   float *restrict up)                                               \
	{                                                                                                    \
		for (size_t i = 0; i < n; i++) {                                                             \
			float slope, d = dout[i], u = up[i];                                                 \
			float f = name(gate[i], &slope);                                                     \
                                                                                                             \
			gate[i] = d * u * slope;                                                             \
			up[i] = d * f;                                                                       \
		}                                                                                            \
	}

FORWARD(silu)
FORWARD(gelu_tanh)
FORWARD(gelu_erf)
BACKWARD(silu)
BACKWARD(gelu_tanh)
BACKWARD(gelu_erf)

/* (n, width) in tasks of up to BLOCK elements of one row; without gaps between them the rows are one. */
struct tasks {
	size_t rows, length; /* elements of a row */
	size_t per_row;
};

static struct tasks tasks_of(int n, int width, int stride)
{
	struct tasks t = {(size_t)n, (size_t)width, 0};

	if (stride == width) {
		t.length *= t.rows;
		t.rows = 1;
	}
	t.per_row = (t.length + BLOCK - 1) / BLOCK;
	return t;
}

/* Where task i begins in its row, and how long it is. */
static size_t task_part(const struct tasks *t, size_t i, size_t *count)
{
	size_t at = i % t->per_row * BLOCK;

	*count = t->length - at < BLOCK ? t->length - at : BLOCK;
	return at;
}

void cpu_gated(struct device *d, enum gate f, const void *gate, const void *up, int n, int width, int stride,
	       void *out)
{
	struct tasks t = tasks_of(n, width, stride);
	const float *g = gate, *u = up;
	float *y = out;

#pragma omp parallel for if ((double)n * width > 4 * BLOCK)
	for (size_t i = 0; i < t.rows * t.per_row; i++) {
		size_t row = i / t.per_row, count, at = task_part(&t, i, &count),
		       from = row * (size_t)stride + at;

		(f == GATE_SILU ? silu_forward
		 : f == GATE_GELU_ERF
			 ? gelu_erf_forward
			 : gelu_tanh_forward)(g + from, u + from, count, y + row * t.length + at);
	}
}

void cpu_gated_grad(struct device *d, enum gate f, const void *dout, int n, int width, int stride, void *gate,
		    void *up)
{
	struct tasks t = tasks_of(n, width, stride);
	const float *dy = dout;
	float *g = gate, *u = up;

#pragma omp parallel for if ((double)n * width > 4 * BLOCK)
	for (size_t i = 0; i < t.rows * t.per_row; i++) {
		size_t row = i / t.per_row, count, at = task_part(&t, i, &count),
		       from = row * (size_t)stride + at;

		(f == GATE_SILU ? silu_backward
		 : f == GATE_GELU_ERF
			 ? gelu_erf_backward
			 : gelu_tanh_backward)(dy + row * t.length + at, count, g + from, u + from);
	}
}
