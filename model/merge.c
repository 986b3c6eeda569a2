#include "model/merge.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/adapter.h"
#include "model/shards.h"

/* What merging needs of adapter_config.json. */
struct recipe {
	double alpha;
	bool rslora;
	bool full; /* whole tensors instead of LoRA pairs */
};

static int refuse(const char *path, const char *key, const char *why, struct error *err)
{
	error_set(err, ERR_USAGE, "%s: \"%s\" %s", path, key, why);
	return error_hint(err, "merge this adapter with the tool that made it");
}

static bool empty(const json_t *j)
{
	return !j || json_is_null(j) || json_is_false(j) || (json_is_object(j) && json_object_size(j) == 0) ||
	       (json_is_array(j) && json_array_size(j) == 0);
}

static int recipe_read(const char *dir, struct recipe *r, struct error *err)
{
	static const char *const unsupported[] = {"use_dora",	    "rank_pattern",  "alpha_pattern", "fan_in_fan_out",
						  "modules_to_save", "lora_bias",     "trainable_token_indices"};
	char *path = path_join(dir, "adapter_config.json");
	json_t *j = json_read(path, err);
	const char *type = NULL, *bias = "none";
	int failed = -1;

	if (!j)
		goto done;
	*r = (struct recipe){0};
	if (json_get_str(j, "peft_type", &type, path, err) < 0 || json_get_str(j, "bias", &bias, path, err) < 0 ||
	    json_get_f64(j, "lora_alpha", &r->alpha, path, err) < 0 ||
	    json_get_bool(j, "use_rslora", &r->rslora, path, err) < 0)
		goto done;
	r->full = type && strcmp(type, ADAPTER_FULL) == 0;
	if (!r->full && (!type || strcmp(type, "LORA") != 0)) {
		refuse(path, "peft_type", "is not LORA", err);
		goto done;
	}
	if (strcmp(bias, "none") != 0) {
		refuse(path, "bias", "is not \"none\"", err);
		goto done;
	}
	for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) {
		if (!empty(json_object_get(j, unsupported[i]))) {
			refuse(path, unsupported[i], "is set, which is not supported", err);
			goto done;
		}
	}
	failed = 0;
done:
	json_decref(j);
	free(path);
	return failed;
}

/* One tensor of the result: the base's, and what changes it. */
struct change {
	const struct tensor *base;
	const struct tensor *replace; /* method full; else NULL */
	float *a, *b;                 /* LoRA: (rank, cols), (rows, rank) fp32; else NULL */
	int64_t rank;
	float scale;
};

struct merge {
	struct change *changes; /* in state_dict order */
	size_t n;
	enum merge_dtype dtype;
};

static enum tensor_dtype target_dtype(enum merge_dtype d, enum tensor_dtype stored)
{
	switch (d) {
	case MERGE_F32: return TENSOR_F32;
	case MERGE_F16: return TENSOR_F16;
	case MERGE_BF16: return TENSOR_BF16;
	case MERGE_AS_STORED: break;
	}
	return stored;
}

static void add_delta(float *tile, int64_t first, int64_t count, int64_t cols, void *arg)
{
	const struct change *c = arg;
	float *row = xreallocarray(NULL, (size_t)cols, sizeof *row);

	for (int64_t i = 0; i < count; i++) {
		const float *b = c->b + (first + i) * c->rank;
		memset(row, 0, (size_t)cols * sizeof *row);
		for (int64_t k = 0; k < c->rank; k++)
			for (int64_t j = 0; j < cols; j++)
				row[j] += b[k] * c->a[k * cols + j];
		for (int64_t j = 0; j < cols; j++)
			tile[i * cols + j] += c->scale * row[j];
	}
	free(row);
}

static int produce(size_t i, struct tensors_writer *w, void *arg, struct error *err)
{
	const struct merge *m = arg;
	struct change *c = &m->changes[i];

	return tensor_convert(c->replace ? c->replace : c->base, target_dtype(m->dtype, c->base->dtype), w,
			      c->a ? add_delta : NULL, c, err);
}

