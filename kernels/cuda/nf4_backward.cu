/* dx = dy W with W in NF4: the first factor is W^T, 16 columns by 16 rows at a time. Lane (g, c) of a warp takes rows
 * 8 c … 8 c + 7 of every 32 and 8 (or 4) columns beside each other, 4 (or 2) packed bytes a row; byte i of them is columns g
 * and g + 8 of the i-th 16. A register wants two rows of one column, which the lane has, so nothing is transposed; and of
 * the result it has columns beside each other. All that is permuted is the order of rows in the sum, in dy too. */
#include "kernels/cuda/nf4_product.cuh"

template <int TOKENS, int COL_WARPS, int K_WARPS, int LANE_COLS, int SUBS> struct backward_shape {
	static const int cols = 8 * LANE_COLS * COL_WARPS;
	static const int rows = 32 * SUBS * K_WARPS; /* of one stage */
	static const int chunks = rows / 8;          /* of dy to a token */
	static const int blocks = NF4_BACKWARD_COLS / NF4_BLOCK;
	static const int stage_bytes = nf4_stage_bytes(TOKENS, rows, rows, blocks);
	static const int packed_at = TOKENS * rows * 2, absmax_at = packed_at + rows * NF4_BACKWARD_COLS / 2,
			 raw_at = absmax_at + rows * blocks * 4;
};

/* Addresses as in nf4_forward.cu. */
template <typename T, typename S, int TOKENS>
__device__ __forceinline__ void backward_load(const struct nf4_args &a, int token0, int col0, int row0,
					      char *stage)
{
	const int halves = S::blocks * 2; /* of blocks: 16 bytes */
	int thread = nf4_thread<TOKENS>(), chunk = thread % S::chunks, half = thread % halves;
	int first_token = token0 + thread / S::chunks, first_row = thread / halves;
	const T *dy = static_cast<const T *>(a.in) +
		      ((size_t)first_token * (size_t)a.ld_in + (size_t)(chunk * 8));
	const uint8_t *packed = a.packed +
				((size_t)first_row * (size_t)(a.cols / 2) + (size_t)(col0 / 2 + half * 16));
	bool dy_inside = row0 + chunk * 8 < a.rows, w_inside = col0 + half * 32 < a.cols;

	dy += (unsigned)row0;
	packed += (size_t)row0 * (size_t)(a.cols / 2);
#pragma unroll
	for (int r = 0; r < ceil_div(TOKENS * S::chunks, NF4_THREADS); r++) {
		const int step = r * (NF4_THREADS / S::chunks);
		int token = thread / S::chunks + step;

		if (TOKENS % (NF4_THREADS / S::chunks) == 0 || token < TOKENS)
			cp_async_16(stage + nf4_dy_offset(token, chunk, S::chunks),
				    dy + (size_t)step * (size_t)a.ld_in,
				    dy_inside && first_token + step < a.n);
	}
#pragma unroll
	for (int r = 0; r < S::rows * halves / NF4_THREADS; r++) {
		const int step = r * (NF4_THREADS / halves);
		int row = first_row + step;

		cp_async_16(stage + S::packed_at + nf4_wt_offset(row, half / 2) + half % 2 * 16,
			    packed + (size_t)step * (size_t)(a.cols / 2), w_inside && row0 + row < a.rows);
	}
	nf4_scales_load<S::rows, S::blocks, true>(a, thread, row0, col0 / NF4_BLOCK,
						  reinterpret_cast<float *>(stage + S::absmax_at),
						  reinterpret_cast<uint32_t *>(stage + S::raw_at));
}

