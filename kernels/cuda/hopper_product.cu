/* y = x W^T and dx = dy W of 16-bit matrices for up to some hundred tokens, on Hopper (wgmma.cuh): bound by the bytes of W, and by
 * those of the activations, which every block reads once from the L2 cache. So a block has many rows of the result's width (of W
 * for y, columns of W for dx), as many as its registers hold the sums of, and all tokens up to HOPPER_TILE; W is the products'
 * first factor. Where there are too few tiles for all multiprocessors, the sum is split over blocks, which write parts that
 * splits_sum adds in order. Where there are too many, blocks go on to the next tile, and loads run ahead into it. */
#include "kernels/cuda/products.h"
#include "kernels/cuda/values.cuh"
#include "kernels/cuda/wgmma.cuh"

#define UNROLL   _Pragma("unroll")
#define DEPTH    HOPPER_DEPTH
#define CHUNK    8 /* values of 16 bytes */
#define SHARED   (227 * 1024)
#define STAGES_MOST 8

/* A warpgroup has the sums of 64 * tall rows. */
template <int ROWS> struct shape {
	static const int groups = ROWS == 64 ? 1 : 2, tall = ROWS / 64 / groups, threads = 128 * groups;
};

__host__ __device__ constexpr int stage_bytes(int rows, int tokens)
{
	return 2 * DEPTH * (rows + tokens);
}

__host__ __device__ constexpr int stages_of(int rows, int tokens)
{
	int most = (SHARED - HOPPER_ALIGN) / stage_bytes(rows, tokens);

	return most < STAGES_MOST ? most : STAGES_MOST;
}

/* Between tokens of a result on its way through shared memory: lanes of a warp write to different banks. */
__host__ __device__ constexpr int result_ld(int rows)
{
	return rows + 4;
}

template <typename T> struct hopper_work {
	const T *w, *x;
	int ldw, ldx;
	int n, width, depth, tiles, steps;
	void *y;      /* or parts (splits, n, width) */
	int ld;
	size_t split; /* values from part to part */
	enum store how;
	bool vector;  /* rows of y begin at multiples of 16 bytes */
};

/* Starts copying: rows `row`, `row` + STEP … of a tile, zeros from row `left` on; p is at this thread's chunk of the first. */
template <int COUNT, int STEP, typename T>
__device__ __forceinline__ void rows_load(T *to, const T *p, ptrdiff_t ld, int left, bool inside)
{
	static_assert(STEP % 8 == 0, "a thread stays in its place of a row");
	UNROLL
	for (int i = 0; i < COUNT; i++) {
		cp_async_16(to + i * STEP * DEPTH, p, inside && i * STEP < left);
		p += STEP * ld;
	}
}

