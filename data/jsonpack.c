#include "data/jsonpack.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "data/pack.h"

/* A key of an object that is still open: its bytes in out, for the search for duplicates. */
struct jsonpack_key {
	size_t offset, len; /* of the bytes in out */
	uint64_t hash;
	size_t at; /* of the key in the text */
};

static enum jsonpack_result bad(struct jsonpack *j, const char *at, const char *why)
{
	j->at = (size_t)(at - j->text);
	snprintf(j->why, sizeof j->why, "%s", why);
	return JSONPACK_BAD;
}

/* The text ends where more must come. */
static enum jsonpack_result ended(struct jsonpack *j)
{
	return j->final ? bad(j, j->end, "the text ends inside a value") : JSONPACK_MORE;
}

static enum jsonpack_result unexpected(struct jsonpack *j, const char *wanted)
{
	unsigned char c = (unsigned char)*j->p;
	char why[160];

	if (c == 0)
		return bad(j, j->p, "a NUL byte");
	if (c > 0x20 && c < 0x7f)
		snprintf(why, sizeof why, "expected %s, found '%c'", wanted, c);
	else
		snprintf(why, sizeof why, "expected %s, found byte 0x%02x", wanted, c);
	return bad(j, j->p, why);
}

static bool skip_space(struct jsonpack *j)
{
	while (j->p < j->end && (*j->p == ' ' || *j->p == '\n' || *j->p == '\t' || *j->p == '\r'))
		j->p++;
	return j->p < j->end;
}

/* Inserts the head of a container or string whose body starts at `body` in out. */
static void insert_head(struct strbuf *out, size_t body, const uint8_t *head, size_t n)
{
	strbuf_reserve(out, n);
	memmove(out->data + body + n, out->data + body, out->len - body);
	memcpy(out->data + body, head, n);
	out->len += n;
}

static int hex4(const char *p)
{
	int v = 0;

	for (int i = 0; i < 4; i++) {
		char c = p[i];
		int d = c >= '0' && c <= '9'   ? c - '0'
			: c >= 'a' && c <= 'f' ? c - 'a' + 10
			: c >= 'A' && c <= 'F' ? c - 'A' + 10
					       : -1;
		if (d < 0)
			return -1;
		v = v << 4 | d;
	}
	return v;
}

/* At a backslash: appends what it stands for. */
static enum jsonpack_result escape(struct jsonpack *j)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *at = j->p;
	char utf8[4];

	if (j->end - at < 2)
		return ended(j);
	const char *simple = at[1] ? strchr(from, at[1]) : NULL;
	if (simple) {
		strbuf_addc(j->out, to[simple - from]);
		j->p += 2;
		return JSONPACK_OK;
	}
	if (at[1] != 'u')
		return bad(j, at, "an unknown escape in a string");
	if (j->end - at < 6)
		return ended(j);
	int cp = hex4(at + 2), low;
	if (cp < 0)
		return bad(j, at, "\\u without four hexadecimal digits");
	j->p += 6;
	if (cp == 0)
		return bad(j, at, "a NUL character (\\u0000) in a string");
	if (cp >= 0xdc00 && cp < 0xe000)
		return bad(j, at, "a lone surrogate in a string");
	if (cp >= 0xd800 && cp < 0xdc00) {
		if (j->end - at < 12 && !j->final)
			return JSONPACK_MORE;
		if (j->end - at < 12 || at[6] != '\\' || at[7] != 'u' || (low = hex4(at + 8)) < 0xdc00 ||
		    low >= 0xe000)
			return bad(j, at, "a lone surrogate in a string");
		cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
		j->p += 6;
	}
	strbuf_add(j->out, utf8, utf8_encode((uint32_t)cp, utf8));
	return JSONPACK_OK;
}

/* Whether one of eight bytes needs a look: '"', '\\', below 0x20 or above 0x7f (Mycroft's test for a zero
 * byte). */
static bool special8(uint64_t w)
{
	const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
	uint64_t quote = w ^ ones * '"', slash = w ^ ones * '\\';
	return ((quote - ones) | (slash - ones) | (w - ones * 0x20) | w) & high;
}

