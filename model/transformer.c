/* The forward pass: embedding, then per layer
 *   x += o(attention(rope(q(h)), rope(k(h)), v(h))), h = rmsnorm(x);  x += down(act(gate(h)) up(h)), h = rmsnorm(x)
 * and the final norm. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/buckets.h"
#include "model/transformer_pass.h"

int transformer_new(const struct model *m, const struct lora_set *lora, struct transformer **out,
		    struct error *err)
{
	void *sums;

	if (m->config.head_dim % 2)
		return error_set(err, ERR_USAGE,
				 "config.json: head_dim %d is odd: rotary positions need pairs",
				 m->config.head_dim);
	if (model_device(m)->act != DTYPE_F32 && (m->config.head_dim % 16 || m->config.head_dim > 256)) {
		error_set(err, ERR_USAGE,
			  "config.json: head_dim %d: a GPU with 16-bit activations takes multiples of 16 up "
			  "to 256",
			  m->config.head_dim);
		return error_hint(err, "set precision = \"fp32\", or device = \"cpu\"");
	}
	if (lora && lora->layers != m->config.layers)
		return error_set(err, ERR_USAGE, "the adapter is for %d layers, the model has %d",
				 lora->layers, m->config.layers);
	if (device_alloc(model_device(m), 2 * sizeof(double), &sums, err))
		return -1;
	struct transformer *t = xcalloc(1, sizeof *t);

	t->model = m;
	t->lora = lora;
	t->device = model_device(m);
	t->ops = t->device->ops;
	t->act_size = device_act_size(t->device);
	t->sums = sums;
	device_zero(t->device, sums, 2 * sizeof(double));
	for (int k = 0; k < PASS_KINDS; k++)
		t->spaces[k].acts = xcalloc((size_t)m->config.layers + 1, sizeof *t->spaces[k].acts);
	*out = t;
	return 0;
}

void transformer_free(struct transformer *t)
{
	if (!t)
		return;
	workspace_free(t);
	free(t);
}

uint64_t transformer_bytes(const struct transformer *t)
{
	return t->memory_size +
	       (uint64_t)t->rope_positions * (uint64_t)t->model->config.head_dim * sizeof(float);
}

double *transformer_sums(struct transformer *t)
{
	return t->sums;
}

/* ---- a batch's inputs ---- */

static int batch_check(const struct model_config *c, const struct batch *b, struct error *err)
{
	if (b->tokens < 1 || b->sequences < 1 || b->cu_seqlens[0] != 0 ||
	    b->cu_seqlens[b->sequences] != b->tokens)
		return error_set(err, ERR_USAGE,
				 "a batch of %d tokens in %d sequences is empty or cut wrongly", b->tokens,
				 b->sequences);
	for (int s = 0; s < b->sequences; s++) {
		int64_t length = (int64_t)b->cu_seqlens[s + 1] - b->cu_seqlens[s];

		if (length < 1 || length > c->max_positions) {
			error_set(err, ERR_USAGE, "sequence %d has %lld tokens, the model takes 1 to %d", s,
				  (long long)length, c->max_positions);
			return error_hint(err, "set max_length to at most %d", c->max_positions);
		}
	}
	for (int i = 0; i < b->tokens; i++) {
		if (b->ids[i] < 0 || b->ids[i] >= c->vocab_size) {
			error_set(err, ERR_USAGE, "token %d is id %d, the model knows 0 to %d", i, b->ids[i],
				  c->vocab_size - 1);
			return error_hint(err, "tokens and model must come from the same model-fetch");
		}
		if (b->targets && (b->targets[i] < -1 || b->targets[i] >= c->vocab_size))
			return error_set(err, ERR_USAGE, "target %d is id %d, the model knows 0 to %d", i,
					 b->targets[i], c->vocab_size - 1);
	}
	return 0;
}

/* One sequence's places in the inputs. */
static void fill_sequence(struct inputs *in, int from, int to, int32_t base)
{
	for (int i = from; i < to; i++) {
		in->position[i] = i - from;
		in->token[i] = base + i - from;
	}
}

/* The host's side of the inputs for b, filled up to n tokens with a sequence of its own (empty when n is b->tokens) if
 * `filling`. Gives the number of labels. */
static int fill_inputs(const struct transformer *t, const struct batch *b, const struct dropout *drop, int n,
		       bool filling, float grad_scale, struct inputs *in)
{
	int labels = 0;

	memcpy(in->ids, b->ids, (size_t)b->tokens * sizeof *in->ids);
	memcpy(in->cu_q, b->cu_seqlens, ((size_t)b->sequences + 1) * sizeof *in->cu_q);
	for (int s = 0; s < b->sequences; s++)
		fill_sequence(in, b->cu_seqlens[s], b->cu_seqlens[s + 1],
			      drop && drop->token_base ? drop->token_base[s] : b->cu_seqlens[s]);
	for (int i = b->tokens; i < n; i++)
		in->ids[i] = t->model->config.bos >= 0 ? t->model->config.bos : 0;
	fill_sequence(in, b->tokens, n, 0);
	if (filling)
		in->cu_q[b->sequences + 1] = n;
	for (int i = 0; b->targets && i < b->tokens; i++)
		if (b->targets[i] >= 0) {
			in->label_at[labels] = i;
			in->label[labels++] = b->targets[i];
		}
	*in->step = drop ? (uint32_t)drop->step : 0;
	*in->grad_scale = grad_scale;
	return labels;
}

