/* Where a reader's bytes come from: a plain file, or the data files inside an archive or compressed file
 * (libarchive, loaded at the first one). What a file is made of is told from its first bytes, what its
 * content is from its name. */
#ifndef DATA_SOURCE_H
#define DATA_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* What a data file's name says about its content. */
enum data_format {
	DATA_UNKNOWN,
	DATA_JSON, /* .json .jsonl .ndjson: an array or lines, told apart by the first byte */
	DATA_CSV,
	DATA_TSV,
	DATA_PARQUET,
	DATA_TEXT,    /* .txt */
	DATA_ARCHIVE, /* .zip .tar .tgz .txz .tzst and .tar with a compression behind it */
};

/* The format for a file name or path. The endings .gz .zst .xz .bz2 do not count ("a.csv.gz" is DATA_CSV),
 * and neither does upper case. */
enum data_format data_format_of(const char *name);
/* "json", "csv", "tsv", "parquet", "text"; "archive", "unknown". */
const char *data_format_name(enum data_format f);
/* The format for one of the first five names; DATA_UNKNOWN for any other text. */
enum data_format data_format_parse(const char *name);
/* Whether datasets looks at a file of this relative path at all: not at names that begin with a dot,
 * directories that begin with two underscores, README.md, config.json, dataset_info(s).json,
 * dataset_dict.json, dummy_data.zip (datasets/data_files.py, FILES_TO_IGNORE). */
bool data_file_ignored(const char *path);

struct source;

/* Opens path. as is what the file is called when path does not say (a blob in a store): its ending decides
 * the format; NULL = path itself. NULL and an error when it cannot be opened. */
struct source *source_open(const char *path, const char *as, struct error *err);
/* Moves to the next data file within: 1, 0 when there is no more, -1 on failure. A plain or compressed file
 * has exactly one. In an archive they come in the order in which they are stored (a second pass to sort them
 * would mean to decompress twice); members that are no data files by their name are left out, and so are
 * those that data_file_ignored names. A member that is compressed itself, and an archive without a data
 * file, are ERR_USAGE. */
int source_next(struct source *s, struct error *err);
/* What to call the current data file in messages: "path", or "path:member". Valid until source_next. */
const char *source_name(const struct source *s);
/* What its name says it is. */
enum data_format source_format(const struct source *s);
/* Whether the current data file is the file at source_path itself, so that it can be mapped. */
bool source_is_plain(const struct source *s);
const char *source_path(const struct source *s);
/* At most n bytes of the current data file, 0 at its end, -1 on failure. */
int64_t source_read(struct source *s, void *buf, size_t n, struct error *err);
/* Bytes of the file at path that have been used so far, for progress. */
uint64_t source_position(const struct source *s);
void source_close(struct source *s); /* NULL is fine */

/* A sliding window on the current data file: the bytes [data + pos, data + len) have not been used yet. */
struct window {
	struct source *source;
	char *data; /* len bytes and room behind them */
	size_t cap, pos, len;
	uint64_t base; /* offset of data[0] in the data file, decompressed */
	bool eof;      /* what is in the window is all there is */
};

/* Starts on the source's current data file; the memory of an earlier one is used again. */
void window_start(struct window *w, struct source *s);
/* Reads more behind what is there; used bytes make room first, then the window grows. Sets eof at the end. -1
 * on failure, and when more than limit unused bytes would have to be held: what ("row 5") is then too large.
 */
int window_more(struct window *w, size_t limit, const char *what, struct error *err);
/* Offset of the first unused byte in the data file, for messages. */
uint64_t window_offset(const struct window *w);
void window_free(struct window *w);

#endif
