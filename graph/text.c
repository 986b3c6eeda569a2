/* Strings: escapes, heredocs and ${…}; and text that comes from outside of the file. */
#include "graph/check.h"

#include <string.h>

#include "base/str.h"

struct span operand_span(struct operand o)
{
	return span_at(o.source, &o.node->at);
}

bool place_is(const struct source *s, const struct place *p, const char *word)
{
	return strlen(word) == p->len && !memcmp(s->text + p->offset, word, p->len);
}

char *place_dup(struct checker *c, const struct source *s, const struct place *p)
{
	return arena_strndup(c->arena, s->text + p->offset, p->len);
}

/* The place of len bytes at name, inside the string o. Walks over the string: for messages only. */
static struct place locate(struct operand o, const char *name, size_t len)
{
	struct place at = {(uint32_t)(name - o.source->text), (uint32_t)len, o.node->at.line, o.node->at.col};

	for (const char *p = place_text(o.source, &o.node->at); p < name; p++) {
		if (*p == '\n') {
			at.line++;
			at.col = 1;
		} else if (((unsigned char)*p & 0xc0) != 0x80) {
			at.col++;
		}
	}
	return at;
}

/* What "${name}" stands for, or NULL after an error. */
static const char *substitute(struct checker *c, struct operand o, const char *name, size_t len, bool literal)
{
	const char *dot = memchr(name, '.', len), *rest = dot ? dot + 1 : name;
	size_t rest_len = (size_t)(name + len - rest);
	bool two = dot && !memchr(rest, '.', rest_len);
	struct place at;

	if (two && !literal && dot - name == 5 && !memcmp(name, "param", 5)) {
		uint32_t i = names_find(&c->param_index, rest, rest_len);
		if (i == NAMES_NONE) {
			at = locate(o, rest, rest_len);
			param_of(c, o, &at);
			return NULL;
		}
		c->params[i].used = true;
		return c->params[i].ok ? c->params[i].text : NULL;
	}
	if (two && !literal && dot - name == 3 && !memcmp(name, "env", 3)) {
		const char *var = arena_strndup(c->arena, rest, rest_len);
		const char *value = c->options->getenv ? c->options->getenv(var) : NULL;
		if (value && utf8_valid(value, strlen(value)) == strlen(value))
			return arena_strdup(c->arena, value);
		at = locate(o, name, len);
		diag_error(c->diags, span_at(o.source, &at),
			   value ? "the variable %s is not UTF-8" : "the environment has no variable %s",
			   var);
		if (!value)
			diag_label(c->diags, "set it, or use a param with a default and env = \"%s\"", var);
		return NULL;
	}
	at = locate(o, name, len);
	if (literal) {
		diag_error(c->diags, span_at(o.source, &at), "a param's own attributes are plain values");
		diag_label(c->diags, "${…} is for the attributes of stages");
		return NULL;
	}
	diag_error(c->diags, span_at(o.source, &at), "only param.NAME and env.NAME may stand in ${…}");
	if (dot)
		diag_label(c->diags, "an output cannot stand in a string: it goes into an input, as %.*s",
			   (int)len, name);
	else
		diag_label(c->diags, "for a variable of the shell write $%.*s or $${%.*s}", (int)len, name,
			   (int)len, name);
	return NULL;
}

/* Appends n bytes of source text with escapes and ${…} resolved. */
static bool expand(struct checker *c, struct operand o, const char *s, size_t n, bool literal,
		   struct strbuf *out)
{
	const char *e = s + n, *name, *what;
	size_t len;
	char utf8[4];

	while (s < e) {
		if (*s == '\\' && !o.node->heredoc) {
			uint32_t cp = 0;
			int digits = s[1] == 'u' ? 4 : s[1] == 'U' ? 8 : 0;
			for (int i = 0; i < digits; i++)
				cp = cp << 4 | (uint32_t)(s[2 + i] <= '9' ? s[2 + i] - '0'
									  : (s[2 + i] | 0x20) - 'a' + 10);
			if (digits)
				strbuf_add(out, utf8, utf8_encode(cp, utf8));
			else
				strbuf_addc(out, s[1] == 'n'   ? '\n'
						 : s[1] == 't' ? '\t'
						 : s[1] == 'r' ? '\r'
							       : s[1]);
			s += 2 + digits;
		} else if ((*s == '$' || *s == '%') && s + 2 < e && s[1] == *s && s[2] == '{') {
			strbuf_add(out, s + 1, 2);
			s += 3;
		} else if (*s == '$' && s + 1 < e && s[1] == '{') {
			const char *close = template_scan(s + 2, e, &name, &len, &what);
			const char *text = close ? substitute(c, o, name, len, literal) : NULL;
			if (!text)
				return false;
			strbuf_adds(out, text);
			s = close;
		} else if (*s == '\r' && s + 1 < e && s[1] == '\n') {
			s++;
		} else {
			strbuf_addc(out, *s++);
		}
	}
	return true;
}

