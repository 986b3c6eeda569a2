#include "model/merge.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/adapter.h"
#include "model/shards.h"

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
static int take_lora(struct merge *m, const struct adapter *adapter, const struct tensor *a, struct error *err)
{
	static const char prefix[] = "base_model.model.", suffix[] = ".lora_A.weight";
	size_t n = strlen(a->name), core = n - (sizeof prefix - 1) - (sizeof suffix - 1);
	char name[512], partner[512];

	if (!str_starts(a->name, prefix) || n > 480)
		return error_set(err, ERR_USAGE, "adapter tensor %s has no name that PEFT gives", a->name);
	snprintf(name, sizeof name, "%.*s.weight", (int)core, a->name + sizeof prefix - 1);
	snprintf(partner, sizeof partner, "%.*s.lora_B.weight", (int)(n - (sizeof suffix - 1)), a->name);
	const struct tensor *b = tensors_find(adapter->tensors, partner);
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
	c->scale = adapter->scale;
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

static int take_adapter(struct merge *m, const struct adapter *adapter, struct error *err)
{
	for (size_t i = 0; i < tensors_count(adapter->tensors); i++) {
		const struct tensor *t = tensors_at(adapter->tensors, i);
		int failed = 0;
		if (adapter->full)
			failed = take_full(m, t, err);
		else if (str_ends(t->name, ".lora_A.weight"))
			failed = take_lora(m, adapter, t, err);
		else if (!str_ends(t->name, ".lora_B.weight"))
			failed = error_set(err, ERR_USAGE, "adapter tensor %s is neither a lora_A nor a lora_B", t->name);
		if (failed)
			return -1;
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
	struct adapter deltas;
	struct tensors *weights = NULL;
	struct tensor *declared = NULL;
	struct merge m = {.dtype = dtype};
	int failed = -1;

	if (adapter_open(adapter, &deltas, err))
		return -1;
	if (tensors_open(base, &weights, err))
		goto done;
	m.n = tensors_count(weights);
	m.changes = xcalloc(m.n, sizeof *m.changes);
	for (size_t i = 0; i < m.n; i++)
		m.changes[i].base = tensors_at(weights, i);
	qsort(m.changes, m.n, sizeof *m.changes, by_state_dict);
	if (take_adapter(&m, &deltas, err))
		goto done;
	declared = xcalloc(m.n, sizeof *declared);
	*report = (struct merge_report){.tensors = m.n};
	for (size_t i = 0; i < m.n; i++) {
		declared[i] = *m.changes[i].base;
		declared[i].dtype = target_dtype(dtype, declared[i].dtype);
		report->changed += m.changes[i].a || m.changes[i].replace;
	}
	/* 5e9: transformers' max_shard_size. */
	if (model_copy_files(base, out, err) ||
	    shards_write(out, declared, m.n, 5000000000u, produce, &m, &report->bytes, err))
		goto done;
	failed = dtype == MERGE_AS_STORED ? 0 : model_set_dtype(out, target_dtype(dtype, TENSOR_F32), err);
done:
	for (size_t i = 0; i < m.n; i++) {
		free(m.changes[i].a);
		free(m.changes[i].b);
	}
	free(m.changes);
	free(declared);
	tensors_close(weights);
	adapter_close(&deltas);
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
