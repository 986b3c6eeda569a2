/* RMSNorm. With s = offset + weight and xhat = x rstd, y = xhat s, so
 *   dx = rstd (dy s - xhat mean(dy s xhat)),  dweight = sum over tokens of dy xhat.
 *
 * One block to a row, which it reads once: 16 values stay in the registers of each thread between the sum and what is done
 * with it (rows of up to 16,384 values; longer or unaligned ones are read again, from the cache). rstd is saved for the
 * backward pass.
 *
 * dweight is a sum over tokens. Each block keeps the part of it of the rows that it walks in registers, writes it to scratch
 * at the end, and a second kernel adds the blocks' parts in their order. */
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/vector.cuh"

#define HELD        4    /* vectors of four values that a thread holds of a row */
#define MOST        1024 /* threads of a block */
#define GRAD_BLOCKS 1024 /* at most so many parts of dweight */
#define ADD_COLUMNS 32
#define ADD_LANES   32

/* What a warp per row suffices for is one warp; more threads than a quarter of the vectors would idle. */
static int held_threads(int dim)
{
	return row_threads(ceil_div(dim, 4 * HELD), MOST);
}

static bool held(int dim)
{
	return dim % 4 == 0 && dim <= 4 * HELD * MOST;
}

/* AHEAD: the weights are asked for while the kernel that makes x runs. */
template <typename T, bool AHEAD>
static __global__ void rmsnorm_held(const float *x, const float *weight, int dim, float eps, float offset,
				    T *out, float *rstd, float *copy)
{
	__shared__ float shared[32];
	float row[HELD][4], early[AHEAD ? HELD : 1][4], sum = 0;

	if (AHEAD) {
		grid_ahead();
		grid_next_small();
#pragma unroll
		for (int i = 0; i < HELD; i++) {
			int c = 4 * (i * blockDim.x + threadIdx.x);

			if (c < dim)
				load_floats<4>(weight + c, early[AHEAD ? i : 0]);
		}
	}
	grid_wait();
	if (!AHEAD)
		grid_next_small();

	x += (size_t)blockIdx.x * dim;
	out += (size_t)blockIdx.x * dim;
#pragma unroll
	for (int i = 0; i < HELD; i++) {
		int c = 4 * (i * blockDim.x + threadIdx.x);

		if (c < dim)
			load_floats<4>(x + c, row[i]);
		else
			row[i][0] = row[i][1] = row[i][2] = row[i][3] = 0;
	}
#pragma unroll
	for (int i = 0; i < HELD; i++)
#pragma unroll
		for (int j = 0; j < 4; j++)
			sum += row[i][j] * row[i][j];
	float scale = 1.0f / sqrtf(block_sum(sum, shared) / (float)dim + eps);

	if (rstd && threadIdx.x == 0)
		rstd[blockIdx.x] = scale;
#pragma unroll
	for (int i = 0; i < HELD; i++) {
		int c = 4 * (i * blockDim.x + threadIdx.x);
		float w[4];

		if (c >= dim)
			continue;
		if (copy)
			store_floats<4>(copy + (size_t)blockIdx.x * dim + c, row[i]);
		if (!AHEAD)
			load_floats<4>(weight + c, w);
#pragma unroll
		for (int j = 0; j < 4; j++)
			w[j] = row[i][j] * scale * (offset + (AHEAD ? early[AHEAD ? i : 0][j] : w[j]));
		store_floats<4>(out + c, w);
	}
}

template <typename T>
static __global__ void rmsnorm_any(const float *x, const float *weight, int dim, float eps, float offset,
				   T *out, float *rstd, float *copy)
{
	grid_wait();
	grid_next_small();
	__shared__ float shared[32];
	float sum = 0;

	x += (size_t)blockIdx.x * dim;
	out += (size_t)blockIdx.x * dim;
	for (int c = threadIdx.x; c < dim; c += blockDim.x)
		sum += x[c] * x[c];
	float scale = 1.0f / sqrtf(block_sum(sum, shared) / (float)dim + eps);

	if (rstd && threadIdx.x == 0)
		rstd[blockIdx.x] = scale;
	for (int c = threadIdx.x; c < dim; c += blockDim.x) {
		if (copy)
			copy[(size_t)blockIdx.x * dim + c] = x[c];
		out[c] = from_float<T>(x[c] * scale * (offset + weight[c]));
	}
}

