/* The canonical form, a fixed point of `terraform fmt`: tokens are taken as they are and only the blanks between them
 * are decided. The rules are those of HCL's formatter (hclwrite): two blanks for each line that leaves brackets open,
 * "=" and trailing comments aligned over neighbouring lines. Beyond it: LF line ends, no blanks at the ends of lines, no
 * two blank lines in a row, none at the start and end of the file, names of blocks in quotes, "${a.b}" alone without
 * its quotes, and no byte order mark. */
#include "graph/syntax.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/str.h"

struct piece {
	enum token_type type;
	bool own; /* text is ours to free */
	const char *text;
	size_t len;
	size_t columns; /* what it measures for aligning: grapheme clusters, line ends included */
	size_t blanks;  /* before it */
};

struct line {
	size_t lead, assign, comment,
		end; /* indices into pieces: [lead, assign) [assign, comment) [comment, end) */
};

struct sheet {
	const struct source *source;
	struct piece *pieces;
	size_t n, cap;
	struct line *lines;
	size_t nlines, caplines;
};

static size_t count_columns(const char *s, size_t n)
{
	size_t columns = 0, i = 0, k;
	utf8proc_int32_t state = 0;
	uint32_t cp, before = 0;

	while (i < n && s[i] > 0)
		i++;
	if (i == n)
		return n;
	for (i = 0; i < n; i += k) {
		k = utf8_decode(s + i, n - i, &cp);
		k = k ? k : 1;
		if (!i ||
		    utf8proc_grapheme_break_stateful((utf8proc_int32_t)before, (utf8proc_int32_t)cp, &state))
			columns++;
		before = cp;
	}
	return columns;
}

/* Of a string: HCL counts the quotes, the text and what stands in ${} each by themselves. */
static size_t count_string(const char *s, size_t n)
{
	size_t columns = 2, start = 1;
	bool inside = false;

	for (size_t i = 1; i + 1 < n; i++) {
		inside |= s[i] == '{' && s[i - 1] == '$';
		if (s[i] != '}' || !inside)
			continue;
		columns += count_columns(s + start, i + 1 - start);
		start = i + 1;
		inside = false;
	}
	return columns + count_columns(s + start, n - 1 - start);
}

static void add_piece(struct sheet *f, enum token_type type, char *own, const char *text, size_t len)
{
	grow(&f->pieces, &f->cap, f->n + 1, sizeof *f->pieces);
	text = own ? own : text;
	size_t columns = type == TOK_STRING ? count_string(text, len) : count_columns(text, len);
	f->pieces[f->n++] = (struct piece){type, own != NULL, text, len, columns, 0};
}

/* The token's text without carriage returns, blanks in ${ } and blanks at the end of a comment. */
static void add_text(struct sheet *f, const struct token *t)
{
	const char *s = f->source->text + t->at.offset, *e = s + t->at.len, *name, *what;
	struct strbuf b = STRBUF_INIT;
	size_t len, dollars = 0;

	if (t->type == TOK_COMMENT && s[1] != '*')
		while (e[-1] == ' ' || e[-1] == '\t')
			e--;
	if (!(t->flags & TOKEN_TEMPLATE) && !memchr(s, '\r', (size_t)(e - s))) {
		add_piece(f, t->type, NULL, s, (size_t)(e - s));
		return;
	}
	while (s < e) {
		if (t->flags & TOKEN_TEMPLATE && *s == '$') {
			dollars++;
		} else if (*s == '{' && dollars == 1) {
			const char *close = template_scan(s + 1, e, &name, &len, &what);
			strbuf_addc(&b, '{');
			strbuf_add(&b, name, len);
			strbuf_addc(&b, '}');
			s = close;
			dollars = 0;
			continue;
		} else {
			dollars = 0;
		}
		if (t->type == TOK_STRING && *s == '\\')
			strbuf_addc(&b, *s++);
		if (*s != '\r' || s[1] != '\n')
			strbuf_addc(&b, *s);
		s++;
	}
	len = b.len;
	add_piece(f, t->type, strbuf_steal(&b), NULL, len);
}

