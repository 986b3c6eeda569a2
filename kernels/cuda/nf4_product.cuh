/* What the fused NF4 products share (nf4_forward.cu, nf4_backward.cu).
 *
 * Packed weights come into shared memory by cp.async, several stages ahead, and become the first factor of a tensor core
 * product in registers: W is 4.5 bits a value in memory and in shared memory, and the 16-bit values that the product sees
 * exist only in the lane that multiplies them. The activations are the second factor, so that 8 tokens are a full tile.
 *
 * At 4.5 bits a value, memory delivers more values than there are instructions to spare: on an H200 about 4 for each. So
 * tiles of few tokens look up two values at once, by the packed byte, in a table in which each of 16 lanes has a column of
 * its own (32 KiB). Tiles of many tokens look up one at a time in a table of 2 KiB, and have the space for stages. */
#ifndef KERNELS_CUDA_NF4_PRODUCT_CUH
#define KERNELS_CUDA_NF4_PRODUCT_CUH

#include "kernels/cuda/nf4.cuh"
#include "kernels/cuda/nf4_layout.h"
#include "kernels/cuda/ptx.cuh"

struct nf4_args {
	const void *in; /* (n, …), rows ld_in apart */
	int ld_in, n;
	const uint8_t *packed; /* (rows, cols) */
	struct nf4_scales scales;
	int rows, cols;
	struct product_out out;
	float *parts; /* with more than one split: (splits, n, out.width) */
	int steps;    /* stages that a block adds up */
	bool vector;  /* what is written is aligned to 4 values */
};

/* Shared memory: the table of codes, the dynamic map (256 floats), the stages. */
__host__ __device__ constexpr int nf4_codes_bytes(bool pairs)
{
	return pairs ? 256 * 16 * 8 : NF4_TABLE * 4;
}

#define NF4_MAP_BYTES (256 * 4)

/* Up to so many tokens two blocks share a multiprocessor. A larger tile has all its registers for the sums, so that the
 * values of W are made once for all tokens; NF4_GROUP times 8 of those at a time are skipped where none exist, and results
 * leave through shared memory in passes of as many. */
#define NF4_LEAN  64
#define NF4_GROUP 4

__host__ __device__ constexpr int nf4_pass(int tokens)
{
	return tokens > NF4_LEAN ? 8 * NF4_GROUP : tokens;
}

/* A stage: activations, packed values, absmax by block, and behind those, of every row and 4 blocks, 4 codes and an
 * absmax2. */
__host__ __device__ constexpr int nf4_raw_words(int rows, int blocks)
{
	return rows * ((blocks + 3) / 4) * 2;
}

__host__ __device__ constexpr int nf4_stage_bytes(int tokens, int depth, int rows, int blocks)
{
	return tokens * depth * 2 + rows * blocks * 32 + rows * blocks * 4 + nf4_raw_words(rows, blocks) * 4;
}

template <bool PAIRS> __device__ __forceinline__ void nf4_codes_fill(char *table)
{
	if (!PAIRS)
		nf4_table_fill(reinterpret_cast<float *>(table));
	else
		for (unsigned i = threadIdx.x; i < 256 * 16; i += NF4_THREADS)
			reinterpret_cast<float2 *>(table)[i] = make_float2(nf4_codes[i >> 8 & 15],
									   nf4_codes[i >> 4 & 15]);
}

/* Byte offset of a lane's column. Told by the neighbour, so that the compiler does not know which bits it has: it would
 * mask them once more with every look-up. */
template <bool PAIRS> __device__ __forceinline__ uint32_t nf4_column(int lane)
{
	int other = lane ^ 1;

	return __shfl_xor_sync(0xffffffffu, (uint32_t)(PAIRS ? other % 16 * 8 : other * 4), 1);
}

/* The codes of byte `byte` of word, the high nibble's first. Rows of the table are 128 bytes, so an offset is bits of the
 * word, shifted and masked, and the lane's column. */
template <bool PAIRS>
__device__ __forceinline__ float2 nf4_pair(const char *table, uint32_t column, uint32_t word, int byte)
{
	if (PAIRS) {
		uint32_t at = byte == 0 ? word << 7 : word >> (8 * byte - 7);

		return *reinterpret_cast<const float2 *>(table + ((at & 0x7f80) | column));
	}
	uint32_t high = byte == 0 ? word << 3 : word >> (8 * byte - 3),
		 low = byte == 0 ? word << 7 : word >> (8 * byte - 7);

	return make_float2(*reinterpret_cast<const float *>(table + ((high & 0x780) | column)),
			   *reinterpret_cast<const float *>(table + ((low & 0x780) | column)));
}

template <typename T, bool ROUND> __device__ __forceinline__ uint32_t nf4_pack2(float lo, float hi)
{
	return pack2<T>(nf4_round<ROUND>(lo), nf4_round<ROUND>(hi));
}

/* The thread. With many tokens the compiler computes nothing from it ahead of a loop: registers are for sums. */
template <int TOKENS> __device__ __forceinline__ int nf4_thread()
{
	int x = (int)threadIdx.x;

	if (TOKENS >= 32)
		asm volatile("" : "+r"(x));
	return x;
}

/* Asks for the scales of `rows` rows from row0 on and BLOCKS NF4 blocks from block0 on: absmax[i] goes to `to`, or what it
 * is made of to `raw`. BY_BLOCK: rows lie beside each other, else blocks. */
