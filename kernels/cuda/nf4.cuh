/* NF4 on the device: the code book, and the absmax of a block. matrix.h says what the format is. */
#ifndef KERNELS_CUDA_NF4_CUH
#define KERNELS_CUDA_NF4_CUH

#include "kernels/cuda/cublas.h"
#include "kernels/cuda/values.cuh"

static __constant__ const float nf4_codes[16] = {NF4_CODEBOOK};

/* Where the absmax of blocks come from: fp32, or codes when that is NULL. */
struct nf4_scales {
	const float *absmax;
	const uint8_t *codes;
	const float *absmax2, *map; /* map (256): the dynamic map */
	float offset;
};

static inline struct nf4_scales nf4_scales_of(struct device *d, const struct matrix *m)
{
	struct nf4_scales s = {m->absmax, m->absmax_codes, m->absmax2, cuda_device(d)->cublas->dynamic_map,
			       m->absmax_offset};

	return s;
}

/* A product and a sum, rounded separately. */
__device__ __forceinline__ float nf4_scale(float code, float absmax2, float offset)
{
	return __fadd_rn(__fmul_rn(code, absmax2), offset);
}

__device__ __forceinline__ float nf4_block_absmax(const struct nf4_scales &s, size_t block)
{
	if (s.absmax)
		return s.absmax[block];
	return nf4_scale(s.map[s.codes[block]], s.absmax2[block / ABSMAX_BLOCK], s.offset);
}

/* value, or what it is after rounding to fp16 as m->round_fp16 says. */
template <bool ROUND> __device__ __forceinline__ float nf4_round(float value)
{
	return ROUND ? to_float(from_float<__half>(value)) : value;
}

/* A table of the code book in which every lane of a warp has a column of its own, so that look-ups of different codes meet
 * no bank twice: entry k of lane l is table[k * 32 + l]. */
#define NF4_TABLE (16 * 32)

__device__ __forceinline__ void nf4_table_fill(float *table)
{
	for (int i = threadIdx.x; i < NF4_TABLE; i += blockDim.x)
		table[i] = nf4_codes[i / 32];
}

/* The 8 values of one packed word, times absmax; the first one is in the high nibble of the lowest byte. table: the lane's
 * column. */
__device__ __forceinline__ void nf4_values8(const float *table, uint32_t word, float absmax, float v[8])
{
#pragma unroll
	for (int i = 0; i < 4; i++) {
		v[2 * i] = __fmul_rn(table[(word >> (8 * i + 4) & 15) * 32], absmax);
		v[2 * i + 1] = __fmul_rn(table[(word >> (8 * i) & 15) * 32], absmax);
	}
}

/* A word of packed values at any address. */
__device__ __forceinline__ uint32_t nf4_word(const uint8_t *p, bool vector)
{
	if (vector)
		return *reinterpret_cast<const uint32_t *>(p);
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

#endif
