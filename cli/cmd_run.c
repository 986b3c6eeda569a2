/* anneal run: runs a pipeline; what is cached stays. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/plan_print.h"
#include "cli/progress.h"
#include "cli/text.h"
#include "runtime/run.h"

extern const struct command cmd_run;

/* ---- stopping ---- */

static volatile int stop;
static volatile sig_atomic_t tell; /* the handler says that it stops: nobody else does */

static void on_stop(int signal)
{
	static const char text[] = "stopping... press again to kill\n";

	(void)signal;
	stop = stop + 1;
	if (tell && stop == 1) {
		int saved = errno;
		ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
		(void)ignored;
		errno = saved;
	}
}

static void catch_signals(bool told)
{
	struct sigaction a = {.sa_handler = on_stop};

	tell = told;
	sigaction(SIGINT, &a, NULL);
	sigaction(SIGTERM, &a, NULL);
	sigaction(SIGHUP, &a, NULL);
	signal(SIGPIPE, SIG_IGN); /* a pager that was left is no reason to stop a run */
	/* Before a job is moved to another machine it is told with this signal, and goes on there. */
	if (on_cloud_run())
		signal(SIGTSTP, SIG_IGN);
}

/* ---- the summary ---- */

/* Bytes of facts that fit beside a stage's name on a terminal of 80 columns. */
#define CUT_ON_A_TERMINAL 48

static void print_table(const struct cli *cli, const struct graph *g, const struct progress *p)
{
	struct table t = {.columns = 4, .right = 1u << 2};

	for (size_t k = 0; k < g->nstages; k++) {
		size_t i = g->order[k];
		const struct progress_stage *s = p->stages + i;
		const char *after = s->status == STAGE_DONE     ? s->facts
				    : s->status == STAGE_CACHED ? NULL
								: s->message;
		struct strbuf text = STRBUF_INIT;
		char took[24] = "";

		if (s->status == STAGE_CACHED)
			continue; /* there is nothing to tell but their number */
		/* On a terminal each stage has its line already; the long ones were cut there. */
		if (p->o.style == PROGRESS_TTY && (!after || strlen(after) < CUT_ON_A_TERMINAL))
			continue;
		if (s->status == STAGE_DONE || s->status == STAGE_FAILED || s->status == STAGE_INTERRUPTED)
			format_duration(s->seconds, took);
		text_clean(&text, after ? after : "");
		table_add(&t, g->stages[i].name);
		table_add(&t, stage_status_name(s->status));
		table_add(&t, took);
		table_add(&t, text.data);
		strbuf_free(&text);
	}
	table_print(&t, stdout, "  ", false, cli->color);
}

/* Where the stages that write outside the store wrote. */
static void print_targets(const struct graph *g, const struct progress *p)
{
	struct table t = {.columns = 2};

	for (size_t k = 0; k < g->nstages; k++) {
		size_t i = g->order[k];
		const struct stage_node *n = g->stages + i;
		enum stage_status status = p->stages[i].status;
		for (size_t a = 0; n->kind->attrs[a].name; a++)
			if (n->kind->attrs[a].type == ATTR_TARGET && n->attrs[a].path &&
			    (status == STAGE_DONE || status == STAGE_CACHED)) {
				table_add(&t, n->name);
				table_add(&t, n->attrs[a].path);
			}
	}
	table_print(&t, stdout, "  ", false, false);
}

static void count_stages(const struct graph *g, const struct progress *p, struct strbuf *out)
{
	static const enum stage_status order[] = {STAGE_DONE, STAGE_CACHED, STAGE_FAILED, STAGE_INTERRUPTED,
						  STAGE_SKIPPED};
	char text[32];

	for (size_t k = 0; k < sizeof order / sizeof *order; k++) {
		size_t n = 0;
		for (size_t i = 0; i < g->nstages; i++)
			n += p->stages[i].status == order[k];
		if (n)
			strbuf_addf(out, "%s%s %s", out->len ? ", " : "", text_count(n, text),
				    stage_status_name(order[k]));
	}
}

static void print_summary(const struct cli *cli, const struct graph *g, const struct progress *p)
{
	struct strbuf counts = STRBUF_INIT;
	bool worked = false;
	char took[24];

	for (size_t i = 0; i < g->nstages; i++)
		worked |= p->stages[i].status != STAGE_CACHED && p->stages[i].status != STAGE_SKIPPED;
	if (worked && (p->o.style == PROGRESS_PLAIN || p->o.style == PROGRESS_TTY))
		print_table(cli, g, p);
	count_stages(g, p, &counts);
	format_duration(p->seconds, took);
	printf("%srun %" PRId64 "%s of %s: %s in %s: %s\n", paint(PAINT_BOLD, cli->color), p->run,
	       paint(PAINT_NONE, cli->color), g->name, run_status_name(p->status), took,
	       counts.len ? counts.data : "no stages");
	if (p->status == RUN_DONE)
		print_targets(g, p);
	fflush(stdout);
	strbuf_free(&counts);
}

