/* bench_gpu's single operations: products in NF4 for few to many tokens, attention, and everything that a training step asks
 * of the card. Weights are read out of pools larger than the card's caches, other ones each time, as a model's layers are. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bench/gpu_bench.h"
#include "bench/lengths.h"

/* Weights of some shape, several of them behind one another. */
struct pool {
	uint8_t *packed;
	float *absmax;
	void *dense;
	size_t packed_bytes, absmax_count, dense_count;
};

struct shape {
	const char *name;
	int rows, cols;
};

/* What the model multiplies by: projections that see the same input are one matrix. */
static void model_shapes(const struct model_config *c, struct shape out[4])
{
	int q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;

	out[0] = (struct shape){"q, k, v", q + 2 * kv, c->hidden_size};
	out[1] = (struct shape){"o", c->hidden_size, q};
	out[2] = (struct shape){"gate, up", 2 * c->intermediate_size, c->hidden_size};
	out[3] = (struct shape){"down", c->hidden_size, c->intermediate_size};
}

/* Every code of NF4 as often as the others. */
static void *random_bytes(struct device *d, size_t n)
{
	const size_t piece = (size_t)1 << 20;
	uint64_t state = 88172645463325252u, *words = xmalloc(piece);
	char *to = bench_room(d, n);

	for (size_t i = 0; i < piece / sizeof *words; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		words[i] = state;
	}
	for (size_t at = 0; at < n; at += piece)
		device_upload(d, to + at, words, n - at < piece ? n - at : piece);
	free(words);
	return to;
}

static struct pool pool_new(const struct bench *b, struct device *d, bool dense)
{
	struct shape s[4];

	model_shapes(&b->config, s);
	size_t largest = (size_t)s[2].rows * (size_t)s[2].cols;
	size_t n = b->small ? largest : largest * 4; /* Gemma 2B: 128 MiB packed, 512 MiB dense */
	struct pool p = {.packed_bytes = n / 2, .absmax_count = n / NF4_BLOCK, .dense_count = n};

	p.packed = random_bytes(d, p.packed_bytes);
	p.absmax = bench_random_f32(d, p.absmax_count, 0.05f);
	if (dense)
		p.dense = bench_random(d, n, 0.05f);
	return p;
}

/* How many matrices of a shape lie in a pool, and the i-th of them. */
static int pool_count(const struct pool *p, int rows, int cols)
{
	return (int)(p->dense_count / ((size_t)rows * (size_t)cols));
}

static struct matrix pool_matrix(const struct pool *p, enum dtype dtype, int rows, int cols, int i)
{
	size_t n = (size_t)rows * (size_t)cols, at = (size_t)(i % pool_count(p, rows, cols)) * n;

	if (dtype == DTYPE_NF4)
		return (struct matrix){.dtype = dtype,
				       .rows = rows,
				       .cols = cols,
				       .data = p->packed + at / 2,
				       .absmax = p->absmax + at / NF4_BLOCK};
	return (struct matrix){
		.dtype = dtype, .rows = rows, .cols = cols, .data = (const uint16_t *)p->dense + at};
}

/* ---- products ---- */

struct product {
	const struct pool *pool;
	int rows, cols, n;
	bool back; /* dx = dy W */
	void *x, *y, *dense;
};

static void run_nf4(struct device *d, void *arg, int i)
{
	const struct product *p = arg;
	struct matrix w = pool_matrix(p->pool, DTYPE_NF4, p->rows, p->cols, i);

	if (p->back)
		d->ops->matmul_grad_x(d, p->x, p->rows, &w, p->n, STORE_ACT, p->y);
	else
		d->ops->matmul(d, p->x, &w, p->n, STORE_ACT, p->y, p->rows);
}

/* What there would be without kernels that read NF4. */
static void run_dequantised(struct device *d, void *arg, int i)
{
	const struct product *p = arg;
	struct matrix w = pool_matrix(p->pool, DTYPE_NF4, p->rows, p->cols, i), dense = w;

	d->ops->dequantize(d, &w, p->dense);
	dense.dtype = d->act;
	dense.data = p->dense;
	dense.absmax = NULL;
	if (p->back)
		d->ops->matmul_grad_x(d, p->x, p->rows, &dense, p->n, STORE_ACT, p->y);
	else
		d->ops->matmul(d, p->x, &dense, p->n, STORE_ACT, p->y, p->rows);
}

