/* Gradients of attention of short sequences (attention_short.cuh; the formulas are in attention_grad.cu). A block has a tile of
 * rows and makes p and ds for all the keys that they see once: so it finishes dq, and writes what its rows add to dk
 * and dv, in fp32, to a part of its own. A second kernel adds the parts of each key in the order of the tiles. */
#include <stddef.h>

#include "kernels/cuda/attention_short.cuh"

/* Scratch ends here: parts beyond that would not stay in the L2 cache of any GPU, and two passes over the rows are better. */
#define PARTS_MOST ((size_t)64 << 20)

/* parts: fp32 (tiles, kv_heads, keys, 2, head_dim), keys being `padded`: first dk, without the scale, then dv. */
template <typename T, int D, int M>
__global__ void __launch_bounds__(32 * short_warps<D>())
	attention_grad_short_rows(struct attention s, int capacity, int padded, const T *q, const T *k,
				  const T *v, const T *out, const float *lse, const T *dout, T *dq,
				  float *parts)
{
	grid_wait();
	const int ROWS = 16 * M, WARPS = short_warps<D>(), THREADS = 32 * WARPS, N = D / 8 / WARPS,
		  ROUNDS = short_rounds<D>();
	DYNAMIC_SHARED(T, q_tile);
	T *dout_tile = q_tile + tile_size<D>(ROWS), *k_tile = dout_tile + tile_size<D>(ROWS);
	T *v_tile = k_tile + tile_size<D>(capacity), *p = v_tile + tile_size<D>(capacity);
	int group = s.heads / s.kv_heads, lane = threadIdx.x % 32, warp = threadIdx.x / 32,
	    p_stride = capacity + 8, first;
	T *ds = p + ROWS * p_stride;
	float *lse_of = reinterpret_cast<float *>(ds + ROWS * p_stride), *delta_of = lse_of + ROWS;
	struct sequence sequence;

	if (!tile_find(s, group, ROWS, blockIdx.x, gridDim.x, &sequence, &first))
		return;

	ptrdiff_t head_at = (ptrdiff_t)blockIdx.y * group * s.head_dim,
		  out_stride = (ptrdiff_t)s.heads * s.head_dim;
	ptrdiff_t key_at = (ptrdiff_t)sequence.key * s.k_stride + (ptrdiff_t)blockIdx.y * s.head_dim;
	int rows = sequence.queries * group, begin[M][2], end[M][2];
	struct view all = view_of(s, sequence, group, first, ROWS);
	float sum[M][N][4] = {};

	parts += (((ptrdiff_t)(gridDim.x - 1 - blockIdx.x) * s.kv_heads + blockIdx.y) * padded) * 2 *
		 s.head_dim;
	tile_load_heads<D, ROWS, THREADS>(q_tile, q + (ptrdiff_t)sequence.token * s.q_stride + head_at,
					  s.q_stride, s.head_dim, group, first, rows, threadIdx.x);
	for (int at = all.begin; at < all.end; at += capacity) {
		int left = (all.end - at + 15) / 16 * 16, count = left < capacity ? left : capacity;
		float x[ROUNDS][M][2][4];

		if (at > all.begin)
			__syncthreads();
		short_load<D, THREADS>(k_tile, k + key_at, s.k_stride, s.head_dim, at, count, all.end);
		cp_async_commit();
		if (at == all.begin)
			tile_load_heads<D, ROWS, THREADS>(
				dout_tile, dout + sequence.token * out_stride + head_at, out_stride,
				s.head_dim, group, first, rows, threadIdx.x);
		short_load<D, THREADS>(v_tile, v + key_at, s.k_stride, s.head_dim, at, count, all.end);
		cp_async_commit();
		if (at == all.begin) {
			/* While that is on its way. */
			UNROLL
			for (int i = 0; i < ROWS / WARPS; i++) {
				int row = first + warp + WARPS * i, query = row / group;
				ptrdiff_t of = (ptrdiff_t)(sequence.token + query) * s.heads +
					       blockIdx.y * group + row - query * group;
				float mine = 0.0f;

				if (row < rows && lane * 8 < s.head_dim) {
					pack<T> a = load_pack(out + of * s.head_dim + lane * 8);
					pack<T> b = load_pack(dout + of * s.head_dim + lane * 8);

					UNROLL
					for (int j = 0; j < 8; j++)
						mine += to_float(a.v[j]) * to_float(b.v[j]);
				}
				mine = warp_sum(mine);
				if (lane == 0) {
					lse_of[warp + WARPS * i] = row < rows ? LOG2E * lse[of] : 0.0f;
					delta_of[warp + WARPS * i] = mine;
				}
			}
			rows_see<M>(begin, end, s, sequence, group, first);
			UNROLL
			for (int m = 0; m < M; m++) {
				UNROLL
				for (int h = 0; h < 2; h++)
					end[m][h] = first + 16 * m + 8 * h + lane / 4 < rows ? end[m][h] : 0;
			}
		}
		cp_async_wait<1>();
		__syncthreads();

		UNROLL
		for (int r = 0; r < ROUNDS; r++)
			if (16 * (warp + WARPS * r) < count)
				short_scores<D, M>(x[r], q_tile,
						   k_tile + tile_size<D>(16 * (warp + WARPS * r)));
		cp_async_wait<0>();
		__syncthreads();

		UNROLL
		for (int r = 0; r < ROUNDS; r++) {
			int key = 16 * (warp + WARPS * r);
			float dp[M][2][4];

			if (key >= count)
				continue;
			short_scores<D, M>(dp, dout_tile, v_tile + tile_size<D>(key));
			UNROLL
			for (int m = 0; m < M; m++) {
				UNROLL
				for (int h = 0; h < 2; h++) {
					int row = 16 * m + 8 * h + lane / 4;
					float lse2 = lse_of[row], delta = delta_of[row];

					UNROLL
					for (int i = 0; i < 4; i++) {
						int n = i / 2, j = 2 * h + i % 2,
						    of = at + key + 8 * n + lane % 4 * 2 + i % 2;

						score_grad(&x[r][m][n][j], &dp[m][n][j],
							   of >= begin[m][h] && of < end[m][h], lse2, delta,
							   s);
					}
				}
			}
			short_keep<M>(x[r], p + key, p_stride);
			short_keep<M>(dp, ds + key, p_stride);
		}
		__syncthreads();

		/* Parts first: they are written while dq is worked out. */
		for (int key = 0; key < count; key += 16) {
			float to_k[N][4] = {}, to_v[N][4] = {};

			UNROLL
			for (int m = 0; m < M; m++) {
				const int from = (16 * m + lane / 16 * 8 + lane % 8) * p_stride + key +
						 lane / 8 % 2 * 8;
				uint32_t left_k[4], left_v[4];

				ldmatrix_x4_trans(left_k, ds + from);
				ldmatrix_x4_trans(left_v, p + from);
				UNROLL
				for (int n = 0; n < N; n += 2) {
					uint32_t right[4];

					ldmatrix_x4_trans(right, tile_at<D>(q_tile, 16 * m + lane % 16,
									    warp * N + n + lane / 16));
					mma_16816<T>(to_k[n], left_k, right);
					mma_16816<T>(to_k[n + 1], left_k, right + 2);
					ldmatrix_x4_trans(right, tile_at<D>(dout_tile, 16 * m + lane % 16,
									    warp * N + n + lane / 16));
					mma_16816<T>(to_v[n], left_v, right);
					mma_16816<T>(to_v[n + 1], left_v, right + 2);
				}
			}
			UNROLL
			for (int h = 0; h < 2; h++) {
				int of = at + key + 8 * h + lane / 4;
				float *to = parts + (ptrdiff_t)of * 2 * s.head_dim + warp * N * 8 +
					    lane % 4 * 2;

				UNROLL
				for (int n = 0; n < N; n++)
					if (of < all.end && (warp * N + n) * 8 < s.head_dim) {
						*reinterpret_cast<float2 *>(to + n * 8) = make_float2(
							to_k[n][2 * h], to_k[n][2 * h + 1]);
						*reinterpret_cast<float2 *>(to + s.head_dim + n * 8) =
							make_float2(to_v[n][2 * h], to_v[n][2 * h + 1]);
					}
			}
		}
		short_sums<D, M, N>(sum, ds, p_stride, k_tile, count, warp * N);
	}

	float times[M][2];

	UNROLL
	for (int m = 0; m < M; m++)
		times[m][0] = times[m][1] = s.scale;
	short_store<M, N>(sum, times, dq + (ptrdiff_t)sequence.token * s.q_stride + head_at, s.q_stride,
			  s.head_dim, group, first, rows, warp * N);
}

