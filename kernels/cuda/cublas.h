/* Products by cuBLASLt, which is loaded at the first of them: it is some hundred megabytes, and a model in NF4 decodes
 * without it. Builds with ANNEAL_CUBLASLT_LINKED link it instead. */
#ifndef KERNELS_CUDA_CUBLAS_H
#define KERNELS_CUDA_CUBLAS_H

#include "kernels/cuda/products.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What products keep on a device. */
struct cublas {
	float *dynamic_map; /* (256) of matrix.h, in the device's memory */
	void *handle;       /* cublasLtHandle_t; NULL before the first product */
	void *workspace;
	size_t workspace_size;
	struct algorithm
		*algorithms; /* (ALGORITHM_SETS, ALGORITHM_WAYS): what was chosen for which product */
	unsigned turn;       /* which one of a full set goes next */
};

/* false when cuBLASLt has no algorithm for these shapes and pointers; true when the product was asked for, or a failure was
 * noted. The same product always gets the same algorithm, and one whose sums have one order. */
bool cublas_product(struct device *d, const struct product *p);
void cublas_close(struct cublas *c);

#ifdef __cplusplus
}
#endif
#endif
