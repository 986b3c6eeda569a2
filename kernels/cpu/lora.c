/* Low-rank adapters as skinny products. x A^T is kept transposed, (rank, n): the rank is then the height of a
 * register tile and the tokens its width. A dropout mask is a function of its counters, so nothing of it is
 * stored: the backward pass makes the same one. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/simd.h"

#define TOKENS        64 /* tokens to a task */
#define PARALLEL_WORK 200000.0

typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint64_t products __attribute__((vector_size(8 * LANES)));

/* The words of philox() for 16 groups of four channels at once: counters {group + l, token, stream, step}. */
INLINE void philox_lanes(uint32_t group, uint32_t token, uint32_t stream, uint32_t step, uint64_t key,
			 uint32_t word[4][LANES])
{
	const words index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
	words c0 = index + group, c1 = (words){0} + token, c2 = (words){0} + stream, c3 = (words){0} + step;
	uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);

	for (int round = 0; round < 10; round++) {
		products p0 = __builtin_convertvector(c0, products) * 0xd2511f53;
		products p1 = __builtin_convertvector(c2, products) * 0xcd9e8d57;

		c0 = __builtin_convertvector(p1 >> 32, words) ^ c1 ^ k0;
		c1 = __builtin_convertvector(p1, words);
		c2 = __builtin_convertvector(p0 >> 32, words) ^ c3 ^ k1;
		c3 = __builtin_convertvector(p0, words);
		k0 += 0x9e3779b9;
		k1 += 0xbb67ae85;
	}
	memcpy(word[0], &c0, sizeof c0);
	memcpy(word[1], &c1, sizeof c1);
	memcpy(word[2], &c2, sizeof c2);
	memcpy(word[3], &c3, sizeof c3);
}

/* keep[c - c0] = 0 or 1 / (1 - p) for channels [c0, c0 + n) of one token; c0 a multiple of 4. */
CLONES static void mask_row(const struct dropout_mask *d, int32_t token, int c0, int n, float *keep)
{
	uint32_t threshold = (uint32_t)(d->p * 4294967296.0), word[4][LANES];
	float scale = 1.0f / (1.0f - d->p), kept[4][LANES], group[4 * LANES];

	for (int c = 0; c < n; c += 4 * LANES) {
		int m = n - c < 4 * LANES ? n - c : 4 * LANES;

		philox_lanes((uint32_t)(c0 + c) / 4, (uint32_t)token, d->stream, d->step, d->seed, word);
		for (int w = 0; w < 4; w++)
			for (int l = 0; l < LANES; l++)
				kept[w][l] = word[w][l] < threshold ? 0.0f : scale;
		for (int l = 0; l < LANES; l++)
			for (int w = 0; w < 4; w++)
				group[4 * l + w] = kept[w][l];
		memcpy(keep + c, group, sizeof *keep * (size_t)m);
	}
}

CLONES static void multiply(const float *x, const float *y, int n, float *out)
{
	for (int i = 0; i < n; i++)
		out[i] = x[i] * y[i];
}

CLONES static void add_product(const float *x, const float *y, int n, float *out)
{
	for (int i = 0; i < n; i++)
		out[i] += x[i] * y[i];
}

void cpu_lora(const float *x, const float *a, const float *b, int n, int rows, int cols, int rank,
	      float scale, const struct dropout_mask *drop, float *xa, float *y)
{
#pragma omp parallel for schedule(dynamic) if ((double)n * rank * (rows + cols) > PARALLEL_WORK)
	for (int t0 = 0; t0 < n; t0 += TOKENS) {
		int m = n - t0 < TOKENS ? n - t0 : TOKENS;
		const float *in = x + (ptrdiff_t)t0 * cols;

		if (drop && drop->p > 0) {
			float *kept = scratch(SCRATCH_OP, sizeof *kept * (size_t)m * (size_t)cols);

			for (int t = 0; t < m; t++) {
				mask_row(drop, drop->token[t0 + t], 0, cols, kept + (ptrdiff_t)t * cols);
				multiply(kept + (ptrdiff_t)t * cols, in + (ptrdiff_t)t * cols, cols,
					 kept + (ptrdiff_t)t * cols);
			}
			in = kept;
		}
		gemm(&(struct gemm){rank, m, cols, a, cols, 1, in, 1, cols, xa + t0, n, 1.0f, false});
		gemm(&(struct gemm){m, rows, rank, xa + t0, 1, n, b, 1, rank, y + (ptrdiff_t)t0 * rows, rows,
				    scale, true});
	}
}

