#include "base/str.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

char *strbuf_reserve(struct strbuf *b, size_t n)
{
	grow(&b->data, &b->cap, b->len + n + 1, 1);
	return b->data + b->len;
}

void strbuf_add(struct strbuf *b, const void *bytes, size_t n)
{
	char *p = strbuf_reserve(b, n);
	if (n)
		memcpy(p, bytes, n);
	b->len += n;
	b->data[b->len] = '\0';
}

void strbuf_adds(struct strbuf *b, const char *s)
{
	strbuf_add(b, s, strlen(s));
}

void strbuf_addc(struct strbuf *b, char c)
{
	strbuf_add(b, &c, 1);
}

void strbuf_addf(struct strbuf *b, const char *fmt, ...)
{
	va_list ap, again;

	va_start(ap, fmt);
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	char *p = strbuf_reserve(b, (size_t)n);
	vsnprintf(p, (size_t)n + 1, fmt, again);
	va_end(again);
	b->len += (size_t)n;
}

void strbuf_add_json(struct strbuf *b, const char *s, size_t n)
{
	uint32_t cp;

	strbuf_addc(b, '"');
	for (size_t i = 0; i < n;) {
		size_t k = utf8_decode(s + i, n - i, &cp);
		if (!k) {
			strbuf_adds(b, "\xef\xbf\xbd");
			i++;
			continue;
		}
		if (cp == '"' || cp == '\\') {
			strbuf_addc(b, '\\');
			strbuf_addc(b, (char)cp);
		} else if (cp == '\n') {
			strbuf_adds(b, "\\n");
		} else if (cp == '\t') {
			strbuf_adds(b, "\\t");
		} else if (cp == '\r') {
			strbuf_adds(b, "\\r");
		} else if (cp < 0x20 || cp == 0x7f) {
			strbuf_addf(b, "\\u%04x", cp);
		} else {
			strbuf_add(b, s + i, k);
		}
		i += k;
	}
	strbuf_addc(b, '"');
}

void strbuf_clear(struct strbuf *b)
{
	b->len = 0;
	if (b->data)
		b->data[0] = '\0';
}

void strbuf_free(struct strbuf *b)
{
	free(b->data);
	*b = (struct strbuf)STRBUF_INIT;
}

char *strbuf_steal(struct strbuf *b)
{
	strbuf_reserve(b, 0)[0] = '\0';
	char *p = b->data;
	*b = (struct strbuf)STRBUF_INIT;
	return p;
}

size_t utf8_decode(const char *s, size_t n, uint32_t *cp)
{
	const unsigned char *p = (const unsigned char *)s;
	static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
	size_t k;
	uint32_t c;

	if (n == 0)
		return 0;
	if (p[0] < 0x80) {
		*cp = p[0];
		return 1;
	}
	if (p[0] >= 0xc2 && p[0] < 0xe0) {
		k = 2;
		c = p[0] & 0x1fu;
	} else if (p[0] >= 0xe0 && p[0] < 0xf0) {
		k = 3;
		c = p[0] & 0x0fu;
	} else if (p[0] >= 0xf0 && p[0] < 0xf5) {
		k = 4;
		c = p[0] & 0x07u;
	} else {
		return 0;
	}
	if (n < k)
		return 0;
	for (size_t i = 1; i < k; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3fu);
	}
	if (c < least[k] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return 0;
	*cp = c;
	return k;
}

