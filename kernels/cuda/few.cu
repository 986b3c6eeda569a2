/* y = x W^T for at most 8 tokens: bound by the bytes of W, which are read once, 16 bytes to a lane, straight into registers.
 * A block shares the columns of a few rows among its warps, and adds the warps' sums in order.
 *
 * With 16-bit weights in the dtype of 16-bit activations the tensor cores multiply, W being the first factor, so that
 * arithmetic takes next to no instructions. Lane (g, c) of a warp holds columns 8 c … 8 c + 7 of every 32, of rows g and
 * g + 8 and of token g; step s of 2 multiplies columns 8 c + 4 s … + 3. All other dtypes go through fp32 registers: there
 * each warp has two rows of its own. */
#include "kernels/cuda/nf4.cuh"
#include "kernels/cuda/ptx.cuh"

#define THREADS 256
#define WARPS   (THREADS / 32)

/* ---- 16-bit ---- */

/* What the registers of a multiprocessor suffice for. */
#define MOST_WARPS 16

/* 32 columns of 16 * ROW_TILES rows of W and of x: what a warp multiplies at once. */
template <int ROW_TILES> struct few_slot {
	uint4 w[2 * ROW_TILES], x;
};

/* Places are counted in 16 bytes, so that one takes one register. */
__device__ __forceinline__ uint4 few_load(const uint4 *p, uint32_t at, bool inside)
{
	return inside ? p[at] : make_uint4(0, 0, 0, 0);
}

template <int ROW_TILES>
__device__ __forceinline__ void few_load_w(struct few_slot<ROW_TILES> &slot, const uint4 *w,
					   const uint32_t own[2 * ROW_TILES], int k, bool inside)
{
#pragma unroll
	for (int i = 0; i < 2 * ROW_TILES; i++)
		slot.w[i] = load_once(w + own[i] + (uint32_t)k, inside);
}

template <typename T, int ROW_TILES>
__device__ __forceinline__ void few_multiply(const struct few_slot<ROW_TILES> &slot,
					     float acc[ROW_TILES][2][4])
{
#pragma unroll
	for (int i = 0; i < ROW_TILES; i++) {
		uint4 r = slot.w[2 * i], s = slot.w[2 * i + 1];
		const uint32_t a0[4] = {r.x, s.x, r.y, s.y}, a1[4] = {r.z, s.z, r.w, s.w};
		const uint32_t b0[2] = {slot.x.x, slot.x.y}, b1[2] = {slot.x.z, slot.x.w};

		mma_16816<T>(acc[i][0], a0, b0);
		mma_16816<T>(acc[i][1], a1, b1);
	}
}

/* Where the lane's part of its rows of tile `tile` begins. Rows that do not exist are others again, whose results are not
 * stored. */
template <int ROW_TILES>
__device__ __forceinline__ void few_rows(int rows, int cols, int tile, int lane, uint32_t own[2 * ROW_TILES])
{
#pragma unroll
	for (int i = 0; i < 2 * ROW_TILES; i++) {
		int row = tile * 16 * ROW_TILES + 8 * i + lane / 4;

		own[i] = (uint32_t)(row < rows ? row : rows - 1) * (uint32_t)(cols / 8) +
			 (uint32_t)(lane % 4);
	}
}

/* A block computes tiles of ROW_TILES times 16 rows, one after the other. Its warps take 32 columns each at a time, and
 * have SLOTS loads of W on their way all the time: as soon as a slot is multiplied it is filled again, at the end of a tile with
 * the next one's first columns, so that memory does not wait for the sums to be stored. The first ones do not wait for the kernel
 * that makes x either: 16 warps on each multiprocessor hold up to 17 MB of W by the time that it is done. */
