/* Causal attention over packed sequences, softmax in fp32. A task takes a block of queries of one head and
 * holds its scores for all visible keys: (QUERIES, keys) floats of scratch, so that the softmax is the plain
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
	int before;           /* keys - queries: query i sees before + i + 1 keys */
	ptrdiff_t q_at, k_at; /* offset of its first element in q, out, dq; in k, v, dk, dv */
	ptrdiff_t lse_at;
	ptrdiff_t q_stride, k_stride;
};

static struct head head_of(const struct attention *s, int sequence, int head)
{
	struct head h = {
		.queries = s->cu_q[sequence + 1] - s->cu_q[sequence],
		.keys = s->cu_k[sequence + 1] - s->cu_k[sequence],
		.q_stride = (ptrdiff_t)s->heads * s->head_dim,
		.k_stride = (ptrdiff_t)s->kv_heads * s->head_dim,
		.lse_at = (ptrdiff_t)s->cu_q[sequence] * s->heads + head,
	};

	h.before = h.keys - h.queries;
	h.q_at = s->cu_q[sequence] * h.q_stride + (ptrdiff_t)head * s->head_dim;
	h.k_at = s->cu_k[sequence] * h.k_stride + (ptrdiff_t)(head / (s->heads / s->kv_heads)) * s->head_dim;
	return h;
}

/* Rows of scores start at multiples of LANES, so that the loops over them need no ends of other widths. */
static int padded(int width)
{
	return (width + LANES - 1) / LANES * LANES;
}

/* Softmax of the first n of row, zeros behind them up to width (a multiple of LANES); gives the log-sum-exp. */
CLONES static float softmax_row(float *row, int n, int width)
{
	static const float nothing[LANES] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY,
					     -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY,
					     -INFINITY, -INFINITY, -INFINITY, -INFINITY};
	float lane[LANES];
	int used = padded(n);

	memcpy(row + n, nothing, sizeof *row * (size_t)(used - n));
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
			lane[j] += e; /* beyond n it is 1e-38 */
		}
	float sum = lanes_sum(lane), inverse = 1.0f / sum;

	for (int i = 0; i < used; i += LANES)
		for (int j = 0; j < LANES; j++)
			row[i + j] *= inverse;
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
	int m = h->queries - i0 < QUERIES ? h->queries - i0 : QUERIES, width = h->before + i0 + m,
	    ld = padded(width);
	float *scores = scratch(SCRATCH_OP, sizeof *scores * (size_t)m * (size_t)ld);
	const float *keys = k + h->k_at, *values = v + h->k_at;
	ptrdiff_t at = h->q_at + i0 * h->q_stride;

	gemm(&(struct gemm){m, width, s->head_dim, q + at, h->q_stride, 1, keys, 1, h->k_stride, scores, ld,
			    s->scale, false});
	for (int i = 0; i < m; i++) {
		float l = softmax_row(scores + (ptrdiff_t)i * ld, h->before + i0 + i + 1, ld);

		if (lse)
			lse[h->lse_at + (ptrdiff_t)(i0 + i) * s->heads] = l;
	}
	if (m == 1)
		weighted_sum(scores, values, h->k_stride, width, s->head_dim, out + at);
	else
		gemm(&(struct gemm){m, s->head_dim, width, scores, ld, 1, values, h->k_stride, 1, out + at,
				    h->q_stride, 1.0f, false});
}

/* The largest number of tasks that a sequence's queries or keys make, and the work in multiply-adds. */
static int block_count(const int32_t *cu, int sequences, int block)
{
	int most = 0;

	for (int i = 0; i < sequences; i++)
		most = cu[i + 1] - cu[i] > most ? cu[i + 1] - cu[i] : most;
	return (most + block - 1) / block;
}

static double work_of(const struct attention *s)
{
	double work = 0;

	for (int i = 0; i < s->sequences; i++)
		work += (double)(s->cu_q[i + 1] - s->cu_q[i]) * (s->cu_k[i + 1] - s->cu_k[i]);
	return work * s->heads * s->head_dim;
}

void cpu_attention(const struct attention *s, const float *q, const float *k, const float *v, float *out,
		   float *lse)
{
	int blocks = block_count(s->cu_q, s->sequences, QUERIES);

#pragma omp parallel for collapse(3) schedule(dynamic) if (work_of(s) > PARALLEL_WORK)
	for (int sequence = 0; sequence < s->sequences; sequence++)
		for (int head = 0; head < s->heads; head++)
			for (int block = 0; block < blocks; block++) {
				struct head h = head_of(s, sequence, head);

				if (block * QUERIES < h.queries)
					forward_block(s, &h, block * QUERIES, q, k, v, out, lse);
			}
}