template <int ROWS, int BLOCKS, bool BY_BLOCK>
__device__ __forceinline__ void nf4_scales_load(const struct nf4_args &a, int thread, int row0, int block0,
						float *to, uint32_t *raw)
{
	int blocks = a.cols / NF4_BLOCK;
	size_t first = (size_t)row0 * (size_t)blocks + (size_t)block0;

	if (a.scales.absmax) {
		int block = thread % BLOCKS, first_row = thread / BLOCKS;
		const float *absmax = a.scales.absmax + (size_t)(first_row * blocks + block) + first;
		bool inside = block0 + block < blocks;

#pragma unroll
		for (int r = 0; r < ceil_div(ROWS * BLOCKS, NF4_THREADS); r++) {
			const int step = r * (NF4_THREADS / BLOCKS);
			int row = first_row + step;

			if (ROWS % (NF4_THREADS / BLOCKS) == 0 || row < ROWS)
				cp_async_4(to + (BY_BLOCK ? block * ROWS + row : row * BLOCKS + block),
					   absmax + (size_t)step * (size_t)blocks,
					   inside && row0 + row < a.rows);
		}
		return;
	}
	/* Rows are a multiple of 4 blocks here, so 4 codes have one absmax2. */
	const int groups = (BLOCKS + 3) / 4;

	int i = thread, row = i / groups, block = i % groups * 4 - block0 % 4;
	bool keep = row0 + row < a.rows && block0 + block < blocks;
	size_t at = keep ? first + (size_t)(row * blocks + block) : 0;

	static_assert(ROWS * groups <= NF4_THREADS, "one to a thread");
	if (ROWS * groups == NF4_THREADS || i < ROWS * groups) {
		cp_async_4(raw + 2 * i, a.scales.codes + at, keep);
		cp_async_4(raw + 2 * i + 1, a.scales.absmax2 + at / ABSMAX_BLOCK, keep);
	}
}

/* Makes absmax of what nf4_scales_load brought. */
template <int ROWS, int BLOCKS, bool BY_BLOCK>
__device__ __forceinline__ void nf4_scales_make(const struct nf4_args &a, int block0, const float *map,
						const uint32_t *raw, float *to)
{
	const int groups = (BLOCKS + 3) / 4;

#pragma unroll
	for (int first = 0; first < ROWS * BLOCKS; first += NF4_THREADS) {
		int i = first + threadIdx.x, row = i / BLOCKS, block = i % BLOCKS + block0 % 4;

		if (ROWS * BLOCKS % NF4_THREADS == 0 || i < ROWS * BLOCKS) {
			const uint32_t *word = raw + 2 * (row * groups + block / 4);
			uint32_t code = word[0] >> (8 * (block % 4)) & 255;

			to[BY_BLOCK ? i % BLOCKS * ROWS + row : i] = nf4_scale(
				map[code], __uint_as_float(word[1]), a.scales.offset);
		}
	}
}

/* Stores a tile whose parts lie in sums (PARTS, TOKENS, WIDTH + 4): they are added in order. */
template <typename T, int PARTS, int TOKENS, int WIDTH>
__device__ __forceinline__ void nf4_tile_store(const struct nf4_args &a, const float *sums, int token0,
					       int first)
{
	for (int i = threadIdx.x; i < TOKENS * (WIDTH / 4); i += NF4_THREADS) {
		int token = i / (WIDTH / 4), at = i % (WIDTH / 4) * 4, left = a.out.width - (first + at);
		float sum[4] = {};

		if (token0 + token >= a.n || left <= 0)
			continue;
#pragma unroll
		for (int p = 0; p < PARTS; p++) {
			pack<float> x = load_pack(sums + (p * TOKENS + token) * (WIDTH + 4) + at);

			for (int j = 0; j < 4; j++)
				sum[j] += x.v[j];
		}
		size_t row = (size_t)(token0 + token), column = (size_t)(first + at);

		if (a.parts)
			store4<float>(a.parts, STORE_F32,
				      (blockIdx.z * (size_t)a.n + row) * (size_t)a.out.width + column, left,
				      a.vector, sum);
		else
			store4<T>(a.out.y, a.out.how, row * (size_t)a.out.ld + column, left, a.vector, sum);
	}
}

/* Fills in what both directions take, and takes scratch: what absmax was expanded to (when nested codes cannot be read by
 * 4), and the splits' sums. false: the kernels cannot read this matrix, or there is no memory (then *failed). */
static inline bool nf4_args_make(struct device *d, const struct product_out *out, const void *in, int ld_in,
				 const struct matrix *w, const struct nf4_plan *plan, struct nf4_args *a,
				 bool *failed)
{
	bool expand = !w->absmax && (w->cols % (4 * NF4_BLOCK) || !aligned_to(w->absmax_codes, 4));
	size_t absmax = expand ? nf4_absmax_scratch(w->rows, w->cols) : 0;
	size_t parts = nf4_plan_scratch(plan, out->n, out->width);
	char *scratch = NULL;

	if (!aligned_to(w->data, 16) || !aligned_to(in, 16) || ld_in % 8)
		return false;
	*failed = false;
	if (absmax + parts) {
		scratch = static_cast<char *>(cuda_scratch(d, absmax + parts));
		*failed = !scratch;
		if (*failed)
			return false;
	}
	a->in = in;
	a->ld_in = ld_in;
	a->n = out->n;
	a->packed = static_cast<const uint8_t *>(w->data);
	a->scales = nf4_scales_of(d, w);
	a->rows = w->rows;
	a->cols = w->cols;
	a->out = *out;
	a->parts = parts ? reinterpret_cast<float *>(scratch + absmax) : NULL;
	a->steps = plan->steps;
	a->vector = parts ? out->width % 4 == 0 : stores_vector(out->y, out->ld, out->width);
	if (expand) {
		absmax_expand(d, w, reinterpret_cast<float *>(scratch));
		a->scales.absmax = reinterpret_cast<const float *>(scratch);
	}
	return true;
}

#endif
