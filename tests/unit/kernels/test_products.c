/* Matrix products and adapters against float64 on every device, in every weight dtype and in odd shapes. */
#include "tests/unit/kernels/check.h"

#ifdef _OPENMP
#include <omp.h>
#endif

/* A random matrix of a dtype, on the host and on the device, and the values that products see. */
struct weights {
	struct matrix host, m;
	float *values;
	void *data;
	float *absmax, *absmax2;
	uint8_t *codes;
};

static struct weights weights_new(struct device *d, enum dtype dtype, bool nested, int rows, int cols)
{
	size_t n = (size_t)rows * (size_t)cols, blocks = nf4_blocks(n);
	struct weights w = {.host = {.dtype = dtype, .rows = rows, .cols = cols}};
	float *x = random_floats(n, 0.5f);
	void *rounded = xmalloc(n * 4);

	w.host.data = w.data = xmalloc(n * 4);
	w.values = xmalloc(n * 4);
	if (dtype == DTYPE_NF4) {
		w.host.absmax = w.absmax = xmalloc(4 * blocks);
		nf4_quantize(x, n, false, w.data, w.absmax);
		if (nested) {
			w.host.absmax_codes = w.codes = xmalloc(blocks);
			w.host.absmax2 = w.absmax2 = xmalloc(4 * (blocks / ABSMAX_BLOCK + 1));
			nf4_quantize_absmax(w.absmax, blocks, w.codes, w.absmax2, &w.host.absmax_offset);
			w.host.absmax = NULL;
		}
	} else {
		floats_to(dtype, x, n, w.data);
	}
	matrix_rows(&w.host, 0, rows, w.values);
	floats_to(d->act, w.values, n, rounded);
	floats_from(d->act, rounded, n, w.values);
	w.m = w.host;
	w.m.data = device_bytes(d, w.data, matrix_data_size(dtype, rows, cols));
	if (w.host.absmax)
		w.m.absmax = f32_in(d, w.absmax, blocks);
	if (nested) {
		w.m.absmax_codes = device_bytes(d, w.codes, blocks);
		w.m.absmax2 = f32_in(d, w.absmax2, (blocks + ABSMAX_BLOCK - 1) / ABSMAX_BLOCK);
	}
	FREE(x, rounded);
	return w;
}

static void weights_free(struct weights *w)
{
	FREE(w->data, w->absmax, w->absmax2, w->codes, w->values);
}

static const struct {
	enum dtype dtype;
	bool nested;
} kinds[] = {
	{DTYPE_F32, false}, {DTYPE_BF16, false}, {DTYPE_F16, false}, {DTYPE_NF4, false}, {DTYPE_NF4, true}};

/* gap: columns of y and dy beyond the rows, which are left alone. */
static void check_products(struct device *d, size_t kind, int n, int rows, int cols, enum store how, int gap)
{
	struct weights w = weights_new(d, kinds[kind].dtype, kinds[kind].nested, rows, cols);
	int ld = rows + gap;
	size_t nx = (size_t)n * (size_t)cols, ny = (size_t)n * (size_t)ld;
	bool add = how == ADD_ACT || how == ADD_F32;
	float *x = random_floats(nx, 1), *dy = random_floats(ny, 1), *y0 = random_floats(ny, 1),
	      *dx0 = random_floats(nx, 1);
	double *y = xmalloc(8 * ny), *dx = xmalloc(8 * nx);
	const double fp32 = 1e-6 * sqrt(rows > cols ? rows : cols);
	const void *x_there = act_in(d, x, nx), *dy_there = act_in(d, dy, ny);
	void *y_there = store_in(d, how, y0, ny), *dx_there = store_in(d, how, dx0, nx);

	d->ops->matmul(d, x_there, &w.m, n, how, y_there, ld);
	d->ops->matmul_grad_x(d, dy_there, ld, &w.m, n, how, dx_there);
	for (int t = 0; t < n; t++) {
		for (int r = 0; r < ld; r++) {
			double sum = add || r >= rows ? y0[t * ld + r] : 0;

			for (int c = 0; c < cols && r < rows; c++)
				sum += (double)x[t * cols + c] * w.values[r * cols + c];
			y[t * ld + r] = sum;
		}
		for (int c = 0; c < cols; c++) {
			double sum = add ? dx0[t * cols + c] : 0;

			for (int r = 0; r < rows; r++)
				sum += (double)dy[t * ld + r] * w.values[r * cols + c];
			dx[t * cols + c] = sum;
		}
	}
	float *got_y = store_out(d, how, y_there, ny), *got_dx = store_out(d, how, dx_there, nx);
	const double t = is_f32(how) ? fp32 : tolerance(d, fp32, 0);

	assert_all_close(d, got_y, y, ny, t, "y");
	assert_all_close(d, got_dx, dx, nx, t, "dx");
	FREE(x, dy, y0, dx0, y, dx, got_y, got_dx);
	weights_free(&w);
	case_end(d);
}

