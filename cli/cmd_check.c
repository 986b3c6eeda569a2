/* anneal check: are these graphs right? */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "graph/graph.h"
#include "stages/registry.h"

extern const struct command cmd_check;

static const char *environment(const char *name)
{
	return getenv(name);
}

static int run(struct cli *cli, int argc, char **argv)
{
	const struct option options[] = {{0}};
	int code = options_parse(cli, &cmd_check, options, &argc, argv, 1, 1 << 20);
	size_t errors = 0;

	if (code >= 0)
		return code;
	if (cli->json)
		printf("[");
	for (int i = 0; i < argc; i++) {
		struct graph_options o = {stage_schemas(), NULL, 0, environment};
		struct diags d = {0};
		struct strbuf text = STRBUF_INIT;
		struct graph *g = graph_load(argv[i], &o, &d);

		errors += d.errors + (!g && !d.errors);
		if (cli->json) {
			strbuf_addf(&text, "%s\n{\"file\":", i ? "," : "");
			strbuf_add_json(&text, argv[i], strlen(argv[i]));
			strbuf_addf(&text, ",\"ok\":%s,\"diagnostics\":", g ? "true" : "false");
			diags_render_json(&d, &text);
			strbuf_addc(&text, '}');
			fputs(text.data, stdout);
		} else {
			diags_render(&d, cli->color_err, &text);
			fflush(stdout);
			if (text.len)
				fputs(text.data, stderr);
			if (g && !cli->quiet)
				printf("%s: %zu stages, all is well\n", argv[i], g->nstages);
		}
		strbuf_free(&text);
		diags_free(&d);
		if (g)
			graph_free(g);
	}
	if (cli->json)
		printf("\n]\n");
	return errors ? ERR_USAGE : 0;
}

const struct command cmd_check = {
	.name = "check",
	.args = "FILE...",
	.summary = "check graphs, with every mistake underlined",
	.run = run,
};
