/* The list of operations, included once per use with OP(name) defined: a member of struct kernels, or a
 * backend's prototype. Buffers are fp32, row-major and dense unless said otherwise, and do not overlap unless
 * said so; n is a number of tokens. "Adds to" means the output holds a value already.
 *
 * This file has no include guard on purpose. */
/* clang-format off */

/* ---- embedding ---- */

/* out[t, :] = table[ids[t], :] * scale      table (vocab, dim) any dtype but NF4, ids (n) in range, out (n, dim) */
OP(embed)(const struct matrix *table, const int32_t *ids, int n, float scale, float *out);
/* grad[ids[t], :] += dout[t, :] * scale, in the order of t      dout (n, dim), grad (vocab, dim) */
OP(embed_grad)(const int32_t *ids, int n, int dim, float scale, const float *dout, float *grad);
/* out[i, :] = x[index[i], :]      out (n, dim) */
OP(gather)(const float *x, const int32_t *index, int n, int dim, float *out);
/* out[index[i], :] = x[i, :]; the indices differ      x (n, dim) */
OP(scatter)(const float *x, const int32_t *index, int n, int dim, float *out);

/* ---- RMSNorm: Zhang & Sennrich 2019, arXiv:1910.07467 ---- */

/* out[t, :] = x[t, :] * rstd[t] * (offset + weight[:]), rstd[t] = 1 / sqrt(mean(x[t, :]^2) + eps)
 *   x, out (n, dim), may be the same buffer; weight (dim); offset 1 for Gemma, 0 for Llama; rstd (n), or NULL */
OP(rmsnorm)(const float *x, const float *weight, int n, int dim, float eps, float offset, float *out, float
	*rstd);
/* Adds to dx (n, dim) and, when it is not NULL, to dweight (dim). x and rstd as rmsnorm saw and wrote them. */
OP(rmsnorm_grad)(const float *x, const float *weight, const float *rstd, const float *dout, int n, int dim,
	float offset, float *dx, float *dweight);

/* ---- matrix products ---- */

/* y (n, rows) = x (n, cols) W^T; add: y += */
OP(matmul)(const float *x, const struct matrix *w, int n, bool add, float *y);
/* dx (n, cols) = dy (n, rows) W; add: dx += */
OP(matmul_grad_x)(const float *dy, const struct matrix *w, int n, bool add, float *dx);
/* dw (rows, cols) += dy^T x      dy (n, rows), x (n, cols) */
OP(matmul_grad_w)(const float *dy, const float *x, int n, int rows, int cols, float *dw);

/* ---- LoRA: Hu et al. 2021, arXiv:2106.09685 ---- */

/* xa = dropout(x) A^T; y += scale * xa B^T
 *   x (n, cols), A (rank, cols), B (rows, rank), y (n, rows); xa (rank, n) is saved for lora_grad
 *   drop: NULL for none */
OP(lora)(const float *x, const float *a, const float *b, int n, int rows, int cols, int rank, float scale,
	const struct dropout_mask *drop, float *xa, float *y);
/* With dxa = scale * dy B: adds to grad_b scale * dy^T xa, to grad_a dxa^T dropout(x), and to dx (unless it
 * is NULL) the dropped dxa A. The mask is made again. dxa (rank, n) is scratch. */
OP(lora_grad)(const float *x, const float *a, const float *b, const float *xa, const float *dy, int n, int
	rows, int cols, int rank, float scale, const struct dropout_mask *drop, float *dxa, float *grad_a, float
	*grad_b, float *dx);

/* ---- rotary positions: Su et al. 2021, arXiv:2104.09864; halves rotated, as in transformers ---- */

/* cos, sin (positions, head_dim / 2) of p * theta^(-2 i / head_dim), frequency and angle rounded to fp32 */
OP(rope_table)(float theta, int head_dim, int positions, float *cos, float *sin);
/* In place on x (n, heads, head_dim): (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) with the row of
 * position[t]; inverse rotates back, which is the gradient. */
OP(rope)(const float *cos, const float *sin, const int32_t *position, int n, int heads, int head_dim, bool
	inverse, float *x);

/* ---- attention ---- */

/* out = softmax(scale * q k^T) v over the visible keys, lse its log-sum-exp
 *   q, out (queries, heads, head_dim); k, v (keys, kv_heads, head_dim); lse (queries, heads), or NULL */
OP(attention)(const struct attention *s, const float *q, const float *k, const float *v, float *out, float
	*lse);
/* Writes dq, dk, dv (shapes of q, k, v). Dao et al. 2022, arXiv:2205.14135, B.2: probabilities come back from
 * lse. */
OP(attention_grad)(const struct attention *s, const float *q, const float *k, const float *v, const float
	*out, const float *lse, const float *dout, float *dq, float *dk, float *dv);

/* ---- gated MLP ---- */

/* out[i] = f(gate[i]) * up[i]      out may be gate or up */
OP(gated)(enum gate f, const float *gate, const float *up, size_t n, float *out);
/* dgate[i] = dout[i] * up[i] * f'(gate[i]); dup[i] = dout[i] * f(gate[i])      each output may be any input
 */
OP(gated_grad)(enum gate f, const float *gate, const float *up, const float *dout, size_t n, float *dgate,
	float *dup);

/* ---- loss ---- */

/* loss[i] = -log softmax(logits[i, :])[target[i]] in fp64      logits (n, vocab), target (n) in range, loss
 * (n) grad: logits become grad_scale * (softmax - onehot(target)), else they are left as they are. */
OP(cross_entropy)(const int32_t *target, int n, int vocab, bool grad, float grad_scale, float *logits,
	double *loss);

/* ---- optimizer ---- */

/* *out = sum of x[i]^2 in fp64 */
OP(sum_squares)(const float *x, size_t n, double *out);
/* One update of p with moments m and v, all (n). With g = grad_scale * grad, c1 = 1 - beta1^step, c2 = sqrt(1
 * - beta2^step): m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2; p -= (lr c2 / c1) m / (sqrt(v) +
 * eps c2); then p *= 1 - lr * weight_decay (bitsandbytes 0.45.5), or before it (decay_first: PyTorch). */
OP(adamw)(const struct adamw *o, const float *grad, size_t n, float *p, float *m, float *v);
