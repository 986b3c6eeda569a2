/* Attention on every device against float64: packed sequences of odd lengths, grouped heads, strides, soft cap, window, and
 * keys in a cache. */
#include "tests/unit/kernels/check.h"

/* A batch on the host; the device's copy differs in its three arrays alone. */
struct batch {
	struct attention a;
	const int32_t *cu_q, *k_begin, *k_end;
	int key_rows; /* of k and v */
};

/* The score before the softmax, and its derivative by the dot product. */
static double score_of(const struct attention *a, double dot, double *slope)
{
	double s = dot * a->scale;

	*slope = a->scale;
	if (a->softcap > 0) {
		double th = tanh(s / a->softcap);

		*slope *= 1 - th * th;
		s = a->softcap * th;
	}
	return s;
}

/* Attention in float64, and its gradients by the chain rule written out. dq, dk, dv have the strides of q, k, v. */
static void ref_attention(const struct batch *b, const float *q, const float *k, const float *v,
			  const float *dout, double *out, double *lse, double *dq, double *dk, double *dv)
{
	const struct attention *a = &b->a;
	int group = a->heads / a->kv_heads, dim = a->head_dim;
	double *p = xmalloc(sizeof *p * 3 * (size_t)b->key_rows), *dp = p + b->key_rows,
	       *slope = dp + b->key_rows;

	for (int s = 0; s < a->sequences; s++)
		for (int h = 0; h < a->heads; h++)
			for (int i = b->cu_q[s]; i < b->cu_q[s + 1]; i++) {
				int own = b->k_end[s] - b->k_begin[s] -
					  (b->cu_q[s + 1] - i); /* its own key */
				int first = a->window && own + 1 > a->window ? own + 1 - a->window : 0;
				const float *qi = q + i * a->q_stride + h * dim,
					    *di = dout + (i * a->heads + h) * dim;
				double sum = 0, delta = 0, most = -1e300;

				for (int j = first; j <= own; j++) {
					const float *kj = k + (ptrdiff_t)(b->k_begin[s] + j) * a->k_stride +
							  h / group * dim;
					double dot = 0;

					for (int e = 0; e < dim; e++)
						dot += (double)qi[e] * kj[e];
					p[j] = score_of(a, dot, &slope[j]);
					most = fmax(most, p[j]);
				}
				for (int j = first; j <= own; j++)
					sum += p[j] = exp(p[j] - most);
				lse[i * a->heads + h] = log(sum) + most;
				for (int j = first; j <= own; j++) {
					ptrdiff_t at = (ptrdiff_t)(b->k_begin[s] + j) * a->k_stride +
						       h / group * dim;

					p[j] /= sum;
					dp[j] = 0;
					for (int e = 0; e < dim; e++) {
						out[(i * a->heads + h) * dim + e] += p[j] * v[at + e];
						dp[j] += (double)di[e] * v[at + e];
						if (dv)
							dv[at + e] += p[j] * di[e];
					}
					delta += p[j] * dp[j];
				}
				for (int j = first; dq && j <= own; j++) {
					ptrdiff_t at = (ptrdiff_t)(b->k_begin[s] + j) * a->k_stride +
						       h / group * dim;
					double ds = p[j] * (dp[j] - delta) * slope[j];

					for (int e = 0; e < dim; e++) {
						dq[i * a->q_stride + h * dim + e] += ds * k[at + e];
						dk[at + e] += ds * qi[e];
					}
				}
			}
	free(p);
}

/* The device's struct. bounds: more than the real lengths, which must make no difference. */
static struct attention on_device(struct device *d, const struct batch *b, int more)
{
	struct attention a = b->a;
	size_t n = (size_t)a.sequences;

	a.cu_q = i32_in(d, b->cu_q, n + 1);
	if (b->k_begin == b->cu_q) {
		a.k_begin = a.cu_q;
		a.k_end = a.cu_q + 1;
	} else {
		a.k_begin = i32_in(d, b->k_begin, n);
		a.k_end = i32_in(d, b->k_end, n);
	}
	a.queries = b->cu_q[n];
	a.max_q = a.max_k = more;
	for (size_t s = 0; s < n; s++) {
		int nq = b->cu_q[s + 1] - b->cu_q[s], nk = b->k_end[s] - b->k_begin[s];

		a.max_q = nq + more > a.max_q ? nq + more : a.max_q;
		a.max_k = nk + more > a.max_k ? nk + more : a.max_k;
	}
	return a;
}

