/* The products of LoRA that begin with few rows: y (n, channels) += the transposed (rank, n) times (rank, channels), for one
 * adapter to a tile of y, or for all of them that share y's channels in one pass (dx), each with its dropout mask.
 *
 * Memory decides: y is read and written once, by 16 bytes, and the two narrow matrices come from the cache. */
#ifndef KERNELS_CUDA_LORA_WIDEN_CUH
#define KERNELS_CUDA_LORA_WIDEN_CUH

#include "kernels/cuda/lora_narrow.cuh"

#define WIDE_THREADS  256
#define WIDE_CHANNELS 128 /* of a tile */
#define WIDE_LANES    16  /* threads side by side in tokens; each has 1 or 4 of them, see widen_kernel */
#define WIDE_STRIDE   (WIDE_CHANNELS + 4)

/* One adapter of widen_kernel: y[t, at + c] += the sum over r of matrix (r, c) narrow (r, t). */
struct widen_part {
	const float *matrix; /* element (r, c) at r * matrix_r + c * matrix_c; one of these strides is 1 */
	const float *narrow; /* (rank, n) of each split */
	float *save;         /* (rank, n): gets the sum of the splits; or NULL */
	const uint8_t *bits; /* masks as in narrow_job, MASKED */
	int first;           /* its first tile in the grid, unless all parts are together */
	int channels, rank, at, matrix_r, matrix_c;
};

struct widen {
	struct widen_part part[LORA_PARTS];
	void *y;
	size_t total; /* floats of one split */
	int parts, n, splits, ldy;
	float scale;
	bool together; /* all parts add to the same channels, in one pass over y */
	bool vector;   /* y can be read and written by 16 bytes */
};

/* An element of narrow: its splits added in order, eight of them on their way at once. */
__device__ __forceinline__ float add_parts(const float *p, size_t total, int splits)
{
	float x = 0;

	for (int s = 0; s < splits; s += 8) {
		float v[8];

#pragma unroll
		for (int k = 0; k < 8; k++)
			v[k] = s + k < splits ? p[(s + k) * total] : 0.0f;
#pragma unroll
		for (int k = 0; k < 8; k++)
			x += v[k];
	}
	return x;
}

/* RANKS ranks of a part into shared memory: the matrix (RANKS, WIDE_STRIDE), where the first halves of 8 channels lie before
 * the second ones so that lanes read without bank conflicts, and narrow (RANKS, TOKENS). The matrix, or the first of it, is on
 * its way while narrow is loaded and added. */
template <int RANKS, int TOKENS>
__device__ __forceinline__ void load_ranks(const struct widen &a, const struct widen_part &part, int r0,
					   int c0, int t0, bool save, float *matrix, float *narrow)
{
	constexpr int all = RANKS * WIDE_CHANNELS, most = WIDE_THREADS * (TOKENS == WIDE_LANES ? 8 : 4),
		      step = all < most ? all : most;
	bool by_column = part.matrix_r == 1;

#pragma unroll 1
	for (int first = 0; first < all; first += step) {
		float m[step / WIDE_THREADS];

#pragma unroll
		for (int k = 0; k < step / WIDE_THREADS; k++) {
			int i = first + threadIdx.x + k * WIDE_THREADS,
			    r = by_column ? i % RANKS : i / WIDE_CHANNELS;
			int c = by_column ? i / RANKS : i % WIDE_CHANNELS;

			m[k] = r0 + r < part.rank && c0 + c < part.channels
				       ? part.matrix[(size_t)(r0 + r) * part.matrix_r +
						     (size_t)(c0 + c) * part.matrix_c]
				       : 0.0f;
		}
		for (int i = threadIdx.x; first == 0 && i < RANKS * TOKENS; i += WIDE_THREADS) {
			int r = r0 + i / TOKENS, t = t0 + i % TOKENS;
			size_t at = (size_t)r * a.n + t;
			bool there = r < part.rank && t < a.n;
			float x = there ? add_parts(part.narrow + at, a.total, a.splits) : 0.0f;

			if (there && save)
				part.save[at] = x;
			narrow[i] = x;
		}
#pragma unroll
		for (int k = 0; k < step / WIDE_THREADS; k++) {
			int i = first + threadIdx.x + k * WIDE_THREADS,
			    r = by_column ? i % RANKS : i / WIDE_CHANNELS;
			int c = by_column ? i / RANKS : i % WIDE_CHANNELS;

			matrix[r * WIDE_STRIDE + c / 8 * 4 + c / 4 % 2 * (WIDE_CHANNELS / 2) + c % 4] = m[k];
		}
	}
}

