/* y = x W^T with W in NF4. A block computes `tokens` values of some rows of W; its warps share the rows, and the depth of a
 * stage. Lane (g, c) of a warp takes 8 packed bytes each of rows g and g + 8, the 16 elements from 16 c on of one NF4
 * block, so the quad's lanes have the whole block and one absmax. nf4_layout.h says where all this lies. */
#include "kernels/cuda/nf4_product.cuh"

template <int TOKENS, int ROW_WARPS, int K_WARPS, int ROW_TILES, int SUBS> struct forward_shape {
	static const int rows = 16 * ROW_TILES * ROW_WARPS;
	static const int blocks = SUBS * K_WARPS; /* of NF4 to a row, in one stage */
	static const int depth = NF4_BLOCK * blocks;
	static const int chunks = depth / 8; /* of x to a token */
	static const int stage_bytes = nf4_stage_bytes(TOKENS, depth, rows, blocks);
	static const int packed_at = TOKENS * depth * 2, absmax_at = packed_at + rows * depth / 2,
			 raw_at = absmax_at + rows * blocks * 4;
};

/* Up to so many tokens, the first loads of W do not wait for the kernel that makes x. */
#define AHEAD 16

enum forward_part { FORWARD_ALL, FORWARD_X, FORWARD_W };

/* Each address is what never changes for a thread, to which the place of the stage is added: that is all there is to
 * compute for a stage. What is not kept is not read, so its address may lie anywhere. X alone is there after a barrier, and is
 * no part of a group of copies. */
template <typename T, typename S, int TOKENS, enum forward_part PART>
__device__ __forceinline__ void forward_load(const struct nf4_args &a, int token0, int row0, int k0,
					     char *stage)
{
	const int halves = S::blocks * 2; /* of blocks: 16 bytes */
	int thread = nf4_thread<TOKENS>(), chunk = thread % S::chunks, half = thread % halves;
	int first_token = token0 + thread / S::chunks, first_row = row0 + thread / halves;
	const T *x = static_cast<const T *>(a.in) +
		     ((size_t)first_token * (size_t)a.ld_in + (size_t)(chunk * 8));
	const uint8_t *packed = a.packed + ((size_t)first_row * (size_t)(a.cols / 2) + (size_t)(half * 16));
	bool x_inside = k0 + chunk * 8 < a.cols, w_inside = k0 + half * 32 < a.cols;

	x += (unsigned)k0;
	packed += (unsigned)k0 / 2;
	if constexpr (PART != FORWARD_W) {
#pragma unroll(TOKENS >= 64 ? 1 : 8)
		for (int r = 0; r < ceil_div(TOKENS * S::chunks, NF4_THREADS); r++) {
			int step = r * (NF4_THREADS / S::chunks), token = thread / S::chunks + step;

			if (TOKENS % (NF4_THREADS / S::chunks) == 0 || token < TOKENS) {
				char *to = stage + nf4_x_offset(token, chunk, S::chunks);
				bool keep = x_inside && first_token + step < a.n;

				if (PART == FORWARD_X)
					*reinterpret_cast<uint4 *>(
						to) = keep ? *reinterpret_cast<const uint4 *>(x)
							   : make_uint4(0, 0, 0, 0);
				else
					cp_async_16(to, x, keep);
			}
			x += NF4_THREADS / S::chunks * a.ld_in;
		}
	}
	if constexpr (PART != FORWARD_X) {
#pragma unroll(TOKENS >= 64 ? 1 : 8)
		for (int r = 0; r < ceil_div(S::rows * halves, NF4_THREADS); r++) {
			int step = r * (NF4_THREADS / halves), row = thread / halves + step;

			if (S::rows % (NF4_THREADS / halves) == 0 || row < S::rows)
				cp_async_16(stage + S::packed_at + nf4_w_offset(row, half / 2, S::blocks) +
						    half % 2 * 16,
					    packed, w_inside && first_row + step < a.rows);
			packed += NF4_THREADS / halves * (a.cols / 2);
		}
		nf4_scales_load<S::rows, S::blocks, false>(a, thread, row0, k0 / NF4_BLOCK,
							   reinterpret_cast<float *>(stage + S::absmax_at),
							   reinterpret_cast<uint32_t *>(stage + S::raw_at));
	}
}

/* One NF4 block of 16 * ROW_TILES rows times all the tokens, of which `left` exist, in two halves of 2 steps: so many elements of a token are 16
 * bytes, and no more of W than these need be in registers. */
