#include "model/export.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/files.h"
#include "model/safetensors.h"
#include "model/weights.h"

#define DEFAULT_SHARD 5000000000u
#define TILE          ((size_t)1 << 22) /* elements converted between two writes */
#define BLOCK         ((size_t)1 << 14) /* of them by one thread at a time */

struct export
{
	const char *out;
	struct model_config config;
	struct tensors *from;
	size_t n;
	struct weight *weights;    /* (n) in the order of state_dict */
	const struct tensor **src; /* (n) */
	struct tensor *declared;   /* (n) as written */
	int *shard;                /* (n) which one */
	int shards;
	uint64_t done, all;
	void (*progress)(uint64_t, uint64_t, void *);
	void *arg;
};

static const struct {
	enum tensor_dtype tensor;
	enum dtype dtype;
	const char *name; /* in config.json */
} targets[] = {
	[EXPORT_BF16] = {TENSOR_BF16, DTYPE_BF16, "bfloat16"},
	[EXPORT_F16] = {TENSOR_F16, DTYPE_F16, "float16"},
	[EXPORT_F32] = {TENSOR_F32, DTYPE_F32, "float32"},
};

static int list_tensors(struct export *e, const char *dir, enum export_dtype dtype, struct error *err)
{
	e->n = weight_count(&e->config);
	e->weights = xcalloc(e->n, sizeof *e->weights);
	e->src = xcalloc(e->n, sizeof *e->src);
	e->declared = xcalloc(e->n, sizeof *e->declared);
	e->shard = xcalloc(e->n, sizeof *e->shard);
	for (size_t i = 0; i < e->n; i++) {
		enum dtype stored;
		e->weights[i] = weight_at(&e->config, i);
		e->src[i] = weight_find(e->from, &e->weights[i], dir, err);
		if (!e->src[i] || tensor_matrix_dtype(e->src[i], &stored, err))
			return -1;
		e->declared[i] = *e->src[i];
		if (dtype != EXPORT_AS_STORED)
			e->declared[i].dtype = targets[dtype].tensor;
		e->declared[i].bytes = (uint64_t)tensor_elements(e->src[i]) *
				       tensor_dtype_size(e->declared[i].dtype);
		e->all += e->declared[i].bytes;
	}
	return 0;
}

/* huggingface_hub's split_torch_state_dict_into_shards: in order, a tensor above the limit alone. A lone tensor does not
 * close the shard that is being filled. */
static void split(struct export *e, uint64_t limit)
{
	uint64_t held = 0;
	int open = -1; /* the shard being filled */

	/* Shards are numbered when they are finished, as the library appends them. */
	int *group = xcalloc(e->n, sizeof *group), groups = 0;
	int *number = xcalloc(e->n + 1, sizeof *number);
	for (size_t i = 0; i < e->n; i++) {
		uint64_t bytes = e->declared[i].bytes;
		if (bytes > limit) {
			group[i] = groups;
			number[groups++] = e->shards++;
			continue;
		}
		if (open >= 0 && held + bytes > limit) {
			number[open] = e->shards++;
			open = -1;
		}
		if (open < 0) {
			open = groups++;
			held = 0;
		}
		group[i] = open;
		held += bytes;
	}
	if (open >= 0)
		number[open] = e->shards++;
	for (size_t i = 0; i < e->n; i++)
		e->shard[i] = number[group[i]];
	free(group);
	free(number);
}

static void shard_name(const struct export *e, int shard, char out[64])
{
	if (e->shards == 1)
		snprintf(out, 64, "model.safetensors");
	else
		snprintf(out, 64, "model-%05d-of-%05d.safetensors", shard + 1, e->shards);
}

/* ---- one file ---- */

static int advance(struct export *e, struct tensors_writer *w, const void *bytes, size_t n, struct error *err)
{
	if (tensors_add(w, bytes, n, err))
		return -1;
	e->done += n;
	if (e->progress)
		e->progress(e->done, e->all, e->arg);
	return 0;
}

