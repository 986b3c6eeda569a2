/* What the products' dispatcher chooses, and where tiles lie in shared memory: plain C, no device. */
#include "tests/unit/cmocka_all.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/nf4_layout.h"

/* Compute capability, multiprocessors, bytes of shared memory that a block may have. */
static const struct card {
	int major, minor, multiprocessors;
	size_t shared;
} cards[] = {{8, 0, 108, 163 << 10}, {8, 6, 84, 99 << 10},  {8, 9, 58, 99 << 10},
	     {9, 0, 132, 227 << 10}, {10, 0, 148, 227 << 10}, {12, 0, 170, 99 << 10}};
/* Gemma 2B's projections and odd ones. */
static const int shapes[][2] = {{2048, 2048}, {256, 2048}, {2560, 2048}, {16384, 2048}, {32768, 2048},
				{2048, 16384}, {16, 64},   {48, 192},    {4096, 11008}, {64, 64}};
static const int tokens[] = {1, 2, 3, 7, 8, 9, 16, 17, 33, 64, 65, 150, 256};

#define COUNT(a) (sizeof a / sizeof *a)

static void many_tokens_and_cut_blocks_are_dequantised(void **state)
{
	(void)state;
	for (size_t c = 0; c < COUNT(cards); c++) {
		const struct card *k = &cards[c];

		assert_int_equal(nf4_product_kind(k->major, k->minor, 1, 2048, 2048), NF4_FUSED);
		assert_int_equal(nf4_product_kind(k->major, k->minor, 8192, 2048, 2048), NF4_DEQUANTIZE);
		assert_int_equal(nf4_product_kind(k->major, k->minor, 8, 2048, 2000), NF4_DEQUANTIZE);
		/* Once dequantised, always for more tokens. */
		for (int n = 1, last = NF4_FUSED; n < 2000; n++) {
			int kind = nf4_product_kind(k->major, k->minor, n, 2048, 2048);

			assert_true(kind >= last);
			last = kind;
		}
	}
}

/* A plan covers the whole product, no split is empty, and its block fits the card. */
static void check_plan(const struct card *k, const struct nf4_plan *p, const struct nf4_tile *t, int n, int width, int depth)
{
	int stages = (depth + t->depth - 1) / t->depth;

	assert_true(p->width_blocks * t->width >= width && (p->width_blocks - 1) * t->width < width);
	assert_true(p->token_blocks * t->tokens >= n && (p->token_blocks - 1) * t->tokens < n);
	assert_true(p->splits >= 1 && p->steps >= 1);
	assert_true(p->splits * p->steps >= stages && (p->splits - 1) * p->steps < stages);
	assert_true(t->shared <= k->shared);
	assert_int_equal(nf4_plan_scratch(p, n, width),
			 p->splits > 1 ? (size_t)p->splits * (size_t)n * (size_t)width * 4 : 0);
}

static void plans_cover_the_product_and_fit_every_card(void **state)
{
	(void)state;
	for (size_t c = 0; c < COUNT(cards); c++)
		for (size_t s = 0; s < COUNT(shapes); s++)
			for (size_t i = 0; i < COUNT(tokens); i++) {
				const struct card *k = &cards[c];
				int rows = shapes[s][0], cols = shapes[s][1], n = tokens[i];
				struct nf4_plan f = nf4_forward_plan(k->major, k->minor, k->multiprocessors, n, rows, cols);
				struct nf4_plan b = nf4_backward_plan(k->major, k->minor, k->multiprocessors, n, rows, cols);
				struct nf4_tile ft = nf4_forward_tile(f.tile), bt = nf4_backward_tile(b.tile);
				size_t most = product_scratch(k->major, k->minor, k->multiprocessors, DTYPE_BF16, n, rows, cols,
							      DTYPE_NF4);

				check_plan(k, &f, &ft, n, rows, cols);
				check_plan(k, &b, &bt, n, cols, rows);
				if (nf4_product_kind(k->major, k->minor, n, rows, cols) == NF4_FUSED) {
					assert_true(most >= nf4_plan_scratch(&f, n, rows));
					assert_true(most >= nf4_plan_scratch(&b, n, cols));
				}
			}
}

