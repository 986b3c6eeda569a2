#include "cli/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "runtime/store.h"

const char *text_count(uint64_t n, char out[32])
{
	char digits[24];
	int len = snprintf(digits, sizeof digits, "%" PRIu64, n), at = 0;

	for (int i = 0; i < len; i++) {
		if (i && (len - i) % 3 == 0)
			out[at++] = ',';
		out[at++] = digits[i];
	}
	out[at] = '\0';
	return out;
}

const char *text_number(double v, char out[32])
{
	double a = fabs(v);

	if (a >= 1000 && a < 1e15) {
		out[0] = '-';
		text_count((uint64_t)llround(a), out + (v < 0));
	} else if (a >= 100) {
		snprintf(out, 32, "%.0f", v);
	} else if (a >= 10) {
		snprintf(out, 32, "%.1f", v);
	} else if (a >= 0.001 || a == 0) {
		snprintf(out, 32, a >= 1 || a == 0 ? "%.3g" : "%.4f", v);
	} else {
		snprintf(out, 32, "%.3g", v);
	}
	return out;
}

const char *text_time(int64_t wall_ms, char out[32])
{
	time_t t = (time_t)(wall_ms / 1000);
	struct tm tm;

	localtime_r(&t, &tm);
	strftime(out, 32, "%Y-%m-%d %H:%M:%S", &tm);
	return out;
}

const char *text_ago(int64_t wall_ms, int64_t now_ms, char out[32])
{
	int64_t s = (now_ms - wall_ms) / 1000;

	if (s < 60)
		snprintf(out, 32, "%" PRId64 " s ago", s < 0 ? 0 : s);
	else if (s < 3600)
		snprintf(out, 32, "%" PRId64 " min ago", s / 60);
	else if (s < 48 * 3600)
		snprintf(out, 32, "%" PRId64 " h ago", s / 3600);
	else
		snprintf(out, 32, "%" PRId64 " days ago", s / 86400);
	return out;
}

/* ---- widths ---- */

/* Bytes of the escape sequence at s ("\033[…m"), 0 when there is none. */
static size_t escape(const char *s, size_t n)
{
	size_t i = 2;

	if (n < 3 || s[0] != '\033' || s[1] != '[')
		return 0;
	while (i < n && (unsigned char)s[i] < 0x40)
		i++;
	return i < n ? i + 1 : 0;
}

/* East Asian wide and emoji blocks, and combining marks: enough for names and paths. */
static size_t columns_of(uint32_t c)
{
	if ((c >= 0x300 && c <= 0x36f) || (c >= 0x200b && c <= 0x200f) || (c >= 0xfe00 && c <= 0xfe0f))
		return 0;
	if ((c >= 0x1100 && c <= 0x115f) || (c >= 0x2e80 && c <= 0xa4cf) || (c >= 0xac00 && c <= 0xd7a3) ||
	    (c >= 0xf900 && c <= 0xfaff) || (c >= 0xfe30 && c <= 0xfe6f) || (c >= 0xff00 && c <= 0xff60) ||
	    (c >= 0xffe0 && c <= 0xffe6) || (c >= 0x1f300 && c <= 0x1faff) || (c >= 0x20000 && c <= 0x3fffd))
		return 2;
	return 1;
}

/* Bytes and columns of what stands at s. */
static size_t step(const char *s, size_t n, size_t *columns)
{
	uint32_t cp;
	size_t k = escape(s, n);

	*columns = 0;
	if (k)
		return k;
	k = utf8_decode(s, n, &cp);
	*columns = k ? columns_of(cp) : 1;
	return k ? k : 1;
}

size_t text_width(const char *s, size_t n)
{
	size_t width = 0, columns;

	for (size_t i = 0; i < n; width += columns)
		i += step(s + i, n - i, &columns);
	return width;
}

