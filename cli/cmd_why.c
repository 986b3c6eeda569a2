/* anneal why: what differs between a stage as it was run and as it is now, attribute by attribute. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/text.h"
#include "graph/graph.h"
#include "runtime/plan.h"

extern const struct command cmd_why;

struct question {
	const struct cli *cli;
	struct store *store;
	const struct graph *graph;
	struct plan *plan;
	size_t stage;
	struct arena arena;
	int64_t run;       /* that is compared with; 0: there is none */
	struct digest key; /* of the stage in that run */
};

/* Which run to compare with: the one that was asked for, else the newest in which the stage has a key and its record is
 * still there. 1 found (*record is its result in full), 0 none. */
static int find_record(struct question *q, const char *run, struct result *record, struct error *err)
{
	const char *name = q->graph->stages[q->stage].name;
	enum result_state state = RESULT_NONE;
	int found = 0;

	if (run) {
		struct run_info info;
		int64_t id;
		if (run_number(run, &id, err) ||
		    run_load(q->store, id, id ? NULL : q->graph->name, &q->arena, &info, err))
			return -1;
		q->run = info.id;
		for (size_t i = 0; i < info.nstages; i++)
			if (!strcmp(info.stages[i].name, name) && info.stages[i].has_key) {
				q->key = info.stages[i].key;
				found = 1;
			}
		if (!found)
			return error_set(err, ERR_USAGE, "run %" PRId64 " has no key for a stage \"%s\"",
					 info.id, name);
		if (result_find(q->store, &q->key, &q->arena, true, record, &state, err))
			return -1;
		if (state == RESULT_NONE)
			return error_set(
				err, ERR_USAGE,
				"in run %" PRId64
				" the stage \"%s\" ended without a result: there is nothing to compare with",
				info.id, name);
		return 1;
	}
	/* The newest key may be that of a run that failed, which left no record; then the last good one serves. */
	for (int good = 0; good < 2; good++) {
		found = run_last_key(q->store, q->graph->name, name, 0, good, &q->run, &q->key, err);
		if (found <= 0)
			return found;
		if (result_find(q->store, &q->key, &q->arena, true, record, &state, err))
			return -1;
		if (state != RESULT_NONE)
			return 1;
	}
	return 0;
}

/* Where the value that a difference is about stands now: "file:line:column", "default", or NULL. */
static const char *place(struct question *q, const struct key_diff *d)
{
	const struct stage_node *node = q->graph->stages + q->stage;

	if (!strcmp(d->what, "input")) {
		for (size_t e = 0; e < node->ninputs; e++)
			if (d->name && !strcmp(node->inputs[e].name, d->name))
				return arena_printf(&q->arena, "made by %s",
						    q->graph->stages[node->inputs[e].stage].name);
		return NULL;
	}
	const struct value *v = d->name ? stage_attr(node, d->name) : NULL;
	if (!v)
		return NULL;
	if (v->is_default || !v->span.source)
		return "default";
	return arena_printf(&q->arena, "%s:%u:%u", v->span.source->name, v->span.line, v->span.col);
}

/* Digests are cut to what tells them apart. */
static const char *brief(struct question *q, const char *value)
{
	if (!value)
		return "-";
	if (str_starts(value, "sha256:") && strlen(value) == 71)
		return arena_printf(&q->arena, "%.19s…", value);
	return value;
}

static void print_text(struct question *q, const struct key_diff *diffs, size_t n, const char *verdict)
{
	const struct plan_stage *st = q->plan->stages + q->stage;
	struct table t = {.columns = 3};

	printf("%s: %s\n", q->graph->stages[q->stage].name, verdict);
	for (size_t i = 0; i < n; i++) {
		const struct key_diff *d = diffs + i;
		const char *where = place(q, d);
		struct strbuf what = STRBUF_INIT, change = STRBUF_INIT;
		strbuf_addf(&what, "%s %s", d->what, d->name ? d->name : "");
		strbuf_addf(&change, "%s -> ", brief(q, d->before));
		strbuf_adds(&change, brief(q, d->after));
		struct strbuf clean = STRBUF_INIT;
		text_clean(&clean, change.data);
		table_add(&t, what.data);
		table_add(&t, clean.data);
		table_add(&t, where ? where : "");
		strbuf_free(&what);
		strbuf_free(&change);
		strbuf_free(&clean);
	}
	table_print(&t, stdout, "  ", false, q->cli->color);
	if (st->state != PLAN_UNKNOWN)
		return;
	/* What makes it unknown: the stages above that will run. */
	for (size_t k = 0; k < q->graph->nstages; k++) {
		size_t i = q->graph->order[k];
		if (q->plan->stages[i].state == PLAN_RUN)
			printf("  %s will run: %s\n", q->graph->stages[i].name,
			       q->plan->stages[i].reason ? q->plan->stages[i].reason : "");
		if (i == q->stage)
			break;
	}
}

