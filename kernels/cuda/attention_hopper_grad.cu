/* Gradients of causal attention on Hopper (attention_hopper.cuh); the formulas are those of attention_grad.cu.
 *
 * A block keeps a tile of 64 keys and goes over the rows that see them, 64 at a time, transposed: keys are the rows of its
 * products. The first warpgroup makes scores and p, and sums dv; the second makes dp and ds, and sums dk. So the sums fit into
 * registers, p and ds are left operands as they stand there, and only p in fp32 goes from the one to the other. Rows are split
 * in parts, by blocks, whose sums in fp32 are added in order by another kernel: two blocks for every multiprocessor, those
 * with the most rows first, end at about the same time.
 *
 * ds is also written to memory, in tiles, and dq is a product of its own: that is five products in all, where making scores
 * and dp again would be seven. Where that would take too much memory, dq is for attention_grad_rows. */
#include <stddef.h>

#include "kernels/cuda/attention_hopper.cuh"

#define TILE_KEYS 64
#define TILE_ROWS 64
#define DS_TILE   (TILE_KEYS * TILE_ROWS)
#define MAX_PARTS 16
/* Bytes of ds. */
#define DS_MOST ((size_t)1200 << 20)

/* ---- delta ---- */

/* The sum over columns of out * dout, a warp to a query and head. */
template <typename T>
__global__ void __launch_bounds__(HOPPER_THREADS)
	attention_hopper_delta(struct attention s, const T *out, const T *dout, float *delta)
{
	grid_wait();
	int lane = threadIdx.x % 32, row = blockIdx.x * (HOPPER_THREADS / 32) + threadIdx.x / 32;
	int rows = s.cu_q[s.sequences] * s.heads, head_dim = s.head_dim;
	float sum = 0.0f;

	if (row < rows && lane * 8 < head_dim) {
		pack<T> x = load_pack(out + (ptrdiff_t)row * head_dim + lane * 8),
			y = load_pack(dout + (ptrdiff_t)row * head_dim + lane * 8);

		UNROLL
		for (int i = 0; i < 8; i++)
			sum += to_float(x.v[i]) * to_float(y.v[i]);
	}
	sum = warp_sum(sum);
	if (row < rows && lane == 0)
		delta[row] = sum;
}

/* ---- dk, dv and ds ---- */

/* Where ds of 64 rows and 64 keys is: keys by rows, as a tile in shared memory. */
template <typename T>
__device__ __forceinline__ T *ds_at(T *ds, const struct attention &s, const struct sequence &sequence,
				    int number, int kv_head, int row, int key)
{
	int group = s.heads / s.kv_heads;
	ptrdiff_t row_tiles = s.queries * group / TILE_ROWS + s.sequences,
		  key_tiles = ceil_div(s.max_q, TILE_KEYS);
	ptrdiff_t row_tile = sequence.token * group / TILE_ROWS + number + row / TILE_ROWS;

	return ds + ((kv_head * row_tiles + row_tile) * key_tiles + key / TILE_KEYS) * DS_TILE;
}

/* Starts copying rows [first, first + 64) to a stage: q, dout, and to lse_row their lse and delta. q, dout, lse and delta are the
 * sequence's first query's first head of the group. */
template <int D, typename T>
__device__ __forceinline__ void rows_load(T *stage, float *lse_row, const struct attention &s, const T *q,
					  const T *dout, const float *lse, const float *delta, int first,
					  int end, int thread)
{
	int group = s.heads / s.kv_heads;

	panels_load_heads<D, TILE_ROWS>(stage, q, s.q_stride, group, first, end, thread);
	panels_load_heads<D, TILE_ROWS>(stage + TILE_ROWS * D, dout, (ptrdiff_t)s.heads * D, group, first,
					end, thread);
	if (thread < 2 * TILE_ROWS) {
		int row = first + thread % TILE_ROWS, query = row / group;
		bool keep = row < end;
		ptrdiff_t at = keep ? (ptrdiff_t)query * s.heads + row - query * group : 0;

		cp_async_4(lse_row + thread, (thread < TILE_ROWS ? lse : delta) + at, keep);
	}
}

template <int D> static constexpr size_t keys_shared()
{
	return 2 * (size_t)D * (2 * TILE_KEYS + 4 * TILE_ROWS) + sizeof(float) * (DS_TILE + 4 * TILE_ROWS) +
	       HOPPER_ALIGN;
}

