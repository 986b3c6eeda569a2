#include "tests/unit/graph/dump.h"

#include <string.h>

static void dump_value(const struct value *v, struct strbuf *out)
{
	switch (v->type) {
	case VALUE_NONE: strbuf_adds(out, "none"); break;
	case VALUE_STRING: strbuf_add_json(out, v->str, strlen(v->str)); break;
	case VALUE_INT: strbuf_addf(out, "%lld", (long long)v->i); break;
	case VALUE_FLOAT: strbuf_addf(out, "%.17g", v->f); break;
	case VALUE_BOOL: strbuf_adds(out, v->b ? "true" : "false"); break;
	case VALUE_EDGE: strbuf_addf(out, "input %lld", (long long)v->i); break;
	case VALUE_LIST:
	case VALUE_EDGES:
	case VALUE_PORTS:
		for (size_t i = 0; i < v->list.n; i++) {
			strbuf_adds(out, i ? ", " : "");
			strbuf_add_json(out, v->list.items[i], strlen(v->list.items[i]));
			if (v->paths)
				strbuf_addf(out, " at %s", v->paths[i]);
		}
		break;
	}
	if (v->path)
		strbuf_addf(out, " at %s", v->path);
	strbuf_adds(out, v->is_default ? " (default)\n" : "\n");
}

void graph_dump(const struct graph *g, struct strbuf *out)
{
	strbuf_addf(out, "%s: %s\n", g->name, g->description ? g->description : "");
	for (size_t i = 0; i < g->nparams; i++)
		strbuf_addf(out, "param %s %s = %s from %s\n", g->params[i].type, g->params[i].name,
			    g->params[i].text, g->params[i].origin);
	for (size_t i = 0; i < g->nstages; i++) {
		const struct stage_node *s = &g->stages[i];
		strbuf_addf(out,
			    "stage %s is %s, retries %lld, timeout %g, salt \"%s\", cpus %g, gpus %lld, "
			    "memory %llu\n",
			    s->name, s->kind->name, (long long)s->retries, s->timeout, s->salt, s->cpus,
			    (long long)s->gpus, (unsigned long long)s->memory);
		for (size_t k = 0; s->kind->attrs[k].name; k++) {
			strbuf_addf(out, "  %s = ", s->kind->attrs[k].name);
			dump_value(&s->attrs[k], out);
		}
		for (size_t k = 0; k < s->ninputs; k++)
			strbuf_addf(out, "  %s <- %s.%s\n", s->inputs[k].name,
				    g->stages[s->inputs[k].stage].name,
				    g->stages[s->inputs[k].stage].outputs[s->inputs[k].output].name);
		for (size_t k = 0; k < s->noutputs; k++)
			strbuf_addf(out, "  -> %s: %s\n", s->outputs[k].name,
				    port_kind_name(s->outputs[k].kind));
	}
	strbuf_adds(out, "order");
	for (size_t i = 0; i < g->nstages; i++)
		strbuf_addf(out, " %s", g->stages[g->order[i]].name);
	strbuf_adds(out, "\n");
}
