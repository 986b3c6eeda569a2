/* Matrix products: which of the kernels does one. A matrix in the activations' dtype goes to cuBLASLt, or for few tokens
 * to a kernel that reads it once; an NF4 matrix to the fused kernels as long as those are faster; everything else is
 * converted into scratch first, in pieces of whole rows. What cuBLASLt does not take, plain arithmetic does. */
#include "kernels/cuda/cublas.h"

#include <stdlib.h>

#include "base/mem.h"

int cuda_products_open(struct cuda_device *d)
{
	struct cublas *c = xcalloc(1, sizeof *c);
	cudaError_t code = cudaMalloc((void **)&c->dynamic_map, 256 * sizeof *c->dynamic_map);

	if (code == cudaSuccess)
		code = cudaMemcpyAsync(c->dynamic_map, dynamic_map(), 256 * sizeof *c->dynamic_map,
				       cudaMemcpyHostToDevice, d->stream);
	else
		c->dynamic_map = NULL;
	d->cublas = c;
	cuda_note(&d->base, code, "the table of dynamic quantisation");
	if (code == cudaSuccess)
		return 0;
	cuda_products_close(d);
	return -1;
}

void cuda_products_close(struct cuda_device *d)
{
	struct cublas *c = d->cublas;

	if (!c)
		return;
	cublas_close(c);
	cudaFree(c->dynamic_map);
	free(c);
	d->cublas = NULL;
}

size_t product_scratch_bound(const struct cuda_device *d, int n, int rows, int cols, enum dtype w)
{
	return product_scratch(d->major, d->minor, d->multiprocessors, d->base.act, n, rows, cols, w);
}

static size_t act_size(enum dtype act)
{
	return act == DTYPE_F32 ? 4 : 2;
}

static bool adds(enum store how)
{
	return how == ADD_ACT || how == ADD_F32;
}

static enum dtype stored(enum dtype act, enum store how)
{
	return how == STORE_ACT || how == ADD_ACT ? act : DTYPE_F32;
}

static void product_run(struct device *d, const struct product *p)
{
	if (!cublas_product(d, p))
		simt_product(d, p);
}

/* y[:, r …] = x w^T for `rows` rows, in act, that lie at w. */
static void rows_product(struct device *d, const struct product_out *out, const void *x, const void *w, int r,
			 int rows, int cols)
{
	enum dtype type = stored(out->act, out->how);

	product_run(d, &(struct product){.m = rows,
					 .n = out->n,
					 .k = cols,
					 .type = out->act,
					 .out = type,
					 .add = adds(out->how),
					 .ta = true,
					 .a = w,
					 .lda = cols,
					 .b = x,
					 .ldb = cols,
					 .c = (char *)out->y + (size_t)r * act_size(type),
					 .ldc = out->ld});
}

/* dx = dy[:, r …] w for the same. */
static void rows_product_grad(struct device *d, const struct product_out *out, const void *dy, int lddy,
			      const void *w, int r, int rows)
{
	product_run(d, &(struct product){.m = out->width,
					 .n = out->n,
					 .k = rows,
					 .type = out->act,
					 .out = stored(out->act, out->how),
					 .add = adds(out->how),
					 .a = w,
					 .lda = out->width,
					 .b = (const char *)dy + (size_t)r * act_size(out->act),
					 .ldb = lddy,
					 .c = out->y,
					 .ldc = out->ld});
}

static bool fused(struct device *d, enum dtype act, const struct matrix *w, int n)
{
	struct cuda_device *c = cuda_device(d);

	return w->dtype == DTYPE_NF4 && act != DTYPE_F32 &&
	       nf4_product_kind(c->major, n, w->rows, w->cols) == NF4_FUSED;
}

static void matmul(struct device *d, enum dtype act, const void *x, const struct matrix *w, int n,
		   enum store how, void *y, int ldy)
{
	struct product_out out = {act, how, y, ldy, n, w->rows};

