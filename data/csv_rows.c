/* CSV, TSV and plain text. */
#include "data/formats.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "data/pack.h"
#include "data/rows.h"

enum record_result { RECORD_OK, RECORD_MORE, RECORD_BAD };

static void end_value(struct csv_rows *c)
{
	grow(&c->ends, &c->cap, c->count + 1, sizeof *c->ends);
	c->ends[c->count++] = c->values.len;
}

/* A value in quotes at p, which is at the quote: appends it and gives the place behind the closing quote.
 * NULL when the text ends before. */
static const char *quoted(struct csv_rows *c, const char *p, const char *end)
{
	for (p++;;) {
		const char *q = memchr(p, '"', (size_t)(end - p));
		if (!q)
			return NULL;
		strbuf_add(&c->values, p, (size_t)(q - p));
		if (q + 1 < end && q[1] == '"') {
			strbuf_addc(&c->values, '"');
			p = q + 2;
			continue;
		}
		return q + 1;
	}
}

/* Splits the record at the start of text into values. When the text does not reach behind the record's end
 * and is not final, more is asked for. */
static enum record_result split(struct csv_rows *c, const char *text, size_t n, bool final, size_t *used,
				size_t *at, const char **why)
{
	const char *p = text, *end = text + n;

	c->count = 0;
	strbuf_clear(&c->values);
	for (;;) {
		if (p < end && *p == '"') {
			const char *opening = p;
			p = quoted(c, p, end);
			/* A quote as the last byte may be the first half of a doubled one. */
			if (!final && (!p || p == end))
				return RECORD_MORE;
			if (!p) {
				*at = (size_t)(opening - text);
				*why = "a quote that is never closed";
				return RECORD_BAD;
			}
			if (p < end && *p != c->separator && *p != '\n' && *p != '\r') {
				*at = (size_t)(p - text);
				*why = "text behind a closing quote; quotes inside quotes must be doubled";
				return RECORD_BAD;
			}
		} else {
			const char *from = p;
			while (p < end && *p != c->separator && *p != '\n' && *p != '\r')
				p++;
			strbuf_add(&c->values, from, (size_t)(p - from));
		}
		if (p == end && !final)
			return RECORD_MORE;
		end_value(c);
		if (p == end || *p != c->separator)
			break;
		p++;
	}
	if (p < end && *p == '\r' && p + 1 == end && !final)
		return RECORD_MORE;
	if (p < end)
		p += *p == '\r' && p + 1 < end && p[1] == '\n' ? 2 : 1;
	*used = (size_t)(p - text);
	return RECORD_OK;
}

/* The next record that is not a blank line: 1, 0, -1. *used bytes of the window are its. */
static int next_record(struct csv_rows *c, struct window *w, size_t *used, struct error *err)
{
	uint64_t row = c->rows + 1;
	const char *why;
	char what[32];
	size_t at;

	snprintf(what, sizeof what, "row %" PRIu64, row);
	for (;;) {
		if (w->pos < w->len && (w->data[w->pos] == '\n' || w->data[w->pos] == '\r')) {
			w->pos++;
			continue;
		}
		if (w->pos == w->len && w->eof)
			return 0;
		if (w->pos < w->len) {
			switch (split(c, w->data + w->pos, w->len - w->pos, w->eof, used, &at, &why)) {
			case RECORD_OK: goto found;
			case RECORD_BAD: return row_fail(w, row, at, why, err);
			case RECORD_MORE: break;
			}
		}
		if (window_more(w, ROW_SIZE_MAX, what, err) < 0)
			return -1;
	}
found:
	if (*used > ROW_SIZE_MAX)
		return row_fail(w, row, 0, "the row is larger than 64 MiB", err);
	const char *text = w->data + w->pos, *nul = memchr(text, 0, *used);
	size_t valid = utf8_valid(text, *used);
	if (nul)
		return row_fail(w, row, (size_t)(nul - text), "a NUL byte", err);
	if (valid < *used)
		return row_fail(w, row, valid, "invalid UTF-8", err);
	return 1;
}

