/* Matrix products and adapters against float64, in every weight dtype and in odd shapes. */
#include "tests/unit/kernels/check.h"

#ifdef _OPENMP
#include <omp.h>
#endif

/* A random matrix of a dtype, and the fp32 values it stands for. */
struct weights {
	struct matrix m;
	void *data;
	float *absmax, *absmax2, *values;
	uint8_t *codes;
};

static struct weights weights_new(enum dtype dtype, bool nested, int rows, int cols)
{
	size_t n = (size_t)rows * (size_t)cols;
	struct weights w = {.m = {.dtype = dtype, .rows = rows, .cols = cols}};
	float *x = random_floats(n, 0.5f);

	w.data = xmalloc(n * 4);
	w.m.data = w.data;
	w.values = xmalloc(n * 4);
	if (dtype == DTYPE_NF4) {
		w.absmax = xmalloc(4 * nf4_blocks(n));
		nf4_quantize(x, n, false, w.data, w.absmax);
		w.m.absmax = w.absmax;
		if (nested) {
			w.codes = xmalloc(nf4_blocks(n));
			w.absmax2 = xmalloc(4 * (nf4_blocks(n) / ABSMAX_BLOCK + 1));
			nf4_quantize_absmax(w.absmax, nf4_blocks(n), w.codes, w.absmax2, &w.m.absmax_offset);
			w.m.absmax = NULL;
			w.m.absmax_codes = w.codes;
			w.m.absmax2 = w.absmax2;
		}
	} else {
		floats_to(dtype, x, n, w.data);
	}
	matrix_rows(&w.m, 0, rows, w.values);
	free(x);
	return w;
}

static void weights_free(struct weights *w)
{
	free(w->data);
	free(w->absmax);
	free(w->absmax2);
	free(w->codes);
	free(w->values);
}

static void check_products(const struct kernels *k, enum dtype dtype, bool nested, int n, int rows, int cols,
			   bool add)
{
	struct weights w = weights_new(dtype, nested, rows, cols);
	float *x = random_floats((size_t)(n * cols), 1), *dy = random_floats((size_t)(n * rows), 1);
	float *y = random_floats((size_t)(n * rows), 1), *dx = random_floats((size_t)(n * cols), 1);
	float *y0 = copy_floats(y, (size_t)(n * rows)), *dx0 = copy_floats(dx, (size_t)(n * cols));
	double tolerance = 1e-6 * sqrt(rows > cols ? rows : cols);

	k->matmul(x, &w.m, n, add, y);
	k->matmul_grad_x(dy, &w.m, n, add, dx);
	for (int t = 0; t < n; t++) {
		for (int r = 0; r < rows; r++) {
			double sum = add ? y0[t * rows + r] : 0;

			for (int c = 0; c < cols; c++)
				sum += (double)x[t * cols + c] * w.values[r * cols + c];
			assert_close(y[t * rows + r], sum, tolerance, "y", (size_t)(t * rows + r));
		}
		for (int c = 0; c < cols; c++) {
			double sum = add ? dx0[t * cols + c] : 0;

			for (int r = 0; r < rows; r++)
				sum += (double)dy[t * rows + r] * w.values[r * cols + c];
			assert_close(dx[t * cols + c], sum, tolerance, "dx", (size_t)(t * cols + c));
		}
	}
	free(x);
	free(dy);
	free(y);
	free(dx);
	free(y0);
	free(dx0);
	weights_free(&w);
}

static void products_agree_with_float64_in_every_dtype(void **state)
{
	static const struct {
		enum dtype dtype;
		bool nested;
	} kinds[] = {{DTYPE_F32, false},
		     {DTYPE_BF16, false},
		     {DTYPE_F16, false},
		     {DTYPE_NF4, false},
		     {DTYPE_NF4, true}};
	static const int shapes[][3] = {{1, 1, 1},      {1, 64, 64},   {5, 33, 7},   {16, 130, 129},
					{17, 31, 300},  {75, 64, 172}, {200, 5, 65}, {3, 1100, 67},
					{40, 1030, 19}, {30, 70, 1030}};
	const struct kernels *k;

	(void)state;
	EACH_BACKEND(k)
	for (size_t kind = 0; kind < 5; kind++) {
		for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
			check_products(k, kinds[kind].dtype, kinds[kind].nested, shapes[i][0], shapes[i][1],
				       shapes[i][2], i % 2);
		for (int i = 0; i < 12; i++)
			check_products(k, kinds[kind].dtype, kinds[kind].nested, random_size(90),
				       random_size(150), random_size(150), i % 2);
	}
}

