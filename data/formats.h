/* The line and record formats that reader.c puts together. Each takes rows from a window on a data file: 1
 * and the row's fields in row (which is empty at the call), 0 at the end, -1 on failure. */
#ifndef DATA_FORMATS_H
#define DATA_FORMATS_H

#include <stdbool.h>

#include "data/jsonpack.h"
#include "data/source.h"

/* The most columns of a CSV or Parquet file. */
#define COLUMNS_MAX 10000

/* State of the reader of one JSON file; start from zeros (the scratch memory of json may be kept). */
struct json_rows {
	struct jsonpack json;
	const char *field; /* the key whose array holds the rows, or NULL */
	enum { JSON_UNSEEN, JSON_LINES, JSON_ARRAY, JSON_DONE } shape;
	bool wrapped;  /* inside the object that has `field` */
	uint64_t rows; /* read so far in this file */
};
int json_rows_next(struct json_rows *j, struct window *w, struct strbuf *row, struct error *err);

struct csv_rows {
	char separator;        /* ',' or '\t' */
	struct strbuf values;  /* of one record, one after the other, each NUL-terminated */
	size_t *ends;          /* where each value ends in values */
	size_t count, cap;     /* values of the current record */
	struct strbuf columns; /* as values, for the header */
	size_t *column_ends;
	size_t column_count;
	bool started; /* the header has been read */
	uint64_t rows;
};
int csv_rows_next(struct csv_rows *c, struct window *w, struct strbuf *row, struct error *err);
/* Forgets the file, keeps the memory. */
void csv_rows_reset(struct csv_rows *c, char separator);
void csv_rows_free(struct csv_rows *c);

struct text_rows {
	uint64_t rows;
};
int text_rows_next(struct text_rows *t, struct window *w, struct strbuf *row, struct error *err);

/* Skips a UTF-8 byte order mark at the start of the file; reads the first bytes. */
int window_skip_bom(struct window *w, struct error *err);
/* The line that starts at the window's unused bytes, without its end ("\n" or "\r\n"), *used bytes with it;
 * it holds until the window is moved. 1, 0 at the end of the file, -1 on failure. */
int window_line(struct window *w, uint64_t row, const char **line, size_t *n, size_t *used,
		struct error *err);
/* "NAME: row 3 (byte 120): why" with ERR_USAGE; row 1-based, at = bytes behind the window's first unused. */
int row_fail(const struct window *w, uint64_t row, size_t at, const char *why, struct error *err);

#endif