static struct change *change_of(struct merge *m, const char *name)
{
	for (size_t i = 0; i < m->n; i++)
		if (strcmp(m->changes[i].base->name, name) == 0)
			return &m->changes[i];
	return NULL;
}

static float *floats(const struct tensor *t, struct error *err)
{
	float *f = xreallocarray(NULL, (size_t)tensor_elements(t), sizeof *f);

	if (tensor_to_f32(t, f, err)) {
		free(f);
		return NULL;
	}
	return f;
}

/* Takes one lora_A (and the lora_B that goes with it) into the change of its base tensor. */
static int take_lora(struct merge *m, const struct tensors *adapter, const struct tensor *a, const struct recipe *r,
		     struct error *err)
{
	static const char prefix[] = "base_model.model.", suffix[] = ".lora_A.weight";
	size_t n = strlen(a->name), core = n - (sizeof prefix - 1) - (sizeof suffix - 1);
	char name[512], partner[512];

	if (!str_starts(a->name, prefix) || n > 480)
		return error_set(err, ERR_USAGE, "adapter tensor %s has no name that PEFT gives", a->name);
	snprintf(name, sizeof name, "%.*s.weight", (int)core, a->name + sizeof prefix - 1);
	snprintf(partner, sizeof partner, "%.*s.lora_B.weight", (int)(n - (sizeof suffix - 1)), a->name);
	const struct tensor *b = tensors_find(adapter, partner);
	struct change *c = change_of(m, name);
	if (!b)
		return error_set(err, ERR_USAGE, "adapter tensor %s has no %s beside it", a->name, partner);
	if (!c) {
		error_set(err, ERR_USAGE, "the adapter changes %s, which the base model does not have", name);
		return error_hint(err, "merge it into the base that it was trained on");
	}
	const struct tensor *w = c->base;
	if (w->ndims != 2 || a->ndims != 2 || b->ndims != 2 || a->shape[0] != b->shape[1] || a->shape[0] < 1 ||
	    a->shape[1] != w->shape[1] || b->shape[0] != w->shape[0])
		return error_set(err, ERR_USAGE,
				 "adapter tensors %s (%lld, %lld) and lora_B (%lld, %lld) do not fit the base's (%lld, %lld)", a->name,
				 (long long)a->shape[0], (long long)a->shape[1], (long long)b->shape[0],
				 (long long)b->shape[1], (long long)w->shape[0], (long long)w->shape[1]);
	c->rank = a->shape[0];
	c->scale = (float)(r->alpha / (r->rslora ? sqrt((double)c->rank) : (double)c->rank));
	c->a = floats(a, err);
	c->b = c->a ? floats(b, err) : NULL;
	return c->b ? 0 : -1;
}

static int take_full(struct merge *m, const struct tensor *t, struct error *err)
{
	struct change *c = change_of(m, t->name);

	if (!c)
		return error_set(err, ERR_USAGE, "the trained tensor %s is not in the base model", t->name);
	if (t->ndims != c->base->ndims || memcmp(t->shape, c->base->shape, (size_t)t->ndims * sizeof *t->shape) != 0)
		return error_set(err, ERR_USAGE, "the trained tensor %s has another shape than the base's", t->name);
	c->replace = t;
	return 0;
}

static int take_adapter(struct merge *m, const struct tensors *adapter, const struct recipe *r, struct error *err)
{
	for (size_t i = 0; i < tensors_count(adapter); i++) {
		const struct tensor *t = tensors_at(adapter, i);
		if (r->full ? take_full(m, t, err)
			    : str_ends(t->name, ".lora_A.weight") ? take_lora(m, adapter, t, r, err) : 0)
			return -1;
		if (!r->full && !str_ends(t->name, ".lora_A.weight") && !str_ends(t->name, ".lora_B.weight"))
			return error_set(err, ERR_USAGE, "adapter tensor %s is neither a lora_A nor a lora_B", t->name);
	}
	return 0;
}

static int by_state_dict(const void *a, const void *b)
{
	return tensor_by_state_dict(((const struct change *)a)->base, ((const struct change *)b)->base);
}

