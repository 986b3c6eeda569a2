#include "tests/unit/cuda/wgmma_products.h"

#include "kernels/cuda/attention_hopper.cuh"

template <typename T, int N, bool A_COLUMNS, bool B_COLUMNS, bool REGISTERS>
__global__ void __launch_bounds__(128) wgmma_product_kernel(const T *a, const T *b, float *out)
{
	grid_wait();
#if HAS_WGMMA
	const int K = WGMMA_DEPTH;
	DYNAMIC_SHARED(T, memory);
	T *a_tile = tile_begin(memory), *b_tile = a_tile + 64 * K;
	int a_rows = A_COLUMNS ? K : 64, a_chunks = A_COLUMNS ? 8 : K / 8, b_rows = B_COLUMNS ? K : N,
	    b_chunks = B_COLUMNS ? N / 8 : K / 8;
	int thread = threadIdx.x, lane = thread % 32, row = thread / 32 * 16 + lane / 4;
	float d[N / 8][4];

	for (int i = thread; i < a_rows * a_chunks; i += 128)
		store_pack(panel_at(a_tile, a_rows, i / a_chunks, i % a_chunks), load_pack(a + i * 8));
	for (int i = thread; i < b_rows * b_chunks; i += 128)
		store_pack(panel_at(b_tile, b_rows, i / b_chunks, i % b_chunks), load_pack(b + i * 8));
	async_fence();
	__syncthreads();

	uint64_t left = wgmma_operand(a_tile, a_rows * 128), right = wgmma_operand(b_tile, b_rows * 128);
	uint32_t x[K / 16][4];

	UNROLL
	for (int k = 0; k < K / 16; k++) {
		UNROLL
		for (int i = 0; i < 4 && REGISTERS; i++)
			x[k][i] = *reinterpret_cast<const uint32_t *>(a + (row + i % 2 * 8) * K + 16 * k +
								      i / 2 * 8 + lane % 4 * 2);
	}
	wgmma_fence();
	UNROLL
	for (int k = 0; k < K / 16; k++) {
		uint64_t a_at = wgmma_at(left, A_COLUMNS ? k * 2048 : k / 4 * a_rows * 128 + k % 4 * 32);
		uint64_t b_at = wgmma_at(right, B_COLUMNS ? k * 2048 : k / 4 * b_rows * 128 + k % 4 * 32);

		if constexpr (REGISTERS)
			wgmma<T, B_COLUMNS>(d, x[k], b_at, k > 0);
		else
			wgmma<T, A_COLUMNS, B_COLUMNS>(d, a_at, b_at, k > 0);
	}
	wgmma_commit();
	wgmma_wait<0>();
	wgmma_registers(d);
	for (int n = 0; n < N / 8; n++)
		for (int i = 0; i < 4; i++)
			out[(row + i / 2 * 8) * N + 8 * n + lane % 4 * 2 + i % 2] = d[n][i];
#endif
}

template <typename T, int N, bool A_COLUMNS, bool B_COLUMNS, bool REGISTERS>
static void launch(struct device *d, const void *a, const void *b, float *out)
{
	cuda_launch(d, "wgmma", wgmma_product_kernel<T, N, A_COLUMNS, B_COLUMNS, REGISTERS>, dim3(1),
		    dim3(128), 2 * WGMMA_DEPTH * (64 + N) + HOPPER_ALIGN, (const T *)a, (const T *)b, out);
}

template <typename T, int N>
static void product(struct device *d, enum wgmma_form form, const void *a, const void *b, float *out)
{
	switch (form) {
	case BY_ROWS: launch<T, N, false, false, false>(d, a, b, out); break;
	case REGISTERS_AND_ROWS: launch<T, N, false, false, true>(d, a, b, out); break;
	default:
		if constexpr (N % 64 == 0) {
			if (form == BY_COLUMNS)
				launch<T, N, true, true, false>(d, a, b, out);
			else if (form == ROWS_AND_COLUMNS)
				launch<T, N, false, true, false>(d, a, b, out);
			else
				launch<T, N, false, true, true>(d, a, b, out);
		}
	}
}

template <typename T>
static void product_of(struct device *d, enum wgmma_form form, int n, const void *a, const void *b,
		       float *out)
{
	if (n == 64)
		product<T, 64>(d, form, a, b, out);
	else if (n == 80)
		product<T, 80>(d, form, a, b, out);
	else if (n == 128)
		product<T, 128>(d, form, a, b, out);
	else
		product<T, 256>(d, form, a, b, out);
}

extern "C" bool wgmma_product(struct device *d, enum wgmma_form form, int n, const void *a, const void *b,
			      float *out)
{
	struct attention any = {};

	any.heads = any.kv_heads = 1;
	any.head_dim = 64;
	any.max_q = 1000;
	if (d->kind != DEVICE_CUDA || d->act == DTYPE_F32 || !attention_is_hopper(cuda_device(d), &any))
		return false;
	if (d->act == DTYPE_BF16)
		product_of<__nv_bfloat16>(d, form, n, a, b, out);
	else
		product_of<__half>(d, form, n, a, b, out);
	return true;
}
