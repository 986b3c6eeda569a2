/* Attention of few queries over many keys, as in decoding: what counts is how fast keys and values are read.
 *
 * A block takes up to 16 rows (queries and heads of one kv head, attention.cuh), all of one tensor core tile, and one of several
 * parts of the keys (Dao et al. 2023, "Flash-Decoding"), so that one sequence also keeps the device busy. Each warp goes over
 * its own 16 keys at a time, with its own ring of copies under way and no barrier, and has a softmax of its own; at
 * the end these are brought together in the order of warps, and a second kernel does the same with the parts. There are blocks for as
 * many parts as the bounds and the device allow; how many are used depends on the keys that there are.
 *
 * When there are warps enough for all keys to be on their way at once, a block is one warp and a part its 16 keys: nothing is
 * brought together inside it. That is one sequence or a few, where latency is all. */
#include <stddef.h>

#include "kernels/cuda/attention.cuh"

#define KEYS       16 /* of a warp at a time */
#define STAGES     2
#define MIN_KEYS   32 /* of a part, of several warps */
#define MAX_SPLITS 128
#define JOIN       16 /* parts that a thread of the second kernel has on their way */

/* What a part leaves of a row: factor * max, l and the outputs not divided by it. */
struct part {
	int splits, min_keys; /* parts that there are blocks for, and the fewest keys of one */
	float *max, *l;       /* (queries, heads, splits) */
	float *o;             /* (queries, heads, splits, head_dim) */
};

/* Parts of the keys [begin, end) that are used. One of them is the result. */
__device__ __forceinline__ int parts_used(const struct view &all, const struct part &part)
{
	int most = ceil_div(all.end - all.begin, part.min_keys);

	return most < 1 ? 1 : most < part.splits ? most : part.splits;
}

/* A row's two columns from c on of a warp's outputs, where the block has no other warp: stored as the result, or the part's. */
template <typename T>
__device__ __forceinline__ void row_store(const struct attention &s, const struct part &part, int split,
					  bool all, ptrdiff_t at, int c, float sum, float x, float y, T *out)
{
	if (all)
		*reinterpret_cast<uint32_t *>(out + at * s.head_dim + c) = pack2<T>(x / sum, y / sum);
	else
		*reinterpret_cast<float2 *>(part.o + (at * part.splits + split) * s.head_dim +
					    c) = make_float2(x, y);
}

/* Rows [first, end) of x to the tile of rows from `from` on, whose others stay. */
template <int D, typename T>
__device__ __forceinline__ void rows_load(T *tile, const T *x, ptrdiff_t stride, int head_dim, int from,
					  int first, int end, int lane)
{
	for (int row = first; row < end; row++)
		for (int chunk = lane; chunk * 8 < head_dim; chunk += 32)
			cp_async_16(tile_at<D>(tile, row - from, chunk), x + row * stride + chunk * 8, true);
}