/* What a pass over n tokens that is recorded says of its longest sequence: the same of all small ones, which so share
 * recordings; of large ones within a factor of 2, by which attention chooses its kernels. */
static int longest_bound(int n, int longest)
{
	int bound = 128;

	while (bound < longest)
		bound *= 2;
	return n <= 512 || bound > n ? n : bound;
}

int pass_of_batch(struct transformer *t, const struct batch *b, const struct dropout *drop,
		  enum pass_kind kind, float grad_scale, struct pass *p, int64_t *labelled, struct error *err)
{
	const struct model_config *c = &t->model->config;
	bool filling = device_records(t->device);
	int longest = 0, q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;

	if (batch_check(c, b, err))
		return -1;
	if (drop && !(drop->p >= 0 && drop->p < 1))
		return error_set(err, ERR_USAGE, "dropout %g is not in [0, 1)", (double)drop->p);
	int n = filling ? bucket_of(b->tokens) : b->tokens, sequences = b->sequences + filling;

	for (int s = 0; s < b->sequences; s++) {
		int length = b->cu_seqlens[s + 1] - b->cu_seqlens[s];

		longest = length > longest ? length : longest;
	}
	longest = n - b->tokens > longest ? n - b->tokens : longest;
	int bound = filling ? longest_bound(n, longest) : longest;

	if (workspace_plan(t, kind, n, sequences, longest, err))
		return -1;
	struct inputs *host = &t->w->host;
	int labels = fill_inputs(t, b, drop, n, filling, grad_scale, host);

	*labelled = labels;
	for (int all = filling && labels ? bucket_of(labels) : labels; labels < all; labels++)
		host->label_at[labels] = host->label[labels] = -1;
	workspace_upload(t);
	*p = (struct pass){
		.kind = kind,
		.n = n,
		.labels = labels,
		.attention = {.sequences = sequences,
			      .cu_q = t->w->in.cu_q,
			      .k_begin = t->w->in.cu_q,
			      .k_end = t->w->in.cu_q + 1,
			      .queries = n,
			      .max_q = bound,
			      .max_k = bound,
			      .heads = c->heads,
			      .kv_heads = c->kv_heads,
			      .head_dim = c->head_dim,
			      .q_stride = q + 2 * kv,
			      .k_stride = q + 2 * kv,
			      .scale = c->attn_scale},
		.dropout = drop ? drop->p : 0,
		.seed = drop ? drop->seed : 0,
	};
	return 0;
}

/* ---- the layers ---- */

const struct dropout_mask *pass_mask(const struct transformer *t, const struct pass *p,
				     struct dropout_mask *out)
{
	if (p->dropout <= 0)
		return NULL;
	*out = (struct dropout_mask){p->dropout, p->seed, t->w->in.step, t->w->in.token};
	return out;
}

const struct matrix *pass_group(const struct layer *w, enum proj first)
{
	const struct matrix *m = first == PROJ_Q ? &w->qkv : first == PROJ_GATE ? &w->gate_up : NULL;

	return m && m->rows ? m : NULL;
}

void *act_at(const struct transformer *t, const void *y, size_t columns)
{
	return (char *)(uintptr_t)y + columns * t->act_size;
}

int pass_lora(const struct transformer *t, int layer, enum proj first, int count,
	      struct lora_part parts[LORA_PARTS])
{
	int n = 0, at = 0;

	if (!t->lora)
		return 0;
	for (int p = (int)first; p < (int)first + count; p++) {
		const struct lora *l = &t->lora->entries[layer * PROJ_COUNT + p];
		int rows = t->model->layers[layer].proj[p].rows;

		if (l->rank)
			parts[n++] = (struct lora_part){.a = l->a,
							.b = l->b,
							.grad_a = l->grad_a,
							.grad_b = l->grad_b,
							.xa = t->w->acts[layer].xa[p],
							.rows = rows,
							.rank = l->rank,
							.at = at,
							.stream = (uint32_t)(layer * PROJ_COUNT + p)};
		at += rows;
	}
	return n;
}