template <typename T>
static void op_rmsnorm(struct device *d, const float *x, const float *weight, int n, int dim, float eps,
		       float offset, void *out, float *rstd, float *copy)
{
	bool vector = held(dim) && aligned16(x) && aligned16(weight) && aligned16(out) && aligned16(copy);

	if (vector && cuda_device(d)->behind_next)
		cuda_launch_ahead(d, "rmsnorm", rmsnorm_held<T, true>, n, held_threads(dim), 0, x, weight,
				  dim, eps, offset, (T *)out, rstd, copy);
	else if (vector)
		cuda_launch_next(d, "rmsnorm", rmsnorm_held<T, false>, n, held_threads(dim), 0, x, weight,
				 dim, eps, offset, (T *)out, rstd, copy);
	else
		cuda_launch_next(d, "rmsnorm", rmsnorm_any<T>, n, row_threads(dim, 256), 0, x, weight, dim,
				 eps, offset, (T *)out, rstd, copy);
}

/* Rows blockIdx.x, + gridDim.x …; part (gridDim.x, dim) gets this block's part of dweight (WEIGHT). */
template <typename T, bool WEIGHT>
static __global__ void rmsnorm_grad_held(const float *x, const float *weight, const float *rstd,
					 const float *dout, int n, int dim, float offset, float *dx,
					 T *dx_act, float *part)
{
	grid_wait();
	__shared__ float shared[2][32];
	float dweight[WEIGHT ? HELD : 1][4] = {};

	for (int t = blockIdx.x, turn = 0; t < n; t += gridDim.x, turn ^= 1) {
		size_t at = (size_t)t * dim;
		float row[HELD][4], grad[HELD][4], sum = 0, r = rstd[t];

#pragma unroll
		for (int i = 0; i < HELD; i++) {
			int c = 4 * (i * blockDim.x + threadIdx.x);
			float w[4];

			if (c < dim) {
				load_floats<4>(x + at + c, row[i]);
				load_floats<4>(dout + at + c, grad[i]);
				load_floats<4>(weight + c, w);
#pragma unroll
				for (int j = 0; j < 4; j++) {
					if (WEIGHT)
						dweight[i][j] += grad[i][j] * (row[i][j] * r);
					grad[i][j] *= offset + w[j];
					sum += grad[i][j] * row[i][j];
				}
			}
		}
		/* Two rows in turn use the two halves of shared, so that one barrier a row suffices. */
		float mean = block_sum(sum, shared[turn]) * r / (float)dim;
#pragma unroll
		for (int i = 0; i < HELD; i++) {
			int c = 4 * (i * blockDim.x + threadIdx.x);
			float y[4];

			if (c >= dim)
				continue;
			load_floats<4>(dx + at + c, y);
#pragma unroll
			for (int j = 0; j < 4; j++)
				y[j] += r * (grad[i][j] - row[i][j] * r * mean);
			store_floats<4>(dx + at + c, y);
			if (dx_act)
				store_floats<4>(dx_act + at + c, y);
		}
	}
	if (WEIGHT)
#pragma unroll
		for (int i = 0; i < HELD; i++) {
			int c = 4 * (i * blockDim.x + threadIdx.x);

			if (c < dim)
				store_floats<4>(part + (size_t)blockIdx.x * dim + c, dweight[WEIGHT ? i : 0]);
		}
}

