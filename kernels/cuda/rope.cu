/* Rotary positions, and the appending of keys and values to a cache: what is done to q, k and v around attention. All of it moves
 * bytes and little else, 16 at a time where rows allow it. */
#include <stddef.h>

#include "kernels/cuda/kernel.cuh"

#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif

#define THREADS 256

/* ---- tables ---- */

/* A thread has one frequency and every gridDim.y-th position: the power is in fp64, of which most devices do few. Angles are
 * reduced in fp64 too, as on the CPU. */
__global__ void __launch_bounds__(THREADS)
	rope_table_kernel(float theta, int head_dim, int positions, float *cos_out, float *sin_out)
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

template <typename T>
static void op_rope_table(struct device *d, float theta, int head_dim, int positions, float *cos_out,
			  float *sin_out)
{
	dim3 grid(ceil_div(head_dim / 2, THREADS), positions < 1024 ? positions : 1024);

	cuda_launch(d, "rope_table", rope_table_kernel, grid, dim3(THREADS), 0, theta, head_dim, positions,
		    cos_out, sin_out);
}

EXPORT(rope_table, (struct device * d, float theta, int head_dim, int positions, float *cos, float *sin),
       (d, theta, head_dim, positions, cos, sin))

/* ---- rotation ---- */

/* Where rows of keys and values go besides. */
template <typename T> struct append {
	int heads, kv_heads; /* of q, and of each of k and v */
	const int32_t *row;
	T *keys, *values;
	bool ahead; /* of the kernel that makes x, tables and positions may be read */
};

template <int N, typename T> __device__ __forceinline__ void store_n(T *to, const pack<T> &x)
{
	if constexpr (N == 1)
		*to = x.v[0];
	else
		store_pack(to, x);
}

/* N values from each half of a head to a thread. APPEND: heads are those of q, k and v. */
template <typename T, int N, bool APPEND>
__global__ void __launch_bounds__(THREADS)
	rope_kernel(const float *cos, const float *sin, const int32_t *position, int n, int heads, int half,
		    int stride, float sign, T *x, struct append<T> append)
{
	if (APPEND && append.ahead) {
		grid_ahead();
		grid_next_small();
	} else {
		grid_wait();
	}
	ptrdiff_t index = (ptrdiff_t)blockIdx.x * THREADS + threadIdx.x;
	int per_head = half / N, per_token = heads * per_head;
	bool inside = index < (ptrdiff_t)n * per_token;
	int t = inside ? (int)(index / per_token) : 0, rest = (int)(index % per_token),
	    head = rest / per_head, i = rest % per_head * N;
	float c[N], s[N];
	int row = -1;
	T *low = x + (ptrdiff_t)t * stride + (ptrdiff_t)head * 2 * half + i, *high = low + half, *to = NULL;
	pack<T> a, b, y, z;

	if constexpr (N == 1) {
		c[0] = cos[(ptrdiff_t)position[t] * half + i];
		s[0] = sin[(ptrdiff_t)position[t] * half + i];
	} else {
		UNROLL
		for (int j = 0; j < N; j += 4) {
			pack<float> cs = load_pack(cos + (ptrdiff_t)position[t] * half + i + j);
			pack<float> sn = load_pack(sin + (ptrdiff_t)position[t] * half + i + j);

			UNROLL
			for (int u = 0; u < 4; u++) {
				c[j + u] = cs.v[u];
				s[j + u] = sn.v[u];
			}
		}
	}
	if (APPEND) {
		int kv_head = head - append.heads;
		bool is_value = kv_head >= append.kv_heads;

		row = kv_head >= 0 ? append.row[t] : -1;
		kv_head -= is_value ? append.kv_heads : 0;
		to = (is_value ? append.values : append.keys) +
		     ((ptrdiff_t)row * append.kv_heads + kv_head) * 2 * half + i;
		grid_wait();
	}
	if (!APPEND || !append.ahead)
		grid_next_small();
	if (!inside)
		return;
	if constexpr (N == 1) {
		a.v[0] = *low;
		b.v[0] = *high;
	} else {
		a = load_pack(low);
		b = load_pack(high);
	}
	if (APPEND && head >= append.heads + append.kv_heads) {
		y = a;
		z = b;
	} else {
		UNROLL
		for (int j = 0; j < N; j++) {
			float u = to_float(a.v[j]), w = to_float(b.v[j]), si = sign * s[j];

			y.v[j] = from_float<T>(u * c[j] - w * si);
			z.v[j] = from_float<T>(w * c[j] + u * si);
		}
		store_n<N>(low, y);
		store_n<N>(high, z);
	}
	if (APPEND && row >= 0) {
		store_n<N>(to, y);
		store_n<N>(to + half, z);
	}
}

