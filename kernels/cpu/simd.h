/* What the CPU kernels share: one function compiled for several instruction sets, vector arithmetic that
 * every compiler turns into vector instructions, scratch memory of a thread. */
#ifndef KERNELS_CPU_SIMD_H
#define KERNELS_CPU_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The build targets any machine of its family; the loader picks the clone for this one. A function marked so
 * holds no OpenMP construct: what the compiler outlines from it would not be cloned. */
#if defined(__x86_64__) && defined(__gnu_linux__) &&                                                         \
	(defined(__clang__) ? __clang_major__ >= 14 : __GNUC__ >= 12)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

#define INLINE static inline __attribute__((always_inline))

/* Sums run in LANES partial sums, lane i taking elements i, i + LANES, …, which are then added in pairs: one
 * order for every machine and vector length. */
#define LANES 16

INLINE float lanes_sum(float *lane)
{
	for (int width = LANES / 2; width > 0; width /= 2)
		for (int i = 0; i < width; i++)
			lane[i] += lane[i + width];
	return lane[0];
}

INLINE uint32_t float_bits(float x)
{
	uint32_t u;

	memcpy(&u, &x, 4);
	return u;
}

INLINE float bits_float(uint32_t u)
{
	float x;

	memcpy(&x, &u, 4);
	return x;
}

/* e^x to within 2 ulp; x is clamped to [-87.3, 88.3]. Branch-free, so that loops over it vectorise.
 * x = k ln 2 + r, |r| <= ln 2 / 2, ln 2 in two parts; e^r by its Taylor polynomial of degree 7. */
INLINE float exp_fast(float x)
{
	x = x < -87.3f ? -87.3f : x;
	x = x > 88.3f ? 88.3f : x;
	float shifted = x * 1.44269504f + 0x1.8p23f; /* rounds to an integer in the low bits */
	float k = shifted - 0x1.8p23f;
	float r = (x - k * 0x1.62e4p-1f) - k * 0x1.7f7d1cp-20f;
	float p = 1.0f / 5040;

	p = p * r + 1.0f / 720;
	p = p * r + 1.0f / 120;
	p = p * r + 1.0f / 24;
	p = p * r + 1.0f / 6;
	p = p * r + 0.5f;
	p = p * r + 1.0f;
	p = p * r + 1.0f;
	return p * bits_float((float_bits(shifted) + 127) << 23);
}

/* tanh x to within 3 ulp: up to 1 by Lambert's continued fraction cut off behind 11, beyond it 1 - 2 / (e^2x + 1). */
INLINE float tanh_fast(float x)
{
	float a = x < 0 ? -x : x, z = x * x;
	float near = x * (10395 + z * (1260 + z * 21)) / (10395 + z * (4725 + z * (210 + z)));
	float far = 1.0f - 2.0f / (exp_fast(2.0f * a) + 1.0f);

	return a < 1.0f ? near : x < 0 ? -far : far;
}

/* size bytes that belong to the calling thread until its next call with the same slot; aligned to 64. */
enum scratch_slot { SCRATCH_PACK_A, SCRATCH_PACK_B, SCRATCH_WEIGHTS, SCRATCH_OP, SCRATCH_SLOTS };
void *scratch(enum scratch_slot slot, size_t size);

#endif
