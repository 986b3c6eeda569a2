/* anneal show: everything about a run, or about one of its stages. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/history.h"
#include "cli/text.h"
#include "data/pack.h"
#include "runtime/rundb.h"

extern const struct command cmd_show;

static void add_outputs(json_t *j, const struct result *r)
{
	json_t *outputs = json_object(), *facts = json_object();
	char digest[DIGEST_TEXT_SIZE];

	for (size_t i = 0; i < r->nfacts; i++)
		json_object_set_new(facts, r->facts[i].name, json_string(r->facts[i].value));
	json_object_set_new(j, "facts", facts);
	for (size_t i = 0; i < r->noutputs; i++) {
		const struct result_output *o = r->outputs + i;
		json_t *out = json_object();
		digest_text(&o->artifact.digest, digest);
		json_object_set_new(out, "kind", json_string(port_kind_name(o->kind)));
		json_object_set_new(out, "digest", json_string(digest));
		json_object_set_new(out, "bytes", json_integer((json_int_t)o->artifact.size));
		json_object_set_new(out, "files", json_integer((json_int_t)o->artifact.files));
		json_object_set_new(outputs, o->name, out);
	}
	json_object_set_new(j, "outputs", outputs);
	json_object_set_new(j, "made_by_run", json_integer(r->run));
	json_object_set_new(j, "made_in_seconds", json_real(r->seconds));
}

static json_t *text_json(const char *s)
{
	return s ? json_string(s) : json_null();
}

static json_t *stage_json(struct store *s, const struct run_stage *st, struct arena *a, bool record)
{
	json_t *j = json_object();
	char digest[DIGEST_TEXT_SIZE];
	struct result r;

	if (st->has_key)
		digest_text(&st->key, digest);
	json_object_set_new(j, "name", json_string(st->name));
	json_object_set_new(j, "kind", text_json(st->kind));
	json_object_set_new(j, "status", json_string(stage_status_name(st->status)));
	json_object_set_new(j, "reason", text_json(st->reason));
	json_object_set_new(j, "error", text_json(st->error));
	json_object_set_new(j, "key", st->has_key ? json_string(digest) : json_null());
	json_object_set_new(j, "attempts", json_integer(st->attempts));
	json_object_set_new(j, "seconds", json_real(st->seconds));
	json_object_set_new(j, "user_seconds", json_real(st->user_seconds));
	json_object_set_new(j, "system_seconds", json_real(st->system_seconds));
	json_object_set_new(j, "max_rss", json_integer((json_int_t)st->max_rss));
	if (history_result(s, st, a, &r)) {
		add_outputs(j, &r);
		struct strbuf text = STRBUF_INIT;
		if (record && pack_to_json(r.preimage, r.preimage_len, &text) == 0)
			json_object_set_new(j, "key_record",
					    json_loadb(text.data, text.len, JSON_DECODE_ANY, NULL));
		strbuf_free(&text);
	}
	return j;
}

static json_t *run_json(struct store *s, const struct run_info *r, struct arena *a)
{
	json_t *j = json_object(), *params = json_array(), *stages = json_array();
	char time[32];

	json_object_set_new(j, "run", json_integer(r->id));
	json_object_set_new(j, "pipeline", json_string(r->pipeline));
	json_object_set_new(j, "file", text_json(r->file));
	json_object_set_new(j, "command", text_json(r->command));
	json_object_set_new(j, "status", json_string(run_status_name(r->status)));
	json_object_set_new(j, "exit_code", json_integer(r->exit_code));
	clock_iso8601(r->started_ms, time);
	json_object_set_new(j, "started", json_string(time));
	clock_iso8601(r->finished_ms, time);
	json_object_set_new(j, "finished", r->finished_ms ? json_string(time) : json_null());
	for (size_t i = 0; i < r->nparams; i++) {
		json_t *p = json_object();
		json_object_set_new(p, "name", json_string(r->params[i].name));
		json_object_set_new(p, "value", text_json(r->params[i].value));
		json_object_set_new(p, "origin", text_json(r->params[i].origin));
		json_array_append_new(params, p);
	}
	json_object_set_new(j, "params", params);
	for (size_t i = 0; i < r->nstages; i++)
		json_array_append_new(stages, stage_json(s, r->stages + i, a, false));
	json_object_set_new(j, "stages", stages);
	json_object_set_new(j, "graph", text_json(r->graph_text));
	return j;
}

/* ---- for people ---- */

static void line(struct table *t, const char *name, const char *value)
{
	struct strbuf b = STRBUF_INIT;

	text_clean(&b, value ? value : "");
	table_add(t, name);
	table_add(t, b.data);
	strbuf_free(&b);
}