static int read_header(struct csv_rows *c, struct window *w, struct error *err)
{
	size_t used, start = 0;

	c->started = true;
	if (window_skip_bom(w, err) < 0)
		return -1;
	int r = next_record(c, w, &used, err);
	if (r <= 0)
		return r;
	if (c->count > COLUMNS_MAX)
		return error_set(err, ERR_USAGE, "%s: the header has %zu columns, more than the %d allowed",
				 source_name(w->source), c->count, COLUMNS_MAX);
	c->column_count = c->count;
	c->column_ends = xreallocarray(c->column_ends, c->count, sizeof *c->column_ends);
	strbuf_clear(&c->columns);
	for (size_t i = 0; i < c->count; i++) {
		if (c->ends[i] == start)
			strbuf_addf(&c->columns, "Unnamed: %zu", i);
		else
			strbuf_add(&c->columns, c->values.data + start, c->ends[i] - start);
		start = c->ends[i];
		c->column_ends[i] = c->columns.len;
	}
	for (size_t i = 1, a = c->column_ends[0]; i < c->count; a = c->column_ends[i++]) {
		size_t n = c->column_ends[i] - a;
		for (size_t k = 0, b = 0; k < i; b = c->column_ends[k++])
			if (c->column_ends[k] - b == n &&
			    memcmp(c->columns.data + a, c->columns.data + b, n) == 0)
				return error_set(
					err, ERR_USAGE, "%s: the header has the column \"%.*s\" twice",
					source_name(w->source), (int)(n < 80 ? n : 80), c->columns.data + a);
	}
	w->pos += used;
	return 1;
}

int csv_rows_next(struct csv_rows *c, struct window *w, struct strbuf *row, struct error *err)
{
	size_t used, name = 0, value = 0;
	int r;

	if (!c->started && (r = read_header(c, w, err)) <= 0)
		return r;
	if ((r = next_record(c, w, &used, err)) <= 0)
		return r;
	if (c->count != c->column_count) {
		char why[96];
		snprintf(why, sizeof why, "%zu values, but the header has %zu columns", c->count,
			 c->column_count);
		row_fail(w, c->rows + 1, 0, why, err);
		return error_hint(
			err, "a value with a separator, a quote or a line break in it must be in quotes");
	}
	pack_map(row, (uint32_t)c->count);
	for (size_t i = 0; i < c->count; i++) {
		pack_str(row, c->columns.data + name, c->column_ends[i] - name);
		pack_str(row, c->values.len ? c->values.data + value : "", c->ends[i] - value);
		name = c->column_ends[i];
		value = c->ends[i];
	}
	if (row->len > ROW_SIZE_MAX)
		return row_fail(w, c->rows + 1, 0, "the row is larger than 64 MiB", err);
	w->pos += used;
	c->rows++;
	return 1;
}

void csv_rows_reset(struct csv_rows *c, char separator)
{
	c->separator = separator;
	c->started = false;
	c->column_count = 0;
	c->rows = 0;
}

void csv_rows_free(struct csv_rows *c)
{
	strbuf_free(&c->values);
	strbuf_free(&c->columns);
	free(c->ends);
	free(c->column_ends);
}

int text_rows_next(struct text_rows *t, struct window *w, struct strbuf *row, struct error *err)
{
	const char *line;
	size_t n, used;

	if (t->rows == 0 && window_skip_bom(w, err) < 0)
		return -1;
	int r = window_line(w, t->rows + 1, &line, &n, &used, err);
	if (r <= 0)
		return r;
	const char *nul = memchr(line, 0, n);
	size_t valid = utf8_valid(line, n);
	if (nul)
		return row_fail(w, t->rows + 1, (size_t)(nul - line), "a NUL byte", err);
	if (valid < n)
		return row_fail(w, t->rows + 1, valid, "invalid UTF-8", err);
	pack_map(row, 1);
	pack_str(row, "text", 4);
	pack_str(row, line, n);
	w->pos += used;
	t->rows++;
	return 1;
}
