/* param blocks: their own attributes, and the value: --set, then the environment, then the default. */
#include "graph/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

static const char *const type_words[] = {"string", "int", "float", "bool", NULL};
static const enum value_type type_values[] = {VALUE_STRING, VALUE_INT, VALUE_FLOAT, VALUE_BOOL};
static const enum attr_type type_attrs[] = {ATTR_STRING, ATTR_INT, ATTR_FLOAT, ATTR_BOOL};

/* The attributes that a param can have, for nearest names. */
static const char *const param_attrs[] = {"type", "default", "env", "description", "range", "choices"};

bool is_reserved(const char *name)
{
	static const char *const words[] = {"param", "env", "true", "false", "null", "for"};

	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		if (!strcmp(name, words[i]))
			return true;
	return false;
}

struct param *param_of(struct checker *c, struct operand o, const struct place *name)
{
	const struct source *s = o.source;
	uint32_t i = names_find(&c->param_index, s->text + name->offset, name->len);
	const char **all;

	if (i != NAMES_NONE) {
		c->params[i].used = true;
		return &c->params[i];
	}
	if (c->tree->lost)
		return NULL;
	char *text = place_dup(c, s, name);
	diag_error(c->diags, span_at(s, name), "there is no param \"%s\"", text);
	if (c->diags->muted)
		return NULL;
	all = xcalloc(c->tree->nparams + 1, sizeof *all);
	for (size_t k = 0; k < c->tree->nparams; k++)
		all[k] = c->params[k].name ? c->params[k].name : "";
	if (c->tree->nparams)
		diag_label(c->diags, "not defined%s", did_you_mean(c->diags, text, all, c->tree->nparams));
	else
		diag_label(c->diags, "the file has no params");
	free(all);
	return NULL;
}

/* A param's own attribute: a plain value. */
static bool plain(struct checker *c, struct operand o, const struct target *t, struct value *out)
{
	if (o.node->type == NODE_BROKEN)
		return false;
	if (o.node->type == NODE_REF && o.node->n > 1) {
		diag_error(c->diags, operand_span(o), "a param's own attributes are plain values");
		diag_label(c->diags, "references are for the attributes of stages");
		return false;
	}
	if (o.node->type == NODE_STRING && o.node->flags & TOKEN_TEMPLATE && !text_of(c, o, true))
		return false;
	return value_read(c, o, t, out);
}

static const char *plain_string(struct checker *c, struct operand o, const struct target *t)
{
	struct value v;

	return plain(c, o, t, &v) ? v.str : NULL;
}

static double number_of(const struct value *v)
{
	return v->type == VALUE_INT ? (double)v->i : v->f;
}

/* range = [lo, hi]. Fills a's min and max. */
static void read_range(struct checker *c, struct param *p, struct operand o, struct attr_schema *a)
{
	struct target t = {a, "param", p->name};
	struct value v[2];
	size_t n = 0;

	if (o.node->type == NODE_BROKEN)
		return;
	if ((p->type != VALUE_INT && p->type != VALUE_FLOAT) || o.node->type != NODE_LIST || o.node->n != 2) {
		diag_error(c->diags, operand_span(o),
			   p->type == VALUE_INT || p->type == VALUE_FLOAT
				   ? "a range is [lowest, highest]"
				   : "a range is for params of type int and float");
		diag_label(c->diags, "param \"%s\" is of type %s", p->name,
			   type_words[p->type - VALUE_STRING]);
		return;
	}
	for (const struct node *i = o.node->first; i; i = i->next, n++)
		if (!plain(c, (struct operand){o.source, i}, &t, &v[n]))
			return;
	if (number_of(&v[0]) > number_of(&v[1])) {
		diag_error(c->diags, operand_span(o), "the range is empty");
		diag_label(c->diags, "the lowest comes first");
		return;
	}
	a->min = number_of(&v[0]);
	a->max = number_of(&v[1]);
}

/* Equal as values of the param's type. */
static bool same(const struct value *a, const struct value *b)
{
	switch (a->type) {
	case VALUE_INT: return a->i == b->i;
	case VALUE_FLOAT: return a->f == b->f;
	case VALUE_STRING: return !strcmp(a->str, b->str);
	case VALUE_NONE:
	case VALUE_BOOL:
	case VALUE_LIST:
	case VALUE_EDGE:
	case VALUE_EDGES:
	case VALUE_PORTS: break;
	}
	return true;
}

