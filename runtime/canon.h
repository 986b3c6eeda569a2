/* Canonical msgpack: the records of keys, tree manifests, and the compact columns of the database. One value has one
 * spelling: the smallest integer, string and container headers, floats always as float64, map keys in byte order
 * (which is the writer's duty). https://github.com/msgpack/msgpack/blob/master/spec.md */
#ifndef RUNTIME_CANON_H
#define RUNTIME_CANON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/str.h"

/* ---- writing: each appends one value, or the head of a container whose n members (2 n for a map) follow ---- */
void canon_nil(struct strbuf *b);
void canon_bool(struct strbuf *b, bool v);
void canon_int(struct strbuf *b, int64_t v);
void canon_float(struct strbuf *b, double v);    /* -0 is written as 0 */
void canon_str(struct strbuf *b, const char *s); /* NULL: nil */
void canon_bin(struct strbuf *b, const void *bytes, size_t n);
void canon_digest(struct strbuf *b, const struct digest *d); /* bin of 32 bytes */
void canon_array(struct strbuf *b, size_t n);
void canon_map(struct strbuf *b, size_t n);

/* ---- reading, of bytes that nobody vouches for ---- */
enum canon_type {
	CANON_NIL,
	CANON_BOOL,
	CANON_INT,
	CANON_FLOAT,
	CANON_STR,
	CANON_BIN,
	CANON_ARRAY,
	CANON_MAP
};

struct canon_item {
	enum canon_type type;
	union {
		bool b;
		int64_t i;
		double f;
		size_t n; /* members of an array, pairs of a map; bytes of a string or bin */
	};
	const uint8_t *bytes; /* CANON_STR, CANON_BIN: n bytes inside the record, no terminator */
};

struct canon {
	const uint8_t *p, *end;
	bool bad; /* something was cut off or of another type; every later read fails */
};

struct canon canon_open(const void *bytes, size_t n);
/* Each reads one value; false, with bad set, when there is none of that type. */
bool canon_next(struct canon *c, struct canon_item *out);
bool canon_get_bool(struct canon *c, bool *out);
bool canon_get_int(struct canon *c, int64_t *out);
bool canon_get_digest(struct canon *c, struct digest *out);
bool canon_get_array(struct canon *c, size_t *n);
bool canon_get_map(struct canon *c, size_t *n);
/* A string, copied into a with a terminator; nil gives NULL. */
bool canon_get_str(struct canon *c, struct arena *a, const char **out);
/* Passes over one whole value and gives its bytes. */
bool canon_skip(struct canon *c, const uint8_t **bytes, size_t *n);

#endif
