/* Recursive descent, one token ahead. After a mistake the parser skips to the end of the line, or of the block when
 * its head was wrong, and goes on; it reports one mistake a line. */
#include "graph/syntax.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "graph/names.h"

static struct node *read_value(struct parser *p, const char *behind);

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

static bool word_is(const struct parser *p, const struct place *at, const char *word)
{
	return strlen(word) == at->len && !memcmp(place_text(p->source, at), word, at->len);
}

static int block_type_of(const struct parser *p, const struct place *at)
{
	static const char *const words[] = {
		[BLOCK_PIPELINE] = "pipeline", [BLOCK_PARAM] = "param", [BLOCK_STAGE] = "stage"};

	for (int i = 0; i < 3; i++)
		if (word_is(p, at, words[i]))
			return i;
	return -1;
}

/* Whether the token begins a new block: a known word, a name and "{". Looks at the bytes, so that it costs no more
 * than the line. */
static bool begins_block(const struct parser *p)
{
	const char *s = p->source->text + p->tok.at.offset + p->tok.at.len, *label;

	if (p->tok.type != TOK_IDENT || block_type_of(p, &p->tok.at) < 0)
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

static bool begins_attr(const struct parser *p)
{
	const char *s = p->source->text + p->tok.at.offset + p->tok.at.len;

	if (p->tok.type != TOK_IDENT)
		return false;
	s += strspn(s, " \t");
	return *s == '=' && s[1] != '=' && s[1] != '>';
}

static bool starts_line(const struct parser *p)
{
	const char *s = p->source->text + p->tok.at.offset;

	while (s > p->source->text && (s[-1] == ' ' || s[-1] == '\t'))
		s--;
	return s == p->source->text || s[-1] == '\n';
}

/* Goes to the end of the line (or to a closing brace on it) without a word about what lies between. Brackets that
 * open on the way are followed to their end, a list at most to where the next attribute or block begins. */
static void skip_line(struct parser *p)
{
	unsigned braces = 0, lists = 0;
	bool quiet = p->lex.quiet, fresh = starts_line(p);

	p->panic = false;
	p->newlines = true;
	p->lex.quiet = true;
	for (;; parser_advance(p)) {
		enum token_type t = p->tok.type;
		if (t == TOK_EOF || (t == TOK_NEWLINE && !braces && !lists))
			break;
		if (t == TOK_RBRACE && !braces)
			break;
		if (fresh && (begins_block(p) || (!braces && begins_attr(p))))
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

/* From a head that is wrong to behind the closing brace, if there is a block at all. */
static void skip_block(struct parser *p)
{
	bool quiet = p->lex.quiet, fresh = false;
	unsigned depth = 0;

	p->panic = false;
	p->newlines = true;
	p->lex.quiet = true;
	for (;; parser_advance(p)) {
		enum token_type t = p->tok.type;
		if (t == TOK_EOF || (t == TOK_NEWLINE && !depth))
			break;
		if (fresh && begins_block(p))
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
	if (p->tok.type == TOK_IDENT && word_is(p, &p->tok.at, "for")) {
		if (parser_error(p, &p->tok.at, "for expressions are not part of the language"))
			diag_label(p->diags, "write the items out");
		return broken(p, n);
	}
	while (p->tok.type != TOK_RBRACK) {
		if (p->tok.type == TOK_EOF || p->tok.type == TOK_RBRACE || begins_attr(p) ||
		    begins_block(p)) {
			if (parser_error(p, &open, "the list is not closed"))
				diag_label(p->diags, "expected \"]\" before line %u",
					   p->tok.at.line + (p->tok.type == TOK_EOF));
			broken(p, n);
			p->newlines = newlines;
			return n;
		}
		struct node *item = read_value(p, n->n ? "\",\"" : "\"[\"");
		if (p->panic)
			return broken(p, n);
		n->n++;
		*tail = item;
		tail = &item->next;
		if (p->tok.type == TOK_COMMA) {
			parser_advance(p);
			if (p->tok.type == TOK_COMMA) {
				if (parser_error(p, &p->tok.at, "expected a value behind \",\", found \",\""))
					diag_label(p->diags, "remove it");
				return broken(p, n);
			}
		} else if (p->tok.type == TOK_STRING || p->tok.type == TOK_NUMBER) {
			if (item->type == NODE_BROKEN || p->tok.flags & TOKEN_BROKEN)
				continue;
			if (parser_error(p, &p->tok.at, "expected \",\" or \"]\" behind the value"))
				diag_label(p->diags, "a comma is missing before this");
		} else if (p->tok.type != TOK_RBRACK && p->tok.type != TOK_EOF && p->tok.type != TOK_RBRACE &&
			   !begins_attr(p) && !begins_block(p)) {
			hint_after_value(p, item, "\",\" or \"]\"");
			return broken(p, n);
		}
	}
	close_span(n, &p->tok.at);
	p->newlines = newlines;
	parser_advance(p);
	return n;
}

/* name = value entries of a block or object, checked for doubles. */
struct entries {
	struct entry *first, **tail;
	uint32_t n;
	struct names seen; /* once there are many */
};

static void add_entry(struct parser *p, struct entries *all, struct entry *e, const char *what)
{
	const char *name = place_text(p->source, &e->name);
	const struct entry *old = NULL;

	if (all->n < 16) {
		for (old = all->first; old; old = old->next)
			if (old->name.len == e->name.len &&
			    !memcmp(place_text(p->source, &old->name), name, e->name.len))
				break;
	} else {
		if (all->n == 16) {
			names_init(&all->seen, p->arena, 64);
			for (const struct entry *o = all->first; o; o = o->next)
				names_add(&all->seen, place_text(p->source, &o->name), o->name.len,
					  o->name.offset);
		}
		uint32_t at = names_add(&all->seen, name, e->name.len, e->name.offset);
		for (old = at == NAMES_NONE ? NULL : all->first; old && old->name.offset != at;)
			old = old->next;
	}
	if (old) {
		if (parser_error(p, &e->name, "%s \"%.*s\" is given twice", what, (int)e->name.len, name))
			diag_note(p->diags, span_at(p->source, &old->name), "\"%.*s\" is first given here",
				  (int)e->name.len, name);
		return;
	}
	*all->tail = e;
	all->tail = &e->next;
	all->n++;
}

/* p->tok stands behind a name; takes "=" or what was written for it. False after an error that ends the line. */
static bool read_equals(struct parser *p, const struct place *name)
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

/* A name at p->tok, quoted by mistake or not. False when there is none. */
static bool read_name(struct parser *p, struct place *name, const char *what)
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
		if (p->tok.type == TOK_EOF || begins_block(p)) {
			if (parser_error(p, &open, "the object is not closed"))
				diag_label(p->diags, "expected \"}\" before line %u",
					   p->tok.at.line + (p->tok.type == TOK_EOF));
			broken(p, n);
			return n;
		}
		if (!all.n && p->tok.type == TOK_IDENT && word_is(p, &p->tok.at, "for")) {
			if (parser_error(p, &p->tok.at, "for expressions are not part of the language"))
				diag_label(p->diags, "\"for\" cannot be the first name of an object either");
			return broken(p, n);
		}
		struct entry *e = arena_calloc(p->arena, 1, sizeof *e);
		if (!read_name(p, &e->name, "names in an object")) {
			if (!hint_operator(p) &&
			    parser_error(p, &p->tok.at, "expected a name or \"}\", found %s",
					 token_describe(p->source, &p->tok, buf)))
				diag_label(p->diags, "an object is { name = value, … }");
			return broken(p, n);
		}
		if (!read_equals(p, &e->name))
			return broken(p, n);
		e->value = read_value(p, "\"=\"");
		if (p->panic)
			return broken(p, n);
		add_entry(p, &all, e, "name");
		if (p->tok.type == TOK_COMMA) {
			parser_advance(p);
		} else if (p->tok.type != TOK_NEWLINE && p->tok.type != TOK_RBRACE &&
			   p->tok.type != TOK_EOF) {
			if (p->tok.type == TOK_IDENT && begins_attr(p) &&
			    parser_error(p, &p->tok.at, "two entries on one line without a comma"))
				diag_label(p->diags, "write a comma or a new line before this");
			else
				hint_after_value(p, e->value, "\",\", a new line or \"}\"");
			return broken(p, n);
		}
	}
	n->members = all.first;
	n->n = all.n;
	close_span(n, &p->tok.at);
	p->newlines = newlines;
	parser_advance(p);
	return n;
}

/* Reads the value at p->tok. With p->panic afterwards the caller gives up what it is in. */
static struct node *read_value(struct parser *p, const char *behind)
{
	struct node *n;

	switch (p->tok.type) {
	case TOK_STRING:
	case TOK_HEREDOC:
		n = new_node(p, p->tok.flags & TOKEN_BROKEN ? NODE_BROKEN : NODE_STRING);
		n->flags = p->tok.flags;
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
		if (word_is(p, &p->tok.at, "true") || word_is(p, &p->tok.at, "false")) {
			n = new_node(p, NODE_BOOL);
			n->truth = word_is(p, &p->tok.at, "true");
			parser_advance(p);
			return n;
		}
		if (word_is(p, &p->tok.at, "null")) {
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

static void read_attr(struct parser *p, struct block *b, struct entries *all)
{
	struct entry *e = arena_calloc(p->arena, 1, sizeof *e);
	char buf[64];

	if (!read_name(p, &e->name, "attribute names")) {
		if (!hint_operator(p) &&
		    parser_error(p, &p->tok.at, "expected an attribute or \"}\", found %s",
				 token_describe(p->source, &p->tok, buf)))
			diag_label(p->diags, "an attribute is name = value");
		b->broken = true;
		parser_advance(p);
		skip_line(p);
		return;
	}
	if (p->tok.type == TOK_LBRACE ||
	    ((p->tok.type == TOK_STRING || p->tok.type == TOK_IDENT) && parser_peek(p).type == TOK_LBRACE)) {
		if (parser_error(p, &e->name, "block \"%.*s\" inside a block is not part of the language",
				 (int)e->name.len, place_text(p->source, &e->name)))
			diag_label(p->diags, "a stage has attributes only; an object is written %.*s = { … }",
				   (int)e->name.len, place_text(p->source, &e->name));
		b->broken = true;
		skip_block(p);
		return;
	}
	if (!read_equals(p, &e->name)) {
		b->broken = true;
		skip_line(p);
		return;
	}
	e->value = read_value(p, "\"=\"");
	if (p->panic || e->value->type == NODE_BROKEN) {
		e->value->type = NODE_BROKEN;
		add_entry(p, all, e, "attribute");
		skip_line(p);
		return;
	}
	add_entry(p, all, e, "attribute");
}

/* What may stand behind an attribute. */
static void end_attr(struct parser *p, struct entries *all)
{
	const struct entry *last = NULL;

	if (p->tok.type == TOK_NEWLINE || p->tok.type == TOK_EOF || starts_line(p) || begins_block(p))
		return;
	if (begins_attr(p)) {
		if (parser_error(p, &p->tok.at, "two attributes on one line"))
			diag_label(p->diags, "begin a new line here");
		return;
	}
	for (const struct entry *e = all->first; e; e = e->next)
		last = e;
	hint_after_value(p, last ? last->value : NULL, "the end of the line");
	if (p->tok.type != TOK_RBRACE)
		skip_line(p);
}

/* Behind "{" up to behind "}". */
static void read_body(struct parser *p, struct block *b, const struct place *open)
{
	struct entries all = {.tail = &all.first};
	bool one_line = p->tok.type != TOK_NEWLINE;

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
		if (t == TOK_EOF || begins_block(p)) {
			struct place at = p->tok.at;
			if (t == TOK_EOF)
				at = *open;
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
		read_attr(p, b, &all);
		if (one_line && p->tok.type == TOK_RBRACE) {
			parser_advance(p);
			break;
		}
		if (one_line && p->lex.error_line != open->line &&
		    parser_error(p, open,
				 "a block of more than one attribute has its \"{\" at the end of a line"))
			diag_label(p->diags, "begin a new line behind this");
		one_line = false;
		end_attr(p, &all);
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
		skip_block(p);
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
	if (p->tok.type != TOK_NEWLINE && p->tok.type != TOK_EOF && !begins_block(p)) {
		if (!b->broken &&
		    parser_error(p, &p->tok.at, "expected the end of the line behind \"}\", found %s",
				 token_describe(p->source, &p->tok, buf)))
			diag_label(p->diags, "begin a new line here");
		skip_line(p);
	} else if (p->tok.type == TOK_IDENT && !b->broken &&
		   parser_error(p, &p->tok.at, "two blocks on one line")) {
		diag_label(p->diags, "begin a new line here");
	}
}

static void read_stray(struct parser *p)
{
	char buf[64];

	if (p->tok.type == TOK_RBRACE) {
		if (parser_error(p, &p->tok.at, "unexpected \"}\""))
			diag_label(p->diags, "no block is open here");
	} else if (!hint_operator(p) && parser_error(p, &p->tok.at, "expected a block, found %s",
						     token_describe(p->source, &p->tok, buf))) {
		diag_label(p->diags, "a file is made of pipeline, param and stage blocks");
	}
	parser_advance(p);
	if (p->tok.type != TOK_NEWLINE)
		skip_line(p);
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
			read_stray(&p);
			continue;
		}
		int type = block_type_of(&p, &p.tok.at);
		struct token next = parser_peek(&p);
		if (next.type == TOK_EQUALS || next.type == TOK_COLON) {
			if (parser_error(&p, &p.tok.at, "attribute \"%.*s\" outside of a block",
					 (int)p.tok.at.len, place_text(source, &p.tok.at)))
				diag_label(p.diags,
					   "attributes belong into a pipeline, param or stage block");
			skip_line(&p);
			if (p.tok.type == TOK_RBRACE)
				parser_advance(&p);
		} else if (type >= 0) {
			read_block(&p, (enum block_type)type, out, &tail);
		} else {
			hint_unknown_block(&p);
			out->lost = true;
			skip_block(&p);
		}
	}
}

struct node *parse_value(const struct source *source, size_t offset, struct arena *a, struct diags *d)
{
	struct parser p = {.arena = a, .diags = d, .source = source, .newlines = true};

	lexer_init(&p.lex, source, offset, d);
	parser_advance(&p);
	struct node *n = read_value(&p, "\"=\"");
	if (p.panic || n->type == NODE_BROKEN)
		return NULL;
	if (p.tok.type != TOK_EOF) {
		hint_after_value(&p, n, "the end of the value");
		return NULL;
	}
	return n;
}
