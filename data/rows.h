/* Rows: what the dataset stages hand on. A row is the index it had in its source dataset, which it keeps
 * through every stage, and its fields, a msgpack map from names to any JSON value. */
#ifndef DATA_ROWS_H
#define DATA_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/str.h"
#include "data/pack.h"

/* The largest row that is read or written, in bytes of its source text and of its msgpack. */
#define ROW_SIZE_MAX ((size_t)64 << 20)

struct row {
	uint64_t id;           /* 0-based index of the row in the source dataset */
	const uint8_t *fields; /* one msgpack map with string keys; points into the open file */
	size_t len;            /* bytes */
};

struct rows_writer;

/* Starts a rows file at path, replacing what is there. NULL on failure. */
struct rows_writer *rows_create(const char *path, struct error *err);
/* Adds a row. fields are copied. ERR_USAGE when they are not one valid msgpack map or too large. */
int rows_add(struct rows_writer *w, uint64_t id, const void *fields, size_t len, struct error *err);
/* Finishes the file; w is gone afterwards. On failure there is no file. */
int rows_commit(struct rows_writer *w, struct error *err);
/* Gives up: removes the file. NULL is fine. */
void rows_abort(struct rows_writer *w);

struct rows; /* an open rows file; may be read from several threads at once */

struct rows *rows_open(const char *path, struct error *err);
uint64_t rows_count(const struct rows *r);
/* Row i in file order, 0-based; it holds until rows_close. ERR_USAGE when i is not there or the file is
 * damaged. */
int rows_get(const struct rows *r, uint64_t i, struct row *out, struct error *err);
void rows_close(struct rows *r); /* NULL is fine */

/* The field called name. A name with dots that is no field itself is a path: "a.b" is member b of the object
 * in field a, "a.0" the first element of the array in field a. false when there is none. */
bool row_field(const struct row *row, const char *name, struct pack_value *out);
/* Appends the row's fields as one JSON object on one line, without a newline. */
void row_to_json(const struct row *row, struct strbuf *b);
/* Appends the names of the row's fields, `question, context, answer`; at most a dozen, then ", … (30 in
 * all)". */
void row_names(const struct row *row, struct strbuf *b);
/* The field whose name is nearest to name, a likely typo, appended to b; false when none is near. For a path,
 * its first part is compared. */
bool row_nearest(const struct row *row, const char *name, struct strbuf *b);

#endif