void bench_products(struct bench *b)
{
	struct device *d = bench_open(DTYPE_BF16);
	struct pool pool = pool_new(b, d, false);
	struct shape shapes[4];
	int most = b->small ? 16 : 512;

	model_shapes(&b->config, shapes);
	bench_heading("Products in NF4, bf16 activations, by tokens M: y = x W^T and dx = dy W");
	for (int s = 0; s < 4; s++) {
		int rows = shapes[s].rows, cols = shapes[s].cols, wide = rows > cols ? rows : cols;
		size_t weights = (size_t)rows * (size_t)cols;
		struct product p = {.pool = &pool, .rows = rows, .cols = cols};

		p.x = bench_random(d, (size_t)most * (size_t)wide, 1);
		p.y = bench_room(d, (size_t)most * (size_t)wide * 2);
		p.dense = bench_room(d, weights * 2);
		for (int back = 0; back < 2; back++)
			for (int n = 1; n <= most; n *= b->small ? 4 : 2) {
				double bytes = (double)weights * (0.5 + 4.0 / NF4_BLOCK) +
					       2.0 * n * (rows + cols);
				double limit = bench_limit(b, bytes, 2.0 * n * (double)weights);
				char name[96], note[64], workload[48];

				p.n = n;
				p.back = back;
				double own = bench_time(b, d, run_nf4, &p, pool_count(&pool, rows, cols));
				double other = bench_time(b, d, run_dequantised, &p,
							  pool_count(&pool, rows, cols));

				snprintf(name, sizeof name, "%s %d x %d, M %d, %s", shapes[s].name, rows,
					 cols, n, back ? "dx" : "y");
				snprintf(note, sizeof note, "dequantised first %.1f us, %.2f times as long",
					 1e6 * other, other / own);
				snprintf(workload, sizeof workload, "nf4-%dx%d-%d-%s", rows, cols, n,
					 back ? "dx" : "y");
				bench_row(b, &(struct figure){.workload = workload,
							      .name = name,
							      .unit = "us",
							      .achieved = 1e6 * own,
							      .limit = 1e6 * limit,
							      .target = 0.8,
							      .share = true,
							      .note = note});
			}
		device_free(d, p.x);
		device_free(d, p.y);
		device_free(d, p.dense);
	}
	device_close(d);
}

/* ---- attention ---- */

struct sequences {
	struct attention a;
	double pairs; /* of queries and keys that see each other */
	void *qkv, *out, *dout, *dqkv;
	float *lse;
};

/* Sequences of the given lengths, packed, with q, k and v of a token side by side as the model has them. */
static struct sequences sequences_new(struct device *d, const struct model_config *c, const int *lengths,
				      int n)
{
	int32_t *cu = xcalloc((size_t)n + 1, sizeof *cu);
	struct sequences s = {0};
	int longest = 0, q = c->heads * c->head_dim, width = q + 2 * c->kv_heads * c->head_dim;

	for (int i = 0; i < n; i++) {
		cu[i + 1] = cu[i] + lengths[i];
		longest = lengths[i] > longest ? lengths[i] : longest;
		s.pairs += lengths[i] * (lengths[i] + 1.0) / 2;
	}
	int32_t *there = bench_room(d, ((size_t)n + 1) * sizeof *cu);
	size_t tokens = (size_t)cu[n];

	device_upload(d, there, cu, ((size_t)n + 1) * sizeof *cu);
	s.a = (struct attention){.sequences = n,
				 .cu_q = there,
				 .k_begin = there,
				 .k_end = there + 1,
				 .queries = cu[n],
				 .max_q = longest,
				 .max_k = longest,
				 .heads = c->heads,
				 .kv_heads = c->kv_heads,
				 .head_dim = c->head_dim,
				 .q_stride = width,
				 .k_stride = width,
				 .scale = c->attn_scale};
	s.qkv = bench_random(d, tokens * (size_t)width, 1);
	s.dqkv = bench_room(d, tokens * (size_t)width * 2);
	s.out = bench_room(d, tokens * (size_t)q * 2);
	s.dout = bench_random(d, tokens * (size_t)q, 1);
	s.lse = bench_room(d, tokens * (size_t)c->heads * sizeof(float));
	free(cu);
	return s;
}

static void *columns(void *x, int n)
{
	return (uint16_t *)x + n;
}

static void run_attention(struct device *d, void *arg, int i)
{
	struct sequences *s = arg;
	int q = s->a.heads * s->a.head_dim, kv = s->a.kv_heads * s->a.head_dim;

	(void)i;
	d->ops->attention(d, &s->a, s->qkv, columns(s->qkv, q), columns(s->qkv, q + kv), s->out, s->lse);
}

