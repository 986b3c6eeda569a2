/* Values: strings, numbers, references, lists, objects. */
#include "graph/parser.h"

#include <string.h>

static struct node *new_node(struct parser *p, enum node_type type)
{
	struct node *n = arena_calloc(p->arena, 1, sizeof *n);

	n->type = type;
	n->at = p->tok.at;
	return n;
}

static struct node *broken(struct parser *p, struct node *n)
{
	n->type = NODE_BROKEN;
	p->panic = true;
	return n;
}

/* The same inside a list or object whose end is still to come. */
static struct node *broken_inside(struct parser *p, struct node *n)
{
	if (!p->unclosed)
		++*(n->type == NODE_LIST ? &p->open_lists : &p->open_braces);
	return broken(p, n);
}

static void close_span(struct node *n, const struct place *last)
{
	n->at.len = last->offset + last->len - n->at.offset;
}

static struct node *read_ref(struct parser *p)
{
	struct node *n = new_node(p, NODE_REF);
	struct place parts[8], last;

	for (;;) {
		if (n->n == sizeof parts / sizeof *parts) {
			if (parser_error(p, &p->tok.at, "the reference has too many parts"))
				diag_label(p->diags, "a reference is stage.port, param.NAME or env.NAME");
			return broken(p, n);
		}
		last = parts[n->n++] = p->tok.at;
		parser_advance(p);
		if (p->tok.type != TOK_DOT)
			break;
		parser_advance(p);
		if (p->tok.type != TOK_IDENT) {
			char buf[64];
			if (!hint_operator(p) &&
			    parser_error(p, &p->tok.at, "expected a name behind \".\", found %s",
					 token_describe(p->source, &p->tok, buf)))
				diag_label(p->diags, "a reference is stage.port, param.NAME or env.NAME");
			return broken(p, n);
		}
	}
	close_span(n, &last);
	n->parts = arena_alloc(p->arena, n->n * sizeof *parts);
	memcpy(n->parts, parts, n->n * sizeof *parts);
	return n;
}

/* A string that is one ${a.b} and nothing else is that reference, as in HCL. */
static void unwrap(struct parser *p, struct node *n)
{
	const char *s = place_text(p->source, &n->at), *e = s + n->at.len - 1, *name, *what;
	size_t len;

	if (n->heredoc || !(n->flags & TOKEN_TEMPLATE) || n->at.len < 5 || memcmp(s, "\"${", 3) ||
	    template_scan(s + 3, e, &name, &len, &what) != e)
		return;
	n->type = NODE_REF;
	n->quoted = true;
	n->n = 1;
	for (size_t i = 0; i < len; i++)
		n->n += name[i] == '.';
	n->parts = arena_alloc(p->arena, n->n * sizeof *n->parts);
	for (uint32_t i = 0; i < n->n; i++) {
		const char *dot = memchr(name, '.', len);
		size_t k = dot ? (size_t)(dot - name) : len;
		n->parts[i] = (struct place){(uint32_t)(name - p->source->text), (uint32_t)k, n->at.line,
					     n->at.col + (uint32_t)(name - s)};
		name += k + 1;
		len -= dot ? k + 1 : k;
	}
}

static struct node *read_list(struct parser *p)
{
	struct node *n = new_node(p, NODE_LIST), **tail = &n->first;
	struct place open = p->tok.at;
	bool newlines = p->newlines;

	p->newlines = false;
	parser_advance(p);
	if (p->tok.type == TOK_IDENT && parser_word_is(p, &p->tok.at, "for")) {
		if (parser_error(p, &p->tok.at, "for expressions are not part of the language"))
			diag_label(p->diags, "write the items out");
		return broken_inside(p, n);
	}
	while (p->tok.type != TOK_RBRACK) {
		if (p->tok.type == TOK_RBRACE && !parser_starts_line(p)) {
			if (parser_error(p, &p->tok.at, "expected \"]\", found \"}\""))
				diag_label(p->diags, "a list ends with \"]\"");
			p->newlines = newlines;
			parser_advance(p);
			return broken(p, n);
		}
		if (p->tok.type == TOK_EOF || p->tok.type == TOK_RBRACE || parser_begins_attr(p) ||
		    parser_begins_block(p)) {
			if (parser_error(p, &open, "the list is not closed"))
				diag_label(p->diags, "expected \"]\" before line %u",
					   p->tok.at.line + (p->tok.type == TOK_EOF));
			p->newlines = newlines;
			p->unclosed = true;
			return broken(p, n);
		}
		struct node *item = parser_read_value(p, n->n ? "\",\"" : "\"[\"");
		if (p->panic)
			return broken_inside(p, n);
		n->n++;
		*tail = item;
		tail = &item->next;
		if (p->tok.type == TOK_COMMA) {
			parser_advance(p);
			if (p->tok.type == TOK_COMMA) {
				if (parser_error(p, &p->tok.at, "expected a value behind \",\", found \",\""))
					diag_label(p->diags, "remove it");
				return broken_inside(p, n);
			}
		} else if (p->tok.type == TOK_STRING || p->tok.type == TOK_NUMBER) {
			if (item->type == NODE_BROKEN || p->tok.flags & TOKEN_BROKEN)
				continue;
			if (parser_error(p, &p->tok.at, "expected \",\" or \"]\" behind the value"))
				diag_label(p->diags, "a comma is missing before this");
		} else if (p->tok.type != TOK_RBRACK && p->tok.type != TOK_EOF && p->tok.type != TOK_RBRACE &&
			   !parser_begins_attr(p) && !parser_begins_block(p)) {
			hint_after_value(p, item, "\",\" or \"]\"");
			return broken_inside(p, n);
		}
	}
	close_span(n, &p->tok.at);
	p->newlines = newlines;
	parser_advance(p);
	return n;
}