/* 32 rows from `group` * 32 on, times all the tokens, of which `left` exist: 2 steps of 16. */
template <typename T, typename S, bool ROUND, int TOKENS, int LANE_COLS, bool PAIRS>
__device__ __forceinline__ void backward_multiply(const char *table, uint32_t column, const char *stage,
						  int col_warp, int group, int lane, int left,
						  float acc[LANE_COLS / 2][TOKENS / 8][4])
{
	int g = lane / 4, c = lane % 4, row = group * 32 + 8 * c, at = col_warp * 8 * LANE_COLS,
	    block = at / NF4_BLOCK;
	const float *absmax = reinterpret_cast<const float *>(stage + S::absmax_at) + block * S::rows + row;
	uint32_t w[LANE_COLS / 2][2][4];

#pragma unroll
	for (int s = 0; s < 2; s++) {
		pack<float> scale = load_pack(absmax + 4 * s);
		uint32_t packed[4];

#pragma unroll
		for (int r = 0; r < 4; r++) {
			const char *p = stage + S::packed_at + nf4_wt_offset(row + 4 * s + r, block) +
					at % NF4_BLOCK / 2 + g * LANE_COLS / 2;

			packed[r] = LANE_COLS == 8 ? *reinterpret_cast<const uint32_t *>(p)
						   : *reinterpret_cast<const uint16_t *>(p);
		}
#pragma unroll
		for (int i = 0; i < LANE_COLS / 2; i++) {
			float2 v[4];

#pragma unroll
			for (int r = 0; r < 4; r++) {
				v[r] = nf4_pair<PAIRS>(table, column, packed[r], i);
				v[r].x *= scale.v[r];
				v[r].y *= scale.v[r];
			}
			w[i][s][0] = nf4_pack2<T, ROUND>(v[0].x, v[1].x);
			w[i][s][1] = nf4_pack2<T, ROUND>(v[0].y, v[1].y);
			w[i][s][2] = nf4_pack2<T, ROUND>(v[2].x, v[3].x);
			w[i][s][3] = nf4_pack2<T, ROUND>(v[2].y, v[3].y);
		}
	}
#pragma unroll
	for (int j0 = 0; j0 < TOKENS / 8; j0 += NF4_GROUP) {
		if (TOKENS > NF4_LEAN && 8 * j0 >= left)
			break;
#pragma unroll
		for (int j = j0; j < j0 + NF4_GROUP && j < TOKENS / 8; j++) {
			uint4 dy = *reinterpret_cast<const uint4 *>(
				stage + nf4_dy_offset(8 * j + g, group * 4 + c, S::chunks));
			const uint32_t b[2][2] = {{dy.x, dy.y}, {dy.z, dy.w}};

#pragma unroll
			for (int s = 0; s < 2; s++)
#pragma unroll
				for (int i = 0; i < LANE_COLS / 2; i++)
					mma_16816<T>(acc[i][j], w[i][s], b[s]);
		}
	}
}

template <typename T, bool ROUND, int TOKENS, int COL_WARPS, int K_WARPS, int LANE_COLS, int SUBS, int STAGES,
	  bool PAIRS>
