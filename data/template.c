#include "data/template.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "data/pack.h"

/* Either the literal text [text, text + len) or, when field is set, the field of that name. */
struct piece {
	const char *text;
	size_t len;
	const char *field;
};

struct template
{
	struct arena arena;
	const char *name;
	struct piece *pieces;
	size_t n, cap;
};

static int fail_at(const char *name, const char *text, const char *at, struct error *err, const char *why,
		   const char *hint)
{
	unsigned line = 1, column = 1;

	for (const char *p = text; p < at; p++) {
		if (*p == '\n') {
			line++;
			column = 1;
		} else if (((unsigned char)*p & 0xc0) != 0x80) {
			column++;
		}
	}
	error_set(err, ERR_USAGE, "%s: line %u, column %u: %s", name, line, column, why);
	return error_hint(err, "%s", hint);
}

static void add_piece(struct template *t, const char *text, size_t len, const char *field)
{
	if (!field && len == 0)
		return;
	grow(&t->pieces, &t->cap, t->n + 1, sizeof *t->pieces);
	t->pieces[t->n++] = (struct piece){text, len, field};
}

static int compile(struct template *t, const char *text, struct error *err)
{
	static const char double_it[] = "write {{ and }} for braces that are meant as text";
	const char *literal = text, *p = text;

	for (;;) {
		p += strcspn(p, "{}");
		if (p[0] && p[1] == p[0]) { /* a doubled brace: the first one belongs to the literal */
			add_piece(t, literal, (size_t)(p + 1 - literal), NULL);
			literal = p += 2;
			continue;
		}
		add_piece(t, literal, (size_t)(p - literal), NULL);
		if (!*p)
			return 0;
		if (*p == '}')
			return fail_at(t->name, text, p, err, "a '}' that closes nothing", double_it);
		size_t n = strcspn(p + 1, "{}\n");
		if (p[1 + n] != '}')
			return fail_at(t->name, text, p, err, "a '{' that is not closed", double_it);
		size_t plain = strcspn(p + 1, ":!}");
		if (n == 0)
			return fail_at(t->name, text, p, err, "no field name between '{' and '}'", double_it);
		if (plain < n)
			return fail_at(t->name, text, p + 1 + plain, err,
				       "format specifications and conversions are not supported",
				       "write the field's name alone: {name}");
		add_piece(t, NULL, 0, arena_strndup(&t->arena, p + 1, n));
		literal = p += n + 2;
	}
}

struct template *template_compile(const char *text, const char *name, struct error *err)
{
	struct template *t = xcalloc(1, sizeof *t);

	t->name = arena_strdup(&t->arena, name);
	if (compile(t, arena_strdup(&t->arena, text), err) == 0)
		return t;
	template_free(t);
	return NULL;
}

const char *template_field(const struct template *t, size_t i)
{
	for (size_t k = 0; k < t->n; k++)
		if (t->pieces[k].field && i-- == 0)
			return t->pieces[k].field;
	return NULL;
}

static int missing(const struct template *t, const struct row *row, const char *field, struct error *err)
{
	struct strbuf names = STRBUF_INIT, near = STRBUF_INIT;

	row_names(row, &names);
	error_set(err, ERR_USAGE, "%s: row %" PRIu64 " has no field \"%s\"; its fields: %s", t->name, row->id,
		  field, names.data ? names.data : "none");
	if (row_nearest(row, field, &near))
		error_hint(err, "did you mean {%s}?", near.data);
	strbuf_free(&names);
	strbuf_free(&near);
	return -1;
}

static void render_value(const struct row *row, const struct pack_value *v, struct strbuf *out)
{
	char text[32];

	switch (v->type) {
	case PACK_STR: strbuf_add(out, v->body, v->len); break;
	case PACK_NIL: strbuf_adds(out, "None"); break;
	case PACK_BOOL: strbuf_adds(out, v->boolean ? "True" : "False"); break;
	case PACK_INT: strbuf_addf(out, "%" PRId64, v->i64); break;
	case PACK_UINT: strbuf_addf(out, "%" PRIu64, v->u64); break;
	case PACK_F64:
		pack_f64_text(v->f64, text);
		strbuf_adds(out, text);
		break;
	case PACK_BIN:
	case PACK_ARRAY:
	case PACK_MAP:
		/* It reads one value and stops; what is behind it in the row does not matter. */
		pack_to_json(v->start, (size_t)(row->fields + row->len - v->start), out);
		break;
	}
}

int template_render(const struct template *t, const struct row *row, struct strbuf *out, struct error *err)
{
	struct pack_value v;

	strbuf_reserve(out, 0);
	for (size_t i = 0; i < t->n; i++) {
		const struct piece *p = &t->pieces[i];
		if (!p->field)
			strbuf_add(out, p->text, p->len);
		else if (row_field(row, p->field, &v))
			render_value(row, &v, out);
		else
			return missing(t, row, p->field, err);
	}
	return 0;
}

void template_free(struct template *t)
{
	if (!t)
		return;
	arena_free(&t->arena);
	free(t->pieces);
	free(t);
}