template <typename T, int ROW_TILES, int SLOTS, int BLOCK_WARPS>
__global__ void __launch_bounds__(32 * BLOCK_WARPS, MOST_WARPS / BLOCK_WARPS)
	few_mma_kernel(const uint4 *x, const uint4 *w, int rows, int cols, struct product_out out,
		       bool vector)
{
	grid_ahead();
	const int row_count = 16 * ROW_TILES, step = 4 * BLOCK_WARPS;
	__shared__ __align__(16) float sums[BLOCK_WARPS][PRODUCT_FEW][row_count + 4];
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, c = lane % 4;
	int t = threadIdx.x / (row_count / 4), at = threadIdx.x % (row_count / 4) * 4;
	int tiles = ceil_div(rows, row_count), k0 = warp * 4, width = cols / 8;
	/* Tokens that do not exist are others again as well. */
	uint32_t token = (uint32_t)(g < out.n ? g : out.n - 1) * (uint32_t)width + (uint32_t)c;
	uint32_t own[2 * ROW_TILES];
	struct few_slot<ROW_TILES> slots[SLOTS];

	few_rows<ROW_TILES>(rows, cols, blockIdx.x, lane, own);
#pragma unroll
	for (int u = 0; u < SLOTS; u++) {
		int k = k0 + u * step;

		few_load_w<ROW_TILES>(slots[u], w, own, k, k + c < width);
	}
	grid_wait();
#pragma unroll
	for (int u = 0; u < SLOTS; u++) {
		int k = k0 + u * step;

		slots[u].x = few_load(x, token + (uint32_t)k, k + c < width);
	}
#pragma unroll 1
	for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
		float acc[ROW_TILES][2][4] = {};
		int k = k0;

#pragma unroll 1
		for (int first = 0; first < width; first += SLOTS * step) {
			bool more = true;

			k += SLOTS * step;
			if (first + SLOTS * step >= width) {
				k = k0;
				more = tile + (int)gridDim.x < tiles;
				few_rows<ROW_TILES>(rows, cols, more ? tile + gridDim.x : tile, lane, own);
			}
#pragma unroll
			for (int u = 0; u < SLOTS; u++) {
				int next = k + u * step;

				few_multiply<T, ROW_TILES>(slots[u], acc);
				few_load_w<ROW_TILES>(slots[u], w, own, next, more && next + c < width);
				slots[u].x = few_load(x, token + (uint32_t)next, more && next + c < width);
			}
		}
		/* Nearly all blocks have ended when the last one is here. */
		if (tile + (int)gridDim.x >= tiles)
			grid_next();
		__syncthreads();
#pragma unroll
		for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
			for (int j = 0; j < 4; j++)
				sums[warp][2 * c + j % 2][16 * i + 8 * (j / 2) + g] = acc[i][0][j] +
										      acc[i][1][j];
		__syncthreads();
		int row = tile * row_count + at;

		if (t < out.n && row < rows) {
			float sum[4] = {};

			for (int i = 0; i < BLOCK_WARPS; i++)
				for (int j = 0; j < 4; j++)
					sum[j] += sums[i][t][at + j];
			store4<T>(out.y, out.how, (size_t)t * (size_t)out.ld + (size_t)row, rows - row,
				  vector, sum);
		}
	}
}

template <typename T, int ROW_TILES, int SLOTS, int BLOCK_WARPS>
static void few_mma_launch(struct device *d, const struct product_out *out, const T *x, const T *w, int rows,
			   int cols)
{
	/* No more blocks than fit at once, of as many tiles each as the others. */
	int tiles = ceil_div(rows, 16 * ROW_TILES),
	    each = ceil_div(tiles, MOST_WARPS / BLOCK_WARPS * cuda_device(d)->multiprocessors);

	cuda_launch_ahead(d, "product of few tokens", few_mma_kernel<T, ROW_TILES, SLOTS, BLOCK_WARPS>,
			  dim3((unsigned)ceil_div(tiles, each)), dim3(32 * BLOCK_WARPS), 0,
			  reinterpret_cast<const uint4 *>(x), reinterpret_cast<const uint4 *>(w), rows, cols,
			  *out, stores_vector(out->y, out->ld, rows));
}

template <typename T>
static void few_mma(struct device *d, const struct product_out *out, const T *x, const T *w, int rows,
		    int cols)
{
	int multiprocessors = cuda_device(d)->multiprocessors;

	/* 32 rows to a tile read x half as often, when there are tiles enough. When there is one of 16 rows to a multiprocessor,
	 * long rows need all the warps of one. */
	if (rows >= 64 * multiprocessors)
		few_mma_launch<T, 2, 4, 8>(d, out, x, w, rows, cols);
	else if (rows <= 16 * multiprocessors && cols > 8 * 8 * 32)
		few_mma_launch<T, 1, 7, 16>(d, out, x, w, rows, cols);
	else
		few_mma_launch<T, 1, 8, 8>(d, out, x, w, rows, cols);
}

/* ---- through fp32 ---- */

/* A matrix as it is stored: how 8 values of a row are read. vector: 16-byte accesses, and whole groups of 8. */
template <typename W> struct dense_weights {
	const W *data;
	bool vector;

	__device__ __forceinline__ void read(size_t at, int left, const float *, float v[8]) const
	{
		read8(data + at, left, vector, v);
	}
};

struct nf4_weights {
	const uint8_t *packed;
	struct nf4_scales scales;
	bool vector, round;

	__device__ __forceinline__ void read(size_t at, int, const float *table, float v[8]) const
	{
		nf4_values8(table, nf4_word(packed + at / 2, vector),
			    nf4_block_absmax(scales, at / NF4_BLOCK), v);
		if (round)
			for (int i = 0; i < 8; i++)
				v[i] = nf4_round<true>(v[i]);
	}
};

