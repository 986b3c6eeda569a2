/* Attention of short sequences, forward (attention_short.cuh). More keys than a block holds are gone over in turns, with the
 * softmax of what has been seen so far; the largest scores and the sums of the warps meet in shared memory. */
#include <stddef.h>

#include "kernels/cuda/attention_short.cuh"

template <typename T, int D, int M>
__global__ void __launch_bounds__(32 * short_warps<D>())
	attention_forward_short(struct attention s, int capacity, const T *q, const T *k, const T *v, T *out,
				float *lse)
{
	grid_wait();
	const int ROWS = 16 * M, WARPS = short_warps<D>(), THREADS = 32 * WARPS, N = D / 8 / WARPS,
		  ROUNDS = short_rounds<D>();
	DYNAMIC_SHARED(T, q_tile);
	T *k_tile = q_tile + tile_size<D>(ROWS), *v_tile = k_tile + tile_size<D>(capacity),
	  *p = v_tile + tile_size<D>(capacity);
	int group = s.heads / s.kv_heads, lane = threadIdx.x % 32, warp = threadIdx.x / 32,
	    p_stride = capacity + 8, first;
	float *max_of = reinterpret_cast<float *>(p + ROWS * p_stride), *sum_of = max_of + WARPS * ROWS;
	struct sequence sequence;

	if (!tile_find(s, group, ROWS, blockIdx.x, gridDim.x, &sequence, &first))
		return;

	ptrdiff_t head_at = (ptrdiff_t)blockIdx.y * group * s.head_dim,
		  out_stride = (ptrdiff_t)s.heads * s.head_dim;
	ptrdiff_t key_at = (ptrdiff_t)sequence.key * s.k_stride + (ptrdiff_t)blockIdx.y * s.head_dim;
	int rows = sequence.queries * group, begin[M][2], end[M][2];
	struct view all = view_of(s, sequence, group, first, ROWS);
	float sum[M][N][4] = {}, max[M][2], l[M][2] = {}, factor = scores_factor(s);

	UNROLL
	for (int m = 0; m < M; m++)
		max[m][0] = max[m][1] = -INFINITY;
	tile_load_heads<D, ROWS, THREADS>(q_tile, q + (ptrdiff_t)sequence.token * s.q_stride + head_at,
					  s.q_stride, s.head_dim, group, first, rows, threadIdx.x);
	for (int at = all.begin; at < all.end; at += capacity) {
		int left = (all.end - at + 15) / 16 * 16, count = left < capacity ? left : capacity;
		float x[ROUNDS][M][2][4], best[M][2], base[M][2], shrink[M][2];

		if (at > all.begin)
			__syncthreads();
		short_load<D, THREADS>(k_tile, k + key_at, s.k_stride, s.head_dim, at, count, all.end);
		cp_async_commit();
		short_load<D, THREADS>(v_tile, v + key_at, s.k_stride, s.head_dim, at, count, all.end);
		cp_async_commit();
		rows_see<M>(begin, end, s, sequence, group, first);
		cp_async_wait<1>();
		__syncthreads();

		UNROLL
		for (int m = 0; m < M; m++)
			best[m][0] = best[m][1] = -INFINITY;
		UNROLL
		for (int r = 0; r < ROUNDS; r++) {
			int key = 16 * (warp + WARPS * r);

			if (key >= count)
				continue;
			short_scores<D, M>(x[r], q_tile, k_tile + tile_size<D>(key));
			if (scores_bent(s))
				scores_bend<M, 2>(x[r], s);
			scores_mask<M, 2>(x[r], begin, end, at + key, -INFINITY);
			UNROLL
			for (int m = 0; m < M; m++) {
				UNROLL
				for (int i = 0; i < 4; i++)
					best[m][i / 2] = fmaxf(best[m][i / 2],
							       fmaxf(x[r][m][0][i], x[r][m][1][i]));
			}
		}
		UNROLL
		for (int m = 0; m < M; m++) {
			UNROLL
			for (int h = 0; h < 2; h++) {
				best[m][h] = fmaxf(best[m][h], __shfl_xor_sync(0xffffffffu, best[m][h], 1));
				best[m][h] = fmaxf(best[m][h], __shfl_xor_sync(0xffffffffu, best[m][h], 2));
				if (lane % 4 == 0)
					max_of[warp * ROWS + 16 * m + 8 * h + lane / 4] = best[m][h];
			}
		}
		__syncthreads();

		UNROLL
		for (int m = 0; m < M; m++) {
			UNROLL
			for (int h = 0; h < 2; h++) {
				best[m][h] = max[m][h];
				UNROLL
				for (int w = 0; w < WARPS; w++)
					best[m][h] = fmaxf(best[m][h],
							   max_of[w * ROWS + 16 * m + 8 * h + lane / 4]);
				base[m][h] = best[m][h] == -INFINITY ? 0.0f : best[m][h] * factor;
				shrink[m][h] = exp2_fast(max[m][h] * factor - base[m][h]);
				max[m][h] = best[m][h];
				best[m][h] = 0.0f; /* from here on the sum of this warp's keys */
			}
		}
		UNROLL
		for (int r = 0; r < ROUNDS; r++) {
			int key = 16 * (warp + WARPS * r);

			if (key >= count)
				continue;
			UNROLL
			for (int m = 0; m < M; m++) {
				UNROLL
				for (int n = 0; n < 2; n++) {
					UNROLL
					for (int i = 0; i < 4; i++) {
						x[r][m][n][i] = exp2_fast(x[r][m][n][i] * factor -
									  base[m][i / 2]);
						best[m][i / 2] += x[r][m][n][i];
					}
				}
			}
			short_keep<M>(x[r], p + key, p_stride);
		}
		UNROLL
		for (int m = 0; m < M; m++) {
			UNROLL
			for (int h = 0; h < 2; h++) {
				best[m][h] = row_sum(best[m][h]);
				if (lane % 4 == 0)
					sum_of[warp * ROWS + 16 * m + 8 * h + lane / 4] = best[m][h];
			}
		}
		cp_async_wait<0>();
		__syncthreads();

		UNROLL
		for (int m = 0; m < M; m++) {
			UNROLL
			for (int h = 0; h < 2; h++) {
				l[m][h] *= shrink[m][h];
				UNROLL
				for (int w = 0; w < WARPS; w++)
					l[m][h] += sum_of[w * ROWS + 16 * m + 8 * h + lane / 4];
			}
			UNROLL
			for (int n = 0; n < N; n++) {
				UNROLL
				for (int i = 0; i < 4; i++)
					sum[m][n][i] *= shrink[m][i / 2];
			}
		}
		short_sums<D, M, N>(sum, p, p_stride, v_tile, count, warp * N);
	}

	float times[M][2];

	UNROLL
	for (int m = 0; m < M; m++) {
		UNROLL
		for (int h = 0; h < 2; h++) {
			int row = first + 16 * m + 8 * h + lane / 4, query = row / group;

			times[m][h] = 1.0f / l[m][h];
			if (lse && row < rows && warp == 0 && lane % 4 == 0)
				lse[(ptrdiff_t)(sequence.token + query) * s.heads + blockIdx.y * group + row -
				    query * group] = max[m][h] * factor * LN2 + logf(l[m][h]);
		}
	}
	short_store<M, N>(sum, times, out + sequence.token * out_stride + head_at, out_stride, s.head_dim,
			  group, first, rows, warp * N);
}

