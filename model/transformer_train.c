/* The loss and the way back. The final norm, the vocabulary projection and the loss see labelled positions only, a
 * chunk of them at a time. A frozen weight costs one product, the gradient of its input; below the lowest trained
 * weight nothing is computed. Three parts, each of which is recorded by itself: the way through the layers depends on the
 * tokens, the vocabulary's on the labels, the way back on the tokens again. */
#include <string.h>

#include "model/transformer_pass.h"

enum part { PART_FORWARD, PART_SCORE, PART_LOSS, PART_BACK };

/* The loss of the labelled positions, added to the first of t->sums; grad: dnormed too, and the vocabulary projection's
 * gradient. */
static void head(struct transformer *t, const struct pass *p, bool grad, struct full_grads *full)
{
	const struct model_config *c = &t->model->config;
	const struct matrix *head = &t->model->lm_head;
	struct device *d = t->device;
	struct workspace *w = t->w;
	int chunk = loss_chunk_rows(t, w->tokens);

	t->ops->gather(d, w->x_out, w->in.label_at, p->labels, c->hidden_size, w->picked);
	t->ops->rmsnorm(d, w->picked, t->model->final_norm, p->labels, c->hidden_size, c->rms_norm_eps,
			c->norm_offset, w->normed, w->picked_rstd, NULL);
	for (int at = 0; at < p->labels; at += chunk) {
		int rows = p->labels - at < chunk ? p->labels - at : chunk;
		const void *in = act_at(t, w->normed, (size_t)at * (size_t)c->hidden_size);

		t->ops->matmul(d, in, head, rows, STORE_F32, w->logits, c->vocab_size);
		t->ops->cross_entropy(d, w->in.label + at, rows, c->vocab_size, w->in.grad_scale, w->logits,
				      grad ? w->dlogits : NULL, t->sums);
		if (grad)
			t->ops->matmul_grad_x(d, w->dlogits, c->vocab_size, head, rows, STORE_F32,
					      w->dnormed + (ptrdiff_t)at * c->hidden_size);
		if (grad && full)
			t->ops->matmul_grad_w(d, w->dlogits, c->vocab_size, in, rows, c->vocab_size,
					      c->hidden_size, full->lm_head);
	}
}

static void ask_score(struct transformer *t, const struct pass *p, const void *unused)
{
	(void)unused;
	head(t, p, false, NULL);
}

/* The gradient of what stands before the final norm goes where the labelled positions are. */
static void ask_loss(struct transformer *t, const struct pass *p, const void *arg)
{
	struct full_grads *full = (struct full_grads *)(uintptr_t)arg;
	const struct model_config *c = &t->model->config;
	struct workspace *w = t->w;

	head(t, p, true, full);
	device_zero(t->device, w->dh, (size_t)p->labels * (size_t)c->hidden_size * sizeof *w->dh);
	t->ops->rmsnorm_grad(t->device, w->picked, t->model->final_norm, w->picked_rstd, w->dnormed,
			     p->labels, c->hidden_size, c->norm_offset, w->dh, NULL,
			     full ? full->final_norm : NULL);
	t->ops->scatter(t->device, w->dh, w->in.label_at, p->labels, c->hidden_size, w->dx);
}

/* A training pass's way forward leaves dx empty for what comes back. */
static void ask_forward(struct transformer *t, const struct pass *p, const void *unused)
{
	pass_forward(t, p, unused);
	if (p->kind == PASS_TRAIN)
		device_zero(t->device, t->w->dx,
			    (size_t)p->n * (size_t)t->model->config.hidden_size * sizeof *t->w->dx);
}

int transformer_loss(struct transformer *t, const struct batch *b, double *loss_sum, int64_t *labelled,
		     struct error *err)
{
	struct pass p;

	if (!b->targets)
		return error_set(err, ERR_USAGE, "a batch without targets has no loss");
	if (pass_of_batch(t, b, NULL, PASS_LOSS, 0, &p, labelled, err))
		return -1;
	device_zero(t->device, t->sums, sizeof *t->sums);
	if (*labelled && (pass_record(t, &p, PART_FORWARD, NULL, ask_forward, NULL, err) ||
			  pass_record(t, &(struct pass){.kind = p.kind, .labels = p.labels}, PART_SCORE, NULL,
				      ask_score, NULL, err)))
		return -1;
	return device_download(t->device, loss_sum, t->sums, sizeof *loss_sum, err);
}

/* The way back through `count` projections from `first` on: x is what they saw, dy (n, …) the gradient of what they gave,
 * side by side in rows of lddy. dx NULL: not wanted. */
static void project_grad(struct transformer *t, const struct pass *p, int layer, enum proj first, int count,
			 const void *x, const void *dy, int lddy, struct full_grads *full, enum store how,
			 void *dx)
{
	const struct layer *w = &t->model->layers[layer];
	const struct matrix *all = pass_group(w, first);
	enum store add = how == STORE_F32 || how == ADD_F32 ? ADD_F32 : ADD_ACT;
	struct lora_part parts[LORA_PARTS];
	struct dropout_mask mask;
	size_t at = 0;

	if (dx && all)
		t->ops->matmul_grad_x(t->device, dy, lddy, all, p->n, how, dx);
	for (int k = (int)first; k < (int)first + count; k++) {
		const struct matrix *one = &w->proj[k];
		const void *part = act_at(t, dy, at);

		if (dx && !all)
			t->ops->matmul_grad_x(t->device, part, lddy, one, p->n, at ? add : how, dx);
		if (full)
			t->ops->matmul_grad_w(t->device, part, lddy, x, p->n, one->rows, one->cols,
					      full->layers[layer].proj[k]);
		at += (size_t)one->rows;
	}
	int adapters = pass_lora(t, layer, first, count, parts);

	if (adapters && parts[0].grad_a)
		t->ops->lora_grad(t->device, x, parts, adapters, p->n, w->proj[first].cols, t->lora->scale,
				  pass_mask(t, p, &mask), dy, lddy, t->w->dxa, add, dx);
}

