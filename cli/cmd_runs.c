/* anneal runs: the history. */
#include <inttypes.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/text.h"
#include "runtime/rundb.h"

extern const struct command cmd_runs;

static json_t *run_json(const struct run_info *r)
{
	json_t *j = json_object();
	char time[32];

	json_object_set_new(j, "run", json_integer(r->id));
	json_object_set_new(j, "pipeline", json_string(r->pipeline));
	json_object_set_new(j, "file", r->file ? json_string(r->file) : json_null());
	json_object_set_new(j, "status", json_string(run_status_name(r->status)));
	json_object_set_new(j, "exit_code", json_integer(r->exit_code));
	clock_iso8601(r->started_ms, time);
	json_object_set_new(j, "started", json_string(time));
	if (r->finished_ms) {
		clock_iso8601(r->finished_ms, time);
		json_object_set_new(j, "seconds", json_real((double)(r->finished_ms - r->started_ms) / 1e3));
	}
	json_object_set_new(j, "finished", r->finished_ms ? json_string(time) : json_null());
	json_object_set_new(j, "command", r->command ? json_string(r->command) : json_null());
	return j;
}

static void print_table(const struct cli *cli, const struct run_info *runs, size_t n)
{
	struct table t = {.columns = 5, .right = 1u | 1u << 4};
	int64_t now = clock_wall_ms();

	table_add(&t, "run");
	table_add(&t, "pipeline");
	table_add(&t, "status");
	table_add(&t, "started");
	table_add(&t, "took");
	for (size_t i = 0; i < n; i++) {
		const struct run_info *r = runs + i;
		char text[32];
		snprintf(text, sizeof text, "%" PRId64, r->id);
		table_add(&t, text);
		table_add(&t, r->pipeline);
		table_add(&t, run_status_name(r->status));
		table_add(&t, text_ago(r->started_ms, now, text));
		text[0] = '\0';
		if (r->finished_ms)
			format_duration((double)(r->finished_ms - r->started_ms) / 1e3, text);
		table_add(&t, text);
	}
	table_print(&t, stdout, "", true, cli->color);
}

static int run(struct cli *cli, int argc, char **argv)
{
	struct error err = ERROR_INIT;
	struct arena a = ARENA_INIT;
	int64_t most = 20;
	const struct option options[] = {
		{"limit", 'n', OPTION_INT, &most, "N", "how many, newest first (20)"},
		{0},
	};
	struct run_info *runs;
	struct store *s;
	size_t n;
	int code = options_parse(cli, &cmd_runs, options, &argc, argv, 0, 0);

	if (code >= 0)
		return code;
	code = state_open(cli, false, &s);
	if (code)
		return code;
	if (runs_list(s, most > 0 ? (size_t)most : 0, &a, &runs, &n, &err)) {
		code = cli_fail(cli, &err);
	} else if (cli->json) {
		json_t *list = json_array();
		for (size_t i = 0; i < n; i++)
			json_array_append_new(list, run_json(runs + i));
		cli_print_json(list);
	} else {
		print_table(cli, runs, n);
	}
	arena_free(&a);
	store_close(s);
	return code;
}

const struct command cmd_runs = {
	.name = "runs",
	.args = "",
	.summary = "the latest runs",
	.run = run,
};
