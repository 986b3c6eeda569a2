/* Everything between the products: embedding, norm, rotation, activation, vocabulary, optimizer; on every device against its
 * formula in float64, gradients against central differences of that formula. Attention has a file of its own. */
#include "tests/unit/kernels/check.h"

static void every_operation_is_there(void **state)
{
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (size_t i = 0; i < sizeof *d->ops / sizeof(void *); i++)
		assert_non_null(((void *const *)d->ops)[i]);
}

static void embedding_gathers_and_its_gradient_adds_up_repeats(void **state)
{
	static const enum dtype stored[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
	static const int32_t ids[5] = {3, 0, 3, 6, 3}, index[4] = {3, -1, 6, 0}, places[4] = {4, 1, -1, 0};
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (int i = 0; i < 6; i++) {
		int dim = i < 3 ? 72 : random_size(90);
		size_t n7 = (size_t)(7 * dim), n5 = (size_t)(5 * dim);
		float *table = random_floats(n7, 1), *dout = random_floats(n5, 1);
		void *raw = xmalloc(4 * n7);

		floats_to(stored[i % 3], table, n7, raw);
		floats_from(stored[i % 3], raw, n7, table);
		struct matrix m = {.dtype = stored[i % 3], .rows = 7, .cols = dim};
		m.data = device_bytes(d, raw, n7 * (stored[i % 3] == DTYPE_F32 ? 4 : 2));
		float *out = f32_new(d, n5), *grad = f32_new(d, n7), *picked = f32_new(d, n5),
		      *back = f32_new(d, n5);
		const int32_t *ids_there = i32_in(d, ids, 5);

		device_zero(d, grad, 4 * n7);
		device_zero(d, back, 4 * n5);
		d->ops->embed(d, &m, ids_there, 5, 1.5f, out);
		d->ops->embed_grad(d, ids_there, 5, dim, 2.0f, f32_in(d, dout, n5), grad);
		d->ops->gather(d, f32_in(d, table, n7), i32_in(d, index, 4), 4, dim, picked);
		d->ops->scatter(d, picked, i32_in(d, places, 4), 4, dim, back);
		float *o = f32_out(d, out, n5), *g = f32_out(d, grad, n7),
		      *p = f32_out(d, picked, (size_t)(4 * dim)), *b = f32_out(d, back, n5);

		for (int k = 0; k < dim; k++) {
			for (int t = 0; t < 5; t++)
				assert_close(o[t * dim + k], 1.5 * table[ids[t] * dim + k], 1e-6, "out",
					     (size_t)t);
			assert_close(g[3 * dim + k], 2.0 * (dout[k] + dout[2 * dim + k] + dout[4 * dim + k]),
				     1e-6, "grad", (size_t)k);
			assert_true(g[dim + k] == 0);
			for (int t = 0; t < 4; t++) {
				float want = index[t] < 0 ? 0 : table[index[t] * dim + k];

				assert_true(p[t * dim + k] == want);
				if (places[t] >= 0)
					assert_true(b[places[t] * dim + k] == want);
			}
			assert_true(b[2 * dim + k] == 0 && b[3 * dim + k] == 0);
		}
		FREE(table, dout, raw, o, g, p, b);
		case_end(d);
	}
}

/* sum over tokens of dout * rmsnorm(x) */
static double norm_objective(const double *x, const double *w, const float *dout, int n, int dim, double eps,
			     double offset)
{
	double total = 0;

	for (int t = 0; t < n; t++) {
		double sum = 0;

		for (int i = 0; i < dim; i++)
			sum += x[t * dim + i] * x[t * dim + i];
		for (int i = 0; i < dim; i++)
			total += dout[t * dim + i] * x[t * dim + i] / sqrt(sum / dim + eps) * (offset + w[i]);
	}
	return total;
}

static void rmsnorm_and_its_gradient_agree_with_float64(void **state)
{
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (int round = 0; round < 6; round++) {
		int n = random_size(round == 5 ? 70 : 6), dim = round == 0   ? 1
								: round == 4 ? 1024
									     : random_size(100);
		size_t size = (size_t)(n * dim);
		float offset = (float)(round % 2), eps = 1e-3f;
		float *x = random_floats(size, 2), *w = random_floats((size_t)dim, 1),
		      *dout = random_floats(size, 1);
		float *dx0 = random_floats(size, 1), *dw0 = random_floats((size_t)dim, 1);
		double *xd = xmalloc(8 * size), *wd = xmalloc(sizeof *wd * (size_t)dim);
		float *x_there = f32_in(d, x, size), *w_there = f32_in(d, w, (size_t)dim),
		      *rstd = f32_new(d, (size_t)n);
		void *out = act_new(d, size), *dx_act = act_new(d, size), *plain = act_new(d, size);
		float *dx = f32_in(d, dx0, size), *dw = f32_in(d, dw0, (size_t)dim),
		      *copy_there = f32_new(d, size);

		for (size_t i = 0; i < size; i++)
			xd[i] = x[i];
		for (int i = 0; i < dim; i++)
			wd[i] = w[i];
		d->ops->rmsnorm(d, x_there, w_there, n, dim, eps, offset, out, rstd, copy_there);
		d->ops->rmsnorm(d, x_there, w_there, n, dim, eps, offset, plain, NULL, NULL);
		d->ops->rmsnorm_grad(d, x_there, w_there, rstd, f32_in(d, dout, size), n, dim, offset, dx,
				     dx_act, dw);
		float *o = act_out(d, out, size), *again = act_out(d, plain, size),
		      *gx = f32_out(d, dx, size), *ga = act_out(d, dx_act, size),
		      *gw = f32_out(d, dw, (size_t)dim), *copy = f32_out(d, copy_there, size);

		assert_memory_equal(o, again, size * sizeof *o);
		assert_memory_equal(copy, x, size * sizeof *x);
		for (int t = 0; t < n; t++) {
			double sum = 0;

			for (int i = 0; i < dim; i++)
				sum += xd[t * dim + i] * xd[t * dim + i];
			for (int i = 0; i < dim; i++)
				assert_close(o[t * dim + i],
					     xd[t * dim + i] / sqrt(sum / dim + eps) * (offset + wd[i]),
					     tolerance(d, 2e-6, 0), "out", (size_t)i);
		}
		for (size_t i = 0; i < size + (size_t)dim; i += round < 4 ? 1 : 37) {
			double *at = i < size ? xd + i : wd + (i - size), old = *at, up, down;

			*at = old + 1e-5;
			up = norm_objective(xd, wd, dout, n, dim, eps, offset);
			*at = old - 1e-5;
			down = norm_objective(xd, wd, dout, n, dim, eps, offset);
			*at = old;
			double want = (up - down) / 2e-5 + (i < size ? dx0[i] : dw0[i - size]);

			assert_close(i < size ? gx[i] : gw[i - size], want, 3e-5, "gradient", i);
			if (i < size)
				assert_close(ga[i], gx[i], tolerance(d, 1e-7, 0), "dx as an activation", i);
		}
		FREE(x, w, dout, dx0, dw0, xd, wd, o, again, gx, ga, gw, copy);
		case_end(d);
	}
}

static void rotation_follows_positions_and_its_inverse_undoes_it(void **state)
{
	static const int32_t position[4] = {0, 1, 2, 900};
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (int round = 0; round < 3; round++) {
		int heads = 3, dim = round == 0 ? 10 : 16 * round, gap = round == 2 ? 24 : 0,
		    ld = heads * dim + gap, half = dim / 2;
		size_t n = (size_t)(4 * ld), table = (size_t)(901 * half);
		float *x = random_floats(n, 1), *c = f32_new(d, table), *s = f32_new(d, table);
		void *there = act_in(d, x, n);
		const int32_t *at = i32_in(d, position, 4);

		d->ops->rope_table(d, 10000.0f, dim, 901, c, s);
		d->ops->rope(d, c, s, at, 4, heads, dim, ld, false, there);
		float *y = act_out(d, there, n);

		for (int t = 0; t < 4; t++) {
			for (int h = 0; h < heads; h++)
				for (int i = 0; i < half; i++) {
					double angle = position[t] * pow(10000.0, -2.0 * i / dim);
					const float *in = x + t * ld + h * dim, *out = y + t * ld + h * dim;

					assert_close(out[i], in[i] * cos(angle) - in[half + i] * sin(angle),
						     tolerance(d, 1e-4, 0), "x", 0);
					assert_close(out[half + i],
						     in[half + i] * cos(angle) + in[i] * sin(angle),
						     tolerance(d, 1e-4, 0), "x", 1);
				}
			for (int i = heads * dim; i < ld; i++)
				assert_true(y[t * ld + i] == x[t * ld + i]);
		}
		d->ops->rope(d, c, s, at, 4, heads, dim, ld, true, there);
		float *back = act_out(d, there, n);

		for (size_t i = 0; i < n; i++)
			assert_close(back[i], x[i], tolerance(d, 1e-6, 2), "there and back", i);
		FREE(x, y, back);
		case_end(d);
	}
}

/* ---- the gated MLP ---- */

static double activation(enum gate f, double x)
{
	if (f == GATE_SILU)
		return x / (1 + exp(-x));
	if (f == GATE_GELU_ERF)
		return 0.5 * x * (1 + erf(x / sqrt(2.0)));
	return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

static void activations_agree_with_float64_over_their_whole_range(void **state)
{
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (int round = 0; round < 9; round++) {
		enum gate f = (enum gate)(round % 3);
		int n = round < 3 ? 19 : random_size(9), width = round < 3 ? 160 : random_size(100),
		    ld = 2 * width + (round < 6 ? 0 : 8);
		size_t all = (size_t)(n * ld), dense = (size_t)(n * width);
		float *x = random_floats(all, 12), *dout = random_floats(dense, 1);

		x[0] = 200;
		x[1 % width] = -200;
		x[2 % width] = 0;
		void *there = act_in(d, x, all), *out = act_new(d, dense);
		char *up = (char *)there + (size_t)width * device_act_size(d);

		d->ops->gated(d, f, there, up, n, width, ld, out);
		d->ops->gated_grad(d, f, act_in(d, dout, dense), n, width, ld, there, up);
		float *o = act_out(d, out, dense), *g = act_out(d, there, all);

		for (int t = 0; t < n; t++) {
			for (int i = 0; i < width; i++) {
				double gate = x[t * ld + i], u = x[t * ld + width + i],
				       dy = dout[t * width + i],
				       slope = (activation(f, gate + 1e-5) - activation(f, gate - 1e-5)) /
					       2e-5;

				assert_close(o[t * width + i], activation(f, gate) * u, tolerance(d, 3e-6, 0),
					     "out", (size_t)i);
				assert_close(g[t * ld + i], dy * u * slope, tolerance(d, 4e-6, 0), "dgate",
					     (size_t)i);
				assert_close(g[t * ld + width + i], dy * activation(f, gate),
					     tolerance(d, 3e-6, 0), "dup", (size_t)i);
			}
			for (int i = 2 * width; i < ld; i++)
				assert_true(g[t * ld + i] == x[t * ld + i]);
		}
		FREE(x, dout, o, g);
		case_end(d);
	}
}

/* ---- the vocabulary ---- */

static void cross_entropy_agrees_with_float64_and_its_gradient_sums_to_zero(void **state)
{
	static const int sizes[] = {1, 2, 37, 512, 9001, 20000};
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
		int vocab = sizes[s], n = 6;
		size_t all = (size_t)(n * vocab);
		float *x = random_floats(all, 30);
		int32_t target[6] = {0, vocab - 1, -1, vocab / 2, vocab / 3, 0};
		const float scale = 0.25f;
		double sums[2] = {1.5, 1.5}, want = 1.5;

		for (int i = 0; i < vocab && s == 4; i++)
			x[vocab + i] += 300; /* exp of it overflows */
		float *logits = f32_in(d, x, all);
		void *dlogits = act_new(d, all);
		double *sum = device_bytes(d, sums, sizeof sums);
		const int32_t *target_there = i32_in(d, target, 6);
		const float *scale_there = f32_in(d, &scale, 1);

		d->ops->cross_entropy(d, target_there, n, vocab, scale_there, logits, NULL, sum);
		d->ops->cross_entropy(d, target_there, n, vocab, scale_there, logits, dlogits, sum + 1);
		float *g = act_out(d, dlogits, all), *same = f32_out(d, logits, all);
		double *got = fetch(d, sum, sizeof sums);

		assert_memory_equal(same, x, all * sizeof *x);
		for (int t = 0; t < n; t++) {
			double total = 0, max = -1e9;

			for (int i = 0; i < vocab; i++)
				max = fmax(max, x[t * vocab + i]);
			for (int i = 0; i < vocab; i++)
				total += exp(x[t * vocab + i] - max);
			if (target[t] >= 0)
				want += log(total) + max - x[t * vocab + target[t]];
			for (int i = 0; i < vocab; i++) {
				double p = exp(x[t * vocab + i] - max) / total - (i == target[t]);

				assert_close(g[t * vocab + i], target[t] < 0 ? 0 : scale * p,
					     tolerance(d, 1e-6, 0), "dlogits", (size_t)(t * vocab + i));
			}
		}
		assert_close(got[0], want, 1e-6, "loss", s);
		assert_true(got[0] == got[1]);
		if (d->act == DTYPE_F32) { /* in place */
			d->ops->cross_entropy(d, target_there, n, vocab, scale_there, logits, logits, sum);
			float *in_place = f32_out(d, logits, all);

			assert_memory_equal(in_place, g, all * sizeof *g);
			free(in_place);
		}
		FREE(x, g, same, got);
		case_end(d);
	}
}

static void argmax_is_the_first_of_the_largest(void **state)
{
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (int round = 0; round < 4; round++) {
		int n = random_size(5), vocab = round ? random_size(3000) : 1;
		float *x = random_floats((size_t)(n * vocab), 1);
		int32_t *out = device_bytes(d, NULL, (size_t)n * sizeof *out);

		for (int t = 0; t < n && vocab > 10; t++)
			x[t * vocab + vocab / 2] = x[t * vocab + vocab - 1] = 3; /* equal ones */
		if (vocab > 20)
			x[3] = NAN;
		d->ops->argmax(d, f32_in(d, x, (size_t)(n * vocab)), n, vocab, out);
		int32_t *got = fetch(d, out, (size_t)n * sizeof *got);

		for (int t = 0; t < n; t++) {
			int best = 0;

			for (int i = 1; i < vocab; i++)
				if (x[t * vocab + i] > x[t * vocab + best])
					best = i;
			assert_int_equal(got[t], best);
		}
		FREE(x, got);
		case_end(d);
	}
}

/* ---- the optimizer ---- */

static void squares_sum_in_fp64(void **state)
{
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (int round = 0; round < 4; round++) {
		size_t n = round == 3 ? 300001 : (size_t)round * 13;
		float *x = random_floats(n, 1);
		double want = 0, *out = device_bytes(d, NULL, 8);

		for (size_t i = 0; i < n; i++)
			want += (double)x[i] * x[i];
		d->ops->sum_squares(d, f32_in(d, x, n), n, out);
		double *got = fetch(d, out, 8);

		assert_close(*got, want, 1e-12, "sum", n);
		FREE(x, got);
		case_end(d);
	}
}

static void adamw_takes_bitsandbytes_and_pytorchs_steps_and_leaves_no_gradient(void **state)
{
	const size_t n = 4099;
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (int decay_first = 0; decay_first < 2; decay_first++) {
		float *p0 = random_floats(n, 1);
		double *pd = xmalloc(8 * n), *md = xcalloc(n, 8), *vd = xcalloc(n, 8);
		float *p = f32_in(d, p0, n), *m = f32_new(d, n), *v = f32_new(d, n);

		device_zero(d, m, 4 * n);
		device_zero(d, v, 4 * n);
		for (size_t i = 0; i < n; i++)
			pd[i] = p0[i];
		for (int t = 1; t <= 3; t++) {
			struct adamw o = {0.01f * (float)t, 0.9f, 0.999f, 1e-4f, 0.1f, t, 0.5f, decay_first};
			double c1 = 1 - pow(o.beta1, t), c2 = sqrt(1 - pow(o.beta2, t));
			float *g = random_floats(n, 1), *grad = f32_in(d, g, n);

			d->ops->adamw(d, &o, grad, n, p, m, v);
			float *got = f32_out(d, p, n), *left = f32_out(d, grad, n);

			for (size_t i = 0; i < n; i++) {
				double x = 0.5 * g[i], decay = 1 - (double)o.lr * o.weight_decay;

				md[i] = o.beta1 * md[i] + (1 - (double)o.beta1) * x;
				vd[i] = o.beta2 * vd[i] + (1 - (double)o.beta2) * x * x;
				if (decay_first) /* torch.optim.AdamW: denominators with eps outside the correction */
					pd[i] = pd[i] * decay -
						o.lr / c1 * md[i] / (sqrt(vd[i]) / c2 + o.eps);
				else
					pd[i] = (pd[i] -
						 o.lr * c2 / c1 * md[i] / (sqrt(vd[i]) + o.eps * c2)) *
						decay;
				assert_close(got[i], pd[i], 2e-6, "p", i);
				assert_true(left[i] == 0);
			}
			FREE(g, got, left);
		}
		FREE(p0, pd, md, vd);
		case_end(d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_operation_is_there),
		cmocka_unit_test(embedding_gathers_and_its_gradient_adds_up_repeats),
		cmocka_unit_test(rmsnorm_and_its_gradient_agree_with_float64),
		cmocka_unit_test(rotation_follows_positions_and_its_inverse_undoes_it),
		cmocka_unit_test(activations_agree_with_float64_over_their_whole_range),
		cmocka_unit_test(cross_entropy_agrees_with_float64_and_its_gradient_sums_to_zero),
		cmocka_unit_test(argmax_is_the_first_of_the_largest),
		cmocka_unit_test(squares_sum_in_fp64),
		cmocka_unit_test(adamw_takes_bitsandbytes_and_pytorchs_steps_and_leaves_no_gradient),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
