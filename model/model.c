/* Opening a model directory: every tensor checked first, then taken over in the asked format. On the CPU a matrix as
 * stored is the map of its file. Everything else is made in the device's memory: what is stored goes through a staging
 * buffer there, a chunk at a time, and is converted or quantised on the device. */
#include "model/model.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "model/weights.h"

#define CHUNK ((size_t)1 << 22) /* elements in the staging buffer; a multiple of NF4_BLOCK */

struct holdings {
	struct device *device;
	struct tensors *tensors; /* the maps */
	void **buffers;          /* of the device */
	size_t n, cap;
	uint64_t bytes; /* of weights: buffers and the maps' tensors in use */
	bool writable;  /* WEIGHTS_F32 */

	/* While opening. */
	void *staging;   /* (CHUNK) elements as stored; a device that is not the CPU */
	uint8_t *packed; /* resident weights pass through NF4 here, sized for the largest */
	float *absmax;
	size_t packed_cap;
	int32_t *bad; /* (weights): 1 where a value could not be quantised */
	struct {
		char *data;    /* of the group in progress */
		float *absmax; /* NF4 */
		size_t at;     /* elements that it holds already */
		struct matrix *whole;
	} group;
};

/* A buffer that lives as long as the model. */
static void *hold(struct holdings *h, size_t size, struct error *err)
{
	void *p;

	if (device_alloc(h->device, size, &p, err)) {
		error_context(err, "the model's weights");
		return NULL;
	}
	grow(&h->buffers, &h->cap, h->n + 1, sizeof *h->buffers);
	h->buffers[h->n++] = p;
	h->bytes += size;
	return p;
}

static float *take_f32(struct holdings *h, const struct tensor *t, struct error *err)
{
	size_t n = (size_t)tensor_elements(t);
	float *p = hold(h, n * sizeof *p, err);

	if (!p)
		return NULL;
	if (h->device->kind == DEVICE_CPU)
		return tensor_to_f32(t, p, err) ? NULL : p;
	float *host = xreallocarray(NULL, n, sizeof *host);
	int failed = tensor_to_f32(t, host, err);

	if (!failed)
		device_upload(h->device, p, host, n * sizeof *host);
	free(host);
	return failed ? NULL : p;
}

/* Elements first … first + count - 1 of a stored tensor, where the device can read them. On the CPU the map itself. */
static const void *stage(struct holdings *h, const struct tensor *t, size_t first, size_t count,
			 struct error *err)
{
	size_t size = tensor_dtype_size(t->dtype);
	const char *from = (const char *)t->data + first * size;

	if (h->device->kind == DEVICE_CPU)
		return from;
	if (!h->staging && device_alloc(h->device, CHUNK * sizeof(float), &h->staging, err))
		return NULL;
	device_upload(h->device, h->staging, from, count * size);
	return h->staging;
}

