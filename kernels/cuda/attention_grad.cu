/* Gradients of causal attention over packed sequences (Dao et al. 2022, arXiv:2205.14135, B.2). With x the scores, p = exp(x - lse)
 * made again, delta = the sum of dout * out over a row and dp = dout v^T:
 *
 *     ds = p (dp - delta)      dq = scale * ds k      dk = scale * ds^T q      dv = p^T dout
 *
 * Two kernels for 16-bit activations, both over the tiles of attention.cuh and both making x and dp: that is two products of
 * seven more than one kernel would need, but every sum stays in registers in one order, where one kernel would add to
 * dq from many blocks. The first goes like the forward pass: rows fixed, over keys, for dq; it also finds delta. The
 * second keeps a tile of keys and goes over the rows that see them, which are all heads of the group: so dk and dv need no
 * adding up over heads. Its eight warps stand two by four: first over keys by rows, for p and ds, which go to shared
 * memory; then over keys by columns, for dk and dv. Where key tiles are too few for the device, the rows are split in
 * parts by block, whose sums in fp32 are added in order by a third kernel.
 *
 * Short sequences are for attention_grad_short.cu, fp32 activations for attention_grad_plain.cu. */
#include <stddef.h>

#include "kernels/cuda/attention_hopper.cuh"

#define MAX_PARTS 16

/* ---- dq, 16 bits ---- */

/* The sum over columns of a * b for 16 M rows from `first` on: those of the lane (attention.cuh), and all of them to delta. */
template <int M, typename T>
__device__ __forceinline__ void rows_delta(float mine[M][2], const struct attention &s,
					   const struct sequence &sequence, int kv_head, int first,
					   const T *a, const T *b, float *delta)
{
	int lane = threadIdx.x % 32, group = s.heads / s.kv_heads, rows = sequence.queries * group;

	UNROLL
	for (int m = 0; m < M; m++) {
		UNROLL
		for (int r = 0; r < 16; r++) {
			int row = first + 16 * m + r, query = row / group;
			ptrdiff_t at = (ptrdiff_t)(sequence.token + query) * s.heads + kv_head * group + row -
				       query * group;
			float sum = 0.0f;

			if (row < rows && lane * 8 < s.head_dim) {
				pack<T> x = load_pack(a + at * s.head_dim + lane * 8),
					y = load_pack(b + at * s.head_dim + lane * 8);

				UNROLL
				for (int i = 0; i < 8; i++)
					sum += to_float(x.v[i]) * to_float(y.v[i]);
			}
			sum = warp_sum(sum);
			if (lane / 4 == r % 8)
				mine[m][r / 8] = sum;
			if (row < rows && lane == 0)
				delta[at] = sum;
		}
	}
}

