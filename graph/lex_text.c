/* What stands in strings, heredocs and comments: UTF-8, escapes, ${…}. */
#include "graph/lex.h"

#include <string.h>

#include "base/str.h"

const bool lex_ident_byte[256] = {
	['A' ... 'Z'] = true, ['a' ... 'z'] = true, ['0' ... '9'] = true, ['_'] = true, ['-'] = true,
};

const bool lex_text_stop[256] = {
	[0 ... 8] = true, ['\n'] = true, ['\r'] = true, ['"'] = true,           ['\\'] = true,
	['$'] = true,     ['%'] = true,  ['*'] = true,  [0x80 ... 0xff] = true,
};

bool is_ident(const char *s, size_t n)
{
	if (!n || !lex_begins_ident(s[0]))
		return false;
	for (size_t i = 1; i < n; i++)
		if (!lex_ident_byte[(unsigned char)s[i]])
			return false;
	return true;
}

const char *lex_step_utf8(struct lexer *x, const char *p, struct token *t)
{
	uint32_t cp;
	size_t n = utf8_decode(p, (size_t)(x->end - p), &cp);

	if (n) {
		x->extra += (uint32_t)n - 1;
		return p + n;
	}
	if (!(t->flags & TOKEN_BROKEN) && lex_loud(x)) {
		diag_error(x->diags, lex_span(x, p, 1), "invalid UTF-8");
		diag_label(x->diags, "byte 0x%02x; save the file as UTF-8", (unsigned char)*p);
	}
	t->flags |= TOKEN_BROKEN;
	return p + 1;
}

bool lex_bad_byte(struct lexer *x, const char *p, struct token *t)
{
	if (*p == '\0') {
		if (p == x->end)
			return false;
	} else if (*p != '\r' || p[1] == '\n') {
		return false;
	}
	if (!(t->flags & TOKEN_BROKEN) && lex_loud(x)) {
		if (*p)
			diag_error(x->diags, lex_span(x, p, 1), "carriage return without a line feed");
		else
			diag_error(x->diags, lex_span(x, p, 1), "the file holds a NUL byte");
		diag_label(x->diags, *p ? "end lines with LF or CRLF" : "is this a text file?");
	}
	t->flags |= TOKEN_BROKEN;
	return true;
}

static const char *skip_blanks(const char *p, const char *e)
{
	while (p < e && (*p == ' ' || *p == '\t'))
		p++;
	return p;
}

const char *template_scan(const char *p, const char *e, const char **name, size_t *name_len,
			  const char **what)
{
	const char *q;

	*what = NULL;
	if (p < e && *p == '~') {
		*what = "\"~\" is not part of the language";
		return NULL;
	}
	p = skip_blanks(p, e);
	*name = q = p;
	for (;;) {
		if (q == e || !lex_begins_ident(*q))
			break;
		while (q < e && lex_ident_byte[(unsigned char)*q])
			q++;
		*name_len = (size_t)(q - p);
		if (q < e && *q == '.') {
			q++;
			continue;
		}
		const char *close = skip_blanks(q, e);
		if (close < e && *close == '}')
			return close + 1;
		if (close < e && *close == '(')
			*what = "function calls are not part of the language";
		else if (close < e && *close == '[')
			*what = "an index is not part of the language";
		else if (close < e && *close && strchr("+-*/%<>=!&|?", *close))
			*what = "operators are not part of the language";
		break;
	}
	if (!*what)
		*what = memchr(p, '}', (size_t)(e - p)) ? "only param.NAME and env.NAME may stand in ${…}"
							: "the ${ is not closed";
	return NULL;
}

