/* CUDA's built-in functions on the CPU: bits, rounding, fast mathematics (as exact as the C library's), loads and stores with
 * cache hints (plain), and atomics on integers; part of the fake, included by cuda_runtime.h. */
#ifndef TESTS_FAKES_CUDA_INTRINSICS_FAKE_H
#define TESTS_FAKES_CUDA_INTRINSICS_FAKE_H

/* ---- bits ---- */

template <typename To, typename From> static inline To cuda_fake_bits(From x)
{
	static_assert(sizeof(To) == sizeof(From), "the same size");
	To y;

	memcpy(&y, &x, sizeof y);
	return y;
}

static inline unsigned __float_as_uint(float x)
{
	return cuda_fake_bits<unsigned>(x);
}

static inline float __uint_as_float(unsigned x)
{
	return cuda_fake_bits<float>(x);
}

static inline int __float_as_int(float x)
{
	return cuda_fake_bits<int>(x);
}

static inline float __int_as_float(int x)
{
	return cuda_fake_bits<float>(x);
}

static inline long long __double_as_longlong(double x)
{
	return cuda_fake_bits<long long>(x);
}

static inline double __longlong_as_double(long long x)
{
	return cuda_fake_bits<double>(x);
}

static inline int __popc(unsigned x)
{
	return __builtin_popcount(x);
}

static inline int __popcll(unsigned long long x)
{
	return __builtin_popcountll(x);
}

static inline int __clz(int x)
{
	return x ? __builtin_clz((unsigned)x) : 32;
}

static inline int __clzll(long long x)
{
	return x ? __builtin_clzll((unsigned long long)x) : 64;
}

static inline int __ffs(int x)
{
	return __builtin_ffs(x);
}

static inline int __ffsll(long long x)
{
	return __builtin_ffsll(x);
}

static inline unsigned long long __brevll(unsigned long long x)
{
	unsigned long long y = 0;

	for (int i = 0; i < 64; i++)
		y |= (x >> i & 1) << (63 - i);
	return y;
}

static inline unsigned __brev(unsigned x)
{
	return (unsigned)(__brevll(x) >> 32);
}

/* Each hexadecimal digit of selector picks a byte of y:x; its top bit repeats that byte's sign instead. */
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
	unsigned long long bytes = (unsigned long long)y << 32 | x;
	unsigned result = 0;

	for (int i = 0; i < 4; i++) {
		unsigned digit = selector >> 4 * i & 15, byte = (unsigned)(bytes >> 8 * (digit & 7)) & 255;

		if (digit & 8)
			byte = byte & 128 ? 255 : 0;
		result |= byte << 8 * i;
	}
	return result;
}

static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned shift)
{
	return (unsigned)(((unsigned long long)hi << 32 | lo) << (shift & 31) >> 32);
}

static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned shift)
{
	return (unsigned)(((unsigned long long)hi << 32 | lo) >> (shift & 31));
}

static inline unsigned __umulhi(unsigned x, unsigned y)
{
	return (unsigned)((unsigned long long)x * y >> 32);
}

static inline int __mulhi(int x, int y)
{
	return (int)((long long)x * y >> 32);
}

static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y)
{
	return (unsigned long long)((unsigned __int128)x * y >> 64);
}

/* ---- mathematics ---- */

static inline float cuda_fake_expf(float x)
{
	return expf(x);
}

static inline float cuda_fake_exp10f(float x)
{
	return powf(10, x);
}

static inline float cuda_fake_logf(float x)
{
	return logf(x);
}

static inline float cuda_fake_log2f(float x)
{
	return log2f(x);
}

static inline float cuda_fake_log10f(float x)
{
	return log10f(x);
}

static inline float cuda_fake_powf(float x, float y)
{
	return powf(x, y);
}

static inline float cuda_fake_sinf(float x)
{
	return sinf(x);
}

static inline float cuda_fake_cosf(float x)
{
	return cosf(x);
}

static inline void cuda_fake_sincosf(float x, float *s, float *c)
{
	*s = sinf(x);
	*c = cosf(x);
}

static inline float cuda_fake_tanf(float x)
{
	return tanf(x);
}

static inline float __fdividef(float x, float y)
{
	return x / y;
}

static inline float __saturatef(float x)
{
	return x > 0 ? (x < 1 ? x : 1) : 0;
}

