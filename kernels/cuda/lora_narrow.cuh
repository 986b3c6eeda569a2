/* The products of LoRA that end in few rows, C (rank, J) = N (rank, K) W, where W is activations: (K, J) when K is tokens,
 * transposed when K is channels, and dropped on the way. lora.cu says which product is which.
 *
 * N is fp32 and stays so: a value is the sum of three bf16 values, 24 bits, and activations are the sum of one (bf16), two
 * (fp16) or three (fp32), so that few products of tensor cores, into fp32 sums, give what fp32 arithmetic gives. All operands
 * go from memory to registers: a lane reads 8 neighbouring channels, and which of them an mma takes for which of its k (or n)
 * is free as long as both operands agree.
 *
 * A block has a tile of C, and its warps take pieces of K in turn; their sums are added in order. Where there are too few
 * tiles to fill a GPU, the blocks of `splits` shares of K write their sums to scratch, and whoever reads them adds them in
 * order. */
#ifndef KERNELS_CUDA_LORA_NARROW_CUH
#define KERNELS_CUDA_LORA_NARROW_CUH

#include "kernels/cuda/vector.cuh"

#define WARPS          8
#define PIECE_CHANNELS 32 /* of K, when K is channels */
#define PIECE_TOKENS   16 /* of K, when K is tokens */
#define TILE_CHANNELS  64 /* of J, when K is tokens */

/* struct dropout_mask, ready for use */
struct dropping {
	uint64_t seed;
	const uint32_t *step;
	const int32_t *token;
	uint32_t threshold;
};

/* One product of a launch. */
struct narrow_job {
	const void *wide; /* activations (n, channels), rows `stride` apart */
	/* Element (r, k) at r * narrow_r + k * narrow_k; when K is tokens (rank, n), of each split. */
	const float *narrow;
	float *out;          /* element (r, j) at r * out_r + j * out_j */
	uint8_t *bits;       /* (n, ceil(channels / 8)): gets the masks; or NULL */
	size_t at;           /* where its sums begin in those of one split */
	size_t narrow_total; /* elements from one split of narrow to the next */
	int narrow_splits;   /* which are added */
	int first;           /* its first tile in the grid, when K is tokens */
	int channels, stride, rank;
	int narrow_r, narrow_k, out_r, out_j;
	float scale; /* of the sum */
	uint32_t stream;
	bool dropped;       /* wide is; 1 / (1 - p) is in scale */
	bool add;           /* to out; else out is overwritten */
	bool vector;        /* wide can be read by 16 bytes */
	bool narrow_vector; /* narrow likewise */
};

struct narrow {
	struct narrow_job job[2 * LORA_PARTS];
	struct dropping drop;
	float *sums; /* (splits, total), when splits > 1 */
	size_t total;
	int jobs, n, splits, rank_tiles;
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
			bits |= word[i] < drop.threshold ? 0u : 1u << (4 * half + i);
	}
	return bits;
}

/* 8 neighbours of a row, as they are in memory: in whole registers, since taking them apart would wait for the load. */
template <typename T> struct eight {
	uint32_t word[2 * sizeof(T)];
};

/* Zeros from `left` on, which may be negative. */
template <typename T>
__device__ __forceinline__ void load_eight(const T *p, int left, bool vector, eight<T> *x)
{
	if (vector && left >= 8) {
#pragma unroll
		for (int i = 0; i < (int)sizeof(T) / 2; i++) {
			pack<uint32_t> four = load_pack(reinterpret_cast<const uint32_t *>(p) + 4 * i);

#pragma unroll
			for (int j = 0; j < 4; j++)
				x->word[4 * i + j] = four.v[j];
		}
	} else if constexpr (sizeof(T) == 4) {
#pragma unroll
		for (int i = 0; i < 8; i++)
			x->word[i] = i < left ? reinterpret_cast<const uint32_t *>(p)[i] : 0;
	} else {
		const uint16_t *half = reinterpret_cast<const uint16_t *>(p);

#pragma unroll
		for (int i = 0; i < 4; i++) {
			uint32_t low = 2 * i < left ? half[2 * i] : 0,
				 high = 2 * i + 1 < left ? half[2 * i + 1] : 0;

			x->word[i] = low | high << 16;
		}
	}
}