template <int D> static size_t forward_short_shared(int rows, int keys)
{
	return 2 * (size_t)(tile_size<D>(rows + 2 * keys) + rows * (keys + 8)) +
	       sizeof(float) * 2 * short_warps<D>() * rows;
}

/* Rows of a tile: 0 where larger tiles and more keys at a time are better (attention.cu). */
static int forward_short_rows(const struct cuda_device *d, const struct attention *s)
{
	if (s->max_k > SHORT_LIMIT || s->max_k <= 0)
		return 0;
	if (short_rows_are_few(d, s))
		return 16;
	return s->head_dim > 128 && s->max_k <= 128 ? 32 : 0;
}

template <int D> static bool forward_short_fits(const struct cuda_device *d, const struct attention *s)
{
	int rows = forward_short_rows(d, s);

	return rows && forward_short_shared<D>(rows, short_keys<D>(s)) <= (size_t)d->shared_per_block;
}

bool attention_is_short(const struct cuda_device *d, const struct attention *s)
{
	return s->head_dim <= 64    ? forward_short_fits<64>(d, s)
	       : s->head_dim <= 128 ? forward_short_fits<128>(d, s)
				    : forward_short_fits<256>(d, s);
}

template <typename T, int D, int M>
static void forward_short_launch(struct device *d, const struct attention *s, const T *q, const T *k,
				 const T *v, T *out, float *lse)
{
	int keys = short_keys<D>(s);

	cuda_launch(d, "attention", attention_forward_short<T, D, M>,
		    dim3((unsigned)tile_blocks(s, s->heads / s->kv_heads, 16 * M), s->kv_heads),
		    dim3(32 * short_warps<D>()), forward_short_shared<D>(16 * M, keys), *s, keys, q, k, v,
		    out, lse);
}

template <typename T>
void attention_short(struct device *d, const struct attention *s, const T *q, const T *k, const T *v, T *out,
		     float *lse)
{
	if (s->head_dim <= 64)
		forward_short_launch<T, 64, 1>(d, s, q, k, v, out, lse);
	else if (s->head_dim <= 128)
		forward_short_launch<T, 128, 1>(d, s, q, k, v, out, lse);
	else if (forward_short_rows(cuda_device(d), s) == 16)
		forward_short_launch<T, 256, 1>(d, s, q, k, v, out, lse);
	else
		forward_short_launch<T, 256, 2>(d, s, q, k, v, out, lse);
}

template void attention_short(struct device *d, const struct attention *s, const __nv_bfloat16 *q,
			      const __nv_bfloat16 *k, const __nv_bfloat16 *v, __nv_bfloat16 *out, float *lse);
template void attention_short(struct device *d, const struct attention *s, const __half *q, const __half *k,
			      const __half *v, __half *out, float *lse);
