/* Recursive descent, one token ahead. After a mistake the parser skips to the end of the line, or of the block when
 * its head was wrong, and goes on; it reports one mistake a line. */
#include "graph/parser.h"

#include <stdio.h>
#include <string.h>

/* Returns the value, NULL when there is none that could be read. */
static struct node *read_attr(struct parser *p, struct block *b, struct entries *all)
{
	struct entry *e = arena_calloc(p->arena, 1, sizeof *e);
	char buf[64];

	if (!parser_read_name(p, &e->name, "attribute names")) {
		if (!hint_operator(p) &&
		    parser_error(p, &p->tok.at, "expected an attribute or \"}\", found %s",
				 token_describe(p->source, &p->tok, buf)))
			diag_label(p->diags, "an attribute is name = value");
		b->broken = true;
		parser_advance(p);
		parser_skip_line(p);
		return NULL;
	}
	if (p->tok.type == TOK_LBRACE ||
	    ((p->tok.type == TOK_STRING || p->tok.type == TOK_IDENT) && parser_peek(p).type == TOK_LBRACE)) {
		if (parser_error(p, &e->name, "block \"%.*s\" inside a block is not part of the language",
				 (int)e->name.len, place_text(p->source, &e->name)))
			diag_label(p->diags, "a stage has attributes only; an object is written %.*s = { … }",
				   (int)e->name.len, place_text(p->source, &e->name));
		b->broken = true;
		parser_skip_block(p);
		return NULL;
	}
	if (!parser_read_equals(p, &e->name)) {
		b->broken = true;
		parser_skip_line(p);
		return NULL;
	}
	e->value = parser_read_value(p, "\"=\"");
	if (p->panic || e->value->type == NODE_BROKEN) {
		e->value->type = NODE_BROKEN;
		parser_add_entry(p, all, e, "attribute");
		parser_skip_line(p);
		return NULL;
	}
	parser_add_entry(p, all, e, "attribute");
	return e->value;
}

/* What may stand behind an attribute; last is the one read, NULL when it was given up. */
static void end_attr(struct parser *p, struct block *b, struct node *last)
{
	if (p->tok.type == TOK_NEWLINE || p->tok.type == TOK_EOF || parser_starts_line(p) ||
	    parser_begins_block(p))
		return;
	if (parser_begins_attr(p)) {
		if (parser_error(p, &p->tok.at, "two attributes on one line"))
			diag_label(p->diags, "begin a new line here");
		return;
	}
	b->broken = true;
	if (p->tok.type == TOK_RBRACE) {
		if (parser_error(p, &p->tok.at, "expected the end of the line, found \"}\""))
			diag_label(p->diags, "the \"}\" of a block stands on a line of its own");
		return;
	}
	hint_after_value(p, last, "the end of the line");
	/* Behind a comma or semicolon the value is whole; elsewhere it is not what was meant. */
	if (last && p->tok.type != TOK_COMMA && p->source->text[p->tok.at.offset] != ';')
		last->type = NODE_BROKEN;
	parser_skip_line(p);
}

/* Behind "{" up to behind "}". */
static void read_body(struct parser *p, struct block *b, const struct place *open)
{
	struct entries all = {.tail = &all.first};
	bool one_line = p->tok.type != TOK_NEWLINE;
	struct node *last = NULL;
	bool started = false;

	for (;;) {
		enum token_type t = p->tok.type;
		if (t == TOK_NEWLINE) {
			parser_advance(p);
			continue;
		}
		if (t == TOK_RBRACE) {
			parser_advance(p);
			break;
		}
		if (t == TOK_EOF || parser_begins_block(p)) {
			struct place at = p->tok.at;
			if (t == TOK_EOF)
				at = *open;
			/* What was not closed before the end of the file has eaten the brace too. */
			if (t == TOK_EOF && started && !last)
				at.line = p->lex.error_line;
			if (parser_error(p, &at,
					 t == TOK_EOF ? "the block is not closed"
						      : "a block inside a block")) {
				diag_label(p->diags,
					   t == TOK_EOF ? "expected \"}\" before the end of the file"
							: "is the \"}\" of the block before it missing?");
				if (t != TOK_EOF)
					diag_note(p->diags, span_at(p->source, &b->head),
						  "the block before it begins here");
			}
			b->broken = true;
			break;
		}
		last = read_attr(p, b, &all);
		started = true;
		if (one_line && p->tok.type == TOK_RBRACE) {
			parser_advance(p);
			break;
		}
		if (one_line && p->lex.error_line != open->line &&
		    parser_error(p, open,
				 "a block of more than one attribute has its \"{\" at the end of a line"))
			diag_label(p->diags, "begin a new line behind this");
		one_line = false;
		end_attr(p, b, last);
	}
	b->attrs = all.first;
	b->nattrs = all.n;
}

/* The tokens of a block's head, comments included: `terraform fmt` would drop them there. */
static void advance_in_head(struct parser *p)
{
	lexer_next(&p->lex, &p->tok);
	if (p->tok.type == TOK_COMMENT) {
		if (parser_error(p, &p->tok.at, "a comment inside the head of a block"))
			diag_label(p->diags, "put it above the block or behind the \"{\"");
		parser_advance(p);
	}
}

static bool read_label(struct parser *p, struct block *b, const char *word)
{
	const char *s = place_text(p->source, &p->tok.at);

	b->label = b->name = p->tok.at;
	if (p->tok.type == TOK_STRING) {
		if (p->tok.flags & TOKEN_BROKEN)
			return false;
		b->name.offset++;
		b->name.col++;
		b->name.len -= 2;
		s++;
	}
	if (is_ident(s, b->name.len))
		return true;
	if (!b->name.len) {
		if (parser_error(p, &b->label, "the name of a %s is empty", word))
			diag_label(p->diags, "expected a name");
	} else if (parser_error(p, &b->label, "\"%.*s\" is not a name",
				(int)(b->name.len < 100 ? b->name.len : 100), s)) {
		diag_label(p->diags,
			   "a name is letters, digits, \"_\" and \"-\", and begins with a letter or \"_\"");
	}
	return false;
}

