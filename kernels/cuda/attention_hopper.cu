/* Causal attention over packed sequences, forward, on Hopper (attention_hopper.cuh).
 *
 * A block takes 128 rows and goes over the keys that they see. A step begins with two products: the scores of the next keys,
 * and behind them the probabilities of the keys before times their values. The softmax of the next scores is done while the
 * second one still runs. The next tiles of keys and values arrive meanwhile: room for two of each, one barrier a step. */
#include <stddef.h>

#include "kernels/cuda/attention_hopper.cuh"

template <int D> static constexpr size_t hopper_shared(int keys)
{
	return 2 * (size_t)D * (HOPPER_ROWS + 4 * keys) + HOPPER_ALIGN;
}

/* As softmax_step (attention.cuh), but o is left alone: told is by how much its rows shrink, and whether any of the warp's does. */
template <int N>
__device__ __forceinline__ bool softmax_scores(float (&x)[N][4], float (&max)[2], float (&l)[2],
					       float (&shrink)[2], float factor)
{
	bool same = true;

	UNROLL
	for (int h = 0; h < 2; h++) {
		float best = max[h], base, sum = 0.0f;

		UNROLL
		for (int n = 0; n < N; n++)
			best = fmaxf(best, fmaxf(x[n][2 * h], x[n][2 * h + 1]));
		best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
		best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 2));
		base = best == -INFINITY ? 0.0f : best * factor;
		shrink[h] = exp2_fast(max[h] * factor - base);
		same = same && best == max[h];
		max[h] = best;
		UNROLL
		for (int n = 0; n < N; n++) {
			x[n][2 * h] = exp2_fast(x[n][2 * h] * factor - base);
			x[n][2 * h + 1] = exp2_fast(x[n][2 * h + 1] * factor - base);
			sum += x[n][2 * h] + x[n][2 * h + 1];
		}
		l[h] = l[h] * shrink[h] + sum;
	}
	return !__all_sync(0xffffffffu, same);
}

