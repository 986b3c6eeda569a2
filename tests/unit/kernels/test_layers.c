/* Everything between the products: embedding, norm, rotation, attention, activation, loss, optimizer; each against its
 * formula in float64, gradients against central differences of that formula. */
#include "tests/unit/kernels/check.h"

static void every_operation_is_there(void **state)
{
	const struct kernels *k;

	(void)state;
	EACH_BACKEND(k)
	for (size_t i = 0; i < sizeof *k / sizeof(void *); i++)
		assert_non_null(((void *const *)k)[i]);
}

static void embedding_gathers_and_its_gradient_adds_up_repeats(void **state)
{
	const int32_t ids[5] = {3, 0, 3, 6, 3};
	const int dim = 70;
	float *table = random_floats(7 * 70, 1), *dout = random_floats(5 * 70, 1), out[5 * 70],
	      grad[7 * 70] = {0};
	float back[5 * 70];
	const struct kernels *k;

	(void)state;
	EACH_BACKEND(k)
	{
		struct matrix m = matrix_f32(table, 7, dim);

		k->embed(&m, ids, 5, 1.5f, out);
		k->embed_grad(ids, 5, dim, 2.0f, dout, grad);
		for (int d = 0; d < dim; d++) {
			for (int t = 0; t < 5; t++)
				assert_close(out[t * dim + d], 1.5 * table[ids[t] * dim + d], 1e-6, "out",
					     (size_t)t);
			assert_close(grad[3 * dim + d],
				     2.0 * (dout[d] + dout[2 * dim + d] + dout[4 * dim + d]), 1e-6, "grad",
				     (size_t)d);
			assert_true(grad[dim + d] == 0);
		}
		k->gather(table, ids + 2, 2, dim, out);
		assert_memory_equal(out, table + 3 * dim, sizeof *out * (size_t)dim);
		assert_memory_equal(out + dim, table + 6 * dim, sizeof *out * (size_t)dim);
		memset(back, 0, sizeof back);
		k->scatter(out, (const int32_t[]){4, 1}, 2, dim, back);
		assert_memory_equal(back + 4 * dim, out, sizeof *out * (size_t)dim);
		assert_memory_equal(back + dim, out + dim, sizeof *out * (size_t)dim);
	}
	free(table);
	free(dout);
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
	const struct kernels *k;

	(void)state;
	EACH_BACKEND(k)
	for (int round = 0; round < 4; round++) {
		int n = random_size(6), dim = round ? random_size(100) : 1;
		size_t size = (size_t)(n * dim);
		float offset = (float)(round % 2), eps = 1e-3f;
		float *x = random_floats(size, 2), *w = random_floats((size_t)dim, 1),
		      *dout = random_floats(size, 1);
		float *out = xmalloc(4 * size), *rstd = xmalloc(sizeof *rstd * (size_t)n);
		float *dx = xcalloc(size, 4), *dw = xcalloc((size_t)dim, 4);
		double *xd = xmalloc(8 * size), *wd = xmalloc(sizeof *wd * (size_t)dim);

		for (size_t i = 0; i < size; i++)
			xd[i] = x[i];
		for (int i = 0; i < dim; i++)
			wd[i] = w[i];
		k->rmsnorm(x, w, n, dim, eps, offset, out, rstd);
		k->rmsnorm_grad(x, w, rstd, dout, n, dim, offset, dx, dw);
		for (int t = 0; t < n; t++) {
			double sum = 0;

			for (int i = 0; i < dim; i++)
				sum += xd[t * dim + i] * xd[t * dim + i];
			for (int i = 0; i < dim; i++)
				assert_close(out[t * dim + i],
					     xd[t * dim + i] / sqrt(sum / dim + eps) * (offset + wd[i]), 2e-6,
					     "out", (size_t)i);
		}
		for (size_t i = 0; i < size + (size_t)dim; i++) {
			double *at = i < size ? xd + i : wd + (i - size), old = *at, up, down;

			*at = old + 1e-5;
			up = norm_objective(xd, wd, dout, n, dim, eps, offset);
			*at = old - 1e-5;
			down = norm_objective(xd, wd, dout, n, dim, eps, offset);
			*at = old;
			assert_close(i < size ? dx[i] : dw[i - size], (up - down) / 2e-5, 2e-5, "gradient",
				     i);
		}
		float *all[] = {x, w, dout, out, rstd, dx, dw};

		for (size_t i = 0; i < sizeof all / sizeof *all; i++)
			free(all[i]);
		free(xd);
		free(wd);
	}
}

