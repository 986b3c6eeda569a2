/* One value against one attribute: type, range, choice, unit, path. */
#include "graph/check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

const char *attr_wants(const struct attr_schema *a)
{
	switch (a->type) {
	case ATTR_STRING: return "a string";
	case ATTR_INT: return "an integer";
	case ATTR_FLOAT: return "a number";
	case ATTR_BOOL: return "true or false";
	case ATTR_CHOICE: return "a string out of its choices";
	case ATTR_DURATION: return "a duration like \"90s\"";
	case ATTR_STRINGS: return "a list of strings";
	case ATTR_SOURCE: return "a path or URL";
	case ATTR_SOURCES: return "a list of paths or URLs";
	case ATTR_TARGET: return "a path or URL";
	case ATTR_INPUT: return "a reference stage.output";
	case ATTR_INPUTS: return "an object { name = stage.output }";
	case ATTR_OUTPUTS: return "an object { name = \"kind\" }";
	}
	return "a value";
}

static bool is_stringy(enum attr_type t)
{
	return t == ATTR_STRING || t == ATTR_CHOICE || t == ATTR_DURATION || t == ATTR_SOURCE ||
	       t == ATTR_TARGET || t == ATTR_STRINGS || t == ATTR_SOURCES;
}

/* What a node is, for messages: `the number 5`, `a string`, `the word tokenize`. */
static const char *describe(struct checker *c, struct operand o)
{
	int n = (int)(o.node->at.len < 60 ? o.node->at.len : 60);
	const char *s = place_text(o.source, &o.node->at);

	switch (o.node->type) {
	case NODE_STRING: return o.node->raw ? arena_printf(c->arena, "\"%.*s\"", n, s) : "a string";
	case NODE_NUMBER: return arena_printf(c->arena, "the number %.*s", n, s);
	case NODE_BOOL: return o.node->truth ? "true" : "false";
	case NODE_REF:
		return arena_printf(c->arena, o.node->n == 1 ? "the word %.*s" : "the reference %.*s", n, s);
	case NODE_LIST: return "a list";
	case NODE_OBJECT: return "an object";
	case NODE_BROKEN: break;
	}
	return "something else";
}

/* Whether the reference begins with no name there is: it may be text that lacks its quotes. */
static bool is_unknown(struct checker *c, struct operand o)
{
	const struct place *first = &o.node->parts[0];

	return names_find(&c->stage_index, place_text(o.source, first), first->len) == NAMES_NONE &&
	       !place_is(o.source, first, "param") && !place_is(o.source, first, "env");
}

bool value_mismatch(struct checker *c, struct operand o, const struct target *t)
{
	const char *s = place_text(o.source, &o.node->at);
	int n = (int)(o.node->at.len < 60 ? o.node->at.len : 60);
	enum attr_type type = t->attr->type;
	char inner[64] = "";
	double number;

	diag_error(c->diags, operand_span(o), "attribute \"%s\" of %s \"%s\" takes %s, found %s",
		   t->attr->name, t->owner, t->name, attr_wants(t->attr), describe(c, o));
	if (o.node->type == NODE_STRING && !o.node->raw && !o.node->heredoc && o.node->at.len < 64)
		snprintf(inner, sizeof inner, "%.*s", n - 2, s + 1);
	if (o.node->type == NODE_REF && o.node->n == 1 && type == ATTR_BOOL)
		diag_label(c->diags, "write true or false");
	else if (o.node->type == NODE_REF && o.node->n == 1 && is_stringy(type))
		diag_label(c->diags, "put it in quotes: \"%.*s\"", n, s);
	else if (o.node->type == NODE_REF && o.node->n != 2 &&
		 (place_is(o.source, &o.node->parts[0], "param") ||
		  place_is(o.source, &o.node->parts[0], "env")))
		diag_label(c->diags, "write %s.NAME",
			   place_is(o.source, &o.node->parts[0], "param") ? "param" : "env");
	else if (o.node->type == NODE_REF && !o.node->quoted && is_stringy(type) && is_unknown(c, o))
		diag_label(c->diags, "put it in quotes: \"%.*s\"", n, s);
	else if (o.node->type == NODE_REF && type != ATTR_INPUT)
		diag_label(c->diags,
			   "only param.NAME and env.NAME give a value; an output goes into an input");
	else if (o.node->type == NODE_NUMBER && type == ATTR_DURATION)
		diag_label(c->diags, "give it a unit: \"%.*ss\"", n, s);
	else if (o.node->type == NODE_NUMBER && type == ATTR_INT)
		diag_label(c->diags, "without a point or an exponent");
	else if ((o.node->type == NODE_NUMBER || o.node->type == NODE_BOOL) && is_stringy(type))
		diag_label(c->diags, "put it in quotes: \"%.*s\"", n, s);
	else if (((type == ATTR_INT || type == ATTR_FLOAT) && parse_f64(inner, &number)) ||
		 (type == ATTR_BOOL && (!strcmp(inner, "true") || !strcmp(inner, "false"))))
		diag_label(c->diags, "without quotes: %s", inner);
	else if (o.node->type == NODE_STRING && type == ATTR_INPUT && strchr(inner, '.'))
		diag_label(c->diags, "a reference takes no quotes: %s", inner);
	else if (o.node->raw && (type == ATTR_STRINGS || type == ATTR_SOURCES))
		diag_label(c->diags, "write [\"first\", \"second\"]");
	else if (o.node->type == NODE_STRING && (type == ATTR_STRINGS || type == ATTR_SOURCES))
		diag_label(c->diags, "put it in brackets: [%.*s]", n, s);
	else
		diag_label(c->diags, "expected %s", attr_wants(t->attr));
	return false;
}

