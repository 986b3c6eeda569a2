/* How products are cut into blocks and where tiles lie in shared memory: by arithmetic alone, for every kind of GPU. */
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/nf4_layout.h"
#include "tests/unit/kernels/check.h"

/* Compute capability, multiprocessors, and the shared memory that a block may have and a multiprocessor has. */
static const struct gpu {
	int major, minor, multiprocessors;
	size_t block_shared, shared;
} gpus[] = {
	{8, 0, 108, 163 << 10, 164 << 10},  {8, 6, 84, 99 << 10, 100 << 10},
	{8, 9, 128, 99 << 10, 100 << 10},   {9, 0, 132, 227 << 10, 228 << 10},
	{10, 0, 148, 227 << 10, 228 << 10}, {12, 0, 170, 99 << 10, 100 << 10},
	{12, 0, 20, 99 << 10, 100 << 10},
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void few_tokens_are_fused_and_many_are_not(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(gpus); i++) {
		int major = gpus[i].major, most = 0;

		for (int n = 1; n < 5000; n++)
			if (nf4_product_kind(major, n, 4096, 4096) == NF4_FUSED) {
				assert_int_equal(most, n - 1);
				most = n;
			}
		assert_in_range(most, 64, 512);
		assert_int_equal(nf4_product_kind(major, 1, 1, 64), NF4_FUSED);
		/* A row that begins within a block of 64. */
		assert_int_equal(nf4_product_kind(major, 1, 4096, 4096 + 32), NF4_DEQUANTIZE);
		assert_int_equal(nf4_product_kind(major, 1, 64, 0), NF4_DEQUANTIZE);
		assert_int_equal(nf4_product_kind(major, 1, 0, 64), NF4_DEQUANTIZE);
	}
}

static void tiles_grow_and_every_gpu_has_one_for_every_number_of_tokens(void **state)
{
	(void)state;
	for (int back = 0; back < 2; back++) {
		int before = 0, count = back ? NF4_BACKWARD_COUNT : NF4_FORWARD_COUNT, widest = 0;

		for (int i = 0; i < count; i++) {
			struct nf4_tile t = back ? nf4_backward_tile(i) : nf4_forward_tile(i);
			bool everywhere = true;

			/* Of the same tokens, by what they are wide. */
			assert_true(t.tokens > before || (t.tokens == before && t.width > widest));
			before = t.tokens;
			widest = t.width;
			assert_int_equal(t.stage_bytes % 16, 0);
			assert_true(t.stages >= 3 && t.shared > (size_t)t.stages * t.stage_bytes);
			for (size_t k = 0; k < COUNT(gpus); k++)
				everywhere = everywhere && t.shared <= gpus[k].block_shared;
			/* Only of tiles with as many tokens as another may one need more than some GPU has. */
			assert_true(everywhere ||
				    (i > 0 &&
				     (back ? nf4_backward_tile(i - 1) : nf4_forward_tile(i - 1)).tokens ==
					     t.tokens));
			/* Bound by the tensor cores, which want more warps than one block has; beyond that, registers hold one. */
			if (t.tokens == 64)
				assert_true(2 * (t.shared + 1024) <= gpus[0].shared);
		}
	}
}

/* As many blocks as it takes, none of which is without work. */
static void check_cut(int size, int tile, int blocks)
{
	assert_true(blocks >= 1 && (int64_t)blocks * tile >= size && (int64_t)(blocks - 1) * tile < size);
}

static void plans_cover_everything_once(void **state)
{
	(void)state;
	for (int i = 0; i < 4000; i++) {
		const struct gpu *g = &gpus[(size_t)i % COUNT(gpus)];
		int n = random_size(256), rows = random_size(i % 2 ? 300 : 150000),
		    cols = 64 * random_size(i % 3 ? 20 : 500);
		bool back = i % 4 < 2;
		struct nf4_plan p = back ? nf4_backward_plan(g->major, g->minor, g->multiprocessors, n, rows,
							     cols)
					 : nf4_forward_plan(g->major, g->minor, g->multiprocessors, n, rows,
							    cols);
		struct nf4_plan again = back ? nf4_backward_plan(g->major, g->minor, g->multiprocessors, n,
								 rows, cols)
					     : nf4_forward_plan(g->major, g->minor, g->multiprocessors, n,
								rows, cols);
		struct nf4_tile t = back ? nf4_backward_tile(p.tile) : nf4_forward_tile(p.tile);
		int width = back ? cols : rows, depth = back ? rows : cols;

		assert_memory_equal(&p, &again, sizeof p);
		assert_true(t.shared <= g->block_shared);
		check_cut(width, t.width, p.width_blocks);
		check_cut(n, t.tokens, p.token_blocks);
		check_cut(depth, t.depth * p.steps, p.splits);
		/* Only tokens beyond the largest tile are a reason to read the matrix again. */
		assert_true(p.token_blocks == 1 ||
			    p.tile == (back ? NF4_BACKWARD_COUNT : NF4_FORWARD_COUNT) - 1);
		assert_true(p.token_blocks < 65536 && p.splits < 65536);
		assert_true(nf4_plan_scratch(&p, n, width) ==
			    (p.splits > 1 ? 4 * (size_t)p.splits * (size_t)n * (size_t)width : 0));
	}
}