/* With few tokens a small matrix is cut along the sum until the card is busy. */
static void splits_fill_the_card(void **state)
{
	(void)state;
	for (size_t c = 0; c < COUNT(cards); c++) {
		const struct card *k = &cards[c];
		struct nf4_plan p = nf4_forward_plan(k->major, k->minor, k->multiprocessors, 8, 2048, 16384);

		assert_true(2 * p.width_blocks * p.token_blocks * p.splits >= k->multiprocessors);
	}
}

/* Marks bytes [at, at + size) as used once. */
static void mark(unsigned char *used, int total, int at, int size)
{
	assert_true(at >= 0 && at + size <= total);
	for (int i = at; i < at + size; i++)
		assert_int_equal(used[i]++, 0);
}

/* Every chunk of a tile has a place of its own, and together they fill it. */
static void layouts_hold_every_element_once(void **state)
{
	(void)state;
	for (int chunks = 8; chunks <= 64; chunks *= 2) {
		unsigned char *used = xcalloc((size_t)(16 * chunks * 16), 1);

		for (int t = 0; t < 16; t++)
			for (int c = 0; c < chunks; c++)
				mark(used, 16 * chunks * 16, nf4_x_offset(t, c, chunks), 16);
		free(used);
	}
	for (int blocks = 1; blocks <= 8; blocks *= 2) {
		unsigned char *used = xcalloc((size_t)(32 * blocks * 32), 1);

		for (int r = 0; r < 32; r++)
			for (int b = 0; b < blocks; b++)
				mark(used, 32 * blocks * 32, nf4_w_offset(r, b, blocks), 32);
		free(used);
	}
	for (int chunks = 4; chunks <= 16; chunks *= 2) {
		unsigned char *used = xcalloc((size_t)(16 * chunks * 16), 1);

		for (int t = 0; t < 16; t++)
			for (int c = 0; c < chunks; c++)
				mark(used, 16 * chunks * 16, nf4_dy_offset(t, c, chunks), 16);
		free(used);
	}
	unsigned char *used = xcalloc(64 * 4 * 32, 1);

	for (int r = 0; r < 64; r++)
		for (int b = 0; b < 4; b++)
			mark(used, 64 * 4 * 32, nf4_wt_offset(r, b), 32);
	free(used);
}

/* 8 lanes at a time read 16 bytes each of x, 16 lanes 8 bytes each of W: never two words of one bank. */
static void layouts_meet_no_bank_twice(void **state)
{
	(void)state;
	for (int chunks = 8; chunks <= 64; chunks *= 2)
		for (int first = 0; first < 32; first += 8)
			for (int h = 0; h < 2; h++) {
				unsigned char used[128] = {0};

				for (int lane = first; lane < first + 8; lane++)
					for (int i = 0; i < 16; i++)
						assert_int_equal(
							used[(nf4_x_offset(lane / 4, 2 * (lane % 4) + h, chunks) + i) % 128]++, 0);
			}
	for (int blocks = 2; blocks <= 8; blocks *= 2)
		for (int first = 0; first < 32; first += 16) {
			unsigned char used[128] = {0};

			for (int lane = first; lane < first + 16; lane++)
				for (int i = 0; i < 8; i++)
					assert_int_equal(used[(nf4_w_offset(lane / 4, 0, blocks) + lane % 4 * 8 + i) % 128]++, 0);
		}
}

static void conversions_are_cut_into_whole_blocks(void **state)
{
	(void)state;
	for (int rows = 1; rows < 300000; rows = rows * 3 + 1)
		for (int cols = 1; cols < 20000; cols = cols * 5 + 3) {
			int most = convert_rows(rows, cols, 2);

			assert_true(most >= 1 && most <= rows);
			assert_true(most == rows || (size_t)most * (size_t)cols % NF4_BLOCK == 0);
			assert_true(convert_scratch(rows, cols, 2) >= (size_t)most * (size_t)cols * 2);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(many_tokens_and_cut_blocks_are_dequantised),
		cmocka_unit_test(plans_cover_the_product_and_fit_every_card),
		cmocka_unit_test(splits_fill_the_card),
		cmocka_unit_test(layouts_hold_every_element_once),
		cmocka_unit_test(layouts_meet_no_bank_twice),
		cmocka_unit_test(conversions_are_cut_into_whole_blocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