template <typename T, typename S, bool ROUND, int TOKENS, int ROW_TILES, bool PAIRS>
__device__ __forceinline__ void forward_multiply(const char *table, uint32_t column, const char *stage,
						 int row0, int block, int lane, int left,
						 float acc[ROW_TILES][(TOKENS + 7) / 8][4])
{
	int g = lane / 4, c = lane % 4;
	const float *absmax = reinterpret_cast<const float *>(stage + S::absmax_at);
	float scale[ROW_TILES][2];
	uint2 packed[ROW_TILES][2];

#pragma unroll
	for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
		for (int r = 0; r < 2; r++) {
			int row = row0 + 16 * i + 8 * r + g;

			packed[i][r] = *reinterpret_cast<const uint2 *>(
				stage + S::packed_at + nf4_w_offset(row, block, S::blocks) + 8 * c);
			scale[i][r] = absmax[row * S::blocks + block];
		}
#pragma unroll
	for (int h = 0; h < 2; h++) {
		uint32_t w[ROW_TILES][2][4];

#pragma unroll
		for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
			for (int r = 0; r < 2; r++)
#pragma unroll
				for (int q = 0; q < 4; q++) {
					float2 p = nf4_pair<PAIRS>(table, column,
								   h ? packed[i][r].y : packed[i][r].x, q);

					w[i][q / 2][q % 2 * 2 + r] = nf4_pack2<T, ROUND>(p.x * scale[i][r],
											 p.y * scale[i][r]);
				}
#pragma unroll
		for (int j0 = 0; j0 < ceil_div(TOKENS, 8); j0 += NF4_GROUP) {
			if (TOKENS > NF4_LEAN && 8 * j0 >= left)
				break;
#pragma unroll
			for (int j = j0; j < j0 + NF4_GROUP && j < ceil_div(TOKENS, 8); j++) {
				uint4 x = make_uint4(0, 0, 0, 0);

				if (TOKENS >= 8 || g < TOKENS)
					x = *reinterpret_cast<const uint4 *>(
						stage +
						nf4_x_offset(8 * j + g, block * 8 + 2 * c + h, S::chunks));
				const uint32_t b[2][2] = {{x.x, x.y}, {x.z, x.w}};

#pragma unroll
				for (int s = 0; s < 2; s++)
#pragma unroll
					for (int i = 0; i < ROW_TILES; i++)
						mma_16816<T>(acc[i][j], w[i][s], b[s]);
			}
		}
	}
}

template <typename T, bool ROUND, int TOKENS, int ROW_WARPS, int K_WARPS, int ROW_TILES, int SUBS, int STAGES,
	  bool PAIRS>