template <typename T, int D, int WARPS>
__global__ void __launch_bounds__(32 * WARPS)
	attention_decode_part(struct attention s, int row_tiles, const T *q, const T *k, const T *v, T *out,
			      float *lse, struct part part)
{
	grid_ahead();
	grid_next_small();
	const int N = KEYS / 8, RING = 2 * STAGES * tile_size<D>(KEYS);
	DYNAMIC_SHARED(T, q_tile);
	T *ring = q_tile + tile_size<D>(16);
	int group = s.heads / s.kv_heads, kv_head = blockIdx.y / row_tiles,
	    first = blockIdx.y % row_tiles * 16;
	int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, splits = part.splits,
	    split = blockIdx.x % splits;
	struct sequence sequence = sequence_at(s, blockIdx.x / splits);
	int rows = sequence.queries * group;
	struct view all = view_of(s, sequence, group, first, 16);
	int used = parts_used(all, part), share = ceil_div(ceil_div(all.end - all.begin, KEYS), used) * KEYS;
	bool idle = first >= rows || split >= used;
	int from = all.begin + split * share, to = from + share < all.end ? from + share : all.end;
	const T *keys = k + (ptrdiff_t)sequence.key * s.k_stride + (ptrdiff_t)kv_head * s.head_dim;
	const T *values = v + (ptrdiff_t)sequence.key * s.k_stride + (ptrdiff_t)kv_head * s.head_dim;
	float o[1][D / 8][4] = {}, max[1][2] = {{-INFINITY, -INFINITY}}, l[1][2] = {},
		       factor = scores_factor(s);
	int begin[1][2], end[1][2];
	T *own = ring + warp * RING;

	/* What says where the sequences are is no other kernel's work, nor are the keys that were there before the queries. */
	from += warp * KEYS;
	if (!idle && from < to) {
		int old = to < sequence.before ? to : sequence.before;

		tile_load<D, KEYS, 32>(own, keys, s.k_stride, s.head_dim, from, old, lane);
		tile_load<D, KEYS, 32>(own + tile_size<D>(KEYS), values, s.k_stride, s.head_dim, from, old,
				       lane);
	}
	cp_async_commit();
	grid_wait();
	if (idle)
		return;

	int until = from + KEYS < to ? from + KEYS : to;

	rows_see<1>(begin, end, s, sequence, group, first);
	tile_load_heads<D, 16, 32 * WARPS>(
		q_tile, q + (ptrdiff_t)sequence.token * s.q_stride + (ptrdiff_t)kv_head * group * s.head_dim,
		s.q_stride, s.head_dim, group, first, rows, thread);
	cp_async_commit();
	if (until > sequence.before) {
		int fresh = from > sequence.before ? from : sequence.before;

		/* Over the zeros that were put there. */
		cp_async_wait<1>();
		__syncwarp();
		rows_load<D>(own, keys, s.k_stride, s.head_dim, from, fresh, until, lane);
		rows_load<D>(own + tile_size<D>(KEYS), values, s.k_stride, s.head_dim, from, fresh, until,
			     lane);
		cp_async_commit();
	}
	cp_async_wait<0>();
	__syncthreads();
	for (int at = from, stage = 0; at < to; at += KEYS * WARPS, stage ^= 1) {
		T *k_now = own + stage * 2 * tile_size<D>(KEYS), *v_now = k_now + tile_size<D>(KEYS);
		T *k_next = own + (stage ^ 1) * 2 * tile_size<D>(KEYS);
		float x[1][N][4] = {};
		uint32_t p[1][N / 2][4];

		if (at + KEYS * WARPS < to) {
			tile_load<D, KEYS, 32>(k_next, keys, s.k_stride, s.head_dim, at + KEYS * WARPS, to,
					       lane);
			tile_load<D, KEYS, 32>(k_next + tile_size<D>(KEYS), values, s.k_stride, s.head_dim,
					       at + KEYS * WARPS, to, lane);
		}
		cp_async_commit();
		cp_async_wait<1>();
		__syncwarp();
		product_rows<D, 1, N>(x, q_tile, 0, k_now);
		if (scores_bent(s))
			scores_bend<1, N>(x, s);
		/* Keys from `to` on are another part's. */
		if (at < all.all_begin || at + KEYS > (to < all.all_end ? to : all.all_end)) {
			int stop[1][2] = {{end[0][0] < to ? end[0][0] : to, end[0][1] < to ? end[0][1] : to}};

			scores_mask<1, N>(x, begin, stop, at, -INFINITY);
		}
		softmax_step<D, 1, N>(x, max, l, o, factor);
		tiles_pack<T, 1, N>(p, x);
		product_columns<D, 1, N>(o, p, v_now);
		__syncwarp();
	}

	if constexpr (WARPS == 1) {
		UNROLL
		for (int h = 0; h < 2; h++) {
			int row = first + 8 * h + lane / 4, query = row / group;
			ptrdiff_t at = (ptrdiff_t)(sequence.token + query) * s.heads + kv_head * group + row -
				       query * group;
			float sum = row_sum(l[0][h]), top = max[0][h] * factor;

			if (row >= rows)
				continue;
			UNROLL
			for (int n = 0; n < D / 8; n++)
				if (8 * n < s.head_dim)
					row_store(s, part, split, used == 1, at, 8 * n + lane % 4 * 2, sum,
						  o[0][n][2 * h], o[0][n][2 * h + 1], out);
			if (lane % 4 == 0 && used > 1) {
				part.max[at * splits + split] = top;
				part.l[at * splits + split] = sum;
			} else if (lane % 4 == 0 && lse) {
				lse[at] = top * LN2 + logf(sum);
			}
		}
		return;
	}

	/* (WARPS, 16, D + 8) in place of the ring: outputs, factor * max, l, nothing */
	float *sums = reinterpret_cast<float *>(ring);

	cp_async_wait<0>();
	__syncthreads();
	UNROLL
	for (int h = 0; h < 2; h++) {
		float *row = sums + (warp * 16 + 8 * h + lane / 4) * (D + 8), sum = row_sum(l[0][h]);

		UNROLL
		for (int n = 0; n < D / 8; n++) {
			row[8 * n + lane % 4 * 2] = o[0][n][2 * h];
			row[8 * n + lane % 4 * 2 + 1] = o[0][n][2 * h + 1];
		}
		if (lane % 4 == 0) {
			row[D] = max[0][h] * factor;
			row[D + 1] = sum;
		}
	}
	__syncthreads();
	for (int r = 0; r < 16 && first + r < rows; r++) {
		int query = (first + r) / group, head = kv_head * group + first + r - query * group;
		ptrdiff_t at = (ptrdiff_t)(sequence.token + query) * s.heads + head;
		float top = -INFINITY, sum = 0.0f, weight[WARPS];

		UNROLL
		for (int w = 0; w < WARPS; w++)
			top = fmaxf(top, sums[(w * 16 + r) * (D + 8) + D]);
		UNROLL
		for (int w = 0; w < WARPS; w++) {
			weight[w] = top == -INFINITY ? 0.0f
						     : exp2_fast(sums[(w * 16 + r) * (D + 8) + D] - top);
			sum += weight[w] * sums[(w * 16 + r) * (D + 8) + D + 1];
		}
		for (int c = thread; c < s.head_dim; c += 32 * WARPS) {
			float x = 0.0f;

			UNROLL
			for (int w = 0; w < WARPS; w++)
				x += weight[w] * sums[(w * 16 + r) * (D + 8) + c];
			if (used == 1)
				out[at * s.head_dim + c] = from_float<T>(x / sum);
			else
				part.o[(at * splits + split) * s.head_dim + c] = x;
		}
		if (thread == 0 && used > 1) {
			part.max[at * splits + split] = top;
			part.l[at * splits + split] = sum;
		} else if (thread == 0 && lse) {
			lse[at] = top * LN2 + logf(sum);
		}
	}
}

