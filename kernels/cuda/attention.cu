/* Causal attention over packed sequences, forward.
 *
 * 16-bit activations run on tensor cores (attention.cuh): a block takes a tile of rows of one sequence and kv head and goes over
 * the keys that they see, tile by tile, with the softmax of what it has seen so far. Every warp has 16 M rows to itself,
 * sums of outputs in registers; their probabilities go from one product to the next without leaving them. Keys and
 * values of the next tile arrive while this one is worked on: one barrier a tile. What a warp reads from shared memory is the
 * limit, so two row groups (M = 2) share what it reads wherever registers allow (head_dim to 128); above, blocks of
 * eight warps halve what is read from L2. Smaller tiles serve few rows and devices with less shared memory.
 *
 * Few queries over many keys are for attention_decode.cu, short sequences for attention_short.cu. fp32 activations have a plain kernel, a warp to a query and head. */
#include <stddef.h>

#include "kernels/cuda/attention_hopper.cuh"

/* ---- 16 bits ---- */

template <typename T, int D, int WARPS, int M, int KEYS>
__global__ void __launch_bounds__(32 * WARPS)
	attention_forward(struct attention s, const T *q, const T *k, const T *v, T *out, float *lse)
{
	grid_wait();
	const int ROWS = 16 * M * WARPS, THREADS = 32 * WARPS, N = KEYS / 8;
	DYNAMIC_SHARED(T, q_tile);
	T *k_tile = q_tile + tile_size<D>(ROWS), *v_tile = k_tile + 2 * tile_size<D>(KEYS);
	int group = s.heads / s.kv_heads, thread = threadIdx.x, warp = thread / 32, first;
	struct sequence sequence;

	if (!tile_find(s, group, ROWS, blockIdx.x, gridDim.x, &sequence, &first))
		return;

	ptrdiff_t head_at = (ptrdiff_t)blockIdx.y * group * s.head_dim, out_stride;
	ptrdiff_t key_at = (ptrdiff_t)sequence.key * s.k_stride + (ptrdiff_t)blockIdx.y * s.head_dim;
	int rows = sequence.queries * group, mine = first + 16 * M * warp;
	struct view all = view_of(s, sequence, group, first, ROWS),
		    own = view_of(s, sequence, group, mine, 16 * M);
	float o[M][D / 8][4] = {}, max[M][2], l[M][2] = {}, factor = scores_factor(s);

	UNROLL
	for (int m = 0; m < M; m++)
		max[m][0] = max[m][1] = -INFINITY;

	tile_load_heads<D, ROWS, THREADS>(q_tile, q + (ptrdiff_t)sequence.token * s.q_stride + head_at,
					  s.q_stride, s.head_dim, group, first, rows, thread);
	tile_load<D, KEYS, THREADS>(k_tile, k + key_at, s.k_stride, s.head_dim, all.begin, all.end, thread);
	tile_load<D, KEYS, THREADS>(v_tile, v + key_at, s.k_stride, s.head_dim, all.begin, all.end, thread);
	cp_async_commit();
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

		float x[M][N][4] = {};
		uint32_t p[M][N / 2][4];

		product_rows<D, M, N>(x, q_tile, 16 * M * warp, k_now);
		if (scores_bent(s))
			scores_bend<M, N>(x, s);
		if (at < own.all_begin || at + KEYS > own.all_end) {
			int begin[M][2], end[M][2];

			rows_see<M>(begin, end, s, sequence, group, mine);
			scores_mask<M, N>(x, begin, end, at, -INFINITY);
		}
		softmax_step<D, M, N>(x, max, l, o, factor);
		tiles_pack<T, M, N>(p, x);
		product_columns<D, M, N>(o, p, v_now);
	}

	/* Found again, not kept: the loop has no registers left. */
	tile_find(s, group, ROWS, blockIdx.x, gridDim.x, &sequence, &first);
	rows = sequence.queries * group, mine = first + 16 * M * warp;
	head_at = (ptrdiff_t)blockIdx.y * group * s.head_dim, out_stride = (ptrdiff_t)s.heads * s.head_dim;

	float times[M][2];

	UNROLL
	for (int m = 0; m < M; m++) {
		UNROLL
		for (int h = 0; h < 2; h++) {
			int row = mine + 16 * m + 8 * h + thread % 32 / 4, query = row / group;
			float sum = row_sum(l[m][h]);

			times[m][h] = 1.0f / sum;
			if (lse && row < rows && thread % 4 == 0)
				lse[(ptrdiff_t)(sequence.token + query) * s.heads + blockIdx.y * group + row -
				    query * group] = max[m][h] * factor * LN2 + logf(sum);
		}
	}
	rows_store<D, M>(o, times, q_tile, 16 * M * warp, out + sequence.token * out_stride + head_at,
			 out_stride, s.head_dim, group, mine, rows);
}

