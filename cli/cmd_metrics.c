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

static int by_step(const void *a, const void *b)
{
	const struct metric_point *x = a, *y = b;

	return (x->step > y->step) - (x->step < y->step);
}

/* One row per step, one column per series, in the order in which they come. The n points are one stage's. */
static void print_stage(const struct cli *cli, struct metric_point *points, size_t n)
{
	const char *names[16];
	size_t nnames = 0;
	struct table t = {.right = ~0u};
	char text[32];

	for (size_t i = 0; i < n; i++) {
		size_t k = 0;
		while (k < nnames && strcmp(names[k], points[i].name))
			k++;
		if (k == nnames && nnames < 16)
			names[nnames++] = points[i].name;
	}
	t.columns = nnames + 1;
	table_add(&t, "step");
	for (size_t k = 0; k < nnames; k++)
		table_add(&t, names[k]);
	printf("%s\n", points[0].stage);
	qsort(points, n, sizeof *points, by_step);
	for (size_t i = 0, end; i < n; i = end) {
		for (end = i; end < n && points[end].step == points[i].step;)
			end++;
		snprintf(text, sizeof text, "%" PRId64, points[i].step);
		table_add(&t, text);
		for (size_t k = 0; k < nnames; k++) {
			text[0] = '\0';
			for (size_t m = i; m < end; m++)
				if (!strcmp(points[m].name, names[k]))
					snprintf(text, sizeof text, "%.6g", points[m].value);
			table_add(&t, text);
		}
	}
	table_print(&t, stdout, "  ", true, cli->color);
}

static void print_text(const struct cli *cli, const struct points *p)
{
	for (size_t i = 0, end; i < p->n; i = end) {
		for (end = i; end < p->n && !strcmp(p->items[end].stage, p->items[i].stage);)
			end++;
		print_stage(cli, p->items + i, end - i);
	}
}

/* Those of a cached stage lie with the run that made its result, under the name that the stage had there. */
static int read_points(struct store *s, const struct run_info *r, const char *stage, struct points *p,
		       struct error *err)
{
	for (size_t i = 0; i < r->nstages; i++) {
		const struct run_stage *st = r->stages + i;
		if (stage && strcmp(st->name, stage))
			continue;
		int64_t origin = history_origin(s, r, st);
		/* A result may come from a run of another pipeline, which may have no stage of this name. */
		struct error none = ERROR_INIT;
		if (run_metrics(s, origin, st->name, keep, p, &none) && none.class != ERR_USAGE) {
			*err = none;
			return -1;
		}
	}
	return 0;
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
	    read_points(s, &r, stage, &p, &err))
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
