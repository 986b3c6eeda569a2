/* What flows between stages: outputs, references to them, the order that they impose. */
#include "graph/check.h"

#include <stdlib.h>
#include <string.h>

#include "base/str.h"

/* Of a cycle so many edges are shown. */
#define SHOWN_EDGES 50

bool edges_read_outputs(struct checker *c, size_t stage, struct operand o, const struct target *t)
{
	struct stage_node *node = &c->g->stages[stage];
	static const char *const kinds[] = {"rows", "tokens", "model", "adapter", "report", "file"};
	static const struct attr_schema string = {.name = "outputs", .type = ATTR_STRING};
	struct target item = {&string, t->owner, t->name};
	size_t n = node->noutputs;
	bool ok = true;

	if (o.node->type == NODE_BROKEN)
		return false;
	if (o.node->type != NODE_OBJECT)
		return value_mismatch(c, o, t);
	struct stage_output *all = arena_calloc(c->arena, n + o.node->n, sizeof *all);
	if (n)
		memcpy(all, node->outputs, n * sizeof *all);
	for (const struct entry *e = o.node->members; e; e = e->next) {
		struct operand value = {o.source, e->value};
		struct value v;
		char *name = place_dup(c, o.source, &e->name);
		for (size_t i = 0; i < node->noutputs; i++)
			if (!strcmp(all[i].name, name)) {
				diag_error(c->diags, span_at(o.source, &e->name),
					   "%s has an output \"%s\" already", node->kind->name, name);
				ok = false;
			}
		if (!value_read(c, value, &item, &v)) {
			ok = false;
			continue;
		}
		enum port_kind kind = port_kind_of(v.str);
		if (!kind || kind == PORT_ANY) {
			diag_error(c->diags, v.span, "\"%s\" is not a kind of output", v.str);
			diag_label(c->diags, "there are rows, tokens, model, adapter, report, file%s",
				   did_you_mean(c->diags, v.str, kinds, 6));
			ok = false;
			continue;
		}
		all[n++] = (struct stage_output){name, kind};
	}
	node->outputs = all;
	node->noutputs = n;
	return ok;
}

uint32_t edges_find_output(struct checker *c, size_t stage, const char *name, size_t len)
{
	const struct stage_node *node = &c->g->stages[stage];
	struct stage_work *w = &c->work[stage];

	if (node->noutputs <= 16) {
		for (uint32_t i = 0; i < node->noutputs; i++)
			if (strlen(node->outputs[i].name) == len && !memcmp(node->outputs[i].name, name, len))
				return i;
		return NAMES_NONE;
	}
	if (!w->outputs) {
		w->outputs = arena_alloc(c->arena, sizeof *w->outputs);
		names_init(w->outputs, c->arena, node->noutputs);
		for (uint32_t i = 0; i < node->noutputs; i++)
			names_add(w->outputs, node->outputs[i].name, strlen(node->outputs[i].name), i);
	}
	return names_find(w->outputs, name, len);
}

/* "text, rowmap", at most 20 of them. */
static const char *list_outputs(struct checker *c, const struct stage_node *s)
{
	struct strbuf b = STRBUF_INIT;

	for (size_t i = 0; i < s->noutputs && i < 20; i++)
		strbuf_addf(&b, "%s%s", i ? ", " : "", s->outputs[i].name);
	if (s->noutputs > 20)
		strbuf_adds(&b, ", …");
	char *text = arena_strdup(c->arena, b.data ? b.data : "nothing");
	strbuf_free(&b);
	return text;
}

static void unknown_stage(struct checker *c, struct operand o, const char *name)
{
	const char **all;
	size_t n = c->g->nstages;
	uint32_t i;

	if (c->tree->lost)
		return;
	diag_error(c->diags, span_at(o.source, &o.node->parts[0]), "there is no stage \"%s\"", name);
	if (c->diags->muted)
		return;
	all = xcalloc(n + 1, sizeof *all);
	for (size_t k = 0; k < n; k++)
		all[k] = c->g->stages[k].name ? c->g->stages[k].name : "";
	const char *near = nearest_name(name, all, n);
	free(all);
	if (near)
		diag_label(c->diags, "not defined. Did you mean \"%s\"?", near);
	else
		diag_label(c->diags, "not defined");
	if (near && (i = names_find(&c->stage_index, near, strlen(near))) != NAMES_NONE)
		diag_note(c->diags, c->g->stages[i].span, "\"%s\" is defined here", near);
}

/* "rows", "model or adapter", "anything". */
static const char *wants(struct checker *c, unsigned ports)
{
	struct strbuf b = STRBUF_INIT;

	if (ports == PORT_ANY)
		return "anything";
	for (unsigned bit = 1; bit <= PORT_FILE; bit *= 2)
		if (ports & bit)
			strbuf_addf(&b, "%s%s", b.len ? " or " : "", port_kind_name((enum port_kind)bit));
	char *text = arena_strdup(c->arena, b.data ? b.data : "nothing");
	strbuf_free(&b);
	return text;
}