void text_fit(struct strbuf *out, const char *s, size_t width)
{
	size_t n = strlen(s), used = 0, columns;
	bool cut = text_width(s, n) > width;

	if (cut && width == 0)
		return;
	for (size_t i = 0; i < n;) {
		size_t k = step(s + i, n - i, &columns);
		if (cut && columns && used + columns > width - 1) {
			strbuf_adds(out, "…");
			/* What follows is left out, but colours are switched off again. */
			for (i += k; i < n; i += k) {
				k = step(s + i, n - i, &columns);
				if (s[i] == '\033')
					strbuf_add(out, s + i, k);
			}
			return;
		}
		strbuf_add(out, s + i, k);
		used += columns;
		i += k;
	}
}

void text_clean(struct strbuf *out, const char *s)
{
	size_t n = strlen(s);
	uint32_t cp;

	for (size_t i = 0; i < n;) {
		size_t k = utf8_decode(s + i, n - i, &cp);
		if (!k || (cp < 0x20 && cp != '\t') || (cp >= 0x7f && cp < 0xa0)) {
			strbuf_addc(out, '?');
			i++;
		} else {
			strbuf_add(out, s + i, k);
			i += k;
		}
	}
}

/* ---- facts, colours, tables ---- */

void text_facts(struct strbuf *out, const struct result *r)
{
	for (size_t i = 0; i < r->nfacts; i++) {
		const struct result_fact *f = r->facts + i;
		/* A count reads "1,000 rows", anything else "loss 0.431". */
		bool count = f->value[0] && f->value[strspn(f->value, "0123456789,")] == '\0';

		if (i)
			strbuf_adds(out, ", ");
		text_clean(out, count ? f->value : f->name);
		strbuf_addc(out, ' ');
		text_clean(out, count ? f->name : f->value);
	}
}

const char *paint(enum paint p, bool color)
{
	static const char *const codes[] = {
		[PAINT_NONE] = "\033[0m",   [PAINT_BOLD] = "\033[1m", [PAINT_DIM] = "\033[2m",
		[PAINT_GREEN] = "\033[32m", [PAINT_RED] = "\033[31m", [PAINT_YELLOW] = "\033[33m",
		[PAINT_BLUE] = "\033[34m",
	};

	return color ? codes[p] : "";
}

void table_add(struct table *t, const char *cell)
{
	grow(&t->cells, &t->cap, t->n + 1, sizeof *t->cells);
	t->cells[t->n++] = xstrdup(cell ? cell : "");
}

void table_print(struct table *t, FILE *out, const char *indent, bool header, bool color)
{
	size_t *widths = xcalloc(t->columns, sizeof *widths);

	for (size_t i = 0; i < t->n; i++) {
		size_t w = text_width(t->cells[i], strlen(t->cells[i]));
		if (w > widths[i % t->columns])
			widths[i % t->columns] = w;
	}
	for (size_t row = 0; row + t->columns <= t->n; row += t->columns) {
		struct strbuf line = STRBUF_INIT;
		for (size_t c = 0; c < t->columns; c++) {
			const char *cell = t->cells[row + c];
			int pad = (int)(widths[c] - text_width(cell, strlen(cell)));
			if (t->right >> c & 1)
				strbuf_addf(&line, "%*s%s", pad, "", cell);
			else
				strbuf_addf(&line, "%s%*s", cell, pad, "");
			if (c + 1 < t->columns)
				strbuf_adds(&line, "  ");
		}
		while (line.len && line.data[line.len - 1] == ' ')
			line.data[--line.len] = '\0';
		fprintf(out, "%s%s%s%s\n", indent, paint(PAINT_DIM, color && header && row == 0), line.data,
			paint(PAINT_NONE, color && header && row == 0));
		strbuf_free(&line);
	}
	free(widths);
	table_drop(t);
}

void table_drop(struct table *t)
{
	for (size_t i = 0; i < t->n; i++)
		free(t->cells[i]);
	free(t->cells);
	*t = (struct table){0};
}