/* parts: NULL when there is one, else fp32 (2, parts, queries, kv_heads, head_dim): dk and dv. ds: NULL when it is not wanted. */
template <typename T, int D, int BLOCKS>
__global__ void __launch_bounds__(HOPPER_THREADS, BLOCKS)
	attention_hopper_keys(struct attention s, int count, const T *q, const T *k, const T *v,
			      const float *lse, const T *dout, const float *delta, T *dk, T *dv, float *parts,
			      T *ds)
{
	grid_wait();
#if HAS_WGMMA
	const int N = TILE_ROWS / 8, TILE = 64 * D;
	DYNAMIC_SHARED(T, memory);
	T *k_tile = tile_begin(memory), *v_tile = k_tile + TILE, *stages = v_tile + TILE;
	float4 *p_tile = reinterpret_cast<float4 *>(stages + 4 * TILE);
	float *lse_rows = reinterpret_cast<float *>(p_tile + N * 128);
	int group = s.heads / s.kv_heads, thread = threadIdx.x, lane = thread % 32, part = blockIdx.x % count,
	    number, first;
	bool second = warpgroup_index() != 0;
	struct sequence sequence;

	if (!tile_number(s, 1, TILE_KEYS, blockIdx.x / count, &sequence, &number, &first))
		return;

	ptrdiff_t head_at = (ptrdiff_t)blockIdx.y * group * D, out_stride = (ptrdiff_t)s.heads * D;
	ptrdiff_t key_at = (ptrdiff_t)sequence.token * s.k_stride + (ptrdiff_t)blockIdx.y * D;
	ptrdiff_t row_at = (ptrdiff_t)sequence.token * s.heads + blockIdx.y * group;
	/* The rows that see any of the keys, and this block's part of their tiles. */
	int last = s.window > 0 && first + TILE_KEYS - 1 + s.window < sequence.queries
			   ? first + TILE_KEYS - 1 + s.window
			   : sequence.queries;
	int rows_begin = first * group, rows_end = last * group,
	    tiles = ceil_div(rows_end - rows_begin, TILE_ROWS);
	int tile = tiles * part / count, tile_end = tiles * (part + 1) / count,
	    own_key = first + thread % 128 / 32 * 16 + lane / 4;
	float sum[1][D / 8][4] = {}, x[1][N][4];
	uint32_t p[1][N / 2][4];
	/* A key is seen by rows [see_begin, see_end). */
	int window = s.window > 0 && s.window < sequence.queries ? s.window : sequence.queries, see_begin[2],
	    see_end[2];
	T *ds_now = ds ? ds_at(ds, s, sequence, number, blockIdx.y, rows_begin + tile * TILE_ROWS, first)
		       : NULL;

	UNROLL
	for (int h = 0; h < 2; h++) {
		see_begin[h] = (own_key + 8 * h) * group;
		see_end[h] = (own_key + 8 * h + window) * group;
		see_end[h] = see_end[h] < rows_end ? see_end[h] : rows_end;
	}

	panels_load<D, TILE_KEYS>(k_tile, k + key_at, s.k_stride, first, sequence.queries, thread);
	panels_load<D, TILE_KEYS>(v_tile, v + key_at, s.k_stride, first, sequence.queries, thread);
	q += (ptrdiff_t)sequence.token * s.q_stride + head_at;
	dout += sequence.token * out_stride + head_at;
	lse += row_at;
	delta += row_at;
	if (tile < tile_end)
		rows_load<D>(stages, lse_rows, s, q, dout, lse, delta, rows_begin + tile * TILE_ROWS,
			     rows_end, thread);
	cp_async_commit();
	for (int stage = 0; tile < tile_end; tile++, stage ^= 1) {
		const T *q_now = stages + stage * 2 * TILE, *dout_now = q_now + TILE;
		const float *lse_now = lse_rows + stage * 2 * TILE_ROWS, *delta_now = lse_now + TILE_ROWS;
		int row_first = rows_begin + tile * TILE_ROWS;

		cp_async_wait<0>();
		async_fence();
		__syncthreads();
		wgmma_fence();
		panels_scores<D, TILE_KEYS>(x[0], second ? v_tile : k_tile, second ? dout_now : q_now);
		wgmma_commit();
		if (tile + 1 < tile_end) {
			rows_load<D>(stages + (stage ^ 1) * 2 * TILE, lse_rows + (stage ^ 1) * 2 * TILE_ROWS,
				     s, q, dout, lse, delta, row_first + TILE_ROWS, rows_end, thread);
			cp_async_commit();
		}
		wgmma_wait<0>();
		wgmma_registers(x[0]);
		if (!second) {
			bool masked = row_first < (first + TILE_KEYS - 1) * group ||
				      row_first + TILE_ROWS > rows_end ||
				      row_first + TILE_ROWS > (first + window) * group;

			UNROLL
			for (int n = 0; n < N; n++) {
				float2 lse2 = *reinterpret_cast<const float2 *>(lse_now + 8 * n +
										lane % 4 * 2);
				float4 give;

				UNROLL
				for (int i = 0; i < 4; i++) {
					float its_lse2 = LOG2E * (i % 2 ? lse2.y : lse2.x), slope = 1.0f, y;

					if (s.softcap > 0.0f) {
						float t = tanh_fast(x[0][n][i] * (s.scale / s.softcap));

						y = exp2_fast(s.softcap * LOG2E * t - its_lse2);
						slope = 1.0f - t * t;
					} else {
						y = exp2_fast(x[0][n][i] * (s.scale * LOG2E) - its_lse2);
					}
					if (masked) {
						int row = row_first + 8 * n + lane % 4 * 2 + i % 2;

						if (row < see_begin[i / 2] || row >= see_end[i / 2])
							y = 0.0f;
					}
					x[0][n][i] = y;
					(&give.x)[i] = y * slope;
				}
				p_tile[n * 128 + thread] = give;
			}
		} else {
			UNROLL
			for (int n = 0; n < N; n++) {
				float2 row_delta = *reinterpret_cast<const float2 *>(delta_now + 8 * n +
										     lane % 4 * 2);

				UNROLL
				for (int i = 0; i < 4; i++)
					x[0][n][i] -= i % 2 ? row_delta.y : row_delta.x;
			}
		}
		__syncthreads();
		if (second) {
			UNROLL
			for (int n = 0; n < N; n++) {
				float4 its_p = p_tile[n * 128 + thread - 128];

				x[0][n][0] *= its_p.x;
				x[0][n][1] *= its_p.y;
				x[0][n][2] *= its_p.z;
				x[0][n][3] *= its_p.w;
			}
		}
		tiles_pack<T, 1, N>(p, x);
		wgmma_registers(sum[0]);
		wgmma_fence();
		panels_sums<D, N>(sum[0], p[0], second ? q_now : dout_now, true);
		wgmma_commit();
		if (second && ds) {
			UNROLL
			for (int n = 0; n < N; n++) {
				UNROLL
				for (int h = 0; h < 2; h++)
					*reinterpret_cast<uint32_t *>(
						panel_at(ds_now, TILE_KEYS, own_key - first + 8 * h, n) +
						lane % 4 * 2) = p[0][n / 2][n % 2 * 2 + h];
			}
			ds_now += (ptrdiff_t)ceil_div(s.max_q, TILE_KEYS) * DS_TILE;
		}
		wgmma_wait<0>();
		wgmma_registers(sum[0]);
	}
	cp_async_wait<0>();
	__syncthreads();

	int warp_first = first + thread % 128 / 32 * 16;

	if (count == 1) {
		float times[1][2];

		times[0][0] = times[0][1] = second ? s.scale : 1.0f;
		rows_store<D, 1>(sum, times, second ? k_tile : v_tile, warp_first - first,
				 (second ? dk : dv) + key_at, s.k_stride, D, 1, warp_first, sequence.queries);
	} else {
		ptrdiff_t width = (ptrdiff_t)s.kv_heads * D, size = s.queries * width;
		float *to = parts + (part + (second ? 0 : count)) * size + sequence.token * width +
			    (ptrdiff_t)blockIdx.y * D;
		float times = second ? s.scale : 1.0f;

		UNROLL
		for (int n = 0; n < D / 8; n++) {
			UNROLL
			for (int h = 0; h < 2; h++) {
				int key = own_key + 8 * h;

				if (key < sequence.queries)
					*reinterpret_cast<float2 *>(to + key * width + 8 * n + lane % 4 * 2) =
						make_float2(sum[0][n][2 * h] * times,
							    sum[0][n][2 * h + 1] * times);
			}
		}
	}
#endif
}

