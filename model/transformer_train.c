/* The loss and the way back. The final norm, the vocabulary projection and the loss see labelled positions only, a
 * chunk of them at a time. A frozen weight costs one product, the gradient of its input; below the lowest trained
 * weight nothing is computed. */
#include <string.h>

#include "model/transformer_pass.h"

/* Fills label_at and label; gives their number. */
static int labels_find(struct transformer *t, const struct batch *b)
{
	int m = 0;

	for (int i = 0; i < b->tokens; i++)
		if (b->targets[i] >= 0) {
			t->label_at[m] = i;
			t->label[m++] = b->targets[i];
		}
	return m;
}

/* The loss of all m labelled positions; grad: dnormed too, and the vocabulary projection's gradient. */
static double head_loss(struct transformer *t, int m, bool grad, float grad_scale, struct full_grads *full)
{
	const struct model_config *c = &t->model->config;
	const struct matrix *head = &t->model->lm_head;
	int chunk = loss_chunk_rows(c);
	double sum = 0;

	for (int at = 0; at < m; at += chunk) {
		int rows = m - at < chunk ? m - at : chunk;
		const float *in = t->normed + (ptrdiff_t)at * c->hidden_size;

		t->ops->matmul(in, head, rows, false, t->logits);
		t->ops->cross_entropy(t->label + at, rows, c->vocab_size, grad, grad_scale, t->logits,
				      t->losses);
		for (int i = 0; i < rows; i++)
			sum += t->losses[i];
		if (grad)
			t->ops->matmul_grad_x(t->logits, head, rows, false,
					      t->dnormed + (ptrdiff_t)at * c->hidden_size);
		if (grad && full)
			t->ops->matmul_grad_w(t->logits, in, rows, c->vocab_size, c->hidden_size,
					      full->lm_head);
	}
	return sum;
}

/* Forward up to the normalised labelled rows; gives their number. */
static int forward_labelled(struct transformer *t, const struct batch *b, const struct pass *p)
{
	const struct model_config *c = &t->model->config;
	int m = labels_find(t, b);

	pass_forward(t, p, b->ids);
	t->ops->gather(t->x_out, t->label_at, m, c->hidden_size, t->picked);
	t->ops->rmsnorm(t->picked, t->model->final_norm, m, c->hidden_size, c->rms_norm_eps, c->norm_offset,
			t->normed, t->picked_rstd);
	return m;
}

int transformer_loss(struct transformer *t, const struct batch *b, double *loss_sum, int64_t *labelled,
		     struct error *err)
{
	if (!b->targets)
		return error_set(err, ERR_USAGE, "a batch without targets has no loss");
	if (workspace_for_batch(t, b, NULL, PASS_LOSS, err))
		return -1;
	struct pass p = pass_of_batch(t, b, NULL);
	int m = forward_labelled(t, b, &p);

	*loss_sum = head_loss(t, m, false, 0, NULL);
	*labelled = m;
	return 0;
}

/* The way back through one projection: x is what it saw, dy the gradient of what it gave. dx NULL: not wanted; add:
 * dx +=. */
static void project_grad(struct transformer *t, const struct pass *p, int layer, enum proj proj,
			 const float *x, const float *dy, struct full_grads *full, bool add, float *dx)
{
	const struct matrix *w = &t->model->layers[layer].proj[proj];
	const struct lora *l = t->lora ? &t->lora->entries[layer * PROJ_COUNT + (int)proj] : NULL;
	struct dropout_mask mask;

	if (dx)
		t->ops->matmul_grad_x(dy, w, p->n, add, dx);
	if (l && l->rank)
		t->ops->lora_grad(x, l->a, l->b, t->acts[layer].xa[proj], dy, p->n, w->rows, w->cols, l->rank,
				  t->lora->scale, pass_mask(t, p, layer, proj, &mask), t->dxa, l->grad_a,
				  l->grad_b, dx);
	if (full)
		t->ops->matmul_grad_w(dy, x, p->n, w->rows, w->cols, full->layers[layer].proj[proj]);
}

