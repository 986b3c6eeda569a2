#include "data/pack.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t load_be(const uint8_t *p, size_t n)
{
	uint64_t v = 0;

	for (size_t i = 0; i < n; i++)
		v = v << 8 | p[i];
	return v;
}

static void set_u64(struct pack_value *v, uint64_t u)
{
	v->type = u > INT64_MAX ? PACK_UINT : PACK_INT;
	v->u64 = u; /* the same 64 bits as i64 when it fits */
}

static bool read_sized(const uint8_t *q, const uint8_t *end, size_t width, enum pack_type type,
		       struct pack_value *v, const uint8_t **p)
{
	if ((size_t)(end - q) < width)
		return false;
	v->type = type;
	v->len = (uint32_t)load_be(q, width);
	v->body = q + width;
	if (type == PACK_STR || type == PACK_BIN) {
		if (v->len > (size_t)(end - v->body))
			return false;
		*p = v->body + v->len;
	} else {
		/* Each element takes a byte at least, so a larger count is a lie. */
		if ((type == PACK_MAP ? 2 : 1) * (uint64_t)v->count > (uint64_t)(end - v->body))
			return false;
		*p = v->body;
	}
	return true;
}

static bool read_number(uint8_t tag, const uint8_t *q, const uint8_t *end, struct pack_value *v)
{
	static const uint8_t widths[10] = {4, 8, 1, 2, 4, 8, 1, 2, 4, 8}; /* tags 0xca to 0xd3 */
	size_t width = widths[tag - 0xca];

	if ((size_t)(end - q) < width)
		return false;
	uint64_t u = load_be(q, width);
	v->body = q + width;
	if (tag == 0xca) {
		uint32_t bits = (uint32_t)u;
		float f;
		memcpy(&f, &bits, sizeof f);
		v->type = PACK_F64;
		v->f64 = (double)f;
	} else if (tag == 0xcb) {
		v->type = PACK_F64;
		memcpy(&v->f64, &u, sizeof u);
	} else if (tag <= 0xcf) {
		set_u64(v, u);
	} else {
		unsigned shift = (unsigned)(64 - 8 * width);
		v->type = PACK_INT;
		v->i64 = (int64_t)(u << shift) >> shift;
	}
	return true;
}

bool pack_read(const uint8_t **p, const uint8_t *end, struct pack_value *v)
{
	const uint8_t *q = *p;

	if (q >= end)
		return false;
	uint8_t tag = *q++;
	v->start = *p;
	v->body = q;
	if (tag <= 0x7f || tag >= 0xe0) {
		v->type = PACK_INT;
		v->i64 = (int8_t)tag;
	} else if (tag <= 0x8f || (tag <= 0x9f)) {
		v->type = tag <= 0x8f ? PACK_MAP : PACK_ARRAY;
		v->count = tag & 0x0fu;
		if ((tag <= 0x8f ? 2u : 1u) * (size_t)v->count > (size_t)(end - q))
			return false;
	} else if (tag <= 0xbf) {
		v->type = PACK_STR;
		v->len = tag & 0x1fu;
		if (v->len > (size_t)(end - q))
			return false;
		q += v->len;
	} else if (tag == 0xc0) {
		v->type = PACK_NIL;
	} else if (tag == 0xc2 || tag == 0xc3) {
		v->type = PACK_BOOL;
		v->boolean = tag == 0xc3;
	} else if (tag >= 0xc4 && tag <= 0xc6) {
		return read_sized(q, end, (size_t)1 << (tag - 0xc4), PACK_BIN, v, p);
	} else if (tag >= 0xca && tag <= 0xd3) {
		if (!read_number(tag, q, end, v))
			return false;
		q = v->body;
	} else if (tag >= 0xd9 && tag <= 0xdb) {
		return read_sized(q, end, (size_t)1 << (tag - 0xd9), PACK_STR, v, p);
	} else if (tag >= 0xdc) {
		return read_sized(q, end, tag & 1 ? 4 : 2, tag < 0xde ? PACK_ARRAY : PACK_MAP, v, p);
	} else {
		return false;
	}
	*p = q;
	return true;
}

bool pack_skip(const uint8_t **p, const uint8_t *end)
{
	const uint8_t *q = *p;
	struct pack_value v;

	/* Values still to come; no stack, so depth does not matter. */
	for (uint64_t left = 1; left; left--) {
		if (left > (uint64_t)(end - q) || !pack_read(&q, end, &v))
			return false;
		if (v.type == PACK_ARRAY)
			left += v.count;
		else if (v.type == PACK_MAP)
			left += 2 * (uint64_t)v.count;
	}
	*p = q;
	return true;
}

