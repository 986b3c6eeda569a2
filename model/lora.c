#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/model.h"
#include "model/weights.h"

/* count zeroed floats, or NULL and ERR_INFRA. */
static float *zeros(size_t count, const char *what, struct error *err)
{
	float *p = calloc(count ? count : 1, sizeof *p);

	if (!p)
		error_set(err, ERR_INFRA, "not enough memory for %s: %zu values", what, count);
	return p;
}

int lora_set_new(const struct model_config *c, int rank, float alpha, const bool target[PROJ_COUNT],
		 bool with_grads, struct lora_set **out, struct error *err)
{
	int rows, cols;
	size_t count = 0;

	if (rank < 1 || rank > 4096)
		return error_set(err, ERR_USAGE, "the rank of an adapter is %d, must be from 1 to 4096",
				 rank);
	for (int p = 0; p < PROJ_COUNT; p++) {
		proj_shape(c, (enum proj)p, &rows, &cols);
		if (target[p])
			count += (size_t)c->layers * (size_t)rank * ((size_t)rows + (size_t)cols);
	}
	if (!count)
		return error_set(err, ERR_USAGE, "an adapter needs at least one target projection");
	struct lora_set *s = xcalloc(1, sizeof *s);
	s->layers = c->layers;
	s->rank = rank;
	s->alpha = alpha;
	s->scale = alpha / (float)rank;
	s->count = count;
	s->entries = xcalloc((size_t)c->layers * PROJ_COUNT, sizeof *s->entries);
	s->params = zeros(count, "the adapter", err);
	s->grads = s->params && with_grads ? zeros(count, "the adapter's gradients", err) : NULL;
	if (!s->params || (with_grads && !s->grads)) {
		lora_set_free(s);
		return -1;
	}
	size_t at = 0;
	for (int p = 0; p < PROJ_COUNT; p++)
		s->target[p] = target[p];
	for (int i = 0; i < c->layers * PROJ_COUNT; i++) {
		enum proj p = (enum proj)(i % PROJ_COUNT);
		struct lora *l = &s->entries[i];
		if (!target[p])
			continue;
		proj_shape(c, p, &rows, &cols);
		size_t na = (size_t)rank * (size_t)cols, nb = (size_t)rows * (size_t)rank;
		l->rank = rank;
		l->a = s->params + at;
		l->b = l->a + na;
		l->grad_a = with_grads ? s->grads + at : NULL;
		l->grad_b = with_grads ? l->grad_a + na : NULL;
		at += na + nb;
	}
	*out = s;
	return 0;
}

void lora_set_init(struct lora_set *s, uint64_t seed)
{
	memset(s->params, 0, s->count * sizeof *s->params);
	for (int i = 0; i < s->layers * PROJ_COUNT; i++) {
		struct lora *l = &s->entries[i];
		if (!l->rank)
			continue;
		size_t na = (size_t)(l->b - l->a); /* b stands right behind a */
		size_t cols = na / (size_t)l->rank;
		float bound = (float)(1 / sqrt((double)cols));
		for (size_t k = 0; k < na; k += 4) {
			/* The last word keeps these numbers apart from dropout's, whose last word is a step.
			 */
			uint32_t counter[4] = {(uint32_t)(k / 4), 0, (uint32_t)i, 0x4c6f5241}, word[4];
			philox(counter, seed, word);
			for (size_t j = 0; j < 4 && k + j < na; j++)
				l->a[k + j] = (philox_unit(word[j]) * 2 - 1) * bound;
		}
	}
}

void lora_set_free(struct lora_set *s)
{
	if (!s)
		return;
	free(s->entries);
	free(s->params);
	free(s->grads);
	free(s);
}

int full_grads_new(const struct model *m, struct full_grads **out, struct error *err)
{
	const struct model_config *c = &m->config;
	size_t n = weight_count(c), at = 0;

	if (m->embed.dtype != DTYPE_F32)
		return error_set(err, ERR_USAGE, "training every weight needs a model opened in fp32");
	struct full_grads *g = xcalloc(1, sizeof *g);
	g->count = (size_t)model_config_parameters(c);
	g->layers = xcalloc((size_t)c->layers, sizeof *g->layers);
	g->grads = zeros(g->count, "gradients", err);
	if (!g->grads) {
		full_grads_free(g);
		return -1;
	}
	for (size_t i = 0; i < n; i++) {
		struct weight w = weight_at(c, i);
		float *p = g->grads + at;
		switch (w.kind) {
		case WEIGHT_EMBED: g->embed = g->lm_head = p; break;
		case WEIGHT_LM_HEAD: g->lm_head = p; break;
		case WEIGHT_PROJ: g->layers[w.layer].proj[w.proj] = p; break;
		case WEIGHT_INPUT_NORM: g->layers[w.layer].input_norm = p; break;
		case WEIGHT_POST_NORM: g->layers[w.layer].post_norm = p; break;
		case WEIGHT_FINAL_NORM: g->final_norm = p; break;
		}
		at += weight_elements(&w);
	}
	*out = g;
	return 0;
}

void full_grads_free(struct full_grads *g)
{
	if (!g)
		return;
	free(g->grads);
	free(g->layers);
	free(g);
}
