/* The forward pass: embedding, then per layer
 *   x += o(attention(rope(q(h)), rope(k(h)), v(h))), h = rmsnorm(x);  x += down(act(gate(h)) up(h)), h = rmsnorm(x)
 * and the final norm. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "model/transformer_pass.h"

int transformer_new(const struct model *m, const struct lora_set *lora, struct transformer **out,
		    struct error *err)
{
	if (m->config.head_dim % 2)
		return error_set(err, ERR_USAGE,
				 "config.json: head_dim %d is odd: rotary positions need pairs",
				 m->config.head_dim);
	if (lora && lora->layers != m->config.layers)
		return error_set(err, ERR_USAGE, "the adapter is for %d layers, the model has %d",
				 lora->layers, m->config.layers);
	struct transformer *t = xcalloc(1, sizeof *t);

	t->model = m;
	t->lora = lora;
	t->ops = &kernels_cpu;
	t->acts = xcalloc((size_t)m->config.layers + 1, sizeof *t->acts);
	*out = t;
	return 0;
}

void transformer_free(struct transformer *t)
{
	if (!t)
		return;
	free(t->memory);
	free(t->rope_cos);
	free(t->rope_sin);
	free(t->acts);
	free(t);
}

uint64_t transformer_bytes(const struct transformer *t)
{
	return t->memory_size +
	       (uint64_t)t->rope_positions * (uint64_t)t->model->config.head_dim * sizeof(float);
}

/* ---- the workspace ---- */

/* Hands out memory from base on; with base NULL it only counts. */
struct layout {
	char *base;
	size_t used;
};

static void *take(struct layout *l, size_t count, size_t size)
{
	void *p = l->base ? l->base + l->used : NULL;

	l->used += (count * size + 63) / 64 * 64;
	return p;
}

static float *take_floats(struct layout *l, int rows, int cols)
{
	return take(l, (size_t)rows * (size_t)cols, sizeof(float));
}

int loss_chunk_rows(const struct model_config *c)
{
	int rows = (1 << 20) / c->vocab_size;

	return rows < 64 ? 64 : rows;
}

static void take_acts(const struct transformer *t, struct layout *l, int n, bool keep, struct acts *a)
{
	const struct model_config *c = &t->model->config;
	int q = c->heads * c->head_dim, k = c->kv_heads * c->head_dim;

	a->x_in = take_floats(l, n, c->hidden_size);
	a->rstd_in = take_floats(l, n, 1);
	a->h_in = take_floats(l, n, c->hidden_size);
	a->q = take_floats(l, n, q);
	a->k = take_floats(l, n, k);
	a->v = take_floats(l, n, k);
	a->attn = take_floats(l, n, q);
	a->lse = take_floats(l, n, c->heads);
	a->x_mid = keep ? take_floats(l, n, c->hidden_size) : a->x_in;
	a->rstd_mid = take_floats(l, n, 1);
	a->h_mid = keep ? take_floats(l, n, c->hidden_size) : a->h_in;
	a->gate = take_floats(l, n, c->intermediate_size);
	a->up = take_floats(l, n, c->intermediate_size);
	a->act = keep ? take_floats(l, n, c->intermediate_size) : a->gate;
	for (int p = 0; p < PROJ_COUNT; p++)
		a->xa[p] = t->lora && t->lora->target[p] ? take_floats(l, t->lora->rank, n) : NULL;
}

static void lay_out(struct transformer *t, struct layout *l, int n, enum pass_kind kind)
{
	const struct model_config *c = &t->model->config;
	int h = c->hidden_size, kv = c->kv_heads * c->head_dim;

	t->position = take(l, (size_t)n, sizeof *t->position);
	t->token = take(l, (size_t)n, sizeof *t->token);
	for (int i = 0; i < c->layers; i++)
		if (kind == PASS_TRAIN || i == 0)
			take_acts(t, l, n, kind == PASS_TRAIN, &t->acts[i]);
		else
			t->acts[i] = t->acts[0];
	t->x_out = kind == PASS_TRAIN ? take_floats(l, n, h) : t->acts[0].x_in;
	t->picked = take_floats(l, kind == PASS_FORWARD ? 1 : n, h);
	if (kind == PASS_FORWARD)
		return;
	int chunk = loss_chunk_rows(c) < n ? loss_chunk_rows(c) : n;

	t->label_at = take(l, (size_t)n, sizeof *t->label_at);
	t->label = take(l, (size_t)n, sizeof *t->label);
	t->normed = take_floats(l, n, h);
	t->picked_rstd = take_floats(l, n, 1);
	t->logits = take_floats(l, chunk, c->vocab_size);
	t->losses = take(l, (size_t)chunk, sizeof *t->losses);
	if (kind == PASS_LOSS)
		return;
	t->dx = take_floats(l, n, h);
	t->dh = take_floats(l, n, h);
	t->dq = take_floats(l, n, c->heads * c->head_dim);
	t->dk = take_floats(l, n, kv);
	t->dv = take_floats(l, n, kv);
	t->dattn = take_floats(l, n, c->heads * c->head_dim);
	t->dact = take_floats(l, n, c->intermediate_size);
	t->dxa = take_floats(l, t->lora ? t->lora->rank : 0, n);
	t->dnormed = take_floats(l, n, h);
}

