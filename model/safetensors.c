/* Reading: every byte of a header is hostile until checked. A tensor's extent must equal its shape times its
 * element size, and the extents must tile the data section without gap or overlap, so that no byte of a file
 * is unaccounted for and none is read twice. */
#include "model/safetensors.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "kernels/kernels.h"

#define HEADER_MAX 100000000 /* bytes, the safetensors library's own limit */

static const struct {
	const char *name;
	size_t size;
} dtypes[] = {
	[TENSOR_F64] = {"F64", 8},   [TENSOR_F32] = {"F32", 4}, [TENSOR_F16] = {"F16", 2},
	[TENSOR_BF16] = {"BF16", 2}, [TENSOR_I64] = {"I64", 8}, [TENSOR_I32] = {"I32", 4},
	[TENSOR_I16] = {"I16", 2},   [TENSOR_I8] = {"I8", 1},   [TENSOR_U8] = {"U8", 1},
	[TENSOR_BOOL] = {"BOOL", 1},
};

struct shard {
	char *path;
	struct file_map map;
	json_t *header;
};

struct tensors {
	struct shard *shards;
	size_t nshards, shards_cap;
	struct tensor *list; /* sorted by name */
	size_t count, cap;
	struct arena arena; /* names */
};

size_t tensor_dtype_size(enum tensor_dtype d)
{
	return dtypes[d].size;
}

const char *tensor_dtype_name(enum tensor_dtype d)
{
	return dtypes[d].name;
}

int64_t tensor_elements(const struct tensor *t)
{
	int64_t n = 1;

	for (int i = 0; i < t->ndims; i++)
		n *= t->shape[i];
	return n;
}

int tensor_to_f32(const struct tensor *t, float *out, struct error *err)
{
	size_t n = (size_t)tensor_elements(t);
	const char *in = t->data;

	switch (t->dtype) {
	case TENSOR_F32: floats_from(DTYPE_F32, in, n, out); return 0;
	case TENSOR_BF16: floats_from(DTYPE_BF16, in, n, out); return 0;
	case TENSOR_F16: floats_from(DTYPE_F16, in, n, out); return 0;
	case TENSOR_F64:
		for (size_t i = 0; i < n; i++) {
			double v;
			memcpy(&v, in + 8 * i, 8);
			out[i] = (float)v;
		}
		return 0;
	case TENSOR_I64:
	case TENSOR_I32:
	case TENSOR_I16:
	case TENSOR_I8:
	case TENSOR_U8:
	case TENSOR_BOOL: break;
	}
	return error_set(err, ERR_USAGE, "%s: tensor %.200s is %s, must be F32, BF16, F16 or F64", t->file,
			 t->name, tensor_dtype_name(t->dtype));
}

/* ---- one file ---- */

static int read_shape(const json_t *shape, const char *path, struct tensor *t, struct error *err)
{
	uint64_t bytes = dtypes[t->dtype].size;
	bool empty = false, overflow = false;

	if (!json_is_array(shape) || json_array_size(shape) > TENSOR_MAX_DIMS)
		return error_set(err, ERR_USAGE,
				 "%s: tensor %.200s: \"shape\" must be a list of at most %d sizes", path,
				 t->name, TENSOR_MAX_DIMS);
	t->ndims = (int)json_array_size(shape);
	for (int i = 0; i < t->ndims; i++) {
		const json_t *j = json_array_get(shape, (size_t)i);
		json_int_t v = json_integer_value(j);
		if (!json_is_integer(j) || v < 0)
			return error_set(err, ERR_USAGE,
					 "%s: tensor %.200s: \"shape\" has an entry that is not a size", path,
					 t->name);
		t->shape[i] = v;
		empty |= v == 0;
		if (v && (bytes > INT64_MAX / (uint64_t)v))
			overflow = true;
		else if (v)
			bytes *= (uint64_t)v;
	}
	if (overflow)
		return error_set(err, ERR_USAGE, "%s: tensor %.200s: its \"shape\" is too large to exist",
				 path, t->name);
	t->bytes = empty ? 0 : bytes;
	return 0;
}