/* Block (query of a sequence, and head; sequence), a thread to a column of its output. A batch of parts is read at once, with
 * nothing to wait for in between. */
template <typename T>
__global__ void __launch_bounds__(256)
	attention_decode_join(struct attention s, struct part part, T *out, float *lse)
{
	grid_ahead();
	grid_next_small();
	struct sequence sequence = sequence_at(s, blockIdx.y);
	int query = blockIdx.x / s.heads, head = blockIdx.x % s.heads, group = s.heads / s.kv_heads,
	    c = threadIdx.x;
	int first = (query * group + head % group) / 16 * 16,
	    used = parts_used(view_of(s, sequence, group, first, 16), part), splits = part.splits;
	ptrdiff_t at = (ptrdiff_t)(sequence.token + query) * s.heads + head;
	float top = -INFINITY, sum = 0.0f, x = 0.0f;

	grid_wait();
	if (query >= sequence.queries || used == 1 || c >= s.head_dim)
		return;
	for (int from = 0; from < used; from += JOIN) {
		float max[JOIN], l[JOIN], o[JOIN], before = top;

		UNROLL
		for (int i = 0; i < JOIN; i++) {
			ptrdiff_t p = at * splits + from + i;
			bool inside = from + i < used;

			max[i] = inside ? part.max[p] : -INFINITY;
			l[i] = inside ? part.l[p] : 0.0f;
			o[i] = inside ? part.o[p * s.head_dim + c] : 0.0f;
		}
		UNROLL
		for (int i = 0; i < JOIN; i++)
			top = fmaxf(top, max[i]);
		/* A part may have no key that the row sees, the first ones too. */
		float again = before == -INFINITY ? 0.0f : exp2_fast(before - top);

		sum *= again;
		x *= again;
		UNROLL
		for (int i = 0; i < JOIN; i++) {
			float weight = max[i] == -INFINITY ? 0.0f : exp2_fast(max[i] - top);

			sum += weight * l[i];
			x += weight * o[i];
		}
	}
	out[at * s.head_dim + c] = from_float<T>(x / sum);
	if (c == 0 && lse)
		lse[at] = top * LN2 + logf(sum);
}

bool attention_is_decode(const struct attention *s)
{
	return s->max_q <= ATTENTION_FEW && s->max_q * (s->heads / s->kv_heads) <= 64;
}

static int decode_row_tiles(const struct attention *s)
{
	return ceil_div(s->max_q * (s->heads / s->kv_heads), 16);
}

/* The most keys that rows of a tile see. */
static int decode_keys(const struct attention *s)
{
	return s->window > 0 && s->window + s->max_q < s->max_k ? s->window + s->max_q : s->max_k;
}

