/* Writing: the header first, from the declared tensors alone, then the data as it comes. */
#include "model/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/outfile.h"
#include "base/str.h"

struct tensors_writer {
	char *path;
	struct outfile *file;
	size_t *order;
	uint64_t declared; /* bytes of data promised */
	uint64_t added;
};

/* The safetensors library (0.4, 0.5) sorts by its enum of dtypes, largest first, then by name. */
static int rank_of(enum tensor_dtype d)
{
	static const int rank[] = {
		[TENSOR_I64] = 9, [TENSOR_F64] = 8, [TENSOR_F32] = 7, [TENSOR_I32] = 6, [TENSOR_BF16] = 5,
		[TENSOR_F16] = 4, [TENSOR_I16] = 3, [TENSOR_I8] = 2,  [TENSOR_U8] = 1,  [TENSOR_BOOL] = 0,
	};
	return rank[d];
}

static int by_file_order(const void *a, const void *b, void *arg)
{
	const struct tensor *declared = arg, *x = &declared[*(const size_t *)a],
			    *y = &declared[*(const size_t *)b];

	if (x->dtype != y->dtype)
		return rank_of(y->dtype) - rank_of(x->dtype);
	return strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b, void *arg)
{
	const struct tensor *declared = arg;

	return strcmp(declared[*(const size_t *)a].name, declared[*(const size_t *)b].name);
}

static uint64_t bytes_of(const struct tensor *t)
{
	return (uint64_t)tensor_elements(t) * tensor_dtype_size(t->dtype);
}

static void header_text(const struct tensor *declared, const size_t *order, size_t n,
			const char *const *metadata, struct strbuf *b)
{
	uint64_t at = 0;

	strbuf_adds(b, "{\"__metadata__\":{\"format\":\"pt\"");
	for (; metadata && metadata[0]; metadata += 2) {
		strbuf_addc(b, ',');
		strbuf_add_json(b, metadata[0], strlen(metadata[0]));
		strbuf_addc(b, ':');
		strbuf_add_json(b, metadata[1], strlen(metadata[1]));
	}
	strbuf_addc(b, '}');
	for (size_t k = 0; k < n; k++) {
		const struct tensor *t = &declared[order[k]];
		strbuf_addc(b, ',');
		strbuf_add_json(b, t->name, strlen(t->name));
		strbuf_addf(b, ":{\"dtype\":\"%s\",\"shape\":[", tensor_dtype_name(t->dtype));
		for (int i = 0; i < t->ndims; i++)
			strbuf_addf(b, "%s%" PRId64, i ? "," : "", t->shape[i]);
		strbuf_addf(b, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, at + bytes_of(t));
		at += bytes_of(t);
	}
	strbuf_addc(b, '}');
	while (b->len % 8)
		strbuf_addc(b, ' ');
}

int tensors_create(const char *path, const struct tensor *declared, size_t n, const char *const *metadata,
		   struct tensors_writer **out, struct error *err)
{
	size_t *order = xreallocarray(NULL, n + 1, sizeof *order);

	for (size_t i = 0; i < n; i++)
		order[i] = i;
	qsort_r(order, n, sizeof *order, by_name, (void *)(uintptr_t)declared);
	for (size_t k = 1; k < n; k++) {
		if (strcmp(declared[order[k - 1]].name, declared[order[k]].name) == 0) {
			error_set(err, ERR_USAGE, "%s: tensor %.200s is declared twice", path,
				  declared[order[k]].name);
			free(order);
			return -1;
		}
	}
	qsort_r(order, n, sizeof *order, by_file_order, (void *)(uintptr_t)declared);
	struct outfile *file;
	if (outfile_create(path, &file, err)) {
		free(order);
		return -1;
	}
	struct tensors_writer *w = xcalloc(1, sizeof *w);
	*w = (struct tensors_writer){xstrdup(path), file, order, 0, 0};
	struct strbuf b = STRBUF_INIT;
	uint8_t length[8];
	header_text(declared, order, n, metadata, &b);
	for (size_t i = 0; i < n; i++)
		w->declared += bytes_of(&declared[i]);
	for (int i = 0; i < 8; i++)
		length[i] = (uint8_t)((uint64_t)b.len >> (8 * i));
	int failed = outfile_add(file, length, 8, err) || outfile_add(file, b.data, b.len, err);
	strbuf_free(&b);
	if (failed) {
		tensors_abandon(w);
		return -1;
	}
	*out = w;
	return 0;
}

const size_t *tensors_order(const struct tensors_writer *w)
{
	return w->order;
}

int tensors_add(struct tensors_writer *w, const void *bytes, size_t n, struct error *err)
{
	w->added += n;
	if (w->added > w->declared)
		return error_set(err, ERR_USAGE, "%s: more bytes were given than the %" PRIu64 " declared",
				 w->path, w->declared);
	return outfile_add(w->file, bytes, n, err);
}

static void release(struct tensors_writer *w)
{
	free(w->path);
	free(w->order);
	free(w);
}

int tensors_commit(struct tensors_writer *w, struct error *err)
{
	int failed;

	if (w->added != w->declared) {
		failed = error_set(err, ERR_USAGE,
				   "%s: %" PRIu64 " bytes were given of the %" PRIu64 " declared", w->path,
				   w->added, w->declared);
		outfile_abandon(w->file);
	} else {
		failed = outfile_commit(w->file, err);
	}
	release(w);
	return failed;
}

void tensors_abandon(struct tensors_writer *w)
{
	if (!w)
		return;
	outfile_abandon(w->file);
	release(w);
}
