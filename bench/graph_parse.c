/* What the graph language costs: parsing (the syntax tree alone), loading (parsed and checked) and formatting a graph of
 * exec stages, the best of 7 in ms and MB/s.
 *   graph_parse [STAGES [SHAPE]]   10000 unless given; SHAPE: chain, fan or layers (10 wide) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "graph/graph.h"
#include "graph/syntax.h"

static const struct attr_schema exec_attrs[] = {
	{"command", ATTR_STRING, ATTR_REQUIRED, 0, NULL, 0, 0, NULL, ""},
	{"inputs", ATTR_INPUTS, 0, PORT_ANY, "{}", 0, 0, NULL, ""},
	{"outputs", ATTR_OUTPUTS, 0, 0, "{}", 0, 0, NULL, ""},
	{NULL, ATTR_STRING, 0, 0, NULL, 0, 0, NULL, NULL},
};
static const struct output_schema no_outputs[] = {{NULL, PORT_ANY, NULL}};
static const struct kind_schema exec_kind = {"exec", 1, "", exec_attrs, no_outputs, NULL};
static const struct kind_schema *const kinds[] = {&exec_kind, NULL};

static void make(struct strbuf *b, size_t stages, const char *shape)
{
	strbuf_adds(b, "pipeline \"synthetic\" {\n  description = \"made by bench/graph_parse\"\n}\n");
	for (size_t i = 0; i < stages; i++) {
		strbuf_addf(b, "\n# stage %zu\nstage \"s%zu\" {\n  uses    = \"exec\"\n", i, i);
		if (i && !strcmp(shape, "chain"))
			strbuf_addf(b, "  inputs  = { in = s%zu.out }\n", i - 1);
		else if (i && !strcmp(shape, "fan"))
			strbuf_adds(b, "  inputs  = { in = s0.out }\n");
		else if (i >= 10 && !strcmp(shape, "layers"))
			strbuf_addf(b, "  inputs  = { in = s%zu.out, more = s%zu.out }\n", i - 10,
				    i / 10 * 10 - 10);
		strbuf_adds(b, "  outputs = { out = \"file\" }\n  command = \"touch $OUT_out\"\n}\n");
	}
}

static double best_of(int runs, double (*once)(const struct strbuf *), const struct strbuf *text)
{
	double best = 1e9;

	for (int i = 0; i < runs; i++) {
		double t = once(text);
		best = t < best ? t : best;
	}
	return best;
}

static double parse_once(const struct strbuf *text)
{
	struct source s = {.name = "synthetic", .text = text->data, .len = text->len, .basedir = "."};
	struct arena a = ARENA_INIT;
	struct diags d = DIAGS_INIT;
	struct tree tree;
	double start = clock_mono();

	parse_file(&s, &a, &d, &tree);
	double t = clock_mono() - start;
	if (d.errors || !tree.blocks)
		exit(1);
	arena_free(&a);
	diags_free(&d);
	return t;
}

static double load_once(const struct strbuf *text)
{
	struct graph_options o = {.kinds = kinds};
	struct diags d = DIAGS_INIT;
	double start = clock_mono();
	struct graph *g = graph_load_text("synthetic", ".", text->data, text->len, &o, &d);
	double t = clock_mono() - start;

	if (!g)
		exit(1);
	graph_free(g);
	diags_free(&d);
	return t;
}

static double format_once(const struct strbuf *text)
{
	struct strbuf out = STRBUF_INIT;
	struct diags d = DIAGS_INIT;
	double start = clock_mono();

	if (graph_format("synthetic", text->data, text->len, &out, &d))
		exit(1);
	double t = clock_mono() - start;
	strbuf_free(&out);
	diags_free(&d);
	return t;
}

int main(int argc, char **argv)
{
	size_t stages = argc > 1 ? (size_t)strtoull(argv[1], NULL, 10) : 10000;
	const char *shape = argc > 2 ? argv[2] : "chain";
	struct strbuf text = STRBUF_INIT;

	make(&text, stages, shape);
	double mb = (double)text.len / 1e6;
	double parse = best_of(7, parse_once, &text), load = best_of(7, load_once, &text);
	double format = best_of(7, format_once, &text);
	printf("%zu stages, %s, %.2f MB\n", stages, shape, mb);
	printf("parse   %8.2f ms  %7.1f MB/s\n", parse * 1e3, mb / parse);
	printf("load    %8.2f ms  %7.1f MB/s\n", load * 1e3, mb / load);
	printf("format  %8.2f ms  %7.1f MB/s\n", format * 1e3, mb / format);
	strbuf_free(&text);
	return 0;
}
