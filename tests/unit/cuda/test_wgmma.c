/* Hopper's products of a warpgroup against float64, in every form that kernels use: a wrong descriptor shows here, and by itself. */
#include "tests/unit/cuda/wgmma_products.h"
#include "tests/unit/kernels/check.h"

static void products_of_a_warpgroup_agree_with_float64(void **state)
{
	static const int sizes[] = {64, 80, 128, 256};
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (int form = 0; form < WGMMA_FORMS; form++)
		for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
			bool a_columns = form == BY_COLUMNS,
			     b_columns = form != BY_ROWS && form != REGISTERS_AND_ROWS;
			int n = sizes[i], depth = WGMMA_DEPTH;
			float *a = random_floats((size_t)(64 * depth), 1),
			      *b = random_floats((size_t)(n * depth), 1);
			double *want = xcalloc((size_t)(64 * n), sizeof *want);
			const void *a_there = act_in(d, a, (size_t)(64 * depth)),
				   *b_there = act_in(d, b, (size_t)(n * depth));
			float *out = f32_new(d, (size_t)(64 * n)), *got = NULL;
			char what[64];

			for (int row = 0; row < 64; row++)
				for (int c = 0; c < n; c++)
					for (int k = 0; k < depth; k++)
						want[row * n + c] += (double)(a_columns
										      ? a[k * 64 + row]
										      : a[row * depth + k]) *
								     (b_columns ? b[k * n + c]
										: b[c * depth + k]);
			snprintf(what, sizeof what, "form %d, n %d", form, n);
			if ((n % 64 == 0 || !b_columns) &&
			    wgmma_product(d, (enum wgmma_form)form, n, a_there, b_there, out)) {
				got = f32_out(d, out, (size_t)(64 * n));
				assert_all_close(d, got, want, (size_t)(64 * n), 1e-5, what);
			}
			FREE(a, b, want, got);
			case_end(d);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(products_of_a_warpgroup_agree_with_float64),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