static int no_memory(uint64_t bytes, int n, struct error *err)
{
	char text[16];

	format_bytes(bytes, text);
	error_set(err, ERR_INFRA, "no memory for a pass over %d tokens: %s are needed", n, text);
	return error_hint(err, "use a smaller batch or shorter sequences");
}

static int rope_grow(struct transformer *t, int positions, struct error *err)
{
	const struct model_config *c = &t->model->config;
	int want = t->rope_positions ? t->rope_positions : 64;

	if (positions <= t->rope_positions)
		return 0;
	while (want < positions)
		want = want > INT_MAX / 2 ? positions : want * 2;
	size_t size = (size_t)want * (size_t)(c->head_dim / 2) * sizeof(float);
	float *cosines = malloc(size), *sines = malloc(size);

	if (!cosines || !sines) {
		free(cosines);
		free(sines);
		return no_memory(2 * size, positions, err);
	}
	free(t->rope_cos);
	free(t->rope_sin);
	t->rope_cos = cosines;
	t->rope_sin = sines;
	t->rope_positions = want;
	t->ops->rope_table(c->rope_theta, c->head_dim, want, cosines, sines);
	return 0;
}

int workspace_plan(struct transformer *t, int n, int last_position, enum pass_kind kind, struct error *err)
{
	struct layout count = {NULL, 0};

	if (rope_grow(t, last_position + 1, err))
		return -1;
	lay_out(t, &count, n, kind);
	if (count.used > t->memory_size) {
		free(t->memory);
		t->memory_size = 0;
		t->memory = aligned_alloc(64, count.used);
		if (!t->memory)
			return no_memory(count.used, n, err);
		t->memory_size = count.used;
	}
	lay_out(t, &(struct layout){t->memory, 0}, n, kind);
	return 0;
}

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

int workspace_for_batch(struct transformer *t, const struct batch *b, const struct dropout *drop,
			enum pass_kind kind, struct error *err)
{
	int longest = 0;

	if (batch_check(&t->model->config, b, err))
		return -1;
	if (drop && !(drop->p >= 0 && drop->p < 1))
		return error_set(err, ERR_USAGE, "dropout %g is not in [0, 1)", (double)drop->p);
	for (int s = 0; s < b->sequences; s++) {
		int length = b->cu_seqlens[s + 1] - b->cu_seqlens[s];

		longest = length > longest ? length : longest;
	}
	if (workspace_plan(t, b->tokens, longest - 1, kind, err))
		return -1;
	for (int s = 0; s < b->sequences; s++) {
		int32_t base = drop && drop->token_base ? drop->token_base[s] : b->cu_seqlens[s];

		for (int i = b->cu_seqlens[s]; i < b->cu_seqlens[s + 1]; i++) {
			t->position[i] = i - b->cu_seqlens[s];
			t->token[i] = base + t->position[i];
		}
	}
	return 0;
}

/* ---- the layers ---- */

const struct dropout_mask *pass_mask(const struct transformer *t, const struct pass *p, int layer,
				     enum proj proj, struct dropout_mask *out)
{
	if (!p->drop || p->drop->p <= 0)
		return NULL;
	*out = (struct dropout_mask){
		.p = p->drop->p,
		.seed = p->drop->seed,
		.step = (uint32_t)p->drop->step,
		.stream = (uint32_t)(layer * PROJ_COUNT + (int)proj),
		.token = t->token,
	};
	return out;
}

