/* 16-bit floats and back, and weights as fp32. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"
#include "kernels/matrix.h"

#define BLOCK 16384 /* elements to a task */

INLINE uint16_t bf16_round(float x)
{
	uint32_t u = float_bits(x);
	uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
	uint32_t nan = u >> 16 | 0x40;

	return (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

INLINE uint16_t f16_round(float x)
{
	uint32_t u = float_bits(x), sign = u >> 16 & 0x8000;

	u &= 0x7fffffff;
	/* Below 2^-14 the spacing of fp16 is that of fp32 at 0.5, so the addition rounds. */
	uint32_t subnormal = float_bits(bits_float(u < 0x38800000 ? u : 0) + 0.5f) - float_bits(0.5f);
	uint32_t normal = (u - 0x38000000 + 0xfff + (u >> 13 & 1)) >> 13;
	uint32_t r = u < 0x38800000 ? subnormal : normal;

	r = u >= 0x477ff000 ? 0x7c00 : r; /* 65520 and more */
	r = u > 0x7f800000 ? 0x7e00 : r;
	return (uint16_t)(sign | r);
}

INLINE float f16_expand(uint16_t h)
{
	/* The exponent's bias differs by 112; the product makes subnormals normal. */
	uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13;
	uint32_t u = float_bits(bits_float(magnitude) * 0x1p112f);

	u |= (h & 0x7c00) == 0x7c00 ? 0x7f800000 : 0;
	return bits_float(u | (uint32_t)(h & 0x8000) << 16);
}

uint16_t bf16_from_f32(float x)
{
	return bf16_round(x);
}

float bf16_to_f32(uint16_t x)
{
	return bits_float((uint32_t)x << 16);
}

uint16_t f16_from_f32(float x)
{
	return f16_round(x);
}

float f16_to_f32(uint16_t x)
{
	return f16_expand(x);
}

CLONES static void from_bf16(const unsigned char *in, size_t n, float *out)
{
	for (size_t i = 0; i < n; i++) {
		uint16_t h;

		memcpy(&h, in + 2 * i, 2);
		out[i] = bits_float((uint32_t)h << 16);
	}
}

CLONES static void from_f16(const unsigned char *in, size_t n, float *out)
{
	for (size_t i = 0; i < n; i++) {
		uint16_t h;

		memcpy(&h, in + 2 * i, 2);
		out[i] = f16_expand(h);
	}
}

CLONES static void to_bf16(const float *in, size_t n, unsigned char *out)
{
	for (size_t i = 0; i < n; i++) {
		uint16_t h = bf16_round(in[i]);

		memcpy(out + 2 * i, &h, 2);
	}
}

CLONES static void to_f16(const float *in, size_t n, unsigned char *out)
{
	for (size_t i = 0; i < n; i++) {
		uint16_t h = f16_round(in[i]);

		memcpy(out + 2 * i, &h, 2);
	}
}

void floats_from(enum dtype dtype, const void *in, size_t n, float *out)
{
	if (dtype == DTYPE_BF16)
		from_bf16(in, n, out);
	else if (dtype == DTYPE_F16)
		from_f16(in, n, out);
	else if (n)
		memcpy(out, in, n * sizeof *out);
}

void floats_to(enum dtype dtype, const float *in, size_t n, void *out)
{
	if (dtype == DTYPE_BF16)
		to_bf16(in, n, out);
	else if (dtype == DTYPE_F16)
		to_f16(in, n, out);
	else if (n)
		memcpy(out, in, n * sizeof *in);
}

size_t matrix_data_size(enum dtype dtype, int rows, int cols)
{
	size_t n = (size_t)rows * (size_t)cols;

	if (dtype == DTYPE_NF4)
		return (n + 1) / 2;
	return n * (dtype == DTYPE_F32 ? 4 : 2);
}

struct matrix matrix_f32(const float *data, int rows, int cols)
{
	return (struct matrix){.dtype = DTYPE_F32, .rows = rows, .cols = cols, .data = data};
}

void matrix_rows(const struct matrix *m, int first, int count, float *out)
{
	size_t start = (size_t)first * (size_t)m->cols, n = (size_t)count * (size_t)m->cols;

	if (m->dtype == DTYPE_NF4)
		nf4_dequantize(m, start, n, out);
	else
		floats_from(m->dtype,
			    (const unsigned char *)m->data + start * (m->dtype == DTYPE_F32 ? 4 : 2), n, out);
}

void cpu_convert(struct device *d, const void *x, enum dtype dtype, size_t n, void *out)
{
	const unsigned char *from = x;
	float *to = out;
	size_t size = matrix_data_size(dtype, 1, 1);

#pragma omp parallel for if (n > 4 * BLOCK)
	for (size_t i = 0; i < n; i += BLOCK)
		floats_from(dtype, from + i * size, n - i < BLOCK ? n - i : BLOCK, to + i);
}

void cpu_dequantize(struct device *d, const struct matrix *m, void *out)
{
	float *to = out;

#pragma omp parallel for if ((double)m->rows * m->cols > 4 * BLOCK)
	for (int r = 0; r < m->rows; r++)
		matrix_rows(m, r, 1, to + (ptrdiff_t)r * m->cols);
}
