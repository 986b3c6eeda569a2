/* anneal logs: what stages printed, also while they run. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/history.h"
#include "cli/text.h"

extern const struct command cmd_logs;

static volatile sig_atomic_t stop;

static void on_stop(int signal)
{
	(void)signal;
	stop = 1;
}

struct view {
	const struct cli *cli;
	bool one_stage; /* the name need not stand before every line */
	uint64_t seen;  /* lines that were printed */
	uint64_t at;    /* of this reading */
};

static int print_line(const struct log_line *l, void *arg)
{
	struct view *v = arg;
	struct strbuf b = STRBUF_INIT;
	char time[32];

	if (v->at++ < v->seen)
		return 0;
	v->seen++;
	if (v->cli->json) {
		clock_iso8601(l->wall_ms, time);
		strbuf_addf(&b, "{\"time\":\"%s\",\"stage\":", time);
		strbuf_add_json(&b, l->stage, strlen(l->stage));
		strbuf_addf(&b, ",\"attempt\":%d,\"stream\":", l->attempt);
		strbuf_add_json(&b, l->stream, strlen(l->stream));
		strbuf_adds(&b, ",\"line\":");
		strbuf_add_json(&b, l->line, strlen(l->line));
		strbuf_addc(&b, '}');
	} else {
		bool loud = !strcmp(l->stream, "error") || !strcmp(l->stream, "warning");
		text_time(l->wall_ms, time);
		strbuf_addf(&b, "%s%s%s ", paint(PAINT_DIM, v->cli->color), time + 11,
			    paint(PAINT_NONE, v->cli->color));
		if (!v->one_stage)
			strbuf_addf(&b, "%s: ", l->stage);
		if (loud)
			strbuf_addf(&b, "%s: ", l->stream);
		text_clean(&b, l->line);
	}
	puts(b.data);
	strbuf_free(&b);
	return ferror(stdout) ? -1 : 0;
}

static int follow(struct store *s, struct run_info *r, const char *stage, struct view *v, struct error *err)
{
	const struct timespec pause = {0, 300000000};
	struct arena a = ARENA_INIT;
	int code = 0;

	while (code == 0 && !stop && !ferror(stdout)) {
		/* The status first: what was logged before the run ended is then read below. */
		struct run_info now;
		arena_free(&a);
		code = run_load(s, r->id, NULL, &a, &now, err);
		if (code)
			break;
		bool running = now.status == RUN_RUNNING;
		v->at = 0;
		code = run_logs(s, r->id, stage, print_line, v, err);
		fflush(stdout);
		if (!running)
			break;
		nanosleep(&pause, NULL);
	}
	arena_free(&a);
	return err->class == ERR_NONE ? 0 : code; /* a pager that was left ends it, too */
}

static int run(struct cli *cli, int argc, char **argv)
{
	struct error err = ERROR_INIT;
	struct arena a = ARENA_INIT;
	bool tail = false;
	const struct option options[] = {
		{"follow", 'f', OPTION_FLAG, &tail, NULL, "go on until the run has ended"},
		{0},
	};
	struct run_info r;
	struct store *s;
	int64_t id;
	int code = options_parse(cli, &cmd_logs, options, &argc, argv, 0, 2);

	if (code >= 0)
		return code;
	if (run_number(argc ? argv[0] : NULL, &id, &err))
		return cli_fail(cli, &err);
	code = state_open(cli, false, &s);
	if (code)
		return code;
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, on_stop);
	const char *stage = argc > 1 ? argv[1] : NULL;
	struct view v = {.cli = cli, .one_stage = stage};
	const struct run_stage *st = NULL;
	code = run_load(s, id, NULL, &a, &r, &err) || (stage && !(st = history_stage(&r, stage, &err))) ? -1
													: 0;
	if (st)
		r.id = history_origin(s, &r, st); /* a cached stage printed when its result was made */
	if (code || (tail ? follow(s, &r, stage, &v, &err)
			  : run_logs(s, r.id, stage, print_line, &v, &err) && err.class))
		code = cli_fail(cli, &err);
	arena_free(&a);
	store_close(s);
	return code;
}

const struct command cmd_logs = {
	.name = "logs",
	.args = "[RUN [STAGE]]",
	.summary = "what the stages of a run printed",
	.run = run,
};
