/* What kernels and launchers share.
 *
 * An operation is a template over the activation type T (float, __nv_bfloat16, __half) named op_<name>, at the end of the
 * file instantiated as the three functions of cuda.h:
 *
 *     template <typename T> static void op_convert(struct device *d, const void *x, …) { cuda_launch(d, …); }
 *     EXPORT(convert, (struct device *d, const void *x, enum dtype dtype, size_t n, void *out), (d, x, dtype, n, out))
 *
 * Every kernel begins with grid_wait(): from compute capability 9.0 on, its blocks may be put onto the GPU before all
 * that the kernel before it wrote can be read. In passes of few tokens two things hide the time between kernels,
 * which matters there:
 *   - small kernels call grid_next_small() then, and products of few tokens grid_next() before they store: the next
 *     kernel comes onto the GPU meanwhile. They are launched by cuda_launch_next, and write activations only.
 *   - products of few tokens ask for their first weights before grid_wait(), others for tables or inputs of the pass,
 *     all of them after grid_ahead(). They are launched by cuda_launch_ahead, which lets them overlap only when the
 *     work directly before was launched by one of these two. That kernel writes nothing of the kind, and it has
 *     waited for all kernels before it; so whatever wrote weights has ended.
 *   - after grid_ahead() small kernels let the next one begin before their own grid_wait() (small_wait). So the
 *     weights of a product are on their way while all the small kernels in front of it run, and not only the last of
 *     them. The reason above holds along the chain: none of the kernels that may still run writes weights, and the
 *     first of them has waited. Each waits for the one in front of it before it ends, so grid_wait() still means that
 *     all have ended.
 *
 * The subset that the fake understands: launches by cuda_launch, cuda_launch_next and cuda_launch_ahead alone;
 * dynamic shared memory by DYNAMIC_SHARED alone; static __shared__ arrays of plain types; __syncthreads, __syncwarp,
 * __shfl_*_sync, __ballot_sync, __any_sync, __all_sync, all of them reached by every thread of the block or mask (the
 * fake stops when not: no thread returns before a later barrier); blockIdx, threadIdx, blockDim, gridDim; PTX through
 * ptx.cuh and wgmma.cuh alone; no atomics on floats (sums would have no order), no managed memory, no dynamic
 * parallelism, no textures, no cooperative groups. */
#ifndef KERNELS_CUDA_KERNEL_CUH
#define KERNELS_CUDA_KERNEL_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/ptx.cuh"

/* ---- types ---- */

__host__ __device__ __forceinline__ float to_float(float x)
{
	return x;
}

__host__ __device__ __forceinline__ float to_float(__nv_bfloat16 x)
{
	return __bfloat162float(x);
}

__host__ __device__ __forceinline__ float to_float(__half x)
{
	return __half2float(x);
}

/* Round to nearest even. */
template <typename T> __host__ __device__ __forceinline__ T from_float(float x);

template <> __host__ __device__ __forceinline__ float from_float<float>(float x)
{
	return x;
}

template <> __host__ __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x)
{
	return __float2bfloat16_rn(x);
}

template <> __host__ __device__ __forceinline__ __half from_float<__half>(float x)
{
	return __float2half_rn(x);
}

template <typename T> struct dtype_of;
template <> struct dtype_of<float> {
	static const enum dtype value = DTYPE_F32;
};
template <> struct dtype_of<__nv_bfloat16> {
	static const enum dtype value = DTYPE_BF16;
};
template <> struct dtype_of<__half> {
	static const enum dtype value = DTYPE_F16;
};

/* 16 bytes at once: pack<T> holds 16 / sizeof(T) values. p is aligned to 16. */
template <typename T> struct alignas(16) pack {
	static const int size = 16 / (int)sizeof(T);
	T v[16 / sizeof(T)];
};

template <typename T> __device__ __forceinline__ pack<T> load_pack(const T *p)
{
	return *reinterpret_cast<const pack<T> *>(p);
}

template <typename T> __device__ __forceinline__ void store_pack(T *p, const pack<T> &x)
{
	*reinterpret_cast<pack<T> *>(p) = x;
}

/* ---- reductions: one order, by lane and warp ---- */

__device__ __forceinline__ float warp_sum(float x)
{
	for (int offset = 16; offset > 0; offset /= 2)
		x += __shfl_xor_sync(0xffffffffu, x, offset);
	return x;
}