/* Moves j->p over text that is taken as it is, up to a quote or a backslash. */
static enum jsonpack_result plain_text(struct jsonpack *j)
{
	const char *p = j->p, *end = j->end;
	uint64_t w;
	uint32_t cp;

	for (;;) {
		while (end - p >= 8 && (memcpy(&w, p, 8), !special8(w)))
			p += 8;
		if (p == end) {
			j->p = p;
			return ended(j);
		}
		unsigned char c = (unsigned char)*p;
		if (c == '"' || c == '\\') {
			j->p = p;
			return JSONPACK_OK;
		}
		if (c == 0)
			return bad(j, p, "a NUL byte in a string");
		if (c < 0x20)
			return bad(j, p, "a control character in a string, where it must be escaped");
		if (c < 0x80) {
			p++;
			continue;
		}
		size_t k = utf8_decode(p, (size_t)(end - p), &cp);
		if (!k && end - p < 4 && !j->final)
			return JSONPACK_MORE;
		if (!k)
			return bad(j, p, "invalid UTF-8 in a string");
		p += k;
	}
}

/* At the opening quote. */
static enum jsonpack_result string(struct jsonpack *j)
{
	const char *start = ++j->p;
	struct strbuf *out = j->out;
	uint8_t head[5];
	enum jsonpack_result r = plain_text(j);

	if (r != JSONPACK_OK)
		return r;
	if (*j->p == '"') {
		pack_str(out, start, (size_t)(j->p++ - start));
		return JSONPACK_OK;
	}
	size_t body = out->len;
	for (;;) {
		strbuf_add(out, start, (size_t)(j->p - start));
		if (*j->p == '"')
			break;
		if ((r = escape(j)) != JSONPACK_OK)
			return r;
		start = j->p;
		if ((r = plain_text(j)) != JSONPACK_OK)
			return r;
	}
	j->p++;
	insert_head(out, body, head, pack_str_head(head, (uint32_t)(out->len - body)));
	return JSONPACK_OK;
}

/* The double for digits * 10^exponent where that is exact in two steps (Clinger 1990): both fit in 53 bits.
 */