template <typename T, typename W, int TOKENS>
__global__ void __launch_bounds__(THREADS)
	few_kernel(const T *x, W w, int rows, int cols, bool vector, struct product_out out)
{
	__shared__ float table[NF4_TABLE];
	int lane = threadIdx.x % 32, row0 = (blockIdx.x * WARPS + threadIdx.x / 32) * 2;
	float sum[2][TOKENS] = {};

	nf4_table_fill(table);
	__syncthreads();
	grid_wait();
	for (int k = lane * 8; k < cols; k += 256) {
		int left = cols - k;
		float a[2][8], b[8];

#pragma unroll
		for (int r = 0; r < 2; r++) {
			int row = row0 + r < rows ? row0 + r : rows - 1;

			w.read((size_t)row * (size_t)cols + (size_t)k, left, table + lane, a[r]);
#pragma unroll
			for (int i = 0; i < 8; i++)
				a[r][i] = to_float(from_float<T>(a[r][i]));
		}
#pragma unroll
		for (int t = 0; t < TOKENS; t++) {
			if (t >= out.n)
				break;
			read8(x + (size_t)t * (size_t)cols + (size_t)k, left, vector, b);
#pragma unroll
			for (int i = 0; i < 8; i++) {
				sum[0][t] = fmaf(a[0][i], b[i], sum[0][t]);
				sum[1][t] = fmaf(a[1][i], b[i], sum[1][t]);
			}
		}
	}
	grid_next();
#pragma unroll
	for (int t = 0; t < TOKENS; t++) {
		float v[4] = {warp_sum(sum[0][t]), warp_sum(sum[1][t])};

		if (lane == 0 && t < out.n && row0 < rows)
			store4<T>(out.y, out.how, (size_t)t * (size_t)out.ld + (size_t)row0,
				  rows - row0 < 2 ? 1 : 2, false, v);
	}
}

template <typename T, typename W>
static void few_simt(struct device *d, const struct product_out *out, const T *x, W w, int rows, int cols)
{
	bool vector = aligned_to(x, 16) && cols % 8 == 0;
	dim3 grid((unsigned)ceil_div(rows, 2 * WARPS));

	if (out->n <= 2)
		cuda_launch_next(d, "product of few tokens", few_kernel<T, W, 2>, grid, dim3(THREADS), 0, x,
				 w, rows, cols, vector, *out);
	else
		cuda_launch_next(d, "product of few tokens", few_kernel<T, W, PRODUCT_FEW>, grid,
				 dim3(THREADS), 0, x, w, rows, cols, vector, *out);
}

template <typename T, typename W>
static void few_dense(struct device *d, const struct product_out *out, const T *x, const struct matrix *m)
{
	struct dense_weights<W> w = {
		static_cast<const W *>(m->data), aligned_to(m->data, 16) && m->cols % 8 == 0
	};

	few_simt(d, out, x, w, m->rows, m->cols);
}

/* The tensor cores have no fp32. */
static void few_same(struct device *d, const struct product_out *out, const float *x, const struct matrix *m)
{
	few_dense<float, float>(d, out, x, m);
}

template <typename T>
static void few_same(struct device *d, const struct product_out *out, const T *x, const struct matrix *m)
{
	if (aligned_to(x, 16) && aligned_to(m->data, 16) && m->cols % 8 == 0)
		few_mma(d, out, x, static_cast<const T *>(m->data), m->rows, m->cols);
	else
		few_dense<T, T>(d, out, x, m);
}

template <typename T>
static void few(struct device *d, const struct product_out *out, const void *in, const struct matrix *m)
{
	const T *x = static_cast<const T *>(in);

	if (m->dtype == DTYPE_NF4) {
		struct nf4_weights w = {static_cast<const uint8_t *>(m->data), nf4_scales_of(d, m),
					aligned_to(m->data, 4), m->round_fp16};

		few_simt(d, out, x, w, m->rows, m->cols);
	} else if (m->dtype == dtype_of<T>::value) {
		few_same(d, out, x, m);
	} else if (m->dtype == DTYPE_F32) {
		few_dense<T, float>(d, out, x, m);
	} else if (m->dtype == DTYPE_BF16) {
		few_dense<T, __nv_bfloat16>(d, out, x, m);
	} else {
		few_dense<T, __half>(d, out, x, m);
	}
}

void few_product(struct device *d, const struct product_out *out, const void *x, const struct matrix *w)
{
	if (out->act == DTYPE_F32)
		few<float>(d, out, x, w);
	else if (out->act == DTYPE_BF16)
		few<__nv_bfloat16>(d, out, x, w);
	else
		few<__half>(d, out, x, w);
}