__device__ __forceinline__ float warp_max(float x)
{
	for (int offset = 16; offset > 0; offset /= 2)
		x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
	return x;
}

/* The sum over a block of up to 1024 threads, a multiple of 32, told to all of them. Uses `shared` (32 floats), which may
 * be used again after the next barrier. */
__device__ __forceinline__ float block_sum(float x, float *shared)
{
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;

	x = warp_sum(x);
	if (lane == 0)
		shared[warp] = x;
	__syncthreads();
	x = lane < warps ? shared[lane] : 0.0f;
	return warp_sum(x);
}

/* ---- launching ---- */

#ifdef __CUDACC__
/* name: a T array in the block's dynamic shared memory, aligned to 128 bytes; once per kernel. */
#define DYNAMIC_SHARED(T, name)                                                                              \
	extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];                              \
	T *name = reinterpret_cast<T *>(dynamic_shared_memory)
#endif

/* overlaps: with the kernel before; next: the kernel calls grid_next. */
template <typename... P, typename... A>
static inline void cuda_launch_how(struct device *d, bool overlaps, bool next, const char *what,
				   void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, A... args)
{
	cudaLaunchConfig_t config = {};
	cudaLaunchAttribute overlap = {};

	if (grid.x == 0 || grid.y == 0 || grid.z == 0)
		return;
	cuda_use(d);
	if (shared > 48 * 1024)
		cuda_note(d,
			  cudaFuncSetAttribute((const void *)kernel,
					       cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared),
			  what);
	config.gridDim = grid;
	config.blockDim = block;
	config.dynamicSmemBytes = shared;
	config.stream = cuda_device(d)->stream;
	overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
	overlap.val.programmaticStreamSerializationAllowed = 1;
	config.attrs = &overlap;
	config.numAttrs = cuda_device(d)->major >= 9 && overlaps;
	cuda_note(d, cudaLaunchKernelEx(&config, kernel, (P)args...), what);
	cuda_device(d)->behind_next = next;
}

/* Launches kernel(args…) on the device's stream, with `shared` bytes of dynamic shared memory; more than 48 KiB are opted
 * in to. A failure is noted under what. Does nothing for an empty grid. */
template <typename... P, typename... A>
static inline void cuda_launch(struct device *d, const char *what, void (*kernel)(P...), dim3 grid,
			       dim3 block, size_t shared, A... args)
{
	cuda_launch_how(d, true, false, what, kernel, grid, block, shared, args...);
}

/* The same for a kernel that calls grid_next. */
template <typename... P, typename... A>
static inline void cuda_launch_next(struct device *d, const char *what, void (*kernel)(P...), dim3 grid,
				    dim3 block, size_t shared, A... args)
{
	cuda_launch_how(d, true, true, what, kernel, grid, block, shared, args...);
}

/* The same for one that moreover reads weights before grid_wait. */
template <typename... P, typename... A>
static inline void cuda_launch_ahead(struct device *d, const char *what, void (*kernel)(P...), dim3 grid,
				     dim3 block, size_t shared, A... args)
{
	cuda_launch_how(d, cuda_device(d)->behind_next, true, what, kernel, grid, block, shared, args...);
}

/* How a small kernel begins that reads nothing before grid_wait. ahead: it was launched behind a kernel that calls grid_next
 * (behind_next). */
__device__ __forceinline__ void small_wait(bool ahead)
{
	if (ahead) {
		grid_ahead();
		grid_next_small();
	}
	grid_wait();
	if (!ahead)
		grid_next_small();
}

__host__ __device__ constexpr int ceil_div(int a, int b)
{
	return (a + b - 1) / b;
}

/* The three functions of an operation whose template is op_<name>. */
#define EXPORT(name, parameters, arguments)                                                                  \
	extern "C" void cuda_f32_##name parameters                                                           \
	{                                                                                                    \
		op_##name<float> arguments;                                                                  \
	}                                                                                                    \
	extern "C" void cuda_bf16_##name parameters                                                          \
	{                                                                                                    \
		op_##name<__nv_bfloat16> arguments;                                                          \
	}                                                                                                    \
	extern "C" void cuda_f16_##name parameters                                                           \
	{                                                                                                    \
		op_##name<__half> arguments;                                                                 \
	}

#endif