void parser_add_entry(struct parser *p, struct entries *all, struct entry *e, const char *what)
{
	const char *name = place_text(p->source, &e->name);
	const struct entry *old = NULL;
	bool twice;

	if (all->n < 16) {
		for (old = all->first; old; old = old->next)
			if (old->name.len == e->name.len &&
			    !memcmp(place_text(p->source, &old->name), name, e->name.len))
				break;
		twice = old != NULL;
	} else {
		if (!all->seen.slots) {
			names_init(&all->seen, p->arena, 64);
			for (const struct entry *o = all->first; o; o = o->next)
				names_add(&all->seen, place_text(p->source, &o->name), o->name.len,
					  o->name.offset);
		}
		twice = names_add(&all->seen, name, e->name.len, e->name.offset) != NAMES_NONE;
	}
	if (!twice) {
		*all->tail = e;
		all->tail = &e->next;
		all->n++;
		return;
	}
	if (!parser_error(p, &e->name, "%s \"%.*s\" is given twice", what, (int)e->name.len, name) ||
	    p->diags->muted)
		return;
	for (old = all->first;
	     old->name.len != e->name.len || memcmp(place_text(p->source, &old->name), name, e->name.len);)
		old = old->next;
	diag_note(p->diags, span_at(p->source, &old->name), "\"%.*s\" is first given here", (int)e->name.len,
		  name);
}

bool parser_read_equals(struct parser *p, const struct place *name)
{
	const char *s = place_text(p->source, &p->tok.at);
	char buf[64];

	if (p->tok.type == TOK_EQUALS) {
		parser_advance(p);
		return true;
	}
	if (p->tok.type == TOK_COLON || (p->tok.type == TOK_OTHER && memchr(s, '=', p->tok.at.len))) {
		if (parser_error(p, &p->tok.at, "expected \"=\" behind \"%.*s\", found %s", (int)name->len,
				 place_text(p->source, name), token_describe(p->source, &p->tok, buf)))
			diag_label(p->diags, "write %.*s = value", (int)name->len,
				   place_text(p->source, name));
		parser_advance(p);
		return true;
	}
	if (parser_error(p, p->tok.type == TOK_NEWLINE || p->tok.type == TOK_EOF ? name : &p->tok.at,
			 "expected \"=\" behind \"%.*s\", found %s", (int)name->len,
			 place_text(p->source, name), token_describe(p->source, &p->tok, buf)))
		diag_label(p->diags, "an attribute is name = value");
	return p->tok.type == TOK_STRING || p->tok.type == TOK_NUMBER;
}

bool parser_read_name(struct parser *p, struct place *name, const char *what)
{
	*name = p->tok.at;
	if (p->tok.type == TOK_STRING && p->tok.at.len > 2 && !p->tok.flags &&
	    is_ident(place_text(p->source, name) + 1, name->len - 2)) {
		if (parser_error(p, name, "%s take no quotes", what))
			diag_label(p->diags, "write %.*s = value", (int)name->len - 2,
				   place_text(p->source, name) + 1);
		name->offset++;
		name->col++;
		name->len -= 2;
	} else if (p->tok.type != TOK_IDENT) {
		return false;
	}
	parser_advance(p);
	return true;
}

static struct node *read_object(struct parser *p)
{
	struct node *n = new_node(p, NODE_OBJECT);
	struct place open = p->tok.at;
	struct entries all = {.tail = &all.first};
	bool newlines = p->newlines;
	char buf[64];