/* GRAD: W's rows are what is summed over. */
template <typename T, bool GRAD, int ROWS, int TOKENS>
__global__ void __launch_bounds__(shape<ROWS>::threads, 1) hopper_product_kernel(struct hopper_work<T> a)
{
	grid_wait();
#if HAS_WGMMA
	const int THREADS = shape<ROWS>::threads, TALL = shape<ROWS>::tall, STAGES = stages_of(ROWS, TOKENS), N = TOKENS / 8;
	const int STAGE = stage_bytes(ROWS, TOKENS) / (int)sizeof(T), LD = result_ld(ROWS);
	/* Threads are beside each other along W's rows, and along those of x. */
	const int CHUNKS = GRAD ? ROWS / CHUNK : DEPTH / CHUNK, STEP = THREADS / CHUNKS, X_STEP = THREADS / (DEPTH / CHUNK);
	DYNAMIC_SHARED(T, memory);
	T *tiles = tile_begin(memory);
	int thread = threadIdx.x, lane = thread % 32, row = thread / CHUNKS, chunk = thread % CHUNKS, x_row = thread / 8, x_chunk = thread % 8;
	int stages = (a.depth + DEPTH - 1) / DEPTH, first = blockIdx.z * a.steps, steps = stages - first < a.steps ? stages - first : a.steps;
	int token0 = blockIdx.x * TOKENS, tokens = a.n - token0, begin = first * DEPTH;
	int total = (a.tiles - (int)blockIdx.y + (int)gridDim.y - 1) / (int)gridDim.y * steps;
	float d[TALL][N][4];
	/* What is loaded next. Tiles begin their sums at different stages, and go round: so not all blocks ask for the same bytes of x,
	 * and for rows of W a power of two apart, at once. */
	int next_tile = blockIdx.y, next_k = begin + next_tile % steps * DEPTH, next_stage = 0, left_steps = steps;
	T *w_to = panel_at(tiles, GRAD ? DEPTH : ROWS, row, chunk), *x_to = panel_at(tiles + ROWS * DEPTH, TOKENS, x_row, x_chunk);
	const T *x_from = a.x + (ptrdiff_t)(token0 + x_row) * a.ldx + x_chunk * CHUNK;

	auto load = [&]() {
		int at = next_tile * ROWS;

		if (GRAD)
			rows_load<DEPTH / STEP, STEP>(w_to + next_stage * STAGE,
						      a.w + (ptrdiff_t)(next_k + row) * a.ldw + at + chunk * CHUNK, a.ldw,
						      a.depth - next_k - row, at + chunk * CHUNK < a.width);
		else
			rows_load<ROWS / STEP, STEP>(w_to + next_stage * STAGE,
						     a.w + (ptrdiff_t)(at + row) * a.ldw + next_k + chunk * CHUNK, a.ldw,
						     a.width - at - row, next_k + chunk * CHUNK < a.depth);
		rows_load<TOKENS / X_STEP, X_STEP>(x_to + next_stage * STAGE, x_from + next_k, a.ldx, tokens - x_row,
						   next_k + x_chunk * CHUNK < a.depth);
		next_stage = next_stage + 1 < STAGES ? next_stage + 1 : 0;
		next_k += DEPTH;
		if (next_k == begin + steps * DEPTH)
			next_k = begin;
		if (--left_steps == 0) {
			left_steps = steps;
			next_tile += gridDim.y;
			next_k = begin + next_tile % steps * DEPTH;
		}
	};

	for (int s = 0; s < STAGES - 1; s++) {
		if (s < total)
			load();
		cp_async_commit();
	}

	int group = warpgroup_index(), stage = 0, step = 0, tile = blockIdx.y;

	for (int i = 0; i < total; i++) {
		/* Stage i is there, and all are done with the one before, whose place the next load takes while the products run. */
		cp_async_wait<STAGES - 2>();
		async_fence();
		__syncthreads();

		const T *now = tiles + stage * STAGE;
		uint64_t left = wgmma_operand(now + group * TALL * 64 * DEPTH, 0), right = wgmma_operand(now + ROWS * DEPTH, 0);

		UNROLL
		for (int m = 0; m < TALL; m++)
			wgmma_registers(d[m]);
		wgmma_fence();
		UNROLL
		for (int k = 0; k < DEPTH / 16; k++) {
			UNROLL
			for (int m = 0; m < TALL; m++)
				wgmma<T, GRAD, false>(d[m], wgmma_at(left, m * 64 * DEPTH * 2 + k * (GRAD ? 2048 : 32)),
						      wgmma_at(right, k * 32), step > 0 || k > 0);
		}
		wgmma_commit();
		if (i + STAGES - 1 < total)
			load();
		cp_async_commit();
		stage = stage + 1 < STAGES ? stage + 1 : 0;
		step++;
		wgmma_wait<0>();
		UNROLL
		for (int m = 0; m < TALL; m++)
			wgmma_registers(d[m]);
		if (step < steps)
			continue;

		/* Values of 32 bits leave as they lie: eight lanes have 32 bytes of a token. */
		int g = lane / 4, c = lane % 4, own = group * TALL * 64 + thread % 128 / 32 * 16 + g;

		step = 0;
		if (a.how == STORE_F32 || a.how == ADD_F32) {
			bool add = a.how == ADD_F32;

			UNROLL
			for (int m = 0; m < TALL; m++) {
				int at = tile * ROWS + own + 64 * m;
				float *y = static_cast<float *>(a.y) + blockIdx.z * a.split + (ptrdiff_t)(token0 + 2 * c) * a.ld + at;

				UNROLL
				for (int n = 0; n < N; n++, y += 8 * (ptrdiff_t)a.ld) {
					UNROLL
					for (int j = 0; j < 4; j++)
						if (8 * n + 2 * c + j % 2 < tokens && at + j / 2 * 8 < a.width) {
							float *to = y + j % 2 * (ptrdiff_t)a.ld + j / 2 * 8;

							*to = add ? *to + d[m][n][j] : d[m][n][j];
						}
				}
			}
		} else {
			/* Those of 16 bits go through shared memory: then there is one tile for this block, and no load on its way. */
			float *result = reinterpret_cast<float *>(tiles);

			__syncthreads();
			UNROLL
			for (int m = 0; m < TALL; m++) {
				UNROLL
				for (int n = 0; n < N; n++) {
					UNROLL
					for (int j = 0; j < 4; j++)
						result[(8 * n + 2 * c + j % 2) * LD + own + 64 * m + j / 2 * 8] = d[m][n][j];
				}
			}
			__syncthreads();
			for (int k = thread; k < TOKENS * (ROWS / 8); k += THREADS) {
				int token = k / (ROWS / 8), at = k % (ROWS / 8) * 8, some = a.width - tile * ROWS - at;
				float v[8], old[8] = {};

				if (token >= tokens || some <= 0)
					continue;
				T *to = static_cast<T *>(a.y) + (ptrdiff_t)(token0 + token) * a.ld + tile * ROWS + at;

				read8(result + token * LD + at, 8, true, v);
				if (a.how == ADD_ACT)
					read8(to, some, a.vector, old);
				UNROLL
				for (int j = 0; j < 8; j++)
					v[j] += old[j];
				write8(to, some, a.vector, v);
			}
		}
		tile += gridDim.y;
	}
#endif
}

