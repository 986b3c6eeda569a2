#include "model/merge.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/adapter.h"
#include "model/files.h"
#include "model/safetensors.h"
#include "model/weights.h"

#define TILE_BYTES ((size_t)8 << 20) /* of fp32 values worked on at a time */

/* What becomes of one base tensor. */
struct change {
	const struct tensor *a, *b; /* W + scale * B A */
	const struct tensor *whole; /* method full: its new value in fp32 */
};

struct merge {
	struct tensors *base;
	struct adapter adapter;
	struct change *changes; /* [i] of tensors_at(base, i) */
	int64_t changed;
	uint64_t done, all;
	void (*progress)(uint64_t, uint64_t, void *);
	void *arg;
};

static bool changes(const struct change *c)
{
	return c->a || c->whole;
}

/* ---- matching the adapter to the base ---- */

static int check_pair(const struct tensor *w, const struct change *c, int rank, struct error *err)
{
	enum dtype dtype;

	if (tensor_matrix_dtype(w, &dtype, err))
		return -1;
	if (w->ndims != 2)
		return error_set(err, ERR_USAGE,
				 "%s: tensor %.200s is not a matrix, the adapter takes it for one", w->file,
				 w->name);
	const struct tensor *pair[2] = {c->a, c->b};
	for (int b = 0; b < 2; b++) {
		int64_t rows = b ? w->shape[0] : rank, cols = b ? rank : w->shape[1];
		const struct tensor *t = pair[b];
		if (t->ndims != 2 || t->shape[0] != rows || t->shape[1] != cols)
			return error_set(err, ERR_USAGE,
					 "%s: tensor %.200s: expected shape (%lld, %lld) beside the base, "
					 "found (%lld, %lld)",
					 t->file, t->name, (long long)rows, (long long)cols,
					 (long long)t->shape[0], (long long)t->shape[1]);
	}
	return 0;
}

/* The index in the base of the tensor that an adapter tensor belongs to, and whether it is B. -1: none. */
static int64_t base_of(const struct merge *m, const char *name, bool *is_b)
{
	const char *prefix = "base_model.model.", *tails[] = {".lora_A.weight", ".lora_B.weight"};
	char *want = NULL;

	if (!str_starts(name, prefix))
		return -1;
	name += strlen(prefix);
	for (int b = 0; b < 2; b++) {
		if (str_ends(name, tails[b])) {
			struct strbuf text = STRBUF_INIT;
			strbuf_add(&text, name, strlen(name) - strlen(tails[b]));
			strbuf_adds(&text, ".weight");
			want = strbuf_steal(&text);
			*is_b = b;
		}
	}
	const struct tensor *found = want ? tensors_find(m->base, want) : NULL;
	free(want);
	return found ? found - tensors_at(m->base, 0) : -1;
}

static int match_lora(struct merge *m, struct error *err)
{
	for (size_t i = 0; i < tensors_count(m->adapter.tensors); i++) {
		const struct tensor *t = tensors_at(m->adapter.tensors, i);
		bool is_b = false;
		int64_t at = base_of(m, t->name, &is_b);
		if (at < 0)
			return error_set(err, ERR_USAGE, "%s: the base model has no place for tensor %.200s",
					 t->file, t->name);
		*(is_b ? &m->changes[at].b : &m->changes[at].a) = t;
	}
	for (size_t i = 0; i < tensors_count(m->base); i++) {
		struct change *c = &m->changes[i];
		if (!c->a && !c->b)
			continue;
		if (!c->a || !c->b)
			return error_set(err, ERR_USAGE, "%s: tensor %.200s has no lora_%c",
					 (c->a ? c->a : c->b)->file, (c->a ? c->a : c->b)->name,
					 c->a ? 'B' : 'A');
		if (check_pair(tensors_at(m->base, i), c, m->adapter.rank, err))
			return -1;
		m->changed++;
	}
	return m->changed ? 0 : error_set(err, ERR_USAGE, "the adapter has no tensors");
}

static int match_full(struct merge *m, struct error *err)
{
	for (size_t i = 0; i < tensors_count(m->adapter.tensors); i++) {
		const struct tensor *t = tensors_at(m->adapter.tensors, i),
				    *w = tensors_find(m->base, t->name);
		enum dtype dtype;
		if (!w)
			return error_set(err, ERR_USAGE, "%s: the base model has no tensor %.200s", t->file,
					 t->name);
		if (tensor_matrix_dtype(w, &dtype, err))
			return -1;
		bool same = w->ndims == t->ndims &&
			    memcmp(w->shape, t->shape, (size_t)w->ndims * sizeof *w->shape) == 0;
		if (!same || t->dtype != TENSOR_F32)
			return error_set(err, ERR_USAGE, "%s: tensor %.200s is not F32 in the base's shape",
					 t->file, t->name);
		m->changes[w - tensors_at(m->base, 0)].whole = t;
		m->changed++;
	}
	/* A tied model whose file repeats the embedding as lm_head: both must stay the same. */
	const struct tensor *head = tensors_find(m->base, "lm_head.weight");
	const struct tensor *embed = tensors_find(m->adapter.tensors, "model.embed_tokens.weight");
	if (head && embed && !changes(&m->changes[head - tensors_at(m->base, 0)])) {
		if (tensor_elements(head) != tensor_elements(embed))
			return error_set(
				err, ERR_USAGE,
				"%s: lm_head.weight has another shape than the embedding it is tied to",
				head->file);
		m->changes[head - tensors_at(m->base, 0)].whole = embed;
		m->changed++;
	}
	return 0;
}

