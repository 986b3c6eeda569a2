#include "runtime/canon.h"

#include <string.h>

/* One type byte and an unsigned number of `width` bytes, most significant first. */
static void head(struct strbuf *b, uint8_t type, uint64_t v, size_t width)
{
	uint8_t raw[9] = {type};

	for (size_t i = 0; i < width; i++)
		raw[width - i] = (uint8_t)(v >> (8 * i));
	strbuf_add(b, raw, 1 + width);
}

void canon_nil(struct strbuf *b)
{
	head(b, 0xc0, 0, 0);
}

void canon_bool(struct strbuf *b, bool v)
{
	head(b, v ? 0xc3 : 0xc2, 0, 0);
}

void canon_int(struct strbuf *b, int64_t v)
{
	uint64_t u = (uint64_t)v;

	if (v >= 0) {
		if (u < 0x80)
			head(b, (uint8_t)u, 0, 0);
		else if (u <= UINT8_MAX)
			head(b, 0xcc, u, 1);
		else if (u <= UINT16_MAX)
			head(b, 0xcd, u, 2);
		else if (u <= UINT32_MAX)
			head(b, 0xce, u, 4);
		else
			head(b, 0xcf, u, 8);
	} else if (v >= -32) {
		head(b, (uint8_t)u, 0, 0);
	} else if (v >= INT8_MIN) {
		head(b, 0xd0, u, 1);
	} else if (v >= INT16_MIN) {
		head(b, 0xd1, u, 2);
	} else if (v >= INT32_MIN) {
		head(b, 0xd2, u, 4);
	} else {
		head(b, 0xd3, u, 8);
	}
}

void canon_float(struct strbuf *b, double v)
{
	uint64_t u;

	v += 0.0; /* -0 and 0 are one value and need one spelling */
	memcpy(&u, &v, sizeof u);
	head(b, 0xcb, u, 8);
}

void canon_str(struct strbuf *b, const char *s)
{
	if (!s) {
		canon_nil(b);
		return;
	}
	size_t n = strlen(s);
	if (n < 32)
		head(b, (uint8_t)(0xa0 | n), 0, 0);
	else if (n <= UINT8_MAX)
		head(b, 0xd9, n, 1);
	else if (n <= UINT16_MAX)
		head(b, 0xda, n, 2);
	else
		head(b, 0xdb, n, 4);
	strbuf_add(b, s, n);
}

void canon_bin(struct strbuf *b, const void *bytes, size_t n)
{
	if (n <= UINT8_MAX)
		head(b, 0xc4, n, 1);
	else if (n <= UINT16_MAX)
		head(b, 0xc5, n, 2);
	else
		head(b, 0xc6, n, 4);
	strbuf_add(b, bytes, n);
}

void canon_digest(struct strbuf *b, const struct digest *d)
{
	canon_bin(b, d->bytes, sizeof d->bytes);
}

void canon_array(struct strbuf *b, size_t n)
{
	if (n < 16)
		head(b, (uint8_t)(0x90 | n), 0, 0);
	else if (n <= UINT16_MAX)
		head(b, 0xdc, n, 2);
	else
		head(b, 0xdd, n, 4);
}

void canon_map(struct strbuf *b, size_t n)
{
	if (n < 16)
		head(b, (uint8_t)(0x80 | n), 0, 0);
	else if (n <= UINT16_MAX)
		head(b, 0xde, n, 2);
	else
		head(b, 0xdf, n, 4);
}

struct canon canon_open(const void *bytes, size_t n)
{
	const uint8_t *p = n ? bytes : (const uint8_t *)"";

	return (struct canon){p, p + n, false};
}

static bool fail(struct canon *c)
{
	c->bad = true;
	c->p = c->end;
	return false;
}

static bool number(struct canon *c, size_t width, uint64_t *out)
{
	if ((size_t)(c->end - c->p) < width)
		return fail(c);
	uint64_t v = 0;
	for (size_t i = 0; i < width; i++)
		v = v << 8 | c->p[i];
	c->p += width;
	*out = v;
	return true;
}

static bool bytes_of(struct canon *c, struct canon_item *out, enum canon_type type, size_t width, size_t n)
{
	uint64_t v = n;

	if (width && !number(c, width, &v))
		return false;
	if (v > (uint64_t)(c->end - c->p))
		return fail(c);
	out->type = type;
	out->n = (size_t)v;
	out->bytes = c->p;
	c->p += v;
	return true;
}

static bool members_of(struct canon *c, struct canon_item *out, enum canon_type type, size_t width, size_t n)
{
	uint64_t v = n;

	if (width && !number(c, width, &v))
		return false;
	/* A member takes at least a byte: what claims more than there is would only make readers allocate. */
	if (v > (uint64_t)(c->end - c->p))
		return fail(c);
	out->type = type;
	out->n = (size_t)v;
	return true;
}