static void rotation_follows_positions_and_its_inverse_undoes_it(void **state)
{
	const int32_t position[4] = {0, 1, 2, 900};
	const struct kernels *k;

	(void)state;
	EACH_BACKEND(k)
	{
		int heads = 3, dim = 10;
		float *x = random_floats(120, 1), *y = copy_floats(x, 120), *c = xmalloc(4 * 901 * 5),
		      *s = xmalloc(4 * 901 * 5);

		k->rope_table(10000.0f, dim, 901, c, s);
		k->rope(c, s, position, 4, heads, dim, false, y);
		for (int t = 0; t < 4; t++)
			for (int h = 0; h < heads; h++)
				for (int i = 0; i < 5; i++) {
					double angle = position[t] * pow(10000.0, -2.0 * i / dim);
					const float *in = x + (t * heads + h) * dim,
						    *out = y + (t * heads + h) * dim;

					assert_close(out[i], in[i] * cos(angle) - in[5 + i] * sin(angle),
						     1e-4, "x", 0);
					assert_close(out[5 + i], in[5 + i] * cos(angle) + in[i] * sin(angle),
						     1e-4, "x", 1);
				}
		k->rope(c, s, position, 4, heads, dim, true, y);
		for (int i = 0; i < 120; i++)
			assert_close(y[i], x[i], 1e-6, "there and back", (size_t)i);
		free(x);
		free(y);
		free(c);
		free(s);
	}
}

/* Attention in float64, and its gradients by the chain rule written out. */
static void ref_attention(const struct attention *a, const float *q, const float *k, const float *v,
			  const float *dout, double *out, double *lse, double *dq, double *dk, double *dv)
{
	int group = a->heads / a->kv_heads, dim = a->head_dim;

	for (int s = 0; s < a->sequences; s++)
		for (int h = 0; h < a->heads; h++)
			for (int i = a->cu_q[s]; i < a->cu_q[s + 1]; i++) {
				int visible = (a->cu_k[s + 1] - a->cu_k[s]) - (a->cu_q[s + 1] - i) + 1;
				const float *qi = q + (i * a->heads + h) * dim,
					    *di = dout + (i * a->heads + h) * dim;
				double p[512], dp[512], sum = 0, delta = 0;

				for (int j = 0; j < visible; j++) {
					const float *kj = k +
							  ((a->cu_k[s] + j) * a->kv_heads + h / group) * dim;
					double dot = 0;

					for (int d = 0; d < dim; d++)
						dot += (double)qi[d] * kj[d];
					p[j] = exp(dot * a->scale);
					sum += p[j];
				}
				lse[i * a->heads + h] = log(sum);
				for (int j = 0; j < visible; j++) {
					const float *vj = v +
							  ((a->cu_k[s] + j) * a->kv_heads + h / group) * dim;

					p[j] /= sum;
					dp[j] = 0;
					for (int d = 0; d < dim; d++) {
						out[(i * a->heads + h) * dim + d] += p[j] * vj[d];
						dp[j] += (double)di[d] * vj[d];
						dv[((a->cu_k[s] + j) * a->kv_heads + h / group) * dim + d] +=
							p[j] * di[d];
					}
					delta += p[j] * dp[j];
				}
				for (int j = 0; j < visible; j++) {
					int at = ((a->cu_k[s] + j) * a->kv_heads + h / group) * dim;
					double ds = p[j] * (dp[j] - delta) * a->scale;

					for (int d = 0; d < dim; d++) {
						dq[(i * a->heads + h) * dim + d] += ds * k[at + d];
						dk[at + d] += ds * qi[d];
					}
				}
			}
}

static void assert_all_close(const float *got, const double *want, size_t n, double tolerance,
			     const char *what)
{
	for (size_t i = 0; i < n; i++)
		assert_close(got[i], want[i], tolerance, what, i);
}

