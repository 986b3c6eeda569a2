/* Moving over tokens, and finding the way after a mistake. */
#include "graph/parser.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void parser_advance(struct parser *p)
{
	do
		lexer_next(&p->lex, &p->tok);
	while (p->tok.type == TOK_COMMENT || (p->tok.type == TOK_NEWLINE && !p->newlines));
}

struct token parser_peek(const struct parser *p)
{
	struct parser ahead = *p;

	ahead.lex.quiet = true;
	parser_advance(&ahead);
	return ahead.tok;
}

bool parser_error(struct parser *p, const struct place *at, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	if (p->lex.quiet || p->lex.error_line == at->line)
		return false;
	p->lex.error_line = at->line;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	diag_error(p->diags, span_at(p->source, at), "%s", text);
	return true;
}

bool parser_word_is(const struct parser *p, const struct place *at, const char *word)
{
	return strlen(word) == at->len && !memcmp(place_text(p->source, at), word, at->len);
}

int parser_block_type(const struct parser *p, const struct place *at)
{
	static const char *const words[] = {
		[BLOCK_PIPELINE] = "pipeline", [BLOCK_PARAM] = "param", [BLOCK_STAGE] = "stage"};

	for (int i = 0; i < 3; i++)
		if (parser_word_is(p, at, words[i]))
			return i;
	return -1;
}

bool parser_begins_block(const struct parser *p)
{
	const char *s = p->source->text + p->tok.at.offset + p->tok.at.len, *label;

	if (p->tok.type != TOK_IDENT || parser_block_type(p, &p->tok.at) < 0)
		return false;
	s += strspn(s, " \t");
	label = s;
	if (*s == '"') {
		s += 1 + strcspn(s + 1, "\"\n");
		s += *s == '"';
	} else {
		s += strcspn(s, " \t\n{=\"");
	}
	if (s == label)
		return false;
	s += strspn(s, " \t");
	return *s == '{';
}

bool parser_begins_attr(const struct parser *p)
{
	const char *s = p->source->text + p->tok.at.offset + p->tok.at.len;

	if (p->tok.type != TOK_IDENT)
		return false;
	s += strspn(s, " \t");
	return *s == '=' && s[1] != '=' && s[1] != '>';
}

bool parser_starts_line(const struct parser *p)
{
	const char *s = p->source->text + p->tok.at.offset;

	while (s > p->source->text && (s[-1] == ' ' || s[-1] == '\t'))
		s--;
	return s == p->source->text || s[-1] == '\n';
}

void parser_skip_line(struct parser *p)
{
	unsigned braces = p->open_braces, lists = p->open_lists;
	bool quiet = p->lex.quiet, fresh = parser_starts_line(p);

	p->panic = p->unclosed = false;
	p->open_braces = p->open_lists = 0;
	p->newlines = true;
	p->lex.quiet = true;
	for (;; parser_advance(p)) {
		enum token_type t = p->tok.type;
		if (t == TOK_EOF || (t == TOK_NEWLINE && !braces && !lists))
			break;
		if (t == TOK_RBRACE && !braces)
			break;
		if (fresh && (parser_begins_block(p) || (!braces && parser_begins_attr(p))))
			break;
		fresh = t == TOK_NEWLINE;
		if (t == TOK_LBRACE)
			braces++;
		else if (t == TOK_RBRACE)
			braces--;
		else if (t == TOK_LBRACK)
			lists++;
		else if (t == TOK_RBRACK && lists)
			lists--;
	}
	p->lex.quiet = quiet;
}

void parser_skip_block(struct parser *p)
{
	bool quiet = p->lex.quiet, fresh = false;
	unsigned depth = 0;

	p->panic = p->unclosed = false;
	p->open_braces = p->open_lists = 0;
	p->newlines = true;
	p->lex.quiet = true;
	for (;; parser_advance(p)) {
		enum token_type t = p->tok.type;
		if (t == TOK_EOF || (t == TOK_NEWLINE && !depth))
			break;
		if (fresh && parser_begins_block(p))
			break;
		fresh = t == TOK_NEWLINE;
		if (t == TOK_LBRACE)
			depth++;
		if (t == TOK_RBRACE && (!depth || --depth == 0)) {
			parser_advance(p);
			break;
		}
	}
	p->lex.quiet = quiet;
}