#define JOIN_WARPS 4
#define JOIN_AHEAD 20 /* parts on their way at once */

/* A warp to a key, a kv head and 128 of the columns of its dk and dv, four of them to a lane: the sum of the tiles that see it. */
template <typename T>
__global__ void __launch_bounds__(32 * JOIN_WARPS)
	attention_grad_short_join(struct attention s, int tile_rows, int padded, const float *parts, T *dk,
				  T *dv)
{
	grid_wait();
	DYNAMIC_SHARED(float, ahead);
	int index = blockIdx.x * JOIN_WARPS + threadIdx.x / 32, token = index / s.kv_heads,
	    kv_head = index % s.kv_heads;
	int column = (blockIdx.y * 32 + threadIdx.x % 32) * 4, group = s.heads / s.kv_heads;

	int i = sequence_search(s.cu_q, s.sequences, 1, 1, 0, token);
	struct sequence sequence = sequence_at(s, i);
	int key = token - sequence.token, last = sequence.queries - 1;
	ptrdiff_t size = (ptrdiff_t)s.kv_heads * padded * 2 * s.head_dim;
	float sum[4] = {}, times = column < s.head_dim ? s.scale : 1.0f;

	if (key > last || column >= 2 * s.head_dim)
		return;
	ahead += threadIdx.x * 4;
	if (s.window > 0 && key + s.window - 1 < last)
		last = key + s.window - 1;

	int tile = key * group / tile_rows, tiles = (last * group + group - 1) / tile_rows + 1;
	const float *from = parts + (sequence.token * group / tile_rows + i + tile) * size +
			    ((ptrdiff_t)kv_head * padded + key) * 2 * s.head_dim + column;

	/* By way of shared memory, each lane its own: the compiler would not keep so many loads on the way. */
	for (; tile < tiles; tile += JOIN_AHEAD) {
		int n = tiles - tile < JOIN_AHEAD ? tiles - tile : JOIN_AHEAD;

		for (int a = 0; a < n; a++, from += size)
			cp_async_16(ahead + a * 128 * JOIN_WARPS, from, true);
		cp_async_commit();
		cp_async_wait<0>();
		for (int a = 0; a < n; a++) {
			pack<float> x = load_pack(ahead + a * 128 * JOIN_WARPS);

			UNROLL
			for (int j = 0; j < 4; j++)
				sum[j] += x.v[j];
		}
	}

	T *to = (column < s.head_dim ? dk + column : dv + column - s.head_dim) +
		(ptrdiff_t)token * s.k_stride + kv_head * s.head_dim;
	uint32_t *pair = reinterpret_cast<uint32_t *>(to);

	pair[0] = pack2<T>(sum[0] * times, sum[1] * times);
	pair[1] = pack2<T>(sum[2] * times, sum[3] * times);
}

