/* The passes of the checker, in their order: names, overrides, params, kinds and outputs, attributes and edges, order. */
#include "graph/check.h"

#include <stdlib.h>
#include <string.h>

#include "base/str.h"

static void duplicate(struct checker *c, const struct block *b, const char *what, const char *name,
		      struct span first)
{
	diag_error(c->diags, span_at(c->tree->source, &b->label), "%s \"%s\" is defined twice", what, name);
	diag_label(c->diags, "names are unique");
	diag_note(c->diags, first, "first defined here");
}

static void take_pipeline(struct checker *c, const struct block *b, const struct block **first)
{
	static const struct attr_schema description = {.name = "description", .type = ATTR_STRING};
	static const char *const attrs[] = {"description"};
	const struct source *s = c->tree->source;
	struct value v;

	if (*first) {
		diag_error(c->diags, span_at(s, &b->head), "a second pipeline block");
		diag_label(c->diags, "a file is one pipeline");
		diag_note(c->diags, span_at(s, &(*first)->head), "the first is here");
		return;
	}
	*first = b;
	if (b->name.len)
		c->g->name = place_dup(c, s, &b->name);
	for (const struct entry *e = b->attrs; e; e = e->next) {
		if (place_is(s, &e->name, "description")) {
			struct operand o = {s, e->value};
			if (o.node->type != NODE_BROKEN &&
			    value_read(c, o, &(struct target){&description, "pipeline", c->g->name}, &v))
				c->g->description = v.str;
			continue;
		}
		char *name = place_dup(c, s, &e->name);
		diag_error(c->diags, span_at(s, &e->name), "a pipeline has no attribute \"%s\"", name);
		diag_label(c->diags, "there is description%s", did_you_mean(c->diags, name, attrs, 1));
	}
}

/* What to call a stage whose name is none. */
static const char *bad_name(struct checker *c, const struct block *b)
{
	struct place inner = b->label;

	if (place_text(c->tree->source, &inner)[0] == '"') {
		inner.offset++;
		inner.len -= 2;
	}
	return place_dup(c, c->tree->source, &inner);
}

/* Registers every name before anything refers to it. */
static void take_names(struct checker *c)
{
	const struct source *s = c->tree->source;
	size_t stage = 0, param = 0;

	for (const struct block *b = c->tree->blocks; b; b = b->next) {
		char *name = place_dup(c, s, &b->name);
		if (b->type == BLOCK_PARAM) {
			struct param *p = &c->params[param];
			p->block = b;
			if (b->name.len) {
				p->name = name;
				uint32_t old = names_add(&c->param_index, name, b->name.len, (uint32_t)param);
				if (old != NAMES_NONE)
					duplicate(c, b, "param", name,
						  span_at(s, &c->params[old].block->label));
			}
			param++;
		} else if (b->type == BLOCK_STAGE) {
			struct stage_node *n = &c->g->stages[stage];
			n->name = b->name.len || b->label.len < 3 ? name : bad_name(c, b);
			n->salt = "";
			n->span = span_at(s, b->label.len ? &b->label : &b->head);
			c->work[stage].block = b;
			if (b->name.len) {
				uint32_t old = names_add(&c->stage_index, name, b->name.len, (uint32_t)stage);
				if (old != NAMES_NONE) {
					duplicate(c, b, "stage", name, c->g->stages[old].span);
				} else if (is_reserved(name)) {
					diag_error(c->diags, n->span, "a stage cannot be called \"%s\"",
						   name);
					diag_label(c->diags, "%s.x means something else in the language",
						   name);
				}
			}
			stage++;
		}
	}
}

/* Makes a source of every override and puts it with the param or stage that it is for. */
static void take_overrides(struct checker *c)
{
	const struct graph_options *o = c->options;

	c->noverrides = o->noverrides;
	c->overrides = arena_calloc(c->arena, o->noverrides, sizeof *c->overrides);
	names_init(&c->override_index, c->arena, o->noverrides);
	for (size_t i = 0; i < o->noverrides; i++) {
		struct override_text *v = &c->overrides[i];
		const char *name = o->overrides[i].name, *dot = strchr(name, '.');
		struct source *s = arena_calloc(c->arena, 1, sizeof *s);
		s->text = arena_printf(c->arena, "--set %s=%s", name, o->overrides[i].value);
		s->len = strlen(s->text);
		s->name = s->text;
		s->basedir = ".";
		s->external = true;
		v->source = s;
		v->offset = 6 + strlen(name) + 1;
		v->name = dot ? arena_strndup(c->arena, name, (size_t)(dot - name)) : name;
		v->attr = dot ? dot + 1 : NULL;
		v->stage_at = (struct place){6, (uint32_t)strlen(v->name), 1, 7};
		v->at = dot ? (struct place){(uint32_t)(6 + (dot + 1 - name)), (uint32_t)strlen(dot + 1), 1,
					     (uint32_t)(7 + (dot + 1 - name))}
			    : v->stage_at;
	}
	/* The last one first, so that it is met first. */
	for (size_t i = o->noverrides; i-- > 0;) {
		struct override_text *v = &c->overrides[i], **tail;
		uint32_t at = names_add(&c->override_index, v->name, strlen(v->name), (uint32_t)i);
		if (at == NAMES_NONE)
			continue;
		for (tail = &c->overrides[at].next; *tail;)
			tail = &(*tail)->next;
		*tail = v;
	}
}