static void check_forward(struct device *d, const struct batch *b, int more)
{
	struct attention a = on_device(d, b, more);
	size_t nq = (size_t)(a.queries * a.q_stride), nk = (size_t)b->key_rows * (size_t)a.k_stride;
	size_t no = (size_t)(a.queries * a.heads * a.head_dim), nl = (size_t)(a.queries * a.heads);
	float *q = random_floats(nq, 2), *k = random_floats(nk, 2), *v = random_floats(nk, 1),
	      *zero = xcalloc(no + 1, 4);
	double *want = xcalloc(no + nl + 1, 8);
	const void *q_there = act_in(d, q, nq), *k_there = act_in(d, k, nk), *v_there = act_in(d, v, nk);
	void *out = act_new(d, no), *again = act_new(d, no);
	float *lse = f32_new(d, nl);

	ref_attention(b, q, k, v, zero, want, want + no, NULL, NULL, NULL);
	d->ops->attention(d, &a, q_there, k_there, v_there, out, lse);
	d->ops->attention(d, &a, q_there, k_there, v_there, again, NULL);
	float *o = act_out(d, out, no), *l = f32_out(d, lse, nl), *o2 = act_out(d, again, no);

	/* Probabilities are rounded to activations on their way to the second product. */
	assert_all_close(d, o, want, no, tolerance(d, 2e-5, 2), "out");
	assert_all_close(d, l, want + no, nl, 1e-5, "lse");
	assert_memory_equal(o, o2, no * sizeof *o);
	FREE(q, k, v, zero, want, o, l, o2);
	case_end(d);
}

/* What a gradient may differ by: roundings of p and ds add up over the keys. */
static double gradient_tolerance(const struct device *d)
{
	return d->act == DTYPE_F32 ? 1e-4 : d->act == DTYPE_BF16 ? 4e-2 : 5e-3;
}

/* q, k and v side by side in rows, as a pass has them; gap columns behind them. more: as in on_device. */
static void check_training(struct device *d, struct batch *b, int gap, int more)
{
	int qw = b->a.heads * b->a.head_dim, kw = b->a.kv_heads * b->a.head_dim, ld = qw + 2 * kw + gap;

	b->a.q_stride = b->a.k_stride = ld;
	b->k_begin = b->cu_q;
	b->k_end = b->cu_q + 1;
	b->key_rows = b->cu_q[b->a.sequences];
	struct attention a = on_device(d, b, more);
	size_t n = (size_t)(a.queries * ld), no = (size_t)(a.queries * qw),
	       nl = (size_t)(a.queries * a.heads);
	float *x = random_floats(n, 1.5f), *dout = random_floats(no, 1);
	double *out = xcalloc(no, 8), *lse = xcalloc(nl, 8), *dx = xcalloc(n, 8);
	char *x_there = act_in(d, x, n), *dx_there[2];
	size_t size = device_act_size(d), k_at = (size_t)qw * size, v_at = (size_t)(qw + kw) * size;
	void *out_there = act_new(d, no), *dout_there = act_in(d, dout, no);
	float *lse_there = f32_new(d, nl), *got[2];

	ref_attention(b, x, x + qw, x + qw + kw, dout, out, lse, dx, dx + qw, dx + qw + kw);
	d->ops->attention(d, &a, x_there, x_there + k_at, x_there + v_at, out_there, lse_there);
	float *o = act_out(d, out_there, no), *l = f32_out(d, lse_there, nl);

	assert_all_close(d, o, out, no, tolerance(d, 2e-5, 2), "out");
	assert_all_close(d, l, lse, nl, 1e-5, "lse");
	for (int i = 0; i < 2; i++) {
		dx_there[i] = act_new(d, n);
		d->ops->attention_grad(d, &a, x_there, x_there + k_at, x_there + v_at, out_there, lse_there,
				       dout_there, dx_there[i], dx_there[i] + k_at, dx_there[i] + v_at);
		got[i] = act_out(d, dx_there[i], n);
	}
	for (int t = 0; t < a.queries; t++)
		for (int c = 0; c < ld; c++) {
			size_t i = (size_t)(t * ld + c);

			if (c >= qw + 2 * kw)
				assert_true(isnan(got[0][i])); /* untouched */
			else
				assert_close(got[0][i], dx[i], gradient_tolerance(d),
					     c < qw        ? "dq"
					     : c < qw + kw ? "dk"
							   : "dv",
					     i);
		}
	assert_memory_equal(got[0], got[1], n * sizeof *got[0]);
	FREE(x, dout, out, lse, dx, o, l, got[0], got[1]);
	case_end(d);
}

static bool takes(const struct device *d, int head_dim)
{
	return d->act == DTYPE_F32 || head_dim % 16 == 0;
}