template <int D> static size_t grad_short_shared(int rows, int keys)
{
	return 2 * (size_t)(2 * tile_size<D>(rows + keys) + 2 * rows * (keys + 8)) + sizeof(float) * 2 * rows;
}

static size_t short_parts_size(const struct attention *s, int rows)
{
	return sizeof(float) * tile_blocks(s, s->heads / s->kv_heads, rows) * s->kv_heads * short_padded(s) *
	       2 * s->head_dim;
}

size_t attention_grad_short_bound(const struct attention *s)
{
	/* A key and 16 rows a part, and SHORT_LIMIT keys at most: 16 parts of a row; more where tiles are not full. */
	size_t most = sizeof(float) * 20 * s->queries * s->heads * 2 * s->head_dim;

	return most < PARTS_MOST ? most : PARTS_MOST;
}

/* Rows of a tile: 0 where two passes are better. */
template <int D> static int grad_short_rows(const struct cuda_device *d, const struct attention *s)
{
	int rows = short_rows_are_few(d, s) ? 16 : 64;

	if (s->max_k > (rows == 16 ? SHORT_LIMIT : 128) ||
	    short_parts_size(s, rows) > attention_grad_short_bound(s) ||
	    grad_short_shared<D>(rows, short_keys<D>(s)) > (size_t)d->shared_per_block)
		return 0;
	return rows;
}