static void number_text(double v, char out[32])
{
	if (v == floor(v) && fabs(v) < 1e15)
		snprintf(out, 32, "%.0f", v);
	else
		format_f64(v, out);
}

static bool in_range(struct checker *c, struct span span, const struct target *t, double v)
{
	const struct attr_schema *a = t->attr;
	char lo[32], hi[32];

	if ((a->min == 0 && a->max == 0) || (v >= a->min && v <= a->max))
		return true;
	number_text(a->min, lo);
	number_text(a->max, hi);
	diag_error(c->diags, span, "attribute \"%s\" of %s \"%s\" is out of range", a->name, t->owner,
		   t->name);
	if (a->max >= 1e15)
		diag_label(c->diags, "expected at least %s", lo);
	else if (a->min <= -1e15)
		diag_label(c->diags, "expected at most %s", hi);
	else
		diag_label(c->diags, "expected %s to %s", lo, hi);
	return false;
}

/* Numbers with units, the larger units first: "1h30m", "500ms". */
static const char *duration_parse(const char *s, double *out)
{
	static const struct {
		const char *unit;
		double seconds;
	} units[] = {{"h", 3600}, {"m", 60}, {"s", 1}, {"ms", 1e-3}};
	size_t next = 0;

	*out = 0;
	if (!*s)
		return "a duration is a number with a unit: \"90s\"";
	if (*s == '-')
		return "a duration is not negative";
	while (*s) {
		char digits[32];
		double v;
		size_t n = strspn(s, "0123456789."), k, u;
		if (!n || n >= sizeof digits)
			return "a duration is numbers with the units h, m, s and ms: \"1h30m\"";
		memcpy(digits, s, n);
		digits[n] = '\0';
		if (!parse_f64(digits, &v))
			return "a duration is numbers with the units h, m, s and ms: \"1h30m\"";
		s += n;
		k = strcspn(s, "0123456789.");
		if (!k)
			return "the unit is missing: h, m, s or ms";
		for (u = next; u < 4; u++)
			if (strlen(units[u].unit) == k && !memcmp(s, units[u].unit, k))
				break;
		if (u == 4)
			return "the units are h, m, s and ms, in this order";
		*out += v * units[u].seconds;
		next = u + 1;
		s += k;
	}
	return *out <= 1e9 ? NULL : "a duration is at most 1e9 seconds";
}

bool memory_parse(const char *s, uint64_t *out)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	size_t n = strspn(s, "0123456789.");
	char digits[32];
	double v;

	if (!n || n >= sizeof digits)
		return false;
	memcpy(digits, s, n);
	digits[n] = '\0';
	if (!parse_f64(digits, &v))
		return false;
	for (int u = 0; u < 5; u++) {
		if (strcmp(s + n, units[u]))
			continue;
		v *= (double)((uint64_t)1 << (10 * u));
		if (v < 1 || v > 0x1p60)
			return false;
		*out = (uint64_t)v;
		return true;
	}
	return false;
}

/* scheme://… */
static bool is_url(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-");

	return n && (s[0] | 0x20) >= 'a' && (s[0] | 0x20) <= 'z' && !strncmp(s + n, "://", 3);
}

static const char *resolve_path(struct checker *c, const char *s, const char *basedir)
{
	if (*s == '/' || is_url(s) || !basedir || !strcmp(basedir, "."))
		return s;
	return arena_printf(c->arena, "%s%s%s", basedir, str_ends(basedir, "/") ? "" : "/", s);
}

