/* stage blocks: the kind and its version, attributes with their defaults, the rules of the kind. */
#include "graph/check.h"

#include <stdlib.h>
#include <string.h>

#include "base/str.h"

/* Fills in what is worked out once per kind. */
static struct kind_info *kind_info(struct checker *c, size_t index)
{
	struct kind_info *k = &c->kinds[index];
	size_t n = 0;

	if (k->kind)
		return k;
	k->kind = c->options->kinds[index];
	while (k->kind->attrs[k->nattrs].name)
		k->nattrs++;
	names_init(&k->attrs, c->arena, k->nattrs + c->ncommon);
	k->defaults = arena_calloc(c->arena, k->nattrs, sizeof *k->defaults);
	k->outputs_attr = k->nattrs;
	for (size_t i = 0; i < k->nattrs; i++) {
		const struct attr_schema *a = &k->kind->attrs[i];
		struct value *v = &k->defaults[i];
		names_add(&k->attrs, a->name, strlen(a->name), (uint32_t)i);
		if (a->type == ATTR_OUTPUTS)
			k->outputs_attr = i;
		if (a->fallback) {
			struct source *s = arena_calloc(c->arena, 1, sizeof *s);
			*s = (struct source){
				.name = arena_printf(c->arena, "default of %s.%s", k->kind->name, a->name),
				.text = a->fallback,
				.len = strlen(a->fallback),
				.basedir = ".",
				.external = true};
			struct operand o = {s, parse_value(s, 0, c->arena, c->diags)};
			if (o.node && o.node->type == NODE_OBJECT && !o.node->n)
				v->type = a->type == ATTR_OUTPUTS ? VALUE_PORTS : VALUE_EDGES;
			else if (o.node)
				value_read(c, o, &(struct target){a, "kind", k->kind->name}, v);
		}
		v->span = (struct span){NULL, 0, 0, 0, 0};
		v->is_default = true;
	}
	for (size_t i = 0; i < c->ncommon; i++)
		names_add(&k->attrs, common_attrs[i].name, strlen(common_attrs[i].name),
			  (uint32_t)(k->nattrs + i));
	while (k->kind->outputs && k->kind->outputs[n].name)
		n++;
	struct stage_output *outputs = arena_calloc(c->arena, n, sizeof *outputs);
	for (size_t i = 0; i < n; i++)
		outputs[i] = (struct stage_output){k->kind->outputs[i].name, k->kind->outputs[i].kind};
	k->outputs = outputs;
	k->noutputs = n;
	return k;
}

static struct operand given(struct checker *c, size_t stage, const char *attr, enum attr_type type)
{
	struct stage_work *w = &c->work[stage];

	for (struct override_text *o = w->overrides; o; o = o->next)
		if (o->attr && !strcmp(o->attr, attr)) {
			struct operand value = text_operand(c, o->source, o->offset, type, true);
			w->failed |= !value.node;
			return value;
		}
	for (const struct entry *e = w->block->attrs; e; e = e->next)
		if (place_is(c->tree->source, &e->name, attr))
			return (struct operand){c->tree->source, e->value};
	return (struct operand){NULL, NULL};
}

/* "tokenize" or "tokenize@2". */
static void find_kind(struct checker *c, size_t stage)
{
	struct stage_node *node = &c->g->stages[stage];
	struct stage_work *w = &c->work[stage];
	struct operand o = given(c, stage, "uses", ATTR_STRING);
	struct target t = {&common_attrs[0], "stage", node->name};
	struct value v;

	if (!o.node) {
		if (!w->block->broken && !w->failed) {
			diag_error(c->diags, node->span, "stage \"%s\" does not say what it uses",
				   node->name);
			diag_label(c->diags, "add uses = \"kind\"; `anneal stages` lists the kinds");
		}
		return;
	}
	if (!value_read(c, o, &t, &v))
		return;
	const char *at = strchr(v.str, '@');
	size_t len = at ? (size_t)(at - v.str) : strlen(v.str);
	uint32_t i = names_find(&c->kind_index, v.str, len);
	if (i == NAMES_NONE) {
		const char **all = xcalloc(c->nkinds + 1, sizeof *all);
		char *name = arena_strndup(c->arena, v.str, len);
		for (size_t k = 0; k < c->nkinds; k++)
			all[k] = c->options->kinds[k]->name;
		diag_error(c->diags, v.span, "there is no stage kind \"%s\"", name);
		diag_label(c->diags, "`anneal stages` lists the kinds%s",
			   did_you_mean(c->diags, name, all, c->nkinds));
		free(all);
		return;
	}
	struct kind_info *k = kind_info(c, i);
	if (at) {
		int64_t version;
		bool number = parse_i64(at + 1, &version) && at[1] != '-' && at[1] != '+';
		if (!number || version != k->kind->version) {
			if (number)
				diag_error(c->diags, v.span,
					   "\"%s\" is version %d here, the graph asks for version %lld",
					   k->kind->name, k->kind->version, (long long)version);
			else
				diag_error(c->diags, v.span, "\"%s\" is no version", at + 1);
			diag_label(c->diags, "write \"%s\" or \"%s@%d\"", k->kind->name, k->kind->name,
				   k->kind->version);
		}
	}
	w->kind = k;
	node->kind = k->kind;
	node->outputs = k->outputs;
	node->noutputs = k->noutputs;
	w->ports_known = true;
	if (k->outputs_attr == k->nattrs)
		return;
	const struct attr_schema *a = &k->kind->attrs[k->outputs_attr];
	o = w->declared = given(c, stage, a->name, a->type);
	t.attr = a;
	w->ports_known = false;
	if (o.node && !edges_read_outputs(c, stage, o, &t))
		w->failed = true;
	else
		w->ports_known = (o.node || !w->block->broken) && !w->failed;
}