static int grad_short_rows(const struct cuda_device *d, const struct attention *s)
{
	return s->head_dim <= 64    ? grad_short_rows<64>(d, s)
	       : s->head_dim <= 128 ? grad_short_rows<128>(d, s)
				    : grad_short_rows<256>(d, s);
}

bool attention_grad_is_short(const struct cuda_device *d, const struct attention *s)
{
	return grad_short_rows(d, s) > 0;
}

/* What the launches take. */
template <typename T> struct short_arguments {
	const T *q, *k, *v, *out;
	const float *lse;
	const T *dout;
	T *dq, *dk, *dv;
};

template <typename T, int D, int M>
static void grad_short_launch(struct device *d, const struct attention *s, const struct short_arguments<T> *g)
{
	const int ROWS = 16 * M;
	int keys = short_keys<D>(s), padded = short_padded(s);
	float *parts = (float *)cuda_scratch(d, short_parts_size(s, ROWS));

	if (!parts)
		return;
	cuda_launch(d, "attention_grad", attention_grad_short_rows<T, D, M>,
		    dim3((unsigned)tile_blocks(s, s->heads / s->kv_heads, ROWS), s->kv_heads),
		    dim3(32 * short_warps<D>()), grad_short_shared<D>(ROWS, keys), *s, keys, padded, g->q,
		    g->k, g->v, g->out, g->lse, g->dout, g->dq, parts);
	cuda_launch(d, "attention_grad", attention_grad_short_join<T>,
		    dim3((unsigned)ceil_div(s->queries * s->kv_heads, JOIN_WARPS),
			 ceil_div(2 * s->head_dim, 128)),
		    dim3(32 * JOIN_WARPS), sizeof(float) * 128 * JOIN_WARPS * JOIN_AHEAD, *s, ROWS, padded,
		    parts, g->dk, g->dv);
}

template <typename T>
void attention_grad_short(struct device *d, const struct attention *s, const T *q, const T *k, const T *v,
			  const T *out, const float *lse, const T *dout, T *dq, T *dk, T *dv)
{
	const struct short_arguments<T> g = {
		q, k, v, out, lse, dout, dq, dk, dv
	};
	bool few = grad_short_rows(cuda_device(d), s) == 16;

	if (s->head_dim <= 64)
		few ? grad_short_launch<T, 64, 1>(d, s, &g) : grad_short_launch<T, 64, 4>(d, s, &g);
	else if (s->head_dim <= 128)
		few ? grad_short_launch<T, 128, 1>(d, s, &g) : grad_short_launch<T, 128, 4>(d, s, &g);
	else
		few ? grad_short_launch<T, 256, 1>(d, s, &g) : grad_short_launch<T, 256, 4>(d, s, &g);
}

template void attention_grad_short(struct device *d, const struct attention *s, const __nv_bfloat16 *q,
				   const __nv_bfloat16 *k, const __nv_bfloat16 *v, const __nv_bfloat16 *out,
				   const float *lse, const __nv_bfloat16 *dout, __nv_bfloat16 *dq,
				   __nv_bfloat16 *dk, __nv_bfloat16 *dv);
template void attention_grad_short(struct device *d, const struct attention *s, const __half *q,
				   const __half *k, const __half *v, const __half *out, const float *lse,
				   const __half *dout, __half *dq, __half *dk, __half *dv);
