/* NF4 in bitsandbytes' layout (0.45.5, csrc/kernels.cu and functional.py): codebook, thresholds, packing and
 * double quantisation are the same to the bit; only the GPU's approximate reciprocal may pick another
 * neighbour for a value within an ulp of a threshold. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"
#include "kernels/matrix.h"

#define CHUNK 65536 /* elements to a task of quantize; a multiple of NF4_BLOCK */

const float nf4_codebook[16] = {NF4_CODEBOOK};

static const float thresholds[15] = {
	-0.8480964004993439f,  -0.6106329262256622f,  -0.4599952697753906f,   -0.33967943489551544f,
	-0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
	0.1202552504837513f,   0.2035212516784668f,   0.2920137718319893f,    0.3893125355243683f,
	0.5016634166240692f,   0.6427869200706482f,   0.8614784181118011f,
};

static float map[256];
static pthread_once_t map_once = PTHREAD_ONCE_INIT;

static int ascending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

/* For i in 0 … 6 the midpoints of 2^i equal parts of [0.1, 1], times +-10^(i - 6); and 0 and 1. */
static void map_make(void)
{
	int n = 0;

	for (int i = 0; i < 7; i++) {
		int parts = 1 << i;
		float step = (1.0f - 0.1f) / (float)parts, scale = (float)pow(10.0, i - 6);
		float bounds[65];

		/* torch.linspace counts up from the start in its first half and down from the end in its
		 * second. */
		for (int k = 0; k <= parts; k++)
			bounds[k] = k < (parts + 1) / 2 ? 0.1f + step * (float)k
							: 1.0f - step * (float)(parts - k);
		for (int k = 0; k < parts; k++) {
			float mean = (bounds[k] + bounds[k + 1]) / 2.0f;

			map[n++] = scale * mean;
			map[n++] = -scale * mean;
		}
	}
	map[n++] = 0.0f;
	map[n++] = 1.0f;
	qsort(map, (size_t)n, sizeof *map, ascending);
}

const float *dynamic_map(void)
{
	pthread_once(&map_once, map_make);
	return map;
}

size_t nf4_blocks(size_t n)
{
	return (n + NF4_BLOCK - 1) / NF4_BLOCK;
}

/* values (NF4_BLOCK), zeros behind the end of the data. A block of zeros makes NaN here, which is above no
 * threshold. */
CLONES static float block_quantize(const float *values, uint8_t *packed)
{
	float absmax = 0.0f;
	uint8_t index[NF4_BLOCK];

	for (int i = 0; i < NF4_BLOCK; i++) {
		float a = fabsf(values[i]);

		absmax = a > absmax ? a : absmax;
	}
	float inverse = 1.0f / absmax;

	for (int i = 0; i < NF4_BLOCK; i++) {
		float x = values[i] * inverse;
		int k = 0;

		for (int j = 0; j < 15; j++)
			k += x > thresholds[j];
		index[i] = (uint8_t)k;
	}
	for (int i = 0; i < NF4_BLOCK / 2; i++)
		packed[i] = (uint8_t)(index[2 * i] << 4 | index[2 * i + 1]);
	return absmax;
}

static void quantize_block(const float *x, size_t n, bool through_fp16, uint8_t *packed, float *absmax)
{
	float values[NF4_BLOCK] = {0};
	uint8_t bytes[NF4_BLOCK / 2];

	memcpy(values, x, n * sizeof *x);
	if (through_fp16) {
		uint16_t half[NF4_BLOCK];

		floats_to(DTYPE_F16, values, NF4_BLOCK, half);
		floats_from(DTYPE_F16, half, NF4_BLOCK, values);
	}
	*absmax = block_quantize(values, bytes);
	memcpy(packed, bytes, (n + 1) / 2);
}

void nf4_quantize(const float *x, size_t n, bool through_fp16, uint8_t *packed, float *absmax)
{
	size_t blocks = nf4_blocks(n);

#pragma omp parallel for if (blocks > 4096)
	for (size_t b = 0; b < blocks; b++) {
		size_t start = b * NF4_BLOCK, left = n - start;

		quantize_block(x + start, left < NF4_BLOCK ? left : NF4_BLOCK, through_fp16,
			       packed + start / 2, absmax + b);
	}
}

CLONES static bool all_below(const float *x, size_t n, float limit)
{
	int all = 1;

	for (size_t i = 0; i < n; i++)
		all &= fabsf(x[i]) < limit;
	return all;
}

void cpu_quantize(struct device *d, const void *x, enum dtype dtype, size_t n, bool through_fp16,
		  uint8_t *packed, float *absmax, int32_t *bad)
{
	/* What fp16 rounds to infinity: half a step above its largest number, or more. */
	float limit = through_fp16 ? 65520.0f : INFINITY;
	size_t size = matrix_data_size(dtype, 1, 1);
	int found = 0;

#pragma omp parallel for reduction(| : found) if (n > CHUNK)
	for (size_t i = 0; i < n; i += CHUNK) {
		size_t count = n - i < CHUNK ? n - i : CHUNK;
		const void *from = (const unsigned char *)x + i * size;
		const float *values = from;

		if (dtype != DTYPE_F32) {
			float *made = scratch(SCRATCH_OP, sizeof *made * count);

			floats_from(dtype, from, count, made);
			values = made;
		}
		if (all_below(values, count, limit))
			nf4_quantize(values, count, through_fp16, packed + i / 2, absmax + i / NF4_BLOCK);
		else
			found = 1;
	}
	if (found)
		*bad = 1;
}

