/* Diagnostics as text and as JSON. */
#include "graph/graph.h"

#include <string.h>
#include <utf8proc.h>

#include "base/str.h"

/* What is shown of a long line: so many columns, beginning so many before the underlined range. */
#define SHOWN  160
#define BEFORE 60

static const char *const severity_names[] = {"error", "warning", "note"};
static const char *const severity_colors[] = {"\033[1;31m", "\033[1;35m", "\033[1;36m"};

struct piece {
	size_t bytes; /* in the source */
	bool fine;    /* can be shown as it is */
	int width;    /* columns on the terminal */
};

static struct piece piece_at(const char *p, const char *end)
{
	uint32_t cp;
	size_t n = utf8_decode(p, (size_t)(end - p), &cp);

	if (!n)
		return (struct piece){1, false, 1};
	if (cp == '\t')
		return (struct piece){1, true, 1};
	/* Bidirectional controls could make the line show something else than what is read. */
	if (cp < 0x20 || (cp >= 0x7f && cp < 0xa0) || (cp >= 0x202a && cp <= 0x202e) ||
	    (cp >= 0x2066 && cp <= 0x2069) || cp == 0x2028 || cp == 0x2029)
		return (struct piece){n, false, 1};
	return (struct piece){n, true, cp < 0x80 ? 1 : utf8proc_charwidth((utf8proc_int32_t)cp)};
}

static void add_clean(struct strbuf *out, const char *s, size_t n)
{
	for (const char *p = s; p < s + n;) {
		struct piece k = piece_at(p, s + n);
		if (k.fine)
			strbuf_add(out, p, k.bytes);
		else
			strbuf_adds(out, "\xef\xbf\xbd");
		p += k.bytes;
	}
}

static void render_line(const struct diag *d, const char *color, const char *reset, struct strbuf *out)
{
	const struct source *s = d->span.source;
	const char *end = s->text + s->len, *at = s->text + d->span.offset;
	const char *start = at, *eol, *p;
	size_t column = 0;

	while (start > s->text && start[-1] != '\n')
		start--;
	eol = memchr(at, '\n', (size_t)(end - at));
	eol = eol ? eol : end;
	if (eol > at && eol[-1] == '\r')
		eol--;
	if (start == s->text && end - start >= 3 && !memcmp(start, "\xef\xbb\xbf", 3))
		start += start + 3 <= at ? 3 : 0;
	if (at - start > SHOWN - BEFORE) {
		start = at - BEFORE;
		while (start < at && ((unsigned char)*start & 0xc0) == 0x80)
			start++;
	}
	for (p = start; p < eol && (column < SHOWN || p < at); column++)
		p += piece_at(p, eol).bytes;
	eol = p;
	if (s->external)
		strbuf_adds(out, "      | ");
	else
		strbuf_addf(out, "%5u | ", d->span.line);
	add_clean(out, start, (size_t)(eol - start));
	strbuf_adds(out, "\n      | ");
	for (p = start; p < at;) {
		struct piece k = piece_at(p, eol);
		for (int i = 0; i < k.width; i++)
			strbuf_addc(out, *p == '\t' ? '\t' : ' ');
		p += k.bytes;
	}
	strbuf_adds(out, color);
	const char *stop = at + d->span.len;
	size_t marks = 0;
	while (p < stop && p < eol) {
		struct piece k = piece_at(p, eol);
		for (int i = 0; i < k.width; i++)
			strbuf_addc(out, marks++ ? '~' : '^');
		p += k.bytes;
	}
	if (!marks)
		strbuf_addc(out, '^');
	if (d->label) {
		strbuf_addc(out, ' ');
		add_clean(out, d->label, strlen(d->label));
	}
	strbuf_adds(out, reset);
	strbuf_addc(out, '\n');
}

void diags_render(const struct diags *d, bool color, struct strbuf *out)
{
	const char *bold = color ? "\033[1m" : "", *reset = color ? "\033[0m" : "";

	for (size_t i = 0; i < d->n; i++) {
		const struct diag *g = &d->items[i];
		const struct source *s = g->span.source;
		const char *tint = color ? severity_colors[g->severity] : "";

		if (s) {
			strbuf_adds(out, bold);
			add_clean(out, s->name, strlen(s->name));
			if (!s->external)
				strbuf_addf(out, ":%u:%u", g->span.line, g->span.col);
			strbuf_addf(out, ":%s ", reset);
		}
		strbuf_addf(out, "%s%s:%s ", tint, severity_names[g->severity], reset);
		add_clean(out, g->message, strlen(g->message));
		strbuf_addc(out, '\n');
		if (s && g->severity != DIAG_NOTE) {
			render_line(g, tint, reset, out);
		} else if (g->label) {
			strbuf_adds(out, "      | ");
			add_clean(out, g->label, strlen(g->label));
			strbuf_addc(out, '\n');
		}
	}
	if (d->errors) {
		size_t shown = 0;
		for (size_t i = 0; i < d->n; i++)
			shown += d->items[i].severity == DIAG_ERROR;
		if (d->errors > shown)
			strbuf_addf(out, "%zu more errors are not shown\n", d->errors - shown);
	}
}

static unsigned end_column(const struct span *s)
{
	unsigned col = s->col;
	const char *p = s->source->text + s->offset, *end = p + s->len;

	for (; p < end && *p != '\n' && *p != '\r'; p++)
		col += ((unsigned char)*p & 0xc0) != 0x80;
	return col;
}

void diags_render_json(const struct diags *d, struct strbuf *out)
{
	strbuf_addc(out, '[');
	for (size_t i = 0; i < d->n; i++) {
		const struct diag *g = &d->items[i];
		strbuf_addf(out, "%s\n  {\"severity\": \"%s\", \"file\": ", i ? "," : "",
			    severity_names[g->severity]);
		if (g->span.source) {
			strbuf_add_json(out, g->span.source->name, strlen(g->span.source->name));
			strbuf_addf(out, ", \"line\": %u, \"column\": %u, \"end_column\": %u", g->span.line,
				    g->span.col, end_column(&g->span));
		} else {
			strbuf_adds(out, "null, \"line\": null, \"column\": null, \"end_column\": null");
		}
		strbuf_adds(out, ", \"message\": ");
		strbuf_add_json(out, g->message, strlen(g->message));
		strbuf_adds(out, ", \"label\": ");
		if (g->label)
			strbuf_add_json(out, g->label, strlen(g->label));
		else
			strbuf_adds(out, "null");
		strbuf_addc(out, '}');
	}
	strbuf_adds(out, d->n ? "\n]\n" : "]\n");
}
