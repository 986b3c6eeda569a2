/* What differs between two keys, in words: for `why` and for the reason in a plan. */
#include <string.h>

#include "runtime/canon.h"
#include "runtime/plan.h"

#define NOTHING "(none)"

/* A string of which only a piece is shown: so many bytes, beginning a little before the first difference. */
enum { SHOWN = 72, BEFORE = 16, LONG = 100 };

struct piece {
	const uint8_t *bytes;
	size_t n;
};

struct record {
	struct canon_item scheme, kind, version, salt, pin;
	const uint8_t *attrs, *inputs; /* maps */
	size_t attrs_len, inputs_len;
};

static bool read_record(const uint8_t *bytes, size_t size, struct record *r)
{
	struct canon c = canon_open(bytes, size);
	size_t n;

	return canon_get_array(&c, &n) && n == 7 && canon_next(&c, &r->scheme) &&
	       r->scheme.type == CANON_STR && canon_next(&c, &r->kind) && r->kind.type == CANON_STR &&
	       canon_next(&c, &r->version) && r->version.type == CANON_INT && canon_next(&c, &r->salt) &&
	       r->salt.type == CANON_STR && canon_skip(&c, &r->attrs, &r->attrs_len) &&
	       canon_skip(&c, &r->inputs, &r->inputs_len) && canon_next(&c, &r->pin) &&
	       r->pin.type == CANON_STR && c.p == c.end;
}

/* ---- values in graph syntax ---- */

static bool continuation(uint8_t c)
{
	return (c & 0xc0) == 0x80;
}

static void render_string(const uint8_t *s, size_t n, size_t differs, struct strbuf *b)
{
	size_t from = 0, to = n;

	if (n > LONG) {
		from = differs > BEFORE ? differs - BEFORE : 0;
		if (from > n - SHOWN)
			from = n - SHOWN;
		to = from + SHOWN;
		while (from && continuation(s[from]))
			from--;
		while (to < n && continuation(s[to]))
			to++;
	}
	strbuf_addc(b, '"');
	if (from)
		strbuf_adds(b, "…");
	for (size_t i = from; i < to; i++) {
		char ch = (char)s[i];
		if (ch == '"' || ch == '\\')
			strbuf_addf(b, "\\%c", ch);
		else if (ch == '\n')
			strbuf_adds(b, "\\n");
		else if (ch == '\r')
			strbuf_adds(b, "\\r");
		else if (ch == '\t')
			strbuf_adds(b, "\\t");
		else if (ch == '$' && i + 1 < to && s[i + 1] == '{')
			strbuf_adds(b, "$$");
		else if ((uint8_t)ch < 0x20 || ch == 0x7f)
			strbuf_addf(b, "\\u%04x", (unsigned)(uint8_t)ch);
		else
			strbuf_addc(b, ch);
	}
	if (to < n)
		strbuf_adds(b, "…");
	strbuf_addc(b, '"');
}

static void render_digest(const uint8_t *d, struct strbuf *b)
{
	strbuf_adds(b, "sha256:");
	for (size_t i = 0; i < 6; i++)
		strbuf_addf(b, "%02x", d[i]);
}

static bool is_word(const struct canon_item *it, const char *word)
{
	return it->type == CANON_STR && it->n == strlen(word) && memcmp(it->bytes, word, it->n) == 0;
}

/* ["sha256", digest] or ["url", text]: 1 and it is rendered (if b), 0 when the value is something else. */
static bool render_source(struct canon c, size_t differs, struct strbuf *b)
{
	struct canon_item tag, body;
	size_t n;

	if (!canon_get_array(&c, &n) || n != 2 || !canon_next(&c, &tag) || !canon_next(&c, &body) ||
	    body.type != CANON_BIN)
		return false;
	if (is_word(&tag, "sha256") && body.n == 32) {
		if (b)
			render_digest(body.bytes, b);
		return true;
	}
	if (!is_word(&tag, "url"))
		return false;
	if (b)
		render_string(body.bytes, body.n, differs, b);
	return true;
}