/* Rounds n <= BLOCK values to dtype; false when one is not finite then. */
static bool convert_block(enum dtype from, const char *in, enum dtype to, char *out, size_t n)
{
	float x[BLOCK];
	bool good = true;

	floats_from(from, in, n, x);
	floats_to(to, x, n, out);
	floats_from(to, out, n, x);
	for (size_t i = 0; i < n; i++)
		good &= isfinite(x[i]) != 0;
	return good;
}

static int convert(struct export *e, struct tensors_writer *w, const struct tensor *src, enum tensor_dtype to,
		   struct error *err)
{
	size_t n = (size_t)tensor_elements(src), size = tensor_dtype_size(src->dtype),
	       written = tensor_dtype_size(to);
	enum dtype stored, dtype = to == TENSOR_BF16 ? DTYPE_BF16 : to == TENSOR_F16 ? DTYPE_F16 : DTYPE_F32;
	int failed = tensor_matrix_dtype(src, &stored, err);
	char *out = xmalloc((n < TILE ? n : TILE) * written + 1);

	for (size_t first = 0; first < n && !failed; first += TILE) {
		size_t count = n - first < TILE ? n - first : TILE;
		const char *in = (const char *)src->data + first * size;
		bool good = true;
#ifdef _OPENMP
#pragma omp parallel for reduction(&& : good)
#endif
		for (size_t at = 0; at < count; at += BLOCK)
			good = convert_block(stored, in + at * size, dtype, out + at * written,
					     count - at < BLOCK ? count - at : BLOCK) &&
			       good;
		if (!good) {
			failed = error_set(err, ERR_USAGE,
					   "%s: tensor %.200s has a value that %s cannot hold", src->file,
					   src->name, tensor_dtype_name(to));
			error_hint(err, "export as bf16, which has the range of fp32");
		} else {
			failed = advance(e, w, out, count * written, err);
		}
	}
	free(out);
	return failed;
}

static int write_tensor(struct export *e, struct tensors_writer *w, size_t i, struct error *err)
{
	const struct tensor *src = e->src[i];

	if (e->declared[i].dtype != src->dtype)
		return convert(e, w, src, e->declared[i].dtype, err);
	for (uint64_t at = 0; at < src->bytes;) {
		uint64_t n = src->bytes - at < 32u << 20 ? src->bytes - at : 32u << 20;
		if (advance(e, w, (const char *)src->data + at, (size_t)n, err))
			return -1;
		at += n;
	}
	return 0;
}

static int write_shard(struct export *e, int shard, struct error *err)
{
	struct tensor *list = xcalloc(e->n, sizeof *list);
	size_t *from = xcalloc(e->n, sizeof *from), n = 0;
	struct tensors_writer *w = NULL;
	char name[64];

	for (size_t i = 0; i < e->n; i++) {
		if (e->shard[i] == shard) {
			from[n] = i;
			list[n++] = e->declared[i];
		}
	}
	shard_name(e, shard, name);
	char *path = path_join(e->out, name);
	int failed = tensors_create(path, list, n, NULL, &w, err);
	for (size_t k = 0; k < n && !failed; k++)
		failed = write_tensor(e, w, from[tensors_order(w)[k]], err);
	if (failed)
		tensors_abandon(w);
	else
		failed = tensors_commit(w, err);
	free(path);
	free(list);
	free(from);
	return failed;
}

/* ---- the files beside ---- */

static int by_name(const void *a, const void *b, void *arg)
{
	const struct weight *w = arg;

	return strcmp(w[*(const size_t *)a].name, w[*(const size_t *)b].name);
}

static int write_text(const char *dir, const char *name, const struct strbuf *b, struct error *err)
{
	char *path = path_join(dir, name);
	int failed = file_write_atomic(path, b->data, b->len, err);

	free(path);
	return failed;
}

