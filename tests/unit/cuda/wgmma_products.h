/* A product by one warpgroup, for test_wgmma.c: out (64, n) = a b over WGMMA_DEPTH. */
#ifndef TESTS_UNIT_CUDA_WGMMA_PRODUCTS_H
#define TESTS_UNIT_CUDA_WGMMA_PRODUCTS_H

#include <stdbool.h>

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#define WGMMA_DEPTH 128

/* How the operands lie in shared memory (kernels/cuda/wgmma.cuh), and in memory: by rows a (64, depth), b (n, depth); by columns
 * a (depth, 64), b (depth, n). */
enum wgmma_form {
	BY_ROWS,
	BY_COLUMNS,
	ROWS_AND_COLUMNS,
	REGISTERS_AND_ROWS,
	REGISTERS_AND_COLUMNS,
	WGMMA_FORMS
};

/* n: 64, 80 (b by rows only), 128 or 256. false: the device has no such instructions. */
bool wgmma_product(struct device *d, enum wgmma_form form, int n, const void *a, const void *b, float *out);

#ifdef __cplusplus
}
#endif
#endif