static void render(struct canon *c, size_t differs, int depth, struct strbuf *b);

static void render_members(struct canon *c, size_t n, bool pairs, int depth, struct strbuf *b)
{
	strbuf_adds(b, pairs ? "{ " : "[");
	for (size_t i = 0; i < n && !c->bad; i++) {
		struct canon_item name;
		if (i)
			strbuf_adds(b, ", ");
		if (pairs && canon_next(c, &name) && name.type == CANON_STR) {
			strbuf_add(b, name.bytes, name.n);
			strbuf_adds(b, " = ");
		}
		render(c, 0, depth + 1, b);
	}
	strbuf_adds(b, pairs ? " }" : "]");
}

static void render(struct canon *c, size_t differs, int depth, struct strbuf *b)
{
	struct canon_item it;
	char number[32];

	if (render_source(*c, differs, b)) {
		canon_skip(c, NULL, NULL);
		return;
	}
	if (depth > 8 || !canon_next(c, &it)) {
		c->bad = true;
		strbuf_adds(b, "?");
		return;
	}
	switch (it.type) {
	case CANON_NIL: strbuf_adds(b, "null"); break;
	case CANON_BOOL: strbuf_adds(b, it.b ? "true" : "false"); break;
	case CANON_INT: strbuf_addf(b, "%lld", (long long)it.i); break;
	case CANON_FLOAT:
		format_f64(it.f, number);
		strbuf_adds(b, number);
		break;
	case CANON_STR: render_string(it.bytes, it.n, differs, b); break;
	case CANON_BIN:
		if (it.n == 32)
			render_digest(it.bytes, b);
		else
			strbuf_addf(b, "%zu bytes", it.n);
		break;
	case CANON_ARRAY: render_members(c, it.n, false, depth, b); break;
	case CANON_MAP: render_members(c, it.n, true, depth, b); break;
	}
}

/* ---- differences ---- */

struct diffs {
	struct arena *arena;
	struct key_diff *items;
	size_t n, cap;
};

static const char *text_of(struct diffs *d, const struct piece *p, size_t differs)
{
	struct strbuf b = STRBUF_INIT;

	if (!p)
		return NOTHING;
	struct canon c = canon_open(p->bytes, p->n);
	render(&c, differs, 0, &b);
	const char *text = arena_strndup(d->arena, b.data, b.len);
	strbuf_free(&b);
	return text;
}

/* Offset of the first byte that differs within two strings' texts. */
static size_t first_difference(const struct piece *a, const struct piece *b)
{
	struct canon ca = canon_open(a->bytes, a->n), cb = canon_open(b->bytes, b->n);
	struct canon_item x, y;
	size_t i = 0;

	if (!canon_next(&ca, &x) || !canon_next(&cb, &y) || x.type != CANON_STR || y.type != CANON_STR)
		return 0;
	while (i < x.n && i < y.n && x.bytes[i] == y.bytes[i])
		i++;
	return i;
}

static void add(struct diffs *d, const char *what, const char *name, const char *before, const char *after)
{
	if (d->n == d->cap) { /* an arena cannot grow in place */
		size_t cap = d->cap ? 2 * d->cap : 8;
		struct key_diff *items = arena_calloc(d->arena, cap, sizeof *items);
		if (d->n)
			memcpy(items, d->items, d->n * sizeof *items);
		d->items = items;
		d->cap = cap;
	}
	d->items[d->n++] = (struct key_diff){what, name, before, after};
}

static void add_pieces(struct diffs *d, const char *what, const char *name, const struct piece *before,
		       const struct piece *after)
{
	size_t at = before && after ? first_difference(before, after) : 0;

	add(d, what, name, text_of(d, before, at), text_of(d, after, at));
}

