/* A small random model in memory, and its forward pass in float64, written from the papers' formulas without the
 * project's kernels. Adapters and dropout included. */
#ifndef TESTS_UNIT_MODEL_TINY_MODEL_H
#define TESTS_UNIT_MODEL_TINY_MODEL_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/transformer.h"

static uint64_t tiny_state = 1;

static inline float tiny_random(float scale)
{
	tiny_state = tiny_state * 6364136223846793005u + 1442695040888963407u;
	return scale * ((float)(tiny_state >> 40) * 0x1p-23f - 1.0f);
}

static inline float *tiny_floats(size_t n, float scale)
{
	float *x = xmalloc(sizeof *x * n);

	for (size_t i = 0; i < n; i++)
		x[i] = tiny_random(scale);
	return x;
}

static inline struct model_config tiny_config(bool gemma)
{
	struct model_config c = {
		.arch = gemma ? ARCH_GEMMA : ARCH_LLAMA,
		.vocab_size = 37,
		.hidden_size = 20,
		.intermediate_size = 27,
		.layers = 2,
		.heads = 4,
		.kv_heads = gemma ? 1 : 2,
		.head_dim = 6,
		.max_positions = 64,
		.rms_norm_eps = 1e-5f,
		.rope_theta = 100.0f,
		.act = gemma ? ACT_GELU_TANH : ACT_SILU,
		.tie_embeddings = gemma,
		.embed_scale = gemma ? sqrtf(20.0f) : 1.0f,
		.norm_offset = gemma ? 1.0f : 0.0f,
		.attn_scale = 1.0f / sqrtf(6.0f),
		.bos = -1,
		.pad = -1,
	};

	return c;
}

/* Weights that make logits of order 1. */
static inline struct model *tiny_new(const struct model_config *c)
{
	struct model *m = xcalloc(1, sizeof *m);
	float norm = c->norm_offset > 0 ? 0.3f : 1.0f;

	m->config = *c;
	m->embed = matrix_f32(tiny_floats((size_t)(c->vocab_size * c->hidden_size), 0.5f), c->vocab_size,
			      c->hidden_size);
	m->lm_head = c->tie_embeddings
			     ? m->embed
			     : matrix_f32(tiny_floats((size_t)(c->vocab_size * c->hidden_size), 0.5f),
					  c->vocab_size, c->hidden_size);
	m->final_norm = tiny_floats((size_t)c->hidden_size, norm);
	m->layers = xcalloc((size_t)c->layers, sizeof *m->layers);
	for (int i = 0; i < c->layers; i++) {
		m->layers[i].input_norm = tiny_floats((size_t)c->hidden_size, norm);
		m->layers[i].post_norm = tiny_floats((size_t)c->hidden_size, norm);
		for (int p = 0; p < PROJ_COUNT; p++) {
			int rows, cols;

			proj_shape(c, (enum proj)p, &rows, &cols);
			m->layers[i].proj[p] = matrix_f32(tiny_floats((size_t)(rows * cols), 0.4f), rows,
							  cols);
		}
	}
	return m;
}

static inline void tiny_free(struct model *m)
{
	for (int i = 0; i < m->config.layers; i++) {
		free(m->layers[i].input_norm);
		free(m->layers[i].post_norm);
		for (int p = 0; p < PROJ_COUNT; p++)
			free((void *)(uintptr_t)m->layers[i].proj[p].data);
	}
	if (!m->config.tie_embeddings)
		free((void *)(uintptr_t)m->lm_head.data);
	free((void *)(uintptr_t)m->embed.data);
	free(m->final_norm);
	free(m->layers);
	free(m);
}

/* ---- on a device ---- */

static inline float *tiny_upload(struct device *d, const void *x, size_t n)
{
	struct error err = ERROR_INIT;
	void *p;

	if (device_alloc(d, n * sizeof(float), &p, &err))
		abort();
	device_upload(d, p, x, n * sizeof(float));
	return p;
}

/* A copy of m whose weights are on d, in fp32. */
static inline struct model *tiny_on(const struct model *m, struct device *d)
{
	const struct model_config *c = &m->config;
	struct model *t = xcalloc(1, sizeof *t);
	size_t h = (size_t)c->hidden_size;

	t->config = *c;
	t->device = d;
	t->embed = m->embed;
	t->embed.data = tiny_upload(d, m->embed.data, (size_t)c->vocab_size * h);
	t->lm_head = t->embed;
	if (!c->tie_embeddings)
		t->lm_head.data = tiny_upload(d, m->lm_head.data, (size_t)c->vocab_size * h);
	t->final_norm = tiny_upload(d, m->final_norm, h);
	t->layers = xcalloc((size_t)c->layers, sizeof *t->layers);
	for (int i = 0; i < c->layers; i++) {
		t->layers[i].input_norm = tiny_upload(d, m->layers[i].input_norm, h);
		t->layers[i].post_norm = tiny_upload(d, m->layers[i].post_norm, h);
		for (int p = 0; p < PROJ_COUNT; p++) {
			struct matrix w = m->layers[i].proj[p];

			w.data = tiny_upload(d, w.data, (size_t)w.rows * (size_t)w.cols);
			t->layers[i].proj[p] = w;
		}
	}
	return t;
}

