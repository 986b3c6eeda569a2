#include "model/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

#define PER_LAYER (PROJ_COUNT + 2)

static const struct {
	const char *name, *path;
} projections[PROJ_COUNT] = {
	[PROJ_Q] = {"q_proj", "self_attn.q_proj"},    [PROJ_K] = {"k_proj", "self_attn.k_proj"},
	[PROJ_V] = {"v_proj", "self_attn.v_proj"},    [PROJ_O] = {"o_proj", "self_attn.o_proj"},
	[PROJ_GATE] = {"gate_proj", "mlp.gate_proj"}, [PROJ_UP] = {"up_proj", "mlp.up_proj"},
	[PROJ_DOWN] = {"down_proj", "mlp.down_proj"},
};

const char *proj_name(enum proj p)
{
	return projections[p].name;
}

const char *proj_path(enum proj p)
{
	return projections[p].path;
}

int proj_of(const char *name)
{
	for (int p = 0; p < PROJ_COUNT; p++) {
		if (strcmp(projections[p].name, name) == 0)
			return p;
	}
	return -1;
}

void proj_shape(const struct model_config *c, enum proj p, int *rows, int *cols)
{
	int q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;

	*cols = p == PROJ_O ? q : p == PROJ_DOWN ? c->intermediate_size : c->hidden_size;
	switch (p) {
	case PROJ_Q: *rows = q; return;
	case PROJ_K:
	case PROJ_V: *rows = kv; return;
	case PROJ_GATE:
	case PROJ_UP: *rows = c->intermediate_size; return;
	case PROJ_O:
	case PROJ_DOWN:
	case PROJ_COUNT: break;
	}
	*rows = c->hidden_size;
}

size_t weight_count(const struct model_config *c)
{
	return 2 + (size_t)c->layers * PER_LAYER + (c->tie_embeddings ? 0 : 1);
}

struct weight weight_at(const struct model_config *c, size_t i)
{
	struct weight w = {.rows = c->hidden_size};
	size_t behind = 1 + (size_t)c->layers * PER_LAYER; /* the index of the final norm */

	if (i == 0 || i > behind) {
		w.kind = i == 0 ? WEIGHT_EMBED : WEIGHT_LM_HEAD;
		w.rows = c->vocab_size;
		w.cols = c->hidden_size;
		snprintf(w.name, sizeof w.name, "%s.weight", i == 0 ? "model.embed_tokens" : "lm_head");
		return w;
	}
	if (i == behind) {
		w.kind = WEIGHT_FINAL_NORM;
		snprintf(w.name, sizeof w.name, "model.norm.weight");
		return w;
	}
	int part = (int)((i - 1) % PER_LAYER);
	const char *path = part == PROJ_COUNT ? "input_layernorm" : "post_attention_layernorm";
	w.layer = (int)((i - 1) / PER_LAYER);
	w.kind = part == PROJ_COUNT ? WEIGHT_INPUT_NORM : WEIGHT_POST_NORM;
	if (part < PROJ_COUNT) {
		w.kind = WEIGHT_PROJ;
		w.proj = (enum proj)part;
		proj_shape(c, w.proj, &w.rows, &w.cols);
		path = proj_path(w.proj);
	}
	snprintf(w.name, sizeof w.name, "model.layers.%d.%s.weight", w.layer, path);
	return w;
}

size_t weight_elements(const struct weight *w)
{
	return (size_t)w->rows * (w->cols ? (size_t)w->cols : 1);
}

static void shape_text(const struct tensor *t, char out[160])
{
	size_t n = 0;

	for (int i = 0; i < t->ndims && n < 140; i++)
		n += (size_t)snprintf(out + n, 160 - n, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
	out[n] = '\0';
}

const struct tensor *weight_find(const struct tensors *t, const struct weight *w, const char *where,
				 struct error *err)
{
	const struct tensor *found = tensors_find(t, w->name);
	int dims = w->cols ? 2 : 1;
	char expect[64], have[160];

	if (w->cols)
		snprintf(expect, sizeof expect, "%d, %d", w->rows, w->cols);
	else
		snprintf(expect, sizeof expect, "%d", w->rows);
	if (!found) {
		error_set(err, ERR_USAGE, "%s: tensor %s (%s) is missing", where, w->name, expect);
		if (w->kind == WEIGHT_LM_HEAD)
			error_hint(err, "config.json says that it is not tied to the embedding; should "
					"\"tie_word_embeddings\" be true?");
		return NULL;
	}
	if (found->ndims == dims && found->shape[0] == w->rows && (dims == 1 || found->shape[1] == w->cols))
		return found;
	shape_text(found, have);
	error_set(err, ERR_USAGE, "%s: tensor %s: expected shape (%s) by config.json, found (%s)",
		  found->file, w->name, expect, have);
	return NULL;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct weight *)a)->name, ((const struct weight *)b)->name);
}

int weights_check_extra(const struct tensors *t, const struct model_config *c, const char *where,
			struct error *err)
{
	size_t n = weight_count(c);
	struct weight *all = xreallocarray(NULL, n, sizeof *all);
	int failed = 0;

	for (size_t i = 0; i < n; i++)
		all[i] = weight_at(c, i);
	qsort(all, n, sizeof *all, by_name);
	for (size_t i = 0; i < tensors_count(t) && !failed; i++) {
		const struct tensor *at = tensors_at(t, i);
		struct weight key;
		if (strlen(at->name) < sizeof key.name) {
			strcpy(key.name, at->name);
			if (bsearch(&key, all, n, sizeof *all, by_name))
				continue;
		}
		if (str_ends(at->name, ".rotary_emb.inv_freq") ||
		    (c->tie_embeddings && strcmp(at->name, "lm_head.weight") == 0))
			continue;
		failed = error_set(err, ERR_USAGE,
				   "%s: tensor %.200s is in %s, but the architecture in config.json has none",
				   where, at->name, at->file);
	}
	free(all);
	return failed;
}

float *model_weight_f32(struct model *m, const struct weight *w)
{
	const void *p = NULL;

	switch (w->kind) {
	case WEIGHT_EMBED: p = m->embed.data; break;
	case WEIGHT_LM_HEAD: p = m->lm_head.data; break;
	case WEIGHT_PROJ: p = m->layers[w->layer].proj[w->proj].data; break;
	case WEIGHT_INPUT_NORM: return m->layers[w->layer].input_norm;
	case WEIGHT_POST_NORM: return m->layers[w->layer].post_norm;
	case WEIGHT_FINAL_NORM: return m->final_norm;
	}
	return (float *)(uintptr_t)p; /* the model's own buffer, which struct matrix shows as const */
}

int tensor_matrix_dtype(const struct tensor *t, enum dtype *out, struct error *err)
{
	switch (t->dtype) {
	case TENSOR_F32: *out = DTYPE_F32; return 0;
	case TENSOR_BF16: *out = DTYPE_BF16; return 0;
	case TENSOR_F16: *out = DTYPE_F16; return 0;
	default: break;
	}
	return error_set(err, ERR_USAGE, "%s: tensor %.200s is %s, must be F32, BF16 or F16", t->file,
			 t->name, tensor_dtype_name(t->dtype));
}
