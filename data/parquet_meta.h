/* What a Parquet file says about itself: columns and column chunks from its footer, and page headers. Checked
 * so far that every chunk lies inside the file and every column is one that parquet.c can decode; page
 * contents are for parquet.c to check. Field numbers and enumerations: apache/parquet-format, parquet.thrift.
 */
#ifndef DATA_PARQUET_META_H
#define DATA_PARQUET_META_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/mem.h"

enum parquet_type {
	PARQUET_BOOLEAN = 0,
	PARQUET_INT32 = 1,
	PARQUET_INT64 = 2,
	PARQUET_FLOAT = 4,
	PARQUET_DOUBLE = 5,
	PARQUET_BYTE_ARRAY = 6
};
enum parquet_codec { PARQUET_UNCOMPRESSED = 0, PARQUET_SNAPPY = 1, PARQUET_GZIP = 2, PARQUET_ZSTD = 6 };
enum parquet_encoding {
	PARQUET_PLAIN = 0,
	PARQUET_PLAIN_DICTIONARY = 2,
	PARQUET_RLE = 3,
	PARQUET_RLE_DICTIONARY = 8
};
enum parquet_page_type { PARQUET_DATA = 0, PARQUET_INDEX = 1, PARQUET_DICTIONARY = 2, PARQUET_DATA_V2 = 3 };

struct parquet_column {
	const char *name;
	enum parquet_type type;
	bool optional;    /* has definition levels of one bit */
	bool is_unsigned; /* INT32 and INT64 only */
};

/* One column of one row group: its pages, one after the other. */
struct parquet_chunk {
	uint64_t offset, size; /* of the pages in the file, dictionary included; inside the file */
	int64_t values;        /* values in all pages, nulls included: the rows of the group */
	enum parquet_codec codec;
};

struct parquet_meta {
	struct parquet_column *columns; /* (column_count) */
	size_t column_count;
	struct parquet_chunk *chunks; /* (group_count, column_count) */
	int64_t *group_rows;          /* (group_count) */
	size_t group_count;
	uint64_t rows;
};

/* Reads the footer; all of out lives in arena. name is for errors. */
int parquet_meta_read(const uint8_t *data, uint64_t size, const char *name, struct arena *arena,
		      struct parquet_meta *out, struct error *err);

struct parquet_page {
	int type; /* enum parquet_page_type, or a number that is none of them */
	int64_t uncompressed, compressed;
	int64_t values;                      /* nulls included */
	int encoding;                        /* of the values */
	int level_coding;                    /* V1: encoding of the definition levels */
	int64_t level_size, repetition_size; /* V2: bytes of the levels, which are never compressed */
	bool is_compressed;                  /* V2 */
};

/* Reads the page header at p; *used gets its bytes. false when it is malformed. */
bool parquet_page_read(const uint8_t *p, const uint8_t *end, struct parquet_page *out, size_t *used);

#endif
