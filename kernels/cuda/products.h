/* What the files of the matrix products share: product.c chooses, the others compute. */
#ifndef KERNELS_CUDA_PRODUCTS_H
#define KERNELS_CUDA_PRODUCTS_H

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/dispatch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Once per device that has its stream: its struct cublas (cublas.h), without loading cuBLASLt yet. -1 with the failure noted. */
int cuda_products_open(struct cuda_device *d);
void cuda_products_close(struct cuda_device *d);

/* C (m, n) = A (m, k) B (k, n), or added to C, with matrices as cuBLAS has them, column-major: element (i, j) of one lies
 * at i + j * ld, or, transposed, at j + i * ld. A row-major matrix (rows, cols) is one of (cols, rows) here. */
struct product {
	int m, n, k;
	enum dtype type; /* of A and B */
	enum dtype out;  /* of C: type or DTYPE_F32 */
	bool add;
	bool ta, tb; /* A, B are stored transposed */
	const void *a, *b;
	void *c;
	int lda, ldb, ldc;
};

/* By plain fp32 arithmetic: any shapes, strides and alignment (simt.cu). */
void simt_product(struct device *d, const struct product *p);

/* out = rows first … first + count - 1 of m, rounded to act (convert.cu; NF4: nf4.cu, first * cols a multiple of 64). */
void matrix_convert(struct device *d, enum dtype act, const struct matrix *m, int first, int count,
		    void *out);
void nf4_convert(struct device *d, enum dtype act, const struct matrix *m, int first, int count, void *out);
/* absmax (rows * cols / 64) of a double-quantised matrix (nf4.cu). */
void absmax_expand(struct device *d, const struct matrix *m, float *absmax);

/* How a product's result is stored: `width` values to a token, tokens ld apart, in act or fp32. */
struct product_out {
	enum dtype act;
	enum store how;
	void *y;
	int ld;
	int n, width;
};

/* y = x W^T for n <= PRODUCT_FEW and any dtype of w (few.cu). NF4: cols a multiple of 64. */
void few_product(struct device *d, const struct product_out *out, const void *x, const struct matrix *w);
/* The fused NF4 products for 16-bit activations. false: not for these pointers and sizes. */
bool nf4_forward(struct device *d, const struct product_out *out, const void *x, const struct matrix *w);
bool nf4_backward(struct device *d, const struct product_out *out, const void *dy, int lddy,
		  const struct matrix *w);
/* Stores, or adds, the sum of parts (splits, n, width), in order (simt.cu). */
void splits_sum(struct device *d, const struct product_out *out, const float *parts, int splits);

#ifdef __cplusplus
}
#endif
#endif
