/* Rotary positions, and the appending of keys and values to a cache: what is done to q, k and v around attention. All of it moves
 * bytes and little else, 16 at a time where rows allow it. */
#include <stddef.h>

#include "kernels/cuda/kernel.cuh"

#define THREADS 256

/* ---- tables ---- */

/* A thread has one frequency and every gridDim.y-th position: the power is in fp64, of which most devices do few. Angles are
 * reduced in fp64 too, as on the CPU. */
__global__ void __launch_bounds__(THREADS) rope_table_kernel(float theta, int head_dim, int positions, float *cos_out, float *sin_out)
{
	grid_wait();
	int half = head_dim / 2, i = blockIdx.x * THREADS + threadIdx.x;

	if (i >= half)
		return;

	float exponent = (float)(2 * i) / (float)head_dim;
	float frequency = 1.0f / (float)pow((double)theta, (double)exponent);

	for (int p = blockIdx.y; p < positions; p += gridDim.y) {
		double angle = (double)((float)p * frequency);

		cos_out[(ptrdiff_t)p * half + i] = (float)cos(angle);
		sin_out[(ptrdiff_t)p * half + i] = (float)sin(angle);
	}
}

template <typename T> static void op_rope_table(struct device *d, float theta, int head_dim, int positions, float *cos_out, float *sin_out)
{
	dim3 grid(ceil_div(head_dim / 2, THREADS), positions < 1024 ? positions : 1024);

	cuda_launch(d, "rope_table", rope_table_kernel, grid, dim3(THREADS), 0, theta, head_dim, positions, cos_out, sin_out);
}

EXPORT(rope_table, (struct device *d, float theta, int head_dim, int positions, float *cos, float *sin),
       (d, theta, head_dim, positions, cos, sin))

/* ---- rotation ---- */

/* N values from each half of a head to a thread. */
template <typename T, int N>
__global__ void __launch_bounds__(THREADS) rope_kernel(const float *cos, const float *sin, const int32_t *position, int n, int heads,
							int half, int stride, float sign, T *x)
{
	grid_wait();
	grid_next_small();
	ptrdiff_t index = (ptrdiff_t)blockIdx.x * THREADS + threadIdx.x;
	int per_head = half / N, per_token = heads * per_head;

	if (index >= (ptrdiff_t)n * per_token)
		return;

	int t = (int)(index / per_token), rest = (int)(index % per_token), i = rest % per_head * N;
	const float *c = cos + (ptrdiff_t)position[t] * half + i, *s = sin + (ptrdiff_t)position[t] * half + i;
	T *low = x + (ptrdiff_t)t * stride + (ptrdiff_t)(rest / per_head) * 2 * half + i, *high = low + half;

	if constexpr (N == 1) {
		float a = to_float(*low), b = to_float(*high);

		*low = from_float<T>(a * *c - b * (sign * *s));
		*high = from_float<T>(b * *c + a * (sign * *s));
	} else {
		pack<T> a = load_pack(low), b = load_pack(high), y, z;
		pack<float> cs[N / 4], sn[N / 4];

		for (int j = 0; j < N / 4; j++) {
			cs[j] = load_pack(c + 4 * j);
			sn[j] = load_pack(s + 4 * j);
		}
		for (int j = 0; j < N; j++) {
			float u = to_float(a.v[j]), w = to_float(b.v[j]), si = sign * sn[j / 4].v[j % 4];

			y.v[j] = from_float<T>(u * cs[j / 4].v[j % 4] - w * si);
			z.v[j] = from_float<T>(w * cs[j / 4].v[j % 4] + u * si);
		}
		store_pack(low, y);
		store_pack(high, z);
	}
}

static bool aligned(const void *p)
{
	return (uintptr_t)p % 16 == 0;
}

template <typename T, int N>
static void rope_launch(struct device *d, const float *cos, const float *sin, const int32_t *position, int n, int heads, int half,
			int stride, float sign, T *x)
{
	size_t threads = (size_t)n * heads * (half / N);

	cuda_launch_next(d, "rope", rope_kernel<T, N>, dim3((unsigned)((threads + THREADS - 1) / THREADS)), dim3(THREADS), 0, cos, sin,
		    position, n, heads, half, stride, sign, x);
}

template <typename T>
static void op_rope(struct device *d, const float *cos, const float *sin, const int32_t *position, int n, int heads, int head_dim,
		    int stride, bool inverse, void *x)
{
	int half = head_dim / 2;
	float sign = inverse ? -1.0f : 1.0f;

	if (half % pack<T>::size == 0 && stride % pack<T>::size == 0 && aligned(x) && aligned(cos) && aligned(sin))
		rope_launch<T, pack<T>::size>(d, cos, sin, position, n, heads, half, stride, sign, (T *)x);
	else
		rope_launch<T, 1>(d, cos, sin, position, n, heads, half, stride, sign, (T *)x);
}

EXPORT(rope,
       (struct device *d, const float *cos, const float *sin, const int32_t *position, int n, int heads, int head_dim, int stride,
	bool inverse, void *x),
       (d, cos, sin, position, n, heads, head_dim, stride, inverse, x))

/* ---- the cache ---- */

/* N values of a row to a thread; y 0: keys, 1: values. */
template <typename T, int N>
__global__ void __launch_bounds__(THREADS) kv_append_kernel(const T *k, const T *v, int stride, const int32_t *row, int n, int width,
							     T *keys, T *values)
{
	grid_wait();
	grid_next_small();
	ptrdiff_t index = (ptrdiff_t)blockIdx.x * THREADS + threadIdx.x;
	int per_row = width / N;

	if (index >= (ptrdiff_t)n * per_row)
		return;

	int t = (int)(index / per_row), i = (int)(index % per_row) * N;
	const T *from = (blockIdx.y == 0 ? k : v) + (ptrdiff_t)t * stride + i;
	T *to = (blockIdx.y == 0 ? keys : values) + (ptrdiff_t)row[t] * width + i;

	if (row[t] < 0)
		return;
	if constexpr (N == 1)
		*to = *from;
	else
		store_pack(to, load_pack(from));
}

template <typename T, int N>
static void kv_append_launch(struct device *d, const T *k, const T *v, int stride, const int32_t *row, int n, int width, T *keys, T *values)
{
	size_t threads = (size_t)n * (width / N);

	cuda_launch_next(d, "kv_append", kv_append_kernel<T, N>, dim3((unsigned)((threads + THREADS - 1) / THREADS), 2), dim3(THREADS), 0, k,
		    v, stride, row, n, width, keys, values);
}

template <typename T>
static void op_kv_append(struct device *d, const void *k, const void *v, int stride, const int32_t *row, int n, int width, void *keys,
			 void *values)
{
	const T *from_k = (const T *)k, *from_v = (const T *)v;

	if (width % pack<T>::size == 0 && stride % pack<T>::size == 0 && aligned(k) && aligned(v) && aligned(keys) && aligned(values))
		kv_append_launch<T, pack<T>::size>(d, from_k, from_v, stride, row, n, width, (T *)keys, (T *)values);
	else
		kv_append_launch<T, 1>(d, from_k, from_v, stride, row, n, width, (T *)keys, (T *)values);
}

EXPORT(kv_append,
       (struct device *d, const void *k, const void *v, int stride, const int32_t *row, int n, int width, void *keys, void *values),
       (d, k, v, stride, row, n, width, keys, values))