void stages_find_kinds(struct checker *c)
{
	for (size_t i = 0; i < c->g->nstages; i++)
		if (c->work[i].block)
			find_kind(c, i);
}

static void unknown_attr(struct checker *c, size_t stage, struct span span, const char *name)
{
	const struct stage_node *node = &c->g->stages[stage];
	const struct kind_info *k = c->work[stage].kind;
	size_t n = 0;
	const char **all = xcalloc(k->nattrs + c->ncommon, sizeof *all);

	for (size_t i = 0; i < k->nattrs; i++)
		all[n++] = k->kind->attrs[i].name;
	for (size_t i = 0; i < c->ncommon; i++)
		all[n++] = common_attrs[i].name;
	diag_error(c->diags, span, "stage kind \"%s\" has no attribute \"%s\"", node->kind->name, name);
	diag_label(c->diags, "`anneal stages %s` lists them%s", node->kind->name,
		   did_you_mean(c->diags, name, all, n));
	free(all);
}

static bool set_common(struct checker *c, struct stage_node *node, const struct attr_schema *a,
		       struct operand o)
{
	struct target t = {a, "stage", node->name};
	struct value v;

	if (!strcmp(a->name, "uses"))
		return true;
	if (!value_read(c, o, &t, &v))
		return false;
	if (!strcmp(a->name, "retries")) {
		node->retries = v.i;
	} else if (!strcmp(a->name, "timeout")) {
		node->timeout = v.f;
	} else if (!strcmp(a->name, "salt")) {
		node->salt = v.str;
	} else if (!strcmp(a->name, "cpus")) {
		node->cpus = v.f;
	} else if (!strcmp(a->name, "gpus")) {
		node->gpus = v.i;
	} else if (!strcmp(a->name, "memory") && !memory_parse(v.str, &node->memory)) {
		diag_error(c->diags, v.span, "\"%s\" is not a memory size", v.str);
		diag_label(c->diags, "a number with the unit B, KiB, MiB, GiB or TiB: \"8GiB\"");
		return false;
	}
	return true;
}

/* One attribute as given; edges go behind those that there are. */
static bool set_attr(struct checker *c, size_t stage, size_t index, struct operand o)
{
	struct stage_node *node = &c->g->stages[stage];
	struct kind_info *k = c->work[stage].kind;
	const struct attr_schema *a = &k->kind->attrs[index];
	struct target t = {a, "stage", node->name};
	struct value *v = &node->attrs[index];

	if (o.node->type == NODE_BROKEN)
		return false;
	*v = (struct value){.span = operand_span(o)};
	switch (a->type) {
	case ATTR_OUTPUTS: {
		const char **names = arena_calloc(c->arena, node->noutputs, sizeof *names);
		for (size_t i = 0; i < node->noutputs; i++)
			names[i] = node->outputs[i].name;
		v->type = VALUE_PORTS;
		v->list.items = names;
		v->list.n = node->noutputs;
		return true;
	}
	case ATTR_INPUT:
		v->type = VALUE_EDGE;
		v->i = (int64_t)node->ninputs;
		if (!edges_read_input(c, stage, o, &t, &node->inputs[node->ninputs]))
			return false;
		node->ninputs++;
		return true;
	case ATTR_INPUTS: return edges_read_inputs(c, stage, o, &t, v);
	case ATTR_STRING:
	case ATTR_INT:
	case ATTR_FLOAT:
	case ATTR_BOOL:
	case ATTR_CHOICE:
	case ATTR_DURATION:
	case ATTR_STRINGS:
	case ATTR_SOURCE:
	case ATTR_SOURCES:
	case ATTR_TARGET: break;
	}
	return value_read(c, o, &t, v);
}