static void print_run(const struct cli *cli, struct store *s, const struct run_info *r, struct arena *a)
{
	struct table head = {.columns = 2}, params = {.columns = 3},
		     stages = {.columns = 4, .right = 1u << 2};
	char text[32];

	printf("%srun %" PRId64 "%s of %s: %s\n", paint(PAINT_BOLD, cli->color), r->id,
	       paint(PAINT_NONE, cli->color), r->pipeline, run_status_name(r->status));
	line(&head, "started", text_time(r->started_ms, text));
	if (r->finished_ms) {
		format_duration((double)(r->finished_ms - r->started_ms) / 1e3, text);
		line(&head, "took", text);
	}
	line(&head, "file", r->file);
	line(&head, "command", r->command);
	table_print(&head, stdout, "  ", false, cli->color);
	if (r->nparams)
		printf("\nparameters\n");
	for (size_t i = 0; i < r->nparams; i++) {
		table_add(&params, r->params[i].name);
		line(&params, r->params[i].value, r->params[i].origin);
	}
	table_print(&params, stdout, "  ", false, cli->color);
	printf("\nstages\n");
	for (size_t i = 0; i < r->nstages; i++) {
		const struct run_stage *st = r->stages + i;
		struct strbuf tail = STRBUF_INIT, clean = STRBUF_INIT;
		struct result result;

		if (st->error)
			strbuf_adds(&tail, st->error);
		else if (history_result(s, st, a, &result))
			text_facts(&tail, &result);
		else if (st->reason)
			strbuf_adds(&tail, st->reason);
		text[0] = '\0';
		if (st->seconds > 0)
			format_duration(st->seconds, text);
		text_clean(&clean, tail.data ? tail.data : "");
		table_add(&stages, st->name);
		table_add(&stages, stage_status_name(st->status));
		table_add(&stages, text);
		table_add(&stages, clean.data);
		strbuf_free(&tail);
		strbuf_free(&clean);
	}
	table_print(&stages, stdout, "  ", false, cli->color);
}

static void print_outputs(const struct cli *cli, const struct result *r)
{
	struct table t = {.columns = 4, .right = 1u << 2};
	char text[DIGEST_TEXT_SIZE], size[32], files[48];

	printf("\noutputs\n");
	for (size_t i = 0; i < r->noutputs; i++) {
		const struct artifact *a = &r->outputs[i].artifact;
		format_bytes(a->size, size);
		digest_text(&a->digest, text);
		snprintf(files, sizeof files, "%s", size);
		if (a->is_tree) {
			char n[32];
			snprintf(files, sizeof files, "%s in %s files", size, text_count(a->files, n));
		}
		table_add(&t, r->outputs[i].name);
		table_add(&t, port_kind_name(r->outputs[i].kind));
		table_add(&t, files);
		table_add(&t, text);
	}
	table_print(&t, stdout, "  ", false, cli->color);
}

static void print_stage(const struct cli *cli, struct store *s, const struct run_info *r,
			const struct run_stage *st, struct arena *a)
{
	struct table head = {.columns = 2}, facts = {.columns = 2};
	struct result result;
	char text[DIGEST_TEXT_SIZE];

	printf("%s%s%s (%s) in run %" PRId64 " of %s: %s\n", paint(PAINT_BOLD, cli->color), st->name,
	       paint(PAINT_NONE, cli->color), st->kind ? st->kind : "?", r->id, r->pipeline,
	       stage_status_name(st->status));
	if (st->reason)
		line(&head, "reason", st->reason);
	if (st->error)
		line(&head, "error", st->error);
	if (st->has_key) {
		digest_text(&st->key, text);
		line(&head, "key", text);
	}
	if (st->attempts) {
		char count[32], user[24], memory[16];
		format_duration(st->seconds, count);
		format_duration(st->user_seconds + st->system_seconds, user);
		format_bytes(st->max_rss, memory);
		snprintf(text, sizeof text, "%s, %s of processor time, %s of memory", count, user, memory);
		line(&head, "took", text);
		snprintf(count, sizeof count, "%d", st->attempts);
		line(&head, "attempts", count);
	}
	bool found = history_result(s, st, a, &result);
	if (found && result.run != r->id) {
		snprintf(text, sizeof text, "run %" PRId64, result.run);
		line(&head, "made by", text);
	}
	table_print(&head, stdout, "  ", false, cli->color);
	if (!found)
		return;
	if (result.nfacts)
		printf("\nfacts\n");
	for (size_t i = 0; i < result.nfacts; i++)
		line(&facts, result.facts[i].name, result.facts[i].value);
	table_print(&facts, stdout, "  ", false, cli->color);
	print_outputs(cli, &result);
}

static int run(struct cli *cli, int argc, char **argv)
{
	struct error err = ERROR_INIT;
	struct arena a = ARENA_INIT;
	const struct option options[] = {{0}};
	const struct run_stage *st = NULL;
	struct run_info r;
	struct store *s;
	int64_t id;
	int code = options_parse(cli, &cmd_show, options, &argc, argv, 0, 2);

	if (code >= 0)
		return code;
	if (run_number(argc ? argv[0] : NULL, &id, &err))
		return cli_fail(cli, &err);
	code = state_open(cli, false, &s);
	if (code)
		return code;
	if (run_load(s, id, NULL, &a, &r, &err) || (argc > 1 && !(st = history_stage(&r, argv[1], &err)))) {
		code = cli_fail(cli, &err);
	} else if (cli->json) {
		cli_print_json(st ? stage_json(s, st, &a, true) : run_json(s, &r, &a));
	} else if (st) {
		print_stage(cli, s, &r, st, &a);
	} else {
		print_run(cli, s, &r, &a);
	}
	arena_free(&a);
	store_close(s);
	return code;
}

const struct command cmd_show = {
	.name = "show",
	.args = "[RUN [STAGE]]",
	.summary = "everything about a run, or about one of its stages",
	.more = "RUN is a number or \"last\".",
	.run = run,
};