static bool exact_double(uint64_t digits, int exponent, double *v)
{
	static const double tens[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
				      1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

	if (digits > (uint64_t)1 << 53 || exponent < -22 || exponent > 22)
		return false;
	*v = exponent < 0 ? (double)digits / tens[-exponent] : (double)digits * tens[exponent];
	return true;
}

static enum jsonpack_result slow_double(struct jsonpack *j, const char *start, double *v)
{
	strbuf_clear(&j->number);
	strbuf_add(&j->number, start, (size_t)(j->p - start));
	*v = strtod(j->number.data, NULL);
	if (!isfinite(*v))
		return bad(j, start, "a number too large for a double");
	return JSONPACK_OK;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The text [start, j->p) has been found to be a number. digits holds its digits when there are at most 19. */
static enum jsonpack_result put_number(struct jsonpack *j, const char *start, uint64_t digits, int count,
				       int exponent, bool integer)
{
	bool minus = *start == '-';
	double v;
	enum jsonpack_result r;

	if (integer && count <= 19) {
		if (!minus)
			pack_u64(j->out, digits);
		else if (digits <= (uint64_t)1 << 63)
			pack_i64(j->out, (int64_t)(0 - digits));
		else
			integer = false;
		if (integer)
			return JSONPACK_OK;
	}
	if (integer && count == 20 && !minus) {
		strbuf_clear(&j->number);
		strbuf_add(&j->number, start, (size_t)(j->p - start));
		errno = 0;
		unsigned long long u = strtoull(j->number.data, NULL, 10);
		if (!errno) {
			pack_u64(j->out, u);
			return JSONPACK_OK;
		}
	}
	if (count <= 19 && exact_double(digits, exponent, &v))
		v = minus ? -v : v;
	else if ((r = slow_double(j, start, &v)) != JSONPACK_OK)
		return r;
	pack_f64(j->out, v);
	return JSONPACK_OK;
}

static enum jsonpack_result number(struct jsonpack *j)
{
	const char *start = j->p;
	uint64_t digits = 0; /* of integer and fraction, without leading zeros */
	int count = 0, scale = 0, written = 0;
	bool integer = true, minus_exponent = false;

	if (*j->p == '-')
		j->p++;
	const char *first = j->p;
#define DIGITS(on_digit)                                                                                     \
	for (; j->p < j->end && is_digit(*j->p); j->p++) {                                                   \
		if (count || *j->p != '0') {                                                                 \
			if (count < 19)                                                                      \
				digits = digits * 10 + (uint64_t)(*j->p - '0');                              \
			count += count < 1 << 20;                                                            \
		}                                                                                            \
		on_digit;                                                                                    \
	}
	DIGITS((void)0)
	if (j->p == j->end && !j->final)
		return JSONPACK_MORE;
	if (j->p == first)
		return j->p == j->end ? ended(j) : unexpected(j, "a digit");
	if (*first == '0' && j->p - first > 1)
		return bad(j, first, "a number with a leading zero");
	if (j->p < j->end && *j->p == '.') {
		const char *fraction = ++j->p;
		integer = false;
		DIGITS(scale -= scale > -(1 << 20))
		if (j->p == j->end && !j->final)
			return JSONPACK_MORE;
		if (j->p == fraction)
			return j->p == j->end ? ended(j) : unexpected(j, "a digit");
	}
#undef DIGITS
	if (j->p < j->end && (*j->p == 'e' || *j->p == 'E')) {
		integer = false;
		j->p++;
		if (j->p < j->end && (*j->p == '+' || *j->p == '-'))
			minus_exponent = *j->p++ == '-';
		const char *e = j->p;
		for (; j->p < j->end && is_digit(*j->p); j->p++)
			written = written < 1 << 20 ? written * 10 + (*j->p - '0') : written;
		if (j->p == j->end && !j->final)
			return JSONPACK_MORE;
		if (j->p == e)
			return j->p == j->end ? ended(j) : unexpected(j, "a digit");
	}
	return put_number(j, start, digits, count, scale + (minus_exponent ? -written : written), integer);
}

static enum jsonpack_result word(struct jsonpack *j, const char *text, size_t n)
{
	size_t have = (size_t)(j->end - j->p);

	if (memcmp(j->p, text, have < n ? have : n) != 0)
		return unexpected(j, "a value");
	if (have < n)
		return ended(j);
	j->p += n;
	return JSONPACK_OK;
}

static uint64_t hash_bytes(const char *s, size_t n)
{
	uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */

	for (size_t i = 0; i < n; i++)
		h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
	return h;
}

static int compare_keys(const void *a, const void *b, void *bytes)
{
	const struct jsonpack_key *x = a, *y = b;

	if (x->hash != y->hash)
		return x->hash < y->hash ? -1 : 1;
	if (x->len != y->len)
		return x->len < y->len ? -1 : 1;
	return memcmp((const char *)bytes + x->offset, (const char *)bytes + y->offset, x->len);
}

static enum jsonpack_result duplicate(struct jsonpack *j, const struct jsonpack_key *x,
				      const struct jsonpack_key *y)
{
	char why[160];
	const struct jsonpack_key *later = x->at > y->at ? x : y;

	snprintf(why, sizeof why, "the key \"%.*s\" is there twice", (int)(x->len < 80 ? x->len : 80),
		 j->out->data + x->offset);
	return bad(j, j->text + later->at, why);
}

/* Looks for duplicates among the keys from `first` on: in pairs while they are few, else by sorting. */
static enum jsonpack_result check_keys(struct jsonpack *j, size_t first)
{
	struct jsonpack_key *k = j->keys + first;
	size_t n = j->key_count - first;

	if (n <= 24) {
		for (size_t a = 1; a < n; a++)
			for (size_t b = 0; b < a; b++)
				if (k[a].hash == k[b].hash && compare_keys(&k[a], &k[b], j->out->data) == 0)
					return duplicate(j, &k[a], &k[b]);
		return JSONPACK_OK;
	}
	qsort_r(k, n, sizeof *k, compare_keys, j->out->data);
	for (size_t a = 1; a < n; a++)
		if (compare_keys(&k[a - 1], &k[a], j->out->data) == 0)
			return duplicate(j, &k[a - 1], &k[a]);
	return JSONPACK_OK;
}

static enum jsonpack_result value(struct jsonpack *j, int depth);

static enum jsonpack_result key(struct jsonpack *j)
{
	if (*j->p != '"')
		return unexpected(j, "a key in double quotes");
	size_t at = (size_t)(j->p - j->text), from = j->out->len;
	enum jsonpack_result r = string(j);
	if (r != JSONPACK_OK)
		return r;
	unsigned char tag = (unsigned char)j->out->data[from];
	size_t head = tag < 0xd9 ? 1 : tag == 0xd9 ? 2 : tag == 0xda ? 3 : 5;
	size_t len = j->out->len - from - head;
	grow(&j->keys, &j->key_cap, j->key_count + 1, sizeof *j->keys);
	j->keys[j->key_count++] = (struct jsonpack_key){from + head, len,
							hash_bytes(j->out->data + from + head, len), at};
	if (!skip_space(j))
		return ended(j);
	if (*j->p != ':')
		return unexpected(j, "':' behind the key");
	j->p++;
	return JSONPACK_OK;
}

/* At '{' or '['. The head, whose size depends on the count, is put before the body in the end; a row's map of
 * fewer than 16 fields has its one byte reserved, since moving every row would cost. */
static enum jsonpack_result container(struct jsonpack *j, int depth)
{
	bool object = *j->p == '{';
	char close = object ? '}' : ']';
	size_t at = j->out->len, first_key = j->key_count;
	uint32_t count = 0;
	uint8_t head[5];
	enum jsonpack_result r;

	if (depth >= PACK_DEPTH_MAX)
		return bad(j, j->p, "nested more than 512 deep");
	j->p++;
	strbuf_addc(j->out, 0);
	if (!skip_space(j))
		return ended(j);
	if (*j->p == close)
		j->p++;
	else
		for (;;) {
			if (object && (r = key(j)) != JSONPACK_OK)
				return r;
			if ((r = value(j, depth + 1)) != JSONPACK_OK)
				return r;
			count++;
			if (!skip_space(j))
				return ended(j);
			if (*j->p == close) {
				j->p++;
				break;
			}
			if (*j->p != ',')
				return unexpected(j, object ? "',' or '}'" : "',' or ']'");
			j->p++;
			if (object && !skip_space(j))
				return ended(j);
		}
	if (object) {
		if ((r = check_keys(j, first_key)) != JSONPACK_OK)
			return r;
		j->key_count = first_key;
	}
	size_t n = object ? pack_map_head(head, count) : pack_array_head(head, count);
	j->out->data[at] = (char)head[0];
	if (n > 1)
		insert_head(j->out, at + 1, head + 1, n - 1);
	return JSONPACK_OK;
}

static enum jsonpack_result value(struct jsonpack *j, int depth)
{
	if (!skip_space(j))
		return ended(j);
	switch (*j->p) {
	case '"': return string(j);
	case '{':
	case '[': return container(j, depth);
	case 't': pack_bool(j->out, true); return word(j, "true", 4);
	case 'f': pack_bool(j->out, false); return word(j, "false", 5);
	case 'n': pack_nil(j->out); return word(j, "null", 4);
	default: return *j->p == '-' || is_digit(*j->p) ? number(j) : unexpected(j, "a value");
	}
}

enum jsonpack_result jsonpack_value(struct jsonpack *j, const char *text, size_t n, bool final, size_t *used,
				    struct strbuf *out)
{
	j->text = j->p = text;
	j->end = text + n;
	j->final = final;
	j->out = out;
	j->key_count = 0;
	enum jsonpack_result r = value(j, 0);
	*used = (size_t)(j->p - text);
	return r;
}

void jsonpack_free(struct jsonpack *j)
{
	free(j->keys);
	strbuf_free(&j->number);
	memset(j, 0, sizeof *j);
}
