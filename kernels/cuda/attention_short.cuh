/* Attention of short sequences (16 bits): latency is what it takes, not bytes or products. So tiles have few rows, that many
 * blocks share the work, and the keys that they see arrive all at once where they are at most SHORT_KEYS. The warps of a
 * block divide what one warp of attention.cuh does alone: scores by keys, 16 to a warp at a time, then sums by columns.
 * Probabilities pass from the first to the second through shared memory. */
#ifndef KERNELS_CUDA_ATTENTION_SHORT_CUH
#define KERNELS_CUDA_ATTENTION_SHORT_CUH

#include "kernels/cuda/attention.cuh"

/* No sequence has more keys than this, by the bound that is known on the host. */
#define SHORT_LIMIT 256

/* D is 64, 128 or 256. Every warp has D / WARPS columns of sums, a multiple of 16. */
template <int D> __host__ __device__ constexpr int short_warps()
{
	return D == 64 ? 4 : 8;
}

/* The most keys that a block holds: two blocks to a multiprocessor. */
template <int D> __host__ __device__ constexpr int short_keys_most()
{
	return D == 256 ? 96 : 128;
}

/* Rounds of 16 keys to a warp over those. */
template <int D> __host__ __device__ constexpr int short_rounds()
{
	return short_keys_most<D>() / (16 * short_warps<D>()) > 1
		       ? short_keys_most<D>() / (16 * short_warps<D>())
		       : 1;
}

static inline int short_padded(const struct attention *s)
{
	return (s->max_k + 15) / 16 * 16;
}

/* Keys that a block holds. */
template <int D> static inline int short_keys(const struct attention *s)
{
	int keys = short_padded(s);

	return keys < short_keys_most<D>() ? keys : short_keys_most<D>();
}

/* Tiles of 16 rows are few enough for all of them to run at once. */
static inline bool short_rows_are_few(const struct cuda_device *d, const struct attention *s)
{
	return tile_blocks(s, s->heads / s->kv_heads, 16) * s->kv_heads <= 2 * d->multiprocessors;
}

/* Starts copying `count` rows of x, a multiple of 16, from row `first` on; zeros from row `end` on. */
template <int D, int THREADS, typename T>
__device__ __forceinline__ void short_load(T *tile, const T *x, ptrdiff_t stride, int head_dim, int first,
					   int count, int end)
{
	const int chunks = D / 8, step = THREADS / chunks;
	int chunk = threadIdx.x % chunks, row = threadIdx.x / chunks;

	end = chunk * 8 < head_dim ? end - first : 0;
	x += (first + row) * stride + chunk * 8;
	UNROLL_4
	for (; row < count; row += step) {
		cp_async_16(tile_at<D>(tile, row, chunk), x, row < end);
		x += step * stride;
	}
}

/* s = a b^T, 16 M rows by 16, in two sums for each value so that products wait less for each other. */
template <int D, int M, typename T>
__device__ __forceinline__ void short_scores(float s[M][2][4], const T *a, const T *b)
{
	int lane = threadIdx.x % 32;
	float odd[M][2][4] = {};

	UNROLL
	for (int m = 0; m < M; m++) {
		UNROLL
		for (int i = 0; i < 4; i++)
			s[m][0][i] = s[m][1][i] = 0.0f;
	}
	UNROLL_4
	for (int k = 0; k < D / 16; k += 2) {
		UNROLL
		for (int j = 0; j < 2; j++) {
			uint32_t y[4];

			ldmatrix_x4(y, tile_at<D>(b, lane / 16 * 8 + lane % 8, 2 * (k + j) + lane / 8 % 2));
			UNROLL
			for (int m = 0; m < M; m++) {
				uint32_t x[4];

				ldmatrix_x4(x, tile_at<D>(a, 16 * m + lane % 16, 2 * (k + j) + lane / 16));
				mma_16816<T>(j ? odd[m][0] : s[m][0], x, y);
				mma_16816<T>(j ? odd[m][1] : s[m][1], x, y + 2);
			}
		}
	}
	UNROLL
	for (int m = 0; m < M; m++) {
		UNROLL
		for (int n = 0; n < 2; n++) {
			UNROLL
			for (int i = 0; i < 4; i++)
				s[m][n][i] += odd[m][n][i];
		}
	}
}

/* 16 M rows by 16 keys to p, in rows of p_stride. */
template <int M, typename T>
__device__ __forceinline__ void short_keep(const float s[M][2][4], T *p, int p_stride)
{
	int lane = threadIdx.x % 32;

	UNROLL
	for (int m = 0; m < M; m++) {
		UNROLL
		for (int n = 0; n < 2; n++) {
			UNROLL
			for (int h = 0; h < 2; h++)
				*reinterpret_cast<uint32_t *>(
					p + (16 * m + 8 * h + lane / 4) * p_stride + 8 * n +
					lane % 4 * 2) = pack2<T>(s[m][n][2 * h], s[m][n][2 * h + 1]);
		}
	}
}

/* sum += p b, over `count` keys, a multiple of 16: the columns of b from chunk on. */
template <int D, int M, int N, typename T>
__device__ __forceinline__ void short_sums(float sum[M][N][4], const T *p, int p_stride, const T *b,
					   int count, int chunk)
{
	int lane = threadIdx.x % 32;

	UNROLL_2
	for (int k = 0; k < count; k += 16) {
		uint32_t x[M][4];

		UNROLL
		for (int m = 0; m < M; m++)
			ldmatrix_x4(x[m], p + (16 * m + lane % 16) * p_stride + k + lane / 16 * 8);
		UNROLL
		for (int n = 0; n < N; n += 2) {
			uint32_t y[4];

			ldmatrix_x4_trans(y, tile_at<D>(b, k + lane % 16, chunk + n + lane / 16));
			UNROLL
			for (int m = 0; m < M; m++) {
				mma_16816<T>(sum[m][n], x[m], y);
				mma_16816<T>(sum[m][n + 1], x[m], y + 2);
			}
		}
	}
}

/* sum times `times` of each row to rows [first, rows) of out, laid out as in tile_load_heads: the columns from chunk on. */
template <int M, int N, typename T>
__device__ __forceinline__ void short_store(const float sum[M][N][4], const float times[M][2], T *out,
					    ptrdiff_t stride, int head_dim, int group, int first, int rows,
					    int chunk)
{
	int lane = threadIdx.x % 32;

	UNROLL
	for (int m = 0; m < M; m++) {
		UNROLL
		for (int h = 0; h < 2; h++) {
			int row = first + 16 * m + 8 * h + lane / 4, query = row / group;
			T *to = out + query * stride + (row - query * group) * head_dim + lane % 4 * 2;

			UNROLL
			for (int n = 0; n < N; n++)
				if (row < rows && (chunk + n) * 8 < head_dim)
					*reinterpret_cast<uint32_t *>(to + (chunk + n) * 8) = pack2<T>(
						sum[m][n][2 * h] * times[m][h],
						sum[m][n][2 * h + 1] * times[m][h]);
		}
	}
}

#endif
