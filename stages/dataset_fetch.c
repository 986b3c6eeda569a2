/* dataset-fetch: a dataset from where it lies into a rows file, in constant memory. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "data/reader.h"
#include "data/rows.h"
#include "data/split.h"
#include "net/http.h"
#include "runtime/stage.h"
#include "stages/input.h"

static const char *const formats[] = {"auto", "json", "csv", "tsv", "parquet", "text", NULL};

static const struct attr_schema attrs[] = {
	{.name = "source",
	 .type = ATTR_SOURCE,
	 .flags = ATTR_REQUIRED,
	 .doc = "a file, a directory, or an http(s) URL: JSON, JSON Lines, CSV, TSV, Parquet or text, plain "
		"or inside gz, zst, xz, "
		"zip or tar"},
	{.name = "split",
	 .type = ATTR_STRING,
	 .fallback = "\"train\"",
	 .doc = "which files and rows, as the datasets library reads it: train, test[:10%], "
		"validation[100:200]"},
	{.name = "config",
	 .type = ATTR_STRING,
	 .doc = "of a directory whose README.md lists several: which one"},
	{.name = "format",
	 .type = ATTR_CHOICE,
	 .choices = formats,
	 .fallback = "\"auto\"",
	 .doc = "what the files are; auto: by their names' endings"},
	{.name = "field",
	 .type = ATTR_STRING,
	 .doc = "JSON: the rows are the array under this key of one big object"},
	{.name = "sha256",
	 .type = ATTR_STRING,
	 .doc = "of a downloaded file: 64 hexadecimal digits that it must have"},
	{0},
};

static const struct output_schema outputs[] = {
	{"rows", PORT_ROWS, "the rows, numbered from 0 in the order of the files"},
	{0},
};

static const char *check(const struct stage_node *node, const char **attr)
{
	const struct value *sha = stage_attr(node, "sha256"), *split = stage_attr(node, "split");
	struct split_spec spec;
	struct digest digest;

	if (split_parse(split->str, &spec, NULL)) {
		*attr = "split";
		return "a split is a name, with a slice if wanted: train, train[:10%], test[100:200]";
	}
	if (sha->type != VALUE_NONE && (strlen(sha->str) != 64 || !digest_parse(sha->str, &digest))) {
		*attr = "sha256";
		return "sha256 is 64 hexadecimal digits in lower case";
	}
	return NULL;
}

static bool is_http(const char *source)
{
	return source_is(source, "http") || source_is(source, "https");
}

static int refuse_scheme(const char *source, struct error *err)
{
	if (source_is(source, "hf") || source_is(source, "gs")) {
		not_there_yet(
			err, "datasets from hf:// and gs://",
			"download the dataset's file and give its path: --set dataset=path/to/rows.jsonl");
		return error_context(err, "%s", source);
	}
	error_set(err, ERR_USAGE, "%s: not a source that is known", source);
	return error_hint(err, "give a path or an http(s) URL");
}

/* ---- downloads ---- */

static int pin(const struct stage_node *node, struct strbuf *out, struct error *err)
{
	const char *source = stage_attr(node, "source")->path;
	struct http_response r;

	if (!strstr(source, "://"))
		return 0;
	if (!is_http(source))
		return refuse_scheme(source, err);
	if (http_head(source, NULL, &r, err))
		return -1;
	int failed = r.status / 100 == 2 ? 0 : http_status_error("HEAD", source, &r, err);
	char *etag = http_response_header(&r, "ETag"), *modified = http_response_header(&r, "Last-Modified");
	/* Not every server says what it serves; then the URL stands for the content until a run refreshes its pins. */
	if (!failed)
		strbuf_addf(out, "%s", etag ? etag : modified ? modified : "unversioned");
	free(etag);
	free(modified);
	http_response_free(&r);
	return failed;
}

static int on_download(uint64_t done, uint64_t total, void *arg)
{
	struct stage_ctx *ctx = arg;

	ctx_progress(ctx, done, total, "bytes");
	return ctx_stopping(ctx);
}

/* The file's name, whose ending says what it is: the last part of the URL's path. */
static char *url_name(const char *url)
{
	const char *path = strstr(url, "://") + 3;
	size_t n = strcspn(path, "?#");
	char *whole = xstrndup(path, n), *name = xstrdup(path_base(whole));

	free(whole);
	return name;
}

static char *download(struct stage_ctx *ctx, const char *url, struct error *err)
{
	const struct http_options o = {.on_progress = on_download, .arg = ctx};
	const char *sha = ctx_str(ctx, "sha256");
	char *name = url_name(url), *path = path_join(ctx_scratch(ctx), *name ? name : "download");
	struct digest expected;

	free(name);
	if (sha)
		digest_parse(sha, &expected);
	if (http_download(url, path, sha ? &expected : NULL, &o, NULL, err)) {
		free(path);
		return NULL;
	}
	return path;
}

/* ---- which files ---- */

struct files {
	const char *root;
	struct arena arena;
	const char **names; /* relative to root */
	size_t n, cap;
};

static int add_name(const char *relative, const char *path, void *arg, struct error *err)
{
	struct files *f = arg;

	(void)path;
	(void)err;
	grow(&f->names, &f->cap, f->n + 1, sizeof *f->names);
	f->names[f->n++] = arena_strdup(&f->arena, relative);
	return 0;
}