static void packed_sequences_and_their_gradients_agree_with_float64(void **state)
{
	static const int32_t one[] = {0, 1}, several[] = {0, 33, 34, 34, 99, 174}, longer[] = {0, 130, 137},
			     longest[] = {0, 190, 200, 483},
			     many[] = {0, 5, 12, 12, 13, 30, 47, 48, 64, 65, 70};
	static int32_t crowd[41]; /* more rows than run at once */
	static const struct batch cases[] = {
		{{.sequences = 1, .heads = 1, .kv_heads = 1, .head_dim = 2, .scale = 0.7f},
		 one,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 5, .heads = 4, .kv_heads = 2, .head_dim = 8, .scale = 0.35f},
		 several,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 3, .heads = 3, .kv_heads = 1, .head_dim = 22, .scale = 0.2f},
		 several,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 1, .heads = 2, .kv_heads = 2, .head_dim = 16, .scale = 0.25f},
		 one,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 5, .heads = 2, .kv_heads = 2, .head_dim = 64, .scale = 0.125f},
		 several,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 10, .heads = 4, .kv_heads = 1, .head_dim = 32, .scale = 0.18f},
		 many,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 10, .heads = 6, .kv_heads = 2, .head_dim = 80, .scale = 0.11f},
		 many,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 2, .heads = 2, .kv_heads = 1, .head_dim = 96, .scale = 0.1f},
		 longer,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 2, .heads = 8, .kv_heads = 1, .head_dim = 256, .scale = 0.0625f},
		 longer,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 2,
		  .heads = 3,
		  .kv_heads = 1,
		  .head_dim = 192,
		  .scale = 0.0625f,
		  .window = 110},
		 longer,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 2, .heads = 2, .kv_heads = 2, .head_dim = 128, .scale = 0.09f},
		 longer,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 5, .heads = 8, .kv_heads = 1, .head_dim = 256, .scale = 0.0625f},
		 many,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 2, .heads = 2, .kv_heads = 1, .head_dim = 64, .scale = 0.5f, .softcap = 3},
		 longer,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 2, .heads = 2, .kv_heads = 1, .head_dim = 64, .scale = 0.125f, .window = 70},
		 longer,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 5, .heads = 2, .kv_heads = 1, .head_dim = 16, .scale = 0.25f, .window = 1},
		 several,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 5,
		  .heads = 4,
		  .kv_heads = 2,
		  .head_dim = 32,
		  .scale = 0.4f,
		  .softcap = 5,
		  .window = 9},
		 several,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 3, .heads = 2, .kv_heads = 1, .head_dim = 256, .scale = 0.0625f},
		 longest,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 3,
		  .heads = 2,
		  .kv_heads = 1,
		  .head_dim = 256,
		  .scale = 0.1f,
		  .softcap = 5,
		  .window = 150},
		 longest,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 3, .heads = 3, .kv_heads = 1, .head_dim = 128, .scale = 0.09f, .window = 100},
		 longest,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 3, .heads = 2, .kv_heads = 2, .head_dim = 64, .scale = 0.125f},
		 longest,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 40, .heads = 8, .kv_heads = 1, .head_dim = 256, .scale = 0.0625f},
		 crowd,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 40,
		  .heads = 8,
		  .kv_heads = 2,
		  .head_dim = 144,
		  .scale = 0.1f,
		  .softcap = 5,
		  .window = 90},
		 crowd,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 40, .heads = 7, .kv_heads = 1, .head_dim = 112, .scale = 0.09f, .window = 9},
		 crowd,
		 NULL,
		 NULL,
		 0},
		{{.sequences = 40, .heads = 8, .kv_heads = 8, .head_dim = 48, .scale = 0.2f},
		 crowd,
		 NULL,
		 NULL,
		 0},
	};
	struct device *d;

	(void)state;
	for (int i = 0; i < 40; i++)
		crowd[i + 1] = crowd[i] + (i == 7 ? 111 : i * 7 % 23);
	EACH_DEVICE(d)
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct batch b = cases[i];

		if (!takes(d, b.a.head_dim) || !case_wanted(i))
			continue;
		check_training(d, &b, i % 3 == 1 ? 8 : 0, i % 3 == 1 ? 8 : 0);
		/* By the bounds alone these could be long. */
		if (b.cu_q != crowd)
			check_training(d, &b, 0, 300);
	}
}

static void bounds_far_above_the_lengths_make_no_difference(void **state)
{
	static const int32_t cu[] = {0, 100, 171};
	static const int dims[] = {64, 128, 256};
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
		struct batch b = {
			{.sequences = 2, .heads = 2, .kv_heads = 1, .head_dim = dims[i], .scale = 0.1f},
			cu,
			NULL,
			NULL,
			0};

		check_training(d, &b, 0, 1 << 20);
	}
}