/* Whether each warp has one step of keys. */
static bool decode_is_single(const struct cuda_device *d, const struct attention *s)
{
	int blocks = s->sequences * s->kv_heads * decode_row_tiles(s), steps = ceil_div(decode_keys(s), KEYS);

	return steps <= MAX_SPLITS && blocks <= 4 * d->multiprocessors / (steps > 0 ? steps : 1);
}

/* Parts of the keys: enough blocks for the device, and MIN_KEYS for each of them. */
static int decode_splits(const struct cuda_device *d, const struct attention *s)
{
	int blocks = s->sequences * s->kv_heads * decode_row_tiles(s),
	    wanted = (s->head_dim > 128 ? 2 : 4) * d->multiprocessors;
	int splits = blocks > 0 ? wanted / blocks : 1, most = ceil_div(decode_keys(s), MIN_KEYS);

	if (decode_is_single(d, s))
		return ceil_div(decode_keys(s), KEYS);
	splits = splits < most ? splits : most;
	splits = splits < MAX_SPLITS ? splits : MAX_SPLITS;
	return splits > 1 ? splits : 1;
}

size_t attention_decode_scratch(const struct cuda_device *d, const struct attention *s)
{
	int splits = decode_splits(d, s);

	return splits == 1 ? 0 : sizeof(float) * (size_t)s->queries * s->heads * splits * (s->head_dim + 2);
}

template <typename T, int D, int WARPS>
static void decode_launch(struct device *d, const struct attention *s, const T *q, const T *k, const T *v,
			  T *out, float *lse)
{
	const size_t shared = sizeof(T) *
			      (size_t)(tile_size<D>(16) + WARPS * 2 * STAGES * tile_size<D>(KEYS));
	static_assert(sizeof(T) * 2 * STAGES * (size_t)tile_size<D>(KEYS) >= sizeof(float) * 16 * (D + 8),
		      "the sums of a warp take the place of its ring");
	int splits = decode_splits(cuda_device(d), s), row_tiles = decode_row_tiles(s);
	size_t rows = (size_t)s->queries * s->heads * splits;
	struct part part = {splits, WARPS == 1 ? KEYS : MIN_KEYS, NULL, NULL, NULL};

	if (splits > 1) {
		part.max = (float *)cuda_scratch(d, attention_decode_scratch(cuda_device(d), s));
		if (!part.max)
			return;
		part.l = part.max + rows;
		part.o = part.l + rows;
	}
	cuda_launch_ahead(d, "attention", attention_decode_part<T, D, WARPS>,
			  dim3((unsigned)s->sequences * splits, (unsigned)s->kv_heads * row_tiles),
			  dim3(32 * WARPS), shared, *s, row_tiles, q, k, v, out, lse, part);
	if (splits > 1)
		cuda_launch_ahead(d, "attention", attention_decode_join<T>,
				  dim3((unsigned)s->max_q * s->heads, (unsigned)s->sequences),
				  dim3(32 * ceil_div(s->head_dim, 32)), 0, *s, part, out, lse);
}

template <typename T, int D>
static void decode_padded(struct device *d, const struct attention *s, const T *q, const T *k, const T *v,
			  T *out, float *lse)
{
	if (decode_is_single(cuda_device(d), s))
		decode_launch<T, D, 1>(d, s, q, k, v, out, lse);
	else
		decode_launch<T, D, (D > 128 ? 2 : 4)>(d, s, q, k, v, out, lse);
}

template <typename T>
void attention_decode(struct device *d, const struct attention *s, const T *q, const T *k, const T *v, T *out,
		      float *lse)
{
	if (s->head_dim <= 64)
		decode_padded<T, 64>(d, s, q, k, v, out, lse);
	else if (s->head_dim <= 96)
		decode_padded<T, 96>(d, s, q, k, v, out, lse);
	else if (s->head_dim <= 128)
		decode_padded<T, 128>(d, s, q, k, v, out, lse);
	else if (s->head_dim <= 192)
		decode_padded<T, 192>(d, s, q, k, v, out, lse);
	else
		decode_padded<T, 256>(d, s, q, k, v, out, lse);
}

template void attention_decode<__nv_bfloat16>(struct device *d, const struct attention *s,
					      const __nv_bfloat16 *q, const __nv_bfloat16 *k,
					      const __nv_bfloat16 *v, __nv_bfloat16 *out, float *lse);
template void attention_decode<__half>(struct device *d, const struct attention *s, const __half *q,
				       const __half *k, const __half *v, __half *out, float *lse);
