/* Every kernel of Hopper's products against float64, in plans of the test's own: tiles whole and in part, one after the other and
 * beside each other, of several numbers of tokens, in splits. */
#include "kernels/cuda/products.h"
#include "tests/unit/kernels/check.h"

static void check_plan(struct device *d, const struct hopper_plan *p, int n, int width, int depth, bool grad, enum store how)
{
	int rows = grad ? depth : width, cols = grad ? width : depth, ldx = depth + 8, ld = width + (how == ADD_F32 ? 3 : 8);
	size_t nw = (size_t)(rows * cols), nx = (size_t)(n * ldx), ny = (size_t)(n * ld);
	float *w = random_floats(nw, 0.5f), *x = random_floats(nx, 1), *y0 = random_floats(ny, 1);
	struct matrix m = {.dtype = d->act, .rows = rows, .cols = cols, .data = act_in(d, w, nw)};
	double *y = xmalloc(8 * ny);
	const void *x_there = act_in(d, x, nx);
	void *y_there = store_in(d, how, y0, ny);
	struct product_out out = {d->act, how, y_there, ld, n, width};
	char what[96];

	bool built = hopper_product_run(d, &out, x_there, ldx, &m, grad, p);

	for (int t = 0; t < n; t++)
		for (int i = 0; i < ld; i++) {
			double sum = how == ADD_ACT || how == ADD_F32 || i >= width ? y0[t * ld + i] : 0;

			for (int k = 0; k < depth && i < width; k++)
				sum += (double)x[t * ldx + k] * w[grad ? k * cols + i : i * cols + k];
			y[t * ld + i] = sum;
		}
	float *got = store_out(d, how, y_there, ny);

	snprintf(what, sizeof what, "%s, tile %d by %d, %d splits", grad ? "dx" : "y", p->rows, p->tokens, p->splits);
	if (built)
		assert_all_close(d, got, y, ny, is_f32(how) ? 1e-5 : tolerance(d, 1e-5, 0), what);
	FREE(w, x, y0, y, got);
	case_end(d);
}

static void every_tile_agrees_with_float64(void **state)
{
	struct device *d;
	int turn = 0;

	(void)state;
	EACH_DEVICE(d)
	{
		if (d->kind != DEVICE_CUDA || d->act == DTYPE_F32 || !hopper_product_takes(cuda_device(d)->major, cuda_device(d)->minor, 1, 64, 64))
			continue;
		for (int rows = 64; rows <= 256; rows *= 2)
			for (int tokens = 32; tokens <= HOPPER_TILE; tokens += 32)
				for (int grad = 0; grad < 2; grad++, turn++) {
					bool two = turn % 5 == 0;
					int n = tokens - 3 + (two ? 9 : 0), width = 2 * rows + 24, depth = 72 + 64 * (turn % 4);
					int stages = (depth + HOPPER_DEPTH - 1) / HOPPER_DEPTH, splits = turn % 3 ? 1 : 2;
					int steps = (stages + splits - 1) / splits;
					struct hopper_plan p = {rows, tokens, 3, 1 + two, (stages + steps - 1) / steps, steps, 1 + turn % 2};

					check_plan(d, &p, n, width, depth, grad, (enum store)(turn / 2 % 4));
				}
		/* More stages than there is room for, within a tile and over the next one, which begins in the middle. */
		check_plan(d, &(struct hopper_plan){64, 32, 2, 1, 1, 13, 1}, 20, 128, 800, false, STORE_F32);
		check_plan(d, &(struct hopper_plan){64, 32, 2, 1, 1, 13, 1}, 20, 128, 800, true, ADD_F32);
		check_plan(d, &(struct hopper_plan){64, 32, 2, 1, 2, 7, 1}, 20, 128, 800, true, ADD_ACT);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_tile_agrees_with_float64),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