/* ---- writing ---- */

/* w (count rows of cols) += scale * b (count, rank) a (rank, cols), products summed over the rank first. */
static void add_product(float *w, const float *b, const float *a, size_t count, size_t cols, int rank,
			float scale)
{
#ifdef _OPENMP
#pragma omp parallel
#endif
	{
		float *sum = xreallocarray(NULL, cols, sizeof *sum);
#ifdef _OPENMP
#pragma omp for
#endif
		for (size_t r = 0; r < count; r++) {
			memset(sum, 0, cols * sizeof *sum);
			for (int k = 0; k < rank; k++) {
				float f = b[r * (size_t)rank + (size_t)k];
				const float *row = a + (size_t)k * cols;
				for (size_t c = 0; c < cols; c++)
					sum[c] += f * row[c];
			}
			for (size_t c = 0; c < cols; c++)
				w[r * cols + c] += scale * sum[c];
		}
		free(sum);
	}
}

static int check_finite(const float *x, size_t n, const struct tensor *t, struct error *err)
{
	bool good = true;

	for (size_t i = 0; i < n; i++)
		good &= isfinite(x[i]) != 0;
	return good ? 0
		    : error_set(err, ERR_STAGE, "merging gives a value in %.200s that is not finite (%s)",
				t->name, tensor_dtype_name(t->dtype));
}

static int advance(struct merge *m, struct tensors_writer *w, const void *bytes, size_t n, struct error *err)
{
	if (tensors_add(w, bytes, n, err))
		return -1;
	m->done += n;
	if (m->progress)
		m->progress(m->done, m->all, m->arg);
	return 0;
}

/* Rounds n values to the tensor's dtype and writes them. out is scratch of n * 4 bytes. */
static int write_rounded(struct merge *m, struct tensors_writer *w, const struct tensor *t, float *x,
			 size_t n, void *out, struct error *err)
{
	enum dtype dtype;

	if (tensor_matrix_dtype(t, &dtype, err))
		return -1;
	floats_to(dtype, x, n, out);
	floats_from(dtype, out, n, x);
	if (check_finite(x, n, t, err))
		return -1;
	return advance(m, w, out, n * tensor_dtype_size(t->dtype), err);
}

static int write_adapted(struct merge *m, struct tensors_writer *w, const struct tensor *t,
			 const struct change *c, struct error *err)
{
	size_t rows = (size_t)t->shape[0], cols = (size_t)t->shape[1], rank = (size_t)m->adapter.rank;
	size_t tile = TILE_BYTES / 4 / (cols ? cols : 1);
	float *a = xreallocarray(NULL, rank * cols + 1, sizeof *a),
	      *b = xreallocarray(NULL, rows * rank + 1, sizeof *b);
	enum dtype dtype;

	tile = tile ? tile : 1;
	float *x = xreallocarray(NULL, tile * cols + 1, sizeof *x),
	      *out = xreallocarray(NULL, tile * cols + 1, sizeof *out);
	int failed = tensor_to_f32(c->a, a, err) || tensor_to_f32(c->b, b, err) ||
				     tensor_matrix_dtype(t, &dtype, err)
			     ? -1
			     : 0;
	for (size_t first = 0; first < rows && !failed; first += tile) {
		size_t count = rows - first < tile ? rows - first : tile, n = count * cols;
		floats_from(dtype, (const char *)t->data + first * cols * tensor_dtype_size(t->dtype), n, x);
		add_product(x, b + first * rank, a, count, cols, (int)rank, m->adapter.scale);
		failed = write_rounded(m, w, t, x, n, out, err);
	}
	free(a);
	free(b);
	free(x);
	free(out);
	return failed;
}

static int write_whole(struct merge *m, struct tensors_writer *w, const struct tensor *t,
		       const struct tensor *from, struct error *err)
{
	size_t n = (size_t)tensor_elements(t), tile = TILE_BYTES / 4;
	float *x = xmalloc(TILE_BYTES), *out = xmalloc(TILE_BYTES);
	int failed = 0;

	for (size_t first = 0; first < n && !failed; first += tile) {
		size_t count = n - first < tile ? n - first : tile;
		floats_from(DTYPE_F32, (const char *)from->data + 4 * first, count, x);
		failed = write_rounded(m, w, t, x, count, out, err);
	}
	free(x);
	free(out);
	return failed;
}

