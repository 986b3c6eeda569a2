/* Cross-entropy of rows of logits and its gradient, and the index of a row's largest logit.
 *
 * Rows are long (a vocabulary of up to 262,144) and may be few, so they are cut into parts of PART logits, one block to a
 * part; a thread holds its 32 logits in registers, so each kernel reads a row once. Three kernels:
 *   1. a part's largest logit, and the sum of exp(logit - largest); whoever has the target's logit saves it, since dlogits may
 *      be written over the logits,
 *   2. dlogits; each block puts its row's parts together, in fp64 and in their order, from a few numbers in the cache,
 *   3. the losses of all rows added in their order, in fp64.
 * Without dlogits the second one has one block to a row, for the loss alone. */
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/vector.cuh"

#define THREADS        256
#define HELD           32 /* logits of a thread */
#define PART           (HELD * THREADS)
#define LOSSES         1024 /* losses that are brought to shared memory at once */
#define ARGMAX_THREADS 1024

/* What the kernels tell each other. */
struct parts {
	int count;     /* of a row */
	double *loss;  /* (n), of rows with a target */
	float *max;    /* (n, count) */
	float *sum;    /* (n, count) */
	float *target; /* (n): the target's logit */
};

/* The logits of this thread, V neighbours at a time; -infinity beyond the row's end. */
template <int V>
__device__ __forceinline__ void load_part(const float *row, int start, int vocab, float x[HELD])
{
#pragma unroll
	for (int i = 0; i < HELD; i += V) {
		int c = start + i * THREADS + V * threadIdx.x;

		if (c < vocab) {
			load_floats<V>(row + c, x + i);
		} else {
#pragma unroll
			for (int j = 0; j < V; j++)
				x[i + j] = -INFINITY;
		}
	}
}

/* The largest of a block's values, told to all of it; shared as in block_sum. */
static __device__ float block_max(float x, float *shared)
{
	int lane = threadIdx.x % 32;

	x = warp_max(x);
	if (lane == 0)
		shared[threadIdx.x / 32] = x;
	__syncthreads();
	x = lane < (int)blockDim.x / 32 ? shared[lane] : -INFINITY;
	return warp_max(x);
}

/* Block row * parts + part. */
template <int V>
static __global__ void part_kernel(const int32_t *target, int vocab, const float *logits, struct parts parts)
{
	grid_wait();
	__shared__ float shared[2][32];
	int row = blockIdx.x / parts.count, start = blockIdx.x % parts.count * PART, t = target[row];
	float x[HELD], max = -INFINITY, sum = 0;

	if (t < 0)
		return;
	logits += (size_t)row * vocab;
	load_part<V>(logits, start, vocab, x);
#pragma unroll
	for (int i = 0; i < HELD; i++)
		max = fmaxf(max, x[i]);
	max = block_max(max, shared[0]);
	/* All of a part may be -infinity. */
	float base = max == -INFINITY ? 0.0f : max;
#pragma unroll
	for (int i = 0; i < HELD; i++)
		sum += expf(x[i] - base);
	sum = block_sum(sum, shared[1]);
	if (threadIdx.x == 0) {
		parts.max[blockIdx.x] = max;
		parts.sum[blockIdx.x] = sum;
		if (t >= start && t - start < PART)
			parts.target[row] = logits[t];
	}
}

/* What a row's parts come to: its largest logit and the sum of exp(logit - largest), by one warp. */
static __device__ double row_sum(const struct parts *parts, int row, float *largest)
{
	const float *maxima = parts->max + (size_t)row * parts->count,
		    *sums = parts->sum + (size_t)row * parts->count;
	int lane = threadIdx.x % 32;
	float max = -INFINITY;
	double sum = 0;

	for (int i = lane; i < parts->count; i += 32)
		max = fmaxf(max, maxima[i]);
	max = warp_max(max);
	for (int i = lane; i < parts->count; i += 32)
		sum += (double)sums[i] * exp((double)maxima[i] - max);
	for (int offset = 16; offset > 0; offset /= 2)
		sum += __shfl_xor_sync(0xffffffffu, sum, offset);
	*largest = max;
	return sum;
}

/* Blocks as above; the first of a row also saves the loss. */
template <typename T, int V>
static __global__ void gradient_kernel(const int32_t *target, int vocab, const float *grad_scale,
				       const float *logits, struct parts parts, T *dlogits)
{
	grid_wait();
	__shared__ float shared[2];
	int row = blockIdx.x / parts.count, start = blockIdx.x % parts.count * PART, t = target[row];
	float x[HELD], max = 0, scale = 0, onehot = *grad_scale;

	logits += (size_t)row * vocab;
	dlogits += (size_t)row * vocab;
	if (t >= 0) {
		load_part<V>(logits, start, vocab, x);
		if (threadIdx.x < 32) {
			double sum = row_sum(&parts, row, &max);

			if (threadIdx.x == 0) {
				shared[0] = max;
				shared[1] = (float)(onehot / sum);
				if (start == 0)
					parts.loss[row] = log(sum) + max - parts.target[row];
			}
		}
		__syncthreads();
		max = shared[0];
		scale = shared[1];
	}
#pragma unroll
	for (int i = 0; i < HELD; i += V) {
		int c = start + i * THREADS + V * threadIdx.x;

		if (c >= vocab)
			continue;
#pragma unroll
		for (int j = 0; j < V; j++) {
			x[i + j] = t < 0 ? 0.0f : scale * expf(x[i + j] - max);
			if (c + j == t)
				x[i + j] -= onehot;
		}
		store_floats<V>(dlogits + c, x + i);
	}
}