static inline float cuda_fake_rsqrtf(float x)
{
	return 1 / sqrtf(x);
}

static inline double cuda_fake_rsqrt(double x)
{
	return 1 / sqrt(x);
}

/* The C library declares some of these names for itself. */
#define __expf    cuda_fake_expf
#define __exp10f  cuda_fake_exp10f
#define __logf    cuda_fake_logf
#define __log2f   cuda_fake_log2f
#define __log10f  cuda_fake_log10f
#define __powf    cuda_fake_powf
#define __sinf    cuda_fake_sinf
#define __cosf    cuda_fake_cosf
#define __sincosf cuda_fake_sincosf
#define __tanf    cuda_fake_tanf
#define rsqrtf    cuda_fake_rsqrtf
#define rsqrt     cuda_fake_rsqrt

static inline float __frsqrt_rn(float x)
{
	return (float)(1 / sqrt((double)x));
}

static inline float __fsqrt_rn(float x)
{
	return sqrtf(x);
}

static inline float __frcp_rn(float x)
{
	return 1 / x;
}

static inline float __fdiv_rn(float x, float y)
{
	return x / y;
}

/* Never contracted into a fused multiplication and addition: the sum sees what the barrier lets through. */
static inline float __fmul_rn(float x, float y)
{
	float product = x * y;

	__asm__("" : "+x"(product));
	return product;
}

static inline float __fadd_rn(float x, float y)
{
	__asm__("" : "+x"(x), "+x"(y));
	return x + y;
}

static inline float __fsub_rn(float x, float y)
{
	__asm__("" : "+x"(x), "+x"(y));
	return x - y;
}

static inline float __fmaf_rn(float x, float y, float z)
{
	return fmaf(x, y, z);
}

static inline int cuda_fake_to_int(float x)
{
	return isnan(x) ? 0 : x >= 2147483648.0f ? INT_MAX : x <= -2147483648.0f ? INT_MIN : (int)x;
}

static inline unsigned cuda_fake_to_unsigned(float x)
{
	return !(x > 0) ? 0 : x >= 4294967296.0f ? UINT_MAX : (unsigned)x;
}

static inline int __float2int_rn(float x)
{
	return cuda_fake_to_int(rintf(x));
}

static inline int __float2int_rz(float x)
{
	return cuda_fake_to_int(x);
}

static inline int __float2int_rd(float x)
{
	return cuda_fake_to_int(floorf(x));
}

static inline int __float2int_ru(float x)
{
	return cuda_fake_to_int(ceilf(x));
}

static inline unsigned __float2uint_rn(float x)
{
	return cuda_fake_to_unsigned(rintf(x));
}

static inline unsigned __float2uint_rz(float x)
{
	return cuda_fake_to_unsigned(x);
}

static inline float __int2float_rn(int x)
{
	return (float)x;
}

static inline float __uint2float_rn(unsigned x)
{
	return (float)x;
}

static inline float __double2float_rn(double x)
{
	return (float)x;
}

/* ---- min and max: the overloads of CUDA, which mixed signs make unsigned ---- */

#define CUDA_FAKE_MIN_MAX(T, A, B)                                                                           \
	static inline T min(A a, B b)                                                                        \
	{                                                                                                    \
		return (T)a < (T)b ? (T)a : (T)b;                                                            \
	}                                                                                                    \
	static inline T max(A a, B b)                                                                        \
	{                                                                                                    \
		return (T)a > (T)b ? (T)a : (T)b;                                                            \
	}
#define CUDA_FAKE_MIN_MAX_SIGNS(T)                                                                           \
	CUDA_FAKE_MIN_MAX(T, T, T)                                                                           \
	CUDA_FAKE_MIN_MAX(unsigned T, unsigned T, unsigned T)                                                \
	CUDA_FAKE_MIN_MAX(unsigned T, T, unsigned T)                                                         \
	CUDA_FAKE_MIN_MAX(unsigned T, unsigned T, T)

CUDA_FAKE_MIN_MAX_SIGNS(int)
CUDA_FAKE_MIN_MAX_SIGNS(long)
CUDA_FAKE_MIN_MAX_SIGNS(long long)

static inline float min(float a, float b)
{
	return fminf(a, b);
}

static inline float max(float a, float b)
{
	return fmaxf(a, b);
}

