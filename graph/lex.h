/* What lex.c (tokens) and lex_text.c (strings, heredocs, UTF-8) share. Private to the two. */
#ifndef GRAPH_LEX_H
#define GRAPH_LEX_H

#include "graph/syntax.h"

extern const bool lex_ident_byte[256]; /* may follow in an identifier */
extern const bool lex_text_stop[256];  /* scanning a string or comment has to stop and think here */

static inline bool lex_begins_ident(char c)
{
	return lex_ident_byte[(unsigned char)c] && (c < '0' || c > '9') && c != '-';
}

static inline struct place lex_place(const struct lexer *x, const char *p, size_t len)
{
	return (struct place){(uint32_t)(p - x->source->text), (uint32_t)len, x->line,
			      (uint32_t)(p - x->line_start) - x->extra + 1};
}

static inline struct span lex_span(const struct lexer *x, const char *p, size_t len)
{
	struct place at = lex_place(x, p, len);
	return span_at(x->source, &at);
}

static inline void lex_new_line(struct lexer *x, const char *start)
{
	x->line++;
	x->line_start = start;
	x->extra = 0;
}

/* Whether to report a mistake on this line: the first one only, since those behind it may come from it. */
static inline bool lex_loud(struct lexer *x)
{
	if (!x->diags || x->quiet || x->error_line == x->line)
		return false;
	x->error_line = x->line;
	return true;
}

/* Steps over one character at p >= 0x80 inside text; reports what is not UTF-8. */
const char *lex_step_utf8(struct lexer *x, const char *p, struct token *t);
/* A byte that no text may hold: NUL, or a carriage return without its line feed. Returns false for other bytes. */
bool lex_bad_byte(struct lexer *x, const char *p, struct token *t);

/* At the opening quote, and at "<<". */
void lex_string(struct lexer *x, struct token *t);
void lex_heredoc(struct lexer *x, struct token *t);

#endif