static void products_agree_with_float64_in_every_dtype(void **state)
{
	static const int shapes[][3] = {
		{1, 1, 1},
		{1, 64, 64},
		{5, 33, 7},
		{16, 130, 129},
		{17, 31, 300},
		{75, 64, 172},
		{200, 5, 65},
		{3, 1100, 67},
		{40, 1030, 19},
		{30, 70, 1030},
		/* Whole blocks of 64: the products of NF4 that never see a dequantised matrix. */
		{1, 128, 192},
		{3, 64, 320},
		{8, 96, 128},
		{9, 144, 64},
		{16, 80, 128},
		{33, 128, 128},
		{70, 48, 192},
		{130, 112, 128},
		{160, 272, 64},
		{257, 64, 64},
		/* Few tokens: several tiles to a block, of several steps; long rows. */
		{2, 1304, 2376},
		{7, 20, 1096},
		{3, 44, 4392},
		{8, 16, 4096},
		{1, 4300, 136},
		{2, 8480, 264}};
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (size_t kind = 0; kind < 5; kind++) {
		for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
			if (case_wanted(i))
				check_products(d, kind, shapes[i][0], shapes[i][1], shapes[i][2],
					       (enum store)(i % 4), i % 3 == 1 ? 8 : 0);
		for (int i = 0; i < rounds(d, 12); i++)
			if (case_wanted((size_t)i))
				check_products(d, kind, random_size(90), random_size(150), random_size(150),
					       (enum store)(i % 4), i % 5);
	}
}

/* A token with a single 1 takes one column of w, or one row: exactly what dequantize gives, whichever kernel does it. */
static void check_values(struct device *d, size_t kind, bool round, int n, int rows, int cols)
{
	struct weights w = weights_new(d, kinds[kind].dtype, kinds[kind].nested, rows, cols);
	size_t nx = (size_t)n * (size_t)cols, ny = (size_t)n * (size_t)rows;
	float *x = xcalloc(nx, sizeof *x), *dy = xcalloc(ny, sizeof *dy);
	void *values = act_new(d, (size_t)rows * (size_t)cols);
	float *y = f32_new(d, ny), *dx = f32_new(d, nx);

	w.m.round_fp16 = round;
	for (int t = 0; t < n; t++) {
		x[t * cols + 37 * t % cols] = 1;
		dy[t * rows + 29 * t % rows] = 1;
	}
	d->ops->dequantize(d, &w.m, values);
	d->ops->matmul(d, act_in(d, x, nx), &w.m, n, STORE_F32, y, rows);
	d->ops->matmul_grad_x(d, act_in(d, dy, ny), rows, &w.m, n, STORE_F32, dx);
	float *want = act_out(d, values, (size_t)rows * (size_t)cols), *got_y = f32_out(d, y, ny),
	      *got_dx = f32_out(d, dx, nx);

	for (int t = 0; t < n; t++) {
		for (int r = 0; r < rows; r++)
			assert_true(got_y[t * rows + r] == want[r * cols + 37 * t % cols]);
		for (int c = 0; c < cols; c++)
			assert_true(got_dx[t * cols + c] == want[29 * t % rows * cols + c]);
	}
	FREE(x, dy, want, got_y, got_dx);
	weights_free(&w);
	case_end(d);
}

