/* The gated MLP's activation and its gradient, element by element: two loads and a store to a value, three and two in the
 * backward pass, so memory decides, as long as the arithmetic stays short. 16-bit activations therefore take the hardware's
 * exponential and reciprocal (errors of 1e-6, against 2e-3 of the rounding); fp32 takes the exact ones.
 *
 * Each thread has 16 bytes of one row. Rows are walked by the grid's y, since a grid has at most 65,535 of these. */
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/vector.cuh"

#define THREADS   256
#define MOST_ROWS 65535

/* 1 / (1 + e^-x) */
template <typename T> __device__ __forceinline__ float sigmoid(float x)
{
	return __fdividef(1.0f, 1.0f + exp2_fast(x * -1.44269504f));
}

template <> __device__ __forceinline__ float sigmoid<float>(float x)
{
	return 1.0f / (1.0f + expf(-x));
}

/* f(x), and f'(x) in *slope */
template <typename T, enum gate F> __device__ __forceinline__ float activation(float x, float *slope)
{
	if constexpr (F == GATE_SILU) {
		float s = sigmoid<T>(x);

		*slope = s * (1.0f + x * (1.0f - s));
		return x * s;
	} else if constexpr (F == GATE_GELU_TANH) {
		/* x/2 (1 + tanh u) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3) */
		const float c = 0.7978845608f;
		float s = sigmoid<T>(2.0f * c * (x + 0.044715f * x * x * x));

		*slope = s + x * s * (1.0f - s) * 2.0f * c * (1.0f + 3.0f * 0.044715f * x * x);
		return x * s;
	} else {
		float cdf = 0.5f * (1.0f + erff(x * 0.70710678f));

		*slope = cdf + x * 0.3989422804f * expf(-0.5f * x * x);
		return x * cdf;
	}
}

template <typename T, enum gate F, int V>
static __global__ void gated_kernel(const T *gate, const T *up, int n, int width, int stride, T *out,
				    bool ahead)
{
	small_wait(ahead);
	int c = V * (blockIdx.x * blockDim.x + threadIdx.x);

	if (c >= width)
		return;
	for (int t = blockIdx.y; t < n; t += gridDim.y) {
		float g[V], u[V], slope;

		load_floats<V>(gate + (size_t)t * stride + c, g);
		load_floats<V>(up + (size_t)t * stride + c, u);
#pragma unroll
		for (int i = 0; i < V; i++)
			u[i] *= activation<T, F>(g[i], &slope);
		store_floats<V>(out + (size_t)t * width + c, u);
	}
}

template <typename T, enum gate F, int V>
static __global__ void gated_grad_kernel(const T *dout, int n, int width, int stride, T *gate, T *up)
{
	grid_wait();
	int c = V * (blockIdx.x * blockDim.x + threadIdx.x);

	if (c >= width)
		return;
	for (int t = blockIdx.y; t < n; t += gridDim.y) {
		T *gates = gate + (size_t)t * stride + c, *ups = up + (size_t)t * stride + c;
		float g[V], u[V], y[V];

		load_floats<V>(gates, g);
		load_floats<V>(ups, u);
		load_floats<V>(dout + (size_t)t * width + c, y);
#pragma unroll
		for (int i = 0; i < V; i++) {
			float slope, f = activation<T, F>(g[i], &slope);

			g[i] = y[i] * u[i] * slope;
			u[i] = y[i] * f;
		}
		store_floats<V>(gates, g);
		store_floats<V>(ups, u);
	}
}

/* Blocks of equal size for `vectors` columns of vectors. */
static void cut(int n, int vectors, dim3 *grid, int *threads)
{
	int blocks = ceil_div(vectors, THREADS);

	*threads = row_threads(ceil_div(vectors, blocks), THREADS);
	*grid = dim3(ceil_div(vectors, *threads), n < MOST_ROWS ? n : MOST_ROWS);
}

template <typename T, enum gate F>
static void launch_gated(struct device *d, const T *gate, const T *up, int n, int width, int stride, T *out)
{
	constexpr int v = pack<T>::size;
	dim3 grid;
	int threads;

	if (width % v == 0 && stride % v == 0 && aligned16(gate) && aligned16(up) && aligned16(out)) {
		cut(n, width / v, &grid, &threads);
		cuda_launch_next(d, "gated", gated_kernel<T, F, v>, grid, threads, 0, gate, up, n, width,
				 stride, out, cuda_device(d)->behind_next);
	} else {
		cut(n, width, &grid, &threads);
		cuda_launch_next(d, "gated", gated_kernel<T, F, 1>, grid, threads, 0, gate, up, n, width,
				 stride, out, cuda_device(d)->behind_next);
	}
}

template <typename T, enum gate F>
static void launch_gated_grad(struct device *d, const T *dout, int n, int width, int stride, T *gate, T *up)
{
	constexpr int v = pack<T>::size;
	dim3 grid;
	int threads;

	if (width % v == 0 && stride % v == 0 && aligned16(gate) && aligned16(up) && aligned16(dout)) {
		cut(n, width / v, &grid, &threads);
		cuda_launch(d, "gated_grad", gated_grad_kernel<T, F, v>, grid, threads, 0, dout, n, width,
			    stride, gate, up);
	} else {
		cut(n, width, &grid, &threads);
		cuda_launch(d, "gated_grad", gated_grad_kernel<T, F, 1>, grid, threads, 0, dout, n, width,
			    stride, gate, up);
	}
}

template <typename T>
static void op_gated(struct device *d, enum gate f, const void *gate, const void *up, int n, int width,
		     int stride, void *out)
{
	const T *g = (const T *)gate, *u = (const T *)up;

	switch (f) {
	case GATE_SILU: launch_gated<T, GATE_SILU>(d, g, u, n, width, stride, (T *)out); break;
	case GATE_GELU_ERF: launch_gated<T, GATE_GELU_ERF>(d, g, u, n, width, stride, (T *)out); break;
	case GATE_GELU_TANH: launch_gated<T, GATE_GELU_TANH>(d, g, u, n, width, stride, (T *)out); break;
	}
}

template <typename T>
static void op_gated_grad(struct device *d, enum gate f, const void *dout, int n, int width, int stride,
			  void *gate, void *up)
{
	const T *y = (const T *)dout;
	T *g = (T *)gate, *u = (T *)up;

	switch (f) {
	case GATE_SILU: launch_gated_grad<T, GATE_SILU>(d, y, n, width, stride, g, u); break;
	case GATE_GELU_ERF: launch_gated_grad<T, GATE_GELU_ERF>(d, y, n, width, stride, g, u); break;
	case GATE_GELU_TANH: launch_gated_grad<T, GATE_GELU_TANH>(d, y, n, width, stride, g, u); break;
	}
}

EXPORT(gated,
       (struct device * d, enum gate f, const void *gate, const void *up, int n, int width, int stride,
	void *out),
       (d, f, gate, up, n, width, stride, out))
EXPORT(gated_grad,
       (struct device * d, enum gate f, const void *dout, int n, int width, int stride, void *gate, void *up),
       (d, f, dout, n, width, stride, gate, up))