/* ---- dq = scale ds k ---- */

#define DQ_STAGES 4

template <int D> static constexpr size_t dq_shared()
{
	return 2 * (size_t)DQ_STAGES * (TILE_KEYS * D + 2 * DS_TILE) + HOPPER_ALIGN;
}

/* Starts copying the keys from `at` on, and what the warpgroup's own rows have of ds there: zeros where they see none of them. */
template <int D, typename T>
__device__ __forceinline__ void dq_load(T *stage, const T *k, ptrdiff_t stride, const T *ds, int at, int end,
					const struct view &own, int thread)
{
	T *to = stage + TILE_KEYS * D + thread / 128 * DS_TILE;
	bool keep = at < own.end && at + TILE_KEYS > own.begin;

	panels_load<D, TILE_KEYS>(stage, k, stride, at, end, thread);
	ds += (ptrdiff_t)(at / TILE_KEYS) * DS_TILE;
	UNROLL
	for (int i = 0; i < DS_TILE / 8; i += 128)
		cp_async_16(to + (i + thread % 128) * 8, ds + (i + thread % 128) * 8, keep);
}

template <typename T, int D, int BLOCKS>
__global__ void __launch_bounds__(HOPPER_THREADS, BLOCKS)
	attention_hopper_dq(struct attention s, const T *k, const T *ds, T *dq)
{
	grid_wait();
#if HAS_WGMMA
	const int ROWS = HOPPER_ROWS, STAGE = TILE_KEYS * D + 2 * DS_TILE;
	DYNAMIC_SHARED(T, memory);
	T *stages = tile_begin(memory);
	int group = s.heads / s.kv_heads, thread = threadIdx.x, warp = thread / 32,
	    warpgroup = warpgroup_index(), number, first;
	struct sequence sequence;

	if (!tile_number(s, group, ROWS, gridDim.x - 1 - blockIdx.x, &sequence, &number, &first))
		return;

	ptrdiff_t head_at = (ptrdiff_t)blockIdx.y * group * D;
	ptrdiff_t key_at = (ptrdiff_t)sequence.token * s.k_stride + (ptrdiff_t)blockIdx.y * D;
	int rows = sequence.queries * group, own_first = first + warpgroup * TILE_ROWS;
	struct view all = view_of(s, sequence, group, first, ROWS),
		    own = view_of(s, sequence, group, own_first, TILE_ROWS);
	int begin = all.begin / TILE_KEYS * TILE_KEYS, steps = ceil_div(all.end - begin, TILE_KEYS);
	float sum[1][D / 8][4], times[1][2] = {{s.scale, s.scale}};

	ds = ds_at(ds, s, sequence, number, blockIdx.y, own_first, 0);
	UNROLL
	for (int i = 0; i < DQ_STAGES - 2; i++) {
		if (i < steps)
			dq_load<D>(stages + i * STAGE, k + key_at, s.k_stride, ds, begin + i * TILE_KEYS,
				   sequence.keys, own, thread);
		cp_async_commit();
	}
	/* At the barrier of a step the product before the last one has ended: its stage is filled again. */
	for (int i = 0; i < steps; i++) {
		T *stage = stages + i % DQ_STAGES * STAGE;

		cp_async_wait<DQ_STAGES - 3>();
		async_fence();
		__syncthreads();
		wgmma_fence();

		uint64_t left = wgmma_operand(stage + TILE_KEYS * D + warpgroup * DS_TILE, 0),
			 right = wgmma_operand(stage, TILE_KEYS * 128);

		UNROLL
		for (int j = 0; j < TILE_KEYS / 16; j++)
			wgmma<T, true, true>(sum[0], wgmma_at(left, j * 2048), wgmma_at(right, j * 2048),
					     i > 0 || j > 0);
		wgmma_commit();
		if (i + DQ_STAGES - 2 < steps)
			dq_load<D>(stages + (i + DQ_STAGES - 2) % DQ_STAGES * STAGE, k + key_at, s.k_stride,
				   ds, begin + (i + DQ_STAGES - 2) * TILE_KEYS, sequence.keys, own, thread);
		cp_async_commit();
		wgmma_wait<1>();
	}
	wgmma_wait<0>();
	wgmma_registers(sum[0]);
	cp_async_wait<0>();
	__syncthreads();
	rows_store<D, 1>(sum, times, stages, 16 * warp, dq + (ptrdiff_t)sequence.token * s.q_stride + head_at,
			 s.q_stride, D, group, first + 16 * warp, rows);
#endif
}

