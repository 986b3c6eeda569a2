#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/model.h"
#include "model/weights.h"

/* count zeroed floats of d's memory. */
static int zeros(struct device *d, size_t count, const char *what, float **out, struct error *err)
{
	void *p;

	if (device_alloc(d, count * sizeof **out, &p, err))
		return error_context(err, "%s", what);
	device_zero(d, p, count * sizeof **out);
	*out = p;
	return 0;
}

int lora_set_new(struct device *d, const struct model_config *c, int rank, float alpha,
		 const bool target[PROJ_COUNT], bool with_grads, struct lora_set **out, struct error *err)
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
	s->device = d ? d : &device_cpu;
	s->layers = c->layers;
	s->rank = rank;
	s->alpha = alpha;
	s->scale = alpha / (float)rank;
	s->count = count;
	s->entries = xcalloc((size_t)c->layers * PROJ_COUNT, sizeof *s->entries);
	if (zeros(s->device, count, "the adapter", &s->params, err) ||
	    (with_grads && zeros(s->device, count, "the adapter's gradients", &s->grads, err))) {
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
	float *params = xcalloc(s->count, sizeof *params);

	for (int i = 0; i < s->layers * PROJ_COUNT; i++) {
		const struct lora *l = &s->entries[i];
		if (!l->rank)
			continue;
		float *a = params + (l->a - s->params);
		size_t na = (size_t)(l->b - l->a); /* b stands right behind a */
		size_t cols = na / (size_t)l->rank;
		float bound = (float)(1 / sqrt((double)cols));
		for (size_t k = 0; k < na; k += 4) {
			/* The last word keeps these numbers apart from dropout's, whose last word is a step. */
			uint32_t counter[4] = {(uint32_t)(k / 4), 0, (uint32_t)i, 0x4c6f5241}, word[4];
			philox(counter, seed, word);
			for (size_t j = 0; j < 4 && k + j < na; j++)
				a[k + j] = (philox_unit(word[j]) * 2 - 1) * bound;
		}
	}
	lora_set_write(s, params);
	free(params);
}

int lora_set_read(const struct lora_set *s, float *params, struct error *err)
{
	return device_download(s->device, params, s->params, s->count * sizeof *params, err);
}

void lora_set_write(struct lora_set *s, const float *params)
{
	device_upload(s->device, s->params, params, s->count * sizeof *params);
}

void lora_set_free(struct lora_set *s)
{
	if (!s)
		return;
	free(s->entries);
	device_free(s->device, s->params);
	device_free(s->device, s->grads);
	free(s);
}

int full_grads_new(const struct model *m, struct full_grads **out, struct error *err)
{
	const struct model_config *c = &m->config;
	size_t n = weight_count(c), at = 0;

	if (m->embed.dtype != DTYPE_F32)
		return error_set(err, ERR_USAGE, "training every weight needs a model opened in fp32");
	struct full_grads *g = xcalloc(1, sizeof *g);
	g->device = model_device(m);
	g->count = (size_t)model_config_parameters(c);
	g->layers = xcalloc((size_t)c->layers, sizeof *g->layers);
	if (zeros(g->device, g->count, "gradients", &g->grads, err)) {
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
	device_free(g->device, g->grads);
	free(g->layers);
	free(g);
}