size_t utf8_encode(uint32_t cp, char out[4])
{
	if (cp < 0x80) {
		out[0] = (char)cp;
		return 1;
	}
	if (cp < 0x800) {
		out[0] = (char)(0xc0 | cp >> 6);
		out[1] = (char)(0x80 | (cp & 0x3f));
		return 2;
	}
	if (cp < 0x10000) {
		out[0] = (char)(0xe0 | cp >> 12);
		out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
		out[2] = (char)(0x80 | (cp & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | cp >> 18);
	out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
	out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
	out[3] = (char)(0x80 | (cp & 0x3f));
	return 4;
}

size_t utf8_valid(const char *s, size_t n)
{
	uint32_t cp;

	for (size_t i = 0; i < n;) {
		size_t k = utf8_decode(s + i, n - i, &cp);
		if (!k)
			return i;
		i += k;
	}
	return n;
}

bool parse_i64(const char *s, int64_t *out)
{
	char *end;

	if (!isdigit((unsigned char)s[s[0] == '-' || s[0] == '+']))
		return false;
	errno = 0;
	long long v = strtoll(s, &end, 10);
	if (errno || *end)
		return false;
	*out = v;
	return true;
}

bool parse_u64(const char *s, uint64_t *out)
{
	char *end;

	if (!isdigit((unsigned char)s[0]))
		return false;
	errno = 0;
	unsigned long long v = strtoull(s, &end, 10);
	if (errno || *end)
		return false;
	*out = v;
	return true;
}

bool parse_f64(const char *s, double *out)
{
	char *end;

	if (!*s || s[strspn(s, "0123456789+-.eE")])
		return false;
	errno = 0;
	double v = strtod(s, &end);
	if (*end || end == s || !isfinite(v))
		return false;
	*out = v;
	return true;
}

void format_f64(double v, char out[32])
{
	int digits = 0;

	do
		snprintf(out, 32, "%.*g", ++digits, v);
	while (strtod(out, NULL) != v && digits < 17);
	char *e = strchr(out, 'e');
	int exponent = e ? atoi(e + 1) : 0;
	/* %g turns to an exponent as soon as the digits end before the point: 1e+03. */
	if (e && exponent >= 0 && exponent < 15)
		snprintf(out, 32, "%.0f", v);
}

void format_bytes(uint64_t n, char out[16])
{
	static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	double v = (double)n;
	int u = 0;

	while (v >= 1024 && u < 5) {
		v /= 1024;
		u++;
	}
	snprintf(out, 16, u && v < 10 ? "%.1f %s" : "%.0f %s", v, unit[u]);
}

void format_duration(double seconds, char out[24])
{
	if (seconds < 0.9995)
		snprintf(out, 24, "%.0f ms", seconds * 1e3);
	else if (seconds < 59.95)
		snprintf(out, 24, "%.1f s", seconds);
	else if (seconds < 3600)
		snprintf(out, 24, "%d min %02d s", (int)seconds / 60, (int)seconds % 60);
	else
		snprintf(out, 24, "%" PRId64 " h %02d min", (int64_t)(seconds / 3600),
			 (int)fmod(seconds / 60, 60));
}

/* Damerau-Levenshtein (optimal string alignment) with three rows; names longer than 63 bytes are not compared. */
static size_t distance(const char *a, size_t n, const char *b, size_t m)
{
	size_t rows[3][64];

	for (size_t j = 0; j <= m; j++)
		rows[0][j] = j;
	for (size_t i = 1; i <= n; i++) {
		size_t *row = rows[i % 3], *up = rows[(i - 1) % 3], *up2 = rows[(i + 1) % 3];
		row[0] = i;
		for (size_t j = 1; j <= m; j++) {
			size_t best = up[j - 1] + (a[i - 1] != b[j - 1]);
			if (up[j] + 1 < best)
				best = up[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
			    up2[j - 2] + 1 < best)
				best = up2[j - 2] + 1;
			row[j] = best;
		}
	}
	return rows[n % 3][m];
}

const char *nearest_name(const char *name, const char *const *candidates, size_t n)
{
	size_t len = strlen(name), best = SIZE_MAX;
	const char *found = NULL;

	if (len > 63)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		size_t m = strlen(candidates[i]);
		if (m > 63)
			continue;
		size_t longer = len > m ? len : m, limit = longer / 3 ? longer / 3 : 1;
		size_t d = distance(name, len, candidates[i], m);
		if (d <= limit && d < best && d < longer) {
			best = d;
			found = candidates[i];
		}
	}
	return found;
}

bool str_starts(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool str_ends(const char *s, const char *suffix)
{
	size_t n = strlen(s), m = strlen(suffix);
	return n >= m && memcmp(s + n - m, suffix, m) == 0;
}
