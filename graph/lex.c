/* Tokens. One pass over the bytes by character class; a token is a place and two small numbers, nothing is copied.
 * What HCL's scanner would refuse is refused here too, with the mistake named. */
#include "graph/lex.h"

#include <stdio.h>
#include <string.h>

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

static void lex_comment(struct lexer *x, struct token *t)
{
	const char *p = x->p;
	bool block = p[0] == '/' && p[1] == '*';

	t->type = TOK_COMMENT;
	for (p += block ? 2 : 1;;) {
		while (!lex_text_stop[(unsigned char)*p])
			p++;
		if (p >= x->end) {
			if (block && lex_loud(x)) {
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
			lex_new_line(x, ++p);
		} else if (*p == '\r' && p[1] == '\n') {
			if (!block)
				break;
			p++;
		} else if (block && *p == '*' && p[1] == '/') {
			p += 2;
			break;
		} else if ((unsigned char)*p >= 0x80) {
			p = lex_step_utf8(x, p, t);
		} else {
			lex_bad_byte(x, p++, t);
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
		t->at = lex_place(x, p, 1);
		switch ((enum class)classes[(unsigned char)*p]) {
		case C_ALPHA:
			t->type = TOK_IDENT;
			do
				p++;
			while (lex_ident_byte[(unsigned char)*p]);
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
			lex_new_line(x, x->p);
			return;
		case C_CR:
			if (p[1] == '\n') {
				t->type = TOK_NEWLINE;
				t->at.len = 2;
				x->p = p + 2;
				lex_new_line(x, x->p);
				return;
			}
			lex_bad_byte(x, p, t);
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
			lex_bad_byte(x, p, t);
			x->p = p + 1;
			continue;
		case C_HIGH:
			x->p = lex_step_utf8(x, p, t);
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