static void sums_are_split_where_blocks_are_missing(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(gpus); i++) {
		const struct gpu *g = &gpus[i];
		int many = g->multiprocessors;
		struct nf4_plan small = nf4_forward_plan(g->major, g->minor, many, 8, 64, 16384);
		struct nf4_plan large = nf4_forward_plan(g->major, g->minor, many, 8, 131072, 4096);
		struct nf4_plan shallow = nf4_forward_plan(g->major, g->minor, many, 8, 64, 64);

		assert_true(small.splits > 4);
		assert_int_equal(large.splits, 1);
		assert_int_equal(shallow.splits, 1);
		small = nf4_backward_plan(g->major, g->minor, many, 8, 16384, 64);
		large = nf4_backward_plan(g->major, g->minor, many, 8, 512, 262144);
		shallow = nf4_backward_plan(g->major, g->minor, many, 8, 8, 64);
		assert_true(small.splits > 4);
		assert_int_equal(large.splits, 1);
		assert_int_equal(shallow.splits, 1);
	}
}

/* ---- shared memory ---- */

/* Marks `bytes` bytes at `at` as read; each is read once. */
static void mark(unsigned char *seen, size_t size, int at, int bytes)
{
	assert_true(at >= 0 && (size_t)(at + bytes) <= size && at % bytes == 0);
	for (int i = at; i < at + bytes; i++)
		assert_int_equal(seen[i]++, 0);
}

/* Reads of `bytes` bytes by the lanes of a warp meet no bank twice: those that are done together, 128 bytes of them, lie in
 * different banks or in the same word. */
static void check_banks(const int at[32], int bytes)
{
	int together = bytes > 4 ? 128 / bytes : 32;

	for (int first = 0; first < 32; first += together) {
		int word[32];

		for (int b = 0; b < 32; b++)
			word[b] = -1;
		for (int lane = first; lane < first + together; lane++)
			for (int w = at[lane] / 4; w < (at[lane] + bytes + 3) / 4; w++) {
				assert_true(word[w % 32] == -1 || word[w % 32] == w);
				word[w % 32] = w;
			}
	}
}

/* What nf4_forward.cu reads, warp by warp: every packed byte once, every value of x once for each of row_warps. */
static void check_forward(int tokens, int row_warps, int k_warps, int row_tiles, int subs)
{
	int blocks = subs * k_warps, rows = 16 * row_tiles * row_warps, chunks = 8 * blocks, at[32];
	size_t w_size = (size_t)(rows * blocks * 32), x_size = (size_t)(tokens * chunks * 16);
	unsigned char *w_seen = xcalloc(w_size, 1), *x_seen = xcalloc(x_size, 1);

	for (int warp = 0; warp < row_warps * k_warps; warp++)
		for (int sub = 0; sub < subs; sub++) {
			int block = warp / row_warps * subs + sub;

			for (int row0 = 0; row0 < 16 * row_tiles; row0 += 8) {
				for (int lane = 0; lane < 32; lane++) {
					at[lane] = nf4_w_offset(warp % row_warps * 16 * row_tiles + row0 +
									lane / 4,
								block, blocks) +
						   8 * (lane % 4);
					mark(w_seen, w_size, at[lane], 8);
				}
				check_banks(at, 8);
			}
			for (int token0 = 0; token0 < tokens && warp % row_warps == 0; token0 += 8)
				for (int h = 0; h < 2; h++) {
					for (int lane = 0; lane < 32; lane++) {
						int token = token0 + lane / 4;

						at[lane] = nf4_x_offset(token, block * 8 + lane % 4 * 2 + h,
									chunks);
						if (token < tokens)
							mark(x_seen, x_size, at[lane], 16);
					}
					check_banks(at, 16);
				}
		}
	for (size_t i = 0; i < w_size; i++)
		assert_int_equal(w_seen[i], 1);
	for (size_t i = 0; i < x_size; i++)
		assert_int_equal(x_seen[i], 1);
	FREE(w_seen, x_seen);
}