/* ---- launching ---- */

static int hopper_parts(const struct cuda_device *d, const struct attention *s)
{
	int blocks = tile_blocks(s, 1, TILE_KEYS) * s->kv_heads,
	    tiles = ceil_div(s->max_q * (s->heads / s->kv_heads), TILE_ROWS);
	int parts = (2 * d->multiprocessors + blocks / 2) / blocks;

	parts = parts < tiles ? parts : tiles;
	parts = parts < MAX_PARTS ? parts : MAX_PARTS;
	return parts > 1 ? parts : 1;
}

static size_t round_256(size_t size)
{
	return (size + 255) / 256 * 256;
}

static size_t parts_size(const struct attention *s, int parts)
{
	return parts > 1 ? round_256(sizeof(float) * 2 * parts * s->queries * s->kv_heads * s->head_dim) : 0;
}

/* Bytes of ds for these sequences, and the most that it may have: as for one sequence of as many queries, with room for the
 * tiles that others leave half empty. */
static size_t ds_size(const struct attention *s, int sequences, int max_q)
{
	size_t row_tiles = (size_t)(s->queries * (s->heads / s->kv_heads) / TILE_ROWS + sequences);

	return sizeof(uint16_t) * DS_TILE * row_tiles * ceil_div(max_q, TILE_KEYS) * s->kv_heads;
}