/* a = "${x.y}" becomes a = x.y, as tokens. */
static bool add_unwrapped(struct sheet *f, const struct token *t)
{
	const char *s = f->source->text + t->at.offset, *e = s + t->at.len - 1, *name, *what;
	size_t len;

	if (!(t->flags & TOKEN_TEMPLATE) || t->at.len < 5 || memcmp(s, "\"${", 3) ||
	    template_scan(s + 3, e, &name, &len, &what) != e)
		return false;
	for (size_t k; len; name += k, len -= k) {
		const char *dot = memchr(name, '.', len);
		k = *name == '.' ? 1 : dot ? (size_t)(dot - name) : len;
		add_piece(f, *name == '.' ? TOK_DOT : TOK_IDENT, NULL, name, k);
	}
	return true;
}

/* Reads the tokens; labels get quotes, blank lines at the start and in excess are dropped. */
static void read_tokens(struct sheet *f)
{
	struct lexer x;
	struct token t, next;
	unsigned depth = 0;
	size_t newlines = 2;
	bool head = false, value = false;

	lexer_init(&x, f->source, 0, NULL);
	for (lexer_next(&x, &t); t.type != TOK_EOF; t = next) {
		lexer_next(&x, &next);
		if (t.type == TOK_NEWLINE) {
			if (++newlines > 2)
				continue;
			add_piece(f, TOK_NEWLINE, NULL, "\n", 1);
			value = false;
			continue;
		}
		newlines = 0;
		if (t.type == TOK_LBRACE || t.type == TOK_LBRACK)
			depth++;
		else if (t.type == TOK_RBRACE || t.type == TOK_RBRACK)
			depth--;
		if (!depth && t.type == TOK_IDENT && head) {
			char *quoted = xmalloc(t.at.len + 2);
			quoted[0] = quoted[t.at.len + 1] = '"';
			memcpy(quoted + 1, f->source->text + t.at.offset, t.at.len);
			add_piece(f, TOK_STRING, quoted, NULL, t.at.len + 2);
		} else if (value && depth == 1 && t.type == TOK_STRING && add_unwrapped(f, &t)) {
			;
		} else {
			add_text(f, &t);
		}
		head = !depth && t.type == TOK_IDENT;
		if (t.type != TOK_COMMENT)
			value = t.type == TOK_EQUALS && depth == 1;
	}
	while (f->n && f->pieces[f->n - 1].type == TOK_NEWLINE)
		f->n--;
	if (f->n)
		add_piece(f, TOK_NEWLINE, NULL, "\n", 1);
}

static int bracket_change(enum token_type t)
{
	return (t == TOK_LBRACE || t == TOK_LBRACK) - (t == TOK_RBRACE || t == TOK_RBRACK);
}

/* Cuts the pieces into lines, and a line into what is before "=", from "=" on, and a comment at its end. */
static void cut_lines(struct sheet *f)
{
	for (size_t i = 0, start = 0; i < f->n; i++) {
		struct line line;
		int net = 0;
		if (f->pieces[i].type != TOK_NEWLINE)
			continue;
		line = (struct line){start, i, i, i};
		/* A comment between slashes and stars does not end the line: it is no cell of its own. */
		const struct piece *last = &f->pieces[i ? i - 1 : 0];
		if (i - start > 1 && last->type == TOK_COMMENT &&
		    (last->text[0] == '#' || last->text[1] == '/'))
			line.assign = line.comment = i - 1;
		for (size_t k = start + 1; k < line.comment; k++) {
			if (f->pieces[k].type != TOK_EQUALS)
				continue;
			for (size_t j = k; j < line.comment; j++)
				net += bracket_change(f->pieces[j].type);
			if (!net)
				line.assign = k;
			break;
		}
		grow(&f->lines, &f->caplines, f->nlines + 1, sizeof *f->lines);
		f->lines[f->nlines++] = line;
		start = i + 1;
	}
}