/* The choices as values; *n of them. NULL after an error. */
static struct value *read_choices(struct checker *c, struct param *p, struct operand o,
				  const struct target *t, size_t *n)
{
	struct value *v;

	*n = 0;
	if (o.node->type == NODE_BROKEN)
		return NULL;
	if (o.node->type != NODE_LIST || !o.node->n || p->type == VALUE_BOOL) {
		diag_error(c->diags, operand_span(o), "choices are a list of at least one value");
		diag_label(c->diags,
			   p->type == VALUE_BOOL ? "a bool is true or false" : "expected [value, …]");
		return NULL;
	}
	v = arena_calloc(c->arena, o.node->n, sizeof *v);
	for (const struct node *i = o.node->first; i; i = i->next, (*n)++)
		if (!plain(c, (struct operand){o.source, i}, t, &v[*n])) {
			*n = 0;
			return NULL;
		}
	return v;
}

static const char *value_text(struct checker *c, const struct param *p)
{
	if (p->type == VALUE_STRING)
		return p->value.str;
	return place_dup(c, p->operand.source, &p->operand.node->at);
}

/* Checks one value for the param: its default (also when another is taken) and the one taken. */
static bool check_value(struct checker *c, struct param *p, struct operand o, const struct target *t,
			const struct value *choices, size_t nchoices, struct value *out)
{
	struct strbuf all = STRBUF_INIT;

	if (!o.node || !plain(c, o, t, out))
		return false;
	for (size_t i = 0; i < nchoices; i++)
		if (same(out, &choices[i]))
			return true;
	if (!nchoices)
		return true;
	for (size_t i = 0; i < nchoices; i++) {
		char text[32];
		if (p->type == VALUE_STRING)
			strbuf_addf(&all, "%s\"%s\"", i ? ", " : "", choices[i].str);
		else if (p->type == VALUE_INT)
			strbuf_addf(&all, "%s%lld", i ? ", " : "", (long long)choices[i].i);
		else
			format_f64(choices[i].f, text), strbuf_addf(&all, "%s%s", i ? ", " : "", text);
	}
	diag_error(c->diags, out->span, "this is none of the choices of param \"%s\"", p->name);
	diag_label(c->diags, "there are: %s", all.data);
	strbuf_free(&all);
	return false;
}

static bool is_env_name(const char *s)
{
	return is_ident(s, strlen(s)) && !strchr(s, '-');
}

static struct source *env_source(struct checker *c, const char *env, const char *text)
{
	struct source *s = arena_calloc(c->arena, 1, sizeof *s);

	s->name = arena_printf(c->arena, "$%s", env);
	s->text = arena_printf(c->arena, "%s=%s", env, text);
	s->len = strlen(s->text);
	s->basedir = ".";
	s->external = true;
	return s;
}

struct param_block {
	struct operand type, fallback, env, range, choices;
	const char *doc;
	bool strange; /* an attribute has an unknown name: what seems to be missing may be that */
};

static void read_block(struct checker *c, struct param *p, struct param_block *b)
{
	static const struct attr_schema doc = {.name = "description", .type = ATTR_STRING};
	const struct source *s = c->tree->source;

	*b = (struct param_block){.type = {s, NULL}};
	for (const struct entry *e = p->block->attrs; e; e = e->next) {
		struct operand o = {s, e->value};
		if (place_is(s, &e->name, "type")) {
			b->type = o;
		} else if (place_is(s, &e->name, "default")) {
			b->fallback = o;
		} else if (place_is(s, &e->name, "env")) {
			b->env = o;
		} else if (place_is(s, &e->name, "range")) {
			b->range = o;
		} else if (place_is(s, &e->name, "choices")) {
			b->choices = o;
		} else if (place_is(s, &e->name, "description")) {
			b->doc = plain_string(c, o, &(struct target){&doc, "param", p->name});
		} else {
			char *name = place_dup(c, s, &e->name);
			b->strange = true;
			diag_error(c->diags, span_at(s, &e->name), "a param has no attribute \"%s\"", name);
			diag_label(c->diags, "there are type, default, env, description, range, choices%s",
				   did_you_mean(c->diags, name, param_attrs, 6));
		}
	}
}