static bool valid(const uint8_t **p, const uint8_t *end, int depth)
{
	struct pack_value v, key;

	if (!pack_read(p, end, &v))
		return false;
	if (v.type != PACK_ARRAY && v.type != PACK_MAP)
		return true;
	if (depth >= PACK_DEPTH_MAX)
		return false;
	for (uint32_t i = 0; i < v.count; i++) {
		if (v.type == PACK_MAP && (!pack_read(p, end, &key) || key.type != PACK_STR))
			return false;
		if (!valid(p, end, depth + 1))
			return false;
	}
	return true;
}

bool pack_valid(const uint8_t *p, size_t n)
{
	const uint8_t *end = p + n;
	return valid(&p, end, 0) && p == end;
}

const char *pack_kind(enum pack_type type)
{
	switch (type) {
	case PACK_BOOL: return "a boolean";
	case PACK_INT:
	case PACK_UINT: return "an integer";
	case PACK_F64: return "a number";
	case PACK_STR: return "a string";
	case PACK_BIN: return "bytes";
	case PACK_ARRAY: return "an array";
	case PACK_MAP: return "an object";
	case PACK_NIL: break;
	}
	return "null";
}

/* tag and the low `width` bytes of v, big-endian. */
static size_t put_be(uint8_t *out, uint8_t tag, uint64_t v, size_t width)
{
	out[0] = tag;
	for (size_t i = 0; i < width; i++)
		out[1 + i] = (uint8_t)(v >> (8 * (width - 1 - i)));
	return 1 + width;
}

static void add_be(struct strbuf *b, uint8_t tag, uint64_t v, size_t width)
{
	uint8_t bytes[9];
	strbuf_add(b, bytes, put_be(bytes, tag, v, width));
}

void pack_nil(struct strbuf *b)
{
	strbuf_addc(b, (char)0xc0);
}

void pack_bool(struct strbuf *b, bool v)
{
	strbuf_addc(b, (char)(v ? 0xc3 : 0xc2));
}

void pack_u64(struct strbuf *b, uint64_t v)
{
	if (v < 0x80)
		add_be(b, (uint8_t)v, 0, 0);
	else if (v <= UINT8_MAX)
		add_be(b, 0xcc, v, 1);
	else if (v <= UINT16_MAX)
		add_be(b, 0xcd, v, 2);
	else if (v <= UINT32_MAX)
		add_be(b, 0xce, v, 4);
	else
		add_be(b, 0xcf, v, 8);
}

void pack_i64(struct strbuf *b, int64_t v)
{
	if (v >= 0)
		pack_u64(b, (uint64_t)v);
	else if (v >= -32)
		add_be(b, (uint8_t)v, 0, 0);
	else if (v >= INT8_MIN)
		add_be(b, 0xd0, (uint64_t)v, 1);
	else if (v >= INT16_MIN)
		add_be(b, 0xd1, (uint64_t)v, 2);
	else if (v >= INT32_MIN)
		add_be(b, 0xd2, (uint64_t)v, 4);
	else
		add_be(b, 0xd3, (uint64_t)v, 8);
}

void pack_f64(struct strbuf *b, double v)
{
	uint64_t bits;

	memcpy(&bits, &v, sizeof bits);
	add_be(b, 0xcb, bits, 8);
}

size_t pack_str_head(uint8_t head[5], uint32_t len)
{
	if (len < 32)
		return put_be(head, (uint8_t)(0xa0 | len), 0, 0);
	if (len <= UINT8_MAX)
		return put_be(head, 0xd9, len, 1);
	return len <= UINT16_MAX ? put_be(head, 0xda, len, 2) : put_be(head, 0xdb, len, 4);
}

size_t pack_array_head(uint8_t head[5], uint32_t count)
{
	if (count < 16)
		return put_be(head, (uint8_t)(0x90 | count), 0, 0);
	return count <= UINT16_MAX ? put_be(head, 0xdc, count, 2) : put_be(head, 0xdd, count, 4);
}

size_t pack_map_head(uint8_t head[5], uint32_t count)
{
	if (count < 16)
		return put_be(head, (uint8_t)(0x80 | count), 0, 0);
	return count <= UINT16_MAX ? put_be(head, 0xde, count, 2) : put_be(head, 0xdf, count, 4);
}

void pack_str(struct strbuf *b, const char *s, size_t n)
{
	uint8_t head[5];

	strbuf_add(b, head, pack_str_head(head, (uint32_t)n));
	strbuf_add(b, s, n);
}