/* A line that leaves n brackets open indents those behind it by one level, until as many are closed. */
static void indent(struct sheet *f)
{
	int *open = xcalloc(f->nlines + 1, sizeof *open);
	size_t level = 0;

	for (size_t i = 0; i < f->nlines; i++) {
		const struct line *l = &f->lines[i];
		int net = 0;
		if (l->lead == l->end)
			continue;
		for (size_t k = l->lead; k < l->comment; k++)
			net += bracket_change(f->pieces[k].type);
		for (int closed = -net; closed > 0 && level;) {
			if (closed < open[level - 1]) {
				open[level - 1] -= closed;
				break;
			}
			closed -= open[--level];
		}
		f->pieces[l->lead].blanks = 2 * level;
		if (net > 0)
			open[level++] = net;
	}
	free(open);
}

static bool blank_between(enum token_type left, enum token_type right)
{
	if (left == TOK_DOT || right == TOK_DOT || right == TOK_COMMA)
		return false;
	if (left == TOK_COMMA)
		return true;
	if (left == TOK_LBRACE || right == TOK_RBRACE)
		return left != TOK_LBRACE || right != TOK_RBRACE;
	return left != TOK_LBRACK && right != TOK_RBRACK;
}

static size_t columns_of(const struct sheet *f, size_t from, size_t to)
{
	size_t n = 0;

	for (size_t i = from; i < to; i++)
		n += f->pieces[i].blanks + f->pieces[i].columns;
	return n;
}

/* Puts the cells that begin at piece first(line) under each other, over each run of lines that have one. */
static void align(struct sheet *f, bool comments)
{
	for (size_t i = 0; i < f->nlines;) {
		size_t end = i, widest = 0;
		for (; end < f->nlines; end++) {
			const struct line *l = &f->lines[end];
			size_t cell = comments ? l->comment : l->assign,
			       stop = comments ? l->end : l->comment;
			if (cell == stop)
				break;
			size_t n = columns_of(f, l->lead, cell);
			widest = n > widest ? n : widest;
		}
		for (size_t k = i; k < end; k++) {
			const struct line *l = &f->lines[k];
			size_t cell = comments ? l->comment : l->assign;
			f->pieces[cell].blanks = widest - columns_of(f, l->lead, cell) + 1;
		}
		i = end + 1;
	}
}

int graph_format(const char *name, const char *text, size_t len, struct strbuf *out, struct diags *d)
{
	struct arena a = ARENA_INIT;
	char *copy = xstrndup(text, len);
	struct source source = {.name = name, .text = copy, .len = len, .basedir = "."};
	struct sheet f = {.source = &source};
	struct tree tree;
	size_t errors = d->errors, from = d->n;

	if (len > UINT32_MAX / 4)
		diag_error(d, (struct span){NULL, 0, 0, 0, 0}, "%s is larger than 1 GiB", name);
	else
		parse_file(&source, &a, d, &tree);
	diags_finish(d, from);
	arena_free(&a);
	if (d->errors > errors) {
		free(copy);
		return -1;
	}
	read_tokens(&f);
	cut_lines(&f);
	indent(&f);
	for (size_t i = 0; i < f.nlines; i++)
		for (size_t k = f.lines[i].lead + 1; k < f.lines[i].end; k++)
			f.pieces[k].blanks = blank_between(f.pieces[k - 1].type, f.pieces[k].type);
	align(&f, false);
	align(&f, true);
	for (size_t i = 0; i < f.n; i++) {
		if (f.pieces[i].blanks)
			memset(strbuf_reserve(out, f.pieces[i].blanks), ' ', f.pieces[i].blanks);
		out->len += f.pieces[i].blanks;
		strbuf_add(out, f.pieces[i].text, f.pieces[i].len);
	}
	for (size_t i = 0; i < f.n; i++)
		if (f.pieces[i].own)
			free((char *)f.pieces[i].text);
	free(f.pieces);
	free(f.lines);
	free(copy);
	return 0;
}