static void products_multiply_what_dequantize_gives(void **state)
{
	static const int tokens[] = {1, 3, 8, 13, 30, 64, 100, 280};
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (size_t kind = 0; kind < 5; kind++)
		for (int round = 0; round < (kind >= 3 ? 2 : 1); round++)
			for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
				if (!case_wanted(i))
					continue;
				check_values(d, kind, round, tokens[i], 72, 256);
				check_values(d, kind, round, tokens[i], 147, i % 2 ? 192 : 50);
			}
}

/* Many splits of a sum: long rows, few of them. */
static void long_sums_are_split_in_a_fixed_order(void **state)
{
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (size_t kind = 3; kind < 5; kind++)
		for (int how = 0; how < 4; how++) {
			check_products(d, kind, 7 + 20 * how, 16, 2048, (enum store)how, 0);
			check_products(d, kind, 7 + 20 * how, 2048, 64, (enum store)how, 0);
		}
}

static void weight_gradients_agree_with_float64(void **state)
{
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (int i = 0; i < rounds(d, 20); i++) {
		if (!case_wanted((size_t)i))
			continue;
		int n = i ? random_size(300) : 1, rows = random_size(70), cols = random_size(70),
		    ld = rows + i % 3;
		size_t ny = (size_t)(n * ld), nx = (size_t)(n * cols), nw = (size_t)(rows * cols);
		float *dy = random_floats(ny, 1), *x = random_floats(nx, 1), *dw0 = random_floats(nw, 1);
		double *want = xmalloc(8 * nw);
		float *dw = f32_in(d, dw0, nw);

		d->ops->matmul_grad_w(d, act_in(d, dy, ny), ld, act_in(d, x, nx), n, rows, cols, dw);
		for (int r = 0; r < rows; r++)
			for (int c = 0; c < cols; c++) {
				double sum = dw0[r * cols + c];

				for (int t = 0; t < n; t++)
					sum += (double)dy[t * ld + r] * x[t * cols + c];
				want[r * cols + c] = sum;
			}
		float *got = f32_out(d, dw, nw);

		assert_all_close(d, got, want, nw, 2e-5, "dw");
		FREE(dy, x, dw0, want, got);
		case_end(d);
	}
}

static void dequantised_matrices_hold_what_products_see(void **state)
{
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (size_t kind = 0; kind < 5; kind++)
		for (int i = 0; i < 5; i++)
			for (int through = 0; through < (kind >= 3 ? 2 : 1); through++) {
				int rows = i ? random_size(100) : 128, cols = i ? random_size(150) : 192;
				size_t n = (size_t)(rows * cols);
				struct weights w = weights_new(d, kinds[kind].dtype, kinds[kind].nested, rows,
							       cols);
				void *out = act_new(d, n);
				float *want = xmalloc(4 * n);
				void *raw = xmalloc(4 * n);

				w.host.round_fp16 = w.m.round_fp16 = through;
				matrix_rows(&w.host, 0, rows, want);
				floats_to(d->act, want, n, raw);
				floats_from(d->act, raw, n, want);
				d->ops->dequantize(d, &w.m, out);
				float *got = act_out(d, out, n);

				for (size_t k = 0; k < n; k++)
					if (got[k] != want[k])
						fail_msg("%s: value %zu is %.9g, expected %.9g", d->ops->name,
							 k, (double)got[k], (double)want[k]);
				FREE(want, raw, got);
				weights_free(&w);
				case_end(d);
			}
}

