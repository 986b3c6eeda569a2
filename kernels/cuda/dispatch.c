/* Choices are made by an estimate of the time that a launch takes, not by a list of shapes: what a block must read from
 * memory and multiply, how many blocks a multiprocessor holds and how many it gets. The constants are those of the data
 * sheets, rounded; only ratios of estimates matter. */
#include "kernels/cuda/dispatch.h"

#define SPLITS_MOST 32
#define FUSED_MOST  256  /* tokens */
#define BLOCK_US    1.0  /* a block's start: filling the pipeline and the table of the code book */
#define STAGE_US    0.2  /* of a stage whatever is in it: addresses and a barrier */
#define WEIGHTS_US  45e3 /* weights that a multiprocessor makes in a microsecond */
#define ALONE       1.2  /* times as long for a block with no other beside it on its multiprocessor */
#define LAUNCH_US   2.0  /* the second kernel of a product in splits */
#define LATENCY_US  0.8  /* of memory under load */

struct speed {
	size_t shared;      /* bytes of shared memory of a multiprocessor */
	double bytes_us;    /* its part of the memory's bandwidth */
	double products_us; /* multiply-adds of its tensor cores by mma.sync */
};

static struct speed speed_of(int major, int minor)
{
	if (major == 9 || major == 10)
		return (struct speed){228 << 10, 30e3, 2.1e6};
	if (major == 8 && minor == 0)
		return (struct speed){164 << 10, 16e3, 1.4e6};
	return (struct speed){100 << 10, 7e3, 0.8e6};
}

enum nf4_kind nf4_product_kind(int major, int n, int rows, int cols)
{
	/* Tensor cores that mma.sync does not use to the full: cuBLASLt gains more there. */
	bool fast = major == 9 || major == 10;
	int most = fast ? 160 : FUSED_MOST;
	double weights = (double)rows * cols;

	/* There a tile of many tokens has too few steps to make up for the sums of its splits, in matrices of some size. */
	if (fast && n > 64 && weights >= 1e6 && weights < 8e6)
		return NF4_DEQUANTIZE;
	/* A lane's elements lie in one block of 64, and a row begins with one. */
	return n <= most && rows > 0 && cols > 0 && cols % NF4_BLOCK == 0 ? NF4_FUSED : NF4_DEQUANTIZE;
}

static size_t table_bytes(bool pairs)
{
	return (pairs ? 256 * 16 * 8 : 16 * 32 * 4) + 256 * 4;
}

/* A stage holds the activations, the packed values, and the absmax of each block: fp32, behind them what they are made of
 * when they are quantised themselves: 4 codes and an absmax2. */
static struct nf4_tile tile_make(int tokens, int width, int depth, int rows, int cols, int stages, bool pairs)
{
	size_t blocks = (size_t)cols / NF4_BLOCK;
	struct nf4_tile t = {.tokens = tokens, .width = width, .depth = depth, .stages = stages};

	t.stage_bytes = (size_t)tokens * (size_t)depth * 2 + (size_t)rows * (size_t)cols / 2 +
			(size_t)rows * (blocks * 4 + (blocks + 3) / 4 * 8);
	t.shared = table_bytes(pairs) + (size_t)stages * t.stage_bytes;
	return t;
}

struct nf4_tile nf4_forward_tile(int index)
{
	struct nf4_tile tiles[] = {
#define FORWARD(tokens, row_warps, k_warps, row_tiles, subs, stages, pairs)                                  \
	tile_make(tokens, 16 * (row_tiles) * (row_warps), 64 * (subs) * (k_warps),                           \
		  16 * (row_tiles) * (row_warps), 64 * (subs) * (k_warps), stages, pairs),
		NF4_FORWARD_TILES(FORWARD)};

	return tiles[index];
}

struct nf4_tile nf4_backward_tile(int index)
{
	struct nf4_tile tiles[] = {
#define BACKWARD(tokens, col_warps, k_warps, lane_cols, subs, stages, pairs)                                 \
	tile_make(tokens, 8 * (lane_cols) * (col_warps), 32 * (subs) * (k_warps), 32 * (subs) * (k_warps),   \
		  8 * (lane_cols) * (col_warps), stages, pairs),
		NF4_BACKWARD_TILES(BACKWARD)};

	return tiles[index];
}

static int ceil_ratio(int a, int b)
{
	return (a + b - 1) / b;
}

static size_t larger_size(size_t a, size_t b)
{
	return a > b ? a : b;
}

static double larger(double a, double b)
{
	return a > b ? a : b;
}

