/* Causal attention over packed sequences, softmax in fp32. A task takes a block of queries of one head and
 * holds its scores for all keys that any of them sees: (QUERIES, keys) floats of scratch, so that the softmax is the plain
 * one. The backward pass makes the probabilities again from the saved log-sum-exp, twice: once by blocks of
 * queries for dq, once by blocks of keys for dk and dv, so that every task writes what no other does and no
 * sum depends on the threads. */
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/simd.h"

#define QUERIES       32
#define KEYS          64
#define PARALLEL_WORK 100000.0

/* One head of one sequence: rows are stride apart. */
struct head {
	int queries, keys;
	int before; /* keys - queries: query i sees keys up to before + i */
	ptrdiff_t q_at, k_at,
		out_at; /* offset of its first element in q and dq; in k, v, dk, dv; in out, dout */
	ptrdiff_t lse_at;
	ptrdiff_t q_stride, k_stride, out_stride;
};

static int keys_of(const struct attention *s, int sequence)
{
	return s->k_end[sequence] - s->k_begin[sequence];
}

static struct head head_of(const struct attention *s, int sequence, int head)
{
	struct head h = {
		.queries = s->cu_q[sequence + 1] - s->cu_q[sequence],
		.keys = keys_of(s, sequence),
		.q_stride = s->q_stride,
		.k_stride = s->k_stride,
		.out_stride = (ptrdiff_t)s->heads * s->head_dim,
		.lse_at = (ptrdiff_t)s->cu_q[sequence] * s->heads + head,
	};
	ptrdiff_t column = (ptrdiff_t)head * s->head_dim;

	h.before = h.keys - h.queries;
	h.q_at = s->cu_q[sequence] * h.q_stride + column;
	h.k_at = s->k_begin[sequence] * h.k_stride +
		 (ptrdiff_t)(head / (s->heads / s->kv_heads)) * s->head_dim;
	h.out_at = s->cu_q[sequence] * h.out_stride + column;
	return h;
}

/* The first key that query i sees. */
static int first_key(const struct attention *s, const struct head *h, int i)
{
	int position = h->before + i;

	return s->window > 0 && position >= s->window ? position - s->window + 1 : 0;
}

/* Rows of scores start at multiples of LANES, so that the loops over them need no ends of other widths. */
static int padded(int width)
{
	return (width + LANES - 1) / LANES * LANES;
}

CLONES static void cap_scores(float *row, int n, float cap)
{
	for (int i = 0; i < n; i++)
		row[i] = cap * tanh_fast(row[i] / cap);
}

/* Softmax of [first, n) of row, zeros around it up to width (a multiple of LANES); gives the log-sum-exp. */
CLONES static float softmax_row(float *row, int first, int n, int width)
{
	static const float nothing[LANES] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY,
					     -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY,
					     -INFINITY, -INFINITY, -INFINITY, -INFINITY};
	float lane[LANES];
	int used = padded(n);

	memcpy(row + n, nothing, sizeof *row * (size_t)(used - n));
	for (int i = 0; i < first; i++)
		row[i] = -INFINITY;
	for (int j = 0; j < LANES; j++)
		lane[j] = -INFINITY;
	for (int i = 0; i < used; i += LANES)
		for (int j = 0; j < LANES; j++)
			lane[j] = row[i + j] > lane[j] ? row[i + j] : lane[j];
	for (int half = LANES / 2; half > 0; half /= 2)
		for (int j = 0; j < half; j++)
			lane[j] = lane[j + half] > lane[j] ? lane[j + half] : lane[j];
	float max = lane[0];

	for (int j = 0; j < LANES; j++)
		lane[j] = 0;
	for (int i = 0; i < used; i += LANES)
		for (int j = 0; j < LANES; j++) {
			float e = exp_fast(row[i + j] - max);

			row[i + j] = e;
			lane[j] += e; /* outside it is 1e-38 */
		}
	float sum = lanes_sum(lane), inverse = 1.0f / sum;

	for (int i = 0; i < used; i += LANES)
		for (int j = 0; j < LANES; j++)
			row[i + j] *= inverse;
	memset(row, 0, sizeof *row * (size_t)first);
	memset(row + n, 0, sizeof *row * (size_t)(width - n));
	return max + logf(sum);
}

/* Attention of one query: scores are dot products, the result a running sum; nothing is worth packing. */
CLONES static void weighted_sum(const float *p, const float *v, ptrdiff_t stride, int n, int dim, float *out)
{
	for (int d = 0; d < dim; d++)
		out[d] = 0;
	for (int j = 0; j < n; j++)
		for (int d = 0; d < dim; d++)
			out[d] += p[j] * v[j * stride + d];
}

