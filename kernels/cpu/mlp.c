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
	CLONES static void name##_forward(const float *gate, const float *up, size_t n, float *out)          \
	{                                                                                                    \
		for (size_t i = 0; i < n; i++) {                                                             \
			float slope;                                                                         \
                                                                                                             \
			out[i] = name(gate[i], &slope) * up[i];                                              \
		}                                                                                            \
	}
#define BACKWARD(name)                                                                                       \
	CLONES static void name##_backward(const float *gate, const float *up, const float *dout, size_t n,  \
					   float *dgate, float *dup)                                         \
	{                                                                                                    \
		float g[LANES], u[LANES];                                                                    \
		size_t i = 0;                                                                                \
                                                                                                             \
		/* Outputs may be inputs: a group is read whole before any of it is written. */              \
		for (; i < n; i += LANES) {                                                                  \
			size_t m = n - i < LANES ? n - i : LANES;                                            \
                                                                                                             \
			if (m == LANES) {                                                                    \
				for (size_t j = 0; j < LANES; j++) {                                         \
					float slope, d = dout[i + j];                                        \
					float f = name(gate[i + j], &slope);                                 \
                                                                                                             \
					g[j] = d * up[i + j] * slope;                                        \
					u[j] = d * f;                                                        \
				}                                                                            \
			} else {                                                                             \
				for (size_t j = 0; j < m; j++) {                                             \
					float slope, d = dout[i + j];                                        \
					float f = name(gate[i + j], &slope);                                 \
                                                                                                             \
					g[j] = d * up[i + j] * slope;                                        \
					u[j] = d * f;                                                        \
				}                                                                            \
			}                                                                                    \
			memcpy(dgate + i, g, m * sizeof *g);                                                 \
			memcpy(dup + i, u, m * sizeof *u);                                                   \
		}                                                                                            \
	}

FORWARD(silu)
FORWARD(gelu_tanh)
FORWARD(gelu_erf)
BACKWARD(silu)
BACKWARD(gelu_tanh)
BACKWARD(gelu_erf)

void cpu_gated(enum gate f, const float *gate, const float *up, size_t n, float *out)
{
#pragma omp parallel for if (n > 4 * BLOCK)
	for (size_t i = 0; i < n; i += BLOCK) {
		size_t m = n - i < BLOCK ? n - i : BLOCK;

		(f == GATE_SILU       ? silu_forward
		 : f == GATE_GELU_ERF ? gelu_erf_forward
				      : gelu_tanh_forward)(gate + i, up + i, m, out + i);
	}
}

void cpu_gated_grad(enum gate f, const float *gate, const float *up, const float *dout, size_t n,
		    float *dgate, float *dup)
{
#pragma omp parallel for if (n > 4 * BLOCK)
	for (size_t i = 0; i < n; i += BLOCK) {
		size_t m = n - i < BLOCK ? n - i : BLOCK;

		(f == GATE_SILU ? silu_backward
		 : f == GATE_GELU_ERF
			 ? gelu_erf_backward
			 : gelu_tanh_backward)(gate + i, up + i, dout + i, m, dgate + i, dup + i);
	}
}