/* Microseconds that the busiest multiprocessor takes. */
static double estimate(const struct speed *s, const struct nf4_tile *t, const struct nf4_plan *p,
		       int multiprocessors, int n)
{
	int tokens = n < t->tokens ? n : t->tokens;
	double packed = t->width * (double)t->depth * 9 / 16, step_bytes = packed + tokens * 2.0 * t->depth;
	int blocks = ceil_ratio(p->width_blocks * p->token_blocks * p->splits, multiprocessors);
	int resident = (int)(s->shared / (t->shared + 1024));

	/* Registers hold two blocks, or one of many tokens. */
	resident = resident < 2 || t->tokens > 64 ? 1 : 2;
	int together = blocks < resident ? blocks : resident;
	/* Bytes in flight bound what latency allows. */
	double rate = together * (t->stages - 1) * packed / LATENCY_US;

	rate = rate < s->bytes_us ? rate : s->bytes_us;
	double weights = t->width * (double)t->depth,
	       step = (STAGE_US + weights / WEIGHTS_US) * (together > 1 ? 1 : ALONE);

	/* The largest tile leaves out groups of 32 tokens that do not exist. */
	step = larger(step, larger(step_bytes / rate,
				   weights * (t->tokens > 64 ? (tokens + 31) / 32 * 32 : t->tokens) /
					   s->products_us));
	double sums = p->splits > 1 ? 8.0 * t->width * tokens / s->bytes_us : 0;

	return blocks * (p->steps * step + sums) + ceil_ratio(blocks, resident) * BLOCK_US +
	       (p->splits > 1 ? LAUNCH_US : 0);
}

static struct nf4_plan plan_make(int major, int minor, int multiprocessors, int n, int width, int depth,
				 struct nf4_tile (*tile)(int), int count)
{
	struct speed s = speed_of(major, minor);
	struct nf4_plan best = {0};
	double least = 0;

	for (int i = 0; i < count; i++) {
		struct nf4_tile t = tile(i);
		int stages = ceil_ratio(depth, t.depth);

		if (t.shared + 1024 > s.shared)
			continue;
		/* A tile that is mostly empty, or many narrow ones that each make the weights, are never best. */
		if (t.tokens > 8 && t.tokens >= 2 * n && tile(i - 1).tokens >= n)
			continue;
		if (t.tokens < n && i < count - 1)
			continue;
		for (int splits = 1; splits <= SPLITS_MOST && splits <= stages; splits++) {
			struct nf4_plan p = {i, ceil_ratio(width, t.width), ceil_ratio(n, t.tokens), 0,
					     ceil_ratio(stages, splits)};

			p.splits = ceil_ratio(stages, p.steps);
			double us = p.splits == splits ? estimate(&s, &t, &p, multiprocessors, n) : -1;

			if (us >= 0 && (best.splits == 0 || us < least)) {
				best = p;
				least = us;
			}
		}
	}
	return best;
}

struct nf4_plan nf4_forward_plan(int major, int minor, int multiprocessors, int n, int rows, int cols)
{
	return plan_make(major, minor, multiprocessors, n, rows, cols, nf4_forward_tile, NF4_FORWARD_COUNT);
}

struct nf4_plan nf4_backward_plan(int major, int minor, int multiprocessors, int n, int rows, int cols)
{
	return plan_make(major, minor, multiprocessors, n, cols, rows, nf4_backward_tile, NF4_BACKWARD_COUNT);
}

size_t nf4_plan_scratch(const struct nf4_plan *p, int n, int width)
{
	return p->splits > 1 ? (size_t)p->splits * (size_t)n * (size_t)width * sizeof(float) : 0;
}

int convert_rows(int n, int rows, int cols, size_t act_size)
{
	size_t most = (n > CONVERT_FEW ? CONVERT_BYTES : CONVERT_FEW_BYTES) / ((size_t)cols * act_size + 1) /
		      NF4_BLOCK * NF4_BLOCK;

	most = most < NF4_BLOCK ? NF4_BLOCK : most;
	return (size_t)rows < most ? rows : (int)most;
}

static size_t padded(size_t bytes)
{
	return (bytes + 255) / 256 * 256;
}

size_t nf4_absmax_scratch(int rows, int cols)
{
	return padded(((size_t)rows * (size_t)cols + NF4_BLOCK - 1) / NF4_BLOCK * sizeof(float));
}

size_t convert_scratch(int n, int rows, int cols, size_t act_size)
{
	return padded((size_t)convert_rows(n, rows, cols, act_size) * (size_t)cols * act_size);
}

size_t product_scratch(int major, int minor, int multiprocessors, enum dtype act, int n, int rows, int cols,
		       enum dtype w)
{
	size_t act_size = act == DTYPE_F32 ? 4 : 2;

	if (w == act || n <= 0 || rows <= 0 || cols <= 0)
		return 0;
	/* What cannot be fused for its alignment is converted, whatever the shape. */
	size_t most = 0;

	for (int t = n > CONVERT_FEW ? CONVERT_FEW : n;; t = n) {
		bool pieces = convert_rows(t, rows, cols, act_size) < rows;

		most = larger_size(most, convert_scratch(t, rows, cols, act_size) +
						 (pieces ? (size_t)t * (size_t)cols * sizeof(float) : 0));
		if (t == n)
			break;
	}
	/* Fewer tokens may be cut into more splits. */
	for (int t = n < FUSED_MOST ? n : FUSED_MOST; w == DTYPE_NF4 && act != DTYPE_F32 && t > 0; t--) {
		if (nf4_product_kind(major, t, rows, cols) != NF4_FUSED)
			continue;
		struct nf4_plan forward = nf4_forward_plan(major, minor, multiprocessors, t, rows, cols);
		struct nf4_plan backward = nf4_backward_plan(major, minor, multiprocessors, t, rows, cols);

		most = larger_size(most,
				   nf4_absmax_scratch(rows, cols) + nf4_plan_scratch(&forward, t, rows));
		most = larger_size(most,
				   nf4_absmax_scratch(rows, cols) + nf4_plan_scratch(&backward, t, cols));
	}
	return most;
}