static int read_tensor(const struct shard *s, const char *name, const json_t *j, size_t data_at,
		       struct tensor *t, struct error *err)
{
	const char *path = s->path, *dtype = json_string_value(json_object_get(j, "dtype"));
	const json_t *offsets = json_object_get(j, "data_offsets");
	uint64_t size = s->map.size - data_at;
	int found = -1;

	*t = (struct tensor){.name = name, .file = path};
	if (!json_is_object(j))
		return error_set(err, ERR_USAGE, "%s: tensor %.200s: its entry must be an object, is %s",
				 path, name, json_kind(j));
	if (!dtype)
		return error_set(err, ERR_USAGE, "%s: tensor %.200s: \"dtype\" is missing", path, name);
	for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
		if (strcmp(dtypes[i].name, dtype) == 0)
			found = (int)i;
	}
	if (found < 0)
		return error_set(err, ERR_USAGE, "%s: tensor %.200s: dtype \"%.40s\" is not supported", path,
				 name, dtype);
	t->dtype = (enum tensor_dtype)found;
	if (read_shape(json_object_get(j, "shape"), path, t, err))
		return -1;
	const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
	if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
	    json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
		return error_set(err, ERR_USAGE, "%s: tensor %.200s: \"data_offsets\" must be [begin, end]",
				 path, name);
	uint64_t from = (uint64_t)json_integer_value(begin), to = (uint64_t)json_integer_value(end);
	if (to - from != t->bytes)
		return error_set(err, ERR_USAGE,
				 "%s: tensor %.200s: its dtype and shape need %" PRIu64
				 " bytes, \"data_offsets\" give %" PRIu64,
				 path, name, t->bytes, to - from);
	if (to > size) {
		error_set(err, ERR_USAGE,
			  "%s: the file is cut off: tensor %.200s needs %" PRIu64
			  " bytes of data, the file has %" PRIu64,
			  path, name, to, size);
		return error_hint(err, "download or write it again");
	}
	t->data = s->map.data + data_at + from;
	return 0;
}

