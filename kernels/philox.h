/* Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): a counter-based
 * generator, so that a random number depends on what it is for, not on when it was drawn. */
#ifndef KERNELS_PHILOX_H
#define KERNELS_PHILOX_H

#include <stdint.h>

#ifdef __CUDACC__
#define PHILOX_ANYWHERE __host__ __device__
#else
#define PHILOX_ANYWHERE
#endif

/* out = the four words for this 128-bit counter and 64-bit key. */
PHILOX_ANYWHERE static inline void philox(const uint32_t counter[4], uint64_t key, uint32_t out[4])
{
	uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
	uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);

	for (int round = 0; round < 10; round++) {
		uint64_t p0 = (uint64_t)0xd2511f53 * c0, p1 = (uint64_t)0xcd9e8d57 * c2;

		c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
		c1 = (uint32_t)p1;
		c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
		c3 = (uint32_t)p0;
		k0 += 0x9e3779b9;
		k1 += 0xbb67ae85;
	}
	out[0] = c0;
	out[1] = c1;
	out[2] = c2;
	out[3] = c3;
}

/* A word as a number in [0, 1), 24 bits. */
PHILOX_ANYWHERE static inline float philox_unit(uint32_t word)
{
	return (float)(word >> 8) * 0x1p-24f;
}

#endif