static bool check_text(struct checker *c, struct span span, const struct target *t, const char *s,
		       const char *basedir, struct value *out)
{
	const struct attr_schema *a = t->attr;
	size_t n = 0;

	out->type = VALUE_STRING;
	out->str = s;
	if (a->type == ATTR_CHOICE) {
		struct strbuf all = STRBUF_INIT;
		for (; a->choices[n]; n++)
			if (!strcmp(a->choices[n], s))
				return true;
		for (size_t i = 0; i < n; i++)
			strbuf_addf(&all, "%s%s", i ? ", " : "", a->choices[i]);
		diag_error(c->diags, span, "attribute \"%s\" of %s \"%s\" cannot be \"%s\"", a->name,
			   t->owner, t->name, s);
		diag_label(c->diags, "there are: %s%s", all.data ? all.data : "none",
			   did_you_mean(c->diags, s, a->choices, n));
		strbuf_free(&all);
		return false;
	}
	if (a->type == ATTR_DURATION) {
		double seconds;
		const char *wrong = duration_parse(s, &seconds);
		if (wrong) {
			diag_error(c->diags, span, "\"%s\" is not a duration", s);
			diag_label(c->diags, "%s", wrong);
			return false;
		}
		out->type = VALUE_FLOAT;
		out->f = seconds;
		return in_range(c, span, t, seconds);
	}
	if (a->type == ATTR_SOURCE || a->type == ATTR_TARGET || a->type == ATTR_SOURCES) {
		if (!*s) {
			diag_error(c->diags, span, "attribute \"%s\" of %s \"%s\" is empty", a->name,
				   t->owner, t->name);
			diag_label(c->diags, "expected a path or URL");
			return false;
		}
		/* What a stage writes goes where the user stands, not beside the pipeline, which may be installed. */
		out->path = resolve_path(c, s, a->type == ATTR_TARGET ? "." : basedir);
	}
	return true;
}

static bool check_number(struct checker *c, struct operand o, const struct target *t, struct value *out)
{
	char digits[64];
	uint32_t n = o.node->at.len;

	if (n < sizeof digits) {
		memcpy(digits, place_text(o.source, &o.node->at), n);
		digits[n] = '\0';
	} else {
		strcpy(digits, "x");
	}
	if (t->attr->type == ATTR_INT) {
		out->type = VALUE_INT;
		if (strpbrk(n < sizeof digits ? digits : "", ".eE"))
			return value_mismatch(c, o, t);
		if (parse_i64(digits, &out->i))
			return in_range(c, out->span, t, (double)out->i);
		diag_error(c->diags, out->span, "the integer does not fit");
		diag_label(c->diags, "integers are 64 bits: -9223372036854775808 to 9223372036854775807");
		return false;
	}
	out->type = VALUE_FLOAT;
	if (parse_f64(digits, &out->f))
		return in_range(c, out->span, t, out->f);
	diag_error(c->diags, out->span, "the number does not fit");
	diag_label(c->diags, "numbers are of double precision: up to 1.8e308, at most 63 digits");
	return false;
}

/* A value that is written where it is used, or given from outside. */
static bool read_literal(struct checker *c, struct operand o, const struct target *t, struct value *out)
{
	enum attr_type type = t->attr->type;
	const char *s;

	switch (o.node->type) {
	case NODE_NUMBER:
		if (type != ATTR_INT && type != ATTR_FLOAT)
			break;
		return check_number(c, o, t, out);
	case NODE_BOOL:
		if (type != ATTR_BOOL)
			break;
		out->type = VALUE_BOOL;
		out->b = o.node->truth;
		return true;
	case NODE_STRING:
		if (!is_stringy(type))
			break;
		s = text_of(c, o, false);
		return s && check_text(c, out->span, t, s, o.source->basedir, out);
	case NODE_REF:
	case NODE_LIST:
	case NODE_OBJECT: break;
	case NODE_BROKEN: return false;
	}
	return value_mismatch(c, o, t);
}