static void keys_in_a_cache_are_seen_from_their_beginning(void **state)
{
	static const struct {
		int sequences;
		int32_t cu_q[10], begin[9], end[9];
	} caches[] = {
		/* Three slots of 160 rows, filled to 71, 75 and 130. */
		{3, {0, 1, 6, 46}, {320, 0, 160}, {391, 75, 290}},
		/* Single tokens of four slots. */
		{4, {0, 1, 2, 3, 4}, {160, 480, 0, 320}, {161, 640, 33, 387}},
		/* More parts than are brought together at once. */
		{1, {0, 3}, {0}, {640}},
		/* More keys than warps are there for at once. */
		{9,
		 {0, 1, 2, 3, 4, 5, 6, 8, 9, 10},
		 {0, 10, 600, 5, 33, 250, 0, 0, 320},
		 {640, 35, 640, 400, 34, 500, 420, 1, 640}},
	};
	/* Which cache, heads of its keys, columns behind a row of queries, and by how much bounds are above the lengths. */
	static const struct {
		int cache, kv_heads, gap, more;
	} cases[] = {{0, 1, 0, 0}, {0, 2, 16, 500}, {1, 1, 0, 0}, {1, 2, 0, 500}, {2, 1, 0, 0}, {3, 2, 0, 0}};
	static const int dims[] = {16, 64, 80, 256, 10};
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
		for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
			int kv_heads = cases[k].kv_heads, heads = 4, dim = dims[i], cache = cases[k].cache;
			struct batch b = {
				.a = {.sequences = caches[cache].sequences,
				      .heads = heads,
				      .kv_heads = kv_heads,
				      .head_dim = dim,
				      .q_stride = heads * dim + cases[k].gap,
				      .k_stride = kv_heads * dim,
				      .scale = 1 / sqrtf((float)dim),
				      .softcap = i == 1 ? 2.0f : 0,
				      .window = i == 2 ? 40 : 0},
				.cu_q = caches[cache].cu_q,
				.k_begin = caches[cache].begin,
				.k_end = caches[cache].end,
				.key_rows = 640,
			};

			if (takes(d, dim))
				check_forward(d, &b, cases[k].more);
		}
}

static void rows_are_rotated_and_appended_to_a_cache(void **state)
{
	static const int32_t row[5] = {7, -1, 0, 3, 9}, position[5] = {11, 0, 5, 3, 1};
	struct device *d;

	(void)state;
	EACH_DEVICE(d)
	for (int round = 0; round < 4; round++) {
		int dim = round == 0   ? 64
			  : round == 1 ? 10
				       : 2 * random_size(70),
		    kv = round < 2 ? 1 : random_size(3);
		int heads = kv * random_size(4), width = kv * dim, ld = heads * dim + 2 * width + 8 * round,
		    half = dim / 2;
		size_t n = (size_t)(5 * ld), nc = (size_t)(10 * width);
		float *x = random_floats(n, 1), *c = f32_new(d, (size_t)(12 * half)),
		      *s = f32_new(d, (size_t)(12 * half));
		char *there = act_in(d, x, n), *rotated = act_in(d, x, n);
		void *keys = act_new(d, nc), *values = act_new(d, nc);
		const int32_t *at = i32_in(d, position, 5);

		d->ops->rope_table(d, 10000.0f, dim, 12, c, s);
		d->ops->rope(d, c, s, at, 5, heads + kv, dim, ld, false, rotated);
		d->ops->rope_append(d, c, s, at, 5, heads, kv, dim, ld, there, i32_in(d, row, 5), keys,
				    values);
		float *k = act_out(d, keys, nc), *v = act_out(d, values, nc), *y = act_out(d, there, n),
		      *want = act_out(d, rotated, n);

		for (size_t i = 0; i < n; i++)
			assert_true(y[i] == want[i]);
		for (int r = 0; r < 10; r++) {
			int t = 0;

			while (t < 5 && row[t] != r)
				t++;
			for (int i = 0; i < width; i++) {
				if (t == 5) {
					assert_true(isnan(k[r * width + i]) && isnan(v[r * width + i]));
				} else {
					assert_true(k[r * width + i] == want[t * ld + heads * dim + i]);
					assert_true(v[r * width + i] == x[t * ld + heads * dim + width + i]);
				}
			}
		}
		FREE(x, k, v, y, want);
		case_end(d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(packed_sequences_and_their_gradients_agree_with_float64),
		cmocka_unit_test(bounds_far_above_the_lengths_make_no_difference),
		cmocka_unit_test(keys_in_a_cache_are_seen_from_their_beginning),
		cmocka_unit_test(rows_are_rotated_and_appended_to_a_cache),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
