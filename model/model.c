/* Opening a model directory: every tensor checked first, then taken over in the asked format. */
#include "model/model.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/weights.h"

#define CHUNK ((size_t)1 << 18) /* elements quantised at a time; a multiple of NF4_BLOCK */

struct holdings {
	struct tensors *tensors; /* the maps */
	void **buffers;
	size_t n, cap;
	uint64_t bytes; /* of weights: buffers and the maps' tensors in use */
	bool writable;  /* WEIGHTS_F32 */
};

/* A buffer that lives as long as the model. */
static void *hold(struct holdings *h, size_t size, struct error *err)
{
	void *p = aligned_alloc(64, (size + 63) / 64 * 64 + 64);

	if (!p) {
		error_set(err, ERR_INFRA, "not enough memory for the model: %zu more bytes", size);
		return NULL;
	}
	grow(&h->buffers, &h->cap, h->n + 1, sizeof *h->buffers);
	h->buffers[h->n++] = p;
	h->bytes += size;
	return p;
}

static float *take_f32(struct holdings *h, const struct tensor *t, struct error *err)
{
	float *p = hold(h, (size_t)tensor_elements(t) * sizeof *p, err);

	return p && tensor_to_f32(t, p, err) == 0 ? p : NULL;
}

static int take_stored(struct holdings *h, const struct tensor *t, struct matrix *m, struct error *err)
{
	if (tensor_matrix_dtype(t, &m->dtype, err))
		return -1;
	m->data = t->data;
	h->bytes += t->bytes;
	if ((uintptr_t)t->data % tensor_dtype_size(t->dtype) == 0)
		return 0;
	void *copy = hold(h, (size_t)t->bytes, err); /* an old file whose header was not padded */
	if (!copy)
		return -1;
	h->bytes -= t->bytes;
	memcpy(copy, t->data, (size_t)t->bytes);
	m->data = copy;
	return 0;
}

/* Quantises count elements from element first on. -1 when one of them has no finite value (in fp16, for that
 * path). */
static int quantize_chunk(const struct tensor *t, enum dtype dtype, size_t first, size_t count,
			  bool through_fp16, uint8_t *packed, float *absmax)
{
	float *x = xreallocarray(NULL, count, sizeof *x), limit = through_fp16 ? 65520.0f : INFINITY;
	bool good = true;

	floats_from(dtype, (const char *)t->data + first * tensor_dtype_size(t->dtype), count, x);
	for (size_t i = 0; i < count; i++)
		good &= fabsf(x[i]) < limit;
	if (good)
		nf4_quantize(x, count, through_fp16, packed + first / 2, absmax + first / NF4_BLOCK);
	free(x);
	return good ? 0 : -1;
}

static int take_nf4(struct holdings *h, const struct tensor *t, bool doubled, struct matrix *m,
		    struct error *err)
{
	size_t n = (size_t)tensor_elements(t), blocks = nf4_blocks(n), chunks = (n + CHUNK - 1) / CHUNK;
	enum dtype stored;
	int bad = 0;

	if (tensor_matrix_dtype(t, &stored, err))
		return -1;
	uint8_t *packed = hold(h, (n + 1) / 2, err);
	float *absmax = packed ? malloc(blocks * sizeof *absmax) : NULL;
	if (!packed || !absmax) {
		free(absmax);
		return packed ? error_set(err, ERR_INFRA, "not enough memory for the model") : -1;
	}
#ifdef _OPENMP
#pragma omp parallel for reduction(| : bad)
#endif
	for (size_t i = 0; i < chunks; i++) {
		size_t first = i * CHUNK, count = n - first < CHUNK ? n - first : CHUNK;
		bad |= quantize_chunk(t, stored, first, count, m->round_fp16, packed, absmax);
	}
	m->dtype = DTYPE_NF4;
	m->data = packed;
	if (bad) {
		free(absmax);
		return error_set(err, ERR_USAGE,
				 "%s: tensor %.200s has a value that is not finite%s: it cannot be quantised",
				 t->file, t->name, m->round_fp16 ? " in fp16" : "");
	}
	if (!doubled) {
		float *kept = hold(h, blocks * sizeof *kept, err);
		if (kept)
			memcpy(kept, absmax, blocks * sizeof *kept);
		free(absmax);
		m->absmax = kept;
		return kept ? 0 : -1;
	}
	uint8_t *codes = hold(h, blocks, err);
	float *absmax2 = codes ? hold(h, (blocks + ABSMAX_BLOCK - 1) / ABSMAX_BLOCK * sizeof *absmax2, err)
			       : NULL;
	if (absmax2)
		nf4_quantize_absmax(absmax, blocks, codes, absmax2, &m->absmax_offset);
	m->absmax_codes = codes;
	m->absmax2 = absmax2;
	free(absmax);
	return absmax2 ? 0 : -1;
}

