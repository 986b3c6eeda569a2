/* Tokens. One pass over the bytes by character class; a token is a place and two small numbers, nothing is copied.
 * What HCL's scanner would refuse is refused here too, with the mistake named. */
#include "graph/syntax.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"

enum class {
	C_OTHER,
	C_END,   /* NUL: the end, or a NUL byte in the text */
	C_SPACE, /* blank, tab */
	C_NEWLINE,
	C_CR,
	C_ALPHA,
	C_DIGIT,
	C_PUNCT, /* one of {}[]=,.: */
	C_QUOTE,
	C_HASH,
	C_SLASH,
	C_LESS,
	C_MINUS,
	C_HIGH, /* 0x80 and above */
};

static const uint8_t classes[256] = {
	[0] = C_END,
	[' '] = C_SPACE,
	['\t'] = C_SPACE,
	['\n'] = C_NEWLINE,
	['\r'] = C_CR,
	['A' ... 'Z'] = C_ALPHA,
	['a' ... 'z'] = C_ALPHA,
	['_'] = C_ALPHA,
	['0' ... '9'] = C_DIGIT,
	['{'] = C_PUNCT,
	['}'] = C_PUNCT,
	['['] = C_PUNCT,
	[']'] = C_PUNCT,
	['='] = C_PUNCT,
	[','] = C_PUNCT,
	['.'] = C_PUNCT,
	[':'] = C_PUNCT,
	['"'] = C_QUOTE,
	['#'] = C_HASH,
	['/'] = C_SLASH,
	['<'] = C_LESS,
	['-'] = C_MINUS,
	[0x80 ... 0xff] = C_HIGH,
};

static const uint8_t puncts[128] = {
	['{'] = TOK_LBRACE, ['}'] = TOK_RBRACE, ['['] = TOK_LBRACK, [']'] = TOK_RBRACK,
	['='] = TOK_EQUALS, [','] = TOK_COMMA,  ['.'] = TOK_DOT,    [':'] = TOK_COLON,
};

/* Bytes that may follow in an identifier. */
static const bool ident_byte[256] = {
	['A' ... 'Z'] = true, ['a' ... 'z'] = true, ['0' ... '9'] = true, ['_'] = true, ['-'] = true,
};

/* Bytes at which scanning a string or comment has to stop and think. */
static const bool text_stop[256] = {
	[0 ... 8] = true, ['\n'] = true, ['\r'] = true, ['"'] = true,           ['\\'] = true,
	['$'] = true,     ['%'] = true,  ['*'] = true,  [0x80 ... 0xff] = true,
};

bool is_ident(const char *s, size_t n)
{
	if (!n || classes[(unsigned char)s[0]] != C_ALPHA)
		return false;
	for (size_t i = 1; i < n; i++)
		if (!ident_byte[(unsigned char)s[i]])
			return false;
	return true;
}

void lexer_init(struct lexer *x, const struct source *source, size_t offset, struct diags *d)
{
	*x = (struct lexer){.source = source, .line = 1, .diags = d};
	x->line_start = source->text;
	x->p = source->text + offset;
	x->end = source->text + source->len;
	if (!offset && source->len >= 3 && !memcmp(source->text, "\xef\xbb\xbf", 3)) {
		x->p += 3;
		x->line_start += 3;
	}
	for (const char *p = x->line_start; p < x->p; p++)
		x->extra += ((unsigned char)*p & 0xc0) == 0x80;
}

static struct place place_here(const struct lexer *x, const char *p, size_t len)
{
	return (struct place){(uint32_t)(p - x->source->text), (uint32_t)len, x->line,
			      (uint32_t)(p - x->line_start) - x->extra + 1};
}

static struct span span_here(const struct lexer *x, const char *p, size_t len)
{
	struct place at = place_here(x, p, len);
	return span_at(x->source, &at);
}

static void new_line(struct lexer *x, const char *start)
{
	x->line++;
	x->line_start = start;
	x->extra = 0;
}

/* Whether to report a mistake on this line: the first one only, since those behind it may come from it. */
static bool loud(struct lexer *x)
{
	if (!x->diags || x->quiet || x->error_line == x->line)
		return false;
	x->error_line = x->line;
	return true;
}

/* Steps over one character at p >= 0x80 inside text; reports what is not UTF-8. */
static const char *step_utf8(struct lexer *x, const char *p, struct token *t)
{
	uint32_t cp;
	size_t n = utf8_decode(p, (size_t)(x->end - p), &cp);

	if (n) {
		x->extra += (uint32_t)n - 1;
		return p + n;
	}
	if (!(t->flags & TOKEN_BROKEN) && loud(x)) {
		diag_error(x->diags, span_here(x, p, 1), "invalid UTF-8");
		diag_label(x->diags, "byte 0x%02x; save the file as UTF-8", (unsigned char)*p);
	}
	t->flags |= TOKEN_BROKEN;
	return p + 1;
}

