/* Products with weight matrices. The result is cut into tiles by its shape alone and a tile's sum over k is
 * never split, so threads change nothing but the time. Weights that are not fp32 are converted block by block
 * into scratch; the same numbers as from a matrix converted once. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/simd.h"

#define PARALLEL_WORK 400000.0 /* multiply-adds below which threads cost more than they save */
#define DOT_TOKENS    16       /* up to here a product reads each weight once and never packs it */
#define DOT_COLS      128      /* … when its rows are this long, or there are hardly any tokens */

/* Tile sizes of an (m, n) result. converted: a tile's weights have to be made, so fewer and taller tiles. */
static void tile_shape(int m, int n, bool converted, int *tm, int *tn)
{
	if (n >= 1024) {
		*tn = n >= 4096 ? 256 : 128;
		*tm = converted ? 768 : 192;
		return;
	}
	/* Small products: packing the weights again for every tile must stay cheap beside the tile. */
	*tn = n;
	*tm = m >= 192 ? 96 : m > 24 ? ((m + 1) / 2 + 11) / 12 * 12 : 24;
	if (converted) {
		*tn = n >= 256 ? 64 : 32;
		*tm = 768;
	}
}

/* out (nr, nc) = rows r0 …, columns c0 … of w. */
static void weight_block(const struct matrix *w, int r0, int nr, int c0, int nc, float *out)
{
	size_t size = w->dtype == DTYPE_F32 ? 4 : 2;

	for (int r = 0; r < nr; r++) {
		size_t at = (size_t)(r0 + r) * (size_t)w->cols + (size_t)c0;

		if (w->dtype == DTYPE_NF4)
			nf4_dequantize(w, at, (size_t)nc, out + (size_t)r * (size_t)nc);
		else
			floats_from(w->dtype, (const unsigned char *)w->data + at * size, (size_t)nc,
				    out + (size_t)r * (size_t)nc);
	}
}

#define CHUNK 1024 /* k to a converted block: a multiple of gemm's, so that the sums are the same */

/* Activations are fp32 here: where a result is added to and where it is written is all that `how` says. */
static bool adds(enum store how)
{
	return how == ADD_ACT || how == ADD_F32;
}

/* One tile of y = x W^T: m tokens by n rows of w from r0. */
static void forward_tile(const float *x, const struct matrix *w, int m, int r0, int n, bool add, float *y,
			 int ldy)
{
	int k = w->cols;

	if (w->dtype == DTYPE_F32) {
		gemm(&(struct gemm){m, n, k, x, k, 1, (const float *)w->data + (ptrdiff_t)r0 * k, 1, k, y,
				    ldy, 1.0f, add});
		return;
	}
	float *block = scratch(SCRATCH_WEIGHTS, sizeof *block * (size_t)n * CHUNK);

	for (int k0 = 0; k0 < k; k0 += CHUNK) {
		int kc = k - k0 < CHUNK ? k - k0 : CHUNK;

		weight_block(w, r0, n, k0, kc, block);
		gemm(&(struct gemm){m, n, kc, x + k0, k, 1, block, 1, kc, y, ldy, 1.0f, add || k0});
	}
}

static void forward_dot(const float *x, const struct matrix *w, int m, int r0, int n, bool add, float *y,
			int ldy)
{
	int k = w->cols;

	if (w->dtype == DTYPE_F32) {
		gemm_dot(m, n, k, x, k, (const float *)w->data + (ptrdiff_t)r0 * k, k, y, ldy, add);
		return;
	}
	float *rows = scratch(SCRATCH_WEIGHTS, sizeof *rows * 4 * (size_t)k);

	for (int r = 0; r < n; r += 4) {
		int nr = n - r < 4 ? n - r : 4;

		weight_block(w, r0 + r, nr, 0, k, rows);
		gemm_dot(m, nr, k, x, k, rows, k, y + r, ldy, add);
	}
}

