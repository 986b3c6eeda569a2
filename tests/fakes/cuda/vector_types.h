/* CUDA's small vectors, with its sizes and alignments; part of the fake, see cuda_fake.h. */
#ifndef TESTS_FAKES_CUDA_VECTOR_TYPES_H
#define TESTS_FAKES_CUDA_VECTOR_TYPES_H

#define CUDA_FAKE_VECTORS(T, name, a2, a4)                                                                   \
	struct name##1                                                                                       \
	{                                                                                                    \
		T x;                                                                                         \
	};                                                                                                   \
	struct name##2                                                                                       \
	{                                                                                                    \
		T x, y;                                                                                      \
	}                                                                                                    \
	__attribute__((aligned(a2)));                                                                        \
	struct name##3                                                                                       \
	{                                                                                                    \
		T x, y, z;                                                                                   \
	};                                                                                                   \
	struct name##4                                                                                       \
	{                                                                                                    \
		T x, y, z, w;                                                                                \
	}                                                                                                    \
	__attribute__((aligned(a4)));                                                                        \
	typedef struct name##1 name##1;                                                                      \
	typedef struct name##2 name##2;                                                                      \
	typedef struct name##3 name##3;                                                                      \
	typedef struct name##4 name##4;

CUDA_FAKE_VECTORS(signed char, char, 2, 4)
CUDA_FAKE_VECTORS(unsigned char, uchar, 2, 4)
CUDA_FAKE_VECTORS(short, short, 4, 8)
CUDA_FAKE_VECTORS(unsigned short, ushort, 4, 8)
CUDA_FAKE_VECTORS(int, int, 8, 16)
CUDA_FAKE_VECTORS(unsigned, uint, 8, 16)
CUDA_FAKE_VECTORS(long long, longlong, 16, 16)
CUDA_FAKE_VECTORS(unsigned long long, ulonglong, 16, 16)
CUDA_FAKE_VECTORS(float, float, 8, 16)
CUDA_FAKE_VECTORS(double, double, 16, 16)

struct dim3 {
	unsigned x, y, z;
#ifdef __cplusplus
	constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz)
	{
	}
	constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z)
	{
	}
	constexpr operator uint3() const
	{
		return uint3{x, y, z};
	}
#endif
};
typedef struct dim3 dim3;

#ifdef __cplusplus
#define CUDA_FAKE_MAKE(T, name)                                                                              \
	static inline name##1 make_##name##1(T x)                                                            \
	{                                                                                                    \
		return {x};                                                                                  \
	}                                                                                                    \
	static inline name##2 make_##name##2(T x, T y)                                                       \
	{                                                                                                    \
		return {x, y};                                                                               \
	}                                                                                                    \
	static inline name##3 make_##name##3(T x, T y, T z)                                                  \
	{                                                                                                    \
		return {x, y, z};                                                                            \
	}                                                                                                    \
	static inline name##4 make_##name##4(T x, T y, T z, T w)                                             \
	{                                                                                                    \
		return {x, y, z, w};                                                                         \
	}

CUDA_FAKE_MAKE(signed char, char)
CUDA_FAKE_MAKE(unsigned char, uchar)
CUDA_FAKE_MAKE(short, short)
CUDA_FAKE_MAKE(unsigned short, ushort)
CUDA_FAKE_MAKE(int, int)
CUDA_FAKE_MAKE(unsigned, uint)
CUDA_FAKE_MAKE(long long, longlong)
CUDA_FAKE_MAKE(unsigned long long, ulonglong)
CUDA_FAKE_MAKE(float, float)
CUDA_FAKE_MAKE(double, double)
#endif

#endif