template <typename T, int D, int WARPS, int M, int KEYS>
__global__ void __launch_bounds__(32 * WARPS)
	attention_grad_rows(struct attention s, const T *q, const T *k, const T *v, const T *out,
			    const float *lse, const T *dout, T *dq, float *delta)
{
	grid_wait();
	const int ROWS = 16 * M * WARPS, THREADS = 32 * WARPS, N = KEYS / 8;
	DYNAMIC_SHARED(T, q_tile);
	T *dout_tile = q_tile + tile_size<D>(ROWS), *k_tile = dout_tile + tile_size<D>(ROWS);
	T *v_tile = k_tile + 2 * tile_size<D>(KEYS);
	int group = s.heads / s.kv_heads, thread = threadIdx.x, warp = thread / 32, first;
	struct sequence sequence;

	if (!tile_find(s, group, ROWS, blockIdx.x, gridDim.x, &sequence, &first))
		return;

	ptrdiff_t head_at = (ptrdiff_t)blockIdx.y * group * s.head_dim,
		  out_stride = (ptrdiff_t)s.heads * s.head_dim;
	ptrdiff_t key_at = (ptrdiff_t)sequence.key * s.k_stride + (ptrdiff_t)blockIdx.y * s.head_dim;
	int rows = sequence.queries * group, mine = first + 16 * M * warp;
	struct view all = view_of(s, sequence, group, first, ROWS),
		    own = view_of(s, sequence, group, mine, 16 * M);
	float sum[M][D / 8][4] = {}, lse2[M][2], row_delta[M][2];
	int begin[M][2], end[M][2];

	tile_load_heads<D, ROWS, THREADS>(q_tile, q + (ptrdiff_t)sequence.token * s.q_stride + head_at,
					  s.q_stride, s.head_dim, group, first, rows, thread);
	tile_load_heads<D, ROWS, THREADS>(dout_tile, dout + sequence.token * out_stride + head_at, out_stride,
					  s.head_dim, group, first, rows, thread);
	tile_load<D, KEYS, THREADS>(k_tile, k + key_at, s.k_stride, s.head_dim, all.begin, all.end, thread);
	tile_load<D, KEYS, THREADS>(v_tile, v + key_at, s.k_stride, s.head_dim, all.begin, all.end, thread);
	cp_async_commit();
	rows_see<M>(begin, end, s, sequence, group, mine);
	rows_delta<M>(row_delta, s, sequence, blockIdx.y, mine, out, dout, delta);
	UNROLL
	for (int m = 0; m < M; m++) {
		UNROLL
		for (int h = 0; h < 2; h++) {
			int row = mine + 16 * m + 8 * h + thread % 32 / 4, query = row / group;

			lse2[m][h] = row < rows ? LOG2E * lse[(ptrdiff_t)(sequence.token + query) * s.heads +
							      blockIdx.y * group + row - query * group]
						: 0.0f;
		}
	}
	for (int at = all.begin, stage = 0; at < all.end; at += KEYS, stage ^= 1) {
		const T *k_now = k_tile + stage * tile_size<D>(KEYS),
			*v_now = v_tile + stage * tile_size<D>(KEYS);

		cp_async_wait<0>();
		__syncthreads();
		if (at + KEYS < all.end) {
			tile_load<D, KEYS, THREADS>(k_tile + (stage ^ 1) * tile_size<D>(KEYS), k + key_at,
						    s.k_stride, s.head_dim, at + KEYS, all.end, thread);
			tile_load<D, KEYS, THREADS>(v_tile + (stage ^ 1) * tile_size<D>(KEYS), v + key_at,
						    s.k_stride, s.head_dim, at + KEYS, all.end, thread);
			cp_async_commit();
		}
		if (at >= own.end || at + KEYS <= own.begin)
			continue;

		float x[M][N][4] = {}, dp[M][N][4] = {};
		uint32_t ds[M][N / 2][4];
		bool masked = at < own.all_begin || at + KEYS > own.all_end;

		product_rows<D, M, N>(x, q_tile, 16 * M * warp, k_now);
		product_rows<D, M, N>(dp, dout_tile, 16 * M * warp, v_now);
		UNROLL
		for (int m = 0; m < M; m++) {
			UNROLL
			for (int n = 0; n < N; n++) {
				UNROLL
				for (int i = 0; i < 4; i++) {
					int key = at + 8 * n + thread % 4 * 2 + i % 2;
					bool visible = !masked ||
						       (key >= begin[m][i / 2] && key < end[m][i / 2]);

					score_grad(&x[m][n][i], &dp[m][n][i], visible, lse2[m][i / 2],
						   row_delta[m][i / 2], s);
				}
			}
		}
		tiles_pack<T, M, N>(ds, dp);
		product_columns<D, M, N>(sum, ds, k_now);
	}

	float times[M][2];

	UNROLL
	for (int m = 0; m < M; m++)
		times[m][0] = times[m][1] = s.scale;
	rows_store<D, M>(sum, times, q_tile, 16 * M * warp,
			 dq + (ptrdiff_t)sequence.token * s.q_stride + head_at, s.q_stride, s.head_dim, group,
			 mine, rows);
}

/* ---- dk and dv, 16 bits ---- */

#define GRAD_THREADS 256

/* Row tiles lie in this order in a stage of shared memory: q, dout, then lse, delta and, as int, the query, -1 where there is no row. */
template <int D, int ROWS> static constexpr int __host__ __device__ stage_size()
{
	return 2 * tile_size<D>(ROWS) + 3 * ROWS * 2;
}

template <int D, int KEYS, int ROWS, int STAGES> static constexpr size_t grad_keys_shared()
{
	return 2 * (size_t)(2 * tile_size<D>(KEYS) + STAGES * stage_size<D, ROWS>() + 2 * KEYS * (ROWS + 8));
}