static inline void tiny_off(struct model *m)
{
	struct device *d = m->device;

	for (int i = 0; i < m->config.layers; i++) {
		device_free(d, m->layers[i].input_norm);
		device_free(d, m->layers[i].post_norm);
		for (int p = 0; p < PROJ_COUNT; p++)
			device_free(d, (void *)(uintptr_t)m->layers[i].proj[p].data);
	}
	if (!m->config.tie_embeddings)
		device_free(d, (void *)(uintptr_t)m->lm_head.data);
	device_free(d, (void *)(uintptr_t)m->embed.data);
	device_free(d, m->final_norm);
	free(m->layers);
	free(m);
}

/* ---- the reference ---- */

/* y (rows) += W x + scale B A dropout(x) */
static inline void ref_project(const struct model *m, const struct lora_set *lora, const struct dropout *drop,
			       int layer, int p, uint32_t token, const double *x, double *y)
{
	const struct matrix *w = &m->layers[layer].proj[p];
	const float *data = w->data;

	for (int r = 0; r < w->rows; r++)
		for (int k = 0; k < w->cols; k++)
			y[r] += data[r * w->cols + k] * x[k];
	if (!lora || !lora->entries[layer * PROJ_COUNT + p].rank)
		return;
	const struct lora *l = &lora->entries[layer * PROJ_COUNT + p];
	double kept[256], xa[64];

	for (int k = 0; k < w->cols; k++) {
		kept[k] = x[k];
		if (drop && drop->p > 0) {
			uint32_t counter[4] = {(uint32_t)k / 4, token, (uint32_t)(layer * PROJ_COUNT + p),
					       (uint32_t)drop->step};
			uint32_t word[4];

			philox(counter, drop->seed, word);
			kept[k] = word[k % 4] < (uint32_t)(drop->p * 4294967296.0) ? 0
										   : x[k] / (1.0 - drop->p);
		}
	}
	for (int i = 0; i < l->rank; i++) {
		xa[i] = 0;
		for (int k = 0; k < w->cols; k++)
			xa[i] += l->a[i * w->cols + k] * kept[k];
	}
	for (int r = 0; r < w->rows; r++)
		for (int i = 0; i < l->rank; i++)
			y[r] += (double)lora->scale * l->b[r * l->rank + i] * xa[i];
}

static inline void ref_norm(const struct model_config *c, const double *x, const float *weight, double *out)
{
	double sum = 0;

	for (int i = 0; i < c->hidden_size; i++)
		sum += x[i] * x[i];
	for (int i = 0; i < c->hidden_size; i++)
		out[i] = x[i] / sqrt(sum / c->hidden_size + c->rms_norm_eps) * (c->norm_offset + weight[i]);
}

static inline void ref_rope(const struct model_config *c, int position, int heads, double *x)
{
	int half = c->head_dim / 2;

	for (int h = 0; h < heads; h++)
		for (int i = 0; i < half; i++) {
			double angle = position * pow(c->rope_theta, -2.0 * i / c->head_dim);
			double a = x[h * c->head_dim + i], b = x[h * c->head_dim + half + i];

			x[h * c->head_dim + i] = a * cos(angle) - b * sin(angle);
			x[h * c->head_dim + half + i] = b * cos(angle) + a * sin(angle);
		}
}

