/* The products of LoRA that end in few rows, C (rank, J) = N (rank, K) W, where W is activations: (K, J) when K is tokens,
 * transposed when K is channels, and dropped on the way. lora.cu says which product is which.
 *
 * A block has a tile of C, and each of its warps every fourth piece of K, in shared memory of its own, so that warps wait for
 * each other only at the end, where their sums are added in order. Where there are too few tiles to fill a GPU, the blocks of
 * `splits` shares of K write their sums to scratch, and whoever reads them adds them in order: widen_kernel (lora_widen.cuh),
 * or add_splits. */
#ifndef KERNELS_CUDA_LORA_NARROW_CUH
#define KERNELS_CUDA_LORA_NARROW_CUH

#include "kernels/cuda/vector.cuh"

#define WARPS 4
#define DEEP  16 /* of K in shared memory at once */

/* struct dropout_mask, ready for use */
struct dropping {
	uint64_t seed;
	const uint32_t *step;
	const int32_t *token;
	uint32_t threshold;
	float keep; /* 1 / (1 - p) */
};

/* One product of narrow_kernel. */
struct narrow_job {
	const void *wide;    /* activations (n, channels), rows `stride` apart */
	const float *narrow; /* element (r, k) at r * narrow_r + k * narrow_k; one of these strides is 1 */
	float *out;          /* element (r, j) at r * out_r + j * out_j */
	uint8_t *bits;       /* (n, ceil(channels / 8)): gets the masks; or NULL */
	size_t at;           /* where its sums begin in those of one split */
	int first;           /* its first tile in the grid */
	int channels, stride, rank;
	int narrow_r, narrow_k, out_r, out_j;
	float scale;
	uint32_t stream;
	bool dropped;
	bool add;    /* to out; else out is overwritten */
	bool vector; /* wide can be read by 16 bytes */
};

struct narrow {
	struct narrow_job job[2 * LORA_PARTS];
	struct dropping drop;
	float *sums; /* (splits, total), when splits > 1 */
	size_t total;
	int jobs, n, splits;
};

/* The largest tile that holds R ranks: J values of the other side, of which each lane sums LANE_R x LANE_J. */
template <int R> struct tile {
	static const int j = R == 64 ? 32 : 64;
	static const int lane_r = R < 32 ? 4 : 8;
	static const int lane_j = R == 8 ? 4 : 8;
	static const int narrow_stride = R + 4; /* no bank conflicts when columns are written by 16 bytes */
	static const int work = DEEP * (j + narrow_stride);
	static const int warp_floats = work > R *j ? work : R *j;
};

/* Bit i: whether channel c + i of the token is kept; c is a multiple of 8. */
__device__ __forceinline__ uint32_t kept_bits(const struct dropping &drop, int32_t token, uint32_t stream,
					      uint32_t step, int c)
{
	uint32_t bits = 0;

#pragma unroll
	for (int half = 0; half < 2; half++) {
		const uint32_t counter[4] = {(uint32_t)c / 4 + half, (uint32_t)token, stream, step};
		uint32_t word[4];

		philox(counter, drop.seed, word);
#pragma unroll
		for (int i = 0; i < 4; i++)
			bits |= (word[i] < drop.threshold ? 0u : 1u) << (4 * half + i);
	}
	return bits;
}

/* 8 neighbours of a row as they are; zeros from `end` on. */
template <typename T>
__device__ __forceinline__ chunk<T, 16 / sizeof(T)> load_some(const T *p, int left, bool vector)
{
	constexpr int m = 16 / sizeof(T);
	chunk<T, m> x;

	if (vector && left >= m)
		return *reinterpret_cast<const chunk<T, m> *>(p);
#pragma unroll
	for (int i = 0; i < m; i++)
		x.v[i] = i < left ? p[i] : from_float<T>(0);
	return x;
}

/* The piece of W at k0, j0 into a warp's shared memory, (DEEP, J), dropped. A lane reads 8 channels of a token at once. When
 * K is channels they come to lie in 8 rows: tokens are swizzled by 8 channels' number, or lanes would share banks. When K is
 * tokens they lie in one row: first halves of all lanes' channels, then second halves, again for the banks. */