/* x += a b^T, a tile of keys by a tile of rows: 16 M rows of a by 8 N of b, 32 columns at a time. */
template <int D, int M, int N, typename T>
__device__ __forceinline__ void product_scores(float x[M][N][4], const T *a, int a_row, const T *b, int b_row)
{
	int lane = threadIdx.x % 32;

	UNROLL
	for (int k = 0; k < D / 32; k++) {
		uint32_t left[M][2][4];

		UNROLL
		for (int m = 0; m < M; m++) {
			UNROLL
			for (int i = 0; i < 2; i++)
				ldmatrix_x4(left[m][i], tile_at<D>(a, a_row + 16 * m + lane % 16,
								   4 * k + 2 * i + lane / 16));
		}
		UNROLL
		for (int n = 0; n < N; n++) {
			uint32_t right[4];

			ldmatrix_x4(right, tile_at<D>(b, b_row + 8 * n + lane % 8, 4 * k + lane / 8));
			UNROLL
			for (int m = 0; m < M; m++) {
				mma_16816<T>(x[m][n], left[m][0], right);
				mma_16816<T>(x[m][n], left[m][1], right + 2);
			}
		}
	}
}

/* sum += p b: p (keys, ROWS) in rows of ROWS + 8, 16 M keys from `key` on; b's 8 N columns from chunk on. */
template <int D, int ROWS, int M, int N, typename T>
__device__ __forceinline__ void product_sums(float sum[M][N][4], const T *p, int key, const T *b, int chunk)
{
	int lane = threadIdx.x % 32;

	UNROLL
	for (int k = 0; k < ROWS; k += 32) {
		uint32_t left[M][2][4];

		UNROLL
		for (int m = 0; m < M; m++) {
			UNROLL
			for (int i = 0; i < 2; i++)
				ldmatrix_x4(left[m][i], p + (key + 16 * m + lane % 16) * (ROWS + 8) + k +
								16 * i + lane / 16 * 8);
		}
		UNROLL
		for (int n = 0; n < N; n++) {
			uint32_t right[4];

			ldmatrix_x4_trans(right, tile_at<D>(b, k + lane, chunk + n));
			UNROLL
			for (int m = 0; m < M; m++) {
				mma_16816<T>(sum[m][n], left[m][0], right);
				mma_16816<T>(sum[m][n], left[m][1], right + 2);
			}
		}
	}
}

/* A warp's sums to rows [first, end) of to, by way of its own corner of a tile of keys. */
template <int D, int M, int N, typename T>
__device__ __forceinline__ void sums_store(const float sum[M][N][4], float times, T *tile, int key, int chunk,
					   T *to, ptrdiff_t stride, int head_dim, int first, int end)
{
	int lane = threadIdx.x % 32;

	UNROLL
	for (int m = 0; m < M; m++) {
		UNROLL
		for (int n = 0; n < N; n++) {
			UNROLL
			for (int h = 0; h < 2; h++) {
				T *at = tile_at<D>(tile, key + 16 * m + 8 * h + lane / 4, chunk + n) +
					lane % 4 * 2;

				*reinterpret_cast<uint32_t *>(at) = pack2<T>(sum[m][n][2 * h] * times,
									     sum[m][n][2 * h + 1] * times);
			}
		}
	}
	__syncwarp();
	for (int i = lane; i < 16 * M * N; i += 32) {
		int row = key + i / N, c = chunk + i % N;

		if (first + row < end && c * 8 < head_dim)
			store_pack(to + (first + row) * stride + c * 8, load_pack(tile_at<D>(tile, row, c)));
	}
}

/* The same in fp32, to a part. */
template <int M, int N>
__device__ __forceinline__ void sums_keep(const float sum[M][N][4], float times, int key, int chunk,
					  float *to, ptrdiff_t stride, int head_dim, int first, int end)
{
	int lane = threadIdx.x % 32;

	UNROLL
	for (int m = 0; m < M; m++) {
		UNROLL
		for (int n = 0; n < N; n++) {
			UNROLL
			for (int h = 0; h < 2; h++) {
				int row = first + key + 16 * m + 8 * h + lane / 4,
				    c = 8 * (chunk + n) + lane % 4 * 2;

				if (row < end && c < head_dim)
					*reinterpret_cast<float2 *>(to + row * stride + c) = make_float2(
						sum[m][n][2 * h] * times, sum[m][n][2 * h + 1] * times);
			}
		}
	}
}

/* Starts copying rows [first, first + ROWS) to a stage; q, dout, lse and delta are the sequence's first query's first head of the
 * group. */