__device__ __forceinline__ float low_float(uint32_t pair)
{
	return __uint_as_float(pair << 16);
}

__device__ __forceinline__ float high_float(uint32_t pair)
{
	return __uint_as_float(pair & 0xffff0000u);
}

/* Two values as the sums of N bf16 values each, the first one in the lower halves. */
template <int N> __device__ __forceinline__ void split_pair(float a, float b, uint32_t part[N])
{
#pragma unroll
	for (int i = 0; i < N; i++) {
		part[i] = pack2<__nv_bfloat16>(a, b);
		a -= low_float(part[i]);
		b -= high_float(part[i]);
	}
}

/* Of 8 activations: value i, and pair i as the sums of so many bf16 values, exactly. */
template <typename T> struct parts_of;

template <> struct parts_of<__nv_bfloat16> {
	static const int count = 1;

	static __device__ __forceinline__ float value(const uint32_t word[4], int i)
	{
		return i % 2 ? high_float(word[i / 2]) : low_float(word[i / 2]);
	}

	static __device__ __forceinline__ void pair(const uint32_t word[4], int i, uint32_t part[1])
	{
		part[0] = word[i];
	}
};

template <> struct parts_of<__half> {
	static const int count = 2;

	static __device__ __forceinline__ float value(const uint32_t word[4], int i)
	{
		__half_raw raw;

		raw.x = (unsigned short)(word[i / 2] >> 16 * (i % 2));
		return to_float(__half(raw));
	}

	static __device__ __forceinline__ void pair(const uint32_t word[4], int i, uint32_t part[2])
	{
		split_pair<2>(value(word, 2 * i), value(word, 2 * i + 1), part);
	}
};

template <> struct parts_of<float> {
	static const int count = 3;

	static __device__ __forceinline__ float value(const uint32_t word[8], int i)
	{
		return __uint_as_float(word[i]);
	}

	static __device__ __forceinline__ void pair(const uint32_t word[8], int i, uint32_t part[3])
	{
		split_pair<3>(value(word, 2 * i), value(word, 2 * i + 1), part);
	}
};

template <typename T>
__device__ __forceinline__ void split_eight(const eight<T> &x, uint32_t part[parts_of<T>::count][4])
{
	constexpr int count = parts_of<T>::count;

#pragma unroll
	for (int i = 0; i < 4; i++) {
		uint32_t pair[count];

		parts_of<T>::pair(x.word, i, pair);
#pragma unroll
		for (int k = 0; k < count; k++)
			part[k][i] = pair[k];
	}
}

/* Bit i of bits says whether value i stays. */
template <int N> __device__ __forceinline__ void drop_eight(uint32_t bits, uint32_t part[N][4])
{
	uint32_t spread = bits | bits << 15;

#pragma unroll
	for (int i = 0; i < 4; i++) {
		uint32_t mask = (spread >> 2 * i & 0x10001u) * 0xffffu;

#pragma unroll
		for (int k = 0; k < N; k++)
			part[k][i] &= mask;
	}
}

/* Of the products of parts, those that fp32 can tell. */
__host__ __device__ constexpr bool counts(int wide, int narrow)
{
	return wide + narrow < 3;
}

/* Row r of a job's narrow side, 8 channels from c on. */
__device__ __forceinline__ void load_ranks_of(const struct narrow_job &job, int r, int c, float n[8])
{
	const float *p = job.narrow + (size_t)r * job.narrow_r + (size_t)c * job.narrow_k;
	int left = r < job.rank ? job.channels - c : 0;

	if (job.narrow_vector && left >= 8) {
		load_floats<8>(p, n);
		return;
	}
#pragma unroll
	for (int i = 0; i < 8; i++)
		n[i] = i < left ? p[(size_t)i * job.narrow_k] : 0.0f;
}

/* Row r of a job's narrow side, tokens t, t + 1 and t + 8, t + 9, its splits added. */
__device__ __forceinline__ void load_tokens_of(const struct narrow_job &job, int r, int t, int n,
					       float low[2], float high[2])
{
	if (r >= job.rank)
		return;
	const float *p = job.narrow + (size_t)r * n + t;

#pragma unroll 4
	for (int s = 0; s < job.narrow_splits; s++, p += job.narrow_total) {
		low[0] += t < n ? p[0] : 0.0f;
		low[1] += t + 1 < n ? p[1] : 0.0f;
		high[0] += t + 8 < n ? p[8] : 0.0f;
		high[1] += t + 9 < n ? p[9] : 0.0f;
	}
}