static void compare_strings(struct diffs *d, const char *what, const struct canon_item *a,
			    const struct canon_item *b)
{
	struct strbuf before = STRBUF_INIT, after = STRBUF_INIT;
	size_t at = 0;

	if (a->n == b->n && memcmp(a->bytes, b->bytes, a->n) == 0)
		return;
	while (at < a->n && at < b->n && a->bytes[at] == b->bytes[at])
		at++;
	render_string(a->bytes, a->n, at, &before);
	render_string(b->bytes, b->n, at, &after);
	add(d, what, "", a->n ? arena_strdup(d->arena, before.data) : NOTHING,
	    b->n ? arena_strdup(d->arena, after.data) : NOTHING);
	strbuf_free(&before);
	strbuf_free(&after);
}

static bool is_source(const struct piece *p)
{
	struct canon c = canon_open(p->bytes, p->n), list = c;
	size_t n;

	if (render_source(c, 0, NULL))
		return true;
	return canon_get_array(&list, &n) && n && render_source(list, 0, NULL); /* a list of them */
}

struct walk {
	struct canon c;
	size_t left;
	bool has;
	struct canon_item name;
	struct piece value;
};

static void walk_next(struct walk *w)
{
	w->has = w->left > 0 && canon_next(&w->c, &w->name) && w->name.type == CANON_STR &&
		 canon_skip(&w->c, &w->value.bytes, &w->value.n);
	if (w->has)
		w->left--;
}

static struct walk walk_open(const uint8_t *bytes, size_t n)
{
	struct walk w = {.c = canon_open(bytes, n)};

	if (canon_get_map(&w.c, &w.left))
		walk_next(&w);
	return w;
}

static int name_order(const struct walk *a, const struct walk *b)
{
	if (!a->has || !b->has)
		return a->has ? -1 : 1;
	size_t n = a->name.n < b->name.n ? a->name.n : b->name.n;
	int c = memcmp(a->name.bytes, b->name.bytes, n);
	return c ? c : (a->name.n > b->name.n) - (a->name.n < b->name.n);
}

/* Both maps are sorted by name: one pass. */
static void compare_maps(struct diffs *d, const char *what, struct walk a, struct walk b)
{
	while (a.has || b.has) {
		int order = name_order(&a, &b);
		const struct walk *named = order <= 0 ? &a : &b;
		const struct piece *before = order <= 0 ? &a.value : NULL,
				   *after = order >= 0 ? &b.value : NULL;
		bool same = before && after && before->n == after->n &&
			    memcmp(before->bytes, after->bytes, before->n) == 0;
		if (!same) {
			bool source = (before && is_source(before)) || (after && is_source(after));
			const char *name = arena_strndup(d->arena, (const char *)named->name.bytes,
							 named->name.n);
			add_pieces(d, source ? "source" : what, name, before, after);
		}
		if (order <= 0)
			walk_next(&a);
		if (order >= 0)
			walk_next(&b);
	}
}

size_t key_compare(const uint8_t *old, size_t old_len, const uint8_t *new_, size_t new_len, struct arena *a,
		   struct key_diff **out)
{
	struct diffs d = {.arena = a};
	struct record before, after;

	*out = NULL;
	if (old_len == new_len && (!old_len || memcmp(old, new_, old_len) == 0))
		return 0;
	if (!read_record(old, old_len, &before) || !read_record(new_, new_len, &after)) {
		add(&d, "version", "", "a record that cannot be read", "a record of scheme " KEY_SCHEME);
		*out = d.items;
		return d.n;
	}
	compare_strings(&d, "version", &before.scheme, &after.scheme);
	compare_strings(&d, "kind", &before.kind, &after.kind);
	if (before.version.i != after.version.i)
		add(&d, "version", "", arena_printf(a, "%lld", (long long)before.version.i),
		    arena_printf(a, "%lld", (long long)after.version.i));
	compare_maps(&d, "attribute", walk_open(before.attrs, before.attrs_len),
		     walk_open(after.attrs, after.attrs_len));
	compare_maps(&d, "input", walk_open(before.inputs, before.inputs_len),
		     walk_open(after.inputs, after.inputs_len));
	compare_strings(&d, "pin", &before.pin, &after.pin);
	compare_strings(&d, "salt", &before.salt, &after.salt);
	*out = d.items;
	return d.n;
}
