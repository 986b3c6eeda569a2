/* The Thrift compact protocol, reading only: what Parquet's footer and page headers are written in
 * (thrift/doc/specs/thrift-compact-protocol.md). After anything malformed `bad` is set, every further read
 * gives 0, and every loop over fields ends. */
#ifndef DATA_THRIFT_H
#define DATA_THRIFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum thrift_type {
	THRIFT_STOP,
	THRIFT_TRUE,
	THRIFT_FALSE,
	THRIFT_I8,
	THRIFT_I16,
	THRIFT_I32,
	THRIFT_I64,
	THRIFT_DOUBLE,
	THRIFT_BINARY,
	THRIFT_LIST,
	THRIFT_SET,
	THRIFT_MAP,
	THRIFT_STRUCT,
};

struct thrift {
	const uint8_t *p, *end; /* what has not been read */
	bool bad;
};

struct thrift_field {
	int id; /* 0 before the first field of a struct */
	enum thrift_type type;
};

/* The next field of the struct that is being read; false at its end. f starts from zeros. */
bool thrift_next(struct thrift *t, struct thrift_field *f);
/* The field's value when it has the type, which is then read; otherwise the value is skipped. Booleans are in
 * the type already. */
int64_t thrift_int(struct thrift *t, const struct thrift_field *f); /* I8 to I64 */
bool thrift_bool(struct thrift *t, const struct thrift_field *f);
const uint8_t *thrift_binary(struct thrift *t, const struct thrift_field *f,
			     size_t *n); /* NULL when not one */
/* Begins a list of structs or of binaries: the number of elements; 0, and skipped, when it is none. */
size_t thrift_list(struct thrift *t, const struct thrift_field *f, enum thrift_type element);
/* The bytes of a binary that is an element of a list. */
const uint8_t *thrift_element(struct thrift *t, size_t *n);
/* Begins a struct field; false, and skipped, when it is none. */
bool thrift_struct(struct thrift *t, const struct thrift_field *f);
void thrift_skip(struct thrift *t, enum thrift_type type);

#endif
