/* anneal plan: what a run would do, and why. */
#include <stdio.h>
#include <stdlib.h>

#include "cli/plan_print.h"
#include "cli/text.h"
#include "graph/graph.h"
#include "runtime/rundb.h"

static json_t *text_or_null(const char *s)
{
	return s ? json_string(s) : json_null();
}

static json_t *stage_json(struct store *s, const struct plan *p, size_t i)
{
	const struct plan_stage *st = p->stages + i;
	const struct stage_node *node = p->graph->stages + i;
	double usual = run_last_seconds(s, p->graph->name, node->name);
	json_t *j = json_object();
	char hex[DIGEST_TEXT_SIZE];

	json_object_set_new(j, "name", json_string(node->name));
	json_object_set_new(j, "kind", json_string(node->kind->name));
	json_object_set_new(j, "state", json_string(plan_state_name(st->state)));
	json_object_set_new(j, "reason", text_or_null(st->reason));
	if (st->ignored)
		json_object_set_new(j, "ignored", json_string(st->ignored));
	if (st->has_key)
		digest_text(&st->key, hex);
	json_object_set_new(j, "key", st->has_key ? json_string(hex) : json_null());
	json_object_set_new(j, "usual_seconds", usual > 0 ? json_real(usual) : json_null());
	return j;
}

static json_t *params_json(const struct graph *g)
{
	json_t *list = json_array();

	for (size_t i = 0; i < g->nparams; i++) {
		json_t *j = json_object();
		json_object_set_new(j, "name", json_string(g->params[i].name));
		json_object_set_new(j, "value", text_or_null(g->params[i].text));
		json_object_set_new(j, "origin", json_string(g->params[i].origin));
		json_array_append_new(list, j);
	}
	return list;
}

static void print_json(struct store *s, const struct plan *p)
{
	json_t *j = json_object(), *stages = json_array();

	json_object_set_new(j, "pipeline", json_string(p->graph->name));
	json_object_set_new(j, "file", p->graph->source ? json_string(p->graph->source->name) : json_null());
	json_object_set_new(j, "params", params_json(p->graph));
	for (size_t k = 0; k < p->graph->nstages; k++)
		json_array_append_new(stages, stage_json(s, p, p->graph->order[k]));
	json_object_set_new(j, "stages", stages);
	cli_print_json(j);
}

static void print_text(const struct cli *cli, struct store *s, const struct plan *p)
{
	static const enum paint colors[] = {[PLAN_CACHED] = PAINT_DIM,
					    [PLAN_RUN] = PAINT_GREEN,
					    [PLAN_UNKNOWN] = PAINT_YELLOW,
					    [PLAN_SKIP] = PAINT_DIM};
	struct table t = {.columns = 3};
	size_t count[4] = {0};
	double usual = 0;
	char text[32];

	for (size_t k = 0; k < p->graph->nstages; k++) {
		size_t i = p->graph->order[k];
		const struct plan_stage *st = p->stages + i;
		struct strbuf state = STRBUF_INIT, why = STRBUF_INIT;
		const char *name = p->graph->stages[i].name;

		count[st->state]++;
		if (st->state == PLAN_RUN || st->state == PLAN_UNKNOWN)
			usual += run_last_seconds(s, p->graph->name, name);
		strbuf_addf(&state, "%s%s%s", paint(colors[st->state], cli->color),
			    plan_state_name(st->state), paint(PAINT_NONE, cli->color));
		text_clean(&why, st->reason ? st->reason : "");
		if (st->ignored)
			strbuf_addf(&why, "%signored: %s", why.len ? "; " : "", st->ignored);
		table_add(&t, name);
		table_add(&t, state.data);
		table_add(&t, why.data);
		strbuf_free(&state);
		strbuf_free(&why);
	}
	table_print(&t, stdout, "  ", false, cli->color);
	struct strbuf b = STRBUF_INIT;
	for (size_t i = 0; i < 4; i++)
		if (count[i])
			strbuf_addf(&b, "%s%s %s", b.len ? ", " : "", text_count(count[i], text),
				    i == PLAN_RUN ? "to run" : plan_state_name((enum plan_state)i));
	if (usual >= 1) {
		format_duration(usual, text);
		strbuf_addf(&b, "; what may run took %s last time", text);
	}
	printf("%s: %s\n", p->graph->name, b.len ? b.data : "no stages");
	strbuf_free(&b);
}

int plan_print(const struct cli *cli, struct store *s, const struct graph *g, const struct plan_options *o)
{
	struct error err = ERROR_INIT;
	struct plan *p;

	if (plan_make(s, g, o, &p, &err))
		return cli_fail(cli, &err);
	if (cli->json)
		print_json(s, p);
	else
		print_text(cli, s, p);
	plan_free(p);
	return 0;
}

extern const struct command cmd_plan;

static int run(struct cli *cli, int argc, char **argv)
{
	struct plan_options o = {0};
	struct text_list sets = {0};
	const struct option options[] = {
		{"set", 0, OPTION_LIST, &sets, "NAME=VALUE",
		 "a parameter, or a stage's attribute (train.epochs=2)"},
		{"from", 0, OPTION_TEXT, &o.from, "STAGE", "start here, with what is above as it was"},
		{"until", 0, OPTION_TEXT, &o.until, "STAGE", "end here"},
		{"only", 0, OPTION_TEXT, &o.only, "STAGE", "this stage alone"},
		{"force", 0, OPTION_FLAG, &o.force, NULL, "as if nothing were cached"},
		{"refresh", 0, OPTION_FLAG, &o.refresh, NULL, "look up again what remote sources are"},
		{0},
	};
	struct graph *g;
	struct store *s;
	int code = options_parse(cli, &cmd_plan, options, &argc, argv, 1, 1);

	if (code >= 0)
		return code;
	code = pipeline_load(cli, argv[0], &sets, &g);
	free(sets.items);
	if (code)
		return code;
	code = state_open(cli, true, &s);
	if (code == 0) {
		code = plan_print(cli, s, g, &o);
		store_close(s);
	}
	graph_free(g);
	return code;
}

const struct command cmd_plan = {
	.name = "plan",
	.args = "PIPELINE",
	.summary = "what would run, and why",
	.more = "Every stage is cached (its result is there), to run (with the reason), unknown (its inputs "
		"depend on what a stage\n"
		"above will produce) or skipped (outside --from, --until, --only).",
	.run = run,
};
