/* Gradients of attention of fp32 activations, in a plain way (the formulas are in attention_grad.cu): a warp to a query and head for
 * dq, and a warp to a key and kv head for dk and dv. */
#include "kernels/cuda/attention.cuh"

#define PLAIN_WARPS 4

/* What the plain kernels make of one query, in head `head`, and one key: p and ds. */
__device__ __forceinline__ void plain_score(const struct attention &s, const float *q, const float *k,
					    const float *dout, const float *v, float lse, float delta,
					    float *p, float *ds)
{
	float x = 0.0f, dp = 0.0f, slope = 1.0f;

	for (int c = 0; c < s.head_dim; c++) {
		x += q[c] * k[c];
		dp += dout[c] * v[c];
	}
	x *= s.scale;
	if (s.softcap > 0.0f) {
		float t = tanhf(x / s.softcap);

		x = s.softcap * t;
		slope = 1.0f - t * t;
	}
	*p = expf(x - lse);
	*ds = *p * (dp - delta) * slope * s.scale;
}

/* A warp to a query and head: delta, and dq. In shared memory q, dout and dq of it, and 32 ds. */
__global__ void attention_grad_rows_plain(struct attention s, const float *q, const float *k, const float *v,
					  const float *out, const float *lse, const float *dout, float *dq,
					  float *delta)
{
	grid_wait();
	DYNAMIC_SHARED(float, shared);
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = s.heads / s.kv_heads;
	ptrdiff_t row = (ptrdiff_t)blockIdx.x * PLAIN_WARPS + warp;
	float *query = shared + warp * (3 * s.head_dim + 32), *grad = query + s.head_dim,
	      *sum = grad + s.head_dim;
	float *ds = sum + s.head_dim, d = 0.0f;
	int token = (int)(row / s.heads), head = (int)(row % s.heads);

	if (token >= s.cu_q[s.sequences])
		return;

	struct sequence sequence = sequence_at(s, sequence_search(s.cu_q, s.sequences, 1, 1, 0, token));
	ptrdiff_t keys_at = (ptrdiff_t)sequence.key * s.k_stride + (ptrdiff_t)(head / group) * s.head_dim;
	ptrdiff_t query_at = (ptrdiff_t)token * s.q_stride + (ptrdiff_t)head * s.head_dim;
	int begin = key_begin(s, sequence, token - sequence.token),
	    end = key_end(sequence, token - sequence.token);

	for (int c = lane; c < s.head_dim; c += 32) {
		query[c] = q[query_at + c];
		grad[c] = dout[row * s.head_dim + c];
		sum[c] = 0.0f;
		d += grad[c] * out[row * s.head_dim + c];
	}
	d = warp_sum(d);
	if (lane == 0)
		delta[row] = d;
	__syncwarp();
	for (int at = begin; at < end; at += 32) {
		int n = end - at < 32 ? end - at : 32;
		float p;

		if (lane < n)
			plain_score(s, query, k + keys_at + (ptrdiff_t)(at + lane) * s.k_stride, grad,
				    v + keys_at + (ptrdiff_t)(at + lane) * s.k_stride, lse[row], d, &p,
				    &ds[lane]);
		__syncwarp();
		for (int c = lane; c < s.head_dim; c += 32)
			for (int j = 0; j < n; j++)
				sum[c] += ds[j] * k[keys_at + (ptrdiff_t)(at + j) * s.k_stride + c];
		__syncwarp();
	}
	for (int c = lane; c < s.head_dim; c += 32)
		dq[query_at + c] = sum[c];
}

/* A warp to a key and kv head, over the rows that see it: dk and dv. In shared memory k, v, dk and dv of it, 32 p and ds. */
__global__ void attention_grad_keys_plain(struct attention s, const float *q, const float *k, const float *v,
					  const float *lse, const float *dout, const float *delta, float *dk,
					  float *dv)
{
	grid_wait();
	DYNAMIC_SHARED(float, shared);
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = s.heads / s.kv_heads;
	ptrdiff_t index = (ptrdiff_t)blockIdx.x * PLAIN_WARPS + warp;
	float *key = shared + warp * (4 * s.head_dim + 64), *value = key + s.head_dim,
	      *sum_k = value + s.head_dim;
	float *sum_v = sum_k + s.head_dim, *p = sum_v + s.head_dim, *ds = p + 32;
	int token = (int)(index / s.kv_heads), kv_head = (int)(index % s.kv_heads);

	if (token >= s.cu_q[s.sequences])
		return;

	struct sequence sequence = sequence_at(s, sequence_search(s.cu_q, s.sequences, 1, 1, 0, token));
	ptrdiff_t key_at = (ptrdiff_t)token * s.k_stride + (ptrdiff_t)kv_head * s.head_dim;
	int first = token - sequence.token;
	int last = s.window > 0 && first + s.window < sequence.queries ? first + s.window : sequence.queries;

	for (int c = lane; c < s.head_dim; c += 32) {
		key[c] = k[key_at + c];
		value[c] = v[key_at + c];
		sum_k[c] = sum_v[c] = 0.0f;
	}
	__syncwarp();
	for (int at = first * group; at < last * group; at += 32) {
		int n = last * group - at < 32 ? last * group - at : 32;
		int row = at + lane, query = sequence.token + row / group,
		    head = kv_head * group + row % group;

		if (lane < n) {
			ptrdiff_t of_head = (ptrdiff_t)query * s.heads + head;

			plain_score(s, q + (ptrdiff_t)query * s.q_stride + (ptrdiff_t)head * s.head_dim, key,
				    dout + of_head * s.head_dim, value, lse[of_head], delta[of_head],
				    &p[lane], &ds[lane]);
		}
		__syncwarp();
		for (int c = lane; c < s.head_dim; c += 32)
			for (int j = 0; j < n; j++) {
				int other = sequence.token + (at + j) / group,
				    its_head = kv_head * group + (at + j) % group;

				sum_k[c] += ds[j] * q[(ptrdiff_t)other * s.q_stride +
						      (ptrdiff_t)its_head * s.head_dim + c];
				sum_v[c] += p[j] *
					    dout[((ptrdiff_t)other * s.heads + its_head) * s.head_dim + c];
			}
		__syncwarp();
	}
	for (int c = lane; c < s.head_dim; c += 32) {
		dk[key_at + c] = sum_k[c];
		dv[key_at + c] = sum_v[c];
	}
}

void attention_grad_plain(struct device *d, const struct attention *s, const float *q, const float *k,
			  const float *v, const float *out, const float *lse, const float *dout, float *dq,
			  float *dk, float *dv, float *delta)
{
	size_t rows = (size_t)s->queries * s->heads, keys = (size_t)s->queries * s->kv_heads;

	cuda_launch(d, "attention_grad", attention_grad_rows_plain,
		    dim3((unsigned)((rows + PLAIN_WARPS - 1) / PLAIN_WARPS)), dim3(32 * PLAIN_WARPS),
		    sizeof(float) * PLAIN_WARPS * (3 * s->head_dim + 32), *s, q, k, v, out, lse, dout, dq,
		    delta);
	cuda_launch(d, "attention_grad", attention_grad_keys_plain,
		    dim3((unsigned)((keys + PLAIN_WARPS - 1) / PLAIN_WARPS)), dim3(32 * PLAIN_WARPS),
		    sizeof(float) * PLAIN_WARPS * (4 * s->head_dim + 64), *s, q, k, v, lse, dout, delta, dk,
		    dv);
}