template <int D, int ROWS, typename T>
__device__ __forceinline__ void stage_load(T *stage, const struct attention &s, const T *q, const T *dout,
					   const float *lse, const float *delta, int first, int end)
{
	T *dout_tile = stage + tile_size<D>(ROWS);
	float *lse_row = reinterpret_cast<float *>(dout_tile + tile_size<D>(ROWS));
	int thread = threadIdx.x, group = s.heads / s.kv_heads;

	tile_load_heads<D, ROWS, GRAD_THREADS>(stage, q, s.q_stride, s.head_dim, group, first, end, thread);
	tile_load_heads<D, ROWS, GRAD_THREADS>(dout_tile, dout, (ptrdiff_t)s.heads * s.head_dim, s.head_dim,
					       group, first, end, thread);
	if (thread < ROWS) {
		int row = first + thread, query = row / group;
		bool keep = row < end;
		ptrdiff_t at = keep ? (ptrdiff_t)query * s.heads + row - query * group : 0;

		cp_async_4(lse_row + thread, lse + at, keep);
		cp_async_4(lse_row + ROWS + thread, delta + at, keep);
		reinterpret_cast<int *>(lse_row + 2 * ROWS)[thread] = keep ? query : -1;
	}
}

/* parts: NULL when there is one, else fp32 (2, parts, queries, kv_heads, head_dim): dk and dv. */
template <typename T, int D, int KEYS, int ROWS, int STAGES>
__global__ void __launch_bounds__(GRAD_THREADS)
	attention_grad_keys(struct attention s, int count, const T *q, const T *k, const T *v,
			    const float *lse, const T *dout, const float *delta, T *dk, T *dv, float *parts)
{
	grid_wait();
	const int M = KEYS / 32, N = ROWS / 32, COLUMNS = D / 32, P_STRIDE = ROWS + 8;
	DYNAMIC_SHARED(T, k_tile);
	T *v_tile = k_tile + tile_size<D>(KEYS), *stages = v_tile + tile_size<D>(KEYS);
	T *p_tile = stages + STAGES * stage_size<D, ROWS>(), *ds_tile = p_tile + KEYS * P_STRIDE;
	int group = s.heads / s.kv_heads, thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
	int own_key = warp / 4 * 16 * M, own_row = warp % 4 * 8 * N, own_chunk = warp % 4 * COLUMNS,
	    part = blockIdx.x % count, first;
	struct sequence sequence;

	if (!tile_find(s, 1, KEYS, blockIdx.x / count, gridDim.x / count, &sequence, &first))
		return;

	ptrdiff_t head_at = (ptrdiff_t)blockIdx.y * group * s.head_dim,
		  out_stride = (ptrdiff_t)s.heads * s.head_dim;
	ptrdiff_t key_at = (ptrdiff_t)sequence.token * s.k_stride + (ptrdiff_t)blockIdx.y * s.head_dim;
	ptrdiff_t row_at = (ptrdiff_t)sequence.token * s.heads + blockIdx.y * group;
	/* The rows that see any of the keys, and this block's part of their tiles. */
	int last = s.window > 0 && first + KEYS - 1 + s.window < sequence.queries
			   ? first + KEYS - 1 + s.window
			   : sequence.queries;
	int rows_begin = first * group, rows_end = last * group,
	    tiles = ceil_div(rows_end - rows_begin, ROWS);
	int tile = tiles * part / count, tile_end = tiles * (part + 1) / count;
	float sum_k[M][COLUMNS][4] = {}, sum_v[M][COLUMNS][4] = {};

	tile_load<D, KEYS, GRAD_THREADS>(k_tile, k + key_at, s.k_stride, s.head_dim, first, sequence.queries,
					 thread);
	tile_load<D, KEYS, GRAD_THREADS>(v_tile, v + key_at, s.k_stride, s.head_dim, first, sequence.queries,
					 thread);
	q += (ptrdiff_t)sequence.token * s.q_stride + head_at;
	dout += sequence.token * out_stride + head_at;
	lse += row_at;
	delta += row_at;
	if (tile < tile_end)
		stage_load<D, ROWS>(stages, s, q, dout, lse, delta, rows_begin + tile * ROWS, rows_end);
	cp_async_commit();
	for (int stage = 0; tile < tile_end; tile++, stage ^= STAGES - 1) {
		const T *q_now = stages + stage * stage_size<D, ROWS>(),
			*dout_now = q_now + tile_size<D>(ROWS);
		const float *lse_now = reinterpret_cast<const float *>(dout_now + tile_size<D>(ROWS)),
			    *delta_now = lse_now + ROWS;
		const int *query_now = reinterpret_cast<const int *>(delta_now + ROWS);
		float x[M][N][4] = {}, dp[M][N][4] = {};

		cp_async_wait<0>();
		__syncthreads();
		if (STAGES == 2 && tile + 1 < tile_end) {
			stage_load<D, ROWS>(stages + (stage ^ 1) * stage_size<D, ROWS>(), s, q, dout, lse,
					    delta, rows_begin + (tile + 1) * ROWS, rows_end);
			cp_async_commit();
		}
		product_scores<D, M, N>(x, k_tile, own_key, q_now, own_row);
		product_scores<D, M, N>(dp, v_tile, own_key, dout_now, own_row);
		UNROLL
		for (int n = 0; n < N; n++) {
			UNROLL
			for (int j = 0; j < 2; j++) {
				int row = own_row + 8 * n + lane % 4 * 2 + j, query = query_now[row];
				float lse2 = LOG2E * lse_now[row], row_delta = delta_now[row];

				UNROLL
				for (int m = 0; m < M; m++) {
					UNROLL
					for (int h = 0; h < 2; h++) {
						int key = first + own_key + 16 * m + 8 * h + lane / 4;
						bool visible = key <= query &&
							       (s.window <= 0 || key > query - s.window);

						score_grad(&x[m][n][2 * h + j], &dp[m][n][2 * h + j], visible,
							   lse2, row_delta, s);
					}
				}
			}
			UNROLL
			for (int m = 0; m < M; m++) {
				UNROLL
				for (int h = 0; h < 2; h++) {
					int at = (own_key + 16 * m + 8 * h + lane / 4) * P_STRIDE + own_row +
						 8 * n + lane % 4 * 2;

					*reinterpret_cast<uint32_t *>(p_tile + at) = pack2<T>(
						x[m][n][2 * h], x[m][n][2 * h + 1]);
					*reinterpret_cast<uint32_t *>(ds_tile + at) = pack2<T>(
						dp[m][n][2 * h], dp[m][n][2 * h + 1]);
				}
			}
		}
		__syncthreads();
		product_sums<D, ROWS, M, COLUMNS>(sum_v, p_tile, own_key, dout_now, own_chunk);
		product_sums<D, ROWS, M, COLUMNS>(sum_k, ds_tile, own_key, q_now, own_chunk);
		if (STAGES == 1 && tile + 1 < tile_end) {
			__syncthreads();
			stage_load<D, ROWS>(stages, s, q, dout, lse, delta, rows_begin + (tile + 1) * ROWS,
					    rows_end);
			cp_async_commit();
		}
	}
	cp_async_wait<0>();
	__syncthreads();
	if (count == 1) {
		sums_store<D, M, COLUMNS>(sum_k, s.scale, k_tile, own_key, own_chunk, dk + key_at, s.k_stride,
					  s.head_dim, first, sequence.queries);
		sums_store<D, M, COLUMNS>(sum_v, 1.0f, v_tile, own_key, own_chunk, dv + key_at, s.k_stride,
					  s.head_dim, first, sequence.queries);
	} else {
		ptrdiff_t width = (ptrdiff_t)s.kv_heads * s.head_dim, size = s.queries * width;
		float *to = parts + part * size + sequence.token * width + (ptrdiff_t)blockIdx.y * s.head_dim;

		sums_keep<M, COLUMNS>(sum_k, s.scale, own_key, own_chunk, to, width, s.head_dim, first,
				      sequence.queries);
		sums_keep<M, COLUMNS>(sum_v, 1.0f, own_key, own_chunk, to + count * size, width, s.head_dim,
				      first, sequence.queries);
	}
}