/* A reference with another number of parts than two. */
static bool bad_reference(struct checker *c, struct operand o, const char *name, uint32_t stage)
{
	if (o.node->n > 2) {
		struct place rest = o.node->parts[2];
		rest.len = o.node->at.offset + o.node->at.len - rest.offset - (o.node->quoted ? 2 : 0);
		diag_error(c->diags, span_at(o.source, &rest), "a reference is stage.output");
		diag_label(c->diags, "an output has no parts");
		return false;
	}
	if (stage == NAMES_NONE) {
		unknown_stage(c, o, name);
		return false;
	}
	const struct stage_node *s = &c->g->stages[stage];
	diag_error(c->diags, operand_span(o), "stage \"%s\" without an output", name);
	if (s->noutputs == 1)
		diag_label(c->diags, "write %s.%s", name, s->outputs[0].name);
	else if (s->kind)
		diag_label(c->diags, "%s gives: %s", s->kind->name, list_outputs(c, s));
	else
		diag_label(c->diags, "write %s.OUTPUT", name);
	return false;
}

/* Resolves the reference o for the input called name. */
static bool read_edge(struct checker *c, size_t stage, struct operand o, const struct target *t,
		      const char *input, struct edge *out)
{
	const struct stage_node *node = &c->g->stages[stage];

	if (o.node->type == NODE_BROKEN)
		return false;
	if (o.node->type != NODE_REF)
		return value_mismatch(c, o, t);
	if (place_is(o.source, &o.node->parts[0], "param") || place_is(o.source, &o.node->parts[0], "env")) {
		if (o.node->n == 2 && place_is(o.source, &o.node->parts[0], "param"))
			param_of(c, o, &o.node->parts[1]);
		diag_error(c->diags, operand_span(o),
			   "input \"%s\" of stage \"%s\" takes a stage's output, found a value", input,
			   node->name);
		diag_label(c->diags, "write stage.output");
		return false;
	}
	char *name = place_dup(c, o.source, &o.node->parts[0]);
	uint32_t from = names_find(&c->stage_index, name, strlen(name));
	if (o.node->n != 2)
		return bad_reference(c, o, name, from);
	if (from == NAMES_NONE) {
		unknown_stage(c, o, name);
		return false;
	}
	const struct stage_node *producer = &c->g->stages[from];
	const struct place *part = &o.node->parts[1];
	if (from == stage) {
		diag_error(c->diags, operand_span(o), "stage \"%s\" takes its own output", name);
		diag_label(c->diags, "a stage cannot wait for itself");
		return false;
	}
	uint32_t output = edges_find_output(c, from, place_text(o.source, part), part->len);
	if (output == NAMES_NONE) {
		if (!c->work[from].ports_known)
			return false;
		char *port = place_dup(c, o.source, part);
		diag_error(c->diags, span_at(o.source, part), "stage \"%s\" has no output \"%s\"", name,
			   port);
		if (c->diags->muted)
			return false;
		const char **all = xcalloc(producer->noutputs + 1, sizeof *all);
		for (size_t i = 0; i < producer->noutputs; i++)
			all[i] = producer->outputs[i].name;
		diag_label(c->diags, "%s gives: %s%s", producer->kind->name, list_outputs(c, producer),
			   did_you_mean(c->diags, port, all, producer->noutputs));
		diag_note(c->diags, producer->span, "\"%s\" is defined here", name);
		free(all);
		return false;
	}
	enum port_kind kind = producer->outputs[output].kind;
	if (!(t->attr->ports & kind)) {
		diag_error(c->diags, operand_span(o), "input \"%s\" of stage \"%s\" takes %s, %s.%s is %s",
			   input, node->name, wants(c, t->attr->ports), name, producer->outputs[output].name,
			   port_kind_name(kind));
		for (size_t i = 0; i < producer->noutputs; i++)
			if (t->attr->ports & producer->outputs[i].kind) {
				diag_label(c->diags, "%s gives %s as %s.%s", producer->kind->name,
					   port_kind_name(producer->outputs[i].kind), name,
					   producer->outputs[i].name);
				break;
			}
		diag_note(c->diags, producer->span, "\"%s\" is defined here", name);
		return false;
	}
	*out = (struct edge){input, from, output, operand_span(o)};
	return true;
}

bool edges_read_input(struct checker *c, size_t stage, struct operand o, const struct target *t,
		      struct edge *out)
{
	return read_edge(c, stage, o, t, t->attr->name, out);
}

bool edges_read_inputs(struct checker *c, size_t stage, struct operand o, const struct target *t,
		       struct value *out)
{
	struct stage_node *node = &c->g->stages[stage];
	static const struct attr_schema reference = {.name = "", .type = ATTR_INPUT};
	bool ok = true;
	size_t n = 0;

	if (o.node->type != NODE_OBJECT)
		return value_mismatch(c, o, t);
	const char **names = arena_calloc(c->arena, o.node->n, sizeof *names);
	struct attr_schema one = reference;
	struct target item = {&one, t->owner, t->name};
	one.ports = t->attr->ports;
	for (const struct entry *e = o.node->members; e; e = e->next) {
		char *name = place_dup(c, o.source, &e->name);
		one.name = name;
		if (read_edge(c, stage, (struct operand){o.source, e->value}, &item, name,
			      &node->inputs[node->ninputs])) {
			node->ninputs++;
			names[n++] = name;
		} else {
			ok = false;
		}
	}
	out->type = VALUE_EDGES;
	out->list.items = names;
	out->list.n = n;
	return ok;
}

