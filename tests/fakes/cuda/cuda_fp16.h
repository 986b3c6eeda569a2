/* IEEE binary16; part of the fake, see cuda_fake.h. Conversions only, as in cuda_bf16.h. */
#ifndef TESTS_FAKES_CUDA_CUDA_FP16_H
#define TESTS_FAKES_CUDA_CUDA_FP16_H

#include <cuda_runtime.h>

/* Round to nearest even, beyond 65504 to infinity; NaN becomes 0x7fff, as on a GPU. */
static inline unsigned short cuda_fake_f16_bits(float x)
{
	unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000;

	bits &= 0x7fffffff;
	if (bits > 0x7f800000)
		return 0x7fff;
	if (bits >= 0x47800000) /* 65536 */
		return (unsigned short)(sign | 0x7c00);
	if (bits < 0x38800000) /* 2^-14: adding 0.5 shifts a subnormal's bits into place, and rounds */
		return (unsigned short)(sign | (__float_as_uint(__uint_as_float(bits) + 0.5f) - 0x3f000000));
	return (unsigned short)(sign | (bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);
}

static inline float cuda_fake_f16_value(unsigned short h)
{
	unsigned bits = (h & 0x7fffu) << 13, exponent = bits & 0x0f800000;

	bits += 0x38000000;
	if (exponent == 0x0f800000)
		bits += 0x38000000;
	else if (exponent == 0) /* 2^-14 more, and less: normalised */
		bits = __float_as_uint(__uint_as_float(bits + 0x00800000) - __uint_as_float(0x38800000));
	return __uint_as_float(bits | (h & 0x8000u) << 16);
}

struct __half_raw {
	unsigned short x;
};

struct alignas(2) __half {
	unsigned short bits;

	__half() = default;
	__half(float x) : bits(cuda_fake_f16_bits(x))
	{
	}
	__half(const __half_raw &raw) : bits(raw.x)
	{
	}
	operator __half_raw() const
	{
		return {bits};
	}
	explicit operator float() const
	{
		return cuda_fake_f16_value(bits);
	}
};

struct alignas(4) __half2 {
	__half x, y;
};

typedef __half half;
typedef __half2 half2;

static_assert(sizeof(__half) == 2 && std::is_trivial<__half>::value, "a plain value");
static_assert(sizeof(__half2) == 4 && std::is_trivial<__half2>::value, "a plain value");

template <> struct cuda_fake_shuffles<__half> : std::true_type {
};
template <> struct cuda_fake_shuffles<__half2> : std::true_type {
};

static inline __half __ushort_as_half(unsigned short bits)
{
	return __half_raw{bits};
}

static inline unsigned short __half_as_ushort(__half x)
{
	return x.bits;
}

static inline __half __float2half_rn(float x)
{
	return x;
}

static inline __half __float2half(float x)
{
	return x;
}

static inline float __half2float(__half x)
{
	return (float)x;
}

static inline __half2 __halves2half2(__half lo, __half hi)
{
	return {lo, hi};
}

static inline __half2 make_half2(__half lo, __half hi)
{
	return {lo, hi};
}

static inline __half2 __half2half2(__half x)
{
	return {x, x};
}

static inline __half2 __floats2half2_rn(float lo, float hi)
{
	return {lo, hi};
}

static inline __half2 __float22half2_rn(float2 x)
{
	return {x.x, x.y};
}

static inline __half2 __float2half2_rn(float x)
{
	return {x, x};
}

static inline float2 __half22float2(__half2 x)
{
	return {(float)x.x, (float)x.y};
}

static inline __half __low2half(__half2 x)
{
	return x.x;
}

static inline __half __high2half(__half2 x)
{
	return x.y;
}

static inline float __low2float(__half2 x)
{
	return (float)x.x;
}

static inline float __high2float(__half2 x)
{
	return (float)x.y;
}

static inline bool __hisnan(__half x)
{
	return (x.bits & 0x7fff) > 0x7c00;
}

#endif
