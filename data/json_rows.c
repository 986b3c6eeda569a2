/* JSON datasets: an array of rows, a row per line, or an array under one key of an object. */
#include "data/formats.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "data/pack.h"
#include "data/rows.h"

int row_fail(const struct window *w, uint64_t row, size_t at, const char *why, struct error *err)
{
	return error_set(err, ERR_USAGE, "%s: row %" PRIu64 " (byte %" PRIu64 "): %s", source_name(w->source),
			 row, window_offset(w) + at, why);
}

static int row_more(struct window *w, uint64_t row, struct error *err)
{
	char what[32];

	snprintf(what, sizeof what, "row %" PRIu64, row);
	return window_more(w, ROW_SIZE_MAX, what, err);
}

int window_skip_bom(struct window *w, struct error *err)
{
	while (!w->eof && w->len - w->pos < 3)
		if (window_more(w, ROW_SIZE_MAX, "its beginning", err) < 0)
			return -1;
	if (w->len - w->pos >= 3 && memcmp(w->data + w->pos, "\xef\xbb\xbf", 3) == 0)
		w->pos += 3;
	return 0;
}

int window_line(struct window *w, uint64_t row, const char **line, size_t *n, size_t *used, struct error *err)
{
	size_t seen = 0;
	const char *nl = NULL;

	for (;;) {
		size_t have = w->len - w->pos;
		if (have > seen)
			nl = memchr(w->data + w->pos + seen, '\n', have - seen);
		if (nl || w->eof)
			break;
		seen = have;
		if (row_more(w, row, err) < 0)
			return -1;
	}
	if (!nl && w->pos == w->len)
		return 0;
	*line = w->data + w->pos;
	*n = (size_t)((nl ? nl : w->data + w->len) - *line);
	*used = *n + (nl != NULL);
	if (*n > ROW_SIZE_MAX)
		return row_fail(w, row, 0, "the row is larger than 64 MiB", err);
	if (*n && (*line)[*n - 1] == '\r')
		--*n;
	return 1;
}

/* The first byte that is not white space, without using it up; 0 at the end of the file, -1 on failure. */
static int peek(struct window *w, struct error *err)
{
	for (;;) {
		for (; w->pos < w->len; w->pos++)
			if (!memchr(" \t\r\n", w->data[w->pos], 4))
				return (unsigned char)w->data[w->pos] ? (unsigned char)w->data[w->pos] : 256;
		if (w->eof)
			return 0;
		if (window_more(w, ROW_SIZE_MAX, "white space", err) < 0)
			return -1;
	}
}

static int file_fail(const struct window *w, const char *why, struct error *err)
{
	return error_set(err, ERR_USAGE, "%s (byte %" PRIu64 "): %s", source_name(w->source),
			 window_offset(w), why);
}

/* Moves behind one value of any size without looking closer than brackets and strings. */
static int skip_value(struct window *w, struct error *err)
{
	int64_t depth = 0;
	bool in_string = false, escaped = false, begun = false;

	for (;;) {
		for (; w->pos < w->len; w->pos++) {
			char c = w->data[w->pos];
			if (in_string) {
				in_string = escaped || c != '"';
				escaped = !escaped && c == '\\';
				if (in_string || depth > 0)
					continue;
				w->pos++;
				return 0;
			}
			if (c == '"') {
				in_string = begun = true;
			} else if (c == '{' || c == '[') {
				depth++;
				begun = true;
			} else if (c == '}' || c == ']') {
				if (depth == 0)
					return 0; /* the end of the object around: a number or word ended here
						   */
				if (--depth == 0) {
					w->pos++;
					return 0;
				}
			} else if (depth == 0 && (c == ',' || (begun && memchr(" \t\r\n", c, 4)))) {
				return 0;
			} else {
				begun = true;
			}
		}
		if (w->eof)
			return file_fail(w, "the file ends inside a value", err);
		if (window_more(w, ROW_SIZE_MAX, "a value", err) < 0)
			return -1;
	}
}