__global__ void __launch_bounds__(NF4_THREADS, TOKENS > NF4_LEAN ? 1 : 2)
	nf4_forward_kernel(struct nf4_args a)
{
	if (TOKENS > AHEAD)
		grid_wait();
	else
		grid_ahead();
	typedef forward_shape<TOKENS, ROW_WARPS, K_WARPS, ROW_TILES, SUBS> S;
	const int n_tiles = (TOKENS + 7) / 8;
	DYNAMIC_SHARED(char, shared);
	char *table = shared, *stages = shared + nf4_codes_bytes(PAIRS) + NF4_MAP_BYTES;
	float *map = reinterpret_cast<float *>(shared + nf4_codes_bytes(PAIRS));
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, k_warp = warp / ROW_WARPS;
	int row0 = blockIdx.x * S::rows, warp_row = warp % ROW_WARPS * 16 * ROW_TILES,
	    token0 = blockIdx.y * TOKENS;
	int first = blockIdx.z * a.steps, count = min(a.steps, ceil_div(a.cols, S::depth) - first);
	uint32_t column = nf4_column<PAIRS>(lane);
	float acc[ROW_TILES][n_tiles][4] = {};

	for (int i = 0; i < STAGES - 1; i++) {
		if (i < count)
			forward_load<T, S, TOKENS, (TOKENS > AHEAD ? FORWARD_ALL : FORWARD_W)>(
				a, token0, row0, (first + i) * S::depth, stages + i * S::stage_bytes);
		cp_async_commit();
	}
	nf4_codes_fill<PAIRS>(table);
	if (!a.scales.absmax)
		map[threadIdx.x] = a.scales.map[threadIdx.x];
	if (TOKENS <= AHEAD) {
		grid_wait();
#pragma unroll
		for (int i = 0; i < STAGES - 1; i++)
			if (i < count)
				forward_load<T, S, TOKENS, FORWARD_X>(a, token0, row0, (first + i) * S::depth,
								      stages + i * S::stage_bytes);
	}
#pragma unroll 1
	for (int i = 0; i < count; i++) {
		char *stage = stages + i % STAGES * S::stage_bytes;
		int next = i + STAGES - 1;

		cp_async_wait<STAGES - 2>();
		__syncthreads();
		if (next < count)
			forward_load<T, S, TOKENS, FORWARD_ALL>(a, token0, row0, (first + next) * S::depth,
								stages + next % STAGES * S::stage_bytes);
		cp_async_commit();
		if (!a.scales.absmax) {
			nf4_scales_make<S::rows, S::blocks, false>(
				a, (first + i) * S::blocks, map,
				reinterpret_cast<uint32_t *>(stage + S::raw_at),
				reinterpret_cast<float *>(stage + S::absmax_at));
			__syncthreads();
		}
#pragma unroll
		for (int s = 0; s < SUBS; s++)
			forward_multiply<T, S, ROUND, TOKENS, ROW_TILES, PAIRS>(
				table, column, stage, warp_row, k_warp * SUBS + s, lane, a.n - token0, acc);
	}
	if (TOKENS <= AHEAD)
		grid_next();
	const int pass = nf4_pass(TOKENS);
	float *sums = reinterpret_cast<float *>(stages), *own = sums + k_warp * pass * (S::rows + 4);
	int g = lane / 4, c = lane % 4;

#pragma unroll
	for (int first_token = 0; first_token < TOKENS; first_token += pass) {
		__syncthreads();
#pragma unroll
		for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
			for (int j = 0; j < ceil_div(pass, 8); j++)
#pragma unroll
				for (int r = 0; r < 4; r++) {
					int token = 8 * j + 2 * c + r % 2,
					    row = warp_row + 16 * i + r / 2 * 8 + g;

					if (TOKENS >= 8 || token < TOKENS)
						own[token * (S::rows + 4) + row] =
							acc[i][first_token / 8 + j][r];
				}
		__syncthreads();
		nf4_tile_store<T, K_WARPS, pass, S::rows>(a, sums, token0 + first_token, row0);
	}
}

template <typename T, bool ROUND>
static void forward_launch(struct device *d, const struct nf4_plan *p, struct nf4_args a)
{
	dim3 grid((unsigned)p->width_blocks, (unsigned)p->token_blocks, (unsigned)p->splits);
	int tile = 0;

#define FORWARD(tokens, row_warps, k_warps, row_tiles, subs, stages, pairs)                                  \
	if (p->tile == tile++) {                                                                             \
		typedef forward_shape<tokens, row_warps, k_warps, row_tiles, subs> S;                        \
		static_assert(32 * (row_warps) * (k_warps) == NF4_THREADS, "all warps have a part");         \
		static_assert((k_warps)*nf4_pass(tokens) * (S::rows + 4) * 4 <= (stages)*S::stage_bytes,     \
			      "sums fit");                                                                   \
		auto kernel = nf4_forward_kernel<T, ROUND, tokens, row_warps, k_warps, row_tiles, subs,      \
						 stages, pairs>;                                             \
		size_t shared = nf4_forward_tile(p->tile).shared;                                            \
		if ((tokens) <= AHEAD)                                                                       \
			cuda_launch_ahead(d, "NF4 product", kernel, grid, dim3(NF4_THREADS), shared, a);     \
		else                                                                                         \
			cuda_launch(d, "NF4 product", kernel, grid, dim3(NF4_THREADS), shared, a);           \
	}
	NF4_FORWARD_TILES(FORWARD)
}

bool nf4_forward(struct device *d, const struct product_out *out, const void *x, const struct matrix *w)
{
	struct cuda_device *c = cuda_device(d);
	struct nf4_plan plan = nf4_forward_plan(c->major, c->minor, c->multiprocessors, out->n, w->rows,
						w->cols);
	struct nf4_args a;
	bool failed = false;

	if (!nf4_args_make(d, out, x, w->cols, w, &plan, &a, &failed))
		return failed;
	/* fp16 rounds to itself. */
	if (out->act == DTYPE_F16)
		forward_launch<__half, false>(d, &plan, a);
	else if (w->round_fp16)
		forward_launch<__nv_bfloat16, true>(d, &plan, a);
	else
		forward_launch<__nv_bfloat16, false>(d, &plan, a);
	if (a.parts)
		splits_sum(d, out, a.parts, plan.splits);
	return true;
}