template <typename T, int D, int KEYS, int BLOCKS>
__global__ void __launch_bounds__(HOPPER_THREADS, BLOCKS)
	attention_hopper_forward(struct attention s, const T *q, const T *k, const T *v, T *out, float *lse)
{
	grid_wait();
#if HAS_WGMMA
	const int ROWS = HOPPER_ROWS, N = KEYS / 8, TILE = KEYS * D;
	DYNAMIC_SHARED(T, memory);
	T *q_tile = tile_begin(memory), *k_tile = q_tile + ROWS * D, *v_tile = k_tile + 2 * TILE;
	int group = s.heads / s.kv_heads, thread = threadIdx.x, warp = thread / 32, first;
	struct sequence sequence;

	if (!tile_find(s, group, ROWS, blockIdx.x, gridDim.x, &sequence, &first))
		return;

	ptrdiff_t head_at = (ptrdiff_t)blockIdx.y * group * D, out_stride = (ptrdiff_t)s.heads * D;
	ptrdiff_t key_at = (ptrdiff_t)sequence.key * s.k_stride + (ptrdiff_t)blockIdx.y * D;
	int rows = sequence.queries * group, mine = first + 16 * warp;
	struct view all = view_of(s, sequence, group, first, ROWS),
		    own = view_of(s, sequence, group, mine, 16);
	const T *own_q = q_tile + warpgroup_index() * 64 * 64;
	float x[1][N][4], o[1][D / 8][4], max[2] = {-INFINITY, -INFINITY}, l[2] = {}, shrink[2],
					  factor = scores_factor(s);
	uint32_t p[1][N / 2][4];
	int begin[1][2], end[1][2], at = all.begin;
	bool add = false;

	panels_load_heads<D, ROWS>(q_tile, q + (ptrdiff_t)sequence.token * s.q_stride + head_at, s.q_stride,
				   group, first, rows, thread);
	panels_load<D, KEYS>(k_tile, k + key_at, s.k_stride, at, all.end, thread);
	cp_async_commit();
	panels_load<D, KEYS>(v_tile, v + key_at, s.k_stride, at, all.end, thread);
	panels_load<D, KEYS>(k_tile + TILE, k + key_at, s.k_stride, at + KEYS, all.end, thread);
	cp_async_commit();
	rows_see<1>(begin, end, s, sequence, group, mine);
	cp_async_wait<1>();
	async_fence();
	__syncthreads();
	wgmma_fence();
	panels_scores<D, ROWS>(x[0], own_q, k_tile);
	wgmma_commit();
	wgmma_wait<0>();
	wgmma_registers(x[0]);
	if (scores_bent(s))
		scores_bend<1, N>(x, s);
	if (at < own.all_begin || at + KEYS > own.all_end)
		scores_mask<1, N>(x, begin, end, at, -INFINITY);
	softmax_scores(x[0], max, l, shrink, factor);
	tiles_pack<T, 1, N>(p, x);

	/* At the barrier of a step, its values and the next keys are there, and nobody reads its keys or the values before it. */
	for (int stage = 0; at + KEYS < all.end; at += KEYS, stage ^= 1) {
		cp_async_wait<0>();
		async_fence();
		__syncthreads();
		wgmma_registers(o[0]);
		wgmma_fence();
		panels_scores<D, ROWS>(x[0], own_q, k_tile + (stage ^ 1) * TILE);
		wgmma_commit();
		panels_sums<D, N>(o[0], p[0], v_tile + stage * TILE, add);
		wgmma_commit();
		add = true;
		panels_load<D, KEYS>(v_tile + (stage ^ 1) * TILE, v + key_at, s.k_stride, at + KEYS, all.end,
				     thread);
		panels_load<D, KEYS>(k_tile + stage * TILE, k + key_at, s.k_stride, at + 2 * KEYS, all.end,
				     thread);
		cp_async_commit();
		wgmma_wait<1>();
		wgmma_registers(x[0]);
		if (scores_bent(s))
			scores_bend<1, N>(x, s);
		if (at + KEYS < own.all_begin || at + 2 * KEYS > own.all_end)
			scores_mask<1, N>(x, begin, end, at + KEYS, -INFINITY);

		bool shrinks = softmax_scores(x[0], max, l, shrink, factor);

		wgmma_wait<0>();
		wgmma_registers(o[0]);
		tiles_pack<T, 1, N>(p, x);
		/* After a few tiles the maxima seldom change. */
		if (shrinks) {
			UNROLL
			for (int n = 0; n < D / 8; n++) {
				UNROLL
				for (int i = 0; i < 4; i++)
					o[0][n][i] *= shrink[i / 2];
			}
		}
	}
	cp_async_wait<0>();
	async_fence();
	__syncthreads();
	wgmma_registers(o[0]);
	wgmma_fence();
	panels_sums<D, N>(o[0], p[0], v_tile + (at - all.begin) / KEYS % 2 * TILE, add);
	wgmma_commit();

	float times[1][2];

	UNROLL
	for (int h = 0; h < 2; h++) {
		int row = mine + 8 * h + thread % 32 / 4, query = row / group;
		float sum = row_sum(l[h]);

		times[0][h] = 1.0f / sum;
		if (lse && row < rows && thread % 4 == 0)
			lse[(ptrdiff_t)(sequence.token + query) * s.heads + blockIdx.y * group + row -
			    query * group] = max[h] * factor * LN2 + logf(sum);
	}
	wgmma_wait<0>();
	wgmma_registers(o[0]);
	/* The other warpgroup is past its last scores: queries make room for outputs. */
	rows_store<D, 1>(o, times, q_tile, 16 * warp, out + sequence.token * out_stride + head_at, out_stride,
			 D, group, mine, rows);
#endif
}

template <typename T, int D, int KEYS, int BLOCKS>
static void hopper_launch(struct device *d, const struct attention *s, const T *q, const T *k, const T *v,
			  T *out, float *lse)
{
	dim3 grid(tile_blocks(s, s->heads / s->kv_heads, HOPPER_ROWS), s->kv_heads);

	cuda_launch(d, "attention", attention_hopper_forward<T, D, KEYS, BLOCKS>, grid, dim3(HOPPER_THREADS),
		    hopper_shared<D>(KEYS), *s, q, k, v, out, lse);
}

template <typename T>
void attention_hopper(struct device *d, const struct attention *s, const T *q, const T *k, const T *v, T *out,
		      float *lse)
{
	if (s->head_dim == 64)
		hopper_launch<T, 64, 64, 2>(d, s, q, k, v, out, lse);
	else if (s->head_dim == 128)
		hopper_launch<T, 128, 128, 1>(d, s, q, k, v, out, lse);
	else
		hopper_launch<T, 256, 80, 1>(d, s, q, k, v, out, lse);
}

template void attention_hopper(struct device *d, const struct attention *s, const __nv_bfloat16 *q,
			       const __nv_bfloat16 *k, const __nv_bfloat16 *v, __nv_bfloat16 *out,
			       float *lse);
template void attention_hopper(struct device *d, const struct attention *s, const __half *q, const __half *k,
			       const __half *v, __half *out, float *lse);