/* grad_b (rows, rank) += scale * dy^T xa^T, columns [r0, r0 + m) of dy */
static void grad_b_block(const float *xa, const float *dy, int n, int rows, int rank, float scale, int r0,
			 int m, float *grad_b)
{
	float *transposed = scratch(SCRATCH_OP, sizeof *transposed * (size_t)rank * (size_t)m);

	gemm(&(struct gemm){rank, m, n, xa, n, 1, dy + r0, rows, 1, transposed, m, scale, false});
	for (int r = 0; r < m; r++)
		for (int i = 0; i < rank; i++)
			grad_b[(ptrdiff_t)(r0 + r) * rank + i] += transposed[(ptrdiff_t)i * m + r];
}

/* Columns [c0, c0 + m) of grad_a and dx. */
static void grad_a_block(const float *x, const float *a, const float *dxa, int n, int cols, int rank,
			 const struct dropout_mask *drop, int c0, int m, float *grad_a, float *dx)
{
	const int chunk = 256;

	if (!drop || drop->p <= 0) {
		gemm(&(struct gemm){rank, m, n, dxa, n, 1, x + c0, cols, 1, grad_a + c0, cols, 1.0f, true});
		if (dx)
			gemm(&(struct gemm){n, m, rank, dxa, 1, n, a + c0, cols, 1, dx + c0, cols, 1.0f,
					    true});
		return;
	}
	size_t size = (size_t)chunk * (size_t)m;
	float *keep = scratch(SCRATCH_OP, sizeof *keep * 3 * size), *kept = keep + size, *part = kept + size;

	for (int t0 = 0; t0 < n; t0 += chunk) {
		int k = n - t0 < chunk ? n - t0 : chunk;

		for (int t = 0; t < k; t++) {
			mask_row(drop, drop->token[t0 + t], c0, m, keep + (ptrdiff_t)t * m);
			multiply(keep + (ptrdiff_t)t * m, x + (ptrdiff_t)(t0 + t) * cols + c0, m,
				 kept + (ptrdiff_t)t * m);
		}
		gemm(&(struct gemm){rank, m, k, dxa + t0, n, 1, kept, m, 1, grad_a + c0, cols, 1.0f, true});
		if (!dx)
			continue;
		gemm(&(struct gemm){k, m, rank, dxa + t0, 1, n, a + c0, cols, 1, part, m, 1.0f, false});
		for (int t = 0; t < k; t++)
			add_product(keep + (ptrdiff_t)t * m, part + (ptrdiff_t)t * m, m,
				    dx + (ptrdiff_t)(t0 + t) * cols + c0);
	}
}

void cpu_lora_grad(const float *x, const float *a, const float *b, const float *xa, const float *dy, int n,
		   int rows, int cols, int rank, float scale, const struct dropout_mask *drop, float *dxa,
		   float *grad_a, float *grad_b, float *dx)
{
	double work = (double)n * rank;
	int row_block = rows > 512 ? 256 : 64, col_block = cols > 512 ? 256 : 64;
	int token_blocks = (n + TOKENS - 1) / TOKENS, row_blocks = (rows + row_block - 1) / row_block;

	/* The first two need only dy; the third needs all of dxa. */
#pragma omp parallel if (work * (rows + cols) > PARALLEL_WORK)
	{
#pragma omp for schedule(dynamic)
		for (int i = 0; i < token_blocks + row_blocks; i++) {
			if (i < token_blocks) {
				int t0 = i * TOKENS, m = n - t0 < TOKENS ? n - t0 : TOKENS;

				gemm(&(struct gemm){rank, m, rows, b, 1, rank, dy + (ptrdiff_t)t0 * rows, 1,
						    rows, dxa + t0, n, scale, false});
			} else {
				int r0 = (i - token_blocks) * row_block;

				grad_b_block(xa, dy, n, rows, rank, scale, r0,
					     rows - r0 < row_block ? rows - r0 : row_block, grad_b);
			}
		}
#pragma omp for schedule(dynamic)
		for (int c0 = 0; c0 < cols; c0 += col_block)
			grad_a_block(x, a, dxa, n, cols, rank, drop, c0,
				     cols - c0 < col_block ? cols - c0 : col_block, grad_a, dx);
	}
}