/* The index of the param's type in type_words, or -1 after an error. */
static int read_type(struct checker *c, struct param *p, struct operand o, bool strange)
{
	static const struct attr_schema type = {.name = "type", .type = ATTR_CHOICE, .choices = type_words};
	const struct source *s = c->tree->source;
	const char *word = NULL;

	if (!o.node) {
		if (!p->block->broken && !strange) {
			diag_error(c->diags, span_at(s, &p->block->label), "param \"%s\" has no type",
				   p->name);
			diag_label(c->diags, "add type = \"string\", \"int\", \"float\" or \"bool\"");
		}
		return -1;
	}
	word = plain_string(c, o, &(struct target){&type, "param", p->name});
	for (int i = 0; word && i < 4; i++)
		if (!strcmp(word, type_words[i]))
			return i;
	return -1;
}

static void check_param(struct checker *c, struct param *p, struct param_value *record)
{
	const struct source *s = c->tree->source;
	struct param_block b;
	struct attr_schema limits = {.name = "range", .type = ATTR_STRING};
	static const struct attr_schema env_attr = {.name = "env", .type = ATTR_STRING};
	struct target t = {&limits, "param", p->name};
	const char *env = NULL, *text = NULL;
	const struct value *choices = NULL;
	size_t nchoices = 0;
	struct value given;

	read_block(c, p, &b);
	int type = read_type(c, p, b.type, b.strange);
	uint32_t o = names_find(&c->override_index, p->name, strlen(p->name));
	struct override_text *set = o == NAMES_NONE ? NULL : &c->overrides[o];
	while (set && set->attr)
		set = set->next;
	if (type < 0)
		return;
	p->type = type_values[type];
	limits.type = type_attrs[type];
	if (b.range.node)
		read_range(c, p, b.range, &limits);
	if (b.choices.node) {
		limits.name = "choices";
		choices = read_choices(c, p, b.choices, &t, &nchoices);
	}
	if (b.env.node && (env = plain_string(c, b.env, &(struct target){&env_attr, "param", p->name})) &&
	    !is_env_name(env)) {
		diag_error(c->diags, operand_span(b.env), "\"%s\" cannot be the name of a variable", env);
		diag_label(c->diags, "letters, digits and \"_\"; the first is no digit");
		env = NULL;
	}
	limits.name = "default";
	bool fallback_ok = b.fallback.node && check_value(c, p, b.fallback, &t, choices, nchoices, &p->value);
	if (env && c->options->getenv)
		text = c->options->getenv(env);
	if (set) {
		p->operand = text_operand(c, set->source, set->offset, limits.type, true);
		record->origin = "--set";
	} else if (text && *text) {
		struct source *from = env_source(c, env, text);
		p->operand = text_operand(c, from, strlen(env) + 1, limits.type, false);
		record->origin = from->name;
	} else if (b.fallback.node) {
		p->operand = b.fallback;
		p->ok = fallback_ok;
		record->origin = "default";
	} else {
		if (p->block->broken || b.strange)
			return;
		diag_error(c->diags, span_at(s, &p->block->label), "param \"%s\" has no value", p->name);
		diag_label(c->diags,
			   env ? "give --set %s=…, set $%s, or add a default"
			       : "give --set %s=… or add a default",
			   p->name, env);
		return;
	}
	limits.name = "value";
	if (p->operand.source != s) {
		size_t errors = c->diags->errors;
		p->ok = check_value(c, p, p->operand, &t, choices, nchoices, &given);
		if (p->ok)
			p->value = given;
		else if (c->diags->errors > errors)
			diag_note(c->diags, span_at(s, &p->block->label), "param \"%s\" is defined here",
				  p->name);
	}
	if (!p->ok)
		return;
	p->text = value_text(c, p);
	*record = (struct param_value){.name = p->name,
				       .text = p->text,
				       .origin = record->origin,
				       .span = p->value.span,
				       .doc = b.doc,
				       .type = type_words[type]};
}

void params_check(struct checker *c)
{
	c->g->nparams = c->tree->nparams;
	c->g->params = arena_calloc(c->arena, c->tree->nparams, sizeof *c->g->params);
	for (size_t i = 0; i < c->tree->nparams; i++)
		if (c->params[i].name)
			check_param(c, &c->params[i], &c->g->params[i]);
}