/* A byte that no text may hold: NUL, or a carriage return without its line feed. Returns false for other bytes. */
static bool bad_byte(struct lexer *x, const char *p, struct token *t)
{
	if (*p == '\0') {
		if (p == x->end)
			return false;
	} else if (*p != '\r' || p[1] == '\n') {
		return false;
	}
	if (!(t->flags & TOKEN_BROKEN) && loud(x)) {
		if (*p)
			diag_error(x->diags, span_here(x, p, 1), "carriage return without a line feed");
		else
			diag_error(x->diags, span_here(x, p, 1), "the file holds a NUL byte");
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
		if (q == e || classes[(unsigned char)*q] != C_ALPHA)
			break;
		while (q < e && ident_byte[(unsigned char)*q])
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
		if (!(t->flags & TOKEN_BROKEN) && loud(x)) {
			diag_error(x->diags, span_here(x, p, (size_t)(q - p) + 1),
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
	const char *close = template_scan(q + 1, e, &name, &len, &what);
	if (close)
		return close;
	if (!(t->flags & TOKEN_BROKEN) && loud(x)) {
		const char *stop = memchr(p, '}', (size_t)(e - p));
		diag_error(x->diags, span_here(x, p, stop ? (size_t)(stop - p) + 1 : 2), "%s", what);
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
	if (!(t->flags & TOKEN_BROKEN) && loud(x)) {
		uint32_t c;
		size_t len = 1 + (digits ? 1 + n : utf8_decode(p + 1, (size_t)(x->end - p - 1), &c));
		if (p[1] == '\n' || p[1] == '\r')
			len = 1;
		diag_error(x->diags, span_here(x, p, len), "invalid escape");
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

static void lex_string(struct lexer *x, struct token *t)
{
	const char *p = x->p + 1;
	const char *eol = NULL;

	t->type = TOK_STRING;
	for (;;) {
		while (!text_stop[(unsigned char)*p])
			p++;
		if (*p == '"') {
			p++;
			break;
		}
		if (*p == '\n' || (*p == '\r' && p[1] == '\n') || p >= x->end) {
			if (!(t->flags & TOKEN_BROKEN) && loud(x)) {
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
			p = step_utf8(x, p, t);
		} else {
			bad_byte(x, p, t);
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

static void lex_heredoc(struct lexer *x, struct token *t)
{
	const char *p = x->p + 2, *word, *e, *first;
	size_t n = 0;

	if (*p == '-') {
		t->flags |= TOKEN_FLUSH;
		p++;
	}
	word = p;
	while (ident_byte[(unsigned char)word[n]])
		n++;
	p = word + n;
	if (!is_ident(word, n) || (*p != '\n' && (*p != '\r' || p[1] != '\n'))) {
		if (loud(x)) {
			diag_error(x->diags, span_here(x, x->p, (size_t)(p - x->p)), "malformed heredoc");
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
	new_line(x, p);
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
			while (!text_stop[(unsigned char)*p])
				p++;
			if (p >= e)
				break;
			if (*p == '$' || *p == '%')
				p = lex_dollar(x, p, e, t);
			else if ((unsigned char)*p >= 0x80)
				p = step_utf8(x, p, t);
			else
				bad_byte(x, p++, t);
		}
		p = e + 1;
		new_line(x, p);
	}
	if (loud(x)) {
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

static void lex_comment(struct lexer *x, struct token *t)
{
	const char *p = x->p;
	bool block = p[0] == '/' && p[1] == '*';

	t->type = TOK_COMMENT;
	for (p += block ? 2 : 1;;) {
		while (!text_stop[(unsigned char)*p])
			p++;
		if (p >= x->end) {
			if (block && loud(x)) {
				struct span s = span_at(x->source, &t->at);
				s.len = 2;
				diag_error(x->diags, s, "the comment is not closed");
				diag_label(x->diags, "expected */");
			}
			t->flags |= block ? TOKEN_BROKEN : 0;
			break;
		}
		if (*p == '\n') {
			if (!block)
				break;
			new_line(x, ++p);
		} else if (*p == '\r' && p[1] == '\n') {
			if (!block)
				break;
			p++;
		} else if (block && *p == '*' && p[1] == '/') {
			p += 2;
			break;
		} else if ((unsigned char)*p >= 0x80) {
			p = step_utf8(x, p, t);
		} else {
			bad_byte(x, p++, t);
		}
	}
	t->at.len = (uint32_t)(p - x->p);
	x->p = p;
}

static void lex_number(struct lexer *x, struct token *t)
{
	const char *p = x->p + (*x->p == '-');

	t->type = TOK_NUMBER;
	while (classes[(unsigned char)*p] == C_DIGIT)
		p++;
	if (*p == '.' && classes[(unsigned char)p[1]] == C_DIGIT)
		for (p++; classes[(unsigned char)*p] == C_DIGIT;)
			p++;
	if ((*p == 'e' || *p == 'E') &&
	    classes[(unsigned char)p[1 + (p[1] == '+' || p[1] == '-')]] == C_DIGIT)
		for (p += 2; classes[(unsigned char)*p] == C_DIGIT;)
			p++;
	t->at.len = (uint32_t)(p - x->p);
	x->p = p;
}

/* Operators of two characters are one token, so that messages show them whole. */
static void lex_other(struct lexer *x, struct token *t)
{
	static const char pairs[][3] = {"==", "!=", "<=", ">=", "&&", "||", "=>", ":="};

	t->type = TOK_OTHER;
	t->at.len = 1;
	for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
		if (x->p[0] == pairs[i][0] && x->p[1] == pairs[i][1])
			t->at.len = 2;
	x->p += t->at.len;
}

void lexer_next(struct lexer *x, struct token *t)
{
	for (;;) {
		const char *p = x->p;
		while (*p == ' ' || *p == '\t')
			p++;
		x->p = p;
		t->flags = 0;
		t->at = place_here(x, p, 1);
		switch ((enum class)classes[(unsigned char)*p]) {
		case C_ALPHA:
			t->type = TOK_IDENT;
			do
				p++;
			while (ident_byte[(unsigned char)*p]);
			t->at.len = (uint32_t)(p - x->p);
			x->p = p;
			return;
		case C_QUOTE: lex_string(x, t); return;
		case C_PUNCT:
			if ((*p == '=' && (p[1] == '=' || p[1] == '>')) || (*p == ':' && p[1] == '=')) {
				lex_other(x, t);
				return;
			}
			t->type = (enum token_type)puncts[(unsigned char)*p];
			x->p = p + 1;
			return;
		case C_NEWLINE:
			t->type = TOK_NEWLINE;
			x->p = p + 1;
			new_line(x, x->p);
			return;
		case C_CR:
			if (p[1] == '\n') {
				t->type = TOK_NEWLINE;
				t->at.len = 2;
				x->p = p + 2;
				new_line(x, x->p);
				return;
			}
			bad_byte(x, p, t);
			x->p = p + 1;
			continue;
		case C_DIGIT: lex_number(x, t); return;
		case C_MINUS:
			if (classes[(unsigned char)p[1]] == C_DIGIT)
				lex_number(x, t);
			else
				lex_other(x, t);
			return;
		case C_HASH: lex_comment(x, t); return;
		case C_SLASH:
			if (p[1] == '/' || p[1] == '*')
				lex_comment(x, t);
			else
				lex_other(x, t);
			return;
		case C_LESS:
			if (p[1] == '<')
				lex_heredoc(x, t);
			else
				lex_other(x, t);
			return;
		case C_END:
			if (p >= x->end) {
				t->type = TOK_EOF;
				t->at.len = 0;
				return;
			}
			bad_byte(x, p, t);
			x->p = p + 1;
			continue;
		case C_HIGH:
			x->p = step_utf8(x, p, t);
			if (t->flags & TOKEN_BROKEN)
				continue;
			t->type = TOK_OTHER;
			t->at.len = (uint32_t)(x->p - p);
			return;
		case C_SPACE:
		case C_OTHER: lex_other(x, t); return;
		}
	}
}

const char *token_describe(const struct source *s, const struct token *t, char buf[64])
{
	switch (t->type) {
	case TOK_EOF: return "the end of the file";
	case TOK_NEWLINE: return "the end of the line";
	case TOK_STRING: return "a string";
	case TOK_HEREDOC: return "a heredoc";
	case TOK_COMMENT: return "a comment";
	case TOK_NUMBER:
	case TOK_IDENT:
	case TOK_LBRACE:
	case TOK_RBRACE:
	case TOK_LBRACK:
	case TOK_RBRACK:
	case TOK_EQUALS:
	case TOK_COMMA:
	case TOK_DOT:
	case TOK_COLON:
	case TOK_OTHER: break;
	}
	snprintf(buf, 64, "\"%.*s\"%s", (int)(t->at.len < 40 ? t->at.len : 40), s->text + t->at.offset,
		 t->at.len < 40 ? "" : "…");
	return buf;
}
