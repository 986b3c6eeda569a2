/* Matrix products: the project's kernels beside oneDNN's sgemm, where libdnnl is installed, in GFLOP/s; the best of
 * several rounds, all threads. Forward is y = x W^T, input the gradient dx = dy W, weight dW = dy^T x.
 *   bench_kernels */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/dynlib.h"
#include "base/mem.h"
#include "kernels/kernels.h"

/* oneDNN's C interface: row-major, 0 on success. */
static int (*p_dnnl_sgemm)(char transa, char transb, int64_t m, int64_t n, int64_t k, float alpha,
			   const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
			   int64_t ldc);
static const struct dynlib_symbol symbols[] = {{"dnnl_sgemm", (void **)&p_dnnl_sgemm}, {NULL, NULL}};

enum product { FORWARD, INPUT, WEIGHT };
static const char *const product_names[] = {"forward", "input", "weight"};

struct operands {
	int n, rows, cols;
	float *x, *y, *w; /* (n, cols), (n, rows), (rows, cols) */
	struct matrix matrix;
};

static void run_own(enum product p, const struct operands *o)
{
	if (p == FORWARD)
		kernels_cpu.matmul(&device_cpu, o->x, &o->matrix, o->n, STORE_F32, o->y, o->rows);
	else if (p == INPUT)
		kernels_cpu.matmul_grad_x(&device_cpu, o->y, o->rows, &o->matrix, o->n, STORE_F32, o->x);
	else
		kernels_cpu.matmul_grad_w(&device_cpu, o->y, o->rows, o->x, o->n, o->rows, o->cols, o->w);
}

static void run_onednn(enum product p, const struct operands *o)
{
	int64_t n = o->n, rows = o->rows, cols = o->cols;

	if (p == FORWARD)
		p_dnnl_sgemm('N', 'T', n, rows, cols, 1, o->x, cols, o->w, cols, 0, o->y, rows);
	else if (p == INPUT)
		p_dnnl_sgemm('N', 'N', n, cols, rows, 1, o->y, rows, o->w, cols, 0, o->x, cols);
	else
		p_dnnl_sgemm('T', 'N', rows, cols, n, 1, o->y, rows, o->x, cols, 1, o->w, cols);
}

static double gflops(void (*run)(enum product p, const struct operands *o), enum product p,
		     const struct operands *o)
{
	double work = 2e-9 * o->n * o->rows * o->cols, best = 0;
	int repeat = 1 + (int)(0.2 / work);

	for (int round = 0; round < 7; round++) {
		double start = clock_mono();

		for (int i = 0; i < repeat; i++)
			run(p, o);
		double speed = work * repeat / (clock_mono() - start);

		best = speed > best ? speed : best;
	}
	return best;
}

static void fill(float *x, size_t n)
{
	uint32_t state = 1;

	for (size_t i = 0; i < n; i++) {
		state = state * 1664525u + 1013904223u;
		x[i] = (float)(state >> 8) * 0x1p-25f - 0.25f;
	}
}

int main(void)
{
	/* stories260K, Gemma 2B: query, value and gate projection; a decoding step. */
	static const int shapes[][3] = {{150, 64, 64},     {150, 172, 64},   {150, 512, 64},
					{150, 2048, 2048}, {150, 256, 2048}, {150, 16384, 2048},
					{512, 2048, 2048}, {1, 2048, 2048}};
	static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_NF4};
	struct error err = ERROR_INIT;

	if (dynlib_load("libdnnl.so.2", "libdnnl2", symbols, &err))
		printf("without oneDNN: %s\n", err.message);
	printf("%6s %6s %6s  %-8s %8s %8s %8s %8s\n", "n", "rows", "cols", "product", "fp32", "bf16", "nf4",
	       "oneDNN");
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		struct operands o = {.n = shapes[i][0], .rows = shapes[i][1], .cols = shapes[i][2]};
		size_t nx = (size_t)o.n * (size_t)o.cols, ny = (size_t)o.n * (size_t)o.rows;
		size_t nw = (size_t)o.rows * (size_t)o.cols;
		void *stored = xmalloc(nw * 4);
		float *absmax = xmalloc(sizeof *absmax * nf4_blocks(nw));

		o.x = xmalloc(nx * sizeof *o.x);
		o.y = xmalloc(ny * sizeof *o.y);
		o.w = xmalloc(nw * sizeof *o.w);
		for (enum product p = FORWARD; p <= WEIGHT; p++) {
			printf("%6d %6d %6d  %-8s", o.n, o.rows, o.cols, product_names[p]);
			for (size_t d = 0; d < 3; d++) {
				if (p == WEIGHT && d > 0) { /* its result is fp32 whatever the weights are */
					printf(" %8s", "-");
					continue;
				}
				fill(o.x, nx);
				fill(o.y, ny);
				fill(o.w, nw);
				o.matrix = matrix_f32(o.w, o.rows, o.cols);
				if (d > 0) {
					o.matrix.dtype = dtypes[d];
					o.matrix.data = stored;
					o.matrix.absmax = absmax;
					if (dtypes[d] == DTYPE_NF4)
						nf4_quantize(o.w, nw, false, stored, absmax);
					else
						floats_to(dtypes[d], o.w, nw, stored);
				}
				printf(" %8.1f", gflops(run_own, p, &o));
			}
			if (p_dnnl_sgemm)
				printf(" %8.1f\n", gflops(run_onednn, p, &o));
			else
				printf(" %8s\n", "-");
		}
		free(stored);
		free(absmax);
		free(o.x);
		free(o.y);
		free(o.w);
	}
	return 0;
}
