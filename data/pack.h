/* MessagePack values, written to a strbuf and read in place: what rows are made of (https://msgpack.org, the
 * 2013 specification; extension types are not used).
 *
 * Reading allocates nothing and believes nothing: every length is checked against the bytes that are there.
 * Writing is canonical, the shortest form of every value, so that equal rows are equal bytes. */
#ifndef DATA_PACK_H
#define DATA_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

/* The deepest nesting of maps and arrays that is read or written. */
#define PACK_DEPTH_MAX 512

enum pack_type {
	PACK_NIL,
	PACK_BOOL,
	PACK_INT,
	PACK_UINT,
	PACK_F64,
	PACK_STR,
	PACK_BIN,
	PACK_ARRAY,
	PACK_MAP
};

/* One value. All pointers point into the bytes that were read and hold as long as those. */
struct pack_value {
	enum pack_type type;
	union {
		bool boolean;   /* PACK_BOOL */
		int64_t i64;    /* PACK_INT: every integer that fits */
		uint64_t u64;   /* PACK_UINT: only what is above INT64_MAX */
		double f64;     /* PACK_F64 */
		uint32_t count; /* PACK_ARRAY: elements; PACK_MAP: pairs; they follow from body on */
		uint32_t len;   /* PACK_STR, PACK_BIN: bytes at body (not NUL-terminated) */
	};
	const uint8_t *start; /* the first byte of the encoded value */
	const uint8_t *body;  /* behind its type and length */
};

/* Reads the value at *p, which ends before end, and moves *p behind it; for an array or a map only behind its
 * head, to its first element. false when the bytes are not a value: *p is then where it was. */
bool pack_read(const uint8_t **p, const uint8_t *end, struct pack_value *v);
/* Moves *p behind one whole value, elements included. false when it is malformed or cut off. */
bool pack_skip(const uint8_t **p, const uint8_t *end);
/* Whether the n bytes are exactly one value, nested at most PACK_DEPTH_MAX deep, with string keys in its
 * maps. */
bool pack_valid(const uint8_t *p, size_t n);
/* "a string", "an integer", "null" …, for messages. */
const char *pack_kind(enum pack_type type);

void pack_nil(struct strbuf *b);
void pack_bool(struct strbuf *b, bool v);
void pack_i64(struct strbuf *b, int64_t v);
void pack_u64(struct strbuf *b, uint64_t v);
void pack_f64(struct strbuf *b, double v); /* always 64 bits, so that 1.0 stays a float */
void pack_str(struct strbuf *b, const char *s, size_t n);
void pack_bin(struct strbuf *b, const void *bytes, size_t n);
void pack_array(struct strbuf *b, uint32_t count); /* count elements must follow */
void pack_map(struct strbuf *b, uint32_t count);   /* count pairs must follow */

/* The heads of strings, arrays and maps alone, for writers that learn the length last: the bytes (at most 5)
 * go to head, their number is returned. */
size_t pack_str_head(uint8_t head[5], uint32_t len);
size_t pack_array_head(uint8_t head[5], uint32_t count);
size_t pack_map_head(uint8_t head[5], uint32_t count);

/* Appends the value in the n bytes at p as JSON on one line, with ", " and ": " as Python's json.dumps writes
 * it, but text outside ASCII as it is. A float keeps its point or exponent (1.0, 1e+16); NaN and the
 * infinities, which JSON does not have, become null; bin becomes a base16 string. -1 when the bytes are no
 * value or nested too deeply: b may then hold a part. */
int pack_to_json(const uint8_t *p, size_t n, struct strbuf *b);

/* The shortest text that reads back as v, spelled as Python's repr() spells it: "1.0", "1e-05", "1e+16",
 * "nan", "-inf". At most 32 bytes. */
void pack_f64_text(double v, char out[32]);

#endif
