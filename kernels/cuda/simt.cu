/* Products by plain fp32 arithmetic, for what cuBLASLt does not take: odd strides, unaligned rows. A block computes 64 by
 * 64 values of C, a thread 4 by 4 of them, from tiles of 64 by 16 in shared memory; each value is one sum in the order of
 * k. Also here: the sum of products that were computed in splits. */
#include "kernels/cuda/products.h"
#include "kernels/cuda/values.cuh"

#define THREADS 256
#define TILE    64
#define DEPTH   16
#define LD      (TILE + 4) /* keeps rows aligned to 16 bytes and columns in different banks */

/* tile[k][i] = element (first + i, k0 + k), zeros outside (width, depth). Neighbouring threads read neighbours in memory:
 * along k, or along i. */
template <typename T>
__device__ __forceinline__ void tile_load(const T *p, int ld, bool along_k, int first, int width, int k0,
					  int depth, float (*tile)[LD])
{
#pragma unroll
	for (int r = 0; r < TILE * DEPTH / THREADS; r++) {
		int k = along_k ? threadIdx.x % DEPTH : threadIdx.x / TILE + r * (THREADS / TILE);
		int i = along_k ? threadIdx.x / DEPTH + r * (THREADS / DEPTH) : threadIdx.x % TILE;
		size_t row = (size_t)(first + i), at = (size_t)(k0 + k);
		bool inside = first + i < width && k0 + k < depth;

		tile[k][i] = inside ? to_float(p[along_k ? row * (size_t)ld + at : at * (size_t)ld + row])
				    : 0.0f;
	}
}

template <typename T>
__global__ void __launch_bounds__(THREADS) simt_kernel(struct product p, enum store how, bool vector)
{
	grid_wait();
	__shared__ __align__(16) float a[DEPTH][LD], b[DEPTH][LD];
	int m0 = blockIdx.x * TILE, n0 = blockIdx.y * TILE;
	int i = threadIdx.x % (TILE / 4) * 4, j = threadIdx.x / (TILE / 4) * 4;
	float sum[4][4] = {};

	for (int k0 = 0; k0 < p.k; k0 += DEPTH) {
		tile_load(static_cast<const T *>(p.a), p.lda, p.ta, m0, p.m, k0, p.k, a);
		tile_load(static_cast<const T *>(p.b), p.ldb, !p.tb, n0, p.n, k0, p.k, b);
		__syncthreads();
#pragma unroll
		for (int k = 0; k < DEPTH; k++) {
			pack<float> u = load_pack(&a[k][i]), v = load_pack(&b[k][j]);

#pragma unroll
			for (int y = 0; y < 4; y++)
#pragma unroll
				for (int x = 0; x < 4; x++)
					sum[y][x] = fmaf(u.v[x], v.v[y], sum[y][x]);
		}
		__syncthreads();
	}
	for (int y = 0; y < 4; y++)
		if (n0 + j + y < p.n && m0 + i < p.m)
			store4<T>(p.c, how, (size_t)(n0 + j + y) * (size_t)p.ldc + (size_t)(m0 + i),
				  p.m - (m0 + i), vector, sum[y]);
}

template <typename T> static void simt_launch(struct device *d, const struct product *p)
{
	bool act = p->out == p->type;
	enum store how = act ? (p->add ? ADD_ACT : STORE_ACT) : p->add ? ADD_F32 : STORE_F32;

	cuda_launch(d, "product", simt_kernel<T>,
		    dim3((unsigned)ceil_div(p->m, TILE), (unsigned)ceil_div(p->n, TILE)), dim3(THREADS), 0,
		    *p, how, stores_vector(p->c, p->ldc, p->m));
}

void simt_product(struct device *d, const struct product *p)
{
	if (p->type == DTYPE_F32)
		simt_launch<float>(d, p);
	else if (p->type == DTYPE_BF16)
		simt_launch<__nv_bfloat16>(d, p);
	else
		simt_launch<__half>(d, p);
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
	splits_kernel(const float *parts, int splits, struct product_out out, bool vector)
{
	grid_wait();
	grid_next_small();
	int quads = (out.width + 3) / 4;
	size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x, size = (size_t)out.n * (size_t)out.width;

	if (i >= (size_t)out.n * (size_t)quads)
		return;
	size_t t = i / (size_t)quads;
	int at = (int)(i % (size_t)quads) * 4, left = out.width - at;
	const float *p = parts + t * (size_t)out.width + (size_t)at;
	float sum[4] = {};

	for (int z = 0; z < splits; z++, p += size) {
		if (out.width % 4 == 0) {
			pack<float> x = load_pack(p);

			for (int j = 0; j < 4; j++)
				sum[j] += x.v[j];
		} else {
			for (int j = 0; j < 4 && j < left; j++)
				sum[j] += p[j];
		}
	}
	store4<T>(out.y, out.how, t * (size_t)out.ld + (size_t)at, left, vector, sum);
}

template <typename T>
static void splits_launch(struct device *d, const struct product_out *out, const float *parts, int splits)
{
	size_t quads = (size_t)out->n * (size_t)ceil_div(out->width, 4);

	cuda_launch_next(d, "sum of splits", splits_kernel<T>,
			 dim3((unsigned)((quads + THREADS - 1) / THREADS)), dim3(THREADS), 0, parts, splits,
			 *out, stores_vector(out->y, out->ld, out->width));
}

void splits_sum(struct device *d, const struct product_out *out, const float *parts, int splits)
{
	if (out->act == DTYPE_F32)
		splits_launch<float>(d, out, parts, splits);
	else if (out->act == DTYPE_BF16)
		splits_launch<__nv_bfloat16>(d, out, parts, splits);
	else
		splits_launch<__half>(d, out, parts, splits);
}