static inline double ref_activation(enum activation f, double x)
{
	if (f == ACT_SILU)
		return x / (1 + exp(-x));
	if (f == ACT_GELU_ERF)
		return 0.5 * x * (1 + erf(x / sqrt(2.0)));
	return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

/* Attention of query i of a sequence: q (heads, dim), k and v (tokens, kv_heads, dim) from its first token. */
static inline void ref_attention(const struct model_config *c, const double *q, const double *k,
				 const double *v, int i, double *out)
{
	int width = c->kv_heads * c->head_dim;

	for (int h = 0; h < c->heads; h++) {
		int at = h / (c->heads / c->kv_heads) * c->head_dim;
		double p[64], sum = 0;

		for (int j = 0; j <= i; j++) {
			double s = 0;

			for (int d = 0; d < c->head_dim; d++)
				s += q[h * c->head_dim + d] * k[j * width + at + d];
			p[j] = exp(s * c->attn_scale);
			sum += p[j];
		}
		for (int d = 0; d < c->head_dim; d++) {
			out[h * c->head_dim + d] = 0;
			for (int j = 0; j <= i; j++)
				out[h * c->head_dim + d] += p[j] / sum * v[j * width + at + d];
		}
	}
}

/* Logits (n, vocab) of one sequence whose first token is called base in dropout's counters. */
static inline void ref_logits(const struct model *m, const struct lora_set *lora, const struct dropout *drop,
			      const int32_t *ids, int n, uint32_t base, double *logits)
{
	const struct model_config *c = &m->config;
	int h = c->hidden_size, f = c->intermediate_size, a = c->heads * c->head_dim,
	    w = c->kv_heads * c->head_dim;
	double *x = xcalloc((size_t)(n * h), 8), *normed = xcalloc((size_t)h, 8),
	       *q = xcalloc((size_t)(n * a), 8);
	double *k = xcalloc((size_t)(n * w), 8), *v = xcalloc((size_t)(n * w), 8),
	       *attn = xcalloc((size_t)a, 8);
	double *gate = xcalloc((size_t)f, 8), *up = xcalloc((size_t)f, 8);

	for (int t = 0; t < n; t++)
		for (int i = 0; i < h; i++)
			x[t * h + i] = (double)c->embed_scale *
				       ((const float *)m->embed.data)[ids[t] * h + i];
	for (int l = 0; l < c->layers; l++) {
		memset(q, 0, sizeof *q * (size_t)(n * a));
		memset(k, 0, sizeof *k * (size_t)(n * w));
		memset(v, 0, sizeof *v * (size_t)(n * w));
		for (int t = 0; t < n; t++) {
			ref_norm(c, x + t * h, m->layers[l].input_norm, normed);
			ref_project(m, lora, drop, l, PROJ_Q, base + (uint32_t)t, normed, q + t * a);
			ref_project(m, lora, drop, l, PROJ_K, base + (uint32_t)t, normed, k + t * w);
			ref_project(m, lora, drop, l, PROJ_V, base + (uint32_t)t, normed, v + t * w);
			ref_rope(c, t, c->heads, q + t * a);
			ref_rope(c, t, c->kv_heads, k + t * w);
		}
		for (int t = 0; t < n; t++) {
			uint32_t token = base + (uint32_t)t;

			ref_attention(c, q + t * a, k, v, t, attn);
			ref_project(m, lora, drop, l, PROJ_O, token, attn, x + t * h);
			ref_norm(c, x + t * h, m->layers[l].post_norm, normed);
			memset(gate, 0, sizeof *gate * (size_t)f);
			memset(up, 0, sizeof *up * (size_t)f);
			ref_project(m, lora, drop, l, PROJ_GATE, token, normed, gate);
			ref_project(m, lora, drop, l, PROJ_UP, token, normed, up);
			for (int i = 0; i < f; i++)
				up[i] *= ref_activation(c->act, gate[i]);
			ref_project(m, lora, drop, l, PROJ_DOWN, token, up, x + t * h);
		}
	}
	for (int t = 0; t < n; t++) {
		ref_norm(c, x + t * h, m->final_norm, normed);
		for (int i = 0; i < c->vocab_size; i++) {
			double *to = &logits[t * c->vocab_size + i];

			*to = 0;
			for (int j = 0; j < h; j++)
				*to += normed[j] * ((const float *)m->lm_head.data)[i * h + j];
		}
	}
	free(x);
	free(normed);
	free(q);
	free(k);
	free(v);
	free(attn);
	free(gate);
	free(up);
}

/* The sum over labelled positions of -log softmax. */
static inline double ref_loss(const struct model *m, const struct lora_set *lora, const struct dropout *drop,
			      const struct batch *b)
{
	int vocab = m->config.vocab_size;
	double *logits = xcalloc((size_t)(b->tokens * vocab), 8), loss = 0;

	for (int s = 0; s < b->sequences; s++) {
		int at = b->cu_seqlens[s];
		int32_t base = drop && drop->token_base ? drop->token_base[s] : at;

		ref_logits(m, lora, drop, b->ids + at, b->cu_seqlens[s + 1] - at, (uint32_t)base,
			   logits + at * vocab);
	}
	for (int t = 0; t < b->tokens; t++) {
		double sum = 0;

		if (b->targets[t] < 0)
			continue;
		for (int i = 0; i < vocab; i++)
			sum += exp(logits[t * vocab + i]);
		loss += log(sum) - logits[t * vocab + b->targets[t]];
	}
	free(logits);
	return loss;
}

#endif