/* y = W x + scale B A dropout(x); add: y += */
static void project(struct transformer *t, const struct pass *p, int layer, enum proj proj, const float *x,
		    bool add, float *y)
{
	const struct matrix *w = &t->model->layers[layer].proj[proj];
	const struct lora *l = t->lora ? &t->lora->entries[layer * PROJ_COUNT + (int)proj] : NULL;
	struct dropout_mask mask;

	t->ops->matmul(x, w, p->n, add, y);
	if (l && l->rank)
		t->ops->lora(x, l->a, l->b, p->n, w->rows, w->cols, l->rank, t->lora->scale,
			     pass_mask(t, p, layer, proj, &mask), t->acts[layer].xa[proj], y);
}

static void copy(const float *from, size_t n, float *to)
{
	if (from != to)
		memcpy(to, from, n * sizeof *to);
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
	struct acts *a = &t->acts[layer];
	size_t stream = (size_t)p->n * (size_t)c->hidden_size;
	float *k = a->k, *v = a->v, *keys = k, *values = v;

	if (p->cache) {
		keys = kv_cache_rows(p->cache, layer, 0, p->slot);
		values = kv_cache_rows(p->cache, layer, 1, p->slot);
		k = keys + (ptrdiff_t)p->past * p->cache->width;
		v = values + (ptrdiff_t)p->past * p->cache->width;
	}
	ops->rmsnorm(a->x_in, w->input_norm, p->n, c->hidden_size, c->rms_norm_eps, c->norm_offset, a->h_in,
		     a->rstd_in);
	project(t, p, layer, PROJ_Q, a->h_in, false, a->q);
	project(t, p, layer, PROJ_K, a->h_in, false, k);
	project(t, p, layer, PROJ_V, a->h_in, false, v);
	ops->rope(t->rope_cos, t->rope_sin, t->position, p->n, c->heads, c->head_dim, false, a->q);
	ops->rope(t->rope_cos, t->rope_sin, t->position, p->n, c->kv_heads, c->head_dim, false, k);
	ops->attention(&p->attention, a->q, keys, values, a->attn, a->lse);
	copy(a->x_in, stream, a->x_mid);
	project(t, p, layer, PROJ_O, a->attn, true, a->x_mid);

	ops->rmsnorm(a->x_mid, w->post_norm, p->n, c->hidden_size, c->rms_norm_eps, c->norm_offset, a->h_mid,
		     a->rstd_mid);
	project(t, p, layer, PROJ_GATE, a->h_mid, false, a->gate);
	project(t, p, layer, PROJ_UP, a->h_mid, false, a->up);
	ops->gated(gate_of(c->act), a->gate, a->up, (size_t)p->n * (size_t)c->intermediate_size, a->act);
	copy(a->x_mid, stream, x_next);
	project(t, p, layer, PROJ_DOWN, a->act, true, x_next);
}

void pass_forward(struct transformer *t, const struct pass *p, const int32_t *ids)
{
	const struct model_config *c = &t->model->config;

	t->ops->embed(&t->model->embed, ids, p->n, c->embed_scale, c->layers ? t->acts[0].x_in : t->x_out);
	for (int i = 0; i < c->layers; i++)
		layer_forward(t, p, i, i + 1 < c->layers ? t->acts[i + 1].x_in : t->x_out);
}

struct pass pass_of_batch(const struct transformer *t, const struct batch *b, const struct dropout *drop)
{
	const struct model_config *c = &t->model->config;

	return (struct pass){
		.n = b->tokens,
		.attention = {.sequences = b->sequences,
			      .cu_q = b->cu_seqlens,
			      .cu_k = b->cu_seqlens,
			      .heads = c->heads,
			      .kv_heads = c->kv_heads,
			      .head_dim = c->head_dim,
			      .scale = c->attn_scale},
		.drop = drop,
	};
}

int transformer_logits(struct transformer *t, const struct batch *b, float *logits, struct error *err)
{
	const struct model_config *c = &t->model->config;

	if (workspace_for_batch(t, b, NULL, PASS_FORWARD, err))
		return -1;
	struct pass p = pass_of_batch(t, b, NULL);

	pass_forward(t, &p, b->ids);
	t->ops->rmsnorm(t->x_out, t->model->final_norm, b->tokens, c->hidden_size, c->rms_norm_eps,
			c->norm_offset, t->x_out, NULL);
	t->ops->matmul(t->x_out, &t->model->lm_head, b->tokens, false, logits);
	return 0;
}