template <typename T, bool GRAD, int ROWS, int TOKENS>
static void tile_launch(struct device *d, const struct hopper_plan *p, const struct hopper_work<T> &a)
{
	const int shared = stages_of(ROWS, TOKENS) * stage_bytes(ROWS, TOKENS) + HOPPER_ALIGN;
	static_assert(stages_of(ROWS, TOKENS) >= 3 && TOKENS * result_ld(ROWS) * 4 <= shared - HOPPER_ALIGN, "a result has room");
	/* Results of 16 bits take the place of what is loaded. Tiles of tokens with the same W are beside each other: it is in the L2
	 * cache then. */
	dim3 grid(p->token_tiles, a.how == STORE_ACT || a.how == ADD_ACT ? p->width_tiles : p->width_blocks, p->splits);

	cuda_launch(d, "product", hopper_product_kernel<T, GRAD, ROWS, TOKENS>, grid, dim3(shape<ROWS>::threads), shared, a);
}

template <typename T, bool GRAD, int TOKENS>
static void rows_launch(struct device *d, const struct hopper_plan *p, const struct hopper_work<T> &a)
{
	if (p->rows == 64)
		tile_launch<T, GRAD, 64, TOKENS>(d, p, a);
	else if (p->rows == 128)
		tile_launch<T, GRAD, 128, TOKENS>(d, p, a);
	else
		tile_launch<T, GRAD, 256, TOKENS>(d, p, a);
}

template <typename T, bool GRAD>
static void tokens_launch(struct device *d, const struct hopper_plan *p, const struct hopper_work<T> &a)
{
	switch (p->tokens) {
	case 32: rows_launch<T, GRAD, 32>(d, p, a); break;
	case 64: rows_launch<T, GRAD, 64>(d, p, a); break;
	case 96: rows_launch<T, GRAD, 96>(d, p, a); break;
	case 128: rows_launch<T, GRAD, 128>(d, p, a); break;
	case 160: rows_launch<T, GRAD, 160>(d, p, a); break;
	default: rows_launch<T, GRAD, 192>(d, p, a);
	}
}

template <typename T>
static void product_run(struct device *d, const struct product_out *out, const void *x, int ldx, const struct matrix *w, bool grad,
			const struct hopper_plan *p)
{
	size_t size = hopper_plan_scratch(p, out->n, out->width);
	struct hopper_work<T> a = {};
	float *parts = NULL;

	if (size && !(parts = static_cast<float *>(cuda_scratch(d, size))))
		return;
	a.w = static_cast<const T *>(w->data);
	a.x = static_cast<const T *>(x);
	a.ldw = w->cols;
	a.ldx = ldx;
	a.n = out->n;
	a.width = out->width;
	a.depth = grad ? w->rows : w->cols;
	a.tiles = p->width_tiles;
	a.steps = p->steps;
	a.y = parts ? parts : out->y;
	a.ld = parts ? out->width : out->ld;
	a.split = parts ? (size_t)out->n * (size_t)out->width : 0;
	a.how = parts ? STORE_F32 : out->how;
	a.vector = aligned_to(out->y, 16) && out->ld % CHUNK == 0;
	if (grad)
		tokens_launch<T, true>(d, p, a);
	else
		tokens_launch<T, false>(d, p, a);
	if (parts)
		splits_sum(d, out, parts, p->splits);
}

extern "C" bool hopper_product_run(struct device *d, const struct product_out *out, const void *x, int ldx, const struct matrix *w,
				   bool grad, const struct hopper_plan *p)
{
#if defined(ANNEAL_SM90A) || !defined(__CUDACC__)
	if (out->act == DTYPE_BF16)
		product_run<__nv_bfloat16>(d, out, x, ldx, w, grad, p);
	else
		product_run<__half>(d, out, x, ldx, w, grad, p);
	return true;
#else
	(void)d, (void)out, (void)x, (void)ldx, (void)w, (void)grad, (void)p;
	return false;
#endif
}

extern "C" bool hopper_product(struct device *d, const struct product_out *out, const void *x, int ldx, const struct matrix *w, bool grad)
{
	const struct cuda_device *c = cuda_device(d);
	int depth = grad ? w->rows : w->cols;

	/* Chunks of 16 bytes lie within a row, and within what is summed over. */
	if (!hopper_product_takes(c->major, c->minor, out->n, out->width, depth) || w->cols % CHUNK || depth % CHUNK || ldx % CHUNK ||
	    !aligned_to(x, 16) || !aligned_to(w->data, 16))
		return false;
	struct hopper_plan p = hopper_product_plan(c->multiprocessors, out->n, out->width, depth);

	return hopper_product_run(d, out, x, ldx, w, grad, &p);
}