__global__ void __launch_bounds__(NF4_THREADS, TOKENS > NF4_LEAN ? 1 : 2)
	nf4_backward_kernel(struct nf4_args a)
{
	grid_wait();
	typedef backward_shape<TOKENS, COL_WARPS, K_WARPS, LANE_COLS, SUBS> S;
	DYNAMIC_SHARED(char, shared);
	char *table = shared, *stages = shared + nf4_codes_bytes(PAIRS) + NF4_MAP_BYTES;
	float *map = reinterpret_cast<float *>(shared + nf4_codes_bytes(PAIRS));
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, k_warp = warp / COL_WARPS,
	    col_warp = warp % COL_WARPS;
	int col0 = blockIdx.x * S::cols, token0 = blockIdx.y * TOKENS;
	int first = blockIdx.z * a.steps, count = min(a.steps, ceil_div(a.rows, S::rows) - first);
	uint32_t column = nf4_column<PAIRS>(lane);
	float acc[LANE_COLS / 2][TOKENS / 8][4] = {};

	for (int i = 0; i < STAGES - 1; i++) {
		if (i < count)
			backward_load<T, S, TOKENS>(a, token0, col0, (first + i) * S::rows,
						    stages + i * S::stage_bytes);
		cp_async_commit();
	}
	nf4_codes_fill<PAIRS>(table);
	if (!a.scales.absmax)
		map[threadIdx.x] = a.scales.map[threadIdx.x];
#pragma unroll 1
	for (int i = 0; i < count; i++) {
		char *stage = stages + i % STAGES * S::stage_bytes;
		int next = i + STAGES - 1;

		cp_async_wait<STAGES - 2>();
		__syncthreads();
		if (next < count)
			backward_load<T, S, TOKENS>(a, token0, col0, (first + next) * S::rows,
						    stages + next % STAGES * S::stage_bytes);
		cp_async_commit();
		if (!a.scales.absmax) {
			nf4_scales_make<S::rows, S::blocks, true>(
				a, col0 / NF4_BLOCK, map, reinterpret_cast<uint32_t *>(stage + S::raw_at),
				reinterpret_cast<float *>(stage + S::absmax_at));
			__syncthreads();
		}
#pragma unroll(TOKENS >= 64 ? 1 : SUBS)
		for (int s = 0; s < SUBS; s++)
			backward_multiply<T, S, ROUND, TOKENS, LANE_COLS, PAIRS>(
				table, column, stage, col_warp, k_warp * SUBS + s, lane, a.n - token0, acc);
	}
	const int pass = nf4_pass(TOKENS);
	float *sums = reinterpret_cast<float *>(stages), *own = sums + k_warp * pass * (S::cols + 4);
	int g = lane / 4, c = lane % 4;

#pragma unroll
	for (int first_token = 0; first_token < TOKENS; first_token += pass) {
		__syncthreads();
#pragma unroll
		for (int j = 0; j < pass / 8; j++)
#pragma unroll
			for (int t = 0; t < 2; t++)
#pragma unroll
				for (int i = 0; i < LANE_COLS / 2; i++) {
					const float *sum = acc[i][first_token / 8 + j];
					int token = 8 * j + 2 * c + t,
					    col = col_warp * 8 * LANE_COLS + g * LANE_COLS + 2 * i;

					*reinterpret_cast<float2 *>(own + token * (S::cols + 4) +
								    col) = make_float2(sum[t], sum[2 + t]);
				}
		__syncthreads();
		nf4_tile_store<T, K_WARPS, pass, S::cols>(a, sums, token0 + first_token, col0);
	}
}

template <typename T, bool ROUND>
static void backward_launch(struct device *d, const struct nf4_plan *p, struct nf4_args a)
{
	dim3 grid((unsigned)p->width_blocks, (unsigned)p->token_blocks, (unsigned)p->splits);
	int tile = 0;

#define BACKWARD(tokens, col_warps, k_warps, lane_cols, subs, stages, pairs)                                 \
	if (p->tile == tile++) {                                                                             \
		typedef backward_shape<tokens, col_warps, k_warps, lane_cols, subs> S;                       \
		static_assert(S::cols == NF4_BACKWARD_COLS, "the layout of W is made for these");            \
		static_assert(32 * (col_warps) * (k_warps) == NF4_THREADS, "all warps have a part");         \
		static_assert((k_warps)*nf4_pass(tokens) * (S::cols + 4) * 4 <= (stages)*S::stage_bytes,     \
			      "sums fit");                                                                   \
		cuda_launch(d, "gradient of an NF4 product",                                                 \
			    nf4_backward_kernel<T, ROUND, tokens, col_warps, k_warps, lane_cols, subs,       \
						stages, pairs>,                                              \
			    grid, dim3(NF4_THREADS), nf4_backward_tile(p->tile).shared, a);                  \
	}
	NF4_BACKWARD_TILES(BACKWARD)
}

bool nf4_backward(struct device *d, const struct product_out *out, const void *dy, int lddy,
		  const struct matrix *w)
{
	struct cuda_device *c = cuda_device(d);
	struct nf4_plan plan = nf4_backward_plan(c->major, c->minor, c->multiprocessors, out->n, w->rows,
						 w->cols);
	struct nf4_args a;
	bool failed = false;

	/* dy is read 8 rows at a time. */
	if (w->rows % 8 || !nf4_args_make(d, out, dy, lddy, w, &plan, &a, &failed))
		return failed;
	/* fp16 rounds to itself. */
	if (out->act == DTYPE_F16)
		backward_launch<__half, false>(d, &plan, a);
	else if (w->round_fp16)
		backward_launch<__nv_bfloat16, true>(d, &plan, a);
	else
		backward_launch<__nv_bfloat16, false>(d, &plan, a);
	if (a.parts)
		splits_sum(d, out, a.parts, plan.splits);
	return true;
}