template <typename T, int J, bool OVER_TOKENS>
__device__ __forceinline__ void load_wide(const struct narrow &a, const struct narrow_job &job, int k0,
					  int j0, uint32_t step, bool write_bits, float *wide)
{
	constexpr int row_lanes = (OVER_TOKENS ? J : DEEP) / 8, rows = 32 / row_lanes,
		      passes = DEEP * J / 256;
	constexpr int packs = 8 * sizeof(T) / 16, m = 16 / sizeof(T), together = 2 / packs;
	int lane = threadIdx.x % 32, row = lane / row_lanes, column = lane % row_lanes;
	int t0 = (OVER_TOKENS ? k0 : j0) + row, c = (OVER_TOKENS ? j0 : k0) + 8 * column,
	    left = job.channels - c;

	/* Two vectors are on their way at once; more take registers that the sums need. */
#pragma unroll 1
	for (int first = 0; first < passes; first += together) {
		chunk<T, m> raw[together][packs];

#pragma unroll
		for (int i = 0; i < together; i++) {
			int t = t0 + (first + i) * rows;
			const T *p = static_cast<const T *>(job.wide) + (size_t)t * job.stride + c;

#pragma unroll
			for (int j = 0; j < packs; j++)
				raw[i][j] = load_some(p + j * m, t < a.n ? left - j * m : 0, job.vector);
		}
#pragma unroll
		for (int i = 0; i < together; i++) {
			int pass = first + i, t = t0 + pass * rows;
			float x[8];

#pragma unroll
			for (int j = 0; j < 8; j++)
				x[j] = to_float(raw[i][j / m].v[j % m]);
			if (job.dropped && t < a.n && left > 0) {
				uint32_t bits = kept_bits(a.drop, a.drop.token[t], job.stream, step, c);

#pragma unroll
				for (int j = 0; j < 8; j++)
					x[j] = bits >> j & 1 ? x[j] * a.drop.keep : 0.0f;
				if (write_bits)
					job.bits[(size_t)t * ceil_div(job.channels, 8) + c / 8] = (uint8_t)
						bits;
			}
			if constexpr (OVER_TOKENS) {
				float *to = wide + (row + pass * rows) * J + 4 * column;

				store_floats<4>(to, x);
				store_floats<4>(to + J / 2, x + 4);
			} else {
				float *to = wide + 8 * column * J + ((row + pass * rows) ^ (rows * column));

#pragma unroll
				for (int j = 0; j < 8; j++)
					to[j * J] = x[j];
			}
		}
	}
}

/* The piece of N at r0, k0 into a warp's shared memory, (DEEP, R). */
template <int R>
__device__ __forceinline__ void load_narrow(const struct narrow_job &job, int depth, int r0, int k0,
					    float *narrow)
{
	constexpr int stride = tile<R>::narrow_stride;
	int lane = threadIdx.x % 32;

	if (job.narrow_k == 1) {
		int k = lane % DEEP;

#pragma unroll 2
		for (int r = 4 * (lane / DEEP); r < R; r += 4 * (32 / DEEP)) {
			float x[4];

#pragma unroll
			for (int i = 0; i < 4; i++)
				x[i] = k0 + k < depth && r0 + r + i < job.rank
					       ? job.narrow[(size_t)(r0 + r + i) * job.narrow_r + k0 + k]
					       : 0.0f;
			store_floats<4>(narrow + k * stride + r, x);
		}
	} else {
#pragma unroll 4
		for (int i = lane; i < DEEP * R; i += 32) {
			int k = i / R, r = i % R;

			narrow[k * stride + r] =
				k0 + k < depth && r0 + r < job.rank
					? job.narrow[(size_t)(k0 + k) * job.narrow_k + r0 + r]
					: 0.0f;
		}
	}
}