static void forward_block(const struct attention *s, const struct head *h, int i0, const float *q,
			  const float *k, const float *v, float *out, float *lse)
{
	int m = h->queries - i0 < QUERIES ? h->queries - i0 : QUERIES;
	int j0 = first_key(s, h, i0), width = h->before + i0 + m - j0, ld = padded(width);
	float *scores = scratch(SCRATCH_OP, sizeof *scores * (size_t)m * (size_t)ld);
	const float *keys = k + h->k_at + j0 * h->k_stride, *values = v + h->k_at + j0 * h->k_stride;
	float *to = out + h->out_at + i0 * h->out_stride;

	gemm(&(struct gemm){m, width, s->head_dim, q + h->q_at + i0 * h->q_stride, h->q_stride, 1, keys, 1,
			    h->k_stride, scores, ld, s->scale, false});
	for (int i = 0; i < m; i++) {
		float *row = scores + (ptrdiff_t)i * ld;
		int visible = h->before + i0 + i + 1 - j0;

		if (s->softcap > 0)
			cap_scores(row, visible, s->softcap);
		float l = softmax_row(row, first_key(s, h, i0 + i) - j0, visible, ld);

		if (lse)
			lse[h->lse_at + (ptrdiff_t)(i0 + i) * s->heads] = l;
	}
	if (m == 1)
		weighted_sum(scores, values, h->k_stride, width, s->head_dim, to);
	else
		gemm(&(struct gemm){m, s->head_dim, width, scores, ld, 1, values, h->k_stride, 1, to,
				    h->out_stride, 1.0f, false});
}

/* The largest number of tasks that a sequence's queries or keys make, and the work in multiply-adds. max_q and max_k would
 * be bounds of these; here the lengths themselves can be read. */
static int query_blocks(const struct attention *s)
{
	int most = 0;

	for (int i = 0; i < s->sequences; i++)
		most = s->cu_q[i + 1] - s->cu_q[i] > most ? s->cu_q[i + 1] - s->cu_q[i] : most;
	return (most + QUERIES - 1) / QUERIES;
}

static int key_blocks(const struct attention *s)
{
	int most = 0;

	for (int i = 0; i < s->sequences; i++)
		most = keys_of(s, i) > most ? keys_of(s, i) : most;
	return (most + KEYS - 1) / KEYS;
}

static double work_of(const struct attention *s)
{
	double work = 0;

	for (int i = 0; i < s->sequences; i++)
		work += (double)(s->cu_q[i + 1] - s->cu_q[i]) * keys_of(s, i);
	return work * s->heads * s->head_dim;
}

void cpu_attention(struct device *d, const struct attention *s, const void *q, const void *k, const void *v,
		   void *out, float *lse)
{
	int blocks = query_blocks(s);

#pragma omp parallel for collapse(3) schedule(dynamic) if (work_of(s) > PARALLEL_WORK)
	for (int sequence = 0; sequence < s->sequences; sequence++)
		for (int head = 0; head < s->heads; head++)
			for (int block = 0; block < blocks; block++) {
				struct head h = head_of(s, sequence, head);

				if (block * QUERIES < h.queries)
					forward_block(s, &h, block * QUERIES, q, k, v, out, lse);
			}
}

/* Scores p and dp become probabilities and gradients of the products q k^T, for [first, n) of each row; zeros around
 * that up to width, a multiple of LANES. cap 0: none. */
CLONES static void score_grad(float *p, float *dp, int first, int n, int width, float cap, float lse,
			      float delta, float scale)
{
	if (cap > 0) {
		for (int i = first; i < n; i++) {
			float t = tanh_fast(p[i] / cap), e = exp_fast(cap * t - lse);

			p[i] = e;
			dp[i] = e * (dp[i] - delta) * scale * (1.0f - t * t);
		}
	} else {
		for (int i = first / LANES * LANES; i < n; i += LANES)
			for (int j = 0; j < LANES; j++) {
				float e = exp_fast(p[i + j] - lse);

				p[i + j] = e;
				dp[i + j] = e * (dp[i + j] - delta) * scale;
			}
	}
	memset(p, 0, sizeof *p * (size_t)first);
	memset(dp, 0, sizeof *dp * (size_t)first);
	memset(p + n, 0, sizeof *p * (size_t)(width - n));
	memset(dp + n, 0, sizeof *dp * (size_t)(width - n));
}

CLONES static float dot(const float *x, const float *y, int n)
{
	float lane[LANES] = {0};
	int i = 0;

	for (; i + LANES <= n; i += LANES)
		for (int j = 0; j < LANES; j++)
			lane[j] += x[i + j] * y[i + j];
	for (int j = 0; i < n; i++, j++)
		lane[j] += x[i] * y[i];
	return lanes_sum(lane);
}

/* What the backward pass reads. */
struct tensors {
	const float *q, *k, *v, *out, *lse, *dout;
};

static int clamp(int x, int most)
{
	return x < 0 ? 0 : x < most ? x : most;
}

