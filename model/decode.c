/* Decoding: keys and values of past tokens stay in a cache, and a pass computes new tokens only, of any number of sequences
 * at once. */
#include <stdatomic.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/str.h"
#include "model/transformer_pass.h"

enum { PART_DECODE = 16 }; /* of pass_record; training has its own */

int kv_cache_new(struct device *d, const struct model_config *c, int slots, int capacity,
		 struct kv_cache **out, struct error *err)
{
	static atomic_uint_fast64_t ids;
	size_t size;
	void *memory;

	if (slots < 1 || capacity < 1 || capacity > c->max_positions) {
		error_set(err, ERR_USAGE,
			  "a cache of %d sequences of %d tokens does not fit a model of 1 to %d positions",
			  slots, capacity, c->max_positions);
		return error_hint(err, "ask for at most %d tokens, prompt and answer together",
				  c->max_positions);
	}
	d = d ? d : &device_cpu;
	int width = c->kv_heads * c->head_dim;

	if ((int64_t)slots * capacity > INT32_MAX ||
	    __builtin_mul_overflow((size_t)c->layers * 2 * (size_t)slots, (size_t)capacity * (size_t)width,
				   &size) ||
	    __builtin_mul_overflow(size, device_act_size(d), &size))
		return error_set(err, ERR_USAGE, "a cache of %d sequences of %d tokens is too large", slots,
				 capacity);
	if (device_alloc(d, size, &memory, err))
		return error_context(err, "a cache of %d sequences of %d tokens", slots, capacity);
	struct kv_cache *k = xcalloc(1, sizeof *k);

	k->device = d;
	k->id = atomic_fetch_add(&ids, 1) + 1;
	k->layers = c->layers;
	k->slots = slots;
	k->capacity = capacity;
	k->width = width;
	k->memory = memory;
	k->length = xcalloc((size_t)slots, sizeof *k->length);
	*out = k;
	return 0;
}

void kv_cache_free(struct kv_cache *k)
{
	if (!k)
		return;
	device_free(k->device, k->memory);
	free(k->length);
	free(k);
}

void kv_cache_reset(struct kv_cache *k, int slot)
{
	k->length[slot] = 0;
}

int kv_cache_length(const struct kv_cache *k, int slot)
{
	return k->length[slot];
}

void *kv_cache_rows(const struct kv_cache *k, int layer, int what)
{
	size_t rows = (size_t)k->slots * (size_t)k->capacity * (size_t)k->width;

	return k->memory + ((size_t)layer * 2 + (size_t)what) * rows * device_act_size(k->device);
}

/* ---- a pass ---- */

static int count_check(const struct transformer *t, int count, struct error *err)
{
	int most = loss_chunk_rows(t, 0);

	return count > most ? error_set(err, ERR_USAGE, "%d sequences at once, the most is %d", count, most)
			    : 0;
}

int transformer_reserve_decode(struct transformer *t, const struct kv_cache *k, int tokens, int count,
			       struct error *err)
{
	const struct model_config *c = &t->model->config;
	const struct pass_shape shape = {
		.tokens = tokens,
		.sequences = count,
		.hidden = c->hidden_size,
		.intermediate = c->intermediate_size,
		.vocab = c->vocab_size,
		.heads = c->heads,
		.kv_heads = c->kv_heads,
		.head_dim = c->head_dim,
		.max_keys = k->capacity,
		.logits = count,
		.rank = t->lora ? t->lora->rank : 0,
		.weights = c->layers ? t->model->layers[0].proj[PROJ_Q].dtype : DTYPE_F32,
	};

	if (count_check(t, count, err) || workspace_plan(t, PASS_FORWARD, tokens, count, k->capacity, err))
		return -1;
	return device_reserve(t->device, device_scratch_for(t->device, &shape), err);
}