/* One warp to a row. */
static __global__ void loss_kernel(const int32_t *target, struct parts parts)
{
	grid_wait();
	int row = blockIdx.x;
	float max;

	if (target[row] < 0)
		return;
	double sum = row_sum(&parts, row, &max);
	if (threadIdx.x == 0)
		parts.loss[row] = log(sum) + max - parts.target[row];
}

/* One block: it fetches losses together, its first thread adds them. */
static __global__ void add_losses(const int32_t *target, int n, const double *loss, double *loss_sum)
{
	grid_wait();
	__shared__ double shared[LOSSES];
	double sum = 0;

	for (int i = 0; i < n; i += LOSSES) {
		int m = n - i < LOSSES ? n - i : LOSSES;

		for (int j = threadIdx.x; j < m; j += THREADS)
			shared[j] = target[i + j] < 0 ? 0.0 : loss[i + j];
		__syncthreads();
		if (threadIdx.x == 0)
			for (int j = 0; j < m; j++)
				sum += shared[j];
		__syncthreads();
	}
	if (threadIdx.x == 0)
		*loss_sum += sum;
}

size_t cross_entropy_scratch_bound(const struct cuda_device *d, int n, int vocab)
{
	size_t parts = (size_t)ceil_div(vocab, PART);

	(void)d;
	return (size_t)n * (sizeof(double) + sizeof(float) * (2 * parts + 1));
}

template <typename T, int V>
static void launch_cross_entropy(struct device *d, const int32_t *target, int n, int vocab,
				 const float *grad_scale, const float *logits, const struct parts &parts,
				 T *dlogits)
{
	cuda_launch(d, "cross_entropy", part_kernel<V>, n * parts.count, THREADS, 0, target, vocab, logits,
		    parts);
	if (dlogits)
		cuda_launch(d, "cross_entropy", gradient_kernel<T, V>, n * parts.count, THREADS, 0, target,
			    vocab, grad_scale, logits, parts, dlogits);
	else
		cuda_launch(d, "cross_entropy", loss_kernel, n, 32, 0, target, parts);
}

template <typename T>
static void op_cross_entropy(struct device *d, const int32_t *target, int n, int vocab,
			     const float *grad_scale, const float *logits, void *dlogits, double *loss_sum)
{
	struct parts parts = {};
	size_t count = (size_t)ceil_div(vocab, PART);

	if (!n)
		return;
	parts.count = (int)count;
	parts.loss = (double *)cuda_scratch(d, cross_entropy_scratch_bound(cuda_device(d), n, vocab));
	if (!parts.loss)
		return;
	parts.max = (float *)(parts.loss + n);
	parts.sum = parts.max + n * count;
	parts.target = parts.sum + n * count;
	if (vocab % 4 == 0 && aligned16(logits) && aligned16(dlogits))
		launch_cross_entropy<T, 4>(d, target, n, vocab, grad_scale, logits, parts, (T *)dlogits);
	else
		launch_cross_entropy<T, 1>(d, target, n, vocab, grad_scale, logits, parts, (T *)dlogits);
	cuda_launch(d, "cross_entropy", add_losses, 1, THREADS, 0, target, n, (const double *)parts.loss,
		    loss_sum);
}

/* Whether logit x at i comes before the best one so far. NaN compares false. */
__device__ __forceinline__ bool better(float x, int i, float best, int at)
{
	return x > best || (x == best && i < at);
}

/* One block to a row: one kernel, since a generated token waits for it. */
template <int V> static __global__ void argmax_kernel(const float *logits, int vocab, int32_t *out)
{
	grid_wait();
	grid_next_small();
	__shared__ float values[32];
	__shared__ int indices[32];
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, at = INT32_MAX;
	float best = -INFINITY;

	logits += (size_t)blockIdx.x * vocab;
#pragma unroll 4
	for (int c = V * threadIdx.x; c < vocab; c += V * ARGMAX_THREADS) {
		float x[V];

		load_floats<V>(logits + c, x);
#pragma unroll
		for (int j = 0; j < V; j++)
			if (better(x[j], c + j, best, at)) {
				best = x[j];
				at = c + j;
			}
	}
	for (int round = 0; round < 2; round++) {
		for (int offset = 16; offset > 0; offset /= 2) {
			float x = __shfl_xor_sync(0xffffffffu, best, offset);
			int i = __shfl_xor_sync(0xffffffffu, at, offset);

			if (better(x, i, best, at)) {
				best = x;
				at = i;
			}
		}
		if (round == 0) {
			if (lane == 0) {
				values[warp] = best;
				indices[warp] = at;
			}
			__syncthreads();
			best = values[lane];
			at = indices[lane];
		}
	}
	/* A row of NaN has no largest one; its first is at least in range. */
	if (threadIdx.x == 0)
		out[blockIdx.x] = at == INT32_MAX ? 0 : at;
}

template <typename T>
static void op_argmax(struct device *d, const float *logits, int n, int vocab, int32_t *out)
{
	if (vocab % 4 == 0 && aligned16(logits))
		cuda_launch_next(d, "argmax", argmax_kernel<4>, n, ARGMAX_THREADS, 0, logits, vocab, out);
	else
		cuda_launch_next(d, "argmax", argmax_kernel<1>, n, ARGMAX_THREADS, 0, logits, vocab, out);
}

EXPORT(cross_entropy,
       (struct device * d, const int32_t *target, int n, int vocab, const float *grad_scale,
	const float *logits, void *dlogits, double *loss_sum),
       (d, target, n, vocab, grad_scale, logits, dlogits, loss_sum))
EXPORT(argmax, (struct device * d, const float *logits, int n, int vocab, int32_t *out),
       (d, logits, n, vocab, out))
