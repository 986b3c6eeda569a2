/* JSON text to msgpack in one pass, without a tree between: what makes reading a dataset fast. RFC 8259, read
 * strictly: UTF-8 only, no duplicate keys, no NUL (raw or \u0000), no lone surrogates, nested at most
 * PACK_DEPTH_MAX deep. Integers that fit i64 or u64 stay integers; larger ones and everything with a point or
 * an exponent become the nearest double. A number beyond the largest double is an error. */
#ifndef DATA_JSONPACK_H
#define DATA_JSONPACK_H

#include <stdbool.h>
#include <stddef.h>

#include "base/str.h"

struct jsonpack_key;

/* The converter's scratch memory and its findings; start from zeros and free it in the end. */
struct jsonpack {
	size_t at;     /* after JSONPACK_BAD: offset of the offending byte in the text */
	char why[160]; /* after JSONPACK_BAD: what is wrong there */
	const char *text, *p, *end;
	bool final;
	struct strbuf *out;
	struct strbuf number; /* the text of a number that strtod gets, NUL-terminated */
	struct jsonpack_key *keys;
	size_t key_count, key_cap;
};

enum jsonpack_result {
	JSONPACK_OK,
	JSONPACK_MORE, /* the text ends inside the value: call again with more of it, from the start */
	JSONPACK_BAD,  /* not JSON */
};

/* Converts the value at the start of text (white space before it is skipped), appends it to out and gives the
 * bytes used. final says that no text follows: a value that is cut off is then JSONPACK_BAD. Unless the
 * result is JSONPACK_OK, out may hold a part that the caller drops. */
enum jsonpack_result jsonpack_value(struct jsonpack *j, const char *text, size_t n, bool final, size_t *used,
				    struct strbuf *out);
void jsonpack_free(struct jsonpack *j);

#endif