static void print_json(struct question *q, const struct key_diff *diffs, size_t n, const char *verdict)
{
	const struct plan_stage *st = q->plan->stages + q->stage;
	json_t *j = json_object(), *list = json_array();

	json_object_set_new(j, "stage", json_string(q->graph->stages[q->stage].name));
	json_object_set_new(j, "state", json_string(plan_state_name(st->state)));
	json_object_set_new(j, "reason", st->reason ? json_string(st->reason) : json_null());
	json_object_set_new(j, "verdict", json_string(verdict));
	json_object_set_new(j, "run", q->run ? json_integer(q->run) : json_null());
	for (size_t i = 0; i < n; i++) {
		const char *where = place(q, diffs + i);
		json_t *d = json_object();
		json_object_set_new(d, "what", json_string(diffs[i].what));
		json_object_set_new(d, "name", diffs[i].name ? json_string(diffs[i].name) : json_null());
		json_object_set_new(d, "before",
				    diffs[i].before ? json_string(diffs[i].before) : json_null());
		json_object_set_new(d, "after", diffs[i].after ? json_string(diffs[i].after) : json_null());
		json_object_set_new(d, "where", where ? json_string(where) : json_null());
		json_array_append_new(list, d);
	}
	json_object_set_new(j, "differences", list);
	cli_print_json(j);
}

static int answer(struct question *q, const char *run, struct error *err)
{
	const struct plan_stage *st = q->plan->stages + q->stage;
	struct key_diff *diffs = NULL;
	struct result record;
	size_t n = 0;
	const char *verdict;
	int found = find_record(q, run, &record, err);

	if (found < 0)
		return -1;
	if (!found) {
		q->run = 0;
		verdict = "it has never run to its end";
	} else if (!st->has_key) {
		verdict = arena_printf(&q->arena, "not known before the stages above have run (%s)",
				       st->reason ? st->reason : "its inputs may change");
	} else {
		n = key_compare(record.preimage, record.preimage_len, st->preimage, st->preimage_len,
				&q->arena, &diffs);
		if (n)
			verdict = arena_printf(&q->arena, "differs from run %" PRId64 ":", q->run);
		else if (st->state == PLAN_RUN)
			verdict = arena_printf(&q->arena,
					       "the same as in run %" PRId64 ", but it has to run: %s",
					       q->run, st->reason ? st->reason : "its result is gone");
		else
			verdict = arena_printf(
				&q->arena, "nothing has changed since run %" PRId64 "; its result is used",
				q->run);
	}
	if (q->cli->json)
		print_json(q, diffs, n, verdict);
	else
		print_text(q, diffs, n, verdict);
	return 0;
}

static int unknown_stage(const struct graph *g, const char *name, struct error *err)
{
	const char **names = xcalloc(g->nstages + 1, sizeof *names);
	struct strbuf all = STRBUF_INIT;

	for (size_t i = 0; i < g->nstages; i++) {
		names[i] = g->stages[i].name;
		strbuf_addf(&all, "%s%s", i ? ", " : "", names[i]);
	}
	const char *near = nearest_name(name, names, g->nstages);
	error_set(err, ERR_USAGE, "%s has no stage \"%s\"%s%s%s", g->name, name,
		  near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
	error_hint(err, "there are: %s", all.data ? all.data : "none");
	free(names);
	strbuf_free(&all);
	return -1;
}

static int run(struct cli *cli, int argc, char **argv)
{
	struct question q = {.cli = cli};
	struct plan_options none = {0};
	struct error err = ERROR_INIT;
	struct text_list sets = {0};
	const struct option options[] = {
		{"set", 0, OPTION_LIST, &sets, "NAME=VALUE", "a parameter, or a stage's attribute"},
		{0},
	};
	struct graph *g;
	int code = options_parse(cli, &cmd_why, options, &argc, argv, 2, 3);

	if (code >= 0)
		return code;
	code = pipeline_load(cli, argv[0], &sets, &g);
	free(sets.items);
	if (code)
		return code;
	q.graph = g;
	int stage = graph_stage(g, argv[1]);
	if (stage < 0) {
		unknown_stage(g, argv[1], &err);
		code = cli_fail(cli, &err);
	} else if ((code = state_open(cli, false, &q.store)) == 0) {
		q.stage = (size_t)stage;
		if (plan_make(q.store, g, &none, &q.plan, &err))
			code = cli_fail(cli, &err);
		else if (answer(&q, argc > 2 ? argv[2] : NULL, &err))
			code = cli_fail(cli, &err);
		if (q.plan)
			plan_free(q.plan);
		store_close(q.store);
	}
	arena_free(&q.arena);
	graph_free(g);
	return code;
}

const struct command cmd_why = {
	.name = "why",
	.args = "PIPELINE STAGE [RUN]",
	.summary = "what changed in a stage since it last ran",
	.more = "Compares what the stage's result depends on now with what it depended on in RUN (the newest "
		"run that has it):\n"
		"attributes, inputs, files, pins. Each difference is named, with the place of its present "
		"value.",
	.run = run,
};
