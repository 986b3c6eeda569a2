/* Rows by index: embeddings and their gradient, gather and scatter. They move memory and compute next to nothing, so all of
 * them take 16 bytes to a thread where rows are aligned, and one value where they are not.
 *
 * The gradient of an embedding adds several tokens to one row of the table, in the order of tokens and without atomics: the
 * block of a token that is the first of its id adds all the others of that id too, and the blocks of those leave at once.
 * A block finds them by looking through the ids, n comparisons to a block; they come from the L2 cache. */
#include "kernels/cuda/vector.cuh"

#define THREADS      256
#define GRAD_COLUMNS (4 * THREADS) /* of one block of embed_grad: four to a thread */

/* One block to a token; V values of the table at once. */
template <typename U, int V>
static __global__ void embed_kernel(const U *table, const int32_t *ids, int dim, float scale, float *out)
{
	grid_wait();
	grid_next_small();
	const U *row = table + (size_t)ids[blockIdx.x] * dim;

	out += (size_t)blockIdx.x * dim;
	for (int c = V * threadIdx.x; c < dim; c += V * blockDim.x) {
		float x[V];

		load_floats<V>(row + c, x);
		for (int i = 0; i < V; i++)
			x[i] *= scale;
		store_floats<V>(out + c, x);
	}
}

template <typename U>
static void embed_rows(struct device *d, const struct matrix *table, const int32_t *ids, int n, float scale,
		       float *out)
{
	const U *data = (const U *)table->data;
	int dim = table->cols;
	constexpr int v = pack<U>::size;

	if (dim % v == 0 && aligned16(data) && aligned16(out))
		cuda_launch_next(d, "embed", embed_kernel<U, v>, n, row_threads(dim / v, THREADS), 0, data,
				 ids, dim, scale, out);
	else
		cuda_launch_next(d, "embed", embed_kernel<U, 1>, n, row_threads(dim, THREADS), 0, data, ids,
				 dim, scale, out);
}

template <typename T>
static void op_embed(struct device *d, const struct matrix *table, const int32_t *ids, int n, float scale,
		     float *out)
{
	switch (table->dtype) {
	case DTYPE_F32: embed_rows<float>(d, table, ids, n, scale, out); break;
	case DTYPE_BF16: embed_rows<__nv_bfloat16>(d, table, ids, n, scale, out); break;
	case DTYPE_F16: embed_rows<__half>(d, table, ids, n, scale, out); break;
	case DTYPE_NF4: cuda_note(d, cudaErrorNotSupported, "embed from NF4"); break;
	}
}

/* Block (t, columns). Tokens are looked at THREADS at a time; `found` has a bit for each that has the id of t. */
static __global__ void embed_grad_kernel(const int32_t *ids, int n, int dim, float scale, const float *dout,
					 float *grad)
{
	grid_wait();
	__shared__ unsigned found[THREADS / 32];
	int t = blockIdx.x, c = blockIdx.y * GRAD_COLUMNS + threadIdx.x, lane = threadIdx.x % 32;
	int32_t id = ids[t];
	float sum[4] = {};
	bool first = true;

	for (int i = 0; i < t && first; i += THREADS) {
		int at = i + threadIdx.x;
		unsigned same = __ballot_sync(0xffffffffu, at < t && ids[at] == id);

		if (lane == 0)
			found[threadIdx.x / 32] = same;
		__syncthreads();
		for (int w = 0; w < THREADS / 32; w++)
			first = first && !found[w];
		__syncthreads();
	}
	if (!first)
		return;
	grad += (size_t)id * dim;
	for (int j = 0; j < 4; j++)
		if (c + j * THREADS < dim)
			sum[j] = grad[c + j * THREADS];
	for (int i = t; i < n; i += THREADS) {
		int at = i + threadIdx.x;
		unsigned same = __ballot_sync(0xffffffffu, at < n && ids[at] == id);

		if (lane == 0)
			found[threadIdx.x / 32] = same;
		__syncthreads();
		for (int w = 0; w < THREADS / 32; w++)
			for (unsigned left = found[w]; left; left &= left - 1) {
				const float *row = dout + (size_t)(i + 32 * w + __ffs((int)left) - 1) * dim;

				for (int j = 0; j < 4; j++)
					if (c + j * THREADS < dim)
						sum[j] += row[c + j * THREADS] * scale;
			}
		__syncthreads();
	}
	for (int j = 0; j < 4; j++)
		if (c + j * THREADS < dim)
			grad[c + j * THREADS] = sum[j];
}

template <typename T>
static void op_embed_grad(struct device *d, const int32_t *ids, int n, int dim, float scale,
			  const float *dout, float *grad)
{
	cuda_launch(d, "embed_grad", embed_grad_kernel, dim3(n, ceil_div(dim, GRAD_COLUMNS)), THREADS, 0, ids,
		    n, dim, scale, dout, grad);
}

/* One block to an index. `to` says which side the index is of: rows are read from there, or written there. */
template <int V, bool TO>
static __global__ void move_rows(const float *x, const int32_t *index, int dim, float *out)
{
	grid_wait();
	grid_next_small();
	int32_t there = index[blockIdx.x];

	if (TO && there < 0)
		return;
	const float *from = x + (size_t)(TO ? (int)blockIdx.x : max(there, 0)) * dim;
	float *to = out + (size_t)(TO ? there : (int)blockIdx.x) * dim;
	for (int c = V * threadIdx.x; c < dim; c += V * blockDim.x) {
		float values[V] = {};

		if (there >= 0)
			load_floats<V>(from + c, values);
		store_floats<V>(to + c, values);
	}
}

template <bool TO>
static void launch_move(struct device *d, const char *what, const float *x, const int32_t *index, int n,
			int dim, float *out)
{
	if (dim % 4 == 0 && aligned16(x) && aligned16(out))
		cuda_launch_next(d, what, move_rows<4, TO>, n, row_threads(dim / 4, THREADS), 0, x, index,
				 dim, out);
	else
		cuda_launch_next(d, what, move_rows<1, TO>, n, row_threads(dim, THREADS), 0, x, index, dim,
				 out);
}

template <typename T>
static void op_gather(struct device *d, const float *x, const int32_t *index, int n, int dim, float *out)
{
	launch_move<false>(d, "gather", x, index, n, dim, out);
}

template <typename T>
static void op_scatter(struct device *d, const float *x, const int32_t *index, int n, int dim, float *out)
{
	launch_move<true>(d, "scatter", x, index, n, dim, out);
}

EXPORT(embed,
       (struct device * d, const struct matrix *table, const int32_t *ids, int n, float scale, float *out),
       (d, table, ids, n, scale, out))
EXPORT(embed_grad,
       (struct device * d, const int32_t *ids, int n, int dim, float scale, const float *dout, float *grad),
       (d, ids, n, dim, scale, dout, grad))
EXPORT(gather, (struct device * d, const float *x, const int32_t *index, int n, int dim, float *out),
       (d, x, index, n, dim, out))
EXPORT(scatter, (struct device * d, const float *x, const int32_t *index, int n, int dim, float *out),
       (d, x, index, n, dim, out))