static int items_check(const struct transformer *t, const struct kv_cache *k, const struct decode_item *items,
		       int count, int *tokens, struct error *err)
{
	const struct model_config *c = &t->model->config;

	*tokens = 0;
	for (int i = 0; i < count; i++) {
		const struct decode_item *it = &items[i];

		if (it->slot < 0 || it->slot >= k->slots)
			return error_set(err, ERR_USAGE, "slot %d is not one of the cache's %d", it->slot,
					 k->slots);
		for (int j = 0; j < i; j++)
			if (items[j].slot == it->slot)
				return error_set(err, ERR_USAGE, "slot %d is fed twice in one pass",
						 it->slot);
		int past = k->length[it->slot];

		if (it->n < 1 || it->n > k->capacity - past) {
			error_set(err, ERR_USAGE, "%d more tokens do not fit behind %d in a cache of %d",
				  it->n, past, k->capacity);
			return error_hint(err, "shorten the prompt");
		}
		for (int j = 0; j < it->n; j++)
			if (it->ids[j] < 0 || it->ids[j] >= c->vocab_size)
				return error_set(err, ERR_USAGE, "token %d is id %d, the model knows 0 to %d",
						 past + j, it->ids[j], c->vocab_size - 1);
		*tokens += it->n;
	}
	return count < 1 ? error_set(err, ERR_USAGE, "there is nothing to decode") : 0;
}

/* The host's side of the inputs. Gives the largest number of one item's tokens. */
static int fill(const struct kv_cache *k, const struct decode_item *items, int count, struct inputs *in)
{
	int at = 0, most = 0;

	for (int i = 0; i < count; i++) {
		const struct decode_item *it = &items[i];
		int past = k->length[it->slot], base = it->slot * k->capacity;

		in->cu_q[i] = at;
		in->k_begin[i] = base;
		in->k_end[i] = base + past + it->n;
		for (int j = 0; j < it->n; j++, at++) {
			in->ids[at] = it->ids[j];
			in->position[at] = past + j;
			in->token[at] = at;
			in->kv_row[at] = base + past + j;
		}
		in->last[i] = at - 1;
		most = it->n > most ? it->n : most;
	}
	in->cu_q[count] = at;
	return most;
}

/* From the layers' output to logits of the items' last tokens, and the largest of them. */
static void ask_choose(struct transformer *t, const struct pass *p, const void *unused)
{
	const struct model_config *c = &t->model->config;
	struct workspace *w = t->w;
	int count = p->attention.sequences;

	(void)unused;
	t->ops->gather(t->device, w->x_out, w->in.last, count, c->hidden_size, w->picked);
	t->ops->rmsnorm(t->device, w->picked, t->model->final_norm, count, c->hidden_size, c->rms_norm_eps,
			c->norm_offset, w->normed, NULL, NULL);
	t->ops->matmul(t->device, w->normed, &t->model->lm_head, count, STORE_F32, w->logits, c->vocab_size);
	t->ops->argmax(t->device, w->logits, count, c->vocab_size, w->chosen);
}

static void ask_decode(struct transformer *t, const struct pass *p, const void *unused)
{
	pass_forward(t, p, unused);
	ask_choose(t, p, unused);
}

int transformer_decode(struct transformer *t, struct kv_cache *k, const struct decode_item *items, int count,
		       float *logits, int32_t *chosen, struct error *err)
{
	const struct model_config *c = &t->model->config;
	int n, q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;

	if (count_check(t, count, err))
		return -1;
	if (items_check(t, k, items, count, &n, err) ||
	    workspace_plan(t, PASS_FORWARD, n, count, k->capacity, err))
		return -1;
	int most = fill(k, items, count, &t->w->host);

	workspace_upload(t);
	const struct inputs *in = &t->w->in;
	struct pass p = {
		.kind = PASS_FORWARD,
		.n = n,
		.attention = {.sequences = count,
			      .cu_q = in->cu_q,
			      .k_begin = in->k_begin,
			      .k_end = in->k_end,
			      .queries = n,
			      .max_q = most,
			      .max_k = k->capacity,
			      .heads = c->heads,
			      .kv_heads = c->kv_heads,
			      .head_dim = c->head_dim,
			      .q_stride = q + 2 * kv,
			      .k_stride = kv,
			      .scale = c->attn_scale},
		.cache = k,
	};

	/* Prompts come in all lengths; single tokens are what repeats. */
	if (n > count)
		ask_decode(t, &p, NULL);
	else if (pass_record(t, &p, PART_DECODE, NULL, ask_decode, NULL, err))
		return -1;
	size_t vocab = (size_t)c->vocab_size;

	if (logits &&
	    device_download(t->device, logits, t->w->logits, (size_t)count * vocab * sizeof *logits, err))
		return -1;
	if (chosen && device_download(t->device, chosen, t->w->chosen, (size_t)count * sizeof *chosen, err))
		return -1;
	for (int i = 0; i < count; i++)
		k->length[items[i].slot] += items[i].n;
	return 0;
}
