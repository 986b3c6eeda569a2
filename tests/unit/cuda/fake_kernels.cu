#include "tests/unit/cuda/fake_kernels.h"

#include "kernels/cuda/kernel.cuh"

#define N 64

static __global__ void reverse_kernel(enum mistake mistake, float *x)
{
	if (mistake == NEXT_TOO_EARLY)
		grid_next();
	if (mistake == AHEAD_OF_ANY || mistake == AHEAD_OF_NEXT)
		grid_ahead();
	if (mistake == AHEAD_OF_NEXT)
		grid_next();
	if (mistake != NO_GRID_WAIT)
		grid_wait();
	DYNAMIC_SHARED(float, shared);
	int i = threadIdx.x;

	cp_async_4(&shared[i], &x[i], true);
	cp_async_commit();
	if (mistake != NO_COPY_WAIT)
		cp_async_wait<0>();
	if (mistake != NO_BARRIER && (mistake != UNEVEN_BARRIER || i < N / 2))
		__syncthreads();
	if (mistake != UNEVEN_SHUFFLE || i % 32 != 7)
		shared[N + i] = __shfl_xor_sync(0xffffffffu, shared[N - 1 - i], 0);
	x[i] = shared[N - 1 - i];
	if (mistake == BEYOND_MEMORY && i == 0)
		x[N] = 1;
	if (mistake == BEYOND_SHARED && i == 0)
		shared[2 * N] = 1;
}

static __global__ void next_kernel()
{
	grid_wait();
	grid_next();
}

void fake_reverse(struct device *d, enum mistake mistake, float *x)
{
	size_t shared = mistake == TOO_MUCH_SHARED ? 228 * 1024 : 2 * N * sizeof(float);

	if (mistake == AHEAD_OF_NEXT) {
		cuda_launch_next(d, "next", next_kernel, 2, N, 0);
		cuda_launch_ahead(d, "reverse", reverse_kernel, 1, N, shared, mistake, x);
	} else {
		cuda_launch(d, "reverse", reverse_kernel, 1, N, shared, mistake, x);
	}
}