static int take_matrix(struct holdings *h, const struct tensor *t, const struct weight *w,
		       const struct model_options *o, struct matrix *m, struct error *err)
{
	bool quantised = w->kind == WEIGHT_PROJ &&
			 (o->format == WEIGHTS_NF4 || o->format == WEIGHTS_NF4_DOUBLE);

	*m = (struct matrix){.rows = w->rows, .cols = w->cols};
	if (o->format == WEIGHTS_F32) {
		m->dtype = DTYPE_F32;
		m->data = take_f32(h, t, err);
		return m->data ? 0 : -1;
	}
	if (!quantised)
		return take_stored(h, t, m, err);
	m->round_fp16 = o->nf4_through_fp16;
	return take_nf4(h, t, o->format == WEIGHTS_NF4_DOUBLE, m, err);
}

static int take_weight(struct model *m, const struct tensor *t, const struct weight *w,
		       const struct model_options *o, struct error *err)
{
	struct holdings *h = m->owned;
	struct layer *layer = &m->layers[w->layer];

	switch (w->kind) {
	case WEIGHT_EMBED: return take_matrix(h, t, w, o, &m->embed, err);
	case WEIGHT_LM_HEAD: return take_matrix(h, t, w, o, &m->lm_head, err);
	case WEIGHT_PROJ: return take_matrix(h, t, w, o, &layer->proj[w->proj], err);
	case WEIGHT_INPUT_NORM: return (layer->input_norm = take_f32(h, t, err)) ? 0 : -1;
	case WEIGHT_POST_NORM: return (layer->post_norm = take_f32(h, t, err)) ? 0 : -1;
	case WEIGHT_FINAL_NORM: break;
	}
	return (m->final_norm = take_f32(h, t, err)) ? 0 : -1;
}

int model_open(const char *dir, const struct model_options *o, void (*progress)(uint64_t, uint64_t, void *),
	       void *arg, struct model **out, struct error *err)
{
	struct model *m = xcalloc(1, sizeof *m);
	struct holdings *h = m->owned = xcalloc(1, sizeof *h);
	uint64_t done = 0, all = 0;

	h->writable = o->format == WEIGHTS_F32;
	if (model_config_read(dir, o->gelu, &m->config, err) || tensors_open(dir, &h->tensors, err) ||
	    weights_check_extra(h->tensors, &m->config, dir, err))
		goto fail;
	size_t n = weight_count(&m->config);
	m->layers = xcalloc((size_t)m->config.layers, sizeof *m->layers);
	for (size_t i = 0; i < n; i++) { /* everything is there before the first byte is converted */
		struct weight w = weight_at(&m->config, i);
		const struct tensor *t = weight_find(h->tensors, &w, dir, err);
		if (!t)
			goto fail;
		all += t->bytes;
	}
	for (size_t i = 0; i < n; i++) {
		struct weight w = weight_at(&m->config, i);
		const struct tensor *t = tensors_find(h->tensors, w.name);
		if (take_weight(m, t, &w, o, err))
			goto fail;
		done += t->bytes;
		if (progress)
			progress(done, all, arg);
	}
	if (m->config.tie_embeddings)
		m->lm_head = m->embed;
	*out = m;
	return 0;
fail:
	model_free(m);
	return -1;
}

void model_free(struct model *m)
{
	if (!m)
		return;
	struct holdings *h = m->owned;
	for (size_t i = 0; i < h->n; i++)
		free(h->buffers[i]);
	free(h->buffers);
	tensors_close(h->tensors);
	free(h);
	free(m->layers);
	free(m);
}

uint64_t model_bytes(const struct model *m)
{
	return ((const struct holdings *)m->owned)->bytes;
}

bool model_writable(const struct model *m)
{
	return ((const struct holdings *)m->owned)->writable;
}