static bool integer(struct canon *c, struct canon_item *out, size_t width, bool is_signed)
{
	uint64_t v;

	if (!number(c, width, &v))
		return false;
	if (is_signed && width < 8 && v >> (8 * width - 1))
		v |= ~(uint64_t)0 << (8 * width);
	if (!is_signed && v > INT64_MAX)
		return fail(c);
	out->type = CANON_INT;
	out->i = (int64_t)v;
	return true;
}

bool canon_next(struct canon *c, struct canon_item *out)
{
	uint64_t v;

	if (c->p == c->end)
		return fail(c);
	uint8_t t = *c->p++;
	out->bytes = NULL;
	if (t < 0x80 || t >= 0xe0) {
		out->type = CANON_INT;
		out->i = (int8_t)t;
		return true;
	}
	if (t < 0x90)
		return members_of(c, out, CANON_MAP, 0, t & 15);
	if (t < 0xa0)
		return members_of(c, out, CANON_ARRAY, 0, t & 15);
	if (t < 0xc0)
		return bytes_of(c, out, CANON_STR, 0, t & 31);
	switch (t) {
	case 0xc0: out->type = CANON_NIL; return true;
	case 0xc2:
	case 0xc3:
		out->type = CANON_BOOL;
		out->b = t == 0xc3;
		return true;
	case 0xc4: return bytes_of(c, out, CANON_BIN, 1, 0);
	case 0xc5: return bytes_of(c, out, CANON_BIN, 2, 0);
	case 0xc6: return bytes_of(c, out, CANON_BIN, 4, 0);
	case 0xcb:
		if (!number(c, 8, &v))
			return false;
		out->type = CANON_FLOAT;
		memcpy(&out->f, &v, sizeof v);
		return true;
	case 0xcc: return integer(c, out, 1, false);
	case 0xcd: return integer(c, out, 2, false);
	case 0xce: return integer(c, out, 4, false);
	case 0xcf: return integer(c, out, 8, false);
	case 0xd0: return integer(c, out, 1, true);
	case 0xd1: return integer(c, out, 2, true);
	case 0xd2: return integer(c, out, 4, true);
	case 0xd3: return integer(c, out, 8, true);
	case 0xd9: return bytes_of(c, out, CANON_STR, 1, 0);
	case 0xda: return bytes_of(c, out, CANON_STR, 2, 0);
	case 0xdb: return bytes_of(c, out, CANON_STR, 4, 0);
	case 0xdc: return members_of(c, out, CANON_ARRAY, 2, 0);
	case 0xdd: return members_of(c, out, CANON_ARRAY, 4, 0);
	case 0xde: return members_of(c, out, CANON_MAP, 2, 0);
	case 0xdf: return members_of(c, out, CANON_MAP, 4, 0);
	default: return fail(c); /* float32 and extensions: never written here */
	}
}

static bool typed(struct canon *c, enum canon_type type, struct canon_item *it)
{
	return canon_next(c, it) && (it->type == type || fail(c));
}

bool canon_get_bool(struct canon *c, bool *out)
{
	struct canon_item it;

	if (!typed(c, CANON_BOOL, &it))
		return false;
	*out = it.b;
	return true;
}

bool canon_get_int(struct canon *c, int64_t *out)
{
	struct canon_item it;

	if (!typed(c, CANON_INT, &it))
		return false;
	*out = it.i;
	return true;
}

bool canon_get_digest(struct canon *c, struct digest *out)
{
	struct canon_item it;

	if (!typed(c, CANON_BIN, &it))
		return false;
	if (it.n != sizeof out->bytes)
		return fail(c);
	memcpy(out->bytes, it.bytes, it.n);
	return true;
}

bool canon_get_array(struct canon *c, size_t *n)
{
	struct canon_item it;

	if (!typed(c, CANON_ARRAY, &it))
		return false;
	*n = it.n;
	return true;
}

bool canon_get_map(struct canon *c, size_t *n)
{
	struct canon_item it;

	if (!typed(c, CANON_MAP, &it))
		return false;
	*n = it.n;
	return true;
}

bool canon_get_str(struct canon *c, struct arena *a, const char **out)
{
	struct canon_item it;

	if (!canon_next(c, &it))
		return false;
	if (it.type == CANON_NIL) {
		*out = NULL;
		return true;
	}
	if (it.type != CANON_STR)
		return fail(c);
	*out = arena_strndup(a, (const char *)it.bytes, it.n);
	return true;
}

bool canon_skip(struct canon *c, const uint8_t **bytes, size_t *n)
{
	const uint8_t *start = c->p;

	for (uint64_t left = 1; left; left--) { /* no recursion: the depth is the record's choice */
		struct canon_item it;
		if (!canon_next(c, &it))
			return false;
		if (it.type == CANON_ARRAY)
			left += it.n;
		else if (it.type == CANON_MAP)
			left += 2 * (uint64_t)it.n;
	}
	if (bytes)
		*bytes = start;
	if (n)
		*n = (size_t)(c->p - start);
	return true;
}
