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

/* keep[c - c0] = 0 or 1 / (1 - p) for channels [c0, c0 + n) of row t; c0 a multiple of 4. */
CLONES static void mask_row(const struct dropout_mask *d, uint32_t stream, int t, int c0, int n, float *keep)
{
	uint32_t threshold = (uint32_t)(d->p * 4294967296.0), word[4][LANES];
	uint32_t token = (uint32_t)d->token[t], step = *d->step;
	float scale = 1.0f / (1.0f - d->p), kept[4][LANES], group[4 * LANES];

	for (int c = 0; c < n; c += 4 * LANES) {
		int m = n - c < 4 * LANES ? n - c : 4 * LANES;

		philox_lanes((uint32_t)(c0 + c) / 4, token, stream, step, d->seed, word);
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

static bool drops(const struct dropout_mask *drop)
{
	return drop && drop->p > 0;
}

/* out (m, cols) = rows [t0, t0 + m) of x, dropped. */
static void drop_rows(const struct dropout_mask *drop, uint32_t stream, const float *x, int t0, int m,
		      int cols, float *out)
{
	for (int t = 0; t < m; t++) {
		float *row = out + (ptrdiff_t)t * cols;

		mask_row(drop, stream, t0 + t, 0, cols, row);
		multiply(row, x + (ptrdiff_t)(t0 + t) * cols, cols, row);
	}
}

static double work_of(const struct lora_part *parts, int count, int n, int cols)
{
	double work = 0;

	for (int i = 0; i < count; i++)
		work += (double)n * parts[i].rank * (parts[i].rows + cols);
	return work;
}

void cpu_lora(struct device *d, const void *x, const struct lora_part *parts, int count, int n, int cols,
	      float scale, const struct dropout_mask *drop, enum store how, void *y, int ldy)
{
	const float *in = x;
	float *out = y;

#pragma omp parallel for schedule(dynamic) if (work_of(parts, count, n, cols) > PARALLEL_WORK)
	for (int t0 = 0; t0 < n; t0 += TOKENS) {
		int m = n - t0 < TOKENS ? n - t0 : TOKENS;
		const float *rows = in + (ptrdiff_t)t0 * cols;

		for (const struct lora_part *p = parts; p < parts + count; p++) {
			if (drops(drop)) {
				float *kept = scratch(SCRATCH_OP, sizeof *kept * (size_t)m * (size_t)cols);

				drop_rows(drop, p->stream, in, t0, m, cols, kept);
				rows = kept;
			}
			gemm(&(struct gemm){p->rank, m, cols, p->a, cols, 1, rows, 1, cols, p->xa + t0, n,
					    1.0f, false});
			gemm(&(struct gemm){m, p->rows, p->rank, p->xa + t0, 1, n, p->b, 1, p->rank,
					    out + (ptrdiff_t)t0 * ldy + p->at, ldy, scale, true});
		}
	}
}

/* What the backward pass reads. */
struct inputs {
	const float *x, *dy; /* (n, cols); rows lddy apart */
	int n, cols, lddy;
	float scale;
	const struct dropout_mask *drop; /* NULL: none */
};

/* grad_b (rows, rank) += scale * dy^T xa^T, rows [r0, r0 + m) of it */
static void grad_b_block(const struct inputs *in, const struct lora_part *p, int r0, int m)
{
	float *transposed = scratch(SCRATCH_OP, sizeof *transposed * (size_t)p->rank * (size_t)m);

	gemm(&(struct gemm){p->rank, m, in->n, p->xa, in->n, 1, in->dy + p->at + r0, in->lddy, 1, transposed,
			    m, in->scale, false});
	for (int r = 0; r < m; r++)
		for (int i = 0; i < p->rank; i++)
			p->grad_b[(ptrdiff_t)(r0 + r) * p->rank + i] += transposed[(ptrdiff_t)i * m + r];
}

/* Columns [c0, c0 + m) of grad_a and dx. */
static void grad_a_block(const struct inputs *in, const struct lora_part *p, const float *dxa, int c0, int m,
			 float *dx)
{
	const int chunk = 256;
	int n = in->n, cols = in->cols, rank = p->rank;
	const float *a = p->a + c0, *x = in->x + c0;
	float *grad_a = p->grad_a + c0;

	if (!in->drop) {
		gemm(&(struct gemm){rank, m, n, dxa, n, 1, x, cols, 1, grad_a, cols, 1.0f, true});
		if (dx)
			gemm(&(struct gemm){n, m, rank, dxa, 1, n, a, cols, 1, dx + c0, cols, 1.0f, true});
		return;
	}
	size_t size = (size_t)chunk * (size_t)m;
	float *keep = scratch(SCRATCH_OP, sizeof *keep * 3 * size), *kept = keep + size, *part = kept + size;

	for (int t0 = 0; t0 < n; t0 += chunk) {
		int k = n - t0 < chunk ? n - t0 : chunk;

		for (int t = 0; t < k; t++) {
			mask_row(in->drop, p->stream, t0 + t, c0, m, keep + (ptrdiff_t)t * m);
			multiply(keep + (ptrdiff_t)t * m, x + (ptrdiff_t)(t0 + t) * cols, m,
				 kept + (ptrdiff_t)t * m);
		}
		gemm(&(struct gemm){rank, m, k, dxa + t0, n, 1, kept, m, 1, grad_a, cols, 1.0f, true});
		if (!dx)
			continue;
		gemm(&(struct gemm){k, m, rank, dxa + t0, 1, n, a, cols, 1, part, m, 1.0f, false});
		for (int t = 0; t < k; t++)
			add_product(keep + (ptrdiff_t)t * m, part + (ptrdiff_t)t * m, m,
				    dx + (ptrdiff_t)(t0 + t) * cols + c0);
	}
}

/* Rows of grad_b, or columns of grad_a, to a task. */
static int block_of(int n)
{
	return n > 512 ? 256 : 64;
}

static int blocks_of(int n, int block)
{
	return (n + block - 1) / block;
}

/* Task i of those that need only dy: dxa by blocks of tokens, then grad_b by blocks of its rows. */
static void first_task(const struct inputs *in, const struct lora_part *p, float *dxa, int i)
{
	int token_blocks = blocks_of(in->n, TOKENS), block = block_of(p->rows);

	if (i < token_blocks) {
		int t0 = i * TOKENS, m = in->n - t0 < TOKENS ? in->n - t0 : TOKENS;

		gemm(&(struct gemm){p->rank, m, p->rows, p->b, 1, p->rank,
				    in->dy + (ptrdiff_t)t0 * in->lddy + p->at, 1, in->lddy, dxa + t0, in->n,
				    in->scale, false});
	} else {
		int r0 = (i - token_blocks) * block;

		grad_b_block(in, p, r0, p->rows - r0 < block ? p->rows - r0 : block);
	}
}

void cpu_lora_grad(struct device *d, const void *x, const struct lora_part *parts, int count, int n, int cols,
		   float scale, const struct dropout_mask *drop, const void *dy, int lddy, float *dxa,
		   enum store how, void *dx)
{
	struct inputs in = {x, dy, n, cols, lddy, scale, drops(drop) ? drop : NULL};
	int block = block_of(cols), tasks[LORA_PARTS + 1] = {0};
	float *dxa_of[LORA_PARTS + 1] = {dxa};

	for (int i = 0; i < count; i++) {
		tasks[i + 1] = tasks[i] + blocks_of(n, TOKENS) +
			       blocks_of(parts[i].rows, block_of(parts[i].rows));
		dxa_of[i + 1] = dxa_of[i] + (ptrdiff_t)parts[i].rank * n;
	}
#pragma omp parallel if (work_of(parts, count, n, cols) > PARALLEL_WORK)
	{
#pragma omp for schedule(dynamic)
		for (int i = 0; i < tasks[count]; i++) {
			int p = 0;

			while (i >= tasks[p + 1])
				p++;
			first_task(&in, parts + p, dxa_of[p], i - tasks[p]);
		}
		/* These need all of dxa; the parts add to the same dx, so they take turns. */
#pragma omp for schedule(dynamic)
		for (int c0 = 0; c0 < cols; c0 += block)
			for (int p = 0; p < count; p++)
				grad_a_block(&in, parts + p, dxa_of[p], c0,
					     cols - c0 < block ? cols - c0 : block, dx);
	}
}