/* json.dumps(indent=2, sort_keys=True) and a newline. */
static int write_index(const struct export *e, struct error *err)
{
	struct strbuf b = STRBUF_INIT;
	size_t *order = xcalloc(e->n, sizeof *order);
	char name[64];

	for (size_t i = 0; i < e->n; i++)
		order[i] = i;
	qsort_r(order, e->n, sizeof *order, by_name, e->weights);
	strbuf_addf(&b, "{\n  \"metadata\": {\n    \"total_size\": %llu\n  },\n  \"weight_map\": {\n",
		    (unsigned long long)e->all);
	for (size_t i = 0; i < e->n; i++) {
		shard_name(e, e->shard[order[i]], name);
		strbuf_addf(&b, "    \"%s\": \"%s\"%s\n", e->weights[order[i]].name, name,
			    i + 1 < e->n ? "," : "");
	}
	strbuf_adds(&b, "  }\n}\n");
	int failed = write_text(e->out, "model.safetensors.index.json", &b, err);
	strbuf_free(&b);
	free(order);
	return failed;
}

static int write_config(const struct export *e, const char *dir, enum export_dtype dtype, struct error *err)
{
	char *path = path_join(dir, "config.json"), *text = file_read(path, NULL, err);
	struct strbuf b = STRBUF_INIT;
	int failed = text ? 0 : -1;

	if (!failed && dtype == EXPORT_AS_STORED)
		strbuf_adds(&b, text);
	if (!failed && dtype != EXPORT_AS_STORED) {
		json_t *root = json_parse(text, strlen(text), path, err);
		const char *now = json_string_value(json_object_get(root, "torch_dtype")),
			   *key = "torch_dtype";
		if (!now && json_object_get(root, "dtype")) { /* transformers 5 */
			key = "dtype";
			now = json_string_value(json_object_get(root, "dtype"));
		}
		bool same = now && strcmp(now, targets[dtype].name) == 0;
		failed = root ? 0 : -1;
		if (!failed && same)
			strbuf_adds(&b, text);
		else if (!failed)
			failed = json_text_set(text, key, targets[dtype].name, &b, err);
		json_decref(root);
	}
	if (!failed)
		failed = write_text(e->out, "config.json", &b, err);
	strbuf_free(&b);
	free(path);
	free(text);
	return failed;
}

static int write_generation(const struct export *e, const char *dir, struct error *err)
{
	char *from = path_join(dir, "generation_config.json"),
	     *to = path_join(e->out, "generation_config.json");
	const struct model_config *c = &e->config;
	struct strbuf b = STRBUF_INIT;
	int failed;

	if (path_exists(from)) {
		failed = file_copy(from, to, err);
	} else {
		strbuf_adds(&b, "{\n  \"_from_model_config\": true");
		if (c->bos >= 0)
			strbuf_addf(&b, ",\n  \"bos_token_id\": %d", c->bos);
		if (c->n_eos == 1)
			strbuf_addf(&b, ",\n  \"eos_token_id\": %d", c->eos[0]);
		for (int i = 0; i < c->n_eos && c->n_eos > 1; i++)
			strbuf_addf(&b, "%s\n    %d%s", i ? "," : ",\n  \"eos_token_id\": [", c->eos[i],
				    i + 1 < c->n_eos ? "" : "\n  ]");
		if (c->pad >= 0)
			strbuf_addf(&b, ",\n  \"pad_token_id\": %d", c->pad);
		strbuf_adds(&b, "\n}\n");
		failed = write_text(e->out, "generation_config.json", &b, err);
	}
	strbuf_free(&b);
	free(from);
	free(to);
	return failed;
}

static void yaml_line(struct strbuf *b, const char *key, const char *value, const char *before)
{
	if (!value || !*value)
		return;
	strbuf_addf(b, "%s:%s ", key, before);
	strbuf_add_json(b, value, strlen(value)); /* a JSON string is a YAML string */
	strbuf_addc(b, '\n');
}

