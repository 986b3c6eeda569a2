/* Decoding: keys and values of past tokens stay in a cache, and a pass computes new tokens only. */
#include <stdlib.h>

#include "base/mem.h"
#include "base/str.h"
#include "model/transformer_pass.h"

int kv_cache_new(const struct model_config *c, int slots, int capacity, struct kv_cache **out,
		 struct error *err)
{
	char text[16];
	size_t size;

	if (slots < 1 || capacity < 1 || capacity > c->max_positions) {
		error_set(err, ERR_USAGE,
			  "a cache of %d sequences of %d tokens does not fit a model of 1 to %d positions",
			  slots, capacity, c->max_positions);
		return error_hint(err, "ask for at most %d tokens, prompt and answer together",
				  c->max_positions);
	}
	struct kv_cache *k = xcalloc(1, sizeof *k);

	k->layers = c->layers;
	k->slots = slots;
	k->capacity = capacity;
	k->width = c->kv_heads * c->head_dim;
	k->length = xcalloc((size_t)slots, sizeof *k->length);
	if (__builtin_mul_overflow((size_t)k->layers * 2 * (size_t)slots, (size_t)capacity * (size_t)k->width,
				   &size) ||
	    __builtin_mul_overflow(size, sizeof(float), &size) || !(k->memory = malloc(size ? size : 1))) {
		kv_cache_free(k);
		format_bytes((uint64_t)c->layers * 8 * (uint64_t)slots * (uint64_t)capacity *
				     (uint64_t)(c->kv_heads * c->head_dim),
			     text);
		return error_set(err, ERR_INFRA,
				 "no memory for a cache of %d sequences of %d tokens: %s are needed", slots,
				 capacity, text);
	}
	*out = k;
	return 0;
}

void kv_cache_free(struct kv_cache *k)
{
	if (!k)
		return;
	free(k->memory);
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

float *kv_cache_rows(const struct kv_cache *k, int layer, int what, int slot)
{
	return k->memory + (((size_t)layer * 2 + (size_t)what) * (size_t)k->slots + (size_t)slot) *
				   (size_t)k->capacity * (size_t)k->width;
}

int transformer_decode(struct transformer *t, struct kv_cache *k, int slot, const int32_t *ids, int n,
		       float *logits, struct error *err)
{
	const struct model_config *c = &t->model->config;

	if (slot < 0 || slot >= k->slots)
		return error_set(err, ERR_USAGE, "slot %d is not one of the cache's %d", slot, k->slots);
	int past = k->length[slot];

	if (n < 1 || n > k->capacity - past) {
		error_set(err, ERR_USAGE, "%d more tokens do not fit behind %d in a cache of %d", n, past,
			  k->capacity);
		return error_hint(err, "shorten the prompt");
	}
	for (int i = 0; i < n; i++)
		if (ids[i] < 0 || ids[i] >= c->vocab_size)
			return error_set(err, ERR_USAGE, "token %d is id %d, the model knows 0 to %d",
					 past + i, ids[i], c->vocab_size - 1);
	if (workspace_plan(t, n, past + n - 1, PASS_FORWARD, err))
		return -1;
	for (int i = 0; i < n; i++)
		t->position[i] = past + i;
	int32_t cu_q[2] = {0, n}, cu_k[2] = {0, past + n};
	struct pass p = {
		.n = n,
		.attention = {.sequences = 1,
			      .cu_q = cu_q,
			      .cu_k = cu_k,
			      .heads = c->heads,
			      .kv_heads = c->kv_heads,
			      .head_dim = c->head_dim,
			      .scale = c->attn_scale},
		.cache = k,
		.slot = slot,
		.past = past,
	};

	pass_forward(t, &p, ids);
	t->ops->rmsnorm(t->x_out + (ptrdiff_t)(n - 1) * c->hidden_size, t->model->final_norm, 1,
			c->hidden_size, c->rms_norm_eps, c->norm_offset, t->picked, NULL);
	t->ops->matmul(t->picked, &t->model->lm_head, 1, false, logits);
	k->length[slot] = past + n;
	return 0;
}
