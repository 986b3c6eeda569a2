/* bfloat16: the upper half of a float; part of the fake, see cuda_fake.h. Conversions only: CUDA's arithmetic rounds to 16
 * bits at every step, and kernels here compute in fp32. */
#ifndef TESTS_FAKES_CUDA_CUDA_BF16_H
#define TESTS_FAKES_CUDA_CUDA_BF16_H

#include <cuda_runtime.h>

/* Round to nearest even; NaN becomes 0x7fff, as on a GPU. */
static inline unsigned short cuda_fake_bf16_bits(float x)
{
	unsigned bits = __float_as_uint(x);

	if ((bits & 0x7fffffff) > 0x7f800000)
		return 0x7fff;
	return (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

struct __nv_bfloat16_raw {
	unsigned short x;
};

struct alignas(2) __nv_bfloat16 {
	unsigned short bits;

	__nv_bfloat16() = default;
	__nv_bfloat16(float x) : bits(cuda_fake_bf16_bits(x))
	{
	}
	__nv_bfloat16(const __nv_bfloat16_raw &raw) : bits(raw.x)
	{
	}
	operator __nv_bfloat16_raw() const
	{
		return {bits};
	}
	explicit operator float() const
	{
		return __uint_as_float((unsigned)bits << 16);
	}
};

struct alignas(4) __nv_bfloat162 {
	__nv_bfloat16 x, y;
};

typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

static_assert(sizeof(__nv_bfloat16) == 2 && std::is_trivial<__nv_bfloat16>::value, "a plain value");
static_assert(sizeof(__nv_bfloat162) == 4 && std::is_trivial<__nv_bfloat162>::value, "a plain value");

template <> struct cuda_fake_shuffles<__nv_bfloat16> : std::true_type {
};
template <> struct cuda_fake_shuffles<__nv_bfloat162> : std::true_type {
};

static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits)
{
	return __nv_bfloat16_raw{bits};
}

static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x)
{
	return x.bits;
}

static inline __nv_bfloat16 __float2bfloat16_rn(float x)
{
	return x;
}

static inline __nv_bfloat16 __float2bfloat16(float x)
{
	return x;
}

static inline float __bfloat162float(__nv_bfloat16 x)
{
	return (float)x;
}

static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 lo, __nv_bfloat16 hi)
{
	return {lo, hi};
}

static inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 lo, __nv_bfloat16 hi)
{
	return {lo, hi};
}

static inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x)
{
	return {x, x};
}

static inline __nv_bfloat162 __floats2bfloat162_rn(float lo, float hi)
{
	return {lo, hi};
}

static inline __nv_bfloat162 __float22bfloat162_rn(float2 x)
{
	return {x.x, x.y};
}

static inline __nv_bfloat162 __float2bfloat162_rn(float x)
{
	return {x, x};
}

static inline float2 __bfloat1622float2(__nv_bfloat162 x)
{
	return {(float)x.x, (float)x.y};
}

static inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 x)
{
	return x.x;
}

static inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 x)
{
	return x.y;
}

static inline float __low2float(__nv_bfloat162 x)
{
	return (float)x.x;
}

static inline float __high2float(__nv_bfloat162 x)
{
	return (float)x.y;
}

static inline bool __hisnan(__nv_bfloat16 x)
{
	return (x.bits & 0x7fff) > 0x7f80;
}

#endif
