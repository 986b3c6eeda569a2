/* The list of operations, included once per use with OP(name) defined: a member of struct kernels, or a backend's
 * prototype. All pointers but struct matrix, struct attention, struct dropout_mask, struct lora_part and struct adamw
 * themselves are into the device's memory. Buffers are row-major, dense unless a stride is given (in elements), and do
 * not overlap unless said so. void pointers are activations, in the device's dtype, 16-byte aligned, as are their strides
 * where the row length is a multiple of 8; float is fp32 always; n is a number of tokens. Sums run in fp32 at least.
 * "Adds to" means the output holds a value already.
 *
 * This file has no include guard on purpose. */
/* clang-format off */

/* ---- embedding ---- */

/* out[t, :] = table[ids[t], :] * scale      table (vocab, dim) any dtype but NF4, ids (n) in range, out (n, dim) */
OP(embed)(struct device *d, const struct matrix *table, const int32_t *ids, int n, float scale, float *out);
/* grad[ids[t], :] += dout[t, :] * scale, in the order of t      dout (n, dim), grad (vocab, dim) */
OP(embed_grad)(struct device *d, const int32_t *ids, int n, int dim, float scale, const float *dout, float *grad);
/* out[i, :] = x[index[i], :], zeros where index[i] is -1      out (n, dim) */
OP(gather)(struct device *d, const float *x, const int32_t *index, int n, int dim, float *out);
/* out[index[i], :] = x[i, :] where index[i] is not -1; the indices differ      x (n, dim) */
OP(scatter)(struct device *d, const float *x, const int32_t *index, int n, int dim, float *out);

/* ---- conversions ---- */

/* out[i] = x[i] as an activation      x (n) of dtype F32, BF16 or F16 */
OP(convert)(struct device *d, const void *x, enum dtype dtype, size_t n, void *out);
/* NF4 as nf4_quantize (matrix.h), of n values of dtype F32, BF16 or F16; any n. *bad becomes 1 when
 * one of them is not finite (or, through_fp16, not in fp16), and is left alone otherwise. */
OP(quantize)(struct device *d, const void *x, enum dtype dtype, size_t n, bool through_fp16, uint8_t *packed, float *absmax,
	int32_t *bad);
/* out (rows, cols) = the values of m, of any dtype, each rounded to an activation: what products see */
OP(dequantize)(struct device *d, const struct matrix *m, void *out);

/* ---- RMSNorm: Zhang & Sennrich 2019, arXiv:1910.07467 ---- */

/* out[t, :] = x[t, :] * rstd[t] * (offset + weight[:]), rstd[t] = 1 / sqrt(mean(x[t, :]^2) + eps)
 *   x (n, dim), out (n, dim) may be x when activations are fp32; weight (dim); offset 1 for Gemma, 0 for Llama; rstd (n),
 *   or NULL; copy (n, dim), or NULL: gets x as it is, for what is added to the residual stream next */
OP(rmsnorm)(struct device *d, const float *x, const float *weight, int n, int dim, float eps, float offset, void *out,
	float *rstd, float *copy);
/* Adds to dx (n, dim) and, when it is not NULL, to dweight (dim); dx_act (n, dim), when it is not NULL, gets a copy of the
 * new dx. x and rstd as rmsnorm saw and wrote them. */
OP(rmsnorm_grad)(struct device *d, const float *x, const float *weight, const float *rstd, const float *dout, int n, int dim,
	float offset, float *dx, void *dx_act, float *dweight);

/* ---- matrix products; w (rows, cols) of any dtype, its values rounded to activations ---- */

/* y = x W^T      x (n, cols); y (n, rows), rows ldy apart: fp32 or activations, as `how` says */
OP(matmul)(struct device *d, const void *x, const struct matrix *w, int n, enum store how, void *y, int ldy);
/* dx = dy W      dy (n, rows), rows lddy apart; dx (n, cols): fp32 or activations, as `how` says */
OP(matmul_grad_x)(struct device *d, const void *dy, int lddy, const struct matrix *w, int n, enum store how, void *dx);
/* dw (rows, cols) += dy^T x      dy (n, rows), rows lddy apart; x (n, cols) */
OP(matmul_grad_w)(struct device *d, const void *dy, int lddy, const void *x, int n, int rows, int cols, float *dw);

/* ---- LoRA: Hu et al. 2021, arXiv:2106.09685 ---- */

/* For each of count <= LORA_PARTS parts: xa = A dropout(x) (transposed: (rank, n)); y[:, at … at + rows] += scale * B xa
 *   x (n, cols); y (n, …), rows ldy apart; how: ADD_ACT or ADD_F32; drop: NULL for none */
OP(lora)(struct device *d, const void *x, const struct lora_part *parts, int count, int n, int cols, float scale, const struct
	dropout_mask *drop, enum store how, void *y, int ldy);
