/* Conversions of dense values between fp32, bf16 and fp16. Bound by memory: 8 values to a thread, in accesses of 16 bytes
 * where both sides are aligned. */
#include "kernels/cuda/products.h"
#include "kernels/cuda/values.cuh"

#define THREADS 256

template <typename T, typename S>
__global__ void __launch_bounds__(THREADS) convert_kernel(const S *x, size_t n, T *out, bool vector)
{
	grid_wait();
	size_t stride = (size_t)gridDim.x * THREADS * 8;

	for (size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * 8; i < n; i += stride) {
		int left = n - i < 8 ? (int)(n - i) : 8;
		float v[8];

		read8(x + i, left, vector, v);
		write8(out + i, left, vector, v);
	}
}

template <typename T, typename S> static void launch(struct device *d, const void *x, size_t n, void *out)
{
	size_t blocks = (n + 8 * THREADS - 1) / (8 * THREADS),
	       most = (size_t)cuda_device(d)->multiprocessors * 32;

	cuda_launch(d, "convert", convert_kernel<T, S>, dim3((unsigned)(blocks < most ? blocks : most)),
		    dim3(THREADS), 0, static_cast<const S *>(x), n, static_cast<T *>(out),
		    aligned_to(x, 16) && aligned_to(out, 16));
}

template <typename T>
static void op_convert(struct device *d, const void *x, enum dtype dtype, size_t n, void *out)
{
	if (dtype == DTYPE_F32)
		launch<T, float>(d, x, n, out);
	else if (dtype == DTYPE_BF16)
		launch<T, __nv_bfloat16>(d, x, n, out);
	else
		launch<T, __half>(d, x, n, out);
}

EXPORT(convert, (struct device * d, const void *x, enum dtype dtype, size_t n, void *out),
       (d, x, dtype, n, out))

void matrix_convert(struct device *d, enum dtype act, const struct matrix *m, int first, int count, void *out)
{
	size_t start = (size_t)first * (size_t)m->cols, n = (size_t)count * (size_t)m->cols;
	const char *from = static_cast<const char *>(m->data) + start * (m->dtype == DTYPE_F32 ? 4 : 2);

	if (m->dtype == DTYPE_NF4)
		nf4_convert(d, act, m, first, count, out);
	else if (act == DTYPE_F32)
		op_convert<float>(d, from, m->dtype, n, out);
	else if (act == DTYPE_BF16)
		op_convert<__nv_bfloat16>(d, from, m->dtype, n, out);
	else
		op_convert<__half>(d, from, m->dtype, n, out);
}

template <typename T> static void op_dequantize(struct device *d, const struct matrix *m, void *out)
{
	matrix_convert(d, dtype_of<T>::value, m, 0, m->rows, out);
}

EXPORT(dequantize, (struct device * d, const struct matrix *m, void *out), (d, m, out))