static int by_offset(const void *a, const void *b)
{
	const struct tensor *x = a, *y = b;

	if (x->data != y->data)
		return x->data < y->data ? -1 : 1;
	return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* Checks that list (n tensors of one file) tiles its data section. Sorts it by place. */
static int check_extents(const struct shard *s, size_t data_at, struct tensor *list, size_t n,
			 struct error *err)
{
	const uint8_t *expect = s->map.data + data_at, *end = s->map.data + s->map.size;

	if (n)
		qsort(list, n, sizeof *list, by_offset);
	for (size_t i = 0; i < n; i++) {
		const uint8_t *data = list[i].data;
		if (data != expect)
			return error_set(
				err, ERR_USAGE,
				"%s: tensor %.200s begins at byte %td of the data, expected %td (%s)",
				s->path, list[i].name, data - (s->map.data + data_at),
				expect - (s->map.data + data_at), data < expect ? "overlap" : "gap");
		expect = data + list[i].bytes;
	}
	if (expect != end)
		return error_set(err, ERR_USAGE, "%s: %td bytes after the last tensor belong to none",
				 s->path, end - expect);
	return 0;
}

static int check_metadata(const struct shard *s, const json_t *j, struct error *err)
{
	const char *key;
	json_t *value;

	if (!json_is_object(j))
		return error_set(err, ERR_USAGE, "%s: \"__metadata__\" must be an object, is %s", s->path,
				 json_kind(j));
	json_object_foreach((json_t *)(uintptr_t)j, key, value)
	{
		if (!json_is_string(value))
			return error_set(err, ERR_USAGE,
					 "%s: \"__metadata__\" entry \"%.100s\" must be a string, is %s",
					 s->path, key, json_kind(value));
	}
	return 0;
}

/* Maps one file and adds its tensors to t. */
static int open_file(struct tensors *t, const char *path, struct error *err)
{
	grow(&t->shards, &t->shards_cap, t->nshards + 1, sizeof *t->shards);
	struct shard *s = &t->shards[t->nshards];
	uint64_t header = 0;
	const char *key;
	json_t *value;

	*s = (struct shard){xstrdup(path), {NULL, 0}, NULL};
	t->nshards++;
	if (file_map(path, &s->map, err))
		return -1;
	if (s->map.size < 8)
		return error_set(err, ERR_USAGE,
				 "%s: not a safetensors file: %zu bytes are too few for a header", path,
				 s->map.size);
	for (int i = 7; i >= 0; i--)
		header = header << 8 | s->map.data[i];
	if (header > HEADER_MAX)
		return error_set(err, ERR_USAGE,
				 "%s: not a safetensors file: a header of %" PRIu64 " bytes (at most %d)",
				 path, header, HEADER_MAX);
	if (header > s->map.size - 8)
		return error_set(err, ERR_USAGE,
				 "%s: the file is cut off: a header of %" PRIu64
				 " bytes, the file has %zu after its length",
				 path, header, s->map.size - 8);
	if (!header || s->map.data[8] != '{')
		return error_set(err, ERR_USAGE,
				 "%s: not a safetensors file: its header is not a JSON object", path);
	s->header = json_parse((const char *)s->map.data + 8, (size_t)header, path, err);
	if (!s->header)
		return error_context(err, "header of safetensors file");
	size_t first = t->count, data_at = 8 + (size_t)header;
	json_object_foreach(s->header, key, value)
	{
		if (strcmp(key, "__metadata__") == 0) {
			if (check_metadata(s, value, err))
				return -1;
			continue;
		}
		grow(&t->list, &t->cap, t->count + 1, sizeof *t->list);
		if (read_tensor(s, arena_strdup(&t->arena, key), value, data_at, &t->list[t->count], err))
			return -1;
		t->count++;
	}
	return check_extents(s, data_at, t->list + first, t->count - first, err);
}

/* ---- a directory ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

static int check_shard_name(const char *index, const char *tensor, const json_t *j, struct error *err)
{
	const char *file = json_string_value(j);

	if (!file)
		return error_set(err, ERR_USAGE, "%s: \"weight_map\" entry %.200s must be a file name, is %s",
				 index, tensor, json_kind(j));
	/* A name with a directory in it could point anywhere. */
	if (!*file || strchr(file, '/') || file[0] == '.' || strlen(file) > 255)
		return error_set(
			err, ERR_USAGE,
			"%s: \"weight_map\" sends %.200s to \"%.100s\", which is not a plain file name",
			index, tensor, file);
	return 0;
}

static int open_shards(struct tensors *t, const char *dir, const char *index, json_t *map, struct error *err)
{
	const char *name;
	json_t *file;
	json_t *seen = json_object(); /* file names opened so far */
	int failed = 0;

	json_object_foreach(map, name, file)
	{
		failed = check_shard_name(index, name, file, err);
		if (failed)
			break;
		if (json_object_get(seen, json_string_value(file)))
			continue;
		json_object_set_new(seen, json_string_value(file), json_true());
		char *path = path_join(dir, json_string_value(file));
		if (!path_exists(path)) {
			failed = error_set(err, ERR_USAGE,
					   "%s: the shard is missing; %s says that it holds %.200s", path,
					   index, name);
			error_hint(err, "download the model again, or copy the missing file into %s", dir);
		} else {
			failed = open_file(t, path, err);
		}
		free(path);
		if (failed)
			break;
	}
	json_decref(seen);
	return failed;
}

