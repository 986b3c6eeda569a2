/* What the kernel tests share: the backends that are built, random buffers, comparison with a float64 reference. */
#ifndef TESTS_UNIT_KERNELS_CHECK_H
#define TESTS_UNIT_KERNELS_CHECK_H

#include "tests/unit/cmocka_all.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/kernels.h"

static const struct kernels *const backends[] = {&kernels_cpu};

#define EACH_BACKEND(k)                                                                                      \
	for (size_t backend = 0; backend < sizeof backends / sizeof *backends && ((k) = backends[backend]);  \
	     backend++)

static uint64_t random_state = 12345;

static inline uint32_t random_word(void)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(random_state >> 32);
}

/* 1 … most */
static inline int random_size(int most)
{
	return 1 + (int)(random_word() % (uint32_t)most);
}

/* n values in [-scale, scale); the caller frees them. */
static inline float *random_floats(size_t n, float scale)
{
	float *x = xmalloc(sizeof *x * (n ? n : 1));

	for (size_t i = 0; i < n; i++)
		x[i] = scale * ((float)(random_word() >> 8) * 0x1p-23f - 1.0f);
	return x;
}

static inline float *copy_floats(const float *x, size_t n)
{
	float *y = xmalloc(sizeof *y * n);

	memcpy(y, x, sizeof *y * n);
	return y;
}

static inline void assert_close(double got, double want, double tolerance, const char *what, size_t i)
{
	if (!(fabs(got - want) <= tolerance * (1 + fabs(want))))
		fail_msg("%s[%zu] is %.9g, expected %.9g", what, i, got, want);
}

#endif