static int write_card(const struct export *e, const struct model_card *c, struct error *err)
{
	struct strbuf b = STRBUF_INIT;

	strbuf_adds(&b, "---\n");
	yaml_line(&b, "base_model", c->base_model, "");
	yaml_line(&b, "datasets", c->dataset, "\n-");
	yaml_line(&b, "license", c->license, "");
	strbuf_adds(&b, "library_name: transformers\npipeline_tag: text-generation\n---\n");
	if (c->name && *c->name)
		strbuf_addf(&b, "\n# %s\n", c->name);
	if (c->text && *c->text)
		strbuf_addf(&b, "\n%s%s", c->text, str_ends(c->text, "\n") ? "" : "\n");
	int failed = write_text(e->out, "README.md", &b, err);
	strbuf_free(&b);
	return failed;
}

/* The directory as a reader finds it. */
static int verify(const struct export *e, struct error *err)
{
	struct tensors *t;

	if (tensors_open(e->out, &t, err))
		return error_context(err, "the exported directory does not read back");
	int failed = 0;
	if (tensors_count(t) != e->n)
		failed = error_set(err, ERR_STAGE, "%s: has %zu tensors, expected %zu", e->out,
				   tensors_count(t), e->n);
	for (size_t i = 0; i < e->n && !failed; i++) {
		const struct tensor *found = weight_find(t, &e->weights[i], e->out, err);
		if (!found)
			failed = -1;
		else if (found->dtype != e->declared[i].dtype)
			failed = error_set(err, ERR_STAGE, "%s: tensor %s has the wrong dtype", e->out,
					   found->name);
	}
	tensors_close(t);
	return failed;
}

static int check_tied(const struct export *e, int64_t *tied, struct error *err)
{
	const struct tensor *head = tensors_find(e->from, "lm_head.weight"), *embed = e->src[0];

	*tied = 0;
	if (!e->config.tie_embeddings || !head)
		return 0;
	if (head->bytes != embed->bytes || memcmp(head->data, embed->data, (size_t)head->bytes) != 0)
		return error_set(err, ERR_USAGE,
				 "%s: lm_head.weight differs from the embedding that \"tie_word_embeddings\" "
				 "ties it to",
				 head->file);
	*tied = 1;
	return 0;
}

int model_export(const char *from, const char *out, const struct export_options *o,
		 void (*progress)(uint64_t, uint64_t, void *), void *arg, struct export_report *report,
		 struct error *err)
{
	struct export e = {.out = out, .progress = progress, .arg = arg};
	int64_t tied = 0;
	int failed = model_config_read(from, GELU_CONFIG, &e.config, err);

	if (!failed)
		failed = tensors_open(from, &e.from, err);
	if (!failed)
		failed = weights_check_extra(e.from, &e.config, from, err);
	if (!failed)
		failed = list_tensors(&e, from, o->dtype, err);
	if (!failed)
		failed = check_tied(&e, &tied, err);
	if (!failed)
		failed = dir_create(out, err);
	if (!failed)
		split(&e, o->max_shard_size ? o->max_shard_size : DEFAULT_SHARD);
	for (int s = 0; s < e.shards && !failed; s++)
		failed = write_shard(&e, s, err);
	if (!failed && e.shards > 1)
		failed = write_index(&e, err);
	if (!failed)
		failed = write_config(&e, from, o->dtype, err);
	if (!failed)
		failed = model_files_copy(from, out, false, err);
	if (!failed)
		failed = write_generation(&e, from, err);
	if (!failed)
		failed = write_card(&e, &o->card, err);
	if (!failed)
		failed = verify(&e, err);
	if (!failed)
		*report = (struct export_report){(int64_t)e.n, e.shards, e.all, tied};
	tensors_close(e.from);
	free(e.weights);
	free(e.src);
	free(e.declared);
	free(e.shard);
	return failed;
}
