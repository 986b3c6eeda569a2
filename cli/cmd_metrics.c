/* anneal metrics: the series that stages recorded. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/history.h"
#include "cli/text.h"

extern const struct command cmd_metrics;

struct points {
	struct metric_point *items; /* names in the arena */
	size_t n, cap;
	struct arena arena;
};

static int keep(const struct metric_point *m, void *arg)
{
	struct points *p = arg;

	grow(&p->items, &p->cap, p->n + 1, sizeof *p->items);
	p->items[p->n] = *m;
	p->items[p->n].stage = arena_strdup(&p->arena, m->stage);
	p->items[p->n].name = arena_strdup(&p->arena, m->name);
	p->n++;
	return 0;
}

static void print_json(const struct points *p)
{
	json_t *list = json_array();

	for (size_t i = 0; i < p->n; i++) {
		json_t *j = json_object();
		json_object_set_new(j, "stage", json_string(p->items[i].stage));
		json_object_set_new(j, "step", json_integer(p->items[i].step));
		json_object_set_new(j, "name", json_string(p->items[i].name));
		json_t *value = json_real(p->items[i].value);
		json_object_set_new(j, "value", value ? value : json_null());
		json_array_append_new(list, j);
	}
	cli_print_json(list);
}

/* One row per step, one column per series, in the order in which they first appear. */
static void print_stage(const struct cli *cli, const struct points *p, const char *stage)
{
	const char *names[16];
	size_t nnames = 0;
	struct table t = {0};
	char text[32];

	for (size_t i = 0; i < p->n; i++) {
		size_t k = 0;
		if (strcmp(p->items[i].stage, stage))
			continue;
		while (k < nnames && strcmp(names[k], p->items[i].name))
			k++;
		if (k == nnames && nnames < 16)
			names[nnames++] = p->items[i].name;
	}
	t.columns = nnames + 1;
	t.right = ~0u;
	table_add(&t, "step");
	for (size_t k = 0; k < nnames; k++)
		table_add(&t, names[k]);
	for (size_t i = 0; i < p->n;) {
		if (strcmp(p->items[i].stage, stage)) {
			i++;
			continue;
		}
		/* The points of a step stand together. */
		int64_t step = p->items[i].step;
		double values[16];
		bool there[16] = {false};
		for (; i < p->n && p->items[i].step == step && !strcmp(p->items[i].stage, stage); i++)
			for (size_t k = 0; k < nnames; k++)
				if (!strcmp(names[k], p->items[i].name)) {
					values[k] = p->items[i].value;
					there[k] = true;
				}
		snprintf(text, sizeof text, "%" PRId64, step);
		table_add(&t, text);
		for (size_t k = 0; k < nnames; k++) {
			text[0] = '\0';
			if (there[k])
				snprintf(text, sizeof text, "%.6g", values[k]);
			table_add(&t, text);
		}
	}
	printf("%s\n", stage);
	table_print(&t, stdout, "  ", true, cli->color);
}

static void print_text(const struct cli *cli, const struct points *p)
{
	for (size_t i = 0; i < p->n; i++) {
		bool first = true;
		for (size_t k = 0; k < i && first; k++)
			first = strcmp(p->items[k].stage, p->items[i].stage);
		if (first)
			print_stage(cli, p, p->items[i].stage);
		/* Stages come one after the other: to the next one. */
		while (i + 1 < p->n && !strcmp(p->items[i + 1].stage, p->items[i].stage))
			i++;
	}
}

static int run(struct cli *cli, int argc, char **argv)
{
	struct error err = ERROR_INIT;
	struct arena a = ARENA_INIT;
	struct points p = {0};
	const struct option options[] = {{0}};
	struct run_info r;
	struct store *s;
	int64_t id;
	int code = options_parse(cli, &cmd_metrics, options, &argc, argv, 0, 2);

	if (code >= 0)
		return code;
	if (run_number(argc ? argv[0] : NULL, &id, &err))
		return cli_fail(cli, &err);
	code = state_open(cli, false, &s);
	if (code)
		return code;
	const char *stage = argc > 1 ? argv[1] : NULL;
	if (run_load(s, id, NULL, &a, &r, &err) || (stage && !history_stage(&r, stage, &err)) ||
	    run_metrics(s, r.id, stage, keep, &p, &err))
		code = cli_fail(cli, &err);
	else if (cli->json)
		print_json(&p);
	else if (p.n)
		print_text(cli, &p);
	else if (!cli->quiet)
		printf("run %" PRId64 " recorded no metrics%s%s\n", r.id, stage ? " for " : "",
		       stage ? stage : "");
	free(p.items);
	arena_free(&p.arena);
	arena_free(&a);
	store_close(s);
	return code;
}

const struct command cmd_metrics = {
	.name = "metrics",
	.args = "[RUN [STAGE]]",
	.summary = "the series that stages recorded: loss, rates",
	.run = run,
};