/* Block (channels, tokens); each thread has 8 channels of TOKENS tokens, so that a warp's access to y is two rows of 256 bytes;
 * one token where there are few. */
template <typename Y, int RANKS, int TOKENS, bool MASKED>
static __global__ void __launch_bounds__(WIDE_THREADS, 2) widen_kernel(const __grid_constant__ struct widen a)
{
	grid_wait();
	__shared__ __align__(16) float matrix[RANKS * WIDE_STRIDE];
	__shared__ __align__(16) float narrow[RANKS * WIDE_LANES * TOKENS];
	int p = 0, c_lane = threadIdx.x % 16, t_lane = threadIdx.x / 16,
	    t0 = blockIdx.y * WIDE_LANES * TOKENS;
	float sum[TOKENS][8] = {}, total[MASKED ? TOKENS : 1][8] = {};

	if (!a.together)
		while (p + 1 < a.parts && (int)blockIdx.x >= a.part[p + 1].first)
			p++;
	int tile = a.together ? blockIdx.x : blockIdx.x - a.part[p].first;
	int last = a.together ? a.parts : p + 1, c0 = tile * WIDE_CHANNELS, c = c0 + 8 * c_lane,
	    t = t0 + TOKENS * t_lane;
	int channels = a.part[p].channels;
	Y *y = static_cast<Y *>(a.y) + (size_t)t * a.ldy + a.part[p].at + c;
	eight<Y> before;

	/* Where there is little to do, waiting for y is much of it. */
	if (TOKENS == 1)
		load_eight(y, t < a.n ? channels - c : 0, a.vector, &before);

	for (; p < last; p++) {
		const struct widen_part &part = a.part[p];

		for (int r0 = 0; r0 < part.rank; r0 += RANKS) {
			__syncthreads();
			load_ranks<RANKS, WIDE_LANES * TOKENS>(a, part, r0, c0, t0, part.save && tile == 0,
							       matrix, narrow);
			__syncthreads();
#pragma unroll 8
			for (int r = 0; r < RANKS; r++) {
				float m[8], x[TOKENS];

				load_floats<4>(matrix + r * WIDE_STRIDE + 4 * c_lane, m);
				load_floats<4>(matrix + r * WIDE_STRIDE + WIDE_CHANNELS / 2 + 4 * c_lane,
					       m + 4);
				load_floats<TOKENS>(narrow + (r * WIDE_LANES + t_lane) * TOKENS, x);
#pragma unroll
				for (int i = 0; i < TOKENS; i++)
#pragma unroll
					for (int j = 0; j < 8; j++)
						sum[i][j] += x[i] * m[j];
			}
		}
		if (MASKED && c < channels)
#pragma unroll
			for (int i = 0; i < TOKENS; i++) {
				size_t row = (size_t)(t + i) * ceil_div(channels, 8);
				uint32_t bits = t + i < a.n ? part.bits[row + c / 8] : 0;

#pragma unroll
				for (int j = 0; j < 8; j++) {
					total[MASKED ? i : 0][j] += bits >> j & 1 ? sum[i][j] : 0.0f;
					sum[i][j] = 0;
				}
			}
	}
#pragma unroll
	for (int i = 0; i < TOKENS; i++) {
		const float *add = MASKED ? total[MASKED ? i : 0] : sum[i];

		if (t + i >= a.n || c >= channels)
			continue;
		if (a.vector && c + 8 <= channels) {
			float x[8];

			if (TOKENS == 1)
#pragma unroll
				for (int j = 0; j < 8; j++)
					x[j] = parts_of<Y>::value(before.word, j);
			else
				load_floats<8>(y + (size_t)i * a.ldy, x);
#pragma unroll
			for (int j = 0; j < 8; j++)
				x[j] += a.scale * add[j];
			store_floats<8>(y + (size_t)i * a.ldy, x);
		} else {
#pragma unroll
			for (int j = 0; j < 8; j++)
				if (c + j < channels) {
					Y *to = y + (size_t)i * a.ldy + j;

					*to = from_float<Y>(to_float(*to) + a.scale * add[j]);
				}
		}
	}
}

#endif