/* y = W x + scale B A dropout(x) for `count` projections from `first` on, side by side in y; ADD_F32: y += */
static void project(struct transformer *t, const struct pass *p, int layer, enum proj first, int count,
		    const void *x, enum store how, void *y, int ldy)
{
	const struct layer *w = &t->model->layers[layer];
	const struct matrix *all = pass_group(w, first);
	struct lora_part parts[LORA_PARTS];
	struct dropout_mask mask;
	size_t at = 0;

	if (all) {
		t->ops->matmul(t->device, x, all, p->n, how, y, ldy);
	} else {
		for (int k = (int)first; k < (int)first + count; k++) {
			t->ops->matmul(t->device, x, &w->proj[k], p->n, how, count > 1 ? act_at(t, y, at) : y,
				       ldy);
			at += (size_t)w->proj[k].rows;
		}
	}
	int adapters = pass_lora(t, layer, first, count, parts);

	if (adapters)
		t->ops->lora(t->device, x, parts, adapters, p->n, w->proj[first].cols, t->lora->scale,
			     pass_mask(t, p, &mask), how == ADD_F32 ? ADD_F32 : ADD_ACT, y, ldy);
}

enum gate gate_of(enum activation a)
{
	return a == ACT_SILU ? GATE_SILU : a == ACT_GELU_ERF ? GATE_GELU_ERF : GATE_GELU_TANH;
}

static void layer_forward(struct transformer *t, const struct pass *p, int layer, float *x_next)
{
	const struct model_config *c = &t->model->config;
	const struct layer *w = &t->model->layers[layer];
	const struct kernels *ops = t->ops;
	struct device *d = t->device;
	struct acts *a = &t->w->acts[layer];
	int q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, f = c->intermediate_size;
	void *keys = act_at(t, a->qkv, (size_t)q), *values = act_at(t, a->qkv, (size_t)(q + kv));

	ops->rmsnorm(d, a->x_in, w->input_norm, p->n, c->hidden_size, c->rms_norm_eps, c->norm_offset,
		     a->h_in, a->rstd_in, a->x_mid == a->x_in ? NULL : a->x_mid);
	project(t, p, layer, PROJ_Q, 3, a->h_in, STORE_ACT, a->qkv, q + 2 * kv);
	if (p->cache) {
		keys = kv_cache_rows(p->cache, layer, 0);
		values = kv_cache_rows(p->cache, layer, 1);
		ops->rope_append(d, t->rope_cos, t->rope_sin, t->w->in.position, p->n, c->heads, c->kv_heads,
				 c->head_dim, q + 2 * kv, a->qkv, t->w->in.kv_row, keys, values);
	} else {
		ops->rope(d, t->rope_cos, t->rope_sin, t->w->in.position, p->n, c->heads + c->kv_heads,
			  c->head_dim, q + 2 * kv, false, a->qkv);
	}
	ops->attention(d, &p->attention, a->qkv, keys, values, a->attn, a->lse);
	project(t, p, layer, PROJ_O, 1, a->attn, ADD_F32, a->x_mid, c->hidden_size);

	ops->rmsnorm(d, a->x_mid, w->post_norm, p->n, c->hidden_size, c->rms_norm_eps, c->norm_offset,
		     a->h_mid, a->rstd_mid, x_next == a->x_mid ? NULL : x_next);
	project(t, p, layer, PROJ_GATE, 2, a->h_mid, STORE_ACT, a->gate_up, 2 * f);
	ops->gated(d, gate_of(c->act), a->gate_up, act_at(t, a->gate_up, (size_t)f), p->n, f, 2 * f, a->act);
	project(t, p, layer, PROJ_DOWN, 1, a->act, ADD_F32, x_next, c->hidden_size);
}

void pass_forward(struct transformer *t, const struct pass *p, const void *unused)
{
	const struct model_config *c = &t->model->config;
	struct workspace *w = t->w;

	(void)unused;
	t->ops->embed(t->device, &t->model->embed, w->in.ids, p->n, c->embed_scale,
		      c->layers ? w->acts[0].x_in : w->x_out);
	for (int i = 0; i < c->layers; i++)
		layer_forward(t, p, i, i + 1 < c->layers ? w->acts[i + 1].x_in : w->x_out);
}

int transformer_logits(struct transformer *t, const struct batch *b, float *logits, struct error *err)
{
	const struct model_config *c = &t->model->config;
	struct batch unlabelled = *b;
	int64_t labelled;
	struct pass p;

	unlabelled.targets = NULL;
	if (pass_of_batch(t, &unlabelled, NULL, PASS_LOSS, 0, &p, &labelled, err))
		return -1;
	pass_forward(t, &p, NULL);
	t->ops->rmsnorm(t->device, t->w->x_out, t->model->final_norm, b->tokens, c->hidden_size,
			c->rms_norm_eps, c->norm_offset, t->w->normed, NULL, NULL);
	for (int at = 0, chunk = loss_chunk_rows(t, t->w->tokens); at < b->tokens; at += chunk) {
		int rows = b->tokens - at < chunk ? b->tokens - at : chunk;
		size_t vocab = (size_t)c->vocab_size;

		t->ops->matmul(t->device, act_at(t, t->w->normed, (size_t)at * (size_t)c->hidden_size),
			       &t->model->lm_head, rows, STORE_F32, t->w->logits, c->vocab_size);
		if (device_download(t->device, logits + (size_t)at * vocab, t->w->logits,
				    (size_t)rows * vocab * sizeof *logits, err))
			return -1;
	}
	return 0;
}
