/* anneal graph: a pipeline as a drawing. */
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "graph/graph.h"

extern const struct command cmd_graph;

static json_t *graph_json(const struct graph *g)
{
	json_t *j = json_object(), *stages = json_array(), *edges = json_array();

	for (size_t k = 0; k < g->nstages; k++) {
		const struct stage_node *n = g->stages + g->order[k];
		json_t *s = json_object(), *outputs = json_object();
		json_object_set_new(s, "name", json_string(n->name));
		json_object_set_new(s, "kind", json_string(n->kind->name));
		for (size_t o = 0; o < n->noutputs; o++)
			json_object_set_new(outputs, n->outputs[o].name,
					    json_string(port_kind_name(n->outputs[o].kind)));
		json_object_set_new(s, "outputs", outputs);
		json_array_append_new(stages, s);
		for (size_t e = 0; e < n->ninputs; e++) {
			const struct edge *in = n->inputs + e;
			const struct stage_node *from = g->stages + in->stage;
			json_t *edge = json_object();
			json_object_set_new(edge, "from", json_string(from->name));
			json_object_set_new(edge, "output", json_string(from->outputs[in->output].name));
			json_object_set_new(edge, "to", json_string(n->name));
			json_object_set_new(edge, "input", json_string(in->name));
			json_array_append_new(edges, edge);
		}
	}
	json_object_set_new(j, "pipeline", json_string(g->name));
	json_object_set_new(j, "stages", stages);
	json_object_set_new(j, "edges", edges);
	return j;
}

static int run(struct cli *cli, int argc, char **argv)
{
	struct text_list sets = {0};
	bool mermaid = false, dot = false;
	const struct option options[] = {
		{"dot", 0, OPTION_FLAG, &dot, NULL, "Graphviz (the default)"},
		{"mermaid", 0, OPTION_FLAG, &mermaid, NULL, "a Mermaid flowchart, for Markdown"},
		{"set", 0, OPTION_LIST, &sets, "NAME=VALUE", "a parameter, or a stage's attribute"},
		{0},
	};
	struct strbuf b = STRBUF_INIT;
	struct graph *g;
	int code = options_parse(cli, &cmd_graph, options, &argc, argv, 1, 1);

	if (code >= 0)
		return code;
	code = pipeline_load(cli, argv[0], &sets, &g);
	free(sets.items);
	if (code)
		return code;
	if (cli->json) {
		cli_print_json(graph_json(g));
	} else {
		if (mermaid)
			graph_mermaid(g, &b);
		else
			graph_dot(g, &b);
		fwrite(b.data ? b.data : "", 1, b.len, stdout);
	}
	strbuf_free(&b);
	graph_free(g);
	return 0;
}

const struct command cmd_graph = {
	.name = "graph",
	.args = "PIPELINE",
	.summary = "draw a pipeline: DOT, Mermaid, or its edges as JSON",
	.run = run,
};