static size_t indent_of(const char *s, const char *e)
{
	size_t n = 0;

	while (s + n < e && (s[n] == ' ' || s[n] == '\t'))
		n++;
	return n;
}

static bool expand_heredoc(struct checker *c, struct operand o, bool literal, struct strbuf *out)
{
	const char *s = place_text(o.source, &o.node->at), *e = s + o.node->at.len, *next;
	size_t cut = SIZE_MAX;

	s = (const char *)memchr(s, '\n', o.node->at.len) + 1;
	while (e > s && e[-1] != '\n')
		e--;
	/* <<- takes away the indentation that all lines share, those of nothing but blanks aside, as HCL does. */
	for (const char *p = s; o.node->flags & TOKEN_FLUSH && p < e; p = next) {
		next = (const char *)memchr(p, '\n', (size_t)(e - p)) + 1;
		size_t n = indent_of(p, next);
		if (p[n] != '\n' && p[n] != '\r' && n < cut)
			cut = n;
	}
	for (const char *p = s; p < e; p = next) {
		next = (const char *)memchr(p, '\n', (size_t)(e - p)) + 1;
		size_t n = indent_of(p, next);
		if (o.node->flags & TOKEN_FLUSH && p[n] != '\n' && p[n] != '\r')
			p += cut;
		if (!expand(c, o, p, (size_t)(next - p), literal, out))
			return false;
	}
	return true;
}

const char *text_of(struct checker *c, struct operand o, bool literal)
{
	struct place inner = o.node->at;
	struct strbuf b = STRBUF_INIT;
	char *text = NULL;
	bool ok;

	if (o.node->raw)
		return place_dup(c, o.source, &inner);
	if (o.node->heredoc) {
		ok = expand_heredoc(c, o, literal, &b);
	} else {
		inner.offset++;
		inner.len -= 2;
		if (!(o.node->flags & (TOKEN_ESCAPED | TOKEN_TEMPLATE)))
			return place_dup(c, o.source, &inner);
		ok = expand(c, o, place_text(o.source, &inner), inner.len, literal, &b);
	}
	if (ok)
		text = arena_strndup(c->arena, b.data ? b.data : "", b.len);
	strbuf_free(&b);
	return text;
}

struct operand text_operand(struct checker *c, const struct source *s, size_t offset, enum attr_type type,
			    bool quotes)
{
	struct node *n = arena_calloc(c->arena, 1, sizeof *n);
	const char *text = s->text + offset;
	struct lexer x;
	struct token t, after;

	switch (type) {
	case ATTR_STRINGS:
	case ATTR_SOURCES:
		if (*text != '[')
			break;
		return (struct operand){s, parse_value(s, offset, c->arena, c->diags)};
	case ATTR_INPUT:
	case ATTR_INPUTS:
	case ATTR_OUTPUTS: return (struct operand){s, parse_value(s, offset, c->arena, c->diags)};
	case ATTR_STRING:
	case ATTR_INT:
	case ATTR_FLOAT:
	case ATTR_BOOL:
	case ATTR_CHOICE:
	case ATTR_DURATION:
	case ATTR_SOURCE:
	case ATTR_TARGET: break;
	}
	lexer_init(&x, s, offset, NULL);
	lexer_next(&x, &t);
	lexer_next(&x, &after);
	n->type = NODE_STRING;
	n->raw = true;
	n->at = t.at;
	n->at.col = t.at.col - (t.at.offset - (uint32_t)offset);
	n->at.offset = (uint32_t)offset;
	n->at.len = (uint32_t)(s->len - offset);
	size_t bad = utf8_valid(text, s->len - offset);
	if (bad < s->len - offset) {
		diag_error(c->diags, operand_span((struct operand){s, n}), "the value is not UTF-8");
		diag_label(c->diags, "byte 0x%02x", (unsigned char)text[bad]);
		return (struct operand){s, NULL};
	}
	if (quotes && *text == '"' && t.type == TOK_STRING && after.type == TOK_EOF)
		return (struct operand){s, parse_value(s, offset, c->arena, c->diags)};
	if (type != ATTR_INT && type != ATTR_FLOAT && type != ATTR_BOOL)
		return (struct operand){s, n};
	if (t.type == TOK_NUMBER && after.type == TOK_EOF) {
		n->type = NODE_NUMBER;
		n->at = t.at;
	} else if (!strcmp(text, "true") || !strcmp(text, "false")) {
		n->type = NODE_BOOL;
		n->truth = *text == 't';
	}
	return (struct operand){s, n};
}