static int take_mapped(struct holdings *h, const struct tensor *t, struct matrix *m, struct error *err)
{
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

/* ---- groups ---- */

/* The projections that become one matrix, by the first of them; 1 for the others. */
static int group_of(enum proj p)
{
	return p == PROJ_Q ? 3 : p == PROJ_GATE ? 2 : 1;
}

/* Room for a projection of `bytes` bytes: in the buffer of its group, which its first member makes, or of its own. Groups
 * of NF4 need whole blocks. absmax, when it is wanted, gets (blocks) likewise. */
static int place(struct holdings *h, struct layer *layer, const struct model_config *c,
		 const struct weight *w, enum dtype dtype, bool groups, char **data, float **absmax,
		 struct error *err)
{
	size_t n = weight_elements(w), all = 0;
	int members = groups ? group_of(w->proj) : 1, rows = 0;

	if (members > 1) {
		for (int k = 0; k < members; k++) {
			int r, cols;
			proj_shape(c, (enum proj)((int)w->proj + k), &r, &cols);
			if (dtype == DTYPE_NF4 && (size_t)r * (size_t)cols % NF4_BLOCK)
				members = 1;
			rows += r;
			all += (size_t)r * (size_t)cols;
		}
	}
	if (members > 1) {
		h->group.at = 0;
		h->group.whole = w->proj == PROJ_Q ? &layer->qkv : &layer->gate_up;
		h->group.data = hold(h, matrix_data_size(dtype, rows, w->cols), err);
		h->group.absmax = absmax && h->group.data ? hold(h, nf4_blocks(all) * sizeof(float), err)
							  : NULL;
		if (!h->group.data || (absmax && !h->group.absmax))
			return -1;
		*h->group.whole = (struct matrix){.dtype = dtype,
						  .rows = rows,
						  .cols = w->cols,
						  .data = h->group.data,
						  .absmax = h->group.absmax};
	}
	bool follows = groups && (w->proj == PROJ_K || w->proj == PROJ_V || w->proj == PROJ_UP) &&
		       h->group.whole;
	if (members > 1 || follows) {
		size_t at = h->group.at;
		*data = h->group.data + (dtype == DTYPE_NF4 ? at / 2 : at * matrix_data_size(dtype, 1, 1));
		if (absmax)
			*absmax = h->group.absmax + at / NF4_BLOCK;
		h->group.at += n;
		return 0;
	}
	h->group.whole = NULL;
	*data = hold(h, matrix_data_size(dtype, w->rows, w->cols), err);
	if (absmax)
		*absmax = *data ? hold(h, nf4_blocks(n) * sizeof **absmax, err) : NULL;
	return *data && (!absmax || *absmax) ? 0 : -1;
}

/* ---- formats ---- */

/* A matrix of a GPU that is not quantised: rounded to activations. */
static int take_converted(struct holdings *h, const struct tensor *t, enum dtype stored, char *data,
			  struct matrix *m, struct error *err)
{
	struct device *d = h->device;
	size_t n = (size_t)tensor_elements(t), size = device_act_size(d);

	m->dtype = d->act;
	m->data = data;
	if (stored == d->act) {
		device_upload(d, data, t->data, n * size);
		return 0;
	}
	for (size_t first = 0; first < n; first += CHUNK) {
		size_t count = n - first < CHUNK ? n - first : CHUNK;
		const void *x = stage(h, t, first, count, err);
		if (!x)
			return -1;
		d->ops->convert(d, x, stored, count, data + first * size);
	}
	return 0;
}

static int quantize(struct holdings *h, const struct tensor *t, enum dtype stored, bool through_fp16,
		    uint8_t *packed, float *absmax, int32_t *bad, struct error *err)
{
	size_t n = (size_t)tensor_elements(t);

	for (size_t first = 0; first < n; first += CHUNK) {
		size_t count = n - first < CHUNK ? n - first : CHUNK;
		const void *x = stage(h, t, first, count, err);
		if (!x)
			return -1;
		h->device->ops->quantize(h->device, x, stored, count, through_fp16, packed + first / 2,
					 absmax + first / NF4_BLOCK, bad);
	}
	return 0;
}

/* m's absmax, double-quantised. The codes belong to the model. */
static int quantize_absmax(struct holdings *h, size_t blocks, const float *absmax, struct matrix *m,
			   struct error *err)
{
	size_t n2 = (blocks + ABSMAX_BLOCK - 1) / ABSMAX_BLOCK;
	float *host = xreallocarray(NULL, blocks, sizeof *host),
	      *absmax2 = xreallocarray(NULL, n2, sizeof *absmax2);
	uint8_t *codes = xmalloc(blocks);
	void *codes_there = NULL, *absmax2_there = NULL;
	int failed = device_download(h->device, host, absmax, blocks * sizeof *host, err);

	if (!failed) {
		nf4_quantize_absmax(host, blocks, codes, absmax2, &m->absmax_offset);
		codes_there = hold(h, blocks, err);
		absmax2_there = codes_there ? hold(h, n2 * sizeof *absmax2, err) : NULL;
		failed = absmax2_there ? 0 : -1;
	}
	if (!failed) {
		device_upload(h->device, codes_there, codes, blocks);
		device_upload(h->device, absmax2_there, absmax2, n2 * sizeof *absmax2);
		m->absmax = NULL;
		m->absmax_codes = codes_there;
		m->absmax2 = absmax2_there;
	}
	free(host);
	free(absmax2);
	free(codes);
	return failed;
}

/* Room for n elements in NF4 that are wanted for a moment. */
static int grow_packed(struct holdings *h, size_t n, struct error *err)
{
	void *packed, *absmax;

	if (n <= h->packed_cap)
		return 0;
	device_free(h->device, h->packed);
	device_free(h->device, h->absmax);
	h->packed = NULL;
	h->absmax = NULL;
	h->packed_cap = 0;
	if (device_alloc(h->device, (n + 1) / 2, &packed, err))
		return -1;
	h->packed = packed;
	if (device_alloc(h->device, nf4_blocks(n) * sizeof(float), &absmax, err))
		return -1;
	h->absmax = absmax;
	h->packed_cap = n;
	return 0;
}

static int take_nf4(struct holdings *h, struct layer *layer, const struct model_config *c,
		    const struct tensor *t, const struct weight *w, enum dtype stored,
		    const struct model_options *o, int32_t *bad, struct matrix *m, struct error *err)
{
	bool doubled = o->format == WEIGHTS_NF4_DOUBLE;
	size_t n = weight_elements(w);
	struct matrix nf4 = *m;
	char *data = NULL;
	float *absmax = NULL;

	nf4.dtype = DTYPE_NF4;
	nf4.round_fp16 = o->nf4_through_fp16;
	if (o->resident || doubled) {
		if (grow_packed(h, n, err))
			return -1;
		absmax = h->absmax;
	}
	if (o->resident) {
		nf4.data = h->packed;
		if (place(h, layer, c, w, h->device->act, true, &data, NULL, err))
			return -1;
	} else {
		if (place(h, layer, c, w, DTYPE_NF4, !doubled, &data, doubled ? NULL : &absmax, err))
			return -1;
		nf4.data = data;
		if (layer->qkv.rows)
			layer->qkv.round_fp16 = o->nf4_through_fp16;
		if (layer->gate_up.rows)
			layer->gate_up.round_fp16 = o->nf4_through_fp16;
	}
	nf4.absmax = absmax;
	if (quantize(h, t, stored, o->nf4_through_fp16, (uint8_t *)(uintptr_t)nf4.data, absmax, bad, err))
		return -1;
	if (doubled && quantize_absmax(h, nf4_blocks(n), absmax, &nf4, err))
		return -1;
	if (!o->resident) {
		*m = nf4;
		return 0;
	}
	h->device->ops->dequantize(h->device, &nf4, data);
	m->dtype = h->device->act;
	m->data = data;
	return 0;
}

static int take_matrix(struct holdings *h, struct layer *layer, const struct model_config *c,
		       const struct tensor *t, const struct weight *w, const struct model_options *o,
		       int32_t *bad, struct matrix *m, struct error *err)
{
	enum dtype stored;
	char *data;

	*m = (struct matrix){.rows = w->rows, .cols = w->cols};
	if (o->format == WEIGHTS_F32) {
		m->dtype = DTYPE_F32;
		m->data = take_f32(h, t, err);
		return m->data ? 0 : -1;
	}
	if (tensor_matrix_dtype(t, &stored, err))
		return -1;
	m->dtype = stored;
	if (w->kind == WEIGHT_PROJ && (o->format == WEIGHTS_NF4 || o->format == WEIGHTS_NF4_DOUBLE))
		return take_nf4(h, layer, c, t, w, stored, o, bad, m, err);
	if (h->device->kind == DEVICE_CPU)
		return take_mapped(h, t, m, err);
	if (w->kind == WEIGHT_PROJ) {
		if (place(h, layer, c, w, h->device->act, true, &data, NULL, err))
			return -1;
	} else {
		data = hold(h, weight_elements(w) * device_act_size(h->device), err);
		if (!data)
			return -1;
	}
	return take_converted(h, t, stored, data, m, err);
}

static int take_weight(struct model *m, const struct tensor *t, const struct weight *w,
		       const struct model_options *o, int32_t *bad, struct error *err)
{
	struct holdings *h = m->owned;
	struct layer *layer = &m->layers[w->layer];
	const struct model_config *c = &m->config;

	switch (w->kind) {
	case WEIGHT_EMBED: return take_matrix(h, layer, c, t, w, o, bad, &m->embed, err);
	case WEIGHT_LM_HEAD: return take_matrix(h, layer, c, t, w, o, bad, &m->lm_head, err);
	case WEIGHT_PROJ: return take_matrix(h, layer, c, t, w, o, bad, &layer->proj[w->proj], err);
	case WEIGHT_INPUT_NORM: return (layer->input_norm = take_f32(h, t, err)) ? 0 : -1;
	case WEIGHT_POST_NORM: return (layer->post_norm = take_f32(h, t, err)) ? 0 : -1;
	case WEIGHT_FINAL_NORM: break;
	}
	return (m->final_norm = take_f32(h, t, err)) ? 0 : -1;
}

/* Everything is there before the first byte is converted. *bytes: of all that will be read. */
static int check_all(const struct model *m, const char *dir, uint64_t *bytes, struct error *err)
{
	const struct holdings *h = m->owned;

	*bytes = 0;
	for (size_t i = 0; i < weight_count(&m->config); i++) {
		struct weight w = weight_at(&m->config, i);
		const struct tensor *t = weight_find(h->tensors, &w, dir, err);
		if (!t)
			return -1;
		*bytes += t->bytes;
	}
	return 0;
}

/* Was every quantised value finite? Also waits for all that was asked of the device. */
static int check_bad(const struct model *m, const struct model_options *o, struct error *err)
{
	const struct holdings *h = m->owned;
	size_t n = weight_count(&m->config), i = 0;
	int32_t *bad = xcalloc(n, sizeof *bad);
	int failed = device_download(h->device, bad, h->bad, n * sizeof *bad, err);

	while (!failed && i < n && !bad[i])
		i++;
	if (!failed && i < n) {
		struct weight w = weight_at(&m->config, i);
		failed = error_set(
			err, ERR_USAGE,
			"%s: tensor %.200s has a value that is not finite%s: it cannot be quantised",
			tensors_find(h->tensors, w.name)->file, w.name,
			o->nf4_through_fp16 ? " in fp16" : "");
	}
	free(bad);
	return failed;
}

/* What only opening needs. */
static void release_temporaries(struct holdings *h)
{
	device_free(h->device, h->staging);
	device_free(h->device, h->packed);
	device_free(h->device, h->absmax);
	device_free(h->device, h->bad);
	h->staging = h->packed = NULL;
	h->absmax = NULL;
	h->bad = NULL;
}

int model_open(const char *dir, const struct model_options *o, void (*progress)(uint64_t, uint64_t, void *),
	       void *arg, struct model **out, struct error *err)
{
	struct model *m = xcalloc(1, sizeof *m);
	struct holdings *h = m->owned = xcalloc(1, sizeof *h);
	uint64_t done = 0, all;
	void *bad;

	m->device = h->device = o->device ? o->device : &device_cpu;
	h->writable = o->format == WEIGHTS_F32;
	if (model_config_read(dir, o->gelu, &m->config, err) || tensors_open(dir, &h->tensors, err) ||
	    weights_check_extra(h->tensors, &m->config, dir, err))
		goto fail;
	size_t n = weight_count(&m->config);
	m->layers = xcalloc((size_t)m->config.layers, sizeof *m->layers);
	if (check_all(m, dir, &all, err) || device_alloc(h->device, n * sizeof *h->bad, &bad, err))
		goto fail;
	h->bad = bad;
	device_zero(h->device, bad, n * sizeof *h->bad);
	for (size_t i = 0; i < n; i++) {
		struct weight w = weight_at(&m->config, i);
		const struct tensor *t = tensors_find(h->tensors, w.name);
		if (take_weight(m, t, &w, o, h->bad + i, err))
			goto fail;
		done += t->bytes;
		if (progress)
			progress(done, all, arg);
	}
	if (check_bad(m, o, err))
		goto fail;
	release_temporaries(h);
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
	release_temporaries(h);
	for (size_t i = 0; i < h->n; i++)
		device_free(h->device, h->buffers[i]);
	free(h->buffers);
	tensors_close(h->tensors);
	free(h);
	free(m->layers);
	free(m);
}

struct device *model_device(const struct model *m)
{
	return m->device ? m->device : &device_cpu;
}

uint64_t model_bytes(const struct model *m)
{
	return ((const struct holdings *)m->owned)->bytes;
}

bool model_writable(const struct model *m)
{
	return ((const struct holdings *)m->owned)->writable;
}

/* Bytes of a model whose projections take (bits / 8) bytes a value, everything else 16 bits and norms 32. */
static uint64_t bytes_with(const struct model_config *c, double bits)
{
	double bytes = 0;

	for (size_t i = 0; i < weight_count(c); i++) {
		struct weight w = weight_at(c, i);
		double n = (double)weight_elements(&w);
		bytes += w.kind == WEIGHT_PROJ ? n * bits / 8 : w.cols ? n * 2 : n * 4;
	}
	return (uint64_t)bytes;
}

uint64_t model_bytes_nf4(const struct model_config *c)
{
	return bytes_with(c, 4 + 32.0 / NF4_BLOCK);
}

uint64_t model_bytes_resident(const struct model_config *c)
{
	return bytes_with(c, 16);
}

bool model_wants_resident(const struct model_config *c, const struct device_info *gpu)
{
	/* Where the driver does not tell: cards whose compute capability ends in 0 have stacked memory, up to 10.0. */
	bool fast = gpu->bandwidth ? gpu->bandwidth >= 1000000000000u : gpu->minor == 0 && gpu->major <= 10;

	return fast && model_bytes_resident(c) <= gpu->free_memory / 10 * 6;
}