static void run_attention_grad(struct device *d, void *arg, int i)
{
	struct sequences *s = arg;
	int q = s->a.heads * s->a.head_dim, kv = s->a.kv_heads * s->a.head_dim;

	(void)i;
	d->ops->attention_grad(d, &s->a, s->qkv, columns(s->qkv, q), columns(s->qkv, q + kv), s->out, s->lse,
			       s->dout, s->dqkv, columns(s->dqkv, q), columns(s->dqkv, q + kv));
}

static void attention_rows(struct bench *b, struct device *d, const char *what, const char *workload,
			   struct sequences *s, double target)
{
	double q = s->a.heads * s->a.head_dim, kv = s->a.kv_heads * s->a.head_dim, tokens = s->a.queries;

	for (int back = 0; back < 2; back++) {
		/* Two products of (pairs, head_dim) a head forward; five back, where q, k, v, out and dout are read. */
		double flops = (back ? 10.0 : 4.0) * s->a.heads * s->a.head_dim * s->pairs;
		double bytes = tokens * 2 * (back ? 4 * q + 4 * kv : 2 * q + 2 * kv);
		double seconds = bench_time(b, d, back ? run_attention_grad : run_attention, s, 1);
		char name[96], key[64], note[48];

		snprintf(name, sizeof name, "%s, %s", what, back ? "back" : "forward");
		snprintf(key, sizeof key, "attention-%s-%s", workload, back ? "back" : "forward");
		snprintf(note, sizeof note, "%.0f TFLOP/s", flops / seconds / 1e12);
		bench_row(b, &(struct figure){.workload = key,
					      .name = name,
					      .unit = "us",
					      .achieved = 1e6 * seconds,
					      .limit = 1e6 * bench_limit(b, bytes, flops),
					      .target = target,
					      .share = true,
					      .note = note});
	}
}

void bench_attention(struct bench *b)
{
	struct device *d = bench_open(DTYPE_BF16);
	const struct model_config *c = &b->config;
	int rows[55], one = b->small ? 48 : 4096, count = b->small ? 4 : 55;
	char title[96];

	for (int i = 0; i < count; i++)
		rows[i] = b->small ? 9 : 75;
	snprintf(title, sizeof title, "Attention: %d heads of %d over %d of keys and values, causal, bf16",
		 c->heads, c->head_dim, c->kv_heads);
	bench_heading(title);
	struct sequences s = sequences_new(d, c, &one, 1);

	attention_rows(b, d, b->small ? "48 tokens" : "4096 tokens", "4096", &s, 0.6);
	s = sequences_new(d, c, rows, count);
	attention_rows(b, d, b->small ? "4 rows of 9" : "55 rows of 75 tokens, packed", "packed", &s, 0);
	device_close(d);
}

/* ---- every operation of a step ---- */

struct step {
	const struct model_config *c;
	struct pool pool;
	struct sequences s;
	int n, labels; /* tokens, and labelled positions at once */
	int h, f, q, kv;
	struct matrix head;
	int32_t *ids, *position;
	float *stream, *dstream, *norm, *rstd, *logits, *cosines, *sines, *params, *grads, *moments,
		*grad_scale, *xa, *dxa;
	size_t trained;
	uint32_t *seed_step;
	double *sums;
	void *hidden, *gate_up, *wide, *dlogits;
};

enum work {
	EMBED,
	NORM,
	QKV,
	LORA,
	ROPE,
	ATTENTION,
	O,
	GATE_UP,
	GATED,
	DOWN,
	HEAD,
	LOSS,
	HEAD_BACK,
	DOWN_BACK,
	GATED_BACK,
	GATE_UP_BACK,
	NORM_BACK,
	O_BACK,
	ATTENTION_BACK,
	QKV_BACK,
	LORA_BACK,
	SQUARES,
	ADAMW,
	WORKS
};

struct asked {
	struct step *t;
	enum work work;
	enum dtype weights;
};

/* Rank 8; `first` values of params stand before its own. */
static struct lora_part adapter(const struct step *t, int rows, int at, size_t first, uint32_t stream)
{
	size_t b = first + 8 * (size_t)t->h;

	return (struct lora_part){.a = t->params + first,
				  .b = t->params + b,
				  .grad_a = t->grads + first,
				  .grad_b = t->grads + b,
				  .xa = t->xa + (size_t)stream * 8 * (size_t)t->n,
				  .rows = rows,
				  .rank = 8,
				  .at = at,
				  .stream = stream};
}

