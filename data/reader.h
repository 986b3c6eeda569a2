/* Datasets, row by row, in constant memory: JSON (one array, or lines), CSV and TSV, Parquet and plain text,
 * each plain or inside gz, zst, xz, bz2, zip or tar; one file, or several that follow each other.
 *
 * What becomes of the values:
 *   JSON     as jsonpack.h says. A row is an object; where the elements are strings, each becomes the row
 *            {"text": …}. A file that begins with '[' is one array, anything else is one value per line;
 * blank lines are skipped. A byte order mark is skipped. CSV, TSV RFC 4180 with a header row; separators
 * inside quotes and doubled quotes as there. Every value is a string, also an empty one and also "12": types
 * are not guessed, since a guess depends on rows that come later, and a template prints "007" as it stands. A
 * column without a name is called "Unnamed: 2" (its 0-based place), as pandas does. Blank lines are skipped.
 *   Parquet  as parquet.h says.
 *   text     every line is a row {"text": …}, without its line end; blank lines are rows too.
 *
 * What is not right is an error that names file, row (1-based within the file) and byte (0-based offset in
 * the decompressed data file): invalid UTF-8, duplicate keys or columns, NUL, a row that is no object or has
 * too many values, more than ROW_SIZE_MAX bytes in a row. */
#ifndef DATA_READER_H
#define DATA_READER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/str.h"
#include "data/rows.h"

struct reader_file {
	const char *path;
	const char *as; /* what it is called when path does not say (a blob in a store); its ending decides
			 * the format. NULL = path */
};

struct reader_options {
	const char
		*format; /* "json", "csv", "tsv", "parquet", "text": what every file is, whatever its ending;
			  * NULL = by the ending; a file whose ending says nothing is then an error */
	const char
		*field; /* JSON only: the rows are the array under this key of one big object. NULL = none */
};

struct reader;

/* Opens n files, to be read one after the other in the order given. A path that is a directory stands for the
 * data files below it in byte order of their paths (those data_file_ignored names left out, and files of
 * unknown ending too); none there is ERR_USAGE. The options' texts must live as long as the reader. NULL on
 * failure. */
struct reader *reader_open(const struct reader_file *files, size_t n, const struct reader_options *options,
			   struct error *err);
/* The next row: replaces what is in row by its fields (one msgpack map) and sets *id, which counts the rows
 * from 0 over all files. 1, or 0 behind the last row, or -1 on failure; not to be called again after 0 or -1.
 */
int reader_next(struct reader *r, uint64_t *id, struct strbuf *row, struct error *err);
/* Progress: bytes of the files used so far and in all (compressed size where compressed). */
void reader_progress(const struct reader *r, uint64_t *done, uint64_t *total);
void reader_close(struct reader *r); /* NULL is fine */

#endif