/* dx comes in as the gradient of the layer's output and leaves as that of its input; the gate's and up's buffers become
 * their gradients. */
static void layer_backward(struct transformer *t, const struct pass *p, int layer, struct full_grads *full)
{
	const struct model_config *c = &t->model->config;
	const struct layer *w = &t->model->layers[layer];
	const struct kernels *ops = t->ops;
	struct device *d = t->device;
	struct workspace *s = t->w;
	struct acts *a = &s->acts[layer];
	bool below = full || layer > 0; /* something trained needs the gradient of this layer's input */
	int h = c->hidden_size, f = c->intermediate_size, q = c->heads * c->head_dim,
	    kv = c->kv_heads * c->head_dim;
	void *dx_act = s->dx_act == (void *)s->dx ? NULL : s->dx_act;

	project_grad(t, p, layer, PROJ_DOWN, 1, a->act, s->dx_act, h, full, STORE_ACT, s->dact);
	ops->gated_grad(d, gate_of(c->act), s->dact, p->n, f, 2 * f, a->gate_up,
			act_at(t, a->gate_up, (size_t)f));
	project_grad(t, p, layer, PROJ_GATE, 2, a->h_mid, a->gate_up, 2 * f, full, STORE_F32, s->dh);
	ops->rmsnorm_grad(d, a->x_mid, w->post_norm, a->rstd_mid, s->dh, p->n, h, c->norm_offset, s->dx,
			  dx_act, full ? full->layers[layer].post_norm : NULL);

	project_grad(t, p, layer, PROJ_O, 1, a->attn, s->dx_act, h, full, STORE_ACT, s->dattn);
	ops->attention_grad(d, &p->attention, a->qkv, act_at(t, a->qkv, (size_t)q),
			    act_at(t, a->qkv, (size_t)(q + kv)), a->attn, a->lse, s->dattn, s->dqkv,
			    act_at(t, s->dqkv, (size_t)q), act_at(t, s->dqkv, (size_t)(q + kv)));
	ops->rope(d, t->rope_cos, t->rope_sin, s->in.position, p->n, c->heads + c->kv_heads, c->head_dim,
		  q + 2 * kv, true, s->dqkv);
	project_grad(t, p, layer, PROJ_Q, 3, a->h_in, s->dqkv, q + 2 * kv, full, STORE_F32,
		     below ? s->dh : NULL);
	if (below)
		ops->rmsnorm_grad(d, a->x_in, w->input_norm, a->rstd_in, s->dh, p->n, h, c->norm_offset,
				  s->dx, dx_act, full ? full->layers[layer].input_norm : NULL);
}

static void ask_back(struct transformer *t, const struct pass *p, const void *arg)
{
	struct full_grads *full = (struct full_grads *)(uintptr_t)arg;
	const struct model_config *c = &t->model->config;
	struct workspace *w = t->w;

	if (w->dx_act != (void *)w->dx)
		t->ops->convert(t->device, w->dx, DTYPE_F32, (size_t)p->n * (size_t)c->hidden_size,
				w->dx_act);
	for (int layer = c->layers - 1; layer >= 0; layer--)
		layer_backward(t, p, layer, full);
	if (full)
		t->ops->embed_grad(t->device, w->in.ids, p->n, c->hidden_size, c->embed_scale, w->dx,
				   full->embed);
}

int transformer_train(struct transformer *t, const struct batch *b, const struct dropout *drop,
		      float grad_scale, struct full_grads *full, double *loss_sum, int64_t *labelled,
		      struct error *err)
{
	struct pass p;

	if (!b->targets)
		return error_set(err, ERR_USAGE, "a batch without targets has no loss");
	if (t->lora ? !t->lora->grads : !full)
		return error_set(err, ERR_USAGE, "nothing to train: the adapter has no gradients");
	if (pass_of_batch(t, b, drop, PASS_TRAIN, grad_scale, &p, labelled, err))
		return -1;
	if (loss_sum)
		device_zero(t->device, t->sums, sizeof *t->sums);
	if (*labelled) {
		/* The way there and back depends on the tokens alone, what lies between on the labels alone. */
		struct pass layers = p, labels = {.kind = p.kind, .labels = p.labels};

		layers.labels = 0;
		if (pass_record(t, &layers, PART_FORWARD, NULL, ask_forward, NULL, err) ||
		    pass_record(t, &labels, PART_LOSS, full, ask_loss, full, err) ||
		    pass_record(t, &layers, PART_BACK, full, ask_back, full, err))
			return -1;
	}
	return loss_sum ? device_download(t->device, loss_sum, t->sums, sizeof *loss_sum, err) : 0;
}