	if (n == 0 || w->rows == 0)
		return;
	if (fused(d, act, w, n) && nf4_forward(d, &out, x, w))
		return;
	if (n <= PRODUCT_FEW && (w->dtype != DTYPE_NF4 || w->cols % NF4_BLOCK == 0)) {
		few_product(d, &out, x, w);
		return;
	}
	if (w->dtype == act) {
		rows_product(d, &out, x, w->data, 0, w->rows, w->cols);
		return;
	}
	int most = convert_rows(n, w->rows, w->cols, act_size(act));
	void *values = cuda_scratch(d, convert_scratch(n, w->rows, w->cols, act_size(act)));

	if (!values)
		return;
	for (int r = 0; r < w->rows; r += most) {
		int rows = w->rows - r < most ? w->rows - r : most;

		matrix_convert(d, act, w, r, rows, values);
		rows_product(d, &out, x, values, r, rows, w->cols);
	}
}

static void matmul_grad_x(struct device *d, enum dtype act, const void *dy, int lddy, const struct matrix *w,
			  int n, enum store how, void *dx)
{
	struct product_out out = {act, how, dx, w->cols, n, w->cols};

	if (n == 0 || w->cols == 0)
		return;
	if (fused(d, act, w, n) && nf4_backward(d, &out, dy, lddy, w))
		return;
	if (w->dtype == act) {
		rows_product_grad(d, &out, dy, lddy, w->data, 0, w->rows);
		return;
	}
	int most = convert_rows(n, w->rows, w->cols, act_size(act));
	size_t size = convert_scratch(n, w->rows, w->cols, act_size(act));
	bool pieces = most < w->rows;
	char *values = cuda_scratch(d, size + (pieces ? (size_t)n * (size_t)w->cols * sizeof(float) : 0));
	/* Pieces are added up in fp32, and rounded once. */
	struct product_out sum = pieces ? (struct product_out){act,     STORE_F32, values + size,
							       w->cols, n,         w->cols}
					: out;

	if (!values)
		return;
	for (int r = 0; r < w->rows; r += most) {
		int rows = w->rows - r < most ? w->rows - r : most;

		matrix_convert(d, act, w, r, rows, values);
		rows_product_grad(d, &sum, dy, lddy, values, r, rows);
		sum.how = ADD_F32;
	}
	if (pieces)
		splits_sum(d, &out, sum.y, 1);
}

static void matmul_grad_w(struct device *d, enum dtype act, const void *dy, int lddy, const void *x, int n,
			  int rows, int cols, float *dw)
{
	if (n == 0 || rows == 0 || cols == 0)
		return;
	product_run(d, &(struct product){.m = cols,
					 .n = rows,
					 .k = n,
					 .type = act,
					 .out = DTYPE_F32,
					 .add = true,
					 .tb = true,
					 .a = x,
					 .lda = cols,
					 .b = dy,
					 .ldb = lddy,
					 .c = dw,
					 .ldc = cols});
}

#define PRODUCTS(name, act)                                                                                  \
	void cuda_##name##_matmul(struct device *d, const void *x, const struct matrix *w, int n,            \
				  enum store how, void *y, int ldy)                                          \
	{                                                                                                    \
		matmul(d, act, x, w, n, how, y, ldy);                                                        \
	}                                                                                                    \
	void cuda_##name##_matmul_grad_x(struct device *d, const void *dy, int lddy, const struct matrix *w, \
					 int n, enum store how, void *dx)                                    \
	{                                                                                                    \
		matmul_grad_x(d, act, dy, lddy, w, n, how, dx);                                              \
	}                                                                                                    \
	void cuda_##name##_matmul_grad_w(struct device *d, const void *dy, int lddy, const void *x, int n,   \
					 int rows, int cols, float *dw)                                      \
	{                                                                                                    \
		matmul_grad_w(d, act, dy, lddy, x, n, rows, cols, dw);                                       \
	}

PRODUCTS(f32, DTYPE_F32)
PRODUCTS(bf16, DTYPE_BF16)
PRODUCTS(f16, DTYPE_F16)