	p->newlines = true;
	parser_advance(p);
	for (;;) {
		while (p->tok.type == TOK_NEWLINE)
			parser_advance(p);
		if (p->tok.type == TOK_RBRACE)
			break;
		if (p->tok.type == TOK_EOF || parser_begins_block(p)) {
			if (parser_error(p, &open, "the object is not closed"))
				diag_label(p->diags, "expected \"}\" before line %u",
					   p->tok.at.line + (p->tok.type == TOK_EOF));
			p->unclosed = true;
			return broken(p, n);
		}
		if (!all.n && p->tok.type == TOK_IDENT && parser_word_is(p, &p->tok.at, "for")) {
			if (parser_error(p, &p->tok.at, "for expressions are not part of the language"))
				diag_label(p->diags, "\"for\" cannot be the first name of an object either");
			return broken_inside(p, n);
		}
		struct entry *e = arena_calloc(p->arena, 1, sizeof *e);
		if (!parser_read_name(p, &e->name, "names in an object")) {
			if (!hint_operator(p) &&
			    parser_error(p, &p->tok.at, "expected a name or \"}\", found %s",
					 token_describe(p->source, &p->tok, buf)))
				diag_label(p->diags, "an object is { name = value, … }");
			return broken_inside(p, n);
		}
		if (!parser_read_equals(p, &e->name))
			return broken_inside(p, n);
		e->value = parser_read_value(p, "\"=\"");
		if (p->panic)
			return broken_inside(p, n);
		parser_add_entry(p, &all, e, "name");
		if (p->tok.type == TOK_COMMA) {
			parser_advance(p);
		} else if (p->tok.type != TOK_NEWLINE && p->tok.type != TOK_RBRACE &&
			   p->tok.type != TOK_EOF) {
			if (p->tok.type == TOK_IDENT && parser_begins_attr(p) &&
			    parser_error(p, &p->tok.at, "two entries on one line without a comma"))
				diag_label(p->diags, "write a comma or a new line before this");
			else
				hint_after_value(p, e->value, "\",\", a new line or \"}\"");
			return broken_inside(p, n);
		}
	}
	n->members = all.first;
	n->n = all.n;
	close_span(n, &p->tok.at);
	p->newlines = newlines;
	parser_advance(p);
	return n;
}

struct node *parser_read_value(struct parser *p, const char *behind)
{
	struct node *n;

	switch (p->tok.type) {
	case TOK_STRING:
	case TOK_HEREDOC:
		n = new_node(p, p->tok.flags & TOKEN_BROKEN ? NODE_BROKEN : NODE_STRING);
		n->flags = p->tok.flags & 0xffu;
		n->heredoc = p->tok.type == TOK_HEREDOC;
		if (n->type == NODE_STRING)
			unwrap(p, n);
		parser_advance(p);
		return n;
	case TOK_NUMBER:
		n = new_node(p, NODE_NUMBER);
		parser_advance(p);
		return n;
	case TOK_IDENT:
		if (parser_word_is(p, &p->tok.at, "true") || parser_word_is(p, &p->tok.at, "false")) {
			n = new_node(p, NODE_BOOL);
			n->truth = parser_word_is(p, &p->tok.at, "true");
			parser_advance(p);
			return n;
		}
		if (parser_word_is(p, &p->tok.at, "null")) {
			n = new_node(p, NODE_BROKEN);
			if (parser_error(p, &p->tok.at, "null is not a value here"))
				diag_label(p->diags, "leave the attribute out");
			parser_advance(p);
			return n;
		}
		return read_ref(p);
	case TOK_LBRACK:
	case TOK_LBRACE:
		if (p->depth == MAX_DEPTH) {
			if (parser_error(p, &p->tok.at, "nested too deep"))
				diag_label(p->diags, "at most %d lists and objects inside each other",
					   MAX_DEPTH);
			return broken(p, new_node(p, NODE_BROKEN));
		}
		p->depth++;
		n = p->tok.type == TOK_LBRACK ? read_list(p) : read_object(p);
		p->depth--;
		return n;
	case TOK_EOF:
	case TOK_NEWLINE:
	case TOK_COMMENT:
	case TOK_RBRACE:
	case TOK_RBRACK:
	case TOK_EQUALS:
	case TOK_COMMA:
	case TOK_DOT:
	case TOK_COLON:
	case TOK_OTHER: break;
	}
	n = new_node(p, NODE_BROKEN);
	hint_no_value(p, behind);
	return broken(p, n);
}

struct node *parse_value(const struct source *source, size_t offset, struct arena *a, struct diags *d)
{
	struct parser p = {.arena = a, .diags = d, .source = source, .newlines = true};

	lexer_init(&p.lex, source, offset, d);
	parser_advance(&p);
	struct node *n = parser_read_value(&p, "\"=\"");
	if (p.panic || n->type == NODE_BROKEN)
		return NULL;
	if (p.tok.type != TOK_EOF) {
		hint_after_value(&p, n, "the end of the value");
		return NULL;
	}
	return n;
}