template <typename T>
static __global__ void rmsnorm_grad_any(const float *x, const float *weight, const float *rstd,
					const float *dout, int n, int dim, float offset, float *dx, T *dx_act,
					float *part)
{
	grid_wait();
	__shared__ float shared[2][32];

	for (int t = blockIdx.x, turn = 0; t < n; t += gridDim.x, turn ^= 1) {
		size_t at = (size_t)t * dim;
		float sum = 0, r = rstd[t];

		for (int c = threadIdx.x; c < dim; c += blockDim.x) {
			sum += dout[at + c] * (offset + weight[c]) * x[at + c];
			if (part) {
				float *p = part + (size_t)blockIdx.x * dim + c;
				float add = dout[at + c] * (x[at + c] * r);

				*p = t == (int)blockIdx.x ? add : *p + add;
			}
		}
		float mean = block_sum(sum, shared[turn]) * r / (float)dim;
		for (int c = threadIdx.x; c < dim; c += blockDim.x) {
			float y = dx[at + c] +
				  r * (dout[at + c] * (offset + weight[c]) - x[at + c] * r * mean);

			dx[at + c] = y;
			if (dx_act)
				dx_act[at + c] = from_float<T>(y);
		}
	}
}

/* out[c] += the sum of part[0 … parts)[c]: ADD_LANES partial sums, of every ADD_LANES-th part each, then these in order. */
static __global__ void add_columns(const float *part, int parts, int dim, float *out)
{
	grid_wait();
	__shared__ float sums[ADD_LANES][ADD_COLUMNS];
	int c = blockIdx.x * ADD_COLUMNS + threadIdx.x;
	float sum = 0;

	if (c < dim)
		for (int i = threadIdx.y; i < parts; i += ADD_LANES)
			sum += part[(size_t)i * dim + c];
	sums[threadIdx.y][threadIdx.x] = sum;
	__syncthreads();
	if (threadIdx.y == 0 && c < dim) {
		for (int i = 1; i < ADD_LANES; i++)
			sum += sums[i][threadIdx.x];
		out[c] += sum;
	}
}

size_t rmsnorm_scratch_bound(int n, int dim)
{
	return sizeof(float) * (size_t)(n < GRAD_BLOCKS ? n : GRAD_BLOCKS) * (size_t)dim;
}

template <typename T>
static void op_rmsnorm_grad(struct device *d, const float *x, const float *weight, const float *rstd,
			    const float *dout, int n, int dim, float offset, float *dx, void *dx_act,
			    float *dweight)
{
	int blocks = dweight && n > GRAD_BLOCKS ? GRAD_BLOCKS : n;
	float *part = NULL;

	if (!n)
		return;
	if (dweight) {
		part = (float *)cuda_scratch(d, rmsnorm_scratch_bound(n, dim));
		if (!part)
			return;
	}
	if (!held(dim) || !aligned16(x) || !aligned16(weight) || !aligned16(dout) || !aligned16(dx) ||
	    !aligned16(dx_act))
		cuda_launch(d, "rmsnorm_grad", rmsnorm_grad_any<T>, blocks, row_threads(dim, 256), 0, x,
			    weight, rstd, dout, n, dim, offset, dx, (T *)dx_act, part);
	else if (dweight)
		cuda_launch(d, "rmsnorm_grad", rmsnorm_grad_held<T, true>, blocks, held_threads(dim), 0, x,
			    weight, rstd, dout, n, dim, offset, dx, (T *)dx_act, part);
	else
		cuda_launch(d, "rmsnorm_grad", rmsnorm_grad_held<T, false>, blocks, held_threads(dim), 0, x,
			    weight, rstd, dout, n, dim, offset, dx, (T *)dx_act, part);
	if (dweight)
		cuda_launch(d, "rmsnorm_grad", add_columns, ceil_div(dim, ADD_COLUMNS),
			    dim3(ADD_COLUMNS, ADD_LANES), 0, (const float *)part, blocks, dim, dweight);
}

EXPORT(rmsnorm,
       (struct device * d, const float *x, const float *weight, int n, int dim, float eps, float offset,
	void *out, float *rstd, float *copy),
       (d, x, weight, n, dim, eps, offset, out, rstd, copy))
EXPORT(rmsnorm_grad,
       (struct device * d, const float *x, const float *weight, const float *rstd, const float *dout, int n,
	int dim, float offset, float *dx, void *dx_act, float *dweight),
       (d, x, weight, rstd, dout, n, dim, offset, dx, dx_act, dweight))