static void run_work(struct device *d, void *arg, int i)
{
	const struct asked *k = arg;
	const struct step *t = k->t;
	const struct kernels *ops = d->ops;
	int n = t->n, h = t->h, f = t->f, width = t->q + 2 * t->kv;
	struct matrix qkv = pool_matrix(&t->pool, k->weights, width, h, i),
		      o = pool_matrix(&t->pool, k->weights, h, t->q, i),
		      up = pool_matrix(&t->pool, k->weights, 2 * f, h, i),
		      down = pool_matrix(&t->pool, k->weights, h, f, i);
	const struct dropout_mask drop = {0.1f, 1, t->seed_step, t->position};
	const struct lora_part parts[2] = {adapter(t, t->q, 0, 0, 0),
					   adapter(t, t->kv, t->q + t->kv, 8 * (size_t)(h + t->q), 1)};
	const struct adamw update = {1e-4f, 0.9f, 0.999f, 1e-8f, 0.001f, 10, 1, false};

	switch (k->work) {
	case EMBED: ops->embed(d, &t->head, t->ids, n, 45, t->stream); break;
	case NORM: ops->rmsnorm(d, t->stream, t->norm, n, h, 1e-6f, 1, t->hidden, t->rstd, NULL); break;
	case QKV: ops->matmul(d, t->hidden, &qkv, n, STORE_ACT, t->s.dqkv, width); break;
	case LORA: ops->lora(d, t->hidden, parts, 2, n, h, 2, &drop, ADD_ACT, t->s.dqkv, width); break;
	case ROPE:
		ops->rope(d, t->cosines, t->sines, t->position, n, t->c->heads + t->c->kv_heads,
			  t->c->head_dim, width, false, t->s.qkv);
		break;
	case ATTENTION: run_attention(d, (void *)(uintptr_t)&t->s, i); break;
	case O: ops->matmul(d, t->s.out, &o, n, ADD_F32, t->dstream, h); break;
	case GATE_UP: ops->matmul(d, t->hidden, &up, n, STORE_ACT, t->gate_up, 2 * f); break;
	case GATED:
		ops->gated(d, GATE_GELU_TANH, t->gate_up, columns(t->gate_up, f), n, f, 2 * f, t->wide);
		break;
	case DOWN: ops->matmul(d, t->wide, &down, n, ADD_F32, t->dstream, h); break;
	case HEAD: ops->matmul(d, t->hidden, &t->head, t->labels, STORE_F32, t->logits, t->head.rows); break;
	case LOSS:
		ops->cross_entropy(d, t->ids, t->labels, t->head.rows, t->grad_scale, t->logits, t->dlogits,
				   t->sums);
		break;
	case HEAD_BACK:
		ops->matmul_grad_x(d, t->dlogits, t->head.rows, &t->head, t->labels, STORE_F32, t->dstream);
		break;
	case DOWN_BACK: ops->matmul_grad_x(d, t->hidden, h, &down, n, STORE_ACT, t->wide); break;
	case GATED_BACK:
		ops->gated_grad(d, GATE_GELU_TANH, t->wide, n, f, 2 * f, t->gate_up, columns(t->gate_up, f));
		break;
	case GATE_UP_BACK: ops->matmul_grad_x(d, t->gate_up, 2 * f, &up, n, STORE_F32, t->dstream); break;
	case NORM_BACK:
		ops->rmsnorm_grad(d, t->stream, t->norm, t->rstd, t->dstream, n, h, 1, t->stream, t->hidden,
				  NULL);
		break;
	case O_BACK: ops->matmul_grad_x(d, t->hidden, h, &o, n, STORE_ACT, t->s.out); break;
	case ATTENTION_BACK: run_attention_grad(d, (void *)(uintptr_t)&t->s, i); break;
	case QKV_BACK: ops->matmul_grad_x(d, t->s.dqkv, width, &qkv, n, STORE_F32, t->dstream); break;
	case LORA_BACK:
		ops->lora_grad(d, t->hidden, parts, 2, n, h, 2, &drop, t->s.dqkv, width, t->dxa, ADD_F32,
			       t->dstream);
		break;
	case SQUARES: ops->sum_squares(d, t->grads, t->trained, t->sums); break;
	case ADAMW:
		ops->adamw(d, &update, t->grads, t->trained, t->params, t->moments, t->moments + t->trained);
		break;
	case WORKS: break;
	}
}