/* For each part, with dxa = scale * B^T dy[:, at …]: adds to grad_b scale * dy^T xa, to grad_a dxa dropout(x), and to dx
 * (unless it is NULL) the dropped A^T dxa. The masks are made again.
 *   x (n, cols); dy (n, …), rows lddy apart; dxa (sum of ranks, n) is scratch; dx (n, cols), how: ADD_ACT or ADD_F32 */
OP(lora_grad)(struct device *d, const void *x, const struct lora_part *parts, int count, int n, int cols, float scale, const
	struct dropout_mask *drop, const void *dy, int lddy, float *dxa, enum store how, void *dx);

/* ---- rotary positions: Su et al. 2021, arXiv:2104.09864; halves rotated, as in transformers ---- */

/* cos, sin (positions, head_dim / 2) of p * theta^(-2 i / head_dim), frequency and angle rounded to fp32 */
OP(rope_table)(struct device *d, float theta, int head_dim, int positions, float *cos, float *sin);
/* In place on x (n, heads, head_dim), rows stride apart: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) with the row of
 * position[t]; inverse rotates back, which is the gradient. */
OP(rope)(struct device *d, const float *cos, const float *sin, const int32_t *position, int n, int heads, int head_dim,
	int stride, bool inverse, void *x);

/* ---- attention ---- */

/* out = softmax(scale * q k^T) v over the visible keys, lse its log-sum-exp
 *   q (queries, heads, head_dim) in rows of q_stride; k, v (…, kv_heads, head_dim) in rows of k_stride; out (queries, heads,
 *   head_dim) dense; lse (queries, heads), or NULL */
OP(attention)(struct device *d, const struct attention *s, const void *q, const void *k, const void *v, void *out, float *lse);
/* Writes dq, dk, dv (shapes and strides of q, k, v) for k_begin == cu_q, k_end == cu_q + 1. dout as out. Dao et al. 2022,
 * arXiv:2205.14135, B.2: probabilities come back from lse. */
OP(attention_grad)(struct device *d, const struct attention *s, const void *q, const void *k, const void *v, const void *out,
	const float *lse, const void *dout, void *dq, void *dk, void *dv);
/* rope of q and k, in place, and what a cache gets: keys[row[t]] = k[t], values[row[t]] = v[t]; nothing where row[t] is -1
 *   x (n, heads + 2 kv_heads, head_dim): q, k and v, rows stride apart; keys, values (…, kv_heads, head_dim) */
OP(rope_append)(struct device *d, const float *cos, const float *sin, const int32_t *position, int n, int heads, int kv_heads,
	int head_dim, int stride, void *x, const int32_t *row, void *keys, void *values);

/* ---- gated MLP ---- */

/* out[t, i] = f(gate[t, i]) * up[t, i]      gate, up (n, width), rows stride apart; out (n, width) dense, apart from them */
OP(gated)(struct device *d, enum gate f, const void *gate, const void *up, int n, int width, int stride, void *out);
/* dgate = dout * up * f'(gate); dup = dout * f(gate), in place: gate becomes dgate, up becomes dup      dout (n, width) */
OP(gated_grad)(struct device *d, enum gate f, const void *dout, int n, int width, int stride, void *gate, void *up);

/* ---- the vocabulary ---- */

/* *loss_sum += the sum over i, in order and in fp64, of -log softmax(logits[i, :])[target[i]]; target[i] -1 adds nothing
 *   logits (n, vocab), target (n)
 *   dlogits (n, vocab), unless NULL = *grad_scale * (softmax - onehot(target)), zeros where target[i] is -1; may be logits
 *   when activations are fp32; grad_scale (1) */
OP(cross_entropy)(struct device *d, const int32_t *target, int n, int vocab, const float *grad_scale, const float *logits,
	void *dlogits, double *loss_sum);
/* out[i] = the index of the largest of logits[i, :], the first of equal ones      logits (n, vocab), out (n) */
OP(argmax)(struct device *d, const float *logits, int n, int vocab, int32_t *out);

/* ---- optimizer ---- */

/* *out = sum of x[i]^2 in fp64 */
OP(sum_squares)(struct device *d, const float *x, size_t n, double *out);
/* One update of p with moments m and v, all (n), and zeros into grad. With g = grad_scale * grad, c1 = 1 - beta1^step, c2 =
 * sqrt(1 - beta2^step): m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2; p -= (lr c2 / c1) m / (sqrt(v) + eps c2);
 * then p *= 1 - lr * weight_decay (bitsandbytes 0.45.5), or before it (decay_first: PyTorch). */
OP(adamw)(struct device *d, const struct adamw *o, float *grad, size_t n, float *p, float *m, float *v);
