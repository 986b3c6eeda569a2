/* CUDA C++ as plain C++: the words of the language, what a thread knows about itself, barriers and warp operations, and
 * launching; part of the fake, see cuda_fake.h. Compile with -Wno-unknown-pragmas (#pragma unroll). */
#ifndef TESTS_FAKES_CUDA_CUDA_RUNTIME_H
#define TESTS_FAKES_CUDA_CUDA_RUNTIME_H

#ifndef __cplusplus
#error "cuda_runtime.h is for kernels; C includes cuda_runtime_api.h"
#endif

/* Before __noinline__ becomes a macro: the standard library spells an attribute with it. */
#include <assert.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <tuple>
#include <type_traits>
#include <utility>

#include <cuda_runtime_api.h>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __shared__      static thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__    __attribute__((noinline))
#define __align__(n)    __attribute__((aligned(n)))
#define __launch_bounds__(...)

/* ---- where a thread is ---- */

extern "C" __thread uint3 threadIdx, blockIdx, blockDim, gridDim;
static constexpr int warpSize = 32;

/* ---- shared memory, barriers, warp operations ---- */

enum cuda_fake_shuffle {
	CUDA_FAKE_SHUFFLE,
	CUDA_FAKE_SHUFFLE_XOR,
	CUDA_FAKE_SHUFFLE_UP,
	CUDA_FAKE_SHUFFLE_DOWN
};
enum cuda_fake_vote { CUDA_FAKE_BALLOT, CUDA_FAKE_ANY, CUDA_FAKE_ALL };

extern "C" {
void *cuda_fake_dynamic_shared(void);
void cuda_fake_barrier(void);
void cuda_fake_warp_barrier(unsigned mask);
uint64_t cuda_fake_shuffle(enum cuda_fake_shuffle kind, unsigned mask, uint64_t value, int lane, int width);
/* The lanes of mask whose predicate holds. */
unsigned cuda_fake_vote(enum cuda_fake_vote kind, unsigned mask, int predicate);
[[noreturn]] void cuda_fake_trap(void);
}

#define DYNAMIC_SHARED(T, name)                                                                              \
	static_assert(alignof(T) <= 128, "dynamic shared memory is aligned to 128 bytes");                   \
	T *name = static_cast<T *>(cuda_fake_dynamic_shared())

static inline void __syncthreads()
{
	cuda_fake_barrier();
}

static inline void __syncwarp(unsigned mask = 0xffffffffu)
{
	cuda_fake_warp_barrier(mask);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate)
{
	return cuda_fake_vote(CUDA_FAKE_BALLOT, mask, predicate);
}

static inline int __any_sync(unsigned mask, int predicate)
{
	return cuda_fake_vote(CUDA_FAKE_ANY, mask, predicate) != 0;
}

static inline int __all_sync(unsigned mask, int predicate)
{
	return cuda_fake_vote(CUDA_FAKE_ALL, mask, predicate) == mask;
}

/* What CUDA's headers can shuffle; the 16-bit types add themselves. */
template <typename T> struct cuda_fake_shuffles : std::is_arithmetic<T> {
};

template <typename T>
static inline T cuda_fake_shuffle_value(enum cuda_fake_shuffle kind, unsigned mask, T value, int lane,
					int width)
{
	static_assert(cuda_fake_shuffles<T>::value && sizeof(T) <= 8, "CUDA does not shuffle this type");
	uint64_t bits = 0;

	memcpy(&bits, &value, sizeof value);
	bits = cuda_fake_shuffle(kind, mask, bits, lane, width);
	memcpy(&value, &bits, sizeof value);
	return value;
}

template <typename T> static inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32)
{
	return cuda_fake_shuffle_value(CUDA_FAKE_SHUFFLE, mask, value, lane, width);
}

template <typename T> static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32)
{
	return cuda_fake_shuffle_value(CUDA_FAKE_SHUFFLE_XOR, mask, value, lanes, width);
}

template <typename T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
	return cuda_fake_shuffle_value(CUDA_FAKE_SHUFFLE_UP, mask, value, (int)delta, width);
}

template <typename T> static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
	return cuda_fake_shuffle_value(CUDA_FAKE_SHUFFLE_DOWN, mask, value, (int)delta, width);
}

static inline void __threadfence()
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static inline void __threadfence_block()
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static inline void __trap()
{
	cuda_fake_trap();
}

/* ---- launching ---- */

/* Runs call (of size bytes, copied where it is kept) once per thread. */
extern "C" cudaError_t cuda_fake_launch(const cudaLaunchConfig_t *config, const void *kernel,
					void (*run)(const void *call), const void *call, size_t size);

template <typename... P> struct cuda_fake_call {
	void (*kernel)(P...);
	std::tuple<P...> arguments;

	static void run(const void *call)
	{
		const cuda_fake_call *self = static_cast<const cuda_fake_call *>(call);

		std::apply(self->kernel, self->arguments);
	}
};

template <typename... P, typename... A>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...),
					     A &&...arguments)
{
	static_assert((std::is_trivially_copyable<P>::value && ...), "kernels take plain values");
	static_assert((sizeof(P) + ... + 0) <= 4096, "kernels take at most 4096 bytes of arguments");
	const cuda_fake_call<P...> call = {kernel, std::tuple<P...>(std::forward<A>(arguments)...)};

	static_assert(alignof(cuda_fake_call<P...>) <= 64, "at most 64");
	return cuda_fake_launch(config, reinterpret_cast<const void *>(kernel), cuda_fake_call<P...>::run,
				&call, sizeof call);
}

template <typename T>
static inline cudaError_t cudaFuncSetAttribute(T *kernel, enum cudaFuncAttribute attr, int value)
{
	return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), attr, value);
}

template <typename T>
static inline cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attr, T *kernel)
{
	return cudaFuncGetAttributes(attr, reinterpret_cast<const void *>(kernel));
}

template <typename T>
static inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, T *kernel,
									int block_size, size_t dynamic_shared)
{
	return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, reinterpret_cast<const void *>(kernel),
							     block_size, dynamic_shared);
}

template <typename T> static inline cudaError_t cudaMalloc(T **p, size_t size)
{
	return cudaMalloc(reinterpret_cast<void **>(p), size);
}

template <typename T> static inline cudaError_t cudaMallocHost(T **p, size_t size)
{
	return cudaMallocHost(reinterpret_cast<void **>(p), size);
}

#include <intrinsics_fake.h>

#endif