static void check_attention(const struct kernels *ops, const struct attention *a, bool gradients)
{
	size_t nq = (size_t)(a->cu_q[a->sequences] * a->heads * a->head_dim);
	size_t nk = (size_t)(a->cu_k[a->sequences] * a->kv_heads * a->head_dim);
	size_t nl = (size_t)(a->cu_q[a->sequences] * a->heads);
	float *q = random_floats(nq, 2), *k = random_floats(nk, 2), *v = random_floats(nk, 1),
	      *dout = random_floats(nq, 1);
	float *out = xmalloc(4 * nq), *lse = xmalloc(4 * nl), *dq = xmalloc(4 * nq), *dk = xmalloc(4 * nk);
	float *dv = xmalloc(4 * nk);
	double *ref = xcalloc(2 * nq + 2 * nk + nl, 8);

	ref_attention(a, q, k, v, dout, ref, ref + nq, ref + nq + nl, ref + 2 * nq + nl,
		      ref + 2 * nq + nl + nk);
	ops->attention(a, q, k, v, out, lse);
	assert_all_close(out, ref, nq, 2e-5, "out");
	assert_all_close(lse, ref + nq, nl, 2e-6, "lse");
	if (gradients) {
		ops->attention_grad(a, q, k, v, out, lse, dout, dq, dk, dv);
		assert_all_close(dq, ref + nq + nl, nq, 5e-5, "dq");
		assert_all_close(dk, ref + 2 * nq + nl, nk, 5e-5, "dk");
		assert_all_close(dv, ref + 2 * nq + nl + nk, nk, 5e-5, "dv");
	}
	float *all[] = {q, k, v, dout, out, lse, dq, dk, dv};

	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		free(all[i]);
	free(ref);
}

static void attention_and_its_gradient_agree_with_float64(void **state)
{
	static const int32_t one[2] = {0, 1}, several[6] = {0, 33, 34, 99, 164, 300};
	const struct kernels *k;

	(void)state;
	EACH_BACKEND(k)
	{
		check_attention(k, &(struct attention){1, one, one, 1, 1, 2, 0.7f}, true);
		check_attention(k, &(struct attention){5, several, several, 4, 2, 8, 0.35f}, true);
		check_attention(k, &(struct attention){3, several, several, 3, 1, 22, 0.2f}, true);
		check_attention(k, &(struct attention){5, several, several, 2, 2, 64, 0.125f}, true);
	}
}

static void attention_with_past_keys_sees_all_of_them(void **state)
{
	static const int32_t cu_q[4] = {0, 1, 5, 40}, cu_k[4] = {0, 70, 75, 175};
	const struct kernels *k;

	(void)state;
	EACH_BACKEND(k)
	check_attention(k, &(struct attention){3, cu_q, cu_k, 4, 2, 10, 0.3f}, false);
}

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
	const size_t n = 20011;
	float *gate = random_floats(n, 12), *up = random_floats(n, 2), *dout = random_floats(n, 1),
	      *out = xmalloc(4 * n);
	const struct kernels *k;

	(void)state;
	gate[0] = 200;
	gate[1] = -200;
	gate[2] = 0;
	EACH_BACKEND(k)
	for (enum gate f = GATE_SILU; f <= GATE_GELU_TANH; f++) {
		float *dgate = copy_floats(gate, n), *dup = copy_floats(up, n);

		k->gated(f, gate, up, n, out);
		k->gated_grad(f, dgate, dup, dout, n, dgate, dup); /* in place */
		for (size_t i = 0; i < n; i++) {
			double x = gate[i],
			       slope = (activation(f, x + 1e-5) - activation(f, x - 1e-5)) / 2e-5;

			assert_close(out[i], activation(f, x) * up[i], 2e-6, "out", i);
			assert_close(dgate[i], dout[i] * up[i] * slope, 3e-6, "dgate", i);
			assert_close(dup[i], dout[i] * activation(f, x), 2e-6, "dup", i);
		}
		free(dgate);
		free(dup);
	}
	free(gate);
	free(up);
	free(dout);
	free(out);
}