static int write_tensor(struct merge *m, struct tensors_writer *w, const struct tensor *t, struct error *err)
{
	const struct change *c = &m->changes[t - tensors_at(m->base, 0)];

	if (c->whole)
		return write_whole(m, w, t, c->whole, err);
	if (c->a)
		return write_adapted(m, w, t, c, err);
	for (uint64_t at = 0; at < t->bytes;) { /* in pieces, so that progress moves */
		uint64_t n = t->bytes - at < 4 * TILE_BYTES ? t->bytes - at : 4 * TILE_BYTES;
		if (advance(m, w, (const char *)t->data + at, (size_t)n, err))
			return -1;
		at += n;
	}
	return 0;
}

/* Writes the shard that list (n tensors of the base, copied) came from. */
static int write_shard(struct merge *m, const struct tensor *list, const size_t *from, size_t n,
		       const char *path, struct error *err)
{
	struct tensors_writer *w;

	if (tensors_create(path, list, n, NULL, &w, err))
		return -1;
	for (size_t k = 0; k < n; k++) {
		if (write_tensor(m, w, tensors_at(m->base, from[tensors_order(w)[k]]), err)) {
			tensors_abandon(w);
			return -1;
		}
	}
	return tensors_commit(w, err);
}

static int merge_file(struct merge *m, const char *file, const char *out, struct error *err)
{
	size_t count = tensors_count(m->base), n = 0;
	struct tensor *list = xcalloc(count, sizeof *list);
	size_t *from = xcalloc(count, sizeof *from);
	char *path = path_join(out, path_base(file));
	bool any = false;
	uint64_t bytes = 0;
	int failed;

	for (size_t i = 0; i < count; i++) {
		const struct tensor *t = tensors_at(m->base, i);
		if (strcmp(t->file, file) != 0)
			continue;
		any |= changes(&m->changes[i]);
		bytes += t->bytes;
		from[n] = i;
		list[n++] = *t;
	}
	if (any) {
		failed = write_shard(m, list, from, n, path, err);
	} else {
		failed = file_copy(file, path, err);
		m->done += bytes;
		if (!failed && m->progress)
			m->progress(m->done, m->all, m->arg);
	}
	free(list);
	free(from);
	free(path);
	return failed;
}

static int write_shards(struct merge *m, const char *out, struct error *err)
{
	size_t count = tensors_count(m->base);
	json_t *seen = json_object();
	int failed = 0;

	for (size_t i = 0; i < count && !failed; i++) {
		const char *file = tensors_at(m->base, i)->file;
		if (json_object_get(seen, file))
			continue;
		json_object_set_new(seen, file, json_true());
		failed = merge_file(m, file, out, err);
	}
	json_decref(seen);
	return failed;
}

/* config.json without quantization_config, the index, and the other files. */
static int write_rest(const char *base, const char *out, struct error *err)
{
	static const char *const index = "model.safetensors.index.json";
	char *from = path_join(base, "config.json"), *to = path_join(out, "config.json");
	char *index_from = path_join(base, index), *index_to = path_join(out, index);
	char *single = path_join(base, "model.safetensors"), *text = file_read(from, NULL, err);
	struct strbuf b = STRBUF_INIT;
	bool found;
	int failed = text && json_text_drop(text, "quantization_config", &found, &b, err) == 0 ? 0 : -1;

	if (!failed)
		failed = file_write_atomic(to, b.data, b.len, err);
	if (!failed && path_exists(index_from) && !path_exists(single))
		failed = file_copy(index_from, index_to, err);
	if (!failed)
		failed = model_files_copy(base, out, true, err);
	strbuf_free(&b);
	free(from);
	free(to);
	free(index_from);
	free(index_to);
	free(single);
	free(text);
	return failed;
}

int model_merge(const char *base, const char *adapter, const char *out,
		void (*progress)(uint64_t, uint64_t, void *), void *arg, struct merge_report *report,
		struct error *err)
{
	struct merge m = {.progress = progress, .arg = arg};
	int failed = tensors_open(base, &m.base, err);

	if (!failed)
		failed = adapter_open(adapter, &m.adapter, err);
	if (!failed) {
		m.changes = xcalloc(tensors_count(m.base), sizeof *m.changes);
		for (size_t i = 0; i < tensors_count(m.base); i++)
			m.all += tensors_at(m.base, i)->bytes;
		failed = m.adapter.full ? match_full(&m, err) : match_lora(&m, err);
	}
	if (!failed)
		failed = dir_create(out, err);
	if (!failed)
		failed = write_shards(&m, out, err);
	if (!failed)
		failed = write_rest(base, out, err);
	if (!failed)
		*report = (struct merge_report){(int64_t)tensors_count(m.base), m.changed, m.all};
	free(m.changes);
	adapter_close(&m.adapter);
	tensors_close(m.base);
	return failed;
}