/* The sum of the warps' values of one element; a warp's are `stride` apart. */
__device__ __forceinline__ float add_warps(const float *p, int stride)
{
	float x[WARPS], total = 0;

#pragma unroll
	for (int w = 0; w < WARPS; w++)
		x[w] = p[w * stride];
#pragma unroll
	for (int w = 0; w < WARPS; w++)
		total += x[w];
	return total;
}

/* K is channels. Block (tile of 16 M tokens, job and 8 N ranks, the latter fastest so that blocks of the same tokens run
 * together; split). Tokens are the rows of the mma, ranks its columns, and of 32 channels a lane has 8. */
template <typename T, int M, int N>
static __global__ void __launch_bounds__(32 * WARPS, M *N <= 4 && sizeof(T) == 2 ? 2 : 1)
	over_channels(const __grid_constant__ struct narrow a)
{
	grid_wait();
	constexpr int tokens = 16 * M, ranks = 8 * N, stride = tokens + 4, X = parts_of<T>::count;
	__shared__ float shared[WARPS * ranks * stride];
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4, column = lane % 4;
	int each = a.jobs * a.rank_tiles, tile = blockIdx.x / each, r0 = blockIdx.x % each / a.jobs * ranks;
	const struct narrow_job &job = a.job[blockIdx.x % a.jobs];
	int t0 = tile * tokens + row, pieces = ceil_div(job.channels, PIECE_CHANNELS),
	    stride_pieces = a.splits * WARPS;
	const T *wide = static_cast<const T *>(job.wide);
	float sum[M][N][4] = {};
	eight<T> next[2 * M];
	uint32_t step = 0;
	int32_t token[2 * M] = {};

	if (r0 >= job.rank)
		return;
	int piece = blockIdx.y * WARPS + warp, c = piece * PIECE_CHANNELS + 8 * column;

#pragma unroll
	for (int i = 0; i < 2 * M; i++)
		load_eight(wide + (size_t)(t0 + 8 * i) * job.stride + c,
			   t0 + 8 * i < a.n ? job.channels - c : 0, job.vector, &next[i]);
	if (job.dropped) {
		step = *a.drop.step;
#pragma unroll
		for (int i = 0; i < 2 * M; i++)
			token[i] = t0 + 8 * i < a.n ? a.drop.token[t0 + 8 * i] : 0;
	}
#pragma unroll 1
	for (; piece < pieces; piece += stride_pieces) {
		uint32_t x[2 * M][X][4];
		float n[8];

		c = piece * PIECE_CHANNELS + 8 * column;
#pragma unroll
		for (int i = 0; i < 2 * M; i++)
			split_eight(next[i], x[i]);
		load_ranks_of(job, r0 + row, c, n);
		if (piece + stride_pieces < pieces) {
			int further = c + stride_pieces * PIECE_CHANNELS;

#pragma unroll
			for (int i = 0; i < 2 * M; i++)
				load_eight(wide + (size_t)(t0 + 8 * i) * job.stride + further,
					   t0 + 8 * i < a.n ? job.channels - further : 0, job.vector,
					   &next[i]);
		}
		uint32_t bits[2 * M];

		/* Without dropout too: an mma wants its registers side by side, and this puts them there. */
#pragma unroll
		for (int i = 0; i < 2 * M; i++)
			bits[i] = 0xff;
		if (job.dropped)
#pragma unroll
			for (int i = 0; i < 2 * M; i++)
				bits[i] = kept_bits(a.drop, token[i], job.stream, step, c);
#pragma unroll
		for (int i = 0; i < 2 * M; i++)
			drop_eight<X>(bits[i], x[i]);
#pragma unroll
		for (int j = 0; j < N; j++) {
			uint32_t part[4][3];

#pragma unroll
			for (int i = 0; i < 4; i++)
				split_pair<3>(n[2 * i], n[2 * i + 1], part[i]);
			if (j + 1 < N)
				load_ranks_of(job, r0 + 8 * (j + 1) + row, c, n);
#pragma unroll
			for (int half = 0; half < 2; half++)
#pragma unroll
				for (int k = 0; k < 3; k++)
#pragma unroll
					for (int w = 0; w < X; w++)
#pragma unroll
						for (int i = 0; i < M && counts(w, k); i++) {
							const uint32_t rows[4] = {
								x[2 * i][w][2 * half],
								x[2 * i + 1][w][2 * half],
								x[2 * i][w][2 * half + 1],
								x[2 * i + 1][w][2 * half + 1]};
							const uint32_t columns[2] = {part[2 * half][k],
										     part[2 * half + 1][k]};

							mma_16816<__nv_bfloat16>(sum[i][j], rows, columns);
						}
		}
	}
#pragma unroll
	for (int i = 0; i < M; i++)
#pragma unroll
		for (int j = 0; j < N; j++)
#pragma unroll
			for (int k = 0; k < 4; k++)
				shared[(warp * ranks + 8 * j + 2 * column + k % 2) * stride + 16 * i +
				       8 * (k / 2) + row] = sum[i][j][k];
	__syncthreads();
	for (int i = threadIdx.x; i < ranks * tokens; i += 32 * WARPS) {
		int r = i / tokens, t = tile * tokens + i % tokens;

		if (r0 + r >= job.rank || t >= a.n)
			continue;
		float total = job.scale * add_warps(shared + r * stride + i % tokens, ranks * stride);

		if (a.splits > 1)
			a.sums[blockIdx.y * a.total + job.at + (size_t)(r0 + r) * a.n + t] = total;
		else
			job.out[(size_t)(r0 + r) * job.out_r + (size_t)t * job.out_j] = total;
	}
}

