/* Values in vectors of up to 16 bytes, for operations that move more than they compute. */
#ifndef KERNELS_CUDA_VECTOR_CUH
#define KERNELS_CUDA_VECTOR_CUH

#include "kernels/cuda/kernel.cuh"

static inline bool aligned16(const void *p)
{
	return (uintptr_t)p % 16 == 0;
}

/* Threads for rows of so many vectors: whole warps, no more than the row needs, at most `most`. */
static inline int row_threads(int vectors, int most)
{
	return vectors >= most ? most : ceil_div(vectors, 32) * 32;
}

/* N values, a power of two, that are loaded or stored at once. */
template <typename T, int N> struct alignas(N * sizeof(T)) chunk {
	T v[N];
};

/* N values at p, aligned to 16 bytes or to their size where that is less, as floats, and back. */
template <int N, typename T> __device__ __forceinline__ void load_floats(const T *p, float x[N])
{
	constexpr int M = N * sizeof(T) > 16 ? 16 / (int)sizeof(T) : N;

#pragma unroll
	for (int i = 0; i < N; i += M) {
		chunk<T, M> part = *reinterpret_cast<const chunk<T, M> *>(p + i);

#pragma unroll
		for (int j = 0; j < M; j++)
			x[i + j] = to_float(part.v[j]);
	}
}

template <int N, typename T> __device__ __forceinline__ void store_floats(T *p, const float x[N])
{
	constexpr int M = N * sizeof(T) > 16 ? 16 / (int)sizeof(T) : N;

#pragma unroll
	for (int i = 0; i < N; i += M) {
		chunk<T, M> part;

#pragma unroll
		for (int j = 0; j < M; j++)
			part.v[j] = from_float<T>(x[i + j]);
		*reinterpret_cast<chunk<T, M> *>(p + i) = part;
	}
}

#endif
