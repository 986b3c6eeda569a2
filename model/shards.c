#include "model/shards.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include "kernels/matrix.h"

/* (major, minor): embedding, layers, final norm, lm_head, the rest. */
static void rank(const char *name, int64_t *major, int *minor)
{
	static const char *const parts[] = {"self_attn.q_proj.",  "self_attn.k_proj.", "self_attn.v_proj.",
					    "self_attn.o_proj.",  "mlp.gate_proj.",	"mlp.up_proj.",
					    "mlp.down_proj.",	  "input_layernorm.",	"post_attention_layernorm."};
	const int nparts = (int)(sizeof parts / sizeof *parts);
	int layer, used = 0;

	*minor = 0;
	if (strcmp(name, "model.embed_tokens.weight") == 0) {
		*major = -1;
	} else if (sscanf(name, "model.layers.%9d.%n", &layer, &used) == 1 && used) {
		*major = layer;
		while (*minor < nparts && !str_starts(name + used, parts[*minor]))
			(*minor)++;
	} else if (strcmp(name, "model.norm.weight") == 0) {
		*major = INT64_MAX - 2;
	} else if (strcmp(name, "lm_head.weight") == 0) {
		*major = INT64_MAX - 1;
	} else {
		*major = INT64_MAX;
	}
}

int tensor_by_state_dict(const void *a, const void *b)
{
	const struct tensor *x = a, *y = b;
	int64_t xmajor, ymajor;
	int xminor, yminor;

	rank(x->name, &xmajor, &xminor);
	rank(y->name, &ymajor, &yminor);
	if (xmajor != ymajor)
		return xmajor < ymajor ? -1 : 1;
	if (xminor != yminor)
		return xminor < yminor ? -1 : 1;
	return strcmp(x->name, y->name);
}

static uint64_t tensor_size(const struct tensor *t)
{
	return (uint64_t)tensor_elements(t) * tensor_dtype_size(t->dtype);
}

size_t shards_plan(const struct tensor *t, size_t n, uint64_t max_bytes, size_t *shard)
{
	uint64_t filled = 0;
	size_t k = 0;

	for (size_t i = 0; i < n; i++) {
		uint64_t size = tensor_size(&t[i]);
		if (filled && filled + size > max_bytes) {
			k++;
			filled = 0;
		}
		filled += size;
		shard[i] = k;
	}
	return n ? k + 1 : 0;
}

static int write_shard(const char *path, const struct tensor *all, const size_t *shard, size_t n, size_t k,
		       tensor_produce *produce, void *arg, struct error *err)
{
	struct tensor *mine = xcalloc(n, sizeof *mine);
	size_t *index = xcalloc(n, sizeof *index), count = 0;
	struct tensors_writer *w = NULL;

	for (size_t i = 0; i < n; i++) {
		if (shard[i] == k) {
			mine[count] = all[i];
			index[count++] = i;
		}
	}
	int failed = tensors_create(path, mine, count, NULL, &w, err);
	for (size_t j = 0; !failed && j < count; j++)
		failed = produce(index[tensors_order(w)[j]], w, arg, err);
	if (failed)
		tensors_abandon(w);
	else
		failed = tensors_commit(w, err);
	free(mine);
	free(index);
	return failed;
}

/* As transformers writes it: 2 spaces, sorted keys, a newline. */
static int write_index(const char *dir, const struct tensor *t, const size_t *shard, size_t n, size_t shards,
		       uint64_t total, struct error *err)
{
	json_t *map = json_object(), *root = json_object();
	char name[64];

	for (size_t i = 0; i < n; i++) {
		snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", shard[i] + 1, shards);
		json_object_set_new(map, t[i].name, json_string(name));
	}
	json_object_set_new(root, "metadata", json_pack("{s:I}", "total_size", (json_int_t)total));
	json_object_set_new(root, "weight_map", map);
	char *text = json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS), *path = path_join(dir, "model.safetensors.index.json");
	size_t len = strlen(text);
	text[len] = '\n'; /* in place of the terminator */
	int failed = file_write_atomic(path, text, len + 1, err);
	free(path);
	free(text);
	json_decref(root);
	return failed;
}

int shards_write(const char *dir, const struct tensor *declared, size_t n, uint64_t max_bytes, tensor_produce *produce,
		 void *arg, uint64_t *total, struct error *err)
{
	size_t *shard = xcalloc(n, sizeof *shard), shards = shards_plan(declared, n, max_bytes, shard);
	struct tensors *written;
	char name[64];
	int failed = 0;

	*total = 0;
	for (size_t i = 0; i < n; i++)
		*total += tensor_size(&declared[i]);
	for (size_t k = 0; !failed && k < shards; k++) {
		if (shards == 1)
			snprintf(name, sizeof name, "model.safetensors");
		else
			snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", k + 1, shards);
		char *path = path_join(dir, name);
		failed = write_shard(path, declared, shard, n, k, produce, arg, err);
		free(path);
	}
	/* The index last: a directory without it is not a whole model. */
	if (!failed && shards > 1)
		failed = write_index(dir, declared, shard, n, shards, *total, err);
	free(shard);
	if (failed || tensors_open(dir, &written, err))
		return -1;
	size_t count = tensors_count(written);
	tensors_close(written);
	if (count != n)
		return error_set(err, ERR_STAGE, "%s: %zu tensors were written, %zu are read back", dir, n, count);
	return 0;
}

static int element_dtype(enum tensor_dtype d, enum dtype *out)
{
	switch (d) {
	case TENSOR_F32: *out = DTYPE_F32; return 0;
	case TENSOR_F16: *out = DTYPE_F16; return 0;
	case TENSOR_BF16: *out = DTYPE_BF16; return 0;
	default: return -1;
	}
}

int tensor_convert(const struct tensor *t, enum tensor_dtype dtype, struct tensors_writer *w,
		   void (*delta)(float *tile, int64_t first, int64_t count, int64_t cols, void *arg), void *arg,
		   struct error *err)
{
	enum dtype from, to;

	if (!delta && t->dtype == dtype)
		return tensors_add(w, t->data, t->bytes, err);
	if (element_dtype(t->dtype, &from) || element_dtype(dtype, &to))
		return error_set(err, ERR_USAGE, "tensor %s: %s cannot be converted to %s", t->name,
				 tensor_dtype_name(t->dtype), tensor_dtype_name(dtype));
	int64_t rows = t->ndims ? t->shape[0] : 1, cols = rows ? tensor_elements(t) / rows : 0;
	int64_t step = cols && cols < 65536 ? 65536 / cols : 1;
	float *tile = xreallocarray(NULL, (size_t)(step * cols), sizeof *tile);
	char *packed = xreallocarray(NULL, (size_t)(step * cols), sizeof(float));
	size_t in = tensor_dtype_size(t->dtype), out = tensor_dtype_size(dtype);
	int failed = 0;
	for (int64_t r = 0; !failed && r < rows; r += step) {
		int64_t count = rows - r < step ? rows - r : step;
		size_t elements = (size_t)(count * cols);
		floats_from(from, (const char *)t->data + (size_t)(r * cols) * in, elements, tile);
		if (delta)
			delta(tile, r, count, cols, arg);
		floats_to(to, tile, elements, packed);
		failed = tensors_add(w, packed, elements * out, err);
	}
	free(tile);
	free(packed);
	return failed;
}