/* K is tokens. Block (tile of all jobs, split, 16 M ranks). Ranks are the rows of the mma, channels its columns: a lane has 8
 * channels of 4 tokens, of which column g of mma j takes channel 8 g + j. */
template <typename T, int M>
static __global__ void __launch_bounds__(32 * WARPS, sizeof(T) == 2 && M == 1 ? 2 : 1)
	over_tokens(const __grid_constant__ struct narrow a)
{
	grid_wait();
	constexpr int stride = TILE_CHANNELS + 4, X = parts_of<T>::count;
	__shared__ __align__(16) float shared[WARPS * 16 * stride];
	int q = 0, lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4, column = lane % 4;
	int r0 = blockIdx.z * 16 * M;
	float sum[M][8][4] = {};
	eight<T> next[4];

	while (q + 1 < a.jobs && (int)blockIdx.x >= a.job[q + 1].first)
		q++;
	const struct narrow_job &job = a.job[q];
	if (r0 >= job.rank)
		return;
	int c0 = (blockIdx.x - job.first) * TILE_CHANNELS, c = c0 + 8 * row, left = job.channels - c;
	int pieces = ceil_div(a.n, PIECE_TOKENS), stride_pieces = a.splits * WARPS,
	    bit_row = ceil_div(job.channels, 8);
	int piece = blockIdx.y * WARPS + warp, t = piece * PIECE_TOKENS + 2 * column;
	const T *wide = static_cast<const T *>(job.wide) + c;
	uint32_t step = 0;

#pragma unroll
	for (int i = 0; i < 4; i++) {
		int ti = t + i / 2 * 8 + i % 2;

		load_eight(wide + (size_t)ti * job.stride, ti < a.n ? left : 0, job.vector, &next[i]);
	}
	if (job.dropped)
		step = *a.drop.step;
#pragma unroll 1
	for (; piece < pieces; piece += stride_pieces) {
		uint32_t x[4][X][4], rows[M][3][4], bits = 0;

		t = piece * PIECE_TOKENS + 2 * column;
#pragma unroll
		for (int i = 0; i < 4; i++)
			split_eight(next[i], x[i]);
		if (piece + stride_pieces < pieces)
#pragma unroll
			for (int i = 0; i < 4; i++) {
				int ti = t + stride_pieces * PIECE_TOKENS + i / 2 * 8 + i % 2;

				load_eight(wide + (size_t)ti * job.stride, ti < a.n ? left : 0, job.vector,
					   &next[i]);
			}
		if (job.dropped) {
			/* Two tokens at once: more would take the registers of sums. */
#pragma unroll 2
			for (int i = 0; i < 4; i++) {
				int ti = t + i / 2 * 8 + i % 2;
				uint32_t kept = ti < a.n ? kept_bits(a.drop, a.drop.token[ti], job.stream,
								     step, c)
							 : 0;

				bits |= kept << 8 * i;
				if (job.bits && r0 == 0 && ti < a.n && left > 0)
					job.bits[(size_t)ti * bit_row + c / 8] = (uint8_t)kept;
			}
#pragma unroll
			for (int i = 0; i < 4; i++)
				drop_eight<X>(bits >> 8 * i & 0xffu, x[i]);
		}
#pragma unroll
		for (int i = 0; i < M; i++) {
			float n[4][2] = {};

			load_tokens_of(job, r0 + 16 * i + row, t, a.n, n[0], n[2]);
			load_tokens_of(job, r0 + 16 * i + 8 + row, t, a.n, n[1], n[3]);
#pragma unroll
			for (int j = 0; j < 4; j++) {
				uint32_t part[3];

				split_pair<3>(n[j][0], n[j][1], part);
#pragma unroll
				for (int k = 0; k < 3; k++)
					rows[i][k][j] = part[k];
			}
		}
#pragma unroll
		for (int j = 0; j < 8; j++) {
			uint32_t columns[X][2];

#pragma unroll
			for (int w = 0; w < X; w++)
#pragma unroll
				for (int half = 0; half < 2; half++) {
					uint32_t first = x[2 * half][w][j / 2],
						 second = x[2 * half + 1][w][j / 2];

					columns[w][half] = j % 2 ? first >> 16 | (second & 0xffff0000u)
								 : (first & 0xffffu) | second << 16;
				}
#pragma unroll
			for (int i = 0; i < M; i++)
#pragma unroll
				for (int k = 0; k < 3; k++)
#pragma unroll
					for (int w = 0; w < X && counts(w, k); w++)
						mma_16816<__nv_bfloat16>(sum[i][j], rows[i][k], columns[w]);
		}
	}
#pragma unroll
	for (int i = 0; i < M; i++) {
		if (i)
			__syncthreads();
			/* A lane's sums of one rank and one column of all mmas are neighbours. */
#pragma unroll
		for (int k = 0; k < 4; k++) {
			float *to = shared + (warp * 16 + row + 8 * (k / 2)) * stride + 16 * column +
				    8 * (k % 2);
			const float v[8] = {sum[i][0][k], sum[i][1][k], sum[i][2][k], sum[i][3][k],
					    sum[i][4][k], sum[i][5][k], sum[i][6][k], sum[i][7][k]};

			store_floats<8>(to, v);
		}
		__syncthreads();
#pragma unroll
		for (int e = threadIdx.x; e < 16 * TILE_CHANNELS; e += 32 * WARPS) {
			int r = job.out_r == 1 ? e % 16 : e / TILE_CHANNELS,
			    j = job.out_r == 1 ? e / 16 : e % TILE_CHANNELS;
			int rank = r0 + 16 * i + r;

			if (rank >= job.rank || c0 + j >= job.channels)
				continue;
			float *out = job.out + (size_t)rank * job.out_r + (size_t)(c0 + j) * job.out_j;
			float old = a.splits == 1 && job.add ? *out : 0.0f;
			float total = job.scale * add_warps(shared + r * stride + j, 16 * stride);

			if (a.splits > 1)
				a.sums[blockIdx.y * a.total + job.at + (size_t)rank * job.channels + c0 + j] =
					total;
			else
				*out = old + total;
		}
	}
}

/* What the splits of over_tokens left, added in order. Block (piece, job). */
static __global__ void add_splits(const __grid_constant__ struct narrow a)
{
	grid_wait();
	const struct narrow_job &job = a.job[blockIdx.y];
	int i = blockIdx.x * blockDim.x + threadIdx.x;
	float total = 0;

	if (i >= job.rank * job.channels)
		return;
	float *out = job.out + (size_t)(i / job.channels) * job.out_r +
		     (size_t)(i % job.channels) * job.out_j;
	float old = job.add ? *out : 0.0f;
#pragma unroll 8
	for (int s = 0; s < a.splits; s++)
		total += a.sums[s * a.total + job.at + i];
	*out = old + total;
}

#endif