static size_t ds_most(const struct attention *s)
{
	size_t size = ds_size(s, 64, s->queries);

	return size < DS_MOST ? size : DS_MOST;
}

size_t attention_hopper_grad_scratch(const struct cuda_device *d, const struct attention *s)
{
	return round_256(sizeof(float) * (size_t)s->queries * s->heads) + parts_size(s, hopper_parts(d, s)) +
	       ds_most(s);
}

template <typename T, int D, int BLOCKS>
static void hopper_launch(struct device *d, const struct attention *s, const T *q, const T *k, const T *v,
			  const float *lse, const T *dout, T *dq, T *dk, T *dv, float *delta)
{
	int parts = hopper_parts(cuda_device(d), s), group = s->heads / s->kv_heads;
	float *sums = delta + round_256(sizeof(float) * (size_t)s->queries * s->heads) / sizeof(float);
	T *ds = reinterpret_cast<T *>(sums + parts_size(s, parts) / sizeof(float));

	cuda_launch(d, "attention_grad", attention_hopper_keys<T, D, BLOCKS>,
		    dim3((unsigned)tile_blocks(s, 1, TILE_KEYS) * parts, s->kv_heads), dim3(HOPPER_THREADS),
		    keys_shared<D>(), *s, parts, q, k, v, lse, dout, (const float *)delta, dk, dv, sums,
		    dq ? ds : NULL);
	if (parts > 1)
		attention_grad_add<T>(d, s, parts, sums, dk, dv);
	if (dq)
		cuda_launch(d, "attention_grad", attention_hopper_dq<T, D, BLOCKS>,
			    dim3(tile_blocks(s, group, HOPPER_ROWS), s->kv_heads), dim3(HOPPER_THREADS),
			    dq_shared<D>(), *s, k, (const T *)ds, dq);
}

bool attention_hopper_makes_dq(const struct attention *s)
{
	return ds_size(s, s->sequences, s->max_q) <= ds_most(s);
}

template <typename T>
void attention_hopper_grad(struct device *d, const struct attention *s, const T *q, const T *k, const T *v,
			   const T *out, const float *lse, const T *dout, T *dq, T *dk, T *dv, float *delta)
{
	if (!attention_hopper_makes_dq(s))
		dq = NULL;
	else
		cuda_launch(d, "attention_grad", attention_hopper_delta<T>,
			    dim3(ceil_div(s->queries * s->heads, HOPPER_THREADS / 32)), dim3(HOPPER_THREADS),
			    0, *s, out, dout, delta);
	if (s->head_dim == 64)
		hopper_launch<T, 64, 2>(d, s, q, k, v, lse, dout, dq, dk, dv, delta);
	else if (s->head_dim == 128)
		hopper_launch<T, 128, 1>(d, s, q, k, v, lse, dout, dq, dk, dv, delta);
	else
		hopper_launch<T, 256, 1>(d, s, q, k, v, lse, dout, dq, dk, dv, delta);
}

#define GRAD(T)                                                                                              \
	template void attention_hopper_grad(struct device *d, const struct attention *s, const T *q,         \
					    const T *k, const T *v, const T *out, const float *lse,          \
					    const T *dout, T *dq, T *dk, T *dv, float *delta);
GRAD(__nv_bfloat16)
GRAD(__half)