template <int D> static constexpr size_t forward_shared(int rows, int keys)
{
	return 2 * (size_t)(tile_size<D>(rows) + 4 * tile_size<D>(keys));
}

template <typename T, int D, int WARPS, int M, int KEYS>
static void forward_launch(struct device *d, const struct attention *s, const T *q, const T *k, const T *v,
			   T *out, float *lse)
{
	const int ROWS = 16 * M * WARPS;
	dim3 grid(tile_blocks(s, s->heads / s->kv_heads, ROWS), s->kv_heads);

	cuda_launch(d, "attention", attention_forward<T, D, WARPS, M, KEYS>, grid, dim3(32 * WARPS),
		    forward_shared<D>(ROWS, KEYS), *s, q, k, v, out, lse);
}

/* head_dim to 128 */
template <typename T, int D>
static void forward_narrow(struct device *d, const struct attention *s, const T *q, const T *k, const T *v,
			   T *out, float *lse)
{
	if (!rows_are_many(cuda_device(d), s))
		forward_launch<T, D, 4, 1, 32>(d, s, q, k, v, out, lse);
	else
		forward_launch<T, D, 4, 2, D <= 64 ? 64 : 32>(d, s, q, k, v, out, lse);
}

/* head_dim to 256 */
template <typename T, int D>
static void forward_wide(struct device *d, const struct attention *s, const T *q, const T *k, const T *v,
			 T *out, float *lse)
{
	bool many = rows_are_many(cuda_device(d), s);

	if (many && forward_shared<D>(128, 64) <= (size_t)cuda_device(d)->shared_per_block)
		forward_launch<T, D, 8, 1, 64>(d, s, q, k, v, out, lse);
	else if (many && forward_shared<D>(128, 32) <= (size_t)cuda_device(d)->shared_per_block)
		forward_launch<T, D, 8, 1, 32>(d, s, q, k, v, out, lse);
	else
		forward_launch<T, D, 4, 1, 32>(d, s, q, k, v, out, lse);
}

bool attention_possible(struct device *d, const struct attention *s, const char *what)
{
	bool possible = s->head_dim % 16 == 0 && s->head_dim <= 256 && s->q_stride % 8 == 0 &&
			s->k_stride % 8 == 0;

	if (!possible)
		cuda_note(d, cudaErrorInvalidValue, what);
	return possible;
}

template <typename T>
static void attention_run(struct device *d, const struct attention *s, const T *q, const T *k, const T *v,
			  T *out, float *lse)
{
	if (!attention_possible(d, s, "attention"))
		return;
	if (attention_is_decode(s))
		attention_decode<T>(d, s, q, k, v, out, lse);
	else if (attention_is_short(cuda_device(d), s))
		attention_short<T>(d, s, q, k, v, out, lse);
	else if (attention_is_hopper(cuda_device(d), s))
		attention_hopper<T>(d, s, q, k, v, out, lse);
	else if (s->head_dim <= 64)
		forward_narrow<T, 64>(d, s, q, k, v, out, lse);
	else if (s->head_dim <= 96)
		forward_narrow<T, 96>(d, s, q, k, v, out, lse);
	else if (s->head_dim <= 128)
		forward_narrow<T, 128>(d, s, q, k, v, out, lse);
	else if (s->head_dim <= 192)
		forward_wide<T, 192>(d, s, q, k, v, out, lse);
	else
		forward_wide<T, 256>(d, s, q, k, v, out, lse);
}

/* ---- fp32 ---- */

#define PLAIN_WARPS 4