/* The parts added in order, eight columns to a thread; y 0: dk, 1: dv. */
template <typename T>
__global__ void __launch_bounds__(GRAD_THREADS)
	attention_grad_join(struct attention s, int count, const float *parts, T *dk, T *dv)
{
	grid_wait();
	ptrdiff_t width = (ptrdiff_t)s.kv_heads * s.head_dim, size = s.queries * width;
	ptrdiff_t at = ((ptrdiff_t)blockIdx.x * GRAD_THREADS + threadIdx.x) * 8;
	const float *from = parts + blockIdx.y * count * size + at;
	float sum[8] = {};
	pack<T> y;

	if (at >= s.cu_q[s.sequences] * width)
		return;
	for (int part = 0; part < count; part++, from += size) {
		pack<float> low = load_pack(from), high = load_pack(from + 4);

		UNROLL
		for (int i = 0; i < 4; i++) {
			sum[i] += low.v[i];
			sum[4 + i] += high.v[i];
		}
	}
	UNROLL
	for (int i = 0; i < 8; i++)
		y.v[i] = from_float<T>(sum[i]);
	store_pack((blockIdx.y == 0 ? dk : dv) + at / width * s.k_stride + at % width, y);
}

/* Parts of the rows, so that there is a block for every multiprocessor; no part without a tile of the longest sequence. */
static int grad_parts(const struct cuda_device *d, const struct attention *s, int keys, int rows)
{
	int blocks = tile_blocks(s, 1, keys) * s->kv_heads,
	    tiles = ceil_div(s->max_q * (s->heads / s->kv_heads), rows);
	int parts = (s->head_dim > 128 ? 1 : 2) * d->multiprocessors / blocks;

	parts = parts < tiles ? parts : tiles;
	parts = parts < MAX_PARTS ? parts : MAX_PARTS;
	return parts > 1 ? parts : 1;
}