int merge_adapter(const char *base, const char *adapter, enum merge_dtype dtype, const char *out,
		  struct merge_report *report, struct error *err)
{
	struct recipe recipe;
	struct tensors *weights = NULL, *deltas = NULL;
	struct tensor *declared = NULL;
	struct merge m = {.dtype = dtype};
	int failed = -1;

	if (recipe_read(adapter, &recipe, err) || tensors_open(base, &weights, err))
		return -1;
	char *path = path_join(adapter, recipe.full ? ADAPTER_FULL_FILE : ADAPTER_FILE);
	if (tensors_open(path, &deltas, err))
		goto done;
	m.n = tensors_count(weights);
	m.changes = xcalloc(m.n, sizeof *m.changes);
	for (size_t i = 0; i < m.n; i++)
		m.changes[i].base = tensors_at(weights, i);
	qsort(m.changes, m.n, sizeof *m.changes, by_state_dict);
	if (take_adapter(&m, deltas, &recipe, err))
		goto done;
	declared = xcalloc(m.n, sizeof *declared);
	*report = (struct merge_report){.tensors = m.n};
	for (size_t i = 0; i < m.n; i++) {
		declared[i] = *m.changes[i].base;
		declared[i].dtype = target_dtype(dtype, declared[i].dtype);
		report->changed += m.changes[i].a || m.changes[i].replace;
	}
	/* 5e9: transformers' max_shard_size. */
	failed = model_copy_files(base, out, err) ||
				 shards_write(out, declared, m.n, 5000000000u, produce, &m, &report->bytes, err) ||
				 (dtype != MERGE_AS_STORED && model_set_dtype(out, target_dtype(dtype, TENSOR_F32), err))
			 ? -1
			 : 0;
done:
	for (size_t i = 0; i < m.n; i++) {
		free(m.changes[i].a);
		free(m.changes[i].b);
	}
	free(m.changes);
	free(declared);
	free(path);
	tensors_close(deltas);
	tensors_close(weights);
	return failed;
}

int model_copy_files(const char *from, const char *to, struct error *err)
{
	DIR *d = opendir(from);
	int failed = 0;

	if (!d)
		return error_errno(err, error_class_of_errno(errno), "%s", from);
	for (struct dirent *e; !failed && (e = readdir(d));) {
		if (e->d_name[0] == '.' || str_ends(e->d_name, ".safetensors") ||
		    str_ends(e->d_name, ".safetensors.index.json"))
			continue;
		char *source = path_join(from, e->d_name), *target = path_join(to, e->d_name);
		if (!path_is_dir(source))
			failed = file_copy(source, target, err);
		free(source);
		free(target);
	}
	closedir(d);
	return failed;
}

int model_set_dtype(const char *dir, enum tensor_dtype dtype, struct error *err)
{
	const char *name = dtype == TENSOR_F16 ? "float16" : dtype == TENSOR_BF16 ? "bfloat16" : "float32";
	char *path = path_join(dir, "config.json");
	size_t n;
	char *text = file_read(path, &n, err);
	struct strbuf out = STRBUF_INIT;
	int failed = -1;

	if (!text)
		goto done;
	/* Only the value is exchanged, so that the rest of the file stays as its authors wrote it. */
	char *key = strstr(text, "\"torch_dtype\"");
	key = key ? key : strstr(text, "\"dtype\"");
	char *open = key ? strchr(strchr(key + 1, '"') + 1, '"') : NULL, *close = open ? strchr(open + 1, '"') : NULL;
	if (close) {
		strbuf_add(&out, text, (size_t)(open + 1 - text));
		strbuf_adds(&out, name);
		strbuf_adds(&out, close);
	} else {
		char *end = strrchr(text, '}');
		if (!end) {
			error_set(err, ERR_USAGE, "%s: not a JSON object", path);
			goto done;
		}
		char *last = end;
		while (last > text && strchr(" \t\r\n", last[-1]))
			last--;
		strbuf_add(&out, text, (size_t)(last - text));
		strbuf_addf(&out, ",\n  \"torch_dtype\": \"%s\"\n%s", name, end);
	}
	failed = file_write_atomic(path, out.data, out.len, err);
done:
	strbuf_free(&out);
	free(text);
	free(path);
	return failed;
}