/* A warp to a query and head. 32 keys at a time: a lane has the score of one of them, and then columns of the output. In shared
 * memory a warp has its query, its sums and 32 probabilities. */
__global__ void attention_forward_plain(struct attention s, const float *q, const float *k, const float *v,
					float *out, float *lse)
{
	grid_wait();
	DYNAMIC_SHARED(float, shared);
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = s.heads / s.kv_heads;
	ptrdiff_t row = (ptrdiff_t)blockIdx.x * PLAIN_WARPS + warp;
	float *query = shared + warp * (2 * s.head_dim + 32), *sum = query + s.head_dim,
	      *p = sum + s.head_dim;
	int token = (int)(row / s.heads), head = (int)(row % s.heads);

	if (token >= s.cu_q[s.sequences])
		return;

	struct sequence sequence = sequence_at(s, sequence_search(s.cu_q, s.sequences, 1, 1, 0, token));
	ptrdiff_t keys_at = (ptrdiff_t)sequence.key * s.k_stride + (ptrdiff_t)(head / group) * s.head_dim;
	int begin = key_begin(s, sequence, token - sequence.token),
	    end = key_end(sequence, token - sequence.token);
	float max = -INFINITY, l = 0.0f;

	for (int c = lane; c < s.head_dim; c += 32) {
		query[c] = q[(ptrdiff_t)token * s.q_stride + (ptrdiff_t)head * s.head_dim + c];
		sum[c] = 0.0f;
	}
	__syncwarp();
	for (int at = begin; at < end; at += 32) {
		float x = -INFINITY, best, shrink;
		int n = end - at < 32 ? end - at : 32;

		if (lane < n) {
			const float *key = k + keys_at + (ptrdiff_t)(at + lane) * s.k_stride;

			x = 0.0f;
			for (int c = 0; c < s.head_dim; c++)
				x += query[c] * key[c];
			x *= s.scale;
			if (s.softcap > 0.0f)
				x = s.softcap * tanhf(x / s.softcap);
		}
		best = fmaxf(max, warp_max(x));
		shrink = expf(max - best);
		x = expf(x - best);
		l = l * shrink + warp_sum(x);
		max = best;
		p[lane] = x;
		__syncwarp();
		for (int c = lane; c < s.head_dim; c += 32) {
			const float *value = v + keys_at + (ptrdiff_t)at * s.k_stride + c;
			float y = sum[c] * shrink;

			for (int j = 0; j < n; j++)
				y += p[j] * value[(ptrdiff_t)j * s.k_stride];
			sum[c] = y;
		}
		__syncwarp();
	}
	for (int c = lane; c < s.head_dim; c += 32)
		out[row * s.head_dim + c] = sum[c] / l;
	if (lse && lane == 0)
		lse[row] = max + logf(l);
}

static void attention_run(struct device *d, const struct attention *s, const float *q, const float *k,
			  const float *v, float *out, float *lse)
{
	size_t rows = (size_t)s->queries * (size_t)s->heads;

	cuda_launch(d, "attention", attention_forward_plain,
		    dim3((unsigned)((rows + PLAIN_WARPS - 1) / PLAIN_WARPS)), dim3(32 * PLAIN_WARPS),
		    sizeof(float) * PLAIN_WARPS * (size_t)(2 * s->head_dim + 32), *s, q, k, v, out, lse);
}

/* ---- both ---- */

size_t attention_scratch_bound(const struct cuda_device *d, const struct attention *s, bool train)
{
	size_t forward = 0, backward = train ? attention_grad_scratch(d, s) : 0;

	if (d->base.act != DTYPE_F32 && attention_is_decode(s))
		forward = attention_decode_scratch(d, s);
	if (d->base.act != DTYPE_F32 && train && attention_grad_short_bound(s) > backward)
		backward = attention_grad_short_bound(s);
	return forward > backward ? forward : backward;
}

template <typename T>
static void op_attention(struct device *d, const struct attention *s, const void *q, const void *k,
			 const void *v, void *out, float *lse)
{
	attention_run(d, s, (const T *)q, (const T *)k, (const T *)v, (T *)out, lse);
}

EXPORT(attention,
       (struct device * d, const struct attention *s, const void *q, const void *k, const void *v, void *out,
	float *lse),
       (d, s, q, k, v, out, lse))