static void weight_gradients_agree_with_float64(void **state)
{
	const struct kernels *k;

	(void)state;
	EACH_BACKEND(k)
	for (int i = 0; i < 20; i++) {
		int n = i ? random_size(300) : 1, rows = random_size(70), cols = random_size(70);
		float *dy = random_floats((size_t)(n * rows), 1), *x = random_floats((size_t)(n * cols), 1);
		float *dw = random_floats((size_t)(rows * cols), 1);
		float *dw0 = copy_floats(dw, (size_t)(rows * cols));

		k->matmul_grad_w(dy, x, n, rows, cols, dw);
		for (int r = 0; r < rows; r++)
			for (int c = 0; c < cols; c++) {
				double sum = dw0[r * cols + c];

				for (int t = 0; t < n; t++)
					sum += (double)dy[t * rows + r] * x[t * cols + c];
				assert_close(dw[r * cols + c], sum, 2e-5, "dw", (size_t)(r * cols + c));
			}
		free(dy);
		free(x);
		free(dw);
		free(dw0);
	}
}

/* The mask by the definition in kernels.h. */
static double keep(const struct dropout_mask *d, int t, int c)
{
	uint32_t counter[4] = {(uint32_t)c / 4, (uint32_t)d->token[t], d->stream, d->step}, word[4];

	philox(counter, d->seed, word);
	return word[c % 4] < (uint32_t)(d->p * 4294967296.0) ? 0 : 1 / (1 - (double)d->p);
}

static void check_lora(const struct kernels *k, int n, int rows, int cols, int rank,
		       const struct dropout_mask *drop)
{
	size_t nx = (size_t)(n * cols), ny = (size_t)(n * rows), na = (size_t)(rank * cols),
	       nb = (size_t)(rows * rank);
	float *x = random_floats(nx, 1), *a = random_floats(na, 1), *b = random_floats(nb, 1),
	      *y = random_floats(ny, 1);
	float *dy = random_floats(ny, 1), *dx = random_floats(nx, 1), *ga = random_floats(na, 1);
	float *gb = random_floats(nb, 1), *y0 = copy_floats(y, ny), *dx0 = copy_floats(dx, nx);
	float *ga0 = copy_floats(ga, na), *gb0 = copy_floats(gb, nb),
	      *xa = xmalloc(sizeof *xa * (size_t)(rank * n));
	float *dxa = xmalloc(sizeof *dxa * (size_t)(rank * n));
	double *kept = xcalloc(nx, 8), *want_xa = xcalloc((size_t)(rank * n), 8),
	       *want_dxa = xcalloc((size_t)(rank * n), 8);
	const double scale = 1.5;

	k->lora(x, a, b, n, rows, cols, rank, (float)scale, drop, xa, y);
	k->lora_grad(x, a, b, xa, dy, n, rows, cols, rank, (float)scale, drop, dxa, ga, gb, dx);
	for (int t = 0; t < n; t++) {
		for (int c = 0; c < cols; c++)
			kept[t * cols + c] = x[t * cols + c] * (drop ? keep(drop, t, c) : 1);
		for (int i = 0; i < rank; i++) {
			for (int c = 0; c < cols; c++)
				want_xa[i * n + t] += kept[t * cols + c] * a[i * cols + c];
			for (int r = 0; r < rows; r++)
				want_dxa[i * n + t] += scale * dy[t * rows + r] * b[r * rank + i];
		}
		for (int r = 0; r < rows; r++) {
			double sum = y0[t * rows + r];

			for (int i = 0; i < rank; i++)
				sum += scale * want_xa[i * n + t] * b[r * rank + i];
			assert_close(y[t * rows + r], sum, 5e-5, "y", (size_t)(t * rows + r));
		}
		for (int c = 0; c < cols; c++) {
			double sum = 0;

			for (int i = 0; i < rank; i++)
				sum += want_dxa[i * n + t] * a[i * cols + c];
			assert_close(dx[t * cols + c],
				     dx0[t * cols + c] + sum * (drop ? keep(drop, t, c) : 1), 5e-5, "dx",
				     (size_t)(t * cols + c));
		}
	}
	for (int i = 0; i < rank; i++) {
		for (int c = 0; c < cols; c++) {
			double sum = ga0[i * cols + c];

			for (int t = 0; t < n; t++)
				sum += want_dxa[i * n + t] * kept[t * cols + c];
			assert_close(ga[i * cols + c], sum, 1e-4, "grad_a", (size_t)(i * cols + c));
		}
		for (int r = 0; r < rows; r++) {
			double sum = gb0[r * rank + i];

			for (int t = 0; t < n; t++)
				sum += scale * dy[t * rows + r] * want_xa[i * n + t];
			assert_close(gb[r * rank + i], sum, 1e-4, "grad_b", (size_t)(r * rank + i));
		}
	}
	float *all[] = {x, a, b, y, dy, dx, ga, gb, y0, dx0, ga0, gb0, xa, dxa};

	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		free(all[i]);
	free(kept);
	free(want_xa);
	free(want_dxa);
}