/* Block (tile of all jobs, split, ranks). */
template <typename T, int R, bool OVER_TOKENS>
static __global__ void __launch_bounds__(32 * WARPS, R < 32           ? 5
						     : sizeof(T) == 4 ? 3
								      : 4)
	narrow_kernel(const __grid_constant__ struct narrow a)
{
	grid_wait();
	constexpr int J = tile<R>::j, lane_r = tile<R>::lane_r, lane_j = tile<R>::lane_j,
		      j_lanes = J / lane_j;
	DYNAMIC_SHARED(float, shared);
	int q = 0, lane = threadIdx.x % 32, warp = threadIdx.x / 32, r0 = blockIdx.z * R;
	int r_lane = lane / j_lanes * lane_r, j_lane = lane % j_lanes * 4;
	float *wide = shared + warp * tile<R>::warp_floats, *narrow = wide + DEEP * J;
	float sum[lane_r][lane_j] = {};

	while (q + 1 < a.jobs && (int)blockIdx.x >= a.job[q + 1].first)
		q++;
	const struct narrow_job &job = a.job[q];
	if (r0 >= job.rank)
		return;
	int depth = OVER_TOKENS ? a.n : job.channels, width = OVER_TOKENS ? job.channels : a.n;
	int j0 = (blockIdx.x - job.first) * J, pieces = ceil_div(depth, DEEP),
	    share = ceil_div(pieces, a.splits);
	int end = min(pieces, ((int)blockIdx.y + 1) * share);
	uint32_t step = job.dropped ? *a.drop.step : 0;

	for (int piece = blockIdx.y * share + warp; piece < end; piece += WARPS) {
		load_wide<T, J, OVER_TOKENS>(a, job, piece * DEEP, j0, step, job.bits && r0 == 0, wide);
		load_narrow<R>(job, depth, r0, piece * DEEP, narrow);
		__syncwarp();
#pragma unroll 4
		for (int k = 0; k < DEEP; k++) {
			/* As load_wide swizzled it. */
			int swizzle = OVER_TOKENS ? 0 : k / 8 * (32 / (DEEP / 8));
			float n[lane_r], w[lane_j];

#pragma unroll
			for (int i = 0; i < lane_r; i += 4)
				load_floats<4>(narrow + k * tile<R>::narrow_stride + r_lane + i, n + i);
#pragma unroll
			for (int i = 0; i < lane_j; i += 4)
				load_floats<4>(wide + k * J + ((j_lane + i / 4 * (J / 2)) ^ swizzle), w + i);
#pragma unroll
			for (int i = 0; i < lane_r; i++)
#pragma unroll
				for (int j = 0; j < lane_j; j++)
					sum[i][j] += n[i] * w[j];
		}
		__syncwarp();
	}
	/* Here columns get their order back: 8 that lay in two halves of a row are neighbours. */
#pragma unroll
	for (int i = 0; i < lane_r; i++)
#pragma unroll
		for (int j = 0; j < lane_j; j += 4) {
			int at = j_lane + j / 4 * (J / 2);

			if (OVER_TOKENS)
				at = at < J / 2 ? 2 * at : 2 * (at - J / 2) + 4;
			store_floats<4>(wide + (r_lane + i) * J + at, sum[i] + j);
		}
	__syncthreads();
	for (int i = threadIdx.x; i < R * J; i += 32 * WARPS) {
		int r = i / J, j = j0 + i % J;
		float total = 0;

		for (int w = 0; w < WARPS; w++)
			total += shared[w * tile<R>::warp_floats + i];
		total *= job.scale;
		if (r0 + r >= job.rank || j >= width)
			continue;
		if (a.splits > 1) {
			a.sums[blockIdx.y * a.total + job.at + (size_t)(r0 + r) * width + j] = total;
		} else {
			float *out = job.out + (size_t)(r0 + r) * job.out_r + (size_t)j * job.out_j;

			*out = job.add ? *out + total : total;
		}
	}
}

/* What the splits of narrow_kernel left, added in order. Block (piece, job). */
template <bool OVER_TOKENS> static __global__ void add_splits(const __grid_constant__ struct narrow a)
{
	grid_wait();
	const struct narrow_job &job = a.job[blockIdx.y];
	int width = OVER_TOKENS ? job.channels : a.n;
	size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
	float total = 0;

	if (i >= (size_t)job.rank * width)
		return;
	for (int s = 0; s < a.splits; s++)
		total += a.sums[s * a.total + job.at + i];
	float *out = job.out + i / width * job.out_r + i % width * job.out_j;
	*out = job.add ? *out + total : total;
}

#endif