/* Every attribute in the order of the schema, so that edges come in that order. */
static void fill(struct checker *c, size_t stage, struct operand *operands, bool clean)
{
	struct stage_node *node = &c->g->stages[stage];
	struct stage_work *w = &c->work[stage];
	struct kind_info *k = w->kind;
	size_t ninputs = 0;

	for (size_t i = 0; i < k->nattrs; i++) {
		const struct node *n = operands[i].node;
		if (n)
			ninputs += k->kind->attrs[i].type == ATTR_INPUT ? 1
				   : k->kind->attrs[i].type == ATTR_INPUTS
					   ? (n->type == NODE_OBJECT ? n->n : 0)
					   : 0;
	}
	node->attrs = arena_alloc(c->arena, (k->nattrs + 1) * sizeof *node->attrs);
	memcpy(node->attrs, k->defaults, k->nattrs * sizeof *node->attrs);
	node->inputs = arena_calloc(c->arena, ninputs, sizeof *node->inputs);
	for (size_t i = 0; i < k->nattrs; i++) {
		const struct attr_schema *a = &k->kind->attrs[i];
		if (operands[i].node) {
			if (!set_attr(c, stage, i, operands[i]))
				w->failed = true;
		} else if (a->flags & ATTR_REQUIRED) {
			if (clean) {
				diag_error(c->diags, node->span, "stage \"%s\" lacks attribute \"%s\"",
					   node->name, a->name);
				diag_label(c->diags, "%s needs it: %s", node->kind->name, attr_wants(a));
			}
			w->failed = true;
		}
	}
	for (size_t i = 0; i < c->ncommon; i++)
		if (operands[k->nattrs + i].node &&
		    !set_common(c, node, &common_attrs[i], operands[k->nattrs + i]))
			w->failed = true;
}

static void check_stage(struct checker *c, size_t stage, struct operand *operands)
{
	struct stage_node *node = &c->g->stages[stage];
	struct stage_work *w = &c->work[stage];
	struct kind_info *k = w->kind;
	const struct source *s = c->tree->source;
	bool clean = !w->block->broken && !w->failed;
	const char *attr = NULL;

	memset(operands, 0, (k->nattrs + c->ncommon) * sizeof *operands);
	for (const struct entry *e = w->block->attrs; e; e = e->next) {
		uint32_t i = names_find(&k->attrs, s->text + e->name.offset, e->name.len);
		if (i == NAMES_NONE) {
			unknown_attr(c, stage, span_at(s, &e->name), place_dup(c, s, &e->name));
			w->failed = true;
			/* What is spelt wrong is not missing too. */
			clean = false;
		} else {
			operands[i] = (struct operand){s, e->value};
		}
	}
	for (struct override_text *o = w->overrides; o; o = o->next) {
		if (!o->attr)
			continue;
		uint32_t i = names_find(&k->attrs, o->attr, strlen(o->attr));
		if (i == NAMES_NONE) {
			unknown_attr(c, stage, span_at(o->source, &o->at), o->attr);
			w->failed = true;
		} else if (operands[i].source == s || !operands[i].source) {
			if (i == k->outputs_attr || !strcmp(o->attr, "uses"))
				continue;
			operands[i] = text_operand(c, o->source, o->offset,
						   i < k->nattrs ? k->kind->attrs[i].type
								 : common_attrs[i - k->nattrs].type,
						   true);
			if (!operands[i].node) {
				w->failed = true;
				clean = false;
			}
		}
	}
	if (k->outputs_attr < k->nattrs)
		operands[k->outputs_attr] = w->declared;
	fill(c, stage, operands, clean);
	if (w->failed || w->block->broken || !k->kind->check)
		return;
	const char *wrong = k->kind->check(node, &attr);
	if (!wrong)
		return;
	struct span span = node->span;
	const struct value *v = attr ? stage_attr(node, attr) : NULL;
	if (v && v->span.source)
		span = v->span;
	diag_error(c->diags, span, "stage \"%s\": %s", node->name, wrong);
	if (attr)
		diag_label(c->diags,
			   v && v->span.source ? "attribute \"%s\"" : "attribute \"%s\" is not given", attr);
}

void stages_check(struct checker *c)
{
	size_t most = 0;

	for (size_t i = 0; i < c->nkinds; i++)
		if (c->kinds[i].kind && c->kinds[i].nattrs > most)
			most = c->kinds[i].nattrs;
	struct operand *operands = xcalloc(most + c->ncommon, sizeof *operands);
	for (size_t i = 0; i < c->g->nstages; i++)
		if (c->work[i].kind)
			check_stage(c, i, operands);
	free(operands);
}