/* The nearest entry of the dynamic map; the lower one in the middle. */
static uint8_t nearest(const float *code, float x)
{
	int low = 0, high = 255;

	while (high - low > 1) {
		int middle = (low + high) / 2;

		if (x >= code[middle])
			low = middle;
		else
			high = middle;
	}
	return (uint8_t)(x > (code[low] + code[high]) * 0.5f ? high : low);
}

void nf4_quantize_absmax(const float *absmax, size_t blocks, uint8_t *codes, float *absmax2, float *offset)
{
	const float *code = dynamic_map();
	double sum = 0;

	for (size_t i = 0; i < blocks; i++)
		sum += absmax[i];
	*offset = blocks ? (float)(sum / (double)blocks) : 0.0f;
	for (size_t start = 0; start < blocks; start += ABSMAX_BLOCK) {
		size_t end = start + ABSMAX_BLOCK < blocks ? start + ABSMAX_BLOCK : blocks;
		float largest = 0;

		for (size_t i = start; i < end; i++) {
			float a = fabsf(absmax[i] - *offset);

			largest = a > largest ? a : largest;
		}
		absmax2[start / ABSMAX_BLOCK] = largest;
		for (size_t i = start; i < end; i++)
			codes[i] = nearest(code, largest > 0 ? (absmax[i] - *offset) / largest : 0.0f);
	}
}

#if defined(__x86_64__) && !defined(__clang__)
typedef float table __attribute__((vector_size(64)));
typedef uint32_t indices __attribute__((vector_size(64)));
typedef uint64_t pairs __attribute__((vector_size(64)));

/* Eight bytes at a time are 16 look-ups in a table that fits one register. Gives the bytes done. */
__attribute__((target("avx512f"))) static size_t dequantize_wide(const uint8_t *packed, size_t bytes,
								 float absmax, float *out)
{
	const indices shift = {4, 0, 12, 8, 20, 16, 28, 24, 4, 0, 12, 8, 20, 16, 28, 24};
	const indices half = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
	table scaled;
	size_t i = 0;

	memcpy(&scaled, nf4_codebook, sizeof scaled);
	scaled *= absmax;
	for (; i + 8 <= bytes; i += 8) {
		uint64_t eight;

		memcpy(&eight, packed + i, 8);
		indices word = __builtin_shuffle((indices)((pairs){0} + eight), half);
		table values = __builtin_shuffle(scaled, (word >> shift) & 15);

		memcpy(out + 2 * i, &values, sizeof values);
	}
	return i;
}
#endif

/* Whole bytes of one block. */
static void dequantize_bytes(const uint8_t *packed, size_t bytes, float absmax, float *out)
{
	float scaled[16];
	size_t i = 0;

#if defined(__x86_64__) && !defined(__clang__)
	if (__builtin_cpu_supports("avx512f"))
		i = dequantize_wide(packed, bytes, absmax, out);
	if (i == bytes)
		return;
#endif
	for (int k = 0; k < 16; k++)
		scaled[k] = nf4_codebook[k] * absmax;
	for (; i < bytes; i++) {
		out[2 * i] = scaled[packed[i] >> 4];
		out[2 * i + 1] = scaled[packed[i] & 15];
	}
}

static float block_absmax(const struct matrix *m, const float *code, size_t block)
{
	if (m->absmax)
		return m->absmax[block];
	float scaled = code[m->absmax_codes[block]] * m->absmax2[block / ABSMAX_BLOCK];

	return scaled + m->absmax_offset;
}

void nf4_dequantize(const struct matrix *m, size_t first, size_t count, float *out)
{
	const uint8_t *packed = m->data;
	const float *code = m->absmax ? NULL : dynamic_map();
	size_t i = first, end = first + count;

	while (i < end) {
		size_t block = i / NF4_BLOCK, stop = (block + 1) * NF4_BLOCK;
		float absmax = block_absmax(m, code, block);
		float *to = out + (i - first);

		stop = stop < end ? stop : end;
		if (i % 2) {
			*to++ = nf4_codebook[packed[i / 2] & 15] * absmax;
			i++;
		}
		dequantize_bytes(packed + i / 2, (stop - i) / 2, absmax, to);
		if (stop > i && (stop - i) % 2)
			to[stop - i - 1] = nf4_codebook[packed[stop / 2] >> 4] * absmax;
		i = stop;
	}
	if (!m->round_fp16)
		return;
	uint16_t half[256];

	for (size_t at = 0; at < count; at += 256) {
		size_t n = count - at < 256 ? count - at : 256;

		floats_to(DTYPE_F16, out + at, n, half);
		floats_from(DTYPE_F16, half, n, out + at);
	}
}