/* The same for nf4_backward.cu. */
static void check_backward(int tokens, int col_warps, int k_warps, int lane_cols, int subs)
{
	int rows = 32 * subs * k_warps, chunks = rows / 8, at[32];
	size_t w_size = (size_t)(rows * NF4_BACKWARD_COLS / 2), dy_size = (size_t)(tokens * rows * 2);
	unsigned char *w_seen = xcalloc(w_size, 1), *dy_seen = xcalloc(dy_size, 1);

	for (int warp = 0; warp < col_warps * k_warps; warp++)
		for (int sub = 0; sub < subs; sub++) {
			int group = warp / col_warps * subs + sub, col = warp % col_warps * 8 * lane_cols;

			for (int r = 0; r < 8; r++) {
				for (int lane = 0; lane < 32; lane++) {
					at[lane] = nf4_wt_offset(group * 32 + lane % 4 * 8 + r,
								 col / NF4_BLOCK) +
						   (col % NF4_BLOCK + lane / 4 * lane_cols) / 2;
					mark(w_seen, w_size, at[lane], lane_cols / 2);
				}
				check_banks(at, lane_cols / 2);
			}
			for (int token0 = 0; token0 < tokens && warp % col_warps == 0; token0 += 8) {
				for (int lane = 0; lane < 32; lane++) {
					at[lane] = nf4_dy_offset(token0 + lane / 4, group * 4 + lane % 4,
								 chunks);
					mark(dy_seen, dy_size, at[lane], 16);
				}
				check_banks(at, 16);
			}
		}
	for (size_t i = 0; i < w_size; i++)
		assert_int_equal(w_seen[i], 1);
	for (size_t i = 0; i < dy_size; i++)
		assert_int_equal(dy_seen[i], 1);
	FREE(w_seen, dy_seen);
}

static void tiles_are_read_once_and_without_bank_conflicts(void **state)
{
	(void)state;
#define CHECK_FORWARD(tokens, row_warps, k_warps, row_tiles, subs, stages, pairs)                            \
	check_forward(tokens, row_warps, k_warps, row_tiles, subs);
#define CHECK_BACKWARD(tokens, col_warps, k_warps, lane_cols, subs, stages, pairs)                           \
	check_backward(tokens, col_warps, k_warps, lane_cols, subs);
	NF4_FORWARD_TILES(CHECK_FORWARD)
	NF4_BACKWARD_TILES(CHECK_BACKWARD)
}

/* ---- scratch ---- */

static void conversions_take_whole_blocks_of_bounded_size(void **state)
{
	(void)state;
	for (int i = 0; i < 2000; i++) {
		int rows = random_size(300000), cols = random_size(i % 2 ? 200 : 20000);
		int n = random_size(1000);
		size_t act = i % 3 ? 2 : 4, size = convert_scratch(n, rows, cols, act);
		int r = convert_rows(n, rows, cols, act);

		assert_true(r >= 1 && r <= rows);
		assert_true(r == rows || r % NF4_BLOCK == 0);
		assert_true(size % 256 == 0 && size >= (size_t)r * (size_t)cols * act);
		assert_true(r <= NF4_BLOCK ||
			    size <= (n > CONVERT_FEW ? CONVERT_BYTES : CONVERT_FEW_BYTES) + 256);
		assert_true(nf4_absmax_scratch(rows, cols) * NF4_BLOCK >= 4 * (size_t)rows * (size_t)cols);
	}
}

static void scratch_is_enough_for_fewer_tokens_too(void **state)
{
	(void)state;
	for (int i = 0; i < 60; i++) {
		const struct gpu *g = &gpus[(size_t)i % COUNT(gpus)];
		int n = random_size(700), rows = 8 * random_size(2000), cols = 64 * random_size(100);
		size_t most = product_scratch(g->major, g->minor, g->multiprocessors, DTYPE_BF16, n, rows,
					      cols, DTYPE_NF4);

		assert_true(most >= convert_scratch(n, rows, cols, 2));
		for (int k = 0; k < 100; k++) {
			int t = random_size(n);

			if (nf4_product_kind(g->major, t, rows, cols) != NF4_FUSED)
				continue;
			struct nf4_plan y = nf4_forward_plan(g->major, g->minor, g->multiprocessors, t, rows,
							     cols);
			struct nf4_plan dx = nf4_backward_plan(g->major, g->minor, g->multiprocessors, t,
							       rows, cols);

			assert_true(nf4_absmax_scratch(rows, cols) + nf4_plan_scratch(&y, t, rows) <= most);
			assert_true(nf4_absmax_scratch(rows, cols) + nf4_plan_scratch(&dx, t, cols) <= most);
		}
		assert_int_equal(product_scratch(g->major, g->minor, g->multiprocessors, DTYPE_BF16, n, rows,
						 cols, DTYPE_BF16),
				 0);
		assert_int_equal(product_scratch(g->major, g->minor, g->multiprocessors, DTYPE_BF16, 0, rows,
						 cols, DTYPE_NF4),
				 0);
		assert_true(product_scratch(g->major, g->minor, g->multiprocessors, DTYPE_F16, n, rows, cols,
					    DTYPE_F32) >= convert_scratch(n, rows, cols, 2));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(few_tokens_are_fused_and_many_are_not),
		cmocka_unit_test(tiles_grow_and_every_gpu_has_one_for_every_number_of_tokens),
		cmocka_unit_test(plans_cover_everything_once),
		cmocka_unit_test(sums_are_split_where_blocks_are_missing),
		cmocka_unit_test(tiles_are_read_once_and_without_bank_conflicts),
		cmocka_unit_test(conversions_take_whole_blocks_of_bounded_size),
		cmocka_unit_test(scratch_is_enough_for_fewer_tokens_too),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
