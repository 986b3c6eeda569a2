/* anneal fmt: the canonical form of graph files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/cli.h"
#include "graph/graph.h"

extern const struct command cmd_fmt;

static char *read_input(size_t *n)
{
	struct strbuf b = STRBUF_INIT;

	for (;;) {
		size_t got = fread(strbuf_reserve(&b, 65536), 1, 65536, stdin);
		b.len += got;
		if (got == 0)
			break;
	}
	*n = b.len;
	return strbuf_steal(&b);
}

/* Formats one file in place ("-": from stdin to stdout). *changed: whether it was not canonical. */
static int format(const struct cli *cli, const char *name, bool check, bool *changed)
{
	struct error err = ERROR_INIT;
	struct diags d = {0};
	struct strbuf out = STRBUF_INIT, text = STRBUF_INIT;
	bool input = !strcmp(name, "-");
	size_t n;
	char *old = input ? read_input(&n) : file_read(name, &n, &err);
	int code = 0;

	*changed = false;
	if (!old)
		return cli_fail(cli, &err);
	if (graph_format(input ? "stdin" : name, old, n, &out, &d)) {
		diags_render(&d, cli->color_err, &text);
		fputs(text.data ? text.data : "", stderr);
		code = ERR_USAGE;
	} else {
		*changed = out.len != n || memcmp(out.data ? out.data : "", old, n);
		if (input && !check)
			fwrite(out.data ? out.data : "", 1, out.len, stdout);
		else if (*changed && !check && file_write_atomic(name, out.data, out.len, &err))
			code = cli_fail(cli, &err);
	}
	strbuf_free(&out);
	strbuf_free(&text);
	diags_free(&d);
	free(old);
	return code;
}

static int run(struct cli *cli, int argc, char **argv)
{
	bool check = false;
	const struct option options[] = {
		{"check", 0, OPTION_FLAG, &check, NULL,
		 "change nothing; exit code 2 when a file is not in canonical form"},
		{0},
	};
	int code = options_parse(cli, &cmd_fmt, options, &argc, argv, 1, 1 << 20), worst = 0;

	if (code >= 0)
		return code;
	for (int i = 0; i < argc; i++) {
		bool changed;
		code = format(cli, argv[i], check, &changed);
		if (changed && !cli->quiet && strcmp(argv[i], "-"))
			printf("%s\n", argv[i]);
		if (changed && check && code == 0)
			code = ERR_USAGE;
		worst = code > worst ? code : worst;
	}
	return worst;
}

const struct command cmd_fmt = {
	.name = "fmt",
	.args = "FILE...",
	.summary = "bring graphs into canonical form",
	.more = "Files are changed in place, and those that were are printed. - formats standard input to "
		"standard output.",
	.run = run,
};
