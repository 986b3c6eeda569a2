/* Parquet files (https://parquet.apache.org/docs/file-format/), as far as datasets need them: flat columns,
 * required or optional, of type BOOLEAN, INT32, INT64, FLOAT, DOUBLE and BYTE_ARRAY; data pages V1 and V2;
 * encodings PLAIN, RLE_DICTIONARY, PLAIN_DICTIONARY and, for booleans, RLE; codecs UNCOMPRESSED, SNAPPY, GZIP
 * and ZSTD. Anything else (nested columns, dates, decimals, other encodings and codecs) is an error that
 * names column and feature.
 *
 * Values become: BYTE_ARRAY a string, which must be UTF-8; integers an integer, unsigned where the column
 * says so; FLOAT and DOUBLE a 64-bit float; null nil. The file is mapped and decoded page by page: memory is
 * one page per column and its dictionary. */
#ifndef DATA_PARQUET_H
#define DATA_PARQUET_H

#include <stdint.h>

#include "base/error.h"
#include "base/str.h"

struct parquet;

/* Opens the file in the size bytes at data, which must stay until parquet_close; name is what errors call it.
 */
struct parquet *parquet_open(const uint8_t *data, uint64_t size, const char *name, struct error *err);
/* Appends the next row's fields, one msgpack map in the order of the columns, to row: 1, 0 behind the last,
 * -1. */
int parquet_next(struct parquet *p, struct strbuf *row, struct error *err);
/* Rows in all, from the footer. */
uint64_t parquet_rows(const struct parquet *p);
void parquet_close(struct parquet *p); /* NULL is fine */

#endif