#define CUDA_FAKE_MIN_MAX_DOUBLE(A, B)                                                                       \
	static inline double min(A a, B b)                                                                   \
	{                                                                                                    \
		return fmin(a, b);                                                                           \
	}                                                                                                    \
	static inline double max(A a, B b)                                                                   \
	{                                                                                                    \
		return fmax(a, b);                                                                           \
	}

CUDA_FAKE_MIN_MAX_DOUBLE(double, double)
CUDA_FAKE_MIN_MAX_DOUBLE(float, double)
CUDA_FAKE_MIN_MAX_DOUBLE(double, float)

/* ---- loads and stores ---- */

#define CUDA_FAKE_LOAD(name)                                                                                 \
	template <typename T> static inline T name(const T *p)                                               \
	{                                                                                                    \
		return *p;                                                                                   \
	}
#define CUDA_FAKE_STORE(name)                                                                                \
	template <typename T> static inline void name(T *p, T x)                                             \
	{                                                                                                    \
		*p = x;                                                                                      \
	}

CUDA_FAKE_LOAD(__ldg)
CUDA_FAKE_LOAD(__ldca)
CUDA_FAKE_LOAD(__ldcg)
CUDA_FAKE_LOAD(__ldcs)
CUDA_FAKE_LOAD(__ldlu)
CUDA_FAKE_LOAD(__ldcv)
CUDA_FAKE_STORE(__stcg)
CUDA_FAKE_STORE(__stcs)
CUDA_FAKE_STORE(__stwb)
CUDA_FAKE_STORE(__stwt)

/* ---- atomics: sums of floats would have no order, and are not here ---- */

#define CUDA_FAKE_ATOMICS(T)                                                                                 \
	static inline T atomicAdd(T *p, T x)                                                                 \
	{                                                                                                    \
		return __atomic_fetch_add(p, x, __ATOMIC_RELAXED);                                           \
	}                                                                                                    \
	static inline T atomicExch(T *p, T x)                                                                \
	{                                                                                                    \
		return __atomic_exchange_n(p, x, __ATOMIC_RELAXED);                                          \
	}                                                                                                    \
	static inline T atomicAnd(T *p, T x)                                                                 \
	{                                                                                                    \
		return __atomic_fetch_and(p, x, __ATOMIC_RELAXED);                                           \
	}                                                                                                    \
	static inline T atomicOr(T *p, T x)                                                                  \
	{                                                                                                    \
		return __atomic_fetch_or(p, x, __ATOMIC_RELAXED);                                            \
	}                                                                                                    \
	static inline T atomicXor(T *p, T x)                                                                 \
	{                                                                                                    \
		return __atomic_fetch_xor(p, x, __ATOMIC_RELAXED);                                           \
	}                                                                                                    \
	static inline T atomicCAS(T *p, T expected, T x)                                                     \
	{                                                                                                    \
		__atomic_compare_exchange_n(p, &expected, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);     \
		return expected;                                                                             \
	}                                                                                                    \
	static inline T atomicMin(T *p, T x)                                                                 \
	{                                                                                                    \
		T old = __atomic_load_n(p, __ATOMIC_RELAXED);                                                \
                                                                                                             \
		while (x < old &&                                                                            \
		       !__atomic_compare_exchange_n(p, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))  \
			;                                                                                    \
		return old;                                                                                  \
	}                                                                                                    \
	static inline T atomicMax(T *p, T x)                                                                 \
	{                                                                                                    \
		T old = __atomic_load_n(p, __ATOMIC_RELAXED);                                                \
                                                                                                             \
		while (x > old &&                                                                            \
		       !__atomic_compare_exchange_n(p, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))  \
			;                                                                                    \
		return old;                                                                                  \
	}

CUDA_FAKE_ATOMICS(int)
CUDA_FAKE_ATOMICS(unsigned)
CUDA_FAKE_ATOMICS(unsigned long long)

static inline int atomicSub(int *p, int x)
{
	return __atomic_fetch_sub(p, x, __ATOMIC_RELAXED);
}

static inline unsigned atomicSub(unsigned *p, unsigned x)
{
	return __atomic_fetch_sub(p, x, __ATOMIC_RELAXED);
}

float atomicAdd(float *p, float x) = delete;
double atomicAdd(double *p, double x) = delete;
float atomicExch(float *p, float x) = delete;

#endif
