/* Values between memory and fp32 registers, several at a time. */
#ifndef KERNELS_CUDA_VALUES_CUH
#define KERNELS_CUDA_VALUES_CUH

#include "kernels/cuda/kernel.cuh"

static inline bool aligned_to(const void *p, unsigned bytes)
{
	return (uintptr_t)p % bytes == 0;
}

/* `left` of 8 values exist; the others read as 0. `vector`: p is aligned to 16. */
template <typename S> __device__ __forceinline__ void read8(const S *p, int left, bool vector, float v[8])
{
	if (vector && left >= 8) {
#pragma unroll
		for (int i = 0; i < 8; i += pack<S>::size) {
			pack<S> x = load_pack(p + i);

#pragma unroll
			for (int j = 0; j < pack<S>::size; j++)
				v[i + j] = to_float(x.v[j]);
		}
		return;
	}
#pragma unroll
	for (int i = 0; i < 8; i++)
		v[i] = i < left ? to_float(p[i]) : 0.0f;
}

template <typename T> __device__ __forceinline__ void write8(T *p, int left, bool vector, const float v[8])
{
	if (vector && left >= 8) {
#pragma unroll
		for (int i = 0; i < 8; i += pack<T>::size) {
			pack<T> x;

#pragma unroll
			for (int j = 0; j < pack<T>::size; j++)
				x.v[j] = from_float<T>(v[i + j]);
			store_pack(p + i, x);
		}
		return;
	}
#pragma unroll
	for (int i = 0; i < 8; i++)
		if (i < left)
			p[i] = from_float<T>(v[i]);
}

template <typename T> struct alignas(4 * sizeof(T)) quad {
	T v[4];
};

template <typename T>
__device__ __forceinline__ void put4(T *p, bool add, int left, bool vector, const float v[4])
{
	if (vector && left >= 4) {
		quad<T> *at = reinterpret_cast<quad<T> *>(p), old, x;

		if (add)
			old = *at;
#pragma unroll
		for (int i = 0; i < 4; i++)
			x.v[i] = from_float<T>(add ? to_float(old.v[i]) + v[i] : v[i]);
		*at = x;
		return;
	}
#pragma unroll
	for (int i = 0; i < 4; i++)
		if (i < left)
			p[i] = from_float<T>(add ? to_float(p[i]) + v[i] : v[i]);
}

/* Stores 4 values, of which `left` exist, at element `at` of y as `how` says. `vector`: their address is aligned to 4 of
 * them. */
template <typename T>
__device__ __forceinline__ void store4(void *y, enum store how, size_t at, int left, bool vector,
				       const float v[4])
{
	if (how == STORE_ACT || how == ADD_ACT)
		put4(static_cast<T *>(y) + at, how == ADD_ACT, left, vector, v);
	else
		put4(static_cast<float *>(y) + at, how == ADD_F32, left, vector, v);
}

/* Whether every row of a result may be stored by 4. */
static inline bool stores_vector(const void *y, int ld, int width)
{
	return aligned_to(y, 16) && ld % 4 == 0 && width % 4 == 0;
}

#endif