/* p and ds (m, n), rows padded(n) apart, for queries [i0, i0 + m) and keys [j0, j0 + n) of a head. */
static void probabilities(const struct attention *s, const struct head *h, const struct tensors *t, int i0,
			  int m, int j0, int n, float *p, float *ds)
{
	ptrdiff_t at = h->out_at + i0 * h->out_stride, key = h->k_at + j0 * h->k_stride;
	int ld = padded(n);

	gemm(&(struct gemm){m, n, s->head_dim, t->q + h->q_at + i0 * h->q_stride, h->q_stride, 1, t->k + key,
			    1, h->k_stride, p, ld, s->scale, false});
	gemm(&(struct gemm){m, n, s->head_dim, t->dout + at, h->out_stride, 1, t->v + key, 1, h->k_stride, ds,
			    ld, 1.0f, false});
	for (int i = 0; i < m; i++) {
		int visible = clamp(h->before + i0 + i + 1 - j0, n);
		ptrdiff_t row = at + i * h->out_stride;

		score_grad(p + (ptrdiff_t)i * ld, ds + (ptrdiff_t)i * ld,
			   clamp(first_key(s, h, i0 + i) - j0, visible), visible, ld, s->softcap,
			   t->lse[h->lse_at + (ptrdiff_t)(i0 + i) * s->heads],
			   dot(t->dout + row, t->out + row, s->head_dim), s->scale);
	}
}

static void grad_q_block(const struct attention *s, const struct head *h, int i0, const struct tensors *t,
			 float *dq)
{
	int m = h->queries - i0 < QUERIES ? h->queries - i0 : QUERIES;
	int j0 = first_key(s, h, i0), width = h->before + i0 + m - j0, ld = padded(width);
	float *p = scratch(SCRATCH_OP, sizeof *p * 2 * (size_t)m * (size_t)ld), *ds = p + (ptrdiff_t)m * ld;

	probabilities(s, h, t, i0, m, j0, width, p, ds);
	gemm(&(struct gemm){m, s->head_dim, width, ds, ld, 1, t->k + h->k_at + j0 * h->k_stride, h->k_stride,
			    1, dq + h->q_at + i0 * h->q_stride, h->q_stride, 1.0f, false});
}

/* dk and dv of keys [j0, j0 + n): the sum over the heads that share them, and over the queries that see them. */
static void grad_kv_block(const struct attention *s, int sequence, int kv_head, int j0,
			  const struct tensors *t, float *dk, float *dv)
{
	int group = s->heads / s->kv_heads;
	float *p = scratch(SCRATCH_OP, sizeof *p * 2 * QUERIES * KEYS), *ds = p + QUERIES * KEYS;
	bool add = false;

	for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
		struct head h = head_of(s, sequence, head);
		int n = h.keys - j0 < KEYS ? h.keys - j0 : KEYS;
		ptrdiff_t key = h.k_at + j0 * h.k_stride;
		int first = j0 - h.before > 0 ? j0 - h.before : 0, end = h.queries;

		if (s->window > 0 && j0 + n - 1 + s->window - h.before < end)
			end = j0 + n - 1 + s->window - h.before;
		for (int i0 = first; i0 < end; i0 += QUERIES, add = true) {
			int m = end - i0 < QUERIES ? end - i0 : QUERIES;

			probabilities(s, &h, t, i0, m, j0, n, p, ds);
			gemm(&(struct gemm){n, s->head_dim, m, p, 1, padded(n),
					    t->dout + h.out_at + i0 * h.out_stride, h.out_stride, 1, dv + key,
					    h.k_stride, 1.0f, add});
			gemm(&(struct gemm){n, s->head_dim, m, ds, 1, padded(n),
					    t->q + h.q_at + i0 * h.q_stride, h.q_stride, 1, dk + key,
					    h.k_stride, 1.0f, add});
		}
	}
}

void cpu_attention_grad(struct device *d, const struct attention *s, const void *q, const void *k,
			const void *v, const void *out, const float *lse, const void *dout, void *dq,
			void *dk, void *dv)
{
	struct tensors t = {q, k, v, out, lse, dout};
	int of_keys = s->kv_heads * key_blocks(s), per_sequence = s->heads * query_blocks(s) + of_keys;

#pragma omp parallel for schedule(dynamic) if (work_of(s) > PARALLEL_WORK)
	for (int task = 0; task < s->sequences * per_sequence; task++) {
		int sequence = task / per_sequence, i = task % per_sequence;

		if (i < of_keys) {
			int j0 = i / s->kv_heads * KEYS;

			if (j0 < keys_of(s, sequence))
				grad_kv_block(s, sequence, i % s->kv_heads, j0, &t, dk, dv);
		} else {
			i -= of_keys;
			struct head h = head_of(s, sequence, i % s->heads);
			int i0 = i / s->heads * QUERIES;

			if (i0 < h.queries)
				grad_q_block(s, &h, i0, &t, dq);
		}
	}
}