static size_t delta_size(const struct attention *s)
{
	return (sizeof(float) * (size_t)s->queries * s->heads + 255) / 256 * 256;
}

size_t attention_grad_scratch(const struct cuda_device *d, const struct attention *s)
{
	size_t parts = 0;

	if (s->queries == 0)
		return 0;
	if (d->base.act != DTYPE_F32 && attention_is_hopper(d, s))
		return attention_hopper_grad_scratch(d, s);
	/* The largest tile of keys and the smallest of rows make the most parts. */
	if (d->base.act != DTYPE_F32)
		parts = grad_parts(d, s, 64, 32);
	return delta_size(s) +
	       (parts > 1 ? sizeof(float) * 2 * parts * s->queries * s->kv_heads * s->head_dim : 0);
}

/* What both launches take. */
template <typename T> struct grad {
	const struct attention *s;
	const T *q, *k, *v, *out, *dout;
	const float *lse;
	float *delta; /* (queries, heads) */
	float *parts;
	T *dq, *dk, *dv;
};

template <int D> static constexpr size_t grad_rows_shared(int rows, int keys)
{
	return 2 * (size_t)(2 * tile_size<D>(rows) + 4 * tile_size<D>(keys));
}

template <typename T, int D, int WARPS, int KEYS>
static void grad_rows_launch(struct device *d, const struct grad<T> *g)
{
	const struct attention *s = g->s;
	dim3 grid(tile_blocks(s, s->heads / s->kv_heads, 16 * WARPS), s->kv_heads);

	cuda_launch(d, "attention_grad", attention_grad_rows<T, D, WARPS, 1, KEYS>, grid, dim3(32 * WARPS),
		    grad_rows_shared<D>(16 * WARPS, KEYS), *s, g->q, g->k, g->v, g->out, g->lse, g->dout,
		    g->dq, g->delta);
}

template <typename T>
void attention_grad_add(struct device *d, const struct attention *s, int parts, const float *from, T *dk,
			T *dv)
{
	size_t packs = (size_t)s->queries * s->kv_heads * s->head_dim / 8;

	cuda_launch(d, "attention_grad", attention_grad_join<T>,
		    dim3((unsigned)((packs + GRAD_THREADS - 1) / GRAD_THREADS), 2), dim3(GRAD_THREADS), 0, *s,
		    parts, from, dk, dv);
}

template void attention_grad_add(struct device *d, const struct attention *s, int parts, const float *from,
				 __nv_bfloat16 *dk, __nv_bfloat16 *dv);
template void attention_grad_add(struct device *d, const struct attention *s, int parts, const float *from,
				 __half *dk, __half *dv);

template <typename T, int D, int KEYS, int ROWS, int STAGES>
static void grad_keys_launch(struct device *d, const struct grad<T> *g)
{
	const struct attention *s = g->s;
	int parts = grad_parts(cuda_device(d), s, KEYS, ROWS);

	cuda_launch(d, "attention_grad", attention_grad_keys<T, D, KEYS, ROWS, STAGES>,
		    dim3((unsigned)tile_blocks(s, 1, KEYS) * parts, s->kv_heads), dim3(GRAD_THREADS),
		    grad_keys_shared<D, KEYS, ROWS, STAGES>(), *s, parts, g->q, g->k, g->v, g->lse, g->dout,
		    g->delta, g->dk, g->dv, g->parts);
	if (parts > 1)
		attention_grad_add<T>(d, s, parts, g->parts, g->dk, g->dv);
}

