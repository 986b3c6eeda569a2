/* The optimizer's arithmetic: the norm of the gradients, and AdamW.
 *
 * The sum of squares runs in fp64: each block adds BLOCK values at a time (their squares are exact), every PARTS-th such
 * piece, and a second kernel of one block adds the blocks' sums. AdamW reads and writes four numbers a parameter, which is all that its time is; the gradient's zeros are
 * one of the four, so that nobody has to clear it. */
#include <math.h>

#include "kernels/cuda/scratch.h"
#include "kernels/cuda/vector.cuh"

#define THREADS 256
#define BLOCK   16384 /* values of a block at once */
#define PARTS   4096  /* at most so many blocks: several times what a GPU runs at once */
#define ADDERS  1024

/* The sum of a block's values, in thread 0. */
static __device__ double block_sum_double(double x, double *shared)
{
	for (int offset = 16; offset > 0; offset /= 2)
		x += __shfl_xor_sync(0xffffffffu, x, offset);
	if (threadIdx.x % 32 == 0)
		shared[threadIdx.x / 32] = x;
	__syncthreads();
	if (threadIdx.x == 0)
		for (int i = 1; i < (int)blockDim.x / 32; i++)
			x += shared[i];
	return x;
}

template <int V> static __global__ void squares_kernel(const float *x, size_t n, double *part)
{
	grid_wait();
	__shared__ double shared[32];
	double sum = 0;

	for (size_t start = (size_t)blockIdx.x * BLOCK; start < n; start += (size_t)gridDim.x * BLOCK) {
		size_t end = start + BLOCK < n ? start + BLOCK : n;

#pragma unroll 8
		for (size_t i = start + V * threadIdx.x; i < end; i += V * THREADS) {
			float v[V];

			if (i + V <= end) {
				load_floats<V>(x + i, v);
			} else {
#pragma unroll
				for (int j = 0; j < V; j++)
					v[j] = i + j < end ? x[i + j] : 0.0f;
			}
#pragma unroll
			for (int j = 0; j < V; j++)
				sum += (double)v[j] * v[j];
		}
	}
	sum = block_sum_double(sum, shared);
	if (threadIdx.x == 0)
		part[blockIdx.x] = sum;
}

static __global__ void add_squares(const double *part, int parts, double *out)
{
	grid_wait();
	__shared__ double shared[32];
	double sum = 0;

	for (int i = threadIdx.x; i < parts; i += ADDERS)
		sum += part[i];
	sum = block_sum_double(sum, shared);
	if (threadIdx.x == 0)
		*out = sum;
}

size_t sum_squares_scratch_bound(void)
{
	return sizeof(double) * PARTS;
}

template <typename T> static void op_sum_squares(struct device *d, const float *x, size_t n, double *out)
{
	size_t pieces = (n + BLOCK - 1) / BLOCK;
	int parts = pieces < PARTS ? (int)pieces : PARTS;
	double *part = (double *)cuda_scratch(d, sum_squares_scratch_bound());

	if (!part)
		return;
	if (aligned16(x))
		cuda_launch(d, "sum_squares", squares_kernel<4>, parts, THREADS, 0, x, n, part);
	else
		cuda_launch(d, "sum_squares", squares_kernel<1>, parts, THREADS, 0, x, n, part);
	cuda_launch(d, "sum_squares", add_squares, 1, ADDERS, 0, (const double *)part, parts, out);
}

/* The numbers of one update that are the same for every element. */
struct update {
	float grad_scale, beta1, beta2, step_size, eps, decay_before, decay_after;
};

__device__ __forceinline__ void update_one(const struct update &u, float grad, float *p, float *m, float *v)
{
	float g = grad * u.grad_scale;

	*m = *m * u.beta1 + (1.0f - u.beta1) * g;
	*v = *v * u.beta2 + (1.0f - u.beta2) * g * g;
	*p = (*p * u.decay_before - u.step_size * (*m / (sqrtf(*v) + u.eps))) * u.decay_after;
}

/* One vector to a thread; what is left over at the end, fewer than V values, goes to threads behind those. */
template <int V>
static __global__ void adamw_kernel(struct update u, float *grad, size_t n, float *p, float *m, float *v)
{
	grid_wait();
	size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x, vectors = n / V;

	if (i < vectors) {
		float gs[V], ps[V], ms[V], vs[V];

		load_floats<V>(grad + V * i, gs);
		load_floats<V>(p + V * i, ps);
		load_floats<V>(m + V * i, ms);
		load_floats<V>(v + V * i, vs);
#pragma unroll
		for (int j = 0; j < V; j++) {
			update_one(u, gs[j], ps + j, ms + j, vs + j);
			gs[j] = 0;
		}
		store_floats<V>(grad + V * i, gs);
		store_floats<V>(p + V * i, ps);
		store_floats<V>(m + V * i, ms);
		store_floats<V>(v + V * i, vs);
	} else if (i - vectors < n % V) {
		i += vectors * (V - 1);
		update_one(u, grad[i], p + i, m + i, v + i);
		grad[i] = 0;
	}
}

template <typename T>
static void op_adamw(struct device *d, const struct adamw *o, float *grad, size_t n, float *p, float *m,
		     float *v)
{
	double c1 = 1.0 - pow(o->beta1, (double)o->step), c2 = sqrt(1.0 - pow(o->beta2, (double)o->step));
	float decay = 1.0f - o->lr * o->weight_decay;
	struct update u = {};

	u.grad_scale = o->grad_scale;
	u.beta1 = o->beta1;
	u.beta2 = o->beta2;
	u.step_size = (float)(o->lr * c2 / c1);
	u.eps = (float)(o->eps * c2);
	u.decay_before = o->decay_first ? decay : 1.0f;
	u.decay_after = o->decay_first ? 1.0f : decay;
	if (aligned16(grad) && aligned16(p) && aligned16(m) && aligned16(v))
		cuda_launch(d, "adamw", adamw_kernel<4>, (unsigned)((n / 4 + n % 4 + THREADS - 1) / THREADS),
			    THREADS, 0, u, grad, n, p, m, v);
	else
		cuda_launch(d, "adamw", adamw_kernel<1>, (unsigned)((n + THREADS - 1) / THREADS), THREADS, 0,
			    u, grad, n, p, m, v);
}

EXPORT(sum_squares, (struct device * d, const float *x, size_t n, double *out), (d, x, n, out))
EXPORT(adamw, (struct device * d, const struct adamw *o, float *grad, size_t n, float *p, float *m, float *v),
       (d, o, grad, n, p, m, v))