/* Fills list (from f's arena) with the files of the split. */
static int pick_files(struct stage_ctx *ctx, const struct split_spec *split, struct files *f,
		      struct reader_file **list, size_t *n, struct error *err)
{
	if (!path_is_dir(f->root)) {
		if (strcmp(split->name, "train") != 0) {
			error_set(err, ERR_USAGE,
				  "%s is a single file, which is the split train; there is no split %s",
				  f->root, split->name);
			return error_hint(err, "use split = \"train\", or give a directory");
		}
		*list = arena_calloc(&f->arena, 1, sizeof **list);
		(*list)->path = f->root;
		*n = 1;
		return 0;
	}
	if (tree_walk(f->root, add_name, f, err))
		return -1;
	char *card = path_join(f->root, "README.md"),
	     *readme = path_exists(card) ? file_read(card, NULL, err) : NULL;
	size_t *picked = xcalloc(f->n + 1, sizeof *picked);
	int failed = split_files(f->names, f->n, readme, ctx_str(ctx, "config"), split->name, picked, n, err);
	if (failed) {
		error_context(err, "%s", f->root);
	} else {
		*list = arena_calloc(&f->arena, *n, sizeof **list);
		for (size_t i = 0; i < *n; i++) {
			char *path = path_join(f->root, f->names[picked[i]]);
			(*list)[i].path = arena_strdup(&f->arena, path);
			free(path);
		}
	}
	free(picked);
	free(readme);
	free(card);
	return failed;
}

/* ---- rows ---- */

/* Bounds that depend on the number of rows are only known when all are read: then the rows are read twice, first counted. */
static bool needs_count(const struct split_spec *s)
{
	return s->percent || (s->has_from && s->from < 0) || (s->has_to && s->to < 0);
}

static int copy_rows(struct stage_ctx *ctx, struct reader *in, uint64_t first, uint64_t end,
		     struct rows_writer *out, uint64_t *count, struct error *err)
{
	struct strbuf row = STRBUF_INIT;
	uint64_t id, done, total;
	int got;

	*count = 0;
	while ((got = reader_next(in, &id, &row, err)) == 1) {
		if (out && id >= end)
			break;
		if (out && id >= first && rows_add(out, id, row.data, row.len, err)) {
			got = -1;
			break;
		}
		*count += !out || id >= first;
		if ((id & 1023) == 0) {
			reader_progress(in, &done, &total);
			ctx_progress(ctx, done, total, "bytes");
			if (stopping(ctx, err)) {
				got = -1;
				break;
			}
		}
	}
	strbuf_free(&row);
	return got < 0 ? -1 : 0;
}

static int read_rows(struct stage_ctx *ctx, const struct reader_file *files, size_t n,
		     const struct split_spec *split, struct rows_writer *out, uint64_t *count,
		     struct error *err)
{
	const char *format = ctx_str(ctx, "format");
	const struct reader_options o = {strcmp(format, "auto") == 0 ? NULL : format, ctx_str(ctx, "field")};
	uint64_t first = split->has_from ? (uint64_t)split->from : 0,
		 end = split->has_to ? (uint64_t)split->to : UINT64_MAX;
	struct reader *in;

	if (needs_count(split)) {
		uint64_t all;
		in = reader_open(files, n, &o, err);
		int failed = !in || copy_rows(ctx, in, 0, 0, NULL, &all, err) ||
			     split_range(split, all, &first, &end, err);
		reader_close(in);
		if (failed)
			return -1;
	}
	in = reader_open(files, n, &o, err);
	int failed = in ? copy_rows(ctx, in, first, end, out, count, err) : -1;
	reader_close(in);
	return failed;
}

static int run(struct stage_ctx *ctx, struct error *err)
{
	const char *source = ctx_path(ctx, "source");
	struct files f = {.root = source, .arena = ARENA_INIT};
	struct reader_file *list = NULL;
	struct split_spec split;
	char *downloaded = NULL;
	uint64_t count = 0;
	size_t n = 0;
	int failed = -1;

	if (strstr(source, "://")) {
		if (!is_http(source))
			return refuse_scheme(source, err);
		f.root = downloaded = download(ctx, source, err);
		if (!downloaded)
			return -1;
	}
	struct rows_writer *out = rows_create(ctx_output(ctx, "rows"), err);
	if (!out || split_parse(ctx_str(ctx, "split"), &split, err) ||
	    pick_files(ctx, &split, &f, &list, &n, err) || read_rows(ctx, list, n, &split, out, &count, err))
		goto done;
	if (count == 0) {
		error_set(err, ERR_USAGE, "%s: split %s has no rows", source, ctx_str(ctx, "split"));
		goto done;
	}
	failed = rows_commit(out, err);
	out = NULL;
	if (!failed) {
		summary_count(ctx, "rows", count);
		if (n > 1)
			summary_count(ctx, "files", n);
	}
done:
	rows_abort(out);
	free(f.names);
	arena_free(&f.arena);
	free(downloaded);
	return failed;
}

const struct stage_kind stage_dataset_fetch = {
	.schema = {.name = "dataset-fetch",
		   .version = 1,
		   .doc = "Reads a dataset's rows from a file, a directory or an URL",
		   .attrs = attrs,
		   .outputs = outputs,
		   .check = check},
	.run = run,
	.pin = pin,
};