/* After a failure or an interruption: where to look, and that nothing is lost. */
static void print_next(const struct cli *cli, const struct graph *g, const struct progress *p)
{
	const char *failed = NULL;

	for (size_t k = 0; k < g->nstages && !failed; k++)
		if (p->stages[g->order[k]].status == STAGE_FAILED)
			failed = g->stages[g->order[k]].name;
	if (failed)
		fprintf(stderr, "  anneal logs %" PRId64 " %s   what it printed\n", p->run, failed);
	fprintf(stderr, "  %s   goes on from here\n", cli->command_line);
}

/* ---- running ---- */

struct running {
	struct progress progress;
	struct store *store;
	const struct graph *graph;
};

static double usual_seconds(const char *stage, void *arg)
{
	struct running *r = arg;

	return run_last_seconds(r->store, r->graph->name, stage);
}

static enum progress_style style_of(const struct cli *cli)
{
	const char *term = getenv("TERM");

	if (cli->json || on_cloud_run())
		return PROGRESS_JSON;
	if (cli->quiet)
		return PROGRESS_QUIET;
	return cli->terminal && !(term && !strcmp(term, "dumb")) ? PROGRESS_TTY : PROGRESS_PLAIN;
}

static int execute(struct cli *cli, struct store *s, const struct graph *g, struct run_options *o)
{
	struct error err = ERROR_INIT;
	struct running r = {.store = s, .graph = g};
	struct progress_options po = {.style = style_of(cli),
				      .graph = g,
				      .out = stdout,
				      .color = cli->color,
				      .verbose = cli->verbose,
				      .usual = usual_seconds,
				      .arg = &r,
				      .stop = &stop};

	catch_signals(po.style == PROGRESS_QUIET);
	progress_init(&r.progress, &po);
	o->command = cli->command_line;
	o->observe = progress_event;
	o->arg = &r.progress;
	o->stop = &stop;
	int code = run_graph(s, g, o, NULL, &err);
	struct progress *p = &r.progress;
	if (po.style == PROGRESS_TTY)
		progress_tty_end(p);
	if (p->run && (po.style == PROGRESS_TTY || po.style == PROGRESS_PLAIN))
		print_summary(cli, g, p);
	if (code)
		cli_fail(cli, &err);
	if (code && p->run && po.style != PROGRESS_JSON)
		print_next(cli, g, p);
	progress_free(p);
	return code;
}

static int run(struct cli *cli, int argc, char **argv)
{
	struct run_options o = {0};
	struct text_list sets = {0};
	struct error err = ERROR_INIT;
	const char *remote = NULL;
	int64_t jobs = 0;
	bool dry = false;
	const struct option options[] = {
		{"set", 0, OPTION_LIST, &sets, "NAME=VALUE",
		 "a parameter, or a stage's attribute (train.epochs=2)"},
		{"from", 0, OPTION_TEXT, &o.plan.from, "STAGE", "start here, with what is above as it was"},
		{"until", 0, OPTION_TEXT, &o.plan.until, "STAGE", "end here"},
		{"only", 0, OPTION_TEXT, &o.plan.only, "STAGE", "this stage alone"},
		{"force", 0, OPTION_FLAG, &o.plan.force, NULL, "run also what is cached"},
		{"refresh", 0, OPTION_FLAG, &o.plan.refresh, NULL, "look up again what remote sources are"},
		{"dry-run", 'n', OPTION_FLAG, &dry, NULL, "the plan alone"},
		{"jobs", 'j', OPTION_INT, &jobs, "N", "stages at once (the number of processors)"},
		{"store", 0, OPTION_TEXT, &remote, "URL", "a remote store"},
		{0},
	};
	struct graph *g;
	struct store *s;
	int code = options_parse(cli, &cmd_run, options, &argc, argv, 1, 1);

	if (code >= 0)
		return code;
	if (remote)
		error_set(&err, ERR_USAGE, "--store %s: remote stores are not there yet", remote);
	else if (jobs < 0 || jobs > 1024)
		error_set(&err, ERR_USAGE, "-j %" PRId64 ": it takes 1 to 1,024", jobs);
	if (remote)
		error_hint(&err, "leave it out: results are kept in %s", cli->state);
	if (err.class != ERR_NONE) {
		free(sets.items);
		return cli_fail(cli, &err);
	}
	o.jobs = (int)jobs;
	code = pipeline_load(cli, argv[0], &sets, &g);
	free(sets.items);
	if (code)
		return code;
	code = state_open(cli, true, &s);
	if (code == 0) {
		code = dry ? plan_print(cli, s, g, &o.plan) : execute(cli, s, g, &o);
		store_close(s);
	}
	graph_free(g);
	return code;
}

const struct command cmd_run = {
	.name = "run",
	.args = "PIPELINE",
	.summary = "run a pipeline; what is cached stays",
	.more = "PIPELINE is a .graph file, or a name that is looked up in ./pipelines, $ANNEAL_PIPELINES "
		"and the installed pipelines.\n"
		"A run that failed or was interrupted goes on where it stopped when the same command is "
		"given again.\n"
		"On a terminal progress is drawn live; elsewhere there are plain lines; with --json, and as "
		"a Cloud Run job, one JSON\n"
		"object per line.",
	.run = run,
};