/* dx comes in as the gradient of the layer's output and leaves as that of its input; the gate's and up's buffers become
 * their gradients. */
static void layer_backward(struct transformer *t, const struct pass *p, int layer, struct full_grads *full)
{
	const struct model_config *c = &t->model->config;
	const struct layer *w = &t->model->layers[layer];
	const struct kernels *ops = t->ops;
	struct acts *a = &t->acts[layer];
	bool below = full || layer > 0; /* something trained needs the gradient of this layer's input */
	float *dh = below ? t->dh : NULL;

	project_grad(t, p, layer, PROJ_DOWN, a->act, t->dx, full, false, t->dact);
	ops->gated_grad(gate_of(c->act), a->gate, a->up, t->dact, (size_t)p->n * (size_t)c->intermediate_size,
			a->gate, a->up);
	project_grad(t, p, layer, PROJ_GATE, a->h_mid, a->gate, full, false, t->dh);
	project_grad(t, p, layer, PROJ_UP, a->h_mid, a->up, full, true, t->dh);
	ops->rmsnorm_grad(a->x_mid, w->post_norm, a->rstd_mid, t->dh, p->n, c->hidden_size, c->norm_offset,
			  t->dx, full ? full->layers[layer].post_norm : NULL);

	project_grad(t, p, layer, PROJ_O, a->attn, t->dx, full, false, t->dattn);
	ops->attention_grad(&p->attention, a->q, a->k, a->v, a->attn, a->lse, t->dattn, t->dq, t->dk, t->dv);
	ops->rope(t->rope_cos, t->rope_sin, t->position, p->n, c->heads, c->head_dim, true, t->dq);
	ops->rope(t->rope_cos, t->rope_sin, t->position, p->n, c->kv_heads, c->head_dim, true, t->dk);
	project_grad(t, p, layer, PROJ_Q, a->h_in, t->dq, full, false, dh);
	project_grad(t, p, layer, PROJ_K, a->h_in, t->dk, full, true, dh);
	project_grad(t, p, layer, PROJ_V, a->h_in, t->dv, full, true, dh);
	if (below)
		ops->rmsnorm_grad(a->x_in, w->input_norm, a->rstd_in, dh, p->n, c->hidden_size,
				  c->norm_offset, t->dx, full ? full->layers[layer].input_norm : NULL);
}

int transformer_train(struct transformer *t, const struct batch *b, const struct dropout *drop,
		      float grad_scale, struct full_grads *full, double *loss_sum, int64_t *labelled,
		      struct error *err)
{
	const struct model_config *c = &t->model->config;
	size_t size = (size_t)b->tokens * (size_t)c->hidden_size * sizeof(float);

	if (!b->targets)
		return error_set(err, ERR_USAGE, "a batch without targets has no loss");
	if (t->lora ? !t->lora->grads : !full)
		return error_set(err, ERR_USAGE, "nothing to train: the adapter has no gradients");
	if (workspace_for_batch(t, b, drop, PASS_TRAIN, err))
		return -1;
	struct pass p = pass_of_batch(t, b, drop);
	int m = forward_labelled(t, b, &p);

	*loss_sum = head_loss(t, m, true, grad_scale, full);
	*labelled = m;
	if (!m)
		return 0;
	/* picked's gradient goes where the labelled positions are; picked itself is read once more for it. */
	memset(t->dh, 0, size);
	t->ops->rmsnorm_grad(t->picked, t->model->final_norm, t->picked_rstd, t->dnormed, m, c->hidden_size,
			     c->norm_offset, t->dh, full ? full->final_norm : NULL);
	memset(t->dx, 0, size);
	t->ops->scatter(t->dh, t->label_at, m, c->hidden_size, t->dx);
	for (int layer = c->layers - 1; layer >= 0; layer--)
		layer_backward(t, &p, layer, full);
	if (full)
		t->ops->embed_grad(b->ids, b->tokens, c->hidden_size, c->embed_scale, t->dx, full->embed);
	return 0;
}