/* p = exp(score - lse) and dp become p and ds = p (dp - delta) scale, for the first n of each row; zeros behind up to
 * width, a multiple of LANES. */
CLONES static void score_grad(float *p, float *dp, int n, int width, float lse, float delta, float scale)
{
	n = n < 0 ? 0 : n;
	for (int i = 0; i < n; i += LANES)
		for (int j = 0; j < LANES; j++) {
			float e = exp_fast(p[i + j] - lse);

			p[i + j] = e;
			dp[i + j] = e * (dp[i + j] - delta) * scale;
		}
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

/* p and ds (m, n), rows padded(n) apart, for queries [i0, i0 + m) and keys [j0, j0 + n) of a head. */
static void probabilities(const struct attention *s, const struct head *h, const struct tensors *t, int i0,
			  int m, int j0, int n, float *p, float *ds)
{
	ptrdiff_t at = h->q_at + i0 * h->q_stride, key = h->k_at + j0 * h->k_stride;
	int ld = padded(n);

	gemm(&(struct gemm){m, n, s->head_dim, t->q + at, h->q_stride, 1, t->k + key, 1, h->k_stride, p, ld,
			    s->scale, false});
	gemm(&(struct gemm){m, n, s->head_dim, t->dout + at, h->q_stride, 1, t->v + key, 1, h->k_stride, ds,
			    ld, 1.0f, false});
	for (int i = 0; i < m; i++) {
		int visible = h->before + i0 + i + 1 - j0;
		ptrdiff_t row = at + i * h->q_stride;

		score_grad(p + (ptrdiff_t)i * ld, ds + (ptrdiff_t)i * ld, visible < n ? visible : n, ld,
			   t->lse[h->lse_at + (ptrdiff_t)(i0 + i) * s->heads],
			   dot(t->dout + row, t->out + row, s->head_dim), s->scale);
	}
}

static void grad_q_block(const struct attention *s, const struct head *h, int i0, const struct tensors *t,
			 float *dq)
{
	int m = h->queries - i0 < QUERIES ? h->queries - i0 : QUERIES, width = h->before + i0 + m;
	int ld = padded(width);
	float *p = scratch(SCRATCH_OP, sizeof *p * 2 * (size_t)m * (size_t)ld), *ds = p + (ptrdiff_t)m * ld;

	probabilities(s, h, t, i0, m, 0, width, p, ds);
	gemm(&(struct gemm){m, s->head_dim, width, ds, ld, 1, t->k + h->k_at, h->k_stride, 1,
			    dq + h->q_at + i0 * h->q_stride, h->q_stride, 1.0f, false});
}

/* dk and dv of keys [j0, j0 + n): the sum over the heads that share them, and over the queries that see them.
 */
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
		int first = j0 - h.before > 0 ? j0 - h.before : 0;

		for (int i0 = first; i0 < h.queries; i0 += QUERIES, add = true) {
			int m = h.queries - i0 < QUERIES ? h.queries - i0 : QUERIES;
			ptrdiff_t at = h.q_at + i0 * h.q_stride;

			probabilities(s, &h, t, i0, m, j0, n, p, ds);
			gemm(&(struct gemm){n, s->head_dim, m, p, 1, padded(n), t->dout + at, h.q_stride, 1,
					    dv + key, h.k_stride, 1.0f, add});
			gemm(&(struct gemm){n, s->head_dim, m, ds, 1, padded(n), t->q + at, h.q_stride, 1,
					    dk + key, h.k_stride, 1.0f, add});
		}
	}
}

void cpu_attention_grad(const struct attention *s, const float *q, const float *k, const float *v,
			const float *out, const float *lse, const float *dout, float *dq, float *dk,
			float *dv)
{
	struct tensors t = {q, k, v, out, lse, dout};
	int query_blocks = block_count(s->cu_q, s->sequences, QUERIES);
	int key_blocks = block_count(s->cu_k, s->sequences, KEYS);
	int per_sequence = s->heads * query_blocks + s->kv_heads * key_blocks;

#pragma omp parallel for schedule(dynamic) if (work_of(s) > PARALLEL_WORK)
	for (int task = 0; task < s->sequences * per_sequence; task++) {
		int sequence = task / per_sequence, i = task % per_sequence;

		if (i < s->kv_heads * key_blocks) {
			int j0 = i / s->kv_heads * KEYS;

			if (j0 < s->cu_k[sequence + 1] - s->cu_k[sequence])
				grad_kv_block(s, sequence, i % s->kv_heads, j0, &t, dk, dv);
		} else {
			i -= s->kv_heads * key_blocks;
			struct head h = head_of(s, sequence, i % s->heads);
			int i0 = i / s->heads * QUERIES;

			if (i0 < h.queries)
				grad_q_block(s, &h, i0, &t, dq);
		}
	}
}
