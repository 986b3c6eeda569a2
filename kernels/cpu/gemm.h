/* Products of fp32 blocks on one thread: what every matrix product, attention and LoRA are made of. */
#ifndef KERNELS_CPU_GEMM_H
#define KERNELS_CPU_GEMM_H

#include <stdbool.h>
#include <stddef.h>

/* c (m, n) = alpha * a (m, k) b (k, n); add: c +=. Element (i, p) of a is a[i * a_row + p * a_col], element
 * (p, j) of b is b[p * b_row + j * b_col]; of each pair of strides one is 1. Rows of c are ldc apart. The sum
 * over k runs in order in blocks of 256 whatever m and n are: a row or column of c does not depend on its
 * neighbours. */
struct gemm {
	int m, n, k;
	const float *a;
	ptrdiff_t a_row, a_col;
	const float *b;
	ptrdiff_t b_row, b_col;
	float *c;
	ptrdiff_t ldc;
	float alpha;
	bool add;
};

/* Uses the scratch slots SCRATCH_PACK_A and SCRATCH_PACK_B. */
void gemm(const struct gemm *g);

/* c (m, n) = a b^T with rows of a (m, k) lda apart and rows of b (n, k) ldb apart; add: c +=. Dot products
 * along the rows: reads b once as it lies, which is best for few rows of a (decoding) and few rows of b
 * (LoRA's rank). */
void gemm_dot(int m, int n, int k, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, float *c,
	      ptrdiff_t ldc, bool add);

#endif