/* Reads a key and the colon behind it; the key's msgpack goes to out. */
static int read_key(struct json_rows *j, struct window *w, struct strbuf *out, struct error *err)
{
	size_t used;
	int c = peek(w, err);

	if (c < 0)
		return -1;
	if (c != '"')
		return file_fail(w, "expected a key in double quotes", err);
	for (;;) {
		enum jsonpack_result r = jsonpack_value(&j->json, w->data + w->pos, w->len - w->pos, w->eof,
							&used, out);
		if (r == JSONPACK_OK)
			break;
		strbuf_clear(out);
		if (r == JSONPACK_BAD) {
			w->pos += j->json.at;
			return file_fail(w, j->json.why, err);
		}
		if (window_more(w, ROW_SIZE_MAX, "a key", err) < 0)
			return -1;
	}
	w->pos += used;
	c = peek(w, err);
	if (c < 0)
		return -1;
	if (c != ':')
		return file_fail(w, "expected ':' behind the key", err);
	w->pos++;
	return 0;
}

static int no_field(const struct json_rows *j, const struct window *w, const struct strbuf *keys,
		    struct error *err)
{
	error_set(err, ERR_USAGE, "%s: the object has no key \"%s\"; its keys: %.600s",
		  source_name(w->source), j->field, keys->data ? keys->data : "none");
	return -1;
}

/* At the '{' of the object around: moves to the first element of the array under the key. */
static int find_field(struct json_rows *j, struct window *w, struct error *err)
{
	struct strbuf key = STRBUF_INIT, keys = STRBUF_INIT;
	int failed = -1, c;

	w->pos++;
	if ((c = peek(w, err)) < 0)
		return -1;
	while (c != '}') {
		strbuf_clear(&key);
		if (read_key(j, w, &key, err) < 0)
			goto out;
		const uint8_t *p = (const uint8_t *)key.data;
		struct pack_value v;
		pack_read(&p, p + key.len, &v);
		bool found = v.len == strlen(j->field) && memcmp(v.body, j->field, v.len) == 0;
		if ((c = peek(w, err)) < 0)
			goto out;
		if (found && c != '[') {
			error_set(err, ERR_USAGE, "%s: the value under \"%s\" is not an array",
				  source_name(w->source), j->field);
			goto out;
		}
		if (found) {
			w->pos++;
			j->wrapped = true;
			failed = 0;
			goto out;
		}
		if (keys.len < 600)
			strbuf_addf(&keys, "%s%.*s", keys.len ? ", " : "", (int)(v.len < 80 ? v.len : 80),
				    (const char *)v.body);
		if (skip_value(w, err) < 0 || (c = peek(w, err)) < 0)
			goto out;
		if (c != ',' && c != '}') {
			file_fail(w, "expected ',' or '}'", err);
			goto out;
		}
		w->pos += c == ',';
	}
	no_field(j, w, &keys, err);
out:
	strbuf_free(&key);
	strbuf_free(&keys);
	return failed;
}

/* Behind the array's ']': the rest of the object around, then nothing more. */
static int finish(struct json_rows *j, struct window *w, struct error *err)
{
	int c = peek(w, err);

	j->shape = JSON_DONE;
	while (j->wrapped && c == ',') {
		struct strbuf key = STRBUF_INIT;
		w->pos++;
		int failed = read_key(j, w, &key, err) < 0 || peek(w, err) < 0 || skip_value(w, err) < 0;
		strbuf_free(&key);
		if (failed)
			return -1;
		c = peek(w, err);
	}
	if (c < 0)
		return -1;
	if (j->wrapped) {
		if (c != '}')
			return file_fail(w, c ? "expected ',' or '}'" : "the file ends inside the object",
					 err);
		w->pos++;
		c = peek(w, err);
	}
	if (c < 0)
		return -1;
	return c ? file_fail(w, "there is more text behind the end of the value", err) : 0;
}

static int begin(struct json_rows *j, struct window *w, struct error *err)
{
	if (window_skip_bom(w, err) < 0)
		return -1;
	int c = peek(w, err);
	if (c < 0)
		return -1;
	if (c == 0) {
		j->shape = JSON_DONE;
		return 0;
	}
	if (j->field) {
		if (c != '{')
			return file_fail(w, "with `field` given, the file must be one object", err);
		if (find_field(j, w, err) < 0)
			return -1;
		j->shape = JSON_ARRAY;
	} else if (c == '[') {
		w->pos++;
		j->shape = JSON_ARRAY;
	} else {
		j->shape = JSON_LINES;
	}
	return 0;
}

