#include "data/reader.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "data/formats.h"
#include "data/parquet.h"
#include "data/source.h"

struct input {
	const char *path, *as; /* as in struct reader_file */
	uint64_t size;         /* bytes */
};

struct reader {
	struct arena texts;
	struct input *files;
	size_t count, cap, next; /* next: the file to open after the current one */
	enum data_format format; /* what every file is; DATA_UNKNOWN = by its name */
	uint64_t id, done, total;
	struct source *source;    /* of the current file, NULL between files */
	enum data_format current; /* of the current data file; DATA_UNKNOWN between data files */
	struct window window;
	struct json_rows json;
	struct csv_rows csv;
	struct text_rows text;
	struct parquet *parquet;
	struct file_map map; /* what parquet reads */
};

static void add_file(struct reader *r, const char *path, const char *as)
{
	struct stat st;
	uint64_t size = stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;

	grow(&r->files, &r->cap, r->count + 1, sizeof *r->files);
	r->files[r->count++] = (struct input){arena_strdup(&r->texts, path),
					      as ? arena_strdup(&r->texts, as) : NULL, size};
	r->total += size;
}

static int visit(const char *relative, const char *path, void *arg, struct error *err)
{
	(void)err;
	if (!data_file_ignored(relative) && data_format_of(relative) != DATA_UNKNOWN)
		add_file(arg, path, NULL);
	return 0;
}

static int add_path(struct reader *r, const struct reader_file *f, struct error *err)
{
	size_t before = r->count;

	if (!path_is_dir(f->path)) {
		add_file(r, f->path, f->as);
		return 0;
	}
	if (tree_walk(f->path, visit, r, err) < 0)
		return -1;
	if (r->count > before)
		return 0;
	error_set(err, ERR_USAGE, "%s: there is no data file in the directory", f->path);
	return error_hint(
		err, "data files are told by their ending: .json .jsonl .csv .tsv .parquet .txt, also in .gz "
		     ".zst .xz .zip .tar");
}

struct reader *reader_open(const struct reader_file *files, size_t n, const struct reader_options *options,
			   struct error *err)
{
	struct reader *r = xcalloc(1, sizeof *r);
	int failed = 0;

	if (options && options->format) {
		r->format = data_format_parse(options->format);
		if (r->format == DATA_UNKNOWN) {
			failed = error_set(err, ERR_USAGE, "\"%s\" is not a format of datasets",
					   options->format);
			error_hint(err, "one of json, csv, tsv, parquet, text");
		}
	}
	if (options)
		r->json.field = options->field;
	for (size_t i = 0; i < n && !failed; i++)
		failed = add_path(r, &files[i], err);
	if (!failed)
		return r;
	reader_close(r);
	return NULL;
}

/* A Parquet file is read from its end, so one that comes out of an archive goes to an unnamed temporary
 * first. */
static int map_member(struct reader *r, struct error *err)
{
	const char *dir = getenv("TMPDIR");
	char *path = path_join(dir && *dir ? dir : "/tmp", "anneal-parquet-XXXXXX");
	int fd = mkstemp(path), failed = 0;
	size_t size = 0;

	if (fd < 0) {
		error_errno(err, ERR_INFRA, "%s", path);
		free(path);
		return -1;
	}
	unlink(path);
	while (!failed && !r->window.eof) {
		failed = window_more(&r->window, SIZE_MAX, "the file", err);
		if (!failed)
			failed = fd_write_all(fd, r->window.data, r->window.len, path, err);
		size += r->window.len;
		r->window.pos = r->window.len;
	}
	if (!failed && size) {
		void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (p == MAP_FAILED)
			failed = error_errno(err, ERR_INFRA, "%s", path);
		else
			r->map = (struct file_map){p, size};
	}
	close(fd);
	free(path);
	return failed;
}

static int open_parquet(struct reader *r, struct error *err)
{
	int failed = source_is_plain(r->source) ? file_map(source_path(r->source), &r->map, err)
						: map_member(r, err);

	if (failed)
		return -1;
	r->parquet = parquet_open(r->map.data, r->map.size, source_name(r->source), err);
	return r->parquet ? 0 : -1;
}

static void close_parquet(struct reader *r)
{
	parquet_close(r->parquet);
	r->parquet = NULL;
	file_unmap(&r->map);
}

/* Makes the readers ready for the source's current data file. */
static int begin(struct reader *r, struct error *err)
{
	r->current = r->format != DATA_UNKNOWN ? r->format : source_format(r->source);
	window_start(&r->window, r->source);
	switch (r->current) {
	case DATA_JSON:
		r->json.shape = JSON_UNSEEN;
		r->json.wrapped = false;
		r->json.rows = 0;
		return 0;
	case DATA_CSV:
	case DATA_TSV: csv_rows_reset(&r->csv, r->current == DATA_CSV ? ',' : '\t'); return 0;
	case DATA_TEXT: r->text.rows = 0; return 0;
	case DATA_PARQUET: return open_parquet(r, err);
	case DATA_UNKNOWN:
	case DATA_ARCHIVE: break;
	}
	error_set(err, ERR_USAGE, "%s: what kind of data this is cannot be told from its name",
		  source_name(r->source));
	return error_hint(err, "give it an ending (.json .jsonl .csv .tsv .parquet .txt) or set `format`");
}

/* Moves to the next data file: 1, 0 when all is read, -1. */
static int advance(struct reader *r, struct error *err)
{
	for (;;) {
		if (!r->source) {
			if (r->next == r->count)
				return 0;
			const struct input *f = &r->files[r->next++];
			r->source = source_open(f->path, f->as, err);
			if (!r->source)
				return -1;
		}
		int more = source_next(r->source, err);
		if (more < 0)
			return -1;
		if (more)
			return begin(r, err) < 0 ? -1 : 1;
		r->done += r->files[r->next - 1].size;
		source_close(r->source);
		r->source = NULL;
	}
}

static int next_row(struct reader *r, struct strbuf *row, struct error *err)
{
	switch (r->current) {
	case DATA_JSON: return json_rows_next(&r->json, &r->window, row, err);
	case DATA_CSV:
	case DATA_TSV: return csv_rows_next(&r->csv, &r->window, row, err);
	case DATA_TEXT: return text_rows_next(&r->text, &r->window, row, err);
	case DATA_PARQUET: return parquet_next(r->parquet, row, err);
	case DATA_UNKNOWN:
	case DATA_ARCHIVE: break;
	}
	return 0;
}

int reader_next(struct reader *r, uint64_t *id, struct strbuf *row, struct error *err)
{
	for (;;) {
		strbuf_clear(row);
		int got = next_row(r, row, err);
		if (got < 0)
			return -1;
		if (got) {
			*id = r->id++;
			return 1;
		}
		close_parquet(r);
		r->current = DATA_UNKNOWN;
		got = advance(r, err);
		if (got <= 0)
			return got;
	}
}

void reader_progress(const struct reader *r, uint64_t *done, uint64_t *total)
{
	*done = r->done + (r->source ? source_position(r->source) : 0);
	*total = r->total;
}

void reader_close(struct reader *r)
{
	if (!r)
		return;
	close_parquet(r);
	source_close(r->source);
	window_free(&r->window);
	jsonpack_free(&r->json.json);
	csv_rows_free(&r->csv);
	arena_free(&r->texts);
	free(r->files);
	free(r);
}
