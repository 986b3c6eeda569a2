/* NF4 quantisation, to the bit as nf4_quantize does it, and dequantisation. Both are bound by memory, and give each thread
 * 8 values: 4 packed bytes, 16 bytes of 16-bit values. The 8 threads of a block of 64 find its absmax by shuffles. */
#include "kernels/cuda/nf4.cuh"

#define THREADS 256

/* Between the values of the code book, as in kernels/cpu/nf4.c. */
static __constant__ const float nf4_thresholds[15] = {
	-0.8480964004993439f,  -0.6106329262256622f,  -0.4599952697753906f,   -0.33967943489551544f,
	-0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
	0.1202552504837513f,   0.2035212516784668f,   0.2920137718319893f,    0.3893125355243683f,
	0.5016634166240692f,   0.6427869200706482f,   0.8614784181118011f,
};

/* A block of zeros makes NaN, which is above no threshold. */
__device__ __forceinline__ uint32_t nf4_index(float x)
{
	uint32_t k = 0;

#pragma unroll
	for (int j = 0; j < 15; j++)
		k += x > nf4_thresholds[j];
	return k;
}

template <typename S>
__global__ void __launch_bounds__(THREADS)
	quantize_kernel(const S *x, size_t n, bool through_fp16, bool vector, uint8_t *packed, bool words,
			float *absmax, int32_t *bad)
{
	grid_wait();
	size_t groups = (n + 7) / 8, stride = (size_t)gridDim.x * THREADS;
	bool finite = true;

	for (size_t first = (size_t)blockIdx.x * THREADS; first < groups; first += stride) {
		size_t group = first + threadIdx.x;
		int left = group >= groups ? 0 : n - group * 8 < 8 ? (int)(n - group * 8) : 8;
		float v[8], most = 0.0f;

		read8(x + (left ? group * 8 : 0), left, vector, v);
#pragma unroll
		for (int i = 0; i < 8; i++) {
			v[i] = through_fp16 ? nf4_round<true>(v[i]) : v[i];
			finite = finite && fabsf(v[i]) <= 3.402823466e38f;
			most = fabsf(v[i]) > most ? fabsf(v[i]) : most;
		}
		for (int lanes = 4; lanes > 0; lanes /= 2)
			most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, lanes));
		float inverse = __fdiv_rn(1.0f, most);
		uint32_t word = 0;

#pragma unroll
		for (int i = 0; i < 8; i++)
			word |= nf4_index(__fmul_rn(v[i], inverse)) << (i % 2 ? 4 * i - 4 : 4 * i + 4);
		if (words && left == 8)
			reinterpret_cast<uint32_t *>(packed)[group] = word;
		else
			for (int i = 0; 2 * i < left; i++)
				packed[group * 4 + i] = (uint8_t)(word >> 8 * i);
		if (left && group % 8 == 0)
			absmax[group / 8] = most;
	}
	if (!finite)
		*bad = 1;
}

static unsigned blocks_for(struct device *d, size_t n)
{
	size_t blocks = (n + 8 * THREADS - 1) / (8 * THREADS),
	       most = (size_t)cuda_device(d)->multiprocessors * 32;

	return (unsigned)(blocks < most ? blocks : most);
}

template <typename S>
static void quantize_launch(struct device *d, const void *x, size_t n, bool through_fp16, uint8_t *packed,
			    float *absmax, int32_t *bad)
{
	cuda_launch(d, "quantize", quantize_kernel<S>, dim3(blocks_for(d, n)), dim3(THREADS), 0,
		    static_cast<const S *>(x), n, through_fp16, aligned_to(x, 16), packed,
		    aligned_to(packed, 4), absmax, bad);
}

template <typename T>
static void op_quantize(struct device *d, const void *x, enum dtype dtype, size_t n, bool through_fp16,
			uint8_t *packed, float *absmax, int32_t *bad)
{
	if (dtype == DTYPE_F32)
		quantize_launch<float>(d, x, n, through_fp16, packed, absmax, bad);
	else if (dtype == DTYPE_BF16)
		quantize_launch<__nv_bfloat16>(d, x, n, through_fp16, packed, absmax, bad);
	else
		quantize_launch<__half>(d, x, n, through_fp16, packed, absmax, bad);
}

EXPORT(quantize,
       (struct device * d, const void *x, enum dtype dtype, size_t n, bool through_fp16, uint8_t *packed,
	float *absmax, int32_t *bad),
       (d, x, dtype, n, through_fp16, packed, absmax, bad))

/* first: the block of the matrix in which packed begins. */
template <typename T>
__global__ void __launch_bounds__(THREADS)
	dequantize_kernel(const uint8_t *packed, bool words, struct nf4_scales scales, size_t first,
			  bool round, size_t n, T *out, bool vector)
{
	grid_wait();
	__shared__ float table[NF4_TABLE];
	size_t stride = (size_t)gridDim.x * THREADS * 8;

	nf4_table_fill(table);
	__syncthreads();
	for (size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * 8; i < n; i += stride) {
		int left = n - i < 8 ? (int)(n - i) : 8;
		float absmax = nf4_block_absmax(scales, first + i / NF4_BLOCK), v[8];
		uint32_t word = 0;

		if (left == 8)
			word = nf4_word(packed + i / 2, words);
		else
			for (int j = 0; 2 * j < left; j++)
				word |= (uint32_t)packed[i / 2 + j] << 8 * j;
		nf4_values8(table + threadIdx.x % 32, word, absmax, v);
		if (round)
			for (int j = 0; j < 8; j++)
				v[j] = nf4_round<true>(v[j]);
		write8(out + i, left, vector, v);
	}
}

template <typename T>
static void dequantize_launch(struct device *d, const struct matrix *m, int first, int count, void *out)
{
	size_t start = (size_t)first * (size_t)m->cols, n = (size_t)count * (size_t)m->cols;
	const uint8_t *packed = static_cast<const uint8_t *>(m->data) + start / 2;

	cuda_launch(d, "dequantize", dequantize_kernel<T>, dim3(blocks_for(d, n)), dim3(THREADS), 0, packed,
		    aligned_to(packed, 4), nf4_scales_of(d, m), start / NF4_BLOCK, m->round_fp16, n,
		    static_cast<T *>(out), aligned_to(out, 16));
}

void nf4_convert(struct device *d, enum dtype act, const struct matrix *m, int first, int count, void *out)
{
	if (act == DTYPE_F32)
		dequantize_launch<float>(d, m, first, count, out);
	else if (act == DTYPE_BF16)
		dequantize_launch<__nv_bfloat16>(d, m, first, count, out);
	else
		dequantize_launch<__half>(d, m, first, count, out);
}

static __global__ void __launch_bounds__(THREADS)
	absmax_kernel(struct nf4_scales scales, size_t blocks, float *absmax)
{
	grid_wait();
	size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;

	if (i < blocks)
		absmax[i] = nf4_block_absmax(scales, i);
}

void absmax_expand(struct device *d, const struct matrix *m, float *absmax)
{
	size_t blocks = (size_t)m->rows * (size_t)m->cols / NF4_BLOCK;

	cuda_launch(d, "absmax", absmax_kernel, dim3((unsigned)((blocks + THREADS - 1) / THREADS)),
		    dim3(THREADS), 0, nf4_scales_of(d, m), blocks, absmax);
}
