/* The graph as Graphviz DOT and as a Mermaid flowchart. Names are identifiers, so that nothing has to be escaped; nodes
 * are numbered, so that no name is a keyword of either. */
#include "graph/graph.h"

#include "base/str.h"

void graph_dot(const struct graph *g, struct strbuf *out)
{
	strbuf_addf(out, "digraph \"%s\" {\n  rankdir=LR;\n  node [shape=box];\n", g->name);
	for (size_t i = 0; i < g->nstages; i++)
		strbuf_addf(out, "  s%zu [label=\"%s\\n%s\"];\n", i, g->stages[i].name,
			    g->stages[i].kind->name);
	for (size_t i = 0; i < g->nstages; i++) {
		const struct stage_node *s = &g->stages[i];
		for (size_t k = 0; k < s->ninputs; k++)
			strbuf_addf(out, "  s%u -> s%zu [label=\"%s\"];\n", s->inputs[k].stage, i,
				    g->stages[s->inputs[k].stage].outputs[s->inputs[k].output].name);
	}
	strbuf_adds(out, "}\n");
}

void graph_mermaid(const struct graph *g, struct strbuf *out)
{
	strbuf_adds(out, "flowchart LR\n");
	for (size_t i = 0; i < g->nstages; i++)
		strbuf_addf(out, "  s%zu[\"%s<br>%s\"]\n", i, g->stages[i].name, g->stages[i].kind->name);
	for (size_t i = 0; i < g->nstages; i++) {
		const struct stage_node *s = &g->stages[i];
		for (size_t k = 0; k < s->ninputs; k++)
			strbuf_addf(out, "  s%u -->|%s| s%zu\n", s->inputs[k].stage,
				    g->stages[s->inputs[k].stage].outputs[s->inputs[k].output].name, i);
	}
}