/* ---- order ---- */

static void heap_push(uint32_t *heap, size_t *n, uint32_t v)
{
	size_t i = (*n)++;

	for (; i && heap[(i - 1) / 2] > v; i = (i - 1) / 2)
		heap[i] = heap[(i - 1) / 2];
	heap[i] = v;
}

static uint32_t heap_pop(uint32_t *heap, size_t *n)
{
	uint32_t top = heap[0], last = heap[--*n];
	size_t i = 0;

	for (size_t k; (k = 2 * i + 1) < *n; i = k) {
		if (k + 1 < *n && heap[k + 1] < heap[k])
			k++;
		if (heap[k] >= last)
			break;
		heap[i] = heap[k];
	}
	heap[i] = last;
	return top;
}

static void report_cycle(struct checker *c, const uint32_t *path, const struct edge *const *edges, size_t n)
{
	const struct stage_node *stages = c->g->stages;
	size_t first = 0;

	/* path[i] takes edges[i] from path[i + 1]; begin with the stage that comes first in the file. */
	for (size_t i = 1; i < n; i++)
		if (path[i] < path[first])
			first = i;
	const struct stage_node *s = &stages[path[first]];
	diag_error(c->diags, edges[first]->span,
		   n == 2 ? "stages \"%s\" and \"%s\" wait for each other"
			  : "stage \"%s\" waits for itself, by way of \"%s\" and others",
		   s->name, stages[path[(first + 1) % n]].name);
	diag_label(c->diags, "a cycle of %zu edges", n);
	for (size_t i = 0; i < n && i < SHOWN_EDGES; i++) {
		size_t at = (first + i) % n;
		const struct stage_node *from = &stages[path[(at + 1) % n]];
		diag_note(c->diags, edges[at]->span, "\"%s\" takes %s.%s", stages[path[at]].name, from->name,
			  from->outputs[edges[at]->output].name);
	}
	if (n > SHOWN_EDGES)
		diag_note(c->diags, edges[first]->span, "and %zu more edges", n - SHOWN_EDGES);
}

/* Every stage with waiting > 0 has an input from another such: walking along these ends in a cycle. */
static void find_cycles(struct checker *c, const uint32_t *waiting)
{
	size_t n = c->g->nstages;
	uint32_t *seen = xcalloc(n, sizeof *seen), *path = xcalloc(n, sizeof *path), walk = 0;
	const struct edge **edges = xcalloc(n, sizeof *edges);

	for (size_t start = 0; start < n; start++) {
		size_t len = 0;
		uint32_t at = (uint32_t)start;
		if (!waiting[start] || seen[start])
			continue;
		walk++;
		while (!seen[at]) {
			const struct stage_node *s = &c->g->stages[at];
			seen[at] = walk;
			path[len] = at;
			for (size_t i = 0; i < s->ninputs; i++)
				if (waiting[s->inputs[i].stage]) {
					edges[len] = &s->inputs[i];
					break;
				}
			at = edges[len++]->stage;
		}
		if (seen[at] != walk)
			continue;
		size_t from = 0;
		while (path[from] != at)
			from++;
		report_cycle(c, path + from, edges + from, len - from);
	}
	free(seen);
	free(path);
	free(edges);
}

void edges_order(struct checker *c)
{
	struct graph *g = c->g;
	size_t n = g->nstages, done = 0, free_n = 0, nedges = 0;
	uint32_t *waiting = xcalloc(n + 1, sizeof *waiting), *heap = xcalloc(n + 1, sizeof *heap);
	uint32_t *starts = xcalloc(n + 2, sizeof *starts), *users;

	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < g->stages[i].ninputs; k++, nedges++)
			starts[g->stages[i].inputs[k].stage + 2]++;
	users = xcalloc(nedges + 1, sizeof *users);
	for (size_t i = 2; i < n + 2; i++)
		starts[i] += starts[i - 1];
	for (size_t i = 0; i < n; i++) {
		waiting[i] = (uint32_t)g->stages[i].ninputs;
		for (size_t k = 0; k < g->stages[i].ninputs; k++)
			users[starts[g->stages[i].inputs[k].stage + 1]++] = (uint32_t)i;
	}
	g->order = arena_calloc(c->arena, n, sizeof *g->order);
	for (size_t i = 0; i < n; i++)
		if (!waiting[i])
			heap_push(heap, &free_n, (uint32_t)i);
	while (free_n) {
		uint32_t s = heap_pop(heap, &free_n);
		g->order[done++] = s;
		for (uint32_t i = starts[s]; i < starts[s + 1]; i++)
			if (!--waiting[users[i]])
				heap_push(heap, &free_n, users[i]);
	}
	if (done < n)
		find_cycles(c, waiting);
	free(waiting);
	free(heap);
	free(starts);
	free(users);
}
