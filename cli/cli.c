#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/text.h"
#include "runtime/store.h"

int cli_fail(const struct cli *cli, const struct error *err)
{
	struct strbuf b = STRBUF_INIT;

	strbuf_addf(&b, "%sanneal:%s ", paint(PAINT_RED, cli->color_err), paint(PAINT_NONE, cli->color_err));
	text_clean(&b, err->message);
	strbuf_addc(&b, '\n');
	if (err->hint[0]) {
		strbuf_adds(&b, "  ");
		text_clean(&b, err->hint);
		strbuf_addc(&b, '\n');
	}
	fflush(stdout);
	fwrite(b.data, 1, b.len, stderr);
	strbuf_free(&b);
	return err->class == ERR_NONE ? ERR_INFRA : (int)err->class;
}

int state_open(const struct cli *cli, bool create, struct store **out)
{
	struct error err = ERROR_INIT;

	if (store_open(cli->state, !create, out, &err))
		return cli_fail(cli, &err);
	return 0;
}

int run_number(const char *text, int64_t *id, struct error *err)
{
	if (!text || !strcmp(text, "last")) {
		*id = 0;
		return 0;
	}
	if (!parse_i64(text, id) || *id < 1) {
		error_set(err, ERR_USAGE, "\"%s\" is no run: runs are numbers, or \"last\"", text);
		return error_hint(err, "anneal runs lists them");
	}
	return 0;
}

void cli_print_json(json_t *j)
{
	json_dumpf(j, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(j);
}

bool on_cloud_run(void)
{
	const char *job = getenv("CLOUD_RUN_JOB");

	return job && *job;
}