static void unknown_override(struct checker *c, const struct override_text *v, const char *what,
			     const char *const *all, size_t n)
{
	diag_error(c->diags, span_at(v->source, &v->stage_at), "there is no %s \"%s\"", what, v->name);
	if (!v->attr && names_find(&c->stage_index, v->name, strlen(v->name)) != NAMES_NONE)
		diag_label(c->diags, "it is a stage: write %s.ATTRIBUTE=value", v->name);
	else
		diag_label(c->diags, "the graph has none%s", did_you_mean(c->diags, v->name, all, n));
}

static void match_overrides(struct checker *c)
{
	const char **params = xcalloc(c->tree->nparams + 1, sizeof *params);
	const char **stages = xcalloc(c->g->nstages + 1, sizeof *stages);

	for (size_t i = 0; i < c->tree->nparams; i++)
		params[i] = c->params[i].name ? c->params[i].name : "";
	for (size_t i = 0; i < c->g->nstages; i++) {
		const char *name = c->g->stages[i].name;
		stages[i] = name;
		uint32_t o = names_find(&c->override_index, name, strlen(name));
		c->work[i].overrides = o == NAMES_NONE ? NULL : &c->overrides[o];
	}
	for (size_t i = 0; i < c->noverrides && !c->tree->lost; i++) {
		struct override_text *v = &c->overrides[i];
		if (v->attr && names_find(&c->stage_index, v->name, strlen(v->name)) == NAMES_NONE)
			unknown_override(c, v, "stage", stages, c->g->nstages);
		else if (!v->attr && names_find(&c->param_index, v->name, strlen(v->name)) == NAMES_NONE)
			unknown_override(c, v, "param", params, c->tree->nparams);
	}
	free(params);
	free(stages);
}

static void warn_unused(struct checker *c)
{
	for (size_t i = 0; i < c->tree->nparams; i++)
		if (!c->params[i].used) {
			diag_warning(c->diags, span_at(c->tree->source, &c->params[i].block->label),
				     "param \"%s\" is not used", c->params[i].name);
			diag_label(c->diags, "no stage takes param.%s", c->params[i].name);
		}
}

void graph_check(struct checker *c)
{
	struct graph *g = c->g;
	size_t errors = c->errors;
	const struct block *pipeline = NULL;

	g->nstages = c->tree->nstages;
	g->stages = arena_calloc(c->arena, g->nstages, sizeof *g->stages);
	c->work = arena_calloc(c->arena, g->nstages, sizeof *c->work);
	c->params = arena_calloc(c->arena, c->tree->nparams, sizeof *c->params);
	names_init(&c->stage_index, c->arena, g->nstages);
	names_init(&c->param_index, c->arena, c->tree->nparams);
	while (c->options->kinds && c->options->kinds[c->nkinds])
		c->nkinds++;
	while (common_attrs[c->ncommon].name)
		c->ncommon++;
	c->kinds = arena_calloc(c->arena, c->nkinds, sizeof *c->kinds);
	names_init(&c->kind_index, c->arena, c->nkinds);
	for (size_t i = 0; i < c->nkinds; i++)
		names_add(&c->kind_index, c->options->kinds[i]->name, strlen(c->options->kinds[i]->name),
			  (uint32_t)i);

	take_names(c);
	take_overrides(c);
	match_overrides(c);
	params_check(c);
	for (const struct block *b = c->tree->blocks; b; b = b->next)
		if (b->type == BLOCK_PIPELINE)
			take_pipeline(c, b, &pipeline);
	stages_find_kinds(c);
	stages_check(c);
	edges_order(c);
	g->index = arena_alloc(c->arena, sizeof *g->index);
	*g->index = c->stage_index;
	if (!g->nstages && !c->tree->lost && c->diags->errors == errors) {
		struct span end = {g->source, (uint32_t)g->source->len, 0, 1, 1};
		for (const char *p = g->source->text; p < g->source->text + g->source->len; p++) {
			end.line += *p == '\n';
			end.col = *p == '\n' ? 1 : end.col + (((unsigned char)*p & 0xc0) != 0x80);
		}
		diag_error(c->diags, end, "the file has no stages");
		diag_label(c->diags, "a pipeline is made of stage \"name\" { … } blocks");
	}
	if (c->diags->errors == errors)
		warn_unused(c);
}