static void read_block(struct parser *p, enum block_type type, struct tree *out, struct block ***tail)
{
	struct block *b = arena_calloc(p->arena, 1, sizeof *b);
	const char *word = place_text(p->source, &p->tok.at);
	char buf[64], kind[16];

	b->type = type;
	b->head = p->tok.at;
	snprintf(kind, sizeof kind, "%.*s", (int)p->tok.at.len, word);
	advance_in_head(p);
	if (p->tok.type == TOK_STRING || p->tok.type == TOK_IDENT) {
		if (!read_label(p, b, kind)) {
			out->lost = true;
			b->name.len = 0;
			b->broken = true;
		}
		advance_in_head(p);
	}
	if (p->tok.type == TOK_STRING || p->tok.type == TOK_IDENT) {
		if (parser_error(p, &p->tok.at, "a %s has one name", kind))
			diag_label(p->diags, "expected \"{\"");
		while (p->tok.type == TOK_STRING || p->tok.type == TOK_IDENT)
			parser_advance(p);
	}
	if (p->tok.type == TOK_NEWLINE) {
		p->newlines = false;
		bool below = parser_peek(p).type == TOK_LBRACE;
		p->newlines = true;
		if (parser_error(p, b->label.len ? &b->label : &b->head,
				 "expected \"{\" behind this, found the end of the line"))
			diag_label(p->diags,
				   below ? "the \"{\" of a block belongs on this line"
					 : "a block is %s \"name\" {",
				   kind);
		while (below && p->tok.type == TOK_NEWLINE)
			parser_advance(p);
	}
	if (p->tok.type != TOK_LBRACE) {
		if (parser_error(p, &p->tok.at, "expected \"{\", found %s",
				 token_describe(p->source, &p->tok, buf)))
			diag_label(p->diags, "a block is %s \"name\" {", kind);
		out->lost = true;
		parser_skip_block(p);
		return;
	}
	if (!b->label.len) {
		if (parser_error(p, &b->head, "the %s has no name", kind))
			diag_label(p->diags, "write %s \"name\" {", kind);
		out->lost = true;
	}
	struct place open = p->tok.at;
	parser_advance(p);
	read_body(p, b, &open);
	**tail = b;
	*tail = &b->next;
	out->nstages += type == BLOCK_STAGE;
	out->nparams += type == BLOCK_PARAM;
	if (p->tok.type != TOK_NEWLINE && p->tok.type != TOK_EOF && !parser_begins_block(p)) {
		if (!b->broken &&
		    parser_error(p, &p->tok.at, "expected the end of the line behind \"}\", found %s",
				 token_describe(p->source, &p->tok, buf)))
			diag_label(p->diags, "begin a new line here");
		parser_skip_line(p);
	} else if (p->tok.type == TOK_IDENT && !b->broken &&
		   parser_error(p, &p->tok.at, "two blocks on one line")) {
		diag_label(p->diags, "begin a new line here");
	}
}

static void read_stray(struct parser *p, struct tree *out)
{
	char buf[64];

	out->lost = true;
	if (p->tok.type == TOK_LBRACE) {
		if (parser_error(p, &p->tok.at, "expected a block, found \"{\""))
			diag_label(p->diags,
				   "a file is made of pipeline, param and stage blocks; it is not JSON");
		parser_skip_block(p);
		return;
	}

	if (p->tok.type == TOK_RBRACE) {
		if (parser_error(p, &p->tok.at, "unexpected \"}\""))
			diag_label(p->diags, "no block is open here");
	} else if (!hint_operator(p) && parser_error(p, &p->tok.at, "expected a block, found %s",
						     token_describe(p->source, &p->tok, buf))) {
		diag_label(p->diags, "a file is made of pipeline, param and stage blocks");
	}
	parser_advance(p);
	if (p->tok.type != TOK_NEWLINE)
		parser_skip_line(p);
	if (p->tok.type == TOK_RBRACE)
		parser_advance(p);
}

void parse_file(const struct source *source, struct arena *a, struct diags *d, struct tree *out)
{
	struct parser p = {.arena = a, .diags = d, .source = source, .newlines = true};
	struct block **tail;

	*out = (struct tree){.source = source};
	tail = &out->blocks;
	lexer_init(&p.lex, source, 0, d);
	parser_advance(&p);
	while (p.tok.type != TOK_EOF) {
		if (p.tok.type == TOK_NEWLINE) {
			parser_advance(&p);
			continue;
		}
		if (p.tok.type != TOK_IDENT) {
			read_stray(&p, out);
			continue;
		}
		int type = parser_block_type(&p, &p.tok.at);
		const char *behind = source->text + p.tok.at.offset + p.tok.at.len;
		if (parser_begins_attr(&p) || behind[strspn(behind, " \t")] == ':') {
			if (parser_error(&p, &p.tok.at, "attribute \"%.*s\" outside of a block",
					 (int)p.tok.at.len, place_text(source, &p.tok.at)))
				diag_label(p.diags,
					   "attributes belong into a pipeline, param or stage block");
			out->lost = true;
			parser_advance(&p);
			parser_skip_line(&p);
			if (p.tok.type == TOK_RBRACE)
				parser_advance(&p);
		} else if (type >= 0) {
			read_block(&p, (enum block_type)type, out, &tail);
		} else {
			hint_unknown_block(&p);
			out->lost = true;
			parser_skip_block(&p);
		}
	}
}