/* Whether a block can have so much shared memory. */
static bool fits(struct device *d, size_t shared)
{
	return shared <= (size_t)cuda_device(d)->shared_per_block;
}

template <typename T> static void grad_launch(struct device *d, const struct grad<T> *g)
{
	int head_dim = g->s->head_dim;
	bool many = rows_are_many(cuda_device(d), g->s);

	if (attention_is_hopper(cuda_device(d), g->s)) {
		if (!attention_hopper_makes_dq(g->s)) {
			if (head_dim == 64)
				grad_rows_launch<T, 64, 4, 64>(d, g);
			else if (head_dim == 128)
				grad_rows_launch<T, 128, 4, 32>(d, g);
			else
				grad_rows_launch<T, 256, 8, 32>(d, g);
		}
		attention_hopper_grad<T>(d, g->s, g->q, g->k, g->v, g->out, g->lse, g->dout, g->dq, g->dk,
					 g->dv, g->delta);
	} else if (head_dim <= 64) {
		grad_rows_launch<T, 64, 4, 64>(d, g);
		grad_keys_launch<T, 64, 64, 64, 2>(d, g);
	} else if (head_dim <= 96) {
		grad_rows_launch<T, 96, 4, 32>(d, g);
		grad_keys_launch<T, 96, 64, 32, 2>(d, g);
	} else if (head_dim <= 128) {
		grad_rows_launch<T, 128, 4, 32>(d, g);
		grad_keys_launch<T, 128, 64, 32, 2>(d, g);
	} else if (head_dim <= 192) {
		grad_rows_launch<T, 192, 4, 32>(d, g);
		if (fits(d, grad_keys_shared<192, 64, 32, 2>()))
			grad_keys_launch<T, 192, 64, 32, 2>(d, g);
		else
			grad_keys_launch<T, 192, 32, 32, 2>(d, g);
	} else {
		if (many && fits(d, grad_rows_shared<256>(128, 32)))
			grad_rows_launch<T, 256, 8, 32>(d, g);
		else if (many && fits(d, grad_rows_shared<256>(128, 16)))
			grad_rows_launch<T, 256, 8, 16>(d, g);
		else
			grad_rows_launch<T, 256, 4, 16>(d, g);
		if (fits(d, grad_keys_shared<256, 64, 32, 2>()))
			grad_keys_launch<T, 256, 64, 32, 2>(d, g);
		else
			grad_keys_launch<T, 256, 32, 32, 1>(d, g);
	}
}

static void grad_launch(struct device *d, const struct grad<float> *g)
{
	attention_grad_plain(d, g->s, g->q, g->k, g->v, g->out, g->lse, g->dout, g->dq, g->dk, g->dv,
			     g->delta);
}

/* ---- all dtypes ---- */

template <typename T>
static void op_attention_grad(struct device *d, const struct attention *s, const void *q, const void *k,
			      const void *v, const void *out, const float *lse, const void *dout, void *dq,
			      void *dk, void *dv)
{
	struct grad<T> g = {
		s, (const T *)q, (const T *)k, (const T *)v, (const T *)out, (const T *)dout, lse, NULL, NULL,
			(T *)dq, (T *)dk, (T *)dv
	};

	if (s->queries == 0 || (sizeof(T) == 2 && !attention_possible(d, s, "attention_grad")))
		return;
	if constexpr (sizeof(T) == 2) {
		if (attention_grad_is_short(cuda_device(d), s)) {
			attention_grad_short<T>(d, s, g.q, g.k, g.v, g.out, g.lse, g.dout, g.dq, g.dk, g.dv);
			return;
		}
	}
	g.delta = (float *)cuda_scratch(d, attention_grad_scratch(cuda_device(d), s));
	if (!g.delta)
		return;
	g.parts = g.delta + delta_size(s) / sizeof(float);
	grad_launch(d, &g);
}

EXPORT(attention_grad,
       (struct device * d, const struct attention *s, const void *q, const void *k, const void *v,
	const void *out, const float *lse, const void *dout, void *dq, void *dk, void *dv),
       (d, s, q, k, v, out, lse, dout, dq, dk, dv))