static int check_index(const struct tensors *t, const char *index, json_t *map, struct error *err)
{
	const char *name;
	json_t *file;

	for (size_t i = 0; i < t->count; i++) {
		const struct tensor *at = &t->list[i];
		const char *want = json_string_value(json_object_get(map, at->name)),
			   *have = path_base(at->file);
		if (!want)
			return error_set(err, ERR_USAGE, "%s: tensor %.200s is not in the index %s", at->file,
					 at->name, index);
		if (strcmp(want, have) != 0)
			return error_set(err, ERR_USAGE,
					 "%s: tensor %.200s: expected in %.255s, found in %.255s", index,
					 at->name, want, have);
	}
	if (t->count == json_object_size(map))
		return 0;
	json_object_foreach(map, name, file)
	{
		if (!tensors_find(t, name))
			return error_set(err, ERR_USAGE,
					 "%s: tensor %.200s: expected in %.255s, found nowhere", index, name,
					 json_string_value(file));
	}
	return error_set(err, ERR_USAGE, "%s: a tensor is in two shards", index);
}

static int sort_tensors(struct tensors *t, struct error *err)
{
	if (t->count)
		qsort(t->list, t->count, sizeof *t->list, by_name);
	for (size_t i = 1; i < t->count; i++) {
		if (strcmp(t->list[i - 1].name, t->list[i].name) == 0)
			return error_set(err, ERR_USAGE, "tensor %.200s is in %s and in %s", t->list[i].name,
					 t->list[i - 1].file, t->list[i].file);
	}
	return 0;
}

static int open_indexed(struct tensors *t, const char *dir, const char *index, struct error *err)
{
	json_t *root = json_read(index, err);
	json_t *map = json_object_get(root, "weight_map");
	int failed = root ? 0 : -1;

	if (!failed && !json_is_object(map))
		failed = error_set(err, ERR_USAGE, "%s: \"weight_map\" is missing or not an object", index);
	if (!failed)
		failed = open_shards(t, dir, index, map, err);
	if (!failed)
		failed = sort_tensors(t, err);
	if (!failed)
		failed = check_index(t, index, map, err);
	json_decref(root);
	return failed;
}

static int open_dir(struct tensors *t, const char *dir, struct error *err)
{
	char *single = path_join(dir, "model.safetensors"),
	     *index = path_join(dir, "model.safetensors.index.json");
	char *pickle = path_join(dir, "pytorch_model.bin"),
	     *pickles = path_join(dir, "pytorch_model.bin.index.json");
	int failed;

	if (path_exists(single)) {
		failed = open_file(t, single, err);
		if (!failed)
			failed = sort_tensors(t, err);
	} else if (path_exists(index)) {
		failed = open_indexed(t, dir, index, err);
	} else {
		failed = error_set(err, ERR_USAGE,
				   "%s: no model.safetensors and no model.safetensors.index.json", dir);
		if (path_exists(pickle) || path_exists(pickles))
			error_hint(err, "its weights are pickled (pytorch_model.bin), which can run code and "
					"is not read; convert "
					"them to safetensors");
	}
	free(single);
	free(index);
	free(pickle);
	free(pickles);
	return failed;
}

int tensors_open(const char *path, struct tensors **out, struct error *err)
{
	struct tensors *t = xcalloc(1, sizeof *t);
	int failed;

	if (path_is_dir(path)) {
		failed = open_dir(t, path, err);
	} else {
		failed = open_file(t, path, err);
		if (!failed)
			failed = sort_tensors(t, err);
	}
	if (failed) {
		tensors_close(t);
		return -1;
	}
	*out = t;
	return 0;
}

void tensors_close(struct tensors *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->nshards; i++) {
		free(t->shards[i].path);
		file_unmap(&t->shards[i].map);
		json_decref(t->shards[i].header);
	}
	free(t->shards);
	free(t->list);
	arena_free(&t->arena);
	free(t);
}

size_t tensors_count(const struct tensors *t)
{
	return t->count;
}

const struct tensor *tensors_at(const struct tensors *t, size_t i)
{
	return &t->list[i];
}

const struct tensor *tensors_find(const struct tensors *t, const char *name)
{
	struct tensor key = {.name = name};

	return t->count ? bsearch(&key, t->list, t->count, sizeof *t->list, by_name) : NULL;
}

const char *tensors_metadata(const struct tensors *t, const char *key)
{
	const json_t *meta = json_object_get(t->shards[0].header, "__metadata__");

	return json_string_value(json_object_get(meta, key));
}