/* p at a '$' or '%' in a string or heredoc whose line ends at e; returns where to go on. */
static const char *lex_dollar(struct lexer *x, const char *p, const char *e, struct token *t)
{
	const char *q = p, *name, *what;
	size_t len;

	while (q < e && *q == *p)
		q++;
	if (q == e || *q != '{')
		return q;
	if (q - p == 2) {
		t->flags |= TOKEN_ESCAPED;
		return q + 1;
	}
	if (q - p > 2 || *p == '%') {
		if (!(t->flags & TOKEN_BROKEN) && lex_loud(x)) {
			diag_error(x->diags, lex_span(x, p, (size_t)(q - p) + 1),
				   q - p > 2 ? "\"%c\" before an escaped \"%c{\" is ambiguous"
					     : "\"%c{\": directives are not part of the language",
				   *p, *p);
			diag_label(x->diags,
				   q - p > 2
					   ? "write \\u0024 for a single dollar or \\u0025 for a percent sign"
					   : "write %%%%{ for a literal %%{");
		}
		t->flags |= TOKEN_BROKEN;
		return q + 1;
	}
	t->flags |= TOKEN_TEMPLATE;
	/* One mistake is enough: looking for the end of each of many would take the square of the line. */
	if (t->flags & TOKEN_BROKEN)
		return q + 1;
	const char *close = template_scan(q + 1, e, &name, &len, &what);
	if (close)
		return close;
	if (!(t->flags & TOKEN_BROKEN) && lex_loud(x)) {
		const char *stop = memchr(p, '}', (size_t)(e - p));
		diag_error(x->diags, lex_span(x, p, stop ? (size_t)(stop - p) + 1 : 2), "%s", what);
		diag_label(x->diags, "write $${ for a literal ${");
	}
	t->flags |= TOKEN_BROKEN;
	return q + 1;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* p at a backslash. */
static const char *lex_escape(struct lexer *x, const char *p, struct token *t)
{
	size_t digits = p[1] == 'u' ? 4 : p[1] == 'U' ? 8 : 0, n = 0;
	uint64_t cp = 0;

	t->flags |= TOKEN_ESCAPED;
	if (p[1] && strchr("nrt\"\\", p[1]))
		return p + 2;
	while (n < digits && hex_digit(p[2 + n]) >= 0)
		cp = cp << 4 | (uint64_t)hex_digit(p[2 + n++]);
	if (digits && n == digits && cp && cp <= 0x10ffff && (cp < 0xd800 || cp > 0xdfff))
		return p + 2 + digits;
	if (!(t->flags & TOKEN_BROKEN) && lex_loud(x)) {
		uint32_t c;
		size_t len = 1 + (digits ? 1 + n : utf8_decode(p + 1, (size_t)(x->end - p - 1), &c));
		if (p[1] == '\n' || p[1] == '\r')
			len = 1;
		diag_error(x->diags, lex_span(x, p, len), "invalid escape");
		if (!digits)
			diag_label(
				x->diags,
				"there are \\n \\r \\t \\\" \\\\ \\uXXXX \\UXXXXXXXX; a backslash is \\\\");
		else if (n < digits)
			diag_label(x->diags, "\\%c takes %zu hexadecimal digits", p[1], digits);
		else
			diag_label(x->diags, "not a character that a text can hold");
	}
	t->flags |= TOKEN_BROKEN;
	return p + (digits ? 2 + n : 1);
}

void lex_string(struct lexer *x, struct token *t)
{
	const char *p = x->p + 1;
	const char *eol = NULL;

	t->type = TOK_STRING;
	for (;;) {
		while (!lex_text_stop[(unsigned char)*p])
			p++;
		if (*p == '"') {
			p++;
			break;
		}
		if (*p == '\n' || (*p == '\r' && p[1] == '\n') || p >= x->end) {
			if (!(t->flags & TOKEN_BROKEN) && lex_loud(x)) {
				struct span s = span_at(x->source, &t->at);
				s.len = (uint32_t)(p - x->p);
				diag_error(x->diags, s, "the string is not closed");
				diag_label(x->diags,
					   "expected \" before the end of the line; text of several "
					   "lines goes into <<EOT … EOT");
			}
			t->flags |= TOKEN_BROKEN;
			break;
		}
		if (*p == '\\') {
			p = lex_escape(x, p, t);
		} else if (*p == '$' || *p == '%') {
			if (!eol || eol < p) {
				eol = memchr(p, '\n', (size_t)(x->end - p));
				eol = eol ? eol : x->end;
			}
			p = lex_dollar(x, p, eol, t);
		} else if ((unsigned char)*p >= 0x80) {
			p = lex_step_utf8(x, p, t);
		} else {
			lex_bad_byte(x, p, t);
			p++;
		}
	}
	t->at.len = (uint32_t)(p - x->p);
	x->p = p;
}

/* HCL trims Unicode white space around the closing word; a line that would close there closes here. */
static size_t blank_at(const char *p, const char *e)
{
	uint32_t cp;
	size_t n = utf8_decode(p, (size_t)(e - p), &cp);

	if (n && ((cp >= 9 && cp <= 13) || cp == ' ' || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
		  (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f ||
		  cp == 0x205f || cp == 0x3000))
		return n;
	return 0;
}

static bool closes(const char *p, const char *e, const char *word, size_t n)
{
	for (size_t k; p < e && (k = blank_at(p, e));)
		p += k;
	if ((size_t)(e - p) < n || memcmp(p, word, n))
		return false;
	for (p += n; p < e;) {
		size_t k = blank_at(p, e);
		if (!k)
			return false;
		p += k;
	}
	return true;
}

void lex_heredoc(struct lexer *x, struct token *t)
{
	const char *p = x->p + 2, *word, *e, *first;
	size_t n = 0;

	if (*p == '-') {
		t->flags |= TOKEN_FLUSH;
		p++;
	}
	word = p;
	while (lex_ident_byte[(unsigned char)word[n]])
		n++;
	p = word + n;
	if (!is_ident(word, n) || (*p != '\n' && (*p != '\r' || p[1] != '\n'))) {
		if (lex_loud(x)) {
			diag_error(x->diags, lex_span(x, x->p, (size_t)(p - x->p)), "malformed heredoc");
			diag_label(x->diags, "expected <<WORD or <<-WORD and the end of the line, without "
					     "quotes or blanks");
		}
		t->type = TOK_HEREDOC;
		t->flags |= TOKEN_BROKEN;
		t->at.len = (uint32_t)(p - x->p);
		x->p = p;
		return;
	}
	t->type = TOK_HEREDOC;
	first = x->p;
	p += *p == '\r' ? 2 : 1;
	lex_new_line(x, p);
	for (;;) {
		e = memchr(p, '\n', (size_t)(x->end - p));
		if (!e)
			break;
		if (closes(p, e, word, n)) {
			e = e[-1] == '\r' ? e - 1 : e;
			for (const char *q = p; q < e; q++)
				x->extra += ((unsigned char)*q & 0xc0) == 0x80;
			t->at.len = (uint32_t)(e - first);
			x->p = e;
			return;
		}
		while (p < e) {
			while (!lex_text_stop[(unsigned char)*p])
				p++;
			if (p >= e)
				break;
			if (*p == '$' || *p == '%')
				p = lex_dollar(x, p, e, t);
			else if ((unsigned char)*p >= 0x80)
				p = lex_step_utf8(x, p, t);
			else
				lex_bad_byte(x, p++, t);
		}
		p = e + 1;
		lex_new_line(x, p);
	}
	if (lex_loud(x)) {
		diag_error(x->diags,
			   (struct span){x->source, t->at.offset, (uint32_t)(word + n - first), t->at.line,
					 t->at.col},
			   "the heredoc is not closed");
		diag_label(x->diags, "expected a line with %.*s alone, and a line end behind it",
			   (int)(n < 64 ? n : 64), word);
	}
	t->flags |= TOKEN_BROKEN;
	t->at.len = (uint32_t)(x->end - first);
	for (const char *q = p; q < x->end; q++)
		x->extra += ((unsigned char)*q & 0xc0) == 0x80;
	x->p = x->end;
}