static void cross_entropy_agrees_with_float64_and_its_gradient_sums_to_zero(void **state)
{
	static const int sizes[] = {1, 2, 37, 512, 9001};
	const struct kernels *k;

	(void)state;
	EACH_BACKEND(k)
	for (size_t s = 0; s < 5; s++) {
		int vocab = sizes[s], n = 5;
		float *x = random_floats((size_t)(n * vocab), 30), *g = copy_floats(x, (size_t)(n * vocab));
		int32_t target[5] = {0, vocab - 1, vocab / 2, vocab / 3, 0};
		double loss[5], again[5];

		k->cross_entropy(target, n, vocab, false, 0, x, loss);
		k->cross_entropy(target, n, vocab, true, 0.25f, g, again);
		for (int t = 0; t < n; t++) {
			double sum = 0, max = -1e9;

			for (int i = 0; i < vocab; i++)
				max = fmax(max, x[t * vocab + i]);
			for (int i = 0; i < vocab; i++)
				sum += exp(x[t * vocab + i] - max);
			assert_close(loss[t], log(sum) + max - x[t * vocab + target[t]], 1e-6, "loss",
				     (size_t)t);
			assert_true(loss[t] == again[t]);
			for (int i = 0; i < vocab; i++)
				assert_close(g[t * vocab + i],
					     0.25 * (exp(x[t * vocab + i] - max) / sum - (i == target[t])),
					     1e-6, "dlogits", (size_t)(t * vocab + i));
		}
		free(x);
		free(g);
	}
}

static void squares_sum_in_fp64(void **state)
{
	const struct kernels *k;

	(void)state;
	EACH_BACKEND(k)
	for (int round = 0; round < 4; round++) {
		size_t n = round == 3 ? 300001 : (size_t)round * 13;
		float *x = random_floats(n, 1);
		double want = 0, got = -1;

		for (size_t i = 0; i < n; i++)
			want += (double)x[i] * x[i];
		k->sum_squares(x, n, &got);
		assert_close(got, want, 1e-12, "sum", n);
		free(x);
	}
}

static void adamw_takes_bitsandbytes_and_pytorchs_steps(void **state)
{
	const struct kernels *k;
	const size_t n = 40000;

	(void)state;
	EACH_BACKEND(k)
	for (int decay_first = 0; decay_first < 2; decay_first++) {
		float *p = random_floats(n, 1), *m = xcalloc(n, 4), *v = xcalloc(n, 4), *g[3];
		double *pd = xmalloc(8 * n), *md = xcalloc(n, 8), *vd = xcalloc(n, 8);

		for (size_t i = 0; i < n; i++)
			pd[i] = p[i];
		for (int t = 1; t <= 3; t++) {
			struct adamw o = {0.01f * (float)t, 0.9f, 0.999f, 1e-4f, 0.1f, t, 0.5f, decay_first};
			double c1 = 1 - pow(o.beta1, t), c2 = sqrt(1 - pow(o.beta2, t));

			g[t - 1] = random_floats(n, 1);
			k->adamw(&o, g[t - 1], n, p, m, v);
			for (size_t i = 0; i < n; i++) {
				double x = 0.5 * g[t - 1][i], decay = 1 - (double)o.lr * o.weight_decay;

				md[i] = o.beta1 * md[i] + (1 - (double)o.beta1) * x;
				vd[i] = o.beta2 * vd[i] + (1 - (double)o.beta2) * x * x;
				if (decay_first) /* torch.optim.AdamW: denominators with eps outside the correction */
					pd[i] = pd[i] * decay -
						o.lr / c1 * md[i] / (sqrt(vd[i]) / c2 + o.eps);
				else
					pd[i] = (pd[i] -
						 o.lr * c2 / c1 * md[i] / (sqrt(vd[i]) + o.eps * c2)) *
						decay;
				assert_close(p[i], pd[i], 2e-6, "p", i);
			}
			free(g[t - 1]);
		}
		free(p);
		free(m);
		free(v);
		free(pd);
		free(md);
		free(vd);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_operation_is_there),
		cmocka_unit_test(embedding_gathers_and_its_gradient_adds_up_repeats),
		cmocka_unit_test(rmsnorm_and_its_gradient_agree_with_float64),
		cmocka_unit_test(rotation_follows_positions_and_its_inverse_undoes_it),
		cmocka_unit_test(attention_and_its_gradient_agree_with_float64),
		cmocka_unit_test(attention_with_past_keys_sees_all_of_them),
		cmocka_unit_test(activations_agree_with_float64_over_their_whole_range),
		cmocka_unit_test(cross_entropy_agrees_with_float64_and_its_gradient_sums_to_zero),
		cmocka_unit_test(squares_sum_in_fp64),
		cmocka_unit_test(adamw_takes_bitsandbytes_and_pytorchs_steps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