/* What one call of each has to move beside weights, and what it computes with them. */
struct cost {
	const char *name;
	int calls;
	double bytes, weights, flops; /* weights: their number, 0: none */
};

static void costs(const struct step *t, int layers, struct cost out[WORKS])
{
	double n = t->n, h = t->h, f = t->f, q = t->q, kv = t->kv, width = q + 2 * kv, labels = t->labels,
	       vocab = t->head.rows;
	double heads = t->c->heads, dim = t->c->head_dim, trained = (double)t->trained;
	int chunks = (t->n + t->labels - 1) / t->labels;
	const struct cost all[WORKS] = {
		[EMBED] = {"embedding", 1, n * h * 6, 0, 0},
		[NORM] = {"rmsnorm", 2 * layers + 1, n * h * 6, 0, 0},
		[QKV] = {"q, k, v", layers, n * 2 * (h + width), width * h, 0},
		[LORA] = {"lora of q and v, dropout", layers, n * (2 * h + 4 * (q + kv)), 0, 32 * n * h},
		[ROPE] = {"rope", 2 * layers, n * 4 * (q + kv), 0, 0},
		[ATTENTION] = {"attention", layers, n * 4 * (q + kv), 0, 4 * heads * dim * t->s.pairs},
		[O] = {"o", layers, n * (2 * q + 8 * h), h * q, 0},
		[GATE_UP] = {"gate, up", layers, n * (2 * h + 4 * f), 2 * f * h, 0},
		[GATED] = {"gated", layers, n * 6 * f, 0, 0},
		[DOWN] = {"down", layers, n * (2 * f + 8 * h), h * f, 0},
		[HEAD] = {"logits", chunks, labels * (2 * h + 4 * vocab), vocab * h, 0},
		[LOSS] = {"cross-entropy", chunks, labels * vocab * 6, 0, 0},
		[HEAD_BACK] = {"logits back", chunks, labels * (4 * h + 2 * vocab), vocab * h, 0},
		[DOWN_BACK] = {"down back", layers, n * 2 * (h + f), h * f, 0},
		[GATED_BACK] = {"gated back", layers, n * 10 * f, 0, 0},
		[GATE_UP_BACK] = {"gate, up back", layers, n * (4 * f + 4 * h), 2 * f * h, 0},
		[NORM_BACK] = {"rmsnorm back", 2 * layers, n * h * 18, 0, 0},
		[O_BACK] = {"o back", layers, n * 2 * (h + q), h * q, 0},
		[ATTENTION_BACK] = {"attention back", layers, n * 8 * (q + kv), 0,
				    10 * heads * dim * t->s.pairs},
		[QKV_BACK] = {"q, k, v back", layers - 1, n * (2 * width + 4 * h), width * h, 0},
		[LORA_BACK] = {"lora back", layers, n * (10 * h + 2 * (q + kv)), 0, 64 * n * h},
		[SQUARES] = {"gradient's norm", 1, 4 * trained, 0, 0},
		[ADAMW] = {"adamw", 1, 32 * trained, 0, 0},
	};

	memcpy(out, all, sizeof all);
}

static struct step step_new(struct bench *b, struct device *d, struct pool pool, int tokens)
{
	const struct model_config *c = &b->config;
	struct step t = {.c = c, .pool = pool, .h = c->hidden_size, .f = c->intermediate_size};
	int lengths[128], count = 0, n = 0, chunk = b->small ? 64 : 256;

	/* Rows of the codelab's lengths; many tokens: rows of 512. */
	for (; n < tokens && count < 128; count++) {
		int length = tokens > 1000 ? 512 : b->small ? 20 : row_lengths[count + 3];

		lengths[count] = length < tokens - n ? length : tokens - n;
		n += lengths[count];
	}
	t.n = n;
	t.labels = n < chunk ? n : chunk;
	t.q = c->heads * c->head_dim;
	t.kv = c->kv_heads * c->head_dim;
	t.s = sequences_new(d, c, lengths, count);
	size_t rows = (size_t)n, h = (size_t)t.h, f = (size_t)t.f, vocab = (size_t)c->vocab_size,
	       labels = (size_t)t.labels;
	int32_t *ids = xcalloc(2 * rows, sizeof *ids);