static bool aligned(const void *p)
{
	return (uintptr_t)p % 16 == 0;
}

static dim3 rope_grid(int n, int heads, int per_head)
{
	return dim3((unsigned)(((size_t)n * heads * per_head + THREADS - 1) / THREADS));
}

template <typename T, int N>
static void rope_launch(struct device *d, const float *cos, const float *sin, const int32_t *position, int n,
			int heads, int half, int stride, float sign, T *x)
{
	cuda_launch_next(d, "rope", rope_kernel<T, N, false>, rope_grid(n, heads, half / N), dim3(THREADS), 0,
			 cos, sin, position, n, heads, half, stride, sign, x, append<T>{});
}

template <typename T>
static void op_rope(struct device *d, const float *cos, const float *sin, const int32_t *position, int n,
		    int heads, int head_dim, int stride, bool inverse, void *x)
{
	int half = head_dim / 2;
	float sign = inverse ? -1.0f : 1.0f;

	if (half % pack<T>::size == 0 && stride % pack<T>::size == 0 && aligned(x) && aligned(cos) &&
	    aligned(sin))
		rope_launch<T, pack<T>::size>(d, cos, sin, position, n, heads, half, stride, sign, (T *)x);
	else
		rope_launch<T, 1>(d, cos, sin, position, n, heads, half, stride, sign, (T *)x);
}

EXPORT(rope,
       (struct device * d, const float *cos, const float *sin, const int32_t *position, int n, int heads,
	int head_dim, int stride, bool inverse, void *x),
       (d, cos, sin, position, n, heads, head_dim, stride, inverse, x))

template <typename T, int N>
static void append_launch(struct device *d, const float *cos, const float *sin, const int32_t *position,
			  int n, int half, int stride, T *x, struct append<T> append)
{
	int heads = append.heads + 2 * append.kv_heads;

	cuda_launch_next(d, "rope_append", rope_kernel<T, N, true>, rope_grid(n, heads, half / N),
			 dim3(THREADS), 0, cos, sin, position, n, heads, half, stride, 1.0f, x, append);
}

template <typename T>
static void op_rope_append(struct device *d, const float *cos, const float *sin, const int32_t *position,
			   int n, int heads, int kv_heads, int head_dim, int stride, void *x,
			   const int32_t *row, void *keys, void *values)
{
	struct append<T> append = {
		heads, kv_heads, row, (T *)keys, (T *)values, cuda_device(d)->behind_next
	};
	int half = head_dim / 2;

	if (half % pack<T>::size == 0 && stride % pack<T>::size == 0 && aligned(x) && aligned(cos) &&
	    aligned(sin) && aligned(keys) && aligned(values))
		append_launch<T, pack<T>::size>(d, cos, sin, position, n, half, stride, (T *)x, append);
	else
		append_launch<T, 1>(d, cos, sin, position, n, half, stride, (T *)x, append);
}

EXPORT(rope_append,
       (struct device * d, const float *cos, const float *sin, const int32_t *position, int n, int heads,
	int kv_heads, int head_dim, int stride, void *x, const int32_t *row, void *keys, void *values),
       (d, cos, sin, position, n, heads, kv_heads, head_dim, stride, x, row, keys, values))