static bool read_param(struct checker *c, struct operand o, const struct target *t, struct value *out)
{
	struct param *p = param_of(c, o, &o.node->parts[1]);
	enum attr_type type = t->attr->type;
	size_t errors = c->diags->errors;
	bool ok;

	if (!p || !p->ok)
		return false;
	struct span span = p->value.span;
	if (p->type == VALUE_STRING && is_stringy(type)) {
		out->span = span;
		ok = check_text(c, span, t, p->value.str, p->operand.source->basedir, out);
	} else if (p->type == VALUE_BOOL && type == ATTR_BOOL) {
		*out = p->value;
		return true;
	} else if (p->type == VALUE_INT && type == ATTR_INT) {
		*out = p->value;
		ok = in_range(c, span, t, (double)out->i);
	} else if ((p->type == VALUE_INT || p->type == VALUE_FLOAT) && type == ATTR_FLOAT) {
		*out = p->value;
		out->type = VALUE_FLOAT;
		out->f = p->type == VALUE_INT ? (double)p->value.i : p->value.f;
		ok = in_range(c, span, t, out->f);
	} else {
		static const char *const is[] = {[VALUE_STRING] = "a string",
						 [VALUE_INT] = "an integer",
						 [VALUE_FLOAT] = "a number",
						 [VALUE_BOOL] = "true or false"};
		static const char *const words[] = {[VALUE_STRING] = "string",
						    [VALUE_INT] = "int",
						    [VALUE_FLOAT] = "float",
						    [VALUE_BOOL] = "bool"};
		diag_error(c->diags, operand_span(o),
			   "attribute \"%s\" of %s \"%s\" takes %s, param \"%s\" is %s", t->attr->name,
			   t->owner, t->name, attr_wants(t->attr), p->name, is[p->type]);
		diag_label(c->diags, "its type is \"%s\"", words[p->type]);
		diag_note(c->diags, span_at(c->tree->source, &p->block->label),
			  "param \"%s\" is defined here", p->name);
		return false;
	}
	if (c->diags->errors > errors)
		diag_note(c->diags, operand_span(o), "the value is used here");
	return ok;
}

static bool read_env(struct checker *c, struct operand o, const struct target *t, struct value *out)
{
	const char *name = place_dup(c, o.source, &o.node->parts[1]);
	const char *text = c->options->getenv ? c->options->getenv(name) : NULL;

	if (!text) {
		diag_error(c->diags, operand_span(o), "the environment has no variable %s", name);
		diag_label(c->diags, "set it, or use a param with a default and env = \"%s\"", name);
		return false;
	}
	struct source *s = arena_calloc(c->arena, 1, sizeof *s);
	size_t offset = strlen(name) + 1;
	size_t errors = c->diags->errors;
	s->name = arena_printf(c->arena, "$%s", name);
	s->text = arena_printf(c->arena, "%s=%s", name, text);
	s->len = strlen(s->text);
	s->basedir = ".";
	s->external = true;
	struct operand value = text_operand(c, s, offset, t->attr->type, false);
	if (!value.node)
		return false;
	out->span = operand_span(value);
	bool ok = read_literal(c, value, t, out);
	if (c->diags->errors > errors)
		diag_note(c->diags, operand_span(o), "the value is used here");
	return ok;
}

static bool read_scalar(struct checker *c, struct operand o, const struct target *t, struct value *out)
{
	out->span = operand_span(o);
	if (o.node->type == NODE_REF && o.node->n == 2) {
		if (place_is(o.source, &o.node->parts[0], "param"))
			return read_param(c, o, t, out);
		if (place_is(o.source, &o.node->parts[0], "env"))
			return read_env(c, o, t, out);
	}
	return read_literal(c, o, t, out);
}

bool value_read(struct checker *c, struct operand o, const struct target *t, struct value *out)
{
	bool ok = true;
	size_t n = 0;

	*out = (struct value){.span = operand_span(o)};
	if (t->attr->type != ATTR_STRINGS && t->attr->type != ATTR_SOURCES)
		return read_scalar(c, o, t, out);
	if (o.node->type == NODE_BROKEN)
		return false;
	if (o.node->type != NODE_LIST)
		return value_mismatch(c, o, t);
	const char **items = arena_calloc(c->arena, o.node->n, sizeof *items);
	const char **paths = arena_calloc(c->arena, o.node->n, sizeof *paths);
	for (const struct node *i = o.node->first; i; i = i->next, n++) {
		struct operand item = {o.source, i};
		struct value v = {.type = VALUE_NONE};
		if (i->type == NODE_LIST) {
			ok = value_mismatch(c, item, t);
			continue;
		}
		ok &= read_scalar(c, item, t, &v);
		items[n] = v.str;
		paths[n] = v.path;
	}
	out->type = VALUE_LIST;
	out->list.items = items;
	out->list.n = n;
	out->paths = t->attr->type == ATTR_SOURCES ? paths : NULL;
	return ok;
}