/* Converts the row at the start of text; a string becomes {"text": …}. */
static enum jsonpack_result convert(struct json_rows *j, const char *text, size_t n, bool final, size_t *used,
				    struct strbuf *row)
{
	size_t space = 0;

	strbuf_clear(row);
	while (space < n && memchr(" \t\r\n", text[space], 4))
		space++;
	if (space < n && text[space] == '"') {
		pack_map(row, 1);
		pack_str(row, "text", 4);
	}
	return jsonpack_value(&j->json, text, n, final, used, row);
}

static int check_row(const struct json_rows *j, const struct window *w, size_t n, const struct strbuf *row,
		     struct error *err)
{
	const uint8_t *p = (const uint8_t *)row->data;
	struct pack_value v;
	char why[64];

	if (n > ROW_SIZE_MAX || row->len > ROW_SIZE_MAX)
		return row_fail(w, j->rows + 1, 0, "the row is larger than 64 MiB", err);
	if (pack_read(&p, p + row->len, &v) && v.type == PACK_MAP)
		return 0;
	snprintf(why, sizeof why, "a row must be an object, this one is %s", pack_kind(v.type));
	return row_fail(w, j->rows + 1, 0, why, err);
}

static int next_line(struct json_rows *j, struct window *w, struct strbuf *row, struct error *err)
{
	const char *line;
	size_t n, size, used;

	for (;;) {
		int r = window_line(w, j->rows + 1, &line, &n, &size, err);
		if (r <= 0)
			return r;
		size_t space = 0;
		while (space < n && memchr(" \t\r", line[space], 3))
			space++;
		if (space < n)
			break;
		w->pos += size;
	}
	enum jsonpack_result r = convert(j, line, n, true, &used, row);
	if (r != JSONPACK_OK) {
		row_fail(w, j->rows + 1, j->json.at, j->json.why, err);
		if (j->rows == 0 && *line == '{')
			error_hint(err, "without `field`, a file that begins with '{' must have one whole "
					"object per line");
		return -1;
	}
	for (; used < n; used++)
		if (!memchr(" \t\r", line[used], 3))
			return row_fail(w, j->rows + 1, used, "there is more text behind the row on its line",
					err);
	if (check_row(j, w, n, row, err) < 0)
		return -1;
	w->pos += size;
	j->rows++;
	return 1;
}

static int next_element(struct json_rows *j, struct window *w, struct strbuf *row, struct error *err)
{
	size_t used;
	int c = peek(w, err);

	if (c < 0)
		return -1;
	if (c == ']') {
		w->pos++;
		return finish(j, w, err);
	}
	if (j->rows) {
		if (c != ',')
			return row_fail(w, j->rows, 0,
					c ? "expected ',' or ']' behind the row"
					  : "the file ends inside the array",
					err);
		w->pos++;
		if (peek(w, err) < 0)
			return -1;
	}
	for (;;) {
		enum jsonpack_result r = convert(j, w->data + w->pos, w->len - w->pos, w->eof, &used, row);
		if (r == JSONPACK_OK)
			break;
		if (r == JSONPACK_BAD)
			return row_fail(w, j->rows + 1, j->json.at, j->json.why, err);
		if (row_more(w, j->rows + 1, err) < 0)
			return -1;
	}
	if (check_row(j, w, used, row, err) < 0)
		return -1;
	w->pos += used;
	j->rows++;
	return 1;
}

int json_rows_next(struct json_rows *j, struct window *w, struct strbuf *row, struct error *err)
{
	if (j->shape == JSON_UNSEEN && begin(j, w, err) < 0)
		return -1;
	switch (j->shape) {
	case JSON_LINES: return next_line(j, w, row, err);
	case JSON_ARRAY: return next_element(j, w, row, err);
	case JSON_UNSEEN:
	case JSON_DONE: break;
	}
	return 0;
}