	for (int i = 0; i < n; i++) {
		ids[i] = (int32_t)((int64_t)i * 7919 % c->vocab_size);
		ids[n + i] = i % lengths[0];
	}
	t.ids = bench_room(d, 2 * rows * sizeof *ids);
	t.position = t.ids + rows;
	device_upload(d, t.ids, ids, 2 * rows * sizeof *ids);
	free(ids);
	t.head = (struct matrix){.dtype = DTYPE_BF16,
				 .rows = c->vocab_size,
				 .cols = t.h,
				 .data = bench_random(d, vocab * h, 0.02f)};
	t.stream = bench_random_f32(d, rows * h, 1);
	t.dstream = bench_random_f32(d, rows * h, 1e-3f);
	t.norm = bench_random_f32(d, h, 0.1f);
	t.rstd = bench_random_f32(d, rows, 1);
	t.logits = bench_random_f32(d, labels * vocab, 1);
	t.dlogits = bench_random(d, labels * vocab, 1e-3f);
	t.hidden = bench_random(d, rows * h, 1);
	t.gate_up = bench_random(d, rows * 2 * f, 1);
	t.wide = bench_random(d, rows * f, 1);
	t.cosines = bench_room(d, 8192 * (size_t)(c->head_dim / 2) * sizeof(float));
	t.sines = bench_room(d, 8192 * (size_t)(c->head_dim / 2) * sizeof(float));
	d->ops->rope_table(d, c->rope_theta, c->head_dim, 8192, t.cosines, t.sines);
	t.trained = (size_t)c->layers * 8 * (2 * h + (size_t)(t.q + t.kv));
	t.params = bench_random_f32(d, t.trained, 0.02f);
	t.grads = bench_random_f32(d, t.trained, 1e-3f);
	t.moments = bench_room(d, 2 * t.trained * sizeof(float));
	device_zero(d, t.moments, 2 * t.trained * sizeof(float));
	t.xa = bench_random_f32(d, 2 * 8 * rows, 1);
	t.dxa = bench_room(d, 3 * 8 * rows * sizeof(float));
	t.grad_scale = bench_random_f32(d, 1, 1);
	t.seed_step = bench_room(d, sizeof *t.seed_step);
	device_zero(d, t.seed_step, sizeof *t.seed_step);
	t.sums = bench_room(d, 2 * sizeof *t.sums);
	device_zero(d, t.sums, 2 * sizeof *t.sums);
	return t;
}

static void operations(struct bench *b, int tokens)
{
	struct device *d = bench_open(DTYPE_BF16);
	struct pool pool = pool_new(b, d, true);
	struct step t = step_new(b, d, pool, tokens);
	double total[2] = {0, 0};
	struct cost all[WORKS];
	char title[160];

	costs(&t, b->config.layers, all);
	snprintf(title, sizeof title,
		 "Operations of a step over %d tokens, bf16: one call; in brackets, calls and time of a step",
		 t.n);
	bench_heading(title);
	for (int w = 0; w < WORKS; w++)
		for (int nf4 = 0; nf4 < 2; nf4++) {
			struct asked k = {&t, (enum work)w, nf4 ? DTYPE_NF4 : DTYPE_BF16};
			bool projects = all[w].weights > 0 && w != HEAD && w != HEAD_BACK;
			char name[96], note[48], key[64];

			if (nf4 && !projects)
				continue;
			double n = w == HEAD || w == HEAD_BACK ? t.labels : t.n;
			double bytes = all[w].bytes + all[w].weights * (nf4 ? 0.5 + 4.0 / NF4_BLOCK : 2);
			double flops = all[w].flops + 2 * n * all[w].weights;
			double seconds = bench_time(b, d, run_work, &k, projects ? 8 : 1);

			total[nf4] += seconds * all[w].calls;
			if (!projects)
				total[1] += seconds * all[w].calls;
			snprintf(name, sizeof name, "%s%s", all[w].name, nf4 ? ", NF4" : "");
			snprintf(note, sizeof note, "%d times, %.3g ms", all[w].calls,
				 1e3 * seconds * all[w].calls);
			snprintf(key, sizeof key, "operation-%d", t.n);
			bench_row(b, &(struct figure){.workload = key,
						      .name = name,
						      .unit = "us",
						      .achieved = 1e6 * seconds,
						      .limit = 1e6 * bench_limit(b, bytes, flops),
						      .note = note});
		}
	printf("\nTogether %.3g ms a step with resident weights, %.3g ms with NF4.\n", 1e3 * total[0],
	       1e3 * total[1]);
	device_close(d);
}

void bench_operations(struct bench *b)
{
	operations(b, b->small ? 24 : 150);
	operations(b, b->small ? 48 : 8192);
}