static void adapters_agree_with_float64_with_and_without_dropout(void **state)
{
	static const int shapes[][4] = {
		{1, 1, 1, 1}, {75, 64, 64, 8}, {300, 67, 130, 5}, {13, 600, 70, 16}, {70, 30, 601, 3}};
	const struct kernels *k;

	(void)state;
	EACH_BACKEND(k)
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		int32_t token[300];

		for (int t = 0; t < 300; t++)
			token[t] = 1000 + 3 * t;
		struct dropout_mask drop = {0.25f, 0xfeedface12345678, 9, (uint32_t)i, token};

		check_lora(k, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], NULL);
		check_lora(k, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], &drop);
	}
}

/* Known answers of the authors' Random123 distribution (kat_vectors, philox4x32 10). */
static void philox_gives_the_published_words(void **state)
{
	static const uint32_t zeros[4] = {0, 0, 0, 0}, ones[4] = {~0u, ~0u, ~0u, ~0u};
	static const uint32_t pi[4] = {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344};
	static const uint32_t want0[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
	static const uint32_t want1[4] = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
	static const uint32_t want2[4] = {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1};
	uint32_t got[4];

	(void)state;
	philox(zeros, 0, got);
	assert_memory_equal(got, want0, sizeof got);
	philox(ones, ~(uint64_t)0, got);
	assert_memory_equal(got, want1, sizeof got);
	philox(pi, 0x299f31d0a4093822, got);
	assert_memory_equal(got, want2, sizeof got);
}

static void products_have_the_same_bytes_for_any_number_of_threads(void **state)
{
#ifdef _OPENMP
	int before = omp_get_max_threads(), n = 300, rows = 1100, cols = 333;
	struct weights w = weights_new(DTYPE_NF4, false, rows, cols);
	float *x = random_floats((size_t)(n * cols), 1), *y[3], *dx[3], *dw[3];
	const struct kernels *k;

	(void)state;
	EACH_BACKEND(k)
	{
		for (int i = 0; i < 3; i++) {
			omp_set_num_threads(i + 1);
			y[i] = xmalloc(sizeof *x * (size_t)(n * rows));
			dx[i] = xmalloc(sizeof *x * (size_t)(n * cols));
			dw[i] = xcalloc((size_t)(rows * cols), sizeof *x);
			k->matmul(x, &w.m, n, false, y[i]);
			k->matmul_grad_x(y[i], &w.m, n, false, dx[i]);
			k->matmul_grad_w(y[i], x, n, rows, cols, dw[i]);
			assert_memory_equal(y[0], y[i], sizeof *x * (size_t)(n * rows));
			assert_memory_equal(dx[0], dx[i], sizeof *x * (size_t)(n * cols));
			assert_memory_equal(dw[0], dw[i], sizeof *x * (size_t)(rows * cols));
		}
		for (int i = 0; i < 3; i++) {
			free(y[i]);
			free(dx[i]);
			free(dw[i]);
		}
	}
	omp_set_num_threads(before);
	free(x);
	weights_free(&w);
#else
	(void)state;
	skip();
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(products_agree_with_float64_in_every_dtype),
		cmocka_unit_test(weight_gradients_agree_with_float64),
		cmocka_unit_test(adapters_agree_with_float64_with_and_without_dropout),
		cmocka_unit_test(philox_gives_the_published_words),
		cmocka_unit_test(products_have_the_same_bytes_for_any_number_of_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