void pack_bin(struct strbuf *b, const void *bytes, size_t n)
{
	if (n <= UINT8_MAX)
		add_be(b, 0xc4, n, 1);
	else if (n <= UINT16_MAX)
		add_be(b, 0xc5, n, 2);
	else
		add_be(b, 0xc6, n, 4);
	strbuf_add(b, bytes, n);
}

void pack_array(struct strbuf *b, uint32_t count)
{
	uint8_t head[5];
	strbuf_add(b, head, pack_array_head(head, count));
}

void pack_map(struct strbuf *b, uint32_t count)
{
	uint8_t head[5];
	strbuf_add(b, head, pack_map_head(head, count));
}

static int to_json(const uint8_t **p, const uint8_t *end, struct strbuf *b, int depth)
{
	struct pack_value v, key;
	char text[32];

	if (depth > PACK_DEPTH_MAX || !pack_read(p, end, &v))
		return -1;
	switch (v.type) {
	case PACK_NIL: strbuf_adds(b, "null"); break;
	case PACK_BOOL: strbuf_adds(b, v.boolean ? "true" : "false"); break;
	case PACK_INT: strbuf_addf(b, "%" PRId64, v.i64); break;
	case PACK_UINT: strbuf_addf(b, "%" PRIu64, v.u64); break;
	case PACK_F64:
		if (isfinite(v.f64))
			pack_f64_text(v.f64, text);
		strbuf_adds(b, isfinite(v.f64) ? text : "null");
		break;
	case PACK_STR: strbuf_add_json(b, (const char *)v.body, v.len); break;
	case PACK_BIN:
		strbuf_addc(b, '"');
		for (uint32_t i = 0; i < v.len; i++)
			strbuf_addf(b, "%02x", v.body[i]);
		strbuf_addc(b, '"');
		break;
	case PACK_ARRAY:
	case PACK_MAP:
		strbuf_addc(b, v.type == PACK_MAP ? '{' : '[');
		for (uint32_t i = 0; i < v.count; i++) {
			if (i)
				strbuf_adds(b, ", ");
			if (v.type == PACK_MAP) {
				if (!pack_read(p, end, &key) || key.type != PACK_STR)
					return -1;
				strbuf_add_json(b, (const char *)key.body, key.len);
				strbuf_adds(b, ": ");
			}
			if (to_json(p, end, b, depth + 1) < 0)
				return -1;
		}
		strbuf_addc(b, v.type == PACK_MAP ? '}' : ']');
		break;
	}
	return 0;
}

int pack_to_json(const uint8_t *p, size_t n, struct strbuf *b)
{
	return to_json(&p, p + n, b, 0);
}

/* Decimal digits of v without trailing zeros, shortest that reads back, and the exponent of the first digit.
 * A normal double that has a text of at most 15 digits has it in %.15g, so three tries are enough; a subnormal has
 * fewer digits to be told apart by. */
static size_t shortest_digits(double v, char digits[20], int *exponent)
{
	char text[40];
	size_t n = 0;

	for (int precision = v < DBL_MIN ? 0 : 14; precision <= 16; precision++) {
		snprintf(text, sizeof text, "%.*e", precision, v);
		if (strtod(text, NULL) == v)
			break;
	}
	char *e = strchr(text, 'e');
	*exponent = atoi(e + 1);
	for (const char *p = text; p < e; p++)
		if (*p >= '0' && *p <= '9')
			digits[n++] = *p;
	while (n > 1 && digits[n - 1] == '0')
		n--;
	return n;
}

void pack_f64_text(double v, char out[32])
{
	char digits[20];
	int exponent;

	if (!isfinite(v)) {
		strcpy(out, isnan(v) ? "nan" : v > 0 ? "inf" : "-inf");
		return;
	}
	if (signbit(v))
		*out++ = '-';
	v = fabs(v);
	if (v == 0) {
		strcpy(out, "0.0");
		return;
	}
	int n = (int)shortest_digits(v, digits, &exponent);
	if (exponent < -4 || exponent >= 16) {
		sprintf(out, "%c%s%.*se%c%02d", digits[0], n > 1 ? "." : "", n - 1, digits + 1,
			exponent < 0 ? '-' : '+', abs(exponent));
	} else if (exponent < 0) {
		sprintf(out, "0.%.*s%.*s", -exponent - 1, "000", n, digits);
	} else if (n <= exponent + 1) {
		sprintf(out, "%.*s%.*s.0", n, digits, exponent + 1 - n, "0000000000000000");
	} else {
		sprintf(out, "%.*s.%.*s", exponent + 1, digits, n - exponent - 1, digits + exponent + 1);
	}
}