static void quantising_gives_the_same_bits_everywhere(void **state)
{
	static const enum dtype stored[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (int i = 0; i < 24; i++) {
		size_t n = i < 12 ? 64 * (size_t)random_size(40) : (size_t)random_size(3000),
		       blocks = nf4_blocks(n);
		enum dtype dtype = stored[i % 3];
		float *x = random_floats(n, i % 5 ? 0.2f : 3e-6f), *absmax = xmalloc(4 * blocks);
		uint8_t *packed = xcalloc((n + 1) / 2, 1);
		void *raw = xmalloc(4 * n);
		const bool through = i % 2, broken = i % 8 == 7;
		int32_t none = 0;

		for (size_t k = 0; k < n && k < 64 && i % 4 == 0; k++)
			x[k] = 0; /* a block of zeros */
		floats_to(dtype, x, n, raw);
		floats_from(dtype, raw, n, x);
		nf4_quantize(x, n, through, packed, absmax);
		if (broken) {
			x[n / 2] = through && dtype == DTYPE_F32 ? 65520.0f : INFINITY;
			floats_to(dtype, x, n, raw);
		}
		void *packed_there = device_bytes(d, NULL, (n + 1) / 2);
		float *absmax_there = f32_new(d, blocks);
		int32_t *bad = i32_in(d, &none, 1);

		d->ops->quantize(d, device_bytes(d, raw, n * (dtype == DTYPE_F32 ? 4 : 2)), dtype, n, through,
				 packed_there, absmax_there, bad);
		int32_t *got_bad = fetch(d, bad, 4);
		uint8_t *got = fetch(d, packed_there, (n + 1) / 2);
		float *got_absmax = f32_out(d, absmax_there, blocks);

		assert_int_equal(*got_bad, broken);
		if (!broken) {
			assert_memory_equal(got_absmax, absmax, 4 * blocks);
			assert_memory_equal(got, packed, (n + 1) / 2);
		}
		FREE(x, absmax, packed, raw, got_bad, got, got_absmax);
		case_end(d);
	}
}

static void conversions_round_to_the_nearest(void **state)
{
	static const enum dtype stored[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (int i = 0; i < 12; i++) {
		size_t n = i < 3 ? 4096 : (size_t)random_size(500);
		enum dtype dtype = stored[i % 3];
		float *x = random_floats(n, 4);
		void *raw = xmalloc(4 * n), *out = act_new(d, n);

		x[n / 2] = 3e-6f; /* subnormal in fp16 */
		floats_to(dtype, x, n, raw);
		d->ops->convert(d, device_bytes(d, raw, n * (dtype == DTYPE_F32 ? 4 : 2)), dtype, n, out);
		float *got = act_out(d, out, n);

		floats_from(dtype, raw, n, x);
		floats_to(d->act, x, n, raw);
		floats_from(d->act, raw, n, x);
		assert_memory_equal(got, x, n * sizeof *x);
		FREE(x, raw, got);
		case_end(d);
	}
}

/* ---- adapters ---- */

/* The mask by the definition in kernels.h. */
static double keep(const struct dropout_mask *d, uint32_t stream, int t, int c)
{
	uint32_t counter[4] = {(uint32_t)c / 4, (uint32_t)d->token[t], stream, *d->step}, word[4];

	philox(counter, d->seed, word);
	return word[c % 4] < (uint32_t)(d->p * 4294967296.0) ? 0 : 1 / (1 - (double)d->p);
}

#define MOST_TOKENS 3000 /* of a case */

struct lora_case {
	int n, cols, count;
	int rows[LORA_PARTS], rank[LORA_PARTS];
	int gap; /* columns of y before and behind the parts */
};

/* One part's share of the reference. */
static void ref_lora(const struct lora_case *c, const struct dropout_mask *drop, double scale, int ld, int at,
		     int rows, int rank, uint32_t stream, const float *x, const float *a, const float *b,
		     const float *dy, double *xa, double *y, double *grad_a, double *grad_b, double *dx)
{
	int n = c->n, cols = c->cols;
	double *dxa = xcalloc((size_t)(rank * n), 8), *kept = xcalloc((size_t)cols, 8);

	for (int t = 0; t < n; t++) {
		for (int k = 0; k < cols; k++)
			kept[k] = x[t * cols + k] * (drop ? keep(drop, stream, t, k) : 1);
		for (int i = 0; i < rank; i++) {
			for (int k = 0; k < cols; k++)
				xa[i * n + t] += kept[k] * a[i * cols + k];
			for (int r = 0; r < rows; r++) {
				y[t * ld + at + r] += scale * xa[i * n + t] * b[r * rank + i];
				dxa[i * n + t] += scale * dy[t * ld + at + r] * b[r * rank + i];
				grad_b[r * rank + i] += scale * dy[t * ld + at + r] * xa[i * n + t];
			}
			for (int k = 0; k < cols; k++)
				grad_a[i * cols + k] += dxa[i * n + t] * kept[k];
		}
		for (int k = 0; k < cols; k++) {
			double sum = 0;

			for (int i = 0; i < rank; i++)
				sum += dxa[i * n + t] * a[i * cols + k];
			dx[t * cols + k] += sum * (drop ? keep(drop, stream, t, k) : 1);
		}
	}
	FREE(dxa, kept);
}

static double *to_doubles(const float *x, size_t n)
{
	double *y = xmalloc(8 * (n + 1));

	for (size_t i = 0; i < n; i++)
		y[i] = x[i];
	return y;
}

static void check_lora(struct device *d, const struct lora_case *c, bool dropping, enum store how,
		       bool with_dx)
{
	static const uint32_t step = 9;
	int n = c->n, cols = c->cols, ld = 2 * c->gap, ranks = 0;
	static int32_t token[MOST_TOKENS];
	const double scale = 1.5;

	for (int t = 0; t < MOST_TOKENS; t++)
		token[t] = 1000 + 3 * t;
	for (int i = 0; i < c->count; i++) {
		ld += c->rows[i];
		ranks += c->rank[i];
	}
	size_t nx = (size_t)(n * cols), ny = (size_t)(n * ld);
	struct dropout_mask mask = {0.25f, 0xfeedface12345678, &step, token}, there = mask;
	float *x = random_floats(nx, 1), *dy = random_floats(ny, 1), *y0 = random_floats(ny, 1),
	      *dx0 = random_floats(nx, 1);
	const void *x_there = act_in(d, x, nx), *dy_there = act_in(d, dy, ny);
	void *y_there = store_in(d, how, y0, ny), *dx_there = store_in(d, how, dx0, nx);
	double *y = to_doubles(y0, ny), *dx = to_doubles(dx0, nx);
	float *a[3], *b[3], *ga0[3], *gb0[3];
	double *xa[3], *ga[3], *gb[3];
	struct lora_part parts[LORA_PARTS];

	there.step = device_bytes(d, &step, sizeof step);
	there.token = i32_in(d, token, MOST_TOKENS);
	for (int i = 0, at = c->gap; i < c->count; at += c->rows[i++]) {
		size_t na = (size_t)(c->rank[i] * cols), nb = (size_t)(c->rows[i] * c->rank[i]);

		a[i] = random_floats(na, 1);
		b[i] = random_floats(nb, 1);
		ga0[i] = random_floats(na, 1);
		gb0[i] = random_floats(nb, 1);
		xa[i] = xcalloc((size_t)(c->rank[i] * n), 8);
		ga[i] = to_doubles(ga0[i], na);
		gb[i] = to_doubles(gb0[i], nb);
		parts[i] = (struct lora_part){.a = f32_in(d, a[i], na),
					      .b = f32_in(d, b[i], nb),
					      .grad_a = f32_in(d, ga0[i], na),
					      .grad_b = f32_in(d, gb0[i], nb),
					      .xa = f32_new(d, (size_t)(c->rank[i] * n)),
					      .rows = c->rows[i],
					      .rank = c->rank[i],
					      .at = at,
					      .stream = 7 + (uint32_t)i};
		ref_lora(c, dropping ? &mask : NULL, scale, ld, at, c->rows[i], c->rank[i], 7 + (uint32_t)i,
			 x, a[i], b[i], dy, xa[i], y, ga[i], gb[i], dx);
	}
	d->ops->lora(d, x_there, parts, c->count, n, cols, (float)scale, dropping ? &there : NULL, how,
		     y_there, ld);
	d->ops->lora_grad(d, x_there, parts, c->count, n, cols, (float)scale, dropping ? &there : NULL,
			  dy_there, ld, f32_new(d, (size_t)(ranks * n)), how, with_dx ? dx_there : NULL);
	/* The result is rounded once when everything is added, and once for each part that is not. */
	float *got_y = store_out(d, how, y_there, ny), *got_dx = store_out(d, how, dx_there, nx);
	double t = is_f32(how) ? 5e-5 : tolerance(d, 5e-5, c->count);
	/* Rounding errors of fp32 sums add up like the steps of a random walk. */
	double grad_t = n > 300 ? 2e-4 * sqrt(n / 300.0) : 2e-4;

	assert_all_close(d, got_y, y, ny, t, "y");
	if (with_dx)
		assert_all_close(d, got_dx, dx, nx, t, "dx");
	else
		for (size_t i = 0; i < nx; i++)
			assert_true(got_dx[i] == dx0[i]);
	for (int i = 0; i < c->count; i++) {
		size_t na = (size_t)(c->rank[i] * cols), nb = (size_t)(c->rows[i] * c->rank[i]);
		float *got_xa = f32_out(d, parts[i].xa, (size_t)(c->rank[i] * n)),
		      *got_a = f32_out(d, parts[i].grad_a, na), *got_b = f32_out(d, parts[i].grad_b, nb);

		assert_all_close(d, got_xa, xa[i], (size_t)(c->rank[i] * n), 2e-5, "xa");
		assert_all_close(d, got_a, ga[i], na, grad_t, "grad_a");
		assert_all_close(d, got_b, gb[i], nb, grad_t, "grad_b");
		FREE(got_xa, got_a, got_b, a[i], b[i], ga0[i], gb0[i], xa[i], ga[i], gb[i]);
	}
	FREE(x, dy, y0, dx0, y, dx, got_y, got_dx);
	case_end(d);
}

static void adapters_agree_with_float64_with_and_without_dropout(void **state)
{
	static const struct lora_case cases[] = {
		{1, 1, 1, {1}, {1}, 0},
		{75, 64, 1, {64}, {8}, 0},
		{300, 130, 1, {67}, {5}, 0},
		{13, 70, 2, {600, 24}, {16, 4}, 8},
		{70, 601, 1, {30}, {3}, 3},
		{33, 128, 3, {64, 16, 40}, {8, 1, 20}, 16},
		{20, 96, 2, {48, 32}, {70, 64}, 0}, /* ranks above a tile */
	};
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		if (!case_wanted(i))
			continue;
		check_lora(d, &cases[i], false, ADD_ACT, true);
		check_lora(d, &cases[i], true, ADD_F32, true);
		check_lora(d, &cases[i], true, ADD_ACT, i % 2);
	}
}

/* So many that sums of gradients are split, and tiles of tokens are large. */
static void adapters_of_many_tokens_agree_with_float64(void **state)
{
	static const struct lora_case c = {2820, 648, 3, {272, 264, 256}, {8, 4, 1}, 8};
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	check_lora(d, &c, true, ADD_ACT, true);
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

/* On the CPU for any number of threads, elsewhere from run to run. */
static void products_have_the_same_bytes_every_time(void **state)
{
	int n = 70, rows = 320, cols = 192;
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	{
		struct weights w = weights_new(d, DTYPE_NF4, false, rows, cols);
		size_t nx = (size_t)(n * cols), ny = (size_t)(n * rows), nw = (size_t)(rows * cols);
		float *x = random_floats(nx, 1);
		const void *x_there = act_in(d, x, nx);
		void *first[3] = {NULL};

		for (int i = 0; i < 3; i++) {
#ifdef _OPENMP
			int before = omp_get_max_threads();

			omp_set_num_threads(i + 1);
#endif
			void *y = act_new(d, ny), *dx = act_new(d, nx);
			float *dw = f32_new(d, nw);

			device_zero(d, dw, 4 * nw);
			d->ops->matmul(d, x_there, &w.m, n, STORE_ACT, y, rows);
			d->ops->matmul_grad_x(d, y, rows, &w.m, n, STORE_ACT, dx);
			d->ops->matmul_grad_w(d, y, rows, x_there, n, rows, cols, dw);
			size_t sizes[3] = {ny * device_act_size(d), nx * device_act_size(d), 4 * nw};
			void *got[3] = {fetch(d, y, sizes[0]), fetch(d, dx, sizes[1]),
					fetch(d, dw, sizes[2])};

			for (int k = 0; k < 3; k++) {
				if (first[k]) {
					assert_memory_equal(first[k], got[k], sizes[k]);
					free(got[k]);
				} else {
					first[k] = got[k];
				}
			}
#ifdef _OPENMP
			omp_set_num_threads(before);
#endif
		}
		FREE(x, first[0], first[1], first[2]);
		weights_free(&w);
		case_end(d);
	}
}

/* What is recorded sees what the buffers hold when it is replayed. */
static void a_recording_is_done_again_with_what_is_there(void **state)
{
	struct error err = ERROR_INIT;
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	{
		if (!device_records(d))
			continue;
		struct weights w = weights_new(d, DTYPE_NF4, false, 64, 128);
		float *x = random_floats(5 * 128, 1);
		void *in = act_in(d, x, 5 * 128), *y = act_new(d, 5 * 64), *again = act_new(d, 5 * 64);
		struct recording *r = NULL;

		d->ops->matmul(d, in, &w.m, 5, STORE_ACT, y, 64);
		check_device(device_record_begin(d, &err), &err);
		d->ops->matmul(d, in, &w.m, 5, STORE_ACT, y, 64);
		device_copy(d, again, y, 5 * 64 * device_act_size(d));
		check_device(device_record_end(d, &r, &err), &err);
		for (int k = 0; k < 2; k++) {
			void *changed;

			for (int i = 0; i < 5 * 128; i++)
				x[i] = -0.5f * x[i];
			changed = act_in(d, x, 5 * 128);
			device_copy(d, in, changed, 5 * 128 * device_act_size(d));
			device_replay(d, r);
			float *got = act_out(d, again, 5 * 64);

			for (int t = 0; t < 5; t++)
				for (int o = 0; o < 64; o++) {
					double sum = 0;

					for (int c = 0; c < 128; c++)
						sum += (double)x[t * 128 + c] * w.values[o * 128 + c];
					assert_close(got[t * 64 + o], sum, tolerance(d, 2e-5, 0), "y",
						     (size_t)(t * 64 + o));
				}
			free(got);
		}
		recording_free(d, r);
		free(x);
		weights_free(&w);
		case_end(d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(products_agree_with_float64_in_every_dtype),
		cmocka_unit_test(products_multiply_what_dequantize_gives),
		cmocka_unit_test(long_sums_are_split_in_a_fixed_order),
		cmocka_unit_test(weight_gradients_agree_with_float64),
		cmocka_unit_test(dequantised_matrices_hold_what_products_see),
		cmocka_unit_test(quantising_gives_the_same_bits_everywhere),
		cmocka_unit_test(conversions_round_to_the_nearest),
		cmocka_unit_test(adapters_agree_with_float64_with_and_without_dropout),
		cmocka_unit_test(adapters_of_many_tokens_agree_with_float64),
		cmocka_unit_test(philox_gives_the_published_words),
		cmocka_unit_test(products_have_the_same_bytes_every_time),
		cmocka_unit_test(a_recording_is_done_again_with_what_is_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