void cpu_matmul(struct device *d, const void *x, const struct matrix *w, int n, enum store how, void *y,
		int ldy)
{
	const float *in = x;
	float *out = y;
	bool dot = n <= 4 || (n <= DOT_TOKENS && w->cols >= DOT_COLS);
	int tm, tn;

	tile_shape(n, w->rows, w->dtype != DTYPE_F32, &tm, &tn);
	if (dot) {
		tm = n;
		tn = 64;
	}
	int down = tm ? (n + tm - 1) / tm : 0, across = (w->rows + tn - 1) / tn;

#pragma omp parallel for schedule(dynamic) if ((double)n * w->rows * w->cols > PARALLEL_WORK)
	for (int t = 0; t < down * across; t++) {
		int m0 = t % down * tm, r0 = t / down * tn;
		int m = n - m0 < tm ? n - m0 : tm, r = w->rows - r0 < tn ? w->rows - r0 : tn;

		(dot ? forward_dot : forward_tile)(in + (ptrdiff_t)m0 * w->cols, w, m, r0, r, adds(how),
						   out + (ptrdiff_t)m0 * ldy + r0, ldy);
	}
}

/* One tile of dx = dy W: m tokens by n columns of w from c0. */
static void grad_x_tile(const float *dy, int lddy, const struct matrix *w, int m, int c0, int n, bool add,
			float *dx)
{
	int k = w->rows;

	if (w->dtype == DTYPE_F32) {
		gemm(&(struct gemm){m, n, k, dy, lddy, 1, (const float *)w->data + c0, w->cols, 1, dx,
				    w->cols, 1.0f, add});
		return;
	}
	float *block = scratch(SCRATCH_WEIGHTS, sizeof *block * (size_t)n * CHUNK);

	for (int k0 = 0; k0 < k; k0 += CHUNK) {
		int kc = k - k0 < CHUNK ? k - k0 : CHUNK;

		weight_block(w, k0, kc, c0, n, block);
		gemm(&(struct gemm){m, n, kc, dy + k0, lddy, 1, block, n, 1, dx, w->cols, 1.0f, add || k0});
	}
}

void cpu_matmul_grad_x(struct device *d, const void *dy, int lddy, const struct matrix *w, int n,
		       enum store how, void *dx)
{
	const float *in = dy;
	float *out = dx;
	int tm, tn;

	tile_shape(n, w->cols, w->dtype != DTYPE_F32, &tm, &tn);
	int down = tm ? (n + tm - 1) / tm : 0, across = (w->cols + tn - 1) / tn;

#pragma omp parallel for schedule(dynamic) if ((double)n * w->rows * w->cols > PARALLEL_WORK)
	for (int t = 0; t < down * across; t++) {
		int m0 = t % down * tm, c0 = t / down * tn;
		int m = n - m0 < tm ? n - m0 : tm, c = w->cols - c0 < tn ? w->cols - c0 : tn;

		grad_x_tile(in + (ptrdiff_t)m0 * lddy, lddy, w, m, c0, c, adds(how),
			    out + (ptrdiff_t)m0 * w->cols + c0);
	}
}

void cpu_matmul_grad_w(struct device *d, const void *dy, int lddy, const void *x, int n, int rows, int cols,
		       float *dw)
{
	const float *left = dy, *right = x;
	int tm, tn;

	tile_shape(rows, cols, false, &tm, &tn);
	int down = (rows + tm - 1) / tm, across = (cols + tn - 1) / tn;

#pragma omp parallel for schedule(dynamic) if ((double)n * rows * cols > PARALLEL_WORK)
	for (int t = 0; t < down * across; t++) {
		int r0 = t % down * tm, c0 = t / down * tn;
		int r = rows - r0 < tm ? rows - r0 : tm, c = cols - c0 < tn ? cols - c0 : tn;

		gemm(&(struct gemm){r, c, n, left + r0, 1, lddy, right + c0, cols, 1,
				    dw + (ptrdiff_t)r0 * cols + c0, cols, 1.0f, true});
	}
}
